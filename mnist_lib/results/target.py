"""Targets: what an experiment sets out to reach, and whether it did."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mnist_lib.records import Record
from mnist_lib.results.show import Table
from mnist_lib.results.statistics import Interval, mean_interval

TASK_ACCURACY = 99.40
"""Percent of test images that the task asks for."""

TASK_PARAMETERS = 20_000
"""The task asks for fewer."""


@dataclass(frozen=True)
class Target:
    """What an iteration sets out to reach, decided before it is run; a bound that is None is not asked for.

    The accuracy is that of the test set after the last epoch, in percent. It counts as met when the whole 95 %
    interval of the mean over seeds lies at or above it, as missed when the whole interval lies below, and as
    undecided otherwise, or when there are fewer than `seeds` runs.
    """

    accuracy: float
    parameters: int | None = None  # fewer than
    epochs: int | None = None  # fewer than
    seeds: int = 5  # at least, to judge the accuracy

    def rows(self) -> list[dict[str, str]]:
        """One row a criterion: what is measured and what is asked for."""
        asked = [
            ("parameters", self.parameters and f"fewer than {self.parameters:,}"),
            ("epochs", self.epochs and f"fewer than {self.epochs}"),
            ("mean accuracy after the last epoch", f"at least {self.accuracy:.2f} %"),
        ]
        return [{"criterion": name, "target": bound} for name, bound in asked if bound]

    def _repr_html_(self) -> str:
        return Table(self.rows())._repr_html_()

    def __repr__(self) -> str:
        return repr(Table(self.rows()))

    def verdicts(self, runs: Sequence[Record]) -> list[str]:
        """``met``, ``missed`` or ``undecided`` for each of `rows`."""
        accuracy = final_accuracy(runs)
        verdicts = []
        if self.parameters:
            verdicts.append("met" if runs[0].parameter_count < self.parameters else "missed")
        if self.epochs:
            verdicts.append("met" if runs[0].parameters["epochs"] < self.epochs else "missed")
        return [*verdicts, "undecided" if len(runs) < self.seeds else verdict(accuracy, self.accuracy)]

    def check(self, runs: Sequence[Record]) -> Table:
        """Return the target beside the result; to three decimals where two would hide the reason of a verdict."""
        accuracy = final_accuracy(runs)
        hidden = any(end < self.accuracy == round(end, 2) for end in (accuracy.low, accuracy.high))
        results = {
            "parameters": f"{runs[0].parameter_count:,}",
            "epochs": str(runs[0].parameters["epochs"]),
            "mean accuracy after the last epoch": in_percent(runs, ".3f" if hidden else ".2f"),
        }
        return Table(
            row | {"result": results[row["criterion"]], "verdict": verdict}
            for row, verdict in zip(self.rows(), self.verdicts(runs), strict=True)
        )


def verdict(accuracy: Interval, bound: float) -> str:
    """Return ``met`` where the whole interval lies at or above `bound`, ``missed`` where all of it lies below.

    Otherwise, and where there is no interval, it is ``undecided``.
    """
    if not accuracy.is_known:
        return "undecided"
    if accuracy.low >= bound:
        return "met"
    return "missed" if accuracy.high < bound else "undecided"


def reached(accuracies: Iterable[float]) -> int:
    """How many of the accuracies, in percent, are what the task asks for."""
    return sum(bool(accuracy >= TASK_ACCURACY) for accuracy in accuracies)


def final_accuracy(runs: Sequence[Record]) -> Interval:
    """Return the mean accuracy after the last epoch, in percent, with an interval that stays within 0 and 100."""
    mean = mean_interval([run.test_accuracy[-1] for run in runs])
    return Interval(mean.center, max(mean.low, 0.0), min(mean.high, 100.0)) if mean.is_known else mean


def in_percent(runs: Sequence[Record], spec: str = ".2f") -> str:
    """Write the accuracy after the last epoch: ``99.41 [99.36, 99.46] %``, or ``99.41 % (one run, no interval)``."""
    accuracy = final_accuracy(runs)
    if not accuracy.is_known:
        return f"{accuracy.center:{spec}} % ({'one run' if len(runs) == 1 else f'{len(runs)} runs'}, no interval)"
    return f"{accuracy:{spec}} %"


def train_accuracy(runs: Sequence[Record]) -> float:
    """Return the mean share of training images, unchanged, that the final weights get right with nothing dropped."""
    return sum(run.final_train_accuracy for run in runs) / len(runs)


def logged_train_accuracy(runs: Sequence[Record]) -> float:
    """Return the mean share that was right while the last epoch was trained: with moving weights, dropout, rotations.

    So it understates what the network knows; see `train_accuracy`. Both are in percent.
    """
    return sum(float(run.train_accuracy[-1]) for run in runs) / len(runs)
