"""Optimizers, schedules and averages, each against its formula."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, OneCycleLR, StepLR

from mnist_lib.optimization import (
    STATISTICS_BATCH,
    Muon,
    RecordableSGD,
    average_share,
    follow,
    fresh_statistics,
    is_kernel,
    make,
    orthogonal,
    orthogonal_together,
    rates,
)
from mnist_lib.parameters import Recipe

# -- the rate of every step


def torch_scheduler(recipe: Recipe, steps_per_epoch: int, optimizer: torch.optim.Optimizer):
    """The scheduler that torch has for a recipe, and whether it goes on after every step or after every epoch."""
    total = recipe.epochs * steps_per_epoch
    rising = recipe.warm_up * total

    def falling(step: int) -> float:
        return (total - step - 0.5) / (total - rising)

    def warmed_up(fall):
        return LambdaLR(optimizer, lambda step: (step + 0.5) / rising if step + 0.5 < rising else fall(step))

    match recipe.schedule:
        case "constant":
            return ConstantLR(optimizer, factor=1.0), False
        case "step":
            return StepLR(optimizer, recipe.step_size, recipe.step_factor), False
        case "one_cycle":
            peak = recipe.learning_rate
            return OneCycleLR(optimizer, peak, epochs=recipe.epochs, steps_per_epoch=steps_per_epoch), True
        case "linear":
            return warmed_up(falling), True
        case "cosine":
            return warmed_up(lambda step: (1 - math.cos(math.pi * falling(step))) / 2), True


def stepped(recipe: Recipe, steps_per_epoch: int) -> list[tuple[float, float]]:
    """Rate and momentum as torch's scheduler gives them in the usual loop, around real steps."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=recipe.learning_rate, momentum=recipe.momentum)
    scheduler, every_step = torch_scheduler(recipe, steps_per_epoch, optimizer)
    found = []
    for _ in range(recipe.epochs):
        for _ in range(steps_per_epoch):
            group = optimizer.param_groups[0]
            found.append((group["lr"], group["momentum"]))
            optimizer.zero_grad()
            weight.sum().backward()
            optimizer.step()
            if every_step and len(found) < recipe.epochs * steps_per_epoch:
                scheduler.step()
        if not every_step:
            scheduler.step()
    return found


@pytest.mark.parametrize("name", ["constant", "step", "one_cycle", "linear", "cosine"])
@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 1), (1, 2), (2, 1), (5, 3), (12, 4)])
def test_a_schedule_is_that_of_torch(name, epochs, steps_per_epoch):
    recipe = Recipe(epochs=epochs, learning_rate=0.3, schedule=name, step_size=2)
    found = rates(recipe, steps_per_epoch)
    assert len(found) == epochs * steps_per_epoch
    np.testing.assert_allclose(found, stepped(recipe, steps_per_epoch), rtol=1e-12)


def test_constant_schedule():
    assert rates(Recipe(epochs=3, learning_rate=0.02, momentum=0.8), 4) == [(0.02, 0.8)] * 12


