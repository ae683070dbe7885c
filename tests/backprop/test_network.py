"""Backpropagation in closed form, against four witnesses that share no code with it."""

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_lib import experiments
from mnist_lib.backprop import network
from mnist_lib.cells import notebook_parameters
from mnist_lib.parameters import validate
from mnist_lib.results.page import BackpropParameters

INPUTS = (0.05, 0.10)
WEIGHTS = (0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55)
TARGETS = (0.01, 0.99)
BIASES = (0.35, 0.60)
RATES = (0.1, 0.2, 0.5, 0.8, 1.0, 2.0)


# -- symbols


def test_sympy_derives_the_same_closed_form():
    """The library's own arithmetic, done with symbols, is the derivative that sympy finds, for any network."""

    def sigmoid(x: sympy.Expr) -> sympy.Expr:
        return 1 / (1 + sympy.exp(-x))

    i, t, w, b = (sympy.symbols(names) for names in ("i1:3", "t1:3", "w1:9", "b1:3"))
    h = [sigmoid(w[0] * i[0] + w[1] * i[1] + b[0]), sigmoid(w[2] * i[0] + w[3] * i[1] + b[0])]
    o = [sigmoid(w[4] * h[0] + w[5] * h[1] + b[1]), sigmoid(w[6] * h[0] + w[7] * h[1] + b[1])]
    loss = ((t[0] - o[0]) ** 2 + (t[1] - o[1]) ** 2) / 2
    activations = network.Activations(np.array(h), np.array(o))
    closed = network.backward(np.array(w), np.array(i), np.array(t), activations)
    assert closed.shape == (8,)
    for weight, derivative in zip(w, closed, strict=True):
        assert sympy.cancel(sympy.diff(loss, weight) - derivative) == 0
    # The test can fail: a_h1 in place of a_h2, as in a widely copied workbook, leaves a rest.
    wrong = closed[2] * h[0] * (1 - h[0]) / (h[1] * (1 - h[1]))
    values = dict(zip((*w, *i, *t, *b), (*WEIGHTS, *INPUTS, *TARGETS, *BIASES), strict=True))
    assert abs(sympy.diff(loss, w[2]).subs(values) - wrong.subs(values)) > 1e-8


# -- automatic differentiation


def autograd(weights, inputs, targets, biases=(0.0, 0.0)) -> tuple[float, np.ndarray]:
    """Loss and gradient by torch, in float64, with torch's own layers."""
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    i, t, b = (torch.tensor(values, dtype=torch.float64) for values in (inputs, targets, biases))
    hidden = torch.sigmoid(torch.nn.functional.linear(i, w[:4].reshape(2, 2), b[:1].expand(2)))
    output = torch.sigmoid(torch.nn.functional.linear(hidden, w[4:].reshape(2, 2), b[1:].expand(2)))
    loss = torch.nn.functional.mse_loss(output, t, reduction="sum") / 2
    loss.backward()
    return loss.item(), w.grad.numpy()


@pytest.mark.parametrize("biases", [(0.0, 0.0), BIASES])
@pytest.mark.parametrize("targets", [TARGETS, (0.5, 0.5)])
def test_autograd_agrees(targets, biases):
    loss, gradient = autograd(WEIGHTS, INPUTS, targets, biases)
    assert network.loss(WEIGHTS, INPUTS, targets, biases) == pytest.approx(loss, rel=1e-12, abs=0)
    np.testing.assert_allclose(network.gradient(WEIGHTS, INPUTS, targets, biases), gradient, rtol=1e-12)


def numbers(low: float, high: float, count: int) -> st.SearchStrategy:
    return st.lists(st.floats(low, high), min_size=count, max_size=count)


