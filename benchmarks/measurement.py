"""What every benchmark writes: a table that the book shows, with where and how it was measured."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mnist_lib import experiments, machine
from mnist_lib.base import files

FOLDER = experiments.root() / "book" / "measurements"


def write(path: Path, what: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the table `rows`, about `what`, with the machine, the command, the date and the commit.

    Raises:
        RecordError: the file cannot be written.
    """
    about = machine.describe(torch.device("cpu"))
    result = {
        "what": what,
        "machine": f"{about['device_name']}, {os.cpu_count()} cores, {about['cpu_capability']}, torch {about['torch']}",
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": about["date"],
        "commit": about["commit"],
        "rows": rows,
    }
    files.write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    print(f"wrote {path}")
