"""The part of a speech model that makes features of samples: it stays in float32 whatever the network becomes.

A power spectrum spans nine orders of magnitude within one frame, and its logarithm is what the network sees. An int8
scale over it keeps the loudest frequencies and makes all others zero. Measured on DS-CNN and 360 sounds of Speech
Commands: 82.8 % right in float32, 82.8 % in int8 with the features in float32, 29.2 % with all in int8 that can be. The
features cost about 11 KB and have no weights that are worth quantizing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edge_dl.bundle import Signature
from edge_dl.converters import tensors

# Layers of `edge_dl.models.speech`, as they stand in a tensor's name: Keras adds numbers to names that it met before.
LAYERS = re.compile(r"(?:^|/)(?:features|normalize)(?:_\d+)?/")


def takes_samples(signature: Signature) -> bool:
    """Whether an input is sound as a microphone gives it: int16, without a scale."""
    return any(item.dtype == "int16" and len(item.shape) == 2 and not item.scale for item in signature.inputs)


def find_front(model: Any) -> list[int]:
    """Numbers of the operators of the main graph that make features of int16 samples; none in another model.

    Args:
        model: a float32 .tflite as `tensors.read` gives it, with the names of its tensors.
    """
    graph = model.subgraphs[0]
    samples = {index for index in map(int, graph.inputs) if graph.tensors[index].type == tensors.type_number("INT16")}
    if not samples:
        return []
    makers = {int(output): number for number, operator in enumerate(graph.operators) for output in operator.outputs}
    named = [
        number
        for number, operator in enumerate(graph.operators)
        if any(_is_front(tensors.text_of(graph.tensors[int(index)].name)) for index in operator.outputs)
    ]
    return sorted(_with_sources(graph, makers, named))


def _is_front(name: str) -> bool:
    """Whether a tensor is made by the front alone.

    The converter joins the names of what it puts together with semicolons: the factor of a normalization may have gone
    into the weights of the first dense layer, which is the network's.
    """
    return all(LAYERS.search(part) for part in name.split(";"))


def _with_sources(graph: Any, makers: dict[int, int], numbers: Iterable[int]) -> set[int]:
    """Operators `numbers` and all that compute something for them."""
    found: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += [makers[int(index)] for index in graph.operators[number].inputs if int(index) in makers]
    return found
