r"""A network of two inputs, two hidden and two output units, with its gradient in closed form.

Every unit adds up its weighted inputs and a bias, and squashes the sum with the logistic sigmoid
:math:`\sigma(x) = 1 / (1 + e^{-x})`. The loss is :math:`E = \frac12 \sum_k (t_k - a_{o_k})^2`. The weights are numbered

.. math::

    \begin{aligned}
    h_1 &= w_1 i_1 + w_2 i_2 + b_1 \\
    h_2 &= w_3 i_1 + w_4 i_2 + b_1 \\
    o_1 &= w_5 a_{h_1} + w_6 a_{h_2} + b_2 \\
    o_2 &= w_7 a_{h_1} + w_8 a_{h_2} + b_2
    \end{aligned}

The biases :math:`b_1` and :math:`b_2`, one a layer, are zero by default. They are part of the network but are not
trained: the well-known worked example that has them leaves them as they are, too.

Everything is computed in float64. Weights may have leading axes (one network each, such as one a learning rate); inputs
and targets are shared by all of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

PAGE = Path(__file__).with_suffix(".html")
"""The same network as a script, for live figures."""

NO_BIASES = (0.0, 0.0)


@dataclass(frozen=True)
class Activations:
    """What the units put out, in shape ``(..., 2)`` each: `hidden` is a_h1, a_h2 and `output` is a_o1, a_o2."""

    hidden: np.ndarray
    output: np.ndarray


@dataclass(frozen=True)
class Training:
    """Gradient descent, once for each learning rate.

    `learning_rates` has shape ``(rates,)``. `losses`, shape ``(rates, steps + 1)``, and `weights`, shape
    ``(rates, steps + 1, 8)``, hold the state before the first step and after each one.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    weights: np.ndarray

    def steps_to(self, loss: float) -> list[int | None]:
        """For each learning rate, the first step after which the loss is at most `loss`; None if there is none."""
        reached = self.losses <= loss
        return [int(row.argmax()) if row.any() else None for row in reached]


def sigmoid(x: ArrayLike) -> np.ndarray:
    """Return the logistic function, 1 / (1 + exp(-x)), item by item."""
    with np.errstate(over="ignore"):  # where exp overflows to infinity, the quotient is 0, as it should be
        return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def forward(weights: ArrayLike, inputs: ArrayLike, biases: ArrayLike = NO_BIASES) -> Activations:
    """Do the forward pass.

    Arguments:
        weights: w1 to w8, shape ``(..., 8)``.
        inputs: i1 and i2, shape ``(2,)``.
        biases: b1 of the hidden layer and b2 of the output layer, shape ``(2,)``.

    Raises:
        ValueError: a shape is another one.
    """
    first, second = _layers(_checked("weights", weights, 8))
    b1, b2 = _vector("biases", biases)
    hidden = sigmoid((first * _vector("inputs", inputs)).sum(-1) + b1)
    output = sigmoid((second * hidden[..., None, :]).sum(-1) + b2)
    return Activations(hidden, output)


def loss(weights: ArrayLike, inputs: ArrayLike, targets: ArrayLike, biases: ArrayLike = NO_BIASES) -> np.ndarray:
    """Half the sum of the squared errors, shape ``(...)`` for weights of shape ``(..., 8)``.

    Raises:
        ValueError: a shape is wrong.
    """
    return _loss(forward(weights, inputs, biases), _vector("targets", targets))


