"""What a graph costs: weights by type, multiply-accumulates, loop lengths, working memory.

Nothing here runs the model. A number that the file does not settle (a loop whose length depends on the input) is
counted once and said so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from edge_dl.checks.graph import Graph, GraphOperator, GraphTensor, Subgraph
from edge_dl.errors import UsageError

# Which inputs of an operator are weights, when they are constant.
_LSTM_WEIGHTS = (*range(1, 12), 16)
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "FULLY_CONNECTED": (1,),
    "CONV_2D": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "CONV_3D": (1,),
    "TRANSPOSE_CONV": (1,),
    "BATCH_MATMUL": (0, 1),
    "GATHER": (0,),
    "EMBEDDING_LOOKUP": (1,),
    "SVDF": (1, 2),
    "RNN": (1, 2),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
    "LSTM": _LSTM_WEIGHTS,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _LSTM_WEIGHTS,
    "BIDIRECTIONAL_SEQUENCE_LSTM": (*range(1, 12), *range(18, 29)),
}
# A constant keeps being the same weight behind these.
PASSED_THROUGH = ("DEQUANTIZE", "RESHAPE", "TRANSPOSE", "CAST", "QUANTIZE")
WEIGHT_TYPES = ("float32", "float16", "bfloat16", "float64", "int2", "int4", "uint4", "int8", "uint8", "int16")
# A deeper nesting of loops than this is no model.
DEEPEST = 16
# So many operators, those of a subgraph once a place from which it is called: calls grow by a power with every level.
MOST_OPERATORS = 1_000_000
# TFLite's arena aligns every tensor to so many bytes (kDefaultTensorAlignment).
ALIGNMENT = 64


@dataclass(frozen=True)
class Visit:
    """A subgraph as one call of the model reaches it.

    Attributes:
        subgraph: its number.
        times: how often it runs a call, as far as known.
        known: whether every loop around it has a known length.
        callers: (subgraph, operator) through which it is reached, outermost first.
    """

    subgraph: int
    times: int
    known: bool
    callers: tuple[tuple[int, GraphOperator], ...] = ()


@dataclass(frozen=True)
class Loop:
    """A WHILE operator: the number of its body and how often it runs; None: depends on the input."""

    body: int
    iterations: int | None


@dataclass
class Cost:
    """What `count` found.

    Attributes:
        macs: multiply-accumulates of one call; loops of unknown length counted once.
        macs_complete: whether every loop's length was known.
        loops: every loop.
        weights: constant tensors that are weights, once a buffer.
        arena_bytes: estimate of the working memory for everything computed.
    """

    macs: int = 0
    macs_complete: bool = True
    loops: list[Loop] = field(default_factory=list)
    weights: list[GraphTensor] = field(default_factory=list)
    arena_bytes: int = 0


def count(graph: Graph, start: int = 0) -> Cost:
    """Cost of running subgraph `start` once.

    Raises:
        UsageError: subgraphs call each other in a circle.
    """
    cost = Cost()
    makers = _Makers(graph)
    seen: set[int] = set()
    measured: set[int] = set()
    for visit in visits(graph, start, cost.loops):
        subgraph = graph.subgraphs[visit.subgraph]
        for operator in subgraph.operators:
            macs = _macs(subgraph, operator)
            if macs:
                cost.macs += macs * visit.times
                cost.macs_complete = cost.macs_complete and visit.known
            for position in WEIGHT_INPUTS.get(operator.name, ()):
                if position < len(operator.inputs):
                    tensor = _constant_behind(graph, makers, visit, operator.inputs[position])
                    if tensor is not None and tensor.buffer not in seen and _is_matrix(tensor):
                        seen.add(tensor.buffer)
                        cost.weights.append(tensor)
        if visit.subgraph not in measured:
            measured.add(visit.subgraph)
            cost.arena_bytes += arena_bytes(subgraph)
    return cost


def visits(graph: Graph, start: int, loops: list[Loop] | None = None) -> Iterator[Visit]:
    """Every subgraph that a call of `start` reaches, outermost first, once a place from which it is called."""
    pending = [Visit(start, 1, True)]
    seen = 0
    while pending:
        visit = pending.pop()
        yield visit
        seen += 1 + len(graph.subgraphs[visit.subgraph].operators)
        if len(visit.callers) >= DEEPEST or seen > MOST_OPERATORS:
            raise UsageError(
                "A .tflite file must be whole and keep to its schema.",
                received=f"subgraphs that call each other in a circle, in more than {DEEPEST} levels, or too often",
                todo="Copy the file again, or convert the model again.",
            )
        for operator in graph.subgraphs[visit.subgraph].operators:
            times: int | None = 1
            if operator.name == "WHILE" and len(operator.calls) == 2:
                times = iterations(graph, visit.subgraph, operator)
                if loops is not None:
                    loops.append(Loop(operator.calls[1], times))
            for called in operator.calls:
                pending.append(
                    Visit(
                        called,
                        visit.times * (1 if times is None else times),
                        visit.known and times is not None,
                        (*visit.callers, (visit.subgraph, operator)),
                    )
                )


def iterations(graph: Graph, parent: int, operator: GraphOperator) -> int | None:
    """How often a WHILE's body runs, where the file settles it: counters that start at a constant, grow by a constant
    and are compared with a constant; the shortest of several decides. None: not settled."""
    condition, body = (graph.subgraphs[number] for number in operator.calls)
    made = {number: op for op in condition.operators for number in op.outputs}
    pending = list(condition.outputs)
    seen: set[int] = set()
    found: list[int] = []
    while pending:
        number = pending.pop()
        comparison = made.get(number)
        if comparison is None:
            return None
        if comparison.name == "LOGICAL_AND":
            # A damaged file may let an operator take what it gives.
            pending += [] if number in seen else comparison.inputs
            seen.add(number)
            continue
        if comparison.name not in ("LESS", "LESS_EQUAL") or len(comparison.inputs) != 2:
            return None
        counter, limit = comparison.inputs
        if counter not in condition.inputs:
            return None
        position = condition.inputs.index(counter)
        end = _scalar(graph, condition, limit)
        if end is None and limit in condition.inputs:  # The limit may be handed to the loop, unchanged by it.
            place = condition.inputs.index(limit)
            if _unchanged(body, place):
                end = _scalar(graph, graph.subgraphs[parent], operator.inputs[place])
        begin = _scalar(graph, graph.subgraphs[parent], operator.inputs[position])
        step = _increment(graph, body, position)
        if end is None or begin is None or not step or step < 0:
            return None
        steps = (end - begin) / step
        found.append(max(0, math.ceil(steps) if comparison.name == "LESS" else math.floor(steps) + 1))
    return min(found) if found else None


def arena_bytes(subgraph: Subgraph) -> int:
    """Most bytes of computed tensors that are alive at once, each rounded up to the arena's alignment.

    An estimate from below: the arena's planner may leave gaps, and kernels add scratch tensors of their own.
    """
    last = len(subgraph.operators)
    first_use: dict[int, int] = dict.fromkeys(subgraph.inputs, 0)
    last_use: dict[int, int] = dict.fromkeys(subgraph.inputs, 0)
    for number, operator in enumerate(subgraph.operators):
        for tensor in operator.outputs:
            first_use.setdefault(tensor, number)
            last_use[tensor] = number
        for tensor in operator.inputs:
            last_use[tensor] = number
    for tensor in subgraph.outputs:
        last_use[tensor] = last
    change = [0] * (last + 2)
    persistent = 0
    for number, entry in enumerate(subgraph.tensors):
        size = -(-entry.size // ALIGNMENT) * ALIGNMENT
        if entry.constant:
            continue
        if entry.variable:
            persistent += size
        elif number in first_use:
            change[first_use[number]] += size
            change[last_use[number] + 1] -= size
    alive = most = 0
    for difference in change:
        alive += difference
        most = max(most, alive)
    return most + persistent


def _is_matrix(tensor: GraphTensor) -> bool:
    """Weights are matrices of numbers; biases and tables of one row stay out."""
    return tensor.dtype in WEIGHT_TYPES and sum(size > 1 for size in tensor.shape) >= 1 and len(tensor.shape) >= 2


class _Makers:
    """Per subgraph, the operator that gives a tensor."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._found: dict[int, dict[int, GraphOperator]] = {}

    def __call__(self, subgraph: int, tensor: int) -> GraphOperator | None:
        if subgraph not in self._found:
            # The first one that gives it, where a damaged file names several.
            operators = reversed(self._graph.subgraphs[subgraph].operators)
            self._found[subgraph] = {number: op for op in operators for number in op.outputs}
        return self._found[subgraph].get(tensor)