@settings(max_examples=100)
@given(numbers(-5, 5, 8), numbers(-3, 3, 2), numbers(0, 1, 2), numbers(-2, 2, 2))
def test_autograd_agrees_for_any_network(weights, inputs, targets, biases):
    loss, gradient = autograd(weights, inputs, targets, biases)
    # Where terms cancel, only the absolute error is small.
    np.testing.assert_allclose(network.loss(weights, inputs, targets, biases), loss, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(network.gradient(weights, inputs, targets, biases), gradient, rtol=1e-12, atol=1e-14)


def test_saturated_units_give_no_warning_and_no_nan():
    weights = [1000.0, 1000.0, -1000.0, -1000.0, 1000.0, 1000.0, -1000.0, -1000.0]
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(network.forward(weights, (1000, 1000)).hidden, [1, 0])
        np.testing.assert_array_equal(network.gradient(weights, (1000, 1000), TARGETS), np.zeros(8))


def test_everything_is_computed_in_float64():
    """Whole numbers and single precision go in; what comes out equals the results for the same numbers in float64."""
    for kind in (np.float32, np.int64):
        given = [np.array(values).astype(kind) for values in (np.multiply(WEIGHTS, 9), (3, -1), (0, 1), (1, 2))]
        doubles = [values.astype(float) for values in given]
        for function in (network.loss, network.gradient):
            found = function(*given)
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found, function(*doubles))
        rate = np.array([0.1, 0.7]).astype(kind)
        curves = [
            network.training_curve(rates, 2, weights=w, inputs=i, targets=t, biases=b)
            for rates, (w, i, t, b) in ((rate, given), (rate.astype(float), doubles))
        ]
        assert curves[0].learning_rates.dtype == curves[0].weights.dtype == np.float64
        np.testing.assert_array_equal(curves[0].weights, curves[1].weights)


# -- finite differences


def test_central_differences_agree():
    """Their error is the step squared times a third derivative, plus rounding divided by the step."""
    for targets in (TARGETS, (0.5, 0.5)):
        for step in (1e-3, 1e-4):
            moved = np.array(WEIGHTS) + step * np.array([np.eye(8), -np.eye(8)])
            up, down = network.loss(moved, INPUTS, targets)
            gradient = network.gradient(WEIGHTS, INPUTS, targets)
            np.testing.assert_allclose((up - down) / (2 * step), gradient, rtol=step**2, atol=1e-15 / step)


# -- published values

PUBLISHED = {
    (0.01, 0.99): (
        0.24251985734837728,
        (0.241109038768, 0.239701143429, 0.235495377873, 0.231317286430, 0.228547765279, 0.214901598843),
    ),
    (0.5, 0.5): (
        0.014181377937891659,
        (0.014100103121, 0.014019033816, 0.013777062126, 0.013536951374, 0.013377915565, 0.012595285779),
    ),
}


@pytest.mark.parametrize("targets", PUBLISHED)
def test_published_losses(targets):
    before, after = PUBLISHED[targets]
    curve = network.training_curve(RATES, 1, weights=WEIGHTS, inputs=INPUTS, targets=targets)
    np.testing.assert_allclose(curve.losses[:, 0], before, rtol=1e-15)
    assert tuple(curve.losses[:, 1].round(12)) == after


def test_the_worked_example_with_biases():
    """Matt Mazur, A Step by Step Backpropagation Example: nine decimals of activations, loss and new weights."""
    before = network.forward(WEIGHTS, INPUTS, BIASES)
    assert tuple(before.hidden.round(9)) == (0.593269992, 0.596884378)
    assert tuple(before.output.round(8)) == (0.75136507, 0.77292847)
    assert network.loss(WEIGHTS, INPUTS, TARGETS, BIASES).round(9) == 0.298371109
    after = network.step(WEIGHTS, INPUTS, TARGETS, 0.5, BIASES)
    assert (after[0].round(9), after[4].round(8)) == (0.149780716, 0.35891648)


def test_the_parameters_are_those_of_the_exercise():
    defaults = BackpropParameters(name="backprop_derivation")
    assert (defaults.inputs, defaults.weights, defaults.targets) == (INPUTS, WEIGHTS, TARGETS)
    path = experiments.root() / "notebooks" / "backprop_derivation.ipynb"
    assert validate(BackpropParameters, notebook_parameters(path)) == defaults


# -- many networks at once


