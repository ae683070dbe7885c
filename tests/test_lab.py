"""`make lab`, used in a browser: a copy of a notebook is opened, changed, run, looked at and saved."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnist_lib.base.digests import bytes_digest
from support import PATIENCE, ROOT

pytestmark = pytest.mark.slow

PARAMETERS = """name: str = "your_network"
baseline: str = "none"
width: int = 8
dataset: str = "digits"
epochs: int = {epochs}
seeds: int = 2
device: str = "cpu\""""

NETWORK = """from torch import nn


def network(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.GELU(), nn.Linear(width, 10))"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout whose .venv is there, as `make setup` leaves it, and a foreign kernel under the usual name."""
    copy = tmp_path_factory.mktemp("lab") / "checkout"
    shutil.copytree(ROOT / "mnist_lib", copy / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks", copy / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "book", copy / "book", ignore=shutil.ignore_patterns("records"))
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, copy)
    (venv := copy / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "jupyter-lab"):
        (venv / name).symlink_to(Path(sys.executable).with_name(name))
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    (copy / ".venv" / "made-from-lock").write_text(f"{copy.resolve()}\n{lock}", "utf-8")
    shutil.copy(ROOT / "pyproject.toml", copy / ".venv" / "made-from-pyproject")
    foreign = {"argv": ["false"], "display_name": "Another Python", "language": "python"}
    (kernel := copy / "jupyter" / "kernels" / "python3").mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(foreign), "utf-8")
    return copy


@pytest.fixture(scope="module")
def address(checkout):
    """Where `make lab` serves; the server ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token="
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PYTHONPATH": str(checkout), "MNIST_LIB_RUNS": str(checkout / "runs")}
    environment |= {"JUPYTER_PATH": str(checkout / "jupyter")}
    # What somebody had open here before would be opened again, before the notebook that is asked for.
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(checkout / "workspaces")}
    started = subprocess.Popen(["make", "lab", f"LAB={options}"], cwd=checkout, env=environment, start_new_session=True)
    for _ in range(PATIENCE):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert started.poll() is None, "it ended"
        time.sleep(1)
    yield f"http://127.0.0.1:{port}/lab/tree/notebooks/your_network.ipynb"
    os.killpg(started.pid, 15)
    started.wait()


def published(checkout: Path) -> dict[str, str]:
    files = (path for folder in ("notebooks", "book") for path in sorted((checkout / folder).rglob("*")))
    return {str(path): bytes_digest(path.read_bytes()) for path in files if path.is_file()}


def write(page, start: str, text: str) -> None:
    """Put `text` in the place of the cell that begins with `start`, as one who types."""
    page.locator(".jp-CodeCell .cm-content", has_text=start).first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


def run_all(page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_a_reader_changes_runs_and_saves_and_nothing_published_changes(checkout, address, browser):
    before = published(checkout)
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function("document.body.innerText.includes('| Idle')")  # the kernel is there

    write(page, 'name: str = "your_network"', PARAMETERS.format(epochs='"many"'))
    run_all(page)
    refused = page.locator(".jp-OutputArea-output", has_text="epochs = 'many': expected a whole number").first
    refused.wait_for()
    assert refused.inner_text().strip() == "ParameterError: epochs = 'many': expected a whole number from 1 to 1000"
    page.wait_for_timeout(3000)
    box = refused.bounding_box()
    assert 0 < box["y"] < 1000, "the sentence is in view"

    write(page, 'name: str = "your_network"', PARAMETERS.format(epochs=2))
    write(page, "def network(", NETWORK)
    run_all(page)
    page.locator(".jp-OutputArea-output", has_text="-p width 8").first.wait_for()  # of the last cell
    page.keyboard.press("Control+S")
    mine = checkout / "lab" / "notebooks" / "your_network.ipynb"
    for _ in range(PATIENCE):
        if "-p width 8" in mine.read_text("utf-8"):
            break
        time.sleep(1)

    cells = json.loads(mine.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert "GELU" in json.dumps([cell["source"] for cell in cells])
    assert not [each for each in outputs if each.get("name") == "stderr" or each["output_type"] == "error"]
    assert any("application/vnd.jupyter.widget-view+json" in each.get("data", {}) for each in outputs), "bars"
    assert len(list((checkout / "runs").rglob("seed_*.json"))) == 2
    assert published(checkout) == before

    pictures = page.locator(".drawn").first.locator("img")
    assert [pictures.nth(n).evaluate("each => getComputedStyle(each).display") for n in (0, 1)] == ["inline", "none"]
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")  # what Lab's dark theme sets
    assert [pictures.nth(n).evaluate("each => getComputedStyle(each).display") for n in (0, 1)] == ["none", "inline"]
    page.close()


def test_what_is_in_the_folder_is_kept_and_what_is_missing_is_brought(checkout):
    folder = checkout / "lab" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "introduction.ipynb").write_text("mine", "utf-8")
    (folder / "iteration_01_setup.ipynb").unlink(missing_ok=True)
    done = subprocess.run(["make", "lab", "LAB=--version"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "introduction.ipynb").read_text("utf-8") == "mine"
    source = checkout / "notebooks" / "iteration_01_setup.ipynb"
    assert (folder / source.name).read_bytes() == source.read_bytes()
