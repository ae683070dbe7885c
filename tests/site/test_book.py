"""The built book: every page there, nothing broken, nothing fetched from elsewhere, readable on a desk and on a phone.

`mnist-lib book` builds it if it is not current. MNIST_LIB_BOOK names a folder to test instead.
"""

import ast
import dataclasses
import functools
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from bs4 import BeautifulSoup, NavigableString, Tag
from PIL import Image

from mnist_lib import cli, records
from mnist_lib.backprop import workbook
from mnist_lib.parameters import NotebookParameters, ParameterError, validate
from mnist_lib.pipeline import catalogue
from mnist_lib.results.page import BackpropParameters, ScratchParameters, SweepPageParameters, SweepParameters
from mnist_lib.site import extension
from mnist_lib.site.address import site_address
from support import PAGES, ROOT, WIDTHS, networks, parsed


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
        text = "".join(prose(parsed(book / f"{name}.html")))
        found = re.search(r".{0,40}(glue:|\{[a-z:]+\}`|\{\{).{0,40}", text)
        assert not found, f"{name}: {found[0]}"


def prose(part: Tag) -> Iterator[str]:
    """The texts of a part of a page, but for code."""
    for child in part.children:
        if isinstance(child, Tag):
            yield from () if child.name in ("pre", "code", "script") else prose(child)
        elif type(child) is NavigableString:
            yield child


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


def test_every_figure_comes_in_two_renderings(book):
    """One for each ground, with the same words; the theme hides one, which is then not fetched."""
    found = 0
    for name, page in pages(book).items():
        for light in page.select(".cell_output img:not(.only-dark)"):
            file = (book / name).parent / light["src"]
            dark = page.select_one(f'img.only-dark[src="{light["src"].replace(".png", "_dark.png")}"]')
            assert dark, f"{name}: {light}"
            assert "only-light" in light["class"] and dark["alt"] == light["alt"]
            assert dark["loading"] == light["loading"] == "lazy"
            picture = Image.open(file.with_name(f"{file.stem}_dark.png")).convert("RGB")
            edges = np.asarray(picture)  # nothing is drawn there; elsewhere digits may be bright
            assert max(edges[side].max() for side in (0, -1, np.s_[:, 0], np.s_[:, -1])) < 128, f"{name}: {dark}"
            found += 1
    assert found


def test_the_site_tells_search_engines_and_social_networks_what_it_is(book):
    address = site_address()
    for name, page in pages(book).items():
        told = {tag.get("property") or tag.get("name"): tag["content"] for tag in page.select("meta[content]")}
        assert page.title.get_text().strip() and told["og:title"] and told["og:url"] == f"{address}{name}.html"
        assert told["description"].strip(), name
        assert (book / told["og:image"].removeprefix(address)).is_file()
        assert page.select_one("link[rel=canonical]")["href"] == f"{address}{name}.html"
    listed = re.findall(r"<loc>(.*?)</loc>", (book / "sitemap.xml").read_text("utf-8"))
    assert {f"{address}{name}.html" for name in PAGES} <= set(listed)


def test_an_address_that_is_not_there_leads_back(book):
    page = parsed(book / "404.html")
    assert page.select_one("a")["href"] == site_address()
    assert not page.select("[src], link[href]")  # it is shown at any address


LARGEST_PAGE = 1_500_000  # bytes, uncompressed


def test_no_page_is_heavy(book):
    """HTML, styles, scripts, images in one rendering, and for formulas the fonts that they use most."""
    fonts = [font for font in (book / "_static" / "katex" / "fonts").glob("*.woff2") if USED_MOST.search(font.name)]
    assert fonts
    for path in html_files(book):
        page = parsed(path)
        needed = [element["src"] for element in page.select("script[src], img[src]:not(.only-dark)")]
        needed += [element["href"] for element in page.select("link[rel=stylesheet], link[rel=icon]")]
        files = {path, *(path.parent.joinpath(unquote(urlsplit(link).path)).resolve() for link in needed)}
        weight = sum(file.stat().st_size for file in [*files, *(fonts if page.select_one(".katex") else ())])
        assert weight <= LARGEST_PAGE, f"{path.relative_to(book)}: {weight:,} bytes"
    assert not [file for kind in ("*.map", "*.ttf") for file in book.rglob(kind)]


