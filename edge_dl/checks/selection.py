"""Which variant to take: the fastest that passes parity, per quantization and overall. This is what `auto` means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.verdicts import Verdict

FORMAT = 1
# Latencies this close are no difference (see Settings.margin of edge_dl.checks.latency): the smaller file wins then.
CLOSE = 0.02


@dataclass(frozen=True)
class Candidate:
    """What is known about a variant.

    Attributes:
        variant: its name.
        lowering: its lowering.
        quantization: its quantization.
        verdict: parity verdict; None when it was not checked.
        message: the parity report's one line.
        p50_ms: median latency; None when it was not measured.
        bytes: size of the .tflite.
        error: why it could not be measured.
    """

    variant: str
    lowering: str
    quantization: str
    verdict: Verdict | None = None
    message: str = ""
    p50_ms: float | None = None
    bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class Row:
    """A candidate in the table, with whether it was chosen for its quantization and why (not)."""

    variant: str
    lowering: str
    quantization: str
    verdict: Verdict | None
    p50_ms: float | None
    bytes: int
    chosen: bool
    reason: str


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        chosen: the fastest variant of all that passes; "" when none does.
        by_quantization: the fastest that passes, by quantization.
        by_lowering: the lowering chosen for each quantization.
        rows: every candidate with its reason, as given.
    """

    chosen: str
    by_quantization: Mapping[str, str] = field(default_factory=dict)
    by_lowering: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        """Inverse of `to_json`."""
        return from_plain(cls, value)


def select(candidates: Sequence[Candidate]) -> Selection:
    """Choose among candidates.

    A candidate that fails parity, or was not checked or not measured, is never chosen. One for which there were not
    enough samples is chosen only where nothing of its quantization (overall: nothing at all) passes.
    """
    chosen: dict[str, Candidate] = {}
    for quantization in dict.fromkeys(candidate.quantization for candidate in candidates):
        best = _fastest([candidate for candidate in candidates if candidate.quantization == quantization])
        if best is not None:
            chosen[quantization] = best
    overall = _fastest(list(chosen.values()))
    rows = tuple(_row(candidate, chosen.get(candidate.quantization), overall) for candidate in candidates)
    return Selection(
        chosen=overall.variant if overall else "",
        by_quantization={quantization: best.variant for quantization, best in chosen.items()},
        by_lowering={quantization: best.lowering for quantization, best in chosen.items()},
        rows=rows,
    )


def _fastest(candidates: Sequence[Candidate]) -> Candidate | None:
    for verdict in (Verdict.PASS, Verdict.NOT_ENOUGH_SAMPLES):
        able = [item for item in candidates if item.verdict is verdict and item.p50_ms is not None]
        if able:
            fastest = min(item.p50_ms or 0.0 for item in able)
            close = [item for item in able if (item.p50_ms or 0.0) <= fastest * (1 + CLOSE)]
            return min(close, key=lambda item: (item.bytes, item.p50_ms, item.variant))
    return None


def _row(candidate: Candidate, best: Candidate | None, overall: Candidate | None) -> Row:
    taken = best is not None and candidate.variant == best.variant
    if candidate.verdict is Verdict.FAIL:
        reason = f"fails parity: {candidate.message}" if candidate.message else "fails parity"
    elif candidate.verdict is None:
        reason = "parity was not checked"
    elif candidate.p50_ms is None:
        reason = f"was not measured: {candidate.error}" if candidate.error else "was not measured"
    elif taken:
        reason = f"fastest {candidate.quantization} variant that passes parity"
        if candidate.verdict is Verdict.NOT_ENOUGH_SAMPLES:
            reason = f"fastest {candidate.quantization} variant; there are not enough samples to decide on its metric"
        if overall is not None and candidate.variant == overall.variant:
            reason += ", and the fastest of all"
    elif best is not None and best.verdict is Verdict.PASS and candidate.verdict is not Verdict.PASS:
        reason = f"not enough samples to decide, and {best.variant} passes"
    elif best is not None and best.p50_ms and candidate.p50_ms <= best.p50_ms * (1 + CLOSE):
        reason = f"as fast as {best.variant}, and not smaller"
    else:
        slower = candidate.p50_ms / best.p50_ms if best is not None and best.p50_ms else 0.0
        reason = f"{slower:.2f} times as slow as {best.variant if best else ''}"
    return Row(
        candidate.variant,
        candidate.lowering,
        candidate.quantization,
        candidate.verdict,
        candidate.p50_ms,
        candidate.bytes,
        taken,
        reason,
    )
