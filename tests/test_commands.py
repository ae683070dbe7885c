"""What each command asks of the library, and what it says of the answer. The library's part is stood in for here."""

import builtins
import os
import re
import types
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, call

import nbformat
import pandas as pd
import pytest

from mnist_lib import cells, cli, experiments, machine, records
from mnist_lib.backprop import workbook
from mnist_lib.parameters import ParameterError
from mnist_lib.pipeline import catalogue, cluster, execution, new_iteration, staleness, verification, workers
from mnist_lib.pipeline.catalogue import ACCEPT, REPLACE, RESTORE, TRAIN, Missing
from mnist_lib.pipeline.verification import Verdict
from mnist_lib.records import RecordError
from mnist_lib.results import listing, sweeps
from mnist_lib.site import book, pdf

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def stand_in(monkeypatch):
    """Puts something in the place of a part of the library that tells how it was called; returns that."""

    def put(module: types.ModuleType, name: str, *, gives: object = None, does=None) -> Mock:
        monkeypatch.setattr(module, name, mock := Mock(return_value=gives, side_effect=does))
        return mock

    return put


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, tmp_store, monkeypatch) -> Path:
    """A folder for what commands write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "published_records", lambda: tmp_path / "published")
    monkeypatch.setattr(book, "ROOT", tmp_path)  # where commands wait for each other
    return tmp_path


class Run(SimpleNamespace):
    """What stands for an experiment: commands only hand it on, and say its name and its folder."""

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return self.name == other.name


def experiment(name: str) -> Run:
    return Run(name=name, published=Path("published", name), store=Path("store", name))


A, B = experiment("a"), experiment("b")


# -- what is taken

TRAINS = {"device": "auto", "workers": CORES, "scheduler": None}

DEFAULTS = {
    "status": {"pattern": "*"},
    "train": TRAINS | {"pattern": "*", "replace": False, "seeds": None},
    "sweep": TRAINS | {"seeds": None, "random": None, "name": None},
    "runs": {"pattern": "*", "sweep": None, "csv": False, "json": False, "delete": False, "yes": False},
    "verify": {"pattern": "*", "accept": False, "full": None, "sample": None, "device": "auto", "workers": CORES},
    "run": {"pattern": "*", "train": False, "accept": False, "force": False, "device": "auto", "workers": CORES},
    "quick": {"pattern": "*", "workers": CORES},
    "book": {"quick": False},
    "pdf": {},
    "workbook": {"path": Path("backprop.xlsx"), "learning_rates": None},
    "clean": {},
    "new": {},
}
"""What a command takes where nothing is written."""

WRITTEN = {
    "status x": {"pattern": "x"},
    "train x --replace": {"pattern": "x", "replace": True},
    "train --seeds 0-1 --device cpu --workers 3": {"seeds": [0, 1], "device": "cpu", "workers": 3},
    "train --scheduler tcp://x:1": {"scheduler": "tcp://x:1"},
    "sweep x --set a=1": {"notebook": "x", "set": [("a", [1])]},
    "sweep x --set a=1,0.5,b,True --set b==c": {"notebook": "x", "set": [("a", [1, 0.5, "b", True]), ("b", ["=c"])]},
    "sweep x --set a=1 --seeds 2 --random 7": {"notebook": "x", "set": [("a", [1])], "seeds": [2], "random": 7},
    "sweep x --set a=1 --name y --device mps": {"notebook": "x", "set": [("a", [1])], "name": "y", "device": "mps"},
    "sweep x --set a=1 --workers 1": {"notebook": "x", "set": [("a", [1])], "workers": 1},
    "sweep x --set a=1 --scheduler z": {"notebook": "x", "set": [("a", [1])], "scheduler": "z"},
    "runs x --sweep y --csv": {"pattern": "x", "sweep": "y", "csv": True},
    "runs --json": {"json": True},
    "runs --delete --yes": {"delete": True, "yes": True},
    "verify x --accept --device cpu --workers 2": {"pattern": "x", "accept": True, "device": "cpu", "workers": 2},
    "verify --full 0": {"full": 0},
    "verify --sample 1": {"sample": 1},
    "run x --train --device cpu --workers 2": {"pattern": "x", "train": True, "device": "cpu", "workers": 2},
    "run --accept --force": {"accept": True, "force": True},
    "quick x --workers 2": {"pattern": "x", "workers": 2},
    "book --quick": {"quick": True},
    "workbook x.xlsx --learning-rates 0.1,2": {"path": Path("x.xlsx"), "learning_rates": [0.1, 2.0]},
    "clean a b": {"files": [Path("a"), Path("b")]},
    "new x --from y": {"name": "x", "source": "y"},
} | {name: {} for name in ("status", "train", "runs", "verify", "run", "quick", "book", "pdf", "workbook")}


@pytest.mark.parametrize("line", WRITTEN)
def test_what_is_written_is_what_is_taken(line):
    taken = vars(cli.parser().parse_args(line.split()))
    command = taken.pop("name_of_command")
    assert callable(taken.pop("command")) and command == line.split()[0]
    assert taken == DEFAULTS[command] | WRITTEN[line]


PLACEHOLDERS = {
    "train": ["--scheduler ADDRESS"],
    "sweep": ["--set NAME=VALUES", "--random N", "--scheduler ADDRESS"],
    "runs": ["--sweep NAME"],
    "verify": ["--full SEED", "--sample N"],
    "new": ["--from ITERATION"],
}
"""What stands for a value, where an option's own name in capitals would say less."""


