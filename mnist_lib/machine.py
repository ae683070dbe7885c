"""The machine a run takes place on: choosing the device, and describing where a record was made."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mnist_lib.parameters import ParameterError


def resolve_device(name: str) -> torch.device:
    """Return the torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:<k>`` or ``mps``.

    On a GPU of NVIDIA's, float32 then has its 24 significant bits: by default cuDNN rounds what it multiplies to 11.

    Raises:
        ParameterError: no such device here.
    """
    device = _device(name)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def _device(name: str) -> torch.device:
    if torch.cuda.is_available():
        auto = "cuda"
    else:
        auto = "mps" if torch.backends.mps.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if name == "auto":
        return torch.device(auto)
    if kind not in ("cpu", "cuda", "mps") or (colon and not (index.isascii() and index.isdecimal())):
        raise ParameterError(f"device = {name!r}: expected auto, cpu, cuda, cuda:<number> or mps")
    there = {
        "cpu": not index,
        "cuda": torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available() and not index,
    }
    if not there[kind]:
        raise ParameterError(f"device = {name!r}: there is no such device on this machine; auto would use {auto}")
    return torch.device(name)


def describe(device: torch.device) -> dict[str, Any]:
    """Describe where a run takes place. It is shown, and does not decide whether a record is valid."""
    names = {"cpu": _processor, "cuda": lambda: torch.cuda.get_device_name(device), "mps": platform.processor}
    return {
        "date": today(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "device_name": names[device.type](),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "changed": is_changed(),
    }


def kind_of_cpu() -> list[str]:
    """Return the processor's name and the instructions that PyTorch uses on it: where they differ, last digits may."""
    return [_processor(), torch.backends.cpu.get_cpu_capability()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def today() -> str:
    """Return the date, in UTC, as ``2026-01-31``."""
    return datetime.now(UTC).date().isoformat()


def commit() -> str | None:
    """Return the commit of the checkout that the library runs from, if it does.

    A checkout in which the library is merely installed, in a virtual environment, say, is another project's.
    """
    try:
        inside, head = _git("rev-parse", "--show-prefix", "HEAD").split()
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return head if inside == f"{Path(__file__).parent.name}/" else None


def is_changed() -> bool | None:
    """Tell whether that checkout has changes to the library that are in no commit; None where there is no checkout."""
    if commit() is None:
        return None
    try:
        return bool(_git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
