"""What holds for whoever calls pytest here, be it for one notebook: with nbval or nbmake, in one process or several."""

import os
import sys
from typing import Any

import pytest

PATIENCE = 600  # seconds, for what should take a few: a busy machine is slow, not wrong

# Where MNIST is missing, the notebooks draw empty frames in place of its images.
os.environ.setdefault("MNIST_LIB_BLANK_IMAGES", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keep one file's tests in one process, so that they share what they built, and notebooks in this environment."""
    option = config.option
    if getattr(option, "numprocesses", None) and option.dist in ("no", "load", "loadgroup", "worksteal"):
        option.dist = "loadfile"
        option.loadscopereorder = False  # short files, the notebooks, come last: so all processes end together
    if getattr(option, "nbval", False):
        option.nbval_current_env, option.nbval_kernel_startup_timeout = True, PATIENCE


def pytest_configure() -> None:
    """Let nbval start a kernel again where another one took its ports meanwhile (jupyter_client#487)."""
    if (nbval := sys.modules.get("nbval.kernel")) is None:
        return
    start = nbval.start_new_kernel

    def start_again(**options: Any) -> Any:
        try:
            return start(**options)
        except RuntimeError:
            return start(**options)

    nbval.start_new_kernel = start_again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Wait for the outputs of a cell that nbval executes; it has no option for this."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = PATIENCE
