"""Checking a published record without training it again, in seconds, or with training, in full."""

import dataclasses
import math
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from tqdm import tqdm

from mnist_lib import experiments, machine, records
from mnist_lib.experiments import Experiment
from mnist_lib.network import Network
from mnist_lib.parameters import Recipe
from mnist_lib.pipeline.catalogue import CODE_ONLY
from mnist_lib.records import Record, RecordError, record_path
from mnist_lib.training import DivergenceError, Trainer

CHECKED = ("parameter count", "learning rates", "first losses", "weights", "misclassified images", "training accuracy")
"""What is computed again and compared, besides the digests."""

SAME_MACHINE = ("torch", "device_name", "cpu_capability")
"""Entries of a record's environment: where they are the same, so are the last bits of a loss, nearly always."""

LOSS_TOLERANCE = {True: (1e-5, 1e-5), False: (1e-4, 5e-2)}
"""Relative, of the first step's loss and of the later ones: on the same kind of machine, and on any other one.

Elsewhere sums are rounded in another order, and every step enlarges the difference. The page on the method holds what
was measured over instruction sets.
"""


@dataclass(frozen=True)
class Verdict:
    """What was found about one record: every problem as a sentence; none if it holds."""

    experiment: str
    seed: int
    problems: tuple[str, ...]


def verify(experiment: Experiment, seed: int, device: torch.device, folder: Path | None = None) -> Verdict:
    """Check a published record, or one in another folder, against what can be computed again in seconds.

    These are compared: the digests; the number of parameters; the learning rate of every epoch; the losses of the first
    steps, replayed; the published weights, evaluated again, with the recorded mistakes, image by image.
    """
    path = record_path(folder or experiment.published, seed)
    try:
        record, weights = records.read(path), records.read_weights(path)
        found = experiment.differences(record)
        if {*found} <= CODE_ONLY:  # a run of another recipe is not compared: its weights need not even fit
            trainer = experiments.make_trainer(experiment, seed, device)
            found += [*_replayed(record, trainer), *_evaluated(record, weights, trainer)]
    except (RecordError, DivergenceError) as error:
        found = [str(error)]
    return Verdict(experiment.name, seed, tuple(found))


def of_path(path: Path) -> list[tuple[Experiment, int, Path]]:
    """Return the runs whose records lie at `path`, a folder or one file, as they describe themselves, to be verified.

    Raises:
        RecordError: there is none, or one cannot be read, or its run begins with the weights of another run.
    """
    files = [record_path(path, seed) for seed in records.published_seeds(path)] if path.is_dir() else [path]
    if not files:
        raise RecordError(f"{path}: there are no records in this folder")
    found = []
    for file in files:
        record = records.read(file)
        if {"start", "teacher"} & record.digests.keys():
            raise RecordError(f"{file}: this run begins with another run's weights, and cannot be checked by itself")
        known = {f.name for f in dataclasses.fields(Recipe)}
        recipe = Recipe(**{name: value for name, value in record.parameters.items() if name in known})
        network = Network(record.network["source"], record.network["name"], tuple(record.network["arguments"].items()))
        found.append((Experiment(record.experiment, recipe, network), record.seed, file.parent))
    return found


def accept(experiment: Experiment, seed: int, device: torch.device) -> Verdict:
    """Check a record that is stale only because the training code changed; if all else holds, give it the new digest.

    For a change that computes the same as before. The record says afterwards when this was done, what the digest was,
    and what was checked; its results stay as they are.
    """
    verdict = verify(experiment, seed, device)
    if not verdict.problems or not {*verdict.problems} <= CODE_ONLY:
        return verdict
    path = record_path(experiment.published, seed)
    with records.only_one(path):
        record = records.read(path)
        entry = {
            "date": machine.today(),
            "commit": machine.commit(),
            "code": record.digests["code"],
            "checked": list(CHECKED),
        }
        environment = record.environment | {"accepted": [entry]}  # the last time counts
        stamped = dataclasses.replace(record, digests=experiment.digests, environment=environment)
        records.write(stamped, records.weights_path(path).read_bytes(), experiment.published)
    return Verdict(experiment.name, seed, ())


