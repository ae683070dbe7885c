"""The notebooks: one skeleton, one change at a time, strict parameters, outputs that a fresh execution repeats."""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

import executed
import support
from mnist_lib import experiments, machine
from mnist_lib.cells import checked, has_network, notebook_parameters
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import NotebookParameters, ParameterError, literal, validate
from mnist_lib.pipeline import catalogue, execution, staleness
from mnist_lib.results import page, sweeps
from mnist_lib.results.page import (
    BackpropParameters,
    ComparisonParameters,
    ScratchParameters,
    SweepPageParameters,
    SweepParameters,
)

FOLDER = experiments.root() / "notebooks"
ITERATIONS = sorted(FOLDER.glob("iteration_??_*.ipynb"))
ALL = sorted(FOLDER.glob("*.ipynb"))

by_name = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


OWN_TAGS = {"parameters", "network", "prose", "idea"}
"""The tags of code cells that each iteration has for itself; others follow Markdown with the tag ``own``."""

OWN_CODE = ("target = ", "trials = ", "figures.candidates(")

IMPORT = re.compile(r"^(from \S+ )?import (\([^)]*\)|.*)\n", re.MULTILINE)
"""What is imported, its prose decides, too."""


def test_iterations_are_numbered_without_gaps():
    assert ITERATIONS
    assert [path.stem[:12] for path in ITERATIONS] == [f"iteration_{n:02}" for n, _ in enumerate(ITERATIONS, 1)]


def test_all_iterations_share_one_skeleton():
    """The cells of the first, in their order; what an iteration has besides is announced as its own."""

    def shared(path: Path) -> list[tuple[str, bool]]:
        """The code of cells that are not of the iteration's own, and whether what is before announces them as such."""
        pairs = pairwise(nbformat.read(path, as_version=4).cells)
        code = [(tags(before), cell) for before, cell in pairs if cell.cell_type == "code"]
        kept = [each for each in code if not OWN_TAGS & tags(each[1]) and not each[1].source.startswith(OWN_CODE)]
        sources = [(IMPORT.sub("", cell.source).strip(), "own" in before) for before, cell in kept]
        return [(re.sub(r"(, \*\w+\.values\(\))+", "", source), is_own) for source, is_own in sources]

    first = [source for source, _ in shared(ITERATIONS[0])]
    assert first
    for path in ITERATIONS[1:]:
        found = shared(path)
        assert [source for source, _ in found if source in first] == first, path.stem
        assert all(is_own for source, is_own in found if source not in first), path.stem


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return {*cell.metadata.get("tags", ())}


def network(path: Path) -> dict[str, tuple]:
    """The shapes of a notebook's weights, and its layers."""
    built = page.of_notebook(path.stem).network()
    layers = {name: str(module) for name, module in built.named_modules() if name}
    return {name: tuple(value.shape) for name, value in built.state_dict().items()} | layers


NO_CHANGE = {"name", "baseline", "seeds", "width", "beside", "variants", "variant_seeds"}
"""What a page is called, and what it shows besides its own runs; a width that is what it was."""

CHANGES = {
    2: {"network"},
    3: {"network"},
    4: {"network"},
    5: {"network"},
    6: {"network"},
    7: {"batch_size"},
    8: {"network"},
    9: {"rotation"},
    10: {"schedule", "learning_rate", "learning_rates", "candidate_seeds"},
}


@pytest.mark.parametrize("path", ITERATIONS[1:], ids=lambda path: path.stem)
def test_one_change_at_a_time(path):
    number, after = ITERATIONS.index(path) + 1, notebook_parameters(path)
    earlier = {other.stem: other for other in ITERATIONS[: number - 1]}
    before = notebook_parameters(earlier[after["baseline"]])
    differing = {name for name in after if after[name] != before.get(name)} - NO_CHANGE
    differing |= {"network"} if network(path) != network(earlier[after["baseline"]]) else set()
    if number in CHANGES:
        assert after["baseline"] == ITERATIONS[number - 2].stem
        assert differing == CHANGES[number]
    else:  # a schedule and its learning rate count as one
        assert len(differing) == 1 or (differing and differing <= CHANGES[10])


