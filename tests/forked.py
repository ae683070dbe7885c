"""Python commands and kernels in processes forked from one that has imported torch and the like, and nothing of ours.

A command of the library imports for three seconds before it does anything, as a kernel does, and the tests start some
three hundred. What is tested is the same: a process of its own with its directory, environment, output and exit code,
and the library as it lies on the disk, be it a copy. What a forked command starts itself, workers for its tasks and
kernels for its pages, is forked from the prepared process, too; what is started anew, as by `support.command`, starts
everything anew.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import context, forkserver, popen_forkserver, reduction, spawn
from multiprocessing.process import BaseProcess, current_process
from pathlib import Path
from typing import Any

from jupyter_client.launcher import launch_kernel
from jupyter_client.provisioning import local_provisioner

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("bs4", "hypothesis", "pytest", "yaml"),  # for tests that start functions of their own
        *("IPython.display", "filelock", "ipykernel.kernelapp", "jupyter_client", "nbclient", "nbformat", "papermill"),
        *("matplotlib.figure", "pandas", "platformdirs", "scipy.stats", "sklearn.datasets", "tqdm.auto"),
        *("safetensors.torch", "torchsummary", "torchvision.datasets"),
        *("myst_parser.sphinx_ext.main", "sphinx.cmd.build", "sphinx.builders.html"),  # for small books
    ]
)


FORKS = sys.platform == "linux" and "COVERAGE_PROCESS_CONFIG" not in os.environ
"""Elsewhere commands are started anew: there a fork is less safe, and coverage finds out only about such."""

HAS_A_KEY = sys.version_info >= (3, 14)
"""Whether the server asks for a key: there workers are spawned, and it has not been tried to have them forked."""


def python(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """What ``python -m module …``, ``python -c code …`` or ``python script …`` does there."""
    words, variables = [*map(str, arguments)], dict(os.environ if environment is None else environment)
    if not FORKS:
        return subprocess.run([sys.executable, *words], cwd=cwd, env=variables, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("out", "err")]
        process = PROCESSES.Process(target=_become, args=(words, str(cwd), variables, _installed(), files))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, *(file.read_text("utf-8") for file in files))


@cache
def _installed() -> list[str]:
    """Where a new process looks for modules, but for its directory and PYTHONPATH: an editable install has its own."""
    words = [sys.executable, "-P", "-c", "import sys; print(*sys.path, sep='\\n')"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, env=variables, capture_output=True, text=True, check=True).stdout.splitlines()


class Started:
    """A forked process that goes on beside this one, as `subprocess.Popen` shows one; what it says goes to a file."""

    stdin = stdout = stderr = None

    def __init__(
        self,
        words: Sequence[str | Path],
        cwd: str | Path,
        environment: Mapping[str, str],
        log: str | Path = os.devnull,
        is_kernel: bool = False,
    ):
        words, variables, files = [*map(str, words)], dict(environment), [Path(log)] * 2
        given = (words, str(cwd), variables, _installed(), files, is_kernel)
        self._process = PROCESSES.Process(target=_become, args=given, daemon=is_kernel)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Kernel(Started):
    """A forked kernel, as jupyter_client looks at a process."""

    def __init__(self, words: Sequence[str], cwd: str, environment: Mapping[str, str]):
        super().__init__(words, cwd, environment, is_kernel=True)
        while self.poll() is None and os.getpgid(self.pid) != self.pid:  # signals go to its group
            time.sleep(0.001)


def start(*arguments: str | Path, cwd: Path, environment: Mapping[str, str], log: Path) -> Started | subprocess.Popen:
    """Begin what `python` does, and go on."""
    if FORKS:
        return Started(arguments, cwd, environment, log)
    with log.open("w") as opened:
        return subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=environment, stdout=opened, stderr=opened)


def fork_workers(patch: Any) -> None:
    """Have the workers that this process would spawn forked, too, as long as pytest's `patch` lasts."""
    if FORKS and not HAS_A_KEY:
        patch.setattr(spawn, "get_preparation_data", _nothing_of_ours)
        patch.setattr(context.SpawnProcess, "_Popen", staticmethod(Worker))


def start_kernel(words: Sequence[str], *, env: Mapping[str, str], cwd: str | None = None, **options: Any) -> Any:
    """In the place of jupyter_client's `launch_kernel`; a kernel of another program is started as ever."""
    if FORKS and words[0] == sys.executable:
        return Kernel(words[1:], cwd or os.getcwd(), env)
    return launch_kernel(words, env=env, cwd=cwd, **options)


def _become(
    words: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    installed: Sequence[str],
    files: Sequence[Path],
    is_kernel: bool = False,
) -> None:
    if is_kernel:  # it leads a group of its own
        os.setsid()
    for descriptor, file in enumerate(files, start=1):
        with file.open("a") as opened:  # two may be one
            os.dup2(opened.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    _fork_from_now_on()
    match [*words]:
        case ["-m", name, *rest]:
            sys.path.insert(0, cwd)
            sys.argv = [name, *rest]
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.path.insert(0, cwd)
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
        case [script, *rest]:
            sys.path.insert(0, str(Path(script).parent))
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")


# -- what a forked process starts itself

_preparation_data = spawn.get_preparation_data


def _fork_from_now_on() -> None:
    """Where this process would spawn a worker or start a kernel, have it forked from the prepared process."""
    gc.freeze()  # whoever looks for cycles need not go through what was prepared, and copy its pages
    if HAS_A_KEY:
        return
    forkserver._forkserver.ensure_running = lambda: None  # this process comes from it; it would start another one
    spawn.get_preparation_data = _nothing_of_ours
    context.SpawnProcess._Popen = staticmethod(Worker)
    local_provisioner.launch_kernel = start_kernel


def _nothing_of_ours(name: str) -> dict[str, Any]:
    """What a process must be told to find this module; the program that runs here it must not import."""
    here = str(Path(__file__).parent)
    return {"name": name, "authkey": current_process().authkey, "sys_path": [*sys.path, here]}


class Worker(popen_forkserver.Popen):
    """A process that multiprocessing was to spawn, with all that it would have from the one that starts it."""

    def __init__(self, started: BaseProcess):
        super().__init__(_Pickled(started))


class _Pickled:
    """A process that finds itself in its surroundings before anything else of it is read."""

    def __init__(self, started: BaseProcess):
        self._started, self._name = started, started._name

    def __reduce__(self) -> tuple:
        return _second, (_Surroundings(self._name), self._started)


class _Surroundings:
    def __init__(self, name: str):
        self._name = name

    def __reduce__(self) -> tuple:
        outputs = [reduction.DupFd(descriptor) for descriptor in (1, 2)]
        return _surround, (dict(os.environ), outputs, sys.dont_write_bytecode, _preparation_data(self._name))


def _surround(environment: Mapping[str, str], outputs: Sequence, no_bytecode: bool, prepared: dict[str, Any]) -> None:
    for descriptor, output in enumerate(outputs, start=1):
        os.dup2(given := output.detach(), descriptor)
        os.close(given)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = no_bytecode
    _fork_from_now_on()
    spawn.prepare(prepared)


def _second(_: None, second: Any) -> Any:
    return second
