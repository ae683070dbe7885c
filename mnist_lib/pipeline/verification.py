"""Checking a published record without training it again, in seconds, or with training, in full."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, zip_longest
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from mnist_lib import data, experiments, machine, records
from mnist_lib.base.digests import UNPARSABLE, code_digest
from mnist_lib.base.files import FileError
from mnist_lib.data import Images
from mnist_lib.experiments import Experiment
from mnist_lib.network import Network
from mnist_lib.parameters import ParameterError, Recipe
from mnist_lib.pipeline import catalogue
from mnist_lib.pipeline.catalogue import CODE_ONLY
from mnist_lib.records import Record, RecordError, record_path
from mnist_lib.training import PART, DivergenceError, Trainer

Weights = dict[str, torch.Tensor]

CHECKED = (
    "sizes",
    "parameter count",
    "learning rates",
    "first losses",
    "weights",
    "misclassified images",
    "training accuracy",
    "last loss on test images",
)
"""What is computed again and compared, besides the digests."""

AWAY = {"float32": 2**-17, "bfloat16": 2**-8}
"""How far, relative, the weights of a trial are from those that a run starts with.

In float32 that is 128 roundings, because sums of many numbers round many times. Where a unit switches or another pixel
is the largest of four, a loss jumps, and a trial that is one rounding away would seldom show it. In bfloat16 one
rounding is as far as a trial can be from a run and still be like it.
"""

MARGIN = {"float32": 4, "bfloat16": 50}
"""How many times farther than all trials another machine may be off; with two threads it was three times."""

TRIALS = 5
"""How many trials there are at most."""

LEAST = 5e-4
"""What every loss may be off elsewhere, relative, however slowly a run enlarges a difference."""

OTHER_DRAWS = 2
"""How many times farther than all trials a loss may be off where dropout leaves out other values."""

COMPARABLE = 0.05
"""What is off by more, relative, and could be for want of luck with rounding, tells nothing of the run."""

SAME_LOSS = 1e-5
"""How far, relative, the same weights may be from their recorded loss on the test images."""

TIE = 1e-5
"""Two scores that are apart by less than this share of the largest one are the same but for rounding."""

MOST_TIES = 10
"""Of more images than so many, ties are no accident: such weights were made to have them."""

NEAR = 0.5
"""How far, relative, each tensor may be from another seed's and the weights still be taken for them."""

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""The layers that leave out values by chance."""

SAME_MACHINE = ("device", "device_name", "cpu_capability", "torch")
"""What is the same, in the environment of a record, where the same bits can be expected."""

SURE = 0.999
"""The confidence of the interval in which a run that is trained again elsewhere must end."""


@dataclass(frozen=True)
class Verdict:
    """What was found about one record, as sentences: every problem (none if it holds), and what is not compared."""

    experiment: str
    seed: int
    problems: tuple[str, ...]
    open: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        """The run, in words."""
        return f"{self.experiment} seed {self.seed}"


def verify(experiment: Experiment, seed: int, device: torch.device, folder: Path | None = None) -> Verdict:
    """Check a published record, or one in another folder, against what can be computed again in seconds.

    These are compared: its name, the digests, the network's text; the numbers of parameters and of images; the learning
    rate of every epoch; the losses of the first steps, replayed; the published weights, evaluated again, with the
    recorded mistakes, image by image, the number of training images that they get right, and the last loss.

    Another kind of machine forms sums in another order. Where the first losses differ, how far that moves them is
    measured, run by run: what it may have moved too far is not compared, and the verdict says so.
    """
    path = record_path(folder or experiment.published, seed)
    try:
        return _compared(experiment, records.read(path), records.read_weights(path), device)
    except (RecordError, DivergenceError, ParameterError) as error:
        return Verdict(experiment.name, seed, (str(error),))


def _copied(record: Record, weights: Weights) -> Iterator[str]:
    """Problems of weights that are nearly those of another seed's record: runs that begin apart do not end together."""
    folder = record.path.parent
    for seed in records.published_seeds(folder):
        with suppress(RecordError):  # whatever is wrong with another record is said of that one
            path = record_path(folder, seed)
            begins_alike = seed == record.seed or catalogue.record(path).first_losses == record.first_losses
            if not begins_alike and _are_nearly(records.read_weights(path), weights):
                yield f"its weights are those of seed {seed}, or nearly, though the first losses are others"


