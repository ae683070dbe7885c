"""Python commands and kernels in processes forked from one that has imported torch and the like, and nothing of ours.

A command of the library imports for three seconds before it does anything, as a kernel does, and the tests start some
three hundred. What is tested is the same: a process of its own with its directory, environment, output and exit code,
and the library as it lies on the disk, be it a copy.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jupyter_client.launcher import launch_kernel

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("bs4", "hypothesis", "pytest", "yaml"),  # for tests that start functions of their own
        *("IPython.display", "filelock", "ipykernel.kernelapp", "jupyter_client", "nbclient", "nbformat", "papermill"),
        *("matplotlib.figure", "pandas", "platformdirs", "scipy.stats", "sklearn.datasets", "tqdm.auto"),
        *("safetensors.torch", "torchsummary", "torchvision.datasets"),
    ]
)


FORKS = sys.platform == "linux" and "COVERAGE_PROCESS_CONFIG" not in os.environ
"""Elsewhere commands are started anew: there a fork is less safe, and coverage finds out only about such."""


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


class Kernel:
    """A forked kernel, as jupyter_client looks at a process."""

    stdin = stdout = stderr = None

    def __init__(self, words: Sequence[str], cwd: str, environment: Mapping[str, str]):
        nowhere = [Path(os.devnull)] * 2
        self._process = PROCESSES.Process(
            target=_become, args=(words, cwd, environment, _installed(), nowhere, True), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:  # signals go to its group
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


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
    leads_group: bool = False,
) -> None:
    if leads_group:
        os.setsid()
    for descriptor, file in enumerate(files, start=1):
        with file.open("w") as opened:
            os.dup2(opened.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *installed]
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