USED_MOST = re.compile("Main-Regular|Main-Bold\\.|Math-Italic|Size")


def test_no_list_has_descriptions_without_terms(book):
    """Sphinx writes long signatures as such lists, which screen readers would announce."""
    for path in html_files(book):
        for listed in parsed(path).select("dl:not([role])"):
            assert listed.find("dt", recursive=False) or listed.find("div", recursive=False), path


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


DRAWN = "new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
"""Figures that fit themselves to the screen have done so."""


@dataclass
class Visit:
    """What a page showed while it was open: what went wrong, and what `MEASURED` found on a desk."""

    problems: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def visits(book, browser) -> dict[str, Visit]:
    """Each page was opened once, on a phone and on a desk, on light and on dark ground.

    Every other page is opened on a phone and in the dark. All of them go over to the other ground, to the other screen,
    and back to the ground they had, while they are open.
    """
    page = browser.new_page()
    found: dict[str, Visit] = {}

    def note(problem: str, counts: bool = True) -> None:
        if counts:
            found[name].problems.append(problem)

    page.on("console", lambda message: note(message.text, message.type in ("error", "warning")))
    page.on("pageerror", lambda error: note(str(error)))
    page.on("request", lambda request: note(request.url, not request.url.startswith(("file:", "data:"))))
    # What is still loading when the next page opens is given up; that is no failure.
    page.on(
        "requestfailed", lambda request: note(f"{request.url}: {request.failure}", "ABORTED" not in request.failure)
    )
    for number, name in enumerate(PAGES):
        turn = 1 if number % 2 else -1
        schemes, screens = ("light", "dark")[::turn], list(WIDTHS)[::turn]
        found[name] = Visit()
        page.set_viewport_size({"width": WIDTHS[screens[0]], "height": 844})
        page.emulate_media(color_scheme=schemes[0])
        page.goto((book / f"{name}.html").as_uri(), wait_until="load")
        around = [*product(screens[:1], schemes), *product(screens[1:], schemes[::-1])]
        for screen, scheme in around:  # one of the two changes at a time
            page.set_viewport_size({"width": WIDTHS[screen], "height": 844})
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
            page.evaluate(DRAWN)
            width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
            note(f"{width} pixels wide, {screen}, {scheme}", width > WIDTHS[screen])
            if screen == "desk":
                found[name].measured = page.evaluate(MEASURED)
    page.close()
    return found


MEASURED = """() => {
  const top = element => element && element.getBoundingClientRect().top + scrollY;
  const box = document.querySelector(".tag_prose blockquote");
  const headings = [...document.querySelectorAll("article h2")];
  const closed = [...document.querySelectorAll("details.hide:not([open]) > summary")];
  return {
    box: box?.innerText, top: top(box), result: top(headings.find(each => each.innerText.startsWith("Result"))),
    folded: closed.map(each => each.innerText),
  };
}"""


def test_pages_open_cleanly(visits):
    """No error in the console, nothing fetched that is not a file of the book, and no page wider than the screen."""
    assert [*visits] == [*PAGES]
    problems = {name: visit.problems for name, visit in visits.items() if visit.problems}
    assert not problems, "\n".join(f"{name}: {said}" for name, said in problems.items())


NOTEBOOKS = [name.removeprefix("notebooks/") for name in PAGES if name.startswith("notebooks/")]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_result_leads_to_its_records_and_to_commands_that_exist(book, name):
    page = parsed(book / "notebooks" / f"{name}.html")
    results = page.select(".cell_output") + page.select("p:has(.pasted-text)")
    assert results and all(len(result.select("button.origin[popovertarget=origin]")) == 1 for result in results)
    (note,) = page.select("aside#origin[popover]")
    text = note.get_text()
    (path,) = catalogue.find(name)
    assert f"kind of processor: {', '.join(catalogue.read(path).metadata['mnist_lib']['cpu'])}." in text
    for experiment, seeds in catalogue.read_runs(path):
        record = records.read(records.record_path(experiment.published, 0))
        assert f"{experiment.name}, seeds 0–{seeds - 1}" in text
        for word in ("commit", "device_name", "date"):
            assert (record.environment[word] or "–")[: 8 if word == "commit" else None] in text
        assert record.digests["code"][:8] in text
    commands = [command.get_text().split() for command in note.select("dt code")]
    assert len(commands) == (3 if catalogue.published_runs(path) else 1)
    for program, *arguments in commands:
        assert program == "mnist-lib" and cli.parser().parse_args(arguments).pattern == name


