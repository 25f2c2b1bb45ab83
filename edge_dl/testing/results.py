"""What the fixtures give: a result that is true or false, one line as `repr`, and every reason as `str`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from edge_dl.checks.verdicts import Check, OutputParity, ParityReport, Verdict
from edge_dl.testing.baselines import Entry, stored_value
from edge_dl.testing.conditions import Condition
from edge_dl.testing.graphs import OperatorDifference, Start
from edge_dl.testing.pairs import MARGIN, Ratio

SESSIONS = 1.5
"""How many times as long one and the same model may take in another session: what the machine does beside it, its
frequency, where memory lies. benchmarks/baseline_verdicts.py measures it."""

WORST_SHOWN = 3
VALUES_SHOWN = 8


@dataclass(frozen=True)
class Answer:
    """One sample's answer beside the expected one.

    Attributes:
        output: the output's name.
        sample: the sample's number.
        place: index of the largest difference inside the sample, () for a single number.
        expected, got: the values there.
        max_abs: the difference there; NaN where one of them is no number.
        expected_values, got_values: the last axis through that place.
    """

    output: str
    sample: int
    place: tuple[int, ...]
    expected: float
    got: float
    max_abs: float
    expected_values: np.ndarray
    got_values: np.ndarray


@dataclass(frozen=True, repr=False)
class Result:
    """What a fixture found out about one model on one target. Its truth is the verdict.

    Attributes:
        kind: "parity" or "latency".
        variant: the variant's name.
        target: the target's name.
        runtime: what ran it, e.g. "ai_edge_litert 2.3.0"; "" when it did not run.
        checks: everything that was checked, in order.
        values: what was measured, by the names that --edge-fail uses.
        machine: the target's machine (see `baselines.describe_machine`); {} when it did not answer.
        key: under which a baseline is kept.
        unjudged: conditions that could not be judged because there is no baseline.
        notes: what a reader of the numbers must know.
        ratios: values over those of the baseline's model, measured in this session too; {} where that was not done.
    """

    kind: str
    variant: str
    target: str
    runtime: str = ""
    checks: tuple[Check, ...] = ()
    values: Mapping[str, float | None] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    unjudged: tuple[Condition, ...] = ()
    notes: tuple[str, ...] = ()
    ratios: Mapping[str, Ratio] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Fail when any check failed; not enough samples when one cannot be decided; else pass."""
        found = {check.verdict for check in self.checks}
        return next((item for item in (Verdict.FAIL, Verdict.NOT_ENOUGH_SAMPLES) if item in found), Verdict.PASS)

    def __bool__(self) -> bool:
        """Whether every check passed. Too few samples to decide is not a pass."""
        return self.verdict is Verdict.PASS

    def __repr__(self) -> str:
        # pytest shows the value of `assert result` on one line and cuts it at 240 characters.
        reasons = [check.message for check in self.checks if check.verdict is not Verdict.PASS]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        text = reasons[0].rstrip(".") + more if reasons else f"{len(self.checks)} checks"
        return f"<{self.kind} of {self.variant} on {self.target}: {self.verdict.value}: {text[:140]}>"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The result in full."""
        by = f" ({self.runtime})" if self.runtime else ""
        lines = [f"{self.kind} of {self.variant} on {self.target}{by}: {self.verdict.value}"]
        width = max((len(check.name) for check in self.checks), default=0)
        lines += [f"  {_mark(check)}  {check.name:<{width}}  {check.message}" for check in self.checks]
        return [*lines, *(f"  note: {note}" for note in self.notes)]


@dataclass(frozen=True, repr=False)
class ParityResult(Result):
    """Parity of a variant with its reference on one target.

    Attributes:
        report: the report in full; `report.to_json()` is what checks/<variant>.json holds.
        source: where inputs and expected answers come from.
        worst: samples with the largest differences, of the first output that differs.
        start: where in the graph it starts; None when nothing failed.
        subject: what the test named.
    """

    report: ParityReport | None = None
    source: str = ""
    worst: tuple[Answer, ...] = ()
    start: Start | None = None
    subject: str = ""

    @property
    def max_abs(self) -> float | None:
        """Largest absolute difference of any output."""
        return self.values.get("max_abs")

    @property
    def top1(self) -> float | None:
        """Smallest share of equal answers of any output with classes."""
        return self.values.get("top1")

    def lines(self) -> list[str]:
        """The result in full, with what helps to find the reason."""
        lines = super().lines()
        samples = self.report.samples if self.report else 0
        lines[1:1] = [f"  {self.subject}: {samples} samples, against {self.source}"]
        if self and not self.worst:
            return lines
        if self.worst:
            first = self.worst[0]
            lines.append(f"  first differing output: {first.output!r}, worst samples:")
            for item in self.worst:
                lines += _answer_lines(item, self.report.labels if self.report else ())
        if self.start is not None:
            lines += ["  where it starts:", *(f"    {line}" for line in self._start_lines(self.start))]
        return lines

    def _start_lines(self, start: Start) -> list[str]:
        lines = start_lines(start)
        largest = self.worst[0].max_abs if self.worst else None
        if start.own is not None and largest is not None and not start.own >= 0.5 * largest:
            lines.append(f"On {self.target} it is {largest:.3g}: most comes from the runtime or the delegate there.")
        return lines


@dataclass(frozen=True, repr=False)
class LatencyResult(Result):
    """Latency of a model on one target. Values are milliseconds a call, MB of memory.

    Attributes:
        kept: name of the model among those of the baselines; "" when no baseline is being made.
        alone: why it was not timed beside its baseline's model; "" when it was, or nothing asked for it.
    """

    kept: str = ""
    alone: str = ""

    @property
    def p50_ms(self) -> float | None:
        """Median time of a call."""
        return self.values.get("p50")

    def lines(self) -> list[str]:
        """The result in full."""
        lines = super().lines()
        shown = [
            f"{name} {value:.4g} {'MB' if name == 'memory' else 'ms'}"
            for name, value in self.values.items()
            if value is not None
        ]
        lines[1:1] = [f"  {', '.join(shown) or 'not measured'}"]
        if self.alone:
            lines.append(f"  note: not timed beside its baseline: {self.alone}")
        return lines


R = TypeVar("R", bound=Result)


def judged(result: R, conditions: Sequence[Condition], baseline: Entry | None) -> R:
    """The result with a check for every condition on what it measured; those that lack a baseline become `unjudged`.

    A factor of a latency is held against the interval of the ratio to the baseline's model where both were measured.
    The stored numbers decide where that was not possible; they also tell what such a ratio cannot: that the runtime,
    which is the same for both models, became slower since. Numbers of two sessions are allowed `SESSIONS` times more.

    Args:
        result: what was measured.
        conditions: of --edge-fail.
        baseline: the stored result of this machine; None without one.
    """
    checks, unjudged = [], []
    for condition in conditions:
        name = condition.metric.partition(".")[2]
        value = result.values.get(name)
        if condition.kind != result.kind or value is None:
            continue
        ratio = result.ratios.get(name) if condition.relative else None
        if ratio is not None:
            checks.append(_by_interval(condition, ratio))
            if baseline is None or baseline.get("runtime") == result.runtime:
                continue
        before = stored_value(baseline, condition.metric)
        if before is not None or not condition.relative:
            checks.append(_by_number(condition, value, before, str((baseline or {}).get("runtime")), result.runtime))
        elif ratio is None:
            unjudged.append(condition)
    return replace(result, checks=(*result.checks, *checks), unjudged=(*result.unjudged, *unjudged))


def _by_interval(condition: Condition, ratio: Ratio) -> Check:
    """A factor is exceeded when all of the ratio's interval lies beyond it."""
    metric, factor = condition.metric, condition.number
    if ratio.same:
        message = f"{metric}: the model is the baseline's own."
    else:
        message = (
            f"{metric} is {ratio.value:.3f} times that of the baseline's model ({ratio.low:.3f} to {ratio.high:.3f}, "
            "timed in turns)"
        )
        if 1 <= factor < 1 + MARGIN:
            factor = 1 + MARGIN
            message += f"; less than {100 * MARGIN:.0f} % cannot be told apart"
        message += f"; fails when all of the interval is {condition.operator} {factor:g}."
    broken = condition.broken_by(ratio.low, factor)
    return Check("--edge-fail", Verdict.FAIL if broken else Verdict.PASS, message, value=ratio.value, limit=factor)


