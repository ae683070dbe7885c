"""Learning rates and momenta of every step, one function for each schedule that a recipe may name."""

import math

import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from mnist_lib.parameters import Recipe

Rates = list[tuple[float, float]]
"""The learning rate and the momentum of each step."""


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
        (recipe.learning_rate * (share if i < rising else (1 - math.cos(math.pi * share)) / 2), recipe.momentum)
        for i, share in enumerate(_risen(recipe, steps_per_epoch))
    ]


def _risen(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """For each step, a number that rises from 0 to 1 and falls to 0 again, in the middle of the step."""
    total = recipe.epochs * steps_per_epoch
    rising = recipe.warm_up * total
    middles = [i + 0.5 for i in range(total)]
    return [x / rising if i < rising else (total - x) / (total - rising) for i, x in enumerate(middles)]


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
