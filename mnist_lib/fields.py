"""What a record's fields must be. Records are files that may come from anywhere; `records.read` refuses bad ones."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_HISTORY = ("learning_rate", "train_loss", "train_correct", "test_loss", "test_correct")
_Check = Callable[[Any], bool]  # of a value that came from JSON


def problem(content: Mapping[str, Any]) -> str | None:
    """What is wrong with the content of a record: the first bad field and what is expected; None if nothing is.

    Arguments:
        content: a value for every field of `mnist_lib.records.Record`.
    """
    for name, (is_valid, expected) in _FIELDS.items():
        if not is_valid(content[name]):
            return f"{name} = {content[name]!r:.60}: expected {expected}"
    size = sum(content["class_counts"])
    if beyond := [mistake for mistake in content["misclassified"] if mistake[0] >= size]:
        return f"misclassified = {beyond!r:.60}: expected indices below {size:,}, the number of images in class_counts"
    return None


def is_name(value: Any) -> bool:
    """Whether `value` may name an experiment: a path below the folder of records, such as ``iteration_01/variant``."""
    return isinstance(value, str) and len(value) < 200 and bool(re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 2**53


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e308  # false for NaN; JSON may hold whole numbers of any size


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bool) or _is_number(value)


def _list_of(is_valid: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(is_valid, value))


def _dict_with(rest: _Check, **known: _Check) -> _Check:
    """A dictionary that has the `known` keys with valid values; all other values are checked by `rest`."""
    return lambda value: (
        isinstance(value, dict)
        and known.keys() <= value.keys()
        and all(known.get(key, rest)(item) for key, item in value.items())
    )


def _is_history(value: Any) -> bool:
    counts = dict.fromkeys(("train_correct", "test_correct"), _list_of(_is_count))
    lists = _dict_with(lambda _: False, **dict.fromkeys(_HISTORY, _list_of(_is_number)) | counts)
    return lists(value) and 0 < len(value["test_correct"]) and len({*map(len, value.values())}) == 1


def _is_mistake(value: Any) -> bool:
    return _list_of(_is_count)(value) and len(value) == 3 and max(value[1:]) <= 9


_FIELDS: dict[str, tuple[_Check, str]] = {
    "experiment": (is_name, "a name such as iteration_01_setup"),
    "seed": (_is_count, "a whole number from 0"),
    "parameters": (_dict_with(_is_scalar), "numbers and words by name"),
    "digests": (_dict_with(_is_text, code=_is_text, data=_is_text), "words by name, code and data among them"),
    "parameter_count": (_is_count, "a whole number from 0"),
    "train_size": (lambda value: _is_count(value) and value > 0, "a whole number from 1"),
    "class_counts": (
        lambda value: _list_of(_is_count)(value) and len(value) == 10 and sum(value) > 0,
        "ten whole numbers, not all 0",
    ),
    "history": (_is_history, f"{', '.join(_HISTORY)}: numbers, one for each epoch"),
    "first_losses": (_list_of(_is_number), "a list of numbers"),
    "misclassified": (_list_of(_is_mistake), "a list of [index, label, prediction]"),
    "weights_digest": (lambda value: _is_text(value) and bool(re.fullmatch("[0-9a-f]{64}", value)), "a SHA-256"),
    "environment": (
        _dict_with(
            lambda _: True,
            date=_is_text,
            device_name=_is_text,
            torch=_is_text,
            threads=_is_count,
            commit=lambda value: value is None or _is_text(value),
            epoch_seconds=_list_of(_is_number),
        ),
        "date, device_name and torch as words, threads, commit, and epoch_seconds as a list of numbers",
    ),
    "format": (_is_count, "a whole number"),
}
"""What each field of a record must be, as a check and in words."""