def _replayed(record: Record, trainer: Trainer) -> list[str]:
    """Problems of what comes before training: size, schedule, first steps. The trainer has taken steps afterwards."""
    problems = []
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    if record.parameter_count != count:
        problems.append(f"parameter_count is {record.parameter_count:,}, the network has {count:,}")
    last_steps = trainer.rates[trainer.steps_per_epoch - 1 :: trainer.steps_per_epoch]
    rates = [rate for rate, _ in last_steps]
    problems += _differing("learning_rate of epoch", record.history["learning_rate"], rates, 1e-12)
    losses, here = trainer.replay(), machine.describe(trainer.device)
    first, later = LOSS_TOLERANCE[all(record.environment.get(name) == here[name] for name in SAME_MACHINE)]
    what = "the loss of step"
    differing = _differing(what, record.first_losses[:1], losses[:1], first)
    return problems + (differing or _differing(what, record.first_losses, losses, later))


def _differing(what: str, recorded: list[float], computed: list[float], tolerance: float) -> list[str]:
    """Return the first difference, if there is one: later ones may follow from it."""
    for number, (old, new) in enumerate(zip_longest(recorded, computed, fillvalue=math.nan), 1):
        if not math.isclose(old, new, rel_tol=tolerance):
            return [f"{what} {number} is {old!r}, computed again it is {new!r}"]
    return []


def _evaluated(record: Record, weights: dict[str, torch.Tensor], trainer: Trainer) -> list[str]:
    """Problems of what comes after training: the published weights must make the recorded mistakes."""
    try:
        trainer.load_final(weights)
    except RuntimeError:  # torch names every tensor in it
        return ["the published weights do not fit the network"]
    mistakes = experiments.misclassified(trainer)
    problems = []
    correct = len(trainer.test_labels) - len(mistakes)
    if record.history["test_correct"][-1] != correct:
        recorded = record.history["test_correct"][-1]
        problems.append(f"test_correct of the last epoch is {recorded}, the published weights get {correct} right")
    if record.trained_correct != (trained := trainer.trained_correct()):
        problems.append(f"trained_correct is {record.trained_correct}, the published weights get {trained} right")
    differing = [pair[0] for pair in {*map(tuple, mistakes)} ^ {*map(tuple, record.misclassified)}]
    if differing:
        images = ", ".join(map(str, sorted(set(differing))[:5]))
        problems.append(f"misclassified differs from what the published weights do, at images {images}")
    return problems


def verify_fully(experiment: Experiment, seed: int, device: str = "auto") -> Verdict:
    """Train a published run again and compare every epoch, to the last bit; it ends at the first one that differs.

    Before, the record is checked as `verify` does; where that finds more than changed code, nothing is trained. The
    same bits can be expected on the same kind of machine with the same number of threads only.
    """
    where = machine.resolve_device(device)
    verdict = verify(experiment, seed, where)
    if not {*verdict.problems} <= CODE_ONLY:
        return verdict
    history = records.read(record_path(experiment.published, seed)).history
    trainer = experiments.make_trainer(experiment, seed, where)
    problems = list(verdict.problems)
    for epoch in tqdm(range(experiment.recipe.epochs), unit="epoch", desc=f"{experiment.name} seed {seed}"):
        try:
            now = dataclasses.asdict(trainer.train_epoch())
        except DivergenceError as error:
            problems.append(str(error))
            break
        recorded = {name: values[epoch] for name, values in history.items()}
        changed = [f"{name} {recorded[name]!r}, now {now[name]!r}" for name in now if now[name] != recorded[name]]
        if changed:
            problems.append(f"epoch {epoch + 1} came out differently: {', '.join(changed)}")
            break
    return Verdict(experiment.name, seed, tuple(problems))
