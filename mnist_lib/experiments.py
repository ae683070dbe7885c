"""One recipe, many seeds: find the record of each run, or train it.

Published records lie in ``book/records/<experiment>/``. Runs with other parameters go to a store of their own
(``MNIST_LIB_RUNS``, else the user's cache directory), so that trying things out never touches what is published.
"""

import dataclasses
import difflib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
import torch
from torch import nn

from mnist_lib import augmentation, data, fast, fields, files, machine, models, records, reported, training
from mnist_lib.digests import bytes_digest, definition_digest, files_digest, text_digest
from mnist_lib.machine import resolve_device
from mnist_lib.parameters import ParameterError, Recipe
from mnist_lib.records import Record, RecordError
from mnist_lib.results import architecture

NETWORKS = models.NETWORKS | reported.NETWORKS

CODE_CHANGED = "the training code changed"
START_CHANGED = "what trains the weights at the start changed"

Report = Callable[["Experiment", int, training.Epoch, int, float], None]
"""Called after every epoch with the experiment, the seed, the epoch's result, its number and its seconds."""


@dataclass(frozen=True)
class Experiment:
    """A recipe with a name: the notebook's, with ``/`` and a variant where a notebook has several recipes.

    With `start`, a run begins with the trained weights of that experiment's run of the same seed.

    Raises:
        ParameterError: the name could not name a folder, or the network is unknown.
    """

    name: str
    recipe: Recipe
    start: "Experiment | None" = None

    def __post_init__(self) -> None:
        if not fields.is_name(self.name):
            raise ParameterError(f"name = {self.name!r:.80}: expected a name such as iteration_11_mine")
        if self.recipe.network not in NETWORKS:
            near = difflib.get_close_matches(self.recipe.network, NETWORKS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(f"network = {self.recipe.network!r}: expected one of {', '.join(NETWORKS)}{hint}")

    def network(self) -> nn.Module:
        """The untrained network."""
        return NETWORKS[self.recipe.network]()

    @property
    def digests(self) -> dict[str, str]:
        """What a run's result depends on besides its parameters: the training code and the data."""
        modules = [training, augmentation] + [fast] * (self.recipe.precision == "bfloat16")
        loop = files_digest(Path(module.__file__) for module in modules)
        digests = {
            "code": text_digest(loop, network_digest(self.recipe.network)),
            "data": data.DIGESTS[self.recipe.dataset],
        }
        return digests if self.start is None else digests | {"start": self.start.digest}

    @property
    def digest(self) -> str:
        """All that decides a run's result, the seed aside, as one digest."""
        return text_digest(json.dumps(dataclasses.asdict(self.recipe), sort_keys=True), *self.digests.values())

    @property
    def published(self) -> Path:
        """The folder of this experiment's published records."""
        return published_records() / self.name

    @property
    def store(self) -> Path:
        """The folder of runs that are not published; it depends on all that decides their result."""
        return runs_directory() / self.digest[:20]

    def differences(self, record: Record) -> list[str]:
        """Why `record` is not a run of this experiment as it stands; empty if it is."""
        reasons = []
        defaults = {f.name: f.default for f in dataclasses.fields(Recipe)}
        for name, value in dataclasses.asdict(self.recipe).items():
            recorded = record.parameters.get(name, defaults[name])
            if recorded != value:
                reasons.append(f"{name} was {recorded!r}, is {value!r}")
        words = {"code": CODE_CHANGED, "data": "the data changed", "start": START_CHANGED}
        digests = self.digests
        changed = [kind for kind in words if record.digests.get(kind) != digests.get(kind)]
        return reasons + [words[kind] for kind in changed]


def network_digest(name: str) -> str:
    """The digest of the code that a network is built by."""
    network = NETWORKS[name]
    return definition_digest(Path(network.__code__.co_filename).read_text("utf-8"), network.__name__)


def root() -> Path:
    """Where the notebooks and the published records are: the checkout, or the copy inside an installed package."""
    package = Path(__file__).parent
    installed = package / "_published"
    return installed if installed.is_dir() else package.parent


def published_records() -> Path:
    """The folder of all published records."""
    return root() / "book" / "records"


def runs_directory() -> Path:
    """Where runs with changed parameters are kept."""
    return Path(os.environ.get("MNIST_LIB_RUNS") or platformdirs.user_cache_path("mnist_lib") / "runs")


def find(experiment: Experiment, seed: int) -> Record | None:
    """The record of this run, published or not, if there is one that is still valid."""
    path = find_path(experiment, seed)
    return None if path is None else records.read(path)


def find_path(experiment: Experiment, seed: int) -> Path | None:
    """Where the record of this run lies, published or not, if there is one that is still valid."""
    paths = (records.record_path(folder, seed) for folder in (experiment.published, experiment.store))
    return next((path for path in paths if path.exists() and not experiment.differences(records.read(path))), None)


def runs(
    experiment: Experiment, seeds: int | list[int], device: str = "auto", report: Report | None = None
) -> list[Record]:
    """The records of all seeds (a list, or how many), found or trained.

    Raises:
        ParameterError, DataError, DivergenceError, RecordError: as the parts say; finished runs are kept.
    """
    where = resolve_device(device)
    wanted = list(range(seeds)) if isinstance(seeds, int) else seeds
    return [find(experiment, seed) or train(experiment, seed, where, experiment.store, report) for seed in wanted]


def train(
    experiment: Experiment, seed: int, device: torch.device, folder: Path, report: Report | None = None
) -> Record:
    """Train one run and write its record to `folder`; an interrupted run continues from its last finished epoch.

    If another process is at the same run, this one waits, then takes the record that the other has written.

    Raises:
        DataError: the images are missing or damaged.
        DivergenceError: the loss became NaN or infinite; no record is written.
        RecordError: the folder cannot be written.
    """
    path = records.record_path(folder, seed)
    checkpoint = folder / f"seed_{seed}.partial.safetensors"
    with records.only_one(path):
        if path.exists() and not experiment.differences(found := records.read(path)):
            record = found
        else:
            record = _train(experiment, seed, device, checkpoint, report)
        checkpoint.unlink(missing_ok=True)
    return record


def _train(experiment: Experiment, seed: int, device: torch.device, checkpoint: Path, report: Report | None) -> Record:
    recipe = experiment.recipe
    trainer = make_trainer(experiment, seed, device)
    epochs, seconds = _resume(trainer, checkpoint, experiment)
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

    state = {name: value.cpu().contiguous() for name, value in trainer.model.state_dict().items()}
    weights = safetensors.torch.save(state)
    record = Record(
        experiment=experiment.name,
        seed=seed,
        parameters=dataclasses.asdict(recipe),
        digests=experiment.digests,
        parameter_count=architecture.parameter_count(trainer.model),
        train_size=len(trainer.labels),
        class_counts=torch.bincount(trainer.test_labels, minlength=10).tolist(),
        history={f.name: [getattr(e, f.name) for e in epochs] for f in dataclasses.fields(training.Epoch)},
        first_losses=trainer.first_losses,
        misclassified=misclassified(trainer),
        weights_digest=bytes_digest(weights),
        environment=machine.describe(device) | {"epoch_seconds": seconds},
    )
    records.write(record, weights, checkpoint.parent)
    return record


def make_trainer(
    experiment: Experiment, seed: int, device: torch.device, images: tuple[data.Images, data.Images] | None = None
) -> training.Trainer:
    """A run before its first step: images loaded, weights drawn, or taken from the run that it starts from.

    With `images`, these are trained and evaluated on, in the place of the recipe's.

    Raises:
        DataError: the images are missing or damaged.
    """
    train, test = images or data.load(experiment.recipe.dataset, experiment.recipe.evaluate_on)
    make = _trained(experiment.start, seed, device) if experiment.start else experiment.network
    network = make if experiment.recipe.precision == "float32" else lambda: fast.Fast(*make())
    return training.Trainer(network, experiment.recipe, seed, train, test, device)


def misclassified(trainer: training.Trainer) -> list[list[int]]:
    """The evaluation images that a network gets wrong now: ``[index, label, prediction]`` each."""
    predictions, labels = trainer.evaluate()[1], trainer.test_labels
    wrong = (predictions != labels).nonzero().flatten()
    return torch.stack([wrong, labels[wrong], predictions[wrong]], 1).tolist()


def _trained(start: Experiment, seed: int, device: torch.device) -> Callable[[], nn.Module]:
    """Makes the network of `start` with the weights after its run of this seed, which is trained if it is missing."""
    path = find_path(start, seed)
    if path is None:
        train(start, seed, device, start.store)
        path = records.record_path(start.store, seed)
    weights = records.read_weights(path)

    def network() -> nn.Module:
        model = start.network()
        model.load_state_dict(weights)
        return model

    return network


def _identity(experiment: Experiment) -> dict[str, Any]:
    return {"parameters": dataclasses.asdict(experiment.recipe), "digests": experiment.digests}


def _save(
    trainer: training.Trainer, path: Path, experiment: Experiment, epochs: list[training.Epoch], seconds: list[float]
) -> None:
    progress = json.dumps(
        _identity(experiment)
        | {
            "epochs": [dataclasses.asdict(e) for e in epochs],
            "seconds": seconds,
            "first_losses": trainer.first_losses,
        }
    )
    state = trainer.state()
    metadata = {"progress": progress, "digest": _checkpoint_digest(progress, state)}
    files.write_atomically(path, safetensors.torch.save(state, metadata))


def _checkpoint_digest(progress: str, state: dict[str, torch.Tensor]) -> str:
    """Safetensors has no checksum: a damaged number would go unseen into the rest of the run."""
    return text_digest(progress, bytes_digest(safetensors.torch.save(state)))


def _resume(trainer: training.Trainer, path: Path, experiment: Experiment) -> tuple[list[training.Epoch], list[float]]:
    """Restore `trainer` from its checkpoint, if there is one of this very run; returns the epochs done."""
    if not path.exists():
        return [], []
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        progress = json.loads(metadata["progress"])
        if metadata["digest"] != _checkpoint_digest(metadata["progress"], tensors):
            raise ValueError("its content does not have its digest")
    except (safetensors.SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise RecordError(f"{path}: damaged checkpoint ({error}); delete it to start the run anew") from error
    if {key: progress[key] for key in ("parameters", "digests")} != json.loads(json.dumps(_identity(experiment))):
        return [], []
    epochs = [training.Epoch(**entry) for entry in progress["epochs"]]
    trainer.restore(tensors, len(epochs), progress["first_losses"])
    return epochs, progress["seconds"]
