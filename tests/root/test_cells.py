"""What cells say: which names they assign, the network's arguments among them; in a file and in a running kernel."""

import dataclasses
import keyword
import math
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from papermill.translators import PythonTranslator

from mnist_lib import cells
from mnist_lib.cells import (
    assigned_names,
    from_notebook,
    has_its_name,
    has_network,
    notebook_parameters,
    of_file,
    tagged,
)
from mnist_lib.parameters import NotebookParameters, ParameterError
from support import PATIENCE, ROOT

KNOWN = {f.name for f in dataclasses.fields(NotebookParameters)}
ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats(), max_size=3))

# -- which names a notebook's cells assign

PARAMETERS = """\
# The recipe
name: str = "iteration_00"
epochs: int = 15
learning_rate: float = 1e-2
"""
INJECTED = "# Parameters\nepochs = 2\n"
NAMES = ["name", "epochs", "learning_rate"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param([PARAMETERS], NAMES, id="parameters cell alone"),
        pytest.param(["", "import os", PARAMETERS, "total = 3"], NAMES, id="other cells do not count"),
        pytest.param([PARAMETERS, INJECTED], NAMES, id="papermill's cell assigns known names"),
        pytest.param([PARAMETERS, INJECTED, "x = 1"], NAMES, id="cells after papermill's do not count"),
        pytest.param([PARAMETERS, "# Parameters\nepcohs = 2"], [*NAMES, "epcohs"], id="misspelt with -p"),
        pytest.param([PARAMETERS, "# Parameters\n_x = 2"], [*NAMES, "_x"], id="leading underscore"),
        pytest.param([PARAMETERS, "# Parameters\nIn = 2"], [*NAMES, "In"], id="IPython's own name"),
        pytest.param([PARAMETERS, '# Parameters\nopen = "x"'], [*NAMES, "open"], id="a builtin"),
        pytest.param(
            [PARAMETERS + "epcohs: int = 3", INJECTED], [*NAMES, "epcohs"], id="misspelt in the parameters cell"
        ),
        pytest.param([PARAMETERS + "extra = 3"], [*NAMES, "extra"], id="not annotated in the parameters cell"),
        # In Jupyter a person edits the parameters cell and runs it again: what was assigned before is history.
        pytest.param([PARAMETERS + "epcohs: int = 3", PARAMETERS], NAMES, id="corrected and run again"),
        pytest.param([PARAMETERS, "# Parameters\n_x = 2", PARAMETERS], NAMES, id="injected, then run again without"),
        pytest.param(
            [PARAMETERS, PARAMETERS, "# Parameters\n_x = 2"], [*NAMES, "_x"], id="run again with the injected"
        ),
        pytest.param([PARAMETERS, INJECTED, INJECTED], NAMES, id="injected cell run twice"),
        pytest.param(["%load_ext autoreload", PARAMETERS, "!ls", "files = !ls"], NAMES, id="IPython's syntax"),
        pytest.param([PARAMETERS, "%%time\nepochs: int = 3"], NAMES, id="cell magic"),
        pytest.param([PARAMETERS, "def f():\n    epochs: int = 3"], NAMES, id="annotated inside a function"),
        pytest.param([PARAMETERS, "count: int = 3"], NAMES, id="another annotated name"),
        pytest.param([PARAMETERS, "# Parameters of each layer\nrows = []"], NAMES, id="a comment that begins alike"),
        pytest.param([PARAMETERS, "x = 1\n# Parameters\ny = 2"], NAMES, id="the comment further down"),
        pytest.param([PARAMETERS, "\n# Parameters \nepcohs = 2"], [*NAMES, "epcohs"], id="the comment among spaces"),
    ],
)
def test_assigned_names(cells, expected):
    assert assigned_names(cells, KNOWN) == expected


@pytest.mark.parametrize("cells", [[], [""], ["import os", "epochs = 3"], [INJECTED], ["epochs: int ="]])
def test_notebook_without_a_parameters_cell_is_refused(cells):
    with pytest.raises(ParameterError, match="no parameters cell has been executed: run the notebook from its top"):
        assigned_names(cells, KNOWN)


IDENTIFIERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda n: not keyword.iskeyword(n))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(IDENTIFIERS, ANYTHING, max_size=4))
def test_every_name_that_papermill_injects_is_seen(values):
    injected = PythonTranslator.codify(values)
    expected = dict.fromkeys([*NAMES, *values])
    assert assigned_names(["", PARAMETERS, injected, "later = 1"], KNOWN) == list(expected)


# -- in a file


def notebook_file(folder: Path, *cells: tuple[str, list[str]]) -> Path:
    path = folder / "iteration_00.ipynb"
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), *made]), path)
    return path


def test_parameters_are_read_from_a_file(tmp_path):
    path = notebook_file(
        tmp_path, ("1 / 0", []), (PARAMETERS + "learning_rates: list[float] = [0.1, -1]", ["parameters"])
    )
    expected = {"name": "iteration_00", "epochs": 15, "learning_rate": 0.01, "learning_rates": [0.1, -1]}
    assert notebook_parameters(path) == expected


DEEP = f"{'-' * 30_000}1"
"""What exhausts Python's parser."""


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([(PARAMETERS, [])], "one cell must have the tag `parameters`, 0 have it"),
        ([(PARAMETERS, ["parameters"])] * 2, "one cell must have the tag `parameters`, 2 have it"),
        ([("epochs: int = len('abc')", ["parameters"])], "the parameters cell must hold literals only"),
        ([("epochs: int", ["parameters"])], "the parameters cell must hold literals only"),
        ([("%time\nepochs: int = 3", ["parameters"])], "the parameters cell must hold literals only"),
        ([("x: dict = {[1]: 2}", ["parameters"])], "the parameters cell must hold literals only: unhashable type"),
        ([(f"x: int = {DEEP}", ["parameters"])], "the parameters cell must hold literals only: it is nested too deep"),
    ],
    ids=range(7),
)
def test_file_without_a_proper_parameters_cell_is_refused(tmp_path, cells, message):
    with pytest.raises(ParameterError, match=f"^iteration_00.ipynb: {message}"):
        notebook_parameters(notebook_file(tmp_path, *cells))


# -- the network and its arguments

NETWORK = """\
from torch import nn


def network(width: int = 10, p=0.5, *, kind: str = "a", deep: bool = False):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Dropout(p), nn.Linear(width, 10))
"""


def read(folder: Path, parameters: str = "", network: str = NETWORK) -> NotebookParameters:
    return of_file(notebook_file(folder, (PARAMETERS + parameters, ["parameters"]), (network, ["network"])))


def test_a_notebook_in_a_file_has_its_network_and_its_parameters(tmp_path):
    found = read(tmp_path)
    assert (found.name, found.epochs, found.recipe.epochs) == ("iteration_00", 15, 15)
    assert dict(found.network.arguments) == {"width": 10, "p": 0.5, "kind": "a", "deep": False}
    assert found.network()[1].out_features == 10


def test_the_parameters_cell_wins_over_the_functions_defaults(tmp_path):
    found = read(tmp_path, "width: int = 7\ndeep: bool = True\np: float = 1")
    assert dict(found.network.arguments) == {"width": 7, "p": 1.0, "kind": "a", "deep": True}
    assert found.network()[1].out_features == found.width == 7


@pytest.mark.parametrize(
    ("parameters", "signature", "message"),
    [
        ("width: str = '12'", "width: int = 10", r"width = '12': expected a whole number .*write 12, without quotes"),
        ("width: float = 12.5", "width: int = 10", r"width = 12\.5: expected a whole number$"),
        ("width: bool = True", "width: int = 10", r"width = True: expected a whole number$"),
        ("widht: int = 12", "width: int = 10", r"unknown parameter 'widht': did you mean 'width'\?$"),
        ("", "width: int", r"parameter 'width' is missing$"),
        (
            "",
            "momentum: float = 0.5",
            r"network\(momentum\): momentum is a parameter of the recipe: choose another name",
        ),
        ("", "seeds: int = 5", r"network\(seeds\): seeds is a parameter of the recipe"),
        ("", "*sizes", r"network: each argument needs a name of its own, without \* and /"),
        ("", "**more", r"network: each argument needs a name of its own"),
        ("", "width, /", r"network: each argument needs a name of its own"),
        ("", "sizes: list = ()", r"network\(sizes\): expected one of int, float, str, bool"),
        ("", "sizes=(1, 2)", r"network\(sizes\): expected one of int, float, str, bool"),
        ("", "width=5 + n", r"network\(width\): its default must be a literal"),
    ],
)
def test_arguments_are_checked_like_any_parameter(tmp_path, parameters, signature, message):
    network = f"n = 3\n\ndef network({signature}):\n    pass"
    with pytest.raises(ParameterError, match=f"^{message}"):
        read(tmp_path, parameters, network)


