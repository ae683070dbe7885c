"""Intervals against their formulas, written out with numpy, and against published tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnist_lib.results.statistics import (
    Interval,
    binomial_standard_error,
    contrast_interval,
    correlated_binomials,
    difference_interval,
    first_epoch_at,
    holm,
    mean_interval,
    p_value,
    pooled_spread,
    prediction_interval,
    steady_from_epoch,
)

samples = st.lists(st.floats(90, 100, allow_nan=False), min_size=3, max_size=12).filter(lambda v: np.std(v) > 1e-6)


@given(samples)
def test_mean_interval_is_the_one_sample_t_interval(values):
    ours, n = mean_interval(values), len(values)
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    assert (ours.low, ours.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-9)


@given(samples, samples, st.sampled_from([1, 2, 10]))
def test_difference_interval_is_welchs(after, before, comparisons):
    """One of several has its share of the error: of ten, each is an interval of 99.5 % (Bonferroni)."""
    ours = difference_interval(after, before, comparisons)
    a, b = (np.var(values, ddof=1) / len(values) for values in (after, before))
    freedom = (a + b) ** 2 / (a**2 / (len(after) - 1) + b**2 / (len(before) - 1))
    center, half = np.mean(after) - np.mean(before), stats.t.ppf(1 - 0.025 / comparisons, freedom) * math.sqrt(a + b)
    scipys = stats.ttest_ind(after, before, equal_var=False).confidence_interval(1 - 0.05 / comparisons)
    assert ours.center == pytest.approx(center, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((center - half, center + half), abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx(scipys, abs=1e-9)


@given(samples, st.lists(st.floats(-9, 9), min_size=4, max_size=4), st.sampled_from([1, 3]))
def test_a_contrast_of_samples_that_scatter_alike_has_all_their_degrees_of_freedom(values, shifts, comparisons):
    """As in the analysis of variance with equal sizes, where the spread is known to be the same."""
    n, spread = len(values), np.std(values, ddof=1)
    ours = contrast_interval([np.add(values, shift) for shift in shifts], [1, -1, -1, 1], comparisons)
    center = shifts[0] - shifts[1] - shifts[2] + shifts[3]
    half = stats.t.ppf(1 - 0.025 / comparisons, 4 * (n - 1)) * spread * math.sqrt(4 / n)
    assert ours.center == pytest.approx(center, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((center - half, center + half), abs=1e-9)


def test_a_contrast_of_samples_that_scatter_differently_holds_the_truth_in_95_of_100_cases():
    random, factors = np.random.default_rng(0), (1, -2, 1)
    means, spreads, sizes = (3, 1, 5), (1, 2, 0.2), (5, 4, 9)
    true = np.dot(means, factors)
    held = 0
    for _ in range(2000):
        interval = contrast_interval(
            [random.normal(*each) for each in zip(means, spreads, sizes, strict=True)], factors
        )
        held += interval.low <= true <= interval.high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_sample_that_counts_nothing_is_left_out_of_a_contrast():
    one, other = [1.0, 2.0, 4.0], [0.5, 0.6, 0.9]
    assert contrast_interval([one, [7.0], other], [1, 0, -1]) == difference_interval(one, other)
    with pytest.raises(ValueError, match="zip"):
        contrast_interval([one, other], [1, -1, 1])


def test_mean_interval_by_hand():
    # mean 3, standard deviation sqrt(2.5); the tabulated t quantile for 4 degrees of freedom is 2.776
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.center == 3
    assert interval.high - 3 == pytest.approx(2.776 * math.sqrt(2.5 / 5), abs=1e-3)


@given(samples)
def test_prediction_interval_is_that_of_one_more_value(values):
    """The difference of a new value and the mean of n has the variance of one value times 1 + 1 / n."""
    ours, n = prediction_interval(values), len(values)
    spread = np.std(values, ddof=1) * math.sqrt(1 + 1 / n)
    assert ours.center == mean_interval(values).center
    assert (ours.low, ours.high) == pytest.approx(stats.t.interval(0.95, n - 1, np.mean(values), spread), abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_one_more_value_falls_into_an_interval_with_a_pooled_spread_in_95_of_100_cases():
    """Simulated: three values of each of sixteen networks with means of their own, and then one more of the first."""
    random, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        samples, more = random.normal(size=(16, 3)) + np.arange(16)[:, None], random.normal()
        expected = prediction_interval(samples[0], list(samples))
        inside += expected.low <= more <= expected.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_pooled_spread_by_hand():
    spread, freedom = pooled_spread([[1, 3], [10, 10, 13], [7]])  # squares of distances: 2, 6, 0
    assert (spread, freedom) == (pytest.approx(math.sqrt(8 / 3)), 3)
    assert math.isnan(pooled_spread([[1.0], [2.0]])[0])


def test_a_p_value_goes_with_the_interval():
    """It is below 5 % just where the interval of the difference does not contain zero."""
    random = np.random.default_rng(1)
    for _ in range(100):
        after, before = random.normal(1, 1, 5), random.normal(0, 2, 4)
        interval = difference_interval(after, before)
        assert (p_value(after, before) < 0.05) == (interval.low > 0 or interval.high < 0)
    assert math.isnan(p_value([1, 2], [1, 2, 3]))


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_fewer_than_three_values_have_no_interval():
    found = [
        (mean_interval([99.4]), 99.4),
        (mean_interval([99.4, 99.6]), 99.5),
        (prediction_interval([99.4, 99.6]), 99.5),
        (difference_interval([99.4], [99.0, 99.1, 99.2]), 99.4 - 99.1),
        (difference_interval([99.0, 99.1, 99.2], [99.3, 99.5]), 99.1 - 99.4),
    ]
    for interval, center in found:
        assert interval.center == pytest.approx(center)
        assert math.isnan(interval.low) and math.isnan(interval.high)
    assert format(mean_interval([99.4])) == "99.40 (too few runs for an interval)"
    assert f"{Interval(0.11, -0.0026, 0.234):+.2f}" == "+0.11 [-0.003, +0.23]", "not -0.00"
    assert f"{Interval(0.1, 0.0, 0.2):.2f}" == "0.10 [0.00, 0.20]"
    assert f"{Interval(-0.001, -0.06, 0.05):+.2f}" == "+0.00 [-0.06, +0.05]", "no minus before a zero"


def test_values_in_single_precision_are_averaged_in_double():
    after, before = np.float32([99.4, 99.41, 99.43]), np.float32([99.1, 99.12, 99.3])
    assert mean_interval(after) == mean_interval(after.tolist())
    assert difference_interval(after, before) == difference_interval(after.tolist(), before.tolist())


def test_equal_values_have_an_interval_of_no_width():
    assert difference_interval([2, 2, 2], [0.5, 0.5, 0.5]) == Interval(1.5, 1.5, 1.5)
    assert mean_interval([2, 2, 2]) == Interval(2, 2, 2)


EMPTY = [
    lambda: mean_interval([]),
    lambda: prediction_interval([]),
    lambda: difference_interval([], [1.0]),
    lambda: difference_interval([1.0], []),
]


@pytest.mark.parametrize("call", EMPTY)
def test_nothing_to_average_is_refused(call):
    with pytest.raises(ValueError, match=r"^a (mean|difference) needs at least one value( on each side)?$"):
        call()


def test_an_interval_in_words():
    assert format(difference_interval([2.0, 2.1, 2.2], [1.0, 1.0, 1.1]), "+.1f").startswith("+1.1 [")
    assert str(mean_interval([99.40, 99.42, 99.44])) == "99.42 [99.37, 99.47]"


def test_binomial_standard_error_as_published():
    assert binomial_standard_error(99.4, 10_000) == pytest.approx(0.077, abs=5e-4)


def test_epochs_at_a_target():
    accuracies = [99.0, 99.4, 99.3, 99.5, 99.4]
    assert first_epoch_at(accuracies, 99.4) == 2
    assert steady_from_epoch(accuracies, 99.4) == 4
    assert first_epoch_at(accuracies, 99.9) is None
    assert steady_from_epoch(accuracies, 99.45) is None
    assert steady_from_epoch(accuracies, 99.0) == 1
    assert steady_from_epoch(accuracies[:4], 99.45) == 4


@pytest.mark.parametrize("correlation", [-0.1, 1.1])
def test_a_correlation_is_from_0_to_1(correlation):
    with pytest.raises(ValueError, match=f"^correlation = {correlation}: expected a number from 0 to 1$"):
        correlated_binomials(10, [0.1], correlation, 1)


def test_error_rates_of_0_and_1_leave_nothing_to_chance():
    counts = correlated_binomials(10, [1.0, 0.0, 1.0], 0.5, runs=3)
    assert counts.tolist() == [[0, 10, 0]] * 3
    assert np.issubdtype(counts.dtype, np.integer)


def test_a_simulation_is_repeatable():
    first, again, other = (correlated_binomials(10_000, [0.1] * 5, 0.5, 4, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
