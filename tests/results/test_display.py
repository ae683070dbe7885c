"""What notebooks show: tables, targets, figures with their words, numbers for the prose."""

import dataclasses
import io
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from bs4 import BeautifulSoup
from jupyter_client import manager
from markdown_it import MarkdownIt
from matplotlib.colors import to_rgb
from PIL import Image

from mnist_lib.base import progress
from mnist_lib.parameters import Recipe
from mnist_lib.records import Record
from mnist_lib.results import comparison, drawing, figures, page, show, tables
from mnist_lib.results.show import Table
from mnist_lib.results.statistics import Interval
from mnist_lib.results.target import TASK_ACCURACY, Target
from mnist_lib.training import Epoch
from support import PATIENCE


def run(seed: int, *correct: int, parameters: int = 7884, name: str = "iteration_03_example") -> Record:
    """A record of a run with these numbers of correct images, out of 10,000, epoch by epoch."""
    wrong = 10_000 - correct[-1]
    return Record(
        experiment=name,
        seed=seed,
        parameters={"epochs": len(correct)},
        network={"source": "def network(): ...", "name": "network", "arguments": {}},
        digests={"code": "c" * 64, "network": "n" * 64, "data": "d" * 64},
        parameter_count=parameters,
        train_size=60_000,
        class_counts=[1000] * 10,
        history={
            "learning_rate": [0.01] * len(correct),
            "train_loss": [0.1] * len(correct),
            "train_correct": [59_000] * len(correct),
            "test_loss": [0.2] * len(correct),
            "test_correct": list(correct),
        },
        first_losses=[2.3] * 10,
        misclassified=[[index, 4, 9] for index in range(wrong)],
        trained_correct=59_500,
        weights_digest="w" * 64,
        environment={
            "commit": None,
            "date": "2026-11-21",
            "device_name": "a processor",
            "threads": 1,
            "torch": "2.0",
            "epoch_seconds": [60.0] * len(correct),
        },
    )


GOOD = [run(0, 9900, 9950), run(1, 9940, 9952), run(2, 9941, 9948)]
MIXED = [run(0, 9900, 9950), run(1, 9940, 9930), run(2, 9941, 9940)]
POOR = [run(0, 9700, 9800), run(1, 9700, 9810), run(2, 9700, 9790)]


@pytest.mark.parametrize(("runs", "verdict"), [(GOOD, "met"), (MIXED, "undecided"), (POOR, "missed")])
def test_an_accuracy_target_is_judged_by_the_whole_interval(runs, verdict):
    assert Target(99.40, seeds=3).verdicts(runs) == [verdict]
    assert Target(99.40, seeds=4).verdicts(runs) == ["undecided"]


def test_one_seed_decides_nothing():
    assert Target(99.40, seeds=1).verdicts(GOOD[:1]) == ["undecided"]


def test_bounds_on_parameters_and_epochs_are_strict():
    target = Target(99.40, parameters=7884, epochs=3, seeds=3)
    assert target.verdicts(GOOD) == ["missed", "met", "met"]
    assert list(target.check(GOOD).frame["verdict"]) == ["missed", "met", "met"]


def test_a_result_has_a_third_decimal_where_rounding_would_hide_the_verdict():
    shown = {target: Target(target, seeds=3).check(MIXED).frame.iloc[0] for target in (99.65, 99.64)}
    assert (shown[99.65]["result"], shown[99.65]["verdict"]) == ("99.400 [99.152, 99.648] %", "missed")
    assert (shown[99.64]["result"], shown[99.64]["verdict"]) == ("99.40 [99.15, 99.65] %", "undecided")


def test_tables_escape_what_they_show():
    assert "<script>" not in Table([{"<script>": "<script>alert(1)</script>"}])._repr_html_()


def test_the_training_log_counts_seeds_at_the_task():
    log = tables.training_log(MIXED).frame
    assert list(log[f"seeds at {TASK_ACCURACY:.2f} %"]) == ["2 of 3", "2 of 3"]
    assert list(log["lowest and highest seed"]) == ["99.00 to 99.41", "99.30 to 99.50"]


def test_the_seeds_table_tells_final_from_best():
    row = tables.seeds_table(MIXED).frame.iloc[1]
    assert (row["final epoch %"], row["best epoch %"]) == ("99.30", "99.40")
    assert (row["first epoch at 99.40 %"], row["stays there from epoch"]) == (1, "never")


@pytest.mark.parametrize(("after", "words"), [(POOR, "a loss"), (MIXED, "not distinguishable")])
def test_a_difference_in_words(after, words):
    assert comparison.in_words(comparison.accuracy_difference(GOOD, after)).startswith(words)


