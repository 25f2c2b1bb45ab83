"""Probabilities of a decoder and weights of an attention: what leads to a softmax stays in float32.

A mask takes a billion from the score of a padded position, and an int8 scale over that makes all other scores equal. A
vocabulary's probabilities in steps of 1/256 make ties, between which no search can tell. So the softmax and what is
added to its scores keep floats, and the layer that gives a vocabulary's scores has int8 weights and float answers: also
where the scores themselves are what a model answers, without a softmax.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.converters.repairs import drop_unused_tensors
from edge_dl.converters.tensors import ELEMENTWISE, is_constant, operator_name, text_of, type_name

_PASSING = (*ELEMENTWISE, "RESHAPE", "EXPAND_DIMS", "SQUEEZE", "CAST", "LOGICAL_NOT", "BROADCAST_TO", "CONCATENATION")
_SOFTMAX = ("SOFTMAX", "LOG_SOFTMAX")
_SHAPING = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
# No score of an attention is so large: a constant that is can only be a mask's.
_MASK = 5e3


@dataclass(frozen=True)
class Scores:
    """Numbers of operators of the main graph.

    Attributes:
        floating: softmaxes, what is done to their scores before, and what gives their answers another shape behind.
        logits: FULLY_CONNECTED operators whose results nothing but the model's last softmax reads, or that are answers.
    """

    floating: tuple[int, ...] = ()
    logits: tuple[int, ...] = ()


def find_scores(model: Any, answers: Collection[str] = ()) -> Scores:
    """The softmaxes of a `ModelT`'s main graph and what leads to them.

    Args:
        model: the model.
        answers: names of outputs that keep their floats where a FULLY_CONNECTED makes them, which are a step's answers;
            what is handed on (states, what an encoder gives) is none.
    """
    graph = model.subgraphs[0]
    names = [operator_name(model, operator.opcodeIndex) for operator in graph.operators]
    maker = {int(index): number for number, item in enumerate(graph.operators) for index in item.outputs}
    readers: dict[int, list[int]] = {}
    for number, item in enumerate(graph.operators):
        for index in map(int, item.inputs):
            readers.setdefault(index, []).append(number)
    floating: set[int] = set()
    logits: set[int] = set()
    for softmax in (number for number, name in enumerate(names) if name in _SOFTMAX):
        behind = _behind(graph, names, readers, softmax)
        last = all(reader in behind for number in behind for reader in _read_by(graph, readers, number))
        floating |= behind
        pending = [softmax]
        while pending:
            for index in map(int, graph.operators[pending.pop()].inputs):
                source = maker.get(index)
                if source is None or source in floating:
                    continue
                if names[source] in _PASSING:
                    floating.add(source)
                    pending.append(source)
                elif last and names[source] == "FULLY_CONNECTED" and _has_weights(model, graph, source):
                    logits.add(source)
    for index in _tensors_of(model, answers):
        behind = set()
        while (source := maker.get(index)) is not None and names[source] in _SHAPING:
            behind.add(source)
            index = int(graph.operators[source].inputs[0])
        if source is None or names[source] != "FULLY_CONNECTED" or not _has_weights(model, graph, source):
            continue
        if all(reader in behind for number in (source, *behind) for reader in _read_by(graph, readers, number)):
            floating |= behind
            logits.add(source)
    return Scores(tuple(sorted(floating)), tuple(sorted(logits)))


def find_masked_scores(model: Any) -> tuple[int, ...]:
    """Numbers of the operators of the main graph that mask an attention's scores, with the softmax behind them."""
    graph = model.subgraphs[0]
    names = [operator_name(model, operator.opcodeIndex) for operator in graph.operators]
    maker = {int(index): number for number, item in enumerate(graph.operators) for index in item.outputs}
    found: set[int] = set()
    for softmax in (number for number, name in enumerate(names) if name in _SOFTMAX):
        before, pending = {softmax}, [softmax]
        while pending:
            for index in map(int, graph.operators[pending.pop()].inputs):
                source = maker.get(index)
                if source is not None and source not in before and names[source] in _PASSING:
                    before.add(source)
                    pending.append(source)
        if any(_masks(model, graph, number) for number in before):
            found |= before
    return tuple(sorted(found))


def _masks(model: Any, graph: Any, number: int) -> bool:
    """Whether an operator reads a constant that is too large for anything but a mask."""
    for index in map(int, graph.operators[number].inputs):
        tensor = graph.tensors[index] if index >= 0 else None
        if tensor is not None and type_name(tensor.type) == "float32" and is_constant(model, tensor):
            values = np.frombuffer(np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes(), np.float32)
            if np.abs(values).max(initial=0.0) >= _MASK:
                return True
    return False


def give_floats(model: Any) -> int:
    """Let outputs that are made of floats by a QUANTIZE at the model's edge stay floats; returns how many were changed.

    Args:
        model: a `ModelT` with integers at its edge; changed in place.
    """
    graph = model.subgraphs[0]
    maker = {int(index): item for item in graph.operators for index in item.outputs}
    moved = {}
    for index in map(int, graph.outputs):
        made = maker.get(index)
        if made is not None and operator_name(model, made.opcodeIndex) == "QUANTIZE":
            source = int(made.inputs[0])
            if type_name(graph.tensors[source].type) == "float32":
                moved[index] = source
    graph.outputs = np.array([moved.get(int(index), int(index)) for index in graph.outputs], np.int32)
    for definition in model.signatureDefs or []:
        for entry in definition.outputs:
            entry.tensorIndex = moved.get(int(entry.tensorIndex), int(entry.tensorIndex))
    read = {int(index) for item in graph.operators for index in item.inputs} | {*map(int, graph.outputs)}
    graph.operators = [one for one in graph.operators if not moved.keys() - read >= set(map(int, one.outputs))]
    drop_unused_tensors(model)
    return len(moved)


def find_tables(model: Any) -> list[int]:
    """Numbers of the GATHER operators of the main graph that read a constant table, such as an embedding's."""
    graph = model.subgraphs[0]
    return [
        number
        for number, item in enumerate(graph.operators)
        if operator_name(model, item.opcodeIndex) == "GATHER" and is_constant(model, graph.tensors[int(item.inputs[0])])
    ]


def _tensors_of(model: Any, outputs: Collection[str]) -> list[int]:
    """The main graph's tensors that a signature gives as these outputs."""
    return [
        int(entry.tensorIndex)
        for definition in model.signatureDefs or []
        if definition.subgraphIndex == 0
        for entry in definition.outputs
        if text_of(entry.name) in outputs
    ]


def _behind(graph: Any, names: list[str], readers: dict[int, list[int]], softmax: int) -> set[int]:
    """A softmax and the operators that only give its answer another shape."""
    found, pending = {softmax}, [softmax]
    while pending:
        for reader in _read_by(graph, readers, pending.pop()):
            if names[reader] in _SHAPING and reader not in found:
                found.add(reader)
                pending.append(reader)
    return found


def _read_by(graph: Any, readers: dict[int, list[int]], number: int) -> list[int]:
    return [reader for index in graph.operators[number].outputs for reader in readers.get(int(index), [])]


def _has_weights(model: Any, graph: Any, number: int) -> bool:
    return is_constant(model, graph.tensors[int(graph.operators[number].inputs[1])])