def _are_nearly(some: Weights, others: Weights) -> bool:
    """Tell whether each tensor of numbers is apart from the other one by less than `NEAR` of its length."""
    if {name: each.shape for name, each in some.items()} != {name: each.shape for name, each in others.items()}:
        return False
    pairs = [(each.double(), others[name].double()) for name, each in some.items() if each.is_floating_point()]
    return all((one - other).norm() <= NEAR * one.norm() for one, other in pairs)


def _compared(experiment: Experiment, record: Record, weights: Weights, device: torch.device) -> Verdict:
    """Compare a record, and the weights beside it, with what can be computed again."""
    found, left_open = experiment.differences(record), list[str]()
    if missing := [run for run in learns_from(experiment, record.seed) if experiments.find_path(*run) is None]:
        found += [f"it learns from {run.name} seed {seed}, which has no current record" for run, seed in missing[:1]]
    elif {*found} <= CODE_ONLY:  # a run of another recipe is not compared: its weights need not even fit
        experiment.check()
        images = _images(experiment.recipe.dataset, experiment.recipe.evaluate_on)
        trainer = experiments.make_trainer(experiment, record.seed, device, images)
        found += [*_described(record, experiment), *_prepared(record, trainer), *_typed(weights, trainer)]
        for problems, unclear in (_replayed(record, trainer), _evaluated(record, weights, trainer)):
            found += problems
            left_open += unclear
    found += _copied(record, weights)
    return Verdict(experiment.name, record.seed, tuple(found), tuple(left_open))


def learns_from(experiment: Experiment, seed: int) -> list[tuple[Experiment, int]]:
    """Return the runs whose weights a run needs: the one that it begins with, and its teachers."""
    starts = [] if experiment.start is None else [(experiment.start, seed)]
    return starts + [(experiment.teacher, each) for each in range(experiment.recipe.teachers)]


@cache
def _images(dataset: str, evaluate_on: str) -> tuple[Images, Images]:
    """Load the images once for all records that a process checks."""
    return data.load(dataset, evaluate_on)


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
        recipe, network = experiments.recipe_of(record), Network(**record.network)
        found.append((Experiment(record.experiment, recipe, network), record.seed, file.parent))
    return found


def accept(experiment: Experiment, seed: int, device: torch.device) -> Verdict:
    """Check a record that is stale only because code changed, and give it the new digests if all else holds.

    For a change that computes the same as before, in the code that trains or in the network's function. The record says
    afterwards when this was done, what the digest was, and what was checked; its results stay as they are.
    """
    path = record_path(experiment.published, seed)
    try:
        with records.only_one(path):
            return _accepted(experiment, records.read(path), device)
    except (FileError, DivergenceError) as error:
        return Verdict(experiment.name, seed, (str(error),))


def _accepted(experiment: Experiment, record: Record, device: torch.device) -> Verdict:
    path = record_path(experiment.published, record.seed)
    weights = records.read_weights(path)
    reasons = experiment.differences(record)
    if not reasons or not {*reasons} <= CODE_ONLY | {experiments.CHANGED["network"]}:
        return _compared(experiment, record, weights, device)
    described = experiment.network.described
    stamped = dataclasses.replace(record, digests=experiment.digests, network=described)
    verdict = _compared(experiment, stamped, weights, device)
    if verdict.problems:
        return dataclasses.replace(verdict, problems=(*reasons, *verdict.problems))
    before = {kind: record.digests[kind] for kind in ("code", "network")}
    entry = before | {"date": machine.today(), "commit": machine.commit(), "checked": list(CHECKED)}
    environment = record.environment | {"accepted": [entry]}  # the last time counts
    stamped = dataclasses.replace(stamped, environment=environment)
    records.write(stamped, records.weights_path(path).read_bytes(), experiment.published)
    return verdict


