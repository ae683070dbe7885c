"""What an experiment can be asked to do, and the refusal of anything else.

A recipe is a `Recipe`. It is written once, in the ``parameters`` cell of a notebook; papermill overrides it
with ``-p``. papermill only warns about a name it does not know, so the notebooks check for themselves: `from_notebook`
reads which names were assigned and refuses unknown names, wrong types and values out of range before anything trains.
"""

import ast
import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Schema = TypeVar("Schema")


class ParameterError(ValueError):
    """A parameter has an unknown name, a wrong type or a value that is not accepted."""


def bounded(
    default: Any = dataclasses.MISSING, *, low: float, high: float, above: bool = False, length: int | None = None
) -> Any:
    """A number from `low` to `high`; with ``above=True``, `low` itself is excluded.

    A list is checked item by item; with `length`, it must have so many.
    """
    return field(default=default, metadata={"low": low, "high": high, "above": above, "length": length})


def choice(default: Any = dataclasses.MISSING, *, options: Sequence[str]) -> Any:
    """One of a few words."""
    return field(default=default, metadata={"options": tuple(options)})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe of a training run: all that decides its result, apart from the seed.

    A field added later must default to what was done before it existed; records made earlier then stay valid.
    """

    network: str
    dataset: str = choice("mnist", options=("mnist", "digits"))
    evaluate_on: str = choice("test", options=("test", "validation"))
    epochs: int = bounded(15, low=1, high=1000)
    batch_size: int = bounded(128, low=2, high=60_000)
    learning_rate: float = bounded(0.01, low=0, high=100, above=True)
    momentum: float = bounded(0.9, low=0, high=0.9999)
    schedule: str = choice("constant", options=("constant", "step", "one_cycle"))
    step_size: int = bounded(10, low=1, high=1000)
    step_factor: float = bounded(0.1, low=0, high=1, above=True)
    rotation: float = bounded(0.0, low=0, high=180)
    crop_probability: float = bounded(0.0, low=0, high=1)
    interpolation: str = choice("bilinear", options=("bilinear", "nearest"))
    precision: str = choice("float32", options=("float32", "bfloat16"))
    threads: int = bounded(1, low=1, high=256)


@dataclass(frozen=True, kw_only=True)
class NotebookParameters(Recipe):
    """What an iteration's notebook accepts: the recipe, and how much of it to run on what.

    `name` names the published records. `seeds` counts runs (seeds 0 to ``seeds - 1``). `baseline` names the notebook
    to compare with, or ``none``. `learning_rates` are candidates that are compared on the validation split, with
    `candidate_seeds` runs each. `continued_seeds` runs are trained once more, from the weights that they ended with.
    """

    name: str
    seeds: int = bounded(5, low=1, high=1000)
    device: str = "auto"
    baseline: str = "none"
    learning_rates: list[float] = bounded((), low=0, high=100, above=True)
    candidate_seeds: int = bounded(3, low=1, high=1000)
    continued_seeds: int = bounded(0, low=0, high=1000)

    @property
    def recipe(self) -> Recipe:
        """The part that decides the result."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


@dataclass(frozen=True, kw_only=True)
class ComparisonParameters:
    """What a notebook that compares experiments accepts: which ones, on what data, and how much of each.

    With ``epochs = 0``, each experiment has as many epochs as its own notebook says.
    """

    experiments: list[str]
    dataset: str = choice("mnist", options=("mnist", "digits"))
    evaluate_on: str = choice("test", options=("test", "validation"))
    epochs: int = bounded(15, low=0, high=1000)
    seeds: int = bounded(5, low=1, high=1000)
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ExerciseParameters:
    """The network of two inputs, two hidden and two output units.

    `weights` are w1 to w8, numbered as in `mnist_lib.backprop.network`. The defaults are those of the public exercise.
    """

    inputs: list[float] = bounded((0.05, 0.10), low=-1000, high=1000, length=2)
    targets: list[float] = bounded((0.01, 0.99), low=0, high=1, length=2)
    weights: list[float] = bounded((0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55), low=-1000, high=1000, length=8)


@dataclass(frozen=True, kw_only=True)
class BackpropParameters(ExerciseParameters):
    """What the derivation of backpropagation accepts."""

    learning_rate: float = bounded(0.5, low=0, high=1000)
    steps: int = bounded(100, low=1, high=100_000)


@dataclass(frozen=True, kw_only=True)
class SweepParameters(ExerciseParameters):
    """What the sweep over learning rates accepts: one for the network of eight weights, one for a real network.

    `learning_rates` and `steps` are for the network of eight weights. `experiment` names the notebook whose network and
    recipe are trained on images with each of `cnn_learning_rates`, held constant, for `epochs` epochs.
    """

    learning_rates: list[float] = bounded((0.1, 0.2, 0.5, 0.8, 1.0, 2.0), low=0, high=1000, above=True)
    steps: int = bounded(1000, low=1, high=100_000)
    experiment: str
    cnn_learning_rates: list[float] = bounded((0.01, 0.1, 1.0), low=0, high=100, above=True)
    dataset: str = choice("mnist", options=("mnist", "digits"))
    epochs: int = bounded(3, low=1, high=1000)
    seeds: int = bounded(3, low=1, high=1000)
    device: str = "auto"


