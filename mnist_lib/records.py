"""Run records: one JSON file a run, its weights beside it, both written so that they are whole or not there.

``<folder>/seed_<k>.json`` holds what was run (parameters, digests), what came out (history, misclassified images) and
where (environment); ``<folder>/seed_<k>.safetensors`` holds the weights after the last epoch. Everything outside
``environment`` is the same whenever the same run is repeated on the same kind of machine.

A record may come from anywhere, so every field is checked when it is read. Weights are safetensors, which hold numbers
only: nothing is ever unpickled.
"""

import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout

from mnist_lib.base.digests import bytes_digest, text_digest
from mnist_lib.base.files import FileError, replace_all

FORMAT = 2

LONGEST_NAME = 200
"""Bytes; a name is part of a folder's, which may have 255."""

NAMED = f"a name such as iteration_11_mine, of fewer than {LONGEST_NAME} bytes"
"""What an experiment may be called, in words."""


class RecordError(FileError):
    """A record is none, is damaged, or is not to be had now."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run. Lists in `history` have one entry an epoch; accuracies are counts of correct images."""

    experiment: str
    seed: int
    parameters: dict[str, Any]  # the recipe
    network: dict[str, Any]  # the source of the function that built it, its name and arguments
    digests: dict[str, str]  # of the training code, the network, the data, and of what made the weights at the start
    parameter_count: int
    train_size: int
    class_counts: list[int]  # evaluation images of each digit
    history: dict[str, list[float]]  # learning_rate, train_loss, train_correct, test_loss, test_correct
    first_losses: list[float]
    misclassified: list[list[int]]  # [index, label, prediction] after the last epoch
    trained_correct: int  # training images, unchanged, that the final weights get right in evaluation mode
    weights_digest: str
    environment: dict[str, Any]
    format: int = FORMAT
    path: Path | None = field(default=None, compare=False)  # where it was read; no part of the file

    @property
    def digest(self) -> str:
        """The digest of the record's content, which its file states."""
        return text_digest(json.dumps(_content(self), sort_keys=True))

    @property
    def results_digest(self) -> str:
        """The digest of what came out; that of the content changes when new code is found to compute the same."""
        kept = {name: value for name, value in _content(self).items() if name not in ("digests", "format")}
        kept["environment"] = {name: value for name, value in self.environment.items() if name != "accepted"}
        return text_digest(json.dumps(kept, sort_keys=True))

    @property
    def final_train_accuracy(self) -> float:
        """Percent of training images, unchanged, that the final weights get right in evaluation mode."""
        return 100 * self.trained_correct / self.train_size

    @property
    def test_size(self) -> int:
        """How many images the run was evaluated on."""
        return sum(self.class_counts)

    @property
    def test_accuracy(self) -> np.ndarray:
        """Percent of evaluation images classified correctly, one entry an epoch."""
        return 100 * np.array(self.history["test_correct"]) / self.test_size

    @property
    def train_accuracy(self) -> np.ndarray:
        """Percent of training images classified correctly while they were trained on, one entry an epoch."""
        return 100 * np.array(self.history["train_correct"]) / self.train_size

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(self.environment["epoch_seconds"])


def record_path(folder: Path, seed: int) -> Path:
    """Where the record of `seed` lies in `folder`."""
    return folder / f"seed_{seed}.json"


def published_seeds(folder: Path) -> list[int]:
    """Return the seeds of which `folder` holds a record, ascending."""
    names = (re.fullmatch(r"seed_(0|[1-9]\d*)\.json", path.name) for path in folder.glob("seed_*.json"))
    return sorted(int(name[1]) for name in names if name)


def weights_path(record: Path) -> Path:
    """Where the weights of the record at `record` lie."""
    return record.with_suffix(".safetensors")


