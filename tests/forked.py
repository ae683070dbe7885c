"""Python commands in processes that are forked from one that has imported torch and the like, and nothing of ours.

A command of the library imports for three seconds before it does anything, and the tests call some two hundred. What
is tested is the command all the same: a process of its own with its directory, environment, output and exit code, and
the library as it lies on the disk, be it a copy.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("bs4", "hypothesis", "pytest", "yaml"),  # for tests that start functions of their own
        *("IPython.display", "filelock", "ipykernel.kernelspec", "jupyter_client", "nbclient", "nbformat", "papermill"),
        *("matplotlib.figure", "pandas", "platformdirs", "scipy.stats", "sklearn.datasets", "tqdm.auto"),
        *("safetensors.torch", "torchsummary", "torchvision.datasets"),
    ]
)


def python(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """What ``python -m module …``, ``python -c code …`` or ``python script …`` does there."""
    words, variables = [*map(str, arguments)], dict(os.environ if environment is None else environment)
    if sys.platform != "linux" or "COVERAGE_PROCESS_CONFIG" in os.environ:  # coverage sees only what starts anew
        return subprocess.run([sys.executable, *words], cwd=cwd, env=variables, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("out", "err")]
        process = PROCESSES.Process(target=_become, args=(words, str(cwd), variables, files))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, *(file.read_text("utf-8") for file in files))


def _become(words: Sequence[str], cwd: str, environment: Mapping[str, str], files: Sequence[Path]) -> None:
    for descriptor, file in enumerate(files, start=1):
        with file.open("w") as opened:
            os.dup2(opened.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    match words:
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