def test_help_says_of_every_command_and_of_all_that_it_takes_what_it_does(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")

    def said(*words: str) -> str:
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main([*words, "--help"])
        return capsys.readouterr().out

    listed = said()
    assert listed.startswith(
        "usage: mnist-lib [-h] COMMAND ...\n\nMake and check the report's records, pages and book.\n"
    )
    assert re.findall(r"^    (\w+) ", listed, re.MULTILINE) == [*DEFAULTS]
    for command, taken in DEFAULTS.items():
        (does,) = re.findall(rf"^    {command} +(\w.+\.)$", listed, re.MULTILINE)
        usage, description, *parts = said(command).rstrip("\n").split("\n\n")
        assert usage.startswith(f"usage: mnist-lib {command} ") and description == does
        assert all(re.search(rf"{option}\b", usage) for option in PLACEHOLDERS.get(command, ()))
        entries = [entry for part in parts for entry in re.split(r"\n  (?=\S)", part)[1:]]
        assert len(entries) > len(taken), "-h, too"
        for entry in entries:
            assert re.fullmatch(r"\S+( \S+)*( {2,}|\n +)\S.+", entry), f"{command}: {entry}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("nothing", "invalid choice: 'nothing'"),
        ("sweep x", "the following arguments are required: --set"),
        ("sweep x --set a", "'a': write a name and its values as learning_rate=0.01,0.1"),
        ("sweep x --set =1", "'=1': write a name"),
        ("sweep x --set a=", "'a=': write a name"),
        ("sweep x --set a=1 --random 0", "'0': expected a whole number from 1"),
        ("runs --csv --json", "not allowed with argument"),
        ("runs --csv --delete", "not allowed with argument"),
        ("verify --accept --sample 1", "not allowed with argument"),
        ("verify --full 1 --sample 1", "not allowed with argument"),
        *((f"verify --workers={text}", f"{text!r}: expected a whole number from 1") for text in ("0", "-1", "two", "")),
        ("workbook x.xlsx --learning-rates ,", "',': write learning rates as 0.1,0.5"),
        ("clean", "the following arguments are required: files"),
        ("new x", "the following arguments are required: --from"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_a_sentence(line, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-3", [0, 1, 2, 3]), ("5", [5]), ("0,3,7-8", [0, 3, 7, 8]), ("7,7,5-7", [7, 5, 6])],  # none comes twice
)
def test_seeds_are_read(text, seeds):
    assert cli.parser().parse_args(["train", f"--seeds={text}"]).seeds == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1-b", "1;2", "3-1", "1" * 10, "9" * 5000])
def test_other_seeds_are_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", f"--seeds={text}"])
    assert "write seeds as 0-9 or 0,3,5" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0-99999999", "0-999,1000"])
def test_too_many_seeds_are_refused_at_once(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", f"--seeds={text}"])
    assert "at most 1,000 seeds" in capsys.readouterr().err


def test_as_many_processes_are_meant_as_there_are_cores_for_this_one(monkeypatch):
    def workers_meant() -> int:
        return cli.parser().parse_args(["train"]).workers

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 7}, raising=False)
    assert workers_meant() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for there, meant in ((5, 5), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda there=there: there)
        assert workers_meant() == meant


def test_as_many_seeds_are_taken_as_are_allowed():
    read = cli.parser().parse_args
    assert len(read(["train", "--seeds", f"0-{cli.MOST_SEEDS - 1}"]).seeds) == cli.MOST_SEEDS
    assert read(["train", "--seeds", "999999999,5-6,5"]).seeds == [999_999_999, 5, 6]
    with pytest.raises(SystemExit):
        read(["train", "--seeds", f"7,1-{cli.MOST_SEEDS}"])


# -- how a command ends


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (1, 1), (100, 100), (101, 100), (256, 100)])
def test_the_exit_code_counts_failures(stand_in, given, code):
    stand_in(book, "build", gives=given)
    assert cli.main(["book"]) == code


@pytest.mark.parametrize("name", ["MNIST_LIB_DATA", "MNIST_LIB_RUNS"])
@pytest.mark.parametrize(("given", "is_then"), [("", ""), ("x/y", "{here}/x/y"), ("~/x", "{home}/x"), ("/x", "/x")])
def test_folders_are_named_in_full_for_what_runs_elsewhere(stand_in, monkeypatch, elsewhere, name, given, is_then):
    stand_in(book, "build")
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv(name, given)
    cli.main(["book"])
    assert os.environ[name] == is_then.format(here=elsewhere, home="/somebody")


def test_folders_that_are_not_named_stay_so(stand_in, monkeypatch):
    stand_in(book, "build")
    for name in ("MNIST_LIB_DATA", "MNIST_LIB_RUNS"):
        monkeypatch.delenv(name, raising=False)
    cli.main(["book"])
    assert not {"MNIST_LIB_DATA", "MNIST_LIB_RUNS"} & os.environ.keys()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError, ParameterError, RecordError])
