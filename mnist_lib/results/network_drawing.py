"""A drawing of a network: a row for each layer, and what changed since another network. It fits a phone's screen."""

from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from mnist_lib.results import architecture
from mnist_lib.results.architecture import INPUT_SHAPE, Layer, Shape
from mnist_lib.results.drawing import BLUE, GREY, ORANGE, Picture
from mnist_lib.results.drawing import PHONE_WIDTH as WIDTH

SIGN, MIDDLE, TEXT = 0.1, 0.6, 1.06  # where the columns are: signs, the middle of the blocks, words
WIDEST, NARROWEST = 0.78, 0.06  # blocks: of a map as wide as the image, of a single number
ROW, LINE = 0.21, 0.16  # the height of a row with one line, and of every further line
NAME_LENGTH, DETAIL_LENGTH = 35, 38  # characters that fit in a line; a new layer's name is bold
FONT = {"fontsize": 8.5, "va": "center"}


def picture(network: nn.Module, before: nn.Module | None = None, input_shape: Shape = INPUT_SHAPE) -> Picture:
    """Draw the layers of `network` from top to bottom; a block is as wide, in proportion, as the map that comes out.

    Beside a block are the layer's name, its output (channels × height × width), its parameters, and its receptive
    field: how many pixels, in a square, one value of the output sees. Layers that `before` has not are marked by a
    plus, hatching and a thick frame, those that only `before` has by a minus and a dashed frame. Where less than half
    of the layers were kept, the network counts as a new one and nothing is marked. Branches stand one below the other,
    each from where it begins to where an addition, say, or a concatenation joins it to the rest.
    """
    rows = [("", layer) for layer in architecture.layers(network, input_shape)]
    note = ""
    if before is not None:
        compared = architecture.alignment(before, network, input_shape)
        signs = [sign for sign, _ in compared]
        is_new = 2 * signs.count("") < len(rows)
        rows = rows if is_new else compared
        note = "a new network" if is_new else "+ new   − gone" if any(signs) else "the same network as before"
    notes = [f"= {architecture.parameter_count(network):,} parameters"]
    if before is not None:
        notes += [f"before: {architecture.parameter_count(before):,}", note]
    return Picture(_drawn(rows, notes, input_shape), _in_words(rows, notes, input_shape))


def _drawn(rows: list[tuple[str, Layer]], notes: list[str], input_shape: Shape) -> Figure:
    details = _details(rows, input_shape)
    heights = [ROW + LINE * (len(lines) - 1) for lines in details]
    height = 2 * ROW + sum(heights) + ROW * len(notes)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    _row(axes, ROW, ROW, "", 1.0, [f"image, {' × '.join(map(str, input_shape))}"])
    top = 1.5 * ROW
    for (sign, layer), lines, row_height in zip(rows, details, heights, strict=True):
        width = min(1.0, layer.output_shape[-1] / input_shape[-1]) if len(layer.output_shape) == 3 else 0.0
        _row(axes, top + row_height / 2, row_height, sign, width, lines)
        top += row_height
    for number, note in enumerate(notes):
        axes.text(TEXT, top + ROW * (number + 0.6), note, fontweight="bold", **FONT)
    return figure


def _row(axes: Axes, middle: float, height: float, sign: str, width: float, lines: list[str]) -> None:
    """One layer: its sign, a block of `width` (1 is that of the image), and lines of words, the first its name."""
    wide, high = max(width * WIDEST, NARROWEST), height - 0.07
    frame = {
        "": {"facecolor": (BLUE, 0.3), "edgecolor": BLUE, "linewidth": 0.8},
        "+": {"facecolor": "white", "edgecolor": ORANGE, "hatch": "/////", "linewidth": 1.8},
        "−": {"facecolor": "none", "edgecolor": GREY, "linestyle": "--", "linewidth": 1},
    }[sign]
    axes.add_patch(Rectangle((MIDDLE - wide / 2, middle - high / 2), wide, high, **frame))
    axes.text(SIGN, middle, sign, ha="center", fontweight="bold", **(FONT | {"fontsize": 11}))
    weight, colour = "bold" if sign == "+" else "normal", GREY if sign == "−" else "black"
    for number, words in enumerate(lines):
        place = middle + LINE * (number - (len(lines) - 1) / 2)
        style = {"color": colour, "fontweight": "normal" if number else weight, "parse_math": False}
        axes.text(TEXT, place, words, **style, **FONT)


def _details(rows: list[tuple[str, Layer]], input_shape: Shape) -> list[list[str]]:
    """For each layer its name and, where it changes shape or receptive field or is long, a line on what comes out."""
    shape, field = tuple(input_shape), 1
    found = []
    for sign, layer in rows:
        count = f", {layer.parameters:,} parameters" if layer.parameters else ""
        if sign == "−":
            found.append(wrap(layer.name, NAME_LENGTH))
        elif (layer.output_shape, layer.receptive_field) == (shape, field) and len(layer.name + count) <= NAME_LENGTH:
            found.append(wrap(layer.name + count, NAME_LENGTH))
        else:
            shape, field = layer.output_shape, layer.receptive_field
            detail = f"{layer.output.replace(' ', '')}{count}, sees {field}×{field}"
            found.append(wrap(layer.name, NAME_LENGTH) + wrap(detail, DETAIL_LENGTH))
    return found


def _in_words(rows: list[tuple[str, Layer]], notes: list[str], input_shape: Shape) -> str:
    words = []
    for (sign, layer), lines in zip(rows, _details(rows, input_shape), strict=True):
        name = {"": "", "+": "new: ", "−": "gone: "}[sign] + layer.name
        field = f"{layer.receptive_field} × {layer.receptive_field}"
        words.append(f"{name} ({layer.output}, sees {field})" if len(lines) > 1 else name)
    image = " × ".join(map(str, input_shape))
    total = ", ".join(note.removeprefix("= ") for note in notes if not note.startswith("+"))
    return f"A network, from an image of {image} down to its answer: {'; '.join(words)}. Together: {total}."