@by_name
def test_a_notebook_names_itself(path):
    assert notebook_parameters(path).get("name", path.stem) == path.stem


@by_name
def test_code_comes_after_prose(path):
    cells = nbformat.read(path, as_version=4).cells
    hidden = {"parameters", "network", "prose", "remove-cell", "hide-input", "hide-cell"}
    for before, cell in pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown" or hidden & set(cell.metadata.get("tags", ())), cell.source


@by_name
def test_published_outputs_are_current(path):
    problems = [f"{run.experiment.name} seed {run.seed}: {run.reasons}" for run in catalogue.missing_runs(path)]
    problems += staleness.stale(path)
    assert not problems, f"{path.name}: {'; '.join(problems)}"


def test_on_another_kind_of_cpu_words_count_and_numbers_do_not():
    def outputs(text: str, picture: str) -> list[dict]:
        shown = {"output_type": "display_data", "data": {"text/plain": text, "image/png": picture}, "metadata": {}}
        return [shown, {"output_type": "stream", "name": "stderr", "text": picture}]

    published = executed.without_numbers(outputs("loss from 2.4 to -1e-05", "A"))
    assert executed.without_numbers(outputs("loss from 2.5 to 0.03", "B")) == published
    assert executed.without_numbers(outputs("loss from 2.4 up to 0.03", "A")) != published
    assert executed.without_numbers(outputs("loss from 2.4 to -1e-05", "A")[1:]) != published


@by_name
def test_a_notebook_holds_no_trace_of_its_execution(path):
    text = path.read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    cleaned = nbformat.reads(text, as_version=4)
    execution.clean(cleaned)
    assert execution.to_text(cleaned) == text
    assert not any(output.output_type == "error" for cell in code_cells(path) for output in cell.outputs)
    assert all(cell.execution_count for cell in code_cells(path))
    assert "injected-parameters" not in text
    assert set(notebook.metadata) == {"kernelspec", "language_info", "mnist_lib"}


def test_an_execution_for_the_book_gives_the_published_file(tmp_path):
    """Byte for byte, figures to a few shades. In `make test` nbval compares all that the cells of every page give."""
    path = FOLDER / "iteration_05_global_average_pooling.ipynb"
    assert catalogue.missing_runs(path) == [], "an execution would train what is missing"
    execution.execute(path, tmp_path / path.name)
    published, fresh = (nbformat.read(file, as_version=4) for file in (path, tmp_path / path.name))
    assert fresh.metadata["mnist_lib"][staleness.CPU] == machine.kind_of_cpu()
    assert len(fresh.cells) == len(published.cells)
    for before, after in zip(published.cells, fresh.cells, strict=True):
        assert executed.unlike(after.pop("outputs", []), before.pop("outputs", [])) == ""
        assert after == before


@by_name
def test_every_figure_has_words(path):
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    for output in outputs:
        if "image/png" in output.get("data", {}):
            assert re.fullmatch(r"\S.* .*\.", output.metadata["image/png"]["alt"], re.DOTALL), "a sentence"


def papermill(name: str, *options: str, folder: Path) -> subprocess.CompletedProcess:
    """Run papermill as a user would, from a directory that is not the checkout."""
    source, target = FOLDER / f"{name}.ipynb", folder / "out.ipynb"
    return support.papermill(source, target, *options, cwd=folder, MNIST_LIB_RUNS=f"{folder}/runs")