def test_step_schedule_in_closed_form():
    recipe = Recipe(epochs=7, learning_rate=0.5, momentum=0.8, schedule="step", step_size=3, step_factor=0.2)
    expected = [(0.5 * 0.2 ** (epoch // 3), 0.8) for epoch in range(7) for _ in range(4)]
    np.testing.assert_allclose(rates(recipe, 4), expected, rtol=1e-12)


def test_one_cycle_in_closed_form():
    found = np.array(rates(Recipe(epochs=10, learning_rate=0.4, schedule="one_cycle"), 20))
    peak, last = 0.3 * 200 - 1, 199

    def between(first, final, share):  # half a cosine
        return final + (first - final) / 2 * (1 + math.cos(math.pi * share))

    def expected(step):
        if step <= peak:
            return between(0.4 / 25, 0.4, step / peak), between(0.95, 0.85, step / peak)
        share = (step - peak) / (last - peak)
        return between(0.4, 0.4 / 25 / 1e4, share), between(0.85, 0.95, share)

    np.testing.assert_allclose(found, [expected(step) for step in range(200)], rtol=1e-9)
    np.testing.assert_allclose(found[[0, 59, -1]], [(0.4 / 25, 0.95), (0.4, 0.85), (0.4 / 250_000, 0.95)])
    assert found[:, 0].argmax() == found[:, 1].argmin() == 59


def test_linear_and_cosine_worked_by_hand():
    """Ten steps, two of which rise: each has the rate of its middle."""
    linear = [rate for rate, _ in rates(Recipe(epochs=2, learning_rate=0.8, schedule="linear", warm_up=0.2), 5)]
    np.testing.assert_allclose(linear, [0.2, 0.6, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15, 0.05])
    cosine = rates(Recipe(epochs=2, learning_rate=0.8, schedule="cosine", warm_up=0.2, momentum=0.7), 5)
    falling = [0.4 + 0.4 * math.cos(math.pi * (i + 0.5) / 8) for i in range(8)]
    np.testing.assert_allclose(cosine, [(rate, 0.7) for rate in [0.2, 0.6, *falling]])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_rate_rises_once_falls_once_and_stays_between_zero_and_the_recipes(name):
    for epochs, steps, warm_up in itertools.product((1, 3, 7), (1, 5, 23), (0, 0.01, 0.2, 0.33, 0.9)):
        recipe = Recipe(epochs=epochs, schedule=name, warm_up=warm_up, learning_rate=0.5)
        found = [rate for rate, _ in rates(recipe, steps)]
        assert 0 < min(found) and max(found) <= 0.5 + 1e-12
        peak = found.index(max(found))
        assert found[: peak + 1] == sorted(found[: peak + 1])
        assert found[peak:] == sorted(found[peak:], reverse=True)


# -- steps


def small() -> nn.Sequential:
    """Two kernels, one wide and one tall, a first convolution of one channel, and weights of every other kind."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(6, 72, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(72, 10),
    )
    return network.to(memory_format=torch.channels_last)


STEPS = [(0.03 * step, 0.95 - 0.01 * step) for step in (1, 2, 3, 3, 2, 1)]
"""Learning rates and momenta that a schedule might give."""


class Reference:
    """An optimizer in float64, one array per parameter."""

    def __init__(self, recipe: Recipe, parameters: list[nn.Parameter]):
        self.recipe, self.step = recipe, 0
        self.values = [parameter.detach().numpy().astype(float) for parameter in parameters]
        self.first = [np.zeros_like(value) for value in self.values]
        self.second = [np.zeros_like(value) for value in self.values]

    def update(self, gradients: list[np.ndarray], rate: float, momentum: float) -> None:
        self.step += 1
        for index, gradient in enumerate(gradients):
            self.values[index] = getattr(self, self.recipe.optimizer)(index, gradient, rate, momentum)

    def sgd(self, index: int, gradient: np.ndarray, rate: float, momentum: float) -> np.ndarray:
        gradient = gradient + self.recipe.weight_decay * self.values[index]
        self.first[index] = momentum * self.first[index] + gradient
        step = gradient + momentum * self.first[index] if self.recipe.nesterov else self.first[index]
        return self.values[index] - rate * step

    def adamw(self, index: int, gradient: np.ndarray, rate: float, momentum: float) -> np.ndarray:
        self.first[index] = 0.9 * self.first[index] + 0.1 * gradient
        self.second[index] = 0.99 * self.second[index] + 0.01 * gradient**2
        mean, square = self.first[index] / (1 - 0.9**self.step), self.second[index] / (1 - 0.99**self.step)
        kept = self.values[index] * (1 - rate * self.recipe.weight_decay)
        return kept - rate * mean / (np.sqrt(square) + 1e-8)

    def muon(self, index: int, gradient: np.ndarray, rate: float, momentum: float) -> np.ndarray:
        if gradient.ndim < 4 or gradient.shape[1] == 1:
            return self.adamw(index, gradient, rate * self.recipe.other_learning_rate / self.recipe.learning_rate, 0)
        self.first[index] = momentum * self.first[index] + gradient
        matrix = (gradient + momentum * self.first[index]).reshape(len(gradient), -1)
        size = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        kept = self.values[index] * (1 - rate * self.recipe.weight_decay)
        return kept - rate * size * newton_schulz(matrix).reshape(gradient.shape)


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Five steps of the iteration of Jordan et al. (2024)."""
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T).T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(optimizer="sgd"),
        Recipe(optimizer="sgd", nesterov=True, weight_decay=0.1),
        Recipe(optimizer="adamw", weight_decay=0.1),
        Recipe(optimizer="muon", learning_rate=0.03, other_learning_rate=0.005, weight_decay=0.1),
    ],
    ids=lambda recipe: recipe.optimizer + "_nesterov" * recipe.nesterov,
)
def test_steps_are_those_of_the_formula(recipe):
    """The gradients are torch's, at the optimizer's own weights; all else is done once more, in numpy."""
    network = small()
    optimizer, parameters = make(recipe, network), list(network.parameters())
    reference = Reference(recipe, parameters)
    for rate, momentum in STEPS:
        optimizer.zero_grad()
        functional.cross_entropy(network(torch.randn(16, 1, 12, 12)), torch.randint(0, 10, (16,))).backward()
        reference.update([parameter.grad.numpy().astype(float) for parameter in parameters], rate, momentum)
        for group in optimizer.param_groups:  # as training does
            group["lr"], group["momentum"] = rate * group.get("scale", 1.0), momentum
        optimizer.step()
    for parameter, expected in zip(parameters, reference.values, strict=True):
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-3, atol=1e-5)


