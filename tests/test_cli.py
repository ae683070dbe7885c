"""The command line, used as a person would, in a copy of the report where it writes."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import openpyxl
import pytest

import forked
from mnist_lib import cli, data, experiments
from mnist_lib.base import files
from mnist_lib.pipeline import staleness, workers
from mnist_lib.site import address, book
from support import ROOT, mnist_lib


@pytest.fixture
def copy(tmp_path):
    for name in ("mnist_lib", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("records", "static_files"))
    for name in ("pyproject.toml", "_config.yml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def copy_address(root: Path) -> subprocess.CompletedProcess:
    """What `make address` does."""
    return forked.python("-m", "mnist_lib.site.address", cwd=root, environment=os.environ | {"PYTHONPATH": str(root)})


def test_help_names_every_command():
    done = mnist_lib("--help")
    assert done.returncode == 0
    for command in (
        "status",
        "train",
        "sweep",
        "runs",
        "verify",
        "run",
        "quick",
        "book",
        "workbook",
        "clean",
        "pdf",
        "new",
    ):
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize("scheduler", ["nowhere", "tcp://nowhere"])
def test_a_scheduler_that_has_no_port_is_refused_at_once(copy, scheduler):
    done = mnist_lib("train", "iteration_01_setup", "--scheduler", scheduler, root=copy)
    assert done.returncode == 1
    assert f"ClusterError: no scheduler answers at {scheduler}: missing port number" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{", "{}", '{"cells": [1]}'])
def test_a_file_that_is_no_notebook_is_named_and_nothing_is_written(copy, text):
    bad, good = copy / "notebooks" / "bad.ipynb", copy / "notebooks" / "good.ipynb"
    bad.write_text(text)
    good.write_text(nbformat.writes(nbformat.v4.new_notebook(metadata={"papermill": {}})))
    before = good.read_text()
    done = mnist_lib("clean", str(good), str(bad), root=copy)
    assert done.returncode == 1
    assert "bad.ipynb: not a notebook: " in done.stderr and "Traceback" not in done.stderr
    assert good.read_text() == before


def cell(content: dict, tag: str) -> dict:
    return next(each for each in content["cells"] if tag in each["metadata"].get("tags", ()))


def append(content: dict, tag: str, line: str) -> None:
    cell(content, tag)["source"] = "".join(cell(content, tag)["source"]) + f"\n{line}\n"


DEEP = f"{'-' * 30_000}1"

NO_NOTEBOOKS = {
    "no metadata": lambda content: content.pop("metadata"),
    "outputs a word": lambda content: cell(content, "remove-cell").update(outputs="abc"),
    "an output a word": lambda content: cell(content, "remove-cell").update(outputs=["abc"]),
    "no outputs": lambda content: cell(content, "remove-cell").pop("outputs"),
    "no type": lambda content: cell(content, "remove-cell").pop("cell_type"),
    "no source": lambda content: content["cells"][0].pop("source"),
    "source 5": lambda content: content["cells"][0].update(source=5),
    "source null": lambda content: content["cells"][0].update(source=None),
    "half a character": lambda content: content["cells"][0].update(source="\ud800"),
    "nested": lambda content: content["metadata"].update(x=json.loads(f"{'[' * 800}{']' * 800}")),
}
"""What is done to a notebook so that none is left."""

PLACES = {
    "no metadata": "at its top: 'metadata' is ",
    "an output a word": "['cells'][1]['outputs'][0]: 'abc' is not ",
    "no type": "['cells'][1]: not as Jupyter writes it; mend it",
    "half a character": "ValueError(\"'\\\\ud800' in it is half a character",
}
"""Where that is found, and what."""

NO_EXECUTION = {
    "a word": lambda content: content["metadata"].update(mnist_lib="a"),
    "a list": lambda content: content["metadata"].update(mnist_lib=[1]),
    "numbers null": lambda content: content["metadata"]["mnist_lib"].update(numbers=None),
    "numbers 5": lambda content: content["metadata"]["mnist_lib"].update(numbers={"a": 5}),
    "records 5": lambda content: content["metadata"]["mnist_lib"].update(records=5),
    "a record 5": lambda content: content["metadata"]["mnist_lib"].update(records={"a": 5}),
    "a digest a list": lambda content: content["metadata"]["mnist_lib"].update(records={"a": [["b", []]]}),
}
"""What is done to what a page says of its execution."""

NO_CODE = {
    "parameters no literals": lambda content: append(content, "parameters", "x: dict = {[1]: 2}"),
    "parameters nested": lambda content: append(content, "parameters", f"x: int = {DEEP}"),
    "network nested": lambda content: append(content, "network", f"    x = {DEEP}"),
    "cell nested": lambda content: append(content, "remove-cell", f"x = {DEEP}"),
    "cell nested less": lambda content: append(content, "remove-cell", f"x = {DEEP[-1000:]}"),
}

SAID = dict.fromkeys(NO_NOTEBOOKS, "  refused: {path}: not a notebook: ")
SAID |= dict.fromkeys(NO_EXECUTION, "  refused: {path}: no execution has written what is under mnist_lib")
SAID |= dict.fromkeys(NO_CODE, "not published: {path.name}: the parameters cell must hold literals only: ")
SAID |= {"network nested": "  refused: the network cell cannot be read"}
SAID |= dict.fromkeys(("cell nested", "cell nested less"), "  refused: {path}: code in it is nested too deeply")


def strange(folder: Path, change: str) -> Path:
    """Write a further page into a folder, and do something to it."""
    name = f"iteration_02_{change.replace(' ', '_')}"
    content = json.loads((ROOT / "notebooks" / "iteration_02_light_skeleton.ipynb").read_text("utf-8"))
    append(content, "parameters", f'name: str = "{name}"')
    (NO_NOTEBOOKS | NO_EXECUTION | NO_CODE)[change](content)
    (path := folder / f"{name}.ipynb").write_text(json.dumps(content), "utf-8")
    return path


@pytest.fixture(scope="module")
def status(tmp_path_factory) -> tuple[Path, str]:
    """A report with every strange page between two others, and what is said of them."""
    root = tmp_path_factory.mktemp("strange")
    shutil.copytree(ROOT / "mnist_lib", root / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "notebooks").mkdir()
    for name in ("iteration_01_setup", "training_from_scratch"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", root / "notebooks")
    for change in SAID:
        strange(root / "notebooks", change)
    done = mnist_lib("status", root=root)
    assert done.returncode == 0, done.stderr
    return root, done.stdout


@pytest.mark.parametrize("change", SAID)
def test_a_strange_page_is_refused_and_the_others_are_looked_at(status, tmp_path, change):
    root, said = status
    path = root / "notebooks" / strange(tmp_path, change).name
    assert f"{path.stem}: {SAID[change].format(path=path)}" in said.replace(": \n", ": ")
    assert "\niteration_01_setup: \n" in f"\n{said}" and "\ntraining_from_scratch: " in said


@pytest.mark.parametrize("change", NO_NOTEBOOKS)
def test_clean_leaves_what_is_no_notebook_as_it_was(tmp_path, capsys, change):
    path = strange(tmp_path, change)
    before = path.read_bytes()
    assert cli.main(["clean", str(path)]) == 1
    assert f"ParameterError: {path}: not a notebook: {PLACES.get(change, '')}" in capsys.readouterr().err
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_clean_writes_a_file_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    path = strange(tmp_path, "cell nested")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        assert cli.main(["clean", str(path)]) == 1
    assert f"FileError: {path} could not be written: no space" in capsys.readouterr().err
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    assert cli.main(["clean", str(path)]) == 0 and path.read_bytes() != before


def broken(*_):
    raise OSError("no space")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["status", LONG], "no notebook matches 'xxx"),
        (["verify", LONG], "no notebook matches 'xxx"),
        (["sweep", LONG, "--set", "epochs=1"], "no notebook matches 'xxx"),
        (["new", f"iteration_11_{LONG}", "--from", "iteration_10"], "expected iteration_11_ and words of a-z"),
        (["workbook", f"{LONG}.xlsx"], "could not be written: [Errno 36] File name too long"),
        (["runs"], "cannot be read: File name too long. Your runs are kept in"),
        (["sweep", "iteration_10_one_cycle", "--set", "epochs=1"], "to keep them elsewhere, set MNIST_LIB_RUNS"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_name_that_is_too_long_for_a_file_is_a_sentence(command, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_LIB_RUNS", str(tmp_path / LONG))
    assert cli.main(command) == 1
    told = capsys.readouterr().err
    assert said in told and not told.startswith("OSError")
    assert not list(tmp_path.iterdir())


def test_each_cell_has_an_id_of_its_own_after_cleaning(tmp_path):
    """And nbconvert finds out that the code is Python's, which Colab does not write."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"{k}") for k in range(4)])
    notebook.metadata["language_info"] = {"name": "python"}
    for cell, name in zip(notebook.cells, (None, "not valid!", "same", "same"), strict=True):
        cell["id"] = name
    made = []
    for name in ("one", "two"):
        (path := tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook))
        assert cli.main(["clean", str(path)]) == 0
        made.append(nbformat.read(path, as_version=4))
        nbformat.validate(made[-1])
    ids = [cell.id for cell in made[0].cells]
    assert ids[2] == "same" and len({*ids}) == 4
    assert made[0] == made[1], "the same ids every time"
    assert made[0].metadata.language_info.file_extension == ".py"


