"""Sentences about runs: right for one run, two and many, and silent about what the runs do not carry."""

import dataclasses
import re
import shlex

import pytest
import yaml

from mnist_lib import experiments, records
from mnist_lib.network import Network
from mnist_lib.results import comparison, page, sentences, tables
from mnist_lib.results.page import ComparisonParameters
from mnist_lib.results.target import Target, in_percent
from support import networks, run

ITERATION = "iteration_03_batch_normalisation"


def runs(*finals: float, **changes) -> list[records.Record]:
    """Runs of one epoch that end at these accuracies."""
    return [dataclasses.replace(run(final, seed=seed), **changes) for seed, final in enumerate(finals)]


def published(name: str, number: int | None = None) -> list[records.Record]:
    folder = experiments.published_records() / name
    return [records.read(records.record_path(folder, seed)) for seed in records.published_seeds(folder)][:number]


# -- numbers and their nouns


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (1, 1, "the one seed ends"),
        (0, 1, "the one seed does not end"),
        (2, 2, "both seeds end"),
        (1, 2, "one of the two seeds ends"),
        (0, 2, "neither of the two seeds ends"),
        (5, 5, "all 5 seeds end"),
        (2, 5, "2 of 5 seeds end"),
        (1, 5, "1 of 5 seeds ends"),
        (0, 5, "none of 5 seeds ends"),
    ],
)
def test_a_share_in_words(part, whole, said):
    assert sentences.share(part, whole, "seed", "ends", "end") == said


@pytest.mark.parametrize(
    ("singular", "plural", "said"),
    [
        ("is at 99.40 %", "are at 99.40 %", "is not at 99.40 %"),
        ("has reached it", "have reached it", "has not reached it"),
        ("has it", "have it", "does not have it"),
        ("is", "are", "is not"),
        ("misreads most images", "misread most images", "does not misread most images"),
        ("ended there", "ended there", "never ended there"),
    ],
)
def test_the_one_that_does_not(singular, plural, said):
    assert sentences.share(0, 1, "seed", singular, plural) == f"the one seed {said}"


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "no mistakes"), (1, "one mistake"), (1.2, "one mistake"), (2, "2 mistakes"), (1234.4, "1,234 mistakes")],
)
def test_a_number_with_its_noun(number, said):
    assert sentences.count(number, "mistake") == said


def test_a_noun_with_a_plural_of_its_own():
    assert sentences.count(3, "axis", "axes") == "3 axes"


# -- accuracies and verdicts


def test_an_accuracy_has_an_interval_from_three_runs_on():
    said = [sentences.accuracy(runs(*finals)) for finals in ([99.42], [99.40, 99.46], [99.40, 99.42, 99.44])]
    assert said == [
        "The test accuracy after the last epoch is 99.42 % (one run, so no interval)",
        "The mean test accuracy after the last epoch is 99.43 %, of two runs at 99.40 % and 99.46 %",
        "The mean test accuracy after the last epoch is 99.42 %, with a 95 % interval from 99.37 to 99.47 over 3 seeds",
    ]


def test_an_interval_stays_within_what_an_accuracy_can_be():
    assert "from 94.87 to 100.00" in sentences.accuracy(runs(97.0, 99.0, 100.0))
    assert "from 0.00 to" in sentences.accuracy(runs(0.0, 0.5, 3.0))
    assert in_percent(runs(97.0, 99.0, 100.0)) == "98.67 [94.87, 100.00] %"


def test_an_accuracy_names_its_images():
    assert "validation accuracy" in sentences.accuracy(runs(99.4, parameters={"evaluate_on": "validation"}))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([98.0, 98.1, 98.2], "+1.00 points [+0.77, +1.23]: a gain that the seeds' spread cannot explain"),
        ([96.0, 96.1, 96.2], "-1.00 points [-1.23, -0.77]: a loss that the seeds' spread cannot explain"),
        ([97.0, 97.1, 97.2], "+0.00 points [-0.23, +0.23]: not distinguishable from the seeds' spread"),
        ([98.0, 98.2], "+1.00 points: too few runs to tell it from the seeds' spread"),
        ([98.0], "+0.90 points: too few runs to tell it from the seeds' spread"),
    ],
)
def test_a_change_in_words(after, said):
    assert sentences.change(runs(97.0, 97.1, 97.2), runs(*after)) == said


def test_few_runs_before_are_too_few_as_well():
    assert "too few runs" in sentences.change(runs(97.0), runs(98.0, 98.1, 98.2))


