"""Published records are checked against what can be computed again; whatever is changed in one is found and named."""

import dataclasses
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from mnist_lib import experiments, page, records
from mnist_lib.digests import bytes_digest
from mnist_lib.experiments import Experiment
from mnist_lib.parameters import Recipe
from mnist_lib.pipeline import catalogue, verification
from mnist_lib.records import record_path, weights_path

CPU = torch.device("cpu")
RECIPE = Recipe(dataset="digits", epochs=2, batch_size=64, schedule="one_cycle")
EXAMPLE = Experiment("example", RECIPE, page.of_notebook("iteration_05_global_average_pooling").network)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A record of a short run with its weights, as bytes."""
    folder = tmp_path_factory.mktemp("trained")
    experiments.train(EXAMPLE, 0, CPU, folder)
    return records.read(record_path(folder, 0)), weights_path(record_path(folder, 0)).read_bytes()


@pytest.fixture
def experiment(tmp_path, monkeypatch, trained):
    """The experiment, its record published in a folder of its own."""
    monkeypatch.setattr(experiments, "published_records", lambda: tmp_path)
    records.write(*trained, EXAMPLE.published)
    return EXAMPLE


def change(experiment: Experiment, **changes) -> None:
    """Replace fields of the published record, in spite of everything."""
    path = record_path(experiment.published, 0)
    path.write_text(records.to_json(dataclasses.replace(records.read(path), **changes)), "utf-8")


def with_entry(experiment: Experiment, name: str, epoch: int, value: float) -> dict:
    history = records.read(record_path(experiment.published, 0)).history
    return history | {name: [value if k == epoch else v for k, v in enumerate(history[name])]}


def test_a_record_as_it_was_made_holds(experiment):
    assert verification.verify(experiment, 0, CPU).problems == ()


def test_each_changed_number_is_named(experiment, trained):
    record, _ = trained
    cases = {
        "parameter_count is 6,071, the network has 6,070": {"parameter_count": 6_071},
        "learning_rate of epoch 1 is 0.5": {"history": with_entry(experiment, "learning_rate", 0, 0.5)},
        "the loss of step 3 is 9.0": {"first_losses": [*record.first_losses[:2], 9.0, *record.first_losses[3:]]},
        "test_correct of the last epoch is 1,": {"history": with_entry(experiment, "test_correct", 1, 1)},
        "misclassified differs from what the published weights do, at images": {
            "misclassified": record.misclassified[1:]
        },
        "the training code changed": {"digests": record.digests | {"code": "0" * 64}},
        "epochs was 3, is 2": {"parameters": record.parameters | {"epochs": 3}},
        "the network is another": {"digests": record.digests | {"network": "0" * 64}},
        "trained_correct is 7, the published weights get": {"trained_correct": 7},
        "damaged": {"weights_digest": "0" * 64},
    }
    for message, changes in cases.items():
        change(experiment, **changes)
        problems = verification.verify(experiment, 0, CPU).problems
        assert any(problem.startswith(message) or message in problem for problem in problems), (message, problems)
        change(experiment, **{name: getattr(record, name) for name in changes})
    assert verification.verify(experiment, 0, CPU).problems == ()


@pytest.mark.parametrize(
    ("step", "factor", "here", "elsewhere"),
    [(1, 1 + 1e-6, True, True), (1, 1.001, False, False), (5, 1.001, False, True), (5, 1.1, False, False)],
)
def test_a_replay_is_judged_by_the_kind_of_machine(experiment, trained, step, factor, here, elsewhere):
    """Rounding differs over kinds of CPUs, and every step enlarges the difference; the first loss has had no step."""
    record, _ = trained
    losses = [loss * factor if number == step else loss for number, loss in enumerate(record.first_losses, 1)]
    for machine, holds in (({}, here), ({"cpu_capability": "another"}, elsewhere)):
        change(experiment, first_losses=losses, environment=record.environment | machine)
        problems = verification.verify(experiment, 0, CPU).problems
        assert problems == () if holds else problems[0].startswith(f"the loss of step {step} is ")


def test_other_weights_are_found_by_what_they_do(experiment, trained):
    tensors = safetensors.torch.load(trained[1])
    content = safetensors.torch.save({name: torch.zeros_like(value) for name, value in tensors.items()})
    weights_path(record_path(experiment.published, 0)).write_bytes(content)
    change(experiment, weights_digest=bytes_digest(content))
    problems = verification.verify(experiment, 0, CPU).problems
    assert [problem.split()[0] for problem in problems] == ["test_correct", "trained_correct", "misclassified"]


def test_a_record_that_is_missing_or_cannot_be_read(experiment):
    path = record_path(experiment.published, 0)
    path.write_text("{")
    assert "cannot be read as a record" in verification.verify(experiment, 0, CPU).problems[0]
    path.unlink()
    assert "cannot be read as a record" in verification.verify(experiment, 0, CPU).problems[0]
    assert "cannot be read as a record" in verification.verify_fully(experiment, 0, "cpu").problems[0]


def test_weights_of_another_network_are_a_finding_and_no_failure(experiment):
    content = safetensors.torch.save({"0.weight": torch.zeros(1)})
    weights_path(record_path(experiment.published, 0)).write_bytes(content)
    change(experiment, weights_digest=bytes_digest(content))
    assert verification.verify(experiment, 0, CPU).problems == ("the published weights do not fit the network",)


def test_training_in_full_trains_nothing_where_a_look_finds_the_fault(experiment, trained, monkeypatch):
    """It is the stronger check: what `verify` finds, it finds as well."""
    monkeypatch.setattr(verification, "tqdm", lambda *_, **__: pytest.fail("trained"))
    for changes in ({"parameter_count": 1}, {"parameters": trained[0].parameters | {"epochs": 3}}):
        change(experiment, **changes)
        assert len(verification.verify_fully(experiment, 0, "cpu").problems) == 1
        change(experiment, **{name: getattr(trained[0], name) for name in changes})
    weights_path(record_path(experiment.published, 0)).unlink()
    assert "the weights cannot be read" in verification.verify_fully(experiment, 0, "cpu").problems[0]


def test_training_in_full_finds_every_epoch_again(experiment):
    assert verification.verify_fully(experiment, 0, "cpu").problems == ()
    change(experiment, history=with_entry(experiment, "train_correct", 1, 7))
    (problem,) = verification.verify_fully(experiment, 0, "cpu").problems
    assert problem.startswith("epoch 2 came out differently: train_correct 7, now ")


def test_a_change_of_code_that_computes_the_same_is_accepted(experiment):
    path = record_path(experiment.published, 0)
    before = records.read(path)
    change(experiment, digests=before.digests | {"code": "0" * 64})
    assert verification.verify(experiment, 0, CPU).problems == (experiments.CODE_CHANGED,)
    assert verification.accept(experiment, 0, CPU).problems == ()
    after = records.read(path)
    (entry,) = after.environment.pop("accepted")
    assert after == before, "results and digests are what they were"
    assert (entry["code"], entry["checked"]) == ("0" * 64, list(verification.CHECKED))


def test_a_record_that_does_not_hold_is_not_accepted(experiment, trained):
    digests = trained[0].digests | {"code": "0" * 64}
    change(experiment, digests=digests, first_losses=[9.0] * 10)
    before = record_path(experiment.published, 0).read_bytes()
    problems = verification.accept(experiment, 0, CPU).problems
    assert problems[0] == experiments.CODE_CHANGED and problems[1].startswith("the loss of step 1 is 9.0")
    assert record_path(experiment.published, 0).read_bytes() == before


@pytest.mark.needs_mnist
def test_the_command_on_published_records():
    name = "iteration_02_light_skeleton"
    command = [sys.executable, "-m", "mnist_lib.cli", "verify", name, "--workers", "1"]
    done = subprocess.run(command, cwd=experiments.root(), env=os.environ, capture_output=True, text=True)
    (experiment, seeds) = catalogue.published_runs(catalogue.find(name)[0])[-1]
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1]) == (0, f"{seeds} of {seeds} records hold")
    assert lines[0].split() == [experiment.name, "seed", "0", "holds"]
