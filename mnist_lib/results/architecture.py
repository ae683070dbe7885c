"""What a network is made of: its layers, its parameters, and how much of the image each unit sees.

The networks are chains: each layer reads the output of the one before. The receptive field of a layer is the side, in
pixels, of the square of the image that one unit of its output depends on; its jump is how many pixels apart the squares
of two neighbouring units lie. Both are computed twice here: by arithmetic from the geometry of the layers (`layers`),
and by asking autograd which pixels have a gradient (`gradient_support`).
"""

import difflib
import itertools
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

Shape = tuple[int, int, int]  # channels, height, width
INPUT_SHAPE: Shape = (1, 28, 28)


@dataclass(frozen=True)
class Layer:
    """A layer in use. `output_shape` is without the batch; `jump` and `receptive_field` are in pixels of the image."""

    name: str
    kernel: int
    stride: int
    padding: int
    output_shape: tuple[int, ...]
    parameters: int
    jump: int
    receptive_field: int

    @property
    def output(self) -> str:
        """The output shape in words, such as ``10 × 26 × 26``."""
        return " × ".join(map(str, self.output_shape))


def layers(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[Layer]:
    """The layers of `network` in the order in which it uses them.

    The network runs once, in evaluation mode, on an empty image of shape `input_shape`; its state is left as it was.
    With kernel k, stride s and dilation d, receptive field r and jump j follow from those of the layer before:
    r ← r + d (k - 1) j, then j ← j s (Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
    Networks", Distill, 2019, doi:10.23915/distill.00021). Global average pooling, and a linear layer that reads a
    flattened map, are windows as large as the map, with stride 1 because they have one position only.

    Raises:
        ValueError: the image or a window is not square, a kind of layer is unknown, or the network is not a chain.
            The message names the layer.
    """
    return [layer for _, layer in _steps(network, input_shape)]


def parameter_count(network: nn.Module) -> int:
    """How many numbers the network learns, each counted once, whether or not its forward pass uses them."""
    return sum(parameter.numel() for parameter in network.parameters())


def receptive_field_table(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> pd.DataFrame:
    """One row for each convolution, pooling and linear layer: its geometry, output, jump and receptive field."""
    columns = ["layer", "output", "receptive field", "jump", "kernel", "stride", "padding"]
    rows = [
        (layer.name, layer.output, layer.receptive_field, layer.jump, layer.kernel, layer.stride, layer.padding)
        for module, layer in _steps(network, input_shape)
        if not isinstance(module, _ELEMENTWISE)
    ]
    return pd.DataFrame(rows, columns=columns)


def gradient_support(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[int]:
    """The receptive field after each layer of `layers`, measured instead of computed.

    It is the side of the smallest square that holds all pixels with a non-zero gradient from the unit at the centre of
    the layer's output. To leave no gradient to chance, it is taken through a copy with one channel, in float64,
    in which all weights are positive: they cannot cancel, no ReLU is off, and an average takes the place of a maximum.
    """
    steps = _steps(network, input_shape)
    side = input_shape[-1]
    with torch.enable_grad():
        while True:
            image = signal = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
            centres = []
            for module, layer in steps:
                signal = _positive_copy(signal, module, layer)
                centres.append(signal[0, 0, signal.shape[-2] // 2, signal.shape[-1] // 2])
            # The image is zero and the padding is one, so a unit that is not zero has seen the padding.
            if not any(centre.item() for centre in centres):
                break
            side *= 2
        gradients = [torch.autograd.grad(centre, image, retain_graph=True)[0][0, 0] for centre in centres]
    extents = [torch.aminmax(gradient.nonzero(), dim=0) for gradient in gradients]
    return [int((extent.max - extent.min).max()) + 1 for extent in extents]


def check_receptive_fields(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[int]:
    """The receptive field after each layer of `layers`, computed and measured.

    Raises:
        ValueError: the two differ; the message names the first such layer.
    """
    computed, measured = layers(network, input_shape), gradient_support(network, input_shape)
    for number, (layer, side) in enumerate(zip(computed, measured, strict=True), start=1):
        if layer.receptive_field != side:
            found = f"a receptive field of {layer.receptive_field}, its gradient reaches over {side}"
            raise ValueError(f"layer {number}, {layer.name}: the table says {found}")
    return measured


def alignment(before: nn.Module, after: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[tuple[str, Layer]]:
    """The layers of both networks in one order, each after "−" (lost), "+" (gained) or "" (kept).

    Layers are the same when their names and parameter counts are; a layer that was kept is described as in `after`.
    """
    old, new = layers(before, input_shape), layers(after, input_shape)
    keys = [[(layer.name, layer.parameters) for layer in each] for each in (old, new)]
    rows: list[tuple[str, Layer]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        if kind == "equal":
            rows += [("", layer) for layer in new[k:m]]
        else:
            rows += [("−", layer) for layer in old[i:j]] + [("+", layer) for layer in new[k:m]]
    return rows


def difference(before: nn.Module, after: nn.Module, input_shape: Shape = INPUT_SHAPE) -> pd.DataFrame:
    """The layers that `after` lost ("−") and gained ("+"), as in `alignment`; each unchanged stretch is one row.

    Without any difference the table is empty.
    """
    rows: list[tuple[str, str, int, str]] = []
    for sign, stretch in itertools.groupby(alignment(before, after, input_shape), key=lambda row: row[0]):
        found = [layer for _, layer in stretch]
        if sign:
            rows += [(sign, layer.name, layer.parameters, layer.output) for layer in found]
        else:
            words = f"… {len(found)} {'layer' if len(found) == 1 else 'layers'} unchanged"
            rows.append(("", words, sum(layer.parameters for layer in found), ""))
    changed = any(sign for sign, *_ in rows)
    return pd.DataFrame(rows if changed else [], columns=["change", "layer", "parameters", "output"])


def _steps(network: nn.Module, input_shape: Shape) -> list[tuple[nn.Module, Layer]]:
    """Each module in use with its description."""
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(f"input of shape {tuple(input_shape)}: expected (channels, side, side)")
    side, jump, receptive_field = input_shape[1], 1, 1
    steps: list[tuple[nn.Module, Layer]] = []
    counted: set[nn.Parameter] = set()  # a layer used twice has its parameters once
    for label, module, shape in _trace(network, input_shape):
        try:
            name, kernel, stride, padding, dilation = _read(module, side)
            if isinstance(module, nn.Flatten | nn.Linear) and len(shape) != 1:
                raise ValueError(f"its output of shape {shape} is not flat")
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None
        receptive_field += dilation * (kernel - 1) * jump
        jump *= stride
        own = set(module.parameters()) - counted
        counted |= own
        count = sum(parameter.numel() for parameter in own)
        steps.append((module, Layer(name, kernel, stride, padding, shape, count, jump, receptive_field)))
        # A flattened map still has its positions, until a linear layer sums over them.
        side = 1 if isinstance(module, nn.Linear) else shape[1] if len(shape) == 3 else side
    return steps


def _trace(network: nn.Module, input_shape: Shape) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Run `network` once. For each innermost module, as it is used: a label for messages, itself, its output shape."""
    like = next(network.parameters(), torch.empty(0))
    signal = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    labels = {module: f"layer {name}, {module}" for name, module in network.named_modules()}
    found: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def follow(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal signal
        if not isinstance(module, _KNOWN):
            raise ValueError(f"{labels[module]}: this kind of layer is not known here")
        if inputs[0] is not signal:
            raise ValueError(f"{labels[module]}: it does not read the output of the layer before, so this is no chain")
        signal = output
        found.append((labels[module], module, tuple(output.shape[1:])))

    modes = {module: module.training for module in labels}
    hooks = [module.register_forward_hook(follow) for module in labels if not any(module.children())]
    try:
        with torch.no_grad():
            output = network.eval()(signal)
        if output is not signal:  # by now the output of the last layer
            raise ValueError("the network does not return the output of its last layer, so this is no chain")
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found


_ELEMENTWISE = (nn.ReLU, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Flatten)
_KNOWN = (*_ELEMENTWISE, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear)
_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


def _read(module: nn.Module, side: int) -> tuple[str, int, int, int, int]:
    """Name, kernel, stride, padding and dilation of a module that reads a map of `side` × `side` positions."""
    match module:
        case nn.Conv2d() | nn.MaxPool2d() | nn.AvgPool2d():
            kernel, stride, padding, dilation = (_square(module, key) for key in _GEOMETRY)
            if isinstance(module, nn.Conv2d):
                name, usual = f"{kernel}×{kernel} convolution, {module.in_channels} → {module.out_channels}", 1
            else:
                name = f"{kernel}×{kernel} {'max-pool' if isinstance(module, nn.MaxPool2d) else 'average pool'}"
                usual = kernel
                if module.ceil_mode or dilation != 1:
                    raise ValueError("pooling with ceil_mode or dilation is not known here")
            for key, default in {"stride": usual, "padding": 0, "dilation": 1, "groups": 1}.items():
                value = _square(module, key, default)
                name += f", {key} {value}" if value != default else ""
            return name, kernel, stride, padding, dilation
        case nn.AdaptiveAvgPool2d():
            if module.output_size not in (1, (1, 1)):
                raise ValueError("adaptive pooling is known only where its output is 1 × 1")
            return "global average pool", side, 1, 0, 1
        case nn.Linear():
            return f"linear {module.in_features} → {module.out_features}", side, 1, 0, 1
        case nn.Dropout() | nn.Dropout2d():
            name = f"dropout {module.p:g} ({'whole maps' if isinstance(module, nn.Dropout2d) else 'single values'})"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            name = "batch normalisation"
        case _:
            name = "ReLU" if isinstance(module, nn.ReLU) else "flatten"
    return name, 1, 1, 0, 1


def _square(module: nn.Module, key: str, missing: int = 1) -> int:
    """An option that torch takes as one number or as one for each direction; `missing` where a module lacks it."""
    value = getattr(module, key, missing)
    height, width = value if isinstance(value, tuple | list) else (value, value)
    if height != width or isinstance(value, str):
        raise ValueError(f"{key} {value!r} is not known here, only one number for both directions")
    return height


def _positive_copy(signal: torch.Tensor, module: nn.Module, layer: Layer) -> torch.Tensor:
    """Apply `module` to one channel, ``(1, 1, h, w)``, with weights that are all positive and padding with ones.

    Window, stride and dilation are read from the module itself, so that a slip in `_read` cannot hide.
    """
    signal = functional.pad(signal, [layer.padding] * 4, value=1.0)
    match module:
        case nn.Conv2d():
            weight = torch.ones(1, 1, *module.weight.shape[2:], dtype=signal.dtype)
            return functional.conv2d(signal, weight, stride=module.stride, dilation=module.dilation)
        case nn.MaxPool2d() | nn.AvgPool2d():
            return functional.avg_pool2d(signal, module.kernel_size, module.stride)
        case nn.AdaptiveAvgPool2d() | nn.Linear():
            return functional.avg_pool2d(signal, layer.kernel, stride=1)
    return signal
