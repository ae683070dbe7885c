"""The same networks, trained in bfloat16: about twice as fast, with sums that are less exact.

bfloat16 is a number of 16 bits: the range of float32, with 8 significant bits instead of 24. Weights, their updates and
the statistics of batch normalisation stay in float32; what flows between the layers is bfloat16. A network is evaluated
in float32, as all others are, so accuracies mean the same.

On a CPU most of the time goes into moving activations. oneDNN, the library that PyTorch computes convolutions with,
has a layout of its own for them, blocks of 16 channels, and repacks them before and after every layer. Here they stay
in it from the first layer to the last. Its fast code wants whole blocks, so channels of zeros fill up the last one:
they stay zero, and give no weight a gradient.

On a processor without bfloat16, plain loops stand in for it, several times slower than float32. There float32 numbers
are rounded to those that bfloat16 has, before and after every layer: that costs little, and gives what bfloat16 would.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mnist_lib.blocks import Residual

LAYERS = {
    nn.Conv2d: lambda layer: layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple),
    nn.BatchNorm2d: lambda layer: layer.affine and layer.track_running_stats and layer.momentum is not None,
    nn.ReLU: lambda layer: True,
    nn.MaxPool2d: lambda layer: layer.dilation in (1, (1, 1)) and not layer.return_indices,
    nn.AvgPool2d: lambda layer: layer.divisor_override is None,
    nn.AdaptiveAvgPool2d: lambda layer: True,
    nn.Dropout: lambda layer: True,
    nn.Dropout2d: lambda layer: True,
    nn.Flatten: lambda layer: True,
    nn.Linear: lambda layer: True,
    Residual: lambda layer: _is_chain(layer),
}
"""Layers that compute in blocks, and whether one of the kind does."""

BLOCK = 16
"""Channels of a block, for processors with AVX-512."""

SUMS_OF_PRODUCTS = {
    *(functional.conv1d, functional.conv2d, functional.conv3d, functional.linear, functional.bilinear),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
    *(torch.matmul, torch.mm, torch.bmm, torch.einsum, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm),
    *(torch.Tensor.__matmul__, torch.Tensor.__rmatmul__),
}
"""Functions whose factors, weights among them, are rounded: torch's autocast casts them to bfloat16."""


def in_bfloat16(network: nn.Module) -> nn.Module:
    """Return `network`, to be trained in bfloat16: a chain of layers in blocks, any other under torch's autocast.

    Names and parameters stay what they are.
    """
    kind = type(network)
    in_blocks = kind is nn.Sequential and _is_chain(network)
    network.__class__ = Fast if in_blocks else type(kind.__name__, (_Autocast, kind), {})
    return network


def _is_chain(layers: nn.Sequential) -> bool:
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    return not hooked and all(type(layer) in LAYERS and LAYERS[type(layer)](layer) for layer in layers)


class _Autocast(nn.Module):
    """Mixed into a network's class: its forward pass in training is cast, layer by layer, as torch sees fit."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _cast(super().forward, images) if self.training else super().forward(images)


class Fast(nn.Sequential):
    """The layers of a network, with its names and parameters, trained in bfloat16.

    Input and output are those of the network, in float32. Blocks are for processors that have bfloat16: elsewhere, a
    GPU among them, each layer is cast by itself.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape ``(n, 10)`` for images of shape ``(n, 1, h, w)``."""
        if not self.training:
            return super().forward(images)
        if images.device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return _cast(super().forward, images)
        x, channels = _through(self, images.bfloat16().contiguous().to_mkldnn(), images.shape[1])
        return x if not x.is_mkldnn else _dense(x, channels)


def _cast(forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Return what `forward` makes of `images` in bfloat16, as torch's autocast casts it, or with rounded numbers."""
    if images.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with _Rounding():
            return forward(images)
    with torch.autocast(images.device.type, torch.bfloat16):
        return forward(images).float()


class _Rounding(TorchFunctionMode):
    """While it is active, results are float32 numbers that bfloat16 has as well, and so are the factors of products.

    Gradients are rounded where the values are: that is how torch derives a cast.
    """

    def __torch_function__(
        self,
        function: Callable,
        types: Iterable[type],
        arguments: Sequence[object] = (),
        options: Mapping[str, object] | None = None,
    ) -> object:
        """Call `function`, with rounded factors if it multiplies, and round what it returns."""
        options = options or {}
        if function in SUMS_OF_PRODUCTS:
            arguments = [_rounded(each) for each in arguments]
            options = {name: _rounded(each) for name, each in options.items()}
        return _rounded(function(*arguments, **options))


def _rounded(value: object) -> object:
    is_float32 = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.bfloat16().float() if is_float32 else value


def _through(layers: nn.Sequential, x: torch.Tensor, channels: int) -> tuple[torch.Tensor, int]:
    """Apply layers to maps in blocks, of which the first `channels` are no filling; returns both as they are then."""
    for layer in layers:
        if not x.is_mkldnn:  # after a Flatten there are no channels any more
            x = layer(x)
        elif isinstance(layer, Residual):
            change, changed = _through(layer, x, channels)
            if x.shape == change.shape and change.is_mkldnn:
                x = x + change
            else:  # one of the two has no filling: the network's input, or what is no longer in blocks
                x = _dense(x, channels) + (_dense(change, changed) if change.is_mkldnn else change)
        elif isinstance(layer, nn.Conv2d):
            x, channels = _convolution(layer, x), layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d):
            x = _batch_norm(layer, x)
        elif isinstance(layer, nn.Flatten):
            x = layer(_dense(x, channels))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):  # oneDNN has no fast code for its backward pass
            x = layer(_dense(x, channels))
        elif isinstance(layer, nn.Dropout | nn.Dropout2d):
            x = layer(x.to_dense()).to_mkldnn()
        else:
            x = layer(x)
    return x, channels


def _convolution(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    filled_in, filled_out = x.shape[1] - layer.in_channels, -layer.out_channels % BLOCK
    weight = functional.pad(layer.weight, (0, 0, 0, 0, 0, filled_in, 0, filled_out)).bfloat16()
    bias = None if layer.bias is None else functional.pad(layer.bias, (0, filled_out)).bfloat16()
    # Not through nn.functional: that wants the bias in float32 and refuses it in the same breath.
    return torch.mkldnn_convolution(x, weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups)


def _batch_norm(layer: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    filled = (0, x.shape[1] - layer.num_features)
    state = [layer.running_mean, layer.running_var, layer.weight, layer.bias]
    mean, variance, weight, bias = (functional.pad(tensor, filled) for tensor in state)
    x = functional.batch_norm(x, mean, variance, weight, bias, True, layer.momentum, layer.eps)
    layer.running_mean.copy_(mean[: layer.num_features])
    layer.running_var.copy_(variance[: layer.num_features])
    layer.num_batches_tracked += 1
    return x


def _dense(x: torch.Tensor, channels: int) -> torch.Tensor:
    return x.to_dense()[:, :channels].float()