def test_an_error_is_a_sentence_unless_one_asks_for_more(stand_in, monkeypatch, capsys, error):
    stand_in(book, "build", does=error("what is wrong"))
    assert cli.main(["book"]) == 1
    assert capsys.readouterr() == ("", f"{error.__name__}: what is wrong\n")
    monkeypatch.setenv("MNIST_LIB_TRACEBACK", "1")
    with pytest.raises(error):
        cli.main(["book"])


def test_a_fault_of_the_library_is_not_hidden(stand_in):
    stand_in(book, "build", does=TypeError("a fault"))
    with pytest.raises(TypeError):
        cli.main(["book"])


def test_a_package_that_is_not_installed_is_named_with_what_brings_it(stand_in, capsys):
    stand_in(book, "build", does=ModuleNotFoundError("No module named 'sphinx'"))
    assert cli.main(["book"]) == 1
    said = "No module named 'sphinx': this command needs more; `pip install 'mnist-lib[report]'` brings it\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("line", ["train", "sweep x --set a=1", "run", "quick", "status", "verify"])
def test_what_is_interrupted_says_whether_anything_is_kept(stand_in, capsys, line):
    stand_in(catalogue, "find", does=KeyboardInterrupt)
    stand_in(book, "prepare_quick", does=KeyboardInterrupt)
    assert cli.main(line.split()) == 130
    kept = "; finished runs and epochs are kept, the same command continues"
    trains = line.split()[0] in ("train", "sweep", "run", "quick")
    assert capsys.readouterr().err == f"interrupted{kept if trains else ''}\n"


REFUSED = ["train", "run", "quick", "book", "pdf", "new x --from y", "verify --accept"]


@pytest.mark.parametrize(
    "line", [*REFUSED, "status", "verify", "runs", "workbook x.xlsx", "clean x", "sweep x --set a=1"]
)
def test_in_an_installed_copy_nothing_is_made_that_is_published(stand_in, monkeypatch, capsys, elsewhere, line):
    (elsewhere / "_published").mkdir()
    monkeypatch.setattr(cli, "__file__", str(elsewhere / "cli.py"))
    for module, name in ((catalogue, "find"), (listing, "table"), (workbook, "write"), (catalogue, "read")):
        stand_in(module, name, does=ParameterError("it began"))
    assert cli.main(line.split()) == 1
    said = capsys.readouterr().err
    refusal = f"RuntimeError: mnist-lib {line.split()[0]} makes what is published, and needs a checkout of the report:"
    assert said.startswith(refusal if line in REFUSED else "ParameterError: it began")


# -- status


def test_status_says_of_every_page_why_it_is_stale(stand_in, capsys):
    find = stand_in(
        catalogue, "find", gives=[Path(f"{name}.ipynb") for name in ("one", "two", "three", "four", "five")]
    )
    stand_in(catalogue, "unpublished", does=["", "a copy", "", None, None])
    lacks = Missing(A, 3, ("it is old", "and wrong"), TRAIN)
    stand_in(catalogue, "missing_runs", does=[[], [lacks], ParameterError("no cell"), []])
    stand_in(staleness, "stale", does=[[], ["its cells changed", "its library changed"], ["its library changed"]])
    assert cli.main(["status", "o*"]) == 0
    find.assert_called_once_with("o*")
    for look, asked in (
        (catalogue.unpublished, [0, 1, 2, 3, 4]),
        (catalogue.missing_runs, [0, 2, 3, 4]),
        (staleness.stale, [0, 2, 4]),
    ):
        assert look.call_args_list == [call(find()[number]) for number in asked]
    assert capsys.readouterr().out.replace(" \n", "\n").splitlines() == [
        "one: current",
        "two: not published: a copy",
        "three:",
        "  record a seed 3: it is old; and wrong",
        "  outputs: its cells changed",
        "  outputs: its library changed",
        "four:",
        "  refused: no cell",
        "five:",
        "  outputs: its library changed",
        "3 stale",
    ]


# -- train


@pytest.fixture
def lacking(stand_in) -> Mock:
    """One page lacks a run, another five, for all reasons that there are."""
    stand_in(catalogue, "find", gives=[Path("one.ipynb"), Path("two.ipynb")])
    found = [
        Missing(B, seed, ("why",), remedy) for seed, remedy in enumerate((TRAIN, REPLACE, ACCEPT, RESTORE, ACCEPT))
    ]
    return stand_in(catalogue, "missing_runs", does=lambda path, *_: found if path.stem == "two" else [_absent()])


def _absent() -> Missing:
    return Missing(A, 5, ("there is no record",), TRAIN)


REMEDIES = [
    "1 cannot be read: `git restore book/records` takes them back, or delete them and train them anew",
    "2 records: `mnist-lib verify --accept 'x*'` checks the records that older code made, and keeps those that the new "
    + "code makes, too",
    "1 record: `mnist-lib train --replace 'x*'` trains anew what another recipe made; the old records are lost "
    + "(git has them)",
    "Was the notebook changed by mistake? `git restore notebooks` takes it back.",
]