@pytest.mark.parametrize(
    ("parameters", "signature", "value"),
    [
        ("width: int = 3", "width", 3),
        ("width: float = 3", "width", 3.0),
        ("width: float = 3", "width: 'float'", 3.0),
        ("width: int = 3", "width=5", 3),
    ],
)
def test_the_kind_of_an_argument_is_the_functions_or_else_the_parameters_cells(tmp_path, parameters, signature, value):
    found = read(tmp_path, parameters, f"def network({signature}):\n    pass")
    assert found.network.arguments == (("width", value),)
    assert type(found.width) is type(value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("def net(): pass", "the cell must define a function 'network', at its top level"),
        ("if True:\n    def network(): pass", "the cell must define a function 'network', at its top level"),
        ("def network(:", "the network cell cannot be read"),
        (
            "def network():\n    return nn.ReLU(epochs)",
            "the network cell uses 'epochs', 'nn', which is defined elsewhere: define it in the same cell, or make it "
            "an argument of network",
        ),
    ],
)
def test_a_network_cell_that_does_not_stand_alone_is_refused(tmp_path, cell, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        read(tmp_path, "", cell)


@pytest.mark.parametrize("count", [500, 30_000])
def test_a_network_cell_that_is_nested_too_deeply_is_refused(tmp_path, count):
    with pytest.raises(ParameterError, match="the network cell cannot be read"):
        read(tmp_path, network=f"{NETWORK}\n    x = {'-' * count}1\n")


def test_a_notebook_without_a_network(tmp_path):
    path = notebook_file(tmp_path, (PARAMETERS, ["parameters"]))
    assert not has_network(path) and tagged(path, "injected-parameters") is None
    assert of_file(path).network is None
    path = notebook_file(
        tmp_path, (PARAMETERS, ["parameters"]), (INJECTED, ["injected-parameters"]), (NETWORK, ["network"])
    )
    assert has_network(path) and tagged(path, "injected-parameters") is not None


def test_two_network_cells_are_refused(tmp_path):
    path = notebook_file(tmp_path, (PARAMETERS, ["parameters"]), *[(NETWORK, ["network"])] * 2)
    with pytest.raises(ParameterError, match="one cell must have the tag `network`, 2 have it"):
        of_file(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", ""),
        ("[]", ""),
        ("{}", ""),
        ('{"nbformat": 4, "cells": 3}', ""),
        (f'{{"nbformat": {"[" * 100_000}', "RecursionError"),
        (
            '{"nbformat": 3, "cells": []}',
            r"ValueError\('its format is 3, expected 4: open it in Jupyter and save it'\)$",
        ),
    ],
    ids=range(6),
)
def test_what_is_no_notebook_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(ParameterError, match=f"^{path}: not a notebook: {reason}"):
        of_file(path)


def test_a_notebook_may_begin_with_the_mark_of_its_encoding(tmp_path):
    path = notebook_file(tmp_path, (PARAMETERS, ["parameters"]))
    path.write_text(path.read_text("utf-8"), "utf-8-sig")
    assert notebook_parameters(path)["epochs"] == 15


def test_a_copy_is_not_called_as_its_file_is(tmp_path):
    path = notebook_file(tmp_path, (PARAMETERS, ["parameters"]))
    assert has_its_name(path)
    copy = path.rename(tmp_path / "iteration_00-Copy1.ipynb")
    assert not has_its_name(copy)
    copy.write_text("no notebook")
    assert not has_its_name(copy)


def test_a_file_that_may_not_be_read_is_not_called_something_else(tmp_path):
    with pytest.raises(ParameterError, match=f"^{tmp_path}: cannot be read: Is a directory"):
        of_file(tmp_path)


# -- in a real kernel

