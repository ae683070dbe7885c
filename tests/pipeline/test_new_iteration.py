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
import yaml

from mnist_lib import experiments
from mnist_lib.digests import bytes_digest
from mnist_lib.parameters import NotebookParameters, ParameterError, notebook_parameters, validate
from mnist_lib.pipeline import catalogue, new_iteration, staleness
from support import ROOT

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


def edit(path: Path, **replacements: tuple[str, str]) -> None:
    text = path.read_text("utf-8")
    for old, new in replacements.values():
        assert old in text, f"{path} does not contain {old!r}"
        text = text.replace(old, new)
    path.write_text(text, "utf-8")


@pytest.mark.parametrize("source", [LAST, LAST[:12], ITERATIONS[0], ITERATIONS[4][:12]])
def test_the_notebook_has_the_recipe_and_the_skeleton_of_its_source(copy, source):
    full = next(name for name in ITERATIONS if name.startswith(source))
    new_iteration.new_iteration(NAME, source)
    path = copy / "notebooks" / f"{NAME}.ipynb"

    new, old = (validate(NotebookParameters, notebook_parameters(p)) for p in (path, path.with_stem(full)))
    assert (new.name, new.baseline, new.seeds, new.recipe) == (NAME, full, old.seeds, old.recipe)
    assert new.learning_rates == ()
    own = ("name: str", "target = ")
    shared = [[text for text in code(p) if not text.startswith(own)] for p in (path, path.with_stem(ITERATIONS[0]))]
    assert shared[0] == shared[1]

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert notebook.cells[0].source.startswith(f"# Iteration {NEXT}: a wider one\n")
    text = path.read_text("utf-8")
    assert text.count(full) == 1, "the baseline"
    assert text.count(f"notebooks/{NAME}.ipynb") == 3, "badges"
    assert text.count(new_iteration.FILL_IN) == 5
    assert staleness.stale(path) == ["it has not been executed"]
    assert "There is no baseline" not in text


def test_the_same_command_gives_the_same_file_with_ids_of_its_own(copy):
    files = new_iteration.new_iteration(NAME, LAST)
    before = digests(copy)
    ids = {cell.id for cell in nbformat.read(files[0], as_version=4).cells}
    assert not ids & {cell.id for cell in nbformat.read(copy / "notebooks" / f"{LAST}.ipynb", as_version=4).cells}
    for file in files:
        file.unlink()
        if (original := ROOT / file.relative_to(copy)).exists():
            shutil.copy(original, file)
    new_iteration.new_iteration(NAME, LAST)
    assert digests(copy) == before


def test_every_list_of_iterations_gets_it_after_the_last(copy):
    before = digests(copy)
    written = new_iteration.new_iteration(NAME, ITERATIONS[2])
    changed = {name for name, digest in digests(copy).items() if before.get(name) != digest}
    assert changed == {str(path.relative_to(copy)) for path in written}
    assert changed == {"book/_toc.yml", *(f"notebooks/{name}.ipynb" for name in (NAME, *SUMMARIES))}

    (old, new) = ((root / "book" / "_toc.yml").read_text("utf-8") for root in (ROOT, copy))
    line = f"      - file: notebooks/{LAST}\n"
    assert new == old.replace(line, line + line.replace(LAST, NAME))
    assert yaml.safe_load(new) != yaml.safe_load(old)
    for name in SUMMARIES:
        listed = notebook_parameters(copy / "notebooks" / f"{name}.ipynb")["experiments"]
        assert listed.index(NAME) == listed.index(LAST) + 1
        listed.remove(NAME)
        assert listed == notebook_parameters(ROOT / "notebooks" / f"{name}.ipynb")["experiments"]


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


def test_a_name_with_records_or_contents_without_the_last_iteration_are_refused(copy):
    records = copy / "book" / "records" / NAME
    records.mkdir(parents=True)
    with pytest.raises(ParameterError, match="exists already"):
        new_iteration.new_iteration(NAME, LAST)
    records.rmdir()
    contents = copy / "book" / "_toc.yml"
    contents.write_text(contents.read_text("utf-8").replace(LAST, "something_else"), "utf-8")
    before = digests(copy)
    with pytest.raises(ParameterError, match=f"does not hold '- file: notebooks/{LAST}', after which {NAME} belongs"):
        new_iteration.new_iteration(NAME, LAST)
    assert digests(copy) == before


def test_a_list_that_is_written_otherwise_is_refused(copy):
    path = copy / "notebooks" / "introduction.ipynb"
    edit(path, line=(f'    \\"{LAST}\\",\\n', f'    \\"{LAST}\\",  # the last\\n'))
    before = digests(copy)
    with pytest.raises(ParameterError, match=re.escape(f"introduction.ipynb does not list {LAST} in")):
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
SELECTED = (  # of the tests, those of the structure of notebooks and book: what `make test` runs in the copy
    "tests/pipeline/test_notebooks.py tests/pipeline/test_new_iteration.py tests/site/test_book.py -vv "
    "-k 'skeleton or gaps or itself or small_pieces or are_current "
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
    network = """def mine() -> nn.Sequential:
    \"""One linear layer. 7,850 parameters.\"""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


NETWORKS"""
    edit(folder / "mnist_lib" / "models.py", function=("NETWORKS", network), name=("deep)", "deep, mine)"))
    edit(folder / "book" / "reproduce.md", table=("`deep`, `report_a`", "`deep`, `mine`, `report_a`"))
    notebook = folder / "notebooks" / f"{MINE}.ipynb"
    edit(notebook, network=('\\"deep\\"', '\\"mine\\"'), prose=(new_iteration.FILL_IN, "Filled in:"))


def take_little(folder: Path) -> None:
    """The new iteration, and the pages that show it, on the embedded digits with two runs of an epoch."""
    small = {"dataset": ('\\"mnist\\"', '\\"digits\\"'), "seeds": ("seeds: int = 5", "seeds: int = 2")}
    for name, epochs in {MINE: 15, "introduction": 0, "iterations_compared": 15, "public_reports": 0}.items():
        notebook = folder / "notebooks" / f"{name}.ipynb"
        edit(notebook, **small, epochs=(f"epochs: int = {epochs}", "epochs: int = 1"))


@pytest.mark.slow
@pytest.mark.skipif(len(ITERATIONS) != 10, reason="the README names the eleventh")
def test_the_steps_of_the_readme_lead_to_an_eleventh_page(checkout):
    assert [command.split()[:2] for command in COMMANDS] == [
        ["mnist-lib", "new"],
        ["papermill", f"notebooks/{MINE}.ipynb"],
        ["mnist-lib", "run"],
        ["make", "book"],
        ["make", "test"],
    ]
    new, trial, run, book, test = COMMANDS
    shell(new, checkout)
    change_one_thing(checkout)
    shell(
        f"python -m pytest -o addopts= 'tests/pipeline/test_notebooks.py::test_one_change_at_a_time[{MINE}]'", checkout
    )
    take_little(checkout)
    shell(trial, checkout)
    assert "epoch 2 of 2" in (checkout / "out.ipynb").read_text("utf-8")
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