def validate(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Build `schema` from `values`.

    Raises:
        ParameterError: a name is unknown (the nearest known one is suggested), a required one is missing, or a value
            has the wrong type or is out of range. The message names the parameter, the value and what is accepted.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            raise ParameterError(f"unknown parameter {name!r}: {hint}")
    checked = {name: _check(name, value, hints[name], fields[name].metadata) for name, value in values.items()}
    for name, value in checked.items():
        if isinstance(value, tuple) and fields[name].metadata.get("length") is None:
            # An empty list is accepted where it is the default.
            if len({*value}) < len(value) or not (value or fields[name].default == ()):
                raise _refusal(name, list(value), "at least one, and none of them twice")
    for name, f in fields.items():
        if name not in checked and f.default is dataclasses.MISSING:
            raise ParameterError(f"parameter {name!r} is missing")
    return schema(**checked)


def _check(name: str, value: Any, kind: Any, rules: Mapping[str, Any]) -> Any:
    """`value` as `kind`, within `rules`."""
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        length = rules.get("length")
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            example = "['a', 'b']" if item is str else "[0.01, 0.1]"
            accepted = f"a list of {length} numbers" if length else f"a list such as {example}"
            how = f"; to papermill give lists with -y '{name}: [...]'" if isinstance(value, str) else ""
            raise _refusal(name, value, accepted + how)
        return tuple(_check(f"{name}[{i}]", v, item, rules) for i, v in enumerate(value))
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise _refusal(name, value, _accepted(kind, rules))
    if kind in (int, float) and rules:
        high_enough = value > rules["low"] if rules["above"] else value >= rules["low"]
        if not (high_enough and value <= rules["high"]):  # NaN is neither
            raise _refusal(name, value, _accepted(kind, rules))
    if "options" in rules and value not in rules["options"]:
        near = difflib.get_close_matches(value, rules["options"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise _refusal(name, value, _accepted(kind, rules) + hint)
    return float(value) if kind is float else value


def _accepted(kind: type, rules: Mapping[str, Any]) -> str:
    if "options" in rules:
        return "one of " + ", ".join(rules["options"])
    words = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}.get(kind, str(kind))
    if "low" in rules:
        words += " above {low:g} up to {high:g}" if rules["above"] else " from {low:g} to {high:g}"
    return words.format(**rules)


def _refusal(name: str, value: Any, accepted: str) -> ParameterError:
    hint = ""
    if isinstance(value, str) and accepted.startswith(("a number", "a whole number")):
        whole = accepted.startswith("a whole number")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (number.is_integer() or not whole):
            number = int(number) if whole else number
            hint = f" (a string that looks like a number: write {number!r}, without quotes)"
    return ParameterError(f"{name} = {value!r}: expected {accepted}{hint}")


def from_notebook(schema: type[Schema]) -> Schema:
    """The parameters of the running notebook, checked.

    Looks through the cells that the kernel has executed: the last one that assigns annotated parameters of `schema`,
    and every later one that papermill injected (its first line is ``# Parameters``).

    Raises:
        ParameterError: as `validate`, or when no parameters cell has been executed.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise ParameterError("from_notebook works inside a notebook; elsewhere call validate(schema, values)")
    names = [f.name for f in dataclasses.fields(schema)]
    cells = shell.history_manager.input_hist_parsed  # not `In`, which a parameter of that name would replace
    if any(cells):  # nbval keeps no history; it runs notebooks as they are, with nothing injected
        names = assigned_names(cells, set(names))
    return validate(schema, {name: shell.user_ns[name] for name in names if name in shell.user_ns})


def notebook_parameters(path: Path) -> dict[str, Any]:
    """The values that the ``parameters`` cell of the notebook at `path` assigns; the notebook is not executed.

    Raises:
        ParameterError: there is no such cell, or a value is not a literal.
    """
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        sources = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{path}: not a notebook: {error!r}") from error
    if len(sources) != 1:
        raise ParameterError(f"{path.name}: one cell must have the tag `parameters`, {len(sources)} have it")
    try:
        nodes = [node for node in ast.parse(sources[0]).body if isinstance(node, ast.AnnAssign)]
        return {ast.unparse(node.target): ast.literal_eval(node.value) for node in nodes}
    except (SyntaxError, ValueError) as error:
        raise ParameterError(f"{path.name}: the parameters cell must hold literals only: {error}") from error


def assigned_names(cells: Sequence[str], known: set[str]) -> list[str]:
    """The names assigned by the last parameters cell in `cells` and by the cells injected after it.

    A parameters cell consists of annotated assignments (``epochs: int = 15``), at least one to a name in `known`.
    """
    trees = [_assignments(source) for source in cells]
    starts = [i for i, (_, annotated) in enumerate(trees) if annotated & known]
    if not starts:
        raise ParameterError("no parameters cell has been executed: run the notebook from its top")
    start = starts[-1]
    injected = [i for i in range(start + 1, len(cells)) if cells[i].lstrip().split("\n")[0].rstrip() == "# Parameters"]
    return list(dict.fromkeys(name for i in (start, *injected) for name in trees[i][0]))


def _assignments(source: str) -> tuple[list[str], set[str]]:
    """All names that a cell assigns at its top level, in order, and those of them that are annotated."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with IPython's own syntax holds no parameters
        return [], set()
    annotated = [n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    plain = [t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    return annotated + plain, set(annotated)
