from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.checks.comparison import decide
from edge_dl.checks.statistics import (
    GROUPS,
    Interval,
    bootstrap_interval,
    paired_bootstrap,
    paired_share_interval,
    percentiles,
    resample_sums,
    student_quantile,
    wilson_interval,
)
from edge_dl.checks.verdicts import Verdict


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def rows_of(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)


def test_percentiles_are_numpys_and_need_values():
    assert percentiles(np.arange(101), (50, 90, 99)) == (50.0, 90.0, 99.0)
    with pytest.raises(ValueError, match="at least one"):
        percentiles([])


def test_student_quantile_matches_tables():
    # Two-sided 95 %, from any printed table of Student's distribution.
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (7, 2.365), (11, 2.201), (30, 2.042)):
        assert student_quantile(0.95, freedom) == pytest.approx(value, rel=0.002)


def test_wilson_matches_a_published_example():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, 95 %: 0.2553 to 0.3662; 0 of 20: 0 to 0.1611.
    interval = wilson_interval(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20).low == 0.0
    assert wilson_interval(0, 20).high == pytest.approx(0.1611, abs=5e-5)
    assert wilson_interval(0, 0) == Interval(0.0, 1.0, 0.95)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share_and_stays_in_range(total: int, data: st.DataObject):
    successes = data.draw(st.integers(0, total))
    interval = wilson_interval(successes, total)
    assert 0 <= interval.low <= successes / total <= interval.high <= 1


def test_paired_share_interval_is_not_certain_after_five_samples():
    few, many = paired_share_interval(0, 0, 5, 0.9), paired_share_interval(0, 0, 10_000, 0.9)
    assert few.high > 0.2
    assert 0 < many.high < 0.001
    assert paired_share_interval(0, 0, 0).high == 1.0
    worse = paired_share_interval(40, 10, 1000, 0.9)
    assert worse.low > 0
    assert worse.high == pytest.approx(0.03 + 1.645 * np.sqrt(0.05 / 1000), rel=0.05)


def test_paired_share_interval_covers():
    # 2 % lost, 1 % gained: the true difference is 1 %.
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        lost, gained, _ = generator.multinomial(500, [0.02, 0.01, 0.97])
        interval = paired_share_interval(lost, gained, 500, 0.9)
        inside += interval.low <= 0.01 <= interval.high
    assert inside >= 870


def test_resampled_sums_have_the_mean_and_deviation_of_theory():
    values = np.random.default_rng(0).standard_normal(400)
    sums = resample_sums(rows_of(values), resamples=4000, seed=3)
    assert (sums[:, 1] == 400).all()
    assert sums[:, 0].mean() == pytest.approx(values.sum(), abs=4 * np.sqrt(400 / 4000) * values.std())
    assert sums[:, 0].std() == pytest.approx(values.std() * 20, rel=0.05)


def test_many_samples_are_grouped_and_the_deviation_stays():
    values = np.random.default_rng(0).standard_normal(20_000)
    sums = resample_sums(rows_of(values), resamples=2000, seed=1)
    assert len(values) > 2 * GROUPS
    assert sums[:, 0].std() == pytest.approx(values.std() * np.sqrt(20_000), rel=0.1)
    assert (sums[:, 1] == 20_000).all()


def test_resampling_is_seeded_and_refuses_nothing():
    rows = rows_of(np.arange(50.0))
    assert np.array_equal(resample_sums(rows, seed=5), resample_sums(rows, seed=5))
    assert not np.array_equal(resample_sums(rows, seed=5), resample_sums(rows, seed=6))
    with pytest.raises(ValueError, match="at least one sample"):
        resample_sums(np.zeros((0, 2)))


def test_bootstrap_interval_covers_the_mean():
    generator = np.random.default_rng(2)
    inside = 0
    for number in range(200):
        rows = rows_of(generator.exponential(size=100))
        interval = bootstrap_interval(rows, mean, seed=number, resamples=400, confidence=0.9)
        inside += interval.low <= 1.0 <= interval.high
    assert 160 <= inside <= 196


def test_paired_bootstrap_cancels_what_samples_share():
    generator = np.random.default_rng(0)
    hard = generator.exponential(10, size=1000)
    first, second = rows_of(hard), rows_of(hard + 0.1)
    interval = paired_bootstrap(first, second, lambda a, b: mean(b) - mean(a))
    assert interval.low == pytest.approx(0.1, abs=1e-9)
    assert interval.high == pytest.approx(0.1, abs=1e-9)
    with pytest.raises(ValueError, match="same samples"):
        paired_bootstrap(first, second[:10], lambda a, b: mean(b) - mean(a))


def test_decide_says_pass_fail_or_how_many_samples():
    assert decide(0.001, Interval(-0.002, 0.004, 0.9), 0.01, 1000) == (Verdict.PASS, None)
    assert decide(0.05, Interval(0.03, 0.07, 0.9), 0.01, 1000) == (Verdict.FAIL, None)
    verdict, needed = decide(0.005, Interval(-0.005, 0.015, 0.9), 0.01, 1000)
    # Half width 0.01 must become 0.005: four times as many.
    assert verdict is Verdict.NOT_ENOUGH_SAMPLES
    assert needed == pytest.approx(4000, rel=0.1)
    assert decide(0.0, Interval(0.0, 0.0, 0.9), 0.01, 5)[0] is Verdict.NOT_ENOUGH_SAMPLES
    assert decide(float("nan"), Interval(0.0, 0.0, 0.9), 0.01, 1000)[0] is Verdict.FAIL
    assert decide(0.01, Interval(0.0, 0.02, 0.9), 0.01, 1000) == (Verdict.NOT_ENOUGH_SAMPLES, None)


@settings(max_examples=50)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(400, 5000))
def test_paired_share_interval_holds_the_adjusted_difference(lost: int, gained: int, total: int):
    interval = paired_share_interval(lost, gained, total)
    assert interval.low <= (lost - gained) / (total + 2) <= interval.high
    mirrored = paired_share_interval(gained, lost, total)
    assert interval.low == pytest.approx(-mirrored.high)