def test_kernels_that_mix_channels_are_muons():
    depthwise = nn.Conv2d(6, 6, 3, groups=6)
    network = small().append(depthwise)
    assert is_kernel(nn.Conv2d(2, 3, 3).weight), "two channels are mixed, too"
    assert [is_kernel(parameter) for parameter in network.parameters()].count(True) == 2
    optimizer = make(Recipe(optimizer="muon", learning_rate=0.04, other_learning_rate=0.01), network)
    kernels, others = optimizer.param_groups
    assert [tuple(kernel.shape) for kernel in kernels["params"]] == [(6, 4, 3, 3), (72, 6, 3, 3)]
    assert any(parameter is depthwise.weight for parameter in others["params"])
    assert others["scale"] == 0.25


def test_muon_alone_does_not_let_weights_decay():
    kernel, other = nn.Parameter(torch.ones(2, 2, 1, 1)), nn.Parameter(torch.ones(3))
    kernel.grad, other.grad = torch.zeros_like(kernel), torch.zeros_like(other)
    Muon([kernel], [other], rate=0.1, other_rate=0.1).step()
    assert (kernel == 1).all() and (other == 1).all()


def test_muon_without_kernels_is_adamw():
    found = []
    for recipe in (Recipe(optimizer="muon", other_learning_rate=0.02), Recipe(optimizer="adamw", learning_rate=0.02)):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        layer(torch.ones(2, 4)).square().sum().backward()
        make(recipe, layer).step()
        found.append(layer.weight.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("shape", [(16, 9), (32, 288), (64, 9), (10, 10), (200, 72)])
def test_orthogonal_keeps_singular_vectors_and_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix) @ right.T
    torch.testing.assert_close(found, torch.diag(found.diagonal()), rtol=0, atol=1e-9)
    large = values > 0.01 * matrix.norm()
    assert found.diagonal()[large].min() > 0.68
    assert 0 < found.diagonal().min() and found.diagonal().max() < 1.14


def test_the_limits_of_the_singular_values():
    """A matrix of rank one has the norm 1 after division, so its scale goes through the iteration alone."""
    for share, low, high in ((0.02, 0.68, 1.14), (0.5, 0.68, 1.14), (0.001, 0.0, 0.68)):
        rest = math.sqrt(1 - share**2)
        assert low < orthogonal(torch.diag(torch.tensor([share, rest])))[0, 0] < high
    assert not orthogonal(torch.zeros(3, 4)).any()


# -- averages of weights


