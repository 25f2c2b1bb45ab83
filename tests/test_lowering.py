"""Every option of every recurrent layer, in every lowering, against what Keras computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers
from lowered_runs import (
    TOLERANCE,
    check_export,
    keras_answers,
    random_floats,
    scramble,
    sequential,
    traced_answers,
)

from edge_dl.converters import lowered
from edge_dl.converters.recurrence import block_size
from edge_dl.errors import RefusedError, UsageError
from edge_dl.variants import Lowering

WHOLE = [Lowering.WHILE, Lowering.UNROLL]
ACTIVATIONS = ["tanh", "sigmoid", "relu", "linear", "softsign", "elu"]


@st.composite
def recurrent_layers(draw: Any) -> Any:
    kind = draw(st.sampled_from([layers.LSTM, layers.GRU, layers.SimpleRNN]))
    options: dict[str, Any] = {
        "units": draw(st.integers(1, 5)),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "use_bias": draw(st.booleans()),
        "return_sequences": draw(st.booleans()),
        "return_state": draw(st.booleans()),
        "go_backwards": draw(st.booleans()),
        "unroll": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.5])),
        "recurrent_dropout": draw(st.sampled_from([0.0, 0.5])),
        "zero_output_for_mask": draw(st.booleans()),
    }
    if kind is not layers.SimpleRNN:
        options["recurrent_activation"] = draw(st.sampled_from(["sigmoid", "hard_sigmoid"]))
    if kind is layers.GRU:
        options["reset_after"] = draw(st.booleans())
    if kind is layers.LSTM:
        options["unit_forget_bias"] = draw(st.booleans())
    return kind, options


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    layer=recurrent_layers(),
    lowering=st.sampled_from(WHOLE),
    batch=st.integers(1, 3),
    steps=st.integers(1, 9),
    masked=st.booleans(),
    with_states=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_layer_equals_keras(
    layer: Any, lowering: Lowering, batch: int, steps: int, masked: bool, with_states: bool, seed: int
) -> None:
    kind, options = layer
    inputs = [keras.Input((steps, 3), name="sequence")]
    values = {"sequence": random_floats(batch, steps, 3, seed=seed)}
    hidden = inputs[0]
    if masked:
        hidden = layers.Masking(mask_value=0.0)(hidden)
        values["sequence"][np.random.default_rng(seed).random((batch, steps)) < 0.4] = 0.0
    states = None
    if with_states:
        names = ["h", "c"][: 2 if kind is layers.LSTM else 1]
        inputs += [keras.Input((options["units"],), name=name) for name in names]
        values |= {name: random_floats(batch, options["units"], seed=seed + 1) for name in names}
        states = inputs[1:]
    model = scramble(keras.Model(inputs, kind(**options)(hidden, initial_state=states)), seed)
    expected = keras_answers(model, values)
    answers = traced_answers(model, lowering, values)
    assert answers.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(answers[name], expected[name], rtol=0, atol=TOLERANCE)


def cell_stack() -> Any:
    cells = [layers.LSTMCell(4), layers.GRUCell(3, reset_after=False), layers.SimpleRNNCell(2)]
    return layers.RNN(cells, return_sequences=True, return_state=True)


@keras.saving.register_keras_serializable("edge-dl-tests")
class Summarizer(layers.Layer):
    """A user's own layer that holds an LSTM in a list and reads it in its own way."""

    def __init__(self, units: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.units = units
        self.parts = [layers.LSTM(units, return_sequences=True)]

    def build(self, shape: Any) -> None:
        self.parts[0].build(shape)

    def call(self, sequence: Any) -> Any:
        return keras.ops.mean(self.parts[0](sequence), axis=1)


class OwnModel(keras.Model):
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = layers.GRU(4)
        self.head = layers.Dense(2)

    def call(self, sequence: Any) -> Any:
        return self.head(self.memory(sequence))


def encoder_decoder() -> Any:
    source = keras.Input((6, 3), name="source")
    target = keras.Input((4, 2), name="target")
    _, *states = layers.LSTM(5, return_state=True)(source)
    decoded = layers.LSTM(5, return_sequences=True)(target, initial_state=states)
    return keras.Model([source, target], layers.Dense(2, name="next")(decoded))


def attention_model() -> Any:
    sequence = keras.Input((7, 3), name="sequence")
    hidden = layers.Conv1D(4, 3, padding="same", activation="relu")(sequence)
    hidden = layers.Bidirectional(layers.GRU(3, return_sequences=True))(hidden)
    hidden = layers.LayerNormalization()(hidden)
    context = layers.MultiHeadAttention(2, 3)(hidden, hidden)
    pooled = layers.GlobalAveragePooling1D()(hidden + context)
    return keras.Model(sequence, {"label": layers.Dense(2)(pooled), "frames": layers.Dense(1)(hidden)})


def shared_model() -> Any:
    """One GRU over two inputs, inside a nested model."""
    inner_input = keras.Input((5, 3))
    inner = keras.Model(inner_input, layers.GRU(4)(inner_input))
    first, second = keras.Input((5, 3), name="first"), keras.Input((5, 3), name="second")
    return keras.Model({"first": first, "second": second}, layers.Concatenate()([inner(first), inner(second)]))


def own_model() -> Any:
    model = OwnModel()
    model(np.zeros((1, 7, 3), "float32"))
    return model


USERS_MODELS: dict[str, Any] = {
    "stacked-masked": lambda: sequential(
        layers.Masking(), layers.LSTM(4, return_sequences=True), layers.GRU(3), layers.Dense(2)
    ),
    "bidirectional": lambda: sequential(
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="sum"),
        layers.Bidirectional(layers.SimpleRNN(2), backward_layer=layers.SimpleRNN(2, go_backwards=True)),
    ),
    "cells": lambda: sequential(cell_stack()),
    "time-distributed": lambda: sequential(layers.TimeDistributed(layers.LSTM(3)), layers.GRU(2), shape=(4, 5, 3)),
    "own-layer": lambda: sequential(Summarizer(4), layers.Dense(2)),
    "own-model": own_model,
    "encoder-decoder": encoder_decoder,
    "attention": attention_model,
    "shared": shared_model,
}


