"""Strict parameters: what is accepted, what is refused, and with which words."""

import dataclasses
import keyword
import math
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from papermill.translators import PythonTranslator

from mnist_lib.parameters import (
    BackpropParameters,
    ComparisonParameters,
    NotebookParameters,
    ParameterError,
    Recipe,
    SweepParameters,
    assigned_names,
    bounded,
    from_notebook,
    notebook_parameters,
    validate,
)
from support import PATIENCE, ROOT

KNOWN = {f.name for f in dataclasses.fields(NotebookParameters)}
REQUIRED = {f.name: "deep" for f in dataclasses.fields(NotebookParameters) if f.default is dataclasses.MISSING}
DEFAULTS = NotebookParameters(**REQUIRED)


@dataclass(frozen=True, kw_only=True)
class Types:
    """One field of every kind, without bounds where a kind can be had without."""

    flag: bool = False
    word: str = "x"
    count: int = 0
    ratio: float = 0.0
    counts: list[int] = bounded((), low=1, high=9)
    pair: list[float] = bounded((0.0, 0.0), low=-1, high=1, length=2)
    words: list[str] = ()


def refused(schema=NotebookParameters, /, **values) -> str:
    """The message with which `values` are refused."""
    if schema is NotebookParameters:
        values = REQUIRED | values
    with pytest.raises(ParameterError) as caught:
        validate(schema, values)
    return str(caught.value)


# -- what is accepted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1),
        ("epochs", 1000),
        ("batch_size", 2),
        ("learning_rate", 0.05),
        ("learning_rate", 1e-9),
        ("learning_rate", 100.0),
        ("momentum", 0.0),
        ("step_factor", 1.0),
        ("rotation", 180.0),
        ("crop_probability", 1.0),
        ("dataset", "digits"),
        ("schedule", "one_cycle"),
        ("interpolation", "nearest"),
        ("precision", "bfloat16"),
        ("threads", 2),
        ("device", "cuda:1"),
        ("learning_rates", (0.01, 0.1)),
    ],
)
def test_value_is_accepted_unchanged(name, value):
    assert validate(NotebookParameters, REQUIRED | {name: value}) == dataclasses.replace(DEFAULTS, **{name: value})


def test_whole_number_is_accepted_for_a_float_and_becomes_one():
    recipe = validate(Recipe, {"network": "deep", "learning_rate": 1})
    assert type(recipe.learning_rate) is float
    assert recipe == Recipe(network="deep", learning_rate=1.0)


def test_list_becomes_a_tuple_of_checked_numbers():
    recipe = validate(NotebookParameters, REQUIRED | {"learning_rates": [1, 0.5]})
    assert recipe.learning_rates == (1.0, 0.5)
    assert [type(rate) for rate in recipe.learning_rates] == [float, float]
    assert validate(NotebookParameters, REQUIRED | {"learning_rates": []}).learning_rates == ()


def test_recipe_is_the_part_that_decides_the_result():
    recipe = validate(NotebookParameters, REQUIRED | {"epochs": 3, "seeds": 2, "device": "cpu"})
    assert recipe.recipe == Recipe(network="deep", epochs=3)


# -- types


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("epochs", "many", "a whole number from 1 to 1000"),
        ("epochs", 2.0, "a whole number from 1 to 1000"),
        ("epochs", True, "a whole number from 1 to 1000"),
        ("epochs", None, "a whole number from 1 to 1000"),
        ("epochs", [3], "a whole number from 1 to 1000"),
        ("learning_rate", True, "a number above 0 up to 100"),
        ("learning_rate", None, "a number above 0 up to 100"),
        ("learning_rate", "fast", "a number above 0 up to 100"),
        ("network", 3, "a word"),
        ("device", None, "a word"),
        ("dataset", 3, "one of mnist, digits"),
        ("schedule", None, "one of constant, step, one_cycle"),
        ("learning_rates", 0.1, "a list such as [0.01, 0.1]"),
        (
            "learning_rates",
            "0.1",
            "a list such as [0.01, 0.1]; to papermill give lists with -y 'learning_rates: [...]'",
        ),
    ],
)
def test_wrong_type_is_refused(name, value, accepted):
    message = refused(**{name: value})
    assert message == f"{name} = {value!r}: expected {accepted}"