@pytest.mark.parametrize(
    ("aim", "finals", "said"),
    [
        (99.0, [99.4], "One run does not decide on the target of at least 99.00 %; that takes 5"),
        (99.0, [99.4, 99.5], "Two runs do not decide on the target of at least 99.00 %; that takes 5"),
        (99.0, [99.4, 99.5, 99.6], "Three runs do not decide on the target of at least 99.00 %; that takes 5"),
        (99.0, [99.4, 99.5, 99.6, 99.5, 99.4], "The target of at least 99.00 % is met"),
        (99.9, [99.4, 99.5, 99.6, 99.5, 99.4], "The target of at least 99.90 % is missed"),
        (99.5, [99.4, 99.5, 99.6, 99.5, 99.4], "The target of at least 99.50 % is undecided, because the interval "),
    ],
)
def test_a_verdict_in_words(aim, finals, said):
    assert sentences.verdict(Target(aim), runs(*finals)).startswith(said)


def test_a_verdict_shows_what_rounding_would_hide():
    close = runs(99.40, 99.50, 99.60, 99.50, 99.40)  # from 99.376 to 99.584
    assert sentences.verdict(Target(99.38), close).endswith("is undecided, because the interval begins at 99.376")
    assert sentences.verdict(Target(99.59), close).endswith("is missed")
    assert sentences.verdict(Target(99.50), close).endswith("is undecided, because the interval contains it")


# -- published runs, and others


def test_how_well_the_training_images_are_known():
    """By the final weights, not by what was counted while they moved."""
    before, after = ([dataclasses.replace(run(99.0), trained_correct=n)] for n in (9_850, 9_950))
    assert sentences.fit([], after) == (
        "The final weights get 99.50 % of the training images right, 0.50 points more than of the test images"
    )
    assert sentences.fit(after, before).endswith(
        "98.50 % of the training images right, 0.50 points less than of the test images"
        " (before: 99.50 %, a gap of 0.50)"
    )


def test_a_box_says_question_expectation_result_and_meaning():
    parameters = page.of_notebook("iteration_07_small_batch")
    runs, before = ([run(end, seed=seed) for seed, end in enumerate(ends)] for ends in ([99.3] * 5, [99.1] * 5))
    said = sentences.box(
        parameters, Target(99.2), runs, before, question="Does it help?", expected="A\n   little.", meaning="It does."
    )
    lines = [line.removeprefix("> ") for line in said.splitlines() if line != ">"]
    assert lines == [
        "**Question.** Does it help?",
        "**We expect.** A little.",
        "**Result.** 99.30 [99.30, 99.30] % of the test images are right, over 5 seeds. Against iteration 6: "
        "+0.20 points [+0.20, +0.20]: a gain. Target, 99.20 %: met.",
        "**What it means.** It does.",
    ]
    alone = sentences.box(parameters, Target(99.2), runs[:1], [], question="", expected="", meaning="")
    assert "**Result.** 99.30 % (one run, no interval) of the test images are right." in alone
    assert "Against" not in alone and "**Question" not in alone and "takes 5" in alone


def test_mistakes_in_words():
    wrong = [[[3, 4, 9], [5, 2, 7]], [[3, 4, 9], [8, 4, 9]]]
    runs = [dataclasses.replace(run(99.0, seed=seed), misclassified=each) for seed, each in enumerate(wrong)]
    said = sentences.mistakes(runs, runs[:1])
    assert "2 of them per run" in said and "Most often the network takes 4 for 9 (3) and 2 for 7 (1)." in said
    assert "Of 3 images that some seed misreads, 1 is wrong for every seed" in said
    assert "One image is misread by most seeds; 1 of them was before the change, too." in said
    assert sentences.mistakes([run(100.0)]) == "The runs make no mistake."


def test_an_answer_is_folded_away():
    said = sentences.answer("after epoch 1\n   it is there.")
    assert said.startswith("<details><summary>") and "\n\nAfter epoch 1 it is there.\n\n</details>" in said


def test_published_runs_are_told_from_others():
    all_of_them = published(ITERATION)
    assert sentences.are_published(all_of_them)
    assert not sentences.are_published(all_of_them[:-1]), "a part of them is another mean"
    assert not sentences.are_published(runs(99.0, 99.1, 99.2, 99.3, 99.4))
    elsewhere = dataclasses.replace(all_of_them[0], path=experiments.runs_directory() / "x" / "seed_0.json")
    assert not sentences.are_published([elsewhere, *all_of_them[1:]])


def test_without_a_baseline_nothing_is_published_of_it():
    assert not sentences.are_published(published(ITERATION), [])
    assert not sentences.are_published()