def _constant_behind(graph: Graph, makers: _Makers, visit: Visit, number: int) -> GraphTensor | None:
    """The constant that a tensor holds, looked for through conversions and out of loops."""
    callers = list(visit.callers)
    where = visit.subgraph
    subgraph = graph.subgraphs[where]
    for _ in range(64):
        if number < 0:
            return None
        tensor = subgraph.tensors[number]
        if tensor.constant:
            return tensor
        maker = makers(where, number)
        if maker is not None:
            if maker.name not in PASSED_THROUGH or not maker.inputs:
                return None
            number = maker.inputs[0]
        elif number in subgraph.inputs and callers:
            place = subgraph.inputs.index(number)
            parent, caller = callers.pop()
            # An IF's first input is its condition.
            place += 1 if caller.name == "IF" else 0
            if place >= len(caller.inputs) or (caller.name == "WHILE" and not _unchanged(subgraph, place)):
                return None
            where, subgraph, number = parent, graph.subgraphs[parent], caller.inputs[place]
        else:
            return None
    return None


def _unchanged(body: Subgraph, place: int) -> bool:
    """Whether a loop hands its value number `place` on as it came."""
    return place < len(body.outputs) and place < len(body.inputs) and body.outputs[place] == body.inputs[place]


def _scalar(graph: Graph, subgraph: Subgraph, number: int) -> int | None:
    """Value of a constant whole number."""
    if number < 0:
        return None
    values = graph.constant(subgraph.tensors[number])
    if values is None or values.size != 1 or values.dtype.kind not in "iu":
        return None
    return int(values.reshape(-1)[0])