def _described(record: Record, experiment: Experiment) -> Iterator[str]:
    """Problems of what a record says that it is a run of."""
    if record.experiment != experiment.name:
        yield f"experiment is {record.experiment!r}, its folder is that of {experiment.name!r}"
    for name in sorted(record.parameters.keys() - {f.name for f in dataclasses.fields(Recipe)}):
        yield f"parameters holds {name!r}, which no recipe has"
    for name in sorted(record.digests.keys() - experiment.digests.keys()):
        yield f"digests holds {name!r}, which no such run has"
    described = experiment.network.described
    if _exact(record.network) != _exact(described):
        for name in ("name", "arguments"):
            if _exact(record.network[name]) != _exact(described[name]):
                yield f"network, {name}: is {record.network[name]!r}, the notebook's is {described[name]!r}"
        if _code(record.network["source"]) != code_digest(described["source"]):
            yield "network, source: it builds another network than the notebook's does"


def _exact(value: object) -> str:
    return json.dumps(value, sort_keys=True)  # 6.0 is not 6


def _code(source: str) -> str | None:
    try:
        return code_digest(source)
    except UNPARSABLE:
        return None


def _prepared(record: Record, trainer: Trainer) -> Iterator[str]:
    """Problems of what is known before the first step: sizes and schedule."""
    computed = {
        "parameter_count": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "train_size": len(trainer.labels),
        "class_counts": torch.bincount(trainer.test_labels, minlength=10).tolist(),
    }
    for name, value in computed.items():
        if getattr(record, name) != value:
            yield f"{name} is {getattr(record, name)}, computed again it is {value}"
    last_steps = trainer.rates[trainer.steps_per_epoch - 1 :: trainer.steps_per_epoch]
    rates = [rate for rate, _ in last_steps]
    yield from _differing("learning_rate of epoch", record.history["learning_rate"], rates, [1e-12] * len(rates))


def _typed(weights: Weights, trainer: Trainer) -> Iterator[str]:
    """Problems of weights that are of another type than the network's, which would be rounded when they are loaded."""
    for name, tensor in trainer.model.state_dict().items():
        if name in weights and weights[name].dtype != tensor.dtype:
            yield f"weights: {name} is of {weights[name].dtype}, the network's of {tensor.dtype}"


def _replayed(record: Record, trainer: Trainer) -> tuple[list[str], list[str]]:
    """Problems of the first steps, and which losses cannot be compared. The trainer has taken steps afterwards."""
    start, losses = trainer.state(), trainer.replay()
    if losses == record.first_losses:  # to the last bit: what rounding may do need not be measured
        return [], []
    if _draws_elsewhere(record, trainer):
        return _among_other_draws(record, trainer, start, losses)
    for tolerances in _tolerances(trainer, start, losses):  # they grow: what is within the first is within all
        problems = _differing("the loss of step", record.first_losses, losses, tolerances)
        if not problems:
            break
    else:
        return problems, []
    off = max(abs(old - new) / new for old, new in zip(record.first_losses, losses, strict=True) if old != new)
    if off <= COMPARABLE:
        return [], []
    return [], [f"the first losses: one is off by {off:.0%}, and rounding alone may move it by {tolerances[-1]:.0%}"]


def _draws_elsewhere(record: Record, trainer: Trainer) -> bool:
    """Tell whether the network draws random numbers on its device, and the record is from another kind of device."""
    drops = any(isinstance(layer, DROPOUT) and layer.p for layer in trainer.model.modules())
    return drops and record.environment.get("device", "cpu") != trainer.device.type


def _among_other_draws(
    record: Record, trainer: Trainer, start: Mapping[str, torch.Tensor], losses: Sequence[float]
) -> tuple[list[str], list[str]]:
    """Compare first losses, of which each value could be another one, with those of runs that draw other numbers.

    From the same start, a loss is then another one by chance. It may be off by `OTHER_DRAWS` times what any loss of the
    trials is.
    """
    farthest, seed = 0.0, trainer.seed
    for trial in range(1, TRIALS + 1):
        trainer.optimizer.state.clear()
        trainer.restore(start, 0, [])
        trainer.seed = seed + trial
        others = trainer.replay()
        farthest = max(farthest, *(abs(other - loss) / loss for other, loss in zip(others, losses, strict=True)))
    trainer.seed = seed
    tolerances = [OTHER_DRAWS * farthest] * len(losses)
    problems = _differing("the loss of step", record.first_losses, losses, tolerances)
    return problems, [
        f"the first losses: on another kind of device, dropout leaves out other values; {tolerances[0]:.0%} is allowed"
    ]