def backward(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray, activations: Activations) -> np.ndarray:
    r"""Do the backward pass: return the gradient of the loss, from the outputs of all units.

    With :math:`\delta_{o_k} = (a_{o_k} - t_k)\, a_{o_k} (1 - a_{o_k})` and
    :math:`\delta_{h_j} = \sum_k \delta_{o_k} w_{o_k h_j} \cdot a_{h_j} (1 - a_{h_j})`, the derivative by a weight is
    the :math:`\delta` of the unit that it leads to, times the output of the unit that it comes from.

    It is plain arithmetic: arrays of symbols go through it as well as numbers.

    Returns:
        The derivatives by w1 to w8, shape ``(..., 8)``.
    """
    _, second = _layers(weights)
    hidden, output = activations.hidden, activations.output
    delta_output = (output - targets) * output * (1 - output)
    delta_hidden = (delta_output[..., :, None] * second).sum(-2) * hidden * (1 - hidden)
    by_first = delta_hidden[..., :, None] * inputs
    by_second = delta_output[..., :, None] * hidden[..., None, :]
    return np.concatenate([part.reshape(*part.shape[:-2], 4) for part in (by_first, by_second)], axis=-1)


def gradient(weights: ArrayLike, inputs: ArrayLike, targets: ArrayLike, biases: ArrayLike = NO_BIASES) -> np.ndarray:
    """Return the derivatives of the loss by w1 to w8, shape ``(..., 8)`` like the weights, by both passes.

    Raises:
        ValueError: a shape is wrong.
    """
    weights, inputs = _checked("weights", weights, 8), _vector("inputs", inputs)
    return backward(weights, inputs, _vector("targets", targets), forward(weights, inputs, biases))


def step(
    weights: ArrayLike,
    inputs: ArrayLike,
    targets: ArrayLike,
    learning_rate: ArrayLike,
    biases: ArrayLike = NO_BIASES,
) -> np.ndarray:
    """Return the weights after one step of gradient descent, W - learning_rate · dE/dW.

    `learning_rate` is one number, or one for each network: the shape of `weights` without its last axis.

    Raises:
        ValueError: a shape is wrong.
    """
    rate = np.asarray(learning_rate, dtype=float)[..., None]
    return _checked("weights", weights, 8) - rate * gradient(weights, inputs, targets, biases)


def training_curve(
    learning_rates: ArrayLike,
    steps: int,
    *,
    weights: ArrayLike,
    inputs: ArrayLike,
    targets: ArrayLike,
    biases: ArrayLike = NO_BIASES,
) -> Training:
    """Gradient descent from the same weights, for all learning rates at once.

    Arguments:
        learning_rates: any number of them, shape ``(rates,)``.
        steps: how many steps to take with each.
        weights: w1 to w8 at the start, shape ``(8,)``.
        inputs: i1 and i2.
        targets: t1 and t2.
        biases: b1 and b2; they stay as they are.

    Raises:
        ValueError: a shape is wrong, or `steps` is negative.
    """
    rates = np.asarray(learning_rates, dtype=float)
    start = _checked("weights", weights, 8)
    if rates.ndim != 1 or start.ndim != 1 or steps < 0:
        raise ValueError("a training curve needs a list of learning rates, eight weights and no negative steps")
    path = np.empty((len(rates), steps + 1, 8))
    path[:, 0] = start
    for number in range(steps):
        path[:, number + 1] = step(path[:, number], inputs, targets, rates, biases)
    return Training(rates, loss(path, inputs, targets, biases), path)


def _loss(activations: Activations, targets: np.ndarray) -> np.ndarray:
    return ((targets - activations.output) ** 2).sum(-1) / 2


def _layers(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the two layers, shape ``(..., 2, 2)`` each: one row per unit, one column per input."""
    shape = (*weights.shape[:-1], 2, 2)
    return weights[..., :4].reshape(shape), weights[..., 4:].reshape(shape)


def _checked(name: str, values: ArrayLike, length: int) -> np.ndarray:
    """`values` as float64, if their last axis has this length."""
    array = np.asarray(values, dtype=float)
    if array.ndim == 0 or array.shape[-1] != length:
        raise ValueError(f"{name}: expected {length} numbers, got shape {array.shape}")
    return array


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    array = _checked(name, values, 2)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected 2 numbers, got shape {array.shape}")
    return array
