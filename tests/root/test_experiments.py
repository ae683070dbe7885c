"""Runs: found or trained, interrupted and resumed, the same every time."""

import dataclasses
import json
import math
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from mnist_lib import data, experiments, records
from mnist_lib.base.files import FileError
from mnist_lib.experiments import PUBLISHED_ONLY, Experiment, find, find_path, runs, train
from mnist_lib.network import Network
from mnist_lib.parameters import ParameterError, Recipe
from mnist_lib.records import RecordError, record_path, weights_path
from mnist_lib.results import listing, page
from mnist_lib.training import DivergenceError, Trainer
from support import few_digits, networks

CPU = torch.device("cpu")
RECIPE = Recipe(dataset="digits", epochs=3, batch_size=16, rotation=10.0)
NETWORK, OTHER_NETWORK = (networks()[name] for name in ("iteration_04_dropout", "iteration_05_global_average_pooling"))


@pytest.fixture(autouse=True)
def places(tmp_store, tmp_path, monkeypatch):
    """Few images, no published records, and a store that is empty."""
    few_digits(monkeypatch)
    monkeypatch.setattr(experiments, "root", lambda: tmp_path / "report")


class Log(list):
    """Reports: (seed, number of the epoch). Raises at one of them, as Ctrl-C does."""

    stop_at = None

    def __call__(self, experiment, seed, epoch, number, seconds):
        assert math.isfinite(epoch.train_loss)
        assert seconds >= 0
        self.append((seed, number))
        if (seed, number) == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def log() -> Log:
    return Log()


def small(network=NETWORK, **changes) -> Experiment:
    return Experiment("iteration_00", dataclasses.replace(RECIPE, **changes), network)


def outside_environment(record: records.Record) -> str:
    """The record as text without what tells where it was made."""
    return records.to_json(dataclasses.replace(record, environment={}))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def publish(run: Experiment, seed: int, **changes) -> records.Record:
    """Train a run into the published folder, its record changed afterwards."""
    record = train(run, seed, CPU, run.published)
    changed = dataclasses.replace(record, **changes)
    records.write(changed, weights_path(record_path(run.published, seed)).read_bytes(), run.published)
    return changed


# -- finding and training


def test_second_call_finds_what_the_first_trained(log):
    run = small(epochs=2)
    trained = runs(run, 2, "cpu", log)
    assert log == [(0, 1), (0, 2), (1, 1), (1, 2)]
    found = runs(run, 2, "cpu", log)
    assert len(log) == 4
    assert found == trained
    more = runs(run, [1, 2], "cpu", log)
    assert log[4:] == [(2, 1), (2, 2)]
    assert [record.seed for record in more] == [1, 2]
    assert find(run, 2) == more[1]
    assert find(run, 3) is None


def test_record_holds_what_was_run_and_what_came_out():
    run = small(epochs=2)
    start = time.perf_counter()
    (record,) = runs(run, [7], "cpu")
    took = time.perf_counter() - start
    train_images, test_images = data.load("digits")
    assert (record.experiment, record.seed) == ("iteration_00", 7)
    assert record.parameters == dataclasses.asdict(run.recipe)
    assert record.network == {"source": NETWORK.source, "name": "network", "arguments": {}}
    assert record.digests == run.digests
    assert record.parameter_count == 10_970
    assert (record.train_size, record.test_size) == (64, 40)
    assert record.class_counts == [test_images.labels.tolist().count(digit) for digit in range(10)]
    assert {name: len(values) for name, values in record.history.items()} == dict.fromkeys(
        ("learning_rate", "train_loss", "train_correct", "test_loss", "test_correct"), 2
    )
    assert len(record.first_losses) == 4
    environment = record.environment
    assert (environment["device"], environment["threads"]) == ("cpu", 1)
    seconds = environment["epoch_seconds"]
    assert len(seconds) == 2 and min(seconds) > 0 and sum(seconds) <= took + 0.001
    assert seconds == [round(each, 3) for each in seconds] and {*map(type, seconds)} == {float}
    assert {"date", "python", "torch", "device_name", "cpu_capability", "commit", "changed"} <= set(environment)

    # The weights beside it give the same predictions.
    weights = safetensors.torch.load(weights_path(record_path(run.store, 7)).read_bytes())
    trained = Trainer(run.network, run.recipe, 0, train_images, test_images, CPU)
    trained.model.load_state_dict(weights)
    test_loss, predictions = trained.evaluate()
    assert test_loss == record.history["test_loss"][-1]
    assert len(record.misclassified) == 40 - record.history["test_correct"][-1]
    wrong = [i for i in range(40) if predictions[i] != test_images.labels[i]]
    assert record.trained_correct == trained.trained_correct()
    assert record.misclassified == [[i, int(test_images.labels[i]), int(predictions[i])] for i in wrong]


