"""How a claim is judged against runs of the rebuilt network, by one rule for all.

A claim is consistent with the runs if it lies inside their 95 % prediction interval, where one more run would be. How
much one run scatters at its end is taken from all networks together, where their runs are given: there is no sign that
they differ in it (`equal_spreads`), and five runs alone say little about it. In its early epochs each has its own.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from mnist_lib.records import Record
from mnist_lib.results import figures
from mnist_lib.results.claims import REPORTS, Claim, Report
from mnist_lib.results.comparison import in_brief
from mnist_lib.results.drawing import Picture
from mnist_lib.results.sentences import count, share
from mnist_lib.results.show import Table
from mnist_lib.results.statistics import FEWEST, Interval, difference_interval, prediction_interval
from mnist_lib.results.target import TASK_ACCURACY, Target, final_accuracy, reached

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
        if not self.expected.is_known:
            return "not judged"
        if self.claim.value > self.expected.high:
            return "too high"
        return "too low" if self.claim.value < self.expected.low else "consistent"

    @property
    def beyond(self) -> float:
        """How far the claim lies outside `expected`; 0 inside, NaN where that is open."""
        if not self.expected.is_known:
            return math.nan
        return max(self.claim.value - self.expected.high, self.expected.low - self.claim.value, 0.0)

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
            "one more run, 95 %": self.claim.range(self.expected) if self.expected.is_known else "–",
            "our runs, lowest to highest": ours,
        }


def judge(claim: Claim, runs: Sequence[Record], peers: Iterable[Sequence[Record]] = ()) -> Judgement:
    """Return a claim against runs of the same recipe; not decided where a run never does what is claimed.

    Arguments:
        claim: what was published.
        runs: of the rebuilt network.
        peers: the runs of all networks, from which the spread at the end of training is taken; else that of `runs`.
    """
    values = [claim.measure(run) for run in runs]
    if any(map(math.isnan, values)):
        return Judgement(claim, values, Interval(math.nan, math.nan, math.nan))
    expected = prediction_interval(values, _samples(claim.statistic, peers))
    least, most = (0.0, 100.0) if claim.is_accuracy else (1.0, float(min(len(run.test_accuracy) for run in runs)))
    expected = Interval(expected.center, max(expected.low, least), min(expected.high, most))
    return Judgement(claim, values, expected)


def _samples(statistic: str, groups: Iterable[Sequence[Record]]) -> list[list[float]]:
    """Return the final or the best accuracies of every group's runs; none for a statistic of other epochs."""
    if statistic not in AT_THE_END:
        return []
    return [[float(AT_THE_END[statistic](run.test_accuracy)) for run in runs] for runs in groups]


AT_THE_END = {"final": lambda accuracies: accuracies[-1], "best": max}
"""The statistics of a run that scatter alike in all networks, from its accuracies epoch by epoch."""


def equal_spreads(groups: Iterable[Sequence[Record]]) -> dict[str, float]:
    """Return the p-values of two tests that all groups' final accuracies scatter alike: small ones speak against it.

    Bartlett's takes the accuracies for normal; Levene's (Brown and Forsythe's form) does not.
    """
    samples = _samples("final", groups)
    tests = {"Bartlett": stats.bartlett, "Levene": stats.levene}
    if min(map(len, samples), default=0) < FEWEST or len(samples) < 2:
        return dict.fromkeys(tests, math.nan)
    return {name: float(test(*samples).pvalue) for name, test in tests.items()}


def judgements(
    report: Report, runs: Sequence[Record], peers: Mapping[str, Sequence[Record]] | None = None
) -> list[Judgement]:
    """All claims of a report; `peers` are the runs of all networks, by name, whose spread is used where given."""
    return [judge(claim, runs, (peers or {}).values()) for claim in report.claims]


VERDICTS = {"consistent": "consistent with {}", "too high": "too high for {}", "too low": "too low for {}"}
"""How a sentence says what a table says in a word; the runs' name goes into the braces."""