def test_runs_of_a_variant_are_published_too():
    trials = published("iteration_10_one_cycle/learning_rate_0.3")
    assert sentences.are_published(published("iteration_10_one_cycle"), trials)
    assert not sentences.are_published(published("iteration_10_one_cycle"), trials[:1])


def test_a_page_with_fewer_runs_compares_with_as_many():
    trials = published("iteration_10_one_cycle/learning_rate_0.3")
    assert sentences.are_published(trials, published(ITERATION, len(trials)))


# -- what is the reader's own


def test_a_page_as_published_is_not_the_readers_own():
    assert sentences.yours(page.of_notebook(ITERATION)) == ""


def test_what_the_reader_has_changed_is_said():
    own = dataclasses.replace(page.of_notebook(ITERATION), dataset="digits", epochs=1, seeds=2)
    assert sentences.yours(own) == "**Your run:** dataset digits (published mnist), epochs 1 (15), seeds 2 (5)."


def test_a_parameter_without_effect_is_said_to_be_one():
    own = dataclasses.replace(page.of_notebook(ITERATION), step_size=3)
    assert sentences.yours(own) == "**Your run:** step_size 3 (published 10, without effect beside the others)."
    assert sentences.yours(dataclasses.replace(own, schedule="step")).count("without effect") == 0


def test_another_network_is_said_and_another_comment_is_not():
    here = page.of_notebook(ITERATION)
    wider = dataclasses.replace(here, network=Network(here.network.source.replace("1, 10)", "1, 12)", 1)))
    assert sentences.yours(wider) == "**Your run:** another network."
    assert sentences.yours(dataclasses.replace(here, network=Network(f"# mine\n{here.network.source}"))) == ""


def test_the_machine_is_nobodys_own():
    assert sentences.yours(dataclasses.replace(page.of_notebook(ITERATION), device="cpu")) == ""


def test_a_name_of_ones_own_has_nothing_to_differ_from():
    assert sentences.yours(dataclasses.replace(page.of_notebook(ITERATION), name="iteration_99_mine", epochs=1)) == ""


def test_a_comparison_of_ones_own_is_said():
    there = ComparisonParameters(name="iterations_compared", experiments=["iteration_*"], epochs=0, seeds=2)
    assert sentences.yours(there) == "**Your run:** seeds 2 (published 5)."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("iteration_09_augmentation", "iteration 9 (augmentation)"),
        ("iteration_10_one_cycle", "iteration 10 (one cycle)"),
        ("reported_c_strided", "report C (strided)"),
        ("mine", "mine"),
    ],
)
def test_a_baseline_has_a_name_for_a_sentence(name, said):
    assert sentences.baseline(dataclasses.replace(page.of_notebook(ITERATION), baseline=name)) == said


# -- the output


def shown(monkeypatch, *paragraphs) -> list[dict]:
    outputs = []
    monkeypatch.setattr(sentences, "display", lambda data, raw: outputs.append(data))
    sentences.prose(*paragraphs)
    return outputs


def test_prose_is_one_output_in_markdown(monkeypatch):
    assert shown(monkeypatch, "\n    One\n    two.\n    ", [] and "never", None, False, "", "Three.") == [
        {"text/markdown": "One\ntwo.\n\nThree."}
    ]


def test_a_part_that_is_empty_leaves_no_trace(monkeypatch):
    part = ""
    text = f"""
    One. {part} Two.
    {part} Three. {part}
    """
    assert shown(monkeypatch, text) == [{"text/markdown": "One. Two.\nThree."}]


def test_prose_without_a_paragraph_shows_nothing(monkeypatch):
    assert shown(monkeypatch, None, "") == []


# -- tables of one and two runs


def test_a_comparison_gives_an_interval_from_three_runs_on():
    before = runs(98.0, 98.1, 98.2, experiment="iteration_01_setup")
    column = "mean test accuracy, %"
    one, two = (tables.comparison(before, runs(*finals)).frame[column] for finals in ([99.0], [99.0, 99.2]))
    assert list(one) == ["98.10 [97.85, 98.35]", "99.00", "+0.90"]
    assert list(two) == ["98.10 [97.85, 98.35]", "99.10 (99.00 and 99.20)", "+1.00"]
    assert list(tables.comparison(before[:1], runs(99.0)).frame["test accuracy, %"]) == ["98.00", "99.00", "+1.00"]
    assert repr(tables.comparison([], runs(99.0)).data) == "'There is no baseline to compare with.'"


