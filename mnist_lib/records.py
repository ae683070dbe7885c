"""Run records: one JSON file a run, its weights beside it, both written so that they are whole or not there.

``<folder>/seed_<k>.json`` holds what was run (parameters, digests), what came out (history, misclassified images) and
where (environment); ``<folder>/seed_<k>.safetensors`` holds the weights after the last epoch. Everything outside
``environment`` is the same whenever the same run is repeated on the same kind of machine.
"""

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from mnist_lib.digests import bytes_digest

FORMAT = 1


class RecordError(RuntimeError):
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


def weights_path(record: Path) -> Path:
    """Where the weights of the record at `record` lie."""
    return record.with_suffix(".safetensors")


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
    write_atomically(weights_path(path), weights)
    write_atomically(path, text.encode())
    return path


def read(path: Path) -> Record:
    """The record at `path`.

    Raises:
        RecordError: the file is missing, is not JSON, or does not have the fields of a record.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as a record: {error}") from error
    names = {f.name for f in dataclasses.fields(Record)}
    if not isinstance(content, dict) or content.get("format") != FORMAT or set(content) != names:
        raise RecordError(f"{path}: not a record of format {FORMAT}")
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
    return safetensors.torch.load(content)


def to_json(record: Record) -> str:
    """The record as text: a key a line, so that a diff shows what changed."""
    entries = (f"{json.dumps(key)}: {_value_to_json(value)}" for key, value in dataclasses.asdict(record).items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _value_to_json(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, allow_nan=False)
    inner = (f"  {json.dumps(key)}: {json.dumps(item, allow_nan=False)}" for key, item in value.items())
    return "{\n" + ",\n".join(inner) + "\n}"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`: a reader, or a crash, sees the old file or the new one.

    Raises:
        RecordError: the folder cannot be made or written, or the disk is full.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        raise RecordError(f"{path} could not be written: {error}") from error
    finally:
        if scratch is not None and os.path.exists(scratch):  # not replaced: an error, or Ctrl-C
            os.unlink(scratch)
