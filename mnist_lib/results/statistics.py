"""Means and differences with their 95 % confidence intervals, over seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

FEWEST = 3
"""From how many values on an interval is given: that of two is so wide that it says nothing."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; `low` and `high` are NaN where there are too few values for one."""

    center: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there were enough values for its ends."""
        return not math.isnan(self.low)

    @property
    def holds_zero(self) -> bool:
        """Whether zero lies in it: a difference that it is the interval of may be nothing."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """Each number in the format `spec`, by default two decimals: ``99.41 [99.36, 99.46]``.

        An end that rounds to zero gets a third decimal: ``[-0.003, +0.23]`` contains zero, ``[-0.00, +0.23]`` hides it.
        """
        spec = spec or ".2f"
        center = f"{self.center:{spec.replace('.', 'z.')}}"  # z: no minus before a zero
        if not self.is_known:
            return f"{center} (too few runs for an interval)"
        low, high = (
            f"{end:{spec.replace('.2f', '.3f')}}" if end and not float(f"{end:{spec}}") else f"{end:{spec}}"
            for end in (self.low, self.high)
        )
        return f"{center} [{low}, {high}]"


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent values and its interval from Student's t distribution (Student, 1908).

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        raise ValueError("a mean needs at least one value")
    mean = float(sample.mean())
    if sample.size < FEWEST:
        return Interval(mean, math.nan, math.nan)
    if np.ptp(sample) == 0:
        return Interval(mean, mean, mean)
    return Interval(mean, *map(float, stats.ttest_1samp(sample, 0).confidence_interval(confidence)))


def pooled_spread(samples: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation of one value that samples have in common, and its degrees of freedom.

    Each sample has a mean of its own. Where none has two values, the spread is NaN.
    """
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    freedom = sum(len(array) - 1 for array in arrays)
    squares = sum(float(((array - array.mean()) ** 2).sum()) for array in arrays)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


def prediction_interval(
    values: Sequence[float], pool: Sequence[Sequence[float]] = (), confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of independent values, and where one more value would be in 95 % of cases (normal distribution).

    One more value scatters by its own spread and by that of the mean: by √(1 + 1/n) times the spread of one value.

    Arguments:
        values: of which one more is asked for.
        pool: samples that scatter alike, `values` among them, from which the spread is taken; else from `values`.
        confidence: in how many cases one more value lies within, as a share.

    Raises:
        ValueError: there are no values.
    """
    mean = mean_interval(values, confidence)
    if not mean.is_known:
        return mean
    spread, freedom = pooled_spread(pool or [values])
    half = stats.t.ppf((1 + confidence) / 2, freedom) * spread * math.sqrt(1 + 1 / len(values))
    return Interval(mean.center, mean.center - half, mean.center + half)


def difference_interval(after: Sequence[float], before: Sequence[float], comparisons: int = 1) -> Interval:
    """Return the difference of two means, ``after - before``, with its interval: see `contrast_interval`.

    Raises:
        ValueError: a sample is empty.
    """
    return contrast_interval((after, before), (1, -1), comparisons)


def contrast_interval(samples: Sequence[Sequence[float]], factors: Sequence[float], comparisons: int = 1) -> Interval:
    """Return the sum of several means, each times its factor, with Welch's interval (Welch, 1947).

    With the factors 1, -1, -1 and 1 it is how much larger one difference is than another. The samples may differ in
    size and in spread. Where one that counts has fewer than `FEWEST` values, there is no interval. With `comparisons`,
    the interval is one of so many that all hold at once in 95 % of cases (Bonferroni).

    Raises:
        ValueError: a sample is empty, or there are not as many factors as samples.
    """
    counted = [(factor, np.asarray(each, dtype=float)) for factor, each in zip(factors, samples, strict=True) if factor]
    if not all(sample.size for _, sample in counted):
        raise ValueError("a difference needs at least one value on each side")
    center = sum(factor * float(sample.mean()) for factor, sample in counted)
    if min(sample.size for _, sample in counted) < FEWEST:
        return Interval(center, math.nan, math.nan)
    if all(np.ptp(sample) == 0 for _, sample in counted):
        return Interval(center, center, center)
    parts = [(factor**2 * float(sample.var(ddof=1)) / sample.size, sample.size - 1) for factor, sample in counted]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / n for part, n in parts)  # Satterthwaite's, which Welch took over
    half = float(stats.t.isf((1 - CONFIDENCE) / comparisons / 2, freedom)) * math.sqrt(variance)
    return Interval(center, center - half, center + half)


def p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the p-value of Welch's t test that two means are equal; NaN where a sample has fewer than `FEWEST` values.

    Where neither sample scatters, it is 1 for equal values and 0 for others.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if min(a.size, b.size) < FEWEST:
        return math.nan
    if np.ptp(a) == np.ptp(b) == 0:
        return float(a[0] == b[0])
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979); NaN stays, and does not count.

    If each of those below 0.05 is called a difference, the chance of even one false call is at most 5 %.
    """
    given = np.asarray(p_values, dtype=float)
    order = np.argsort(given)[: np.count_nonzero(~np.isnan(given))]  # NaN comes last
    corrected = np.full(given.shape, math.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(order.size, 0, -1)), 1)
    return corrected.tolist()


