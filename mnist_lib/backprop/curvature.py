r"""How the loss of the network of eight weights is curved: its Hessian, and the learning rates that this allows.

The Hessian :math:`H` holds the second derivatives :math:`\partial^2 E / \partial w_a \partial w_b`. Near a minimum the
loss is a parabola in the direction of each eigenvector of :math:`H`, and gradient descent at the rate :math:`\eta`
multiplies the distance along it by :math:`1 - \eta\lambda` a step. It shrinks if :math:`0 < \eta < 2 / \lambda`.

With :math:`\delta_{o_k} = \partial E / \partial o_k` (see `mnist_lib.backprop.network`) and
:math:`\kappa_k = \partial^2 E / \partial o_k^2`, the chain rule applied twice gives

.. math::

    H = \sum_k \kappa_k \, \nabla o_k \, \nabla o_k^\top + \sum_k \delta_{o_k} \nabla^2 o_k
    \qquad \kappa_k = \bigl(a_{o_k} (1 - a_{o_k})\bigr)^2 + \delta_{o_k} (1 - 2 a_{o_k})
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from mnist_lib.backprop import network


def hessian(
    weights: ArrayLike, inputs: ArrayLike, targets: ArrayLike, biases: ArrayLike = network.NO_BIASES
) -> np.ndarray:
    """Return the second derivatives of the loss by w1 to w8, in closed form.

    Arguments:
        weights: w1 to w8, shape ``(..., 8)``.
        inputs: i1 and i2.
        targets: t1 and t2.
        biases: b1 and b2.

    Returns:
        Symmetric matrices, shape ``(..., 8, 8)``.

    Raises:
        ValueError: a shape is wrong.
    """
    activations = network.forward(weights, inputs, biases)
    hidden, output = activations.hidden, activations.output
    weights, inputs, targets = (np.asarray(values, dtype=float) for values in (weights, inputs, targets))
    if targets.shape != (2,):
        raise ValueError(f"targets: expected 2 numbers, got shape {targets.shape}")
    second = weights[..., 4:].reshape(*weights.shape[:-1], 2, 2)
    slope_hidden, slope_output = hidden * (1 - hidden), output * (1 - output)
    delta = (output - targets) * slope_output
    kappa = slope_output**2 + delta * (1 - 2 * output)

    by_weights = np.zeros((*weights.shape[:-1], 2, 8))  # the gradients of o1 and of o2
    for j in (0, 1):
        by_weights[..., 2 * j : 2 * j + 2] = (second * slope_hidden[..., None, :])[..., j, None] * inputs
    for k in (0, 1):
        by_weights[..., k, 4 + 2 * k : 6 + 2 * k] = hidden
    result = np.einsum("...k,...ka,...kb->...ab", kappa, by_weights, by_weights)

    # o_k itself is curved: in the two weights that lead to one hidden unit, and in these with the one that leads on.
    by_hidden = (delta[..., None] * second).sum(-2) * slope_hidden * (1 - 2 * hidden)
    for j in (0, 1):
        own = slice(2 * j, 2 * j + 2)
        result[..., own, own] += by_hidden[..., j, None, None] * np.outer(inputs, inputs)
        for k in (0, 1):
            mixed = (delta[..., k] * slope_hidden[..., j])[..., None] * inputs
            result[..., own, 4 + 2 * k + j] += mixed
            result[..., 4 + 2 * k + j, own] += mixed
    return result


def largest_eigenvalue(matrices: np.ndarray) -> np.ndarray:
    """Return the largest eigenvalue of each symmetric matrix, shape ``(...)`` for matrices of shape ``(..., n, n)``."""
    return np.linalg.eigvalsh(matrices)[..., -1]


def highest_rate(holds: Callable[[np.ndarray], np.ndarray], low: float, high: float, digits: int = 3) -> float | None:
    """Return the highest learning rate at which gradient descent has some property.

    The property is looked at for 32 rates from `low` to `high`, each the same factor above the one before. Then the gap
    above the last rate that has it is divided in the same way, until it is small enough.

    Arguments:
        holds: says for rates, shape ``(n,)``, which of them have the property, shape ``(n,)``.
        low: the lowest rate to look at.
        high: the highest rate to look at.
        digits: how many significant digits to find.

    Returns:
        The rate, rounded; `high` itself if it has the property; None if no rate of the first 32 has it.
    """
    while True:
        rates = np.geomspace(low, high, 32)
        having = np.flatnonzero(holds(rates))
        if not having.size:
            return None
        if having[-1] == len(rates) - 1:
            return high
        low, high = rates[having[-1] : having[-1] + 2]
        if high / low < 1 + 10**-digits:
            return float(f"{low:.{digits}g}")
