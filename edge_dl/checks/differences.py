"""How far one set of outputs is from another: errors, cosine, SNR, top-1 agreement, the answers that changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_dl.checks.metrics import answers
from edge_dl.checks.verdicts import ChangedAnswer, OutputParity, WorstSample

WORST_SHOWN = 10
# Elements worked on at once in float64: bounds memory for outputs of many gigabytes.
CHUNK = 1 << 20


def compare_output(
    name: str,
    reference: np.ndarray,
    variant: np.ndarray,
    *,
    index: np.ndarray,
    agreed: np.ndarray | None = None,
    counted: np.ndarray | None = None,
) -> OutputParity:
    """Differences of one output over all samples, computed in float64. Both sides must be finite.

    Args:
        name: the output's name.
        reference: shape (samples, ...).
        variant: the same shape.
        index: the samples' rows in the source, (samples,).
        agreed: what `agreement` gave; None where there are no classes.
        counted: which answers count, `agreed`'s shape; None: all.
    """
    samples = len(reference)
    size = reference[0].size
    step = max(1, CHUNK // max(1, size))
    peak = largest = absolute = squared = signal = energy = dot = 0.0
    worst = np.zeros(samples)
    for start in range(0, samples, step):
        want = reference[start : start + step].reshape(-1, size).astype(np.float64)
        have = variant[start : start + step].reshape(-1, size).astype(np.float64)
        delta = have - want
        distance = np.abs(delta)
        if size:
            worst[start : start + step] = distance.max(axis=1)
            peak = max(peak, float(np.abs(want).max()))
        absolute += float(distance.sum())
        squared += float(np.vdot(delta, delta))
        signal += float(np.vdot(want, want))
        energy += float(np.vdot(have, have))
        dot += float(np.vdot(want, have))
    largest = float(worst.max()) if samples else 0.0
    count = max(1, samples * size)
    norms = math.sqrt(signal) * math.sqrt(energy)
    # Two outputs that are all zero agree; one that is all zero has no direction to compare.
    cosine = max(-1.0, min(1.0, dot / norms)) if norms > 0 else (1.0 if signal == energy else None)
    top1 = None
    if agreed is not None:
        total = agreed.size if counted is None else int(counted.sum())
        hits = int(agreed.sum() if counted is None else (agreed & counted).sum())
        top1 = hits / total if total else None
    order = np.argsort(-worst, kind="stable")[:WORST_SHOWN]
    return OutputParity(
        name=name,
        shape=tuple(int(length) for length in reference.shape[1:]),
        samples=samples,
        peak=peak,
        max_abs=largest,
        mean_abs=absolute / count,
        rmse=math.sqrt(squared / count),
        cosine=cosine,
        snr_db=10 * math.log10(signal / squared) if squared > 0 and signal > 0 else None,
        top1=top1,
        worst=tuple(WorstSample(int(index[row]), float(worst[row])) for row in order if worst[row] > 0),
    )


def agreement(reference: np.ndarray, variant: np.ndarray, probabilities: bool = True) -> np.ndarray:
    """Whether each answer is the same, shape (samples, ...) without the class axis.

    An answer is the same when the reference's class is among the variant's highest: coarse numbers (int8 steps of
    1/256) make ties, and which of two equal values comes first says nothing about the model.
    """
    if reference.shape[-1] == 1:
        return answers(reference, probabilities) == answers(variant, probabilities)
    chosen = reference.argmax(axis=-1)
    return np.take_along_axis(variant, chosen[..., None], axis=-1)[..., 0] >= variant.max(axis=-1)


def changed_answers(
    name: str,
    reference: np.ndarray,
    variant: np.ndarray,
    agreed: np.ndarray,
    *,
    probabilities: bool,
    index: np.ndarray,
    target: np.ndarray | None = None,
    counted: np.ndarray | None = None,
    labels: Sequence[str] = (),
    shown: int = 50,
) -> tuple[int, tuple[ChangedAnswer, ...]]:
    """Number of answers that changed, and the first `shown` of them: lost ones (right before) first.

    Args:
        name: the output's name.
        reference: shape (samples, .., classes).
        variant: the same shape.
        agreed: what `agreement` gave.
        probabilities: whether a single column is a probability (otherwise a logit).
        index: the samples' rows in the source.
        target: true classes, `agreed`'s shape.
        counted: which answers count, `agreed`'s shape; None: all.
        labels: class names.
        shown: how many to give in full.
    """
    changed = ~agreed if counted is None else ~agreed & counted
    places = np.argwhere(changed)
    if len(places) == 0:
        return 0, ()
    rows = tuple(places.T)
    before, after = answers(reference[rows], probabilities), answers(variant[rows], probabilities)
    truth = None if target is None else target[rows]
    order = np.arange(len(places)) if truth is None else np.argsort(before != truth, kind="stable")

    def label(number: int | None) -> str:
        return labels[number] if number is not None and number < len(labels) else ""

    found = []
    for place in order[:shown]:
        true_class = None if truth is None else int(truth[place])
        found.append(
            ChangedAnswer(
                index=int(index[places[place][0]]),
                output=name,
                reference=int(before[place]),
                variant=int(after[place]),
                target=true_class,
                step=int(places[place][1]) if places.shape[1] > 1 else None,
                reference_label=label(int(before[place])),
                variant_label=label(int(after[place])),
                target_label=label(true_class),
            )
        )
    return len(places), tuple(found)
