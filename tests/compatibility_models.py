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
