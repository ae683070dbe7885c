"""Blocks that the networks of several notebooks are built from; each gives a list of layers, or is a layer itself.

Convolutions are 3×3 without padding and without bias unless a block says otherwise.
"""

import torch
from torch import nn


def conv_relu(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """Give a convolution without bias, then ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.ReLU()]


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """Give a convolution without bias, batch normalisation, then ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def conv_relu_bn(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """Give a convolution without bias, ReLU, then batch normalisation."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.ReLU(), nn.BatchNorm2d(outputs)]


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """Give a convolution without bias, then batch normalisation: a linear step."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs)]


def relu_bn_dropout(inputs: int, outputs: int, dropout: nn.Module) -> list[nn.Module]:
    """Give a 3×3 convolution without bias and padding, ReLU, batch normalisation, dropout."""
    return [nn.Conv2d(inputs, outputs, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(outputs), dropout]


def biased_relu_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Give a convolution with bias and without padding, ReLU, batch normalisation."""
    return [nn.Conv2d(inputs, outputs, kernel, stride=stride), nn.ReLU(), nn.BatchNorm2d(outputs)]


class Residual(nn.Sequential):
    """A chain of layers whose input is added to its output (He et al., 2016); both have the same shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x + layers(x)``."""
        return x + super().forward(x)