def test_published_record_is_preferred(log):
    run = small(epochs=1)
    first = train(run, 0, CPU, run.store)
    publish(run, 0, environment=first.environment | {"device_name": "published"})
    (record,) = runs(run, 1, "cpu", log)
    assert record.environment["device_name"] == "published"
    assert not log


def test_published_record_that_is_stale_is_passed_over(log):
    run = small(epochs=1)
    publish(run, 0, digests=run.digests | {"code": "0" * 64})
    before = (run.published / "seed_0.json").read_bytes()
    (record,) = runs(run, 1, "cpu", log)
    assert log == [(0, 1)]
    assert record.digests == run.digests
    runs(run, 1, "cpu", log)
    assert len(log) == 1  # found in the store
    assert (run.published / "seed_0.json").read_bytes() == before


def test_changed_parameter_is_another_run(log):
    run = small(epochs=1)
    (first,) = runs(run, 1, "cpu", log)
    for changes in ({"learning_rate": 0.02}, {"batch_size": 32}, {"network": OTHER_NETWORK}, {"epochs": 2}):
        other = small(**{"epochs": 1} | changes)
        assert other.store != run.store
        assert find(other, 0) is None
    (second,) = runs(small(epochs=1, learning_rate=0.02), 1, "cpu", log)
    assert len(log) == 2
    assert second.history != first.history
    assert find(run, 0) == first


def test_a_record_that_came_while_one_waited_is_taken(log):
    run = small(epochs=1)
    first = train(run, 0, CPU, run.store, log)
    assert train(run, 0, CPU, run.store, log) == first
    assert log == [(0, 1)], "nothing is trained twice"


def test_nothing_is_explained_among_published_records():
    """There it is a page that says what made them."""
    train(small(epochs=1), 0, CPU, small().published)
    assert files_in(small().published) == {"seed_0.json", "seed_0.safetensors"}


def test_five_runs_are_made_wherever_is_best_if_nothing_else_is_said(monkeypatch):
    run = small(epochs=1)
    monkeypatch.setattr(experiments, "find", lambda experiment, seed: publish(experiment, seed))
    assert [record.seed for record in runs(run)] == [0, 1, 2, 3, 4]


def test_trying_something_out_leaves_what_is_published(log):
    publish(small(epochs=1), 0)
    before = {path: path.read_bytes() for path in small().published.iterdir()}
    runs(small(epochs=1, momentum=0.5), 1, "cpu", log)
    assert len(log) == 1
    assert {path: path.read_bytes() for path in small().published.iterdir()} == before


