"""The training loop: one recipe, one seed, the same result every time.

A seed decides the initial weights, the order of the images, the augmentation and the dropout. Every epoch draws its
random numbers from generators seeded by (seed, epoch) alone, so an interrupted run continues exactly where it was
from its weights, its optimizer's momenta and the number of epochs done.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mnist_lib import augmentation
from mnist_lib.data import Images
from mnist_lib.parameters import Recipe

FIRST_STEPS = 10
"""How many losses from the start of a run are kept, so that it can be replayed and compared in seconds."""


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


def schedule(recipe: Recipe, steps_per_epoch: int) -> list[tuple[float, float]]:
    """The learning rate and momentum of every step, as torch's own schedulers give them.

    ``step`` multiplies the rate by ``step_factor`` every ``step_size`` epochs. ``one_cycle`` (Smith and Topin, 2019)
    rises to ``learning_rate`` over the first 30 % of all steps, then falls to almost nothing, while the momentum
    moves the other way between 0.95 and 0.85.
    """
    total = recipe.epochs * steps_per_epoch
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate, momentum=recipe.momentum)
    if recipe.schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=total)
    else:
        every = recipe.step_size * steps_per_epoch if recipe.schedule == "step" else total
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, every, recipe.step_factor)
    rates = []
    for _ in range(total):
        group = optimizer.param_groups[0]
        rates.append((group["lr"], group["momentum"]))
        if len(rates) < total:
            optimizer.step()
            scheduler.step()
    return rates


class Trainer:
    """A run in progress.

    Arguments:
        network: makes the untrained network; its weights are drawn after seeding.
        recipe: the recipe.
        seed: what all random numbers derive from.
        train, test: the images to train and to evaluate on; they are moved to the device whole.
        device: where to train. The number of threads is for a CPU: two give different last digits than one.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        recipe: Recipe,
        seed: int,
        train: Images,
        test: Images,
        device: torch.device,
    ):
        if device.type == "cpu":
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(seed)
        self.model = network().to(device, memory_format=torch.channels_last)
        self.recipe, self.seed, self.device = recipe, seed, device
        self.images, self.labels = _on_device(train, device)
        self.test_images, self.test_labels = _on_device(test, device)
        self.mean, self.std = mean_and_std(train.images)
        self.test_images = self._normalise(self.test_images)
        # Batch normalisation needs two images: a last batch of one is left out, another image every epoch.
        self.shown = len(train) - (len(train) % recipe.batch_size == 1)
        self.steps_per_epoch = math.ceil(self.shown / recipe.batch_size)
        self.rates = schedule(recipe, self.steps_per_epoch)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
        self.epochs_done = 0
        self.first_losses: list[float] = []

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
        """The optimisation steps of the next epoch, or the first `steps` of them."""
        model, optimizer, recipe = self.model.train(), self.optimizer, self.recipe
        order, degrees, cropped = self._draw()
        # Reading a loss makes a GPU wait, so there it is looked at less often; the step it names is exact either way.
        check_every = 1 if self.device.type == "cpu" else 100
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        sizes = torch.tensor([len(batch) for batch in order.split(recipe.batch_size)], device=self.device)
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        first = self.epochs_done * self.steps_per_epoch
        for step, batch in enumerate(order.split(recipe.batch_size)[:steps]):
            images, labels = self.images[batch], self.labels[batch]
            if recipe.crop_probability:
                images = augmentation.center_crop(images, cropped[batch])
            if recipe.rotation:
                images = augmentation.rotate(images, degrees[batch], recipe.interpolation)
            for group in optimizer.param_groups:
                group["lr"], group["momentum"] = self.rates[first + step]
            logits = model(self._normalise(images))
            loss = functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses[step] = loss.detach()
            correct += (logits.detach().argmax(1) == labels).sum()
            if step % check_every == check_every - 1:
                self._check_finite(losses[: step + 1], first)
        self._check_finite(losses, first)
        if self.epochs_done == 0:
            self.first_losses = losses[:FIRST_STEPS].tolist()
        self.epochs_done += 1
        return float((losses * sizes).sum() / len(order)), int(correct)

    def replay(self, steps: int = FIRST_STEPS) -> list[float]:
        """The losses of the first `steps` steps of a fresh run."""
        self._train(steps)
        return self.first_losses[:steps]

    @torch.no_grad()
    def evaluate(self) -> tuple[float, torch.Tensor]:
        """The mean loss on the evaluation images, and the predicted digit of each, shape ``(n,)``."""
        self.model.eval()
        logits = torch.cat([self.model(part) for part in self.test_images.split(500)])
        return float(functional.cross_entropy(logits, self.test_labels)), logits.argmax(1)

    def state(self) -> dict[str, torch.Tensor]:
        """All that the run needs to continue, by name: weights, statistics of batch normalisation, momenta."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors[f"momentum.{index}"] = entry["momentum_buffer"]
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, torch.Tensor], epochs_done: int, first_losses: list[float]) -> None:
        """Continue from a `state` that was taken after `epochs_done` epochs."""
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        for index, parameter in enumerate(self.model.parameters()):
            momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{index}"])
            self.optimizer.state[parameter]["momentum_buffer"] = momentum
        self.epochs_done, self.first_losses = epochs_done, list(first_losses)

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The random numbers of the next epoch, drawn on the CPU so that every device gets the same ones.

        Returns the order of the images and, for each image, its rotation in degrees and whether it is cropped.
        """
        plan, dropout = np.random.SeedSequence([self.seed, self.epochs_done]).generate_state(2)
        torch.manual_seed(int(dropout))
        generator, n = torch.Generator().manual_seed(int(plan)), len(self.labels)
        order = torch.randperm(n, generator=generator)[: self.shown]
        degrees = (2 * torch.rand(n, generator=generator) - 1) * self.recipe.rotation
        cropped = torch.rand(n, generator=generator) < self.recipe.crop_probability
        return order.to(self.device), degrees.to(self.device), cropped.to(self.device)

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