def _by_number(condition: Condition, value: float, before: float | None, earlier: str, runtime: str) -> Check:
    """A number against a limit; a latency's factor of a stored number allows for the difference of two sessions."""
    limit = condition.limit(before)
    assert limit is not None
    factor = ""
    if condition.relative:
        factor = f"{condition.number:g} times the baseline's {before:.4g}"
        if condition.kind == "latency":
            limit *= SESSIONS
            factor += f", and {SESSIONS:g} times that because they are numbers of two sessions"
            factor += f", of {earlier} and {runtime}" if earlier != runtime else ""
        factor = f" ({factor})"
    message = f"{condition.metric} is {value:.4g}; fails when {condition.operator} {limit:.4g}{factor}."
    verdict = Verdict.FAIL if condition.broken_by(value, limit) else Verdict.PASS
    return Check("--edge-fail", verdict, message, value=value, limit=limit)


def parity_values(outputs: Sequence[OutputParity]) -> dict[str, float | None]:
    """Figures over all outputs: the worst one's each."""

    def worst(name: str, choose: Any) -> float | None:
        known = [value for item in outputs if (value := getattr(item, name)) is not None]
        return choose(known) if known else None

    return {
        **{name: worst(name, max) for name in ("max_abs", "mean_abs", "rmse")},
        **{name: worst(name, min) for name in ("cosine", "snr_db", "top1")},
    }


