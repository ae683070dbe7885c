"""The Hessian in closed form, against torch, sympy and differences; the learning rates that it allows."""

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_lib import experiments
from mnist_lib.backprop import curvature, network
from mnist_lib.cells import notebook_parameters
from mnist_lib.parameters import validate
from mnist_lib.results.page import SweepParameters

INPUTS = (0.05, 0.10)
WEIGHTS = (0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55)
TARGETS = (0.01, 0.99)
HALF = (0.5, 0.5)


def train(rates, steps: int, targets=HALF, weights=WEIGHTS) -> network.Training:
    return network.training_curve(rates, steps, weights=weights, inputs=INPUTS, targets=targets)


# -- the Hessian


def by_torch(weights, inputs, targets, biases) -> np.ndarray:
    """The Hessian by torch, in float64."""
    i, t = (torch.tensor(values, dtype=torch.float64) for values in (inputs, targets))

    def loss(w: torch.Tensor) -> torch.Tensor:
        hidden = torch.sigmoid(w[:4].reshape(2, 2) @ i + biases[0])
        output = torch.sigmoid(w[4:].reshape(2, 2) @ hidden + biases[1])
        return torch.nn.functional.mse_loss(output, t, reduction="sum") / 2

    return torch.autograd.functional.hessian(loss, torch.tensor(weights, dtype=torch.float64)).numpy()


def numbers(low: float, high: float, count: int) -> st.SearchStrategy:
    return st.lists(st.floats(low, high), min_size=count, max_size=count)