def test_train_trains_what_is_not_there_and_says_what_it_leaves(lacking, stand_in, capsys):
    train = stand_in(workers, "train", gives=3)
    assert cli.main("train x* --seeds 0,5 --device cpu --workers 4".split()) == 3
    train.assert_called_once_with([(A, 5), (B, 0)], "cpu", 4, False)
    catalogue.find.assert_called_once_with("x*")
    assert [each.args for each in lacking.call_args_list] == [
        (Path(f"{name}.ipynb"), [0, 5]) for name in ("one", "two")
    ]
    assert capsys.readouterr().out.splitlines() == [
        *(f"left as it is: record b seed {seed}: why" for seed in (1, 2, 3, 4)),
        *REMEDIES,
        f"to train: a seed 5 -> {Path('published', 'a', 'seed_5.json')}",
        f"to train: b seed 0 -> {Path('published', 'b', 'seed_0.json')}",
    ]


def test_train_replaces_all_of_them_when_it_is_told_to(lacking, stand_in, capsys):
    train = stand_in(cluster, "train", gives=0)
    assert cli.main("train --replace --scheduler tcp://x:1".split()) == 0
    train.assert_called_once_with([(A, 5), *((B, seed) for seed in range(5))], "auto", "tcp://x:1")
    assert all(line.startswith("to train: ") for line in capsys.readouterr().out.splitlines())
    train = stand_in(workers, "train", gives=0)
    assert cli.main("train --replace".split()) == 0
    assert train.call_args.args[1:] == ("auto", CORES, True)


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([], 0, ["nothing to train: every record asked for is there and current"]),
        (
            [Missing(A, 1, ("why",), ACCEPT)],
            1,
            ["left as it is: record a seed 1: why", "1 record", "nothing to train: see above"],
        ),
    ],
)
def test_where_nothing_can_be_trained_it_says_so(stand_in, capsys, found, code, said):
    stand_in(catalogue, "find", gives=[Path("one.ipynb")])
    stand_in(catalogue, "missing_runs", gives=found)
    stand_in(workers, "train", does=AssertionError)
    assert cli.main(["train"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said) and all(line.startswith(each) for line, each in zip(lines, said, strict=True))


# -- sweep


@pytest.fixture
def planned(stand_in, elsewhere) -> SimpleNamespace:
    """A sweep of two trials with three seeds each, of which four runs are missing."""
    recipes = [SimpleNamespace(recipe=SimpleNamespace(evaluate_on=kind)) for kind in ("validation", "test", "test")]
    planned = SimpleNamespace(name="swept", seeds=[0, 1, 4], missing=lambda: [(A, 0), (A, 1), (B, 0), (B, 4)])
    planned.trials = [SimpleNamespace(experiment=each) for each in recipes]
    planned.plan = stand_in(sweeps, "plan", gives=planned)
    planned.find = stand_in(catalogue, "find", gives=[Path("found.ipynb")])
    planned.write = stand_in(sweeps, "write", gives=elsewhere / "swept.json")
    return planned


@pytest.mark.parametrize(("failures", "code"), [(0, 0), (1, 1), (5, 1)])
def test_a_sweep_is_planned_written_and_trained_into_the_users_store(
    planned, stand_in, capsys, elsewhere, failures, code
):
    train = stand_in(workers, "train", gives=failures)
    line = "sweep x --set a=1,2 --set b=3 --seeds 0,1,4 --random 9 --name swept --device cpu --workers 2"
    assert cli.main(line.split()) == code
    planned.find.assert_called_once_with("x")
    planned.plan.assert_called_once_with(Path("found.ipynb"), {"a": [1, 2], "b": [3]}, [0, 1, 4], 9, "swept")
    planned.write.assert_called_once_with(planned)
    train.assert_called_once_with(planned.missing(), "cpu", 2, publish=False)
    assert capsys.readouterr().out.splitlines() == [
        f"swept: 3 combinations, 3 seeds each -> {elsewhere / 'swept.json'}",
        "5 runs are there, 4 to train; judged on the validation or test images",
        "the table: `mnist-lib runs --sweep swept`; the page:",
        "papermill notebooks/your_sweep.ipynb out.ipynb -p sweep swept",
    ]


def test_a_sweep_on_a_cluster_needs_no_device_here(planned, stand_in):
    train = stand_in(cluster, "train", gives=0)
    assert cli.main("sweep x --set a=1 --device cuda:99 --scheduler tcp://x:1".split()) == 0
    train.assert_called_once_with(planned.missing(), "cuda:99", "tcp://x:1", publish=False)


def test_a_sweep_on_no_device_is_not_written(planned, stand_in, capsys):
    stand_in(machine, "resolve_device", does=ParameterError("no such device"))
    assert cli.main("sweep x --set a=1".split()) == 1
    planned.write.assert_not_called()


@pytest.mark.parametrize("scheduler", ["", " --scheduler tcp://x:1"])
def test_of_a_sweep_that_is_there_nothing_is_trained(planned, stand_in, scheduler, capsys):
    planned.missing = list
    for module in (workers, cluster):
        stand_in(module, "train", does=AssertionError)
    assert cli.main(f"sweep x --set a=1{scheduler}".split()) == 0
    assert "9 runs are there, 0 to train" in capsys.readouterr().out


def test_a_sweep_is_of_one_notebook_with_each_name_once(planned, stand_in, capsys, elsewhere):
    stand_in(workers, "train", gives=0)
    (elsewhere / "mine.ipynb").touch()
    assert cli.main("sweep mine.ipynb --set a=1".split()) == 0
    assert planned.plan.call_args.args == (Path("mine.ipynb"), {"a": [1]}, None, None, None)
    planned.find.assert_not_called()
    planned.find.return_value = [Path("one.ipynb"), Path("two.ipynb")]
    capsys.readouterr()
    assert cli.main("sweep x* --set a=1".split()) == 1
    assert capsys.readouterr().err == "ParameterError: 'x*' names 2 notebooks: a sweep is of one\n"
    assert cli.main("sweep x --set a=1 --set a=2".split()) == 1
    said = "ParameterError: --set: give all values of a name at once, such as learning_rate=0.01,0.1\n"
    assert capsys.readouterr().err == said
    planned.plan.assert_called_once()


# -- runs


@pytest.fixture
def table(stand_in, elsewhere) -> Mock:
    """Of your runs two folders, of which one is there, and of the published ones a third."""
    (elsewhere / "runs" / "one").mkdir(parents=True)
    rows = [
        {
            "experiment": "=1+1",
            "where": listing.YOURS,
            "seeds": "0–1",
            "runs": 2,
            "folder": str(elsewhere / "runs" / "one"),
        },
        {"experiment": "b", "where": listing.YOURS, "seeds": "", "runs": 4, "folder": str(elsewhere / "runs" / "gone")},
        {"experiment": "c", "where": listing.PUBLISHED, "seeds": "0", "runs": 1, "folder": str(elsewhere)},
    ]
    return stand_in(listing, "table", gives=pd.DataFrame(rows, columns=listing.COLUMNS))


def test_runs_are_listed_in_words_as_csv_or_as_json(table, capsys):
    said = {}
    for option in ("", "--csv", "--json"):
        assert cli.main(["runs", "x*", *option.split(), "--sweep", "y"]) == 0
        said[option] = capsys.readouterr().out
        table.assert_called_with("x*", "y")
    assert said[""] == listing.in_words(table()).to_string(index=False) + "\n"
    assert said["--json"] == table().to_json(orient="records", indent=1) + "\n"
    header, first, *rest = said["--csv"].splitlines()
    assert header == ",".join(listing.COLUMNS) and first.startswith("'=1+1,yours,") and len(rest) == 2


@pytest.mark.parametrize("word", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_what_a_spreadsheet_would_compute_is_written_as_text(table, capsys, word):
    table.return_value = pd.DataFrame({"a": [word, word[1:], -1]})
    cli.main(["runs", "--csv"])
    assert pd.DataFrame({"a": [f"'{word}", word[1:], -1]}).to_csv(index=False) == capsys.readouterr().out


def test_where_there_are_no_runs_it_says_where_they_would_lie(table, capsys):
    table.return_value = table().iloc[:0]
    assert cli.main(["runs", "x*"]) == 0
    assert capsys.readouterr().out == f"no runs match 'x*'; yours lie in {experiments.runs_directory()}\n"
    assert cli.main(["runs", "x*", "--delete"]) == 1
    said = "none of your runs match 'x*'; published records are deleted by git only\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("answer", "agrees"), [("y", True), (" YES ", True), ("", False), ("n", False), ("yes!", False), (EOFError, False)]
)
def test_runs_are_deleted_after_a_question(table, stand_in, capsys, elsewhere, answer, agrees):
    asked = stand_in(builtins, "input", gives=answer, does=answer if answer is EOFError else None)
    delete = stand_in(listing, "delete")
    assert cli.main(["runs", "--delete"]) == (not agrees)
    asked.assert_called_once_with(f"Delete these 2 runs from {experiments.runs_directory()}? [y/N] ")
    assert delete.call_args_list == ([call(elsewhere / "runs" / "one", None)] if agrees else [])
    shown, last = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    assert shown == listing.in_words(table()[:1]).to_string(index=False), "what is there, and yours"
    assert last == ("deleted 2 runs of 1 experiments" if agrees else "nothing is deleted")


@pytest.mark.parametrize("left", [3, 2, 1])
@pytest.mark.parametrize("has_plan", [True, False])
def test_a_sweep_is_deleted_with_its_plan_be_none_of_its_runs_there_or_yours(
    table, stand_in, capsys, elsewhere, left, has_plan
):
    table.return_value = table().iloc[3 - left :]
    stand_in(sweeps, "read", gives=SimpleNamespace(seeds=[0, 7]))
    stand_in(sweeps, "path", gives=elsewhere / "plan.json")
    asked = stand_in(builtins, "input", gives="y")
    if has_plan:
        (elsewhere / "plan.json").touch()
    delete, runs = stand_in(listing, "delete"), 2 if left == 3 else 0
    assert cli.main(["runs", "--sweep", "swept", "--delete"]) == (not runs and not has_plan)
    assert not (elsewhere / "plan.json").exists()
    assert delete.call_args_list == ([call(elsewhere / "runs" / "one", [0, 7])] if runs else [])
    said = capsys.readouterr().out
    if runs or has_plan:
        what = f"these {runs} runs" + (" and the plan of the sweep" if has_plan else "")
        asked.assert_called_once_with(f"Delete {what} from {experiments.runs_directory()}? [y/N] ")
        assert ("none of its runs are yours\n" in said) == (not runs)
        for look in (sweeps.path, sweeps.read):
            look.assert_called_once_with("swept")
    else:
        assert said == "none of your runs match 'swept'; published records are deleted by git only\n"


# -- verify


@pytest.fixture
def published(stand_in, elsewhere) -> None:
    """Two experiments of two and one seeds, of which the second has further records."""
    stand_in(catalogue, "find", gives=[Path("one.ipynb"), Path("two.ipynb")])
    stand_in(catalogue, "published_runs", does=[[(A, 2)], [(B, 1)]])
    stand_in(records, "published_seeds", does=lambda folder: {A.published: [0], B.published: [7, 3]}[folder])
    stand_in(catalogue, "strays", gives=[])


EVERY = [(A, 0), (A, 1), (B, 0), (B, 3), (B, 7)]


def test_verify_checks_what_is_asked_for_and_what_is_there_besides(published, stand_in, capsys):
    found = [Verdict("a", 0, ()), Verdict("bcd", 12, ("one", "two"), ("three", "four"))]
    verify = stand_in(workers, "verify", gives=found)
    assert cli.main("verify x --device cpu --workers 2".split()) == 1
    catalogue.find.assert_called_once_with("x")
    assert catalogue.published_runs.call_args_list == [call(Path("one.ipynb")), call(Path("two.ipynb"))]
    verify.assert_called_once_with(EVERY, "cpu", 2, verification.verify)
    assert capsys.readouterr().out.splitlines() == [
        "a seed 0     holds",
        "bcd seed 12  one; two",
        "             not compared: three",
        "             not compared: four",
        "1 of 2 records hold",
    ]


def test_verify_says_that_all_hold(published, stand_in, capsys):
    stand_in(workers, "verify", gives=[Verdict("a", 0, ())])
    assert cli.main(["verify"]) == 0
    assert capsys.readouterr().out == "a seed 0  holds\n1 of 1 records hold\n"


def test_verify_says_what_no_notebook_asks_for(published, stand_in, capsys):
    stand_in(workers, "verify", gives=[Verdict("a", 0, ())])
    catalogue.strays.return_value = [("a/better", 12)]
    assert cli.main(["verify"]) == 1
    catalogue.strays.assert_called_once_with([Path("one.ipynb"), Path("two.ipynb")], [(A, 2), (B, 1)])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "a/better seed 12  no notebook asks for it: delete it, or take its notebook back with `git restore notebooks`",
        "1 of 2 records hold",
    ]


