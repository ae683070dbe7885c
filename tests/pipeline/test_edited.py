"""Code that is edited while something runs: no record ever states other code than the code that trained it."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import forked
from mnist_lib import experiments
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import Recipe
from mnist_lib.results import page
from support import LIGHT, PATIENCE, command, content, edit, mnist_lib

NAME = "your_network"
OLD, NEW = "zero_grad(set_to_none=True)", "zero_grad()"


def records_of(report: Path) -> Path:
    return report / "book" / "records" / NAME


def wait_for_a_checkpoint(folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not list(folder.glob("seed_*.partial.safetensors")):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def workers_of(process: int) -> list[int]:
    """The processes that a sweep trains in, and not the one that Python starts for bookkeeping."""
    lists = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    children = [int(child) for listed in lists for child in listed]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def long_report(small_report) -> Path:
    """The small report with one run, which has epochs enough to be met in mid-run."""
    edit(small_report / "notebooks" / f"{NAME}.ipynb", "seeds: int = 4", "seeds: int = 1")
    return small_report


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="tells processes apart as Linux does")
def test_a_module_that_is_edited_during_a_sweep_gives_no_record_and_no_run_goes_on_under_it(long_report):
    """A worker that starts after the edit would train with other code than was announced."""
    folder, module = records_of(long_report), long_report / "mnist_lib" / "training.py"
    sweep = command(long_report, "train", "--workers", "1")
    wait_for_a_checkpoint(folder)
    edit(module, OLD, NEW)
    (worker,) = workers_of(sweep.pid)
    os.kill(worker, signal.SIGKILL)  # as where memory runs out; a new one takes its place
    told, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert "the training code was changed while this command ran: start it again" in told
    assert not list(folder.glob("seed_*.json"))

    begun = (folder / "seed_0.partial.safetensors").read_bytes()
    again = mnist_lib("train", "--workers", "1", root=long_report)
    assert again.returncode == 1
    assert "this run was begun with another recipe or under other code" in again.stdout
    assert "go back to that code and restart, or delete the file" in again.stdout
    assert (folder / "seed_0.partial.safetensors").read_bytes() == begun
    assert not list(folder.glob("seed_*.json"))

    edit(module, NEW, OLD)
    assert mnist_lib("train", "--workers", "1", root=long_report).returncode == 0
    resumed = content(folder)
    assert set(resumed) == {"seed_0.json", "seed_0.safetensors"}
    shutil.rmtree(folder)
    assert mnist_lib("train", "--workers", "1", root=long_report).returncode == 0
    assert content(folder) == resumed, "as if it had not been interrupted"


IN_A_SESSION = """
import json, pathlib, sys
from mnist_lib import experiments
from mnist_lib.results import page
module = pathlib.Path(sys.argv[1])
module.write_text(module.read_text("utf-8").replace(sys.argv[2], sys.argv[3]), "utf-8")
parameters = page.of_notebook(sys.argv[4])
experiment = page.experiment(parameters)
(record,) = experiments.runs(experiment, 1)
print(json.dumps([record.digests, experiment.digests]))
"""


def test_a_session_that_was_not_restarted_records_the_code_that_it_runs(long_report):
    """A module is edited on the disk while a notebook is open: after a restart, the run is none of the new code."""
    edit(long_report / "notebooks" / f"{NAME}.ipynb", "epochs: int = 6", "epochs: int = 1")
    environment = os.environ | {"PYTHONPATH": str(long_report), "MNIST_LIB_RUNS": str(long_report / "runs")}

    def session(old: str, new: str) -> list[dict[str, str]]:
        arguments = [str(long_report / "mnist_lib" / "training.py"), old, new, NAME]
        done = forked.python("-c", IN_A_SESSION, *arguments, cwd=long_report, environment=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    before, _ = session(OLD, NEW)
    after, _ = session(OLD, NEW)  # it begins with the edited module, and edits nothing
    assert before["code"] != after["code"]
    assert len(list((long_report / "runs").rglob("seed_0.json"))) == 2, "the first run was not taken for the second"
    assert session(NEW, NEW)[0] == after


def test_the_label_of_a_run_is_that_of_the_experiment_asked_for(tmp_store, monkeypatch):
    """Whoever trained it first: an equal recipe with an equal network is the same run."""
    recipe = Recipe(dataset="digits", epochs=1, batch_size=256)
    network = page.of_notebook(LIGHT).network
    (first,) = experiments.runs(Experiment("mine", recipe, network), 1)
    monkeypatch.setattr(experiments, "train", lambda *_: pytest.fail("trained again"))
    (second,) = experiments.runs(Experiment("somebody/else", recipe, network), 1)
    assert (first.experiment, second.experiment) == ("mine", "somebody/else")
    assert second.path == next(tmp_store.rglob("seed_0.json"))
