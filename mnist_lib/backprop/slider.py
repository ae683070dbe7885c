"""A figure that answers to its reader in the browser: gradient descent at a learning rate set by a slider.

The page ``slider.html`` beside this module computes the network of `mnist_lib.backprop.network` by itself: it needs
no kernel and no network. Where no script may run, as on GitHub, a picture of the same curves takes its place.
"""

from collections.abc import Sequence
from pathlib import Path

from mnist_lib.backprop import network
from mnist_lib.results import live
from mnist_lib.results.drawing import BLUE, GREEN, GREY, ORANGE, Interactive, Picture, subplots

PAGE = Path(__file__).with_suffix(".html")

CONVENTIONS = ((0.01, 0.99), (0.5, 0.5))
"""The pairs of targets in public use."""

MANTISSAS = (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.3, 3.6, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 9)
SLIDER = (*(float(f"{mantissa}e{power}") for power in range(-2, 3) for mantissa in MANTISSAS), 1000.0)
"""The learning rates that the slider offers."""


def training(
    *,
    inputs: Sequence[float],
    targets: Sequence[float],
    weights: Sequence[float],
    learning_rates: Sequence[float],
    steps: int = 1000,
) -> Interactive:
    """Show the loss and the eight weights, step by step, at a learning rate that the reader chooses.

    Arguments:
        inputs: i1 and i2.
        targets: t1 and t2, shown first; the reader may switch to the pairs of `CONVENTIONS`.
        weights: w1 to w8 at the start.
        learning_rates: drawn in grey, to compare with. The slider begins near the last.
        steps: the reader sees 10, 100, 1000, ... up to so many.

    Raises:
        ValueError: a shape is wrong, or there are no learning rates.
    """
    if not learning_rates:
        raise ValueError("an interactive figure needs at least one learning rate to compare with")
    rate = min(SLIDER, key=lambda each: abs(each - learning_rates[-1]))
    counts = [10**power for power in range(1, 6) if 10**power < steps] + [steps]
    settings = {
        "inputs": [*inputs],
        "weights": [*weights],
        "targets": [list(pair) for pair in dict.fromkeys((tuple(targets), *CONVENTIONS))],
        "steps": counts,
        "rates": SLIDER,
        "rate": rate,
        "references": [*learning_rates],
    }
    curves = network.training_curve(
        [*learning_rates, rate], min(steps, 100), weights=weights, inputs=inputs, targets=targets
    )
    return live.figure(PAGE, settings, _picture(curves), network.PAGE)


def _picture(curves: network.Training) -> Picture:
    """Draw the losses of all learning rates, the last of them highlighted, and the weights of the last."""
    figure, ((left, right),) = subplots(1, 2)
    *others, losses = curves.losses
    for number, values in enumerate(others):
        left.plot(values, color=GREY, linewidth=0.75, label=None if number else "the other rates")
    rate, steps = curves.learning_rates[-1], len(losses) - 1
    left.plot(losses, color=BLUE, linewidth=2.5, label=f"η = {rate:g}")
    left.set(xlabel="step", ylabel="loss E", title="Loss")
    left.legend()
    for number, values in enumerate(curves.weights[-1].T):
        colour = (BLUE, ORANGE, GREEN, GREY)[number % 4]
        right.plot(values, "--" if number < 4 else "-", color=colour, label=f"w{number + 1}")
    right.set(xlabel="step", title=f"Weights, η = {rate:g}")
    right.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    first, last = curves.weights[-1][[0, -1]]
    moves = "; ".join(
        f"w{k} from {start:.2f} to {end:.2f}" for k, (start, end) in enumerate(zip(first, last, strict=True), 1)
    )
    alt = (
        f"Gradient descent with a learning rate of {rate:g}, over {steps} steps. The loss goes from {losses[0]:.4g} to "
        f"{losses[-1]:.4g}; {moves}. On the page that the report is compiled to, a slider sets the learning rate."
    )
    return Picture(figure, alt)