def older(path: Path) -> None:
    """What Colab makes of a notebook: format 4.0, no ids, and here a byte order mark, too."""
    content = json.loads(path.read_text("utf-8"))
    content["nbformat_minor"] = 0
    for cell in content["cells"]:
        del cell["id"]
    path.write_text(json.dumps(content), "utf-8-sig")


def test_what_cannot_be_read_stops_nothing_and_what_is_old_is_read(copy):
    """One page is of an older format, one of no format at all, one is a directory: the others go on."""
    pages = copy / "notebooks"
    for path in pages.glob("*.ipynb"):
        if path.stem not in ("iteration_01_setup", "backprop_derivation"):
            path.unlink()
    older(pages / "backprop_derivation.ipynb")
    (pages / "iteration_04_broken.ipynb").write_bytes(b"\xff\xfe no JSON")
    (pages / "iteration_05_old.ipynb").write_text('{"nbformat": 3, "worksheets": []}')
    (pages / "iteration_06_folder.ipynb").mkdir()
    done = mnist_lib("status", root=copy)
    assert done.returncode == 0, done.stderr
    for name in ("iteration_04_broken", "iteration_05_old"):
        assert f"{name}: not published: {pages / name}.ipynb: not a notebook: " in done.stdout
    name = "iteration_06_folder"
    assert f"{name}: not published: {pages / name}.ipynb: cannot be read: Is a directory" in done.stdout
    assert "its format is 3, expected 4" in done.stdout
    assert "iteration_01_setup: \n" in done.stdout
    assert "backprop_derivation: \n" in done.stdout and "it says" in done.stdout  # other ids than published
    ran = mnist_lib("run", "[bi]*", root=copy)
    assert (
        "iteration_04_broken.ipynb is left out: " in ran.stdout
        and "backprop_derivation: done" in ran.stderr + ran.stdout
    )
    assert "AttributeError" not in done.stdout + ran.stdout + ran.stderr