def test_one_seed_is_trained_again_in_full(published, stand_in, capsys):
    verify = stand_in(workers, "verify", gives=[])
    assert cli.main("verify --full 0".split()) == 0
    verify.assert_called_once_with([(A, 0), (B, 0)], "auto", CORES, verification.verify_fully)
    catalogue.published_runs.side_effect = [[(A, 2)], [(B, 1)]]
    assert cli.main("verify --full 9 x".split()) == 1
    assert capsys.readouterr().err == "ParameterError: no record of seed 9 belongs to x\n"
    catalogue.published_runs.side_effect = [[], []]
    assert cli.main("verify --full 9 x".split()) == 1
    assert capsys.readouterr().err == "ParameterError: no record belongs to x\n"


@pytest.mark.parametrize(("count", "expected"), [(3, 3), (5, 5), (99, 5)])
def test_a_sample_is_of_all_records(published, stand_in, count, expected):
    verify = stand_in(workers, "verify", gives=[])
    assert cli.main(["verify", "--sample", f"{count}"]) == 0
    (jobs, device, number, check), _ = verify.call_args
    assert (device, number, check) == ("auto", CORES, verification.verify_fully)
    assert len({*jobs}) == len(jobs) == expected and {*jobs} <= {*EVERY}


def test_what_others_learn_from_is_accepted_first(published, stand_in, capsys):
    """And what is current, not at all."""
    stale = {A.published / "seed_1.json", B.published / "seed_0.json", B.published / "seed_7.json"}

    def record(path: Path) -> Path:
        if path == B.published / "seed_3.json":
            raise RecordError("damaged")
        return path

    stand_in(catalogue, "record", does=record)
    for each in (A, B):
        each.differences = lambda path: ["the training code changed"] * (path in stale)
    stand_in(verification, "learns_from", does=lambda run, seed: [("teacher",)] if run == A or seed == 7 else [])
    verify = stand_in(workers, "verify", does=lambda jobs, *_: [Verdict(run.name, seed, ()) for run, seed in jobs])
    assert cli.main("verify --accept".split()) == 0
    rounds = [[(B, 0), (B, 3)], [(A, 1), (B, 7)]]
    assert verify.call_args_list == [call(jobs, "auto", CORES, verification.accept) for jobs in rounds]
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 records hold"


