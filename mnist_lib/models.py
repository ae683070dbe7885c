"""The networks of the ten iterations, each a flat list of layers.

Shapes in the comments are the output of the line, for an input of shape ``(n, 1, 28, 28)``. All networks return
``logits`` of shape ``(n, 10)``. Convolutions are 3×3 without padding and without bias unless a line says otherwise.
"""

from collections.abc import Callable

from torch import nn


def conv_relu(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """A convolution without bias, then ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.ReLU()]


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """A convolution without bias, batch normalisation, then ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def conv_relu_bn(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """A convolution without bias, ReLU, then batch normalisation."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.ReLU(), nn.BatchNorm2d(outputs)]


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    """A convolution without bias, then batch normalisation: a linear step."""
    return [nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs)]


def lenet() -> nn.Sequential:
    """A LeNet-style network with biases: 431,080 parameters, most of them in one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),  # 20 × 24 × 24
        nn.ReLU(),
        nn.MaxPool2d(2),  # 20 × 12 × 12
        nn.Conv2d(20, 50, 5),  # 50 × 8 × 8
        nn.ReLU(),
        nn.MaxPool2d(2),  # 50 × 4 × 4
        nn.Flatten(),  # 800
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def skeleton() -> nn.Sequential:
    """A fully convolutional network: two blocks that widen, each narrowed by a 1×1 convolution. 10,790 parameters."""
    return nn.Sequential(
        *conv_relu(1, 10),  # 10 × 26 × 26
        *conv_relu(10, 10),  # 10 × 24 × 24
        *conv_relu(10, 20),  # 20 × 22 × 22
        nn.MaxPool2d(2),  # 20 × 11 × 11
        *conv_relu(20, 10, kernel=1),  # 10 × 11 × 11
        *conv_relu(10, 10),  # 10 × 9 × 9
        *conv_relu(10, 20),  # 20 × 7 × 7
        *conv_relu(20, 10, kernel=1),  # 10 × 7 × 7
        nn.Conv2d(10, 10, 7, bias=False),  # 10 × 1 × 1
        nn.Flatten(),
    )


def skeleton_bn() -> nn.Sequential:
    """The skeleton with batch normalisation after every convolution but the last. 10,970 parameters."""
    return nn.Sequential(
        *conv_bn_relu(1, 10),  # 10 × 26 × 26
        *conv_bn_relu(10, 10),  # 10 × 24 × 24
        *conv_bn_relu(10, 20),  # 20 × 22 × 22
        nn.MaxPool2d(2),  # 20 × 11 × 11
        *conv_bn_relu(20, 10, kernel=1),  # 10 × 11 × 11
        *conv_bn_relu(10, 10),  # 10 × 9 × 9
        *conv_bn_relu(10, 20),  # 20 × 7 × 7
        *conv_bn_relu(20, 10, kernel=1),  # 10 × 7 × 7
        nn.Conv2d(10, 10, 7, bias=False),  # 10 × 1 × 1
        nn.Flatten(),
    )


def skeleton_dropout() -> nn.Sequential:
    """The normalised skeleton with dropout of 0.1 after its third and sixth convolution. 10,970 parameters."""
    return nn.Sequential(
        *conv_bn_relu(1, 10),  # 10 × 26 × 26
        *conv_bn_relu(10, 10),  # 10 × 24 × 24
        *conv_bn_relu(10, 20),  # 20 × 22 × 22
        nn.Dropout2d(0.1),
        nn.MaxPool2d(2),  # 20 × 11 × 11
        *conv_bn_relu(20, 10, kernel=1),  # 10 × 11 × 11
        *conv_bn_relu(10, 10),  # 10 × 9 × 9
        *conv_bn_relu(10, 20),  # 20 × 7 × 7
        nn.Dropout2d(0.1),
        *conv_bn_relu(20, 10, kernel=1),  # 10 × 7 × 7
        nn.Conv2d(10, 10, 7, bias=False),  # 10 × 1 × 1
        nn.Flatten(),
    )


def skeleton_gap() -> nn.Sequential:
    """The skeleton with global average pooling in place of its 7×7 convolution. 6,070 parameters."""
    return nn.Sequential(
        *conv_bn_relu(1, 10),  # 10 × 26 × 26
        *conv_bn_relu(10, 10),  # 10 × 24 × 24
        *conv_bn_relu(10, 20),  # 20 × 22 × 22
        nn.Dropout2d(0.1),
        nn.MaxPool2d(2),  # 20 × 11 × 11
        *conv_bn_relu(20, 10, kernel=1),  # 10 × 11 × 11
        *conv_bn_relu(10, 10),  # 10 × 9 × 9
        *conv_bn_relu(10, 20),  # 20 × 7 × 7
        nn.Dropout2d(0.1),
        *conv_bn_relu(20, 10, kernel=1),  # 10 × 7 × 7
        nn.AdaptiveAvgPool2d(1),  # 10 × 1 × 1
        nn.Flatten(),
    )


def deep_dropout() -> nn.Sequential:
    """A deeper and narrower network, with dropout of 0.1 after its third and sixth convolution. 7,884 parameters."""
    return nn.Sequential(
        *conv_relu_bn(1, 10),  # 10 × 26 × 26
        *conv_relu_bn(10, 10),  # 10 × 24 × 24
        *conv_relu_bn(10, 10),  # 10 × 22 × 22
        nn.Dropout2d(0.1),
        *conv_bn(10, 10),  # 10 × 20 × 20
        *conv_bn(10, 10, kernel=1),  # 10 × 20 × 20
        nn.MaxPool2d(2),  # 10 × 10 × 10
        *conv_relu_bn(10, 14),  # 14 × 8 × 8
        nn.Dropout2d(0.1),
        *conv_relu_bn(14, 14),  # 14 × 6 × 6
        *conv_bn(14, 13),  # 13 × 4 × 4
        nn.AdaptiveAvgPool2d(1),  # 13 × 1 × 1
        *conv_bn(13, 10, kernel=1),  # 10 × 1 × 1
        nn.Flatten(),
    )


def deep() -> nn.Sequential:
    """The deeper and narrower network without dropout. 7,884 parameters."""
    return nn.Sequential(
        *conv_relu_bn(1, 10),  # 10 × 26 × 26
        *conv_relu_bn(10, 10),  # 10 × 24 × 24
        *conv_relu_bn(10, 10),  # 10 × 22 × 22
        *conv_bn(10, 10),  # 10 × 20 × 20
        *conv_bn(10, 10, kernel=1),  # 10 × 20 × 20
        nn.MaxPool2d(2),  # 10 × 10 × 10
        *conv_relu_bn(10, 14),  # 14 × 8 × 8
        *conv_relu_bn(14, 14),  # 14 × 6 × 6
        *conv_bn(14, 13),  # 13 × 4 × 4
        nn.AdaptiveAvgPool2d(1),  # 13 × 1 × 1
        *conv_bn(13, 10, kernel=1),  # 10 × 1 × 1
        nn.Flatten(),
    )


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    network.__name__: network
    for network in (lenet, skeleton, skeleton_bn, skeleton_dropout, skeleton_gap, deep_dropout, deep)
}
