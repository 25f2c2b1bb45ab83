"""Conditions that fail a test: `latency.p50 > 1.1x`, read strictly. Standard library only: read when pytest starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_dl.errors import UsageError

MILLISECONDS, MEGABYTES, PLAIN = "ms", "MB", ""
BASELINE = "x"
LATENCY = ("p50", "p90", "p99", "mean", "load", "first_call")
# Whether more is worse: it decides which comparison makes sense.
PARITY = {"max_abs": True, "mean_abs": True, "rmse": True, "cosine": False, "snr_db": False, "top1": False}
_UNITS: Mapping[str, str] = {
    **{f"latency.{name}": MILLISECONDS for name in LATENCY},
    "latency.memory": MEGABYTES,
    **{f"parity.{name}": PLAIN for name in PARITY},
}
_LOWER_IS_BETTER = {name: PARITY.get(name.removeprefix("parity."), True) for name in _UNITS}
_FORM = re.compile(
    r"\s*([a-z]+\.[a-z0-9_]+)\s*(<=|>=|<|>)\s*([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII
)
_TODO = 'Write for example "latency.p50 > 1.1x", "latency.p90 > 5ms" or "parity.top1 < 0.99".'


@dataclass(frozen=True)
class Condition:
    """What must not be: a metric beyond a limit.

    Attributes:
        metric: "latency.p50", "parity.max_abs", ...
        operator: ">", ">=", "<" or "<=".
        number: the limit in the metric's unit; a factor of the baseline's value when `relative`.
        relative: whether it is held against the baseline.
        text: as it was written.
    """

    metric: str
    operator: str
    number: float
    relative: bool
    text: str

    @property
    def kind(self) -> str:
        """Which fixture it is about: "latency" or "parity"."""
        return self.metric.partition(".")[0]

    def limit(self, baseline: float | None) -> float | None:
        """The limit in the metric's unit; None where that takes a baseline and there is none."""
        if not self.relative:
            return self.number
        return None if baseline is None else self.number * baseline

    def broken_by(self, value: float, limit: float) -> bool:
        """Whether a value is what the condition forbids."""
        return {">": value > limit, ">=": value >= limit, "<": value < limit, "<=": value <= limit}[self.operator]


def parse_condition(text: str) -> Condition:
    """Read `METRIC OPERATOR NUMBER[UNIT]`: the unit is `x` (times the baseline) or the metric's own (ms, MB, none).

    Raises:
        UsageError: another form, an unknown metric, a unit that the metric does not have, or a comparison that would
            fail what is good (`latency.p50 < 2ms`, `parity.top1 > 0.9`).
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise UsageError("A condition is METRIC OPERATOR NUMBER[UNIT].", received=repr(text), todo=_TODO)
    metric, operator, digits, unit = found.groups()
    if metric not in _UNITS:
        raise UsageError(
            "A condition names a metric that is measured.",
            received=repr(metric),
            todo=f"Metrics: {', '.join(_UNITS)}.",
        )
    own = _UNITS[metric]
    if unit not in (BASELINE, own):
        raise UsageError(
            f"The limit of {metric} is a factor of the baseline (1.1x) or a number"
            + (f" of {own} (for example 5{own})." if own else " without a unit (for example 0.02)."),
            received=repr(text),
        )
    number = float(digits)
    if not math.isfinite(number) or (unit == BASELINE and number <= 0):
        raise UsageError("A condition's limit is a finite number, a factor more than zero.", received=repr(text))
    worse = ">" if _LOWER_IS_BETTER[metric] else "<"
    if operator[0] != worse:
        raise UsageError(
            f"A condition says what fails: more is {'worse' if worse == '>' else 'better'} for {metric}.",
            received=repr(text),
            todo=f"Write {worse} instead of {operator}.",
        )
    return Condition(metric, operator, number, unit == BASELINE, " ".join(text.split()))
