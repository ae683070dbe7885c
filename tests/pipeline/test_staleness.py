"""What is stale after an edit: exactly what the edit can have changed. Each test edits a copy of the report."""

import json
import os
import random
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

import nbformat
import pytest

from mnist_lib.cells import notebook_parameters
from mnist_lib.experiments import CHANGED
from mnist_lib.pipeline import catalogue, execution, staleness
from support import ROOT, edit, mnist_lib, sealed

ITERATIONS = sorted(path.stem for path in (ROOT / "notebooks").glob("iteration_??_*.ipynb"))
ALL = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
SUMMARIES = {"introduction", "iterations_compared", "public_reports"}
TRAINING = {path.stem for path in catalogue.find() if catalogue.published_runs(path)}


def beside(name: str) -> set[str]:
    """The pages that show the runs of a notebook beside their own."""
    patterns = {path.stem: notebook_parameters(path).get("beside", ()) for path in catalogue.find()}
    return {
        page for page, shown in patterns.items() if any(fnmatchcase(name, each.partition("/")[0]) for each in shown)
    }


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """The report as if all pages had just been executed: whether the published ones are current is no matter here."""
    target = tmp_path_factory.mktemp("executed") / "report"
    shutil.copytree(ROOT / "mnist_lib", target / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "records", target / "book" / "records")
    (target / "notebooks").mkdir()
    for path in catalogue.find():
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["mnist_lib"] = staleness.current_digests(path) | {staleness.CPU: []}
        (target / "notebooks" / path.name).write_text(execution.to_text(notebook), "utf-8")
    return target


@pytest.fixture
def copy(executed, tmp_path):
    return Path(shutil.copytree(executed, tmp_path / "report"))


def status(copy: Path) -> str:
    done = mnist_lib("status", root=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stale(copy: Path) -> tuple[set[str], set[str]]:
    return stale_in(status(copy))


def stale_in(said: str) -> tuple[set[str], set[str]]:
    """The notebooks whose records are stale, and those whose outputs are."""
    found: dict[str, set[str]] = {"record": set(), "outputs": set()}
    name = ""
    for line in said.splitlines():
        if line.startswith("  "):
            found[line.split()[0].rstrip(":")].add(name)
        else:
            name = line.partition(":")[0]
    return found["record"], found["outputs"]


def test_times_comments_and_docstrings_do_not_count(copy):
    edit(copy / "mnist_lib" / "training.py", '"""The training loop', '# A comment.\n"""A training loop')
    edit(copy / "mnist_lib" / "results" / "statistics.py", '"""Means and differences', '"""Differences and means')
    for path in copy.rglob("*"):
        os.utime(path, (random.randrange(10**9), random.randrange(10**9)))
    assert stale(copy) == (set(), set())


def test_a_network_and_a_parameter_make_their_own_records_stale_and_the_pages_that_read_them(copy):
    network, parameter = ITERATIONS[5], ITERATIONS[2]
    edit(copy / "notebooks" / f"{network}.ipynb", "*conv_relu_bn(14, 14),", "*conv_bn(14, 14),")
    edit(copy / "notebooks" / f"{parameter}.ipynb", "learning_rate: float = 0.01", "learning_rate: float = 0.02")
    pages = {*ITERATIONS[5:7], *ITERATIONS[2:4]} | SUMMARIES | beside(network) | beside(parameter)
    assert stale(copy) == ({network, parameter}, pages)


def test_a_block_makes_the_records_stale_of_the_networks_that_are_built_of_it(copy):
    edit(copy / "mnist_lib" / "blocks.py", "nn.BatchNorm2d(outputs), nn.ReLU()]", "nn.ReLU(), nn.BatchNorm2d(outputs)]")
    texts = {path.stem: path.read_text("utf-8") for path in catalogue.find()}
    built = {name for name, text in texts.items() if "conv_bn_relu(" in text}
    built |= {name for name, text in texts.items() if any(f": network {other}" in text for other in built)}  # variants
    stale_records, stale_pages = stale(copy)
    assert built and stale_records == built
    assert built | SUMMARIES <= stale_pages


def test_what_no_recipe_switches_on_makes_no_record_stale(copy):
    """Here, an optimizer that no iteration uses; a page may say something of it."""
    edit(copy / "mnist_lib" / "optimization.py", "betas=(0.9, 0.99)", "betas=(0.9, 0.999)")
    assert stale(copy)[0] == {path.stem for path in catalogue.find() if uses_adamw(path)}


def uses_adamw(path: Path) -> bool:
    return any(experiment.recipe.optimizer != "sgd" for experiment, _ in catalogue.published_runs(path))


def test_what_trains_makes_all_records_stale_and_is_no_part_of_a_pages_library(copy):
    """It counts through the records that it makes; where images lie, and how a recipe is checked, do not count."""
    edit(copy / "mnist_lib" / "training.py", "optimizer.zero_grad(set_to_none=True)", "optimizer.zero_grad()")
    edit(copy / "mnist_lib" / "training.py", "    weights: dict[str, torch.Tensor] | None = None,", "    weights=(),")
    edit(copy / "mnist_lib" / "data.py", "if len(folders) > 1 or", "if len(folders) >= 2 or")
    edit(copy / "mnist_lib" / "parameters.py", "self.is_augmented and self.epochs > 1", "self.epochs > 1")
    said = status(copy)
    assert stale_in(said)[0] == TRAINING
    assert CHANGED["code"] in said and "its library changed" not in said


def test_a_record_and_the_page_of_an_interactive_figure_make_the_notebooks_stale_that_show_them(copy):
    path = copy / "book" / "records" / ITERATIONS[4] / "seed_0.json"
    content = json.loads(path.read_text())
    content["history"]["train_correct"][-1] -= 1
    path.write_text(json.dumps(sealed(content)))
    path = copy / "book" / "records" / ITERATIONS[8] / "seed_0.json"
    content = json.loads(path.read_text())
    content["parameters"]["learning_rate"] *= 2  # its results are the same, but now they are another recipe's
    path.write_text(json.dumps(sealed(content)))
    edit(copy / "mnist_lib" / "backprop" / "slider.html", "It never rises.", "It does not rise.")
    # Whatever uses the module of the figure counts as showing it: the map of the loss in the chapter does.
    figure = {"backprop_derivation", "learning_rate_sweep"}
    shown = {*ITERATIONS[4:6], *ITERATIONS[8:10]} | beside(ITERATIONS[4]) | beside(ITERATIONS[8]) | SUMMARIES
    assert stale(copy) == ({ITERATIONS[8]}, shown | figure)


def test_statistics_make_pages_stale_and_no_records(copy):
    """Those that show an interval."""
    edit(copy / "mnist_lib" / "results" / "statistics.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.99")
    records, pages = stale(copy)
    assert records == set()
    assert {*ITERATIONS} | SUMMARIES <= pages <= ALL - {"backprop_derivation"}


def test_how_many_images_are_held_out_makes_the_records_stale_that_were_judged_on_them(copy):
    edit(copy / "mnist_lib" / "data.py", " 60_000, 10_000,", " 60_000, 5_000,")
    assert stale(copy)[0] == {path.stem for path in catalogue.find() if held_out(path)} != set()


def held_out(path: Path) -> bool:
    return any(experiment.recipe.evaluate_on == "validation" for experiment, _ in catalogue.published_runs(path))