CHECK = """\
from mnist_lib.cells import from_notebook
from mnist_lib.parameters import NotebookParameters
try:
    found = from_notebook(NotebookParameters, network)
    print(found.name, found.epochs, found.learning_rate, found.network.arguments, found.network.digest[:9])
except (NameError, ValueError) as error:
    print(type(error).__name__, error)
"""
SMALL_NETWORK = """\
from torch import nn


def network(width: int = 10):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width))
"""
USUAL = "iteration_00 15 0.01 (('width', 10),) {digest}"

CASES = [
    ("%xmode Plain", USUAL),
    ("# Parameters\nPAPERMILL_INPUT_PATH = 'a'\nPAPERMILL_OUTPUT_PATH = 'b'", USUAL),
    (INJECTED, "iteration_00 2 0.01 (('width', 10),) {digest}"),
    ("epcohs = 3  # any cell may use any name", USUAL),
    ("# Parameters\nepcohs = 5", "ParameterError unknown parameter 'epcohs': did you mean 'epochs'?"),
    ("# Parameters\nepochs = '5'", "ParameterError epochs = '5': expected a whole number from 1 to 1000 (a string"),
    ("# Parameters\n_x = 5", "ParameterError unknown parameter '_x': known: "),
    ("# Parameters\nopen = 5", "ParameterError unknown parameter 'open': known: "),
    ("# Parameters\nIn = 5", "ParameterError unknown parameter 'In': known: "),
    ("# Parameters\nwidht = 5", "ParameterError unknown parameter 'widht': did you mean 'width'?"),
    ("# Parameters\nwidth = '5'", "ParameterError width = '5': expected a whole number (a string that looks"),
    ("# Parameters\nwidth = 12", "iteration_00 15 0.01 (('width', 12),) "),
    ("# Parameters\nnetwork = 'deep'", "ParameterError unknown parameter 'network': a network is changed in the"),
    (PARAMETERS + "width: int = 7", "iteration_00 15 0.01 (('width', 7),) "),
    (SMALL_NETWORK.replace("784, width", "784, 2 * width"), "iteration_00 15 0.01 (('width', 10),) "),
    (
        SMALL_NETWORK.replace("width", "epochs"),
        "ParameterError network(epochs): epochs is a parameter of",
    ),
    (
        SMALL_NETWORK.replace("784", "side"),
        "ParameterError the network cell uses 'side', which is defined elsewhere",
    ),
    (
        "%%time\n" + SMALL_NETWORK.replace("784, width", "784, 3 * width"),
        "ParameterError the text of network as it was executed is not found",
    ),
    ("network = lambda width: width", "ParameterError network = <function <lambda> at"),
    *(
        (
            f"# Parameters\n{name} = {value}",
            f"ParameterError {name}: this page has no such parameter, and would show no",
        )
        for name, value in (
            *(("beside", ["a"]), ("variants", ["a: epochs 1"]), ("learning_rates", [0.1]), ("baseline", "'a'")),
            *(("candidate_seeds", 1), ("continued_seeds", 1), ("variant_seeds", 1)),
        )
    ),
    ("# Parameters\nrotation = 5.0", "iteration_00 15 0.01 (('width', 10),) {digest}"),
    (PARAMETERS + "beside: list = ['a']\n", "iteration_00 15 0.01 (('width', 10),) {digest}"),
]
"""What stands between the parameters and the question, and what is printed then."""


def steps(between: str) -> list[str]:
    """The parameters cell anew, as a person would run it in Jupyter; papermill's comes after it, a network later."""
    is_network = "network" in between and not between.startswith("# Param")
    return [PARAMETERS, between, *[SMALL_NETWORK] * (not is_network), CHECK]


def digest_of_small(folder: Path) -> str:
    path = notebook_file(folder, (PARAMETERS, ["parameters"]), (SMALL_NETWORK, ["network"]))
    return of_file(path).network.digest[:9]


@pytest.mark.parametrize(("between", "expected"), CASES)
def test_from_notebook_in_a_shell(tmp_path, shell, capsys, between, expected):
    for cell in steps(between):
        shell.run_cell(cell, store_history=True)
    assert capsys.readouterr().out.splitlines()[-1].startswith(expected.format(digest=digest_of_small(tmp_path)))


def test_an_argument_without_kind_and_default_takes_what_is_injected(shell, capsys):
    network = SMALL_NETWORK.replace(": int = 10", "")
    for cell in (PARAMETERS, "# Parameters\nwidth = 12", network, CHECK, PARAMETERS, network, CHECK):
        shell.run_cell(cell, store_history=True).raise_error()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("iteration_00 15 0.01 (('width', 12),) ")
    assert second == "ParameterError parameter 'width' is missing"