def test_all_learning_rates_at_once_are_the_same_as_one_by_one():
    together = network.training_curve(RATES, 50, weights=WEIGHTS, inputs=INPUTS, targets=TARGETS, biases=BIASES)
    assert together.losses.shape == (6, 51)
    assert together.weights.shape == (6, 51, 8)
    for number, rate in enumerate(RATES):
        weights = np.array(WEIGHTS)
        for count in range(51):
            np.testing.assert_allclose(together.weights[number, count], weights, rtol=1e-13)
            loss = network.loss(weights, INPUTS, TARGETS, BIASES)
            np.testing.assert_allclose(together.losses[number, count], loss, rtol=1e-13)
            weights = network.step(weights, INPUTS, TARGETS, rate, BIASES)


def test_leading_axes_of_any_shape():
    weights = np.linspace(-1, 1, 3 * 2 * 8).reshape(3, 2, 8)
    gradient = network.gradient(weights, INPUTS, TARGETS)
    assert gradient.shape == (3, 2, 8)
    assert network.loss(weights, INPUTS, TARGETS).shape == (3, 2)
    np.testing.assert_allclose(gradient[2, 1], network.gradient(weights[2, 1], INPUTS, TARGETS), rtol=1e-13)


def test_a_learning_rate_of_zero_moves_nothing():
    curve = network.training_curve([0.0], 3, weights=WEIGHTS, inputs=INPUTS, targets=TARGETS)
    assert (curve.weights == np.array(WEIGHTS)).all()
    assert len(set(curve.losses[0])) == 1


def test_no_steps_leave_the_start_alone():
    curve = network.training_curve([0.1, 2.0], 0, weights=WEIGHTS, inputs=INPUTS, targets=TARGETS)
    assert curve.weights.tolist() == [[list(WEIGHTS)]] * 2
    assert curve.losses.shape == (2, 1)


def test_steps_to_a_loss():
    curve = network.training_curve([0.1, 2.0], 10, weights=WEIGHTS, inputs=INPUTS, targets=TARGETS)
    assert curve.steps_to(0.2) == [None, 2]
    assert curve.steps_to(curve.losses[0, 3]) == [3, 1]
    assert curve.steps_to(1.0) == [0, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": [0.05]}, r"inputs: expected 2 numbers, got shape \(1,\)"),
        ({"inputs": [[0.05, 0.1]]}, r"inputs: expected 2 numbers, got shape \(1, 2\)"),
        ({"targets": 0.5}, r"targets: expected 2 numbers, got shape \(\)"),
        ({"weights": WEIGHTS[:7]}, r"weights: expected 8 numbers, got shape \(7,\)"),
        ({"biases": (0, 0, 0)}, r"biases: expected 2 numbers, got shape \(3,\)"),
    ],
)
def test_wrong_shapes_are_refused(changed, message):
    given = {"weights": WEIGHTS, "inputs": INPUTS, "targets": TARGETS, "biases": BIASES} | changed
    message = f"^{message}"
    for function in (network.gradient, network.loss, network.step, network.training_curve):
        own = {network.step: {"learning_rate": 0.1}, network.training_curve: {"learning_rates": [0.1], "steps": 1}}
        with pytest.raises(ValueError, match=message):
            function(**given, **own.get(function, {}))
    if "targets" not in changed:
        with pytest.raises(ValueError, match=message):
            network.forward(given["weights"], given["inputs"], given["biases"])


def test_single_precision_becomes_double():
    assert network.sigmoid(np.float32(0.1)).dtype == np.float64
    assert network.sigmoid(0) == 0.5


@pytest.mark.parametrize(("rates", "steps", "start"), [(0.1, 1, WEIGHTS), ([0.1], -1, WEIGHTS), ([0.1], 1, [WEIGHTS])])
def test_a_training_curve_needs_a_list_of_rates_and_one_start(rates, steps, start):
    with pytest.raises(ValueError, match=r"^a training curve needs"):
        network.training_curve(rates, steps, weights=start, inputs=INPUTS, targets=TARGETS)
