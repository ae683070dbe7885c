"""All published experiments for the book's page that compares any two: every number and sentence that it shows.

A reader's browser only chooses, sorts, counts and draws. Means, intervals and verdicts are computed here, for every
pair, by the functions that the notebooks use. The images that networks disagree on are shown as they are, if the book
is compiled where MNIST is.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_lib import data, records
from mnist_lib.base import files
from mnist_lib.pipeline import catalogue
from mnist_lib.records import Record
from mnist_lib.results.comparison import accuracy_difference, in_words, label
from mnist_lib.results.statistics import CONFIDENCE, Interval
from mnist_lib.results.target import TASK_ACCURACY, final_accuracy, reached

LEAST = 50
"""Percent of the images. A network that reads fewer has not learned to: its mistakes are nearly all there is."""


def published(paths: Iterable[Path]) -> dict[str, list[Record]]:
    """Return the current records that notebooks publish and that were judged on MNIST's test images, by experiment.

    A notebook that was executed with other parameters, as in the rehearsal, publishes none. An experiment that ended
    without having learned to read is left out.

    Raises:
        RecordError: a record is damaged.
    """
    executed = [path for path in paths if "mnist_lib" in json.loads(path.read_text("utf-8"))["metadata"]]
    groups = {}
    for experiment, seeds in (run for path in executed for run in catalogue.published_runs(path)):
        if (experiment.recipe.dataset, experiment.recipe.evaluate_on) == ("mnist", "test"):
            files = [records.record_path(experiment.published, seed) for seed in range(seeds)]
            runs, digests = [catalogue.record(file) for file in files if file.exists()], experiment.digests
            groups[experiment.name] = [run for run in runs if not experiment.differences(run, digests)]
    return {name: runs for name, runs in groups.items() if runs and final_accuracy(runs).center > LEAST}


def write(groups: Mapping[str, Sequence[Record]], folder: Path) -> None:
    """Write what the page loads into `folder`: ``compare_data.js`` and, if MNIST is at hand, ``compare_images.png``.

    Raises:
        DataError: a file of MNIST is damaged.
    """
    files.write_atomically(folder / "compare_data.js", script(groups).encode())
    if images := _pictured(groups):
        column = data.load("mnist")[1].images[images].reshape(-1, 28).numpy()  # one image below the other
        Image.fromarray(column).save(written := io.BytesIO(), format="png", optimize=True)
        files.write_atomically(folder / "compare_images.png", written.getvalue())


def shown(groups: Mapping[str, Sequence[Record]]) -> list[int]:
    """Return the test images that most runs of an experiment misread. The page shows and counts no others."""
    counts = [
        (len(runs), Counter(index for run in runs for index, *_ in run.misclassified)) for runs in groups.values()
    ]
    return sorted({index for runs, wrong in counts for index, count in wrong.items() if count > runs / 2})


def _pictured(groups: Mapping[str, Sequence[Record]]) -> list[int]:
    """Return which test images there are pictures of: all that are shown, if MNIST is here."""
    return shown(groups) if data.have_mnist() else []


def script(groups: Mapping[str, Sequence[Record]]) -> str:
    """Return a script that sets the global `PUBLISHED` to `contents`: a page opened as a file can load nothing else."""
    return f"globalThis.PUBLISHED = {json.dumps(contents(groups), separators=(',', ':'), allow_nan=False)};\n"


def contents(groups: Mapping[str, Sequence[Record]]) -> dict[str, object]:
    """Return what the page shows.

    Keys: `task`, the accuracy that the task asks for, in percent; `experiments`, a list; `differences`, where
    ``[i][j]`` is that of the experiments i and j, from i to j, as ``[interval, meaning]``; `meanings`, where a meaning
    is looked up, because thousands of pairs share a few; `labels`, the digit on every image that is `shown`, by index;
    `pictured`, the images that there are pictures of; `chance`, what so many comparisons find by chance.
    """
    names = list(groups)
    differences: dict[str, dict[str, tuple[str, int]]] = {name: {} for name in names}
    meanings: dict[str, int] = {}
    found = 0
    for before, after in combinations(names, 2):
        there = accuracy_difference(groups[before], groups[after])
        back = Interval(*(0.0 - each for each in (there.center, there.high, there.low)))  # 0 - 0 has no minus
        differences[before][after] = f"{there:+.2f}", meanings.setdefault(in_words(there), len(meanings))
        differences[after][before] = f"{back:+.2f}", meanings.setdefault(in_words(back), len(meanings))
        found += there.low > 0 or back.low > 0
    digits = {index: digit for runs in groups.values() for run in runs for index, digit, _ in run.misclassified}
    labels = {index: digits[index] for index in shown(groups)}
    return {
        "task": TASK_ACCURACY,
        "experiments": [_experiment(name, runs, labels) for name, runs in groups.items()],
        "differences": [[differences[before].get(after) for after in names] for before in names],
        "meanings": list(meanings),
        "labels": labels,
        "pictured": _pictured(groups),
        "chance": _chance(len(names), found),
    }


def _experiment(name: str, runs: Sequence[Record], images: Collection[int]) -> dict[str, object]:
    accuracy = final_accuracy(runs)
    curves = np.array([run.test_accuracy for run in runs])
    means, lowest, highest = curves.mean(0), curves.min(0), curves.max(0)
    return {
        "name": name,
        "page": f"../notebooks/{name.partition('/')[0]}.html",
        "label": label(name),
        "parameters": runs[0].parameter_count,
        "epochs": len(means),
        "trained_before": len(means) if name.endswith("/continued") else 0,  # page.continued: the same recipe again
        "runs": len(runs),
        "reached": int(reached(run.test_accuracy[-1] for run in runs)),
        "accuracy": str(accuracy),
        "interval": _finite(accuracy),
        "curve": [np.round(each, 3).tolist() for each in (means, lowest, highest)],
        "course": f"mean test accuracy from {means[0]:.2f} % after the first epoch to {means[-1]:.2f} % after the last "
        f"of {len(means)}, where the runs reach from {lowest[-1]:.2f} to {highest[-1]:.2f} %",
        "mistakes": _mistakes(runs, images),
    }


def _finite(interval: Interval) -> list[float | None]:
    """Return the three numbers; JSON has no NaN."""
    numbers = (interval.center, interval.low, interval.high)
    return [None if math.isnan(number) else round(number, 4) for number in numbers]


def _mistakes(runs: Sequence[Record], images: Collection[int]) -> str:
    """Return what runs take these images for, in order, with commas between them.

    Of an image there is a character a run that misreads it: ``779`` for three mistakes.
    """
    answers = dict.fromkeys(images, "")
    for index, _, prediction in (mistake for run in runs for mistake in run.misclassified):
        if index in answers:
            answers[index] += str(prediction)
    return ",".join(answers.values())


def _chance(experiments: int, found: int) -> str:
    pairs = math.comb(experiments, 2)
    expected = (1 - CONFIDENCE) * pairs
    return (
        f"{experiments} experiments make {pairs} pairs. If all networks were equally good, about {expected:.0f} of "
        f"these pairs would still have an interval without zero in it, by chance alone. In fact {found} have one."
    )
