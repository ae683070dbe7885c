"""Published numbers changed by hand: the tests find each change, and say where it is. All in a copy of the report."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

import forked
from mnist_lib import records
from mnist_lib.pipeline import execution, staleness
from support import ROOT, sealed

PAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("iteration_??_*.ipynb"))[1:9]
UNTOUCHED = PAGES[-1]
RUNS = "reported_e_early"  # an experiment, and the page that shows it
CARELESS = "reported_b_heavy_dropout"  # another one, whose record does not even get a new digest

RECORD, CURRENT = "test_a_record_is_consistent", "test_published_outputs_are_current"
TYPED, TYPED_IN_CODE = "test_no_result_is_typed_in_markdown", "test_no_number_is_typed_in_a_cell_of_prose"
RAW = "test_nothing_is_written_that_only_the_book_understands"
CHECKS = [
    f"tests/test_published.py::{RECORD}",
    f"tests/pipeline/test_notebooks.py::{CURRENT}",
    *(f"tests/test_prose.py::{name}" for name in (TYPED, TYPED_IN_CODE, RAW)),
]

ACCURACY = r'"test_correct": \[[\d, ]*\d'

Notebook = nbformat.NotebookNode


def other_digit(text: str, pattern: str) -> str:
    """`text` with one digit changed: the last one of the first place that matches."""
    match = re.search(pattern, text)
    assert match, f"no {pattern!r} in {text[:200]!r}"
    place = match.end() - 1
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def digit_in_record(pattern: str) -> Callable[[Path], None]:
    """Changes a digit, and gives the record the digest of its new content."""

    def change(path: Path) -> None:
        altered = json.loads(other_digit(path.read_text("utf-8"), pattern))
        path.write_text(json.dumps(sealed(altered)), "utf-8")

    return change


def only_a_digit(path: Path) -> None:
    """Changes one that could be as well another: what could not be is refused before the digest is looked at."""
    path.write_text(other_digit(path.read_text("utf-8"), r'"first_losses": \[\d+\.\d\d'), "utf-8")


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
    described = [output.metadata["image/png"] for output in outputs(notebook, "image/png")]
    about = next(each for each in described if re.search(r"\d", each["alt"]))
    about["alt"] = other_digit(about["alt"], r"\d")


def one_letter_of_a_png(notebook: Notebook) -> None:
    data = outputs(notebook, "image/png")[0].data
    png, middle = data["image/png"], len(data["image/png"]) // 2
    data["image/png"] = png[:middle] + ("B" if png[middle] == "A" else "A") + png[middle + 1 :]


def in_markdown(text: str) -> Callable[[Notebook], None]:
    """Adds a sentence to the last cell of Markdown."""

    def change(notebook: Notebook) -> None:
        cell = [cell for cell in notebook.cells if cell.cell_type == "markdown"][-1]
        cell.source += f"\n\n{text}"

    return change


def in_a_cell_of_prose(notebook: Notebook) -> None:
    cell = next(cell for cell in notebook.cells if "prose" in cell.metadata.get("tags", ()))
    cell.source = cell.source.replace("sentences.prose(", 'sentences.prose("It is 99.123 %.", ', 1)


IN_RECORDS = {  # what is changed in the record of which seed
    "an accuracy": (0, digit_in_record(ACCURACY)),
    "a loss": (1, digit_in_record(r'"train_loss": \[\d+\.\d\d')),
    "a first loss": (2, digit_in_record(r'"first_losses": \[\d+\.\d\d')),
    "the index of a misread image": (3, digit_in_record(r'"misclassified": \[\[\d+')),
    "one bit of the weights": (4, one_bit_of_the_weights),
}
IN_PAGES = {
    "a table": digit_in_output("text/html", r"<td>[\d.,]*\d"),
    "a sentence": digit_in_output("text/markdown", r"\d+\.\d+"),
    "an alternative text": digit_in_alternative_text,
    "a figure": one_letter_of_a_png,
    "a number in Markdown": in_markdown("It is 99.123 %."),
    "a number in a cell of prose": in_a_cell_of_prose,
    "a role": in_markdown("It is {glue:text}`accuracy` %."),
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
    ("only a digit", f"{RECORD}[{CARELESS}/seed_0]", "seed_0.json: altered"),
    ("only a digit", f"{CURRENT}[{CARELESS}]", "seed_0.json: altered"),
    *((name, f"{CURRENT}[{PAGE[name]}]", EDITED) for name in list(IN_PAGES)[:4]),
    (
        "a number in Markdown",
        f"{CURRENT}[{PAGE['a number in Markdown']}]",
        "it says 99.123 where it said nothing",
    ),
    ("a number in Markdown", f"{TYPED}[{PAGE['a number in Markdown']}]", "99.123 is typed"),
    ("a number in a cell of prose", f"{CURRENT}[{PAGE['a number in a cell of prose']}]", "its cells changed"),
    ("a number in a cell of prose", f"{TYPED_IN_CODE}[{PAGE['a number in a cell of prose']}]", "99.123 in 'It is"),
    ("a role", f"{RAW}[{PAGE['a role']}]", "{glue:text}`"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    """What fails in a copy in which all has been changed, each in another record or page: the test, and its words."""
    copy = tmp_path_factory.mktemp("tampering") / "report"
    for name in ("mnist_lib", "notebooks", "book/records", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    shutil.copy(ROOT / "book" / "_toc.yml", copy / "book")
    for seed, change in IN_RECORDS.values():
        change(records.record_path(copy / "book" / "records" / RUNS, seed))
    only_a_digit(records.record_path(copy / "book" / "records" / CARELESS, 0))
    changes = {page: IN_PAGES[name] for name, page in PAGE.items()}
    for page in (*PAGES, RUNS, CARELESS):
        notebook = nbformat.read(copy / "notebooks" / f"{page}.ipynb", as_version=4)
        # As if just executed: whether the published pages are current is no matter here.
        notebook.metadata["mnist_lib"] |= staleness.current_digests(ROOT / "notebooks" / f"{page}.ipynb")
        changes.get(page, lambda _: None)(notebook)
        (copy / "notebooks" / f"{page}.ipynb").write_text(execution.to_text(notebook), "utf-8")

    results = copy / "results.xml"
    command = [
        "-m",
        "pytest",
        *CHECKS,
        "-k",
        " or ".join((*PAGES, RUNS, CARELESS)),
        f"--junitxml={results}",
    ]
    command += ["-p", "no:xdist", "-p", "no:nbval", "-p", "no:cacheprovider"]
    (copy / "pytest.ini").write_text("[pytest]\npythonpath = tests\n", "utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "MNIST_LIB_RUNS": str(copy / "runs")}
    done = forked.python(*command, cwd=copy, environment=environment)
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
    assert {change for change, _, _ in WHAT_IS_FOUND} == {*IN_RECORDS, *IN_PAGES, "only a digit"}
    assert set(found) == {test for _, test, _ in WHAT_IS_FOUND}
    assert not any(UNTOUCHED in test for test in found)
