"""What an accuracy on a test set is worth: how much picking flatters, which images decide, how many seeds it takes."""

import statistics as averages
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mnist_lib.records import Record
from mnist_lib.results import drawing, sentences
from mnist_lib.results.drawing import Picture
from mnist_lib.results.show import Table
from mnist_lib.results.statistics import correlated_binomials, pooled_spread, power

SIMULATED_RUNS = 2000

SHARES = {
    "every run": 1.0,
    "at least 9 of 10 runs": 0.9,
    "at least half of the runs": 0.5,
    "at least one run": 1e-9,
}
"""In how large a share of the runs a test image is wrong, by its name in a table."""


def one_image(runs: Sequence[Record]) -> float:
    """How many percentage points one test image is."""
    return 100 / runs[0].test_size


def best_over_final(runs: Sequence[Record]) -> float:
    """How far the best epoch is above the last one, in percentage points, on average over the runs."""
    counts = [run.history["test_correct"] for run in runs]
    return averages.fmean(max(each) - each[-1] for each in counts) * one_image(runs)


def epoch_correlation(runs: Sequence[Record]) -> float:
    """How strongly two late epochs of one run agree on an image, from 0 to 1, by the spread of their counts.

    Were every epoch tested on fresh images, the count of correct ones would scatter like a binomial. It scatters less,
    because the images and most of the answers stay the same: by the factor 1 − correlation in the variance. The second
    half of the epochs is used; what they have in common over the runs (the course of training) is taken out first.
    """
    late = np.array([run.history["test_correct"][len(run.test_accuracy) // 2 :] for run in runs], dtype=float)
    rest = late - late.mean(axis=0) - late.mean(axis=1, keepdims=True) + late.mean()
    freedom = (late.shape[0] - 1) * (late.shape[1] - 1)
    share = late.mean() / runs[0].test_size
    binomial = runs[0].test_size * share * (1 - share)
    if not freedom or not binomial:
        return float("nan")
    return float(np.clip(1 - (rest**2).sum() / freedom / binomial, 0, 1))


def simulated_best_over_final(runs: Sequence[Record]) -> float:
    """Return what `best_over_final` would be by chance alone: correlated binomials around the runs' mean course."""
    correlation = epoch_correlation(runs)
    if np.isnan(correlation):
        return float("nan")
    images = runs[0].test_size
    errors = 1 - np.mean([run.history["test_correct"] for run in runs], axis=0) / images
    counts = correlated_binomials(images, errors.tolist(), correlation, SIMULATED_RUNS)
    return float((counts.max(axis=1) - counts[:, -1]).mean() / images * 100)


def flattery(groups: Mapping[str, Sequence[Record]]) -> Table:
    """One row per experiment: what picking the best epoch on the test images adds, measured and simulated."""
    return Table(
        {
            "experiment": name,
            "epochs": len(runs[0].test_accuracy),
            "best minus final, points": f"{best_over_final(runs):.3f}",
            "correlation of epochs": _or_dash(epoch_correlation(runs), ".2f"),
            "simulated, points": _or_dash(simulated_best_over_final(runs), ".3f"),
        }
        for name, runs in groups.items()
    )


def fall_at_the_end(runs: Sequence[Record]) -> float:
    """How far the mean course of the runs ends below its highest epoch, in points."""
    course = np.mean([run.test_accuracy for run in runs], axis=0)
    return float(course.max() - course[-1])


def wrong_in(runs: Sequence[Record], share: float) -> list[int]:
    """Return the test images that at least this share of the runs gets wrong, by index, the most often missed first."""
    counts = Counter(index for run in runs for index, _, _ in run.misclassified)
    chosen = [index for index, count in counts.items() if count >= share * len(runs)]
    return sorted(chosen, key=lambda index: (-counts[index], index))


def wrong_counts(runs: Sequence[Record]) -> dict[str, int]:
    """How many test images are wrong in how large a share of the runs, by the names in `SHARES`."""
    return {name: len(wrong_in(runs, share)) for name, share in SHARES.items()}


def wrong_table(runs: Sequence[Record]) -> Table:
    """One row per share of the runs: how many test images are wrong in so many."""
    return Table({"wrong in": name, "test images": number} for name, number in wrong_counts(runs).items())


def left_in_words(runs: Sequence[Record], known: Sequence[Record], name: str) -> list[str]:
    """Say how many images some runs misread, half of them, and all; and how many of the last the `known` runs misread.

    Arguments:
        runs: of one run alone, nothing is said about some and all.
        known: other runs on the same images; nothing is said of them if there are none.
        name: what the `known` runs are called.
    """
    counts, said = wrong_counts(runs), []
    always, half, once = (counts[share] for share in ("every run", "at least half of the runs", "at least one run"))
    if len(runs) > 1:
        said.append(
            f"Wrong in at least one run: {sentences.count(once, 'image')}; in at least half of them: {half}; in every "
            f"one: {always}. Between the first number and the last lies the luck of the seeds; the last no "
            "seed here gets right."
        )
    if known:
        stubborn = {*wrong_in(runs, 1)} & {*wrong_in(known, 1)}
        said.append(
            f"Of the images that are wrong in every run here, {len(stubborn)} {'is' if len(stubborn) == 1 else 'are'} "
            f"wrong in every run of {name}, too. "
            "Look at them above: for some, one would have to ask the writer."
        )
    return said


def spread(groups: Mapping[str, Sequence[Record]]) -> float:
    """Return the standard deviation of one run's accuracy after the last epoch, in points, pooled over experiments."""
    return pooled_spread([float(run.test_accuracy[-1]) for run in runs] for runs in groups.values())[0]


def seeds_needed(difference: float, one_run: float, wanted: float = 0.8) -> int | None:
    """How many runs of each of two networks find a true difference with probability `wanted`.

    Arguments:
        difference: of the two means, in points.
        one_run: the standard deviation of one run, in points; where it is not known (NaN), there is no answer.
        wanted: the power.
    """
    if np.isnan(one_run):
        return None
    enough = 2
    while power(difference, one_run, enough) < wanted:
        enough *= 2
    return bisect_left(range(enough), wanted, lo=2, key=lambda seeds: power(difference, one_run, seeds))


def power_picture(differences: Sequence[float], one_run: float, most: int = 40) -> Picture:
    """Return the probability to find a true difference, against the runs of each network; one line per difference."""
    seeds = range(2, most + 1)
    series = {f"{each:g} points": [power(each, one_run, n) for n in seeds] for each in differences}
    return drawing.lines(series, x="runs of each network", y="probability to find the difference", at=seeds)


def _or_dash(value: float, spec: str) -> str:
    return "–" if np.isnan(value) else f"{value:{spec}}"
