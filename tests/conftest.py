"""What the tests share."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest
import torch

from mnist_lib import data
from mnist_lib.pdf import BROWSERS

# One thread, as in training: two threads give other last digits, and wait for each other on a busy machine.
torch.set_num_threads(1)


# No test is timed: a busy machine is slow, not wrong.
hypothesis.settings.register_profile("untimed", deadline=None)
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
        yield running
        running.close()
