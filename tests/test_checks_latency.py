"""Latency tests assert no times: a machine that does other things gives any. What is tested is the arithmetic on
given times, and that real measurements come out whole. The error rates are benchmarks/latency_study.py's subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_dl.checks import (
    Comparison,
    LatencyReport,
    Settings,
    Speed,
    bench_models,
    compare,
    compare_models,
    measure_model,
    turns,
)
from edge_dl.checks.statistics import Interval
from edge_dl.checks.turns import judge, ratio_interval
from edge_dl.errors import UsageError


def logs_of(ratio: float, *, between: float, within: float, seed: int, blocks: int = 8, rounds: int = 12) -> list:
    generator = np.random.default_rng(seed)
    return [np.log(ratio) + generator.normal(0, between) + generator.normal(0, within, rounds) for _ in range(blocks)]


def test_the_interval_covers_where_interpreters_of_one_file_differ():
    """Blocks differ by 1.5 %, rounds by 5 %: the true ratio must lie inside 95 times in 100."""
    inside = 0
    for seed in range(120):
        _, interval = ratio_interval(logs_of(1.1, between=0.015, within=0.05, seed=seed), confidence=0.95, seed=seed)
        inside += interval.low <= 1.1 <= interval.high
    assert inside >= 105  # 87 %: 95 % less four standard errors of 120 trials.


def test_a_model_slowed_by_a_tenth_is_found_and_an_equal_one_is_not():
    def verdicts(ratio: float) -> list[Speed]:
        found = []
        for seed in range(60):
            logs = logs_of(ratio, between=0.015, within=0.05, seed=1000 + seed)
            found.append(judge(ratio_interval(logs, confidence=0.95, seed=seed)[1], 0.02))
        return found

    assert verdicts(1.0).count(Speed.NO_DIFFERENCE) >= 58
    assert verdicts(1.1).count(Speed.SLOWER) >= 57
    assert verdicts(1 / 1.1).count(Speed.FASTER) >= 57


def test_an_interrupted_round_changes_nothing():
    logs = logs_of(1.1, between=0.005, within=0.01, seed=1)
    for rounds in logs:
        rounds[3] = np.log(8.0)
    ratio, interval = ratio_interval(logs, confidence=0.95)
    assert ratio == pytest.approx(1.1, rel=0.02)
    assert interval.high < 1.15


def test_a_single_block_has_an_interval():
    ratio, interval = ratio_interval([np.log([1.2, 1.25, 1.3])], confidence=0.95)
    assert interval.low <= ratio <= interval.high


def test_verdicts_need_the_whole_interval_beyond_the_margin():
    assert judge(Interval(0.80, 0.90, 0.95), 0.02) is Speed.FASTER
    assert judge(Interval(1.03, 1.20, 0.95), 0.02) is Speed.SLOWER
    assert judge(Interval(1.01, 1.20, 0.95), 0.02) is Speed.NO_DIFFERENCE
    assert judge(Interval(0.97, 1.20, 0.95), 0.02) is Speed.NO_DIFFERENCE
    assert judge(Interval(0.90, 0.985, 0.95), 0.02) is Speed.NO_DIFFERENCE


class Clock:
    """A clock that goes on only while a call is made: times are exact, whatever the machine does."""

    def __init__(self) -> None:
        self.nanoseconds = 0

    def perf_counter_ns(self) -> int:
        return self.nanoseconds

    def perf_counter(self) -> float:
        return self.nanoseconds / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "time", made)
    return made


def opener(clock: Clock, durations: Iterator[float], opened: list[int]) -> Callable[[], Callable[[], None]]:
    def open_anew() -> Callable[[], None]:
        opened.append(len(opened))

        def call() -> None:
            clock.nanoseconds += round(next(durations) * 1000)

        return call

    return open_anew


def endless(microseconds: float, jitter: float, seed: int) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    while True:
        yield from microseconds * (1 + jitter * generator.exponential(size=1000))


def test_compare_opens_anew_in_every_block_and_finds_the_ratio(clock: Clock):
    opened_a: list[int] = []
    opened_b: list[int] = []
    found = compare(
        opener(clock, endless(110, 0.05, 1), opened_a),
        opener(clock, endless(100, 0.05, 2), opened_b),
        a="slow", b="fast", settings=Settings(blocks=5, rounds=6), seed=3,
    )  # fmt: skip
    assert (len(opened_a), len(opened_b)) == (5, 5)
    assert found.verdict is Speed.SLOWER
    assert found.ratio == pytest.approx(1.1, rel=0.01)
    assert (found.a, found.b, found.blocks, found.rounds) == ("slow", "fast", 5, 30)
    assert found.a_ms == pytest.approx(0.110 * (1 + 0.05 * np.log(2)), rel=0.01)


def test_drift_hits_both_alike(clock: Clock):
    """The machine becomes three times slower on the way: the ratio stays."""

    def heating(microseconds: float) -> Iterator[float]:
        while True:
            yield microseconds * (1 + clock.nanoseconds / 3e8)

    found = compare(opener(clock, heating(100), []), opener(clock, heating(100), []))
    assert found.verdict is Speed.NO_DIFFERENCE
    assert found.ratio == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("microseconds", [3, 20, 1000, 30_000])
def test_the_time_limit_and_the_number_of_calls_follow_the_model(clock: Clock, microseconds: float):
    found = compare(
        opener(clock, endless(microseconds, 0, 1), []), opener(clock, endless(microseconds, 0, 2), [])
    )  # fmt: skip
    settings = Settings()
    assert settings.blocks * 2 <= found.rounds <= settings.blocks * settings.rounds
    assert found.calls >= found.rounds * settings.least_calls
    assert found.seconds < 2 * settings.seconds + 0.05
    if microseconds == 20:
        assert found.calls == found.rounds * 150


def test_real_models_are_measured_and_compared(tflite: Callable[[str], Path]):
    path = tflite("conv-float32")
    report = measure_model(path, rounds=3, round_seconds=0.005, warmup_seconds=0.1)
    assert report.variant == "model.tflite"
    assert 0 < report.p50_ms <= report.p90_ms <= report.p99_ms
    assert report.first_call_ms > 0
    assert report.load_ms > 0
    assert report.peak_memory_mb > 0
    assert report.memory_before_mb > 0
    assert (report.threads, report.runtime) == (1, "ai_edge_litert")
    assert report.cores >= 1
    assert LatencyReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    quick = Settings(blocks=2, rounds=2, round_seconds=0.001)
    found = compare_models(path, path, names=("one", "two"), settings=quick)
    assert (found.a, found.b, found.blocks, found.rounds) == ("one", "two", 2, 4)
    assert 0 < found.low <= found.ratio <= found.high
    assert Comparison.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_several_models_are_compared_with_the_first(tflite: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    paths: list[Any] = [tflite("conv-float32"), tflite("conv-int8")]
    reports, comparisons = bench_models(paths, settings=Settings(blocks=2, rounds=2, round_seconds=0.001))
    assert [report.threads for report in reports] == [1, 1]
    assert len(comparisons) == 1
    with pytest.raises(UsageError, match="At least one model"):
        bench_models([])
