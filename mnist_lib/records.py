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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout

from mnist_lib import fields, files
from mnist_lib.digests import bytes_digest

FORMAT = 1


class RecordError(files.FileError):
    """A record cannot be read, or cannot be written."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run. Lists in `history` have one entry an epoch; accuracies are counts of correct images."""

    experiment: str
    seed: int
    parameters: dict[str, Any]
    digests: dict[str, str]  # of the training code, of the data, and of what made the weights at the start
    parameter_count: int
    train_size: int
    class_counts: list[int]  # evaluation images of each digit
    history: dict[str, list[float]]  # learning_rate, train_loss, train_correct, test_loss, test_correct
    first_losses: list[float]
    misclassified: list[list[int]]  # [index, label, prediction] after the last epoch
    weights_digest: str
    environment: dict[str, Any]
    format: int = FORMAT

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
    """The seeds of which `folder` holds a record, ascending."""
    names = (re.fullmatch(r"seed_(0|[1-9]\d*)\.json", path.name) for path in folder.glob("seed_*.json"))
    return sorted(int(name[1]) for name in names if name)


def left_behind(folder: Path) -> dict[str, list[str]]:
    """What lies in a folder besides records and weights, by run: a lock, a checkpoint, half-written files."""
    found: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.glob("*seed_*.*")):
        if run := re.search(r"(seed_\d+)\.(?!(json|safetensors)$)", name):
            found.setdefault(run[1], []).append(name)
    return found


def weights_path(record: Path) -> Path:
    """Where the weights of the record at `record` lie."""
    return record.with_suffix(".safetensors")


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """While this is entered, no other process enters it for the record at `path`; a second one waits.

    The operating system frees the lock when its holder dies, however it dies. What a killed process had half written
    is removed.

    Raises:
        RecordError: the folder cannot be made or written.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            logging.getLogger(__name__).warning("%s: another process is training this run; waiting for it", path)
            lock.acquire()
    except OSError as error:
        raise RecordError(f"{path} could not be written: {error}") from error
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


def write(record: Record, weights: bytes, folder: Path) -> Path:
    """Write a record and its weights (safetensors, serialized); returns the record's path.

    Raises:
        RecordError: the folder cannot be written, the weights are not the record's, or a number in the record is NaN
            or infinite; what was there before is untouched.
    """
    path = record_path(folder, record.seed)
    if record.weights_digest != bytes_digest(weights):
        raise RecordError(f"{path}: the weights are not those that the record was made with")
    try:
        text = to_json(record)
    except ValueError as error:  # before anything is written
        raise RecordError(f"{path}: not written, because it holds a number that JSON cannot: {error}") from error
    try:
        files.replace_all({weights_path(path): weights, path: text.encode()})
    except files.FileError as error:
        raise RecordError(str(error)) from error
    return path


def read(path: Path) -> Record:
    """The record at `path`.

    Raises:
        RecordError: the file is missing, is not JSON, or is not a record: the message names the field.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read as a record: {error}") from error
    names = {f.name for f in dataclasses.fields(Record)}
    if not isinstance(content, dict) or content.get("format") != FORMAT or set(content) != names:
        raise RecordError(f"{path}: not a record of format {FORMAT}")
    if problem := fields.problem(content):
        raise RecordError(f"{path}: {problem}")
    if path != record_path(path.parent, content["seed"]):
        raise RecordError(f"{path}: this is the record of seed {content['seed']}")
    return Record(**content)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of the record at `path`, by name.

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
    """The record as text: a key a line, so that a diff shows what changed."""
    entries = (f"{json.dumps(key)}: {_value_to_json(value)}" for key, value in dataclasses.asdict(record).items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _value_to_json(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, allow_nan=False)
    inner = (f"  {json.dumps(key)}: {json.dumps(item, allow_nan=False)}" for key, item in value.items())
    return "{\n" + ",\n".join(inner) + "\n}"
