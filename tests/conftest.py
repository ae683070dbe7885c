"""What the tests share."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import nbval.kernel
import pytest
import torch

from mnist_lib import data
from mnist_lib.site.pdf import BROWSERS

PATIENCE = 600  # seconds, for what should take a few: a busy machine is slow, not wrong

# One thread, as in training: two threads give other last digits, and wait for each other on a busy machine.
torch.set_num_threads(1)


# No test is timed: a busy machine is slow, not wrong. And every run draws the same examples: what fails is a change.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("untimed")

# Where MNIST is missing, the notebooks draw empty frames in place of its images, in kernels that tests start, too.
os.environ.setdefault("MNIST_LIB_BLANK_IMAGES", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_mnist: skipped where MNIST is not in the data directory")
    config.addinivalue_line("markers", "slow: run by `make test-all` only")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_mnist") and not data.have_mnist():
        pytest.skip(
            f"MNIST is not in {data.data_directory()}: set MNIST_LIB_DATA to a directory that holds MNIST/raw/ with "
            "the four uncompressed files, or load MNIST once with a network: "
            "python -c 'from mnist_lib import data; data.load(\"mnist\")'"
        )


_start_new_kernel = nbval.kernel.start_new_kernel


def _start_again(**options):
    """A kernel, for nbval; it is started again where another one took its ports meanwhile (jupyter_client#487)."""
    try:
        return _start_new_kernel(**options)
    except RuntimeError:
        return _start_new_kernel(**options)


nbval.kernel.start_new_kernel = _start_again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item, "output_timeout"):  # a cell that nbval executes; it has no option for this
            item.output_timeout = PATIENCE


@pytest.fixture
def tmp_store(tmp_path, monkeypatch):
    """An empty folder for runs that are not published, in place of the user's; returns its path."""
    store = tmp_path / "runs"
    monkeypatch.setenv("MNIST_LIB_RUNS", str(store))
    return store


@pytest.fixture(scope="module")
def browser():
    """A running Chromium; tests that ask for it are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium: `apt-get install chromium`, or `.venv/bin/playwright install chromium`")
        running = playwright.chromium.launch(executable_path=found)
        running.new_page, running.new_context = _patient(running.new_page), _patient(running.new_context)
        yield running
        running.close()


def _patient(make: Callable) -> Callable:
    """What makes pages that wait longer than Playwright's 30 seconds."""

    def made(**options):
        new = make(**options)
        new.set_default_timeout(1000 * PATIENCE)
        return new

    return made
