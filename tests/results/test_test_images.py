"""What an accuracy is worth, against simulations whose answer is known and against other programs' power analysis."""

import math

import numpy as np
import pytest
from scipy import stats

from mnist_lib.results import test_images
from mnist_lib.results.statistics import correlated_binomials, power
from support import run


def counted(rows: np.ndarray) -> list:
    """Records with these numbers of correct images out of 10,000, shape (runs, epochs)."""
    return [run(*(row / 100), seed=seed) for seed, row in enumerate(rows)]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0])
def test_simulated_counts_are_binomial_and_correlated(correlation):
    counts = correlated_binomials(10_000, [0.01, 0.01, 0.01], correlation, runs=20_000)
    assert counts.mean() == pytest.approx(9900, abs=0.3)
    assert counts.var(axis=0) == pytest.approx([99.0] * 3, rel=0.05)
    assert np.corrcoef(counts.T)[0, 2] == pytest.approx(correlation, abs=0.03)


def test_simulated_counts_follow_their_error_rates_in_any_order():
    counts = correlated_binomials(10_000, [0.03, 0.01, 0.02], 0.7, runs=5_000)
    assert counts.mean(axis=0) == pytest.approx([9700, 9900, 9800], abs=1.5)


def test_the_maximum_of_independent_binomials():
    """Against the exact expectation, a sum over the binomial's distribution function to the power of 20."""
    counts = correlated_binomials(10_000, [0.006] * 20, 0.0, runs=20_000)
    below = stats.binom(10_000, 0.994).cdf(np.arange(10_000)) ** 20
    assert counts.max(axis=1).mean() == pytest.approx((1 - below).sum(), abs=0.1)


def test_a_correlation_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="correlation = 2"):
        correlated_binomials(10, [0.1], 2, 1)


@pytest.mark.parametrize("correlation", [0.5, 0.8, 0.95])
def test_the_correlation_of_epochs_is_found_again(correlation):
    counts = correlated_binomials(10_000, [*np.linspace(0.02, 0.0062, 10), *[0.006] * 10], correlation, runs=400)
    assert test_images.epoch_correlation(counted(counts)) == pytest.approx(correlation, abs=0.05)


def test_what_picking_adds_is_found_again():
    rates = np.linspace(0.008, 0.006, 15)
    counts = counted(correlated_binomials(10_000, rates, 0.8, runs=400, seed=1))
    measured, simulated = test_images.best_over_final(counts), test_images.simulated_best_over_final(counts)
    assert measured > 0.02
    assert simulated == pytest.approx(measured, abs=0.006)


def test_one_run_has_no_correlation_and_no_simulation():
    assert math.isnan(test_images.epoch_correlation([run(99.0, 99.1, 99.2, 99.1)]))
    assert math.isnan(test_images.simulated_best_over_final([run(99.0, 99.1, 99.2, 99.1)]))


@pytest.mark.parametrize(
    ("effect", "seeds", "published"),
    # Cohen, Statistical Power Analysis (1988), table 2.3.5: two-sided, 5 %.
    [(0.5, 64, 0.80), (0.8, 26, 0.81), (0.2, 40, 0.14), (1.0, 17, 0.81)],
)
def test_power_against_cohens_tables(effect, seeds, published):
    assert power(effect, 1.0, seeds) == pytest.approx(published, abs=0.0101)


def test_power_against_simulated_t_tests():
    generator = np.random.default_rng(0)
    a, b = generator.normal(0, 0.04, (4000, 5)), generator.normal(0.06, 0.04, (4000, 5))
    found = (stats.ttest_ind(a, b, axis=1).pvalue < 0.05).mean()
    assert power(0.06, 0.04, 5) == pytest.approx(found, abs=0.025)
    assert power(0.0, 0.04, 5) == pytest.approx(0.05)


def test_seeds_needed():
    assert test_images.seeds_needed(0.5, 1.0) == 64  # as in the tables
    assert test_images.seeds_needed(3.0, 0.1) == 2
    assert test_images.seeds_needed(0.5, math.nan) is None, "one run each says nothing of its spread"
    enough = test_images.seeds_needed(0.013, 0.05)
    assert power(0.013, 0.05, enough) >= 0.8 > power(0.013, 0.05, enough - 1)


def test_images_by_how_many_runs_get_them_wrong():
    runs = [run(99.0), run(99.0), run(99.0)]
    for each, wrong in zip(runs, ([7, 3], [7, 5], [7, 5]), strict=True):
        each.misclassified.extend([index, 4, 9] for index in wrong)
    assert test_images.wrong_in(runs, 1.0) == [7]
    assert test_images.wrong_in(runs, 0.5) == [7, 5]
    assert list(test_images.wrong_counts(runs).values()) == [1, 1, 2, 3]
    first, second = test_images.left_in_words(runs, runs[:1], "another")
    assert first.startswith("Wrong in at least one run: 3 images; in at least half of them: 2; in every one: 1. ")
    assert second.startswith("Of the images that are wrong in every run here, 1 is wrong in every run of another, too.")
    assert test_images.left_in_words(runs[:1], [], "another") == []
    assert test_images.wrong_table(runs).frame["test images"].tolist() == [1, 1, 2, 3]


def test_what_the_end_of_a_course_loses():
    runs = [run(99.0, 99.4, 99.1), run(99.0, 99.2, 99.3)]
    assert test_images.best_over_final(runs) == pytest.approx(0.15)
    assert test_images.fall_at_the_end(runs) == pytest.approx(0.1)
    assert test_images.one_image(runs) == 0.01


def test_the_pooled_spread():
    groups = {"a": [run(99.0), run(99.2)], "b": [run(98.0), run(98.2), run(98.4)], "c": [run(97.0)]}
    assert test_images.spread(groups) == pytest.approx(math.sqrt((0.02 + 0.08) / 3))


def test_the_power_picture_starts_at_two_runs():
    alt = test_images.power_picture([0.1], 0.05, most=10).alt
    assert "at runs of each network 2 to" in alt and alt.endswith("at runs of each network 10.")