def test_fields_without_bounds_are_checked_for_their_type():
    assert validate(Types, {"flag": True, "count": -(10**9), "ratio": -1.5, "counts": [1, 9]}).flag is True
    assert refused(Types, flag="true") == "flag = 'true': expected True or False"
    assert refused(Types, flag=1) == "flag = 1: expected True or False"
    assert refused(Types, word=b"x") == "word = b'x': expected a word"
    assert refused(Types, count=True) == "count = True: expected a whole number"
    expected = "words = 'deep': expected a list such as ['a', 'b']; to papermill give lists with -y 'words: [...]'"
    assert refused(Types, words="deep") == expected
    assert refused(Types, words=["deep", 3]) == "words[1] = 3: expected a word"


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("learning_rate", "1e-2", "write 0.01, without quotes"),  # YAML reads 1e-2 as a string
        ("learning_rate", " 5 ", "write 5.0, without quotes"),
        ("epochs", "5", "write 5, without quotes"),
        ("epochs", "1e2", "write 100, without quotes"),
    ],
)
def test_string_that_looks_like_a_number_is_refused_with_a_hint(name, value, hint):
    message = refused(**{name: value})
    assert f"{name} = {value!r}: expected" in message
    assert message.endswith(f"(a string that looks like a number: {hint})")
    # What the hint tells to write is accepted.
    validate(Recipe, {"network": "deep", name: eval(hint.removeprefix("write ").partition(",")[0])})


@pytest.mark.parametrize(("name", "value"), [("epochs", "2.5"), ("epochs", "nan"), ("learning_rate", "inf")])
def test_no_hint_where_following_it_would_not_help(name, value):
    assert "without quotes" not in refused(**{name: value})


# -- ranges


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("epochs", 0, "a whole number from 1 to 1000"),
        ("epochs", 1001, "a whole number from 1 to 1000"),
        ("batch_size", 1, "a whole number from 2 to 60000"),
        ("learning_rate", 0, "a number above 0 up to 100"),
        ("learning_rate", -1, "a number above 0 up to 100"),
        ("learning_rate", 100.5, "a number above 0 up to 100"),
        ("learning_rate", math.nan, "a number above 0 up to 100"),
        ("learning_rate", math.inf, "a number above 0 up to 100"),
        ("learning_rate", -math.inf, "a number above 0 up to 100"),
        ("momentum", 1.0, "a number from 0 to 0.9999"),
        ("rotation", math.nan, "a number from 0 to 180"),
        ("crop_probability", 1.5, "a number from 0 to 1"),
        ("seeds", 0, "a whole number from 1 to 1000"),
        ("seeds", 10**400, "a whole number from 1 to 1000"),
    ],
)
def test_value_out_of_range_is_refused(name, value, accepted):
    message = refused(**{name: value})
    assert message.startswith(f"{name} = {value}")  # an int given for a float may be shown as 0 or 0.0
    assert message.endswith(f"expected {accepted}")


def test_whole_number_too_large_for_a_float_is_refused():
    assert refused(learning_rate=10**400).endswith("expected a number above 0 up to 100")


@pytest.mark.parametrize("bad", [0.0, -1, math.nan, "0.1", True, None, [0.1]])
def test_list_is_checked_item_by_item(bad):
    assert refused(learning_rates=[0.1, bad]).startswith("learning_rates[1] = ")


