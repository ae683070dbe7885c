"""Sweeps: one notebook's recipe and network, with every combination of some values, and every seed.

A sweep is written down in the store of your own runs, by its name. Whoever knows the name finds its runs: the command
line, a page, another process. The file holds the recipe and the network: the notebook may change afterwards.
"""

import dataclasses
import json
import math
import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_lib import cells, experiments, records
from mnist_lib.base import files
from mnist_lib.base.digests import UNPARSABLE
from mnist_lib.experiments import Experiment
from mnist_lib.network import Network
from mnist_lib.parameters import (
    NotebookParameters,
    ParameterError,
    Recipe,
    check_distinct,
    said,
    suggestion,
    validate,
)
from mnist_lib.records import Record
from mnist_lib.results import page
from mnist_lib.results.page import SweepParameters

MOST_RUNS = 100_000
"""How many runs a sweep may ask for: more would be a slip of the keyboard."""

LONGEST_NAME = 150
"""Bytes of the name that a combination's values make; the rest is cut off."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One combination of a sweep's values, and the experiment that it makes."""

    values: dict[str, Any]
    experiment: Experiment

    def __str__(self) -> str:
        return ", ".join(f"{name} {said(value)}" for name, value in self.values.items())


@dataclass(frozen=True)
class Sweep:
    """Trials that belong together, and the seeds of each."""

    name: str
    notebook: str
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]

    @property
    def values(self) -> dict[str, list[Any]]:
        """The values that are swept, by name, each in the order in which it first occurs."""
        names = self.trials[0].values
        return {name: list(dict.fromkeys(trial.values[name] for trial in self.trials)) for name in names}

    def axes(self, value: str = "first") -> tuple[str, str | None]:
        """Return the name of the value to look at, by default the first one that varies, and of another that varies.

        Raises:
            ParameterError: no value of that name was swept.
        """
        varied = [name for name, values in self.values.items() if len(values) > 1] or [*self.values]
        if value not in ("first", *self.values):
            raise ParameterError(f"value = {value!r}: expected one of first, {', '.join(self.values)}")
        first = varied[0] if value == "first" else value
        return first, next((name for name in varied if name != first), None)

    def found(self) -> list[list[Record]]:
        """Return the records that are there, a list for each trial; nothing is trained."""
        each = ((experiments.find(trial.experiment, seed) for seed in self.seeds) for trial in self.trials)
        return [[record for record in found if record is not None] for found in each]

    def missing(self) -> list[tuple[Experiment, int]]:
        """Return the runs that have no valid record."""
        runs = [(trial.experiment, seed) for trial in self.trials for seed in self.seeds]
        return [(experiment, seed) for experiment, seed in runs if experiments.find_path(experiment, seed) is None]


def plan(
    notebook: Path,
    values: dict[str, Sequence[Any]],
    seeds: Sequence[int] | None = None,
    most: int | None = None,
    name: str | None = None,
) -> Sweep:
    """Make a sweep of a notebook, and check all of it: every value, every combination, every network.

    A sweep is there to choose from, so it is judged on the validation images, unless `values` name ``evaluate_on``.

    Arguments:
        notebook: the file; it is not executed.
        values: by the name of a parameter of the recipe or of an argument of the network.
        seeds: as many as the notebook has, if none are given.
        most: draw so many of the combinations, the same ones every time.
        name: of the sweep; if none is given, it is made of the notebook's and those of the values.

    Raises:
        ParameterError: a name or a value is not accepted, a network cannot be built, or two combinations would be the
            same run.
    """
    parameters = cells.of_file(notebook)
    if parameters.network is None:
        raise ParameterError(f"{notebook.name} has no network cell: it trains nothing that could be swept")
    name = "-".join([parameters.name, *values]) if name is None else name
    _check_name(name)
    if not _is_word(name):
        raise ParameterError(f"name = {name!r}: papermill would take it for a value: choose another one")
    if _page(name).exists():
        raise ParameterError(f"name = {name!r}: a page of the report has this name; choose another one")
    _check_names(values, parameters)
    seeds = experiments.checked_seeds(range(parameters.seeds) if seeds is None else seeds)
    count = math.prod(map(len, values.values()))
    if count > sys.maxsize:
        raise ParameterError("there are more combinations than a computer counts: give fewer values")
    drawn = count if most is None else min(most, count)
    if drawn * len(seeds) > MOST_RUNS:
        raise ParameterError(f"{drawn:,} combinations with {len(seeds)} seeds each are more than {MOST_RUNS:,} runs")
    grid = [_combination(values, number) for number in sorted(random.Random(0).sample(range(count), drawn))]
    recipe = dataclasses.replace(parameters.recipe, evaluate_on="validation")
    trials = _trials(parameters.name, recipe, parameters.network, grid)
    _check_different(trials)
    for trial in trials:
        try:
            trial.experiment.try_out()
        except ParameterError as error:
            raise ParameterError(f"({trial}): {error}") from error
    return Sweep(name, parameters.name, seeds, trials)


