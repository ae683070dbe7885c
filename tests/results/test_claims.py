"""The public reports' claims: as published, measured on records, judged by the rule."""

import dataclasses
import math

import numpy as np
import pytest

from mnist_lib import cells, experiments
from mnist_lib.parameters import NotebookParameters
from mnist_lib.results import judgement, page
from mnist_lib.results.architecture import parameter_count, receptive_field_table
from mnist_lib.results.claims import REPORTS, Claim, of_reports
from mnist_lib.results.judgement import judge
from mnist_lib.results.statistics import Interval, prediction_interval
from mnist_lib.results.target import Target
from support import run

NOTEBOOKS = {path.stem: path for path in (experiments.root() / "notebooks").glob("reported_*.ipynb")}
IN_THE_BOOK = [report for report in REPORTS.values() if report.notebook in NOTEBOOKS]

by_page = pytest.mark.parametrize("report", IN_THE_BOOK, ids=lambda report: report.key)


@by_page
def test_a_report_describes_the_network_of_its_notebook(report):
    network = cells.of_file(NOTEBOOKS[report.notebook]).network()
    assert parameter_count(network) == report.parameters
    if report.receptive_field is not None:
        assert receptive_field_table(network)["receptive field"].iloc[-1] == report.receptive_field


RECIPES = {
    "A": {"epochs": 20, "batch_size": 128, "learning_rate": 0.009},
    "B": {"epochs": 19, "batch_size": 128, "learning_rate": 0.01},
    "C": {
        "epochs": 20,
        "batch_size": 512,
        "learning_rate": 0.05,
        "schedule": "step",
        "step_size": 10,
        "step_factor": 0.1,
        "rotation": 15.0,
        "crop_probability": 0.1,
        "interpolation": "nearest",
    },
    "D": {"epochs": 20, "batch_size": 128, "learning_rate": 0.01},
    "E": {
        "epochs": 15,
        "batch_size": 64,
        "learning_rate": 0.01,
        "schedule": "one_cycle",
        "rotation": 5.0,
        "interpolation": "nearest",
    },
    "E, earlier": {"epochs": 19, "batch_size": 128, "learning_rate": 0.01},
}


def test_every_page_about_a_report_has_its_claims():
    assert {report.notebook for report in IN_THE_BOOK} == set(NOTEBOOKS)


@by_page
def test_the_notebook_has_the_published_recipe(report):
    recipe = dataclasses.asdict(cells.of_file(NOTEBOOKS[report.notebook]).recipe)
    defaults = {f.name: f.default for f in dataclasses.fields(NotebookParameters)}
    published = {"momentum": 0.9, **RECIPES[report.key]}
    assert recipe == {name: published.get(name, defaults[name]) for name in recipe}
    assert recipe["epochs"] == report.epochs


def test_the_same_number_of_seeds_for_all():
    assert {cells.notebook_parameters(path)["seeds"] for path in NOTEBOOKS.values()} == {5}


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (Claim("final", 0), 99.42),
        (Claim("best", 0), 99.45),
        (Claim("epoch", 0, epoch=2), 99.40),
        (Claim("epoch", 0, epoch=7), math.nan),
        (Claim("first", 0), 2),
        (Claim("steady", 0), 4),
    ],
    ids=str,
)
def test_statistics_of_a_run(claim, value):
    assert claim.measure(run(99.1, 99.40, 99.39, 99.45, 99.42)) == pytest.approx(value, nan_ok=True)


def test_a_run_that_never_reaches_the_task():
    assert math.isnan(Claim("first", 10).measure(run(99.0, 99.39)))
    judged = judge(Claim("first", 10), [run(99.40), run(99.39)])
    assert judged.verdict == "not judged"
    assert judged.row()["our runs, lowest to highest"] == "1 to 1, 1 of 2 never"


def test_an_interval_of_epochs_is_whole_epochs():
    assert Claim("first", 10).range(Interval(9, 7.2, 10.8)) == "8 to 10"
    assert Claim("final", 99).range(Interval(99, 98.9996, 99.0004)) == "99.000 to 99.000"


FIVE = [run(accuracy) for accuracy in (99.38, 99.40, 99.41, 99.42, 99.44)]


