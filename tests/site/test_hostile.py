"""Words that would do something on a page if they were taken for HTML, Markdown or a formula: they are only shown.

They stand wherever somebody else's words may come to a page: in records, in measurements, in parameters, in a network.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbconvert
import pytest
import yaml
from bs4 import BeautifulSoup

from support import ROOT, edit, mnist_lib, own_notebook, sealed

pytestmark = pytest.mark.slow

IMAGE = "<img src=x onerror=window.hacked=1>"
SCRIPT = "</script><script>window.hacked=1</script>"
QUOTES = "\"'><svg onload=window.hacked=1>"
LINK = "[here](javascript:window.hacked=1) `x` ![](http://127.0.0.1:9/x)"
FORMULA = r"$\href{javascript:window.hacked=1}{x}$ $\frac$"
ALL = f"{IMAGE}{SCRIPT}{QUOTES}{LINK}{FORMULA}"

HEADING = "The tag that shows an image, as somebody else may have written it"

NETWORK = f'''
from torch import nn


def network(kind: str = "plain") -> nn.Module:
    """{IMAGE}{SCRIPT}"""
    layer = type("{IMAGE}$\\\\frac$ $x$", (nn.ReLU,), {{}})
    width = 4 + len(kind) % 3
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, width), layer(), nn.Linear(width, 10))
'''

PAGES = [
    *("notebooks/frontier_time", "notebooks/your_sweep", "notebooks/iteration_09_augmentation"),
    *("notebooks/iteration_10_one_cycle", "notebooks/iteration_08_without_dropout"),
    *("book/compare", "book/draw_a_digit", "book/many_runs", "book/headings"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A copy of the report with such words in all places, its pages executed."""
    report = tmp_path_factory.mktemp("hostile") / "report"
    for name in ("mnist_lib", "notebooks", "book", "deploy"):
        shutil.copytree(ROOT / name, report / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.lock", "_config.yml", "README.md"):
        shutil.copy(ROOT / name, report / name)
    growth = report / "book" / "measurements" / "growth.json"
    measured = json.loads(growth.read_text("utf-8"))
    measured |= {"what": ALL, "machine": ALL, "command": ALL}
    measured["rows"][0] |= {"seconds": ALL, ALL: ALL}
    growth.write_text(json.dumps(measured), "utf-8")
    (report / "book" / "headings.md").write_text(f"# About a tag\n\n## {HEADING}: `{IMAGE}`\n\nWords.\n", "utf-8")

    for path in report.glob("book/records/iteration_10_one_cycle/seed_*.json"):
        content = json.loads(path.read_text("utf-8"))
        content["environment"] |= dict.fromkeys(("device_name", "torch", "python", "cpu_capability"), ALL)
        path.write_text(json.dumps(sealed(content)), "utf-8")
    for path in report.glob("book/records/iteration_09_augmentation/seed_*.json"):
        content = json.loads(path.read_text("utf-8"))
        content["network"] |= {"source": ALL, "name": ALL, "arguments": {ALL: ALL}}
        content["digests"] |= {"code": "<script>", "data": "<script>", ALL: ALL}
        path.write_text(json.dumps(sealed(content)), "utf-8")
    page = report / "notebooks" / "iteration_09_augmentation.ipynb"
    notebook = json.loads(page.read_text("utf-8"))
    notebook["metadata"]["mnist_lib"]["library"] = "<script>"
    page.write_text(json.dumps(notebook), "utf-8")

    machine = report / "mnist_lib" / "machine.py"
    edit(machine, "def _processor() -> str:", f"def _processor() -> str:\n    return {ALL!r}")

    mine = own_notebook(report)
    with_network(mine, mine)
    done = mnist_lib("sweep", str(mine), f"--set=kind={IMAGE},{FORMULA}", "--seeds=0-1", "--name=mine2", root=report)
    assert done.returncode == 0, done.stdout + done.stderr
    execute(report, "your_sweep", sweep="mine2")
    variants = [
        f"{IMAGE}: learning_rate 0.1",
        f"{FORMULA.replace(':', '')}: learning_rate 0.2",
        f"a\n```\n{IMAGE}: epochs 2",
    ]
    values = {"dataset": "digits", "epochs": 1, "seeds": 1, "optimizer": "sgd", "precision": "float32", "kind": SCRIPT}
    values |= {"variants": variants, "variant_seeds": 1, "learning_rates": []}
    values |= {"beside": [f"iteration_1[0{IMAGE}]*"]}
    execute(report, "frontier_time", **values)
    return report


def with_network(source: Path, target: Path) -> None:
    """Put the network into a notebook's network cell, and its argument among the parameters."""
    notebook = json.loads(source.read_text("utf-8"))
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", ())
        if "network" in tags:
            cell["source"] = NETWORK
        if "parameters" in tags:
            lines = "".join(cell["source"]).splitlines()
            kept = [line for line in lines if not line.startswith(("width", "first", "second", "residual"))]
            cell["source"] = "\n".join([*kept, 'kind: str = "plain"'])
    target.write_text(json.dumps(notebook), "utf-8")


def execute(report: Path, name: str, **parameters: object) -> None:
    path = report / "notebooks" / f"{name}.ipynb"
    if "kind" in parameters:
        with_network(path, path)
    given = report / "parameters.yml"
    given.write_text(yaml.safe_dump(parameters), "utf-8")
    command = [sys.executable, "-m", "papermill", str(path), str(path), "-f", str(given), "--no-progress-bar"]
    environment = os.environ | {"PYTHONPATH": str(report), "MNIST_LIB_RUNS": str(report / "runs")}
    done = subprocess.run([*command, "-k", "python3"], env=environment, cwd=report, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def built(report) -> Path:
    """Some of its pages, compiled."""
    first, *others = PAGES
    toc = {"format": "jb-book", "root": first, "chapters": [{"file": name} for name in others]}
    (report / "toc.yml").write_text(yaml.safe_dump(toc), "utf-8")
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "."]
    command += ["--toc", "toc.yml", "--path-output", "out"]
    environment = os.environ | {"PYTHONPATH": str(report)}
    done = subprocess.run(command, cwd=report, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return report / "out" / "_build" / "html"


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_a_page_shows_them_and_nothing_runs(built, browser, name):
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((built / f"{name}.html").as_uri() + f"?q={HEADING}" * (name == "search"))
    page.wait_for_load_state("load")
    if name == "search":
        page.locator("#search-results li").first.wait_for()
    if name == "book/draw_a_digit":
        page.locator("#digit-pad canvas").first.click()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    assert not page.locator("[onerror], [onload], a[href^='javascript:']").count()
    shown = page.evaluate("document.body.textContent")
    if name not in ("book/compare", "book/draw_a_digit", "notebooks/iteration_08_without_dropout"):
        assert ("<script>" if "iteration_09" in name else IMAGE) in shown
    page.close()


@pytest.mark.parametrize("name", ["frontier_time", "your_sweep"])
def test_a_notebook_shows_them_where_there_is_no_book(report, name):
    html, _ = nbconvert.HTMLExporter().from_filename(str(report / "notebooks" / f"{name}.ipynb"))
    page = BeautifulSoup(html, "html.parser")
    assert not page.select("[onerror], [onload], a[href^='javascript:'], .jp-OutputArea script")
    assert IMAGE in page.get_text()