@pytest.mark.parametrize("value", [[], [0.5], [0.5, 0.5, 0.5], 0.5, "0.5", None])
def test_list_of_a_given_length(value):
    assert validate(Types, {"pair": [1, -1]}).pair == (1.0, -1.0)
    how = "; to papermill give lists with -y 'pair: [...]'" if isinstance(value, str) else ""
    assert refused(Types, pair=value) == f"pair = {value!r}: expected a list of 2 numbers{how}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inputs": [0.05]}, "inputs = [0.05]: expected a list of 2 numbers"),
        ({"targets": [0, 0.5, 1]}, "targets = [0, 0.5, 1]: expected a list of 2 numbers"),
        ({"weights": [0.1] * 7}, f"weights = {[0.1] * 7}: expected a list of 8 numbers"),
        ({"weights": [*[0.1] * 7, math.nan]}, "weights[7] = nan: expected a number from -1000 to 1000"),
        ({"inputs": [math.inf, 0]}, "inputs[0] = inf: expected a number from -1000 to 1000"),
        ({"targets": [0.5, "0.5"]}, "targets[1] = '0.5': expected a number from 0 to 1 (a string that looks like"),
        ({"targets": [0.5, 1.5]}, "targets[1] = 1.5: expected a number from 0 to 1"),
        ({"learning_rate": -0.5}, "learning_rate = -0.5: expected a number from 0 to 1000"),
        ({"learning_rate": math.nan}, "learning_rate = nan: expected a number from 0 to 1000"),
        ({"steps": 0}, "steps = 0: expected a whole number from 1 to 100000"),
        ({"steps": 1.5}, "steps = 1.5: expected a whole number from 1 to 100000"),
        ({"weigths": [0.1] * 8}, "unknown parameter 'weigths': did you mean 'weights'?"),
    ],
)
def test_what_the_derivation_refuses(values, message):
    assert refused(BackpropParameters, **values).startswith(message)


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (SweepParameters, {"experiment": "iteration_10_one_cycle", "learning_rates": []}),
        (SweepParameters, {"experiment": "iteration_10_one_cycle", "cnn_learning_rates": [0.1, 0.1]}),
        (ComparisonParameters, {"experiments": []}),
        (ComparisonParameters, {"experiments": ["iteration_01_setup", "iteration_01_setup"]}),
    ],
)
def test_list_that_is_empty_or_repeats_itself_is_refused(schema, values):
    with pytest.raises(ParameterError, match=r" = \[.*\]: expected at least one, and none of them twice"):
        validate(schema, values)


def test_list_that_is_empty_by_default_may_be_empty():
    assert validate(NotebookParameters, REQUIRED | {"learning_rates": []}).learning_rates == ()


@pytest.mark.parametrize(
    ("name", "value", "suggestion"),
    [("dataset", "mnits", "mnist"), ("schedule", "onecycle", "one_cycle"), ("evaluate_on", "Validation", "validation")],
)
def test_misspelt_option_is_refused_with_a_suggestion(name, value, suggestion):
    message = refused(**{name: value})
    assert message.startswith(f"{name} = {value!r}: expected one of ")
    assert message.endswith(f"; did you mean {suggestion!r}?")


def test_option_like_no_other_is_refused_without_a_suggestion():
    assert refused(schedule="triangle") == "schedule = 'triangle': expected one of constant, step, one_cycle"


# -- names


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("epcohs", "epochs"), ("kernel", None), ("learning_rat", "learning_rate"), ("batchsize", "batch_size")],
)
def test_unknown_name_is_refused_with_the_nearest_known_one(name, suggestion):
    message = refused(**{name: 5})
    assert message.startswith(f"unknown parameter {name!r}: ")
    if suggestion:
        assert message.endswith(f"did you mean {suggestion!r}?")
    else:  # nothing near: all known names are listed
        assert all(known in message for known in KNOWN)


def test_unknown_name_is_refused_before_wrong_values_are_looked_at():
    assert refused(epochs="many", epcohs=5).startswith("unknown parameter 'epcohs'")


def test_missing_required_parameter_is_refused():
    with pytest.raises(ParameterError, match=r"^parameter 'network' is missing$"):
        validate(Recipe, {"epochs": 3})


# -- the same over any values

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.floats(), max_size=3)
)
ANY_NUMBER = st.one_of(st.integers(), st.floats(), st.integers(-3, 3).map(lambda digits: 10 ** (100 * abs(digits))))
SAMPLE = settings(max_examples=60, deadline=None)  # no deadline: the machine may be busy


@SAMPLE
@given(ANY_NUMBER)
def test_number_is_accepted_exactly_within_its_range(value):
    expected = 0 < value <= 100  # false for NaN
    try:
        assert validate(Recipe, {"network": "deep", "learning_rate": value}).learning_rate == value
        accepted = True
    except ParameterError:
        accepted = False
    assert accepted == expected


@SAMPLE
@given(st.sampled_from(sorted(KNOWN)), ANYTHING)
def test_any_value_is_accepted_or_refused_by_name(name, value):
    try:
        recipe = validate(NotebookParameters, REQUIRED | {name: value})
    except ParameterError as error:
        assert str(error).startswith(name)
    else:
        # What was accepted is accepted again: a recipe read back from a record gives the same recipe.
        assert validate(NotebookParameters, dataclasses.asdict(recipe)) == recipe


