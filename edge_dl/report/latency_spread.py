"""A stored latency with how far it can be trusted: how much the machine's speed moved while its run was timed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_dl.report.numbers import as_number
from edge_dl.report.variant_results import mapping, mappings

ASSUMED_DEVIATION = 0.05
"""Relative deviation where a run was timed too briefly to show its own; never less than a third of it is believed."""
ASSUMED_FREEDOM = 3


@dataclass(frozen=True)
class LatencySpread:
    """Latency of one variant in one run.

    Attributes:
        seconds: median call.
        deviation: standard deviation of a median's logarithm, from one measurement to the next within the run.
        freedom: degrees of freedom of that estimate.
        where: what must be equal for two latencies to be comparable: processor, cores, architecture, runtime, its
            version, threads.
        steady: whether the warm-up became steady.
    """

    seconds: float
    deviation: float
    freedom: int
    where: tuple[tuple[str, str], ...]
    steady: bool

    def incomparable(self, other: LatencySpread) -> str:
        """Why a difference to `other` says nothing; "" when it may."""
        for (key, mine), (_, theirs) in zip(self.where, other.where, strict=True):
            if mine != theirs:
                return f"not comparable: {key} {mine or 'unknown'}, then {theirs or 'unknown'}"
        if not (self.steady and other.steady):
            return "not comparable: one of them was not steady after its warm-up"
        return ""


def spread_of(variant: str, results: Mapping[str, Any]) -> LatencySpread | None:
    """Latency of a variant in results.json's value; None where there is none.

    Every variant was compared with the baseline in turns, so the baseline was timed again and again while the run was
    timed: the scatter of those medians is what the machine does to a median.
    """
    variants = mappings(results.get("variants"))
    report = next((mapping(item.get("latency")) for item in variants if item.get("name") == variant), {})
    milliseconds = as_number(report.get("p50_ms"))
    if not milliseconds or milliseconds <= 0:
        return None
    baseline = results.get("baseline")
    medians = [
        value
        for item in variants
        if mapping(item.get("comparison")).get("b") == baseline
        and (value := as_number(mapping(item.get("comparison")).get("b_ms")))
        and value > 0
    ]
    deviation, freedom = ASSUMED_DEVIATION, ASSUMED_FREEDOM
    if len(medians) > ASSUMED_FREEDOM:
        logs = [math.log(value) for value in medians]
        mean = sum(logs) / len(logs)
        freedom = len(logs) - 1
        deviation = max(math.sqrt(sum((log - mean) ** 2 for log in logs) / freedom), ASSUMED_DEVIATION / 3)
    keys = ("processor", "cores", "architecture", "runtime", "runtime_version", "threads")
    where = tuple((key.replace("_", " "), str(report.get(key) or "")) for key in keys)
    return LatencySpread(milliseconds / 1e3, deviation, freedom, where, report.get("steady") is not False)
