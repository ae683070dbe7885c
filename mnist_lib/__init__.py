"""Ten small networks on MNIST: what a run is, found or trained, and recorded.

What is needed to tinker is here: ``from mnist_lib import Experiment, Recipe, Target, runs``.
"""

import importlib
from typing import Any

face = {  # each name and the module that defines it
    "Experiment": "mnist_lib.experiments",
    "runs": "mnist_lib.experiments",
    "Network": "mnist_lib.network",
    "Recipe": "mnist_lib.parameters",
    "Target": "mnist_lib.results.target",
    "table": "mnist_lib.results.listing",
}
__all__ = list(face)


def __getattr__(name: str) -> Any:
    """Import what is asked for, only then: torch takes a second."""
    if name in face:
        return getattr(importlib.import_module(face[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
