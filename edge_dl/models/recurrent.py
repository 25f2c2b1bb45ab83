"""Recurrent networks for five tasks: SimpleRNN, LSTM and GRU, stacked, both ways, with residuals and attention.

Inputs and outputs are dictionaries with stable names: `sequence` (batch, steps, features) float32 in raw units, or
`tokens` (batch, steps) int32, give `label` (batch, classes) and `labels` (batch, steps, classes) probabilities,
`value` (batch, values) and `forecast` (batch, horizon, targets) in the target's own unit, `next_token` (batch, steps,
vocabulary) probabilities. Layers carry stable names: `lstm_1`, `lstm_2`, ..., `head`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edge_dl.data.dataset import Dataset, output_name
from edge_dl.errors import UsageError
from edge_dl.models.attention import AdditiveAttentionPooling
from edge_dl.models.heads import classify
from edge_dl.models.scaling import LastObservation, Standardize, Unstandardize
from edge_dl.models.settings import below_one, not_negative, one_of
from edge_dl.recipe import RecurrentConfig, Task

CELLS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
POOLINGS = ("last", "mean", "max", "attention")
SCALINGS = ("auto", "feature", "shared", "none")
EACH_STEP = (Task.LABELLING, Task.LANGUAGE_MODEL)


def build(task: Task, config: RecurrentConfig, dataset: Dataset) -> keras.Model:
    """A network for `task`, shaped for `dataset`, with scaling fitted on its training part.

    Weights are drawn from Keras' global seed (`keras.utils.set_random_seed`): recurrent kernels orthogonal, forget
    gates with bias 1.

    Args:
        task: what the model answers.
        config: the network.
        dataset: gives steps, features, classes, vocabulary and the scaling.

    Raises:
        UsageError: a setting is unknown, out of range or does not fit the task, or the data does not fit it.
    """
    _check(task, config, dataset)
    inputs, h = _read_inputs(config, dataset)
    each_step = task in EACH_STEP
    for number, units in enumerate(config.units, start=1):
        last = number == len(config.units)
        sequences = each_step or not last or config.pooling != "last"
        h = _recurrent_layer(h, number, units, config, sequences=sequences)
        if config.dropout:
            h = keras.layers.Dropout(config.dropout, name=f"dropout_{number}")(h)
    if not each_step and config.pooling != "last":
        h = _pool(h, config)
    if config.dense:
        h = keras.layers.Dense(config.dense, activation="relu", name="dense")(h)
        if config.dropout:
            h = keras.layers.Dropout(config.dropout, name="dropout_dense")(h)
    name = output_name(task)
    output = _head(h, task, config, dataset, inputs, name)
    return keras.Model(inputs, {name: output}, name=f"{config.cell}_{task.value.replace('-', '_')}")


def _check(task: Task, config: RecurrentConfig, dataset: Dataset) -> None:
    if task is Task.EMBEDDING:
        raise UsageError("A recurrent network has no embedding.", received=f"task {task.value}")
    if task is Task.TRANSCRIPTION:
        raise UsageError(
            "A recurrent network answers once, or at every step of its input.",
            received=f"task {task.value}",
            todo="Use the recipe speech-ctc.",
        )
    if task is Task.TRANSLATION:
        raise UsageError(
            "A recurrent network answers once, or at every step of its input.",
            received=f"task {task.value}",
            todo="Use the recipe translate or seq2seq.",
        )
    one_of("model.cell", config.cell, CELLS)
    one_of("model.pooling", config.pooling, POOLINGS)
    one_of("model.scaling", config.scaling, SCALINGS)
    if not config.units or min(config.units) < 1:
        raise UsageError("model.units must name at least one layer of at least one unit.", received=f"{config.units}")
    below_one(config, "dropout", "recurrent_dropout")
    not_negative(config, "dense")
    if task is Task.LANGUAGE_MODEL and config.bidirectional:
        raise UsageError(
            "A language model reads forwards only: backwards it would see the token that it predicts.",
            received="model.bidirectional=true",
        )
    if config.difference and (task is not Task.FORECAST or dataset.forecast is None):
        raise UsageError(
            "model.difference needs a forecast whose targets are input columns.",
            received=f"task {task.value}",
        )
    name = output_name(task)
    if name not in dataset.train.y:
        raise UsageError(
            f"A {task.value} model needs the target {name}.", received=", ".join(dataset.train.y) or "no target"
        )
    steps = set()
    for key, array in dataset.train.x.items():
        tokens = array.dtype.kind in "iu"
        if array.ndim != (2 if tokens else 3):
            raise UsageError(
                "Inputs must be fractions of shape (samples, steps, features) or token numbers (samples, steps).",
                received=f"{key} of type {array.dtype} and shape {array.shape}",
            )
        if tokens and config.embedding < 1:
            raise UsageError("Token inputs need model.embedding of at least 1.", received=str(config.embedding))
        steps.add(array.shape[1])
    if len(steps) > 1:
        raise UsageError("All inputs must have the same number of steps.", received=f"{sorted(steps)}")
    if task in EACH_STEP and dataset.train.y[name].shape[1] not in steps:
        raise UsageError(
            f"{name} must have one answer a step.",
            received=f"{dataset.train.y[name].shape[1]} answers for {steps.pop()} steps",
        )


def _read_inputs(config: RecurrentConfig, dataset: Dataset) -> tuple[dict[str, Any], Any]:
    scaling = dataset.scaling if config.scaling == "auto" else config.scaling
    inputs, features = {}, []
    for name, array in dataset.train.x.items():
        tokens = array.dtype.kind in "iu"
        tensor = keras.Input(array.shape[1:], dtype="int32" if tokens else "float32", name=name)
        inputs[name] = tensor
        if tokens:
            size = token_count(dataset, name)
            features.append(keras.layers.Embedding(size, config.embedding, name=f"embed_{name}")(tensor))
        elif scaling == "none":
            features.append(tensor)
        else:
            layer = Standardize.fitted(array, shared=scaling == "shared", name=f"standardize_{name}")
            features.append(layer(tensor))
    merged = features[0] if len(features) == 1 else keras.layers.Concatenate(name="inputs")(features)
    return inputs, merged


def token_count(dataset: Dataset, name: str = "tokens") -> int:
    """Number of different tokens of input `name`: the vocabulary's size, or one more than the largest number."""
    if dataset.vocabulary:
        return len(dataset.vocabulary)
    return 1 + max(int(split.x[name].max()) for split in dataset.parts.values())


