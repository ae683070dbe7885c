"""Many runs, records or notebooks, in processes of their own."""

import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from mnist_lib import experiments, machine
from mnist_lib.base import files
from mnist_lib.base.loaded import CodeError
from mnist_lib.experiments import Experiment
from mnist_lib.pipeline import verification
from mnist_lib.pipeline.verification import Verdict

ATTEMPTS = 2
"""How many processes a run may cost: one may die by chance, two that die at the same run may be its doing."""


def train(
    jobs: Sequence[tuple[Experiment, int]], device: str, workers: int, replace: bool = False, publish: bool = True
) -> int:
    """Train the runs and write their records where the published ones lie; returns the number of failures.

    With `replace`, what an interrupted run of another recipe or of other code has left is not in the way. Without
    `publish`, records go to the user's own store.

    A failure does not stop the other runs; it is reported at the end, and its traceback is written to a file. A run
    whose process dies goes on in a new one, once.
    """
    machine.resolve_device(device)
    tasks = {}
    for experiment, seed in jobs:
        folder = experiment.published if publish else experiment.store
        tasks[experiment.name, seed] = (_train_one, experiment, seed, device, experiment.digest, replace, folder)
    return _in_processes(tasks, workers, "run", lines=publish)


def verify(
    jobs: Sequence[tuple], device: str, workers: int, check: Callable[..., Verdict] = verification.verify
) -> list[Verdict]:
    """Check records, in the order of `jobs`, each by `check`; what is wrong with one is said as soon as it is found.

    A job is an experiment and a seed, and the folder of the record where that is none of the published ones.
    """
    where = machine.resolve_device(device)
    with _pool(max(1, min(workers, len(jobs)))) as pool:
        checks = [pool.submit(check, experiment, seed, where, *folder) for experiment, seed, *folder in jobs]
        verdicts: list[Verdict] = []
        try:
            for verdict in (started.result() for started in tqdm(checks, unit="record")):
                verdicts.append(verdict)
                if verdict.problems:  # hundreds of others may be still to come
                    tqdm.write(f"{verdict.run}: {'; '.join(verdict.problems)}", sys.stderr)
            return verdicts
        except KeyboardInterrupt:  # what is running ends; nothing more begins
            pool.shutdown(cancel_futures=True)
            raise


def execute(function: Callable[[Path, Path], None], jobs: Sequence[tuple[Path, Path]], workers: int) -> int:
    """Execute notebooks by ``function(source, target)``; returns the number of failures."""
    return _in_processes({(source.stem,): (function, source, target) for source, target in jobs}, workers, "notebook")


class Progress:
    """A sweep as it is seen from outside: what is done, running and waiting, and the time to go.

    It is a context. At its end, however that comes, it tells what failed, and where the log of each failure lies.

    Arguments:
        total: how many tasks there are.
        unit: what a task is called.
        lines: whether there is a line for each task that ends well, too.
    """

    def __init__(self, total: int, unit: str, lines: bool = True):
        self._lines = lines
        # The time to go comes from the mean over the whole sweep: tasks end in bunches, and a recent mean would jump.
        self._bar = tqdm(total=total, unit=unit, smoothing=0)
        self.failures: dict[str, BaseException] = {}
        """What each task that failed ended with, by name."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for name, error in self.failures.items():
            print(f"\n{name} failed: {error}\n{_write_log(name, error)}")

    def show(self, workers: int) -> None:
        """Say how many tasks are running: as many as `workers`, or all that are left."""
        left = self._bar.total - self._bar.n
        text = f"{min(workers, left)} running, {max(left - workers, 0)} waiting"
        if text != self._bar.postfix:
            self._bar.set_postfix_str(text)

    def end(self, name: str, error: BaseException | None) -> None:
        """Take note that a task has ended, well if `error` is None."""
        if error is not None:
            self.failures[name] = error
        self._bar.update()
        if self._lines or error:
            self._bar.write(f"{time.strftime('%H:%M:%S')} {name}: {type(error).__name__ if error else 'done'}")


def _write_log(name: str, error: BaseException) -> str:
    """Write down where an error came from; returns where that is written, or the log itself if it cannot be."""
    log = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}\n{''.join(traceback.format_exception(error))}"
    path = experiments.runs_directory() / "failures" / (re.sub(r"\W+", "_", name) + ".log")
    try:
        files.write_atomically(path, log.encode())
    except files.FileError:
        return log
    return f"its log: {path}"


def _in_processes(tasks: dict[tuple, tuple], workers: int, unit: str, lines: bool = True) -> int:
    """Call functions (each task is one, with its arguments); returns the number of failures.

    Every worker is a pool of one process. When a process dies, its pool breaks, and no other's task is lost.
    """
    if not tasks:
        print(f"no {unit} to do")
        return 0
    count = max(1, min(workers, len(tasks)))
    idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
    for _ in range(count):
        idle.put(_pool(1))
    interrupted = threading.Event()

    def call(function: Callable, *arguments: Any) -> None:
        for _ in range(ATTEMPTS):
            pool = idle.get()  # there are as many threads as pools
            try:
                return pool.submit(function, *arguments).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = _pool(1)
                if interrupted.is_set():
                    raise
            finally:
                idle.put(pool)
        raise RuntimeError(f"its process died {ATTEMPTS} times: it was killed, or memory ran out")

    with Progress(len(tasks), unit, lines) as progress, ThreadPoolExecutor(count) as threads:
        started = {threads.submit(call, *task): " ".join(map(str, name)) for name, task in tasks.items()}
        progress.show(count)
        try:
            for done in as_completed(started):
                progress.end(started[done], done.exception())
                progress.show(count)
        except KeyboardInterrupt:  # what is running ends; nothing more begins
            interrupted.set()
            threads.shutdown(cancel_futures=True)
            raise
        finally:
            threads.shutdown()
            while not idle.empty():
                idle.get().shutdown()
    return len(progress.failures)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Return processes that end with this one."""
    # They are spawned: a forked one inherits torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """When the process that started this one is killed, end at once: it would go on unseen, then wait for ever."""

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(experiment: Experiment, seed: int, device: str, digest: str, replace: bool, folder: Path) -> None:
    """In a process of its own, which has loaded the code anew: one run."""
    if experiment.digest != digest:
        raise CodeError("the training code was changed while this command ran: start it again")
    if replace:
        experiments.forget_other_checkpoint(experiment, seed, folder)
    experiments.train(experiment, seed, machine.resolve_device(device), folder)
