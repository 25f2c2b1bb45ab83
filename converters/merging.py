"""Several .tflite files of one signature each as one file, and one file of several signatures as several.

Each signature is converted and quantized by itself, since the tools know one at a time, and then put beside the others.
Constants with equal content are stored once: a decoder's step and its step for several hypotheses have equal weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_dl.converters import packing, repairs, tensors
from edge_dl.errors import UsageError


def merge(models: Sequence[Any]) -> Any:
    """One `ModelT` with the subgraphs and signatures of all; the first one's main graph stays the main graph.

    Args:
        models: `ModelT`s with different signature keys; the first one is changed, parts of the others are used.
    """
    first, *others = models
    first.signatureDefs = list(first.signatureDefs or [])
    versions = [tensors.min_runtime_version(model) for model in models]
    for model in others:
        subgraphs, buffers, codes = len(first.subgraphs), len(first.buffers), len(first.operatorCodes)
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer = int(tensor.buffer) + buffers if int(tensor.buffer) else 0
            for operator in graph.operators:
                operator.opcodeIndex = int(operator.opcodeIndex) + codes
                for options, name, number in _called(operator):
                    setattr(options, name, number + subgraphs)
        for definition in model.signatureDefs or []:
            definition.subgraphIndex = int(definition.subgraphIndex) + subgraphs
            first.signatureDefs.append(definition)
        first.subgraphs = [*first.subgraphs, *model.subgraphs]
        first.buffers = [*first.buffers, *model.buffers]
        first.operatorCodes = [*first.operatorCodes, *model.operatorCodes]
    for version in versions:
        repairs.raise_min_runtime_version(first, version)
    _share_codes(first)
    share_buffers(first)
    return first


def share_buffers(model: Any) -> int:
    """Let constant tensors with equal bytes refer to one buffer; returns how many bytes are not stored twice."""
    kept: dict[bytes, int] = {}
    moved: dict[int, int] = {}
    saved = 0
    own = {int(entry.buffer) for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index in own or buffer.data is None or not len(buffer.data):
            continue
        content = np.asarray(buffer.data, np.uint8).tobytes()
        moved[index] = kept.setdefault(content, index)
        saved += len(content) if moved[index] != index else 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = moved.get(int(tensor.buffer), int(tensor.buffer))
    repairs.drop_unused_tensors(model)
    return saved


def split_signatures(model: bytes) -> dict[str, bytes]:
    """A file for each signature, for a runtime that knows the main graph of a file only.

    Args:
        model: a .tflite with one or more signatures.

    Returns:
        By signature key, a .tflite whose main graph is that signature's and which has no other.

    Raises:
        UsageError: the file has no signature.
    """
    keys = [tensors.text_of(item.signatureKey) for item in tensors.read(model).signatureDefs or []]
    if not keys:
        raise UsageError("Only a file with signatures can be split by them.", received="a .tflite without any")
    return {key: packing.pack(_only(tensors.read(model), key)) for key in keys}


def _only(model: Any, key: str) -> Any:
    """A model with one of its signatures and the subgraphs that it runs, its own first."""
    definition = next(item for item in model.signatureDefs if tensors.text_of(item.signatureKey) == key)
    order: list[int] = []
    pending = [int(definition.subgraphIndex)]
    while pending:
        number = pending.pop(0)
        if number not in order:
            order.append(number)
            pending += [called for item in model.subgraphs[number].operators for _, _, called in _called(item)]
    model.subgraphs = [model.subgraphs[number] for number in order]
    for graph in model.subgraphs:
        for operator in graph.operators:
            for options, name, number in _called(operator):
                setattr(options, name, order.index(number))
    definition.subgraphIndex = 0
    model.signatureDefs = [definition]
    repairs.drop_unused_tensors(model)
    return model


def _called(operator: Any) -> list[tuple[Any, str, int]]:
    """The subgraphs that an operator runs: options that hold one's number, under which name, and the number."""
    return [
        (options, name, int(value))
        for options in (operator.builtinOptions, operator.builtinOptions2)
        if options is not None
        for name, value in vars(options).items()
        if name == "subgraph" or name.endswith("SubgraphIndex")
    ]


def _share_codes(model: Any) -> None:
    """Name each operator code once."""
    kept: list[Any] = []
    moved = []
    for code in model.operatorCodes:
        equal = [number for number, other in enumerate(kept) if vars(other) == vars(code)]
        moved.append(equal[0] if equal else len(kept))
        if not equal:
            kept.append(copy.copy(code))
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = moved[int(operator.opcodeIndex)]
    model.operatorCodes = kept
