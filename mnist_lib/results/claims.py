"""What five public reports claim, as data. Every figure is that of one public run, evaluated on the test images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnist_lib.records import Record
from mnist_lib.results.show import Table
from mnist_lib.results.statistics import Interval, first_epoch_at, steady_from_epoch
from mnist_lib.results.target import TASK_ACCURACY


@dataclass(frozen=True)
class Claim:
    """One number of a report.

    `statistic` is ``final``, ``best`` or ``epoch`` (the accuracy in percent after the last epoch, after the best one,
    after epoch number `epoch`), ``first`` or ``steady`` (the epoch at which 99.40 % is first reached, or from which on
    it is held). `run` tells public runs of the same code apart.
    """

    statistic: str
    value: float
    epoch: int = 0
    run: str = ""

    def __str__(self) -> str:
        words = {
            "final": "accuracy after the last epoch, %",
            "best": "accuracy after the best epoch, %",
            "epoch": f"accuracy after epoch {self.epoch}, %",
            "first": f"first epoch at {TASK_ACCURACY:.2f} %",
            "steady": f"at {TASK_ACCURACY:.2f} % from epoch",
        }[self.statistic]
        return f"{words} ({self.run})" if self.run else words

    @property
    def is_accuracy(self) -> bool:
        """Whether an accuracy is claimed, and not an epoch."""
        return self.statistic in ("final", "best", "epoch")

    def measure(self, run: Record) -> float:
        """Return the same statistic of one of our runs; NaN if the run never does it, or is too short."""
        accuracies = run.test_accuracy
        match self.statistic:
            case "final":
                return float(accuracies[-1])
            case "best":
                return float(accuracies.max())
            case "epoch":
                return float(accuracies[self.epoch - 1]) if self.epoch <= len(accuracies) else math.nan
        find = first_epoch_at if self.statistic == "first" else steady_from_epoch
        return float(find(accuracies, TASK_ACCURACY) or math.nan)

    def format(self, value: float) -> str:
        """Return a value of this statistic: an accuracy with two decimals, or an epoch."""
        if math.isnan(value):
            return "never"
        return f"{value:.0f}" if self.statistic in ("first", "steady") else f"{value:.2f}"

    def range(self, interval: Interval) -> str:
        """Return an interval of this statistic: accuracies with three decimals, or the epochs that lie in it."""
        if self.statistic in ("first", "steady"):
            return f"{math.ceil(interval.low)} to {math.floor(interval.high)}"
        return f"{interval.low:.3f} to {interval.high:.3f}"


@dataclass(frozen=True)
class Report:
    """A public report: where it is, what it says of its network and its run, and its numbers.

    The network itself stands in the report's notebook.
    """

    key: str
    source: str  # owner/repository, and the part
    parameters: int
    receptive_field: int | None
    epochs: int
    claims: tuple[Claim, ...]
    notebook: str

    @property
    def address(self) -> str:
        """Where the report is."""
        return f"https://github.com/{self.source.partition(',')[0]}"

    def table(self) -> Table:
        """One row per claim, as published."""
        field = self.receptive_field and f"{self.receptive_field} × {self.receptive_field} pixels"
        rows = [("parameters", f"{self.parameters:,}"), ("receptive field", field or "not stated")]
        rows += [(str(claim), claim.format(claim.value)) for claim in self.claims]
        return Table({"statistic": name, "published": value} for name, value in rows)


@dataclass(frozen=True)
class PublicRun:
    """A single public run that is the best of its kind among many logs: chosen on the test images."""

    name: str
    parameters: int
    accuracy: float  # percent of test images, after the last epoch


PUBLIC_BEST = PublicRun("the best public log", 9_844, 99.57)
"""The highest accuracy after the last epoch in 210 public logs of networks below 20,000 parameters, as of 2026."""

PUBLIC_SMALLEST = PublicRun("the smallest public network at 99.40 %", 5_196, 99.40)
"""The fewest parameters with 99.40 % after the last epoch in the same logs."""

REPORTS = {
    report.key: report
    for report in (
        Report(
            key="A",
            source="darshanvjani/ERA_vision_nlp_ai, Backpropagation & Architectural Basics",
            parameters=17_360,
            receptive_field=28,
            epochs=20,
            claims=(Claim("final", 99.44), Claim("best", 99.46)),
            notebook="reported_a_light_dropout",
        ),
        Report(
            key="B",
            source="Sushmitha-Katti/ERA, Session 6",
            parameters=16_858,
            receptive_field=28,
            epochs=19,
            claims=(Claim("final", 99.43), Claim("best", 99.47)),
            notebook="reported_b_heavy_dropout",
        ),
        Report(
            key="C",
            source="Madhur-1/ERA-v1, S6",
            parameters=19_698,
            receptive_field=27,
            epochs=20,
            claims=tuple(
                Claim(statistic, value, run=f"run {number}")
                for number, values in enumerate([(99.50, 99.51), (99.41, 99.47), (99.40, 99.44)], 1)
                for statistic, value in zip(("final", "best"), values, strict=True)
            ),
            notebook="reported_c_strided",
        ),
        Report(
            key="D",
            source="nandeesh-n-aiml/TSAI, S6",
            parameters=18_482,
            receptive_field=52,
            epochs=20,
            claims=(Claim("epoch", 99.35, epoch=1), Claim("epoch", 99.46, epoch=6), Claim("final", 99.45)),
            notebook="reported_d_padded_pairs",
        ),
        Report(
            key="E",
            source="Shivdutta/ERA2-Session6, Backpropagation Part 2",
            parameters=7_884,
            receptive_field=28,
            epochs=15,
            claims=(Claim("final", 99.56), Claim("best", 99.56), Claim("first", 10), Claim("steady", 11)),
            notebook="reported_e_one_cycle",
        ),
        Report(
            key="E, earlier",
            source="Shivdutta/ERA2-Session6, Backpropagation Part 2",
            parameters=12_178,
            receptive_field=None,
            epochs=19,
            claims=(Claim("final", 99.44),),
            notebook="reported_e_early",
        ),
    )
}
"""The reports, by the letter that this book calls them by."""


def of_reports(groups: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """Those of `groups` that are runs of a report's notebook, by the report's key."""
    return {key: groups[report.notebook] for key, report in REPORTS.items() if report.notebook in groups}
