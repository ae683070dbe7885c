"""The PDF: the whole book, with contents, tags and bookmarks, nothing cut off, and nothing that is dead on paper.

What paper shows of a page is tried on pages of the built book; the whole PDF is made by the slow tests.
"""

import io
import re
import subprocess
import sys

import pytest
import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader

from mnist_lib.site import book, pdf
from support import PAGES, ROOT, networks, parsed

PAPER = {"width": 672, "height": 1016}  # pixels of an A4 page within its margins


@pytest.fixture(scope="module")
def printed(browser):
    """The PDF, made if it is not current. Where there is no Chromium, `browser` skips the tests."""
    command = [sys.executable, "-m", "mnist_lib.cli", "pdf"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return PdfReader(book.PDF)


@pytest.mark.slow
def test_it_has_tags_bookmarks_and_every_page(printed):
    catalog = printed.trailer["/Root"]
    assert catalog["/MarkInfo"]["/Marked"] and "/StructTreeRoot" in catalog
    assert catalog["/Lang"].startswith("en")
    bookmarks = list(_titles(printed.outline))
    for name in PAGES:
        title = parsed(ROOT / "_build" / "html" / f"{name}.html").h1.get_text().rstrip("#")
        assert any("".join(title.split()) in bookmark for bookmark in bookmarks), name


def _titles(outline):
    for entry in outline:
        yield from _titles(entry) if isinstance(entry, list) else ["".join(entry.title.split())]  # a line's end is lost


@pytest.mark.slow
def test_it_is_short_and_its_contents_are_right(printed):
    assert len(printed.pages) < 150
    _check_contents(printed, [parsed(ROOT / "_build" / "html" / f"{name}.html").h1 for name in PAGES[1:]])
    text = "\n".join(page.extract_text() for page in printed.pages)
    marks = [found[0] for found in ONLY_ON_SCREENS.finditer(text)]
    assert len(marks) <= 2, marks  # a cell's last word alone on its line, and the page that tells of this test
    assert text.count("def network(") <= len(networks()) + 3  # three pages explain how one is written


def _check_contents(printed, headings):
    """Every heading stands on the sheet that the list on the first one names, and every sheet has its number."""
    texts = [" ".join(page.extract_text().split()) for page in printed.pages]
    listed = iter(re.findall(r"(\S+) (\d+)$", printed.pages[0].extract_text(), flags=re.MULTILINE))
    assert next(listed) == ("Introduction", "2")
    for heading, (word, number) in zip(headings, listed, strict=True):
        title = " ".join(heading.get_text().rstrip("#").split())
        assert title.endswith(_plain(word)) and title in _plain(texts[int(number) - 1]), title
    assert all(str(number) in text.split() for number, text in enumerate(texts, start=1))


def _plain(text):
    """Letters that a font joins, apart."""
    return text.replace("ﬁ", "fi").replace("ﬂ", "fl").replace("ﬀ", "ff")


ONLY_ON_SCREENS = re.compile(r"^(source|code)$|JavaScript|(Show|Hide)( code|:)|^checked by|launch Binder", re.MULTILINE)
"""Marks beside results, bars over folded code, what a page says where scripts are off, where records come from."""


def test_the_contents_say_where_each_page_begins(browser, tmp_path):
    """In a book as long as this one, of chapters that have a heading and a text of one to four sheets."""
    parts = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))["parts"]
    titles = [f"Chapter {number} of letters" for number in range(len(parts))]
    chapters = [
        f'<div class="toctree-wrapper compound"><span id="document-book/{number}"></span><section><h2>{title}'
        f'<a class="headerlink"></a></h2>{"<p>text</p>" * 60 * (1 + number % 3)}</section></div>'
        for number, title in enumerate(titles)
    ]
    style = f'<link rel="stylesheet" href="{(ROOT / "book" / "static_files" / "print.css").as_uri()}">'
    home = tmp_path / f"{pdf.HOME}.html"
    home.parent.mkdir()
    home.write_text(f"{style}<h1>Book</h1><p>Beginning</p>{''.join(chapters)}", "utf-8")
    printed = PdfReader(pdf.print_with_contents(pdf.find_browser(), pdf.one_page(tmp_path)))
    assert len(printed.pages) > len(titles) + 2
    _check_contents(printed, [BeautifulSoup(title, "html.parser") for title in titles])


SHOWN = {
    "notebooks/iteration_05_global_average_pooling": (
        "def network",
        "batch_size: int = 128",
        "What each part of that recipe brings",
    ),
    "notebooks/iteration_10_one_cycle": ("the figure is live", "def network", "momentum"),
    "notebooks/learning_rate_sweep": ("the figure is live", "def "),
    "notebooks/training_from_scratch": ("the figure is live", "def "),
    "notebooks/iterations_compared": ("All in one table",),
    "book/draw_a_digit": ("In the browser, this page has a field to draw in",),
    "book/compare": ("In the browser, this page has tables", "What the interval says"),
}
"""Pages, and what paper must show of each."""


@pytest.mark.parametrize("name", SHOWN)
def test_paper_shows_what_can_be_read_and_nothing_that_is_dead(book, browser, name):
    page = browser.new_page()
    page.goto((book / f"{name}.html").as_uri(), wait_until="load")
    page.emulate_media(media="print")
    empty = page.evaluate(
        """() => [...document.querySelectorAll("article :is(pre, .cell, .cell_input, .cell_output, details)")].filter(
            box => box.checkVisibility() && box.offsetHeight && !box.innerText.trim() && !box.querySelector("img, svg")
                && ![...box.querySelectorAll("*")].some(each => getComputedStyle(each, "::after").content.length > 9)
        ).map(box => box.outerHTML.slice(0, 200))"""
    )
    assert not empty and not page.locator("article :is(input, select, button):visible").count()
    text = "\n".join(each.extract_text() for each in PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True))).pages)
    page.close()
    assert not ONLY_ON_SCREENS.search(text), ONLY_ON_SCREENS.search(text)[0]
    assert all(words in _plain(text) for words in SHOWN[name])
    assert text.count("def network") <= 1


@pytest.mark.slow
def test_the_book_offers_it(printed):
    offered = ROOT / "_build" / "html" / book.PDF.name
    assert offered.read_bytes() == book.PDF.read_bytes()
    for name in PAGES:
        file = ROOT / "_build" / "html" / f"{name}.html"
        link = parsed(file).select_one(f"a[download][href$='{book.PDF.name}']")
        assert (file.parent / link["href"]).resolve() == offered.resolve()


@pytest.mark.slow
def test_nothing_is_cut_off(browser, tmp_path):
    """What is wider than the paper, or scrolls in a box of its own, would lose its right end."""
    assert book.run_sphinx(ROOT, tmp_path, "singlehtml") == 0
    page = browser.new_page(viewport=PAPER)
    page.emulate_media(media="print")
    page.goto(pdf.one_page(tmp_path / "_build" / "singlehtml").as_uri())
    cut = page.evaluate(
        """() => [...document.querySelectorAll("article *")].filter(element => {
            const box = element.getBoundingClientRect(), style = getComputedStyle(element);
            const scrolls = element.scrollWidth > element.clientWidth + 1 && style.overflowX !== "visible";
            const shown = box.width > 1 && box.height > 1 && style.visibility !== "hidden";
            return shown && !element.closest(".katex-mathml, svg") && (scrolls || box.right > innerWidth + 1);
        }).map(element => element.outerHTML.slice(0, 200))"""
    )
    page.close()
    assert not cut, "\\n".join(cut[:10])


def test_without_a_browser_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"apt-get install chromium"):
        pdf.find_browser()
