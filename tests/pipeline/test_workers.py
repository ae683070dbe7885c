"""Sweeps in local processes: what fails, and what dies, does not take anything else with it."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import forked
from mnist_lib import experiments, records
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import ParameterError, Recipe
from mnist_lib.pipeline import workers
from mnist_lib.pipeline.verification import Verdict
from mnist_lib.results import page
from support import LIGHT


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch):
    forked.fork_workers(monkeypatch)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path, Path]:
    made = tuple(tmp_path / name for name in "abc")
    for folder in made:
        folder.mkdir()
    return made


DEATHS = {"killed once": 1, "killed always": 9}


def attempt(source: Path, folder: Path) -> None:
    """In the place of a function that executes a notebook: leaves a file, and is killed the first times."""
    if source.stem == "fails":
        raise ValueError("a fault of its own")
    attempts = len(list(folder.iterdir()))
    (folder / str(attempts)).touch()
    if attempts < DEATHS.get(source.stem, 0):
        os.kill(os.getpid(), signal.SIGKILL)


def test_failures_and_deaths_stay_where_they_are(folders, tmp_store, capfd):
    once, always, never = folders
    jobs = {"killed once": once, "killed always": always, "fails": never, "is well": never}
    assert workers.execute(attempt, [(Path(name), folder) for name, folder in jobs.items()], 2) == 2
    assert [len(list(folder.iterdir())) for folder in folders] == [2, workers.ATTEMPTS, 1]
    told = capfd.readouterr()
    assert "4/4" in told.err and "0 running, 0 waiting" in told.err
    assert "killed always failed: its process died 2 times: it was killed, or memory ran out" in told.out
    log = Path(re.search(r"fails failed: a fault of its own\nits log: (.+)", told.out)[1])
    assert log == tmp_store / "failures" / "fails.log"
    assert re.search(r"test_workers\.py\", line \d+, in attempt\n", log.read_text())


def test_a_log_that_cannot_be_written_is_shown(tmp_path, tmp_store, capfd):
    tmp_store.write_text("a file where the folder should be")
    assert workers.execute(attempt, [(Path("fails"), tmp_path)], 1) == 1
    assert "in attempt\n" in capfd.readouterr().out


def test_nothing_to_do(capsys):
    assert workers.execute(attempt, [], 2) == 0
    assert capsys.readouterr().out == "no notebook to do\n"


# -- what is seen of a sweep


def test_a_sweep_tells_what_is_done_running_and_waiting(tmp_store, capsys):
    with workers.Progress(5, "thing") as progress:
        for running, said in ((2, "2 running, 3 waiting"), (9, "5 running, 0 waiting")):
            progress.show(running)
            assert said in capsys.readouterr().err
        progress.show(9)
        assert capsys.readouterr().err == "", "nothing new"
        progress.end("one", None)
        progress.end("two words, 1.5", ValueError("a fault"))
        told = capsys.readouterr()
        assert re.fullmatch(r"(\d\d:){2}\d\d one: done\n(\d\d:){2}\d\d two words, 1\.5: ValueError\n", told.out)
        progress.show(2)
        assert "2/5" in (said := capsys.readouterr().err) and "thing" in said and "2 running, 1 waiting" in said
    assert [*progress.failures] == ["two words, 1.5"]
    log = tmp_store / "failures" / "two_words_1_5.log"
    assert capsys.readouterr().out == f"\ntwo words, 1.5 failed: a fault\nits log: {log}\n"
    assert re.fullmatch(r"\d{4}(-\d\d){2} \d\d(:\d\d){2} two words, 1\.5\nValueError: a fault\n", log.read_text())


def test_where_lines_are_not_wanted_failures_have_one(tmp_store, capsys):
    with pytest.raises(KeyError), workers.Progress(2, "run", lines=False) as progress:
        progress.end("one", None)
        progress.end("two", ValueError("a fault"))
        raise KeyError
    assert re.match(r"\S+ two: ValueError\n\ntwo failed: a fault\n", capsys.readouterr().out)


# -- interrupted


def ask(source: Path, folder: Path) -> None:
    """Leave a file; the first is interrupted, as by a key, goes on or dies, and leaves another if it can."""
    (folder / source.stem).touch()
    if source.stem != "later":
        os.kill(multiprocessing.parent_process().pid, signal.SIGINT)
        time.sleep(1)  # there is no telling when the other process has noticed
    if source.stem == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{source.stem} ended").touch()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """This process ends as Python does by a key: one of several that share the tests would not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("first", "left"), [("goes on", {"goes on", "goes on ended"}), ("dies", {"dies"})])
