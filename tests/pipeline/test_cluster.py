"""Sweeps on a Dask cluster: a real scheduler and real workers, processes of their own that share no files."""

import dataclasses
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dask
import distributed
import pandas as pd
import pytest
import torch

import forked
from mnist_lib import experiments, records
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import Recipe
from mnist_lib.pipeline import cluster
from mnist_lib.results import page
from support import LIGHT, PATIENCE, ROOT, edit, mnist_lib, own_notebook

CPU = torch.device("cpu")
NETWORK = page.of_notebook(LIGHT).network
RUN = Experiment("iteration_00", Recipe(dataset="digits", epochs=6, batch_size=64), NETWORK)
CONTINUED = Experiment("iteration_00/continued", dataclasses.replace(RUN.recipe, epochs=1), NETWORK, start=RUN)
TAUGHT = Experiment("iteration_00/taught", dataclasses.replace(RUN.recipe, epochs=1, teachers=2), NETWORK, teacher=RUN)
DIVERGING = Experiment(
    "iteration_99",
    dataclasses.replace(RUN.recipe, batch_size=16, learning_rate=100.0),
    page.of_notebook("iteration_03_batch_normalisation").network,
)
LIBRARY = ("--preload", "mnist_lib.pipeline.cluster")


@pytest.fixture(autouse=True)
def published(tmp_path, tmp_store, monkeypatch) -> Path:
    """The folder of published records, empty; nothing is written where the report's or the user's runs are."""
    folder = tmp_path / "published"
    monkeypatch.setattr(experiments, "published_records", lambda: folder)
    return folder


@pytest.fixture
def start(tmp_path):
    """Starts a ``dask scheduler`` or a ``dask worker`` with a folder of its own; returns the process and the folder."""
    started = []

    def start(*arguments: str, library: Path = ROOT) -> tuple[forked.Started, Path]:
        folder = tmp_path / f"process_{len(started)}"
        (folder / "scratch").mkdir(parents=True)
        environment = os.environ | {
            "PYTHONPATH": str(library),
            "TMPDIR": str(folder / "scratch"),
            "MNIST_LIB_RUNS": str(folder / "runs"),
        }
        (folder / "log").touch()
        process = forked.start("-m", "dask", *arguments, cwd=folder, environment=environment, log=folder / "log")
        started.append(process)
        return process, folder

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.fixture
def scheduler(start) -> str:
    """The address of a running scheduler."""
    return start_scheduler(start)[1]


