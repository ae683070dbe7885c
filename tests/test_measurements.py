"""Measurements: made by a script in benchmarks/, kept in book/measurements, shown on a page as they are."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup

import forked
from mnist_lib import experiments
from mnist_lib.pipeline import verification
from mnist_lib.results import page
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
    measured = json.loads(file.read_text("utf-8"))
    assert measured["rows"] and all(measured[key] for key in ("what", "machine", "command"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", measured["date"])
    (script,) = re.findall(r"benchmarks/\w+\.py", measured["command"]) or ["tests"]
    assert (ROOT / script).exists()


@pytest.mark.needs_mnist
def test_the_check_of_records_allows_what_was_measured():
    rows = json.loads((ROOT / "book" / "measurements" / "bit_identity.json").read_text("utf-8"))["rows"]
    measured = [row for row in rows if "network" in row]
    names = {row["network"] for row in measured}
    assert names
    trainers = {name: experiments.make_trainer(page.experiment(page.of_notebook(name)), 0, CPU) for name in names}
    allowed = {name: verification.replayed(trainer)[1] for name, trainer in trainers.items()}
    for row in measured:
        tolerances = allowed[row["network"]]
        assert row["first loss, relative"] < tolerances[0], row
        assert row["largest of the first 10"] < tolerances[-1] < verification.COMPARABLE, row
        assert row["other answers of the published network"] == 0, "the answers are compared one by one"
        assert row["identical bits"] or row["setting"] != "the same once more"


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