def in_words(judged: Sequence[Judgement]) -> str:
    """Say how published numbers are judged: "both published numbers are consistent with these runs"."""
    few = min(len(each.values) for each in judged) < FEWEST
    why = f" (that takes at least {FEWEST} runs)" if few else " (not every run does what is claimed)"
    if len(judged) > 1 and all(each.verdict not in VERDICTS for each in judged):
        return f"{share(0, len(judged), 'published number', 'is', 'are')} judged{why}"
    said: list[str] = []
    for verdict, number in Counter(each.verdict for each in judged).most_common():
        if said:
            start, runs = "one is" if number == 1 else f"{number} are", "them"
        else:
            start, runs = share(number, len(judged), "published number", "is", "are"), "these runs"
        said.append(f"{start} {VERDICTS.get(verdict, verdict).format(runs)}")
    text = " and ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else said[0]
    return text if all(each.verdict in VERDICTS for each in judged) else text + why


def by_the_rule(judged: Sequence[Judgement], runs: Sequence[Record]) -> str:
    """Say in sentences what the rule gives, and how far that carries."""
    said = [f"By the rule, {in_words(judged)}."]
    if any(each.verdict in VERDICTS for each in judged):
        said.append(
            f"The middles of the intervals come from {len(runs)} runs, "
            "so a claim close to an end is a close call either way."
        )
    if on_other_images(runs):
        said.append(
            "These runs saw other images than the report's run, so this is a rehearsal and no verdict on the report."
        )
    return " ".join(said)


def on_other_images(runs: Sequence[Record]) -> bool:
    """Tell whether runs were evaluated on other images than the reports', which used MNIST's test images."""
    return any(
        (run.parameters.get("dataset", "mnist"), run.parameters.get("evaluate_on", "test")) != ("mnist", "test")
        for run in runs
    )


def is_close(judged: Judgement, runs: Sequence[Record]) -> bool:
    """Tell whether a claim about an accuracy lies outside its interval by less than one of the images."""
    return judged.claim.is_accuracy and 0 < judged.beyond < 100 / runs[0].test_size


def picture(judged: Mapping[str, Judgement]) -> Picture | None:
    """Draw every claim about an accuracy beside our runs, by its row's label; what our runs never do is left out."""
    accuracies = {name: each for name, each in judged.items() if each.claim.is_accuracy}
    shown = {name: each for name, each in accuracies.items() if not all(map(math.isnan, each.values))}
    if not shown:
        return None
    return figures.claims(
        list(shown),
        [each.values for each in shown.values()],
        [each.expected for each in shown.values()],
        [each.claim.value for each in shown.values()],
        TASK_ACCURACY,
    )


def epochs_beside(logged: Mapping[int, float], groups: Mapping[str, Sequence[Record]]) -> Table:
    """Return a published log beside our runs: a row each, a column for every epoch in `logged` that our runs have."""
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


def course(runs: Sequence[Record], epochs: Iterable[int]) -> str:
    """Say where runs are after some epochs: "after epoch 1 the runs are at 97.84 % on average, and 98.21 % at most"."""
    said = []
    for epoch in epochs:
        values = [run.test_accuracy[epoch - 1] for run in runs]
        mean, several = f"{sum(values) / len(values):.2f} %", len(values) > 1
        most = f"on average, and {max(values):.2f} % at most"
        said.append(
            f"after epoch {epoch} " + (f"the runs are at {mean} {most}" if several else f"the run is at {mean}")
        )
    return "; ".join(said)


def against(before: Sequence[Record], runs: Sequence[Record], epochs: Iterable[int]) -> str:
    """Say where runs are beside others after some epochs: "behind after epoch 1 (-0.40 [-0.59, -0.21] points)".

    Raises:
        ValueError: there are no runs on one side.
    """
    where, said = {"a loss": "behind", "a gain": "ahead"}, []
    for epoch in epochs:
        gained = difference_interval(*([run.test_accuracy[epoch - 1] for run in each] for each in (runs, before)))
        word = where.get(in_brief(gained), "level, as far as can be told,")
        said.append(f"{word} after epoch {epoch} ({gained:+.2f} points)")
    return " and ".join(said)