def start_scheduler(start, port: int = 0) -> tuple[forked.Started, str]:
    process, folder = start("scheduler", *LIBRARY, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    found = wait_for(lambda: re.search(r"Scheduler at: +(tcp://\S+)", (folder / "log").read_text()))
    return process, found[1]


def start_worker(start, scheduler: str, *options: str, **library: Path) -> tuple[forked.Started, Path]:
    # Without a limit: Dask would divide this machine's memory by its cores, and pause a worker that takes more.
    options = ("--nthreads", "1", "--memory-limit", "0", "--no-nanny", "--no-dashboard", *LIBRARY, *options)
    return start("worker", scheduler, "--host", "127.0.0.1", *options, **library)


def wait_for(condition: Callable[[], object]):
    """What the condition gives once that is true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


class Sweep(threading.Thread):
    """A sweep in the background."""

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self.arguments, self.outcome = arguments, None
        self.start()

    def run(self):
        try:
            self.outcome = cluster.train(*self.arguments)
        except Exception as error:
            self.outcome = error

    def end(self) -> int | Exception:
        self.join(PATIENCE)
        assert not self.is_alive(), "the sweep does not end"
        return self.outcome


def without_place(path: Path) -> records.Record:
    """A record without what tells where and when it was made."""
    return dataclasses.replace(records.read(path), environment={})


def test_workers_that_die_or_join_late_leave_the_records_of_a_local_sweep(start, scheduler, published, capsys):
    jobs = [(RUN, 0), (CONTINUED, 0), (CONTINUED, 7), (TAUGHT, 0), (DIVERGING, 0)]
    sweep = Sweep(jobs, "cpu", scheduler)
    first, folder = start_worker(start, scheduler)
    wait_for(lambda: list(folder.rglob("seed_*.partial.safetensors")))  # in mid-run
    first.send_signal(signal.SIGKILL)
    second, folder = start_worker(start, scheduler)
    assert sweep.end() == 1
    assert first.wait() == -signal.SIGKILL
    assert second.poll() is None
    assert not list((folder / "scratch").glob("mnist-lib-*")), "a worker keeps nothing"
    assert not (folder / "runs").exists()

    told = capsys.readouterr().out
    assert re.search(r"iteration_99 0 failed: the loss became \S+ at step", told)
    log = Path(re.search("its log: (.+)", told)[1]).read_text()
    assert "in _check_finite" in log and "DivergenceError" in log
    assert not DIVERGING.published.exists()

    made = {path.relative_to(published).as_posix() for path in published.rglob("*.json")}
    continued = {f"iteration_00/continued/seed_{seed}.json" for seed in (0, 7)}
    assert made == {"iteration_00/seed_0.json", "iteration_00/taught/seed_0.json"} | continued
    here = [records.record_path(RUN.store, seed).exists() for seed in (0, 1, 7)]
    assert here == [False, True, True], "what another run starts from or learns from is trained, too, not published"
    shutil.rmtree(RUN.store)
    for experiment, seed in jobs[:-1]:
        path = records.record_path(experiment.published, seed)
        distant, weights = without_place(path), records.weights_path(path).read_bytes()
        experiments.train(experiment, seed, CPU, local := published.parent / "local" / experiment.name)
        path = records.record_path(local, seed)
        assert distant == without_place(path)
        assert weights == records.weights_path(path).read_bytes()


@pytest.fixture
def inside(request):
    """Starts a scheduler and a worker inside this process, with so many threads; returns the scheduler's address."""
    options = {"n_workers": 1, "processes": False, "host": "127.0.0.1", "protocol": "tcp", "dashboard_address": ":0"}

    def start(threads: int = 1, **more: object) -> str:
        started = distributed.LocalCluster(threads_per_worker=threads, **options | more)
        request.addfinalizer(started.close)
        return started.scheduler_address

    return start


SHORT = dataclasses.replace(RUN, recipe=dataclasses.replace(RUN.recipe, epochs=1))
OF_SHORT = {
    "continued": dataclasses.replace(CONTINUED, start=SHORT),
    "taught": dataclasses.replace(TAUGHT, teacher=SHORT),
}


@pytest.mark.parametrize("publish", [True, False])
def test_what_is_trained_lies_where_it_belongs_with_what_made_it(inside, published, tmp_store, capsys, publish):
    assert cluster.train([(SHORT, 3), (DIVERGING, 0)], "cpu", inside(), publish) == 1
    folder, other = (SHORT.published, SHORT.store) if publish else (SHORT.store, SHORT.published)
    assert records.read(record := records.record_path(folder, 3)).seed == 3 and not other.exists()
    assert {path.name for path in folder.iterdir()} >= {record.name, records.weights_path(record).name}
    assert (folder / "experiment.py").exists() != publish, "a store says what made a run"
    told = capsys.readouterr()
    assert len(re.findall(r"^\S+ iteration_00 3: done$", told.out, re.MULTILINE)) == publish
    assert re.search(r"^\S+ iteration_99 0: DivergenceError$", told.out, re.MULTILINE)
    assert (
        "2/2" in told.err and re.search(r"s/run|\drun/s", told.err) and re.search(r"\d running, \d waiting", told.err)
    )


def test_what_a_run_needs_is_sent_from_here_or_trained_first(inside, published, tmp_store):
    experiments.train(SHORT, 0, CPU, SHORT.published)
    assert cluster.train([(each, 0) for each in OF_SHORT.values()], "cpu", inside()) == 0
    assert [records.record_path(SHORT.store, seed).exists() for seed in range(3)] == [False, True, False]
    shutil.copytree(SHORT.store, SHORT.published, dirs_exist_ok=True)  # the second teacher, which was not published
    for each in OF_SHORT.values():
        distant = without_place(records.record_path(each.published, 0))
        experiments.train(each, 0, CPU, local := published.parent / each.name)
        assert distant == without_place(records.record_path(local, 0))


def test_a_worker_with_several_threads_is_named(inside, published):
    address = inside(threads=2)
    said = r"^the worker tcp://127\.0\.0\.1:\d+ has 2 threads: start it with --nthreads 1$"
    with pytest.raises(cluster.ClusterError, match=said):
        cluster.train([(SHORT, 0)], "cpu", address)
    assert not published.exists()


def test_on_a_gpu_a_run_takes_one_unit_of_what_a_worker_offers(inside, published):
    """Without a GPU here, the worker says that there is none."""
    failures = cluster.train([(SHORT, 0)], "cuda:99", inside(resources={"GPU": 1}))
    assert failures == 1 and not published.exists()


def test_without_the_package_it_says_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(cluster.ClusterError, match=r"^a cluster needs Dask's scheduler: pip install 'mnist-lib\[clus"):
        cluster.train([(SHORT, 0)], "cpu", "tcp://127.0.0.1:9")


def test_a_sweep_gives_the_same_table_here_and_on_two_workers_of_which_one_is_killed(start, scheduler, tmp_path):
    notebook, tables = own_notebook(tmp_path), []
    values = "--set learning_rate=0.05,0.2 --set width=4,8 --set epochs=2 --seeds 0-2 --name two".split()
    (first, _), _ = start_worker(start, scheduler), start_worker(start, scheduler)
    for place in (["--workers", "2"], ["--scheduler", scheduler]):
        store = tmp_path / place[0].lstrip("-")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MNIST_LIB_RUNS": str(store)}
        command, log = ["-m", "mnist_lib.cli", "sweep", notebook, *values, *place], tmp_path / "sweep.log"
        sweep = forked.start(*command, cwd=tmp_path, environment=environment, log=log)
        if "--scheduler" in place:
            wait_for(lambda store=store: list(store.rglob("seed_*.json")))
            first.send_signal(signal.SIGKILL)
        assert sweep.wait(PATIENCE) == 0, log.read_text()
        said = mnist_lib("runs", "--sweep", "two", "--csv", MNIST_LIB_RUNS=str(store)).stdout
        frame = pd.read_csv(io.StringIO(said)).drop(columns=["minutes", "date", "folder"])
        tables.append(frame)
        assert len(list(store.rglob("experiment.py"))) == 4, "each folder says what made it"
    assert set(tables[0]["runs"]) == {3}
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_lost_scheduler_ends_the_sweep_and_the_same_command_continues(start, published):
    process, address = start_scheduler(start)
    start_worker(start, address)
    jobs = [(RUN, seed) for seed in range(6)]
    sweep = Sweep(jobs, "cpu", address)
    wait_for(lambda: list(published.rglob("seed_*.json")))
    process.kill()
    outcome = sweep.end()
    assert isinstance(outcome, cluster.ClusterError)
    assert f"the scheduler at {address} was lost; finished runs are kept" in str(outcome)
    finished = [(experiment, seed) for experiment, seed in jobs if experiments.find(experiment, seed)]
    assert 0 < len(finished) < len(jobs)

    _, address = start_scheduler(start, port=int(address.rpartition(":")[2]))
    start_worker(start, address)
    assert cluster.train([job for job in jobs if job not in finished], "cpu", address) == 0
    assert all(experiments.find(experiment, seed) for experiment, seed in jobs)


def test_workers_that_would_train_something_else_are_refused(start, scheduler, published, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(ROOT / "mnist_lib", edited / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    loop = edited / "mnist_lib" / "training.py"
    edit(loop, "FIRST_STEPS = 10", "FIRST_STEPS = 11")
    early, _ = start_worker(start, scheduler, library=edited)
    with distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
    for _ in ("edited", "mended on the disk, and not restarted"):
        with pytest.raises(cluster.ClusterError, match=r"127\.0\.0\.1:\d+ has other training code for iteration_00"):
            cluster.train([(RUN, 0)], "cpu", scheduler)
        shutil.copy(ROOT / "mnist_lib" / "training.py", loop)

    early.kill()
    early.wait()
    sweep = Sweep([(RUN, 0)], "cpu", scheduler)
    start_worker(start, scheduler, "--nthreads", "2")  # after the sweep has begun
    assert "has 2 threads: start it with --nthreads 1" in str(sweep.end())
    assert not published.exists()


def test_runs_on_a_gpu_wait_for_a_worker_that_offers_one(start, scheduler):
    _, without = start_worker(start, scheduler)
    sweep = Sweep([(RUN, 0)], "cuda", scheduler)
    # A lambda travels as code; the scheduler could not import this module.
    no_worker_fits = lambda dask_scheduler: any(t.state == "no-worker" for t in dask_scheduler.tasks.values())  # noqa: E731
    with distributed.Client(scheduler, set_as_default=False) as client:
        wait_for(lambda: client.nthreads() and client.run_on_scheduler(no_worker_fits))
        _, offering = start_worker(start, scheduler, "--resources", "GPU=1")
        failures = sweep.end()
    assert failures == (not torch.cuda.is_available()), "without a GPU the worker says so, and the run fails"
    assert not list(without.rglob("mnist-lib-*"))
    assert "Start worker" in (offering / "log").read_text()


def test_an_address_where_no_scheduler_is_names_itself():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(cluster.ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        cluster.train([(RUN, 0)], "cpu", "tcp://127.0.0.1:9")


STUBS = {
    "nvidia-smi": "echo 0; echo 1",
    # Says that it began, and at the end that it was told to end.
    "dask": 'trap "echo ended >> log; exit" TERM\necho "$1 ${CUDA_VISIBLE_DEVICES-none}" >> log\n'
    "while :; do sleep 0.05; done",
    "mnist-lib": 'touch log; while [ "$(wc -l < log)" -lt 3 ]; do sleep 0.05; done; echo "$@" >> log; exit 3',
}


def with_stubs(folder: Path, **changes: str) -> subprocess.CompletedProcess:
    for name, text in (STUBS | changes).items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    command = ["sh", ROOT / "deploy" / "gpus.sh", "iteration_*", "--seeds", "0-1"]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    return subprocess.run(command, cwd=folder, env=environment, timeout=PATIENCE)


def test_the_script_for_several_gpus_starts_a_worker_for_each_and_ends_all(tmp_path):
    assert with_stubs(tmp_path).returncode == 3
    wait_for(lambda: (tmp_path / "log").read_text().count("ended") == 3)
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines[:3]) == ["scheduler none", "worker 0", "worker 1"]
    assert lines[3] == "train iteration_* --seeds 0-1 --device cuda --scheduler tcp://127.0.0.1:8786"


def test_the_script_for_several_gpus_starts_nothing_where_there_is_none(tmp_path):
    assert with_stubs(tmp_path, **{"nvidia-smi": "exit 9"}).returncode == 9
    assert not (tmp_path / "log").exists()
