"""Figures of training runs. Each comes with a sentence, written from its data, for readers who cannot see it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage

from mnist_lib.parameters import said
from mnist_lib.records import Record
from mnist_lib.results import drawing
from mnist_lib.results.drawing import BLUE, GREEN, GREY, ORANGE, Picture, subplots
from mnist_lib.results.statistics import Interval
from mnist_lib.results.sweeps import Trial
from mnist_lib.results.target import train_accuracy

PALE_BLUES = ListedColormap(colormaps["Blues"](np.linspace(0, 0.5, 256)))
"""Pale enough for black words on any of them."""

BY_MISTAKES = (lambda x: -np.log10(np.maximum(100 - x, 0.01)), lambda x: 100 - 10**-x)
"""The scale of an axis of accuracies that is logarithmic in the share of wrong images, and its inverse."""

ACCURACIES = (50, 80, 90, 95, 97, 98, 99, 99.2, 99.4, 99.6, 99.7, 99.8)
"""Where such an axis may have ticks."""

MOST_ENTRIES = 10
"""Of a legend: more would hide the figure."""


def curves(runs: Sequence[Record], target: float | None = None) -> Picture:
    """Loss and accuracy over the epochs: the mean over seeds, and the range from the lowest to the highest seed."""
    figure, ((left, right),) = subplots(1, 2)
    losses = {name: np.array([run.history[f"{name}_loss"] for run in runs]) for name in ("train", "test")}
    accuracies = {
        "train": np.array([run.train_accuracy for run in runs]),
        "test": np.array([run.test_accuracy for run in runs]),
    }
    for name, colour, line in (("train", BLUE, "--"), ("test", ORANGE, "-")):
        _band(left, losses[name], colour, line, name)
        _band(right, accuracies[name], colour, line, name)
    left.set(xlabel="epoch", ylabel="mean cross-entropy per image", title="Loss", yscale="log")
    low = min(np.sort(values.mean(0))[min(1, values.shape[1] - 1)] for values in accuracies.values())
    right.set(xlabel="epoch", ylabel="correct, %", title="Accuracy", ylim=(min(low, 99) - 0.1, 100.05))
    if target is not None:
        right.axhline(target, color=GREY, linewidth=1, linestyle=":", label=f"{target:.2f} %")
    clean, test = train_accuracy(runs), accuracies["test"].mean(0)
    right.plot([len(test)], [clean], "D", color=BLUE, markersize=5, label="training images, final weights")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)  # it would cover a curve
    shown = "of one seed" if len(runs) == 1 else f"mean and range of {len(runs)} seeds"
    course = f"goes from {test[0]:.2f} % after the first epoch to {test[-1]:.2f} % after the last"
    alt = (
        f"Loss and accuracy over {_count(len(test), 'epoch')}, {shown}. "
        f"The {'test' if len(runs) == 1 else 'mean test'} accuracy "
        f"{f'is {test[0]:.2f} %' if len(test) == 1 else course}; the final weights get "
        f"{clean:.2f} % of the training images right."
    )
    return Picture(figure, alt)


def _count(number: int, noun: str) -> str:
    """Say a number with its noun: "one run", "5 runs"."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def _band(axes: Axes, values: np.ndarray, colour: str, line: str, name: str) -> None:
    """Mean of `values`, shape (seeds, epochs), as a line, and their range as a band."""
    epochs = np.arange(1, values.shape[1] + 1)
    label = {"train": "training images, while learning", "test": "test images"}[name]
    axes.plot(epochs, values.mean(0), line, color=colour, label=label, marker="." if len(epochs) < 4 else None)
    axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)