def test_a_target_is_checked_without_an_interval():
    result = Target(99.0).check(runs(99.4)).frame.iloc[0]
    assert (result["result"], result["verdict"]) == ("99.40 % (one run, no interval)", "undecided")
    assert Target(99.0).check(runs(99.4, 99.5)).frame.iloc[0]["result"] == "99.45 % (2 runs, no interval)"


def test_a_log_of_one_run_has_no_range():
    assert {"at 99.40 %"} == {*tables.training_log(runs(99.4)).frame} - {*tables.training_log(runs(99.4, 99.5)).frame}
    assert list(tables.training_log(runs(99.4)).frame["at 99.40 %"]) == ["yes"]
    assert list(tables.training_log(runs(99.4, 99.3)).frame["seeds at 99.40 %"]) == ["1 of 2"]


def test_a_difference_is_in_no_words_that_two_runs_do_not_carry():
    difference = comparison.accuracy_difference(runs(98.0, 98.1), runs(99.0, 99.1))
    assert comparison.in_words(difference) == "too few runs to tell it from the seeds' spread"


# -- the command that makes a page again


def test_the_command_of_a_published_page():
    text = tables.papermill_line(page.of_notebook(ITERATION)).data
    assert f"# this page\npapermill notebooks/{ITERATION}.ipynb out.ipynb\n#" in text
    assert "-p epochs 2 -p seeds 1 -p learning_rate 0.005" in text
    assert f"mnist-lib train {ITERATION} --seeds 0-9" in text


def test_the_command_of_ones_own_run_has_what_differs():
    changes = {"dataset": "digits", "epochs": 1, "seeds": 1, "learning_rates": (0.1, 0.2)}
    own = dataclasses.replace(page.of_notebook(ITERATION), **changes)
    lines = tables.papermill_line(own).data.splitlines()
    arguments, without = (
        f"-p dataset digits -p epochs 1 -p seeds 1 -y 'learning_rates: [{rates}]'" for rates in ("0.1, 0.2", "")
    )
    assert lines[lines.index("# this page") + 2].strip() == arguments
    short = lines[lines.index("# a short try at half the learning rate") + 2].strip()
    assert short == f"{without} -p learning_rate 0.005", "candidates would take longer than all else"
    assert "--seeds 0-9" in lines[-1], "as many more as are published"


def test_the_command_gives_papermill_what_the_page_was_given():
    """YAML would take a number without a point for a word, and words with a colon for a pair."""
    lists = {"learning_rates": (1e-05, 0.5, 2.0), "variants": ("same: rotation 5", "a b: channels 4, seeds 1", "no")}
    lists["beside"] = ("*", "iteration_0?_*", "frontier_size/smoothing_0")
    own = dataclasses.replace(page.of_notebook(ITERATION), **lists)
    line = tables.papermill_line(own).data.split("# ")[1].partition("\n")[2]
    words = shlex.split(line.replace("\\\n", ""))
    given = {k: v for i, word in enumerate(words) if word == "-y" for k, v in yaml.safe_load(words[i + 1]).items()}
    assert given == {name: [*values] for name, values in lists.items()}
    assert {type(rate) for rate in given["learning_rates"]} == {float}


@pytest.mark.parametrize("name", networks())
def test_a_short_try_trains_one_run_of_two_epochs(name):
    here = page.of_notebook(name)
    commands = tables.papermill_line(here).data.replace("\\\n", "")
    (short,) = (line for line in commands.splitlines() if "out.ipynb" in line and "learning_rate " in line)
    numbers = {k: yaml.safe_load(v) for k, v in re.findall(r"-p (\S+) (\S+)", short)}
    lists = {k: v for given in re.findall(r"-y '(.+?)'", short) for k, v in yaml.safe_load(given).items()}
    tried = dataclasses.replace(here, **numbers, **lists)
    assert (tried.seeds, tried.continued_seeds, tried.learning_rates, tried.variants) == (1, 0, (), ())
    assert tried.epochs <= 2 and tried.learning_rate < here.learning_rate


def test_the_command_of_a_page_of_ones_own():
    text = tables.papermill_line(dataclasses.replace(page.of_notebook(ITERATION), name="iteration_99_mine")).data
    assert "papermill notebooks/iteration_99_mine.ipynb out.ipynb" in text and "mnist-lib" not in text


def test_the_command_says_that_a_network_is_another():
    here = page.of_notebook(ITERATION)
    wider = dataclasses.replace(here, network=Network(here.network.source.replace("1, 10)", "1, 12)", 1)))
    assert "your own copy" in tables.papermill_line(wider).data
