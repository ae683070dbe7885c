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