def test_clean_repairs_an_older_notebook_in_the_same_way_every_time(copy):
    path = copy / "notebooks" / "your_network.ipynb"
    (notebook := json.loads(path.read_text("utf-8")))["metadata"]["language_info"]["file_extension"] = ".py"
    path.write_text(json.dumps(notebook), "utf-8")
    repaired = []
    for _ in range(2):
        older(path)
        assert mnist_lib("clean", str(path), root=copy).stdout == f"cleaned {path}\n"
        repaired.append(path.read_bytes())
    assert repaired[0] == repaired[1]
    content = json.loads(repaired[0])
    assert content["nbformat_minor"] == 5 and len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    nbformat.validate(content)
    assert forked.python("-m", "nbconvert", "--to", "script", path, cwd=copy).returncode == 0
    assert path.with_suffix(".py").exists()
    content["cells"][3].pop("id")  # one is missing, as after an edit by hand
    path.write_text(json.dumps(content), "utf-8")
    mnist_lib("clean", str(path), root=copy)
    assert path.read_bytes() == repaired[0]


def test_a_book_without_a_rehearsal_says_what_to_do(copy):
    done = mnist_lib("book", "--quick", root=copy)
    assert done.returncode == 1
    assert "make it by `mnist-lib quick`" in done.stderr