def test_differences_names_what_changed():
    run = small(epochs=1)
    record = train(run, 0, CPU, run.store)
    assert run.differences(record) == []
    assert small(epochs=1, momentum=0.5, label_smoothing=0.1).differences(record) == [
        "label_smoothing was 0.0, is 0.1",
        "momentum was 0.9, is 0.5",
    ]
    assert small(epochs=1, schedule="linear").differences(record) == [
        "schedule was 'constant', is 'linear'",
        "the training code changed",
    ]
    edited = dataclasses.replace(record, digests=record.digests | {"code": "other"})
    assert run.differences(edited) == ["the training code changed"]
    assert run.differences(dataclasses.replace(record, digests={})) == [
        "the network is another",
        "the training code changed",
        "the data changed",
    ]
    assert small(OTHER_NETWORK, epochs=1).differences(record) == ["the network is another"]
    refused = dataclasses.replace(record, parameters=record.parameters | {"epochs": 0})
    assert run.differences(refused) == ["epochs = 0: expected a whole number from 1 to 1000"]


def test_parameter_that_is_newer_than_a_record_counts_as_its_default():
    run = small(epochs=1)
    record = train(run, 0, CPU, run.store)
    older = {name: value for name, value in record.parameters.items() if name not in ("interpolation", "momentum")}
    assert run.differences(dataclasses.replace(record, parameters=older)) == []
    assert small(epochs=1, momentum=0.5).differences(dataclasses.replace(record, parameters=older)) == [
        "momentum was 0.9, is 0.5"
    ]


def test_digests_tell_code_network_and_data_apart():
    run, other = small(), small(OTHER_NETWORK)
    assert run.digests["code"] == other.digests["code"]
    assert run.digests["network"] != other.digests["network"]
    assert run.digests["data"] == "embedded" != small(dataset="mnist").digests["data"]
    assert small(label_smoothing=0.1).digests == run.digests
    assert small(label_smoothing=0.1).digest != run.digest


def test_a_value_without_effect_makes_no_other_run(log):
    runs(small(epochs=1), 1, "cpu", log)
    for changes in (
        {"step_size": 3},
        {"nesterov": False},
        {"fade": 0.5, "rotation": 0.0},
        {"other_learning_rate": 1.0},
    ):
        run = small(**{"epochs": 1} | changes)
        assert (run.digest == small(epochs=1).digest) == ("fade" not in changes)
    (record,) = runs(small(epochs=1, step_size=3), 1, "cpu", log)
    assert len(log) == 1
    assert small(epochs=1, temperature=9.0).differences(record) == []


def test_more_images_than_there_are_do_what_all_of_them_do():
    normalised = networks()["iteration_03_batch_normalisation"]
    every, more = (small(normalised, epochs=1, batch_size=count, statistics_images=count) for count in (64, 60_000))
    assert every.digest == more.digest != small(normalised, epochs=1, batch_size=63, statistics_images=64).digest
    first, second = (experiments.make_trainer(run, 0, CPU) for run in (every, more))
    assert first.train_epoch() == second.train_epoch()
    assert experiments.final_weights(first) == experiments.final_weights(second)


def test_statistics_of_a_single_image_are_refused_before_anything_trains():
    """Where a layer gives one number for an image, as after an average over it, torch would refuse it in the end."""
    with pytest.raises(
        ParameterError, match=r"^statistics_images = 1: one image has no spread; expected 0, for none, or"
    ):
        small(networks()["iteration_03_batch_normalisation"], statistics_images=1).check()


def test_a_run_has_the_label_of_who_asks(log):
    """It was trained under one name, and is the same run under any other."""
    first = small(epochs=1)
    again = dataclasses.replace(first, name="my_own/copy")
    (trained,), (found,) = runs(first, 1, "cpu", log), runs(again, 1, "cpu", log)
    assert len(log) == 1
    assert again.store == first.store
    assert (trained.experiment, found.experiment, find(again, 0).experiment) == ("iteration_00", *["my_own/copy"] * 2)
    assert dataclasses.replace(found, experiment="iteration_00") == trained
    assert found.path == find_path(again, 0) == record_path(first.store, 0)


