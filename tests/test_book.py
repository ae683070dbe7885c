"""The built book: every page there, nothing broken, nothing fetched from elsewhere, readable on a desk and on a phone.

`mnist-lib book` builds it if it is not current. MNIST_LIB_BOOK names a folder to test instead.
"""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from mnist_lib import workbook
from mnist_lib.experiment import NETWORKS
from mnist_lib.parameters import (
    BackpropParameters,
    NotebookParameters,
    ParameterError,
    SweepParameters,
    validate,
)

ROOT = Path(__file__).parents[1]
WIDTHS = {"desk": 1280, "phone": 390}


def contents(entry: object) -> list[str]:
    """The pages that a part of the table of contents names, in order."""
    if isinstance(entry, list):
        return [page for item in entry for page in contents(item)]
    if isinstance(entry, dict):
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [page for value in entry.values() if isinstance(value, list) for page in contents(value)]
    return []


PAGES = contents(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8")))


@pytest.fixture(scope="module")
def book() -> Path:
    if given := os.environ.get("MNIST_LIB_BOOK"):
        return Path(given).resolve()
    result = subprocess.run([sys.executable, "-m", "mnist_lib.cli", "book"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return ROOT / "_build" / "html"


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def html_files(book: Path) -> list[Path]:
    """All pages, those of the library's source and of the search too; in _static the theme keeps templates."""
    return [path for path in sorted(book.rglob("*.html")) if "_static" not in path.parts]


def pages(book: Path) -> dict[str, BeautifulSoup]:
    return {name: parsed(book / f"{name}.html") for name in PAGES}


def test_every_page_of_the_contents_is_there_and_reachable(book):
    for name, page in pages(book).items():
        assert page.find("h1"), name
    home = parsed(book / f"{PAGES[0]}.html")
    linked = {(book / PAGES[0]).parent.joinpath(a["href"].split("#")[0]).resolve() for a in home.select("nav a[href]")}
    assert {(book / f"{name}.html").resolve() for name in PAGES[1:]} <= linked


def test_links_inside_the_book_lead_somewhere(book):
    broken = []
    for path in html_files(book):
        for tag, attribute in (("a", "href"), ("link", "href"), ("img", "src"), ("script", "src")):
            for element in parsed(path).find_all(tag, attrs={attribute: True}):
                if problem := _problem_of_link(path, element[attribute]):
                    broken.append(f"{path.relative_to(book)}: {element[attribute]}: {problem}")
    assert not broken, "\n".join(broken)


def _problem_of_link(path: Path, link: str) -> str | None:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:  # outside the book, or inline data
        return None
    target = path.parent.joinpath(unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _anchors(target):
        return "no such place on the page"
    return None


@cache
def _anchors(path: Path) -> set[str]:
    return {element["id"] for element in parsed(path).find_all(id=True)}


def test_the_workbook_can_be_downloaded(book, tmp_path):
    """From the pages that offer it, and as the library writes it today."""
    workbook.write(tmp_path / "backprop.xlsx")
    links = {name: page.select_one("a.download[href$='/backprop.xlsx']") for name, page in pages(book).items()}
    offered = {name: (book / name).parent / link["href"] for name, link in links.items() if link}
    assert "book/reproduce" in offered
    for file in offered.values():
        assert file.read_bytes() == (tmp_path / "backprop.xlsx").read_bytes()


def test_no_page_shows_an_error(book):
    for name, page in pages(book).items():
        broken = page.select(".katex-error, .output.traceback, .output.stderr, .system-message, .problematic")
        assert not broken, f"{name}: {broken[0]}"
        assert "Traceback (most recent call last)" not in page.get_text(), name


def test_every_role_was_resolved(book):
    """A glued number without its value, or a role that nobody knows, stays in the text as it was written."""
    for name in PAGES:
        page = BeautifulSoup((book / f"{name}.html").read_text("utf-8"), "html.parser")
        for element in page.select("pre, code, script"):
            element.decompose()
        found = re.search(r".{0,40}(glue:|\{[a-z:]+\}`|\{\{).{0,40}", page.get_text())
        assert not found, f"{name}: {found[0]}"


def test_every_formula_was_rendered(book):
    for name, page in pages(book).items():
        for formula in page.select("span.math, div.math"):
            assert formula.select(".katex"), f"{name}: {formula}"
    assert any(page.select("div.math") for page in pages(book).values())


def test_every_image_says_what_it_shows(book):
    for name, page in pages(book).items():
        for image in page.select("img:not(.logo__image)"):  # the title stands beside the logo
            alt = image.get("alt", "").strip()
            assert alt, f"{name}: {image}"
            assert not re.search(r"\.(png|svg|jpe?g|gif|webp)$", alt), f"{name}: {image}"
            # A figure's text is a sentence about its data, not a label.
            assert not image.find_parent(class_="cell_output") or len(alt.split()) > 5, f"{name}: {image}"


def test_no_page_needs_the_network(book):
    for path in html_files(book):
        page = parsed(path)
        needed = [element["src"] for element in page.find_all(src=True)]
        rels = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "manifest"}
        needed += [element["href"] for element in page.find_all("link", href=True) if rels & set(element["rel"])]
        remote = [address for address in needed if urlsplit(address).netloc]
        assert not remote, f"{path.relative_to(book)}: {remote}"
    for path in book.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import\s)\s*[\"']?(https?:|//)[^)\"']*", path.read_text("utf-8"))
        assert not addresses, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", WIDTHS)
def test_pages_open_cleanly(book, browser, screen, scheme):
    """No error in the console, nothing fetched that is not a file of the book, and no page wider than the screen."""
    page = browser.new_page(viewport={"width": WIDTHS[screen], "height": 844}, color_scheme=scheme)
    problems = []

    def note(problem: str, counts: bool = True) -> None:
        if counts:
            problems.append(problem)

    page.on("console", lambda message: note(message.text, message.type in ("error", "warning")))
    page.on("pageerror", lambda error: note(str(error)))
    page.on("request", lambda request: note(request.url, not request.url.startswith(("file:", "data:"))))
    # What is still loading when the next page opens is given up; that is no failure.
    page.on(
        "requestfailed", lambda request: note(f"{request.url}: {request.failure}", "ABORTED" not in request.failure)
    )
    for name in PAGES:
        page.goto((book / f"{name}.html").as_uri(), wait_until="load")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        if width > WIDTHS[screen]:
            problems.append(f"{width} pixels wide")
        assert not problems, f"{name}: {problems}"
    page.close()


def test_search_works_without_a_web_server(book, browser):
    page = browser.new_page()
    page.goto((book / "search.html").as_uri() + "?q=receptive")
    page.wait_for_selector("#search-results li a", timeout=15_000)
    assert "Method" in page.locator("#search-results").inner_text()
    page.close()


def test_the_library_page_lists_every_module():
    listed = re.findall(r"automodule:: mnist_lib\.(\w+)", (ROOT / "book" / "api.md").read_text("utf-8"))
    modules = [path.stem for path in (ROOT / "mnist_lib").glob("*.py") if path.stem != "__init__"]
    assert sorted(listed) == sorted(modules)


def test_the_page_on_reproduction_names_every_parameter_and_network():
    text = (ROOT / "book" / "reproduce.md").read_text("utf-8")
    table = text[text.index("| parameter |") : text.index("papermill reads `-p`")]
    words = set(re.findall(r"`(\w+)`", table))
    for schema in (NotebookParameters, BackpropParameters, SweepParameters):
        assert {f.name for f in dataclasses.fields(schema)} <= words
    assert set(NETWORKS) <= words


def test_the_page_on_reproduction_quotes_the_messages_as_they_are():
    text = (ROOT / "book" / "reproduce.md").read_text("utf-8")
    quoted = re.findall(r"^\| `-p (\w+) (\S+)` \| `(.+)` \|$", text, flags=re.MULTILINE)
    assert len(quoted) >= 6
    for name, value, message in quoted:
        try:
            given = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            given = value
        with pytest.raises(ParameterError) as caught:
            validate(NotebookParameters, {name: given})
        assert str(caught.value) == message
