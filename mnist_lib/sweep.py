"""Many runs, records or notebooks, in processes of their own."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from tqdm import tqdm

from mnist_lib import environment, experiment, verification
from mnist_lib.experiment import Experiment
from mnist_lib.verification import Verdict


def train(jobs: Sequence[tuple[Experiment, int]], device: str, workers: int) -> int:
    """Train the runs and write their records where the published ones lie; returns the number of failures.

    A failure does not stop the other runs; it is reported at the end.
    """
    environment.resolve_device(device)
    tasks = {(study.name, seed): (_train_one, study, seed, device) for study, seed in jobs}
    return _in_processes(tasks, workers, "run")


def verify(jobs: Sequence[tuple[Experiment, int]], device: str, workers: int, accept: bool = False) -> list[Verdict]:
    """Check published records, in the order of `jobs`; with `accept`, give the new digest to those that hold."""
    check = verification.accept if accept else verification.verify
    where = environment.resolve_device(device)
    with _pool(max(1, min(workers, len(jobs)))) as pool:
        checks = [pool.submit(check, study, seed, where) for study, seed in jobs]
        return [started.result() for started in tqdm(checks, unit="record")]


def execute(function: Callable[[Path, Path], None], jobs: Sequence[tuple[Path, Path]], workers: int) -> int:
    """Execute notebooks by ``function(source, target)``; returns the number of failures."""
    return _in_processes({(source.stem,): (function, source, target) for source, target in jobs}, workers, "notebook")


def _in_processes(tasks: dict[tuple, tuple], workers: int, unit: str) -> int:
    if not tasks:
        print(f"no {unit} to do")
        return 0
    failures = {}
    with _pool(min(workers, len(tasks))) as pool, tqdm(total=len(tasks), unit=unit) as bar:
        started = {pool.submit(*task): name for name, task in tasks.items()}
        for done in as_completed(started):
            name = " ".join(map(str, started[done]))
            if error := done.exception():
                failures[name] = error
            bar.update()
            bar.write(f"{time.strftime('%H:%M:%S')} {name}: {f'{type(error).__name__}' if error else 'done'}")
    for name, error in failures.items():
        print(f"\n{name} failed: {error}")
    return len(failures)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one; after Ctrl-C they finish what they are at and begin nothing more."""
    # They are spawned: a forked one inherits torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """When the process that started this one is killed, end at once: it would go on unseen, then wait for ever."""

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(study: Experiment, seed: int, device: str) -> None:
    experiment.train(study, seed, environment.resolve_device(device), study.published)
