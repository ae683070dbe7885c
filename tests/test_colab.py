"""Colab, played: another torch is there already, one notebook lies alone in a folder, and its first cell installs."""

import os
import re
import socket
import subprocess
import sys
import time
import tomllib

import nbformat
import pytest

from mnist_lib.cells import notebook_parameters
from mnist_lib.pipeline import catalogue, execution
from support import ROOT

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
TORCH = {"torch": "2.13.0", "torchvision": "0.28.0"}  # not the versions of the lock file

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A virtual environment as Colab gives it: torch and a kernel, and not this library; returns its Python."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pins = [f"{name}=={version}" for name, version in TORCH.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins, "ipykernel", "nbclient"], check=True)
    return python


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
    alone = tmp_path / path.name
    nbformat.write(notebook, alone)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MNIST_LIB", "VIRTUAL_ENV"))}
    environment |= address | {"MNIST_LIB_RUNS": str(tmp_path / "runs"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([colab, "-m", "pip", "uninstall", "--quiet", "--yes", "mnist-lib"], check=True)
    command = [colab, "-c", EXECUTE, alone.name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = subprocess.run([colab, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    for name, version in TORCH.items():  # what was there is there still
        assert re.search(rf"^{name}(==| @ .*){re.escape(version)}", found, re.MULTILINE)
