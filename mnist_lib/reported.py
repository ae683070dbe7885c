"""The networks of five public reports, rebuilt layer by layer; `mnist_lib.results.claims` says what was reported of them.

Shapes in the comments are the output of the line, for an input of shape ``(n, 1, 28, 28)``. All networks return
``logits`` of shape ``(n, 10)``. Report E's own network is `mnist_lib.models.deep`.
"""

from collections.abc import Callable

from torch import nn


def relu_bn_dropout(inputs: int, outputs: int, dropout: nn.Module) -> list[nn.Module]:
    """A 3×3 convolution without bias and padding, ReLU, batch normalisation, dropout."""
    return [nn.Conv2d(inputs, outputs, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(outputs), dropout]


def padded_relu_bn(inputs: int, outputs: int) -> list[nn.Module]:
    """A padded 3×3 convolution without bias, ReLU, batch normalisation."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(outputs)]


def biased_relu_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution with bias and without padding, ReLU, batch normalisation."""
    return [nn.Conv2d(inputs, outputs, kernel, stride=stride), nn.ReLU(), nn.BatchNorm2d(outputs)]


def padded_pair(inputs: int, outputs: int) -> list[nn.Module]:
    """Two padded 3×3 convolutions with bias, ReLU after each; then max-pooling and batch normalisation."""
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
    ]


def report_a() -> nn.Sequential:
    """Report A: two blocks of three convolutions, little dropout, no biases. 17,360 parameters."""
    return nn.Sequential(
        *relu_bn_dropout(1, 16, nn.Dropout2d(0.02)),  # 16 × 26 × 26
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.02)),  # 16 × 24 × 24
        *relu_bn_dropout(16, 32, nn.Dropout2d(0.02)),  # 32 × 22 × 22
        nn.MaxPool2d(2),  # 32 × 11 × 11
        nn.Conv2d(32, 16, 1, bias=False),  # 16 × 11 × 11
        nn.ReLU(),
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.02)),  # 16 × 9 × 9
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.02)),  # 16 × 7 × 7
        *relu_bn_dropout(16, 32, nn.Dropout2d(0.02)),  # 32 × 5 × 5
        nn.AvgPool2d(5),  # 32 × 1 × 1
        nn.Conv2d(32, 10, 1, bias=False),  # 10 × 1 × 1
        nn.Flatten(),
    )


def report_b() -> nn.Sequential:
    """Report B: dropout after every convolution, once before and once after batch normalisation. 16,858 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),  # 16 × 26 × 26
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.BatchNorm2d(16),
        nn.Dropout2d(0.1),
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.1)),  # 16 × 24 × 24
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.1)),  # 16 × 22 × 22
        nn.MaxPool2d(2),  # 16 × 11 × 11
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.1)),  # 16 × 9 × 9
        *relu_bn_dropout(16, 16, nn.Dropout(0.1)),  # 16 × 7 × 7
        *relu_bn_dropout(16, 16, nn.Dropout2d(0.1)),  # 16 × 5 × 5
        *relu_bn_dropout(16, 32, nn.Dropout2d(0.1)),  # 32 × 3 × 3
        nn.AdaptiveAvgPool2d(1),  # 32 × 1 × 1
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def report_c() -> nn.Sequential:
    """Report C: a 1×1 convolution of stride 2 in the place of max-pooling; biases everywhere. 19,698 parameters."""
    return nn.Sequential(
        *biased_relu_bn(1, 16),  # 16 × 26 × 26
        *biased_relu_bn(16, 16),  # 16 × 24 × 24
        *biased_relu_bn(16, 30),  # 30 × 22 × 22
        *biased_relu_bn(30, 30, kernel=1, stride=2),  # 30 × 11 × 11
        *biased_relu_bn(30, 16),  # 16 × 9 × 9
        *biased_relu_bn(16, 16),  # 16 × 7 × 7
        *biased_relu_bn(16, 32),  # 32 × 5 × 5
        nn.AvgPool2d(5),  # 32 × 1 × 1
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def report_d() -> nn.Sequential:
    """Report D: three padded pairs of convolutions with biases; its receptive field is larger than the image.

    18,482 parameters.
    """
    return nn.Sequential(
        *padded_pair(1, 8),  # 8 × 14 × 14
        *padded_pair(8, 16),  # 16 × 7 × 7
        *padded_pair(16, 32),  # 32 × 3 × 3
        nn.Conv2d(32, 10, 1),  # 10 × 3 × 3
        nn.AvgPool2d(3),  # 10 × 1 × 1
        nn.Flatten(),
    )


def report_e_early() -> nn.Sequential:
    """An earlier network of report E: narrow, padded, with a linear layer at its end. 12,178 parameters."""
    return nn.Sequential(
        *padded_relu_bn(1, 4),  # 4 × 28 × 28
        *padded_relu_bn(4, 4),
        *padded_relu_bn(4, 4),
        nn.Dropout2d(0.01),
        nn.MaxPool2d(2),  # 4 × 14 × 14
        *padded_relu_bn(4, 8),  # 8 × 14 × 14
        *padded_relu_bn(8, 8),
        *padded_relu_bn(8, 8),
        nn.Dropout2d(0.01),
        nn.MaxPool2d(2),  # 8 × 7 × 7
        *padded_relu_bn(8, 16),  # 16 × 7 × 7
        *padded_relu_bn(16, 24),  # 24 × 7 × 7
        nn.Dropout2d(0.01),
        nn.MaxPool2d(2),  # 24 × 3 × 3
        *padded_relu_bn(24, 16),  # 16 × 3 × 3
        nn.Conv2d(16, 14, 3, padding=1, bias=False),  # 14 × 3 × 3
        nn.AdaptiveAvgPool2d(1),  # 14 × 1 × 1
        nn.Flatten(),
        nn.Linear(14, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    network.__name__: network for network in (report_a, report_b, report_c, report_d, report_e_early)
}
