"""What an experiment can be asked to do, and the refusal of anything else.

A recipe is written once, in the ``parameters`` cell of a notebook; papermill overrides it with ``-p``. papermill only
warns about a name it does not know, so notebooks check for themselves (`mnist_lib.cells`): unknown names, wrong types
and values out of range are refused before anything trains.
"""

import ast
import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from mnist_lib import records
from mnist_lib.base.digests import UNPARSABLE
from mnist_lib.data import DATASETS

Schema = TypeVar("Schema")


class ParameterError(ValueError):
    """A parameter has an unknown name, a wrong type or a value that is not accepted."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it: the sentence is all that helps
        return [f"{type(self).__name__}: {self}"]


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    low: float,
    high: float,
    above: bool = False,
    length: int | None = None,
    **more: Any,
) -> Any:
    """Declare a number from `low` to `high`; with ``above=True``, `low` itself is excluded.

    A list is checked item by item; with `length`, it must have so many. `effect` tells of a recipe whether the value
    has any.
    """
    return field(default=default, metadata={"low": low, "high": high, "above": above, "length": length} | more)


def choice(default: Any = dataclasses.MISSING, *, options: Sequence[str], **more: Any) -> Any:
    """Declare one of a few words."""
    return field(default=default, metadata={"options": tuple(options)} | more)


def switch(default: bool = False, **more: Any) -> Any:
    """Declare True or False."""
    return field(default=default, metadata=more)


_types = cache(typing.get_type_hints)  # of a class, which is made again and again


class Checked:
    """What is checked field by field when it is made, from a notebook or by hand."""

    def __post_init__(self) -> None:
        hints = _types(type(self))
        for f in dataclasses.fields(self):
            if not f.metadata.get("internal"):
                object.__setattr__(self, f.name, _check(f, getattr(self, f.name), hints[f.name]))
        if not records.is_name(name := getattr(self, "name", "unnamed")):
            raise ParameterError(f"name = {name!r:.80}: expected {records.NAMED}")


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """The recipe of a training run: all that decides its result, apart from the network and the seed.

    A field added later must default to what was done before it existed; records made earlier then stay valid.

    Raises:
        ParameterError: a value has the wrong type or is out of range.
    """

    dataset: str = choice("mnist", options=tuple(DATASETS))
    evaluate_on: str = choice("test", options=("test", "validation"))
    preparation: str = choice("none", options=("none", "deskew"))
    epochs: int = bounded(15, low=1, high=1000)
    batch_size: int = bounded(128, low=2, high=60_000)
    optimizer: str = choice("sgd", options=("sgd", "adamw", "muon"))
    learning_rate: float = bounded(0.01, low=0, high=100, above=True)
    other_learning_rate: float = bounded(0.01, low=0, high=100, above=True, effect=lambda r: r.optimizer == "muon")
    momentum: float = bounded(
        0.9, low=0, high=0.9999, effect=lambda r: r.optimizer != "adamw" and r.schedule != "one_cycle"
    )
    nesterov: bool = switch(effect=lambda r: r.optimizer == "sgd")
    weight_decay: float = bounded(0.0, low=0, high=10)
    schedule: str = choice(
        "constant",
        options=("constant", "step", "one_cycle", "linear", "cosine"),
        effect=lambda r: r.schedule != "step" or r.is_stepped,
    )
    step_size: int = bounded(10, low=1, high=1000, effect=lambda r: r.is_stepped)
    step_factor: float = bounded(0.1, low=0, high=1, above=True, effect=lambda r: r.is_stepped)
    warm_up: float = bounded(0.2, low=0, high=0.9, effect=lambda r: r.schedule in ("linear", "cosine"))
    label_smoothing: float = bounded(0.0, low=0, high=0.9, effect=lambda r: not r.teachers or r.distillation < 1)
    average_decay: float = bounded(0.0, low=0, high=0.99999)
    statistics_images: int = bounded(0, low=0, high=60_000)
    teachers: int = bounded(0, low=0, high=100)
    distillation: float = bounded(0.5, low=0, high=1, effect=lambda r: r.teachers > 0)
    temperature: float = bounded(1.0, low=0.1, high=100, effect=lambda r: r.teachers > 0)
    rotation: float = bounded(0.0, low=0, high=180)
    crop_probability: float = bounded(0.0, low=0, high=1)
    interpolation: str = choice("bilinear", options=("bilinear", "nearest"), effect=lambda r: r.is_rotated_alone)
    shear: float = bounded(0.0, low=0, high=1)
    scale: float = bounded(0.0, low=0, high=0.9)
    translation: float = bounded(0.0, low=0, high=14)
    elastic: float = bounded(0.0, low=0, high=14)
    fade: float = bounded(0.0, low=0, high=1, effect=lambda r: r.may_fade and r.final_strength < 1)
    final_strength: float = bounded(0.0, low=0, high=1, effect=lambda r: r.may_fade and r.fade and r.final_strength < 1)
    precision: str = choice("float32", options=("float32", "bfloat16"))
    threads: int = bounded(1, low=1, high=256)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and has_effect(self, "nesterov") and has_effect(self, "momentum") and not self.momentum:
            raise ParameterError("nesterov = True: it needs a momentum above 0")
        if self.teachers and not self.distillation:
            raise ParameterError("distillation = 0.0: from teachers nothing would be learnt; for none, teachers is 0")

    @property
    def is_stepped(self) -> bool:
        """Whether the rate changes in steps, and one comes before the end."""
        return self.schedule == "step" and self.step_size < self.epochs and self.step_factor < 1

    @property
    def is_affine(self) -> bool:
        """Whether images are sheared, scaled or moved: rotation is then part of the same map."""
        return bool(self.shear or self.scale or self.translation)

    @property
    def is_rotated_alone(self) -> bool:
        """Whether images are rotated, and not resampled for anything else, too."""
        return bool(self.rotation) and not (self.is_affine or self.elastic)

    @property
    def is_augmented(self) -> bool:
        """Whether training images are changed at random."""
        return bool(self.rotation or self.crop_probability or self.is_affine or self.elastic)

    @property
    def may_fade(self) -> bool:
        """Whether there are changes of images that could become smaller from one epoch to the next."""
        return self.is_augmented and self.epochs > 1

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a run's result: the values that are no defaults, where they have an effect."""
        dataset, fields = DATASETS[self.dataset], dataclasses.fields(Recipe)
        images = dataset.training_images - (dataset.held_out if self.evaluate_on == "validation" else 0)
        values = {f.name: getattr(self, f.name) for f in fields}
        # More images than there are do what all of them do.
        values |= {name: min(values[name], images) for name in ("batch_size", "statistics_images")}
        return {f.name: values[f.name] for f in fields if values[f.name] != f.default and has_effect(self, f.name)}