@pytest.mark.parametrize("lowering", WHOLE)
@pytest.mark.parametrize("name", USERS_MODELS)
def test_users_model_equals_keras_on_the_interpreter(name: str, lowering: Lowering, tmp_path: Path) -> None:
    model = scramble(USERS_MODELS[name]())
    shapes = {"source": (6, 3), "target": (4, 2), "first": (5, 3), "second": (5, 3)}
    names = [item.name for item in model.inputs] if getattr(model, "inputs", None) else ["sequence"]
    values = {key: random_floats(1, *shapes.get(key, (7, 3))) for key in names}
    if name == "time-distributed":
        values = {"sequence": random_floats(1, 4, 5, 3)}
    if name == "stacked-masked":
        values["sequence"][:, [0, 3, 5, 6]] = 0.0
    check_export(model, lowering, values, tmp_path)


@pytest.mark.parametrize("lowering", WHOLE)
@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_long_sequence_in_a_batch(kind: Any, lowering: Lowering, tmp_path: Path) -> None:
    model = sequential(kind(6, return_sequences=True), kind(5), shape=(23, 3))
    check_export(model, lowering, {"sequence": random_floats(3, 23, 3)}, tmp_path)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_fused_lstm_equals_keras(backwards: bool, use_bias: bool, tmp_path: Path) -> None:
    lstm = layers.LSTM(4, return_sequences=True, go_backwards=backwards, use_bias=use_bias)
    model = sequential(lstm, layers.Bidirectional(layers.LSTM(3)), layers.Dense(2))
    record = check_export(model, Lowering.FUSED, {"sequence": random_floats(1, 7, 3)}, tmp_path)
    assert [item.how for item in record.layers] == ["one operator"] * 3


