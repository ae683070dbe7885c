"""Strict parameters: what is accepted, what is refused, and with which words."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_lib.parameters import (
    Checked,
    NotebookParameters,
    ParameterError,
    Recipe,
    bounded,
    has_effect,
    in_yaml,
    literal,
    validate,
)
from mnist_lib.results.page import BackpropParameters, ComparisonParameters, SweepParameters

KNOWN = {f.name for f in dataclasses.fields(NotebookParameters)} - {"network"}
REQUIRED = {"name": "iteration_00"}
DEFAULTS = NotebookParameters(**REQUIRED)


@dataclass(frozen=True, kw_only=True)
class Types(Checked):
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
    if schema not in (Recipe, Types):
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
        ("optimizer", "muon"),
        ("nesterov", True),
        ("weight_decay", 0.0),
        ("preparation", "deskew"),
        ("elastic", 14.0),
    ],
)
def test_value_is_accepted_unchanged(name, value):
    assert validate(NotebookParameters, REQUIRED | {name: value}) == dataclasses.replace(DEFAULTS, **{name: value})


def test_whole_number_is_accepted_for_a_float_and_becomes_one():
    recipe = validate(Recipe, {"learning_rate": 1})
    assert type(recipe.learning_rate) is float
    assert recipe == Recipe(learning_rate=1.0)


def test_list_becomes_a_tuple_of_checked_numbers():
    recipe = validate(NotebookParameters, REQUIRED | {"learning_rates": [1, 0.5]})
    assert recipe.learning_rates == (1.0, 0.5)
    assert [type(rate) for rate in recipe.learning_rates] == [float, float]
    assert validate(NotebookParameters, REQUIRED | {"learning_rates": []}).learning_rates == ()


def test_recipe_is_the_part_that_decides_the_result():
    recipe = validate(NotebookParameters, REQUIRED | {"epochs": 3, "seeds": 2, "device": "cpu"})
    assert recipe.recipe == Recipe(epochs=3)


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
        ("name", 3, "a word"),
        ("device", None, "a word"),
        ("dataset", 3, "one of mnist, digits"),
        ("schedule", None, "one of constant, step, one_cycle, linear, cosine"),
        ("nesterov", 1, "True or False"),
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
        ("learning_rate", "1e-05", "write 1.0e-05, without quotes"),
    ],
)
def test_string_that_looks_like_a_number_is_refused_with_a_hint(name, value, hint):
    message = refused(**{name: value})
    assert f"{name} = {value!r}: expected" in message
    assert message.endswith(f"(a string that looks like a number: {hint})")
    # What the hint tells to write is accepted.
    validate(Recipe, {name: eval(hint.removeprefix("write ").partition(",")[0])})


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


RANGES = {
    "epochs": "a whole number from 1 to 1000",
    "batch_size": "a whole number from 2 to 60000",
    "learning_rate": "a number above 0 up to 100",
    "other_learning_rate": "a number above 0 up to 100",
    "momentum": "a number from 0 to 0.9999",
    "weight_decay": "a number from 0 to 10",
    "step_size": "a whole number from 1 to 1000",
    "step_factor": "a number above 0 up to 1",
    "warm_up": "a number from 0 to 0.9",
    "label_smoothing": "a number from 0 to 0.9",
    "average_decay": "a number from 0 to 0.99999",
    "statistics_images": "a whole number from 0 to 60000",
    "teachers": "a whole number from 0 to 100",
    "distillation": "a number from 0 to 1",
    "temperature": "a number from 0.1 to 100",
    "rotation": "a number from 0 to 180",
    "crop_probability": "a number from 0 to 1",
    "shear": "a number from 0 to 1",
    "scale": "a number from 0 to 0.9",
    "translation": "a number from 0 to 14",
    "elastic": "a number from 0 to 14",
    "fade": "a number from 0 to 1",
    "final_strength": "a number from 0 to 1",
    "threads": "a whole number from 1 to 256",
    "seeds": "a whole number from 1 to 1000",
    "candidate_seeds": "a whole number from 1 to 1000",
    "continued_seeds": "a whole number from 0 to 1000",
    "variant_seeds": "a whole number from 1 to 1000",
}


def test_each_number_has_its_range():
    numbers = {f.name for f in dataclasses.fields(NotebookParameters) if f.type in (int, float)}
    assert numbers == {*RANGES}
    for name, accepted in RANGES.items():
        assert refused(**{name: "no number"}).endswith(f"expected {accepted}")
    assert refused(learning_rates=["none"]).endswith("expected a number above 0 up to 100")


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
        ({"inputs": [0, 0]}, "inputs = [0.0, 0.0]: expected one at least that is not 0"),
        ({"inputs": [500, -1]}, "inputs = [500.0, -1.0]: expected sums of the hidden units from -10 to 10, not 74.8"),
        ({"weights": [0.1] * 7 + [9]}, "weights = [9.0]: expected w5 to w8 from -5 to 5, or outputs saturate"),
    ],
)
def test_what_the_derivation_refuses(values, message):
    assert refused(BackpropParameters, **values).startswith(message)


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (SweepParameters, {"experiment": "iteration_10_one_cycle", "learning_rates": []}),
        (SweepParameters, {"experiment": "iteration_10_one_cycle", "cnn_learning_rates": [0.1, 0.1]}),
        (SweepParameters, {"experiment": "iteration_10_one_cycle", "cnn_learning_rates": [0.1, 0.1000000001]}),
        (ComparisonParameters, {"experiments": []}),
        (ComparisonParameters, {"experiments": ["iteration_01_setup", "iteration_01_setup"]}),
    ],
)
def test_list_that_is_empty_or_repeats_itself_is_refused(schema, values):
    (name,) = values.keys() - {"experiment"}
    kept = ", to six digits" if any(isinstance(each, float) for each in values[name]) else ""
    with pytest.raises(ParameterError) as caught:
        validate(schema, REQUIRED | values)
    assert str(caught.value) == f"{name} = {values[name]!r}: expected at least one, and none of them twice{kept}"


def test_list_that_is_empty_by_default_may_be_left_out():
    """A page that has the list compares what is in it; a page without it has none."""
    parameters = validate(NotebookParameters, REQUIRED)
    assert parameters.learning_rates == () and dataclasses.replace(parameters) == parameters


@pytest.mark.parametrize(
    ("name", "value", "suggestion"),
    [("dataset", "mnits", "mnist"), ("schedule", "onecycle", "one_cycle"), ("evaluate_on", "Validation", "validation")],
)
def test_misspelt_option_is_refused_with_a_suggestion(name, value, suggestion):
    message = refused(**{name: value})
    assert message.startswith(f"{name} = {value!r}: expected one of ")
    assert message.endswith(f"; did you mean {suggestion!r}?")


def test_option_like_no_other_is_refused_without_a_suggestion():
    assert (
        refused(schedule="triangle")
        == "schedule = 'triangle': expected one of constant, step, one_cycle, linear, cosine"
    )


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
    with pytest.raises(ParameterError, match=r"^parameter 'name' is missing$"):
        validate(NotebookParameters, {"epochs": 3})


def test_a_network_is_no_parameter():
    """As it was once; a habit, or an old command line."""
    message = "unknown parameter 'network': a network is changed in the notebook's network cell"
    assert refused(network="deep") == message
    assert refused(Recipe, network="deep") == message


# -- a recipe made by hand


def test_a_recipe_made_by_hand_is_checked_as_a_notebooks():
    with pytest.raises(ParameterError, match=r"^epochs = 0: expected a whole number from 1 to 1000$"):
        Recipe(epochs=0)
    with pytest.raises(ParameterError, match=r"^momentum = 1\.0: expected a number from 0 to 0\.9999$"):
        dataclasses.replace(Recipe(), momentum=1.0)
    with pytest.raises(TypeError, match="epcohs"):
        Recipe(epcohs=3)
    assert type(Recipe(learning_rate=1).learning_rate) is float


def test_parts_that_contradict_each_other_are_refused():
    with pytest.raises(ParameterError, match=r"^nesterov = True: it needs a momentum above 0$"):
        Recipe(nesterov=True, momentum=0.0)
    with pytest.raises(ParameterError, match=r"^distillation = 0.0: from teachers nothing would be learnt"):
        Recipe(teachers=1, distillation=0)


def test_what_a_page_that_names_only_itself_is_given():
    """No more than its own runs: nothing to compare with, and nothing beside them."""
    kept = {f.name: getattr(DEFAULTS, f.name) for f in dataclasses.fields(NotebookParameters)}
    recipe = {f.name for f in dataclasses.fields(Recipe)}
    assert {name: value for name, value in kept.items() if name not in recipe} == {
        **REQUIRED,
        **{"seeds": 5, "device": "auto", "baseline": "none", "learning_rates": (), "candidate_seeds": 3},
        **{"continued_seeds": 0, "teacher": "none", "variants": (), "variant_seeds": 10, "beside": (), "network": None},
    }
    assert NotebookParameters(**REQUIRED, baseline=None) == DEFAULTS, "so papermill reads None"


def test_a_teacher_matters_where_somebody_is_taught():
    assert [has_effect(dataclasses.replace(DEFAULTS, teachers=n), "teacher") for n in (0, 1)] == [False, True]


@pytest.mark.parametrize("name", ["", "a/../b", "..", "x" * 300])
def test_a_name_is_one_of_a_folder(name):
    assert refused(name=name).startswith(f"name = {name!r:.80}: expected a name such as iteration_11_mine")


def test_a_word_is_what_is_no_number():
    read = {"3": 3, "0.5": 0.5, "True": True, "'a'": "a", "a b": "a b", "[1]": "[1]", "None": "None", "1 +": "1 +"}
    assert {text: literal(text) for text in read} == read


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3


# -- what decides the result


@pytest.mark.parametrize(
    ("recipe", "identity"),
    [
        ({}, {}),
        ({"epochs": 15, "learning_rate": 0.01}, {}),
        ({"epochs": 3, "learning_rate": 1}, {"epochs": 3, "learning_rate": 1.0}),
        ({"step_size": 3, "step_factor": 0.5}, {}),
        ({"schedule": "step", "step_size": 3}, {"schedule": "step", "step_size": 3}),
        ({"schedule": "step", "step_size": 15, "step_factor": 0.5}, {}),
        ({"schedule": "step", "step_factor": 1.0}, {}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"teachers": 1, "label_smoothing": 0.1}, {"teachers": 1, "label_smoothing": 0.1}),
        ({"teachers": 1, "distillation": 1.0, "label_smoothing": 0.1}, {"teachers": 1, "distillation": 1.0}),
        ({"rotation": 5.0, "fade": 0.5, "final_strength": 1.0}, {"rotation": 5.0}),
        ({"schedule": "step", "step_factor": 0.5}, {"schedule": "step", "step_factor": 0.5}),
        ({"rotation": 5.0, "fade": 0.5, "final_strength": 0.1, "epochs": 1}, {"rotation": 5.0, "epochs": 1}),
        ({"teachers": 1, "distillation": 0.1}, {"teachers": 1, "distillation": 0.1}),
        ({"schedule": "one_cycle", "momentum": 0.5}, {"schedule": "one_cycle"}),
        ({"optimizer": "adamw", "momentum": 0.5, "nesterov": True}, {"optimizer": "adamw"}),
        ({"optimizer": "muon", "momentum": 0.5, "nesterov": True}, {"optimizer": "muon", "momentum": 0.5}),
        ({"nesterov": True}, {"nesterov": True}),
        ({"other_learning_rate": 1.0}, {}),
        ({"optimizer": "muon", "other_learning_rate": 1.0}, {"optimizer": "muon", "other_learning_rate": 1.0}),
        ({"warm_up": 0.1}, {}),
        ({"schedule": "cosine", "warm_up": 0.1}, {"schedule": "cosine", "warm_up": 0.1}),
        ({"schedule": "linear", "warm_up": 0.1}, {"schedule": "linear", "warm_up": 0.1}),
        ({"temperature": 2.0, "distillation": 0.9}, {}),
        ({"teachers": 1, "temperature": 2.0}, {"teachers": 1, "temperature": 2.0}),
        ({"fade": 0.5, "final_strength": 0.5}, {}),
        ({"rotation": 5.0, "final_strength": 0.5}, {"rotation": 5.0}),
        ({"rotation": 5.0, "fade": 0.5, "final_strength": 0.5}, {"rotation": 5.0, "fade": 0.5, "final_strength": 0.5}),
        ({"interpolation": "nearest"}, {}),
        ({"interpolation": "nearest", "rotation": 5.0}, {"interpolation": "nearest", "rotation": 5.0}),
        ({"interpolation": "nearest", "rotation": 5.0, "shear": 0.1}, {"rotation": 5.0, "shear": 0.1}),
        ({"precision": "bfloat16", "threads": 2}, {"precision": "bfloat16", "threads": 2}),
        ({"batch_size": 60_000, "statistics_images": 60_000}, {"batch_size": 60_000, "statistics_images": 60_000}),
        (
            {"evaluate_on": "validation", "batch_size": 50_001, "statistics_images": 60_000},
            {"evaluate_on": "validation", "batch_size": 50_000, "statistics_images": 50_000},
        ),
        ({"dataset": "digits", "batch_size": 1437}, {"dataset": "digits", "batch_size": 1437}),
        ({"dataset": "digits", "batch_size": 2000}, {"dataset": "digits", "batch_size": 1437}),
    ],
)
def test_only_values_that_have_an_effect_and_are_no_defaults_identify_a_recipe(recipe, identity):
    assert Recipe(**recipe).identity == identity


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
        assert validate(Recipe, {"learning_rate": value}).learning_rate == value
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
        again = {key: getattr(recipe, key) for key in KNOWN}
        assert validate(NotebookParameters, again) == recipe


@SAMPLE
@given(st.text().filter(lambda name: name not in KNOWN | {"network"}), ANYTHING)
def test_any_unknown_name_is_refused(name, value):
    assert refused(**{name: value}).startswith(f"unknown parameter {name!r}")


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs", "Cc"])),
        st.sampled_from(["true", "False", "NULL", "Yes", "no", "On", "off"]),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_yaml_reads_back_what_is_written_for_it(value):
    (found,) = yaml.safe_load(f"x: [{in_yaml(value)}]")["x"]
    assert found == value and type(found) is type(value)


def test_yaml_is_given_words_as_they_are_where_it_reads_them_so():
    assert [in_yaml(word) for word in ("one_cycle", "Adam-2.0", "no rotation")] == [
        "one_cycle",
        "Adam-2.0",
        '"no rotation"',
    ]
    assert in_yaml("größere Maße") == '"größere Maße"'