@SAMPLE
@given(st.text().filter(lambda name: name not in KNOWN), ANYTHING)
def test_any_unknown_name_is_refused(name, value):
    assert refused(**{name: value}).startswith(f"unknown parameter {name!r}")


# -- which names a notebook's cells assign

PARAMETERS = """\
# The recipe
network: str = "deep"  # a name of models.NETWORKS
epochs: int = 15
learning_rate: float = 1e-2
"""
INJECTED = "# Parameters\nepochs = 2\n"
NAMES = ["network", "epochs", "learning_rate"]


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
    ],
)
def test_assigned_names(cells, expected):
    assert assigned_names(cells, KNOWN) == expected


@pytest.mark.parametrize("cells", [[], [""], ["import os", "epochs = 3"], [INJECTED], ["epochs: int ="]])
def test_notebook_without_a_parameters_cell_is_refused(cells):
    with pytest.raises(ParameterError, match="no parameters cell has been executed: run the notebook from its top"):
        assigned_names(cells, KNOWN)


IDENTIFIERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda n: not keyword.iskeyword(n))


@SAMPLE
@given(st.dictionaries(IDENTIFIERS, ANYTHING, max_size=4))
def test_every_name_that_papermill_injects_is_seen(values):
    injected = PythonTranslator.codify({k: v for k, v in values.items() if not isinstance(v, bytes)})
    expected = dict.fromkeys([*NAMES, *(k for k, v in values.items() if not isinstance(v, bytes))])
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
    expected = {"network": "deep", "epochs": 15, "learning_rate": 0.01, "learning_rates": [0.1, -1]}
    assert notebook_parameters(path) == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([(PARAMETERS, [])], "one cell must have the tag `parameters`, 0 have it"),
        ([(PARAMETERS, ["parameters"])] * 2, "one cell must have the tag `parameters`, 2 have it"),
        ([("epochs: int = len('abc')", ["parameters"])], "the parameters cell must hold literals only"),
        ([("epochs: int", ["parameters"])], "the parameters cell must hold literals only"),
        ([("%time\nepochs: int = 3", ["parameters"])], "the parameters cell must hold literals only"),
    ],
)
def test_file_without_a_proper_parameters_cell_is_refused(tmp_path, cells, message):
    with pytest.raises(ParameterError, match=f"^iteration_00.ipynb: {message}"):
        notebook_parameters(notebook_file(tmp_path, *cells))


# -- in a real kernel

CHECK = """\
from mnist_lib.parameters import Recipe, from_notebook
try:
    recipe = from_notebook(Recipe)
    print(recipe.network, recipe.epochs, recipe.learning_rate)
except ValueError as error:
    print(type(error).__name__, error)
"""


def test_from_notebook_in_a_kernel():
    """Each case runs the parameters cell anew, as a person would in Jupyter."""
    cases = [
        ("%xmode Plain", "deep 15 0.01"),
        (INJECTED, "deep 2 0.01"),
        ("epcohs = 3  # any cell may use any name", "deep 15 0.01"),
        ("# Parameters\nepcohs = 5", "ParameterError unknown parameter 'epcohs': did you mean 'epochs'?"),
        ("# Parameters\nepochs = '5'", "ParameterError epochs = '5': expected a whole number from 1 to 1000 (a string"),
        ("# Parameters\n_x = 5", "ParameterError unknown parameter '_x': known: network"),
        ("# Parameters\nopen = 5", "ParameterError unknown parameter 'open': known: network"),
        ("# Parameters\nIn = 5", "ParameterError unknown parameter 'In': known: network"),
    ]
    sources = [CHECK] + [source for between, _ in cases for source in (PARAMETERS, between, CHECK)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    patience = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), PATIENCE)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}, **patience).execute()
    printed = [cell.outputs[0].text for cell in notebook.cells if cell.source == CHECK]
    assert printed[0].startswith("ParameterError no parameters cell has been executed")
    for (between, expected), text in zip(cases, printed[1:], strict=True):
        assert text.startswith(expected), between


def test_from_notebook_outside_a_notebook_says_what_to_call():
    with pytest.raises(ParameterError, match="elsewhere call validate"):
        from_notebook(NotebookParameters)
