"""How weights change from step to step: optimizers, schedules of their rates, and averages of the weights.

A recipe names its optimizer and its schedule; each is a function here, so that a further one changes no other.
"""

import copy
import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from mnist_lib.parameters import Recipe

Rates = list[tuple[float, float]]  # the learning rate and the momentum of each step


def rates(recipe: Recipe, steps_per_epoch: int) -> Rates:
    """Return the learning rate and momentum of every step of a run."""
    return globals()[recipe.schedule](recipe, steps_per_epoch)


def constant(recipe: Recipe, steps_per_epoch: int) -> Rates:
    """Keep the learning rate."""
    return [(recipe.learning_rate, recipe.momentum)] * (recipe.epochs * steps_per_epoch)


def step(recipe: Recipe, steps_per_epoch: int) -> Rates:
    """Multiply the rate by ``step_factor`` every ``step_size`` epochs."""
    optimizer = _optimizer(recipe)
    scheduler = StepLR(optimizer, recipe.step_size * steps_per_epoch, recipe.step_factor)
    return _followed(optimizer, scheduler, recipe.epochs * steps_per_epoch)


def one_cycle(recipe: Recipe, steps_per_epoch: int) -> Rates:
    """Rise to ``learning_rate`` over the first 30 % of all steps, then fall to almost nothing (Smith and Topin, 2019).

    The momentum moves the other way between 0.95 and 0.85. The values are those of torch's own scheduler.
    """
    optimizer, total = _optimizer(recipe), recipe.epochs * steps_per_epoch
    return _followed(optimizer, OneCycleLR(optimizer, recipe.learning_rate, total_steps=total), total)


def linear(recipe: Recipe, steps_per_epoch: int) -> Rates:
    """Rise from 0 over the share ``warm_up`` of all steps, then fall linearly to 0."""
    return [(recipe.learning_rate * share, recipe.momentum) for share in _risen(recipe, steps_per_epoch)]


def cosine(recipe: Recipe, steps_per_epoch: int) -> Rates:
    """Rise from 0 over the share ``warm_up`` of all steps, then fall along half a cosine to 0 (Loshchilov, 2017)."""
    total = recipe.epochs * steps_per_epoch
    rising = recipe.warm_up * total
    return [
        (recipe.learning_rate * (share if i + 0.5 < rising else (1 - math.cos(math.pi * share)) / 2), recipe.momentum)
        for i, share in enumerate(_risen(recipe, steps_per_epoch))
    ]


def _risen(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """For each step, a number that rises from 0 to 1 and falls to 0 again, in the middle of the step."""
    total = recipe.epochs * steps_per_epoch
    rising = recipe.warm_up * total
    middles = [i + 0.5 for i in range(total)]
    return [x / rising if x < rising else (total - x) / (total - rising) for x in middles]


def _optimizer(recipe: Recipe) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate, momentum=recipe.momentum)


def _followed(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, total: int) -> Rates:
    found: Rates = []
    for _ in range(total):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["momentum"]))
        if len(found) < total:
            optimizer.step()
            scheduler.step()
    return found


