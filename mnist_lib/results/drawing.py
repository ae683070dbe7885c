"""How the report draws: one style, and pictures that come with a sentence for readers who cannot see them."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from mnist_lib.base.progress import in_jupyter

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"
# On a dark page: what becomes of white, the colour of the book's dark pages, and of black.
DARK_GROUND, DARK_INK = "#14181E", "#F4F6FA"
ON_DARK_PAGES = """<style>
:is([data-jp-theme-light="false"], [theme="dark"], .vscode-dark) .drawn img { display: none !important }
:is([data-jp-theme-light="false"], [theme="dark"], .vscode-dark) .drawn img + img { display: inline !important }
</style>"""
"""Where JupyterLab, Colab or VS Code is dark, the second of two pictures is shown."""

DOTS_PER_INCH = 150
PHONE_WIDTH = 3.72
"""In inches of 96 CSS pixels: what a screen of 390 pixels has between its margins."""
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure and what it shows in words; Jupyter displays it as a PNG with that alternative text."""

    figure: Figure
    alt: str

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG file of 256 colours, drawn once: a second drawing would move the layout by a hair."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        return _written(_in_256_colours(Image.open(buffer)))

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        png, width = base64.b64encode(self.png).decode(), round(self.figure.get_figwidth() * 96)
        shown = {"image/png": png, "text/plain": self.alt}
        if in_jupyter():  # which puts a white picture on a dark page; the book has its own way, from the same file
            both = zip((png, base64.b64encode(dark(self.png)).decode()), ("inline", "none"), strict=True)
            images = (
                f'<img src="data:image/png;base64,{each}" alt="{html.escape(self.alt)}" width="{width}"'
                f' style="display: {seen}">'
                for each, seen in both
            )
            shown["text/html"] = f'{ON_DARK_PAGES}<div class="drawn">{"".join(images)}</div>'
        return shown, {"image/png": {"alt": self.alt, "width": width}}


@dataclass(frozen=True)
class Interactive:
    """A piece of a web page that contains all that it needs, and the picture that stands for it elsewhere."""

    html: str
    picture: Picture

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        bundle, metadata = self.picture._repr_mimebundle_()
        return bundle | {"text/html": self.html}, metadata


def darkened(colours: np.ndarray) -> np.ndarray:
    """Colours for a dark page: each keeps its hue, and what was bright becomes dark.

    With the luma Y of a colour (Rec. 709's weights), 1 - 2 Y is added to its red, green and blue, which turns Y into
    1 - Y. Then white is moved to `DARK_GROUND` and black to `DARK_INK`, and all between them in proportion.

    Arguments:
        colours: red, green and blue from 0 to 1, shape ``(..., 3)``; so is the result.
    """
    ground, ink = np.array(to_rgb(DARK_GROUND)), np.array(to_rgb(DARK_INK))
    luma = colours @ np.array([0.2126, 0.7152, 0.0722])
    turned = np.clip(colours + (1 - 2 * luma[..., None]), 0, 1)
    return ground + (ink - ground) * turned


def dark(png: bytes) -> bytes:
    """Return a picture for a dark page, from one for a white page; both are PNG files."""
    image = _in_256_colours(Image.open(io.BytesIO(png)))
    table = np.array(image.getpalette()).reshape(-1, 3)
    image.putpalette(np.rint(darkened(table / 255) * 255).astype(np.uint8).tobytes())
    return _written(image)


def _in_256_colours(image: Image.Image) -> Image.Image:
    """With its colours in a table, in a third of the bytes; a picture that has one is left as it is."""
    return image if image.mode == "P" else image.convert("RGB").quantize(256, dither=Image.Dither.NONE)


