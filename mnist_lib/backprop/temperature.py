"""A figure that answers to its reader in the browser: softmax of real logits at a temperature set by a slider.

Where no script may run, as on GitHub, a picture of three temperatures takes its place.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_lib.results import live
from mnist_lib.results.drawing import Interactive, Picture, subplots

PAGE = Path(__file__).with_suffix(".html")

SHOWN = (0.3, 1.0, 3.0)
"""The temperatures of the picture."""


def softmax(logits: Sequence[float], temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities of logits: exponentials of the logits over the temperature, divided by their sum."""
    powers = np.exp((np.asarray(logits, dtype=float) - max(logits)) / temperature)
    return powers / powers.sum()


def explorer(logits: Sequence[Sequence[float]], labels: Sequence[int]) -> Interactive:
    """Show the ten probabilities of an image that the reader chooses, at a temperature that the reader chooses.

    Arguments:
        logits: ten numbers for each image.
        labels: the digit on each.

    Raises:
        ValueError: there is no image.
    """
    if not len(logits):
        raise ValueError("softmax needs the logits of at least one image")
    images = [
        {"label": int(label), "logits": [round(float(each), 4) for each in row]}
        for row, label in zip(logits, labels, strict=True)
    ]
    return live.figure(PAGE, images, _picture(images[0]["logits"]))


def _picture(logits: Sequence[float]) -> Picture:
    figure, (row,) = subplots(1, len(SHOWN), size=(8.0, 2.4))
    words = []
    for axes, temperature in zip(row, SHOWN, strict=True):
        probabilities = softmax(logits, temperature)
        axes.bar(range(len(logits)), probabilities)
        axes.set(title=f"T = {temperature:g}", xticks=range(len(logits)), ylim=(0, 1), xlabel="digit")
        words.append(f"at {temperature:g} the largest is {probabilities.max():.3f}")
    row[0].set_ylabel("probability")
    return Picture(figure, f"Softmax of one image's logits at three temperatures: {'; '.join(words)}.")