def readings(run: Record, last: int = LAST_EPOCHS) -> dict[str, float]:
    """Read a run's accuracy, in percent, in three ways; the third is a mean over the `last` epochs."""
    accuracies = run.test_accuracy
    return {
        "best epoch": float(accuracies.max()),
        "final epoch": float(accuracies[-1]),
        f"mean of the last {f'{last} epochs' if last > 1 else 'epoch'}": float(accuracies[-last:].mean()),
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


def reached_by_reading(runs: Sequence[Record]) -> list[int]:
    """Count the runs that reach the task's accuracy: at the best epoch, the final one, on the mean of the last ones."""
    return [reached(values) for values in _by_reading(runs).values()]


def at_the_task(runs: Sequence[Record]) -> str:
    """Say how many runs reach the task's accuracy, read in three ways: "4 of 5 runs reach 99.40 % after the last …"."""
    (by_best, by_final, by_mean), whole, epochs = reached_by_reading(runs), len(runs), _shortest(runs)
    best, mean = "at the best epoch", f"on the average of the last {min(LAST_EPOCHS, epochs)} epochs"

    def reach(number: int) -> str:
        return f"{share(number, whole, 'run', 'reaches', 'reach')} {TASK_ACCURACY:.2f} %"

    if not by_best:
        return f"{reach(0)}{f', not even {best}' * (epochs > 1)}"
    if epochs == 1:
        return f"{reach(by_final)} after the only epoch"
    if min(by_best, by_final, by_mean) == whole:
        return f"{reach(whole)} {best}, after the last one and {mean}"
    if whole == 1:
        ways = {best: by_best, "after the last one": by_final, mean: by_mean}
        done, not_done = ([way for way, number in ways.items() if number == n] for n in (1, 0))
        return f"{reach(1)} {' and '.join(done)}, but not {' or '.join(not_done)}"
    words = {0: "neither", whole: "both"} if whole == 2 else {0: "none", whole: f"all {whole}"}
    others = [words.get(number, "one" if number == 1 else number) for number in (by_best, by_mean)]
    return f"{reach(by_final)} after the last epoch, {others[0]} {best}, and {others[1]} {mean}"


def bound(target: Target, runs: Sequence[Record]) -> str:
    """Say whether the target's bound on the accuracy is met: "The bound on the accuracy is undecided"."""
    if len(runs) < target.seeds:
        return f"With {count(len(runs), 'run')}, the bound on the accuracy stays undecided (that takes {target.seeds})"
    return f"The bound on the accuracy is {target.verdicts(runs)[-1]}"


def synthesis(groups: Mapping[str, Sequence[Record]], peers: Mapping[str, Sequence[Record]] | None = None) -> Table:
    """One row a report: its claims about accuracy beside our runs, and their verdicts.

    Arguments:
        groups: the runs of each report, by its key in `REPORTS`.
        peers: the runs of all networks, by name, whose spread is used where given.
    """
    rows = []
    for key, runs in groups.items():
        judged = [each for each in judgements(REPORTS[key], runs, peers) if each.claim.statistic in AT_THE_END]
        by_best, by_final, by_mean = reached_by_reading(runs)
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


def all_judged(
    groups: Mapping[str, Sequence[Record]], peers: Mapping[str, Sequence[Record]] | None = None
) -> dict[str, Judgement]:
    """Return the judgements of all claims of all reports, by report and statistic."""
    found = ((key, each) for key, runs in groups.items() for each in judgements(REPORTS[key], runs, peers))
    return {f"{key}: {each.claim}": each for key, each in found}


def named(judged: Iterable[str]) -> str:
    """List claims, called as in `all_judged`, for a sentence: "*D*, after epoch 1; *E*, after the best epoch"."""
    pairs = (name.replace(", %", "").split(": ") for name in judged)
    return "; ".join(f"*{key}*, {claim.removeprefix('accuracy ')}" for key, claim in pairs)


def _listed(judged: Sequence[Judgement], statistic: str) -> str:
    values = [each.claim.format(each.claim.value) for each in judged if each.claim.statistic == statistic]
    return ", ".join(values) or "–"


def _by_reading(runs: Sequence[Record]) -> dict[str, list[float]]:
    read = [readings(run, min(LAST_EPOCHS, _shortest(runs))) for run in runs]
    return {name: [each[name] for each in read] for name in read[0]}


def _shortest(runs: Sequence[Record]) -> int:
    return min(len(run.test_accuracy) for run in runs)
