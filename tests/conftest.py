"""What holds for all tests, and the fixtures that tests of several files share."""

import atexit
import gc
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.provisioning import local_provisioner
from torchvision.datasets import MNIST

import executed
import forked
from mnist_lib import data
from mnist_lib.data import MNIST_FILES
from mnist_lib.site.pdf import BROWSERS
from support import PATIENCE, ROOT, Mirror, answer, edit, idx, md5

# One thread, as in training: two threads give other last digits, and wait for each other on a busy machine.
torch.set_num_threads(1)


atexit.register(gc.unfreeze)  # of what the fixture below leaves aside
local_provisioner.launch_kernel = forked.start_kernel  # for nbval, and for papermill in this process

# No test is timed: a busy machine is slow, not wrong. And every run draws the same examples: what fails is a change.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    executed.compare_all(items)
    # The book is compiled while another process has other tests; whoever opens it later need not wait. And the longest
    # of the notebooks, which would come last, would have one process wait for the other.
    items.sort(key=lambda item: item.path.name not in ("test_book.py", f"{executed.READS_ALL}.ipynb"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_mnist") and not data.have_mnist():
        pytest.skip(
            f"MNIST is not in {data.data_directory()}: set MNIST_LIB_DATA to a directory that holds MNIST/raw/ with "
            "the four uncompressed files, or load MNIST once with a network: "
            "python -c 'from mnist_lib import data; data.load(\"mnist\")'"
        )


@pytest.fixture(scope="module", autouse=True)
def others_are_left_aside():
    """Before the library trains, it looks for cycles: not among all that other tests keep, the book's pages, say."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """What a kernel executes cells with."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # its own stands there meanwhile
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.fixture
def tmp_store(tmp_path, monkeypatch):
    """An empty folder for runs that are not published, in place of the user's; returns its path."""
    store = tmp_path / "runs"
    monkeypatch.setenv("MNIST_LIB_RUNS", str(store))
    return store


@pytest.fixture
def small_report(tmp_path) -> Path:
    """A copy of the library with one small experiment: four runs of six epochs on the digits."""
    copy = tmp_path / "report"
    shutil.copytree(ROOT / "mnist_lib", copy / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = copy / "notebooks" / "your_network.ipynb"
    notebook.parent.mkdir()
    shutil.copy(ROOT / "notebooks" / notebook.name, notebook)
    for old, new in (
        ('dataset: str = \\"mnist\\"', 'dataset: str = \\"digits\\"'),
        ('baseline: str = \\"iteration_10_one_cycle\\"', 'baseline: str = \\"none\\"'),
        ("epochs: int = 5", "epochs: int = 6"),
        ("seeds: int = ", "seeds: int = 4  # "),
    ):
        edit(notebook, old, new)
    return copy


@pytest.fixture(scope="module")
def small_files() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    files = {}
    for part, size in (("train", 30), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = idx(random.integers(0, 256, (size, 28, 28), np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx(random.integers(0, 10, size, np.uint8))
    return files


@pytest.fixture
def root(tmp_path, monkeypatch, small_files):
    """An empty data directory, where the small files are taken for MNIST's."""
    root = tmp_path / "data"
    monkeypatch.setenv("MNIST_LIB_DATA", str(root))
    for name, content in small_files.items():
        monkeypatch.setitem(MNIST_FILES, name, md5(content))
    return root


@pytest.fixture
def mirror(monkeypatch, small_files):
    """A mirror that serves the small files, compressed as MNIST's are."""
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in small_files.items()}
    monkeypatch.setattr(MNIST, "resources", [(name, md5(content)) for name, content in packed.items()])
    mirror = Mirror(monkeypatch, {f"/{name}": answer(content) for name, content in packed.items()})
    yield mirror
    mirror.close()


@pytest.fixture(scope="module")
def book() -> Path:
    if given := os.environ.get("MNIST_LIB_BOOK"):
        return Path(given).resolve()
    result = subprocess.run([sys.executable, "-m", "mnist_lib.cli", "book"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return ROOT / "_build" / "html"


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
