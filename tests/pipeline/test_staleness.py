"""What is stale after an edit: exactly what the edit can have changed. Each test edits a copy of the report."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lib.pipeline import catalogue
from support import ROOT, edit

ITERATIONS = sorted(path.stem for path in (ROOT / "notebooks").glob("iteration_??_*.ipynb"))
ALL = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
SUMMARIES = {"introduction", "iterations_compared", "public_reports"}
TRAINING = {path.stem for path in catalogue.find() if catalogue.published_runs(path)}


@pytest.fixture
def copy(tmp_path):
    target = tmp_path / "report"
    shutil.copytree(ROOT / "mnist_lib", target / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks", target / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "book" / "records", target / "book" / "records")
    return target


def mnist_lib(copy: Path, *arguments: str) -> str:
    """What a command of the copy's own library prints."""
    environment = os.environ | {"PYTHONPATH": str(copy), "MNIST_LIB_RUNS": str(copy / "runs")}
    command = [sys.executable, "-m", "mnist_lib.cli", *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def stale(copy: Path) -> tuple[set[str], set[str]]:
    """The notebooks whose records are stale, and those whose outputs are."""
    found: dict[str, set[str]] = {"record": set(), "outputs": set()}
    name = ""
    for line in mnist_lib(copy, "status").splitlines():
        if line.startswith("  "):
            found[line.split()[0].rstrip(":")].add(name)
        else:
            name = line.partition(":")[0]
    return found["record"], found["outputs"]


def test_nothing_is_stale_in_a_fresh_copy_whatever_its_times(copy):
    for path in copy.rglob("*"):
        os.utime(path, (random.randrange(10**9), random.randrange(10**9)))
    assert stale(copy) == (set(), set())


def test_comments_and_docstrings_do_not_count(copy):
    edit(copy / "mnist_lib" / "training.py", '"""The training loop', '# A comment.\n"""A training loop')
    edit(copy / "mnist_lib" / "results" / "statistics.py", '"""Means and differences', '"""Differences and means')
    assert stale(copy) == (set(), set())


def test_a_network_makes_its_own_records_stale_and_the_pages_that_read_them(copy):
    edit(copy / "mnist_lib" / "models.py", "*conv_relu_bn(14, 14),  # 14 × 6 × 6", "*conv_bn(14, 14),  # 14 × 6 × 6")
    by_network = set(ITERATIONS[5:7])  # deep_dropout comes first in the file
    assert stale(copy) == (by_network, by_network | {ITERATIONS[7]} | SUMMARIES)


def test_the_training_loop_makes_all_records_stale(copy):
    edit(copy / "mnist_lib" / "training.py", "optimizer.zero_grad(set_to_none=True)", "optimizer.zero_grad()")
    assert stale(copy)[0] == TRAINING


def test_a_parameter_makes_one_notebooks_records_stale(copy):
    edit(copy / "notebooks" / f"{ITERATIONS[2]}.ipynb", "learning_rate: float = 0.01", "learning_rate: float = 0.02")
    assert stale(copy) == ({ITERATIONS[2]}, {*ITERATIONS[2:4]} | SUMMARIES)


def test_a_record_makes_the_pages_that_read_it_stale(copy):
    path = copy / "book" / "records" / ITERATIONS[4] / "seed_0.json"
    content = json.loads(path.read_text())
    content["history"]["test_correct"][-1] -= 1
    path.write_text(json.dumps(content))
    assert stale(copy) == (set(), {*ITERATIONS[4:6]} | SUMMARIES)


def test_statistics_make_pages_stale_and_no_records(copy):
    edit(copy / "mnist_lib" / "results" / "statistics.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.99")
    assert stale(copy) == (set(), ALL - {"backprop_derivation"})  # which shows no runs


def test_the_code_that_reads_the_images_makes_pages_stale(copy):
    edit(copy / "mnist_lib" / "data.py", '"mnist": 10_000', '"mnist": 5_000')
    assert stale(copy) == (set(), ALL)


def test_the_page_of_an_interactive_figure_makes_the_notebook_stale_that_shows_it(copy):
    edit(copy / "mnist_lib" / "backprop" / "slider.html", "It never rises.", "It does not rise.")
    assert stale(copy) == (set(), {"learning_rate_sweep"})


def test_run_does_what_is_needed_and_no_more(copy):
    """A report of two small experiments: trained and executed once, then only what was edited."""
    for path in (copy / "notebooks").glob("*.ipynb"):
        if path.stem not in ITERATIONS[:2]:
            path.unlink()
    shutil.rmtree(copy / "book" / "records")
    for name in ITERATIONS[:2]:
        path = copy / "notebooks" / f"{name}.ipynb"
        edit(path, 'dataset: str = \\"mnist\\"', 'dataset: str = \\"digits\\"')
        edit(path, "epochs: int = 15", "epochs: int = 1")
        edit(path, "seeds: int = ", "seeds: int = 1  # ")

    first = mnist_lib(copy, "run", "--workers", "2")
    assert "2 runs have no current record" in first
    assert all(f"{name}: done" in first for name in ITERATIONS[:2])
    assert len(list((copy / "book" / "records").rglob("seed_0.json"))) == 2
    assert "no notebook to do" in mnist_lib(copy, "run")

    edit(copy / "notebooks" / f"{ITERATIONS[1]}.ipynb", "tables.seeds_table(runs)", "tables.seeds_table(runs[:1])")
    second = mnist_lib(copy, "run")
    assert "have no current record" not in second
    assert f"{ITERATIONS[1]}: done" in second
    assert f"{ITERATIONS[0]}: done" not in second