def test_after_an_interruption_what_runs_may_end_and_nothing_begins(tmp_path, tmp_store, interruptible, first, left):
    with pytest.raises(KeyboardInterrupt):
        workers.execute(ask, [(Path(name), tmp_path) for name in (first, "later", "later", "later")], 1)
    assert {path.name for path in tmp_path.iterdir()} == left


# -- runs, and checks of their records


RUN = Experiment("mine", Recipe(dataset="digits", epochs=1, batch_size=256), page.of_notebook(LIGHT).network)


@pytest.fixture
def published(tmp_path, tmp_store, monkeypatch) -> Path:
    """The folder of published records, empty."""
    monkeypatch.setattr(experiments, "published_records", lambda: tmp_path / "published")
    return tmp_path / "published"


@pytest.mark.parametrize("publish", [True, False])
def test_a_run_is_kept_where_it_belongs(published, tmp_store, capfd, publish):
    assert workers.train([(RUN, 0), (RUN, 3)], "cpu", 5, publish=publish) == 0
    folder = RUN.published if publish else RUN.store
    assert [path.name for path in sorted(folder.glob("*.json"))] == ["seed_0.json", "seed_3.json"]
    assert records.read(folder / "seed_3.json").seed == 3
    assert published.exists() == publish and tmp_store.exists() != publish
    told = capfd.readouterr()
    assert len(re.findall(r"mine [03]: done", told.out)) == (2 if publish else 0)
    assert "2/2" in told.err and "run" in told.err


def test_a_device_that_is_not_there_is_refused_before_anything_begins(published, tmp_store, capfd):
    for refused in (lambda: workers.train([(RUN, 0)], "nowhere", 1), lambda: workers.verify([(RUN, 0)], "nowhere", 1)):
        with pytest.raises(ParameterError, match="nowhere"):
            refused()
    assert capfd.readouterr() == ("", "") and not published.exists()


@pytest.mark.parametrize("replace", [True, False])
def test_what_another_recipe_has_begun_is_in_the_way_unless_it_may_be_replaced(published, tmp_store, capfd, replace):
    begun = RUN.published / "seed_0.partial.safetensors"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"another's")
    assert workers.train([(RUN, 0)], "cpu", 1, replace) == (not replace)
    assert begun.exists() != replace and (RUN.published / "seed_0.json").exists() == replace


def look(experiment: str, seed: int, where: torch.device, folder: Path | None = None) -> Verdict:
    """In the place of what checks a record."""
    if experiment == "interrupts":
        raise KeyboardInterrupt
    if folder is not None:
        (folder / f"{seed}").touch()
    time.sleep(0.3 * (seed == 0))  # the first comes last
    return Verdict(experiment, seed, (f"on {where}", "with a folder" if folder else "without") if seed else ())


def test_verdicts_come_in_the_order_of_the_jobs_and_problems_at_once(tmp_path, capfd):
    found = workers.verify([("a", 0), ("b", 1, tmp_path), ("c", 2)], "cpu", 2, look)
    assert [(each.run, each.problems) for each in found] == [
        ("a seed 0", ()),
        ("b seed 1", ("on cpu", "with a folder")),
        ("c seed 2", ("on cpu", "without")),
    ]
    told = capfd.readouterr()
    assert "b seed 1: on cpu; with a folder\n" in told.err and "c seed 2: on cpu; without\n" in told.err
    assert "a seed 0" not in told.err and "3/3" in told.err and "record" in told.err and told.out == ""
    assert workers.verify([], "cpu", 2, look) == []


def test_an_interrupted_check_begins_no_other(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        workers.verify([("interrupts", 0), *(("a", seed, tmp_path) for seed in range(9))], "cpu", 1, look)
    assert len([*tmp_path.iterdir()]) < 5, "the next few were handed over already"
