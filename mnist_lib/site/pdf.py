"""The whole book as one PDF with tags and bookmarks: compiled to a single page, which Chromium prints."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mnist_lib.files import write_atomically
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
        page, printed = one_page(Path(scratch) / "_build" / "singlehtml"), Path(scratch) / PDF.name
        command = [browser, *OPTIONS, f"--user-data-dir={scratch}/profile", f"--print-to-pdf={printed}", page.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{browser} printed no PDF in {SECONDS} seconds") from error
        if done.returncode or not printed.exists():
            raise RuntimeError(f"{browser} printed no PDF: {done.stderr.strip()[-500:]}")
        write_atomically(PDF, printed.read_bytes())
    write_atomically(PDF.with_name(".sources"), digest.encode())
    print(f"wrote {PDF}")
    return 0


def one_page(folder: Path) -> Path:
    """Return the single page, where its addresses are right: Sphinx puts it one folder too deep.

    Links inside the book name that file; they lose its name. Of an anonymous id that several pages have (``id1``) only
    the last is kept: these are the references, which links mean.
    """
    home = "notebooks/introduction.html"
    text = (folder / home).read_text("utf-8").replace(f'href="{home}#', 'href="#')
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