def find_worst(
    reference: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> tuple[Answer, ...]:
    """The samples with the largest differences of the first of `outputs` that differs; what is not finite comes first.

    Args:
        reference, answers: by output name, the sample axis first.
        outputs: names in the order in which they are looked at.
    """
    for name in outputs:
        if name not in answers or answers[name].shape != reference[name].shape or not reference[name].size:
            continue
        want, have = (side[name].astype(np.float64) for side in (reference, answers))
        with np.errstate(invalid="ignore"):
            distance = np.abs(have - want).reshape(len(want), -1)
        # Where a value is not finite, the distance is not either: larger than any.
        ranked = np.where(np.isfinite(distance), distance, np.inf)
        largest = ranked.max(axis=1)
        rows = [int(row) for row in np.argsort(-largest, kind="stable")[:WORST_SHOWN] if largest[row] > 0]
        if rows:
            return tuple(_answer(name, want[row], have[row], row, int(ranked[row].argmax())) for row in rows)
    return ()


def _answer(name: str, want: np.ndarray, have: np.ndarray, row: int, flat: int) -> Answer:
    place = tuple(int(part) for part in np.unravel_index(flat, want.shape)) if want.ndim else ()
    expected, got = float(want[place]), float(have[place])
    lines = (np.atleast_1d(side[place[:-1]] if place else side) for side in (want, have))
    return Answer(name, row, place, expected, got, abs(got - expected), *lines)


def start_lines(start: Start) -> list[str]:
    """`Start` in sentences."""
    if start.reason:
        return [f"This cannot be told: {start.reason}."]
    lines = []
    if start.first is not None:
        lines.append(f"at {_operator(start.first)}, below {start.threshold_db:g} dB")
        if start.before is not None:
            lines.append(f"before it: {_operator(start.before)}")
    else:
        lines.append(f"no operator's output is below {start.threshold_db:g} dB on the worst sample")
    if start.steepest is not None and start.steepest != start.first:
        lines.append(f"the largest loss ({start.loss_db:.0f} dB): {_operator(start.steepest)}")
    lines.append(
        f"compared with the float32 variant on this machine: {start.matched} of {start.operators} operators, {start.by}"
    )
    if start.sibling is not None and start.own is not None:
        lines.append(
            f"largest difference from the expected answer on this machine: float32 variant {start.sibling:.3g}, "
            f"this variant {start.own:.3g}"
        )
        if start.own and start.sibling > 0.5 * start.own:
            lines.append("The float32 variant is off too: look at export and lowering before the quantization.")
    return lines


def _operator(item: OperatorDifference) -> str:
    step = "" if item.step is None else f" at time step {item.step}"
    name = f" {item.tensor!r}" if item.tensor else ""
    return f"operator {item.number} {item.kind}{name}{step}: SNR {item.snr_db:.1f} dB, off by up to {item.max_abs:.3g}"


def _mark(check: Check) -> str:
    return {Verdict.PASS: "ok  ", Verdict.FAIL: "FAIL"}.get(check.verdict, "????")


def _answer_lines(item: Answer, labels: Sequence[str]) -> list[str]:
    index = f" at index {list(item.place)}" if item.place else ""
    head = f"    sample {item.sample}{index}: expected {item.expected:.6g}, got {item.got:.6g}"
    if len(item.expected_values) == 1:
        return [head]
    return [
        head,
        f"      expected  {_vector(item.expected_values, item.place[-1])}{_class(item.expected_values, labels)}",
        f"      got       {_vector(item.got_values, item.place[-1])}{_class(item.got_values, labels)}",
    ]


def _vector(values: np.ndarray, around: int) -> str:
    """The values around the largest difference."""
    start = max(0, min(around - VALUES_SHOWN // 2, len(values) - VALUES_SHOWN))
    shown = " ".join(f"{value:9.4g}" for value in values[start : start + VALUES_SHOWN])
    before, after = "... " if start else "", " ..." if start + VALUES_SHOWN < len(values) else ""
    return f"[{before}{shown}{after}]"


def _class(values: np.ndarray, labels: Sequence[str]) -> str:
    if len(labels) != len(values) or not np.isfinite(values).all():
        return ""
    return f" -> {labels[int(values.argmax())]}"