def confusion_matrix(runs: Sequence[Record]) -> Picture:
    """Which digit is taken for which, counted over all seeds; the diagonal, which would drown the rest, is left out."""
    counts = np.zeros((10, 10), dtype=int)
    for run in runs:
        for _, label, prediction in run.misclassified:
            counts[label, prediction] += 1
    figure, ((axes,),) = subplots(size=(5.6, 4.8))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    image = axes.imshow(counts, cmap=PALE_BLUES)
    for label, prediction in zip(*counts.nonzero(), strict=True):
        axes.text(prediction, label, counts[label, prediction], ha="center", va="center", fontsize=8)
    axes.set(xticks=range(10), yticks=range(10), xlabel="predicted digit", ylabel="true digit")
    axes.set_title(f"Mistakes of {_count(len(runs), 'run')}")
    figure.colorbar(image, ax=axes, label="images")
    if not counts.any():
        return Picture(figure, f"Confusion matrix of {_count(len(runs), 'run')}: empty, for there is no mistake.")
    label, prediction = np.unravel_index(counts.argmax(), counts.shape)
    times = "once" if counts.max() == 1 else f"{counts.max()} times"
    alt = (
        f"Confusion matrix of the {_count(counts.sum(), 'mistake')} of {_count(len(runs), 'run')}. The most frequent: "
        f"{label} taken for {prediction}, {times}."
    )
    return Picture(figure, alt)


