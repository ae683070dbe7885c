"""The pages' prose: its numbers are computed where they stand, and what a reader sees is the same everywhere.

On GitHub, in Colab, in JupyterLab and in the book: so no notebook holds what only the book understands.
"""

import ast
import dataclasses
import inspect
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import nbformat
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from scipy.stats import t as student

from mnist_lib import data, experiments, records
from mnist_lib.parameters import NotebookParameters, Recipe
from mnist_lib.pipeline import catalogue, verification
from mnist_lib.results import sentences
from mnist_lib.results.claims import REPORTS
from mnist_lib.results.target import TASK_ACCURACY, TASK_PARAMETERS
from support import ROOT

BOOK_ONLY = re.compile(
    r"""
    \{[\w:+.-]+\}`              # a role, {glue:text}`accuracy`
    | ^\s*(`{3,}|~{3,}|:{3,})\s*\{   # a directive, ```{figure}
    | ^\s*:{3,}                 # a fence of colons
    | ^\(.+\)=\s*$              # a target, (receptive-fields)=
    | ^\+\+\+                   # a break between cells
    """,
    re.VERBOSE | re.MULTILINE,
)
"""What only the book understands; elsewhere it stands raw."""

NOT_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|https?://\S+", re.DOTALL)
DECIMAL = re.compile(r"(?<![\w.,])\d+\.\d+")

TYPED = {
    "backprop_derivation": {
        "0.25",  # the largest slope of the sigmoid
        *("0.35", "0.60", "0.298371109", "0.149780716", "0.35891648", "0.291027924"),  # a published example
    },
    "first_weights": {"0.03"},  # a rate to try
    "iteration_07_small_batch": {"0.08"},  # the standard error of a share of 10,000 images, on the page on the method
}
"""Decimal numbers that Markdown may hold although no code does: mathematics, and quotations from other works."""

FREE = {0, 1}
"""The numbers that a cell of prose may hold as they are; subscripts besides."""

