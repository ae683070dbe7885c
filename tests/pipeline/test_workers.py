"""Sweeps in local processes: what fails, and what dies, does not take anything else with it."""

import os
import re
import signal
from pathlib import Path

import pytest

from mnist_lib.pipeline import workers


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path, Path]:
    made = tuple(tmp_path / name for name in "abc")
    for folder in made:
        folder.mkdir()
    return made


def attempt(folder: Path, deaths: int = 0) -> None:
    """Leaves a file, and is killed the first times."""
    attempts = len(list(folder.iterdir()))
    (folder / str(attempts)).touch()
    if attempts < deaths:
        os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("a fault of its own")


def test_failures_and_deaths_stay_where_they_are(folders, tmp_store, capfd):
    once, always, never = folders
    tasks = {
        ("killed once", 0): (attempt, once, 1),
        ("killed always", 1): (attempt, always, 9),
        ("fails", 2): (fail,),
        ("is well", 3): (attempt, never),
    }
    assert workers._in_processes(tasks, 2, "run") == 2
    assert [len(list(folder.iterdir())) for folder in folders] == [2, workers.ATTEMPTS, 1]
    told = capfd.readouterr()
    assert "4/4" in told.err and "0 running, 0 waiting" in told.err
    assert "killed always 1 failed: its process died 2 times: it was killed, or memory ran out" in told.out
    log = Path(re.search(r"fails 2 failed: a fault of its own\nits log: (.+)", told.out)[1])
    assert log == tmp_store / "failures" / "fails_2.log"
    assert re.search(r"test_workers\.py\", line \d+, in fail\n", log.read_text())


def test_a_log_that_cannot_be_written_is_shown(folders, tmp_store, capfd):
    tmp_store.write_text("a file where the folder should be")
    assert workers._in_processes({("fails",): (fail,)}, 1, "run") == 1
    assert "in fail\n" in capfd.readouterr().out


def test_nothing_to_do(capsys):
    assert workers._in_processes({}, 2, "run") == 0
    assert capsys.readouterr().out == "no run to do\n"
