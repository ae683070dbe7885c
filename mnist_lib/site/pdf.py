"""The whole book as one PDF with contents, tags and bookmarks: compiled to a single page, which Chromium prints."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml

from mnist_lib.base.files import write_atomically
from mnist_lib.site import book
from mnist_lib.site.book import PDF, ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 900
"""How long printing may take; on a machine that does nothing else it takes a few seconds."""

OPTIONS = (
    "--headless",
    "--no-sandbox",  # it opens our own page only, and as root, in a container, it does not start with one
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
    "--export-tagged-pdf",
    "--generate-pdf-document-outline",
)

BEGINNING = re.compile(r'<span id="(document-[^"]+)"></span>(.*?)<h2>', re.DOTALL)
"""Where Sphinx puts the name of a page of the book: before its section, so on the sheet before it."""

CHAPTER = re.compile(r'<h2 id="document-([^"]+)">(.*?)<a class="headerlink"')
"""The heading of a page of the book within the single page, which bears its name."""

CONTENTS_ROW = '<li><a href="#document-{0}"><span>{1}</span><span>{2}</span></a></li>'

HOME = "notebooks/introduction"
"""The first page of the book, which Sphinx names the single page by."""

NOTE = """This is the book on paper. Its pages in the browser have more: the code behind every table and figure, a mark
beside every result that leads to its records, the details of each network layer by layer, the reference of the library,
a field to draw digits in, and a comparison of any two networks."""


def write() -> int:
    """Write ``_build/pdf/mnist-report.pdf``, unless it is of these very sources; returns the exit code.

    Raises:
        RuntimeError: there is no Chromium, or it did not print.
    """
    browser, digest = find_browser(), book.sources_digest(ROOT)
    if book.pdf_is_current(digest):
        print(f"the PDF is current: {PDF}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mnist-lib-pdf-") as scratch:
        if code := book.run_sphinx(ROOT, Path(scratch), "singlehtml"):
            print("the PDF was not made; the last good one, if any, is untouched", file=sys.stderr)
            return code
        page = one_page(Path(scratch) / "_build" / "singlehtml")
        write_atomically(PDF, print_with_contents(browser, page).read_bytes())
    write_atomically(PDF.with_name(".sources"), digest.encode())
    print(f"wrote {PDF}")
    return 0


def print_with_contents(browser: str, page: Path) -> Path:
    """Print the single page twice, the second time with the numbers of the pages in its contents; returns the PDF.

    Raises:
        RuntimeError: Chromium did not print.
    """
    from pypdf import PdfReader  # only whoever prints needs it

    text, printed = page.read_text("utf-8"), page.with_suffix(".pdf")
    page.write_text(with_contents(text), "utf-8")
    _print(browser, page, printed)
    with PdfReader(printed) as reader:
        places = reader.named_destinations
        numbers = {
            name.removeprefix("/document-"): reader.get_destination_page_number(place) + 1
            for name, place in places.items()
        }
    page.write_text(with_contents(text, numbers), "utf-8")
    _print(browser, page, printed)
    return printed


def with_contents(text: str, numbers: Mapping[str, int] | None = None) -> str:
    """Return the single page with a list of the book's pages after its title; `numbers` says where they begin."""
    listed = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))["parts"]
    parts = [CHAPTER.findall(part) for part in text.split('<div class="toctree-wrapper compound">')[1:]]
    parts[0].insert(0, (HOME, "Introduction"))
    lines = []
    for part, chapters in zip(listed, parts, strict=True):
        rows = [CONTENTS_ROW.format(name, title, (numbers or {}).get(name, "")) for name, title in chapters]
        lines += [f"<p>{part['caption']}</p>" if "caption" in part else "", "<ul>", *rows, "</ul>"]
    contents = f'<nav class="book-contents" aria-label="Contents"><p>{NOTE}</p>{"".join(lines)}</nav>'
    return text.replace("</h1>", f'</h1>{contents}<h2 id="document-{HOME}">Introduction</h2>', 1)


def _print(browser: str, page: Path, printed: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="mnist-lib-chromium-") as profile:
        command = [browser, *OPTIONS, f"--user-data-dir={profile}", f"--print-to-pdf={printed}", page.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{browser} printed no PDF in {SECONDS} seconds") from error
    if done.returncode or not printed.exists():
        raise RuntimeError(f"{browser} printed no PDF: {done.stderr.strip()[-500:]}")


def one_page(folder: Path) -> Path:
    """Return the single page, where its addresses are right: Sphinx puts it one folder too deep.

    Links inside the book name that file; they lose its name. Of an anonymous id that several pages have (``id1``) only
    the last is kept: these are the references, which links mean.
    """
    text = (folder / f"{HOME}.html").read_text("utf-8").replace(f'href="{HOME}.html#', 'href="#')
    text = BEGINNING.sub(r'\2<h2 id="\1">', text)
    counts = Counter(re.findall(r' id="(id\d+)"', text))

    def keep_last(match: re.Match) -> str:
        counts[match[1]] -= 1
        return "" if counts[match[1]] else match[0]

    page = folder / "book.html"
    page.write_text(re.sub(r' id="(id\d+)"', keep_last, text), "utf-8")
    return page


def find_browser() -> str:
    """Return the path of Chromium or Chrome.

    Raises:
        RuntimeError: there is neither.
    """
    if found := next(filter(None, map(shutil.which, BROWSERS)), None):
        return found
    raise RuntimeError(
        f"the PDF is printed by Chromium, and none of {', '.join(BROWSERS)} is on the PATH; "
        "on Debian or Ubuntu: apt-get install chromium"
    )
