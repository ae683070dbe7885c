"""A figure that answers to its reader in the browser: the loss above two of the eight weights, and a path down.

The page ``landscape.html`` beside this module computes the network of `mnist_lib.backprop.network` by itself. Where no
script may run, as on GitHub, a picture of the same map takes its place.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_lib.backprop import network, slider
from mnist_lib.results import live
from mnist_lib.results.drawing import GREY, ORANGE, Interactive, Picture, subplots

PAGE = Path(__file__).with_suffix(".html")

PAIR = (4, 6)
"""The two weights that are shown first, by their places: w5 and w7, which lead to different outputs."""

EDGE = 10.0
"""The map reaches so far from zero, in all four directions, and further where a weight starts further out."""


def path(
    pair: Sequence[int],
    learning_rate: float,
    steps: int,
    *,
    weights: Sequence[float],
    inputs: Sequence[float],
    targets: Sequence[float],
) -> np.ndarray:
    """Take `steps` of gradient descent in the two weights at the places `pair`; the other six stay as they are.

    Returns:
        The eight weights before the first step and after each one, shape ``(steps + 1, 8)``.
    """
    way = [np.array(weights, dtype=float)]
    moving = np.isin(np.arange(8), pair)
    for _ in range(steps):
        way.append(np.where(moving, network.step(way[-1], inputs, targets, learning_rate), way[-1]))
    return np.stack(way)


def explorer(
    *,
    inputs: Sequence[float],
    targets: Sequence[float],
    weights: Sequence[float],
    learning_rate: float,
    steps: int = 100,
) -> Interactive:
    """Show the loss as a map of two weights that the reader chooses, and gradient descent's path on it.

    Arguments:
        inputs: i1 and i2.
        targets: t1 and t2.
        weights: w1 to w8 at the start.
        learning_rate: the slider begins near it.
        steps: how many are taken; of more than 1,000, the first 1,000.
    """
    rate = min(slider.SLIDER, key=lambda each: abs(each - learning_rate))
    edge = max(EDGE, *(1.1 * abs(weight) for weight in weights))
    count = min(steps, 1000)
    settings = {
        "inputs": [*inputs],
        "targets": [*targets],
        "weights": [*weights],
        "pair": PAIR,
        "edge": edge,
        "rates": slider.SLIDER,
        "rate": rate,
        "steps": count,
    }
    way = path(PAIR, rate, count, weights=weights, inputs=inputs, targets=targets)
    picture = _picture(way, edge, rate, inputs, targets)
    return live.figure(PAGE, settings, picture, network.PAGE)


def _picture(way: np.ndarray, edge: float, rate: float, inputs: Sequence[float], targets: Sequence[float]) -> Picture:
    across, up = PAIR
    places = np.linspace(-edge, edge, 81)
    plane = np.tile(way[0], (len(places), len(places), 1))
    plane[..., across], plane[..., up] = places, places[:, None]
    figure, ((axes,),) = subplots(size=(5.2, 4.6))
    lines = axes.contour(places, places, network.loss(plane, inputs, targets), 10, colors=GREY, linewidths=0.75)
    axes.clabel(lines, fontsize=7)
    axes.plot(way[:, across], way[:, up], ".-", color=ORANGE)
    axes.plot(*way[0, [across, up]], "o", color=ORANGE, markersize=9)
    axes.set(xlabel=f"w{across + 1}", ylabel=f"w{up + 1}", xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
    axes.set_title(f"Loss E, and {len(way) - 1:,} steps with η = {rate:g}", fontsize=10)
    first, last = network.loss(way[[0, -1]], inputs, targets)
    alt = (
        f"Lines of equal loss over w{across + 1} and w{up + 1}, and the path of gradient descent in these two weights "
        f"with a learning rate of {rate:g}: in {len(way) - 1} steps w{across + 1} goes from {way[0, across]:.2f} to "
        f"{way[-1, across]:.2f}, w{up + 1} from {way[0, up]:.2f} to {way[-1, up]:.2f}, and the loss from {first:.4g} "
        f"to {last:.4g}. On the page that the report is compiled to, a slider sets the learning rate."
    )
    return Picture(figure, alt)