REFUSED = {
    "epcohs 5": "ParameterError: unknown parameter 'epcohs': did you mean 'epochs'?",
    "_x 1": "ParameterError: unknown parameter '_x'",
    "learning-rate 1": "ParameterError: unknown parameter 'learning-rate': did you mean 'learning_rate'?",
    "x=print(5);y 1": "ParameterError: unknown parameter 'x=print(5);y': it is no name of Python",
    "epochs many": "ParameterError: epochs = 'many': expected a whole number from 1 to 1000",
    "epochs 0": "ParameterError: epochs = 0: expected a whole number from 1 to 1000",
    "learning_rate -1": "ParameterError: learning_rate = -1: expected a number above 0 up to 100",
    "dataset mnits": "ParameterError: dataset = 'mnits': expected one of mnist, digits; did you mean 'mnist'?",
    "schedule triangle": "ParameterError: schedule = 'triangle': expected one of constant, step, one_cycle",
    "network deep": "ParameterError: unknown parameter 'network': a network is changed in the notebook's network cell",
    "device cuda:99": "ParameterError: device = 'cuda:99': there is no such device on this machine; auto would use",
    "baseline iteration_99": "ParameterError: baseline = 'iteration_99': it is no notebook; expected one such as",
    "baseline iterations_compared": "ParameterError: baseline = 'iterations_compared': it trains no network; expected",
}


# -- any parameters at all

SOME = {
    "name": ["mine", "", "a/b", "../x", "ä" * 150, "x" * 250],
    "baseline": ["none", "iteration_01_setup", "introduction", "backprop_derivation", "nothing", ""],
    "experiment": ["iteration_07_small_batch", "introduction", "nothing", "*"],
    "experiments": [
        ["iteration_*"],
        ["iteration_01_setup"],
        [],
        ["introduction"],
        ["reported_*", "iteration_01_setup"],
    ],
    "learning_rates": [[], [0.1], [0.1, 0.1], [0.1, 0.1 + 1e-12], [0.01, 0.1], "0.1", [float("nan")], [-1]],
    "cnn_learning_rates": [[], [1], [1, 1.0], [0.3, 0.30000001], [0.01, 0.1], None],
    "variants": [
        [],
        ["one: epochs 1"],
        ["one epochs 1"],
        ["one: seeds 3, epochs 1", "one, too: seeds 0"],
        ["one: name x"],
    ],
    "inputs": [[0, 0], [0.05, 0.1], [1000, 1000], [1], [0, 1]],
    "targets": [[0, 1], [0.5, 0.5], [2, 0]],
    "weights": [[0] * 8, [1] * 8, [1000] * 8, [0.1] * 7],
    "sweep": ["learning_rate_sweep", "iteration_10_one_cycle", "nothing", ""],
    "value": ["first", "learning_rate", "nothing"],
    "schedule": ["constant", "step", "one_cycle", "cosine", "sine"],
    "device": ["cpu", "cuda:99", "abacus"],
    "precision": ["bfloat16", "float16"],
}
"""What a reader could write; every other parameter is a number."""

NUMBERS = [0, 1, 2, -1, 0.5, 1e-9, 1e9, float("nan"), float("inf"), True, "3", None]


def asked(path: Path, values: dict) -> list[Experiment]:
    """The experiments that a page asks for: what its first cells do with its parameters."""
    whole = notebook_parameters(path) | values
    whole |= {"dataset": "digits"} if "dataset" in whole else {}
    if has_network(path):
        parameters = checked(NotebookParameters, whole, page.of_notebook(path.stem).network, {})
        once_more = [page.continued(parameters)] * bool(parameters.continued_seeds)
        varied = [each for each, _ in page.variants(parameters).values()]
        others = [*page.candidates(parameters).values(), *once_more, *varied, page.baseline(parameters)]
        return [page.experiment(parameters), *(each for each in others if each)]
    if "experiments" in whole:
        parameters = validate(ComparisonParameters, whole)
        return [page.at_equal_effort(name, parameters) for name in page.listed(parameters)]
    if "cnn_learning_rates" in whole:
        return [*page.sweep(validate(SweepParameters, whole)).values()]
    if "sweep" in whole:
        shown = validate(SweepPageParameters, whole)
        sweeps.read(shown.sweep).axes(shown.value)
    else:
        validate(ScratchParameters if "images" in whole else BackpropParameters, whole)
    return []


