"""Compiling the book: always from nothing, because incremental builds miss changes, and only if a source changed."""

import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from mnist_lib.base.digests import bytes_digest, text_digest

# `records` imports PyTorch, which takes seconds: only what writes imports it, and mostly there is nothing to do.

ROOT = Path(__file__).parents[2]
"""The checkout: an installed copy of the library has no book."""

SOURCES = ("_config.yml", "requirements.lock", "README.md", "book", "deploy", "notebooks", "mnist_lib")
PDF = ROOT / "_build" / "pdf" / "mnist-report.pdf"
"""The book on paper; `mnist_lib.site.pdf` makes it."""

REHEARSAL = "Made with the embedded digits of scikit-learn, not with MNIST: a rehearsal."


def build(quick: bool = False) -> int:
    """Compile the book into ``_build/html``, or the rehearsal into ``_build/quick/html``; returns the exit code.

    Warnings are errors. The digest of the sources lies beside the result; if it is the same, nothing is done, unless
    MNIST was missing then and is here now. Of two processes the second waits, and then has nothing to do.
    """
    with alone():
        return _build(quick)


@contextmanager
def alone() -> Iterator[None]:
    """While this is entered, no other process compiles a book of this checkout or rehearses it; a second one waits."""
    (ROOT / "_build").mkdir(exist_ok=True)
    lock = FileLock(ROOT / "_build" / "book.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("another process is at the book; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(quick: bool) -> int:
    source = ROOT / "_build" / "quick" if quick else ROOT
    target = ROOT / "_build" / ("quick/html" if quick else "html")
    if quick and not (source / "notebooks").is_dir():
        print(f"there is no rehearsal in {source}: make it by `mnist-lib quick`", file=sys.stderr)
        return 1
    stamp, digest = target / ".sources", sources_digest(source)
    if pdf_is_current(digest):  # then the pages offer it
        digest = text_digest(digest, bytes_digest(PDF.read_bytes()))
    found, without = stamp.read_text() if stamp.exists() else "", f"{digest} without MNIST"
    if (target / "index.html").exists() and (found == digest or (found == without and not _have_mnist())):
        print(f"the book is current: {target / 'index.html'}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mnist-lib-book-") as scratch:
        if code := run_sphinx(source, Path(scratch), "html"):
            print("the book was not built; the last good one, if any, is untouched", file=sys.stderr)
            return code
        built = Path(scratch) / "_build" / "html"
        (built / stamp.name).write_text(digest if _have_mnist() else without)
        try:
            replace(built, target)
        except OSError as error:
            print(f"the book was built, but {target} cannot be replaced and is as it was: {error}", file=sys.stderr)
            return 1
    print(f"built {target / 'index.html'}")
    return 0


def replace(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, whatever lies there.

    Raises:
        OSError: that is impossible; `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Both wait beside the target, where renaming takes no time and cannot run out of space.
    with tempfile.TemporaryDirectory(prefix=".book-", dir=target.parent, ignore_cleanup_errors=True) as beside:
        waiting, old = Path(beside) / "new", Path(beside) / "old"
        shutil.move(new, waiting)
        if os.path.lexists(target):
            target.rename(old)
        try:
            waiting.rename(target)
        except OSError:
            if os.path.lexists(old):
                old.rename(target)
            raise


def run_sphinx(source: Path, target: Path, builder: str) -> int:
    """Compile the book at `source` into ``target/_build/<builder>``; returns the exit code. Warnings are errors.

    Notebooks that are none of the report's, such as duplicates, are no pages, though the contents have patterns. The
    report's own pages must be as they were executed, and the records as they were written.
    """
    from mnist_lib import cells

    if source == ROOT and (problems := untrue()):
        print("\n".join(problems), file=sys.stderr)
        return 1
    settings = yaml.safe_load((source / "_config.yml").read_text("utf-8"))
    strays = [path.name for path in (source / "notebooks").glob("*.ipynb") if not cells.has_its_name(path)]
    settings["exclude_patterns"] = [*settings.get("exclude_patterns", ()), *(f"notebooks/{name}" for name in strays)]
    (target / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    # mnist_lib.pipeline comes first: it keeps jsonschema from seconds of work.
    jupyter_book = "import mnist_lib.pipeline; from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", jupyter_book, "build", str(source)]
    command += ["--path-output", str(target), "--builder", builder]
    command += ["--config", str(target / "_config.yml"), "--toc", str(source / "book" / "_toc.yml")]
    return subprocess.run([*command, "-W", "-n", "--keep-going"], cwd=source).returncode


def untrue() -> list[str]:
    """Name the pages that were altered after their execution, and the records and weights that are damaged."""
    from mnist_lib import cells, experiments, records
    from mnist_lib.parameters import ParameterError
    from mnist_lib.pipeline import catalogue, staleness

    listed = re.findall(r"(?:root|file|glob): (\S+)", (ROOT / "book" / "_toc.yml").read_text("utf-8"))
    problems = []
    for path in catalogue.find():
        if cells.has_its_name(path):
            found = [reason] if (reason := catalogue.unpublished(path)) else staleness.edited(path)
            problems += [f"{path.name}: {why}; `git restore` it, or execute it again" for why in found]
        elif any(fnmatchcase(f"notebooks/{path.stem}", each) for each in listed):
            try:
                catalogue.read(path)  # what can be read, and is called otherwise, is somebody's copy
            except ParameterError as error:
                problems.append(f"{error}; `git restore` it")
    for path in sorted(experiments.published_records().rglob("seed_*.json")):
        try:
            records.read_weights(path)
        except records.RecordError as error:
            problems.append(f"{error}; `git restore book/records` takes it back")
    return problems


def _have_mnist() -> bool:
    """Whether MNIST is here: a page then shows images of it."""
    from mnist_lib import data

    return data.have_mnist()


def pdf_is_current(digest: str) -> bool:
    """Whether there is a PDF of the sources with this digest."""
    stamp = PDF.with_name(".sources")
    return PDF.exists() and stamp.exists() and stamp.read_text() == digest


def prepare_quick() -> Path:
    """Make ``_build/quick`` anew with the prose pages and a banner on every page; returns its path.

    Finished runs of an earlier rehearsal stay: their folders say what they are runs of.
    """
    target = ROOT / "_build" / "quick"
    for old in target.glob("*"):
        if old.name != "runs":
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    shutil.copytree(ROOT / "book", target / "book", ignore=shutil.ignore_patterns("records"))
    shutil.copy(ROOT / "README.md", target)  # a page includes a part of it
    shutil.copytree(ROOT / "deploy", target / "deploy")  # a page shows these files
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    settings.setdefault("html", {})["announcement"] = REHEARSAL
    (target / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return target


def save_picture() -> None:
    """Keep the picture of the introduction, if there is one, as a file, for the README."""
    from mnist_lib import cells
    from mnist_lib.base.files import write_atomically
    from mnist_lib.pipeline import catalogue

    source = ROOT / "notebooks" / "introduction.ipynb"
    shown = catalogue.read(source).cells if cells.has_its_name(source) else []
    outputs = (output for cell in shown for output in cell.get("outputs", ()))
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", ())]
    path = ROOT / "book" / "images" / "results.png"
    if pictures and (content := base64.b64decode(pictures[0])) != (path.exists() and path.read_bytes()):
        write_atomically(path, content)


def sources_digest(source: Path) -> str:
    """Return the digest of every file that the book is compiled from, but for records: notebooks stand for them."""
    roots = [source / name for name in SOURCES]
    files = [
        file for each in roots for file in ([each] if each.is_file() else sorted(each.rglob("*"))) if file.is_file()
    ]
    names = {file: file.relative_to(source) for file in files}
    kept = [file for file, name in names.items() if not {"records", "__pycache__"} & set(name.parts)]
    return text_digest(*(f"{names[file]} {bytes_digest(file.read_bytes())}" for file in kept))
