"""The experiments that a notebook is about: variants of its recipe, written as a label and what differs."""

import dataclasses
import re

import pytest

from mnist_lib.parameters import ParameterError
from mnist_lib.results import page

TEN = page.of_notebook("iteration_10_one_cycle")


def varied(*texts: str):
    found = page.variants(dataclasses.replace(TEN, variants=list(texts)))
    return {label: experiment for label, (experiment, _) in found.items()}


def test_a_variant_differs_in_what_it_says_and_in_nothing_else():
    found = varied("no rotation: rotation 0", "SGD, at a constant rate: schedule constant, learning_rate 0.02")
    assert list(found) == ["no rotation", "SGD, at a constant rate"]
    still, plain = found.values()
    assert still.name == "iteration_10_one_cycle/no_rotation"
    assert still.recipe == dataclasses.replace(TEN.recipe, rotation=0.0) and still.network == TEN.network
    assert plain.recipe == dataclasses.replace(TEN.recipe, schedule="constant", learning_rate=0.02)


def test_a_variant_may_give_the_network_other_arguments():
    (wider,) = varied("wider: width 12").values()
    assert dict(wider.network.arguments) == {"width": 12} and wider.recipe == TEN.recipe
    assert sum(p.numel() for p in wider.network().parameters()) > sum(p.numel() for p in TEN.network().parameters())


def test_a_variant_may_take_the_network_of_another_notebook():
    (other,) = varied("another network: network reported_c_strided").values()
    assert other.network == page.of_notebook("reported_c_strided").network and other.recipe == TEN.recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rotation 0", "expected a label and values, such as 'no rotation: rotation 0'"),
        ("no rotation:", "expected a label and values"),
        ("no rotation: rotation", "expected a label and values"),
        (": rotation 0", "expected a label and values"),
        ("???: rotation 0", "a label needs letters from a to z or digits"),
        ("a" * 250 + ": rotation 0", "and fewer than 200"),
        ("twice: rotation 0, rotation 5", "a name has two values"),
        ("no rotation: rotatoin 0", "did you mean 'rotation'?"),
        ("no rotation: rotation -1", "rotation = -1: expected a number from 0 to 180"),
        ("none: epochs none", "epochs = 'none': expected a whole number"),
        ("wider: width wide", "width = 'wide': expected a whole number"),
        ("another: network report_c", "network = 'report_c': it is no notebook"),
        ("taught: teachers 1, teacher report_c", "teacher = 'report_c': it is no notebook"),
        ("taught: teachers 1", "teachers = 1: teacher must name the notebook whose runs teach"),
        (
            "taught: teachers 1, teacher iteration_10_one_cycle/8_channels",
            "teacher = 'iteration_10_one_cycle/8_channels': expected one of iteration_10_one_cycle, "
            "iteration_10_one_cycle/4_channels",
        ),
        ("none of them: seeds 0", "seeds = 0: expected a whole number"),
        ("elsewhere: device cpu", "device is the same for all runs of a page"),
        ("renamed: name other", "name is the same for all runs of a page"),
    ],
)
def test_a_variant_that_is_not_accepted_is_refused_by_name(text, said):
    with pytest.raises(ParameterError, match=re.escape(said)):
        varied(text)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"images": 65, "batch_size": 64},
            "batch_size = 64: expected another number: one of 65 images would be left alone",
        ),
        (
            {"dataset": "digits", "images": 2000, "batch_size": 4},
            "batch_size = 4: expected another number: one of 1,437 images would be left alone",
        ),
        ({"momentum": 1.0}, "momentum = 1.0: expected a number from 0 to 0.9999"),
    ],
)
def test_what_training_from_scratch_could_not_do_is_refused(asked, said):
    with pytest.raises(ParameterError, match=f"^{re.escape(said)}"):
        page.ScratchParameters(name="training_from_scratch", **asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"variants": ["x: rotatoin 10"]}, "did you mean 'rotation'?"),
        ({"variants": ["x: width 0"]}, "variants: 'x': network(width 0): it does not work: "),
        ({"variants": ["x: width 4, network reported_c_strided"]}, "unknown parameter 'width'"),
        ({"beside": ["nope"]}, "beside: no notebook with a network matches 'nope'"),
        ({"baseline": "nope"}, "baseline = 'nope': it is no notebook"),
        ({"network": TEN.network.with_arguments({"width": 0})}, "network(width 0): it does not work"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_a_page_would_show_is_checked_before_its_experiment_trains(asked, said):
    with pytest.raises(ParameterError, match=re.escape(said)):
        page.experiment(dataclasses.replace(TEN, **asked))


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        (["same: rotation 5"], "'same: rotation 5': its runs would be those of the page itself: leave it out"),
        (["a: rotation 0", "b: rotation 0, seeds 20"], "'b: rotation 0, seeds 20': its runs would be those of a:"),
        (["same: network iteration_10_one_cycle"], "its runs would be those of the page itself"),
        (["no effect: step_size 3"], "its runs would be those of the page itself"),
        (["a: rotation 0", "b: rotation 0, interpolation nearest"], "its runs would be those of a: leave it out"),
    ],
)
def test_a_variant_is_another_run_than_the_pages_own_and_than_the_others(variants, said):
    assert TEN.rotation == 5
    with pytest.raises(ParameterError, match=re.escape(said)):
        varied(*variants)


