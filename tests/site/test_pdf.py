"""The PDF: the whole book, with tags and bookmarks, and nothing cut off at the edge of the paper."""

import subprocess
import sys

import pytest
from pypdf import PdfReader

from mnist_lib.site import book, pdf
from support import PAGES, ROOT, parsed

PAPER = {"width": 680, "height": 986}  # pixels of an A4 page within its margins


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
        title = parsed(ROOT / "_build" / "html" / f"{name}.html").h1.get_text().rstrip("#").strip()
        assert any(title in bookmark for bookmark in bookmarks), name


def _titles(outline):
    for entry in outline:
        yield from _titles(entry) if isinstance(entry, list) else [" ".join(entry.title.split())]


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