@by_name
@settings(max_examples=15)
@given(draw=st.data())
def test_any_parameters_are_refused_by_name_or_make_a_page(path, draw):
    """Before anything is computed: a page that would fail on what it is given says so in its first cells."""
    known = sorted({*notebook_parameters(path)} - {"dataset"})
    names = draw.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
    values = {name: draw.draw(st.sampled_from(SOME.get(name, NUMBERS)), label=name) for name in names}
    try:
        found = asked(path, values)
    except ParameterError as error:
        assert any(name in str(error) for name in values), error
    else:
        folders = [run.published for run in found]
        assert len({*folders}) == len(folders)
        assert all(len(part.encode()) < 256 for run in found for part in (*run.published.parts, run.store.name))
        assert len(found) != 1 or "experiments" not in notebook_parameters(path)


@pytest.mark.parametrize("option", ["epochs many", "learning-rate 1", "x=print(5);y 1"])
def test_papermill_says_what_is_refused(option, tmp_path):
    done = papermill("iteration_08_without_dropout", "-p", *option.split(), folder=tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(REFUSED[option]), done.stderr[-500:]
    assert not (tmp_path / "runs").exists()


def test_bad_parameters_are_refused_before_anything_else(tmp_store):
    """All of them, with the cells that papermill makes, one after the other in one kernel."""
    page = load_notebook_node(str(FOLDER / "iteration_08_without_dropout.ipynb"))
    client = NotebookClient(page, kernel_name="python3", timeout=support.PATIENCE)
    with client.setup_kernel():
        for option, message in REFUSED.items():
            name, value = option.split()
            client.nb = parameterize_notebook(page, {name: literal(value)})
            with pytest.raises(CellExecutionError) as caught:
                for number, cell in enumerate(client.nb.cells):
                    client.execute_cell(cell, number)
            assert f"{caught.value.ename}: {caught.value.evalue}".startswith(message), option
    assert not tmp_store.exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reported_d_padded_pairs", ["continued_seeds: 0"]),
        ("frontier_curve", ["variants: ['other: network iteration_03_batch_normalisation']", "beside: []"]),
    ],
)
def test_what_is_accepted_makes_a_page(name, options, tmp_path):
    """No continued runs; a lent network that has no widths."""
    shared = ["dataset: digits", "epochs: 1", "seeds: 1"]
    done = papermill(name, *(part for each in [*shared, *options] for part in ("-y", each)), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-1000:]