def test_a_page_shows_published_records_only_and_trains_none(log, monkeypatch):
    run = small(epochs=1)
    train(run, 0, CPU, run.store)
    publish(run, 1)
    monkeypatch.setenv(PUBLISHED_ONLY, "1")
    assert find(run, 0) is None
    assert [record.seed for record in runs(run, [1], "cpu", log)] == [1]
    with pytest.raises(RecordError, match="iteration_00 seed 0 has no published record, and a page trains none"):
        runs(run, 1, "cpu", log)
    assert not log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../elsewhere"}, "name = '../elsewhere': expected a name such as iteration_11_mine"),
        ({"name": ""}, "name = '': expected a name"),
        ({"name": "a b"}, "name = 'a b': expected a name"),
        ({"recipe": {"epochs": 2}}, "recipe = {'epochs': 2}: expected a Recipe"),
        ({"network": "deep"}, "network = 'deep': expected a function that returns a network"),
        ({"network": nn.Linear(2, 3)}, r"network = Linear\(.*: expected a function"),
        ({"network": lambda: nn.Identity()}, "network = <function .*: expected a function .* made by def"),
        ({"teacher": small()}, "teachers = 0: it goes with an experiment to learn from"),
        ({"recipe": dataclasses.replace(RECIPE, teachers=2)}, "teachers = 2: it goes with an experiment"),
    ],
)
def test_an_experiment_that_could_not_be_run_is_refused_when_it_is_made(changes, message):
    with pytest.raises(ParameterError, match="^" + message):
        dataclasses.replace(small(), **changes)


def nothing():
    """A network whose author forgot to return it."""


def test_a_network_that_cannot_be_built_is_refused_before_images_are_loaded(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "digits", dataclasses.replace(data.DATASETS["digits"], read=digits))
    with pytest.raises(ParameterError, match=r"^nothing\(\): nothing returned NoneType: expected a torch\.nn\.Module$"):
        runs(small(nothing), 1, "cpu")


def digits():
    pytest.fail("data was loaded")


# -- continuing from trained weights


def test_a_continued_run_starts_with_the_weights_of_the_same_seed():
    first = small(epochs=1, rotation=0.0)
    again = Experiment("iteration_00/continued", first.recipe, NETWORK, start=first)
    record = train(again, 3, CPU, again.published)
    assert find(first, 3) is not None, "what it starts from is trained if it is missing"
    weights = records.read_weights(experiments.find_path(first, 3))
    fresh = Trainer(NETWORK, first.recipe, 3, *data.load("digits"), CPU)
    fresh.model.load_state_dict(weights)
    assert record.first_losses == fresh.replay(len(record.first_losses))
    assert record.first_losses != find(first, 3).first_losses
    assert (find(again, 3), find(again, 2)) == (record, None)


def test_a_run_starts_with_published_weights_where_there_are_some(log):
    first = small(epochs=1, rotation=0.0)
    publish(first, 3)
    again = Experiment("iteration_00/continued", first.recipe, NETWORK, start=first)
    runs(again, [3], "cpu", log)
    assert log == [(3, 1)] and not first.store.exists(), "nothing is trained twice"


def test_other_images_may_take_the_place_of_the_recipes():
    train_images, test_images = data.load("digits")
    trainer = experiments.make_trainer(small(), 0, CPU, (test_images, train_images))
    assert torch.equal(trainer.labels, test_images.labels) and torch.equal(trainer.test_labels, train_images.labels)


def test_digits_that_are_not_among_the_evaluation_images_are_counted_too(monkeypatch):
    train_images, test_images = data.load("digits")
    is_small = test_images.labels < 5
    few = data.Images(test_images.images[is_small], test_images.labels[is_small])

    def digits() -> tuple[data.Images, data.Images]:
        return train_images, few

    monkeypatch.setitem(data.DATASETS, "digits", dataclasses.replace(data.DATASETS["digits"], read=digits))
    record = train(small(epochs=1), 0, CPU, small().store)
    assert record.class_counts == [few.labels.tolist().count(digit) for digit in range(10)]
    assert record.class_counts[5:] == [0] * 5