by_name = pytest.mark.parametrize(
    "path", sorted((experiments.root() / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)


def is_prose(cell: nbformat.NotebookNode) -> bool:
    return "prose" in cell.metadata.get("tags", ())


def pieces(text: str) -> list[str]:
    """Prose in pieces that a message can quote."""
    return re.split(r"(?<=[.:?])\s+|\n\n", text)


def markdown(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """The Markdown that the cells have put out."""
    found = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    return ["".join(data["text/markdown"]) for data in found if "text/markdown" in data]


def strings(tree: ast.AST) -> Iterator[str]:
    """The texts in code, f-strings with … for what is computed; not what says how a number is written."""
    parts = {id(part) for each in ast.walk(tree) if isinstance(each, ast.JoinedStr) for part in each.values}
    formats = [each.format_spec for each in ast.walk(tree) if isinstance(each, ast.FormattedValue)]
    parts |= {id(node) for each in formats if each is not None for node in ast.walk(each)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in parts:
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def numbers(tree: ast.AST) -> list[float]:
    """The numeric constants in code that are no subscript."""
    subscripts = {id(n) for each in ast.walk(tree) if isinstance(each, ast.Subscript) for n in ast.walk(each.slice)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in subscripts]
    return [node.value for node in constants if type(node.value) in (int, float)]


def chosen(notebook: nbformat.NotebookNode) -> set[float]:
    """The numbers in a page's code, but for its prose: what was chosen, such as parameters, and not found."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not is_prose(cell)]
    sources = [cell.source for cell in code if "%pip" not in cell.source]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return {float(n.value) for n in nodes if isinstance(n, ast.Constant) and type(n.value) in (int, float)}


def typed_in(text: str) -> list[str]:
    return [number for number in DECIMAL.findall(NOT_PROSE.sub("…", text)) if float(number) != TASK_ACCURACY]


@by_name
def test_nothing_is_written_that_only_the_book_understands(path):
    notebook = nbformat.read(path, as_version=4)
    computed = [text for cell in notebook.cells if is_prose(cell) for text in strings(ast.parse(cell.source))]
    for text in (*markdown(notebook), *computed, *outputs(notebook)):
        found = BOOK_ONLY.search(re.sub(r"``.*?``", "", text))
        assert found is None, f"{path.name}: {found[0]!r} in {text[:200]!r}"


@by_name
def test_no_result_is_typed_in_markdown(path):
    """A decimal number in a sentence is in the page's code, or a public report's; a result is computed."""
    notebook = nbformat.read(path, as_version=4)
    claims = [claim.value for report in REPORTS.values() if report.notebook == path.stem for claim in report.claims]
    allowed = {*claims, *chosen(notebook), *map(float, TYPED.get(path.stem, ()))}
    typed = [
        f"{path.name}: {number} is typed; compute it, or say in TYPED where it is from: {sentence!r}"
        for text in markdown(notebook)
        for sentence in pieces(text)
        for number in typed_in(sentence)
        if float(number) not in allowed
    ]
    assert not typed, "\n".join(typed)


@by_name
def test_no_number_is_typed_in_a_cell_of_prose(path):
    """Neither in its sentences nor in its code: whoever changes a parameter would read the old one."""
    for cell in filter(is_prose, nbformat.read(path, as_version=4).cells):
        tree = ast.parse(cell.source)
        typed = [f"{number} in {text.strip()[:200]!r}" for text in strings(tree) for number in typed_in(text)]
        typed += [f"{number} in the code" for number in numbers(tree) if number not in FREE]
        assert not typed, f"{path.name}, {cell.source.splitlines()[0]!r}: typed: {'; '.join(typed)}"


@by_name
def test_a_cell_of_prose_says_what_it_says_and_has_said_it(path):
    """Its first line is what Colab and JupyterLab show where it is folded."""
    for cell in filter(is_prose, nbformat.read(path, as_version=4).cells):
        assert cell.source.startswith("# @title "), cell.source[:80]
        assert "sentences.prose(" in cell.source
        assert cell.metadata["tags"] == ["prose"]
        assert all("text/markdown" in output.get("data", {}) for output in cell.outputs), cell.source[:80]


@pytest.mark.parametrize("kind", ["iteration_", "reported_"])
def test_at_most_a_quarter_of_what_a_page_says_stands_on_three_pages_or_more(kind):
    """By words, in whole sentences; pages that teach say something of their own."""
    said = {}
    for path in catalogue.find():
        notebook = catalogue.read(path)
        texts = [NOT_PROSE.sub("", text) for text in (*markdown(notebook), *outputs(notebook))]
        said[path.stem] = [" ".join(each.split()) for text in texts for each in pieces(text) if each.strip()]
    pages = Counter(each for sentences in said.values() for each in set(sentences))
    for name in (name for name in said if name.startswith(kind)):
        words, common = (sum(len(each.split()) for each in said[name] if pages[each] > least) for least in (0, 2))
        assert common <= words / 4, f"{name}: {common} of {words} words"


def test_no_sentence_of_the_library_holds_a_typed_number():
    """Docstrings quote some."""
    tree = ast.parse(inspect.getsource(sentences))
    quoting = {node.value.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and is_text(node.value)}
    assert not [text for text in strings(tree) if text not in quoting and typed_in(text)]


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('f"{mean:.2f} % after {len(runs)} epochs"', []),
        ('f"99.47 % after {epochs}"', ["99.47"]),
        ('f"see [LeCun](https://doi.org/10.1109/5.72), `0.25`, $0.5$"', []),
        ("f\"{f'{low:.1f} or 2.5'}\"", ["2.5"]),
        ('"plain 3.14"', ["3.14"]),
        ("runs[:5], runs[0], 1 - 0", []),
        ("99.47, 100 * x", [99.47, 100]),
    ],
)
def test_what_is_typed_is_found(cell, found):
    tree = ast.parse(cell)
    assert [n for text in strings(tree) for n in typed_in(text)] + [n for n in numbers(tree) if n not in FREE] == found


@pytest.mark.parametrize(
    "text", ["{glue:text}`a:.2f`", "{cite}`lecun`", "```{figure} a.png", ":::{note}", "a\n(target)=\n", "{math}`x`"]
)
def test_what_only_the_book_understands_is_found(text):
    assert BOOK_ONLY.search(text)


@pytest.mark.parametrize("text", ["`x`", "$\\frac{1}{2}$ `y`", "```python\na\n```", "f(x) = 2", "(a) = b", "{1, 2}"])
def test_what_is_understood_everywhere_is_not_found(text):
    assert not BOOK_ONLY.search(text)


# -- pages that nothing executes

LONG_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)+(?!\w)")
"""A number with a decimal point or with thousands."""

DATED = {
    "how_tested": ({"1,194", "2.15", "3.8.1"}, "2026-11-21"),
    "many_runs": ({"22.05", "2026.3"}, "Debian's SLURM 22.05"),
}
"""Numbers that somebody measured or looked up, by page, and what beside them says when, or of what."""

IMAGES = ("60,000", "50,000", "10,000")


def sizes() -> list[int]:
    """The parameters of the first and of the last iteration."""
    folder = experiments.published_records()
    found = sorted(path for path in folder.glob("iteration_*") if path.is_dir())
    return [records.read(records.record_path(each, 0)).parameter_count for each in (found[0], found[-1])]


def best_of(epochs: int) -> str:
    """How far the largest of so many numbers from the standard normal distribution lies above their mean."""
    mean, _ = quad(lambda x: x * epochs * norm.pdf(x) * norm.cdf(x) ** (epochs - 1), -10, 10)
    return f"{mean:.2f}"


def computed() -> dict[str, set[str]]:
    """What the long numbers are that a page of prose may hold, by page; each is computed here, but for data sets."""
    largest, smallest = sizes()
    assert smallest < 8_000
    digits = f"{sum(map(len, data.load('digits'))):,}"
    share = 0.994
    error = f"{100 * math.sqrt(share * (1 - share) / 10_000):.3f}"
    recipe, bounds = Recipe(), {f.name: f.metadata for f in dataclasses.fields(NotebookParameters)}
    return {
        "README": {f"{largest:,}", "8,000", digits, "3.11", f"{TASK_ACCURACY:g}", f"{TASK_PARAMETERS:,}"},
        "compare": {"10,000"},
        "how_tested": {"1.5", "1,500"},  # two limits, which tests hold
        "many_runs": {"1.2"},
        "speed": {"60,000"},
        "method": {*IMAGES, digits, str(recipe.momentum), str(recipe.learning_rate)}
        | {f"{student.ppf(0.975, 4):.2f}", f"{norm.ppf(0.975):.2f}", best_of(5), best_of(15)}
        | {
            f"{100 * share:g}",
            error,
            "0.07",
            "99.46",
            "99.40",
            f"{100 * verification.SURE:g}",
            f"{1 / verification.LEAST:,.0f}",
        },
        "reproduce": {"3.11", "1,000", "60,000"}
        | {f"{bounds[name]['high']:g}" for name in ("momentum", "warm_up", "average_decay")}
        | {f"{bounds['temperature']['low']:g}"},
    }


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))], ids=lambda path: path.stem
)
def test_a_number_on_a_page_of_prose_is_computed_or_dated(path):
    """Whoever alters one, or measures anew, finds the page."""
    if path.stem == "changelog":
        return
    text = path.read_text("utf-8")
    dated, date = DATED.get(path.stem, (set(), ""))
    assert date in text
    found = set(LONG_NUMBER.findall(NOT_PROSE.sub("…", text)))
    assert found == computed().get(path.stem, set()) | dated


def test_the_mutants_are_counted_right():
    """Those that were killed and those that survived are all."""
    text = (ROOT / "book" / "how_tested.md").read_text("utf-8")
    rows = re.findall(r"^\| `\w+\.py`(?:, [a-z ]+)? \| (\d+) \| (\d+) \| (\d+):", text, re.MULTILINE)
    assert len(rows) == 40
    assert all(int(mutants) == int(killed) + int(survived) for mutants, killed, survived in rows)


def test_two_runs_of_iteration_10_differ_on_about_as_many_images_as_the_method_says():
    folder = experiments.published_records() / "iteration_10_one_cycle"
    runs = [records.read(records.record_path(folder, seed)) for seed in records.published_seeds(folder)]
    wrong = [{index for index, _, _ in run.misclassified} for run in runs]
    differing = statistics.fmean(len(one ^ other) for one, other in combinations(wrong, 2))
    text = (experiments.root() / "book" / "method.md").read_text("utf-8")
    assert "differ in this way on about fifty images, which makes 0.07 points" in text
    assert 45 < differing < 60
    assert f"{100 * math.sqrt(differing) / 10_000:.2f}" == "0.07"
