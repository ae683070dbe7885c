"""The training loop: one recipe, one seed, the same result every time.

A seed decides the initial weights, the order of the images, the augmentation and the dropout. Every epoch draws its
random numbers from generators seeded by (seed, epoch) alone, so an interrupted run continues exactly where it was
from its weights, what its optimizer remembers and the number of epochs done.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mnist_lib import augmentation, data, fast, optimization
from mnist_lib.captured import Captured
from mnist_lib.data import Images
from mnist_lib.parameters import Recipe

FIRST_STEPS = 10
"""How many losses from the start of a run are kept, so that it can be replayed and compared in seconds."""


PART = 500
"""How many images are evaluated at a time."""


class DivergenceError(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Losses are means per image; `correct` counts images, out of all that were shown."""

    learning_rate: float  # at the last step of the epoch
    train_loss: float
    train_correct: int
    test_loss: float
    test_correct: int


def begin(
    recipe: Recipe,
    network: Callable[[], nn.Module],
    seed: int,
    device: torch.device,
    weights: dict[str, torch.Tensor] | None = None,
    teachers: Sequence[nn.Module] = (),
    images: tuple[Images, Images] | None = None,
) -> "Trainer":
    """Prepare a run before its first step: images loaded, weights drawn.

    Arguments:
        recipe: what is done.
        network: makes the untrained network.
        seed: what all random numbers derive from.
        device: where to train.
        weights: to begin with, in place of those drawn.
        teachers: networks to learn from, where the recipe says so.
        images: to train and to evaluate on, in place of the recipe's.

    Raises:
        DataError: the images are missing or damaged.
    """
    train, test = images or data.load(recipe.dataset, recipe.evaluate_on)
    return Trainer(network, recipe, seed, train, test, device, weights, teachers)