def test_missing_data_are_named(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    monkeypatch.setenv("MNIST_LIB_DATA", str(empty))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = papermill("iteration_02_light_skeleton", "-p", "epochs", "1", "-p", "seeds", "1", folder=tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in ("DataError", str(empty), "MNIST_LIB_DATA", "dataset=digits"))
    assert not list(empty.rglob("*"))


def test_a_run_that_diverges_stops_and_leaves_no_record(tmp_path):
    options = ["-p", "dataset", "digits", "-p", "learning_rate", "100", "-p", "baseline", "none"]
    done = papermill("iteration_03_batch_normalisation", *options, folder=tmp_path)
    assert done.returncode != 0
    assert "DivergenceError: the loss" in done.stderr.strip().splitlines()[-1]
    assert not list((tmp_path / "runs").rglob("seed_*"))


def test_new_parameters_train_and_leave_the_published_records_alone(tmp_path):
    before = {file: file.stat().st_mtime_ns for file in experiments.published_records().rglob("*")}
    options = "-p dataset digits -p epochs 2 -p seeds 1 -p learning_rate 0.05".split()
    done = papermill("iteration_07_small_batch", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert before == {file: file.stat().st_mtime_ns for file in experiments.published_records().rglob("*")}
    assert len(list((tmp_path / "runs").rglob("seed_0.json"))) == 2  # this one and its baseline
    text = (tmp_path / "out.ipynb").read_text()
    assert "Made with the embedded digits" in text
    assert "epoch 2 of 2" in text


def test_paths_may_be_injected_and_none_may_be_none(tmp_path):
    options = "--inject-paths --inject-input-path --inject-output-path -p dataset digits -p epochs 1 -p seeds 1"
    done = papermill("iteration_05_global_average_pooling", *options.split(), "-p", "baseline", "None", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (injected,) = [cell.source for cell in code_cells(tmp_path / "out.ipynb") if "injected-parameters" in tags(cell)]
    assert "PAPERMILL_INPUT_PATH" in injected and "PAPERMILL_OUTPUT_PATH" in injected and "baseline = None" in injected
    assert len(list((tmp_path / "runs").rglob("seed_*.json"))) == 1  # none of a baseline


CALLS = [
    pytest.param(["--nbval"], id="nbval"),
    pytest.param(["--nbval", "-p", "no:xdist"], id="nbval without xdist", marks=pytest.mark.slow),
    pytest.param(["--nbval", "-n", "2", "--dist", "worksteal"], id="nbval in two processes", marks=pytest.mark.slow),
    pytest.param(["--nbmake", "-p", "no:nbval"], id="nbmake"),
]


@pytest.mark.parametrize("call", CALLS)
def test_notebooks_pass_as_an_outsider_calls_pytest(call, tmp_path):
    """A page that needs no images; and, under nbval, one that needs MNIST besides, where it is not.

    In two processes all pages are compared by `make test`.
    """
    names = ["introduction", *["iteration_05_global_average_pooling"] * ("--nbval" in call)]
    pages = [FOLDER / f"{name}.ipynb" for name in names]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MNIST_LIB_BLANK"))}
    environment |= {"MNIST_LIB_DATA": str(tmp_path), "MNIST_LIB_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *call, *map(str, pages)]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"[1-9]\d* passed", done.stdout) or "." in done.stdout


FOREIGN = {"argv": ["false", "{connection_file}"], "display_name": "Another Python", "language": "python"}


def test_this_interpreter_executes_and_nothing_from_stderr_is_published(tmp_path, monkeypatch, capfd):
    """Whatever JUPYTER_PATH names; the folder's name has braces."""
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps(FOREIGN))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = tmp_path / "{braces} {0}" / "page.ipynb"
    path.parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))
    tagged = nbformat.v4.new_code_cell("name: str = 'page'", metadata={"tags": ["parameters"]})
    said = "import sys, warnings\nwarnings.warn('beware')\nprint(sys.executable)"
    nbformat.write(nbformat.v4.new_notebook(cells=[tagged, nbformat.v4.new_code_cell(said)]), path)
    execution.execute(path, path)
    (_, cell) = code_cells(path)
    assert [output.text for output in cell.outputs] == [f"{sys.executable}\n"]
    told = capfd.readouterr().err
    assert "page.ipynb: " in told and "UserWarning: beware" in told


def test_a_rehearsal_says_so_below_its_title(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_LIB_RUNS", str(tmp_path / "runs"))
    source, target = support.own_notebook(tmp_path), tmp_path / "rehearsed.ipynb"
    execution.quick(source, target)
    title, _, note, first, *_ = nbformat.read(target, as_version=4).cells[0].source.splitlines()
    assert title == nbformat.read(source, as_version=4).cells[0].source.splitlines()[0]
    assert (note, first.startswith("Made with the embedded digits")) == ("```{warning}", True)


def test_a_failing_execution_leaves_the_target_as_it_was(tmp_path):
    source, target = tmp_path / "broken.ipynb", tmp_path / "published.ipynb"
    parameters = nbformat.v4.new_code_cell("number: int = 1", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell("number / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), source)
    target.write_text("as it was")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        execution.execute(source, target)
    assert target.read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.ipynb", "published.ipynb"]


@by_name
def test_no_cell_assigns_a_parameter(path):
    """A later assignment would make a second run of the cell that checks the parameters fail."""
    names = set(notebook_parameters(path))
    for cell in code_cells(path):
        if "parameters" not in cell.metadata.get("tags", ()) and "%pip" not in cell.source:
            assert not names & assigned(ast.parse(cell.source)), cell.source


def assigned(tree: ast.AST) -> set[str]:
    """The names that a cell assigns; those of a comprehension are its own."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.comprehension)]
    own = {id(node) for loop in loops for node in ast.walk(loop.target)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in own]
    return {node.id for node in found if isinstance(node.ctx, ast.Store)}