def test_a_difference_with_other_images_is_that_of_paired_proportions():
    """One run each: b images only the first misreads, c only the second; the variance is Agresti's (2002, 10.1.1)."""
    before, after = run(0, 9940), run(1, 9955)
    after.misclassified[:] = [[index, 4, 9] for index in range(30, 75)]
    b, c, n = 30, 15, 10_000
    difference = comparison.difference_by_images([before], [after])
    assert difference.center == pytest.approx(100 * (b - c) / n)
    assert difference.center == pytest.approx(comparison.accuracy_difference([before], [after]).center)
    error = 100 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert difference.high - difference.center == pytest.approx(1.96 * error, rel=1e-3)
    assert difference.low + difference.high == pytest.approx(2 * difference.center)


def test_an_image_that_half_of_the_runs_misread_counts_half():
    difference = comparison.difference_by_images([run(0, 9999), run(1, 10_000)], [run(0, 10_000)])
    assert difference.center == pytest.approx(0.005)


def test_two_on_the_same_images_have_both_intervals():
    (row,) = comparison.on_images({"test": (POOR, GOOD)}, "poor", "good").frame.to_dict("records")
    assert (row["images"], row["poor, %"], row["good, %"]) == ("test", "98.00", "99.50")
    assert row["change, with other seeds"] == f"{comparison.accuracy_difference(POOR, GOOD):+.2f}"
    assert row["change, with other images"] == f"{comparison.difference_by_images(POOR, GOOD):+.2f}"


def test_changes_between_neighbours():
    groups = {"iteration_01_poor": POOR, "iteration_02_good": GOOD}
    table = comparison.changes_table(groups).frame
    assert table.iloc[0]["change"] == "2 good"
    assert table.iloc[0]["accuracy, points"].startswith("+1.50 [")
    assert table.iloc[0]["minutes a run"] == "2.0"


def test_a_difference_of_recipes_lists_what_matters_in_both():
    """The momentum of a cycle is its own; the width is an argument that only one of the two functions has."""
    ten = page.of_notebook("iteration_10_one_cycle")
    table = tables.recipe_difference(page.baseline(ten), page.experiment(ten))
    assert table.frame.to_records(index=False).tolist() == [
        ("learning_rate", "0.01", "0.3"),
        ("momentum", "0.9", "not used"),
        ("schedule", "constant", "one_cycle"),
    ]


def test_variants_stand_beside_the_recipe_with_intervals_that_hold_at_once():
    varied = {"no rotation": POOR, "wider": MIXED, "one run": GOOD[:1]}
    table = comparison.variants_table(GOOD, varied).frame
    assert list(table["variant"]) == ["the recipe", *varied]
    assert list(table["in words"])[1].startswith("a loss") and list(table["in words"])[3].startswith("too few")
    alone = comparison.accuracy_difference(GOOD, MIXED)
    together = comparison.variant_differences(GOOD, varied)["wider"]
    assert together.center == alone.center and together.low < alone.low and together.high > alone.high
    said = comparison.variants_in_words(GOOD, varied)
    assert "beyond what the seeds can explain: *no rotation* (-1.50)." in said
    assert "Too few runs to judge: *one run*." in said and "Not distinguishable" in said


def test_only_the_points_of_the_first_group_are_joined():
    groups = {name: [(1_000, Interval(99.0, 98.9, 99.1)), (2_000, ONE)] for name in ("a recipe", "others")}
    (axes,) = figures.sizes(groups, 99.4).figure.axes
    joined = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert (joined["a recipe"], joined["others"]) == ("-", "None")