class Trainer:
    """A run in progress.

    Arguments:
        network: makes the untrained network; its weights are drawn after seeding.
        recipe: the recipe.
        seed: what all random numbers derive from.
        train, test: the images to train and to evaluate on; they are moved to the device whole.
        device: where to train. The number of threads is for a CPU: two give different last digits than one.
        weights: to begin with, in place of those drawn.
        teachers: networks to learn from.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        recipe: Recipe,
        seed: int,
        train: Images,
        test: Images,
        device: torch.device,
        weights: dict[str, torch.Tensor] | None = None,
        teachers: Sequence[nn.Module] = (),
    ):
        if device.type == "cpu":
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(seed)
        model = network()
        if weights is not None:
            model.load_state_dict(weights)
        if recipe.precision == "bfloat16":
            model = fast.in_bfloat16(model)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.recipe, self.seed, self.device = recipe, seed, device
        self.teachers = [teacher.to(device).eval() for teacher in teachers]
        self.images, self.labels = _on_device(train, device)
        self.test_images, self.test_labels = _on_device(test, device)
        if recipe.preparation == "deskew":
            self.images, self.test_images = augmentation.deskew(self.images), augmentation.deskew(self.test_images)
        self.mean, self.std = mean_and_std(train.images)
        self.test_images = self._normalise(self.test_images)
        # Batch normalisation needs two images: a last batch of one is left out, another image every epoch.
        self.shown = len(train) - (len(train) % recipe.batch_size == 1)
        self.steps_per_epoch = math.ceil(self.shown / recipe.batch_size)
        self.rates = optimization.rates(recipe, self.steps_per_epoch)
        self.optimizer = optimization.make(recipe, self.model)
        self.changes = [change(recipe) for change in augmentation.chosen(recipe)]
        self.average = copy.deepcopy(self.model) if recipe.average_decay else None
        self.epochs_done = 0
        self.first_losses: list[float] = []
        self._take_step = self._recorded()

    def train_epoch(self) -> Epoch:
        """Train for one epoch, then evaluate.

        Raises:
            DivergenceError: the loss became NaN or infinite; the message names the step.
        """
        train_loss, train_correct = self._train()
        test_loss, predictions = self.evaluate()
        return Epoch(
            learning_rate=self.rates[self.epochs_done * self.steps_per_epoch - 1][0],
            train_loss=train_loss,
            train_correct=train_correct,
            test_loss=test_loss,
            test_correct=int((predictions == self.test_labels).sum()),
        )

    def _train(self, steps: int | None = None) -> tuple[float, int]:
        """Take the optimisation steps of the next epoch, or the first `steps` of them."""
        self.model.train()
        recipe = self.recipe
        order, numbers = self._draw()
        strength = self._strength()
        # Reading a loss makes a GPU wait, so there it is looked at less often; the step it names is exact either way.
        check_every = 1 if self.device.type == "cpu" else 100
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        sizes = torch.tensor([len(batch) for batch in order.split(recipe.batch_size)], device=self.device)
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        first = self.epochs_done * self.steps_per_epoch
        for step, batch in enumerate(order.split(recipe.batch_size)[:steps]):
            share = optimization.average_share(recipe.average_decay, first + step)
            chosen = [numbers[type(change).__name__][batch] for change in self.changes]
            loss, right = self._take_step(batch, *self.rates[first + step], share, strength, *chosen)
            losses[step] = loss
            correct += right
            if step % check_every == check_every - 1:
                self._check_finite(losses[: step + 1], first)
        self._check_finite(losses, first)
        if self.epochs_done == 0:
            self.first_losses = losses[:FIRST_STEPS].tolist()
        self.epochs_done += 1
        return float((losses * sizes).sum() / len(order)), int(correct)

    def _step(
        self, batch: torch.Tensor, rate: float, momentum: float, share: float, strength: float, *numbers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take an optimisation step; returns the loss, and how many of the images the network got right before it."""
        images, labels = self.images[batch], self.labels[batch]
        for change, own in zip(self.changes, numbers, strict=True):
            images = change(images, own, strength)
        images = self._normalise(images)
        for group in self.optimizer.param_groups:
            group["lr"], group["momentum"] = rate * group.get("scale", 1.0), momentum
        logits = self.model(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if self.teachers:
            learned = taught(logits, images, self.teachers, self.recipe.temperature)
            loss = torch.lerp(loss, learned, self.recipe.distillation)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.average is not None:
            optimization.follow(self.average, self.model, share)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _recorded(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """Return what takes a step: on a GPU a recording, which is made when the first one is asked for."""
        return Captured(self._step, self.unchanged, self.device) if self.device.type == "cuda" else self._step

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put back, in place, all that training in this context changes, and the state of the random numbers."""
        before, epochs_done, first_losses = self.state(), self.epochs_done, self.first_losses
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            yield
        for name, value in self._tensors().items():
            value.copy_(before[name]) if name in before else value.zero_()
        self.epochs_done, self.first_losses = epochs_done, first_losses

    def replay(self, steps: int = FIRST_STEPS) -> list[float]:
        """Return the losses of the first `steps` steps of a fresh run."""
        self._train(steps)
        return self.first_losses[:steps]

    @torch.no_grad()
    def evaluate(self) -> tuple[float, torch.Tensor]:
        """Return the mean loss on the evaluation images, and the predicted digit of each, shape ``(n,)``."""
        model = self.evaluated()
        logits = torch.cat([model(part) for part in self.test_images.split(PART)])
        return float(functional.cross_entropy(logits, self.test_labels)), logits.argmax(1)

    @torch.no_grad()
    def trained_correct(self) -> int:
        """Count the training images, unchanged, that the network gets right when it is no longer trained."""
        model = self.evaluated()
        parts = zip(self.images.split(PART), self.labels.split(PART), strict=True)
        return sum(int((model(self._normalise(images)).argmax(1) == labels).sum()) for images, labels in parts)

    @torch.no_grad()
    def evaluated(self) -> nn.Module:
        """Return what is evaluated, in evaluation mode: the network, or what the recipe puts in its place."""
        model = self.model if self.average is None else self.average
        if self.recipe.statistics_images:
            chosen = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.seed))
            chosen = chosen[: self.recipe.statistics_images].to(self.device)
            model = optimization.fresh_statistics(model, self._normalise(self.images[chosen]))
        return model.eval()

    def load_final(self, weights: dict[str, torch.Tensor]) -> None:
        """Put the weights of a finished run in place, which are those that were evaluated."""
        self.model.load_state_dict(weights)
        self.average, self.recipe = None, dataclasses.replace(self.recipe, average_decay=0.0, statistics_images=0)

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the run needs to continue, by name: weights, averages, what the optimizer remembers."""
        return {name: copied(value) for name, value in self._tensors().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, parameter in enumerate(self.model.parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = value
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor], epochs_done: int, first_losses: list[float]) -> None:
        """Continue from a `state` that was taken after `epochs_done` epochs."""
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        parameters = list(self.model.parameters())
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            of_weights = tensor.shape == parameter.shape  # in their layout; all others are counts of steps
            like = torch.empty_like(parameter if of_weights else tensor, device=parameter.device)
            self.optimizer.state[parameter][key] = like.copy_(tensor)
        self.epochs_done, self.first_losses = epochs_done, list(first_losses)
        self._take_step = self._recorded()  # with these tensors

    def _draw(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Draw the random numbers of the next epoch on the CPU so that every device gets the same ones.

        Returns the order of the images and, for each change of images, the numbers that it needs for each image.
        """
        plan, dropout = np.random.SeedSequence([self.seed, self.epochs_done]).generate_state(2)
        torch.manual_seed(int(dropout))
        generator, n = torch.Generator().manual_seed(int(plan)), len(self.labels)
        order = torch.randperm(n, generator=generator)[: self.shown]
        # These two are drawn whether they are used or not; every other change has a generator of its own.
        numbers = {name: torch.rand(n, generator=generator)[:, None] for name in ("Rotation", "Crop")}
        for change in self.changes:
            name = type(change).__name__
            if name not in numbers:
                (own,) = np.random.SeedSequence([self.seed, self.epochs_done, *name.encode()]).generate_state(1)
                own_generator = torch.Generator().manual_seed(int(own))
                numbers[name] = torch.rand(n, change.numbers, generator=own_generator)
        return order.to(self.device), {name: value.to(self.device) for name, value in numbers.items()}

    def _strength(self) -> float:
        """How strongly images are changed in the next epoch: 1, falling to ``final_strength`` over the last epochs."""
        recipe = self.recipe
        if not recipe.fade or recipe.epochs == 1:
            return 1.0
        done = self.epochs_done / (recipe.epochs - 1)
        return 1 - (1 - recipe.final_strength) * max(0.0, done - (1 - recipe.fade)) / recipe.fade

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        return ((images - self.mean) / self.std).to(memory_format=torch.channels_last)

    def _check_finite(self, losses: torch.Tensor, first: int) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            raise DivergenceError(
                f"the loss became {losses[bad[0, 0]].item()} at step {first + int(bad[0, 0]) + 1} "
                f"(epoch {self.epochs_done + 1}); the run stopped there. Try a smaller learning_rate "
                f"(it was {self.recipe.learning_rate:g})"
            )


def taught(
    logits: torch.Tensor, images: torch.Tensor, teachers: Sequence[nn.Module], temperature: float
) -> torch.Tensor:
    """Return the cross-entropy between the teachers' mean probabilities and the student's (Hinton et al., 2015).

    Arguments:
        logits: the student's, shape ``(n, 10)``.
        images: what the student has read, shape ``(n, 1, h, w)``.
        teachers: networks in evaluation mode.
        temperature: divides all logits; the loss is multiplied by its square.
    """
    with torch.no_grad():
        said = torch.stack([functional.softmax(teacher(images) / temperature, 1) for teacher in teachers]).mean(0)
    return functional.cross_entropy(logits / temperature, said) * temperature**2


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor for a file, which takes none twice: a layer that stands in a network twice has two names."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def mean_and_std(images: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels on the scale 0 to 1, from exact integer counts."""
    counts = torch.bincount(images.flatten(), minlength=256).tolist()
    total = sum(counts)
    mean = sum(value * count for value, count in enumerate(counts)) / total
    square = sum(value**2 * count for value, count in enumerate(counts)) / total
    return mean / 255, math.sqrt(square - mean**2) / 255


def _on_device(part: Images, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as floats from 0 to 1 with a channel dimension, and labels."""
    return part.images.to(device).unsqueeze(1).float() / 255, part.labels.to(device)