SHOWN = {"shown": True}
"""What is shown beside a page's own runs: a page whose parameters cell does not name it shows nothing of the kind."""


@dataclass(frozen=True, kw_only=True)
class NotebookParameters(Recipe):
    """What an iteration's notebook accepts: the recipe, and how much of it to run on what.

    `name` names the published records. `seeds` counts runs (seeds 0 to ``seeds - 1``). `baseline` names the notebook
    to compare with, or ``none``. `learning_rates` are candidates that are compared on the validation split, with
    `candidate_seeds` runs each. `continued_seeds` runs are trained once more, from the weights that they ended with.
    `teacher` names the notebook whose first `teachers` runs teach, or ``none``.
    `variants` are recipes that differ in a few values, with `variant_seeds` runs each (`results.page.variants`).
    `beside` are other notebooks, or patterns of their names, whose runs are shown beside these as they are.
    """

    name: str
    seeds: int = bounded(5, low=1, high=1000)
    device: str = "auto"
    baseline: str = field(default="none", metadata=SHOWN)
    learning_rates: list[float] = bounded((), low=0, high=100, above=True, **SHOWN)
    candidate_seeds: int = bounded(3, low=1, high=1000, **SHOWN)
    continued_seeds: int = bounded(0, low=0, high=1000, **SHOWN)
    teacher: str = field(default="none", metadata={"effect": lambda p: p.teachers > 0})
    variants: list[str] = field(default=(), metadata=SHOWN)
    variant_seeds: int = bounded(10, low=1, high=1000, **SHOWN)
    beside: list[str] = field(default=(), metadata=SHOWN)
    network: Any = field(default=None, metadata={"internal": True})  # a Network, from the cell of that name

    def __post_init__(self) -> None:
        if self.baseline is None:  # papermill reads `-p baseline None` so
            object.__setattr__(self, "baseline", "none")
        super().__post_init__()

    @property
    def recipe(self) -> Recipe:
        """The part that decides the result."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


def said(value: Any) -> str:
    """Return a value as pages and folders say it: ``1`` and not ``1.0``, and six digits."""
    return f"{value:g}" if type(value) is float else str(value)


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Refuse things to compare that could not be told apart on a page.

    Raises:
        ParameterError: there are none, or two are said in the same way.
    """
    if len({said(value) for value in values}) < max(1, len(values)):
        six = ", to six digits" if any(type(value) is float for value in values) else ""
        raise refusal(name, list(values), f"at least one, and none of them twice{six}")