ONE = Interval(99.3, float("nan"), float("nan"))
PICTURES = {
    "curves": (lambda: figures.curves(MIXED, 99.4), "99.27 % after the first epoch to 99.40 % after the last"),
    "confusion": (lambda: figures.confusion_matrix(MIXED), "180 mistakes of 3 runs. The most frequent: 4 taken for 9"),
    "misclassified": (
        lambda: figures.misclassified(MIXED, None),
        "50 images are wrong in every run, 70 in at least one",
    ),
    "candidates": (lambda: figures.candidates({0.1: [99.1], 0.3: [99.3]}, 0.3), "The highest: 0.3"),
    "learning rates": (
        lambda: figures.learning_rates({0.1: [99.0, 98.0], 1: [95.0, 96.0]}),
        "(0.1: 1.50 %, 1: 4.50 %). The lowest: 0.1",
    ),
    "lines": (
        lambda: drawing.lines({"a": [4, 2], "b": [1, np.nan]}, x="rate", y="loss", at=[10, 90], marks={"bound": 50}),
        "a: from 4 at rate 10 to 2 at rate 90; b: from 1 at rate 10 to 1 at rate 10. Marked: bound, 50.",
    ),
    "panels": (
        lambda: drawing.panels({"a": [4, 2], "b": [8, 1]}, x="step", y="loss", log=True),
        "One panel each. Loss against step. a: from 4 at step 0 to 2 at step 1; b: from 8 at step 0 to 1 at step 1.",
    ),
    "panels without a positive number": (
        lambda: drawing.panels({"a": [0.0, 0.0]}, x="step", y="loss", log=True),
        "One panel each. Loss against step. a: from 0 at step 0 to 0 at step 1.",
    ),
    "overview": (lambda: comparison.overview_picture({"iteration_01_a": GOOD}), "1 a: 7,884 parameters, 99.50 %"),
    "seeds": (
        lambda: figures.seeds(MIXED, {"the task": 99.4}),
        "of 3 runs: from 99.30 to 99.50 %, mean 99.40 %. 2 at or above the task, 99.40 %.",
    ),
    "sizes": (
        lambda: figures.sizes({"a recipe": [(1_000, Interval(99.0, 98.9, 99.1)), (2_000, ONE)]}, 99.4),
        "a recipe: 1,000 parameters 99.00 %, 2,000 parameters 99.30 %.",
    ),
    "overlaps": (
        lambda: figures.overlaps({"1 a": [1, 2, 3, 4], "2 b": [1, 9], "3 c": []}),
        "1 a: 100, 25, 0; 2 b: 50, 100, 0; 3 c: –, –, –.",
    ),
    "steps": (lambda: figures.steps(["2 a"], [comparison.accuracy_difference(POOR, GOOD)]), "2 a: +1.50"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_figure_says_in_words_what_it_shows(name):
    make, words = PICTURES[name]
    picture = make()
    data, metadata = picture._repr_mimebundle_()
    assert words in data["text/plain"]
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert picture.png.startswith(b"\x89PNG")
    assert picture.png == make().png


FOREST = {
    "one size": (
        [7_884] * 4,
        [(99.30, 99.23, 99.37), (99.33, 99.27, 99.39), (99.46, 99.41, 99.51), (98.76, 98.67, 98.86)],
    ),
    "far apart": ([431_080, 6_070], [(99.17, 99.12, 99.22), (95.5, 94.0, 97.0)]),
    "an end": ([10, 20], [(99.90, 99.80, 100.0), (99.40, 99.40, 99.40)]),
}


@pytest.mark.parametrize("name", FOREST)
def test_every_mark_is_drawn_where_its_number_is(name):
    """Read from the pixels: where a row has the colours of marks, and what the axis says of these places."""
    sizes, numbers = FOREST[name]
    picture = figures.forest(
        [f"{k} a network" for k in range(len(sizes))], sizes, [Interval(*n) for n in numbers], 99.4
    )
    (axes,) = picture.figure.axes
    assert picture.figure.get_figwidth() * 96 <= 390 - 2 * 16, "wider than a phone"
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"), int)
    scale = drawing.DOTS_PER_INCH / picture.figure.dpi
    number_of = lambda column: axes.transData.inverted().transform(((column + 0.5) / scale, 0))[0]  # noqa: E731
    one_pixel = number_of(1) - number_of(0)
    for row, (center, low, high) in enumerate(numbers):
        across = pixels.shape[0] - round(axes.transData.transform((center, row))[1] * scale)
        colour = to_rgb(drawing.GREEN if low >= 99.4 else drawing.BLUE)
        drawn = np.abs(pixels - 255 * np.array(colour)).max(-1) < 40
        mark, line = (np.flatnonzero(drawn[across + shift].squeeze()) for shift in (4, 0))
        assert number_of(mark.mean()) == pytest.approx(center, abs=2 * one_pixel)
        for found, end in zip(line[[0, -1]], (low, high), strict=True):
            width = 6 * one_pixel if abs(end - center) < 8 * one_pixel else 2 * one_pixel  # then the mark covers it
            assert number_of(found) == pytest.approx(end, abs=width)
    shown = [text.get_text().strip() for text in axes.texts]
    assert shown[: len(sizes)] == [f"{size:,}" for size in sizes]


def test_a_cell_with_an_interval_or_a_shape_is_not_broken():
    rows = [{"a": "99.47 [99.41, 99.53] %", "b": "10 × 24 × 24", "c": "some words", "d": 3}]
    shown = show.Table(rows)._repr_html_()
    assert "99.47 [99.41,\xa099.53]\xa0%" in shown and "10\xa0×\xa024\xa0×\xa024" in shown and "some words" in shown
    assert "99.47 [99.41, 99.53] %" in repr(show.Table(rows))


def test_misclassified_images_are_drawn_when_they_are_there():
    images = np.random.default_rng(0).integers(0, 255, (100, 28, 28))
    assert figures.misclassified(MIXED, images).png != figures.misclassified(MIXED, None).png


def test_a_page_that_is_its_own_baseline_tells_the_two_apart():
    said = repr(tables.provenance(MIXED, GOOD))
    assert said.count("iteration_03_example, seeds") == 1
    assert said.count("iteration_03_example, published recipe, seeds") == 1


def test_records_are_not_changed_by_showing_them():
    before = [dataclasses.asdict(r) for r in MIXED]
    tables.provenance(MIXED)
    figures.curves(MIXED)
    assert before == [dataclasses.asdict(r) for r in MIXED]


@pytest.mark.parametrize(("person", "where"), [(True, "err"), (False, "out")])
def test_progress_is_a_bar_for_a_person_and_lines_for_a_log(person, where, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: person)
    experiment = SimpleNamespace(name="iteration_03_example", recipe=Recipe(epochs=2))
    report_epoch = progress.shown()
    for number in (1, 2):
        report_epoch(experiment, 0, Epoch(0.01, 0.5, 100, 0.4, 9_876), number, 1.5)
    captured = capsys.readouterr()
    said = getattr(captured, where)
    assert "iteration_03_example seed 0: train loss 0.5000, 9876 correct" in said
    assert ("2/2" in said) == person
    assert ("epoch 2 of 2, 1.5 s" in said) == (not person)
    assert bool(captured.out) == (not person)


@pytest.mark.parametrize("person", [True, False])
def test_a_bar_counts_what_is_done_for_a_person_alone(person, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: person)
    assert list(progress.bar(range(3), "frontier_size")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == "" and ("frontier_size: 100%" in captured.err and "3/3" in captured.err) == person


LIVE = """
from IPython.display import display
from mnist_lib.parameters import Recipe
from mnist_lib.base.progress import bar, in_jupyter
from mnist_lib.results import cycle
print(in_jupyter())
for _ in bar(range(3), "three"):
    pass
display(cycle.explorer(Recipe(epochs=2, schedule="one_cycle"), 10))
"""


@pytest.mark.parametrize("person", [True, False])
def test_a_figure_with_sliders_is_live_where_a_person_sits_and_where_none_does(person):
    """In a kernel, as Jupyter and as papermill ask it; other pictures are shown there in two renderings."""
    shown = []
    with manager.run_kernel(kernel_name="python3") as client:
        reply = client.execute_interactive(LIVE, allow_stdin=person, output_hook=shown.append, timeout=PATIENCE)
    assert reply["content"]["status"] == "ok", reply["content"]
    texts = [each["content"]["text"].strip() for each in shown if each["msg_type"] == "stream"]
    assert str(person) in texts
    *bars, content = (each["content"]["data"] for each in shown if each["msg_type"] == "display_data")
    assert [each["text/plain"].startswith("three:") for each in bars] == [True] * person
    assert "cycle-figure" in content["text/html"] and content["image/png"] and content["text/plain"]


@pytest.mark.parametrize("words", ["linear 800 → 500", "Intel(R) Core(TM) i7 CPU @ 3.2GHz", "no warm-up", "a_b, c 0.1"])
def test_plain_words_stay_as_they_are(words):
    assert show.as_text(words) == words


@pytest.mark.parametrize(
    "words",
    ["<b>", "a `b``c` d", "[a](javascript:b)", "$x$", r"\(x\)", "**a**", "_a_", "a|b", "&lt;", "https://a.b", "{a}`b`"],
)
def test_words_that_are_markup_are_shown_and_not_taken_for_it(words):
    """By the parser of JupyterLab's kind and by the book's."""
    for parser in (MarkdownIt("commonmark"), MarkdownIt("gfm-like", {"linkify": False})):
        html = parser.render(f"A device: *{show.as_text(words)}*.")
        assert BeautifulSoup(html, "html.parser").get_text().strip() == f"A device: {words}."
        assert "<b>" not in html and "<a" not in html


def test_a_table_with_a_dollar_sign_is_left_alone_by_what_looks_for_formulas():
    assert "mathjax_ignore" in Table([{"costs": "$5 or $6"}])._repr_html_()
    assert "mathjax_ignore" not in Table([{"costs": "5"}])._repr_html_()


@pytest.mark.parametrize("words", [r"$\frac$", "from $5 to $6"])
def test_a_picture_shows_dollar_signs_and_looks_for_no_formula(words):
    interval = Interval(1.0, 0.5, 1.5)
    pictures = [figures.steps([words], [interval]), figures.forest([words], [5], [interval], 1.0)]
    assert all(picture.png and words in picture.alt for picture in pictures)