def test_variants_that_only_so_few_epochs_make_alike_are_shown():
    """As in a rehearsal of a single epoch."""
    short = dataclasses.replace(TEN, epochs=1, variants=["fading: fade 0.5", "longer: epochs 2"])
    assert [each.recipe.epochs for each, _ in page.variants(short).values()] == [1, 2]


def test_variants_of_one_recipe_may_have_other_teachers():
    taught = [
        f"by {letter}: teachers 1, teacher reported_{name}" for letter, name in (("c", "c_strided"), ("e", "e_early"))
    ]
    assert len(varied(*taught)) == 2
    with pytest.raises(ParameterError, match=r"those of by c:"):
        varied(taught[0], taught[0].replace("by c", "again"))


def test_a_variant_has_as_many_runs_as_all_of_them_or_a_number_of_its_own():
    asked = dataclasses.replace(
        TEN, variants=["no rotation: rotation 0", "more: rotation 1, seeds 20"], variant_seeds=3
    )
    assert [seeds for _, seeds in page.variants(asked).values()] == [3, 20]


def test_a_variant_may_learn_from_the_runs_of_another_notebook():
    """Teachers see the same images as those who learn from them, so what is held out, they have not seen."""
    (taught,) = varied("taught: teachers 3, teacher reported_c_strided").values()
    assert taught.recipe == dataclasses.replace(TEN.recipe, teachers=3)
    assert taught.teacher == page.experiment(page.of_notebook("reported_c_strided"))
    assert varied("alone: rotation 0, teachers 0, teacher reported_c_strided")["alone"].teacher is None
    (by_variant,) = varied("taught: teachers 2, teacher frontier_accuracy/no_label_smoothing").values()
    assert by_variant.teacher.name == "frontier_accuracy/no_label_smoothing"
    assert by_variant.teacher.recipe.label_smoothing == 0.0
    (held_out,) = varied("taught: teachers 1, teacher reported_c_strided, evaluate_on validation").values()
    assert held_out.teacher.recipe == dataclasses.replace(taught.teacher.recipe, evaluate_on="validation")


def test_a_notebook_may_learn_from_the_runs_of_another_one():
    asked = dataclasses.replace(TEN, teachers=2, teacher="reported_c_strided", continued_seeds=1, learning_rates=(0.1,))
    teacher = page.experiment(asked).teacher
    assert teacher.name == "reported_c_strided" and page.continued(asked).teacher == teacher
    (tried,) = page.candidates(asked).values()
    assert tried.teacher == dataclasses.replace(
        teacher, recipe=dataclasses.replace(teacher.recipe, evaluate_on="validation")
    )


def test_a_teacher_learns_from_nobody(monkeypatch):
    """So no circle of teachers is followed for ever: here a page's variant is taught by itself."""
    circle = "taught: teachers 1, teacher iteration_10_one_cycle/taught"
    asked = dataclasses.replace(TEN, variants=[circle])
    monkeypatch.setattr(page, "of_notebook", lambda name, parameter: asked)
    with pytest.raises(ParameterError, match=r"teacher = 'iteration_10_one_cycle/taught': its runs have teachers"):
        page.variants(asked)


def test_two_variants_cannot_share_a_folder():
    with pytest.raises(ParameterError, match=r"'No rotation: rotation 1'.*no_rotation"):
        varied("no rotation: rotation 0", "No rotation: rotation 1")


def test_beside_are_the_runs_of_other_notebooks_where_the_images_are_the_same():
    asked = dataclasses.replace(TEN, beside=["iteration_09*", "reported_c_strided"])
    assert [(each.name, seeds) for each, seeds in page.beside(asked)] == [
        ("iteration_09_augmentation", 5),
        ("reported_c_strided", 5),
    ]
    assert page.beside(dataclasses.replace(asked, dataset="digits")) == []
    of_variant = dataclasses.replace(TEN, beside=["iteration_10_one_cycle/iteration_5", "iteration_10_one_cycle"])
    assert [(each.name, seeds) for each, seeds in page.beside(of_variant)] == [
        ("iteration_10_one_cycle/iteration_5", 3),
        ("iteration_10_one_cycle", 5),
    ]
    with pytest.raises(ParameterError, match=r"beside = 'iteration_10_one_cycle/iteration_6': .*_5'\?"):
        page.beside(dataclasses.replace(TEN, beside=["iteration_10_one_cycle/iteration_6"]))
    with pytest.raises(ParameterError, match="beside: no notebook with a network matches 'iteration_x'"):
        page.beside(dataclasses.replace(TEN, beside=["iteration_x"]))