def test_where_all_is_current_there_is_nothing_to_accept(published, stand_in, capsys):
    stand_in(catalogue, "record")
    for each in (A, B):
        each.differences = lambda _: []
    stand_in(workers, "verify", does=AssertionError)
    assert cli.main("verify --accept".split()) == 0
    assert capsys.readouterr().out == "All records are current: there is nothing to accept.\n"


@pytest.mark.parametrize("option", ["", "--accept", "--full 0", "--sample 1"])
def test_a_folder_or_a_record_is_only_looked_at(stand_in, capsys, elsewhere, option):
    (elsewhere / "mine").mkdir()
    of_path = stand_in(verification, "of_path", gives=[(A, 0, elsewhere)])
    verify = stand_in(workers, "verify", gives=[Verdict("a", 0, ("wrong",))])
    assert cli.main(f"verify mine {option}".split()) == 1
    if option:
        said = "ParameterError: --accept, --full and --sample are for published records: name a notebook\n"
        assert capsys.readouterr().err == said and not verify.called
    else:
        of_path.assert_called_once_with(Path("mine"))
        verify.assert_called_once_with([(A, 0, elsewhere)], "auto", CORES)
        assert capsys.readouterr().out == "a seed 0  wrong\n0 of 1 records hold\n"


def test_a_notebook_that_lies_here_is_no_record(published, stand_in, elsewhere):
    (elsewhere / "x.ipynb").touch()
    verify = stand_in(workers, "verify", gives=[])
    assert cli.main(["verify", "x.ipynb"]) == 0
    catalogue.find.assert_called_once_with("x.ipynb")
    verify.assert_called_once()


