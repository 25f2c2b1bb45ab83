"""Which of two functions is faster: calls in turns, fresh openings in blocks, an interval of the ratio, a verdict.

Two functions are called in turns, in random order, so that whatever slows the machine down slows both. What stays is
that two interpreters of one and the same file differ by a percent or so for as long as they live, because their memory
lies elsewhere: so both are opened anew several times (blocks), and the interval is drawn over blocks first and over
rounds inside them second.

The defaults of `Settings` come from `benchmarks/latency_study.py`, which compares models with themselves and with
copies slowed down by 10 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.statistics import Interval, normal_cdf, student_quantile

Call = Callable[[], Any]
Opener = Callable[[], Call]


class Speed(str, Enum):
    """What a comparison shows."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Settings:
    """How two models are compared. See `benchmarks/latency_study.py` for where the defaults come from.

    Attributes:
        blocks: how often both models are opened anew.
        rounds: rounds a block; in each round both are called in turns.
        round_seconds: how long the calls of one model in one round should take together.
        least_calls: calls a model and round at least, however slow the model.
        most_calls: calls a model and round at most, however fast the model.
        seconds: limit of the whole comparison; slow models get fewer rounds, but never fewer than two a block.
        quantile: which quantile of a round's calls stands for the round. Interruptions only ever add time, so the
            lower quartile is steadier than the median on a machine that does other things too.
        confidence: of the interval.
        margin: relative difference that is never called one: what the placement of memory can do to two interpreters
            of the same file in every block alike.
    """

    blocks: int = 8
    rounds: int = 12
    round_seconds: float = 0.003
    least_calls: int = 4
    most_calls: int = 200
    seconds: float = 3.0
    quantile: float = 0.25
    confidence: float = 0.95
    margin: float = 0.02


@dataclass(frozen=True)
class Comparison:
    """Time of `a` over time of `b`.

    Attributes:
        a: name of the model that the verdict is about.
        b: name of the model that it is compared with.
        ratio: time of a call of `a` over time of a call of `b`; below 1: `a` is faster.
        low: lower end of the ratio's interval.
        high: upper end.
        confidence: the interval's confidence.
        margin: relative difference that is never called one.
        verdict: "faster", "slower" (the whole interval is beyond the margin) or "no difference shown".
        a_ms, b_ms: median time of a call, milliseconds.
        blocks: how often both were opened anew.
        rounds: rounds in all.
        calls: timed calls of each in all.
        seconds: how long the comparison took.
    """

    a: str
    b: str
    ratio: float
    low: float
    high: float
    confidence: float
    margin: float
    verdict: Speed
    a_ms: float = 0.0
    b_ms: float = 0.0
    blocks: int = 0
    rounds: int = 0
    calls: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Comparison:
        """Inverse of `to_json`."""
        return from_plain(cls, value)