def final(*values: float, runs=FIVE) -> list[judgement.Judgement]:
    return [judge(Claim("final", value), runs) for value in values]


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (final(99.41), "the one published number is consistent with these runs"),
        (final(99.60), "the one published number is too high for these runs"),
        (final(99.41, 99.43), "both published numbers are consistent with these runs"),
        (final(99.1, 99.2, 99.1), "all 3 published numbers are too low for these runs"),
        (
            final(99.41, 99.43, 99.60),
            "2 of 3 published numbers are consistent with these runs and one is too high for them",
        ),
        (
            final(99.41, 99.60, 99.61, 99.62, 99.1),
            "3 of 5 published numbers are too high for these runs, one is consistent with them "
            "and one is too low for them",
        ),
        (final(99.41, runs=FIVE[:1]), "the one published number is not judged (that takes at least 3 runs)"),
        (
            final(99.41, 99.43, runs=FIVE[:2]),
            "neither of the two published numbers is judged (that takes at least 3 runs)",
        ),
        (
            [*final(99.41), judge(Claim("steady", 2), FIVE)],
            "one of the two published numbers is consistent with these runs and one is not judged "
            "(not every run does what is claimed)",
        ),
    ],
)
def test_judgements_in_words(judged, words):
    assert judgement.in_words(judged) == words


def test_the_spread_of_all_networks_widens_what_few_runs_make_narrow():
    quiet, loud = FIVE, [run(accuracy) for accuracy in (98.9, 99.0, 99.1, 99.3, 99.4)]
    alone, together = (judge(Claim("final", 99.50), quiet, peers) for peers in ((), (quiet, loud)))
    assert (alone.verdict, together.verdict) == ("too high", "consistent")
    assert together.expected == prediction_interval(together.values, [together.values, [98.9, 99.0, 99.1, 99.3, 99.4]])
    early = Claim("epoch", 99.50, epoch=1)
    assert judge(early, quiet, (quiet, loud)) == judge(early, quiet), "early epochs scatter each in its own way"


def test_published_networks_scatter_alike_and_verdicts_follow():
    """As the book says: there is no sign that spreads differ; two claims are outside, and five with spreads apart."""
    peers = page.beside_runs(page.of_notebook("reported_a_light_dropout"))
    assert {report.notebook for report in IN_THE_BOOK} < set(peers)
    assert min(judgement.equal_spreads(peers.values()).values()) > 0.2
    reports = of_reports(peers)
    outside = [
        {name for name, each in judgement.all_judged(reports, given).items() if each.verdict != "consistent"}
        for given in (peers, None)
    ]
    assert outside[0] == {"D: accuracy after epoch 1, %", "E, earlier: accuracy after the last epoch, %"}
    assert len(outside[1] - outside[0]) == 3


def test_other_data_have_no_peers():
    digits = dataclasses.replace(page.of_notebook("reported_a_light_dropout"), dataset="digits")
    assert page.beside_runs(digits) == {}
    assert all(map(math.isnan, judgement.equal_spreads([FIVE]).values()))


def test_how_far_a_judgement_carries():
    said = judgement.by_the_rule(final(99.41), FIVE)
    assert said.endswith("come from 5 runs, so a claim close to an end is a close call either way.")
    assert judgement.by_the_rule(final(99.41, runs=FIVE[:2]), FIVE[:2]).endswith("(that takes at least 3 runs).")
    digits = [dataclasses.replace(each, parameters={"dataset": "digits"}) for each in FIVE]
    assert judgement.by_the_rule(final(99.41), digits).endswith("a rehearsal and no verdict on the report.")


def test_how_far_a_claim_is_off():
    # By hand, as in `test_the_rule`: the interval ends at 99.478.
    inside, outside, far = final(99.47, 99.48, 99.49)
    assert inside.beyond == 0
    assert outside.beyond == pytest.approx(0.002, abs=0.0005)
    assert [judgement.is_close(each, FIVE) for each in (inside, outside, far)] == [False, True, False]
    assert math.isnan(final(99.47, runs=FIVE[:2])[0].beyond)


def test_an_interval_of_accuracies_ends_at_100():
    assert final(99.0, runs=[run(96.0), run(98.0), run(100.0)])[0].expected.high == 100


def test_an_interval_of_epochs_ends_at_the_first_and_at_the_last():
    reached_after = [run(*[99.0] * before, *[99.5] * (9 - before)) for before in (1, 4, 7)]
    judged = judge(Claim("first", 5), reached_after)
    assert (judged.expected.low, judged.expected.high) == (1, 9)
    assert judged.row()["one more run, 95 %"] == "1 to 9"


@pytest.mark.parametrize(
    ("claimed", "verdict"), [(99.47, "consistent"), (99.48, "too high"), (99.35, "consistent"), (99.34, "too low")]
)
def test_the_rule(claimed, verdict):
    # By hand: mean 99.41, standard deviation 0.0224, t quantile 2.776; 2.776 · 0.0224 · √1.2 = 0.068.
    assert judge(Claim("final", claimed), FIVE).verdict == verdict


def test_one_run_judges_nothing():
    assert judge(Claim("final", 99.0), [run(99.4)]).verdict == "not judged"