def replayed(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Take the first steps of a run; returns their losses, and how far, relative, rounding may move each elsewhere.

    That is measured: the same steps are taken from starts whose weights are `AWAY` from the run's. What these losses
    are apart, times `MARGIN`, is what another order of sums may make of them; it is at least `LEAST`, and never falls.
    """
    start, losses = trainer.state(), trainer.replay()
    return losses, [*_tolerances(trainer, start, losses)][-1]


def _tolerances(trainer: Trainer, start: Mapping[str, torch.Tensor], losses: Sequence[float]) -> Iterator[list[float]]:
    """Say how far, relative, rounding may move each of the losses of the first steps, taken from `start`.

    Each trial adds to it, so the last answer is the widest.
    """
    away, margin = AWAY[trainer.recipe.precision], MARGIN[trainer.recipe.precision]
    farthest = [0.0] * len(losses)
    for trial in range(TRIALS):
        generator = torch.Generator().manual_seed(trial)
        trainer.optimizer.state.clear()
        trainer.restore({name: _nudged(value, away, generator) for name, value in start.items()}, 0, [])
        try:
            others = trainer.replay()
        except DivergenceError:
            others = [math.inf] * len(losses)
        apart = [
            abs(other - loss) / abs(loss) if loss else math.inf for other, loss in zip(others, losses, strict=True)
        ]
        farthest = list(map(max, farthest, accumulate(apart, max)))
        yield [max(LEAST, margin * each) for each in farthest]


def _nudged(weights: torch.Tensor, away: float, generator: torch.Generator) -> torch.Tensor:
    """Return weights of which each is a little larger or smaller, by chance."""
    if not weights.is_floating_point():
        return weights
    signs = torch.randint(0, 2, weights.shape, generator=generator) * 2 - 1
    return weights * (1 + away * signs)


def _differing(
    what: str, recorded: Sequence[float], computed: Sequence[float], tolerances: Sequence[float]
) -> list[str]:
    """Return the first difference, if there is one: later ones may follow from it. Tolerances are relative."""
    rows = zip_longest(recorded, computed, tolerances, fillvalue=math.nan)
    for number, (old, new, tolerance) in enumerate(rows, 1):
        if not abs(old - new) <= tolerance * abs(new):
            return [f"{what} {number} is {old!r}, computed again it is {new!r}"]
    return []


def _evaluated(record: Record, weights: Weights, trainer: Trainer) -> tuple[list[str], list[str]]:
    """Problems of what comes after training, and what is open: the published weights must make the recorded mistakes.

    Where two digits have the same score but for rounding, either answer may be the recorded one.
    """
    try:
        trainer.load_final(weights)
    except RuntimeError:  # torch names every tensor in it
        return ["the published weights do not fit the network"], []
    problems, left_open = [], []
    scores = _scores(trainer, trainer.test_images.split(PART))
    loss, recorded = float(cross_entropy(scores, trainer.test_labels)), record.history["test_loss"][-1]
    if not math.isclose(recorded, loss, rel_tol=SAME_LOSS):
        problems.append(f"test_loss of the last epoch is {recorded!r}, the published weights give {loss!r}")
    mistakes = experiments.misclassified(scores.argmax(1), trainer.test_labels)
    differing = sorted({pair[0] for pair in {*map(tuple, mistakes)} ^ {*map(tuple, record.misclassified)}})
    undecided = _undecided(scores).nonzero().flatten().tolist()
    if wrong := [index for index in differing if index not in undecided]:
        images = ", ".join(map(str, wrong[:5]))
        problems.append(f"misclassified differs from what the published weights do, at images {images}")
    elif differing:
        left_open.append(f"the answers to images {differing}: two digits have the same score but for rounding")
    scores = _scores(trainer, ((part - trainer.mean) / trainer.std for part in trainer.images.split(PART)))
    trained = int((scores.argmax(1) == trainer.labels).sum())
    if abs(record.trained_correct - trained) > int(_undecided(scores).sum()):
        problems.append(f"trained_correct is {record.trained_correct}, the published weights get {trained} right")
    elif record.trained_correct != trained:
        left_open.append("trained_correct: as many training images have two digits of the same score but for rounding")
    return problems, left_open


@torch.no_grad()
def _scores(trainer: Trainer, parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the logits for normalised images that come in parts, shape ``(n, 10)``."""
    model = trainer.evaluated()
    return torch.cat([model(part.to(memory_format=torch.channels_last)) for part in parts])


def _undecided(scores: torch.Tensor) -> torch.Tensor:
    """Return for which images the two largest scores are the same but for rounding, shape ``(n,)``."""
    first, second = scores.topk(2).values.unbind(1)
    tied = first - second <= TIE * scores.abs().amax(1)
    return tied & (tied.sum() <= MOST_TIES)


def verify_fully(experiment: Experiment, seed: int, device: torch.device) -> Verdict:
    """Train a published run again and compare its first losses, every epoch and the weights, to the last bit.

    Before, the record is checked as `verify` does; where that finds more than changed code, nothing is trained. The
    same bits can be expected on the same kind of machine only. Where no epoch has a loss that is the recorded one, to
    the last bit, this is another kind: the run is another draw, as with another seed. It must end where one more run
    would, by those that are published, and its epochs stay open.
    """
    verdict = verify(experiment, seed, device)
    if not {*verdict.problems} <= CODE_ONLY:
        return verdict
    record = records.read(record_path(experiment.published, seed))
    trainer = experiments.make_trainer(experiment, seed, device)
    changed, is_alike = [], False
    for number in tqdm(range(experiment.recipe.epochs), unit="epoch", desc=f"{experiment.name} seed {seed}"):
        try:
            now = dataclasses.asdict(trainer.train_epoch())
        except DivergenceError as error:
            return dataclasses.replace(verdict, problems=(*verdict.problems, str(error)))
        recorded = {name: values[number] for name, values in record.history.items()}
        is_alike = is_alike or any(now[name] == recorded[name] for name in ("train_loss", "test_loss"))
        words = [f"{name} {recorded[name]!r}, now {now[name]!r}" for name in now if now[name] != recorded[name]]
        changed += [f"epoch {number + 1} came out differently: {', '.join(words)}"] * bool(words)
        if is_alike and changed:
            break
    else:
        published = records.read_weights(record_path(experiment.published, seed))  # not their file: it may hold more
        now_there = trainer.evaluated().state_dict()
        if all(torch.equal(value, now_there[name].cpu()) for name, value in published.items()):
            is_alike = True
        elif not changed:
            changed = ["the weights came out differently"]
    if is_alike:
        now_first = trainer.first_losses
        changed += _differing("the loss of step", record.first_losses, now_first, [0.0] * len(now_first))
        return dataclasses.replace(verdict, problems=(*verdict.problems, *changed[:1]))
    accuracy = 100 * now["test_correct"] / record.test_size
    problems, left_open = _another_draw(experiment, record, accuracy, device)
    return Verdict(experiment.name, seed, (*verdict.problems, *problems), (*verdict.open, *left_open))


def _another_draw(
    experiment: Experiment, record: Record, accuracy: float, device: torch.device
) -> tuple[list[str], list[str]]:
    """Judge the test accuracy that a run has come to elsewhere, in percent, by those of the published runs."""
    from mnist_lib.results.statistics import FEWEST, prediction_interval  # scipy takes a second, in every worker

    seeds = records.published_seeds(experiment.published)
    there = [records.read(record_path(experiment.published, each)).test_accuracy[-1] for each in seeds]
    around = prediction_interval(there, confidence=SURE)
    ends = f"it ends at {accuracy:.2f} %, recorded is {record.test_accuracy[-1]:.2f} %"
    if len(there) >= FEWEST and not around.low <= accuracy <= around.high:
        return [f"trained again {ends}; one more run would be expected at {around}"], []
    here = machine.describe(device)
    same = all(record.environment.get(key) == here[key] for key in SAME_MACHINE)
    kind = ", though the record names this kind of machine" if same else ", as on another kind of machine"
    return [], [f"its epochs: no loss comes out to the last bit{kind}; trained again, {ends}"]
