"""A task metric of two models on the same samples, with a paired interval of the difference and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edge_dl.checks.metrics import Accuracy, Metric, Target, WordErrorRate, answers
from edge_dl.checks.statistics import Interval, paired_bootstrap, paired_share_interval
from edge_dl.checks.verdicts import MetricComparison, Verdict, finite

# Equivalence tests at the 5 % level use a 90 % interval: each end is wrong once in twenty (Schuirmann, J.
# Pharmacokinetics and Biopharmaceutics 15 (1987) 657-680).
DEFAULT_CONFIDENCE = 0.90
# Fewer samples than this show nothing about a continuous metric, however close they lie.
FEWEST_SAMPLES = 20


def compare_metric(
    metric: Metric,
    output: str,
    reference: np.ndarray,
    variant: np.ndarray,
    target: Target,
    *,
    max_drop: float | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> MetricComparison:
    """Compare a metric of two outputs on the same samples.

    Args:
        metric: the metric.
        output: the output's name.
        reference: the reference's output, (samples, ...).
        variant: the variant's output, the same shape.
        target: true answers.
        max_drop: the largest loss that passes; None: no verdict.
        confidence: of the interval.
        seed: seeds the bootstrap.
    """
    before, after = metric.rows(reference, target), metric.rows(variant, target)
    first, second = before.sum(axis=0), after.sum(axis=0)
    samples = len(before)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        drop = float(metric.drop(first, second))
        interval, project = _interval(metric, before, after, reference, variant, target, confidence, seed)
        values = float(metric.value(first)), float(metric.value(second))
    verdict, needed = (None, None) if max_drop is None else decide(drop, interval, max_drop, samples, project)
    return MetricComparison(
        name=metric.name,
        unit=metric.unit,
        output=output,
        higher_is_better=metric.higher_is_better,
        reference=finite(values[0]),
        variant=finite(values[1]),
        drop=finite(drop),
        relative=metric.relative,
        low=finite(interval.low),
        high=finite(interval.high),
        confidence=confidence,
        max_drop=max_drop,
        verdict=verdict,
        samples=samples,
        samples_needed=needed,
    )


def decide(
    drop: float,
    interval: Interval,
    max_drop: float,
    samples: int,
    project: Callable[[float], Interval] | None = None,
) -> tuple[Verdict, int | None]:
    """Verdict of a loss, and roughly how many samples would decide it where there are not enough.

    Args:
        drop: the measured loss.
        interval: its interval.
        max_drop: the largest loss that passes.
        samples: number of samples.
        project: the interval that so many times as many samples like these would give; None: its half width shrinks
            with the root of the number of samples.
    """
    if not math.isfinite(drop) or interval.low > max_drop:
        return Verdict.FAIL, None
    if interval.high <= max_drop and samples >= FEWEST_SAMPLES:
        return Verdict.PASS, None

    def shrunk(factor: float) -> Interval:
        root = math.sqrt(factor)
        return Interval(drop - (drop - interval.low) / root, drop + (interval.high - drop) / root, interval.confidence)

    factor = 1.0
    while factor < 1e6:
        factor *= 1.1
        later = (project or shrunk)(factor)
        if later.high <= max_drop or later.low > max_drop:
            return Verdict.NOT_ENOUGH_SAMPLES, max(FEWEST_SAMPLES, samples + 1, math.ceil(samples * factor))
    return Verdict.NOT_ENOUGH_SAMPLES, None


def _interval(
    metric: Metric,
    before: np.ndarray,
    after: np.ndarray,
    reference: np.ndarray,
    variant: np.ndarray,
    target: Target,
    confidence: float,
    seed: int,
) -> tuple[Interval, Callable[[float], Interval] | None]:
    if isinstance(metric, WordErrorRate):
        # As for accuracy below, with each word in the place of an answer.
        more, words = after[:, 0] - before[:, 0], round(before[:, 1].sum())
        share = paired_share_interval(more[more > 0].sum(), -more[more < 0].sum(), words, confidence)
        drawn = paired_bootstrap(before, after, metric.drop, confidence=confidence, seed=seed)
        return Interval(min(share.low, drawn.low), max(share.high, drawn.high), confidence), None
    if not isinstance(metric, Accuracy):
        return paired_bootstrap(before, after, metric.drop, confidence=confidence, seed=seed), None
    right = answers(reference, target.probabilities) == target.values
    still = answers(variant, target.probabilities) == target.values
    counts = np.ones(right.shape, bool) if target.weight is None else target.weight > 0
    lost, gained = int((right & ~still & counts).sum()), int((~right & still & counts).sum())
    total = int(counts.sum())

    def exact(factor: float) -> Interval:
        return paired_share_interval(lost * factor, gained * factor, round(total * factor), confidence)

    if right.ndim == 1 and target.weight is None:
        return exact(1.0), exact
    # Time steps of one sequence err together: the bootstrap draws whole sequences. Where nothing changed it knows no
    # doubt at all, so the interval over answers is kept where it is wider.
    drawn = paired_bootstrap(before, after, metric.drop, confidence=confidence, seed=seed)
    return Interval(min(exact(1.0).low, drawn.low), max(exact(1.0).high, drawn.high), confidence), None
