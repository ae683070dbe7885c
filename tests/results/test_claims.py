"""The public reports' claims: as published, measured on records, judged by the rule."""

import dataclasses
import math

import numpy as np
import pytest

from mnist_lib import experiments
from mnist_lib.parameters import NotebookParameters, notebook_parameters, validate
from mnist_lib.results import judgement
from mnist_lib.results.architecture import parameter_count, receptive_field_table
from mnist_lib.results.claims import REPORTS, Claim
from mnist_lib.results.judgement import judge
from mnist_lib.results.statistics import Interval, prediction_interval
from support import run

NOTEBOOKS = {path.stem: path for path in (experiments.root() / "notebooks").glob("reported_*.ipynb")}
IN_THE_BOOK = [report for report in REPORTS.values() if report.notebook in NOTEBOOKS]

by_report = pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.key)
by_page = pytest.mark.parametrize("report", IN_THE_BOOK, ids=lambda report: report.key)


@by_report
def test_a_report_describes_a_network_that_we_rebuilt(report):
    network = experiments.NETWORKS[report.network]()
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
    values = notebook_parameters(NOTEBOOKS[report.notebook])
    recipe = dataclasses.asdict(validate(NotebookParameters, values).recipe)
    defaults = {f.name: f.default for f in dataclasses.fields(NotebookParameters)}
    published = {"network": report.network, "momentum": 0.9, **RECIPES[report.key]}
    assert recipe == {name: published.get(name, defaults[name]) for name in recipe}


def test_the_same_number_of_seeds_for_all():
    assert {notebook_parameters(path)["seeds"] for path in NOTEBOOKS.values()} == {5}


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
    assert Claim("steady", 10).range(Interval(2, -1.5, 5.5)) == "1 to 5", "there is no epoch before the first"
    assert Claim("final", 99).range(Interval(99, 98.9996, 99.0004)) == "99.000 to 99.000"


def test_verdicts_are_counted_in_words():
    runs = [run(accuracy) for accuracy in (99.38, 99.40, 99.41, 99.42, 99.44)]
    judged = [judge(Claim("final", value), runs) for value in (99.41, 99.43, 99.60)]
    assert judgement.in_words(judged) == "2 consistent, 1 too high"
    assert judgement.in_words(judged[:2]) == "all consistent"
    assert judgement.in_words(judged[2:]) == "too high"


@pytest.mark.parametrize(
    ("claimed", "verdict"), [(99.47, "consistent"), (99.48, "too high"), (99.35, "consistent"), (99.34, "too low")]
)
def test_the_rule(claimed, verdict):
    # By hand: mean 99.41, standard deviation 0.0224, t quantile 2.776; 2.776 · 0.0224 · √1.2 = 0.068.
    runs = [run(accuracy) for accuracy in (99.38, 99.40, 99.41, 99.42, 99.44)]
    assert judge(Claim("final", claimed), runs).verdict == verdict


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