@contextmanager
def only_one(path: Path, wait: bool = True) -> Iterator[None]:
    """While this is entered, no other process enters it for the record at `path`; a second one waits, or is refused.

    The operating system frees the lock when its holder dies, however it dies. What a killed process had half written
    is removed.

    Raises:
        FileError: the folder cannot be made or written.
        RecordError: another process is at it and `wait` is False.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise RecordError(f"{path}: {_holder(path)}") from None
            logging.getLogger(__name__).warning("%s: %s; waiting for it", path, _holder(path))
            lock.acquire()
    except OSError as error:
        raise FileError(f"{path} could not be written: {error}") from error
    try:
        for scratch in path.parent.glob(f".{path.stem}.*"):
            with suppress(OSError):
                scratch.unlink()
        yield
    finally:
        # Before the release: afterwards it may be another process's. Who waits for a file that is gone tries again
        # (filelock since 3.30).
        with suppress(OSError):  # the folder may have vanished
            os.unlink(lock.lock_file)
        lock.release()


def _holder(path: Path) -> str:
    """Say who is at the run whose record is to lie at `path`, in words.

    Where a file system has no locks, the lock is a file that names its holder. One that was killed on another machine
    leaves it behind, and nobody here can know: so say when the run was last heard of, and what to do.
    """
    lock = path.with_suffix(".lock")
    try:
        process, _, machine = lock.read_text("utf-8").partition("\n")
        heard = max(each.stat().st_mtime for each in path.parent.glob(f"{path.stem}.*"))
    except (OSError, ValueError):
        return "another process is training this run"
    machine = machine.partition("\n")[0]
    if not (process.isdecimal() and machine):
        return "another process is training this run"
    return (
        f"process {process} on {machine} is training this run, last heard of {(time.time() - heard) / 60:.0f} minutes "
        f"ago. If it was killed, delete {lock}, and the run goes on from its last epoch"
    )


def write(record: Record, weights: bytes, folder: Path) -> Path:
    """Write a record and its weights (safetensors, serialized); returns the record's path.

    Raises:
        FileError: the folder cannot be written; what was there before is untouched.
        RecordError: the weights are not the record's, or a number in the record is NaN or infinite, or it would be
            refused when it is read; the same.
    """
    path = record_path(folder, record.seed)
    if record.weights_digest != bytes_digest(weights):
        raise RecordError(f"{path}: the weights are not those that the record was made with")
    try:
        text = to_json(record)
    except ValueError as error:  # before anything is written
        raise RecordError(f"{path}: not written, because it holds a number that JSON cannot: {error}") from error
    if problem := _problem(json.loads(text)):
        raise RecordError(f"{path}: not written, because it could not be read again: {problem}")
    replace_all({weights_path(path): weights, path: text.encode()})
    return path


def read(path: Path) -> Record:
    """Return the record at `path`.

    Raises:
        RecordError: the file is missing, is not JSON, or is not a record: the message names the field.
    """
    try:
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=_named_once)
        json.dumps(content, ensure_ascii=False).encode()  # half a character is written by nobody
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read as a record: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.keys() != _FIELDS.keys():
        raise RecordError(f"{path}: not a record of format {FORMAT}")
    if problem := _problem(content):
        raise RecordError(f"{path}: {problem}")
    if path != record_path(path.parent, content["seed"]):
        raise RecordError(f"{path}: this is the record of seed {content['seed']}")
    stated = content.pop("digest")
    record = Record(**content, path=path)
    if record.digest != stated:
        raise RecordError(f"{path}: altered: its content does not have the digest that it states")
    return record


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dictionary of JSON; of two values of one name, people would read the one and `json` the other."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it says {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the record at `path`, by name.

    Raises:
        RecordError: they are missing, or are not those that the record was made with.
    """
    file = weights_path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RecordError(f"{file}: the weights cannot be read: {error}") from error
    if bytes_digest(content) != read(path).weights_digest:
        raise RecordError(f"{file}: damaged: these are not the weights that {path.name} was made with")
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise RecordError(f"{file}: not a safetensors file: {error}") from error


def to_json(record: Record) -> str:
    """Write the record as text, one line per key, so that a diff shows what changed."""
    content = _content(record) | {"digest": record.digest}
    entries = (f"{json.dumps(key)}: {_value_to_json(value)}" for key, value in content.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _content(record: Record) -> dict[str, Any]:
    """Return what a record's file holds, but for its digest."""
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "path"}


def _value_to_json(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, allow_nan=False)
    inner = (f"  {json.dumps(key)}: {json.dumps(item, allow_nan=False)}" for key, item in value.items())
    return "{\n" + ",\n".join(inner) + "\n}"


