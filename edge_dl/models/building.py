"""`build`: from what a recipe says of its model to a Keras model, whatever kind of network it is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np

from edge_dl.data.dataset import Dataset
from edge_dl.models import images, recurrent, seq2seq, speech, transfer
from edge_dl.models.hub import HubFeatures
from edge_dl.recipe import ImageConfig, Network, Seq2SeqConfig, SpeechConfig, Task, TransferConfig


def build(task: Task, config: Network, dataset: Dataset) -> keras.Model:
    """A network for `task`, shaped for `dataset`, with scaling fitted on its training part.

    See the `build` of `edge_dl.models.recurrent`, `images`, `transfer`, `speech` and `seq2seq`.

    Raises:
        UsageError: a setting is unknown, out of range or does not fit the task, or the data does not fit it.
    """
    if isinstance(config, ImageConfig):
        return images.build(task, config, dataset)
    if isinstance(config, TransferConfig):
        return transfer.build(task, config, dataset)
    if isinstance(config, SpeechConfig):
        return speech.build(task, config, dataset)
    if isinstance(config, Seq2SeqConfig):
        return seq2seq.build(task, config, dataset)
    return recurrent.build(task, config, dataset)


def widest(model: keras.Model, inputs: Mapping[str, np.ndarray] | None = None) -> int:
    """The most numbers that one layer keeps of one sample: what decides how large an evaluation batch may be.

    Args:
        model: a built model.
        inputs: what it will be given; the longest decides where the model leaves its time axis free.
    """
    found = 1
    free = max((array.shape[1] for array in (inputs or {}).values() if array.ndim > 1), default=1)
    for layer in model._flatten_layers(include_self=False):
        shapes = _shapes(layer)
        if isinstance(layer, HubFeatures):
            found = max(found, layer.widest)
        found = max([found, *(math.prod(size or free for size in shape[1:]) for shape in shapes)])
        both = isinstance(layer, keras.layers.Bidirectional)
        inner = layer.forward_layer if both else layer
        if hasattr(inner, "units") and hasattr(inner, "return_sequences") and shapes:
            # A recurrent layer computes four gates a step, also where it gives the last step's answer alone.
            steps = max((shape[1] or free for shape in _shapes(layer, "input") if len(shape) > 2), default=1)
            found = max(found, 4 * inner.units * steps * (2 if both else 1))
    return found


def _shapes(layer: keras.layers.Layer, side: str = "output") -> list[tuple[int | None, ...]]:
    try:
        tensors = getattr(layer, side)
    except (AttributeError, ValueError):  # Inside another layer, or never called: its owner's output counts.
        return []
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(tensors)]
