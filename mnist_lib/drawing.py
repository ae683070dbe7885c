"""How the report draws: one style, and pictures that come with a sentence for readers who cannot see them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"
DOTS_PER_INCH = 150
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
        """The figure as a PNG file, drawn once: a second drawing would move the layout by a hair."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        png = base64.b64encode(self.png).decode()
        width = round(self.figure.get_figwidth() * 96)
        return {"image/png": png, "text/plain": self.alt}, {"image/png": {"alt": self.alt, "width": width}}


def subplots(rows: int = 1, columns: int = 1, size: tuple[float, float] = (8.0, 3.4)) -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes, shape ``(rows, columns)``; `size` is in inches."""
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


def lines(series: Mapping[str, Sequence[float]], *, x: str, y: str, title: str = "", log: bool = False) -> Picture:
    """Values against their index (0, 1, 2, ...), one line for each name; `log` makes the vertical axis logarithmic."""
    figure, ((axes,),) = subplots(size=(7.2, 3.4))
    styles = zip(cycle((BLUE, ORANGE, GREEN, GREY)), cycle(("-", "--", "-.")), strict=False)
    for (name, values), (colour, line) in zip(series.items(), styles, strict=False):
        axes.plot(range(len(values)), values, line, color=colour, label=name)
    axes.set(xlabel=x, ylabel=y, title=title, yscale="log" if log else "linear")
    if len(series) > 1:
        axes.legend()
    words = "; ".join(
        f"{name}: from {values[0]:.4g} at {x} 0 to {values[-1]:.4g} at {x} {len(values) - 1}"
        for name, values in series.items()
    )
    return Picture(figure, f"{y[:1].upper()}{y[1:]} against {x}. {words}.")