# -- run


@pytest.fixture
def pages(stand_in, monkeypatch) -> SimpleNamespace:
    """Three pages of the report and two copies; every page is stale, none lacks anything."""
    paths = [Path(f"{name}.ipynb") for name in ("one", "two", "three", "copy", "written_over")]
    monkeypatch.setenv("MNIST_LIB_BLANK_IMAGES", "1")
    log: list[str] = []

    @contextmanager
    def alone():
        log.append("alone")
        yield
        log.append("no longer alone")

    def execute(*_) -> int:
        assert "MNIST_LIB_BLANK_IMAGES" not in os.environ, "pages show the images"
        log.append("execute")
        return 0

    monkeypatch.setattr(book, "alone", alone)
    return SimpleNamespace(
        paths=paths,
        log=log,
        find=stand_in(catalogue, "find", gives=paths),
        unpublished=stand_in(catalogue, "unpublished", does=lambda path: "why" if path in paths[3:] else None),
        has_its_name=stand_in(cells, "has_its_name", does=lambda path: path.stem == "written_over"),
        missing=stand_in(catalogue, "missing_runs", gives=[]),
        lacking=stand_in(catalogue, "lacking_runs", gives=[]),
        altered=stand_in(staleness, "altered", gives=[]),
        stale=stand_in(staleness, "stale", gives=["its cells changed"]),
        train=stand_in(workers, "train", gives=0),
        execute=stand_in(workers, "execute", does=execute),
        save_picture=stand_in(book, "save_picture", does=lambda: log.append("picture")),
    )


def executed(pages: SimpleNamespace) -> list[str]:
    """Which pages were executed, each in its own place."""
    (function, jobs, _), _ = pages.execute.call_args
    assert function is execution.execute and all(source == target for source, target in jobs)
    return [source.stem for source, _ in jobs]


def test_run_executes_what_is_stale_and_nobody_else_does_meanwhile(pages, capsys):
    pages.stale.side_effect = lambda path: ["why"] if path.stem != "two" else []
    pages.execute.side_effect = lambda *_: pages.log.append("execute") or 4
    assert cli.main("run x* --workers 3".split()) == 4 + 1, "of what lies in a page's place, nothing is published"
    assert executed(pages) == ["one", "three"] and pages.execute.call_args.args[2] == 3
    assert pages.log == ["alone", "execute", "picture", "no longer alone"]
    pages.find.assert_called_once_with("x*")
    pages.train.assert_not_called()
    assert capsys.readouterr().out == "copy.ipynb is left out: why\nwritten_over.ipynb is left out: why\n"


def test_run_executes_all_that_it_may_by_force(pages):
    pages.paths.pop()
    pages.stale.return_value = []
    assert cli.main(["run"]) == 0 and executed(pages) == []
    assert cli.main(["run", "--force"]) == 0 and executed(pages) == ["one", "two", "three"]


def test_run_trains_what_is_not_there_when_it_is_told_to(pages, capsys):
    pages.paths.pop()
    absent, other = Missing(A, 0, ("there is no record",), TRAIN), Missing(B, 0, ("why",), REPLACE)
    pages.missing.side_effect = [[absent, other], [], [], [other], [], []]
    assert cli.main("run --train --device cpu --workers 2".split()) == 0
    pages.train.assert_called_once_with([(A, 0)], "cpu", 2)
    assert pages.missing.call_args_list == [call(path) for path in pages.paths[:3]] * 2, "before and afterwards"
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "1 runs have no record and are trained first; interrupting is safe"
    assert told[2] == "record b seed 0: why", "of what is left"
    pages.missing.side_effect = [[absent], [], []]
    pages.train.reset_mock()
    assert cli.main(["run"]) == 0
    pages.train.assert_not_called()
    assert "record a seed 0: there is no record" in capsys.readouterr().out
    pages.missing.side_effect = [[other], [], [], [other], [], []]
    assert cli.main(["run", "--train"]) == 0
    pages.train.assert_not_called()


