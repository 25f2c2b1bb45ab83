"""Where in the graph a variant starts to differ from its float32 sibling: both run operator by operator on one sample.

How operators are followed and matched: `edge_dl.checks.traces`. Where they cannot be matched, it cannot be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_dl.checks.graph import Subgraph
from edge_dl.checks.traces import Pair, Sample, Trace, behind_edges, computing, decibels, match, producers
from edge_dl.errors import EdgeError
from edge_dl.runtime import Session


@dataclass(frozen=True)
class OperatorDifference:
    """How far one operator's output is from the sibling's, on one sample.

    Attributes:
        number: the operator's place in the variant's graph.
        kind: what it computes, e.g. "FULLY_CONNECTED".
        tensor: name of its output, as far as the file or the sibling's file tells.
        snr_db: power of the sibling's values over power of the difference, decibels; infinite without a difference.
        max_abs: largest absolute difference.
        step: time step of a `step` model; None for others.
    """

    number: int
    kind: str
    tensor: str
    snr_db: float
    max_abs: float
    step: int | None = None


@dataclass(frozen=True)
class Start:
    """Where a variant starts to differ.

    Attributes:
        reason: why it cannot be told; "" when it can.
        matched, operators: how many of the variant's operators were compared.
        by: how they were matched.
        threshold_db: what counts as different.
        first: the first operator below the threshold; None when there is none.
        before: the last compared operator before `first`.
        steepest: the operator that loses most against the least accurate of its inputs.
        loss_db: how much it loses.
        own: the variant's largest difference from the expected answer, computed on this machine.
        sibling: the sibling's.
    """

    reason: str = ""
    matched: int = 0
    operators: int = 0
    by: str = ""
    threshold_db: float = 0.0
    first: OperatorDifference | None = None
    before: OperatorDifference | None = None
    steepest: OperatorDifference | None = None
    loss_db: float = 0.0
    own: float | None = None
    sibling: float | None = None


def find_start(variant: str, sibling: str, sample: Sample, expected: Sample, threshold_db: float) -> Start:
    """Run both models on one sample and compare operator by operator. Called in a child process: models may crash.

    Args:
        variant: a bundle's folder.
        sibling: the float32 variant: a bundle's folder or a .tflite.
        sample: by input name, one sample without a batch axis.
        expected: the reference's answer by output name, likewise.
        threshold_db: signal-to-noise ratio below which an operator counts as different.
    """
    try:
        ours, theirs = Trace(variant), Trace(sibling)
        if ours.takes != theirs.takes:
            return Start(reason=f"one of the two takes {ours.takes} and the other {theirs.takes}")
    except EdgeError as error:
        return Start(reason=f"{error.rule} {error.received}".strip())
    try:
        pairs, by = match(ours, theirs)
    except EdgeError as error:
        return Start(reason=error.received)
    first = before = steepest = None
    loss = 0.0
    for step, _ in zip(ours.calls(sample), theirs.calls(sample), strict=True):
        found = _compare(ours, theirs, pairs, step if ours.session.is_step else None)
        place, drop = _steepest(ours.main, found)
        if place is not None and drop > loss:
            steepest, loss = place, drop
        low = next((number for number, item in enumerate(found) if item.snr_db < threshold_db), None)
        if low is not None:
            first, before = found[low], found[low - 1] if low else None
            break
    return Start(
        matched=len({pair.operator for pair in pairs}),
        operators=len(computing(ours.main)),
        by=by,
        threshold_db=threshold_db,
        first=first,
        before=before,
        steepest=steepest,
        loss_db=loss,
        own=_distance(ours.session, sample, expected),
        sibling=_distance(theirs.session, sample, expected),
    )


def _compare(ours: Trace, theirs: Trace, pairs: list[Pair], step: int | None) -> list[OperatorDifference]:
    """Every matched operator's worst output, in the order in which they run."""
    worst: dict[int, OperatorDifference] = {}
    for number, index, _, partner in pairs:
        have, want = ours.value(index), theirs.value(partner)
        if have is None or want is None or have.shape != want.shape or not have.size:
            continue
        operator = ours.main.operators[number]
        name = ours.main.tensors[index].name or theirs.main.tensors[partner].name
        found = OperatorDifference(number, operator.name, name, _snr(have, want), _largest(have, want), step)
        if number not in worst or found.snr_db < worst[number].snr_db:
            worst[number] = found
    return list(worst.values())


def _snr(have: np.ndarray, want: np.ndarray) -> float:
    return decibels(float(np.sum(want * want)), float(np.sum((have - want) ** 2)))


def _largest(have: np.ndarray, want: np.ndarray) -> float:
    return float(np.max(np.abs(have - want)))


def _steepest(graph: Subgraph, found: list[OperatorDifference]) -> tuple[OperatorDifference | None, float]:
    """The operator that loses most decibels against the least accurate operator that feeds it.

    Operators fed with exact values are left out: the first rounding loses most by nature, and harms least.
    """
    accuracy = {item.number: item.snr_db for item in found}
    made_by = producers(graph)
    place, most = None, 0.0
    for item in found:
        sources = _feeding(graph, item.number, made_by)
        before = min((accuracy[number] for number in sources if number in accuracy), default=math.inf)
        loss = before - max(item.snr_db, -_EXACT)
        if before < _EXACT and loss > most:
            place, most = item, loss
    return place, most


_EXACT = 150.0
"""Decibels that stand for no difference: what float32 can tell apart (24 bits are 144 dB)."""


def _feeding(graph: Subgraph, number: int, made_by: Mapping[int, int]) -> list[int]:
    """Numbers of the operators whose outputs an operator takes, looking through QUANTIZE and DEQUANTIZE."""
    sources = (behind_edges(graph, index, made_by) for index in graph.operators[number].inputs)
    return [made_by[index] for index in sources if index in made_by]


def _distance(session: Session, sample: Sample, expected: Sample) -> float | None:
    """Largest difference of a model's answer from the expected one; None where they cannot be compared."""
    answer = session.predict({name: sample[name] for name in session.inputs})
    shared = [name for name in expected if name in answer and answer[name].shape == expected[name].shape]
    if not shared:
        return None
    return max(_largest(answer[name].astype(np.float64), expected[name].astype(np.float64)) for name in shared)