@pytest.mark.parametrize("wrong", ["nonsense", "https://github.com/alice", "https://gitlab.example.org/a/b"])
def test_an_address_that_pages_could_not_use_is_refused(copy, wrong):
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace("https://github.com/OWNER/mnist-report", wrong))
    before = (copy / "README.md").read_text()
    done = copy_address(copy)
    assert done.returncode == 1
    assert f"Repository = {wrong!r}: expected https://github.com/<owner>/<name>" in done.stderr
    assert (copy / "README.md").read_text() == before


def test_only_addresses_are_changed(copy):
    """Not what looks like one, such as letters in a picture; and a copied address may end in .git."""
    project, readme = copy / "pyproject.toml", copy / "README.md"
    readme.write_text("aGVsbG8OWNER/mnist-reportbG8 https://github.com/OWNER/mnist-report, OWNER/mnist-report2")
    project.write_text(project.read_text().replace("OWNER/mnist-report", "alice/digits.git"))
    assert copy_address(copy).returncode == 0
    assert readme.read_text() == "aGVsbG8OWNER/mnist-reportbG8 https://github.com/alice/digits, OWNER/mnist-report2"


def test_the_picture_is_written_only_when_it_changed(copy, monkeypatch):
    monkeypatch.setattr(book, "ROOT", copy)
    book.save_picture()
    monkeypatch.setattr(files, "write_atomically", lambda *_: pytest.fail("written again"))
    book.save_picture()


def test_a_pattern_that_matches_nothing_names_what_there_is():
    done = mnist_lib("status", "iteration_77*")
    assert done.returncode == 1
    assert "no notebook matches 'iteration_77*'; there are: " in done.stderr
    assert "introduction, iteration_01_setup" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_device_is_refused_before_training(copy):
    done = mnist_lib("train", "iteration_02*", "--seeds", "0", "--device", "cuda:99", root=copy)
    assert done.returncode == 1
    assert "there is no such device on this machine; auto would use" in done.stderr
    assert not list((copy / "book").rglob("seed_*"))


def test_a_workbook_is_written(tmp_path):
    path = tmp_path / "two.xlsx"
    done = mnist_lib("workbook", str(path), "--learning-rates", "0.1,3")
    assert (done.returncode, done.stdout) == (0, f"wrote {path}\n"), done.stderr
    assert openpyxl.load_workbook(path).sheetnames[3:] == ["η 0.1", "η 3"]
    done = mnist_lib("workbook", str(path), "--learning-rates", "0.1;3")
    assert done.returncode == 2
    assert "'0.1;3': write learning rates as 0.1,0.5" in done.stderr
    done = mnist_lib("workbook", str(tmp_path / "book.xls"))
    assert done.returncode == 1
    assert "book.xls: the name of a workbook must end in .xlsx" in done.stderr
    assert "Traceback" not in done.stderr


