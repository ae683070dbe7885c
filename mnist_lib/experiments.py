"""One recipe, many seeds: find the record of each run, or train it.

Published records lie in ``book/records/<experiment>/``. Runs with other parameters go to a store of their own
(``MNIST_LIB_RUNS``, else the user's cache directory), so that trying things out never touches what is published.
"""

import dataclasses
import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
import torch
from torch import nn

from mnist_lib import augmentation, data, machine, optimization, records, training
from mnist_lib.base import loaded, progress
from mnist_lib.base.digests import bytes_digest, text_digest
from mnist_lib.base.files import FileError, write_atomically
from mnist_lib.machine import resolve_device
from mnist_lib.network import Network
from mnist_lib.parameters import ParameterError, Recipe
from mnist_lib.records import Record, RecordError

loaded.remember()

CHANGED = {
    "network": "the network is another",
    "code": "the training code changed",
    "data": "the data changed",
    "start": "what trains the weights at the start changed",
    "teacher": "what trains the teachers changed",
}
"""What is said where a digest of a record is no longer that of its experiment."""

PUBLISHED_ONLY = "MNIST_LIB_PUBLISHED_ONLY"
"""The environment variable that is set while a page is made for the book: nothing but published records counts."""

Report = Callable[["Experiment", int, training.Epoch, int, float], None]
"""Called after every epoch with the experiment, the seed, the epoch's result, its number and its seconds."""


@dataclass(frozen=True)
class Experiment:
    """A recipe and a network with a name: the notebook's, with ``/`` and a variant where it has several recipes.

    Arguments:
        name: a label; it names the folder of published records.
        recipe: what is done.
        network: the function that builds the network, or its `Network`.
        start: a run begins with the trained weights of that experiment's run of the same seed.
        teacher: runs learn from the first ``recipe.teachers`` runs of that experiment.

    Raises:
        ParameterError: the name could not name a folder, or the network is no function whose text is found.
    """

    name: str
    recipe: Recipe
    network: Network
    start: "Experiment | None" = None
    teacher: "Experiment | None" = None

    def __post_init__(self) -> None:
        if not records.is_name(self.name):
            raise ParameterError(f"name = {self.name!r:.80}: expected {records.NAMED}")
        if not isinstance(self.recipe, Recipe):
            raise ParameterError(f"recipe = {self.recipe!r:.60}: expected a Recipe, such as Recipe(epochs=2)")
        if bool(self.recipe.teachers) != (self.teacher is not None):
            raise ParameterError(f"teachers = {self.recipe.teachers}: it goes with an experiment to learn from")
        object.__setattr__(self, "network", Network.of(self.network))

    def check(self) -> None:
        """Refuse what training would fail over, or what would change nothing, as far as it is seen at once.

        Raises:
            ParameterError: as `Network.check`, or statistics are to be counted that the network does not keep, or of a
                single image.
        """
        if self.recipe.statistics_images == 1:
            raise ParameterError("statistics_images = 1: one image has no spread; expected 0, for none, or from 2")
        self.network.check(statistics=self.recipe.statistics_images > 0)

    def try_out(self) -> None:
        """Check, and train an epoch on a few made-up images, so that no run fails over the network later.

        Raises:
            ParameterError: as `check`, or the network cannot be trained, or does not answer by its weights alone.
        """
        self.check()
        chosen = {name: getattr(self.recipe, name) for name in ("optimizer", "precision", "average_decay")}
        statistics = min(self.recipe.statistics_images, 8)
        recipe = Recipe(epochs=1, batch_size=3, learning_rate=0.001, statistics_images=statistics, **chosen)
        self.network.refuse("it cannot be trained", lambda: _tried(self.network, recipe))

    @property
    def digests(self) -> dict[str, str]:
        """What a run's result depends on besides its recipe: the network, the training code and the data."""
        digests = {
            "code": code_digest(self.recipe),
            "network": self.network.digest,
            "data": data.DATASETS[self.recipe.dataset].digest,
        }
        others = {"start": self.start, "teacher": self.teacher}
        return digests | {kind: other.digest for kind, other in others.items() if other is not None}

    @property
    def digest(self) -> str:
        """All that decides a run's result, the seed aside, as one digest."""
        return text_digest(json.dumps(self.recipe.identity, sort_keys=True), *self.digests.values())

    @property
    def published(self) -> Path:
        """The folder of this experiment's published records."""
        return published_records() / self.name

    @property
    def store(self) -> Path:
        """The folder of runs that are not published; the end of its name depends on all that decides their result.

        Raises:
            FileError: as `own_runs`.
        """
        code = self.digest[:16]
        folder = own_runs()
        there = sorted(folder.glob(f"*-{code}"))  # whoever named it
        return there[0] if there else folder / f"{self.name.replace('/', '-')}-{code}"

    @property
    def script(self) -> str:
        """What makes the runs of this experiment, as a script to read or to run; not what they begin with."""
        others = {"begin with the weights of": self.start, "learn from": self.teacher}
        notes = [f"\nThey {what} the runs of {other.name}, made first.\n" for what, other in others.items() if other]
        recipe = "".join(f"    {name}={value!r},\n" for name, value in self.recipe.identity.items())
        network = f"Network.of({self.network.name})"
        if self.network.arguments:
            network += f".with_arguments({dict(self.network.arguments)!r})"
        parts = [
            f'"""What made the runs in this folder: a recipe and a network.\n{"".join(notes)}"""\n',
            "from mnist_lib import Experiment, Network, Recipe, runs\n\n",
            f"{self.network.source}\n",
            f"recipe = Recipe(\n{recipe})\nexperiment = Experiment({self.name!r}, recipe, {network})",
            "for run in runs(experiment, seeds=1):  # found, or made again",
            "    print(run.seed, run.test_accuracy[-1])\n",
        ]
        return "\n".join(parts[: 4 if notes else None])

    def differences(self, record: Record, digests: Mapping[str, str] | None = None) -> list[str]:
        """Say why `record` is not a run of this experiment as it stands; empty if it is.

        Whoever looks at many records may ask for this experiment's `digests` once, and give them.
        """
        try:
            was = recipe_of(record).identity
        except ParameterError as error:
            return [str(error)]
        now, digests = self.recipe.identity, digests or self.digests
        pairs = {f.name: [each.get(f.name, f.default) for each in (was, now)] for f in dataclasses.fields(Recipe)}
        reasons = [f"{name} was {old!r}, is {new!r}" for name, (old, new) in sorted(pairs.items()) if old != new]
        return reasons + [said for kind, said in CHANGED.items() if record.digests.get(kind) != digests.get(kind)]