def compare(
    open_a: Opener,
    open_b: Opener,
    *,
    a: str = "a",
    b: str = "b",
    settings: Settings | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the latency of two models.

    Args:
        open_a: opens the first model anew and gives a function that calls it once.
        open_b: likewise for the second.
        a: name of the first, which the verdict is about.
        b: name of the second.
        settings: how; None: the defaults.
        seed: of the order of calls and of the bootstrap.
    """
    settings = settings or Settings()
    started = time.perf_counter()
    generator = np.random.default_rng(seed)
    logs: list[np.ndarray] = []
    timed: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    calls = rounds = 0
    for block in range(settings.blocks):
        # Who is opened first gets other memory; so this is random too.
        order = generator.permutation(2)
        opened: dict[int, Call] = {int(side): (open_a, open_b)[side]() for side in order}
        typical = [_warm_up(opened[side]) for side in (0, 1)]
        count = int(np.clip(settings.round_seconds / max(typical), settings.least_calls, settings.most_calls))
        left = settings.seconds - (time.perf_counter() - started)
        fit = int(left / (settings.blocks - block) / max(1e-9, sum(typical) * count))
        ratios = []
        for _ in range(int(np.clip(fit, 2, settings.rounds))):
            times = _round(opened[0], opened[1], count, max(typical), generator)
            quantiles = [max(1.0, float(np.quantile(side, settings.quantile))) for side in times]
            ratios.append(math.log(quantiles[0] / quantiles[1]))
            for side in (0, 1):
                timed[side].append(times[side])
            rounds += 1
            calls += count
        logs.append(np.array(ratios))
        # Both are closed together: the next block finds the memory as this one did.
        del opened
    ratio, interval = ratio_interval(logs, confidence=settings.confidence, seed=seed)
    return Comparison(
        a=a,
        b=b,
        ratio=ratio,
        low=interval.low,
        high=interval.high,
        confidence=settings.confidence,
        margin=settings.margin,
        verdict=judge(interval, settings.margin),
        a_ms=float(np.median(np.concatenate(timed[0]))) / 1e6,
        b_ms=float(np.median(np.concatenate(timed[1]))) / 1e6,
        blocks=len(logs),
        rounds=rounds,
        calls=calls,
        seconds=round(time.perf_counter() - started, 3),
    )


def ratio_interval(logs: Sequence[np.ndarray], *, confidence: float, seed: int = 0) -> tuple[float, Interval]:
    """Ratio and its bootstrap interval from logarithms of rounds' ratios, one array a block.

    A block counts by its median round, the blocks by their mean. A resample draws blocks, then rounds inside each. A
    percentile interval of so few blocks is too narrow, as a normal interval is where Student's is due; it is widened
    by as much (Hesterberg, The American Statistician 69 (2015) 371-386, "expanded percentile interval").

    Args:
        logs: per block, the logarithms of the rounds' ratios.
        confidence: confidence level.
        seed: seeds the bootstrap.
    """
    generator = np.random.default_rng(seed)
    resamples = 2000
    medians = np.array([np.median(rounds) for rounds in logs])
    blocks = len(logs)
    drawn = np.empty((blocks, resamples))
    # A copy of each block drawn for each resample: its rounds drawn anew.
    picks = generator.integers(0, blocks, size=(blocks, resamples))
    for number, rounds in enumerate(logs):
        place = np.nonzero(picks == number)
        again = rounds[generator.integers(0, len(rounds), size=(len(place[0]), len(rounds)))]
        drawn[place] = np.median(again, axis=1)
    means = drawn.mean(axis=0)
    tail = (1 - confidence) / 2
    if blocks > 1:
        tail = normal_cdf(-math.sqrt(blocks / (blocks - 1)) * student_quantile(confidence, blocks - 1))
    low, high = np.exp(np.quantile(means, [tail, 1 - tail]))
    return float(np.exp(medians.mean())), Interval(float(low), float(high), confidence)


def judge(interval: Interval, margin: float) -> Speed:
    """Verdict of a ratio's interval: a difference is shown when all of it lies beyond the margin."""
    if interval.high < 1 / (1 + margin):
        return Speed.FASTER
    if interval.low > 1 + margin:
        return Speed.SLOWER
    return Speed.NO_DIFFERENCE


def _warm_up(call: Call) -> float:
    """Call a few times; gives seconds a call, from the fastest of the later ones."""
    call()
    best = math.inf
    deadline = time.perf_counter() + 0.01
    for number in range(50):
        started = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - started)
        if number >= 2 and now > deadline:
            break
    return best


def _round(
    call_a: Call, call_b: Call, count: int, typical: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds of `count` calls of each, in turns whose order is random."""
    sides = (call_a, call_b)
    times: tuple[list[int], list[int]] = ([], [])
    # Fast models take turns of half a millisecond: a switch costs one call without the clock, to fill the caches.
    # Slow ones change places with every call.
    turn = int(np.clip(0.0005 / typical, 1, count))
    while len(times[0]) < count:
        size = min(turn, count - len(times[0]))
        for side in generator.permutation(2):
            call = sides[side]
            if turn > 1:
                call()
            _time(call, size, times[side])
    return np.array(times[0], np.float64), np.array(times[1], np.float64)


def _time(call: Call, count: int, times: list[int]) -> None:
    now = time.perf_counter_ns
    for _ in range(count):
        started = now()
        call()
        times.append(now() - started)
