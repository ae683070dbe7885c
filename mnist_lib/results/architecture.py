"""What a network is made of: its layers, its parameters, and how much of the image each unit sees.

Any `nn.Module` is described: it runs once, and each torch call that its output descends from is a layer, whether a
module makes the call or ``forward`` itself. The receptive field of a layer is the side, in pixels, of the square of the
image that one unit of its output depends on; its jump is how many pixels apart the squares of two neighbouring units
lie. Both are computed by arithmetic from the geometry of the layers (`layers`), and the field is measured as well, by
asking autograd which pixels have a gradient (`gradient_support`). Normalisation counts as seeing no further: the mean
and the variance that it may take of a whole map are left out.
"""

import contextlib
import difflib
import io
import itertools
from dataclasses import replace

import pandas as pd
import torch
import torchsummary
from torch import nn

from mnist_lib.results.tracing import Layer, Shape, Step, copied, soft_trace, trace

INPUT_SHAPE: Shape = (1, 28, 28)
Extent = tuple[int, int]  # the first pixel, and the one after the last


def layers(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[Layer]:
    """List the layers of `network` in the order in which it uses them.

    A copy of the network runs once, in evaluation mode, on empty images of shape `input_shape`.
    With kernel k, stride s and dilation d, receptive field r and jump j follow from those of the layer before:
    r ← r + d (k - 1) j, then j ← j s (Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
    Networks", Distill, 2019, doi:10.23915/distill.00021). Global average pooling, and a linear layer that reads a
    flattened map, are windows as large as the map, with stride 1 because they have one position only. Where branches
    meet, a unit sees what it sees through any of them. A layer whose geometry is not known here, such as attention, is
    a plain box; from there on the field is the measured one where that is larger.

    Raises:
        ValueError: `input_shape` is not (channels, height, width).
    """
    return [step.layer for step in _steps(network, input_shape)]


def parameter_count(network: nn.Module) -> int:
    """Count the numbers that the network learns, each counted once, whether or not its forward pass uses them."""
    return sum(parameter.numel() for parameter in network.parameters())


def summary(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> None:
    """Print torchsummary's table and, where torchsummary counts otherwise, the true number of parameters.

    Where torchsummary fails, as it does on attention, a plain table of `layers` is printed.
    """
    count, printed = parameter_count(network), io.StringIO()
    try:
        # torchsummary runs the network in its present mode: in training, that changes statistics and random state.
        with copied(network) as mine, contextlib.redirect_stdout(printed):
            torchsummary.summary(mine.cpu(), tuple(input_shape), device="cpu")
    except Exception:  # whatever is the network's own fault comes up again in `layers`
        rows = [(layer.name, layer.output, f"{layer.parameters:,}") for layer in layers(network, input_shape)]
        print(pd.DataFrame(rows, columns=["layer", "output", "parameters"]).to_string(index=False))
        print(f"Total params: {count:,}")
        return
    print(printed.getvalue(), end="")
    if f"\nTotal params: {count:,}\n" not in printed.getvalue():
        print(
            f"The network has {count:,} parameters: torchsummary counts a shared layer at every use, and only what is "
            "named weight or bias."
        )


def receptive_field_table(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> pd.DataFrame:
    """Give geometry, output, jump and receptive field of each convolution, pooling and linear layer, one row for each.

    There is a row, too, for each layer that joins branches, and for each whose geometry is not known.
    """
    columns = ["layer", "output", "receptive field", "jump", "kernel", "stride", "padding"]
    rows = [
        (layer.name, layer.output, layer.receptive_field, layer.jump, layer.kernel, layer.stride, layer.padding)
        for layer in (step.layer for step in _steps(network, input_shape) if not step.in_place)
    ]
    return pd.DataFrame(rows, columns=columns)


def gradient_support(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[int]:
    """Measure the receptive field after each layer of `layers` instead of computing it.

    It is the side of the smallest square that holds all pixels with a non-zero gradient from the unit at the centre of
    the layer's output, over all channels. To leave no gradient to chance, it is taken through a copy in float64 with
    positive weights, without activations and normalisation, and with an average in the place of a maximum.

    Where a field cannot be measured, it is the computed one: where it does not fit into the image (then only a larger
    gradient would tell), in flat outputs, whose numbers belong to one channel each, and where the copy fails or takes
    another path through the network, since its numbers are others.
    """
    steps = _trace(network, input_shape)
    return _supports(steps, _measured(network, input_shape, steps), input_shape)


def check_receptive_fields(network: nn.Module, input_shape: Shape = INPUT_SHAPE) -> list[int]:
    """Compute and measure the receptive field after each layer of `layers`, and return it.

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
    """List the layers of both networks in one order, each after "−" (lost), "+" (gained) or "" (kept).

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
    """Show what layers `after` lost ("−") and gained ("+"), as in `alignment`; each unchanged stretch is one row.

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


def _steps(network: nn.Module, input_shape: Shape) -> list[Step]:
    """Return what the output of `network` descends from; a field that arithmetic does not know is measured."""
    steps = _trace(network, input_shape)
    if not all(step.signal.known for step in steps):
        sides = _supports(steps, _measured(network, input_shape, steps), input_shape)
        for step, side in zip(steps, sides, strict=True):
            if not step.signal.known:
                step.layer = replace(step.layer, receptive_field=side)
    return steps


def _supports(steps: list[Step], measured: dict[int, list[Extent]], input_shape: Shape) -> list[int]:
    """For each step the measured side, or the computed one where nothing could be measured."""
    sides = []
    for step in steps:
        along = [span.field for span in step.signal.spans]
        for axis, (low, high) in enumerate(measured.get(step.signal.step, ())):
            first, last = step.signal.spans[axis].of_middle()
            within, fits = first <= low and high <= last, first >= 0 and last <= input_shape[1 + axis]
            if not step.signal.known:
                along[axis] = max(along[axis], high - low)
            elif fits or not within:  # what reaches out of the image need not be filled
                along[axis] = high - low
        sides.append(max(along))
    return sides


def _measured(network: nn.Module, input_shape: Shape, steps: list[Step]) -> dict[int, list[Extent]]:
    """Return the rows and the columns that a gradient reaches, by the number of the step; empty if it cannot be had."""
    try:
        images, softened = soft_trace(network, input_shape)
        if [(step.signal.step, step.layer.name, step.layer.output) for step in softened] != [
            (step.signal.step, step.layer.name, step.layer.output) for step in steps
        ]:
            return {}  # another path: the two are not the same network
        units = {step.signal.step: step.unit for step in softened if step.unit is not None and step.unit.requires_grad}
        found = {}
        for number, unit in units.items():
            (gradient,) = torch.autograd.grad(unit, images, retain_graph=True, allow_unused=True)
            if gradient is not None and gradient.any():
                extent = torch.aminmax(gradient.abs().sum((0, 1)).nonzero(), dim=0)
                found[number] = list(zip(extent.min.tolist(), (extent.max + 1).tolist(), strict=True))
        return found
    except Exception:  # whatever it is that such a copy cannot do, the network itself can
        return {}


def _trace(network: nn.Module, input_shape: Shape) -> list[Step]:
    if len(input_shape) != 3:
        raise ValueError(f"input of shape {tuple(input_shape)}: expected (channels, height, width)")
    return trace(network, input_shape)
