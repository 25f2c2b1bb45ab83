"""A model and its baseline's model timed in turns on one target: how much longer the one takes, with an interval.

What slows the machine down slows both, so their ratio carries over from one session to the next where milliseconds do
not. As in `edge_dl.checks.turns`, both are opened anew several times, because two interpreters of one and the same file
differ for as long as they live; who is opened first changes from one opening to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_dl.bundle import Bundle
from edge_dl.checks.turns import Settings, ratio_interval
from edge_dl.runtime.targets.answers import Timing
from edge_dl.runtime.targets.base import Connection

OPENINGS = Settings.blocks
MARGIN = Settings.margin
CALLS = 12
"""So many calls a round are aimed at, within ROUND_MS: of fewer the lower quartile is soon one that was interrupted."""

ROUND_MS = (5.0, 20.0)
OPENING_MS = 4000.0
"""How long the rounds of one opening may take: slow models get fewer of them."""

LEAST_ROUNDS = 3
_ANY = ("p90_ms", "p99_ms", "mean_ms")
_FRESH = ("load_ms", "first_call_ms", "memory_peak_bytes")


@dataclass(frozen=True)
class Ratio:
    """A model's value over that of its baseline's model, both measured in this session.

    Attributes:
        value: the ratio; above 1: the model is slower, or takes more memory.
        low, high: ends of its interval.
        confidence: the interval's confidence.
        same: nothing was measured, because the model is the baseline's own: the ratio is 1.
    """

    value: float
    low: float
    high: float
    confidence: float = Settings.confidence
    same: bool = False


def time_pair(
    connection: Connection, bundle: Bundle, earlier: Bundle, *, call_ms: float, time_limit: float
) -> dict[str, Ratio]:
    """Time a bundle beside its baseline's on a target.

    `p50` is compared by the lower quartiles of rounds, which interruptions disturb least; `p90`, `p99` and `mean` by
    one number an opening; `load`, `first_call` and `memory` by the openings in which a model was the first, since the
    second finds a process that is set up.

    Args:
        connection: an open connection to the target.
        bundle: the model.
        earlier: the baseline's model.
        call_ms: about what a call takes, which decides the number of rounds.
        time_limit: seconds that one opening may take.

    Returns:
        Ratios by the names of a result's values; those that the target does not tell are left out.

    Raises:
        EdgeError: the target cannot run one of them, or broke.
    """
    round_ms = float(np.clip(CALLS * call_ms, *ROUND_MS))
    # Of two models, with the call before each stretch that is not counted.
    whole_ms = 2 * (max(round_ms, call_ms) + call_ms)
    rounds = int(np.clip(OPENING_MS / whole_ms, LEAST_ROUNDS, Settings.rounds))
    logs: list[np.ndarray] = []
    found: list[tuple[Timing, Timing]] = []
    for opening in range(OPENINGS):
        first, second = (bundle, earlier) if opening % 2 == 0 else (earlier, bundle)
        pair = connection.measure_pair(first, second, rounds=rounds, round_seconds=round_ms / 1e3, timeout=time_limit)
        turn = 1 if first is bundle else -1
        mine, its = pair.rounds_ms[::turn]
        logs.append(_log(mine) - _log(its))
        found.append((pair.timings[::turn][0], pair.timings[::turn][1]))
    ratios = {"p50": _ratio(logs)}
    fresh = [(found[number][0], found[number + 1][1]) for number in range(0, OPENINGS - 1, 2)]
    for names, pairs in ((_ANY, found), (_FRESH, fresh)):
        for name in names:
            values = [[getattr(timing, name) for timing in side] for side in zip(*pairs, strict=True)]
            if None not in (*values[0], *values[1]):
                key = name.removesuffix("_ms").removesuffix("_peak_bytes")
                ratios[key] = _ratio([_log([mine]) - _log([its]) for mine, its in zip(*values, strict=True)])
    return ratios


def same_model(names: Iterable[str]) -> dict[str, Ratio]:
    """Ratios of a model that is its baseline's own."""
    return {name: Ratio(1.0, 1.0, 1.0, same=True) for name in names}


def _log(values: Sequence[float]) -> np.ndarray:
    # A clock that stood still gives 0.
    return np.log(np.maximum(np.asarray(values, np.float64), 1e-6))


def _ratio(logs: Sequence[np.ndarray]) -> Ratio:
    value, interval = ratio_interval(logs, confidence=Settings.confidence)
    return Ratio(value, interval.low, interval.high, interval.confidence)