def _problem(content: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the content of a record: the first bad field and what is expected; None if nothing is.

    Arguments:
        content: a value for every field of a record's file.
    """
    for name, (form, expected) in _FIELDS.items():
        if not _fits(content[name], form):
            return f"{name} = {content[name]!r:.60}: expected {expected}"
    return next((f"{name}: expected {expected}" for name, expected, holds in _agreeing(content) if not holds), None)


def _agreeing(content: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield what the fields of a record say about each other: the field, what is expected of it, and whether it is so.

    Arguments:
        content: valid values, each by itself.
    """
    counts, trained, history = content["class_counts"], content["train_size"], content["history"]
    size, epochs, mistakes = sum(counts), len(history["test_correct"]), content["misclassified"]
    recipe, seconds = content["parameters"], content["environment"]["epoch_seconds"]
    yield "history", "numbers for each epoch, one at least", epochs > 0 and {*map(len, history.values())} == {epochs}
    yield "history", f"{recipe.get('epochs')} epochs, as in parameters", recipe.get("epochs", epochs) == epochs
    for name, most, whole in (("test_correct", size, "class_counts"), ("train_correct", trained, "train_size")):
        yield f"history, {name}", f"counts up to {most:,}, as in {whole}", max(history[name]) <= most
    yield "trained_correct", f"a count up to {trained:,}, the train_size", content["trained_correct"] <= trained
    ordered = all(a[0] < b[0] for a, b in pairwise([*mistakes, [size]]))
    yield "misclassified", f"indices below {size:,}, as in class_counts, in order, none twice", ordered
    wrong = size - history["test_correct"][-1]
    expected = f"{wrong:,} images: class_counts less the last test_correct of history"
    yield "misclassified", expected, len(mistakes) == wrong
    labels = [label for _, label, prediction in mistakes if label != prediction]
    possible = len(labels) == wrong and all(labels.count(digit) <= counts[digit] for digit in range(10))
    yield "misclassified", "predictions that are not the label, of each digit not more than class_counts has", possible
    yield "environment, epoch_seconds", f"a number for each of {epochs} epochs, as in history", len(seconds) == epochs


def is_name(value: Any) -> bool:
    """Whether `value` may name an experiment: a path below the folder of records, such as ``iteration_01/variant``."""
    if not (isinstance(value, str) and re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", value)):
        return False
    return len(value.encode(errors="replace")) < LONGEST_NAME  # file systems count bytes


def _fits(value: Any, form: Any) -> bool:
    """Tell whether a value that came from JSON has a form.

    A form is a type, a check, a tuple of forms, of which one must fit, a list with the form of each item, or a
    dictionary of forms: ``"name?"`` may be missing, and `...` is the name of all others. Numbers are from 0, and so
    large that a float holds them.
    """
    if isinstance(form, dict):
        forms = {name if name is ... else name.removesuffix("?"): each for name, each in form.items()}
        needed = form.keys() & forms.keys() - {...}
        known = isinstance(value, dict) and needed <= value.keys()
        return known and all(_fits(item, forms.get(name, forms.get(..., ()))) for name, item in value.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return any(_fits(value, each) for each in form)
    if form in (int, float):
        return type(value) in (int, form) and 0 <= value <= (2**53 if form is int else 1e308)
    return type(value) is form if isinstance(form, type) else bool(form(value))


def _is_scalar(value: Any) -> bool:
    return _fits(value, (str, bool)) or (type(value) in (int, float) and abs(value) <= 1e308)


def _is_date(value: Any) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except (TypeError, ValueError):
        return False


def _is_digest(value: Any) -> bool:
    return _fits(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _is_commit(value: Any) -> bool:
    return value is None or _is_digest(value) or (_fits(value, str) and bool(re.fullmatch("[0-9a-f]{40}", value)))


_HISTORY = {
    "learning_rate": [float],
    "train_loss": [float],
    "train_correct": [int],
    "test_loss": [float],
    "test_correct": [int],
}
_ENVIRONMENT = {
    "date": _is_date,
    "python?": str,
    "torch": str,
    "device?": lambda value: value in ("cpu", "cuda", "mps"),
    "device_name": str,
    "cpu_capability?": str,
    "threads": lambda value: _fits(value, int) and value > 0,
    "commit": _is_commit,
    "changed?": (bool, type(None)),
    "epoch_seconds": [float],
    "evaluated?": {"date": _is_date, "torch": str, "device_name": str, "commit": _is_commit},
    "accepted?": [{"date": _is_date, "commit": _is_commit, "code": _is_digest, "checked": [str], ...: _is_digest}],
}
_FIELDS = {
    "experiment": (is_name, "a name such as iteration_01_setup"),
    "seed": (int, "a whole number from 0"),
    "parameters": ({...: _is_scalar}, "numbers and words by name"),
    "network": (
        {"source": str, "name": str, "arguments": {...: _is_scalar}},
        "its source, its name and its arguments",
    ),
    "digests": (
        {"code": _is_digest, "network": _is_digest, "data": str, ...: str},
        "code and network, each a SHA-256, data, and other words by name",
    ),
    "parameter_count": (int, "a whole number from 0"),
    "train_size": (lambda value: _fits(value, int) and value > 0, "a whole number from 1"),
    "class_counts": (
        lambda value: _fits(value, [int]) and len(value) == 10 and sum(value) > 0,
        "ten whole numbers, not all 0",
    ),
    "history": (_HISTORY, f"{', '.join(_HISTORY)}: numbers from 0, one for each epoch"),
    "first_losses": ([float], "a list of numbers from 0"),
    "misclassified": (
        [lambda value: _fits(value, [int]) and len(value) == 3 and max(value[1:]) <= 9],
        "a list of [index, label, prediction]",
    ),
    "trained_correct": (int, "a whole number from 0"),
    "weights_digest": (_is_digest, "a SHA-256"),
    "environment": (_ENVIRONMENT, f"{', '.join(_ENVIRONMENT)}, each of its kind, and nothing else".replace("?", "")),
    "format": (int, "a whole number"),
    "digest": (str, "a SHA-256"),
}
"""The form of each field of a record, and the same in words."""
