"""How a claim is judged against runs of the rebuilt network, by a rule that is fixed before the runs.

A claim is consistent with the runs if it lies inside their 95 % prediction interval, where one more run would be.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnist_lib.records import Record
from mnist_lib.results import figures
from mnist_lib.results.claims import REPORTS, Claim, Report
from mnist_lib.results.drawing import Picture
from mnist_lib.results.show import Table, glue
from mnist_lib.results.statistics import Interval, prediction_interval
from mnist_lib.results.target import TASK_ACCURACY, final_accuracy, reached

LAST_EPOCHS = 5
"""How many epochs at the end are averaged for the most demanding of the three readings of the task."""


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
        show, done = self.claim.format, [value for value in self.values if not math.isnan(value)]
        ours = f"{show(min(done))} to {show(max(done))}" if done else "never"
        if 0 < len(done) < len(self.values):
            ours += f", {len(self.values) - len(done)} of {len(self.values)} never"
        return {
            "statistic": str(self.claim),
            "published": show(self.claim.value),
            "verdict": self.verdict,
            "one more run, 95 %": "–" if math.isnan(self.expected.low) else self.claim.range(self.expected),
            "our runs, lowest to highest": ours,
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


def in_words(judged: Sequence[Judgement]) -> str:
    """The verdicts counted: ``all consistent``, ``5 consistent, 1 too low``, or, of a single claim, the verdict."""
    counts = Counter(each.verdict for each in judged)
    if len(counts) == 1:
        return f"{'all ' if len(judged) > 1 else ''}{judged[0].verdict}"
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def picture(judged: Mapping[str, Judgement]) -> Picture:
    """Every claim about an accuracy beside our runs, by the label of its row; left out is what our runs never do."""
    accuracies = {name: each for name, each in judged.items() if each.claim.statistic in ("final", "best", "epoch")}
    shown = {name: each for name, each in accuracies.items() if not all(map(math.isnan, each.values))}
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
            f"runs at {TASK_ACCURACY:.2f} %": f"{reached(values)} of {len(values)}",
        }
        for name, values in _by_reading(runs).items()
    )


def glue_judgements(judged: Sequence[Judgement], runs: Sequence[Record]) -> None:
    """Store the numbers that the analysis of a report needs."""
    by_best, by_final, by_mean = map(reached, _by_reading(runs).values())
    glue(verdicts=in_words(judged), claims=len(judged), by_best=by_best, by_final=by_final, by_mean=by_mean)


def synthesis(groups: Mapping[str, Sequence[Record]]) -> Table:
    """One row a report: its claims about accuracy beside our runs, and their verdicts.

    Arguments:
        groups: the runs of each report, by its key in `REPORTS`.
    """
    rows = []
    for key, runs in groups.items():
        judged = [each for each in judgements(REPORTS[key], runs) if each.claim.statistic in ("final", "best")]
        by_best, by_final, by_mean = map(reached, _by_reading(runs).values())
        rows.append(
            {
                "report": key,
                "parameters": f"{REPORTS[key].parameters:,}",
                "published final": _listed(judged, "final"),
                "published best": _listed(judged, "best"),
                "our final, mean": str(final_accuracy(runs)),
                "our best, mean": f"{sum(_by_reading(runs)['best epoch']) / len(runs):.2f}",
                "verdicts": ", ".join(dict.fromkeys(each.verdict for each in judged)),
                f"runs at {TASK_ACCURACY:.2f} %": f"{by_best}, {by_final}, {by_mean} of {len(runs)}",
            }
        )
    return Table(rows)


def glue_readings(groups: Mapping[str, Sequence[Record]]) -> None:
    """Store how many runs of all reports together reach the task's accuracy, by how it is read."""
    runs = [run for each in groups.values() for run in each]
    by_best, by_final, by_mean = map(reached, _by_reading(runs).values())
    glue(report_runs=len(runs), by_best=by_best, by_final=by_final, by_mean=by_mean)


def all_judged(groups: Mapping[str, Sequence[Record]]) -> dict[str, Judgement]:
    """The judgements of all claims of all reports, by report and statistic."""
    return {f"{key}: {each.claim}": each for key, runs in groups.items() for each in judgements(REPORTS[key], runs)}


def named(groups: Mapping[str, Sequence[Record]], verdict: str) -> str:
    """The claims of all reports that have this verdict, for a sentence."""
    found = [name.replace(", %", "") for name, each in all_judged(groups).items() if each.verdict == verdict]
    return "; ".join(found) or "none"


def _listed(judged: Sequence[Judgement], statistic: str) -> str:
    values = [each.claim.format(each.claim.value) for each in judged if each.claim.statistic == statistic]
    return ", ".join(values) or "–"


def _by_reading(runs: Sequence[Record]) -> dict[str, list[float]]:
    read = [readings(run) for run in runs]
    return {name: [each[name] for each in read] for name in read[0]}