@cache
def _tried(network: Network, recipe: Recipe) -> str:
    """Train on images of noise, 3, 3 and 2 at a time, and say what goes wrong with a run; nothing if all is well."""
    noise = torch.randint(0, 256, (8, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = data.Images(noise, torch.arange(8))

    def begun() -> training.Trainer:
        return training.begin(recipe, network, 0, torch.device("cpu"), images=(images, images))

    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            return _behaves(begun(), begun())
    finally:
        torch.set_num_threads(threads)


def _behaves(trainer: training.Trainer, other: training.Trainer) -> str:
    """Say what is wrong with the way in which a network answers, of which these are two runs that begin alike."""
    if trainer.recipe.optimizer == "muon" and not any(map(optimization.is_kernel, trainer.model.parameters())):
        return "it has no kernels that mix channels, which muon is for: take adamw, with other_learning_rate"
    shown, (loss, _) = trainer.test_images.clone(), trainer.evaluate()
    if not torch.equal(trainer.test_images, shown):
        return "it changes the images that it is shown: write x = x + 1, say, and not x += 1"
    if not math.isclose(trainer.evaluate()[0], loss):
        return "it answers differently when it is asked again: does it draw or count something in evaluation, too?"
    with suppress(training.DivergenceError):  # noise may be too much for a network that images are not
        trainer.train_epoch()
    safetensors.torch.save(trainer.state())  # as after each epoch
    other.load_final(safetensors.torch.load(final_weights(trainer)))
    loss, _ = trainer.evaluate()
    if math.isfinite(loss) and not math.isclose(other.evaluate()[0], loss, rel_tol=1e-3):
        return "it remembers something that is none of its weights, so its record would not hold"
    return ""


def code_digest(recipe: Recipe) -> str:
    """Return the digest of the code that trains by `recipe`, as it is loaded: only what the recipe switches on counts.

    Raises:
        CodeError: the code was changed after it was loaded.
    """
    dataset = data.DATASETS[recipe.dataset]
    optional = {
        "optimization.follow": recipe.average_decay,
        "optimization.fresh_statistics": recipe.statistics_images,
        "augmentation.deskew": recipe.preparation == "deskew",
        "training.taught": recipe.teachers,
        "fast.in_bfloat16": recipe.precision == "bfloat16",
    }
    used = [f"augmentation.{change.__name__}" for change in augmentation.chosen(recipe)]
    used += [
        f"optimization.{recipe.optimizer}",
        f"optimization.{recipe.identity.get('schedule', 'constant')}",
        f"data.{dataset.read.__name__}",
    ]
    used += [name for name, is_on in optional.items() if is_on]
    choosing = ["augmentation.chosen", "optimization.make", "optimization.rates", "data.DATASETS", "data.folder"]
    left_out = [*choosing, *(name for name, is_on in optional.items() if not is_on)]
    held_out = f"{dataset.held_out} held out" if recipe.evaluate_on == "validation" else ""
    return text_digest(loaded.digest(["training.begin", "training.Trainer", *used], left_out), held_out)


def root() -> Path:
    """Where the notebooks and the published records are: the checkout, or the copy inside an installed package."""
    package = Path(__file__).parent
    installed = package / "_published"
    return installed if installed.is_dir() else package.parent


def published_records() -> Path:
    """Return the folder of all published records."""
    return root() / "book" / "records"


def runs_directory() -> Path:
    """Where runs with changed parameters are kept."""
    named = os.environ.get("MNIST_LIB_RUNS")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("mnist_lib") / "runs"


def own_runs() -> Path:
    """Return `runs_directory`, which need not be there yet.

    Raises:
        FileError: it may not be looked at, or its name is too long for a folder, or published records lie in it.
    """
    folder, published = runs_directory(), published_records().resolve()
    if published.is_relative_to(there := folder.resolve()) or there.is_relative_to(published):
        raise FileError(f"{folder}: published records lie there, which are no runs of yours. {_elsewhere()}")
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever writes there makes it, or says why not
    except OSError as error:
        raise FileError(f"{folder} cannot be read: {error.strerror}. {_elsewhere()}") from error
    return folder


def _elsewhere() -> str:
    return f"Your runs are kept in {runs_directory()}; to keep them elsewhere, set MNIST_LIB_RUNS"


@contextmanager
def in_store(folder: Path) -> Iterator[None]:
    """While this is entered, an error that something cannot be written in the store says how to choose another one."""
    try:
        yield
    except RecordError:  # is damaged, or somebody else's: another folder would not help
        raise
    except FileError as error:
        if not folder.is_relative_to(runs_directory()):
            raise
        raise FileError(f"{error}. {_elsewhere()}") from error


def find(experiment: Experiment, seed: int) -> Record | None:
    """Return the record of this run, published or not, if there is one that is still valid; it has the asked name."""
    path = find_path(experiment, seed)
    return None if path is None else dataclasses.replace(records.read(path), experiment=experiment.name)


def find_path(experiment: Experiment, seed: int) -> Path | None:
    """Say where the record of this run lies, published or not, if there is one that is still valid."""
    for kind in ("published",) if PUBLISHED_ONLY in os.environ else ("published", "store"):
        path = records.record_path(getattr(experiment, kind), seed)
        # What may not be looked at is not there: training then says that it cannot be written.
        if os.path.exists(path) and not experiment.differences(records.read(path)):
            return path
    return None


def runs(
    experiment: Experiment, seeds: int | list[int] = 5, device: str = "auto", report: Report | None = None
) -> list[Record]:
    """Find the records of all seeds (a list, or how many), and train those that are missing.

    `report` says how training goes; without it, progress is shown.

    Raises:
        ParameterError: the seeds are no such numbers, or as the parts say.
        DataError, DivergenceError, FileError: as the parts say; finished runs are kept.
    """
    where = resolve_device(device)
    wanted = checked_seeds(range(seeds) if type(seeds) is int else seeds)
    say = progress.shown() if report is None else report
    found = [find(experiment, seed) or train(experiment, seed, where, experiment.store, say) for seed in wanted]
    return [dataclasses.replace(record, experiment=experiment.name) for record in found]


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Return the seeds.

    Raises:
        ParameterError: one is no whole number from 0 that every program reads alike, or is there twice.
    """
    found = tuple(seeds)
    if any(type(seed) is not int or not 0 <= seed <= 2**53 for seed in found) or len({*found}) < len(found):
        raise ParameterError(f"seeds = {list(found)!r:.60}: expected whole numbers from 0, none of them twice")
    return found


def train(
    experiment: Experiment, seed: int, device: torch.device, folder: Path, report: Report | None = None
) -> Record:
    """Train one run and write its record to `folder`; an interrupted run continues from its last finished epoch.

    If another process is at the same run, this one waits, then takes the record that the other has written.

    Raises:
        DataError: the images are missing or damaged.
        DivergenceError: the loss became NaN or infinite; no record is written.
        FileError: the folder cannot be written.
    """
    if PUBLISHED_ONLY in os.environ:
        raise RecordError(
            f"{experiment.name} seed {seed} has no published record, and a page trains none: see mnist-lib status"
        )
    path, checkpoint = records.record_path(folder, seed), _checkpoint(folder, seed)
    with in_store(folder), records.only_one(path):
        if path.exists() and not experiment.differences(found := records.read(path)):
            record = found
        else:
            experiment.try_out()  # before the images are loaded
            record = _train(experiment, seed, device, checkpoint, report)
            explain(experiment, folder)
        checkpoint.unlink(missing_ok=True)
    return record


def explain(experiment: Experiment, folder: Path) -> None:
    """Write what makes its runs into a folder of your own store, for whoever looks there; nowhere else.

    Raises:
        FileError: the folder cannot be written.
    """
    path = folder / "experiment.py"
    if folder.is_relative_to(runs_directory()) and not path.exists():
        write_atomically(path, experiment.script.encode())


def forget_other_checkpoint(experiment: Experiment, seed: int, folder: Path) -> None:
    """Delete what is left of an interrupted run in `folder`, unless it is of this very experiment."""
    path = _checkpoint(folder, seed)
    with records.only_one(records.record_path(folder, seed)):
        try:
            _read_checkpoint(path, experiment)
        except RecordError:
            path.unlink()


def _checkpoint(folder: Path, seed: int) -> Path:
    return folder / f"seed_{seed}.partial.safetensors"


def _train(experiment: Experiment, seed: int, device: torch.device, checkpoint: Path, report: Report | None) -> Record:
    recipe = experiment.recipe
    trainer = make_trainer(experiment, seed, device)
    epochs, seconds = [], []
    if (found := _read_checkpoint(checkpoint, experiment)) is not None:
        done, tensors = found
        epochs, seconds = [training.Epoch(**entry) for entry in done["epochs"]], done["seconds"]
        trainer.restore(tensors, len(epochs), done["first_losses"])
    while len(epochs) < recipe.epochs:
        start = time.perf_counter()
        try:
            epoch = trainer.train_epoch()
            if not math.isfinite(epoch.test_loss):  # the last step may break the weights and not its own loss
                raise training.DivergenceError(
                    f"the loss on the evaluation images became {epoch.test_loss} after epoch {len(epochs) + 1}; "
                    f"the run stopped there. Try a smaller learning_rate (it was {recipe.learning_rate:g})"
                )
        except training.DivergenceError:
            checkpoint.unlink(missing_ok=True)
            raise
        epochs.append(epoch)
        seconds.append(round(time.perf_counter() - start, 3))
        if len(epochs) < recipe.epochs:
            _save(trainer, checkpoint, experiment, epochs, seconds)
        if report is not None:
            report(experiment, seed, epoch, len(epochs), seconds[-1])

    weights = final_weights(trainer)
    record = Record(
        experiment=experiment.name,
        seed=seed,
        parameters=dataclasses.asdict(recipe),
        network=experiment.network.described,
        digests=experiment.digests,
        parameter_count=sum(parameter.numel() for parameter in trainer.model.parameters()),
        train_size=len(trainer.labels),
        class_counts=torch.bincount(trainer.test_labels, minlength=10).tolist(),
        history={f.name: [getattr(e, f.name) for e in epochs] for f in dataclasses.fields(training.Epoch)},
        first_losses=trainer.first_losses,
        misclassified=misclassified(trainer.evaluate()[1], trainer.test_labels),
        trained_correct=trainer.trained_correct(),
        weights_digest=bytes_digest(weights),
        environment=machine.describe(device) | {"epoch_seconds": seconds},
    )
    records.write(record, weights, checkpoint.parent)
    return record


def make_trainer(
    experiment: Experiment, seed: int, device: torch.device, images: tuple[data.Images, data.Images] | None = None
) -> training.Trainer:
    """Prepare a run before its first step; what it starts or learns from is trained first where it is missing.

    With `images`, these are trained and evaluated on, in the place of the recipe's.

    Raises:
        DataError: the images are missing or damaged.
    """
    gc.collect()  # a trainer holds its own step: an earlier one, and its images, are gone when cycles are looked for
    weights = None if experiment.start is None else _weights(experiment.start, seed, device)
    teachers = [_trained(experiment.teacher, each, device) for each in range(experiment.recipe.teachers)]
    return training.begin(experiment.recipe, experiment.network, seed, device, weights, teachers, images)


def recipe_of(record: Record) -> Recipe:
    """Return the recipe of a record; what no recipe has is left out.

    Raises:
        ParameterError: a value is not accepted.
    """
    known = {f.name for f in dataclasses.fields(Recipe)}
    return Recipe(**{name: value for name, value in record.parameters.items() if name in known})


def misclassified(predictions: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
    """Return what is wrong in `predictions`, of shape ``(n,)``: ``[index, label, prediction]`` each, by index."""
    wrong = (predictions != labels).nonzero().flatten()
    return torch.stack([wrong, labels[wrong], predictions[wrong]], 1).tolist()


def final_weights(trainer: training.Trainer) -> bytes:
    """Return the weights that are evaluated, as a record's file of weights holds them."""
    return safetensors.torch.save({name: training.copied(v) for name, v in trainer.evaluated().state_dict().items()})


def _weights(experiment: Experiment, seed: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the weights after a run, which is trained if it is missing."""
    path = find_path(experiment, seed)
    if path is None:
        train(experiment, seed, device, experiment.store)
        path = records.record_path(experiment.store, seed)
    return records.read_weights(path)


def _trained(experiment: Experiment, seed: int, device: torch.device) -> nn.Module:
    """Return the network after a run."""
    network = experiment.network()
    network.load_state_dict(_weights(experiment, seed, device))
    return network


def _identity(experiment: Experiment) -> dict[str, Any]:
    return {"recipe": experiment.recipe.identity, "digests": experiment.digests}


def _save(
    trainer: training.Trainer, path: Path, experiment: Experiment, epochs: list[training.Epoch], seconds: list[float]
) -> None:
    done = json.dumps(
        _identity(experiment)
        | {
            "epochs": [dataclasses.asdict(e) for e in epochs],
            "seconds": seconds,
            "first_losses": trainer.first_losses,
        }
    )
    state = trainer.state()
    metadata = {"progress": done, "digest": _checkpoint_digest(done, state)}
    write_atomically(path, safetensors.torch.save(state, metadata))


def _checkpoint_digest(done: str, state: dict[str, torch.Tensor]) -> str:
    """Safetensors has no checksum: a damaged number would go unseen into the rest of the run."""
    return text_digest(done, bytes_digest(safetensors.torch.save(state)))


def _read_checkpoint(path: Path, experiment: Experiment) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Return what is written of a run's progress, and its state; None if there is nothing."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        done = json.loads(metadata["progress"])
        if metadata["digest"] != _checkpoint_digest(metadata["progress"], tensors):
            raise ValueError("its content does not have its digest")
    except (safetensors.SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise RecordError(f"{path}: damaged checkpoint ({error}); delete it to start the run anew") from error
    if {key: done[key] for key in ("recipe", "digests")} != json.loads(json.dumps(_identity(experiment))):
        raise RecordError(
            f"{path}: this run was begun with another recipe or under other code, and would not be one run if it went "
            "on; go back to that code and restart, or delete the file to start the run anew"
        )
    return done, tensors