def make(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Return the optimizer of a recipe; a group's ``scale`` multiplies the learning rate of the schedule."""
    return globals()[recipe.optimizer](recipe, model)


def sgd(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    kind = RecordableSGD if _on_gpu(model.parameters()) else torch.optim.SGD
    return kind(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


class RecordableSGD(torch.optim.SGD):
    """torch's SGD, whose learning rate and momentum may be tensors that change, as in a recorded step."""

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter once."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = torch._foreach_add([weight.grad for weight in weights], weights, alpha=group["weight_decay"])
            buffers = [_buffer(self.state[weight], weight) for weight in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            updates = buffers
            if group["nesterov"]:
                updates = torch._foreach_mul(buffers, group["momentum"])
                torch._foreach_add_(updates, gradients)
            torch._foreach_sub_(weights, torch._foreach_mul(updates, group["lr"]))


def _buffer(state: dict[str, torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Return what an optimizer remembers of a weight's gradients: at first, nothing."""
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(weight)
    return state["momentum_buffer"]


def _on_gpu(weights: Iterable[torch.Tensor]) -> bool:
    return any(weight.is_cuda for weight in weights)


def adamw(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), and a shorter memory than usual: β₂ is 0.99."""
    return _adamw(model.parameters(), recipe.learning_rate, recipe.weight_decay)


def muon(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Muon for kernels that mix channels, AdamW with ``other_learning_rate`` for all other weights."""
    kernels = [p for p in model.parameters() if is_kernel(p)]
    others = [p for p in model.parameters() if not is_kernel(p)]
    return Muon(kernels, others, recipe.learning_rate, recipe.other_learning_rate, recipe.weight_decay)


def is_kernel(parameter: torch.Tensor) -> bool:
    """Whether a parameter is the kernel of a convolution that mixes channels, so that a matrix can be made of it."""
    return parameter.ndim == 4 and parameter.shape[1] > 1


class Muon(Optimizer):
    """Momentum whose updates are made orthogonal (Jordan et al., 2024), for kernels; AdamW for the rest.

    A kernel of shape ``(out, in, h, w)`` is taken as a matrix of shape ``(out, in · h · w)``. torch's own Muon accepts
    matrices only.

    Arguments:
        kernels: parameters of shape ``(out, in, h, w)``.
        others: all other parameters, there must be one.
        rate, other_rate: the learning rates of the two; the group of the others has the ratio as its ``scale``.
        weight_decay: decoupled, for both.
    """

    def __init__(
        self,
        kernels: list[nn.Parameter],
        others: list[nn.Parameter],
        rate: float,
        other_rate: float,
        weight_decay: float = 0.0,
    ):
        groups = [{"params": kernels}] if kernels else []
        super().__init__([*groups, {"params": others}], {"lr": rate, "momentum": 0.95, "weight_decay": weight_decay})
        self._adamw = _adamw(others, other_rate, weight_decay)
        self._adamw.state = self.state
        self.param_groups[-1] = self._adamw.param_groups[0]
        self.param_groups[-1]["scale"] = other_rate / rate

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter once."""
        for group in self.param_groups[:-1]:
            rate, momentum = group["lr"], group["momentum"]
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            updates = []
            for kernel in kernels:
                buffer = _buffer(self.state[kernel], kernel).mul_(momentum).add_(kernel.grad)
                updates.append(_plus(kernel.grad, buffer, momentum).flatten(1))  # Nesterov's
            together = orthogonal_together(updates) if _on_gpu(updates) else map(orthogonal, updates)
            for kernel, update in zip(kernels, together, strict=True):
                kernel.mul_(1 - rate * group["weight_decay"])
                size = max(1, update.shape[0] / update.shape[1]) ** 0.5
                kernel.copy_(_plus(kernel, update.view_as(kernel), -rate * size))
        self._adamw.step()


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Bring the singular values of a matrix near 1, by Newton and Schulz's iteration.

    After five steps they lie between 0.68 and 1.14; those under 1 % of the matrix's norm stay below.
    The coefficients are those of Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / ((x.norm() if x.ndim == 2 else x.flatten(1).norm(dim=1)[:, None, None]) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def orthogonal_together(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Do what `orthogonal` does for several matrices at once, which a GPU does in fewer and larger steps.

    Filled up with zeros they have one size. Rows and columns of zeros stay zero, and change no singular value.
    """
    wide = [each.mT if each.shape[0] > each.shape[1] else each for each in matrices]
    rows, columns = (max(each.shape[i] for each in wide) for i in (0, 1))
    filled = [functional.pad(each, (0, columns - each.shape[1], 0, rows - each.shape[0])) for each in wide]
    found = orthogonal(torch.stack(filled))
    cut = [whole[: each.shape[0], : each.shape[1]] for whole, each in zip(found, wide, strict=True)]
    return [x.mT if each.shape != x.shape else x for x, each in zip(cut, matrices, strict=True)]


def _plus(tensor: torch.Tensor, other: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
    """Add a multiple of another tensor; on a CPU in one operation, which rounds once."""
    if isinstance(factor, torch.Tensor):
        return tensor + factor * other
    return tensor.add(other, alpha=factor)


def _adamw(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.AdamW:
    parameters = list(parameters)
    how = {"fused": True, "capturable": _on_gpu(parameters)}
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, **how)


STATISTICS_BATCH = 500
"""Images of which batch normalisation takes its statistics at a time."""

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def average_share(decay: float, updates: int) -> float:
    """Return how much of the new weights enters their exponential moving average, after so many updates.

    The first update copies the weights, and the average forgets faster at the start: after t updates it keeps the share
    min(`decay`, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.
    """
    return 1 - min(decay, (1 + updates) / (10 + updates)) if updates else 1.0


@torch.no_grad()
def follow(averaged: nn.Module, current: nn.Module, share: torch.Tensor | float) -> None:
    """Move the weights of `averaged` by the share of their way to those of `current`; copy its buffers."""
    old, new = list(averaged.parameters()), list(current.parameters())
    if isinstance(share, torch.Tensor):
        apart = torch._foreach_sub(new, old)
        torch._foreach_mul_(apart, share)
        torch._foreach_add_(old, apart)
    else:
        torch._foreach_lerp_(old, new, share)
    for mine, other in zip(averaged.buffers(), current.buffers(), strict=True):
        mine.copy_(other)


def fresh_statistics(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Copy `model`, and take the statistics of its batch normalisation anew, as means over batches of `images`.

    All else computes as in evaluation: nothing is dropped, so the same images always give the same statistics.

    Arguments:
        model: any network.
        images: as the network reads them, shape ``(n, 1, h, w)``.
    """
    copied = copy.deepcopy(model).eval()
    layers = [layer for layer in copied.modules() if isinstance(layer, BATCH_NORM)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train().reset_running_stats()
        layer.momentum = None  # the mean over all batches
    for batch in images.tensor_split(math.ceil(len(images) / STATISTICS_BATCH)):
        copied(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return copied.eval()
