"""Published numbers changed by hand: the tests find each change, and say where it is. All in a copy of the report."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from mnist_lib import records
from mnist_lib.pipeline import execution, staleness
from support import ROOT

PAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("iteration_??_*.ipynb"))[1:9]
UNTOUCHED = PAGES[-1]
RUNS = "reported_e_early"  # an experiment, and the page that shows it

RECORD, CURRENT = "test_a_record_is_consistent", "test_published_outputs_are_current"
GLUED, TYPED = "test_every_glued_number_is_there", "test_no_result_is_typed"
CHECKS = [
    f"tests/test_published.py::{RECORD}",
    f"tests/pipeline/test_notebooks.py::{CURRENT}",
    f"tests/test_prose.py::{GLUED}",
    f"tests/test_prose.py::{TYPED}",
]
GLUE = "application/papermill.record/text/plain"
ACCURACY = "{glue:text}`accuracy:.2f`"

Notebook = nbformat.NotebookNode


def other_digit(text: str, pattern: str) -> str:
    """`text` with one digit changed: the last one of the first place that matches."""
    match = re.search(pattern, text)
    assert match, f"no {pattern!r} in {text[:200]!r}"
    place = match.end() - 1
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def digit_in_record(pattern: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(other_digit(path.read_text("utf-8"), pattern), "utf-8")

    return change


def one_bit_of_the_weights(path: Path) -> None:
    file = records.weights_path(path)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def outputs(notebook: Notebook, kind: str, pattern: str = "") -> list[Notebook]:
    """The outputs that have something of this MIME type with this pattern in it."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", ()) if kind in output.get("data", {})]
    return [output for output in found if re.search(pattern, output.data[kind])]


def digit_in_output(kind: str, pattern: str) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        data = outputs(notebook, kind, pattern)[0].data
        data[kind] = other_digit(data[kind], pattern)

    return change


def digit_in_alternative_text(notebook: Notebook) -> None:
    about = outputs(notebook, "image/png")[0].metadata["image/png"]
    about["alt"] = other_digit(about["alt"], r"\d")


def one_letter_of_a_png(notebook: Notebook) -> None:
    data = outputs(notebook, "image/png")[0].data
    png, middle = data["image/png"], len(data["image/png"]) // 2
    data["image/png"] = png[:middle] + ("B" if png[middle] == "A" else "A") + png[middle + 1 :]


def in_prose(new: str) -> Callable[[Notebook], None]:
    """Puts something else where the accuracy is glued."""

    def change(notebook: Notebook) -> None:
        cell = next(cell for cell in notebook.cells if cell.cell_type == "markdown" and ACCURACY in cell.source)
        cell.source = cell.source.replace(ACCURACY, new, 1)

    return change


IN_RECORDS = {  # what is changed in the record of which seed
    "an accuracy": (0, digit_in_record(r'"test_correct": \[[\d, ]*\d')),
    "a loss": (1, digit_in_record(r'"train_loss": \[[\d.]+\d')),
    "a first loss": (2, digit_in_record(r'"first_losses": \[[\d.]+\d')),
    "the index of a misread image": (3, digit_in_record(r'"misclassified": \[\[\d+')),
    "one bit of the weights": (4, one_bit_of_the_weights),
}
IN_PAGES = {
    "a table": digit_in_output("text/html", r"<td>[\d.,]*\d"),
    "a glued number": digit_in_output(GLUE, r"^\d+\.\d+"),
    "an alternative text": digit_in_alternative_text,
    "a figure": one_letter_of_a_png,
    "another glued number": in_prose("{glue:text}`low:.2f`"),
    "a name without a number": in_prose("{glue:text}`acuracy:.2f`"),
    "a typed number": in_prose("99.123"),
}
PAGE = dict(zip(IN_PAGES, PAGES, strict=False))

EDITED = "its outputs are not those of its execution"
STALE_RECORD = f"the recipe or the record of {RUNS} changed, seed "
WHAT_IS_FOUND = [  # the change, the test that fails, and what it says
    ("an accuracy", f"{RECORD}[{RUNS}/seed_0]", "test_correct"),
    ("an accuracy", f"{CURRENT}[{RUNS}]", f"{STALE_RECORD}0"),
    ("a loss", f"{CURRENT}[{RUNS}]", f"{STALE_RECORD}1"),
    ("a first loss", f"{CURRENT}[{RUNS}]", f"{STALE_RECORD}2"),
    ("the index of a misread image", f"{CURRENT}[{RUNS}]", f"{STALE_RECORD}3"),
    ("one bit of the weights", f"{RECORD}[{RUNS}/seed_4]", "weights_digest"),
    *((name, f"{CURRENT}[{PAGE[name]}]", EDITED) for name in list(IN_PAGES)[:4]),
    *(
        (name, f"{CURRENT}[{PAGE[name]}]", f"its prose says {new} where it said {ACCURACY}")
        for name, new in (
            ("another glued number", "{glue:text}`low:.2f`"),
            ("a name without a number", "{glue:text}`acuracy:.2f`"),
            ("a typed number", "99.123"),
        )
    ),
    (
        "a name without a number",
        f"{GLUED}[{PAGE['a name without a number']}]",
        "nothing is glued under 'acuracy'",
    ),
    ("a typed number", f"{TYPED}[{PAGE['a typed number']}]", "99.123 is typed"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    """What fails in a copy in which all has been changed, each in another record or page: the test, and its words."""
    copy = tmp_path_factory.mktemp("tampering") / "report"
    for name in ("mnist_lib", "notebooks", "book/records", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for seed, change in IN_RECORDS.values():
        change(records.record_path(copy / "book" / "records" / RUNS, seed))
    changes = {page: IN_PAGES[name] for name, page in PAGE.items()}
    for page in (*PAGES, RUNS):
        notebook = nbformat.read(copy / "notebooks" / f"{page}.ipynb", as_version=4)
        # As if just executed: whether the published pages are current is no matter here.
        notebook.metadata["mnist_lib"] = staleness.current_digests(ROOT / "notebooks" / f"{page}.ipynb")
        changes.get(page, lambda _: None)(notebook)
        (copy / "notebooks" / f"{page}.ipynb").write_text(execution.to_text(notebook), "utf-8")

    results = copy / "results.xml"
    command = [sys.executable, "-m", "pytest", *CHECKS, "-k", " or ".join((*PAGES, RUNS)), f"--junitxml={results}"]
    command += ["-p", "no:xdist", "-p", "no:nbval", "-p", "no:cacheprovider"]
    (copy / "pytest.ini").write_text("[pytest]\npythonpath = tests\n", "utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "MNIST_LIB_RUNS": str(copy / "runs")}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    cases = ElementTree.parse(results).getroot().iter("testcase")
    return {
        case.get("name"): "".join(f"{each.get('message')}\n{each.text}" for each in case)
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }


@pytest.mark.parametrize(("change", "test", "words"), WHAT_IS_FOUND)
def test_a_changed_number_is_found_and_named(found, change, test, words):
    assert words in found.get(test, "it passes")


def test_every_change_is_among_what_is_found_and_nothing_else(found):
    assert {change for change, _, _ in WHAT_IS_FOUND} == {*IN_RECORDS, *IN_PAGES}
    assert set(found) == {test for _, test, _ in WHAT_IS_FOUND}
    assert not any(UNTOUCHED in test for test in found)
