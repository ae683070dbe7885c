"""The machine: which device is taken, and what a record says of where it was made."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from mnist_lib import machine
from mnist_lib.machine import resolve_device
from mnist_lib.parameters import ParameterError

CPU = torch.device("cpu")

# -- choosing a device


@pytest.fixture
def only_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_device_that_is_there(only_a_cpu):
    assert resolve_device("auto") == resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "mps"])
def test_device_that_is_not_there(only_a_cpu, name):
    with pytest.raises(ParameterError) as caught:
        resolve_device(name)
    assert str(caught.value) == f"device = {name!r}: there is no such device on this machine; auto would use cpu"


@pytest.mark.parametrize(
    "name", ["gpu", "", "CUDA", "cuda:", "cpu:", "cuda:x", "cuda:-1", "cuda:0:1", "cuda:²", "tpu:0"]
)
def test_device_that_does_not_exist(name):
    with pytest.raises(ParameterError) as caught:
        resolve_device(name)
    assert str(caught.value) == f"device = {name!r}: expected auto, cpu, cuda, cuda:<number> or mps"


def test_a_gpu_computes_float32_as_other_devices_do(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cpu").type == "cpu" and torch.backends.cudnn.allow_tf32
    for name in ("auto", "cuda", "cuda:0"):
        torch.backends.cudnn.allow_tf32 = True
        assert resolve_device(name).type == "cuda" and not torch.backends.cudnn.allow_tf32


def test_two_gpus_are_two(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(f"cuda:{index}").index for index in (0, 1)] == [0, 1]
    with pytest.raises(ParameterError, match="there is no such device on this machine; auto would use cuda"):
        resolve_device("cuda:2")


def test_a_gpu_of_apple_is_taken_where_there_is_no_other(only_a_cpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("mps") == torch.device("mps")
    for name in ("mps:0", "cuda"):
        with pytest.raises(ParameterError, match="there is no such device on this machine; auto would use mps"):
            resolve_device(name)


# -- what a record says


@pytest.mark.parametrize(("device", "name"), [("cuda", "GPU of cuda:0"), ("mps", "a chip"), ("cpu", "a CPU: fast")])
def test_a_device_is_named(monkeypatch, device, name):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    monkeypatch.setattr(platform, "processor", lambda: "a chip")
    said = {Path("/proc/cpuinfo"): "vendor_id\t: A\nmodel name\t: a CPU: fast \nmodel name\t: b\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: said[path])
    described = machine.describe(torch.device(device, 0) if device == "cuda" else torch.device(device))
    assert (described["device"], described["device_name"]) == (device, name)
    assert described["date"] == machine.today() == f"{datetime.now(UTC):%Y-%m-%d}"
    assert (described["python"], described["torch"]) == (platform.python_version(), torch.__version__)
    assert described["threads"] == torch.get_num_threads()
    assert (described["commit"], described["changed"]) == (machine.commit(), machine.is_changed())
    instructions = torch.backends.cpu.get_cpu_capability()
    assert described["cpu_capability"] == instructions
    assert machine.kind_of_cpu() == ["a CPU: fast", instructions]


@pytest.mark.parametrize(("said", "named"), [("a chip", "a chip"), ("", platform.machine())])
def test_a_processor_that_linux_does_not_name(monkeypatch, said, named):
    monkeypatch.setattr(platform, "processor", lambda: said)
    for read in ("flags\t: fpu\n", None):
        monkeypatch.setattr(Path, "read_text", lambda path, read=read: read or Path("/not/there").read_bytes())
        assert machine.kind_of_cpu()[0] == named


@pytest.mark.parametrize(("place", "own"), [("mnist_lib", True), (".venv/lib/site-packages/mnist_lib", False)])
def test_the_commit_is_that_of_the_library_not_of_where_it_is_installed(tmp_path, monkeypatch, place, own):
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # set inside a hook: another repository
        monkeypatch.delenv(name)
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=")
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "A project"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / place / "machine.py"))
    assert machine.commit() == (head.stdout.strip() if own else None)
    assert machine.is_changed() is (False if own else None)
    (tmp_path / place / "machine.py").write_text("changed = True\n")
    assert machine.is_changed() is (True if own else None)


def test_without_git_no_commit_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert (machine.commit(), machine.is_changed()) == (None, None)