def test_clean_strips_what_chance_left(copy):
    path = copy / "notebooks" / "iteration_01_setup.ipynb"
    before = path.read_text()
    notebook = nbformat.reads(before, as_version=4)
    notebook.metadata["papermill"] = {"duration": 3.2}
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "2020-01-01"}
    nbformat.write(notebook, path)
    assert mnist_lib("clean", str(path), root=copy).stdout == f"cleaned {path}\n"
    assert path.read_text() == before
    assert mnist_lib("clean", str(path), root=copy).stdout == ""


def test_the_address_is_copied_everywhere(copy):
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace("OWNER/mnist-report", "somebody/their-report"))
    done = copy_address(copy)
    assert done.returncode == 0, done.stderr
    assert "changed" in done.stdout
    texts = [path.read_text("utf-8") for path in copy.rglob("*") if path.suffix in {".md", ".yml", ".cff", ".ipynb"}]
    assert not any("OWNER/mnist-report" in text for text in texts)
    assert sum("somebody/their-report" in text for text in texts) > 12
    assert copy_address(copy).stdout == ""


def test_another_address_makes_no_notebook_stale(copy):
    """Whoever publishes the report writes an address first; that needs no data. Numbers in a name are none in prose."""
    shutil.copytree(ROOT / "book" / "records", copy / "book" / "records")
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace("OWNER/mnist-report", "team42/report-2.0"))
    assert copy_address(copy).returncode == 0
    assert mnist_lib("status", root=copy).stdout.splitlines()[-1] == "0 stale"


def test_an_address_that_was_half_copied_is_copied_by_the_next_call(copy, monkeypatch):
    project, settings = copy / "pyproject.toml", copy / "_config.yml"
    project.write_text(project.read_text().replace("OWNER/mnist-report", "somebody/their-report"))
    monkeypatch.setattr(address, "ROOT", copy)
    changed = address.copy_address()
    assert changed[-1] == settings
    for path in changed[3:]:
        path.write_text(path.read_text("utf-8").replace("somebody/their-report", "OWNER/mnist-report"), "utf-8")
    assert address.copy_address() == changed[3:]


def test_the_digest_of_the_sources_does_not_depend_on_where_they_lie(copy):
    """A checkout may lie below a folder whose name means something inside it."""
    there = copy / "records" / "report"
    shutil.copytree(copy / "notebooks", there / "notebooks")
    (there / "README.md").write_text("one")
    before = book.sources_digest(there)
    (there / "README.md").write_text("two")
    assert book.sources_digest(there) != before
    (there / "book" / "records").mkdir(parents=True)
    shutil.copy(there / "README.md", there / "book" / "records")
    (there / "README.md").write_text("one")
    assert book.sources_digest(there) == before