@settings(max_examples=100)
@given(numbers(-5, 5, 8), numbers(-3, 3, 2), numbers(0, 1, 2), numbers(-2, 2, 2))
def test_torch_agrees_for_any_network(weights, inputs, targets, biases):
    ours = curvature.hessian(weights, inputs, targets, biases)
    np.testing.assert_allclose(ours, by_torch(weights, inputs, targets, biases), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(ours, ours.T, rtol=1e-13, atol=1e-16)


class Sigmoid(sympy.Function):
    """The logistic function, of which sympy needs to know no more than its derivative."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return self * (1 - self)


@pytest.mark.parametrize("targets", [TARGETS, HALF])
def test_sympy_agrees_to_twelve_digits(targets):
    w, i, t = (sympy.symbols(names) for names in ("w1:9", "i1:3", "t1:3"))
    h = [Sigmoid(w[0] * i[0] + w[1] * i[1]), Sigmoid(w[2] * i[0] + w[3] * i[1])]
    o = [Sigmoid(w[4] * h[0] + w[5] * h[1]), Sigmoid(w[6] * h[0] + w[7] * h[1])]
    loss = ((t[0] - o[0]) ** 2 + (t[1] - o[1]) ** 2) / 2
    symbolic = sympy.lambdify((w, i, t), sympy.hessian(loss, w), [{"Sigmoid": network.sigmoid}, "numpy"])
    ours = curvature.hessian(WEIGHTS, INPUTS, targets)
    np.testing.assert_allclose(ours, symbolic(WEIGHTS, INPUTS, targets), rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("targets", [TARGETS, HALF])
def test_it_is_the_derivative_of_the_gradient(targets):
    moved = np.array(WEIGHTS) + 1e-5 * np.array([np.eye(8), -np.eye(8)])
    up, down = network.gradient(moved, INPUTS, targets)
    ours = curvature.hessian(WEIGHTS, INPUTS, targets)
    np.testing.assert_allclose((up - down) / 2e-5, ours, rtol=0, atol=1e-11)
    # The test can fail: the part that comes from the curvature of the sums is not small.
    output = network.forward(WEIGHTS, INPUTS).output
    assert abs(ours[0, 4]) > 1e-4 and (np.abs(output - targets) > 0.1).all()


def test_leading_axes_of_any_shape():
    weights = np.linspace(-1, 1, 3 * 2 * 8).reshape(3, 2, 8)
    together = curvature.hessian(weights, INPUTS, TARGETS)
    assert together.shape == (3, 2, 8, 8)
    np.testing.assert_allclose(together[2, 1], curvature.hessian(weights[2, 1], INPUTS, TARGETS), rtol=1e-13)
    assert curvature.largest_eigenvalue(together).shape == (3, 2)


def test_three_directions_are_flat_everywhere():
    """Two because the inputs never change; one because the outputs' δ can cancel on their way back."""
    for weights in np.random.default_rng(0).normal(0, 2, (20, 8)):
        values = np.linalg.eigvalsh(curvature.hessian(weights, INPUTS, TARGETS))
        assert (np.abs(values) < 1e-14).sum() >= 3


@pytest.mark.parametrize("argument", ["weights", "inputs", "targets", "biases"])
def test_wrong_shapes_are_refused(argument):
    given_values = {"weights": WEIGHTS, "inputs": INPUTS, "targets": TARGETS, "biases": (0, 0)} | {argument: [1.0] * 3}
    with pytest.raises(ValueError, match=f"{argument}: expected [28] numbers, got shape"):
        curvature.hessian(**given_values)


def test_the_largest_eigenvalue():
    assert curvature.largest_eigenvalue(np.diag([3.0, -7.0, 2.0])) == pytest.approx(3, rel=1e-15)
    values = 2 / curvature.largest_eigenvalue(curvature.hessian(WEIGHTS, INPUTS, HALF))
    assert values == pytest.approx(74.7578, abs=1e-4)


# -- the rates


@pytest.mark.parametrize("bound", [0.011, 0.5, 33.3, 999.0])
def test_the_highest_rate_of_a_parabola_is_its_bound(bound):
    """Gradient descent on λ w² / 2 converges up to 2 / λ."""
    found = curvature.highest_rate(lambda rates: np.abs(1 - rates * 2 / bound) < 1, 0.01, 1000)
    assert found == pytest.approx(bound, rel=2e-3)
    exact = curvature.highest_rate(lambda rates: np.abs(1 - rates * 2 / bound) < 1, 0.01, 1000, digits=8)
    assert exact == pytest.approx(bound, rel=2e-8)


def test_the_highest_rate_of_what_always_or_never_holds():
    assert curvature.highest_rate(lambda rates: rates > 0, 1, 100) == 100
    assert curvature.highest_rate(lambda rates: rates < 0, 1, 100) is None
    assert curvature.highest_rate(lambda rates: (rates > 5) & (rates < 50), 1, 100) == pytest.approx(50, rel=2e-3)


@pytest.mark.parametrize("targets", [TARGETS, HALF])
def test_around_a_minimum_the_bound_is_exact(targets):
    minimum = train([30.0], 20_000, targets).weights[0, -1]
    assert network.loss(minimum, INPUTS, targets) < 1e-18
    values, directions = np.linalg.eigh(curvature.hessian(minimum, INPUTS, targets))
    assert (values > 1e-9).sum() == 2  # one for each output
    assert (np.abs(values[:6]) < 1e-9).all()
    start = minimum + 1e-5 * directions[:, -1]
    for share, closer in ((0.5, True), (0.999, True), (1.001, False), (2.0, False)):
        end = train([share * 2 / values[-1]], 20, targets, start).weights[0, -1]
        assert (np.linalg.norm(end - minimum) < 1e-5) == closer, share


def test_beyond_the_bound_the_run_ends_where_the_valley_is_flat_enough():
    rates = np.array([20.0, 65, 70, 100, 200, 500])
    run = train(rates, 2000)
    assert (run.losses[:, -1] < 1e-20).all()
    allowed = 2 / curvature.largest_eigenvalue(curvature.hessian(run.weights[:, -1], INPUTS, HALF))
    assert (allowed > rates).all()
    assert allowed[0] == pytest.approx(61.94, abs=0.01)
    assert (np.diff(run.losses[1]) <= 1e-15).all()
    assert (np.diff(run.losses[2]) > 1e-15).any()


def test_the_parameters_are_those_of_the_exercise():
    path = experiments.root() / "notebooks" / "learning_rate_sweep.ipynb"
    published = validate(SweepParameters, notebook_parameters(path))
    assert published == SweepParameters(
        name="learning_rate_sweep", experiment="iteration_10_one_cycle", cnn_learning_rates=published.cnn_learning_rates
    )
    assert (published.inputs, published.targets, published.weights) == (INPUTS, TARGETS, WEIGHTS)
    assert published.learning_rates == (0.1, 0.2, 0.5, 0.8, 1.0, 2.0)
    assert (published.steps, published.seeds) == (1000, 3)
