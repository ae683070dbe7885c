"""Colab, played: its own packages are there, one notebook lies alone in a folder, and its first cell installs."""

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest

from mnist_lib.cells import notebook_parameters
from mnist_lib.pipeline import catalogue, execution
from support import ROOT

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
PINS = {  # Colab's in August 2026
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "jupyter_client": "7.4.9",
    "filelock": "3.32.0",
}
BESIDES = (
    "ipywidgets",
    "matplotlib",
    "nbclient",
    "nbformat",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "sympy",
    "tqdm",
)

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A virtual environment as Colab gives it, of Python 3.13 where that is, without this library; its Python."""
    folder = tmp_path_factory.mktemp("colab")
    newer = shutil.which("python3.13")
    there = newer and subprocess.run([newer, "--version"], capture_output=True).returncode == 0
    subprocess.run([newer if there else sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pins = [f"{name}=={version}" for name, version in PINS.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins, *BESIDES], check=True)
    return python


def installed(python) -> set[str]:
    """The packages with their versions."""
    return {*subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout.split()}


def alone(folder: Path) -> dict[str, str]:
    """Nothing of this checkout is in the environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MNIST_LIB", "VIRTUAL_ENV"))}
    return kept | {"MNIST_LIB_RUNS": str(folder / "runs"), "XDG_CACHE_HOME": str(folder / "cache")}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """This repository's last commit on git's own port of loopback; returns what git needs to find it there."""
    base = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, base / "mnist-report"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={base}"]
    daemon = subprocess.Popen(["git", "daemon", *options, str(base)])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.git://127.0.0.1:{port}/mnist-report.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }
    daemon.terminate()
    daemon.wait()


@pytest.mark.slow
@pytest.mark.parametrize("path", catalogue.find(), ids=lambda path: path.stem)
def test_a_notebook_runs_in_colab(path, colab, address, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    accepted = notebook_parameters(path)
    given = {name: value for name, value in execution.QUICK.items() if name in accepted}
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):  # as a reader edits the cell
            cell.source += "".join(f"\n{name}: {type(value).__name__} = {value!r}" for name, value in given.items())
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(notebook, tmp_path / path.name)
    subprocess.run([colab, "-m", "pip", "uninstall", "--quiet", "--yes", "mnist-lib"], check=True)
    before = installed(colab)
    command = [colab, "-c", EXECUTE, path.name]
    done = subprocess.run(command, cwd=tmp_path, env=alone(tmp_path) | address, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert before <= installed(colab), "what was there is there still"
    assert {f"{name}=={version}" for name, version in PINS.items()} <= before


@pytest.mark.slow
def test_without_the_address_the_first_cell_ends_in_a_sentence(colab, tmp_path):
    """It is a placeholder, or there is no network: git asks for no password, and nothing else is said."""
    subprocess.run([colab, "-m", "pip", "uninstall", "--quiet", "--yes", "mnist-lib"], check=True)
    (path,) = catalogue.find("introduction")
    shutil.copy(path, tmp_path)
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    command = [colab, "-c", EXECUTE, path.name]
    done = subprocess.run(command, cwd=tmp_path, env=alone(tmp_path) | nowhere, capture_output=True, text=True)
    assert done.returncode != 0
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    sentence = "ModuleNotFoundError: the report's library cannot be installed: is its address right, and within reach?"
    assert last == sentence