def test_a_duplicated_notebook_is_no_page_of_the_book(tmp_path):
    """The contents list iterations by a pattern."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source / "book", source / "notebooks", target):
        folder.mkdir(parents=True)
    (source / "_config.yml").write_text("title: x\nexecute:\n  execute_notebooks: 'off'\n", "utf-8")
    (source / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- glob: notebooks/iteration_*\n", "utf-8"
    )
    (source / "index.md").write_text("# Report", "utf-8")
    cells = [nbformat.v4.new_code_cell('name: str = "iteration_01"', metadata={"tags": ["parameters"]})]
    cells.insert(0, nbformat.v4.new_markdown_cell("# Iteration 1"))
    for name in ("iteration_01", "iteration_01 copy", "iteration_01-Copy1"):
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
        nbformat.write(notebook, source / "notebooks" / f"{name}.ipynb")
    assert book.run_sphinx(source, target, "html") == 0
    assert [path.name for path in target.glob("_build/html/notebooks/*.html")] == ["iteration_01.html"]


def test_of_two_builds_the_second_waits(tmp_path, monkeypatch):
    inside, together = [], []

    def run_sphinx(*_) -> int:
        inside.append(1)
        time.sleep(0.2)
        together.append(len(inside))
        inside.pop()
        return 1  # a book that was not built: so the next one has something to do

    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "run_sphinx", run_sphinx)
    threads = [threading.Thread(target=book.build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]


def test_of_two_rehearsals_the_second_waits(tmp_path, monkeypatch):
    """It would delete the pages of the first."""
    inside, together = [], []

    def execute(*_) -> int:
        inside.append(1)
        time.sleep(0.2)
        together.append(len(inside))
        inside.pop()
        return 0

    monkeypatch.setenv("MNIST_LIB_RUNS", str(tmp_path))
    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "prepare_quick", lambda: tmp_path)
    monkeypatch.setattr(workers, "execute", execute)
    threads = [threading.Thread(target=cli.main, args=(["quick", "introduction"],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]


def test_a_book_that_cannot_be_replaced_is_not_said_to_be_built(tmp_path, monkeypatch, capsys):
    """Such as a mount, or a folder of another user's: the old one stays, and is never taken for the new one."""
    made = []

    def run_sphinx(source: Path, target: Path, builder: str) -> int:
        made.append(target)
        (target / "_build" / "html").mkdir(parents=True)
        (target / "_build" / "html" / "index.html").write_text(f"book {len(made)}")
        return 0

    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "run_sphinx", run_sphinx)
    index = tmp_path / "_build" / "html" / "index.html"
    assert (book.build(), index.read_text()) == (0, "book 1")
    (tmp_path / "README.md").write_text("changed")
    with monkeypatch.context() as patch:

        def busy(self: Path, _: Path) -> None:
            raise OSError(16, "Device or resource busy", str(self))

        patch.setattr(Path, "rename", busy)
        for _ in range(2):
            capsys.readouterr()
            assert (book.build(), index.read_text()) == (1, "book 1")
            said = capsys.readouterr()
            assert "cannot be replaced and is as it was" in said.err and "busy" in said.err and not said.out
    assert (book.build(), index.read_text()) == (0, "book 4")
    assert "built" in capsys.readouterr().out
    assert book.build() == 0 and "the book is current" in capsys.readouterr().out
    index.unlink()
    assert (book.build(), index.read_text()) == (0, "book 5"), "a page that is missing is made again"
    index.unlink()
    for is_here, said in ((False, "book 6"), (False, "book 6"), (True, "book 7"), (True, "book 7"), (False, "book 7")):
        monkeypatch.setattr(data, "have_mnist", lambda is_here=is_here: is_here)
        assert (book.build(), index.read_text()) == (0, said), "once more when MNIST has come, which a page shows"
    assert [path.name for path in (tmp_path / "_build").iterdir() if path.suffix != ".lock"] == ["html"]


def test_a_book_is_not_compiled_of_altered_pages_or_damaged_weights(tmp_path, monkeypatch, capsys):
    name = "iteration_02_light_skeleton"
    shutil.copytree(experiments.published_records() / name, tmp_path / "book" / "records" / name)
    shutil.copy(ROOT / "book" / "_toc.yml", tmp_path / "book")
    (tmp_path / "notebooks").mkdir()
    page = tmp_path / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(ROOT / "notebooks" / page.name, as_version=4)
    notebook.metadata["mnist_lib"] |= staleness.current_digests(ROOT / "notebooks" / page.name)
    nbformat.write(notebook, page)
    monkeypatch.setattr(experiments, "root", lambda: tmp_path)
    monkeypatch.setattr(book, "ROOT", tmp_path)
    assert book.untrue() == []
    output = next(
        each for cell in notebook.cells for each in cell.get("outputs", ()) if "text/html" in each.get("data", {})
    )
    output.data["text/html"] += "<p>99.99 %</p>"
    nbformat.write(notebook, page)
    weights = tmp_path / "book" / "records" / name / "seed_1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert book.run_sphinx(tmp_path, tmp_path, "html") == 1
    altered, damaged = capsys.readouterr().err.splitlines()
    assert altered.startswith(f"{name}.ipynb: its outputs are not those of its execution; `git restore`")
    assert "seed_1.safetensors: damaged" in damaged and "`git restore book/records`" in damaged
    notebook.metadata["mnist_lib"] = {"cells": ""}
    nbformat.write(notebook, page)
    assert "it was executed by another version of the library" in book.untrue()[0]
    del notebook.metadata["mnist_lib"]
    nbformat.write(notebook, page)
    assert "it has outputs, and no execution has noted them" in book.untrue()[0]
    notebook.cells[0].metadata["tags"] = ["injected-parameters"]
    nbformat.write(notebook, page)
    assert "it is what papermill wrote" in book.untrue()[0]