def _written(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def subplots(rows: int = 1, columns: int = 1, size: tuple[float, float] = (8.0, 3.4)) -> tuple[Figure, np.ndarray]:
    """Return an empty figure and its axes, shape ``(rows, columns)``; `size` is in inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def dense_network(layers: Sequence[Sequence[str]], weights: Sequence[Sequence[Sequence[str]]]) -> Picture:
    """Layers of units, from left to right, with an arrow from each unit to every unit of the next layer.

    Arguments:
        layers: the words in the units, layer by layer. The first line of a unit is its name.
        weights: ``weights[l][j][k]`` are the words on the arrow from unit k of layer l to unit j of layer l + 1.
    """
    figure, ((axes,),) = subplots(size=(7.2, 3.6))
    axes.set_axis_off()
    axes.set_aspect("equal")
    places = [
        [(3.2 * x, -2.2 * (y - (len(units) - 1) / 2)) for y in range(len(units))] for x, units in enumerate(layers)
    ]
    arrows = []
    for layer, rows in enumerate(weights):
        for j, row in enumerate(rows):
            for k, words in enumerate(row):
                start, end = np.array(places[layer][k]), np.array(places[layer + 1][j])
                style = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 29}
                axes.annotate("", end, start, arrowprops=style, zorder=1)
                # Nearer to the start than to the end, where arrows that cross are apart.
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                axes.text(*(start + 0.33 * (end - start)), words, ha="center", va="center", fontsize=9, bbox=box)
                arrows.append(f"{_name(layers[layer][k])} to {_name(layers[layer + 1][j])}: {words}")
    for units, centers, colour in zip(layers, places, [BLUE] + [GREEN] * (len(layers) - 2) + [ORANGE], strict=True):
        for unit, (x, y) in zip(units, centers, strict=True):
            axes.scatter([x], [y], s=2600, facecolor="white", edgecolor=colour, linewidth=2, zorder=2)
            axes.text(x, y, unit, ha="center", va="center", fontsize=9, zorder=3)
    heights = [y for centers in places for _, y in centers]
    axes.set(xlim=(-0.7, places[-1][0][0] + 0.7), ylim=(min(heights) - 0.7, max(heights) + 0.7))
    sizes = ", ".join(str(len(units)) for units in layers)
    alt = f"A network whose layers have {sizes} units. The weights from unit to unit: {'; '.join(arrows)}."
    return Picture(figure, alt)


def _name(unit: str) -> str:
    return unit.split("\n")[0]


def lines(
    series: Mapping[str, Sequence[float]],
    *,
    x: str,
    y: str,
    title: str = "",
    log: bool = False,
    at: Sequence[float] | None = None,
    log_x: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Picture:
    """Values against their index (0, 1, 2, ...) or against `at`, one line for each name.

    Arguments:
        series: the values by name, as many in each as in `at`; NaN leaves a gap.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        title: stands above the figure.
        log: whether the vertical axis is logarithmic.
        at: where the values are on the horizontal axis.
        log_x: whether the horizontal axis is logarithmic.
        marks: places on the horizontal axis, by name, each marked by a vertical line.
    """
    figure, ((axes,),) = subplots(size=(7.2, 3.4))
    styles = zip(cycle((BLUE, ORANGE, GREEN, GREY)), cycle(("-", "--", "-.")), strict=False)
    for (name, values), (colour, line) in zip(series.items(), styles, strict=False):
        axes.plot(range(len(values)) if at is None else at, values, line, color=colour, label=name)
    for (name, place), line in zip((marks or {}).items(), cycle((":", (0, (1, 4)))), strict=False):
        axes.axvline(place, color="black", linewidth=1, linestyle=line, label=name)
    axes.set(xlabel=x, ylabel=y, title=title, xscale=_scale(log_x), yscale=_scale(log))
    if (entries := len(series) + len(marks or {})) > 1:
        figure.legend(loc="outside upper center", ncols=3 if entries in (3, 5, 6) else 2)  # it would cover a curve
    marked = "".join(f" Marked: {name}, {place:.4g}." for name, place in (marks or {}).items())
    return Picture(figure, _in_words(series, x, y, at) + marked)


def panels(series: Mapping[str, Sequence[float]], *, x: str, y: str, log: bool = False) -> Picture:
    """Values against their index, in a small picture of its own for each name; all have the same axes."""
    columns = 3
    rows = -(-len(series) // columns)
    figure, grid = subplots(rows, columns, size=(8.0, 0.5 + 1.9 * rows))
    log = log and any(value > 0 for values in series.values() for value in values)
    shown = [value for values in series.values() for value in values if value > 0 or not log]
    low, high = min(shown), max(shown) or 1.0
    for axes in grid.flat[len(series) :]:
        axes.set_axis_off()
    for (name, values), axes in zip(series.items(), grid.flat, strict=False):
        axes.plot(range(len(values)), values, color=BLUE)
        axes.set(yscale=_scale(log), ylim=(low / 1.3, high * 1.3) if log else (0, high * 1.05))
        axes.set_title(name, fontsize=10)
        axes.label_outer()
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    return Picture(figure, f"One panel each. {_in_words(series, x, y)}")


def _scale(log: bool) -> str:
    return "log" if log else "linear"


def _in_words(series: Mapping[str, Sequence[float]], x: str, y: str, at: Sequence[float] | None = None) -> str:
    """Return what every line does, from its first value to its last."""
    words, place_of = [], x.partition(",")[0]  # without what is explained behind it
    for name, values in series.items():
        places = range(len(values)) if at is None else at
        known = [(place, value) for place, value in zip(places, values, strict=True) if value == value]  # not NaN
        if known:
            (first, start), (last, end) = known[0], known[-1]
            words.append(f"{name}: from {start:.4g} at {place_of} {first:g} to {end:.4g} at {place_of} {last:g}")
    return f"{y[:1].upper()}{y[1:]} against {x}. {'; '.join(words)}."
