"""All runs that there are, yours and the published ones: one row for each experiment, as a data frame."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnist_lib import experiments, records
from mnist_lib.base.digests import UNPARSABLE, code_digest
from mnist_lib.parameters import NotebookParameters, ParameterError, Recipe
from mnist_lib.records import Record, RecordError
from mnist_lib.results import page, sweeps
from mnist_lib.results.statistics import Interval, mean_interval

YOURS, PUBLISHED = "yours", "published"

COLUMNS = [
    *("experiment", "where", "differences", "seeds", "runs", "unfinished", "evaluated_on", "mean", "low", "high"),
    *("parameters", "minutes", "device", "date", "folder"),
]


def table(pattern: str = "*", sweep: str | None = None) -> pd.DataFrame:
    """Return all runs, yours and the published ones, one row for each experiment.

    `differences` are those from the published recipe of the notebook of that name; where there is no such notebook,
    from the defaults. `mean`, `low` and `high` are percent of the images in `evaluated_on`, after the last epoch, and
    the 95 % interval of the mean, from three runs on. `minutes` are those of one run. `unfinished` counts runs that
    were interrupted.

    Arguments:
        pattern: of an experiment's name or folder, such as ``iteration_*``.
        sweep: the name of a sweep: its trials only, in its order, with a column for each value.

    Raises:
        ParameterError: there is no such sweep.
    """
    if sweep is None:
        return pd.DataFrame([_row(folder) for folder in matching(pattern)], columns=COLUMNS)
    rows = []
    for trial, found in zip((swept := sweeps.read(sweep)).trials, swept.found(), strict=True):
        folders = [run.path.parent for run in found] or [trial.experiment.store]
        folder = next(filter(is_yours, folders), folders[0])
        rows.append(trial.values | _row(folder, trial.experiment.name, found))
    columns = [*swept.values, *(name for name in COLUMNS if name not in swept.values)]
    return pd.DataFrame(rows, columns=columns)


def matching(pattern: str = "*") -> list[Path]:
    """Return the folders of runs whose experiment or own name matches: yours, finished or not, then the published."""
    published = {path.parent for path in experiments.published_records().rglob("seed_*.json")}
    yours = {path.parent for path in experiments.own_runs().glob("*/seed_*")}
    if experiments.PUBLISHED_ONLY in os.environ:
        yours = set()
    folders = [*sorted(yours), *sorted(published)]
    return [folder for folder in folders if any(fnmatchcase(name, pattern) for name in (_name(folder), folder.name))]


def is_yours(folder: Path) -> bool:
    """Tell whether a folder holds runs of your own store."""
    return folder.is_relative_to(experiments.runs_directory())


def delete(folder: Path, seeds: Iterable[int] | None = None) -> None:
    """Delete your own runs in a folder, those of `seeds` or all, and the folder, if nothing is left in it.

    Raises:
        RecordError: one of its runs is being trained; what is left is whole.
        FileError: the folder cannot be written; the same.
    """
    begun = _begun(folder)
    for seed in begun if seeds is None else sorted({*begun} & {*seeds}):
        with records.only_one(records.record_path(folder, seed), wait=False):
            for path in sorted(folder.glob(f"seed_{seed}.[!l]*")):  # the record before its weights, and not the lock
                path.unlink()
    if not _begun(folder):
        (folder / "experiment.py").unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's file lies there
            folder.rmdir()


def _begun(folder: Path) -> list[int]:
    """Return the seeds of which `folder` holds anything, ascending: a record, a checkpoint, a lock."""
    names = (re.match(r"seed_(0|[1-9]\d*)\.", path.name) for path in folder.glob("seed_*"))
    return sorted({int(name[1]) for name in names if name})


def in_words(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what a terminal has room for of a `table`, as text."""
    values = [name for name in frame.columns if name not in COLUMNS]
    words = frame[[*values, *(["experiment", "where", "differences"] if not values else ["where"]), "seeds"]].copy()
    intervals = zip(frame["mean"], frame["low"], frame["high"], strict=True)
    words["mean %"] = [f"{Interval(*each)}".replace("nan", "–").partition(" (")[0] for each in intervals]
    words["images"] = frame["evaluated_on"].astype(object).fillna("–")
    words["minutes"] = frame["minutes"].map("{:.1f}".format, na_action="ignore").astype(object).fillna("–")
    return words


def _name(folder: Path) -> str:
    if not is_yours(folder):
        return folder.relative_to(experiments.published_records()).as_posix()
    record = next(_read(folder), None)
    return folder.name if record is None else record.experiment


def _read(folder: Path) -> Iterator[Record]:
    """Return the records in a folder that can be read, their networks too."""
    for seed in records.published_seeds(folder):
        with suppress(RecordError, *UNPARSABLE):
            record = records.read(records.record_path(folder, seed))
            code_digest(record.network["source"])  # what differs is told by it
            yield record


def _row(folder: Path, name: str | None = None, runs: list[Record] | None = None) -> dict[str, Any]:
    runs = list(_read(folder)) if runs is None else runs
    row: dict[str, Any] = {"experiment": name or _name(folder), "where": YOURS if is_yours(folder) else PUBLISHED}
    row |= {"runs": len(runs), "unfinished": len(list(folder.glob("seed_*.partial.safetensors")))}
    row |= {"folder": str(folder)}
    damaged = len(records.published_seeds(folder)) - len(runs) if name is None else 0
    said = [f"{damaged} cannot be read: mnist-lib verify {folder}"] if damaged else []
    if not runs:
        return row | {"differences": ", ".join(said), "seeds": ""}
    mean, places = mean_interval([run.test_accuracy[-1] for run in runs]), [run.environment for run in runs]
    return row | {
        "differences": ", ".join(differences(runs[0]) + said),
        "seeds": ranges([run.seed for run in runs]),
        "evaluated_on": runs[0].parameters.get("evaluate_on"),
        "mean": mean.center,
        "low": mean.low,
        "high": mean.high,
        "parameters": runs[0].parameter_count,
        "minutes": float(np.mean([run.seconds for run in runs])) / 60,
        "device": "; ".join(dict.fromkeys(place["device_name"] for place in places)),
        "date": max(place["date"] for place in places),
    }


def differences(run: Record) -> list[str]:
    """Say what differs from the published recipe and network of the notebook that a run is named after."""
    there = _notebook(run.experiment.partition("/")[0])
    theirs = Recipe() if there is None else there.recipe
    try:
        mine = experiments.recipe_of(run)
    except ParameterError as error:
        return [str(error)]
    now, was = ({name: getattr(each, name) for name in each.identity} for each in (mine, theirs))
    pairs = {name: (getattr(mine, name), getattr(theirs, name)) for name in now | was}
    if there is not None:
        mine_too, theirs_too = run.network["arguments"], dict(there.network.arguments)
        pairs |= {name: (mine_too.get(name), theirs_too.get(name)) for name in mine_too | theirs_too}
    said = [f"{name} {here} ({other})" for name, (here, other) in pairs.items() if here != other]
    is_other = there is not None and code_digest(run.network["source"]) != code_digest(there.network.source)
    return said + ["another network"] * is_other


def _notebook(name: str) -> NotebookParameters | None:
    try:
        found = page.of_notebook(name)
    except ParameterError:
        return None
    return None if found.network is None else found


def ranges(seeds: Iterable[int]) -> str:
    """``0–4, 7`` for 0, 1, 2, 3, 4 and 7."""
    runs = [list(each) for _, each in groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0][1]) if len(run) == 1 else f"{run[0][1]}–{run[-1][1]}" for run in runs)
