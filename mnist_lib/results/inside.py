"""Looking inside a network while it reads: its maps, how a signal fares from layer to layer, what a batch tells."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_lib import augmentation, data, experiments, records, training
from mnist_lib.base import progress
from mnist_lib.experiments import Experiment

MOST = 4
"""How many batches of a size are looked at: enough to see how much they differ."""


def images(experiment: Experiment, number: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return training images as the network gets them, shape ``(number, 1, 28, 28)``, and their labels.

    Blank ones where the page does without (`mnist_lib.data.may_be_blank`).
    """
    if data.may_be_blank(experiment.recipe.dataset):
        return torch.zeros(number, 1, 28, 28), torch.arange(number) % 10
    train, _ = data.load(experiment.recipe.dataset, experiment.recipe.evaluate_on)
    mean, std = training.mean_and_std(train.images)
    torch.set_num_threads(experiment.recipe.threads)  # as in training: two give other last digits
    chosen = slice(first, first + number)
    return (train.images[chosen, None] / 255 - mean) / std, train.labels[chosen]


def trained(experiment: Experiment, seed: int = 0) -> nn.Module:
    """Return the network with the weights that a finished run ended with, in evaluation mode.

    Raises:
        RecordError: there is no such run.
    """
    path = experiments.find_path(experiment, seed)
    if path is None:
        raise records.RecordError(f"{experiment.name} has no run of seed {seed}")
    network = experiment.network()
    network.load_state_dict(records.read_weights(path))
    return network.eval()


def all_trained(experiment: Experiment, seeds: int) -> Iterator[nn.Module]:
    """Return the networks of the first `seeds` runs, one after the other, while a bar says how many were taken.

    Raises:
        RecordError: as `trained`.
    """
    for seed in progress.bar(range(seeds), experiment.name):
        yield trained(experiment, seed)


def evaluated_on(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return the images that runs are judged on as the network gets them, shape ``(n, 1, 28, 28)``, and their labels.

    A hundred blank ones where the page does without (`mnist_lib.data.may_be_blank`).
    """
    recipe = experiment.recipe
    if data.may_be_blank(recipe.dataset):
        return torch.zeros(100, 1, 28, 28), torch.arange(100) % 10
    train, judged = data.load(recipe.dataset, recipe.evaluate_on)
    mean, std = training.mean_and_std(train.images)
    torch.set_num_threads(recipe.threads)  # as in training: two give other last digits
    pictures = judged.images[:, None] / 255
    if recipe.preparation == "deskew":
        pictures = augmentation.deskew(pictures)
    return ((pictures - mean) / std).to(memory_format=torch.channels_last), judged.labels


def certainty(experiment: Experiment, parts: int = 10) -> tuple[list[float], list[float]]:
    """Return how sure seed 0 is of its answers and how many of them are right, both in percent.

    One value for each of `parts` equal parts of the images that the run was evaluated on, the least sure first. How
    sure: the mean probability of the digit that is answered. For a *calibrated* network the two are the same.
    """
    if data.may_be_blank(experiment.recipe.dataset):
        return [100.0] * parts, [100.0] * parts
    pictures, labels = evaluated_on(experiment)
    with torch.no_grad():
        sure, answers = trained(experiment)(pictures).softmax(1).max(1)
    order = sure.argsort()
    right = (answers == labels).float()
    return tuple([100 * float(part.mean()) for part in each[order].chunk(parts)] for each in (sure, right))


@contextmanager
def watched(network: nn.Module, kinds: tuple[type, ...]) -> Iterator[list[Tensor]]:
    """While this is entered, what comes out of every layer of these kinds is put into a list; it keeps its gradient."""
    found: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        found.append(output)

    handles = [layer.register_forward_hook(keep) for layer in network.modules() if isinstance(layer, kinds)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def spreads(network: nn.Module, pictures: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Return the standard deviation of what each convolution puts out, and of the gradients of the loss by it."""
    with watched(network.train(), (nn.Conv2d,)) as outputs:
        functional.cross_entropy(network(pictures), labels).backward()
    return [float(each.detach().std()) for each in outputs], [float(each.grad.std()) for each in outputs]


def gradient(network: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean loss by all weights, as one vector; the network keeps its mode."""
    loss = functional.cross_entropy(network(pictures), labels)
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(network.parameters()))])


def agreement(network: nn.Module, pictures: Tensor, labels: Tensor, sizes: Sequence[int]) -> dict[int, list[float]]:
    """Return how well a batch's gradient points where that of all images points, as a cosine, by the size of the batch.

    The images are cut into batches, of which the first `MOST` are taken; 1 is the same direction, 0 a right angle.
    """
    whole = gradient(network, pictures, labels)
    return {
        size: [
            float(functional.cosine_similarity(whole, gradient(network, *batch), dim=0))
            for batch in list(zip(pictures.split(size), labels.split(size), strict=True))[:MOST]
        ]
        for size in sizes
    }


def outputs(network: nn.Module, pictures: Tensor, kinds: tuple[type, ...]) -> list[Tensor]:
    """Return what comes out of every layer of these kinds, shape ``(n, channels, height, width)``; others are left."""
    with torch.no_grad(), watched(network, kinds) as found:
        network(pictures)
    return [each for each in found if each.ndim == 4]


def with_dropout(network: nn.Module, pictures: Tensor, labels: Tensor, rates: Sequence[float]) -> list[float]:
    """Return how many images a network reads rightly, in percent, while its dropouts drop at each of `rates`.

    What is dropped is the same in every call; all else of the network is in evaluation mode, and so it is afterwards.
    """
    dropouts = [layer for layer in network.eval().modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]
    right = []
    with torch.random.fork_rng(), torch.no_grad():
        for rate in rates:
            torch.manual_seed(0)
            for layer in dropouts:
                layer.train().p = rate
            right.append(100 * float((network(pictures).argmax(1) == labels).double().mean()))
    network.eval()
    return right
