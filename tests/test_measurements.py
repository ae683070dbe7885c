"""Measurements: made by a script in benchmarks/, kept in book/measurements, shown on a page as they are."""

import json
import math
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
import torch
from bs4 import BeautifulSoup

import forked
from mnist_lib import experiments, records
from mnist_lib.pipeline import verification
from mnist_lib.records import Record
from mnist_lib.results import page
from mnist_lib.results.comparison import accuracy_difference
from mnist_lib.results.statistics import Interval, prediction_interval
from support import ROOT

CPU = torch.device("cpu")

FILES = sorted((ROOT / "book" / "measurements").glob("*.json"))
EXAMPLE = {
    "what": "How long it takes",
    "machine": "a <small> machine | with bars",
    "command": "python benchmarks/example.py --steps 3",
    "date": "2026-01-31",
    "rows": [{"setting": "one", "same": True, "images": 10000, "seconds": 0.000123456}, {"setting": "*two*"}],
}

PER_EPOCH, PER_STEP = "seconds per run and epoch", "milliseconds for 128 images"

FOLLOWING = [
    ("commands", "times a bare Python", lambda row, rows: row["seconds"] / rows[0]["seconds"], 0),
    ("devices", "difference", lambda row, rows: row["mean there"] - row["mean"], 0.0015),
    ("devices", "difference", lambda row, rows: (row["from"] + row["to"]) / 2, 0.001),
    ("gpu", "times as fast", lambda row, rows: rows[-1]["seconds"] * row["epochs"] / row["seconds"], 0),
    ("growth", "overhead of a run, ms", lambda row, rows: 1000 * overhead(row) / row["runs"], 0),
    ("training_loop_accuracy", "mean", lambda row, rows: fmean(accuracies(row)), 0.0005),
]
"""A column of a file, how its figures follow from the others, and how far roundings may move them."""

BETWEEN = [
    ("fastest_recipe", "times as fast", lambda row, rows: rows[-1]["seconds"] / row["seconds"]),
    ("gpu", "seconds", lambda row, rows: row["seconds"]),
    ("step_variants", "times as fast", lambda row, rows: rows[0][PER_STEP] / row[PER_STEP]),
    ("training_loop", "times as fast", lambda row, rows: usual(row, rows)[PER_EPOCH] / row[PER_EPOCH]),
    (
        "without_bfloat16",
        "times as fast as by autocast",
        lambda row, rows: row["by autocast, ms"] / row["rounded, ms"],
    ),
]
"""The column of a file that has a smallest and a largest value, and what else lies between these."""


def measured(name: str) -> dict:
    return json.loads((ROOT / "book" / "measurements" / f"{name}.json").read_text("utf-8"))


def option(measurement: dict, name: str) -> int | None:
    """The number that a benchmark was given by its command, if it was given one."""
    found = re.search(rf" --{name} (\d+)", measurement["command"])
    return found and int(found[1])


def overhead(row: dict) -> float:
    return row["seconds"] - row["of them training"]


def usual(row: dict, rows: list[dict]) -> dict:
    return next(each for each in rows if each["network"] == row["network"])


def accuracies(row: dict) -> Iterator[float]:
    return (value for column, value in row.items() if column.startswith("seed "))


@cache
def published(name: str, seeds: int | None = None) -> list[Record]:
    """The published runs of an experiment, all of them or the first ones."""
    folder = experiments.published_records() / name
    return [records.read(records.record_path(folder, seed)) for seed in records.published_seeds(folder)[:seeds]]


def one_more(runs: list[Record], epoch: int = -1) -> Interval:
    """Where the accuracy of one more run would be, wherever it is trained."""
    return prediction_interval([run.test_accuracy[epoch] for run in runs], confidence=verification.SURE)


def alike(measurement: dict, run: Record) -> bool:
    """Whether a run was made by the kind of machine that was measured: there its bits are the same."""
    return {run.environment["device_name"], run.environment["cpu_capability"]} <= {*measurement["machine"].split(", ")}


def build(folder: Path, name: str, options: str = "") -> tuple[subprocess.CompletedProcess, BeautifulSoup | None]:
    """A book of one page that shows the measurement called `name`."""
    (folder / "index.md").write_text(f"# Page\n\n```{{measurement}} {name}\n{options}```\n", "utf-8")
    command = ["-m", "sphinx", "-W", "-q", "-C", "-b", "html"]
    command += ["-D", "extensions=myst_parser,mnist_lib.site.extension", folder, folder / "html"]
    done = forked.python(*command, cwd=folder, environment=os.environ | {"PYTHONPATH": str(ROOT)})
    page = folder / "html" / "index.html"
    return done, BeautifulSoup(page.read_text("utf-8"), "html.parser") if page.exists() else None