def test_a_continued_run_is_stale_when_what_it_starts_from_changes():
    first = small(epochs=1)
    record = train(Experiment("a", first.recipe, NETWORK, start=first), 0, CPU, first.published)
    other = Experiment("a", first.recipe, NETWORK, start=small(epochs=2))
    assert Experiment("a", first.recipe, NETWORK, start=first).differences(record) == []
    assert other.differences(record) == ["what trains the weights at the start changed"]
    assert Experiment("a", first.recipe, NETWORK).differences(record) == [
        "what trains the weights at the start changed"
    ]


def test_a_student_learns_from_the_first_runs_of_its_teacher():
    teacher = small(OTHER_NETWORK, epochs=1, learning_rate=0.1)
    recipe = dataclasses.replace(RECIPE, epochs=1, teachers=2)
    student = Experiment("iteration_00", recipe, NETWORK, teacher=teacher)
    record = train(student, 0, CPU, student.store)
    assert find(teacher, 1) is not None, "its runs are trained if they are missing"
    trainer = experiments.make_trainer(student, 0, CPU)
    assert len(trainer.teachers) == 2
    for seed, network in enumerate(trainer.teachers):
        weights = records.read_weights(find_path(teacher, seed))
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert trainer.replay() == record.first_losses
    unlike = dataclasses.replace(student, teacher=small(OTHER_NETWORK, epochs=1))
    assert unlike.differences(record) == ["what trains the teachers changed"]


def test_damaged_weights_are_refused_by_name():
    run = small(epochs=1)
    train(run, 0, CPU, run.published)
    file = weights_path(record_path(run.published, 0))
    file.write_bytes(flipped(file.read_bytes(), -1))
    with pytest.raises(RecordError, match=r"seed_0\.safetensors: damaged"):
        records.read_weights(record_path(run.published, 0))
    file.unlink()
    with pytest.raises(RecordError, match=r"seed_0\.safetensors: the weights cannot be read"):
        records.read_weights(record_path(run.published, 0))


# -- reproducibility


def test_same_seed_same_record_outside_environment():
    run = small(epochs=2)
    first = train(run, 0, CPU, run.store)
    weights = weights_path(record_path(run.store, 0)).read_bytes()
    shutil.rmtree(run.store)
    again = train(run, 0, CPU, run.store)
    assert outside_environment(again) == outside_environment(first)
    assert weights_path(record_path(run.store, 0)).read_bytes() == weights
    other = train(run, 1, CPU, run.store)
    assert other.history != first.history
    assert other.weights_digest != first.weights_digest


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_interrupted_run_continues_and_ends_as_an_uninterrupted_one(tmp_path, log, stop_after):
    run = small()
    whole = train(run, 0, CPU, tmp_path / "whole")
    log.stop_at = (0, stop_after)
    with pytest.raises(KeyboardInterrupt):
        runs(run, 1, "cpu", log)
    assert files_in(run.store) == {"seed_0.partial.safetensors"}
    assert find(run, 0) is None

    log.stop_at = None
    torch.manual_seed(4321)
    (record,) = runs(run, 1, "cpu", log)
    # The last epoch's end is the record's, not the checkpoint's: interrupted there, that epoch is trained again.
    saved = min(stop_after, 2)
    assert log[stop_after:] == [(0, number) for number in range(saved + 1, 4)]
    assert outside_environment(record) == outside_environment(whole)
    assert len(record.environment["epoch_seconds"]) == 3
    assert files_in(run.store) == {"seed_0.json", "seed_0.safetensors", "experiment.py"}


def interrupted(run: Experiment, log: Log) -> Path:
    """The checkpoint of a run that was interrupted after its first epoch."""
    log.stop_at = (0, 1)
    with pytest.raises(KeyboardInterrupt):
        train(run, 0, CPU, run.store, log)
    log.stop_at = None
    log.clear()
    return run.store / "seed_0.partial.safetensors"


