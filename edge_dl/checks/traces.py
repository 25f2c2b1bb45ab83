"""A model that keeps what its operators compute, and which operators of two models are the same.

Both sides of a comparison run on this machine's LiteRT without a delegate, on one sample after the other. A loop
(WHILE) counts as one operator: what is kept of its body is the last turn only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_dl.bundle import MODEL
from edge_dl.checks.graph import GraphOperator, GraphTensor, Subgraph, read_graph
from edge_dl.errors import UsageError
from edge_dl.runtime import open_session

RUNTIME = "ai_edge_litert"
EDGES = ("QUANTIZE", "DEQUANTIZE")
"""Operators that only change how numbers are stored."""
Sample = Mapping[str, np.ndarray]
"""By input name, one sample without a batch axis."""


class Pair(NamedTuple):
    """An output that two models share: numbers of operator and tensor in the one and in the other."""

    operator: int
    tensor: int
    other_operator: int
    other_tensor: int


class Trace:
    """A model that keeps every tensor of its main graph.

    Attributes:
        session: runs it.
        graph, main: its file and the file's main subgraph.
        inputs, outputs: numbers of the signature's tensors by name, states among them.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bundle's folder or a .tflite.

        Raises:
            UsageError: no such file, a damaged one, or no signature in the main graph.
            StageError: LiteRT cannot load it.
        """
        self.session = open_session(path, runtime=RUNTIME, delegate=False, keep_tensors=True)
        self.file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        self.graph = read_graph(self.file)
        key = self.session.interpreter.signature
        signature = next((item for item in self.graph.signatures if item.key == key), None)
        if signature is None or signature.subgraph != 0:
            raise UsageError(
                "Operators can be followed in a model with a signature in its main graph.",
                received=f"{path}, the model has no signature in its main graph",
            )
        self.main = self.graph.subgraphs[0]
        self.inputs, self.outputs = signature.inputs, signature.outputs

    @property
    def takes(self) -> str:
        """What a call takes: models are compared where it is the same."""
        if self.session.stream:
            return "a packet of a stream"
        return "one time step" if self.session.is_step else "a whole sample"

    def calls(self, sample: Sample) -> Iterator[int]:
        """Run the model on one sample; yields the number of the call after each: one a time step or packet."""
        session = self.session
        fed = {name: sample[name] for name in session.inputs}
        if session.stream:
            yield from self._packets(fed[session.stream["input"]])
            return
        if not session.is_step:
            session.predict(fed)
            yield 0
            return
        session.reset()
        if session.has_encoder:
            session.encode({name: fed.pop(name) for name in list(fed) if name not in session.sequence_inputs})
        for step in range(len(fed[session.sequence_inputs[0]])):
            now = {name: value[step] if name in session.sequence_inputs else value for name, value in fed.items()}
            if session.batch > 1:
                now = {name: np.repeat(value[np.newaxis], session.batch, 0) for name, value in now.items()}
            session.step(now)
            yield step

    def _packets(self, clip: np.ndarray) -> Iterator[int]:
        session = self.session
        assert session.stream is not None
        packet, lead = session.stream["packet"], session.stream["lead"]
        rest = [(0, 0)] * (clip.ndim - 1)
        count = session.clip_calls
        padded = np.pad(clip, [(lead, max(0, count * packet - lead - len(clip))), *rest])
        session.reset()
        for number in range(count):
            now = padded[number * packet : (number + 1) * packet]
            session.packet(np.repeat(now[np.newaxis], session.batch, 0) if session.batch > 1 else now)
            yield number

    def stored(self, index: int) -> np.ndarray | None:
        """A tensor as the last call left it; None where the interpreter does not give it."""
        if self.main.tensors[index].dtype == "resource":
            return None  # LiteRT ends the process when it is asked for a variable's handle.
        try:
            return self.session.interpreter.get_tensor(index)
        except (ValueError, RuntimeError):
            return None

    def value(self, index: int) -> np.ndarray | None:
        """A tensor in real numbers, float64; None where the interpreter does not give it, or for other types."""
        tensor = self.main.tensors[index]
        stored = self.stored(index)
        if stored is None or stored.dtype.kind not in "fiub" or len(tensor.scales) > 1:
            return None
        if len(tensor.scales) == 1 and stored.dtype.kind in "iu":
            return (stored.astype(np.float64) - tensor.zero_points[0]) * tensor.scales[0]
        return stored.astype(np.float64)


def match(ours: Trace, theirs: Trace) -> tuple[list[Pair], str]:
    """Which outputs of two models' operators are the same.

    Operators are matched by their order, which quantizers keep: the kinds of operators, QUANTIZE and DEQUANTIZE left
    out, must be the same list. Where they are not, tensors are matched by name.

    Returns:
        The pairs in the order in which our operators run, and how they were found.

    Raises:
        UsageError: neither order nor names tell.
    """
    main, other = ours.main, theirs.main
    left, right = computing(main), computing(other)
    if [operator.name for _, operator in left] == [operator.name for _, operator in right]:
        pairs = [
            Pair(number, mine, place, yours)
            for (number, operator), (place, partner) in zip(left, right, strict=True)
            for mine, yours in zip(operator.outputs, partner.outputs, strict=False)
            if _same_shape(main.tensors[mine], other.tensors[yours])
        ]
        if pairs:
            return pairs, "by the order of operators"
    named = {
        other.tensors[index].name: (place, index)
        for place, operator in right
        for index in operator.outputs
        if index >= 0 and other.tensors[index].name
    }
    pairs = [
        Pair(number, index, *named[main.tensors[index].name])
        for number, operator in left
        for index in operator.outputs
        if index >= 0
        and main.tensors[index].name in named
        and _same_shape(main.tensors[index], other.tensors[named[main.tensors[index].name][1]])
    ]
    if pairs:
        return pairs, "by the names of tensors"
    raise UsageError(
        "Operators of two models are matched by their order or by the names of tensors.",
        received=f"the float32 variant has other operators ({len(right)}, here {len(left)}), and no tensor has the "
        "same name",
    )


def computing(graph: Subgraph) -> list[tuple[int, GraphOperator]]:
    """Operators with their numbers, QUANTIZE and DEQUANTIZE left out."""
    return [(number, item) for number, item in enumerate(graph.operators) if item.name not in EDGES]


def behind_edges(graph: Subgraph, index: int, made_by: Mapping[int, int]) -> int:
    """The tensor that `index` is another form of, looking through QUANTIZE and DEQUANTIZE.

    Args:
        graph: the subgraph.
        index: number of a tensor.
        made_by: `producers(graph)`.
    """
    while index in made_by and graph.operators[made_by[index]].name in EDGES:
        index = graph.operators[made_by[index]].inputs[0]
    return index


def producers(graph: Subgraph) -> dict[int, int]:
    """By number of a tensor, the number of the operator that gives it."""
    return {index: number for number, operator in enumerate(graph.operators) for index in operator.outputs}


def decibels(signal: float, noise: float) -> float:
    """Signal-to-noise ratio of two powers; infinite without noise, minus infinity where noise is not finite or there
    is no signal."""
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)


def _same_shape(left: GraphTensor, right: GraphTensor) -> bool:
    return len(left.shape) == len(right.shape) and all(
        -1 in (a, b) or a == b for a, b in zip(left.shape, right.shape, strict=True)
    )