def has_effect(checked: Any, name: str) -> bool:
    """Tell whether a value of a checked set of parameters matters, the others being what they are."""
    effect = checked.__dataclass_fields__[name].metadata.get("effect")
    return effect is None or effect(checked)


YAML_WORDS = ("true", "false", "null", "yes", "no", "on", "off")
"""Words that YAML takes for values."""


def literal(text: str) -> int | float | bool | str:
    """Return the value that a text writes: a number, True or False, or else a word."""
    try:
        value = ast.literal_eval(text)
    except UNPARSABLE:
        return text
    return value if isinstance(value, int | float | str) else text


def in_yaml(value: int | float | bool | str) -> str:
    """Write a value as papermill's ``-y`` must be given it: YAML takes 1e-05 for a word, and ``a: b`` for a pair."""
    if not isinstance(value, str):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    is_plain = re.fullmatch(r"[A-Za-z][\w.+-]*", value) and value.lower() not in YAML_WORDS
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def suggestion(word: str, known: Iterable[str], before: str = "; ") -> str:
    """Return a question for the known word that is nearest to `word`, behind `before`; nothing if none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"{before}did you mean {near[0]!r}?" if near else ""


def validate(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Build `schema` from `values`.

    Raises:
        ParameterError: a name is unknown (the nearest known one is suggested), a required one is missing, or a value
            has the wrong type or is out of range. The message names the parameter, the value and what is accepted.
    """
    fields = {f.name: f for f in dataclasses.fields(schema) if not f.metadata.get("internal")}
    for name in values:
        if name not in fields:
            hint = suggestion(name, fields, "") or f"known: {', '.join(fields)}"
            if name == "network":
                hint = "a network is changed in the notebook's network cell"
            raise ParameterError(f"unknown parameter {name!r}: {hint}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING:
            raise ParameterError(f"parameter {name!r} is missing")
    return schema(**values)


def _check(f: dataclasses.Field, value: Any, kind: Any) -> Any:
    """`value` as `kind`, within the rules of the field."""
    checked = _checked(f.name, value, kind, f.metadata)
    is_compared = isinstance(checked, tuple) and f.metadata.get("length") is None
    if is_compared and (checked or f.default != ()):  # an empty list is accepted where it is the default
        check_distinct(f.name, checked)
    return checked


def _checked(name: str, value: Any, kind: Any, rules: Mapping[str, Any]) -> Any:
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        length = rules.get("length")
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            example = "['a', 'b']" if item is str else "[0.01, 0.1]"
            accepted = f"a list of {length} numbers" if length else f"a list such as {example}"
            how = f"; to papermill give lists with -y '{name}: [...]'" if isinstance(value, str) else ""
            raise refusal(name, value, accepted + how)
        return tuple(_checked(f"{name}[{i}]", v, item, rules) for i, v in enumerate(value))
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise refusal(name, value, _accepted(kind, rules))
    if kind in (int, float) and "low" in rules:
        high_enough = value > rules["low"] if rules["above"] else value >= rules["low"]
        if not (high_enough and value <= rules["high"]):  # NaN is neither
            raise refusal(name, value, _accepted(kind, rules))
    if "options" in rules and value not in rules["options"]:
        raise refusal(name, value, _accepted(kind, rules) + suggestion(value, rules["options"]))
    return float(value) if kind is float else value


def _accepted(kind: type, rules: Mapping[str, Any]) -> str:
    if "options" in rules:
        return "one of " + ", ".join(rules["options"])
    words = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}.get(kind, str(kind))
    if "low" in rules:
        words += " above {low:g} up to {high:g}" if rules["above"] else " from {low:g} to {high:g}"
    return words.format(**rules)


def refusal(name: str, value: Any, accepted: str) -> ParameterError:
    """Return the error that says which value is not accepted, and what would be."""
    hint = ""
    if isinstance(value, str) and accepted.startswith(("a number", "a whole number")):
        whole = accepted.startswith("a whole number")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (number.is_integer() or not whole):
            number = int(number) if whole else number
            hint = f" (a string that looks like a number: write {in_yaml(number)}, without quotes)"
    return ParameterError(f"{name} = {value!r}: expected {accepted}{hint}")
