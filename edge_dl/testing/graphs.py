"""Where in the graph a variant starts to differ from its float32 sibling: both run operator by operator on one sample.

Both models run on this machine's LiteRT without a delegate and with every tensor kept. Operators are matched by their
order, which quantizers keep: the kinds of operators, QUANTIZE and DEQUANTIZE left out, must be the same list. Where
they are not, tensors are matched by name, and where names were stripped too, it cannot be told. A loop (WHILE) counts
as one operator: what is kept of its body is the last turn only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_dl.bundle import MODEL
from edge_dl.checks.graph import Graph, GraphOperator, GraphTensor, Subgraph, read_graph
from edge_dl.errors import EdgeError
from edge_dl.runtime import Session, open_session
from edge_dl.runtime.agent import Spec, dequantize, find_runtime, quantize, to_raw

RUNTIME = "ai_edge_litert"
_EDGES = ("QUANTIZE", "DEQUANTIZE")
Sample = Mapping[str, np.ndarray]
Pair = tuple[int, int, int]


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
        ours, theirs = _Recorder(variant), _Recorder(sibling)
        if ours.session.is_step != theirs.session.is_step:
            raise _Unclear("one of the two takes a whole sequence and the other one time step")
        pairs, by = match(ours.graph, ours.main, theirs.graph, theirs.main)
    except _Unclear as unclear:
        return Start(reason=str(unclear))
    except EdgeError as error:
        return Start(reason=f"{error.rule} {error.received}".strip())
    first = before = steepest = None
    loss = 0.0
    for step, _ in zip(ours.run(sample), theirs.run(sample), strict=True):
        found = _compare(ours, theirs, pairs, step if ours.session.is_step else None)
        place, drop = _steepest(ours.main, found)
        if place is not None and drop > loss:
            steepest, loss = place, drop
        low = next((number for number, item in enumerate(found) if item.snr_db < threshold_db), None)
        if low is not None:
            first, before = found[low], found[low - 1] if low else None
            break
    return Start(
        matched=len({number for number, _, _ in pairs}),
        operators=sum(item.name not in _EDGES for item in ours.main.operators),
        by=by,
        threshold_db=threshold_db,
        first=first,
        before=before,
        steepest=steepest,
        loss_db=loss,
        own=_distance(ours.session, sample, expected),
        sibling=_distance(theirs.session, sample, expected),
    )


def match(ours: Graph, main: Subgraph, theirs: Graph, other: Subgraph) -> tuple[list[Pair], str]:
    """Which outputs of two graphs are the same.

    Returns:
        Pairs (our operator's number, our tensor's number, their tensor's number), and how they were found.

    Raises:
        _Unclear: neither order nor names tell.
    """
    left, right = _computing(main), _computing(other)
    if [operator.name for _, operator in left] == [operator.name for _, operator in right]:
        pairs = [
            (number, mine, yours)
            for (number, operator), (_, partner) in zip(left, right, strict=True)
            for mine, yours in zip(operator.outputs, partner.outputs, strict=False)
            if _same_shape(main.tensors[mine], other.tensors[yours])
        ]
        if pairs:
            return pairs, "by the order of operators"
    named = {other.tensors[index].name: index for _, operator in right for index in operator.outputs if index >= 0}
    pairs = [
        (number, index, named[main.tensors[index].name])
        for number, operator in left
        for index in operator.outputs
        if index >= 0
        and main.tensors[index].name in named
        and main.tensors[index].name
        and _same_shape(main.tensors[index], other.tensors[named[main.tensors[index].name]])
    ]
    if pairs:
        return pairs, "by the names of tensors"
    raise _Unclear(
        f"the float32 variant has other operators ({len(right)}, here {len(left)}), and no tensor has the same name"
    )


class _Unclear(Exception):
    """Why it cannot be told."""


def _computing(graph: Subgraph) -> list[tuple[int, GraphOperator]]:
    return [(number, item) for number, item in enumerate(graph.operators) if item.name not in _EDGES]


def _same_shape(left: GraphTensor, right: GraphTensor) -> bool:
    return len(left.shape) == len(right.shape) and all(
        -1 in (a, b) or a == b for a, b in zip(left.shape, right.shape, strict=True)
    )


class _Recorder:
    """A model that keeps every tensor of its main graph."""

    def __init__(self, path: str) -> None:
        self.session = open_session(path, runtime=RUNTIME, delegate=False)
        file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        self.graph = read_graph(file)
        key = self.session.interpreter.signature
        signature = next((item for item in self.graph.signatures if item.key == key), None)
        if signature is None or signature.subgraph != 0:
            raise _Unclear("the model has no signature in its main graph")
        self.main = self.graph.subgraphs[0]
        self.inputs, self.outputs = signature.inputs, signature.outputs
        module = find_runtime(RUNTIME)[1]
        self.native = module.Interpreter(
            model_path=str(file),
            num_threads=1,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        self.native.allocate_tensors()

    def run(self, sample: Sample) -> Iterator[int]:
        """Run the model on one sample; yields the number of the call after each: one a time step of a `step` model."""
        session = self.session
        raw = {name: to_raw(sample[name], spec)[np.newaxis] for name, spec in session.inputs.items()}
        if session.batch > 1:
            raw = {name: value.repeat(session.batch, 0) for name, value in raw.items()}
        elif not session.batch:
            raw = {name: value[0] for name, value in raw.items()}
        if not session.is_step:
            self._call(raw)
            yield 0
            return
        specs, results = session.interpreter.inputs, session.interpreter.outputs
        states = {item.input: np.full(specs[item.input].shape, specs[item.input].zero_point, specs[item.input].dtype)
                  for item in session.states}  # fmt: skip
        for step in range(raw[session.sequence_inputs[0]].shape[1]):
            fed = {name: value[:, step : step + 1] if name in session.sequence_inputs else value
                   for name, value in raw.items()}  # fmt: skip
            self._call({**fed, **states})
            yield step
            for item in session.states:
                value = self.native.get_tensor(self.outputs[item.output])
                states[item.input] = _carried(value, results[item.output], specs[item.input])

    def _call(self, raw: Mapping[str, np.ndarray]) -> None:
        resized = False
        for name, value in raw.items():
            if -1 in self.main.tensors[self.inputs[name]].shape:
                self.native.resize_tensor_input(self.inputs[name], value.shape)
                resized = True
        if resized:
            self.native.allocate_tensors()
        for name, value in raw.items():
            self.native.set_tensor(self.inputs[name], value)
        self.native.invoke()

    def value(self, index: int) -> np.ndarray | None:
        """A tensor in real numbers, float64; None where the interpreter does not give it."""
        tensor = self.main.tensors[index]
        try:
            stored = self.native.get_tensor(index)
        except (ValueError, RuntimeError):
            return None
        if stored.dtype.kind not in "fiub" or len(tensor.scales) > 1:
            return None
        if len(tensor.scales) == 1 and stored.dtype.kind in "iu":
            return (stored.astype(np.float64) - tensor.zero_points[0]) * tensor.scales[0]
        return stored.astype(np.float64)


def _carried(value: np.ndarray, given: Spec, taken: Spec) -> np.ndarray:
    """A state as the next step takes it."""
    if given[2:] == taken[2:]:
        return value
    real = dequantize(value, given)
    return quantize(real, taken) if taken.scale else real.astype(taken.dtype)


def _compare(ours: _Recorder, theirs: _Recorder, pairs: list[Pair], step: int | None) -> list[OperatorDifference]:
    """Every matched operator's worst output, in the order in which they run."""
    worst: dict[int, OperatorDifference] = {}
    for number, index, partner in pairs:
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
    """Decibels; minus infinity where something that is not finite, or a difference from zero, came in."""
    noise, signal = float(np.sum((have - want) ** 2)), float(np.sum(want * want))
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)


def _largest(have: np.ndarray, want: np.ndarray) -> float:
    return float(np.max(np.abs(have - want)))


def _steepest(graph: Subgraph, found: list[OperatorDifference]) -> tuple[OperatorDifference | None, float]:
    """The operator that loses most decibels against the least accurate operator that feeds it.

    Operators fed with exact values are left out: the first rounding loses most by nature, and harms least.
    """
    accuracy = {item.number: item.snr_db for item in found}
    made_by = {index: number for number, operator in enumerate(graph.operators) for index in operator.outputs}
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
    found = []
    for index in graph.operators[number].inputs:
        while index in made_by and graph.operators[made_by[index]].name in _EDGES:
            index = graph.operators[made_by[index]].inputs[0]
        if index in made_by:
            found.append(made_by[index])
    return found


def _distance(session: Session, sample: Sample, expected: Sample) -> float | None:
    """Largest difference of a model's answer from the expected one; None where they cannot be compared."""
    answer = session.predict({name: sample[name] for name in session.inputs})
    shared = [name for name in expected if name in answer and answer[name].shape == expected[name].shape]
    if not shared:
        return None
    return max(_largest(answer[name].astype(np.float64), expected[name].astype(np.float64)) for name in shared)
