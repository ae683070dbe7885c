"""What five public reports claim, as data, and how a claim is judged against runs of the rebuilt network.

Every figure is that of one public run, evaluated on the test images. A claim is judged by a rule that is fixed before
the runs: it is consistent with them if it lies inside the 95 % prediction interval, where one more run would be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnist_lib import figures
from mnist_lib.drawing import Picture
from mnist_lib.records import Record
from mnist_lib.show import Table, glue
from mnist_lib.statistics import Interval, first_epoch_at, prediction_interval, steady_from_epoch
from mnist_lib.target import TASK_ACCURACY

LAST_EPOCHS = 5
"""How many epochs at the end are averaged for the most demanding of the three readings of the task."""


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

    def measure(self, run: Record) -> float:
        """The same statistic of one of our runs; NaN if the run never does it, or is too short."""
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
        """A value of this statistic: an accuracy with two decimals, or an epoch."""
        if math.isnan(value):
            return "never"
        return f"{value:.0f}" if self.statistic in ("first", "steady") else f"{value:.2f}"


@dataclass(frozen=True)
class Report:
    """A public report: where it is, which network it describes, and its numbers."""

    key: str
    source: str  # owner/repository, and the part
    network: str  # a name of `mnist_lib.experiment.NETWORKS`
    parameters: int
    receptive_field: int | None
    claims: tuple[Claim, ...]
    notebook: str

    @property
    def address(self) -> str:
        """Where the report is."""
        return f"https://github.com/{self.source.partition(',')[0]}"

    def table(self) -> Table:
        """One row a claim, as published."""
        field = self.receptive_field and f"{self.receptive_field} × {self.receptive_field} pixels"
        rows = [("parameters", f"{self.parameters:,}"), ("receptive field", field or "not stated")]
        rows += [(str(claim), claim.format(claim.value)) for claim in self.claims]
        return Table({"statistic": name, "published": value} for name, value in rows)


REPORTS = {
    report.key: report
    for report in (
        Report(
            key="A",
            source="darshanvjani/ERA_vision_nlp_ai, Backpropagation & Architectural Basics",
            network="report_a",
            parameters=17_360,
            receptive_field=28,
            claims=(Claim("final", 99.44), Claim("best", 99.46)),
            notebook="reported_a_light_dropout",
        ),
        Report(
            key="B",
            source="Sushmitha-Katti/ERA, Session 6",
            network="report_b",
            parameters=16_858,
            receptive_field=28,
            claims=(Claim("final", 99.43), Claim("best", 99.47)),
            notebook="reported_b_heavy_dropout",
        ),
        Report(
            key="C",
            source="Madhur-1/ERA-v1, S6",
            network="report_c",
            parameters=19_698,
            receptive_field=27,
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
            network="report_d",
            parameters=18_482,
            receptive_field=52,
            claims=(Claim("epoch", 99.35, epoch=1), Claim("epoch", 99.46, epoch=6), Claim("final", 99.45)),
            notebook="reported_d_padded_pairs",
        ),
        Report(
            key="E",
            source="Shivdutta/ERA2-Session6, Backpropagation Part 2",
            network="deep",
            parameters=7_884,
            receptive_field=28,
            claims=(Claim("final", 99.56), Claim("best", 99.56), Claim("first", 10), Claim("steady", 11)),
            notebook="reported_e_one_cycle",
        ),
        Report(
            key="E, earlier",
            source="Shivdutta/ERA2-Session6, Backpropagation Part 2",
            network="report_e_early",
            parameters=12_178,
            receptive_field=None,
            claims=(Claim("final", 99.44),),
            notebook="reported_e_early",
        ),
    )
}
"""The reports, by the letter that this book calls them by."""


@dataclass(frozen=True)
class Judgement:
    """A claim beside the same statistic of our runs. `expected` is where one more run would be, NaN if that is open."""

    claim: Claim
    values: list[float]
    expected: Interval

    @property
    def verdict(self) -> str:
        """``consistent``, ``too high``, ``too low``, or ``not judged`` where the runs give no interval."""
        if math.isnan(self.expected.low):
            return "not judged"
        if self.claim.value > self.expected.high:
            return "too high"
        return "too low" if self.claim.value < self.expected.low else "consistent"

    def row(self) -> dict[str, str]:
        """For a table."""
        show, open_ended = self.claim.format, math.isnan(self.expected.low)
        reached = [value for value in self.values if not math.isnan(value)]
        return {
            "statistic": str(self.claim),
            "published": show(self.claim.value),
            "our runs, lowest to highest": f"{show(min(reached))} to {show(max(reached))}" if reached else "never",
            "runs that do it": f"{len(reached)} of {len(self.values)}",
            "one more run, 95 %": "–" if open_ended else f"{self.expected.low:.2f} to {self.expected.high:.2f}",
            "verdict": self.verdict,
        }


def judge(claim: Claim, runs: Sequence[Record]) -> Judgement:
    """A claim against runs of the same recipe; not decided where a run never does what is claimed."""
    values = [claim.measure(run) for run in runs]
    if any(map(math.isnan, values)):
        return Judgement(claim, values, Interval(math.nan, math.nan, math.nan))
    return Judgement(claim, values, prediction_interval(values))


def judgements(report: Report, runs: Sequence[Record]) -> list[Judgement]:
    """All claims of a report."""
    return [judge(claim, runs) for claim in report.claims]


def picture(judged: Mapping[str, Judgement]) -> Picture:
    """Every claim about an accuracy beside our runs, by the label of its row."""
    shown = {name: each for name, each in judged.items() if each.claim.statistic in ("final", "best", "epoch")}
    return figures.claims(
        list(shown),
        [each.values for each in shown.values()],
        [each.expected for each in shown.values()],
        [each.claim.value for each in shown.values()],
        TASK_ACCURACY,
    )


def epochs_beside(logged: Mapping[int, float], groups: Mapping[str, Sequence[Record]]) -> Table:
    """A published log beside our runs: a row each, a column for every epoch in `logged` that our runs have."""
    shortest = min(len(run.test_accuracy) for runs in groups.values() for run in runs)
    rows = [{"run": "published"} | {f"epoch {epoch}, %": f"{value:.2f}" for epoch, value in logged.items()}]
    for name, runs in groups.items():
        row = {"run": f"{name}, mean of {len(runs)}"}
        for epoch in logged:
            values = [run.test_accuracy[epoch - 1] for run in runs] if epoch <= shortest else []
            text = f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "–"
            row[f"epoch {epoch}, %"] = text
        rows.append(row)
    return Table(rows)


def readings(run: Record) -> dict[str, float]:
    """A run's accuracy in percent, read in three ways."""
    accuracies = run.test_accuracy
    return {
        "best epoch": float(accuracies.max()),
        "final epoch": float(accuracies[-1]),
        f"mean of the last {LAST_EPOCHS} epochs": float(accuracies[-LAST_EPOCHS:].mean()),
    }


