"""Does a large sweep give the same table here, on a Dask cluster that loses a worker, and by SLURM?

    python benchmarks/large_sweep.py [--seeds 10] [--slurm]

Twenty combinations of two values, ten seeds each, one epoch on the embedded digits. In each place the command that a
person would use trains them into a store of its own; on the way a worker is killed, by SLURM a job is cancelled. The
result is book/measurements/large_sweep.json, which the book shows; a table that differs is an error.
"""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import measurement
import pandas as pd

from mnist_lib import experiments, records

NAME = "large"
BEFORE = 20  # runs are there when a worker is killed
VALUES = {"learning_rate": "0.05,0.1,0.2,0.3,0.4", "batch_size": "32,64,128,256", "dataset": "digits", "epochs": "1"}
SWEEP = ["sweep", "iteration_10_one_cycle", *(f"--set={name}={values}" for name, values in VALUES.items())]
CLI = [sys.executable, "-m", "mnist_lib.cli"]
DASK = [sys.executable, "-m", "dask"]
PRELOAD = ("--preload", "mnist_lib.pipeline.cluster")


def main() -> int:
    options = _options()
    sweep = [*SWEEP, f"--seeds=0-{options.seeds - 1}", f"--name={NAME}"]
    places = {"two local workers": here, "two workers of Dask, one killed": on_dask}
    if options.slurm:
        places["two jobs of SLURM, one cancelled"] = by_slurm
    rows, tables = [], []
    for name, train in places.items():
        with tempfile.TemporaryDirectory(prefix="mnist-lib-sweep-") as scratch:
            store, start = Path(scratch) / "runs", time.perf_counter()
            train(sweep, store)
            seconds = time.perf_counter() - start
            made = [records.read(path) for path in store.rglob("seed_*.json")]
            tables.append(table(store))
        training = sum(record.seconds for record in made)
        same = tables[0].equals(tables[-1])
        rows.append({"where": name, "runs": len(made), "seconds": seconds, "training, s": training, "same table": same})
        print(*(f"{column}: {value}" for column, value in rows[-1].items()), sep="  ", flush=True)
    measurement.write(options.output, "A sweep in several places", rows)
    return int(not all(row["same table"] for row in rows))


def table(store: Path) -> pd.DataFrame:
    """The sweep's table, without what tells where and when its runs were made."""
    said = subprocess.check_output([*CLI, "runs", "--sweep", NAME, "--csv"], env=environment(store), text=True)
    return pd.read_csv(io.StringIO(said)).drop(columns=["minutes", "date", "folder"])


def here(sweep: list[str], store: Path) -> None:
    """Train on two local workers."""
    subprocess.run([*CLI, *sweep, "--workers", "2"], env=environment(store), check=True)


def on_dask(sweep: list[str], store: Path) -> None:
    """Train on two workers of Dask, and kill one on the way, as when a machine goes down."""
    with ExitStack() as ended:
        log = ended.enter_context(tempfile.TemporaryFile("w+"))
        scheduler = ["scheduler", *PRELOAD, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        _start([*DASK, *scheduler], store, ended, stderr=log)
        address = _wait_for(lambda: re.search(r"Scheduler at: +(tcp://\S+)", _text(log)))[1]
        worker = [*DASK, "worker", address, "--nthreads", "1", "--memory-limit", "3GB", *PRELOAD]
        first, _ = (_start(worker, store, ended, stderr=subprocess.DEVNULL) for _ in range(2))
        command = _start([*CLI, *sweep, "--scheduler", address], store, ended)
        _wait_for(lambda: len([*store.rglob("seed_*.json")]) >= BEFORE)
        os.killpg(first.pid, signal.SIGKILL)  # with the process that would start it again
        _check(command)


def by_slurm(sweep: list[str], store: Path) -> None:
    """Train in two jobs of SLURM, and cancel one on the way: another takes its place."""
    script = experiments.root() / "deploy" / "slurm.py"
    with ExitStack() as ended:
        command = _start([sys.executable, str(script), "--jobs", "2", *sweep], store, ended)
        _wait_for(lambda: len([*store.rglob("seed_*.json")]) >= BEFORE)
        jobs = subprocess.check_output(["squeue", "--noheader", "--format=%i"], text=True).split()
        subprocess.run(["scancel", "--signal=KILL", "--full", jobs[0]], check=True)
        _check(command)


def environment(store: Path) -> dict[str, str]:
    """The variables of a process that keeps its runs in `store`."""
    return os.environ | {"PYTHONPATH": str(experiments.root()), "MNIST_LIB_RUNS": str(store)}


def _start(command: list[str], store: Path, ended: ExitStack, **options: object) -> subprocess.Popen:
    """Start a process in a group of its own, which is killed with `ended`; what it leaves lies beside the store."""
    options |= {"env": environment(store), "cwd": store.parent, "start_new_session": True}
    process = subprocess.Popen(command, **options)
    ended.callback(process.wait)
    ended.callback(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
    return process


def _check(command: subprocess.Popen) -> None:
    if code := command.wait():
        raise RuntimeError(f"{' '.join(command.args)} ended with {code}")


def _text(log: io.TextIOBase) -> str:
    log.seek(0)
    return log.read()


def _wait_for(condition: Callable[[], object]) -> object:
    """Return what the condition gives once that is true."""
    while not (found := condition()):
        time.sleep(0.1)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many of each combination (default: %(default)s)")
    parser.add_argument("--slurm", action="store_true", help="by SLURM, too: where sbatch can be called")
    parser.add_argument("--output", type=Path, default=measurement.FOLDER / "large_sweep.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
