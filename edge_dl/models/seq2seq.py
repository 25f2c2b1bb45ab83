"""Sequence to sequence: an encoder reads a sentence, a decoder says another, token by token.

Inputs `source` and `target` (batch, steps) int32, each with its own number of steps, 0 for padding; `target` begins
with the mark of begin (teacher forcing). Outputs `next_token` (batch, target steps, vocabulary) probabilities and,
where there is attention, `attention` (batch, target steps, source steps): how much a step looked at each source token.

Encoder and decoder have the same layers; decoder layer i starts from the last states of encoder layer i (Sutskever,
Vinyals & Le 2014). What attention needs of the source, `memory` and `keys`, is made once a sentence.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edge_dl.data.dataset import Dataset
from edge_dl.errors import UsageError
from edge_dl.models.decoding import SCORES, AttentionCell, AttentionDecoder, SourceAttention, SourceMask
from edge_dl.models.settings import below_one, one_of
from edge_dl.recipe import Seq2SeqConfig, Task

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
NONE = "none"
INPUTS = ("source", "target")


def build(task: Task, config: Seq2SeqConfig, dataset: Dataset) -> keras.Model:
    """An encoder-decoder for `dataset`, of any length.

    Args:
        task: translation.
        config: the network.
        dataset: gives the sizes of both vocabularies.

    Raises:
        UsageError: a setting is unknown, out of range or does not fit another, or the data has no sentence pairs.
    """
    _check(task, config, dataset)
    source_size, target_size = vocabulary_sizes(dataset)
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in INPUTS}
    mask = SourceMask(name="source_mask")(inputs["source"])
    h = _embed(inputs["source"], source_size, config, "source")
    starts = []
    for number, units in enumerate(config.units, start=1):
        h, states = _encoder_layer(h, number, units, config, mask)
        starts.append(states)
    outputs = _embed(inputs["target"], target_size, config, "target")
    weights = None
    if config.attention != NONE and config.input_feeding:
        attention = _attention(config)
        cell = AttentionCell(config.cell, config.units, attention, residual=config.residual, name="decoder_cell")
        keys = attention.keys_layer(name="keys")(h)
        given = [state for states in starts for state in states]
        outputs, weights = AttentionDecoder(cell, name="decoder")(
            outputs, memory=h, keys=keys, source_mask=mask, initial_state=given
        )
    else:
        for number, (units, states) in enumerate(zip(config.units, starts, strict=True), start=1):
            outputs = _decoder_layer(outputs, number, units, config, states)
        if config.attention != NONE:
            attention = _attention(config)
            keys = attention.keys_layer(name="keys")(h)
            outputs, weights = attention(outputs, memory=h, keys=keys, source_mask=mask)
    if config.dropout:
        outputs = keras.layers.Dropout(config.dropout, name="dropout_head")(outputs)
    # float32 also in mixed precision: the loss takes the logarithm.
    scores = keras.layers.Dense(target_size, name="head")(outputs)
    named = {"next_token": keras.layers.Softmax(dtype="float32", name="next_token")(scores)}
    if weights is not None:
        named["attention"] = keras.layers.Identity(dtype="float32", name="attention")(weights)
    return keras.Model(inputs, named, name=f"{config.cell}_translation")


def vocabulary_sizes(dataset: Dataset) -> tuple[int, int]:
    """Number of different tokens of source and target.

    Raises:
        UsageError: the data set has no sentence pairs.
    """
    if dataset.sentences is None:
        raise UsageError(
            "A sequence-to-sequence network needs sentence pairs.",
            received=f"data with inputs {', '.join(dataset.train.x)}",
            todo="Give a table of two columns, or a folder of train, val and test: see data.form=sentences.",
        )
    tables = dataset.sentences.tables
    return len(tables.source.pieces), len(tables.target.pieces)


def _check(task: Task, config: Seq2SeqConfig, dataset: Dataset) -> None:
    if task is not Task.TRANSLATION:
        raise UsageError("A sequence-to-sequence network translates.", received=f"task {task.value}")
    one_of("model.cell", config.cell, LAYERS)
    one_of("model.attention", config.attention, (*SCORES, NONE))
    below_one(config, "dropout")
    if config.embedding < 1:
        raise UsageError("model.embedding must be at least 1.", received=str(config.embedding))
    if not config.units or min(config.units) < 1:
        raise UsageError("model.units must name at least one layer of at least one unit.", received=f"{config.units}")
    if config.bidirectional and any(np.array(config.units) % 2):
        raise UsageError(
            "Layers that read both ways need an even number of units: half of them each way.",
            received=f"model.units={config.units}",
        )


def _embed(tokens: Any, size: int, config: Seq2SeqConfig, side: str) -> Any:
    embedded = keras.layers.Embedding(size, config.embedding, name=f"embed_{side}")(tokens)
    if config.dropout:
        embedded = keras.layers.Dropout(config.dropout, name=f"dropout_{side}")(embedded)
    return embedded


def _encoder_layer(x: Any, number: int, units: int, config: Seq2SeqConfig, mask: Any) -> tuple[Any, list[Any]]:
    """Output (batch, steps, units) and last states, each (batch, units)."""
    name = f"encoder_{number}"
    each = units // 2 if config.bidirectional else units
    layer = LAYERS[config.cell](
        each, return_sequences=True, return_state=True, name=f"{name}_cell" if config.bidirectional else name
    )
    if config.bidirectional:
        layer = keras.layers.Bidirectional(layer, name=name)
    h, *states = layer(x, mask=mask)
    if config.bidirectional:
        half = len(states) // 2
        states = [
            keras.layers.Concatenate(name=f"{name}_state_{place}")([states[place], states[half + place]])
            for place in range(half)
        ]
    last = number == len(config.units)
    return _behind(h, x, name, config, dropout=not last), states


def _decoder_layer(x: Any, number: int, units: int, config: Seq2SeqConfig, states: list[Any]) -> Any:
    name = f"decoder_{number}"
    h = LAYERS[config.cell](units, return_sequences=True, name=name)(x, initial_state=states)
    return _behind(h, x, name, config, dropout=number < len(config.units))


def _behind(h: Any, x: Any, name: str, config: Seq2SeqConfig, *, dropout: bool) -> Any:
    if config.residual and h.shape[-1] == x.shape[-1]:
        h = keras.layers.Add(name=f"{name}_residual")([h, x])
    if config.dropout and dropout:
        h = keras.layers.Dropout(config.dropout, name=f"{name}_dropout")(h)
    return h


def _attention(config: Seq2SeqConfig) -> SourceAttention:
    return SourceAttention(config.units[-1], score=config.attention, name="attend")