def _increment(graph: Graph, body: Subgraph, place: int) -> int | None:
    """What a loop adds to its value number `place` each time."""
    if place >= len(body.outputs) or place >= len(body.inputs):
        return None
    maker = next((op for op in body.operators if body.outputs[place] in op.outputs), None)
    if maker is None or maker.name != "ADD" or len(maker.inputs) != 2 or body.inputs[place] not in maker.inputs:
        return None
    other = maker.inputs[1] if maker.inputs[0] == body.inputs[place] else maker.inputs[0]
    return _scalar(graph, body, other)


def _shape(subgraph: Subgraph, numbers: tuple[int, ...], position: int) -> tuple[int, ...]:
    if position >= len(numbers) or numbers[position] < 0:
        return ()
    return tuple(max(1, size) for size in subgraph.tensors[numbers[position]].shape)


def _macs(subgraph: Subgraph, operator: GraphOperator) -> int:
    """Multiply-accumulates of one run of an operator; a free axis counts as one."""
    name = operator.name
    if name not in WEIGHT_INPUTS or name in ("GATHER", "EMBEDDING_LOOKUP"):
        return 0
    weights = _shape(subgraph, operator.inputs, 1)
    output = math.prod(_shape(subgraph, operator.outputs, 0) or (0,))
    if name == "FULLY_CONNECTED":
        return output * weights[-1] if weights else 0
    if name in ("CONV_2D", "CONV_3D"):
        return output * math.prod(weights[1:] if name == "CONV_2D" else weights[:-1])
    if name == "DEPTHWISE_CONV_2D":
        return output * math.prod(weights[1:3])
    if name == "TRANSPOSE_CONV":
        return math.prod(_shape(subgraph, operator.inputs, 2)) * math.prod(weights[:3])
    left = _shape(subgraph, operator.inputs, 0)
    if name == "BATCH_MATMUL":
        if len(left) < 2:
            return 0
        return output * (left[-2] if operator.options.get("transpose_left") else left[-1])
    # Recurrent operators: every weight meets every step of every sample once.
    steps = math.prod(left[:-1]) if left else 0
    matrices = [_shape(subgraph, operator.inputs, position) for position in WEIGHT_INPUTS[name]]
    return steps * sum(math.prod(shape) for shape in matrices if len(shape) >= 2)
