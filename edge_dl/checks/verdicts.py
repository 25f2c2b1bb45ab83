"""What a parity check found, as plain values: the verdicts, and their JSON. Written as checks/<variant>.json.

JSON holds no NaN and no infinity: a number that is not finite is written as null and read back as None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from edge_dl.bundle import Limits
from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.translation_report import TranslationReport

FORMAT = 1


class Verdict(str, Enum):
    """Outcome of a check."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ENOUGH_SAMPLES = "not-enough-samples"


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what was checked: "finite", "max_abs", "min_top1", "repeatable", "order", "beams", "weights", "metric" or
            another.
        verdict: outcome.
        message: one full sentence with the numbers.
        output: name of the output that it is about; "" when it is about the whole variant.
        value: what was measured; None when it is no number.
        limit: what it was held to; None when there is no limit.
    """

    name: str
    verdict: Verdict
    message: str
    output: str = ""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class WorstSample:
    """A sample on which the variant is furthest from the reference.

    Attributes:
        index: row in the source data (in the checked inputs when the source has no rows).
        max_abs: largest absolute difference on that sample.
    """

    index: int
    max_abs: float


@dataclass(frozen=True)
class OutputParity:
    """How far a variant's output is from the reference's, over all samples. None: cannot be computed.

    Attributes:
        name: the output's name.
        shape: shape of one sample's output.
        samples: number of samples.
        peak: largest absolute value of the reference.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        rmse: root mean squared difference.
        cosine: cosine of the two outputs as one long vector; None when one of them is all zero.
        snr_db: power of the reference over power of the difference, in decibels; None when there is no difference
            (infinite) or no signal.
        top1: share of answers (samples, or time steps that count) with the same arg max; None where there are no
            classes. A tie that the variant makes between the reference's answer and another one counts as the same.
        worst: the samples with the largest differences, largest first.
    """

    name: str
    shape: tuple[int, ...]
    samples: int
    peak: float | None = None
    max_abs: float | None = None
    mean_abs: float | None = None
    rmse: float | None = None
    cosine: float | None = None
    snr_db: float | None = None
    top1: float | None = None
    worst: tuple[WorstSample, ...] = ()


@dataclass(frozen=True)
class MetricComparison:
    """A task metric of the reference and of the variant on the same samples.

    Attributes:
        name: the metric's name, e.g. "accuracy".
        unit: "share", or the metric's unit; "" for none.
        output: the output that it is computed from.
        higher_is_better: whether more is better.
        reference: the reference's value.
        variant: the variant's value.
        drop: what the variant loses: the difference (metrics that are shares), or the relative increase (errors).
            Negative when the variant is better. None when it cannot be computed.
        relative: whether `drop` is relative to the reference.
        low: lower end of the drop's confidence interval.
        high: upper end of the drop's confidence interval.
        confidence: the interval's confidence.
        max_drop: the limit; None when the metric is only reported.
        verdict: pass when the whole interval is within the limit, fail when all of it is outside, not enough
            samples in between; None when the metric is only reported.
        samples: number of samples.
        samples_needed: roughly how many samples would decide, where there are not enough; None when unknown.
    """

    name: str
    output: str
    higher_is_better: bool
    reference: float | None
    variant: float | None
    drop: float | None
    relative: bool
    low: float | None
    high: float | None
    confidence: float
    samples: int
    unit: str = ""
    max_drop: float | None = None
    verdict: Verdict | None = None
    samples_needed: int | None = None


def decision(item: MetricComparison, limit: str, samples: str) -> str:
    """The end of a sentence about a metric's loss: what its limit says to it.

    Args:
        item: a comparison with a verdict.
        limit: `item.max_drop` as the sentence shows losses.
        samples: what the samples are called.
    """
    if item.verdict is Verdict.PASS:
        return f", within {limit}."
    if item.verdict is Verdict.FAIL:
        return f", more than {limit}."
    needed = f"about {item.samples_needed} would" if item.samples_needed else "more may"
    return f", limit {limit}: {item.samples} {samples} cannot decide, {needed}."


@dataclass(frozen=True)
class ChangedAnswer:
    """A sample (or a time step of one) whose answer differs between reference and variant.

    Attributes:
        index: row in the source data (in the checked inputs when the source has no rows).
        output: the output's name.
        reference: class that the reference answers.
        variant: class that the variant answers.
        target: the true class; None when it is not known.
        step: time step; None when there is one answer a sample.
        reference_label: name of the reference's class; "" without names.
        variant_label: name of the variant's class.
        target_label: name of the true class.
    """

    index: int
    output: str
    reference: int
    variant: int
    target: int | None = None
    step: int | None = None
    reference_label: str = ""
    variant_label: str = ""
    target_label: str = ""


@dataclass(frozen=True)
class ParityReport:
    """Everything that a parity check says about a variant.

    Attributes:
        variant: the variant's name.
        quantization: what the variant says it is.
        task: the task's name; "" when unknown.
        verdict: fail when any check failed; not enough samples when the task metric cannot be decided; else pass.
        message: one line for a table: the first failed check, or what passed.
        samples: number of samples checked.
        checks: every check, in the order in which they were made.
        outputs: differences by output.
        metrics: task metrics; those with a `verdict` are held to a limit.
        changed: answers that changed, at most `CHANGED_SHOWN`.
        changed_count: number of answers that changed in all.
        confusion: rows are true classes, columns the variant's answers, counts; () where there are no classes.
        reference_confusion: the same for the reference.
        labels: class names.
        limits: limits that applied.
        baselines: metrics of the naive and the seasonal forecast on the same samples (forecast only).
        weight_bytes: bytes of weights in the file by element type.
        seconds: how long the check took.
        error: why the variant could not be checked (a crash, an error); "" when it could.
        translation: what came of translations that the variant made by itself; None for other tasks.
    """

    variant: str
    quantization: str
    task: str
    verdict: Verdict
    message: str
    samples: int = 0
    checks: tuple[Check, ...] = ()
    outputs: tuple[OutputParity, ...] = ()
    metrics: tuple[MetricComparison, ...] = ()
    changed: tuple[ChangedAnswer, ...] = ()
    changed_count: int = 0
    confusion: tuple[tuple[int, ...], ...] = ()
    reference_confusion: tuple[tuple[int, ...], ...] = ()
    labels: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    baselines: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    translation: TranslationReport | None = None
    format: int = FORMAT

    @property
    def passed(self) -> bool:
        """Whether every check passed. Too few samples to decide is not a pass."""
        return self.verdict is Verdict.PASS

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return self.verdict is Verdict.FAIL

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ParityReport:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is missing, unknown, or of the wrong type.
        """
        return from_plain(cls, value)


CHANGED_SHOWN = 50


def failed_report(variant: str, quantization: str, task: str, error: str) -> ParityReport:
    """Report of a variant that could not be checked: it crashed, or an error came out of it."""
    check = Check("runs", Verdict.FAIL, error)
    return ParityReport(variant, quantization, task, Verdict.FAIL, error, checks=(check,), error=error)


def overall(checks: tuple[Check, ...]) -> tuple[Verdict, str]:
    """Verdict and one line for a table from single checks."""
    for verdict in (Verdict.FAIL, Verdict.NOT_ENOUGH_SAMPLES):
        for check in checks:
            if check.verdict is verdict:
                return verdict, check.message
    return Verdict.PASS, f"All {len(checks)} checks passed."


def finite(value: float) -> float | None:
    """`value` as a float, None when it is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None
