"""A sweep from the command line, killed from outside again and again: it ends as one that was left alone."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import check_nothing_is_truncated, command, content

MOMENTS = ["step"] * 8 + ["checkpoint"] * 6 + ["record"] * 6
TRAIN = ("train", "your_network", "--workers", "2")

# Every process of the copy imports this when it starts. It changes no result; it leaves time to meet a file that is
# written and does not have its name yet.
SLOW_DISK = """
import os, random, time

def slow(function):
    def slowly(*arguments):
        time.sleep(random.uniform(0.1, 0.3))
        return function(*arguments)
    return slowly

os.fsync, os.replace = slow(os.fsync), slow(os.replace)
"""


def files(folder: Path, pattern: str) -> dict[str, int]:
    """The files of a name, and when each was last written."""
    found = {}
    for path in folder.glob(pattern):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # it has got its name, or was removed
            continue
    return found


def state(folder: Path, moment: str) -> dict[str, int]:
    """What changes when a moment has come: checkpoints and records, or scratch files of one of these."""
    if moment == "step":
        return files(folder, "seed_*.safetensors")
    return {name: 0 for name in files(folder, ".seed_*") if (".partial." in name) == (moment == "checkpoint")}


def wait_for(process: subprocess.Popen, folder: Path, moment: str, before: dict[str, int]) -> None:
    """Return when the moment has come, or all is over. However slow the machine, it comes after some progress."""
    while process.poll() is None:
        if state(folder, moment).items() - before.items():
            return
        time.sleep(0.005)


def finish(report: Path, folder: Path) -> dict[str, object]:
    """Run the sweep to its end; returns what lies in its folder."""
    process = command(report, *TRAIN)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return content(folder)


@pytest.mark.slow
def test_a_sweep_that_is_killed_twenty_times_ends_as_if_it_had_not_been(small_report):
    (small_report / "sitecustomize.py").write_text(SLOW_DISK, "utf-8")
    folder = small_report / "book" / "records" / "your_network"
    expected = finish(small_report, folder)
    assert len(expected) == 8, "four records with their weights, and nothing else"
    shutil.rmtree(folder)

    chance = random.Random(0)
    moments = chance.sample(MOMENTS, len(MOMENTS))
    completed = 0
    while moments:
        before = state(folder, moments[-1])
        process = command(small_report, *TRAIN)
        wait_for(process, folder, moments[-1], before)
        time.sleep(chance.uniform(0, 0.2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()  # ends when the last process that has the pipe has ended
        if process.returncode == -signal.SIGKILL:
            check_nothing_is_truncated(folder)
            moments.pop()
            continue
        # It was faster. It must have come to the same end; the next one begins anew.
        assert process.returncode == 0, printed
        assert content(folder) == expected
        completed += 1
        assert completed < len(MOMENTS), "the sweep is over before it can be killed"
        shutil.rmtree(folder)
    assert finish(small_report, folder) == expected, "also: no lock, checkpoint or scratch file is left"
