"""Small Keras models to convert in every way that there is, and files that name one operator version each."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.files import save_npz

STEPS, FEATURES, CLASSES = 2, 8, 3
NAMES = ("lstm", "gru", "rnn", "conv", "decoder")
HIGHEST_VERSION = 15


def build(name: str) -> Any:
    """A Keras model; in `conv` and `gru` rows of dense weights are long enough to get one scale each by default."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    if name == "conv":
        x = keras.Input((12, 12, 3), name="image")
        h = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        h = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(h)
        h = layers.MaxPooling2D()(h)
        h = layers.LayerNormalization()(layers.Flatten()(h))
        return keras.Model(x, layers.Dense(CLASSES, activation="softmax", name="label")(h))
    if name == "decoder":
        x = keras.Input((4, 4, 8), name="image")
        h = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
        return keras.Model(x, layers.Conv2D(3, 3, activation="sigmoid", name="picture")(layers.UpSampling2D()(h)))
    x = keras.Input((STEPS, FEATURES), name="sequence")
    cell = {"lstm": layers.LSTM, "gru": layers.GRU, "rnn": layers.SimpleRNN}[name]
    h = cell(96 if name == "gru" else 24)(x)
    return keras.Model(x, layers.Dense(CLASSES, activation="softmax", name="label")(h))


def save(name: str, run: Path) -> Path:
    """Write the model, and random data for calibration where the export stage looks for it; gives the model's path."""
    model = build(name)
    path = run / f"{name}.keras"
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    (entry,) = model.inputs
    x = np.random.default_rng(0).normal(size=(20, *entry.shape[1:])).astype("float32")
    for split in ("train", "test"):
        save_npz(run / "data" / f"{split}.npz", {f"x/{entry.name}": x})
    return path


def operator_files() -> dict[str, list[str]]:
    """For every builtin of the schema: .tflite files in base64 whose only operator code is its version 1, 2, ..."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    codes = {name: number for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    for name in ("CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"):
        del codes[name]

    def file(number: int, version: int) -> str:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        tensor = schema.TensorT()
        tensor.shape, tensor.name = [1], b"x"
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [0], [0], []
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
        builder = flatbuffers.Builder(512)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return base64.b64encode(bytes(builder.Output())).decode()

    return {name: [file(number, version + 1) for version in range(HIGHEST_VERSION)] for name, number in codes.items()}


HALF_SIZE = 64
# What a graph does with its float16 constants, by name: "weights" are packed when the graph is made, others are read
# when it runs. "loop" is one graph with a constant of its own and a loop whose body has another.
HALF_GRAPHS = ("weights", "none", "loop", "add", "sub", "mul", "div", "maximum", "minimum", "difference", "concat",
               "matmul")  # fmt: skip


def half_model(folder: Path, first: str, second: str = "") -> bytes:
    """A float16 model with the signature `one`, and `two` where a second graph is named; see HALF_GRAPHS."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    module = tf.Module()
    graphs = {}
    for number, (key, name) in enumerate((("one", first), ("two", second))):
        if name:
            graphs[key] = tf.function(_half_graph(name, number), input_signature=[
                tf.TensorSpec((1, HALF_SIZE), tf.float32, name="x")])  # fmt: skip
            setattr(module, key, graphs[key])
    tf.saved_model.save(module, str(folder), signatures=graphs)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(graphs))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def half_constants(number: int) -> np.ndarray:
    """Two rows of constants, other ones for each graph, none of them near zero."""
    values = np.random.default_rng(number).uniform(1, 2, (2, HALF_SIZE))
    return values.astype("float16").astype("float32")


def loop_answer(x: np.ndarray) -> np.ndarray:
    """What the graph "loop" of number 0 answers."""
    scale, factor = half_constants(0).astype(float)
    x = x * scale
    for _ in range(3):
        x = np.tanh(x * factor)
    return x


def _half_graph(name: str, number: int) -> Any:
    import tensorflow as tf

    one, other = half_constants(number)[:, None]
    weights = np.random.default_rng(9 + number).standard_normal((HALF_SIZE, HALF_SIZE)).astype("float32")
    made = {
        "none": tf.tanh,
        "weights": lambda x: tf.matmul(x, weights),
        "add": lambda x: x + one,
        "sub": lambda x: one - x,
        "mul": lambda x: x * one,
        "div": lambda x: x / one,
        "maximum": lambda x: tf.maximum(x, one - 1),
        "minimum": lambda x: tf.minimum(x, one - 2),
        "difference": lambda x: tf.math.squared_difference(x, one),
        "concat": lambda x: tf.concat([x, one], 1),
        "matmul": lambda x: tf.matmul(tf.reshape(x, (2, 4, 8)), one.reshape(2, 8, 4)),
        "loop": lambda x: tf.while_loop(
            lambda i, _: i < 3, lambda i, h: (i + 1, tf.tanh(h * other)), (0, x * one)
        )[1],
    }[name]  # fmt: skip
    return lambda x: {"y": made(x)}