def _recurrent_layer(x: Any, number: int, units: int, config: RecurrentConfig, *, sequences: bool) -> Any:
    name = f"{config.cell}_{number}"
    settings: dict[str, Any] = {"recurrent_initializer": "orthogonal"}
    if config.cell == "lstm":
        # Remember at first: a forget gate that starts half closed hides long dependencies (Jozefowicz et al. 2015).
        settings["unit_forget_bias"] = True
    layer = CELLS[config.cell](
        units,
        return_sequences=sequences,
        recurrent_dropout=config.recurrent_dropout,
        name=f"{name}_cell" if config.bidirectional else name,
        **settings,
    )
    if config.bidirectional:
        layer = keras.layers.Bidirectional(layer, name=name)
    h = layer(x)
    if config.residual and sequences and h.shape[-1] == x.shape[-1]:
        h = keras.layers.Add(name=f"residual_{number}")([h, x])
    return h


def _pool(h: Any, config: RecurrentConfig) -> Any:
    if config.pooling == "mean":
        return keras.layers.GlobalAveragePooling1D(name="pooling")(h)
    if config.pooling == "max":
        return keras.layers.GlobalMaxPooling1D(name="pooling")(h)
    return AdditiveAttentionPooling(units=config.units[-1], name="pooling")(h)


def _head(h: Any, task: Task, config: RecurrentConfig, dataset: Dataset, inputs: dict[str, Any], name: str) -> Any:
    target = dataset.train.y[name]
    if task in (Task.CLASSIFICATION, Task.LABELLING, Task.LANGUAGE_MODEL):
        size = token_count(dataset) if task is Task.LANGUAGE_MODEL else len(dataset.labels)
        return classify(h, size, name)
    if task is Task.REGRESSION:
        scores = keras.layers.Dense(target.shape[-1], name="head")(h)
        return _unstandardize(scores, target, name)
    horizon, count = target.shape[1:]
    scores = keras.layers.Dense(horizon * count, name="head")(h)
    scores = keras.layers.Reshape((horizon, count), name="horizon")(scores)
    if not config.difference or dataset.forecast is None:
        return _unstandardize(scores, target, name)
    last = LastObservation(dataset.forecast.target_columns, name="last_observation", dtype="float32")
    anchor = last(inputs["sequence"])
    changes = target - dataset.train.x["sequence"][:, -1:, list(dataset.forecast.target_columns)]
    change = _unstandardize(scores, changes, "change", centred=False)
    return keras.layers.Add(name=name, dtype="float32")([change, anchor])


def _unstandardize(scores: Any, target: np.ndarray, name: str, *, centred: bool = True) -> Any:
    mean, scale = target_scale(target)
    return Unstandardize((mean if centred else np.zeros_like(mean)).tolist(), scale.tolist(), name=name)(scores)


def target_scale(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each target, (targets,) each, over all other axes of (..., targets).

    A target that never changes has scale 1.
    """
    flat = target.reshape(-1, target.shape[-1]).astype(np.float64)
    scale = flat.std(axis=0)
    return flat.mean(axis=0), np.where(scale > 0, scale, 1.0)
