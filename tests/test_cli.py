"""The command line, used as a person would, in a copy of the report where it writes."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import openpyxl
import pytest

from mnist_lib import cli, experiment

ROOT = experiment.root()


def mnist_lib(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "mnist_lib.cli", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    for name in ("mnist_lib", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("records", "static_files"))
    for name in ("pyproject.toml", "_config.yml", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_help_names_every_command():
    done = mnist_lib("--help")
    assert done.returncode == 0
    for command in ("status", "train", "verify", "run", "quick", "book", "workbook", "clean", "address", "new"):
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize(("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("5", [5]), ("0,3,7-8", [0, 3, 7, 8])])
def test_seeds_are_read(text, seeds):
    assert cli._seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1-b", "1;2", "3-1"])
def test_other_seeds_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write seeds as 0-9 or 0,3,5"):
        cli._seeds(text)


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
    done = mnist_lib("address", root=copy)
    assert done.returncode == 0, done.stderr
    assert "changed" in done.stdout
    texts = [path.read_text("utf-8") for path in copy.rglob("*") if path.suffix in {".md", ".yml", ".cff", ".ipynb"}]
    assert not any("OWNER/mnist-report" in text for text in texts)
    assert sum("somebody/their-report" in text for text in texts) > 12
    assert mnist_lib("address", root=copy).stdout == ""