def test_nan_at_a_masked_step_does_not_spread() -> None:
    sequence = keras.Input((5, 3), name="sequence")
    mask = keras.Input((5,), name="kept", dtype="bool")
    model = scramble(keras.Model([sequence, mask], layers.GRU(4)(sequence, mask=mask)))
    values = {"sequence": random_floats(1, 5, 3), "kept": np.array([[True, False, True, True, False]])}
    clean = keras_answers(model, values)
    values["sequence"][:, [1, 4]] = np.nan
    for lowering in WHOLE:
        answers = traced_answers(model, lowering, values)
        np.testing.assert_allclose(
            answers["gru" if "gru" in answers else next(iter(answers))], next(iter(clean.values())), atol=TOLERANCE
        )


def test_model_is_unchanged_afterwards() -> None:
    model = sequential(layers.LSTM(4, dropout=0.5), layers.Dense(2))
    lstm = model.layers[0]
    before = dict(lstm.__dict__)
    answers = keras_answers(model, {"sequence": random_floats(2, 7, 3)})
    with lowered(model, Lowering.UNROLL):
        assert "inner_loop" in lstm.__dict__
    with pytest.raises(ZeroDivisionError), lowered(model, Lowering.WHILE):
        raise ZeroDivisionError
    assert dict(lstm.__dict__) == before
    again = keras_answers(model, {"sequence": random_floats(2, 7, 3)})
    assert all(np.array_equal(answers[name], again[name]) for name in answers)


def test_dropout_leaves_no_random_operator() -> None:
    model = sequential(
        layers.LSTM(4, dropout=0.5, recurrent_dropout=0.5), layers.GRU(2, dropout=0.1) if 0 else layers.Dense(2)
    )
    for lowering in (Lowering.NONE, *WHOLE):
        with lowered(model, lowering):
            call = tf.function(lambda x: model(x, training=False), autograph=False)
            graph = call.get_concrete_function(tf.TensorSpec((1, 7, 3))).graph
        assert not [item.type for item in graph.get_operations() if "Random" in item.type or "Assign" in item.type]


def test_half_precision_model_is_lowered_in_float32(tmp_path: Path) -> None:
    policy = keras.DTypePolicy("mixed_float16")
    model = sequential(layers.LSTM(4, dtype=policy), layers.Dense(2, dtype=policy))
    values = {"sequence": random_floats(1, 7, 3)}
    record = check_export(model, Lowering.WHILE, values, tmp_path)
    assert record.signature.outputs[0].dtype == "float32"
    assert model.layers[0].compute_dtype == "float16"
    assert np.asarray(model(values["sequence"])).dtype == np.float16


def test_step_is_not_for_the_context_manager() -> None:
    with pytest.raises(UsageError, match="exporting"), lowered(sequential(layers.LSTM(2)), Lowering.STEP):
        pass


def test_own_cell_met_while_tracing_is_refused_by_name() -> None:
    class Counter(layers.Layer):
        state_size = 2

        def call(self, inputs: Any, states: Any) -> Any:
            return states[0] + 1, [states[0] + 1]

    model = sequential(layers.RNN(Counter(), name="counting"))
    with pytest.raises(RefusedError, match=r"counting.*Counter"):
        traced_answers(model, Lowering.WHILE, {"sequence": random_floats(1, 7, 3)})


@given(steps=st.integers(1, 400), step_bytes=st.integers(64, 4 << 20), collected=st.sampled_from([0, 10_000, 400_000]))
def test_block_fits_the_sequence_and_the_cache(steps: int, step_bytes: int, collected: int) -> None:
    size = block_size(steps, step_bytes, collected)
    assert 1 <= size <= steps
    copies = size + steps % size
    assert size == 1 or copies * step_bytes <= (4 << 20 if collected else 512 << 10)


def test_block_grows_with_the_sequence_and_shrinks_with_the_weights() -> None:
    assert [block_size(steps, 4096) for steps in (1, 20, 50, 200)] == [1, 4, 5, 10]
    assert block_size(100, 1 << 20) == 1
    assert block_size(127, 4096) == 9  # 14 blocks and one step behind them
    assert block_size(100, 1 << 18, 100_000) > block_size(100, 1 << 18)
