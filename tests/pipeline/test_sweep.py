"""Sweeps: every combination and seed into one's own store, the list of all runs, and the page that reads a sweep."""

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

import forked
from mnist_lib import cli, experiments, records, table
from mnist_lib.parameters import ParameterError
from mnist_lib.results import sweeps
from support import ROOT, edit, mnist_lib, own_notebook, sealed

DEEP = f"{'-' * 30_000}1"
"""What exhausts Python's parser."""

OPTIONS = "--set learning_rate=0.05,0.2 --set width=4,8 --seeds 0-2 --workers 1".split()


@pytest.fixture
def notebook(tmp_path) -> Path:
    return own_notebook(tmp_path)


def sweep(notebook: Path, store: Path, *options: str) -> subprocess.CompletedProcess:
    return mnist_lib("sweep", str(notebook), *options, MNIST_LIB_RUNS=str(store))


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_is_trained_once_listed_shown_verified_and_deleted(notebook, tmp_store, tmp_path):
    published = state(experiments.published_records())
    done = sweep(notebook, tmp_store, *OPTIONS, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert "two: 4 combinations, 3 seeds each" in done.stdout
    assert "0 runs are there, 12 to train; judged on the validation images" in done.stdout
    assert "12/12" in done.stderr
    assert ": done" not in done.stdout + done.stderr, "the bar says it; two hundred runs need no line each"
    assert len(list(tmp_store.rglob("seed_*.json"))) == 12
    assert state(experiments.published_records()) == published

    before = state(tmp_store)
    again = sweep(notebook, tmp_store, *OPTIONS, "--name", "two")
    assert "12 runs are there, 0 to train" in again.stdout
    assert {path: time for path, time in state(tmp_store).items() if path.suffix != ".json" or "seed" in path.name} == {
        path: time for path, time in before.items() if path.suffix != ".json" or "seed" in path.name
    }

    frame = table(sweep="two")
    assert frame[["learning_rate", "width"]].to_numpy().tolist() == [[0.05, 4], [0.05, 8], [0.2, 4], [0.2, 8]]
    assert set(frame["seeds"]) == {"0–2"} and set(frame["where"]) == {"yours"}
    assert (frame["low"] <= frame["mean"]).all() and (frame["mean"] <= frame["high"]).all()
    listed = json.loads(mnist_lib("runs", "mine/*", "--json", MNIST_LIB_RUNS=str(tmp_store)).stdout)
    assert sorted(row["mean"] for row in listed) == pytest.approx(sorted(frame["mean"]))
    as_csv = mnist_lib("runs", "--sweep", "two", "--csv", MNIST_LIB_RUNS=str(tmp_store)).stdout
    assert as_csv == frame.to_csv(index=False)

    folder = Path(frame["folder"][3])
    assert "width_8" in folder.name, "a person can read what lies in the store"
    script = forked.python(folder / "experiment.py", cwd=tmp_path)
    assert script.returncode == 0, script.stderr
    run = records.read(records.record_path(folder, 0))
    assert script.stdout == f"0 {run.test_accuracy[-1]}\n", "found, not trained again"
    held = mnist_lib("verify", str(folder), MNIST_LIB_RUNS=str(tmp_store))
    assert held.returncode == 0 and "3 of 3 records hold" in held.stdout, held.stderr

    said = page(tmp_path, sweep="two", value="width")
    assert "4 combinations" in said and "3 seeds each" in said
    assert "Accuracy in percent against width" in said
    assert "Mean accuracy in percent by learning_rate and width" in said
    assert "of 6 pairs apart" in said
    assert "± with one more seed, points" in said

    asked = mnist_lib("runs", "--sweep", "two", "--delete", MNIST_LIB_RUNS=str(tmp_store))
    assert asked.returncode == 1 and "Delete these 12 runs" in asked.stdout + asked.stderr
    assert len(list(tmp_store.rglob("seed_*.json"))) == 12
    gone = mnist_lib("runs", "--sweep", "two", "--delete", "--yes", MNIST_LIB_RUNS=str(tmp_store))
    assert gone.returncode == 0 and "deleted 12 runs of 4 experiments" in gone.stdout, gone.stderr
    assert not [path for path in tmp_store.rglob("*") if path.is_file()]


def page(tmp_path: Path, **parameters) -> str:
    """What the page says with these parameters."""
    made = tmp_path / "out.ipynb"
    source = ROOT / "notebooks" / "your_sweep.ipynb"
    papermill.execute_notebook(str(source), str(made), parameters, kernel_name="python3", progress_bar=False)
    return outputs(made)


def outputs(path: Path) -> str:
    found = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text", "") or "\n".join(map(str, output.data.values())) for output in found)


READER = """
def few() -> tuple[Images, Images]:
    train, test = digits()
    return Images(train.images[:500], train.labels[:500]), test


"""

REFUSED = {
    ("learning_rate=0.1,-1",): "learning_rate = -1: expected a number above 0 up to 100",
    ("learnign_rate=0.1",): "unknown parameter 'learnign_rate': did you mean 'learning_rate'?",
    ("width=4,-1",): "(width -1): network(width -1): it does not work, at line 5 of its text",
    ("width=4,many",): "width = 'many': expected int",
    ("seeds=1,2",): "seeds is no value to sweep: give --seeds 0-4",
    ("learning_rate=0.1,0.1000001",): "learning_rate = [0.1, 0.1000001]: expected at least one, and none of them twice",
    ("step_size=5,6",): "(step_size 5) and (step_size 6) would be the same run",
    ("width=4", "width=8"): "--set: give all values of a name at once",
    ("width=4", "name:../x"): "name = '../x': expected the name of a sweep",
    ("width=4", "name:2024"): "name = '2024': papermill would take it for a value: choose another one",
    ("width=4", "name:1e5"): "name = '1e5': papermill would take it for a value",
    ("width=4", "name:None"): "name = 'None': papermill would take it for a value",
    ("width=4", "name:your_network"): "name = 'your_network': a page of the report has this name",
}


@pytest.mark.parametrize("given", REFUSED, ids=" ".join)
def test_what_is_refused_is_refused_before_the_first_run(given, notebook, tmp_store):
    named = [each.removeprefix("name:") for each in given if each.startswith("name:")]
    values = [option for each in given if not each.startswith("name:") for option in ("--set", each)]
    done = sweep(notebook, tmp_store, *values, *(["--name", *named] if named else []))
    assert done.returncode == 1
    assert REFUSED[given] in done.stderr and "Traceback" not in done.stderr
    assert not tmp_store.exists()


def test_a_network_that_would_fail_in_every_run_is_refused_before_the_first(notebook, tmp_store):
    edit(notebook, "nn.Linear(width, 10)", "nn.LazyLinear(10)")
    done = sweep(notebook, tmp_store, "--set", "width=4,8")
    assert done.returncode == 1 and not tmp_store.exists()
    assert "(width 4): network(width 4): 4.weight has no shape yet: give the layer its number of inputs" in done.stderr


NO_CODE = {
    "no literals": (
        "epochs: int = 1",
        "epochs: dict = {[1]: 2}",
        "the parameters cell must hold literals only: unhash",
    ),
    "parameters": (
        "epochs: int = 1",
        f"epochs: int = {DEEP}",
        "the parameters cell must hold literals only: it is nes",
    ),
    "network": ("nn.ReLU()", f"nn.ReLU({DEEP})", "the network cell cannot be read"),
}


@pytest.mark.parametrize(("old", "new", "said"), NO_CODE.values(), ids=NO_CODE)
def test_a_notebook_that_python_cannot_read_is_refused(notebook, tmp_store, old, new, said):
    edit(notebook, old, new)
    with pytest.raises(ParameterError, match=said):
        sweeps.plan(notebook, {"width": [4, 8]})


@pytest.mark.parametrize("source", ["def", "(" * 3000, DEEP], ids=["def", "parentheses", "minuses"])
def test_a_run_whose_network_cannot_be_read_is_left_out_as_a_damaged_record_is(tmp_store, source):
    there = experiments.published_records() / "iteration_01_setup" / "seed_0.json"
    content = json.loads(there.read_text("utf-8"))
    (folder := tmp_store / "mine").mkdir(parents=True)
    for seed in range(3):
        content["seed"], content["network"]["source"] = seed, source if seed == 1 else content["network"]["source"]
        (folder / f"seed_{seed}.json").write_text(json.dumps(sealed(content)), "utf-8")
        content = json.loads(there.read_text("utf-8"))
    (row,) = table("mine").to_dict("records")
    assert (row["seeds"], row["runs"]) == ("0, 2", 2)
    assert row["differences"] == f"1 cannot be read: mnist-lib verify {folder}"
    assert len(table()) > 1


DAMAGED = {
    "no combinations": {"combinations": []},
    "nor a list of them": {"combinations": {}},
    "no values": {"values": {}, "combinations": [[]]},
    "no code": {"network": {"source": "def"}},
    "too deep": {"network": {"source": f"def network(x: int = {DEEP}): ..."}},
}


@pytest.mark.parametrize("change", DAMAGED)
def test_a_sweep_that_cannot_be_read_is_named(notebook, tmp_store, capsys, change):
    path = sweeps.write(sweeps.plan(notebook, {"width": [4, 8]}, name="wide"))
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | DAMAGED[change]), "utf-8")
    assert cli.main(["runs", "--sweep", "wide"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"ParameterError: {path}: cannot be read as a sweep: ") and said.endswith("; delete it\n")


def test_a_table_holds_no_formula_for_a_spreadsheet(notebook, tmp_store):
    """Whoever wrote it into a record: a cell that begins with = would be computed."""
    done = sweep(notebook, tmp_store, "--set", "width=4,8", "--seeds", "0", "--name", "two")
    assert done.returncode == 0, done.stderr
    path = next(tmp_store.rglob("seed_0.json"))
    content = json.loads(path.read_text("utf-8"))
    content["environment"]["device_name"] = '=HYPERLINK("http://127.0.0.1:9", "a")'
    path.write_text(json.dumps(sealed(content)), "utf-8")
    said = mnist_lib("runs", "--csv", "mine/*", MNIST_LIB_RUNS=str(tmp_store)).stdout
    assert sorted(pd.read_csv(io.StringIO(said))["device"])[0].startswith("'=HYPERLINK(")


def test_failures_are_told_at_the_end_and_the_others_are_kept(tmp_store):
    values = "--set learning_rate=0.01,100 --set dataset=digits --set epochs=1 --seeds 0".split()
    done = mnist_lib("sweep", "iteration_03_batch_normalisation", *values, MNIST_LIB_RUNS=str(tmp_store))
    assert done.returncode == 1
    assert "learning_rate_100-dataset_digits-epochs_1 0 failed: the loss" in done.stdout, done.stdout + done.stderr
    assert len(list(tmp_store.rglob("seed_*.json"))) == 1


def test_combinations_are_drawn_the_same_every_time(notebook):
    values = {"learning_rate": [0.1, 0.2, 0.3], "batch_size": [16, 32, 64]}
    one, two = (sweeps.plan(notebook, values, most=4) for _ in range(2))
    assert [trial.values for trial in one.trials] == [trial.values for trial in two.trials]
    assert len({str(trial) for trial in one.trials}) == 4
    assert len(sweeps.plan(notebook, values, most=99).trials) == 9


def test_published_candidates_are_a_sweep_and_are_not_trained_again(tmp_store):
    path = ROOT / "notebooks" / "iteration_10_one_cycle.ipynb"
    planned = sweeps.plan(path, {"learning_rate": [0.01, 0.03, 0.1, 0.3, 0.5, 1.0]}, seeds=[0, 1])
    assert planned.missing() == []
    assert planned.found() == sweeps.read("iteration_10_one_cycle").found()
    with_test = sweeps.plan(path, {"learning_rate": [0.3], "evaluate_on": ["test"]}, seeds=[0])
    assert with_test.missing() == [], "the page's own recipe is found among its published records"


def test_a_sweep_is_written_so_that_its_notebook_may_change(notebook, tmp_store):
    planned = sweeps.plan(notebook, {"width": [4, 8]}, name="wide")
    content = json.loads(sweeps.write(planned).read_text())
    assert (content["notebook"], content["values"], content["seeds"]) == ("mine", {"width": [4, 8]}, [0, 1, 2, 3, 4])
    notebook.unlink()
    read = sweeps.read("wide")
    assert [trial.experiment for trial in read.trials] == [trial.experiment for trial in planned.trials]
    with pytest.raises(ParameterError, match=r"there is no sweep 'wider' in .*; there: wide"):
        sweeps.read("wider")


def test_another_sweep_of_the_same_name_is_refused_and_more_seeds_are_not(notebook, tmp_store):
    sweeps.write(sweeps.plan(notebook, {"width": [4, 8]}, name="mine"))
    sweeps.write(sweeps.plan(notebook, {"width": [4, 8, 16]}, seeds=range(9), name="mine"))
    assert len(sweeps.read("mine").trials) == 3
    with pytest.raises(ParameterError, match="mine is a sweep of mine over width: give this one another name"):
        sweeps.write(sweeps.plan(notebook, {"batch_size": [32, 64]}, name="mine"))


def test_a_further_data_set_is_one_entry_in_one_place(notebook, tmp_path):
    """Its name, reader, digest, size and split: then it is trained on, checked, listed and named on a page."""
    report = tmp_path / "report"
    shutil.copytree(ROOT / "mnist_lib", report / "mnist_lib", ignore=shutil.ignore_patterns("__pycache__"))
    edit(
        report / "mnist_lib" / "data.py",
        "@dataclass(frozen=True)\nclass Dataset",
        f"{READER}\n@dataclass(frozen=True)\nclass Dataset",
    )
    edit(
        report / "mnist_lib" / "data.py",
        "DATASETS = {",
        'DATASETS = {\n    "few": Dataset(few, "some digest", 400, 100, "A few digits"),',
    )
    done = mnist_lib("sweep", str(notebook), "--set", "dataset=few,digits", "--seeds", "0", root=report)
    assert done.returncode == 0, done.stderr
    (path,) = report.glob("runs/*dataset_few*/seed_0.json")
    run = records.read(path)
    assert (run.train_size, run.test_size, run.digests["data"]) == (400, 100, "some digest")
    code = "from mnist_lib import parameters; from mnist_lib.results import tables\n"
    code += "print(tables.opening(parameters.NotebookParameters(name='x', dataset='few')).data)"
    environment = os.environ | {"PYTHONPATH": str(report)}
    said = forked.python("-c", code, cwd=report, environment=environment)
    assert said.stdout.startswith("A few digits, 15 epochs, 5 seeds"), said.stderr
    refused = mnist_lib("sweep", str(notebook), "--set", "dataset=many", root=report)
    assert "expected one of few, mnist, digits" in refused.stderr


def test_a_page_is_compared_with_its_own_published_recipe_by_one_parameter(notebook, tmp_store, tmp_path):
    made = tmp_path / "out.ipynb"
    values = {"dataset": "digits", "epochs": 1, "seeds": 1, "learning_rates": [], "learning_rate": 0.1, "variants": []}
    values["baseline"] = "iteration_10_one_cycle"
    source = ROOT / "notebooks" / "iteration_10_one_cycle.ipynb"
    papermill.execute_notebook(str(source), str(made), values, kernel_name="python3", progress_bar=False)
    said = outputs(made)
    assert "10 one cycle, published recipe" in said and "10 one cycle, yours" in said
    assert "the published recipe of iteration 10 (one cycle)" in said
    assert re.search(r"learning_rate\s+0\.3\s+0\.1", said), "the difference of the recipes"
    assert "The network is the same" in said


def test_published_records_are_listed_and_never_deleted(tmp_store):
    frame = table("iteration_0*")
    frame = frame[~frame["experiment"].str.contains("/")]  # without variants
    assert len(frame) == 9 and set(frame["where"]) == {"published"} and set(frame["differences"]) == {""}
    rates = table("iteration_10_one_cycle/*").set_index("experiment")["differences"]
    assert rates["iteration_10_one_cycle/learning_rate_0.1"] == (
        "evaluate_on validation (test), learning_rate 0.1 (0.3)"
    )
    done = mnist_lib("runs", "iteration_0*", "--delete", "--yes", MNIST_LIB_RUNS=str(tmp_store))
    assert done.returncode == 1 and "none of your runs match" in done.stdout


def test_of_a_grid_that_is_far_too_large_some_combinations_can_be_drawn(notebook):
    values = {name: [i / 1000 for i in range(1, 1000)] for name in ("learning_rate", "momentum", "weight_decay")}
    with pytest.raises(ParameterError, match=r"997,002,999 combinations with 5 seeds each are more than 100,000 runs"):
        sweeps.plan(notebook, values | {"schedule": ["constant"]})
    assert len(sweeps.plan(notebook, values | {"schedule": ["constant"]}, most=5).trials) == 5
    names = ("momentum", "weight_decay", "label_smoothing", "rotation", "scale", "learning_rate", "width")
    many = {name: [i / 2000 for i in range(1, 1000)] for name in names}
    with pytest.raises(ParameterError, match=r"there are more combinations than a computer counts: give fewer values"):
        sweeps.plan(notebook, many, most=5)
