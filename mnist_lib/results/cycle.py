"""A figure that answers to its reader in the browser: one cycle of the learning rate, its peak and its rise by slider.

The page ``cycle.html`` beside this module computes the cycle as torch's scheduler does. Where no script may run, as on
GitHub, a picture of the recipe's own rates takes its place.
"""

from pathlib import Path

import numpy as np

from mnist_lib import optimization
from mnist_lib.parameters import Recipe
from mnist_lib.results import drawing, live
from mnist_lib.results.drawing import Interactive

PAGE = Path(__file__).with_suffix(".html")

PEAKS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""The peaks that the slider offers, beside the recipe's own."""

RISE = 0.3
"""The share of the steps in which the rate rises in torch's scheduler, which makes the recipe's rates."""

PLACES = 150
"""At how many steps, at most, the recipe's own rates are drawn."""


def explorer(recipe: Recipe, steps_per_epoch: int) -> Interactive:
    """Show rate and momentum of a cycle whose peak and rise the reader chooses, with those of `recipe` to compare.

    Arguments:
        recipe: its epochs count, and its peak is where the slider begins.
        steps_per_epoch: how many steps an epoch has.
    """
    own = optimization.rates(recipe, steps_per_epoch)
    rates, momenta = zip(*own, strict=True)
    chosen = np.unique(np.linspace(0, len(own) - 1, PLACES).astype(int))
    settings = {
        "epochs": recipe.epochs,
        "steps": len(own),
        "peaks": sorted({*PEAKS, recipe.learning_rate}),
        "peak": recipe.learning_rate,
        "rise": RISE,
        "own": [[int(n) for n in chosen], *([round(each[n], 6) for n in chosen] for each in (rates, momenta))],
    }
    at = [step / steps_per_epoch for step in range(len(own))]
    picture = drawing.lines({"learning rate": rates, "momentum": momenta}, x="epoch", y="value in each step", at=at)
    return live.figure(PAGE, settings, picture)
