"""Which notebooks there are, which runs they publish and show, and what is wrong with a run's record."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest

from mnist_lib import experiments, records
from mnist_lib.experiments import CHANGED
from mnist_lib.parameters import ParameterError
from mnist_lib.pipeline import catalogue
from mnist_lib.records import RecordError, record_path
from support import ROOT, edit, reseal

NAME, BASELINE = "iteration_02_light_skeleton", "iteration_01_setup"
PAGES = ROOT / "notebooks"


def test_a_page_is_found_by_its_name_a_pattern_or_its_path(monkeypatch):
    monkeypatch.chdir(ROOT)
    for given in (NAME, f"{NAME}.ipynb", f"notebooks/{NAME}.ipynb", str(PAGES / NAME)):
        assert catalogue.find(given) == [PAGES / f"{NAME}.ipynb"]
    assert [path.stem for path in catalogue.find("iteration_0[12]*")] == [BASELINE, NAME]
    assert catalogue.find() == sorted(PAGES.glob("*.ipynb"))
    for given in (NAME.upper(), f"elsewhere/{NAME}", f"{NAME}.ipynb.txt"):
        with pytest.raises(ParameterError, match=f"^no notebook matches '{given}'; there are: backprop.*, {NAME}, "):
            catalogue.find(given)


def test_cells_of_one_text_get_ids_of_their_own_and_the_same_every_time(tmp_path):
    """In an older notebook, which has none."""
    path = tmp_path / "older.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass") for _ in range(3)])
    for cell in notebook.cells:
        del cell["id"]
    path.write_text(json.dumps(notebook | {"nbformat_minor": 4}), "utf-8")
    first, again = ([cell.id for cell in catalogue.read(path).cells] for _ in range(2))
    assert len(set(first)) == 3 and first == again
    assert catalogue.read(path).nbformat_minor == 5, "the first with ids"


def test_an_id_comes_from_the_text_where_a_cell_has_none_of_its_own(tmp_path):
    def ids(*cells: dict) -> list[str]:
        empty = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
        path = tmp_path / "page.ipynb"
        path.write_text(json.dumps(nbformat.v4.new_notebook() | {"cells": [empty | cell for cell in cells]}), "utf-8")
        return [cell.id for cell in catalogue.read(path).cells]

    ((made,), (other,)) = ids({"source": "pass"}), ids({"source": "1 + 1"})
    assert made != other
    assert ids({"source": ["pa", "ss"]}) == [made], "lines, as Jupyter stores them"
    assert ids({"source": "pass", "id": "no id at all"}) == [made]
    assert ids({"source": "1", "id": "Own-1_b"}, {"source": "pass", "id": "Own-1_b"}) == ["Own-1_b", made]
    first, second = ids({"source": "pass"}, {"source": "1", "id": made})
    assert second == made != first, "another cell's id is not given away"


def test_a_notebook_that_is_none_of_the_reports_says_why(tmp_path):
    path, copied = PAGES / f"{NAME}.ipynb", tmp_path / f"{NAME}.ipynb"
    assert catalogue.unpublished(path) is None
    other = Path(shutil.copy(path, tmp_path / "copy.ipynb"))
    assert catalogue.unpublished(other).startswith(f"its name is {NAME!r}, its file's is 'copy': a copy; ")
    papermill.execute_notebook(path, copied, {"epochs": 3}, prepare_only=True, progress_bar=False)
    assert catalogue.unpublished(copied).startswith("it is what papermill wrote, with parameters of its own; ")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), copied)
    assert catalogue.unpublished(copied) == "it has no cell with the tag parameters"
    copied.write_text("no notebook")
    assert catalogue.unpublished(copied).startswith(f"{copied}: not a notebook: ")
    assert catalogue.published_runs(copied) == []


def test_the_runs_that_a_page_shows_are_those_it_was_executed_with():
    """What a page's execution has noted, run by run, is an account of its own."""
    for path in catalogue.find():
        noted = catalogue.read(path).metadata["mnist_lib"]["records"]
        shown = [(experiment.name, seeds) for experiment, seeds in catalogue.read_runs(path)]
        assert sorted(shown) == sorted((name, len(runs)) for name, runs in noted.items()), path.stem


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Copies of the records of one iteration, in place of all published ones."""
    monkeypatch.setattr(experiments, "published_records", lambda: tmp_path)
    return Path(shutil.copytree(ROOT / "book" / "records" / NAME, tmp_path / NAME))


def test_what_is_wrong_with_a_record_and_what_gives_the_run_a_valid_one(folder):
    path = PAGES / f"{NAME}.ipynb"
    assert catalogue.missing_runs(path) == []
    before = records.read(record_path(folder, 0))
    other_code = before.digests | {"code": "0" * 64}
    other_recipe = before.parameters | {"batch_size": 32}
    record_path(folder, 0).unlink()
    edit(record_path(folder, 1), '"train_size": 60000', '"train_size": 60001')
    reseal(record_path(folder, 2), digests=other_code)
    reseal(record_path(folder, 3), digests=other_code, parameters=other_recipe)
    for left in ("seed_4.partial.safetensors", "seed_4.lock"):
        (folder / left).touch()
    found = catalogue.missing_runs(path)
    assert [(run.experiment.name, run.seed, run.remedy) for run in found] == [
        (NAME, seed, remedy)
        for seed, remedy in enumerate(("train", "git restore", "verify --accept", "train --replace", "train"))
    ]
    missing, altered, *changed, left_behind = (run.reasons for run in found)
    assert missing == ("there is no record",)
    assert len(altered) == 1 and altered[0].startswith(f"{record_path(folder, 1)}: ")
    assert changed == [(CHANGED["code"],), ("batch_size was 32, is 128", CHANGED["code"])]
    assert left_behind == ("a process that was killed left seed_4.lock, seed_4.partial.safetensors",)
    assert [run.seed for run in catalogue.missing_runs(path, [2, 7])] == [2, 7]


def test_seeds_that_are_asked_for_are_those_of_the_pages_own_experiment(folder):
    """A page that has none of its own, as the sweep of learning rates, has them of all."""
    (own,) = catalogue.missing_runs(PAGES / "iteration_10_one_cycle.ipynb", [9])
    assert (own.experiment.name, own.seed) == ("iteration_10_one_cycle", 9)
    swept = catalogue.missing_runs(PAGES / "learning_rate_sweep.ipynb", [9])
    assert len(swept) > 1 and {run.experiment.name.partition("/")[0] for run in swept} == {"learning_rate_sweep"}


def test_a_page_lacks_what_it_shows_of_others_too(folder):
    lacking = catalogue.lacking_runs(PAGES / f"{NAME}.ipynb")
    assert [(run.experiment.name, run.seed) for run in lacking] == [(BASELINE, seed) for seed in range(5)]


def strays(*names: str) -> list[tuple[str, int]]:
    """What is found of the pages of these names, with the runs that they publish."""
    paths = [path for name in names for path in catalogue.find(name)]
    return catalogue.strays(paths, [run for path in paths for run in catalogue.published_runs(path)])


def test_a_record_that_no_notebook_asks_for_is_a_stray(folder):
    assert strays(NAME) == []
    for name in (BASELINE, "of_none", f"{NAME}/better"):
        shutil.copytree(folder, folder.parent / name)
    (folder.parent / "of_none" / "seed_x.json").touch()  # no record's name
    better, of_none = ([(name, seed) for seed in range(5)] for name in (f"{NAME}/better", "of_none"))
    assert strays(NAME) == better + of_none, "others have a notebook"
    assert strays(BASELINE) == of_none
    assert strays("*") == better + of_none


def test_a_record_is_read_once_until_its_file_is_another(folder):
    """Which its place on the disk, its time or its size tells."""
    file = record_path(folder, 0)
    first = catalogue.record(file)
    assert catalogue.record(file) is first
    os.utime(file, ns=(0, 0))
    second = catalogue.record(file)
    copy = Path(shutil.copy(file, folder / "copy"))
    os.utime(copy, ns=(0, 0))
    copy.replace(file)
    third = catalogue.record(file)
    file.write_bytes(file.read_bytes() + b"\n")
    os.utime(file, ns=(0, 0))
    fourth = catalogue.record(file)
    assert len({*map(id, (first, second, third, fourth))}) == 4
    assert first == second == third == fourth
    file.unlink()
    with pytest.raises(RecordError, match=f"^{file}: "):
        catalogue.record(file)