def test_run_executes_nothing_where_training_fails(pages):
    pages.missing.return_value = [Missing(A, 0, ("there is no record",), TRAIN)]
    pages.train.return_value = 7
    assert cli.main(["run", "--train"]) == 7
    pages.execute.assert_not_called()


def test_run_leaves_out_what_would_show_an_altered_or_a_missing_run(pages, capsys):
    pages.paths.pop()
    known, of_another = Missing(A, 0, ("it is old",), ACCEPT), Missing(B, 1, ("it is old", "and wrong"), ACCEPT)
    pages.missing.side_effect = lambda path: [known] if path.stem == "one" else []
    pages.lacking.side_effect = lambda path: {"one": [known], "two": [known, of_another]}.get(path.stem, [])
    pages.altered.side_effect = lambda path: ["c seed 0", "c seed 1"] if path.stem == "three" else []
    assert cli.main(["run", "x*"]) == 3 and executed(pages) == []
    assert capsys.readouterr().out.splitlines()[1:] == [
        "record a seed 0: it is old",
        REMEDIES[1].replace("2 records", "1 record"),
        "three is not executed: under the same recipe, the results of c seed 0, c seed 1 are others than",
        "  those of the page. `git restore book/records` takes these back, --accept takes the others.",
        "two is not executed: it shows another notebook's record b seed 1: it is old; and wrong",
    ]
    assert cli.main(["run", "--accept"]) == 2 and executed(pages) == ["three"]


# -- quick, and the others


def test_a_rehearsal_keeps_its_runs_apart_and_pages_that_compare_come_last(pages, stand_in, monkeypatch, elsewhere):
    stand_in(book, "prepare_quick", gives=elsewhere / "quick")
    stand_in(catalogue, "published_runs", does=lambda path: [(A, 1)] * (path.stem != "one"))
    pages.execute.side_effect = lambda *_: pages.log.append("execute") or 2
    assert cli.main("quick x* --workers 3".split()) == 2
    jobs = [
        (Path(f"{name}.ipynb"), elsewhere / "quick" / "notebooks" / f"{name}.ipynb") for name in ("two", "three", "one")
    ]
    pages.execute.assert_called_once_with(execution.quick, jobs, 3)
    assert pages.log == ["alone", "execute", "no longer alone"]
    assert os.environ["MNIST_LIB_RUNS"] == str(elsewhere / "quick" / "runs")
    pages.find.assert_called_once_with("x*")


@pytest.mark.parametrize("option", [[], ["--quick"]])
def test_the_book_is_compiled_of_pages_or_of_the_rehearsal(stand_in, option):
    build = stand_in(book, "build", gives=2)
    assert cli.main(["book", *option]) == 2
    build.assert_called_once_with(quick=bool(option))


@pytest.mark.parametrize(("printed", "built", "code"), [(0, 0, 0), (0, 3, 3), (2, 3, 2)])
def test_the_book_that_offers_the_pdf_is_compiled_when_that_is_printed(stand_in, printed, built, code):
    stand_in(pdf, "write", gives=printed)
    build = stand_in(book, "build", gives=built)
    assert cli.main(["pdf"]) == code
    assert build.called == (not printed)


def test_a_workbook_has_the_rates_that_are_asked_for_or_its_own(stand_in, capsys):
    write = stand_in(workbook, "write")
    assert cli.main(["workbook"]) == 0
    assert cli.main("workbook x.xlsx --learning-rates 0.1".split()) == 0
    assert write.call_args_list == [call(Path("backprop.xlsx")), call(Path("x.xlsx"), learning_rates=[0.1])]
    assert capsys.readouterr().out == "wrote backprop.xlsx\nwrote x.xlsx\n"


def test_clean_writes_what_it_changes(elsewhere, capsys):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", metadata={"papermill": {}})])
    paths = [elsewhere / f"{name}.ipynb" for name in ("one", "two")]
    for path in paths:
        nbformat.write(notebook, path)
    assert cli.main(["clean", str(paths[0])]) == 0
    assert cli.main(["clean", *map(str, paths)]) == 0
    assert capsys.readouterr().out == f"cleaned {paths[0]}\ncleaned {paths[1]}\n"
    assert paths[0].read_text("utf-8") == paths[1].read_text("utf-8") and '"papermill"' not in paths[0].read_text(
        "utf-8"
    )


def test_a_new_iteration_says_what_comes_next(stand_in, capsys):
    new = stand_in(new_iteration, "new_iteration", gives=Path("notebooks/x.ipynb"))
    assert cli.main("new x --from y".split()) == 0
    new.assert_called_once_with("x", "y")
    assert capsys.readouterr().out.splitlines() == [
        "wrote notebooks/x.ipynb: change it, then `mnist-lib train x` and `mnist-lib run x`",
        "The pages that list all iterations are stale then, and `make book` executes them.",
    ]