def _combination(values: dict[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """Return one of all combinations, by its number: there may be too many for a list. The last value changes first."""
    chosen = {}
    for name in reversed(values):
        number, place = divmod(number, len(values[name]))
        chosen[name] = values[name][place]
    return {name: chosen[name] for name in values}


def _check_name(name: str) -> None:
    if not records.is_name(name) or "/" in name:
        raise ParameterError(f"name = {name!r:.80}: expected the name of a sweep, such as my_rates")


def _is_word(name: str) -> bool:
    """Tell whether papermill's ``-p`` leaves a text as it is."""
    try:
        float(name)
    except ValueError:
        return name not in ("True", "False", "None")
    return False


def _check_names(values: Mapping[str, Sequence[Any]], parameters: NotebookParameters) -> None:
    known = [*(f.name for f in dataclasses.fields(Recipe)), *parameters.network.signature]
    if not values:
        raise ParameterError("a sweep needs values, such as learning_rate=0.01,0.1")
    for name in values:
        if name == "seeds":
            raise ParameterError("seeds is no value to sweep: give --seeds 0-4")
        check_distinct(name, values[name])
        if name not in known:
            hint = suggestion(name, known, "") or f"known: {', '.join(known)}"
            raise ParameterError(f"unknown parameter {name!r}: {hint}")


def _check_different(trials: Sequence[Trial]) -> None:
    """Two combinations that differ in what has no effect would be one run, and look like a finding."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        network = trial.experiment.network
        key = json.dumps([trial.experiment.recipe.identity, network.source, network.arguments], sort_keys=True)
        if key in seen:
            raise ParameterError(f"({seen[key]}) and ({trial}) would be the same run: leave one of them out")
        seen[key] = trial


def _trials(notebook: str, recipe: Recipe, network: Network, grid: Sequence[Mapping[str, Any]]) -> tuple[Trial, ...]:
    fields, trials = {f.name for f in dataclasses.fields(Recipe)}, []
    own = cells.of_file(_page(notebook)) if _page(notebook).exists() else None
    for values in grid:
        changed = dataclasses.replace(recipe, **{name: value for name, value in values.items() if name in fields})
        built = network.with_arguments({name: value for name, value in values.items() if name not in fields})
        exact = {name: getattr(changed, name, dict(built.arguments).get(name)) for name in values}  # 1 is 1.0
        is_own = own is not None and (changed, built) == (own.recipe, own.network)  # its published runs count
        name = notebook if is_own else _name(notebook, exact)
        if name in {trial.experiment.name for trial in trials}:  # it was cut off
            name += f"-{len(trials)}"
        teacher = page.teacher("none" if own is None else own.teacher, changed)
        trials.append(Trial(exact, Experiment(name, changed, built, teacher=teacher)))
    return tuple(trials)


def _name(notebook: str, values: Mapping[str, Any]) -> str:
    """Name a combination, ``iteration_10_one_cycle/learning_rate_0.1``: candidates of a page have such names, too."""
    words = "-".join(f"{name}_{said(value)}" for name, value in values.items())
    words = re.sub(r"[^\w.+-]", "_", words).encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{notebook}/{words}"


def folder() -> Path:
    """Where sweeps are written down."""
    return experiments.own_runs() / "sweeps"


def path(name: str) -> Path:
    """Where the sweep of that name is written down."""
    return folder() / f"{name}.json"


def write(sweep: Sweep) -> Path:
    """Write a sweep down by its name; one of the same notebook and over the same values is replaced: its runs are kept.

    Raises:
        ParameterError: another sweep has the name.
        FileError: the folder cannot be written.
    """
    target, first = path(sweep.name), sweep.trials[0].experiment
    content = {
        "notebook": sweep.notebook,
        "values": sweep.values,
        "seeds": sweep.seeds,
        "combinations": [list(trial.values.values()) for trial in sweep.trials],
        "recipe": {name: value for name, value in first.recipe.identity.items() if name not in sweep.values},
        "network": first.network.described,
    }
    if target.exists():
        there = read(sweep.name)
        if (there.notebook, [*there.values]) != (sweep.notebook, [*sweep.values]):
            raise ParameterError(
                f"{sweep.name} is a sweep of {there.notebook} over {', '.join(there.values)}: give this one another "
                f"name with --name, or delete that one with `mnist-lib runs --sweep {sweep.name} --delete`"
            )
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    with experiments.in_store(target):
        files.write_atomically(target, f"{{\n{lines}\n}}\n".encode())
    return target


def read(name: str) -> Sweep:
    """Return the sweep of that name: one of yours, or the one that a page of the report has published.

    Raises:
        ParameterError: there is no such sweep, or its file is damaged.
    """
    _check_name(name)
    if _page(name).exists():
        return _published(name)
    try:
        content = json.loads(path(name).read_text("utf-8"))
        grid = [dict(zip(content["values"], each, strict=True)) for each in content["combinations"]]
        if not any(grid):
            raise ValueError("it has no combinations")
        trials = _trials(content["notebook"], Recipe(**content["recipe"]), Network(**content["network"]), grid)
        return Sweep(name, content["notebook"], experiments.checked_seeds(content["seeds"]), trials)
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in folder().glob("*.json"))) or "none yet"
        raise ParameterError(f"there is no sweep {name!r} in {folder()}; there: {known}") from None
    except OSError as error:
        raise ParameterError(f"{path(name)}: cannot be read: {error.strerror}") from error
    except (*cells.UNREADABLE, *UNPARSABLE) as error:
        raise ParameterError(f"{path(name)}: cannot be read as a sweep: {error!r:.200}; delete it") from error


def _page(name: str) -> Path:
    return experiments.root() / "notebooks" / f"{name}.ipynb"


def _published(name: str) -> Sweep:
    """Return the sweep of the learning rate that a page has published."""
    values = cells.notebook_parameters(_page(name))
    if "cnn_learning_rates" in values:
        swept = validate(SweepParameters, values)
        notebook, seeds, tried = swept.experiment, swept.seeds, page.sweep(swept)
    elif values.get("learning_rates") and cells.has_network(_page(name)):
        parameters = cells.of_file(_page(name))
        notebook, seeds, tried = name, parameters.candidate_seeds, page.candidates(parameters)
    else:
        raise ParameterError(f"the page {name} has published no sweep")
    trials = tuple(Trial({"learning_rate": rate}, experiment) for rate, experiment in tried.items())
    return Sweep(name, notebook, tuple(range(seeds)), trials)
