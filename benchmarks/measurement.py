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


CPU = torch.device("cpu")


def write(path: Path, what: str, rows: Sequence[Mapping[str, object]], where: torch.device = CPU) -> None:
    """Write the table `rows`, about `what`, with the machine, the command, the date and the commit.

    Arguments:
        path: the file.
        what: what the table is about.
        rows: a value for every column, by its name.
        where: the device on which it was measured; one that is no CPU is named beside the machine.

    Raises:
        RecordError: the file cannot be written.
    """
    about = machine.describe(CPU)
    device = [] if where.type == "cpu" else [machine.describe(where)["device_name"]]
    machines = [*device, about["device_name"], f"{os.cpu_count()} cores", about["cpu_capability"]]
    result = {
        "what": what,
        "machine": ", ".join([*machines, f"torch {about['torch']}"]),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": about["date"],
        "commit": about["commit"],
        "rows": rows,
    }
    files.write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    print(f"wrote {path}")