def half_width(values: Sequence[float], more: int = 0) -> float:
    """Return half the width of the mean's interval, if there were `more` values that scatter as these do.

    NaN for fewer than two values, of which no scatter is known.
    """
    n = len(values) + more
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def binomial_standard_error(accuracy: float, images: int) -> float:
    """Return the standard error, in percentage points, of an accuracy in percent on `images` independent images."""
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def correlated_binomials(
    images: int, error_rates: Sequence[float], correlation: float, runs: int, seed: int = 0
) -> np.ndarray:
    """Simulate counts of correct images, shape ``(runs, epochs)``, when every epoch is tested on the same images.

    Each image has a difficulty of its own. In every epoch it is judged by that with probability √correlation, otherwise
    by chance. So each count is binomial, and two epochs with one error rate have the given correlation, image by image.

    Arguments:
        images: how many are tested.
        error_rates: the share of wrong images to expect in each epoch, shape ``(epochs,)``.
        correlation: from 0 (every epoch is a fresh sample) to 1.
        runs: how many to simulate.
        seed: of the simulation.

    Raises:
        ValueError: the correlation is not from 0 to 1.
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation = {correlation}: expected a number from 0 to 1")
    generator, share = np.random.default_rng(seed), math.sqrt(correlation)
    correct = np.empty((runs, len(error_rates)), dtype=int)
    hard, before = np.zeros(runs, dtype=int), 0.0  # images that are hard at the error rate so far
    for epoch in np.argsort(error_rates):
        rate = error_rates[epoch]
        hard = hard + generator.binomial(images - hard, (rate - before) / (1 - before) if before < 1 else 0)
        before = rate
        by_chance = (1 - share) * rate
        wrong = generator.binomial(hard, share + by_chance) + generator.binomial(images - hard, by_chance)
        correct[:, epoch] = images - wrong
    return correct


def power(difference: float, spread: float, seeds: int) -> float:
    """Return the probability that a two-sided t test at 5 % finds a true difference of two means of `seeds` runs.

    Arguments:
        difference: the true difference of the means.
        spread: the standard deviation of one run, in the same unit.
        seeds: runs of each, at least 2.

    The test statistic has a noncentral t distribution with 2 · (seeds − 1) degrees of freedom (Cohen, 1988).
    """
    freedom = 2 * (seeds - 1)
    critical, shift = stats.t.ppf((1 + CONFIDENCE) / 2, freedom), difference / spread * math.sqrt(seeds / 2)
    return float(stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift))


def first_epoch_at(accuracies: Sequence[float], target: float) -> int | None:
    """Return the first epoch (from 1) at `target` or above, if there is one."""
    return next((epoch for epoch, value in enumerate(accuracies, 1) if value >= target), None)


def steady_from_epoch(accuracies: Sequence[float], target: float) -> int | None:
    """Return the epoch (from 1) from which on every epoch is at `target` or above, if there is one."""
    below = [epoch for epoch, value in enumerate(accuracies, 1) if value < target]
    start = max(below, default=0) + 1
    return start if start <= len(accuracies) else None
