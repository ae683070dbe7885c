"""The numbers in the pages' prose: glued from the results; what is typed is an input, a quotation or mathematics."""

import ast
import math
import re
import statistics
from itertools import combinations
from pathlib import Path

import nbformat
import pytest

from mnist_lib import experiments, models, records, reported
from mnist_lib.results.claims import REPORTS
from mnist_lib.results.target import TASK_ACCURACY

GLUED = re.compile(r"\{glue:\w+\}`([^`:]+)")
NOT_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", re.DOTALL)
DECIMAL = re.compile(r"(?<![\w.,])\d+\.\d+")

TYPED = {
    "backprop_derivation": {
        "0.25",  # the largest slope of the sigmoid
        *("0.35", "0.60", "0.298371109", "0.149780716", "0.35891648", "0.291027924"),  # a published example
    },
    "iteration_07_small_batch": {"0.08"},  # the standard error of a share of 10,000 images, on the page on the method
}
"""Decimal numbers that a page may hold although its code does not: mathematics, and quotations from other works."""

by_name = pytest.mark.parametrize(
    "path", sorted((experiments.root() / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)


def sentences(notebook: nbformat.NotebookNode, leave_out: re.Pattern = re.compile("(?!)")) -> list[str]:
    """The prose in pieces that a message can quote."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.split(r"(?<=[.:?])\s+|\n\n", leave_out.sub("…", text))


def chosen(notebook: nbformat.NotebookNode) -> set[float]:
    """The numbers in the code of a page and of the networks: what was chosen, such as parameters, and not found."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "%pip" not in cell.source]
    sources += [Path(module.__file__).read_text("utf-8") for module in (models, reported)]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return {float(n.value) for n in nodes if isinstance(n, ast.Constant) and type(n.value) in (int, float)}


@by_name
def test_every_glued_number_is_there(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    there = {output.get("metadata", {}).get("scrapbook", {}).get("name") for output in outputs}
    missing = [
        f"{path.name}: nothing is glued under {name!r}: {sentence!r}"
        for sentence in sentences(notebook)
        for name in GLUED.findall(sentence)
        if name not in there
    ]
    assert not missing, "\n".join(missing)


@by_name
def test_no_result_is_typed(path):
    """A decimal number in a sentence is in the page's code, or a public report's; a result is glued."""
    notebook = nbformat.read(path, as_version=4)
    claims = [claim.value for report in REPORTS.values() if report.notebook == path.stem for claim in report.claims]
    allowed = {TASK_ACCURACY, *claims, *chosen(notebook), *map(float, TYPED.get(path.stem, ()))}
    typed = [
        f"{path.name}: {number} is typed; glue it, or say in TYPED where it is from: {sentence!r}"
        for sentence in sentences(notebook, NOT_PROSE)
        for number in DECIMAL.findall(sentence)
        if float(number) not in allowed
    ]
    assert not typed, "\n".join(typed)


def test_two_runs_of_iteration_10_differ_on_about_as_many_images_as_the_method_says():
    folder = experiments.published_records() / "iteration_10_one_cycle"
    runs = [records.read(records.record_path(folder, seed)) for seed in records.published_seeds(folder)]
    wrong = [{index for index, _, _ in run.misclassified} for run in runs]
    differing = statistics.fmean(len(one ^ other) for one, other in combinations(wrong, 2))
    text = (experiments.root() / "book" / "method.md").read_text("utf-8")
    assert "differ in this way on about fifty images, which makes 0.07 points" in text
    assert 45 < differing < 60
    assert f"{100 * math.sqrt(differing) / 10_000:.2f}" == "0.07"