def test_a_measurement_is_shown_as_a_table_with_its_origin(tmp_path):
    (tmp_path / "book" / "measurements").mkdir(parents=True)
    (tmp_path / "book" / "measurements" / "example.json").write_text(json.dumps(EXAMPLE), "utf-8")
    done, page = build(tmp_path, "example")
    assert done.returncode == 0, done.stderr
    (table,) = page.select("table")
    texts = [[cell.get_text().strip() for cell in row.select("th, td")] for row in table.select("tr")]
    assert texts == [
        ["setting", "same", "images", "seconds"],
        ["one", "yes", "10,000", "0.000123"],
        ["*two*", "–", "–", "–"],
    ]
    caption = table.caption.get_text()
    assert caption.startswith("How long it takes. Measured on 2026-01-31 (a <small> machine | with bars) by ")
    assert table.caption.code.get_text() == EXAMPLE["command"]


def test_rows_are_chosen_and_a_column_is_drawn(tmp_path):
    (tmp_path / "book" / "measurements").mkdir(parents=True)
    values = [("a", 4.0), ("b", 9.0), ("a", 1.0), ("a", None), ("c", 1234.5)]
    rows = [{"of": name, "s": value} for name, value in values]
    (tmp_path / "book" / "measurements" / "example.json").write_text(json.dumps(EXAMPLE | {"rows": rows}), "utf-8")
    done, page = build(tmp_path, "example", ":where: of = a\n:bars: s\n")
    assert done.returncode == 0, done.stderr
    texts = [[cell.get_text().strip() for cell in row.select("th, td")] for row in page.select("table tr")]
    assert texts == [["s"], ["4"], ["1"], ["–"]]
    assert [bar["style"] for bar in page.select("table .bar")] == ["width: 100.0%", "width: 25.0%"]
    _, page = build(tmp_path, "example", ":where: of = c\n")
    assert [cell.get_text().strip() for cell in page.select("table td")] == ["1,234"]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_measurement_that_is_not_there_ends_the_build(tmp_path, content):
    (tmp_path / "book" / "measurements").mkdir(parents=True)
    if content is not None:
        (tmp_path / "book" / "measurements" / "example.json").write_text(content, "utf-8")
    done, _ = build(tmp_path, "example")
    assert done.returncode != 0
    assert "no measurement in example.json" in done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_published_measurement_says_how_it_was_made(file):
    measurement = measured(file.stem)
    assert measurement["rows"] and all(measurement[key] for key in ("what", "machine", "command"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", measurement["date"])
    (script,) = re.findall(r"benchmarks/\w+\.py", measurement["command"]) or ["tests"]
    assert (ROOT / script).exists()


@pytest.mark.needs_mnist
def test_the_check_of_records_allows_what_was_measured():
    rows = [row for row in measured("bit_identity")["rows"] if "network" in row]
    names = {row["network"] for row in rows}
    assert names
    trainers = {name: experiments.make_trainer(page.experiment(page.of_notebook(name)), 0, CPU) for name in names}
    allowed = {name: verification.replayed(trainer)[1] for name, trainer in trainers.items()}
    for row in rows:
        tolerances = allowed[row["network"]]
        assert row["first loss, relative"] < tolerances[0], row
        assert row["largest of the first 10"] < min(tolerances[-1], verification.COMPARABLE), row
        assert row["other answers of the published network"] == 0, "the answers are compared one by one"
        assert row["identical bits"] or row["setting"] != "the same once more"


def test_identical_bits_differ_in_nothing_and_others_no_more_than_seeds_after_an_epoch():
    for row in measured("bit_identity")["rows"]:
        if "network" not in row:  # not measured
            continue
        assert row["identical bits"] is not any(value for value in row.values() if type(value) in (int, float)), row
        assert 0 <= row["first loss, relative"] <= row["largest of the first 10"], row
        losses = [run.history["test_loss"][0] for run in published(row["network"])]
        assert 0 <= row["loss on test images, relative"] < max(losses) / min(losses) - 1, row
        assert (row["other answers"] > 0) is (row["loss on test images, relative"] > 0), row


@pytest.mark.parametrize(("name", "column", "follows", "rounding"), FOLLOWING)
def test_a_figure_follows_from_the_others(name, column, follows, rounding):
    rows = measured(name)["rows"]
    for row in rows:
        assert row[column] == pytest.approx(follows(row, rows), abs=rounding, rel=1e-9), row


@pytest.mark.parametrize(("name", "column", "other"), BETWEEN)
def test_the_smallest_is_the_smallest_and_the_largest_the_largest(name, column, other):
    """A ratio is formed in each round, of seconds of that round; so the ratio of their medians lies between, too."""
    measurement = measured(name)
    rows = measurement["rows"]
    for row in rows:
        low, middle, high, also = row["smallest"], row[column], row["largest"], other(row, rows)
        assert low <= middle <= high, row
        assert low * (1 - 1e-9) <= also <= high * (1 + 1e-9), row
        if also == 1 or 1 in (row.get("seeds"), option(measurement, "rounds")):  # compared with itself, or one round
            assert low == high, row


def test_a_command_cannot_take_less_than_the_python_in_it_or_a_rounded_step_than_a_plain_one():
    assert all(row["times a bare Python"] >= 1 for row in measured("commands")["rows"])
    assert all(row["in float32, ms"] < row["rounded, ms"] for row in measured("without_bfloat16")["rows"])
    assert all(row["of them training"] < row["seconds"] for row in measured("growth")["rows"])


def test_a_sweep_in_several_places_has_the_same_runs_two_at_a_time(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from large_sweep import VALUES

    measurement = measured("large_sweep")
    combinations = math.prod(len(values.split(",")) for values in VALUES.values())
    for row in measurement["rows"]:
        assert row["runs"] == combinations * (option(measurement, "seeds") or 10) and row["same table"], row
        assert row["training, s"] < 2 * row["seconds"], row


def test_operations_are_those_of_the_networks_and_their_peak_is_that_of_one_machine(monkeypatch):
    """The peak is measured for each row anew; a machine that does other work may give half of it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from training_loop import EPOCH, operations, recipe

    for row in measured("gpu_iterations")["rows"]:
        rate = operations(recipe(row["network"])) * EPOCH / row[PER_EPOCH]
        assert row["operations a second"] == pytest.approx(rate, rel=1e-9), row
    peaks = defaultdict(list)
    for row in measured("training_loop")["rows"]:
        rate = operations(recipe(row["network"])) * EPOCH / row[PER_EPOCH]
        peaks[row["loop"]].append(rate / row["share of the peak, %"])
    for row in measured("fastest_recipe")["rows"]:
        rate = operations(recipe("frontier_time")) * EPOCH * row["epochs"] / row["seconds"]
        peaks[row["way"], row["threads"]].append(rate / row["share of the peak, %"])
    for key, values in peaks.items():
        assert max(values) < 2 * min(values), key


def test_devices_are_compared_with_published_runs():
    rows = measured("devices")["rows"]
    for row in rows:
        runs = published(row["network"], row["seeds"])
        assert len(runs) == row["seeds"]
        assert {run.environment["device_name"] for run in runs} == {row["published on"]}
        assert row["mean"] == round(fmean(run.test_accuracy[-1] for run in runs), 3), row
        there = one_more(runs)
        assert there.low < row["mean there"] < there.high, row
        # Where only these runs scatter, and those on the other device do not.
        narrowest = accuracy_difference(runs, runs, len(rows)).high / math.sqrt(2)
        assert row["to"] - row["from"] > 2 * narrowest, row


def test_accuracies_after_the_first_epochs_are_those_of_published_runs():
    measurement = measured("training_loop_accuracy")
    epochs, total, name = re.search(r"after (\d+) of the (\d+) epochs of (\w+)", measurement["what"]).groups()
    _, plain, fast = measurement["rows"]
    assert int(epochs) == option(measurement, "epochs")
    for row, runs in ((plain, published(name)), (fast, published("faster_arithmetic"))):
        assert int(total) == runs[0].parameters["epochs"]
        for run, value in zip(runs, accuracies(row), strict=False):
            around = one_more(runs, int(epochs) - 1)
            assert around.low < value < around.high, row
            assert not alike(measurement, run) or value == round(run.test_accuracy[int(epochs) - 1], 2), row


@pytest.mark.parametrize("name", ["fastest_recipe", "gpu"])
def test_the_fastest_recipe_is_as_accurate_as_its_published_runs(name):
    measurement = measured(name)
    variants = [published(f"frontier_time{variant}") for variant in ("", "/two_epochs", "/one_epoch")]
    by_epochs = {runs[0].parameters["epochs"]: runs for runs in variants}
    *rows, last = measurement["rows"]
    assert last["epochs"] == (option(measurement, "epochs") or 1)
    for row in rows:
        if row["way"] == "the usual loop":
            continue
        runs = by_epochs[row["epochs"]]
        around, found = one_more(runs), row["mean accuracy, %"]
        assert around.low < found < around.high, row
        if row.get("threads") == 1 and alike(measurement, runs[0]):
            assert found == round(fmean(run.test_accuracy[-1] for run in runs[: option(measurement, "rounds")]), 2)
        assert row.get("seeds", 1) in (1, option(measurement, "seeds")), row


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_two_rows_are_about_the_same(file):
    about = [tuple(value for value in row.values() if type(value) is not float) for row in measured(file.stem)["rows"]]
    assert len({*about}) == len(about)


@pytest.mark.parametrize("script", [path.name for path in (ROOT / "benchmarks").glob("*.py")])
def test_a_benchmark_finds_what_it_imports(script):
    """A command of its own shows that: they are run by hand, and seldom."""
    done = forked.python(ROOT / "benchmarks" / script, "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_bit_identity_on_the_embedded_digits(tmp_path):
    """A few steps in all settings: the same setting gives the same bits; others agree on the first losses."""
    script, output = ROOT / "benchmarks" / "bit_identity.py", tmp_path / "bits.json"
    command = [sys.executable, str(script), "--dataset", "digits", "--steps", "12", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text("utf-8"))["rows"]
    assert all(row["identical bits"] for row in rows if row["setting"] == "the same once more")
    for row in rows:
        for column, value in row.items():
            if column.startswith("first "):
                assert value < verification.LEAST, row