@pytest.mark.parametrize("kept", [True, False])
def test_a_notebook_without_a_network_in_a_shell(shell, kept):
    for cell in (PARAMETERS, "from mnist_lib import cells, parameters"):
        shell.run_cell(cell, store_history=kept)
    shell.run_cell("found = cells.from_notebook(parameters.NotebookParameters)", store_history=kept).raise_error()
    found = shell.user_ns["found"]
    assert (found.name, found.epochs, found.learning_rate, found.network) == ("iteration_00", 15, 0.01, None)


def test_where_no_history_is_kept_the_values_are_those_of_now(shell, capsys):
    """As under nbval."""
    network = SMALL_NETWORK.replace(": int = 10", "")
    for cell in (PARAMETERS + "width: int = 7", "epochs = 3", network, CHECK):
        shell.run_cell(cell, store_history=False).raise_error()
    assert capsys.readouterr().out.startswith("iteration_00 3 0.01 (('width', 7),) ")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("# Parameters\nx-y = 1\nepochs = 1", "unknown parameter 'x-y': it is no name of Python"),
        ("# Parameters\nlearning-rate = 1", "unknown parameter 'learning-rate': did you mean 'learning_rate'?"),
        ("# Parameters\nlearning rate = 1", "unknown parameter 'learning rate': it is no name of Python"),
        ("# Parameters\nepochs = 1\nrate-of = 1 = 2\nx-y = 1", "unknown parameter 'rate-of': it is no name of Python"),
        ("# Parameters\nnan-x = 1\n", "unknown parameter 'nan-x': it is no name of Python"),
        ("# Parameters\nvars()['epochs'] = 1", "unknown parameter \"vars()['epochs']\": it is no name of Python"),
        (
            "# Parameters\nepochs = x = vars()['x'] = 3",
            "unknown parameter 'epochs': `epochs = x = vars()['x'] = 3` does more than give it a value",
        ),
        (
            "# Parameters\nepochs = print('executed')",
            "unknown parameter 'epochs': `epochs = print('executed')` does more than give it a value",
        ),
        ("# Parameters\nprint('executed')", "unknown parameter \"print('executed')\": it is no name of Python"),
    ],
)
def test_what_papermill_injects_only_assigns(shell, capsys, cell, message):
    cells.prepare()
    shell.run_cell(PARAMETERS)
    with pytest.raises(ParameterError) as error:
        shell.run_cell(cell).raise_error()
    assert str(error.value).startswith(message)
    assert shell.user_ns["epochs"] == 15 and not capsys.readouterr().out.startswith("executed")


def test_what_is_assigned_or_not_injected_is_executed(shell):
    cells.prepare()
    cells.prepare()
    assert len(shell.input_transformers_cleanup) == len(set(shell.input_transformers_cleanup))
    for cell in (
        " # Parameters\na = float('nan')\nb = [float('-inf'), float('inf')]\nc = d = {'x': (1, None, -2.5)}",
        "",
        "x = vars()\nx['e'] = abs(-3)",
        "# Parameter\nf = abs(-3)",
    ):
        shell.run_cell(cell).raise_error()
    assert [shell.user_ns[name] for name in "bdef"] == [[-math.inf, math.inf], {"x": (1, None, -2.5)}, 3, 3]


def test_from_notebook_in_a_kernel(tmp_path):
    sources = [CHECK, *(cell for between, _ in CASES for cell in steps(between))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    patience = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), PATIENCE)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}, **patience).execute()
    checks = [cell for cell in notebook.cells if cell.source == CHECK]
    printed = ["".join(output.text for output in cell.outputs) for cell in checks]
    assert printed[0].startswith("NameError name 'network' is not defined")
    digest = digest_of_small(tmp_path)
    for (between, expected), text in zip(CASES, printed[1:], strict=True):
        assert text.startswith(expected.format(digest=digest)), between
    assert len({text.split()[-1] for text in printed if "'width', " in text}) == 4, "the arguments and the text count"


def test_from_notebook_outside_a_notebook_says_what_to_call():
    with pytest.raises(ParameterError, match="elsewhere call validate"):
        from_notebook(NotebookParameters)
