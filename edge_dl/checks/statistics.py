"""Statistics of checks: percentiles, Wilson interval, bootstrap intervals. NumPy only, seeded, vectorised.

A quantity that is resampled is described by *sums*: every sample gives a row of k numbers, and the quantity is a
function of the rows' total (accuracy: hits and count). One bootstrap resample then costs one row of a matrix product,
whatever the metric.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13; Wilson, JASA 22 (1927) 209-212;
Bonett & Price, Journal of Educational and Behavioral Statistics 37 (2012) 479-488.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 1000
# Beyond so many samples, samples are first added up in random groups of (nearly) equal size, and the groups are
# resampled: the same standard error to within 1/sqrt(2 * GROUPS) = 2 %, at a cost that no longer grows with n.
GROUPS = 1000


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
        confidence: share of such intervals that hold the true value, e.g. 0.95.
    """

    low: float
    high: float
    confidence: float


def percentiles(values: np.ndarray | Sequence[float], shares: Sequence[float] = (50, 90, 99)) -> tuple[float, ...]:
    """Percentiles (linear interpolation) of `values`, one a share in percent.

    Raises:
        ValueError: `values` is empty.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("Percentiles need at least one value.")
    return tuple(float(value) for value in np.percentile(array, list(shares)))


def normal_quantile(confidence: float) -> float:
    """Half-width of a two-sided normal interval in standard errors: 0.95 -> 1.96."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def student_quantile(confidence: float, freedom: int) -> float:
    """Half-width of a two-sided interval of Student's distribution, in standard errors.

    Exact for one and two degrees of freedom; from three on by expansion in 1/freedom (Abramowitz & Stegun 26.7.5),
    within 1 % at 95 %.
    """
    share = 0.5 + confidence / 2
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = normal_quantile(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def normal_cdf(value: float) -> float:
    """Share of a standard normal distribution below `value`."""
    return 0.5 * math.erfc(-value / math.sqrt(2))


def wilson_interval(successes: float, total: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share; [0, 1] when there are no trials.

    Args:
        successes: number of successes, 0 to `total`.
        total: number of trials.
        confidence: confidence level.
    """
    if total <= 0:
        return Interval(0.0, 1.0, confidence)
    z = normal_quantile(confidence)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At 0 and at `total` successes the ends are exactly 0 and 1; rounding must not leave the share outside.
    return Interval(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), confidence)


def paired_share_interval(lost: float, gained: float, total: int, confidence: float = 0.95) -> Interval:
    """Interval of a difference of two shares measured on the same samples (lost minus gained, over total).

    Bonett and Price's adjusted interval: one half-imaginary loss and gain keep it wide when no answer changed, where
    a bootstrap would claim certainty after five samples.

    Args:
        lost: number of samples right before and wrong after.
        gained: number of samples wrong before and right after.
        total: number of samples.
        confidence: confidence level.
    """
    if total <= 0:
        return Interval(-1.0, 1.0, confidence)
    first, second = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    difference = first - second
    half = normal_quantile(confidence) * math.sqrt(max(0.0, first + second - difference**2) / (total + 2))
    return Interval(max(-1.0, difference - half), min(1.0, difference + half), confidence)


def resample_sums(rows: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Totals of bootstrap resamples of `rows`.

    Args:
        rows: shape (samples, k): each sample's contribution.
        resamples: number of resamples.
        seed: seeds the draw.

    Returns:
        Shape (resamples, k): per resample, the sum over samples drawn with replacement.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"Rows must have the shape (samples, k) with at least one sample, not {rows.shape}.")
    generator = np.random.default_rng(seed)
    if len(rows) > 2 * GROUPS:
        order = generator.permutation(len(rows))
        edges = np.linspace(0, len(rows), GROUPS + 1).astype(np.int64)[:-1]
        rows = np.add.reduceat(rows[order], edges, axis=0)
    count = len(rows)
    sums = np.empty((resamples, rows.shape[1]))
    chunk = max(1, 1_000_000 // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        weights = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        sums[start : start + size] = weights @ rows
    return sums


def bootstrap_interval(
    rows: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a quantity that is a function of summed rows.

    Args:
        rows: shape (samples, k), each sample's contribution.
        value: maps sums of shape (..., k) to values of shape (...).
        confidence: confidence level.
        resamples: number of resamples.
        seed: seeds the draw.
    """
    return percentile_interval(value(resample_sums(rows, resamples=resamples, seed=seed)), confidence)


def paired_bootstrap(
    reference: np.ndarray,
    variant: np.ndarray,
    difference: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a difference measured on the same samples.

    The same samples are drawn for both sides, so what makes a sample hard cancels out.

    Args:
        reference: shape (samples, k), the reference's contributions.
        variant: shape (samples, k), the variant's contributions, same samples.
        difference: maps the two sums, each of shape (..., k), to values of shape (...).
        confidence: confidence level.
        resamples: number of resamples.
        seed: seeds the draw.
    """
    if len(reference) != len(variant):
        raise ValueError(f"A pair needs the same samples on both sides, not {len(reference)} and {len(variant)}.")
    width = reference.shape[1]
    sums = resample_sums(np.concatenate([reference, variant], axis=1), resamples=resamples, seed=seed)
    return percentile_interval(difference(sums[:, :width], sums[:, width:]), confidence)


def percentile_interval(values: np.ndarray, confidence: float) -> Interval:
    """Interval between two percentiles of resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence)
