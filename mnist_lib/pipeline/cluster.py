"""A sweep on a Dask cluster: recipes go out, records and weights come back.

The scheduler, and the workers that join and leave, are Dask's. Client and workers share no files: a worker trains in a
folder that it deletes afterwards, and the client writes what comes back where a local sweep would have written it.
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_lib import experiments, machine, records
from mnist_lib.experiments import Experiment
from mnist_lib.pipeline.workers import Progress
from mnist_lib.records import Record

POLL = 0.5  # seconds between two looks at what is running


class ClusterError(RuntimeError):
    """The cluster cannot be reached, was lost, or has a worker that would not train the same runs."""


def train(jobs: Sequence[tuple[Experiment, int]], device: str, scheduler: str, publish: bool = True) -> int:
    """Train the runs on a cluster and write their records here; returns the number of failures.

    A run whose worker dies is begun anew on another. Workers may join at any time. With ``cuda`` a run takes one unit
    of the resource ``GPU``, which workers must offer. A run that starts from another's weights gets them with its task;
    where that other run has no record, it is trained first.

    Arguments:
        jobs: the experiments and seeds.
        device: where a worker trains, as for a local sweep.
        scheduler: the address of a running scheduler, such as ``tcp://10.0.0.1:8786``.
        publish: as for a local sweep.

    Raises:
        ClusterError: the scheduler cannot be reached or was lost, or a worker has other training code or several
            threads. Records of finished runs are written; the same command continues.
    """
    try:
        from distributed import CancelledError, Client, as_completed
        from distributed.comm import get_address_host_port, normalize_address
    except ImportError as error:
        raise ClusterError("a cluster needs Dask's scheduler: pip install 'mnist-lib[cluster]'") from error
    try:
        # A client that fails over the address takes a minute to end.
        get_address_host_port(normalize_address(scheduler), strict=True)
        client = Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no scheduler answers at {scheduler}: {error}") from error
    published = set(jobs) if publish else set()
    with client:
        try:
            client.run(
                _check, {experiment: experiment.digests for experiment in {experiment for experiment, _ in jobs}}
            )
            runs = _submit(client, jobs, device)
            completed = as_completed(runs, loop=client.loop)
            with Progress(len(runs), "run", lines=publish) as progress:
                while runs:
                    for future in completed.next_batch(block=False):
                        experiment, seed = runs.pop(future)
                        failure = future.exception()
                        if isinstance(failure, ClusterError | CancelledError):
                            raise failure
                        if failure is None:
                            is_published = (experiment, seed) in published
                            folder = experiment.published if is_published else experiment.store
                            with records.only_one(records.record_path(folder, seed)):
                                experiments.explain(experiment, folder)
                                records.write(*future.result(), folder)
                        progress.end(f"{experiment.name} {seed}", failure)
                    progress.show(sum(map(bool, client.processing().values())))
                    time.sleep(POLL)
        except (CancelledError, OSError) as error:
            raise ClusterError(
                f"the scheduler at {scheduler} was lost; finished runs are kept, the same command continues"
            ) from error
        except ImportError as error:
            raise ClusterError(f"the workers need the library, too: {error}") from error
    return len(progress.failures)


def _submit(client: Any, jobs: Sequence[tuple[Experiment, int]], device: str) -> dict[Any, tuple[Experiment, int]]:
    """Return a task for every run, and for every run that another one needs first and that has no record yet."""
    futures: dict[tuple[Experiment, int], Any] = {}
    resources = {"GPU": 1} if device.startswith("cuda") else None

    def submit(experiment: Experiment, seed: int) -> Any:
        if (experiment, seed) not in futures:
            needed = [("start", experiment.start, seed)] if experiment.start is not None else []
            needed += [("teacher", experiment.teacher, each) for each in range(experiment.recipe.teachers)]
            kinds, found = [kind for kind, *_ in needed], []
            for _, other, number in needed:
                path = experiments.find_path(other, number)
                found.append(submit(other, number) if path is None else _read(path))
            task = (_train, experiment, seed, device, experiment.digests, kinds, found)
            futures[experiment, seed] = client.submit(*task, pure=False, resources=resources)
        return futures[experiment, seed]

    for experiment, seed in jobs:
        submit(experiment, seed)
    return {future: run for run, future in futures.items()}


def _read(path: Path) -> tuple[Record, bytes]:
    """Return a record and its weights, serialized, as `records.write` takes them."""
    return records.read(path), records.weights_path(path).read_bytes()


def _train(
    experiment: Experiment,
    seed: int,
    device: str,
    digests: dict[str, str],
    kinds: list[str],
    needed: list[tuple[Record, bytes]],
) -> tuple[Record, bytes]:
    """On a worker: one run; `needed` are those that it starts from or learns from, `kinds` says which is which."""
    from distributed import get_worker

    _check({experiment: digests}, get_worker())
    with tempfile.TemporaryDirectory(prefix="mnist-lib-") as scratch:
        folder = Path(scratch)
        for kind, sent in zip(kinds, needed, strict=True):
            records.write(*sent, folder / kind)
        others = {kind: _Sent(**vars(getattr(experiment, kind)), published=folder / kind) for kind in set(kinds)}
        experiment = dataclasses.replace(experiment, **others)
        experiments.train(experiment, seed, machine.resolve_device(device), folder)
        return _read(records.record_path(folder, seed))


@dataclass(frozen=True)
class _Sent(Experiment):
    """An experiment whose record came with the task: it is found here, not where the worker keeps records."""

    published: Path = Path()


def _check(digests: dict[Experiment, dict[str, str]], dask_worker: Any) -> None:
    """On a worker, which Dask names: would it train the same runs as the client, which has these digests?"""
    for experiment, expected in digests.items():
        if experiment.digests != expected:
            problem = f"has other training code for {experiment.name}: install there what is installed here"
            raise ClusterError(f"the worker {dask_worker.address} {problem}")
    if (threads := dask_worker.state.nthreads) != 1:  # they would share torch's random numbers
        raise ClusterError(f"the worker {dask_worker.address} has {threads} threads: start it with --nthreads 1")
