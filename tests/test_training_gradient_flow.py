from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from edge_dl import models
from edge_dl.data import Dataset, Split
from edge_dl.recipe import RecurrentConfig, Task
from edge_dl.training.gradient_flow import gradient_flow, input_gradients

RNG = np.random.default_rng(3)
SAMPLES, STEPS = 4, 5
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy()


def sequences(task: Task = Task.CLASSIFICATION) -> Dataset:
    x = RNG.normal(size=(SAMPLES, STEPS, 2)).astype(np.float32)
    shape = (SAMPLES, STEPS) if task is Task.LABELLING else (SAMPLES,)
    name = "labels" if task is Task.LABELLING else "label"
    split = Split({"sequence": x}, {name: RNG.integers(0, 3, shape).astype(np.int32)}, np.arange(SAMPLES))
    return Dataset("made", task, split, split, split, labels=("a", "b", "c"))


def tokens() -> Dataset:
    x = RNG.integers(0, 6, (SAMPLES, STEPS + 1)).astype(np.int32)
    split = Split({"tokens": x[:, :-1]}, {"next_token": x[:, 1:]}, np.arange(SAMPLES))
    return Dataset("made", Task.LANGUAGE_MODEL, split, split, split, vocabulary=tuple("abcdef"))


def numerical(loss: Any, point: np.ndarray, size: float = 1e-2) -> np.ndarray:
    """Central differences of a scalar function."""
    gradient = np.zeros_like(point, dtype=np.float64)
    for index in np.ndindex(*point.shape):
        step = np.zeros_like(point)
        step[index] = size
        gradient[index] = (loss(point + step) - loss(point - step)) / (2 * size)
    return gradient


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_gradients_are_those_of_finite_differences(cell: str) -> None:
    data = sequences()
    model = models.build(data.task, RecurrentConfig(cell, (4,), dropout=0.3, recurrent_dropout=0.2), data)
    split = data.validation
    found = input_gradients(model, CROSS_ENTROPY, split)["sequence"]

    def loss(x: np.ndarray) -> float:
        answer = keras.ops.convert_to_numpy(model({"sequence": x}, training=False)["label"]).astype(np.float64)
        return -np.log(answer[np.arange(SAMPLES), split.y["label"]]).sum()

    np.testing.assert_allclose(found, numerical(loss, split.x["sequence"]), atol=2e-4)


def test_models_that_answer_each_step_are_judged_by_their_last_answer() -> None:
    data = sequences(Task.LABELLING)
    model = models.build(data.task, RecurrentConfig("gru", (4,)), data)
    split = data.validation
    found = input_gradients(model, CROSS_ENTROPY, split, last_answer=True)["sequence"]

    def loss(x: np.ndarray) -> float:
        answer = keras.ops.convert_to_numpy(model({"sequence": x}, training=False)["labels"]).astype(np.float64)
        return -np.log(answer[np.arange(SAMPLES), -1, split.y["labels"][:, -1]]).sum()

    np.testing.assert_allclose(found, numerical(loss, split.x["sequence"]), atol=2e-4)


def test_tokens_are_differentiated_by_their_embeddings() -> None:
    data = tokens()
    model = models.build(data.task, RecurrentConfig("lstm", (4,), embedding=3), data)
    split = data.validation
    found = input_gradients(model, CROSS_ENTROPY, split, last_answer=True)["tokens"]
    assert found.shape == (SAMPLES, STEPS, 3)
    # The table's gradient is the sum over all places that read a row: it must be what these gradients add up to.
    layer = model.get_layer("embed_tokens")
    table = layer.get_weights()[0]

    def loss(values: np.ndarray) -> float:
        layer.set_weights([values])
        answer = keras.ops.convert_to_numpy(model(split.x, training=False)["next_token"]).astype(np.float64)
        layer.set_weights([table])
        return -np.log(answer[np.arange(SAMPLES), -1, split.y["next_token"][:, -1]]).sum()

    added = np.zeros_like(table)
    np.add.at(added, split.x["tokens"].ravel(), found.reshape(-1, 3))
    np.testing.assert_allclose(added, numerical(loss, table), atol=2e-4)


def test_a_flow_has_one_norm_a_step_and_changes_nothing() -> None:
    data = sequences()
    model = models.build(data.task, RecurrentConfig("rnn", (4,), recurrent_dropout=0.2), data)
    before = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in model.variables]
    flow = gradient_flow(model, CROSS_ENTROPY, data)
    gradients = input_gradients(model, CROSS_ENTROPY, data.validation)["sequence"]
    np.testing.assert_allclose(flow, np.linalg.norm(gradients, axis=2).mean(axis=0), rtol=1e-5)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable.value), value)


def test_a_small_recurrent_weight_makes_the_gradient_vanish() -> None:
    data = sequences()
    model = models.build(data.task, RecurrentConfig("rnn", (4,)), data)
    layer = model.get_layer("rnn_1")
    kernel, _, bias = layer.get_weights()
    layer.set_weights([kernel, 0.1 * np.eye(4, dtype=np.float32), bias])
    flow = np.array(gradient_flow(model, CROSS_ENTROPY, data))
    assert np.all(flow[:-1] < 0.2 * flow[1:])
