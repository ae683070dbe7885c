"""A new iteration: what `mnist-lib new` writes and refuses, and the README's steps, followed to the letter."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest

from mnist_lib import cells, experiments
from mnist_lib.base.digests import bytes_digest
from mnist_lib.parameters import ParameterError
from mnist_lib.pipeline import catalogue, execution, new_iteration, staleness
from mnist_lib.results import page
from mnist_lib.results.page import ComparisonParameters
from support import ROOT, edit

ITERATIONS = [path.stem for path in catalogue.find("iteration_??_*")]
LAST = ITERATIONS[-1]
NEXT = len(ITERATIONS) + 1
NAME = f"iteration_{NEXT:02}_a_wider_one"
SUMMARIES = ("introduction", "iterations_compared", "public_reports")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The notebooks and the table of contents, where they may be changed; the library takes them for the report's."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "_toc.yml", tmp_path / "book")
    monkeypatch.setattr(experiments, "root", lambda: tmp_path)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): bytes_digest(p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tagged(path: Path, *tags: str) -> list[nbformat.NotebookNode]:
    found = nbformat.read(path, as_version=4).cells
    return [cell for cell in found if {*tags} & {*cell.metadata.get("tags", ())}]


@pytest.mark.parametrize("source", [LAST, LAST[:12], ITERATIONS[0], ITERATIONS[4][:12]])
def test_the_notebook_is_a_copy_of_its_source_and_compares_with_it(copy, source):
    full = next(name for name in ITERATIONS if name.startswith(source))
    path = new_iteration.new_iteration(NAME, source)
    assert path == copy / "notebooks" / f"{NAME}.ipynb"

    new, old = cells.of_file(path), cells.of_file(path.with_stem(full))
    assert (new.name, new.baseline, new.seeds, new.learning_rates) == (NAME, full, old.seeds, old.learning_rates)
    assert (new.recipe, new.network) == (old.recipe, old.network)
    own = {cell.source for file in (path, path.with_stem(full)) for cell in tagged(file, "parameters", "prose")}
    shared = [[text for text in code(file) if text not in own] for file in (path, path.with_stem(full))]
    assert shared[0] and shared[0] == shared[1]

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert notebook.cells[0].source.startswith(f"# Iteration {NEXT}: a wider one\n")
    text = path.read_text("utf-8")
    assert text.count(f"notebooks/{NAME}.ipynb") == 3, "badges"
    assert f"notebooks/{full}.ipynb" not in "".join(notebook.cells[0].source)
    assert staleness.stale(path) == ["it has not been executed"]


@pytest.mark.parametrize("source", ITERATIONS)
def test_what_the_source_says_of_itself_is_quoted_below_a_mark(copy, source):
    path = new_iteration.new_iteration(NAME, source)
    first = nbformat.read(path, as_version=4).cells[0]
    before = tagged(ROOT / "notebooks" / f"{source}.ipynb", new_iteration.OWN)
    marked = [first, *tagged(path, new_iteration.OWN)]
    assert len(marked) == 1 + len(before)
    for cell in marked:
        lines = [line for line in cell.source.splitlines() if line and not line.startswith(("#", "[!", "[Source"))]
        assert lines[0] == f"{new_iteration.FILL_IN} this iteration's own words; in {source} they were"
        assert all(line.startswith(">") for line in lines[1:])
    box, analysis = tagged(path, "prose")
    assert box.source == new_iteration.BOX and box.source.count(new_iteration.FILL_IN) == 3
    assert analysis.source == new_iteration.ANALYSIS and new_iteration.FILL_IN in analysis.source


def test_headings_and_links_stay_and_all_other_lines_are_quoted(copy):
    path = copy / "notebooks" / f"{LAST}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    first, own, last = (
        notebook.cells[0],
        *[cell for cell in notebook.cells if "own" in cell.metadata.get("tags", ())][:2],
    )
    first.source = (
        f"# A title\nSo far.\n\n[![A badge](a)](b/{LAST}.ipynb)\n[Source on GitHub](c/{LAST}.ipynb)\n\nA *word*.\n"
    )
    own.source, last.source = "## Why\n\nA line.\n\n- of a list \n    of more", "No heading."
    nbformat.write(notebook, path)
    new = nbformat.read(new_iteration.new_iteration(NAME, LAST), as_version=4)
    assert "mnist_lib" not in new.metadata
    words = f"{new_iteration.FILL_IN} this iteration's own words; in {LAST} they were"
    assert new.cells[0].source == (
        f"# Iteration {NEXT}: a wider one\n\n[![A badge](a)](b/{NAME}.ipynb)\n[Source on GitHub](c/{NAME}.ipynb)\n\n"
        f"{words}\n\n> So far.\n>\n>\n> A *word*."
    )
    own, last = tagged(copy / "notebooks" / f"{NAME}.ipynb", "own")[:2]
    assert own.source == f"## Why\n\n{words}\n\n> A line.\n>\n> - of a list\n>     of more"
    assert last.source == f"{words}\n\n> No heading."


def test_the_same_command_gives_the_same_file_with_ids_of_its_own(copy):
    file = new_iteration.new_iteration(NAME, LAST)
    before = digests(copy)
    ids = {cell.id for cell in nbformat.read(file, as_version=4).cells}
    assert not ids & {cell.id for cell in nbformat.read(copy / "notebooks" / f"{LAST}.ipynb", as_version=4).cells}
    file.unlink()
    new_iteration.new_iteration(NAME, LAST)
    assert digests(copy) == before


def test_every_list_of_iterations_finds_it_after_the_last(copy):
    before = digests(copy)
    new_iteration.new_iteration(NAME, ITERATIONS[2])
    changed = {name for name, digest in digests(copy).items() if before.get(name) != digest}
    assert changed == {f"notebooks/{NAME}.ipynb"}

    globs = re.findall(r"glob: (\S+)", (copy / "book" / "_toc.yml").read_text("utf-8"))
    listed = [path.stem for pattern in globs for path in sorted(copy.glob(f"{pattern}.ipynb"))]
    assert listed.index(NAME) == listed.index(LAST) + 1
    for name in SUMMARIES:
        summary = cells.of_file(copy / "notebooks" / f"{name}.ipynb", ComparisonParameters)
        listed = page.listed(summary)
        assert listed.index(NAME) == listed.index(LAST) + 1


def test_a_duplicate_is_no_iteration(copy):
    """Its number is free, and nothing starts from it."""
    shutil.copy(copy / "notebooks" / f"{LAST}.ipynb", copy / "notebooks" / f"iteration_{NEXT:02}_copied.ipynb")
    with pytest.raises(ParameterError, match="there is no iteration"):
        new_iteration.new_iteration(NAME, f"iteration_{NEXT:02}_copied")
    assert new_iteration.new_iteration(NAME, LAST).stem == NAME


REFUSED = {
    (LAST, LAST): f"'{LAST}' exists already; a new iteration's name begins with iteration_{NEXT:02}_",
    (f"iteration_{NEXT + 1:02}_mine", LAST): f"expected iteration_{NEXT:02}_ and words of a-z and 0-9 joined by _",
    (f"iteration_{NEXT:02}", LAST): f"such as iteration_{NEXT:02}_mine",
    (f"iteration_{NEXT:02}_", LAST): "expected iteration_",
    (f"iteration_{NEXT:02}_Mine", LAST): "expected iteration_",
    (f"iteration_{NEXT:02}_../../x", LAST): "expected iteration_",
    (f"iteration_{NEXT:02}_mine\n", LAST): "expected iteration_",
    ("", LAST): "name = '': expected iteration_",
    (NAME, "iteration_77"): "there is no iteration 'iteration_77' to start from; there are: iteration_01_setup, ",
    (NAME, "introduction"): "there is no iteration 'introduction'",
    (NAME, "iteration"): "there is no iteration 'iteration'",
    (NAME, ""): "there is no iteration ''",
}


@pytest.mark.parametrize(("name", "source"), REFUSED)
def test_what_is_refused_leaves_everything_as_it_was(copy, name, source):
    before = digests(copy)
    with pytest.raises(ParameterError, match=re.escape(REFUSED[name, source])):
        new_iteration.new_iteration(name, source)
    assert digests(copy) == before


def test_a_name_that_has_records_is_refused(copy):
    (copy / "book" / "records" / NAME).mkdir(parents=True)
    before = digests(copy)
    with pytest.raises(ParameterError, match="exists already"):
        new_iteration.new_iteration(NAME, LAST)
    assert digests(copy) == before


def test_no_published_page_waits_to_be_filled_in():
    for path in catalogue.find():
        assert new_iteration.FILL_IN not in path.read_text("utf-8"), path.name


STEPS = (ROOT / "README.md").read_text("utf-8").partition("## Add an iteration\n")[2].partition("\n## ")[0]
COMMANDS = [
    command
    for block in re.findall(r"^ *```shell\n(.*?)^ *```$", STEPS, flags=re.DOTALL | re.MULTILINE)
    for command in textwrap.dedent(block).splitlines()
]
MINE = "iteration_11_mine"
NETWORK = """from torch import nn


