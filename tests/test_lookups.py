"""Tables that GATHER reads become int8, whatever else the model does with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_dl.converters import packing, tensors
from edge_dl.converters.acceptance import check_runs
from edge_dl.converters.lookups import quantize_lookups
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.weights import quantize_weights

ROWS, SIZE = 40, 16
LOWERINGS = ("unroll", "step")


def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, SIZE)).astype("float32")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A float32 .tflite that looks two inputs up in one table, and gives the scores of the second against the table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    module = tf.Module()
    module.table = tf.Variable(table())

    def predict(first: Any, second: Any) -> dict[str, Any]:
        rows = tf.gather(module.table, second)
        scores = tf.matmul(rows, module.table, transpose_b=True)
        return {"rows": tf.gather(module.table, first), "scores": scores}

    specs = [tf.TensorSpec((3,), tf.int32, name=name) for name in ("first", "second")]
    folder = str(tmp_path_factory.mktemp("lookup"))
    tf.saved_model.save(module, folder, signatures={"predict": tf.function(predict, input_signature=specs)})
    return bytes(tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["predict"]).convert())


def answers(content: bytes) -> dict[str, np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    result: dict[str, np.ndarray] = interpreter.get_signature_runner("predict")(
        first=np.array([0, 7, 39], np.int32), second=np.array([7, 7, 1], np.int32)
    )
    return result


def test_rows_differ_by_half_a_step_at_most(content: bytes) -> None:
    model = tensors.read(content)
    assert quantize_lookups(model) == 2
    changed = packing.pack(model)
    model = tensors.read(changed)
    got, expected = answers(changed), answers(content)
    half = np.abs(table()).max() / 127 / 2
    worst = np.abs(got["rows"] - expected["rows"]).max()
    assert 0 < worst <= half * 1.001
    np.testing.assert_array_equal(expected["rows"], table()[[0, 7, 39]])
    # The scores still take the float32 table, which stays; the int8 one is there once.
    assert tensors.count_weights(model).elements == {"float32": ROWS * SIZE, "int8": ROWS * SIZE}
    assert tensors.operator_names(model)["DEQUANTIZE"] == 2


def test_what_is_no_lookup_of_floats_is_left_alone(content: bytes) -> None:
    model = tensors.read(content)
    quantize_lookups(model)
    assert quantize_lookups(model) == 0
    model = tensors.read(content)
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            operator.inputs[0] = subgraph.inputs[0]  # Rows of something that is computed.
    assert quantize_lookups(model) == 0


def test_dynamic_holds_no_float_table(content: bytes, tmp_path: Path) -> None:
    made = quantize_weights(content, 8, QuantizationOptions())
    assert set(tensors.count_weights(tensors.read(made)).elements) == {"int8"}
    expected = answers(content)["scores"]
    np.testing.assert_allclose(answers(made)["scores"], expected, atol=0.02 * np.abs(expected).max())


def test_masks_and_encodings_are_no_weights(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(table()[:SIZE])
    causal, positions = np.tril(np.ones((SIZE, SIZE), bool)), table()[:SIZE]

    def predict(x: Any) -> dict[str, Any]:
        scores = tf.matmul(x + positions, module.kernel)
        return {"y": tf.where(causal, scores, -1e9), "log": tf.math.log(x)}  # Zero is not for every model.

    folder = str(tmp_path / "saved_model")
    serve = tf.function(predict, input_signature=[tf.TensorSpec((SIZE, SIZE), name="x")])
    tf.saved_model.save(module, folder, signatures={"predict": serve})
    made = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["predict"]).convert()
    assert tensors.count_weights(tensors.read(made)).elements == {"float32": SIZE * SIZE}
    dynamic = quantize_weights(made, 8, QuantizationOptions())
    assert tensors.count_weights(tensors.read(dynamic)).elements == {"int8": SIZE * SIZE}
    (tmp_path / "m.tflite").write_bytes(dynamic)
    check_runs(tmp_path / "m.tflite")


@pytest.fixture(scope="module")
def tokens() -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(0).integers(0, ROWS, (40, 6)).astype("int32")}


def network(classes: int, sequences: bool) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32", name="tokens")
    h = keras.layers.Embedding(ROWS, SIZE, embeddings_initializer="random_normal")(inputs)
    h = keras.layers.GRU(12, return_sequences=sequences)(h)
    answer = keras.layers.Dense(classes, activation="softmax", kernel_initializer="random_normal")(h)
    return keras.Model({"tokens": inputs}, {"answer": answer})


@pytest.mark.slow
def test_a_network_of_tokens_has_int16_activations(tmp_path: Path, tokens: dict[str, np.ndarray]) -> None:
    from edge_dl.converters import convert
    from edge_dl.runtime import open_session

    model = network(4, sequences=False)
    model.save(tmp_path / "model.keras")
    made = convert(
        tmp_path / "model.keras", tmp_path / "run", lowering=LOWERINGS, quantization="int16x8", data=tokens
    )  # fmt: skip
    assert {outcome.variant: outcome.message for outcome in made} == {f"{name}-int16x8": "" for name in LOWERINGS}
    expected = np.asarray(model(tokens)["answer"])
    for outcome in made:
        bundle = tmp_path / "run" / "variants" / outcome.variant
        assert set(tensors.count_weights(tensors.read((bundle / "model.tflite").read_bytes())).elements) == {"int8"}
        np.testing.assert_allclose(open_session(bundle).predict(tokens)["answer"], expected, atol=2e-3)


@pytest.mark.slow
def test_a_language_model_keeps_small_probabilities(tmp_path: Path, tokens: dict[str, np.ndarray]) -> None:
    from edge_dl.converters import convert
    from edge_dl.runtime import open_session

    model = network(700, sequences=True)
    model.save(tmp_path / "model.keras")
    expected = np.asarray(model(tokens)["answer"])
    assert expected.max() < 1 / 512  # All of them would be 0 in steps of 1/256.
    made = convert(
        tmp_path / "model.keras", tmp_path / "run", lowering=LOWERINGS, quantization="int8", data=tokens,
        task="language-model",
    )  # fmt: skip
    assert {outcome.variant: outcome.message for outcome in made} == {f"{name}-int8": "" for name in LOWERINGS}
    for outcome in made:
        got = open_session(tmp_path / "run" / "variants" / outcome.variant).predict(tokens)["answer"]
        np.testing.assert_allclose(got, expected, rtol=0.1)
