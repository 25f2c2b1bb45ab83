"""The latency of one subject on one target, held to limits and to its baseline.

Two interpreters of one and the same file differ by a percent or more for as long as they live, and whatever else the
machine does only ever adds time. So the model is opened several times, each in a process of its own, and the opening
with the lowest median counts. Whether it became slower than its baseline is told by timing both in turns (`pairs`).

Only one test of this machine and user measures at a time: others, also other workers of pytest-xdist, wait.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edge_dl.bundle import Bundle
from edge_dl.checks.verdicts import Check, Verdict
from edge_dl.errors import EdgeError
from edge_dl.runtime.targets.answers import Timing
from edge_dl.runtime.targets.base import Connection
from edge_dl.runtime.targets.places import locked
from edge_dl.testing.baselines import describe_machine
from edge_dl.testing.pairs import Ratio, time_pair
from edge_dl.testing.results import LatencyResult

OPENINGS = 3
ROUNDS = 10


def measure_on(
    connection: Connection,
    target: str,
    bundle: Bundle,
    *,
    limits: Mapping[str, float],
    earlier: Bundle | None = None,
    openings: int = OPENINGS,
    rounds: int = ROUNDS,
    time_limit: float,
    beside_others: bool = False,
) -> LatencyResult:
    """Time a bundle on a target. A model that the target cannot run is a failed result, not an error.

    Args:
        connection: an open connection to the target.
        target: its name.
        bundle: the model.
        limits: the most milliseconds (MB for "memory") by the name of a value: {"p50": 5.0}.
        earlier: the baseline's model, to be timed in turns with this one; None: it is timed alone.
        openings: how often it is opened anew.
        rounds: stretches of calls an opening.
        time_limit: seconds that one opening may take.
        beside_others: whether other workers run at the same time.
    """
    ratios: dict[str, Ratio] = {}
    alone = ""
    with locked(timing_lock()):
        try:
            timings = [connection.measure(bundle, rounds=rounds, timeout=time_limit) for _ in range(openings)]
        except EdgeError as error:
            check = Check("runs", Verdict.FAIL, str(error))
            return LatencyResult(kind="latency", variant=bundle.manifest.variant, target=target, checks=(check,))
        best = min(timings, key=lambda timing: timing.typical_ms)
        if earlier is not None:
            try:
                ratios = time_pair(connection, bundle, earlier, call_ms=best.typical_ms, time_limit=time_limit)
            except EdgeError as error:
                alone = f"its model does not run here: {error}"
    values = _values(best)
    checks = [_check(name, values.get(name), limit) for name, limit in limits.items()]
    medians = ", ".join(f"{timing.typical_ms:.4g}" for timing in timings)
    notes = [f"medians of {openings} openings: {medians} ms; the lowest counts"]
    if not best.steady:
        notes.append("the calls did not become steady before they were counted")
    if beside_others:
        notes.append("other pytest-xdist workers ran tests at the same time, which makes this slower")
    return LatencyResult(
        kind="latency",
        variant=bundle.manifest.variant,
        target=target,
        runtime=f"{best.runtime} {best.version}",
        checks=tuple(checks),
        values=values,
        machine=describe_machine(best.machine),
        notes=tuple(notes),
        ratios=ratios,
        alone=alone,
    )


def timing_lock() -> Path:
    """The file whose lock a measurement holds: one for each user of this machine, whatever the project."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"edge-dl-timing-{user}.lock"


def _values(timing: Timing) -> dict[str, float | None]:
    peak = timing.memory_peak_bytes
    return {
        "p50": timing.p50_ms,
        "p90": timing.p90_ms,
        "p99": timing.p99_ms,
        "mean": timing.mean_ms,
        "load": timing.load_ms,
        "first_call": timing.first_call_ms,
        "memory": None if peak is None else peak / 2**20,
    }


def _check(name: str, value: float | None, limit: float) -> Check:
    unit = "MB" if name == "memory" else "ms"
    if value is None:
        return Check(f"max_{name}", Verdict.FAIL, f"This target does not tell {name}.", limit=limit)
    verdict = Verdict.PASS if value <= limit else Verdict.FAIL
    words = "within" if value <= limit else "above"
    return Check(f"max_{name}", verdict, f"{name} {value:.4g} {unit} is {words} {limit:g} {unit}.", "", value, limit)