@pytest.mark.parametrize("other", [small(learning_rate=0.5), small(OTHER_NETWORK)], ids=["recipe", "network"])
def test_checkpoint_of_another_recipe_or_network_is_refused_by_name(log, other):
    """Published runs of one experiment share a folder, whatever their recipe was."""
    run = small()
    checkpoint = shutil.copy(interrupted(other, log), _made(run.store))
    with pytest.raises(RecordError, match=f"^{checkpoint}: this run was begun with another recipe or under other code"):
        train(run, 0, CPU, run.store, log)
    assert not log
    experiments.forget_other_checkpoint(other, 0, run.store)
    assert files_in(run.store) == {"seed_0.partial.safetensors"}, "its own is kept"
    experiments.forget_other_checkpoint(run, 0, run.store)
    train(run, 0, CPU, run.store, log)
    assert log == [(0, 1), (0, 2), (0, 3)]


def test_checkpoint_of_other_code_is_refused_by_name(log, monkeypatch):
    run = small()
    checkpoint = interrupted(run, log)
    monkeypatch.setattr(experiments, "code_digest", lambda recipe: "another")
    with pytest.raises(RecordError, match=f"^{checkpoint}: this run was begun with another recipe or under other code"):
        train(run, 0, CPU, checkpoint.parent, log)
    assert not log


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def with_progress(content: bytes, change) -> bytes:
    """A checkpoint with its progress, a dictionary, changed."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    progress = json.loads(header["__metadata__"]["progress"])
    change(progress)
    header["__metadata__"]["progress"] = json.dumps(progress)
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + content[8 + length :]


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: whole[:-100], id="truncated"),
        pytest.param(lambda whole: whole[:100], id="truncated in its header"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"\0" * len(whole), id="zeros"),
        pytest.param(lambda whole: b"hello " * 100, id="text"),
        pytest.param(lambda whole: flipped(whole, -200), id="a bit of a weight flipped"),
        pytest.param(lambda whole: safetensors.torch.save({"a": torch.zeros(3)}), id="no metadata"),
        pytest.param(lambda whole: safetensors.torch.save({}, {"progress": "3"}), id="foreign metadata"),
        pytest.param(lambda whole: with_progress(whole, lambda p: p.pop("epochs")), id="no epochs"),
        pytest.param(lambda whole: with_progress(whole, lambda p: p.pop("recipe")), id="no recipe"),
        pytest.param(lambda whole: with_progress(whole, lambda p: p["epochs"].clear()), id="other epochs"),
        pytest.param(lambda whole: with_progress(whole, lambda p: p["seconds"].append(1)), id="other seconds"),
    ],
)
def test_damaged_checkpoint_is_refused_by_name(log, damage):
    run = small(epochs=2)
    checkpoint = interrupted(run, log)
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(RecordError, match=f"^{checkpoint}: damaged checkpoint .*; delete it to start the run anew$"):
        train(run, 0, CPU, run.store, log)
    assert not log


def test_run_whose_checkpoint_was_deleted_starts_anew(log):
    run = small(epochs=2)
    interrupted(run, log).unlink()
    train(run, 0, CPU, run.store, log)
    assert log == [(0, 1), (0, 2)]


def test_checkpoint_that_is_a_folder_is_refused_by_name(log):
    run = small(epochs=2)
    checkpoint = interrupted(run, log)
    checkpoint.unlink()
    checkpoint.mkdir()
    with pytest.raises(RecordError, match=f"^{checkpoint}: damaged checkpoint"):
        train(run, 0, CPU, run.store)


def test_damaged_record_is_refused_by_name(log):
    run = small(epochs=1)
    runs(run, 1, "cpu")
    path = record_path(run.store, 0)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(RecordError, match=f"^{path}: "):
        runs(run, 1, "cpu", log)
    assert not log


def test_store_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNIST_LIB_RUNS", str(tmp_path / "file"))
    with pytest.raises(FileError, match=f"{tmp_path}/file/.* could not be written"):
        runs(small(epochs=1), 1, "cpu")


def test_a_store_that_may_not_be_read_is_named_and_published_runs_do_not_need_it(tmp_store, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match=f"^{tmp_store} cannot be read: Permission denied.*set MNIST_LIB_RUNS"):
        runs(small(epochs=1), 1, "cpu")
    monkeypatch.undo()
    published = page.experiment(page.of_notebook("iteration_10_one_cycle"))
    monkeypatch.setattr(Experiment, "store", property(lambda self: refuse("the store")))
    assert [run.seed for run in runs(published, 2, "cpu")] == [0, 1]


def test_runs_are_kept_where_the_environment_says(tmp_store, monkeypatch):
    assert experiments.runs_directory() == tmp_store
    assert small().store.parent == tmp_store
    monkeypatch.delenv("MNIST_LIB_RUNS")
    assert experiments.runs_directory().parts[-2:] == ("mnist_lib", "runs")


# -- runs that fail


class Failing(nn.Module):
    """A linear network whose logits are not numbers at one training step, or whenever it is evaluated after one."""

    def __init__(self, step: int | None = None):
        super().__init__()
        self.layers, self.fail_at, self.steps = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), step, 0

    def forward(self, images):
        self.steps += self.training
        fails = self.steps == self.fail_at if self.training else self.fail_at is None and self.steps > 0
        return self.layers(images) * (math.nan if fails else 1)


def fails_in_first_epoch():
    return Failing(2)


def fails_in_third_epoch():
    return Failing(10)


def fails_when_evaluated():
    return Failing()


@pytest.mark.parametrize(
    ("network", "message", "epochs"),
    [
        (fails_in_first_epoch, r"at step 2 \(epoch 1\)", 0),
        (fails_in_third_epoch, r"at step 10 \(epoch 3\)", 2),
        (fails_when_evaluated, r"epoch 1", 0),
    ],
)
def test_run_whose_loss_is_not_a_number_leaves_nothing(log, network, message, epochs):
    run = small(network)
    with pytest.raises(DivergenceError, match=message):
        runs(run, 1, "cpu", log)
    assert len(log) == epochs
    assert files_in(run.store) == set()


def test_too_large_a_learning_rate_leaves_nothing():
    run = small(networks()["iteration_03_batch_normalisation"], learning_rate=100.0, epochs=10)
    with pytest.raises(DivergenceError, match="Try a smaller learning_rate"):
        runs(run, 1, "cpu")
    assert files_in(run.store) == set()


# -- devices


def test_missing_device_is_an_error_before_anything_is_read(log, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(data, "load", digits)
    with pytest.raises(ParameterError, match="there is no such device"):
        runs(small(), 1, "cuda", log)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_run_on_a_gpu():
    (record,) = runs(small(), 1, "cuda")
    assert record.environment["device"] == "cuda"
    assert np.isfinite(record.history["test_loss"]).all()


# -- what is tried out before a run

SPOILT = """import itertools

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(784, 10)
        self.calls = itertools.count()
        self.register_buffer("seen", torch.zeros(10), persistent=False)
        {before}

    def forward(self, x):
        scores = self.scores(x.flatten(1))
        {instead}

    {more}


