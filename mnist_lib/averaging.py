"""What is evaluated in the place of the weights after the last step."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

STATISTICS_BATCH = 500
"""Images of which batch normalisation takes its statistics at a time."""


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Follow the weights of `model` by an exponential moving average, which forgets faster at the start.

    After t updates it keeps the share min(`decay`, (1 + t) / (10 + t)) of the old average (as in TensorFlow's
    ExponentialMovingAverage). ``update_parameters`` makes an update; ``module`` is the averaged network.
    """

    @torch.no_grad()
    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor | int) -> None:
        count = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + count) / (10 + count)))

    return AveragedModel(model, multi_avg_fn=update)


def fresh_statistics(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Copy `model`, and take the statistics of its batch normalisation anew, as means over batches of `images`.

    Arguments:
        model: any network.
        images: as the network reads them, shape ``(n, 1, h, w)``.
    """
    copied = copy.deepcopy(model)
    update_bn(images.split(STATISTICS_BATCH), copied)
    return copied.eval()
