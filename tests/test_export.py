"""Exports: names, shapes, types, the record beside the SavedModel, step models, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from lowered_runs import (
    check_export,
    keras_answers,
    random_floats,
    scramble,
    sequential,
    tflite_answers,
)

from edge_dl.bundle import SequenceSpec, StateSpec, TensorSpec
from edge_dl.converters import allowed_lowerings, export, find_recurrent, find_refusals, read_export
from edge_dl.errors import RefusedError, StageError, UsageError
from edge_dl.names import unique_names
from edge_dl.variants import Lowering

EVERY = [Lowering.WHILE, Lowering.UNROLL, Lowering.FUSED, Lowering.STEP]


def two_sided_model() -> Any:
    """Tokens, a sequence and a vector in; a dictionary out, with awkward names."""
    tokens = keras.Input((6,), name="my tokens", dtype="int64")
    signal = keras.Input((6, 2), name="signal")
    person = keras.Input((3,), name="person")
    hidden = layers.Concatenate()([layers.Embedding(9, 4)(tokens), signal])
    hidden = layers.LSTM(4)(hidden)
    hidden = layers.Concatenate()([hidden, person])
    outputs = {"class": layers.Dense(2)(hidden), "a score": layers.Dense(1)(hidden)}
    return scramble(keras.Model({"my tokens": tokens, "signal": signal, "person": person}, outputs))


def two_sided_values() -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, 9, (1, 6))
    return {"my_tokens": tokens, "signal": random_floats(1, 6, 2), "person": random_floats(1, 3)}


@pytest.mark.parametrize("lowering", EVERY)
def test_several_named_inputs_and_outputs(lowering: Lowering, tmp_path: Path) -> None:
    record = check_export(two_sided_model(), lowering, two_sided_values(), tmp_path)
    steps = 1 if lowering is Lowering.STEP else 6
    assert record.signature.key == ("step" if lowering is Lowering.STEP else "predict")
    assert set(record.signature.inputs) == {
        TensorSpec("my_tokens", (1, steps), "int64"),
        TensorSpec("signal", (1, steps, 2)),
        TensorSpec("person", (1, 3)),
    }
    assert set(record.signature.outputs) == {TensorSpec("class", (1, 2)), TensorSpec("a_score", (1, 1))}
    assert record.keras_inputs == {"my_tokens": "my tokens", "signal": "signal", "person": "person"}
    assert record.keras_outputs == {"class": "class", "a_score": "a score"}
    assert read_export(record.folder) == record


def test_step_model_keeps_every_layers_states(tmp_path: Path) -> None:
    model = sequential(
        layers.LSTM(4, return_sequences=True), layers.GRU(3, return_sequences=True), layers.Dense(2, name="tags")
    )
    record = check_export(model, Lowering.STEP, {"sequence": random_floats(1, 7, 3)}, tmp_path)
    assert record.signature.states == (
        StateSpec("state_0", "next_state_0", (1, 4)),
        StateSpec("state_1", "next_state_1", (1, 4)),
        StateSpec("state_2", "next_state_2", (1, 3)),
    )
    assert record.sequence == SequenceSpec(("sequence",), 7, {"tags": "each"})


def test_mean_over_time_is_a_running_sum_in_a_step_model(tmp_path: Path) -> None:
    model = sequential(
        layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D(), layers.Dense(2, name="label")
    )
    record = check_export(model, Lowering.STEP, {"sequence": random_floats(1, 7, 3)}, tmp_path)
    assert [state.shape for state in record.signature.states] == [(1, 4), (1, 4)]
    assert record.sequence == SequenceSpec(("sequence",), 7, {"label": "last"})


def test_mean_over_masked_steps_is_refused_as_a_step_model(tmp_path: Path) -> None:
    model = sequential(layers.Masking(), layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D())
    with pytest.raises(RefusedError, match=r"global_average_pooling1d.*all time steps"):
        export(model, tmp_path / "e", Lowering.STEP, input_shapes={"sequence": (7, 3)})


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_step_model_of_masked_tokens(kind: Any, tmp_path: Path) -> None:
    model = scramble(
        keras.Sequential(
            [
                keras.Input((8,), name="tokens"),
                layers.Embedding(9, 4, mask_zero=True),
                kind(4, return_sequences=True),
                layers.Dropout(0.2),
                layers.TimeDistributed(layers.Dense(3)),
                kind(3, name="last"),
            ]
        )
    )
    tokens = np.array([[0, 3, 0, 5, 8, 1, 0, 0]], np.int32)
    record = check_export(model, Lowering.STEP, {"tokens": tokens}, tmp_path)
    assert record.signature.inputs == (TensorSpec("tokens", (1, 1), "int32"),)
    assert record.sequence == SequenceSpec(("tokens",), 8, {"last": "last"})


def test_step_model_of_a_stateful_layer_starts_afresh(tmp_path: Path) -> None:
    model = scramble(
        keras.Sequential([keras.Input(batch_shape=(2, 5, 3), name="sequence"), layers.GRU(4, stateful=True)])
    )
    model(random_floats(2, 5, 3, seed=9))  # Leaves a state behind.
    kept = np.asarray(model.layers[0].states[0])
    assert np.abs(kept).max() > 0.01
    check_export(model, Lowering.STEP, {"sequence": random_floats(2, 5, 3)}, tmp_path)
    assert np.array_equal(kept, np.asarray(model.layers[0].states[0]))
    (refusal,) = find_refusals(model, Lowering.WHILE)
    assert "stateful" in refusal.reason
    assert "step" in refusal.todo


def test_first_states_of_its_own_and_a_mask_equal_keras(tmp_path: Path) -> None:
    model = sequential(layers.Masking(), FromOnes(4, return_sequences=True), layers.Dense(2))
    values = random_floats(1, 7, 3)
    values[:, [0, 1, 4]] = 0.0  # Before the first step that counts, the output is zero and the state is not.
    check_export(model, Lowering.WHILE, {"sequence": values}, tmp_path)


def test_names_that_the_model_has_taken(tmp_path: Path) -> None:
    sequence = keras.Input((5, 3), name="state_0")
    other = keras.Input((5, 2), name="self")
    hidden = layers.GRU(4)(layers.Concatenate()([sequence, other]))
    model = scramble(keras.Model([sequence, other], {"next_state_1": hidden}))
    values = {"state_0": random_floats(1, 5, 3), "self_1": random_floats(1, 5, 2)}
    record = check_export(model, Lowering.STEP, values, tmp_path)
    assert [state.input for state in record.signature.states] == ["state__0"]
    assert record.keras_inputs["self_1"] == "self"


def test_nested_and_own_layers_step_too(tmp_path: Path) -> None:
    inner_input = keras.Input((6, 3))
    inner = keras.Model(inner_input, layers.LSTM(4, return_sequences=True)(inner_input), name="encoder")
    sequence = keras.Input((6, 3), name="sequence")
    model = scramble(keras.Model(sequence, layers.Dense(2, name="d")(inner(sequence)[:, -1])))
    record = check_export(model, Lowering.STEP, {"sequence": random_floats(1, 6, 3)}, tmp_path)
    assert record.sequence is not None
    assert record.sequence.outputs == {"d": "last"}


def test_masked_steps_of_a_nested_model(tmp_path: Path) -> None:
    inner_input = keras.Input((8, 4))
    inner = keras.Model(inner_input, layers.GRU(4, return_sequences=True)(inner_input), name="encoder")
    tokens = keras.Input((8,), name="tokens")
    embedded = layers.Embedding(9, 4, mask_zero=True)(tokens)
    model = scramble(keras.Model(tokens, layers.SimpleRNN(3, name="last")(inner(embedded))))
    values = {"tokens": np.array([[0, 3, 0, 5, 8, 1, 0, 0]], np.int32)}
    for lowering in (Lowering.STEP, Lowering.WHILE):
        check_export(model, lowering, values, tmp_path)


def test_batch_and_free_time_axis(tmp_path: Path) -> None:
    model = sequential(layers.LSTM(4), shape=(None, 3))
    with pytest.raises(UsageError, match=r"sequence.*\(\?, 3\).*sequence=50,3"):
        export(model, tmp_path, Lowering.WHILE)
    record = check_export(
        model, Lowering.WHILE, {"sequence": random_floats(4, 11, 3)}, tmp_path, input_shapes={"sequence": (11, 3)}
    )
    assert record.signature.inputs[0].shape == (4, 11, 3)
    assert record.batch == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shapes": {"other": (5, 3)}}, "other.*Inputs: sequence"),
        ({"input_shapes": {"sequence": (5, 4)}}, r"\(5, 4\).*\(\?, 3\)"),
        ({"input_shapes": {"sequence": (5,)}}, r"\(5\)"),
        ({"input_shapes": {"sequence": (0, 3)}}, r"\(0, 3\)"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_wrong_shapes_are_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export(sequential(layers.LSTM(4), shape=(None, 3)), tmp_path, Lowering.WHILE, **settings)


def test_unbuilt_and_text_models_are_refused(tmp_path: Path) -> None:
    class Unbuilt(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(UsageError, match="must be built"):
        export(Unbuilt(), tmp_path, Lowering.NONE)
    text = keras.Input((), dtype="string", name="text")
    model = keras.Model(text, layers.StringLookup(vocabulary=["a"])(text))
    with pytest.raises(UsageError, match="numbers"):
        export(model, tmp_path, Lowering.NONE)


def test_model_that_keras_has_quantized_is_named(tmp_path: Path) -> None:
    model = sequential(layers.LSTM(4), layers.Dense(2, name="head"))
    model.quantize("int8")
    with pytest.raises(UsageError, match=r"'head'.*before model\.quantize"):
        export(model, tmp_path, Lowering.WHILE)


def test_model_without_recurrence_is_exported_as_it_is(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 1), name="image", dtype="uint8")
    hidden = layers.Conv2D(3, 3, activation="relu")(layers.Rescaling(1 / 255)(image))
    hidden = layers.BatchNormalization()(hidden)
    model = scramble(keras.Model(image, layers.Dense(4, activation="softmax", name="label")(layers.Flatten()(hidden))))
    assert allowed_lowerings(model) == [Lowering.NONE]
    values = {"image": np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1)).astype("uint8")}
    record = check_export(model, Lowering.NONE, values, tmp_path)
    assert record.signature.inputs[0].dtype == "uint8"
    assert record.layers == ()
    with pytest.raises(RefusedError, match="no recurrent layer"):
        export(model, tmp_path, Lowering.WHILE)


def test_recurrent_model_as_keras_writes_it(tmp_path: Path) -> None:
    model = sequential(layers.Bidirectional(layers.LSTM(4, dropout=0.3)), layers.Dense(2))
    check_export(model, Lowering.NONE, {"sequence": random_floats(1, 7, 3)}, tmp_path)


def test_same_tensor_under_two_names(tmp_path: Path) -> None:
    sequence = keras.Input((5, 3), name="sequence")
    output, state = layers.GRU(4, return_state=True)(sequence)
    model = scramble(keras.Model(sequence, {"answer": output, "memory": state, "echo": sequence}))
    for lowering in (Lowering.WHILE, Lowering.UNROLL):
        check_export(model, lowering, {"sequence": random_floats(1, 5, 3)}, tmp_path)


@pytest.mark.parametrize("lowering", [Lowering.WHILE, Lowering.STEP])
def test_outputs_keep_the_models_order(lowering: Lowering, tmp_path: Path) -> None:
    sequence = keras.Input((5, 3), name="sequence")
    hidden = layers.GRU(4, return_sequences=True, name="m")(sequence)
    outputs = [layers.Dense(2, name="z")(hidden), hidden, layers.Dense(3, name="a")(hidden), hidden]
    record = check_export(
        scramble(keras.Model(sequence, outputs)), lowering, {"sequence": random_floats(1, 5, 3)}, tmp_path
    )
    assert [spec.name for spec in record.signature.outputs] == ["z", "m", "a", "m_1"]
    assert record.keras_outputs == {"z": "z", "m": "m", "a": "a", "m_1": "m"}


def test_find_recurrent_names_paths_and_kinds() -> None:
    stack = layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], name="stack", return_sequences=True)
    model = sequential(stack, layers.Bidirectional(layers.LSTM(2, name="lstm"), name="both"))
    assert [(item.path, item.kind) for item in find_recurrent(model)] == [
        ("stack", "RNN(LSTMCell, GRUCell)"),
        ("both/forward_lstm", "LSTM"),
        ("both/backward_lstm", "LSTM"),
    ]


class OwnCell(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.state_size = 3

    def call(self, inputs: Any, states: Any) -> Any:
        return states[0] + inputs, [states[0] + inputs]


class OwnLoop(layers.GRU):
    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        return super().call(sequences * 2)


class Average(layers.Layer):
    def call(self, sequence: Any) -> Any:
        return keras.ops.mean(sequence, axis=1)


class Peephole(layers.LSTMCell):
    """Leaves `call` alone, and its gates look at the carry."""

    def _compute_carry_and_output_fused(self, z: Any, c_tm1: Any) -> Any:
        return super()._compute_carry_and_output_fused(tuple(item + c_tm1 for item in z), c_tm1)


class ResidualCells(layers.StackedRNNCells):
    def call(self, inputs: Any, states: Any, training: bool = False, **settings: Any) -> Any:
        output, new_states = super().call(inputs, states, training=training, **settings)
        return output + inputs, new_states


class FromOnes(layers.LSTM):
    def get_initial_state(self, batch_size: int) -> Any:
        return [keras.ops.ones((batch_size, self.units))] * 2


def with_states() -> Any:
    sequence, state = keras.Input((7, 3), name="sequence"), keras.Input((4,), name="state")
    return keras.Model([sequence, state], layers.GRU(4, name="memory")(sequence, initial_state=[state]))


def decoder() -> Any:
    sequence = keras.Input((7, 3), name="sequence")
    hidden = layers.RepeatVector(7)(layers.LSTM(4)(sequence))
    return keras.Model(sequence, layers.LSTM(4, return_sequences=True, name="decoder")(hidden))


def joined() -> Any:
    sequence = keras.Input((7, 3), name="sequence")
    every, last = layers.LSTM(4, return_sequences=True)(sequence), layers.LSTM(4)(sequence)
    return keras.Model(sequence, layers.Add(name="both")([every, layers.Reshape((1, 4))(last)]))


REFUSED: list[tuple[Any, Lowering, str, str]] = [
    (lambda: sequential(layers.RNN(OwnCell(), name="counting")), Lowering.WHILE, "counting", "OwnCell"),
    (lambda: sequential(OwnLoop(2, name="own")), Lowering.UNROLL, "own", "its own call"),
    (
        lambda: sequential(layers.ConvLSTM1D(2, 3, name="images"), shape=(4, 6, 2)),
        Lowering.WHILE,
        "images",
        "convolves",
    ),
    (lambda: sequential(layers.GRU(2, name="g")), Lowering.FUSED, "g", "is an LSTM"),
    (lambda: sequential(layers.LSTM(2, activation="relu", name="l")), Lowering.FUSED, "l", "tanh and sigmoid"),
    (lambda: sequential(layers.LSTM(2, return_state=True, name="l")), Lowering.FUSED, "l", "cell state"),
    (lambda: sequential(layers.Masking(), layers.LSTM(2, name="l")), Lowering.FUSED, "l", "mask"),
    (lambda: sequential(layers.LSTM(2, name="l"), shape=(2000, 3)), Lowering.UNROLL, "l", "2000 steps"),
    (with_states, Lowering.STEP, "memory", "initial states"),
    (lambda: sequential(layers.RNN(Peephole(2), name="p")), Lowering.WHILE, "p", "Peephole"),
    (
        lambda: sequential(layers.RNN(ResidualCells([layers.GRUCell(3)] * 2), name="r")),
        Lowering.WHILE,
        "r",
        "ResidualCells",
    ),
    (lambda: sequential(FromOnes(2, name="f")), Lowering.FUSED, "f", "initial states of its own"),
    (lambda: sequential(FromOnes(2, name="f")), Lowering.STEP, "f", "initial states of its own"),
    (
        lambda: sequential(layers.GRU(2, return_sequences=True), layers.Softmax(axis=-2, name="s")),
        Lowering.STEP,
        "s",
        "along the time axis",
    ),
    (decoder, Lowering.STEP, "repeat_vector", "rearranges|decoder"),
    (joined, Lowering.STEP, "both", "joins"),
    (lambda: sequential(layers.Bidirectional(layers.GRU(2), name="b")), Lowering.STEP, "b", "from its end"),
    (lambda: sequential(layers.GRU(2, go_backwards=True, name="g")), Lowering.STEP, "g", "from its end"),
    (
        lambda: sequential(layers.Conv1D(2, 3, padding="causal", name="c"), layers.GRU(2)),
        Lowering.STEP,
        "c",
        "3 time steps",
    ),
    (
        lambda: sequential(layers.GRU(2, return_sequences=True), layers.GlobalMaxPooling1D(name="p")),
        Lowering.STEP,
        "p",
        "together",
    ),
    (
        lambda: sequential(layers.GRU(2, return_sequences=True), layers.Flatten(name="f")),
        Lowering.STEP,
        "f",
        "rearranges",
    ),
    (
        lambda: sequential(layers.TimeDistributed(layers.GRU(2, name="inner"), name="outer"), shape=(4, 5, 3)),
        Lowering.STEP,
        "outer/inner",
        "axis of its own",
    ),
]


@pytest.mark.parametrize(("build", "lowering", "layer", "reason"), REFUSED)
def test_refusals_name_layer_reason_and_way_out(
    build: Any, lowering: Lowering, layer: str, reason: str, tmp_path: Path
) -> None:
    import re

    model = build()
    refusals = find_refusals(model, lowering)
    assert refusals, "nothing was refused"
    names = [item.layer for item in refusals]
    if layer == "repeat_vector":
        assert "decoder" in names
    else:
        assert layer in names
        assert re.search(reason, next(item.reason for item in refusals if item.layer == layer))
    assert all(item.todo.endswith(".") and item.reason.endswith(".") for item in refusals)
    with pytest.raises(RefusedError, match=f"lowered as {lowering.value}") as caught:
        export(model, tmp_path / "export", lowering)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "export").exists()
    assert lowering not in allowed_lowerings(model)


def test_step_by_step_difference_is_found_by_running(tmp_path: Path) -> None:
    sequence = keras.Input((7, 3), name="sequence")
    hidden = layers.GRU(4, return_sequences=True)(sequence)
    model = scramble(keras.Model(sequence, layers.Dense(2, name="label")(Average(name="mine")(hidden))))
    assert find_refusals(model, Lowering.STEP) == []
    with pytest.raises(RefusedError, match=r"'label' differs by .*'mine' \(Average\)"):
        export(model, tmp_path, Lowering.STEP)
    check_export(model, Lowering.WHILE, {"sequence": random_floats(1, 7, 3)}, tmp_path)


def test_layer_that_cannot_be_traced_is_named(tmp_path: Path) -> None:
    class Eager(layers.Layer):
        def call(self, x: Any) -> Any:
            return x * float(np.asarray(x).mean()) if not isinstance(x, keras.KerasTensor) else x

    model = sequential(Eager(name="eager"), layers.Dense(2))
    with pytest.raises(StageError, match="Eager"):
        export(model, tmp_path, Lowering.NONE)


def test_export_replaces_what_was_there_and_damage_is_seen(tmp_path: Path) -> None:
    model = sequential(layers.GRU(4))
    export(model, tmp_path, Lowering.WHILE)
    record = export(model, tmp_path, Lowering.UNROLL)
    assert read_export(tmp_path) == record
    assert record.lowering is Lowering.UNROLL
    answers = tflite_answers(record, {"sequence": random_floats(1, 7, 3)})
    expected = keras_answers(model, {"sequence": random_floats(1, 7, 3)})
    assert answers.keys() == expected.keys()
    value = json.loads((tmp_path / "export.json").read_text())
    del value["signature"]["inputs"]
    (tmp_path / "export.json").write_text(json.dumps(value))
    with pytest.raises(UsageError, match=r"export\.json"):
        read_export(tmp_path)
    (tmp_path / "saved_model" / "saved_model.pb").unlink()
    with pytest.raises(UsageError, match="SavedModel"):
        read_export(tmp_path)


def test_names_are_plain_and_unique() -> None:
    assert unique_names(["a b", "a_b", "1x", "", "a.b"]) == ["a_b", "a_b_1", "t1x", "tensor", "a_b_2"]


def test_importing_the_package_is_light_and_another_backend_is_refused() -> None:
    code = (
        "import sys, edge_dl.converters as c; c.Export; assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
        "import os; os.environ['KERAS_BACKEND'] = 'jax'; import keras\n"
        "from edge_dl.variants import Lowering\n"
        "model = keras.Sequential([keras.Input((3, 2)), keras.layers.Dense(1)])\n"
        "try: c.export(model, 'nowhere', Lowering.NONE)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("UsageError"), result.stderr
    assert "KERAS_BACKEND=tensorflow" in result.stdout