def network(width: int = 10) -> nn.Sequential:
    \"\"\"One linear layer. 7,850 parameters.\"\"\"
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width))"""
SELECTED = (  # of the tests, those of the structure of notebooks and book: what `make test` runs in the copy
    "tests/pipeline/test_notebooks.py tests/pipeline/test_new_iteration.py tests/site/test_book.py -vv "
    "-k 'skeleton or gaps or itself or code_comes_after or are_current "
    "or trace or every_figure or no_cell or filled_in or names_every or of_the_contents'"
)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository whose .venv looks finished: its programs are this Python, with the copy's library."""
    target = tmp_path / "mnist-report"
    hidden = shutil.ignore_patterns(".*", "_build", "__pycache__")
    shutil.copytree(ROOT, target, ignore=hidden)
    programs = {"python": "", "mnist-lib": "-m mnist_lib.cli", "papermill": "-m papermill"}
    (target / ".venv" / "bin").mkdir(parents=True)
    for name, arguments in programs.items():
        program = target / ".venv" / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    (target / ".venv" / "made-from-lock").write_text(f"{target.resolve()}\n{lock}", "utf-8")
    shutil.copy(ROOT / "pyproject.toml", target / ".venv" / "made-from-pyproject")
    return target


def shell(command: str, folder: Path, pytest_options: str = "") -> str:
    """What a command prints that is typed in the copy with its .venv activated; MNIST cannot be had."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {
        "PATH": f"{folder / '.venv' / 'bin'}:{environment['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTEST_ADDOPTS": pytest_options,
        "MNIST_LIB_RUNS": str(folder / "runs"),
        "MNIST_LIB_DATA": str(folder / "no-data"),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def change_one_thing(folder: Path) -> None:
    """The README's second step, with a new network."""
    path = folder / "notebooks" / f"{MINE}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(new_iteration.FILL_IN, "Filled in:")
        if "network" in cell.metadata.get("tags", ()):
            cell.source = NETWORK
    path.write_text(execution.to_text(notebook), "utf-8")


