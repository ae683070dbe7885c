"""What changes the weights in each step, one function for each optimizer that a recipe may name."""

import torch
from torch import nn
from torch.optim import Optimizer

from mnist_lib.parameters import Recipe


def make(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Return the optimizer of a recipe; a group's ``scale`` multiplies the learning rate of the schedule."""
    return globals()[recipe.optimizer](recipe, model)


def sgd(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def adamw(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), and a shorter memory than usual: β₂ is 0.99."""
    return _adamw(model.parameters(), recipe.learning_rate, recipe.weight_decay)


def muon(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Muon for the kernels of convolutions, AdamW with ``other_learning_rate`` for all other weights."""
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
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(kernel)
                buffer = state["momentum_buffer"].mul_(momentum).add_(kernel.grad)
                update = kernel.grad.add(buffer, alpha=momentum).flatten(1)  # Nesterov's
                kernel.mul_(1 - rate * group["weight_decay"])
                size = max(1, update.shape[0] / update.shape[1]) ** 0.5
                kernel.add_(orthogonal(update).view_as(kernel), alpha=-rate * size)
        self._adamw.step()


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Bring all singular values of a matrix near 1, between 0.7 and 1.2, by Newton and Schulz's iteration.

    The coefficients are those of Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _adamw(parameters, rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
