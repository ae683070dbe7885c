"""Does the cost of a run, of `status` and of the book stay flat as runs become many?

    python benchmarks/growth.py [--runs 1 10 100 1000]

In a copy of the report, a notebook asks for as many short runs on the embedded digits. They are trained by the command
that a person would use; then the copy's status is asked for, the page about all runs is executed, and the book is
compiled. The result is book/measurements/growth.json, which the book shows.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measurement

from mnist_lib import experiments, records

PAGE = "iteration_02_light_skeleton"
PARAMETERS = {"dataset": "digits", "epochs": 1, "batch_size": 512, "device": "cpu"}


def main() -> int:
    options = _options()
    rows = []
    for runs in options.runs:
        with tempfile.TemporaryDirectory(prefix="mnist-lib-growth-") as scratch:
            rows.append(measure(copy_report(Path(scratch), runs), runs, options.workers))
        print(*(f"{name}: {value:.4g}" for name, value in rows[-1].items()), sep="  ")
    measurement.write(options.output, "What many short runs cost, and a report that holds them", rows)
    return 0


def copy_report(folder: Path, runs: int) -> Path:
    """A copy of the report in which one page asks for `runs` short runs on the digits; returns its path."""
    leave_out = shutil.ignore_patterns("__pycache__", PAGE)  # whose records are to be made
    for name in ("mnist_lib", "notebooks", "book", "deploy"):
        shutil.copytree(experiments.root() / name, folder / name, ignore=leave_out)
    for name in ("pyproject.toml", "requirements.lock", "_config.yml", "README.md"):
        shutil.copy(experiments.root() / name, folder / name)
    page = folder / "notebooks" / f"{PAGE}.ipynb"
    content = json.loads(page.read_text("utf-8"))
    (cell,) = (cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", ()))
    values = PARAMETERS | {"seeds": runs}
    cell["source"] = [_with_value(line, values) for line in "".join(cell["source"]).splitlines(keepends=True)]
    page.write_text(json.dumps(content), "utf-8")
    return folder


def _with_value(line: str, values: dict[str, object]) -> str:
    """A line of a parameters cell, such as ``epochs: int = 15``, with the value from `values`, if there is one."""
    name, colon, rest = line.partition(":")
    if name not in values:
        return line
    kind = rest.partition("=")[0].strip()
    return f"{name}{colon} {kind} = {values[name]!r}\n".replace("'", '"')


def measure(report: Path, runs: int, workers: int) -> dict[str, float]:
    """The row of the table: what the commands took."""
    seconds, memory = command(report, "train", PAGE, "--workers", str(workers), "--device", "cpu")
    made = [records.read(path) for path in (report / "book" / "records" / PAGE).glob("seed_*.json")]
    if len(made) != runs:
        raise RuntimeError(f"{len(made)} of {runs} runs have a record; the log is above")
    training = sum(record.seconds for record in made) / min(workers, runs)
    return {
        "runs": runs,
        "seconds": seconds,
        "of them training": training,
        "overhead of a run, ms": 1000 * (seconds - training) / runs,
        "memory of a process, MB": memory,
        "status, s": command(report, "status")[0],
        "execute the page, s": command(report, "run", PAGE)[0],
        "compile the book, s": command(report, "book")[0],
    }


def command(report: Path, *arguments: str) -> tuple[float, int]:
    """The seconds that a command of the copy took, and the largest memory, in MB, of one of its processes."""
    kept = os.environ | {"PYTHONPATH": str(report), "MNIST_LIB_RUNS": str(report / "runs")}
    start = time.perf_counter()
    line = [sys.executable, "-m", "mnist_lib.cli", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(line, cwd=report, env=kept, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            text = log.read()[-2000:]
            raise RuntimeError(f"mnist-lib {' '.join(arguments)} ended with {process.returncode}:\n{text}")
    return seconds, usage.ru_maxrss // 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, nargs="+", default=[1, 10, 100, 1000], help="how many (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that train")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "growth.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