def misclassified(runs: Sequence[Record], images: np.ndarray | None, most: int = 24) -> Picture:
    """Show the images that most runs get wrong.

    Arguments:
        runs: the records; their `misclassified` lists say what was predicted.
        images: the evaluation images, shape ``(n, 28, 28)``; without them, empty frames are drawn.
        most: how many images at most.
    """
    labels = {index: label for run in runs for index, label, _ in run.misclassified}
    wrong = Counter(index for run in runs for index, _, _ in run.misclassified)
    chosen = sorted(wrong, key=lambda index: (-wrong[index], index))[:most]
    columns = 6
    rows = max(1, -(-len(chosen) // columns))
    figure, grid = subplots(rows, columns, size=(6.4, 1.5 * rows))
    for axes in grid.flat:
        axes.set_axis_off()
    for index, axes in zip(chosen, grid.flat, strict=False):
        predictions = Counter(p for run in runs for i, _, p in run.misclassified if i == index)
        axes.imshow(np.zeros((28, 28)) if images is None else images[index], cmap="gray_r", vmin=0, vmax=255)
        taken = ", ".join(str(p) for p, _ in predictions.most_common(2))
        axes.set_title(f"{labels[index]} → {taken}\n{wrong[index]} of {len(runs)}", fontsize=9)
    every = sum(count == len(runs) for count in wrong.values())
    if len(runs) == 1 or not chosen:
        told = f"{len(chosen)} of the {_count(len(wrong), 'image')} that {_count(len(runs), 'run')} got wrong"
        return Picture(figure, f"{told}, each with its label and what it was taken for.")
    alt = (
        f"The {len(chosen)} images that most of the {len(runs)} runs get wrong, each with its label, what it was taken "
        f"for and by how many runs. {_count(every, 'image')} {'is' if every == 1 else 'are'} wrong in every run, "
        f"{len(wrong)} in at least one."
    )
    return Picture(figure, alt)


def maps(pictures: Sequence[np.ndarray | None], titles: Sequence[str], words: str, columns: int = 6) -> Picture:
    """Draw maps of numbers side by side: black is 0 and less, white the largest number of all.

    Arguments:
        pictures: arrays of shape ``(height, width)``; None leaves a gap.
        titles: what stands above each.
        words: what the picture shows, for readers who cannot see it.
        columns: how many in a row.
    """
    rows = -(-len(pictures) // columns)
    figure, grid = subplots(rows, columns, size=(6.4, 0.2 + 6.2 / columns * 1.15 * rows))
    largest = max(float(np.max(each)) for each in pictures if each is not None) or 1
    for axes in grid.flat:
        axes.set_axis_off()
    for picture, title, axes in zip(pictures, titles, grid.flat, strict=False):
        if picture is not None:
            axes.imshow(picture, cmap="gray", vmin=0, vmax=largest)
            axes.set_title(title, fontsize=8)
    return Picture(figure, words)


def candidates(accuracies: Mapping[float, Sequence[float]], chosen: float) -> Picture:
    """Draw the validation accuracy of each candidate learning rate: every seed as a dot, their mean as a bar."""
    figure, ((axes,),) = subplots(size=(6.4, 3.2))
    means = {rate: float(np.mean(values)) for rate, values in accuracies.items()}
    for rate, values in accuracies.items():
        colour = ORANGE if rate == chosen else BLUE
        axes.plot([rate] * len(values), values, "s" if rate == chosen else "o", color=colour, alpha=0.8)
        axes.plot([rate], [means[rate]], "_", color=colour, markersize=28, markeredgewidth=2)
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="correct, % of validation images")
    axes.set_xticks(list(means), [f"{rate:g}" for rate in means])
    axes.minorticks_off()
    words = ", ".join(f"{rate:g}: {mean:.2f} %" for rate, mean in means.items())
    if not means:
        return Picture(figure, "An empty plot: no peak learning rate was tried.")
    best = max(means, key=means.__getitem__)
    return Picture(figure, f"Mean validation accuracy for each peak learning rate ({words}). The highest: {best:g}.")


def learning_rates(accuracies: Mapping[float, Sequence[float]]) -> Picture:
    """How many images are wrong after training at each learning rate: every run as a dot, a line through the means.

    Both axes are logarithmic. `accuracies` are in percent, those of all runs by learning rate.
    """
    figure, ((axes,),) = subplots(size=(7.2, 3.6))
    wrong = {rate: 100 - np.asarray(values, dtype=float) for rate, values in accuracies.items()}
    means = {rate: float(values.mean()) for rate, values in wrong.items()}
    for rate, values in wrong.items():
        axes.plot([rate] * len(values), values, "o", color=BLUE, alpha=0.6)
    axes.plot(list(means), list(means.values()), color=ORANGE)
    axes.set(xscale="log", yscale="log", xlabel="learning rate, constant", ylabel="wrong, % of validation images")
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_xticks(list(means), [f"{rate:g}" for rate in means])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    words = ", ".join(f"{rate:g}: {mean:.2f} %" for rate, mean in means.items())
    best = min(means, key=means.__getitem__)
    return Picture(figure, f"Mean share of wrong validation images by learning rate ({words}). The lowest: {best:g}.")


def swept(tried: Sequence[tuple[Trial, Sequence[Record]]], value: str, images: str) -> Picture:
    """Draw a value that was swept against accuracy: every run as a dot, a line through the means of each setting.

    Numbers stand on an axis, logarithmic where they span more than a factor of ten; words stand side by side.

    Arguments:
        tried: trials with their runs, at least one each.
        value: the name of the value; all others make the setting.
        images: which ones the runs were evaluated on, in words.
    """
    figure, ((axes,),) = subplots(size=(7.2, 3.8))
    places = _places([trial.values[value] for trial, _ in tried])
    settings: dict[str, dict[float, list[float]]] = {}
    for trial, runs in tried:
        rest = ", ".join(f"{name} {said(each)}" for name, each in trial.values.items() if name != value)
        settings.setdefault(rest, {})[places[trial.values[value]]] = [float(run.test_accuracy[-1]) for run in runs]
    styles = zip(cycle((BLUE, ORANGE, GREEN, GREY)), cycle(("o-", "s--", "^-.", "v:", "D-")), strict=False)
    for (rest, accuracies), (colour, style) in zip(settings.items(), styles, strict=False):
        for place, values in accuracies.items():
            axes.plot([place] * len(values), values, style[0], color=colour, alpha=0.5, markersize=4)
        line = {place: np.mean(values) for place, values in sorted(accuracies.items())}
        axes.plot(list(line), list(line.values()), style, color=colour, label=rest)
    numbers = [place for place in places.values() if place > 0]
    if len(numbers) == len(places) and max(numbers) > 10 * min(numbers):
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [said(each) for each in places], parse_math=False)
    axes.minorticks_off()
    axes.set(xlabel=value, ylabel=f"correct, % of {images} images")
    low, high = axes.get_ylim()
    if high - low > 1:  # one poor accuracy would press all others together
        axes.set_yscale("function", functions=BY_MISTAKES)
        ticks = [tick for tick in ACCURACIES if low <= tick <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    if 1 < len(settings) <= MOST_ENTRIES:
        for entry in figure.legend(loc="outside upper center", ncols=2).get_texts():
            entry.set_parse_math(False)
    words = "; ".join(f"{trial}: {np.mean([run.test_accuracy[-1] for run in runs]):.2f}" for trial, runs in tried)
    return Picture(figure, f"Accuracy in percent against {value}; the means are {words}.")


def heat_map(tried: Sequence[tuple[Trial, Sequence[Record]]], across: str, down: str, images: str) -> Picture:
    """Draw the mean accuracy of each pair of two values that were swept, averaged over all others; empty if not tried.

    Arguments:
        tried: trials with their runs, at least one each.
        across: the name of the value on the horizontal axis.
        down: the name of the value on the vertical axis.
        images: which ones the runs were evaluated on, in words.
    """
    pairs: dict[tuple[Any, Any], list[float]] = {}
    for trial, runs in tried:
        mean = float(np.mean([run.test_accuracy[-1] for run in runs]))
        pairs.setdefault((trial.values[down], trial.values[across]), []).append(mean)
    rows, columns = (list(_places([pair[side] for pair in pairs])) for side in (0, 1))
    grid = np.array([[np.mean(pairs.get((row, column), [np.nan])) for column in columns] for row in rows])
    figure, ((axes,),) = subplots(size=(1.5 + 0.9 * len(columns), 1.4 + 0.5 * len(rows)))
    image = _numbers(axes, grid, "{:.2f}")
    axes.set_xticks(range(len(columns)), [said(each) for each in columns], parse_math=False)
    axes.set_yticks(range(len(rows)), [said(each) for each in rows], parse_math=False)
    axes.set(xlabel=across, ylabel=down)
    figure.colorbar(image, ax=axes, label=f"correct, % of {images} images")
    words = "; ".join(
        f"{down} {row}, {across} {column}: {np.mean(means):.2f}" for (row, column), means in pairs.items()
    )
    return Picture(figure, f"Mean accuracy in percent by {down} and {across}. {words}.")


def overlaps(mistakes: Mapping[str, Collection[int]]) -> Picture:
    """Draw which share of the images in each row's collection is also in each column's, in percent.

    Arguments:
        mistakes: indices of images, by name; a row and a column each. A row without images stays empty.
    """
    names = list(mistakes)
    sets = [{*each} for each in mistakes.values()]
    shares = [[100 * len(one & other) / len(one) if one else np.nan for other in sets] for one in sets]
    figure, ((axes,),) = subplots(size=(6.8, 0.6 + 0.42 * len(names)))
    _numbers(axes, np.array(shares), "{:.0f}")
    axes.set_xticks(range(len(names)), [name.partition(" ")[0] for name in names])
    axes.set_yticks(range(len(names)), [f"{name} ({len(mistakes[name])})" for name in names])
    axes.set(xlabel="also misread in", ylabel="misread in (images)")
    rows = (", ".join("–" if np.isnan(share) else f"{share:.0f}" for share in row) for row in shares)
    words = "; ".join(f"{name}: {row}" for name, row in zip(names, rows, strict=True))
    return Picture(figure, f"Of the images misread in one experiment, the percentage misread in each of them. {words}.")


def _numbers(axes: Axes, grid: np.ndarray, form: str) -> AxesImage:
    """Draw a grid of numbers as colours with the numbers in them; NaN stays empty."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for (row, column), number in np.ndenumerate(grid):
        if not np.isnan(number):
            axes.text(column, row, form.format(number), ha="center", va="center", fontsize=9)
    return axes.imshow(grid, cmap=PALE_BLUES, aspect="auto")


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Where values stand on an axis: numbers at themselves, in order; words side by side."""
    distinct = list(dict.fromkeys(values))
    if all(type(value) in (int, float) for value in distinct):
        return {value: float(value) for value in sorted(distinct)}
    return {value: float(place) for place, value in enumerate(distinct)}


def forest(names: Sequence[str], parameters: Sequence[int], accuracies: Sequence[Interval], target: float) -> Picture:
    """One row per network: its name, its number of parameters, its mean accuracy as a mark, the 95 % interval a line.

    A square marks an interval that lies wholly at or above `target`, a dotted line. It fits a phone's screen.
    """
    figure, ((axes,),) = subplots(size=(drawing.PHONE_WIDTH, 0.22 * len(names) + 0.75))
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    for row, (count, accuracy) in enumerate(zip(parameters, accuracies, strict=True)):
        reaches = accuracy.low >= target
        colour = GREEN if reaches else BLUE
        if accuracy.is_known:
            axes.hlines(row, accuracy.low, accuracy.high, color=colour, linewidth=2)
        axes.plot([accuracy.center], [row], "s" if reaches else "o", color=colour, markersize=5)
        axes.text(0, row, f"{count:,} ", transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8)
    axes.axvline(target, color=GREY, linestyle=":", linewidth=1)
    axes.annotate(
        f"{target:.2f}", (target, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8
    )
    axes.annotate("parameters ", (0, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8.5, parse_math=False)
    axes.tick_params(axis="y", length=0, pad=48)  # the numbers of parameters stand between
    axes.tick_params(axis="x", labelsize=8)
    axes.set(ylim=(len(names) - 0.5, -0.6))
    axes.set_xlabel("mean test accuracy after the last epoch, %", fontsize=8.5, loc="right")
    points = "; ".join(
        f"{name}: {count:,} parameters, {accuracy.center:.2f} %"
        for name, count, accuracy in zip(names, parameters, accuracies, strict=True)
    )
    return Picture(figure, f"Parameters and mean test accuracy, one row per network. {points}.")


def seeds(runs: Sequence[Record], marks: Mapping[str, float]) -> Picture:
    """Draw the accuracy after the last epoch of every run as a dot, equal ones stacked; `marks` are lines with names.

    Marks are in percent, as the axis is.
    """
    figure, ((axes,),) = subplots(size=(8.0, 3.0))
    finals = Counter(round(float(run.test_accuracy[-1]), 2) for run in runs)
    for value, number in finals.items():
        axes.plot([value] * number, range(1, number + 1), "o", color=BLUE)
    mean = float(np.mean([run.test_accuracy[-1] for run in runs]))
    axes.axvline(mean, color=ORANGE, linewidth=2, label=f"mean of {_count(len(runs), 'run')}: {mean:.2f} %")
    for (name, value), line in zip(marks.items(), ("--", ":", "-."), strict=False):
        axes.axvline(value, color=GREY, linestyle=line, label=f"{name}: {value:.2f} %")
    axes.set(xlabel="correct, % of test images", ylabel="runs", ylim=(0, max(finals.values()) + 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=3)
    above = "; ".join(
        f"{sum(run.test_accuracy[-1] >= value for run in runs)} at or above {name}, {value:.2f} %"
        for name, value in marks.items()
    )
    ends = f"from {min(finals):.2f} to {max(finals):.2f} %, mean {mean:.2f} %"
    return Picture(figure, f"Accuracy after the last epoch of {_count(len(runs), 'run')}: {ends}. {above}.")


def sizes(groups: Mapping[str, Sequence[tuple[int, Interval]]], target: float) -> Picture:
    """Draw accuracy against the number of parameters, on a logarithmic axis; points of one group have one colour.

    Arguments:
        groups: by a name for the legend, points: parameters, mean accuracy. Those of the first are joined by a line.
        target: an accuracy to mark, in percent.
    """
    figure, ((axes,),) = subplots(size=(8.0, 4.4))
    words = []
    styles = zip(cycle((BLUE, ORANGE, GREEN, GREY)), cycle("osD^"), strict=False)
    for (name, points), (colour, mark) in zip(groups.items(), styles, strict=False):
        line = "none" if words else "-"
        counts, means = zip(*points, strict=True)
        axes.plot(counts, [mean.center for mean in means], linestyle=line, marker=mark, color=colour, label=name)
        axes.vlines(counts, [mean.low for mean in means], [mean.high for mean in means], color=colour, alpha=0.6)
        words.append(f"{name}: " + ", ".join(f"{c:,} parameters {m.center:.2f} %" for c, m in points))
    axes.axhline(target, color=GREY, linestyle=":", linewidth=1, label=f"{target:.2f} %")
    axes.set(xscale="log", xlabel="parameters", ylabel="mean test accuracy after the last epoch, %")
    low, high = axes.get_xlim()
    ticks = [each for power in range(2, 7) for each in (10**power, 2 * 10**power, 5 * 10**power) if low <= each <= high]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=3)  # it would cover a point
    return Picture(figure, f"Mean test accuracy against parameters. {'; '.join(words)}.")


def claims(
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    expected: Sequence[Interval],
    claimed: Sequence[float],
    target: float,
) -> Picture:
    """Draw published accuracies beside runs of the same recipe: one row per claim, a dot per run, a diamond for it.

    The axis is logarithmic in the share of wrong images, so that one poor accuracy does not press all others together.

    Arguments:
        names: what the rows are called.
        values: the accuracies of the runs, in percent.
        expected: where one more run would be, drawn as a line.
        claimed: what was published.
        target: the accuracy to mark.
    """
    figure, ((axes,),) = subplots(size=(8.0, 0.36 * len(names) + 1.3))
    axes.set_xscale("function", functions=BY_MISTAKES)
    for row, (dots, interval, value) in enumerate(zip(values, expected, claimed, strict=True)):
        if interval.is_known:
            axes.hlines(row, interval.low, interval.high, color=BLUE, linewidth=2, alpha=0.5)
        axes.plot(dots, [row] * len(dots), "o", color=BLUE, alpha=0.6, label="our runs" if row == 0 else None)
        axes.plot([value], [row], "D", color=ORANGE, label="published" if row == 0 else None)
    axes.axvline(target, color=GREY, linestyle=":", linewidth=1, label=f"{target:.2f} %")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="correct, % of test images", ylim=(len(names) - 0.5, -0.5))
    low, high = axes.get_xlim()
    if high - low > 1:  # where the axis is visibly not linear
        ticks = [tick for tick in ACCURACIES if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.legend(loc="outside upper right", ncols=3)
    words = "; ".join(
        f"{name}: published {value:.2f}, our runs {min(dots):.2f} to {max(dots):.2f}"
        for name, dots, value in zip(names, values, claimed, strict=True)
    )
    return Picture(figure, f"Published accuracies beside our runs, in percent. {words}.")


def steps(names: Sequence[str], differences: Sequence[Interval]) -> Picture:
    """Draw what each change brought: the difference from the iteration before, with its 95 % interval."""
    figure, ((axes,),) = subplots(size=(8.0, 0.36 * len(names) + 1.0))
    for row, difference in enumerate(differences):
        sure = difference.is_known and not difference.holds_zero
        colour = (GREEN if difference.center > 0 else ORANGE) if sure else GREY
        if difference.is_known:
            axes.hlines(row, difference.low, difference.high, color=colour, linewidth=2)
        axes.plot([difference.center], [row], "s" if sure else "o", color=colour)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="change of the mean test accuracy, percentage points")
    words = "; ".join(f"{name}: {d.center:+z.2f}" for name, d in zip(names, differences, strict=True))
    return Picture(figure, f"Change of the mean test accuracy, in percentage points. {words}.")