def take_little(folder: Path) -> None:
    """The new iteration on the embedded digits, two runs of an epoch; the pages that list iterations show it alone."""
    for name in (MINE, *SUMMARIES):
        notebook = folder / "notebooks" / f"{name}.ipynb"
        edit(notebook, 'dataset: str = \\"mnist\\"', 'dataset: str = \\"digits\\"')
        edit(notebook, "epochs: int = ", "epochs: int = 1  # ")
        edit(notebook, "seeds: int = ", "seeds: int = 2  # ")
        if name != MINE:
            text = notebook.read_text("utf-8")
            notebook.write_text(re.sub(r"(experiments: list = )\[.*?\]", rf'\1[\\"{MINE}\\"]', text), "utf-8")


@pytest.mark.slow
@pytest.mark.skipif(len(ITERATIONS) != 10, reason="the README names the eleventh")
def test_the_steps_of_the_readme_lead_to_an_eleventh_page(checkout):
    assert [command.split()[:2] for command in COMMANDS] == [
        ["mnist-lib", "new"],
        ["papermill", f"notebooks/{MINE}.ipynb"],
        ["mnist-lib", "train"],
        ["mnist-lib", "run"],
        ["make", "book"],
        ["make", "test"],
    ]
    new, trial, train, run, book, test = COMMANDS
    shell(new, checkout)
    change_one_thing(checkout)
    shell(
        f"python -m pytest -o addopts= 'tests/pipeline/test_notebooks.py::test_one_change_at_a_time[{MINE}]'", checkout
    )
    take_little(checkout)
    shell(trial, checkout)
    assert "Made with the embedded digits" in (checkout / "out.ipynb").read_text("utf-8")
    shell(train, checkout)
    shell(run, checkout)
    assert len(list((checkout / "book" / "records" / MINE).glob("seed_*.json"))) == 2
    shell(book, checkout)
    pages = checkout / "_build" / "html" / "notebooks"
    assert "Iteration 11: mine" in (pages / f"{MINE}.html").read_text("utf-8")
    for name in SUMMARIES:
        assert "<td>11 mine</td>" in (pages / f"{name}.html").read_text("utf-8")
    passed = shell(test, checkout, SELECTED)
    assert len(re.findall(rf"PASSED \S+\[{MINE}\]", passed)) >= 7, passed
    assert shell("mnist-lib status", checkout).splitlines()[-1] == "0 stale"
