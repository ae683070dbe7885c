"""Several experiments beside each other: their sizes and accuracies, and what each change brought."""

import statistics as averages
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from mnist_lib.records import Record
from mnist_lib.results import figures
from mnist_lib.results.show import Table, as_text
from mnist_lib.results.statistics import Interval, difference_interval, mean_interval, p_value
from mnist_lib.results.target import TASK_ACCURACY, final_accuracy, reached


def label(name: str) -> str:
    """Return an experiment's name for a table or an axis: ``7 small batch`` or ``C strided``, say."""
    if name.startswith("reported_"):
        key, _, rest = name.removeprefix("reported_").partition("_")
        return f"{key.upper()} {rest.replace('_', ' ')}"
    return name.removeprefix("iteration_").lstrip("0").replace("_", " ")


def accuracy_difference(baseline: Sequence[Record], runs: Sequence[Record], comparisons: int = 1) -> Interval:
    """Return what was gained in mean accuracy after the last epoch, in percentage points.

    With `comparisons`, the interval is one of so many that all hold at once in 95 % of cases.
    """
    after, before = ([run.test_accuracy[-1] for run in each] for each in (runs, baseline))
    return difference_interval(after, before, comparisons)


def difference_by_images(baseline: Sequence[Record], runs: Sequence[Record]) -> Interval:
    """Return what was gained in mean accuracy, in percentage points, with an interval for other images, same runs.

    For each image, the share of the runs that misread it is subtracted from the baseline's; the interval is that of the
    mean of these differences. Both were evaluated on the same images.
    """
    before, after = (_misread(each) for each in (baseline, runs))
    return mean_interval(100 * (before - after))


def _misread(runs: Sequence[Record]) -> np.ndarray:
    """In which share of the runs each image was misread."""
    indices = [index for run in runs for index, _, _ in run.misclassified]
    return np.bincount(indices, minlength=runs[0].test_size) / len(runs)


def in_brief(difference: Interval) -> str:
    """Say in a word or two whether a difference can be told from noise: "a gain", "a loss", "not distinguishable"."""
    if not difference.is_known:
        return "too few runs to tell"
    if difference.holds_zero:
        return "not distinguishable"
    return "a gain" if difference.center > 0 else "a loss"


def in_words(difference: Interval) -> str:
    """Say whether a difference can be told from noise, and what noise is."""
    ends = {"too few runs to tell": " it from the seeds' spread", "not distinguishable": " from the seeds' spread"}
    said = in_brief(difference)
    return said + ends.get(said, " that the seeds' spread cannot explain")


def overview(groups: Mapping[str, Sequence[Record]]) -> Table:
    """One row an experiment: its size, its accuracy, and how many of its seeds do what the task asks."""
    return Table(
        {
            "experiment": label(name),
            "parameters": f"{runs[0].parameter_count:,}",
            "mean test accuracy, %": str(final_accuracy(runs)),
            f"seeds at {TASK_ACCURACY:.2f} %": f"{reached(run.test_accuracy[-1] for run in runs)} of {len(runs)}",
        }
        for name, runs in groups.items()
    )


def on_images(pairs: Mapping[str, tuple[Sequence[Record], Sequence[Record]]], before: str, after: str) -> Table:
    """One row a set of images: how accurate two experiments are on it, and their difference with both its intervals.

    Arguments:
        pairs: the runs of both on the same images, by what these are called.
        before: what the first of the two is called.
        after: what the other one is called.
    """
    return Table(
        {
            "images": images,
            f"{before}, %": f"{final_accuracy(pair[0]).center:.2f}",
            f"{after}, %": f"{final_accuracy(pair[1]).center:.2f}",
            "change, with other seeds": f"{accuracy_difference(*pair):+.2f}",
            "change, with other images": f"{difference_by_images(*pair):+.2f}",
        }
        for images, pair in pairs.items()
    )


def overview_picture(groups: Mapping[str, Sequence[Record]]) -> figures.Picture:
    """Draw the accuracy of every experiment, one row each."""
    accuracies = [final_accuracy(runs) for runs in groups.values()]
    sizes = [runs[0].parameter_count for runs in groups.values()]
    return figures.forest([label(name) for name in groups], sizes, accuracies, TASK_ACCURACY)


def changes(groups: Mapping[str, Sequence[Record]]) -> dict[str, Interval]:
    """Return what each experiment changed in mean accuracy against the one before it, in percentage points."""
    names = list(groups)
    return {after: accuracy_difference(groups[before], groups[after]) for before, after in pairwise(names)}


def p_values(groups: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """Return the p-value of Welch's test that nothing changed from the experiment before, for all but the first."""
    finals = {name: [float(run.test_accuracy[-1]) for run in runs] for name, runs in groups.items()}
    return {after: p_value(finals[after], finals[before]) for before, after in pairwise(finals)}


def changes_table(groups: Mapping[str, Sequence[Record]]) -> Table:
    """One row a change: what it brought, whether that can be told from noise, and what it cost."""
    rows = []
    for (before, after), change in zip(pairwise(groups), changes(groups).values(), strict=True):
        sizes = [groups[name][0].parameter_count for name in (before, after)]
        rows.append(
            {
                "change": label(after),
                "accuracy, points": f"{change:+.2f}",
                "in words": in_words(change),
                "parameters": f"{sizes[1] - sizes[0]:+,}",
                "minutes a run": f"{minutes(groups[after]):.1f}",
            }
        )
    return Table(rows)


def variant_differences(runs: Sequence[Record], variants: Mapping[str, Sequence[Record]]) -> dict[str, Interval]:
    """Return what each variant of a recipe changes in mean accuracy, in points; the intervals hold all at once."""
    return {name: accuracy_difference(runs, group, len(variants)) for name, group in variants.items()}


def variants_table(runs: Sequence[Record], variants: Mapping[str, Sequence[Record]]) -> Table:
    """One row a variant of a recipe, the recipe itself first: how accurate it is, and how far from the recipe."""
    rows = [_row("the recipe", runs) | {"difference, points": "", "in words": ""}]
    for name, difference in variant_differences(runs, variants).items():
        words = {"difference, points": f"{difference:+.2f}", "in words": in_words(difference)}
        rows.append(_row(name, variants[name]) | words)
    return Table(rows)


def variants_in_words(runs: Sequence[Record], variants: Mapping[str, Sequence[Record]]) -> str:
    """Say which variants of a recipe lose accuracy, which gain some, and which cannot be told from it."""
    said = {
        "a loss": "Less accurate than the recipe, beyond what the seeds can explain: {}.",
        "a gain": "More accurate than the recipe, beyond what the seeds can explain: {}.",
        "not distinguishable": "Not distinguishable from the recipe with so many runs: {}.",
        "too few runs to tell": "Too few runs to judge: {}.",
    }
    found: dict[str, list[str]] = {verdict: [] for verdict in said}
    for name, difference in variant_differences(runs, variants).items():
        found[in_brief(difference)].append(f"*{as_text(name)}*" + f" ({difference.center:+z.2f})" * difference.is_known)
    return " ".join(said[verdict].format(", ".join(names)) for verdict, names in found.items() if names)


def _row(name: str, runs: Sequence[Record]) -> dict[str, str]:
    return {"variant": name, "seeds": str(len(runs)), "mean accuracy, %": str(final_accuracy(runs))}


def minutes(runs: Sequence[Record]) -> float:
    """Return how many minutes a run took, on average."""
    return averages.fmean(run.seconds for run in runs) / 60