def shares(runs: Sequence[Record]) -> Table:
    """How many of the runs reach the task's accuracy, by how it is read; epochs and parameters are not looked at."""
    return Table(
        {
            "accuracy read as": name,
            "mean, %": f"{sum(values) / len(values):.2f}",
            f"runs at {TASK_ACCURACY:.2f} %": f"{_reached(values)} of {len(values)}",
        }
        for name, values in _by_reading(runs).items()
    )


def glue_judgements(judged: Sequence[Judgement], runs: Sequence[Record]) -> None:
    """Store the numbers that the analysis of a report needs."""
    verdicts = [each.verdict for each in judged]
    by_best, by_final, by_mean = map(_reached, _by_reading(runs).values())
    glue(
        consistent=verdicts.count("consistent"),
        high=verdicts.count("too high"),
        low_claims=verdicts.count("too low"),
        open=verdicts.count("not judged"),
        claims=len(verdicts),
        by_best=by_best,
        by_final=by_final,
        by_mean=by_mean,
    )


def _by_reading(runs: Sequence[Record]) -> dict[str, list[float]]:
    read = [readings(run) for run in runs]
    return {name: [each[name] for each in read] for name in read[0]}


def _reached(accuracies: Sequence[float]) -> int:
    return sum(accuracy >= TASK_ACCURACY for accuracy in accuracies)
