"""The published records: complete, consistent in themselves, and what the published weights really do."""

import json
import math
from itertools import combinations
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mnist_lib import data, experiments, optimization, records, training
from mnist_lib.base.digests import bytes_digest
from mnist_lib.experiments import Experiment
from mnist_lib.pipeline import catalogue, verification
from mnist_lib.site import book

FILES = sorted(experiments.published_records().rglob("seed_*.json"))
PARAMETERS = [431_080, 10_790, 10_970, 10_970, 6_070, 7_884, 7_884, 7_884, 7_884, 7_884]
ITERATIONS = catalogue.find("iteration_*")


def own(path: Path) -> tuple[Experiment, int]:
    """The experiment that a notebook is about, and how many runs of it are published."""
    return next(each for each in catalogue.published_runs(path) if each[0].name == path.stem)


def record_name(file: Path) -> str:
    return file.relative_to(experiments.published_records()).with_suffix("").as_posix()


def test_every_record_belongs_to_a_notebook():
    experiments_ = [experiment for path in catalogue.find() for experiment, _ in catalogue.published_runs(path)]
    assert {file.parent for file in FILES} == {experiment.published for experiment in experiments_}


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda folder: folder.name)
def test_two_runs_of_an_experiment_end_far_apart(folder):
    """As `verify` takes for granted: some tensor differs by more than twice what makes it suspicious."""
    paths = [records.record_path(folder, seed) for seed in records.published_seeds(folder)[:3]]
    for one, other in combinations(map(records.read_weights, paths), 2):
        apart = [
            float((value.double() - other[name].double()).norm() / value.double().norm())
            for name, value in one.items()
            if value.is_floating_point() and value.any()
        ]
        assert max(apart) > 2 * verification.NEAR


@pytest.mark.parametrize("number", range(1, 11))
def test_an_iteration_has_the_parameters_that_it_should(number):
    experiment, _ = own(ITERATIONS[number - 1])
    record = records.read(records.record_path(experiment.published, 0))
    assert record.parameter_count == PARAMETERS[number - 1]
    assert record.parameter_count == sum(p.numel() for p in experiment.network().parameters())


@pytest.mark.parametrize("file", FILES, ids=record_name)
def test_a_record_is_consistent(file):
    record = records.read(file)
    epochs = record.parameters["epochs"]
    assert f"seed_{record.seed}" == file.stem
    assert all(len(values) == epochs for values in record.history.values())
    assert record.history["test_correct"][-1] == record.test_size - len(record.misclassified)
    assert 0 < record.trained_correct <= record.train_size
    assert all(label != prediction for _, label, prediction in record.misclassified)
    assert record.test_size == 10_000
    assert record.train_size == {"test": 60_000, "validation": 50_000}[record.parameters["evaluate_on"]]
    assert record.environment["threads"] == 1 or record.environment["device"] != "cpu"
    assert record.weights_digest == bytes_digest(records.weights_path(file).read_bytes())
    assert all(math.isfinite(loss) for loss in record.first_losses)
    assert len(record.first_losses) == training.FIRST_STEPS


def test_no_two_records_are_of_the_same_run():
    """The first losses alone may be the same: variants may part later, in what is averaged, say."""
    runs = [records.read(file) for file in FILES]
    assert len({run.weights_digest for run in runs}) == len(runs)
    assert len({json.dumps([run.first_losses, run.history]) for run in runs}) == len(runs)


@pytest.mark.parametrize("path", ITERATIONS, ids=lambda path: path.stem)
def test_recorded_learning_rates_are_those_of_the_recipe(path):
    experiment, seeds = own(path)
    for seed in range(seeds):
        record = records.read(records.record_path(experiment.published, seed))
        steps = -(-record.train_size // experiment.recipe.batch_size)
        rates = [rate for rate, _ in optimization.rates(experiment.recipe, steps)]
        assert record.history["learning_rate"] == pytest.approx(rates[steps - 1 :: steps], rel=1e-12)


@pytest.mark.needs_mnist
@pytest.mark.parametrize("path", ITERATIONS, ids=lambda path: path.stem)
def test_published_weights_make_the_recorded_mistakes(path):
    experiment, _ = own(path)
    file = records.record_path(experiment.published, 0)
    record = records.read(file)
    network = experiment.network().eval()
    network.load_state_dict(safetensors.torch.load_file(records.weights_path(file)))
    train, test = data.load("mnist")
    mean, std = training.mean_and_std(train.images)
    with torch.no_grad():
        images = (test.images.unsqueeze(1).float() / 255 - mean) / std
        predictions = torch.cat([network(part).argmax(1) for part in images.split(1000)])
    wrong = (predictions != test.labels).nonzero().flatten()
    assert torch.stack([wrong, test.labels[wrong], predictions[wrong]], 1).tolist() == record.misclassified


@pytest.mark.needs_mnist
def test_the_first_steps_of_a_published_run_can_be_replayed():
    experiment, _ = own(ITERATIONS[9])
    record = records.read(records.record_path(experiment.published, 0))
    losses = experiments.make_trainer(experiment, 0, torch.device("cpu")).replay()
    assert losses[0] == pytest.approx(record.first_losses[0], rel=1e-4)
    # On another kind of CPU, sums are rounded in another order, and every step enlarges the difference.
    assert losses == pytest.approx(record.first_losses, rel=0.05)


def test_the_readmes_picture_is_the_introductions():
    target = experiments.root() / "book" / "images" / "results.png"
    before = target.read_bytes()
    book.save_picture()
    assert target.read_bytes() == before


def test_the_peak_was_chosen_on_the_validation_split():
    """Iteration 10 uses the candidate with the best mean validation accuracy."""
    path = ITERATIONS[9]
    experiment, _ = own(path)
    trials = [each for each in catalogue.published_runs(path) if "/learning_rate_" in each[0].name]
    assert len(trials) > 1
    means = {}
    for trial, seeds in trials:
        runs = [records.read(records.record_path(trial.published, seed)) for seed in range(seeds)]
        assert all(run.parameters["evaluate_on"] == "validation" for run in runs)
        means[trial.recipe.learning_rate] = sum(run.test_accuracy[-1] for run in runs) / len(runs)
    assert experiment.recipe.learning_rate == max(means, key=means.__getitem__)