def test_honest_claims_pass_nineteen_times_in_twenty():
    """Claims that are drawn like our runs are found consistent in 95 % of cases, whatever the number of runs."""
    generator = np.random.default_rng(0)
    consistent = []
    for _ in range(2000):
        *ours, claimed = generator.normal(99.4, 0.05, size=6)
        interval = prediction_interval(ours)
        consistent.append(interval.low <= claimed <= interval.high)
    assert np.mean(consistent) == pytest.approx(0.95, abs=0.015)


def test_three_readings_of_the_task():
    runs = [run(99.50, 99.41, 99.39, 99.39, 99.39, 99.39), run(99.40, 99.40, 99.40, 99.40, 99.40, 99.41)]
    counts = judgement.shares(runs).frame["runs at 99.40 %"].tolist()
    assert counts == ["2 of 2", "1 of 2", "1 of 2"]
    assert judgement.readings(runs[0])["mean of the last 5 epochs"] == pytest.approx((99.41 + 4 * 99.39) / 5)


TOP = (99.38, 99.39, 99.41, 99.39, 99.39, 99.39)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([run(99.1)], "the one run does not reach 99.40 %"),
        ([run(99.1, 99.2)], "the one run does not reach 99.40 %, not even at the best epoch"),
        ([run(99.5), run(99.1)], "one of the two runs reaches 99.40 % after the only epoch"),
        (
            [run(*TOP)],
            "the one run reaches 99.40 % at the best epoch, but not after the last one or on the average of the last "
            "5 epochs",
        ),
        (
            [run(99.5, 99.4)],
            "the one run reaches 99.40 % at the best epoch, after the last one and on the average of the last 2 epochs",
        ),
        (
            [run(*TOP), run(99.1, 99.4)],
            "one of the two runs reaches 99.40 % after the last epoch, both at the best epoch, and neither on the "
            "average of the last 2 epochs",
        ),
        (
            [run(*TOP), run(*TOP), run(99.1, 99.1, 99.1, 99.1, 99.1, 99.5)],
            "1 of 3 runs reaches 99.40 % after the last epoch, all 3 at the best epoch, and none on the average of "
            "the last 5 epochs",
        ),
    ],
)
def test_the_three_readings_in_words(runs, words):
    assert judgement.at_the_task(runs) == words


def test_a_bound_in_words():
    target = Target(99.40)
    assert judgement.bound(target, FIVE) == "The bound on the accuracy is undecided"
    assert judgement.bound(target, [run(99.5)] * 5) == "The bound on the accuracy is met"
    few = "With one run, the bound on the accuracy stays undecided (that takes 5)"
    assert judgement.bound(target, FIVE[:1]) == few


def test_single_epochs_in_words():
    runs = [run(98.0, 99.0), run(98.2, 99.0)]
    assert judgement.course(runs, [1]) == "after epoch 1 the runs are at 98.10 % on average, and 98.20 % at most"
    assert (
        judgement.course(runs[:1], [1, 2]) == "after epoch 1 the run is at 98.00 %; after epoch 2 the run is at 99.00 %"
    )


def test_early_epochs_are_compared_with_those_of_others():
    slow, fast = ([run(each, 99 + each / 100) for each in some] for some in ((97.0, 97.1, 97.2), (98.0, 98.1, 98.2)))
    assert judgement.against(fast, slow, [1]).startswith("behind after epoch 1 (-1.00 [-1.2")
    assert judgement.against(slow, fast, [1, 2]).startswith("ahead after epoch 1 (+1.00 [+0.7")
    assert " and level, as far as can be told, after epoch 2 (+0.00 [" in judgement.against(fast, fast, [1, 2])
    assert "level, as far as can be told, after epoch 1 (+1.05 (too few" in judgement.against(slow[:2], fast, [1])


def test_claims_by_name():
    judged = judgement.all_judged({"D": FIVE, "E, earlier": FIVE})
    assert judgement.named(list(judged)[::2]) == "*D*, after epoch 1; *D*, after the last epoch"
    assert judgement.named(list(judged)[3:]) == "*E, earlier*, after the last epoch"


def test_a_log_beside_runs_that_are_too_short():
    frame = judgement.epochs_beside({1: 99.35, 6: 99.46}, {"ours": [run(98.0, 99.0), run(98.2, 99.0)]}).frame
    assert frame.to_dict("list") == {
        "run": ["published", "ours, mean of 2"],
        "epoch 1, %": ["99.35", "98.10 (98.00 to 98.20)"],
        "epoch 6, %": ["99.46", "–"],
    }


def test_the_picture_tells_claims_and_runs():
    judged = {str(claim): judge(claim, [run(99.40), run(99.46)]) for claim in REPORTS["A"].claims}
    assert "accuracy after the last epoch, %: published 99.44, our runs 99.40 to 99.46" in judgement.picture(judged).alt
