"""Intervals against scipy's own tests, which share no code with ours, and against published tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnist_lib.statistics import (
    binomial_standard_error,
    difference_interval,
    first_epoch_at,
    mean_interval,
    steady_from_epoch,
)

samples = st.lists(st.floats(90, 100, allow_nan=False), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-6)


@given(samples)
def test_mean_interval_is_the_one_sample_t_interval(values):
    ours, theirs = mean_interval(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(samples, samples)
def test_difference_interval_is_welchs(after, before):
    ours = difference_interval(after, before)
    theirs = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    assert ours.center == pytest.approx(np.mean(after) - np.mean(before), abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_mean_interval_by_hand():
    # mean 3, standard deviation sqrt(2.5); the tabulated t quantile for 4 degrees of freedom is 2.776
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.center == 3
    assert interval.high - 3 == pytest.approx(2.776 * math.sqrt(2.5 / 5), abs=1e-3)


def test_one_value_has_no_interval():
    assert math.isnan(mean_interval([99.4]).low)
    assert math.isnan(difference_interval([99.4], [99.1, 99.2]).high)
    assert format(mean_interval([99.4])) == "99.40 (one seed, no interval)"


def test_equal_values_have_an_interval_of_no_width():
    assert difference_interval([2, 2], [1, 1]) == difference_interval([3, 3], [2, 2])


@pytest.mark.parametrize("call", [lambda: mean_interval([]), lambda: difference_interval([], [1.0])])
def test_nothing_to_average_is_refused(call):
    with pytest.raises(ValueError, match="at least one"):
        call()


def test_an_interval_in_words():
    assert format(difference_interval([2.0, 2.2], [1.0, 1.1]), "+.1f").startswith("+1.1 [")
    assert str(mean_interval([99.40, 99.44])) == "99.42 [99.17, 99.67]"


def test_binomial_standard_error_as_published():
    assert binomial_standard_error(99.4, 10_000) == pytest.approx(0.077, abs=5e-4)


def test_epochs_at_a_target():
    accuracies = [99.0, 99.4, 99.3, 99.5, 99.4]
    assert first_epoch_at(accuracies, 99.4) == 2
    assert steady_from_epoch(accuracies, 99.4) == 4
    assert first_epoch_at(accuracies, 99.9) is None
    assert steady_from_epoch(accuracies, 99.45) is None