def network():
    return Net()
"""


def spoilt(instead: str = "return scores", before: str = "pass", more: str = "pass") -> Network:
    return Network(SPOILT.format(before=before, instead=instead, more=more))


EXTRA = "def get_extra_state(self): return {}\n\n    def set_extra_state(self, state): pass"
ONE_SIZE = "if self.training: vars(self).setdefault('first', len(x)); scores = scores.view(self.first, 10)"
EXIT = "if next(self.calls) > 2: raise SystemExit('enough')"


@pytest.mark.parametrize(
    ("network", "recipe", "said"),
    [
        (
            Network(spoilt().source.replace("scores = self", "x -= 0.5; scores = self")),
            {},
            "it changes the images that it is shown",
        ),
        (spoilt("return functional.dropout(scores)"), {}, "it answers differently when it is asked again"),
        (spoilt("return scores * next(self.calls)"), {}, "it answers differently when it is asked again"),
        (
            spoilt("self.seen += self.training * scores.detach()[0]; return scores + self.seen"),
            {},
            "it remembers something that is none of its weights",
        ),
        (spoilt("return (scores, scores) if self.training else scores"), {}, "it cannot be trained: "),
        (spoilt("return scores.detach() if self.training else scores"), {}, "it cannot be trained: "),
        (spoilt("return scores[:2]"), {}, "it cannot be trained: "),
        (spoilt(f"{ONE_SIZE}\n        return scores"), {}, "it cannot be trained, at line 18 of its text"),
        (spoilt(more=EXTRA), {}, "it cannot be trained: "),
        (
            spoilt(f"{EXIT}\n        return scores"),
            {},
            f"it cannot be trained, at line 18 of its text, `{EXIT}`: enough",
        ),
        (spoilt(before="nn.utils.weight_norm(self.scores)"), {"average_decay": 0.9}, "it cannot be trained: "),
        (spoilt(), {"optimizer": "muon"}, "it has no kernels that mix channels"),
    ],
)
def test_what_would_spoil_a_run_or_its_record_is_refused_before_it(tmp_store, network, recipe, said):
    network.check()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(ParameterError, match=f"^{re.escape('network(): ' + said)}"):
        runs(small(network, **recipe), 1, "cpu")
    assert not list(tmp_store.rglob("*.json")) and not list(tmp_store.rglob("*.safetensors"))
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "recipe",
    [
        {"learning_rate": 100.0},
        {"optimizer": "adamw", "average_decay": 0.9, "schedule": "one_cycle"},
        {"optimizer": "muon", "precision": "bfloat16", "statistics_images": 300, "rotation": 0.0},
    ],
)
def test_all_published_networks_pass(recipe):
    for network in networks().values():
        experiment = small(network, **recipe)
        if not recipe.get("statistics_images") or "BatchNorm" in str(network()):
            experiment.try_out()


# -- seeds, and where runs are kept


def test_seeds_are_so_large_that_every_program_reads_them_alike():
    assert experiments.checked_seeds(iter([2**53, 0, 1000])) == (2**53, 0, 1000)


@pytest.mark.parametrize("seeds", [["0"], [True], [-1], [2**53 + 1], [0.5], [0, 0]])
def test_seeds_are_whole_numbers_from_0_and_none_is_there_twice(tmp_store, seeds):
    with pytest.raises(ParameterError, match=r"^seeds = .*: expected whole numbers from 0, none of them twice$"):
        runs(small(), seeds, "cpu")
    assert not tmp_store.exists()


def test_published_records_are_not_taken_for_your_own(tmp_path, monkeypatch, log):
    publish(small(epochs=1), 0)
    link = tmp_path / "link"
    link.symlink_to(experiments.published_records())
    for folder in (experiments.published_records(), experiments.root(), link, link / "iteration_00"):
        monkeypatch.setenv("MNIST_LIB_RUNS", str(folder))
        with pytest.raises(FileError, match=f"^{folder}: published records lie there, .*set MNIST_LIB_RUNS$"):
            runs(small(epochs=1, momentum=0.5), 1, "cpu", log)
        with pytest.raises(FileError, match="published records lie there"):
            listing.table()
    monkeypatch.setenv("MNIST_LIB_RUNS", str(experiments.root() / "runs"))
    runs(small(epochs=1, momentum=0.5), 1, "cpu", log)
    assert log == [(0, 1)]