def test_the_mark_beside_a_result_opens_and_closes_by_keyboard(book, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((book / "notebooks" / "iteration_10_one_cycle.html").as_uri())
    note = page.locator("aside#origin")
    assert not note.is_visible()
    page.locator(".cell_output button.origin").last.press("Enter")
    assert note.is_visible() and "mnist-lib verify iteration_10_one_cycle" in note.inner_text()
    page.keyboard.press("Escape")
    assert not note.is_visible()
    page.close()


def test_a_source_appears_on_hover_and_on_focus(book, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((book / "notebooks" / "iteration_07_small_batch.html").as_uri())
    output = page.locator(".cell_output:has(> button.origin)").first
    mark = output.locator("button.origin").first
    opacity = "e => getComputedStyle(e).opacity"
    page.mouse.move(0, 0)
    assert mark.evaluate(opacity) == "0"
    output.hover()
    assert mark.evaluate(opacity) == "1"
    page.mouse.move(0, 0)
    mark.focus()
    assert mark.evaluate(opacity) == "1"
    page.close()


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if f"notebooks/{name}".startswith(extension.FOLDED_ON)])
def test_an_experiment_begins_with_its_box_and_its_result_is_on_the_third_screen(visits, name):
    seen = visits[f"notebooks/{name}"].measured
    assert all(word in seen["box"] for word in ("Question.", "We expect.", "Result.", "What it means."))
    assert 30 < len(re.findall(r"(?<![\w’'])[^\W\d_][\w’'-]*", seen["box"])) <= 70
    assert seen["top"] < (1000 if name.startswith("iteration_") else 1400)
    assert seen["result"] < 3 * 900, "screens of a desk"
    assert any("papermill" in text for text in seen["folded"])


def test_search_works_without_a_web_server(book, browser):
    page = browser.new_page()
    said = []
    page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((book / "search.html").as_uri() + "?q=receptive")
    page.locator("#search-results li a", has_text="Method").first.wait_for()  # results come one by one
    assert not page.locator("#search-results .context").count() and not said, said  # a file may not read another
    page.goto((book / "search.html").as_uri() + "?q=resolve_device")
    page.locator("#search-results li a[href*='mnist_lib.machine.resolve_device']").first.wait_for()
    page.close()


def test_search_shows_excerpts_where_there_is_a_web_server(book, browser):
    """From the text of the page or of the term, without the theme's contents and the marks beside results."""
    handler = functools.partial(QuietHandler, directory=book)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/search.html?q=dropout")
        term = page.locator("#search-results li:has(> a[href$='glossary.html#term-dropout']) .context")
        found = page.locator("#search-results li:has(> a[href$='iteration_04_dropout.html']) .context")
        assert term.inner_text().startswith("dropout: Switching off randomly chosen values")
        assert "dropout" in found.inner_text().lower() and "Contents" not in found.inner_text()
        page.close()
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of the files that it serves."""


def test_the_library_page_lists_every_module():
    pages = "".join(path.read_text("utf-8") for path in sorted((ROOT / "book").glob("api*.md")))
    listed = re.findall(r"automodule:: mnist_lib\.([\w.]+)", pages)
    files = [path.relative_to(ROOT / "mnist_lib").with_suffix("") for path in (ROOT / "mnist_lib").rglob("*.py")]
    modules = [".".join(file.parts) for file in files if file.stem != "__init__"]
    assert sorted(listed) == sorted(modules)


def test_the_page_on_reproduction_names_every_parameter():
    text = (ROOT / "book" / "reproduce.md").read_text("utf-8")
    table = text[text.index("| parameter |") : text.index("papermill reads `-p`")]
    words = set(re.findall(r"`(\w+)`", table))
    for schema in (NotebookParameters, BackpropParameters, ScratchParameters, SweepParameters, SweepPageParameters):
        assert {f.name for f in dataclasses.fields(schema) if not f.metadata.get("internal")} <= words
    assert {name for network in networks().values() for name, _ in network.arguments} <= words


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
            validate(NotebookParameters, {"name": "mine", name: given})
        assert str(caught.value) == message
