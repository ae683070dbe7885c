"""Sentences with numbers, as outputs of a notebook: they speak of the runs that the page shows, whichever these are.

A cell with the tag ``prose`` calls `prose`. The other functions give clauses, because "all 5 seeds end" and "the one
seed ends" differ in more than a number.
"""

import dataclasses
import inspect
from collections.abc import Sequence

from IPython.display import display

from mnist_lib import cells, experiments
from mnist_lib.digests import code_digest
from mnist_lib.parameters import ComparisonParameters, NotebookParameters, ParameterError
from mnist_lib.records import Record
from mnist_lib.results.comparison import accuracy_difference, in_words, label
from mnist_lib.results.target import final_accuracy


def prose(*paragraphs: str | bool | None) -> None:
    """Show paragraphs as one output in Markdown; those that are None, False or empty are left out."""
    text = "\n\n".join(inspect.cleandoc(each) for each in paragraphs if each)
    if text:
        display({"text/markdown": text}, raw=True)


def accuracy(runs: Sequence[Record]) -> str:
    """Say what the runs' accuracy is after the last epoch: "The mean … is 99.42 %, with a 95 % interval from …"."""
    mean, ends = final_accuracy(runs), [run.test_accuracy[-1] for run in runs]
    if len(runs) == 1:
        return f"The test accuracy after the last epoch is {mean.center:.2f} % (one run, so no interval)"
    said = f"The mean test accuracy after the last epoch is {mean.center:.2f} %"
    if len(runs) == 2:
        return f"{said}, of two runs at {min(ends):.2f} % and {max(ends):.2f} %"
    return f"{said}, with a 95 % interval from {mean.low:.2f} to {mean.high:.2f} over {len(runs)} seeds"


def change(before: Sequence[Record], after: Sequence[Record]) -> str:
    """Say by how much the mean accuracy differs: "+0.13 points [+0.05, +0.21]: a gain that …"."""
    difference = accuracy_difference(before, after)
    _, bracket, interval = f"{difference:+.2f}".partition("[")
    return f"{difference.center:+.2f} points{f' [{interval}' if bracket else ''}: {in_words(difference)}"


def share(part: int, whole: int, noun: str, singular: str, plural: str) -> str:
    """Say how many of how many: "all 5 seeds end", "2 of 5 seeds end", "none of 5 seeds ends", "the one seed ends".

    The noun is given in the singular, the verb in both numbers.
    """
    if whole == 1:
        return f"the one {noun} {singular}" if part else f"the one {noun} never {singular}"
    if part == whole:
        return f"both {noun}s {plural}" if whole == 2 else f"all {whole} {noun}s {plural}"
    if part == 0:
        return f"neither of the two {noun}s {singular}" if whole == 2 else f"none of {whole} {noun}s {singular}"
    return f"{part} of {whole} {noun}s {singular if part == 1 else plural}"


def count(number: float, noun: str, plural: str = "") -> str:
    """Say a number with its noun: "one seed", "5 seeds", "1,200 parameters", "34 mistakes"."""
    if number == 1:
        return f"one {noun}"
    return f"{number:,.0f} {plural or noun + 's'}"


def are_published(*groups: Sequence[Record]) -> bool:
    """Tell whether all these runs are published ones, so that sentences about those alone may stand beside them."""
    return all(is_published(run) for runs in groups for run in runs)


def is_published(run: Record) -> bool:
    """Tell whether a record was read from the published ones."""
    return run.path is not None and run.path.is_relative_to(experiments.published_records())


def yours(parameters: NotebookParameters | ComparisonParameters) -> str:
    """Say what differs from the published notebook: "Your run: epochs 1 (published 15), …"; nothing if nothing does."""
    name = getattr(parameters, "name", "")
    path = experiments.root() / "notebooks" / f"{name}.ipynb"
    try:
        there = cells.of_file(path) if name and path.exists() else None
    except ParameterError:
        there = None
    if there is None:
        return ""
    names = [f.name for f in dataclasses.fields(parameters) if f.name not in ("device", "network")]
    missing = object()
    changed = [n for n in names if getattr(parameters, n) != getattr(there, n, missing)]
    said = [
        f"{n} {_value(getattr(parameters, n))} ({'published ' * (i == 0)}{_value(getattr(there, n, 'without'))})"
        for i, n in enumerate(changed)
    ]
    mine, published = parameters.network, there.network
    if mine and published and code_digest(mine.source) != code_digest(published.source):
        said.append("another network")
    return f"**Your run:** {', '.join(said)}." if said else ""


def baseline(parameters: NotebookParameters) -> str:
    """Name what the page compares with, as tables do: "9 augmentation"."""
    return label(parameters.baseline)


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