@pytest.mark.parametrize("number", [float, torch.tensor], ids=["a number", "a tensor"])
def test_the_moving_average_forgets_faster_at_the_start(number):
    layer = nn.Linear(3, 2)
    average = copy.deepcopy(layer)
    expected = None
    for updates in range(120):  # from the 80th on, the decay is the limit
        with torch.no_grad():
            layer.weight.normal_()
        follow(average, layer, number(average_share(0.9, updates)))
        weight = layer.weight.detach().double()
        decay = min(0.9, (1 + updates) / (10 + updates))
        expected = weight if updates == 0 else decay * expected + (1 - decay) * weight
        torch.testing.assert_close(average.weight.double(), expected, rtol=0, atol=1e-6)


def test_the_average_of_the_buffers_is_the_last():
    layer = nn.BatchNorm1d(3).train()
    average = copy.deepcopy(layer)
    layer(torch.randn(5, 3))
    follow(average, layer, 0.25)
    assert torch.equal(average.running_mean, layer.running_mean)


# -- steps that can be recorded: numbers are tensors


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("number", [float, torch.tensor], ids=["numbers", "tensors"])
def test_recordable_sgd_does_what_torch_s_does(number, nesterov, weight_decay):
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    how = {"lr": 0.1, "momentum": 0.9, "weight_decay": weight_decay, "nesterov": nesterov}
    pairs = [(ours, RecordableSGD(ours.parameters(), **how)), (theirs, torch.optim.SGD(theirs.parameters(), **how))]
    for step in range(5):
        images = torch.randn(8, 4)
        for (layer, optimizer), kind in zip(pairs, (number, float), strict=True):
            optimizer.param_groups[0].update(lr=kind(0.1 / (1 + step)), momentum=kind(0.9 - 0.01 * step))
            optimizer.zero_grad()
            layer(images).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def test_muon_takes_tensors_for_numbers():
    networks = [nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5, 2)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    recipe = Recipe(optimizer="muon", learning_rate=0.2, other_learning_rate=0.02, weight_decay=0.1)
    for network, kind in zip(networks, (float, torch.tensor), strict=True):
        torch.manual_seed(0)
        optimizer = make(recipe, network)
        for step in range(4):
            kernels = optimizer.param_groups[0]
            kernels["lr"], kernels["momentum"] = kind(0.2 - 0.01 * step), kind(0.9 - 0.1 * step)
            optimizer.zero_grad()
            network(torch.randn(3, 2, 3, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict(), rtol=1e-4, atol=1e-5)


def test_matrices_are_made_orthogonal_together_as_one_by_one():
    matrices = [torch.randn(rows, columns) for rows, columns in ((16, 144), (16, 9), (32, 8), (5, 5))]
    for found, matrix in zip(orthogonal_together(matrices), matrices, strict=True):
        torch.testing.assert_close(found, orthogonal(matrix), rtol=1e-4, atol=1e-5)


# -- fresh statistics


def test_fresh_statistics_are_means_over_batches_of_nearly_equal_size():
    network = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3))
    images = torch.rand(2 * STATISTICS_BATCH + 1, 1, 5, 5)
    fresh = fresh_statistics(network, images)
    batches = [batch.numpy() for batch in images.tensor_split(3)]
    assert fresh[0].running_mean.item() == pytest.approx(np.mean([batch.mean() for batch in batches]), rel=1e-5)
    assert fresh[0].running_var.item() == pytest.approx(np.mean([batch.var(ddof=1) for batch in batches]), rel=1e-5)


def test_fresh_statistics_leave_the_network_as_it_is_and_all_else_of_the_copy():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.Flatten(), nn.BatchNorm1d(36)
    ).train()
    before = copy.deepcopy(network.state_dict())
    images = torch.rand(40, 1, 5, 5)
    first, second = fresh_statistics(network, images), fresh_statistics(network, images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training and not first.training
    assert [layer.momentum for layer in (first[1], first[4])] == [0.3, 0.1]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), "nothing is dropped"
        assert name.split(".")[1].startswith(("running", "num")) != torch.equal(value, before[name])