def test_a_book_is_not_compiled_of_edited_code_or_of_what_can_not_be_read(tmp_path, monkeypatch):
    """A copy under another name, and a damaged file that no page of the contents is, are left out of it anyway."""
    source, notebooks = ROOT / "notebooks" / "introduction.ipynb", tmp_path / "notebooks"
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata["mnist_lib"] |= staleness.current_digests(source)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text(
        "root: notebooks/introduction\nchapters:\n- glob: notebooks/reported_*\n"
    )
    notebooks.mkdir()
    monkeypatch.setattr(experiments, "root", lambda: tmp_path)
    monkeypatch.setattr(book, "ROOT", tmp_path)
    for name in ("introduction", "introduction-Copy1", "reported_a-Copy1"):
        nbformat.write(notebook, notebooks / f"{name}.ipynb")
    (notebooks / "mine.ipynb").write_text("{")
    assert book.untrue() == []
    notebook.cells[-1].source += "\n"
    code = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    code.source += "\nseeds = 99"
    nbformat.write(notebook, notebooks / "introduction.ipynb")
    (notebooks / "reported_b.ipynb").write_text("{")
    edited, damaged = book.untrue()
    assert edited.startswith("introduction.ipynb: its cells changed; `git restore` it, or execute it again")
    assert "reported_b.ipynb: not a notebook: " in damaged and damaged.endswith("; `git restore` it")
    (notebooks / "introduction.ipynb").write_text("{")
    assert "introduction.ipynb: not a notebook: " in book.untrue()[0], "the root of the contents is a page, too"


def test_a_notebook_elsewhere_is_not_taken_for_the_published_one(tmp_path):
    path = shutil.copy(ROOT / "notebooks" / "introduction.ipynb", tmp_path)
    done = mnist_lib("run", path, "--force")
    assert done.returncode == 1
    assert f"no notebook matches {path!r}" in done.stderr
    assert mnist_lib("status", "notebooks/introduction.ipynb").returncode == 0


def test_a_file_that_is_missing_is_told_without_a_traceback():
    done = mnist_lib("clean", "nowhere.ipynb")
    assert done.returncode == 1
    assert "nowhere.ipynb" in done.stderr and "Traceback" not in done.stderr


def test_where_nobody_reads_on_a_command_ends_well():
    """As behind `| head`, which has read enough."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mnist_lib.cli", "runs", "--csv", "of_nobody"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_seeds_without_a_record_are_not_said_to_hold():
    done = mnist_lib("verify", "iteration_01_setup", "--full", "77")
    assert done.returncode == 1
    assert "no record of seed 77 belongs to iteration_01_setup" in done.stderr
    done = mnist_lib("verify", "iteration_01_setup", "--full", "0", "--accept")
    assert done.returncode == 2 and "not allowed with argument" in done.stderr
    done = mnist_lib("verify", "backprop_derivation")
    assert done.returncode == 1 and "no record belongs to backprop_derivation" in done.stderr


def test_a_rehearsal_begun_anew_keeps_the_runs_of_the_last(copy, monkeypatch):
    monkeypatch.setattr(book, "ROOT", copy)
    shutil.copytree(ROOT / "deploy", copy / "deploy")
    for old in ("runs", "html"):
        (copy / "_build" / "quick" / old).mkdir(parents=True)
    assert book.prepare_quick() == copy / "_build" / "quick"
    assert {path.name for path in (copy / "_build" / "quick").iterdir()} == {
        *("runs", "book", "deploy", "README.md", "_config.yml")
    }
