"""Small .tflite files made with TensorFlow, with their answers computed in NumPy where that is the point.

TensorFlow is imported inside the functions: a test that needs no model does not pay for it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Manifest, Signature, StateSpec, TensorSpec, write_bundle
from edge_dl.runtime.agent import Interpreter, Spec

FEATURES, UNITS, STEPS, CLASSES = 3, 5, 7, 4
VOCABULARY = ("<unk>", "\n", " ", "a", "b", "c", "\\", "é")


def tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


def convert(
    function: Any,
    key: str,
    folder: Path,
    *,
    quantization: str = "float32",
    samples: Sequence[dict] = (),
    io: bool = False,
) -> bytes:
    """Convert a tf.function over constants, with one signature."""
    tf = tensorflow()
    module = tf.Module()
    module.function = function
    module.variables_in_use = getattr(function, "variables_in_use", None)
    tf.saved_model.save(module, str(folder), signatures={key: function})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[key])
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization in ("int8", "int16x8"):
        converter.representative_dataset = lambda: iter(samples)
        sets = {
            "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        }
        converter.target_spec.supported_ops = [sets[quantization]]
        if io:
            kind = tf.int8 if quantization == "int8" else tf.int16
            converter.inference_input_type = converter.inference_output_type = kind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The calibrator uses tf.lite.Interpreter, which announces its end.
        return converter.convert()


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32") * 0.4


def conv_function(batch: int | None = 1) -> Any:
    tf = tensorflow()
    kernel, dense = weights(1, 3, 3, 1, 4), weights(2, 144, CLASSES)

    @tf.function(input_signature=[tf.TensorSpec((batch, 8, 8, 1), tf.float32, name="image")])
    def predict(image: Any) -> dict[str, Any]:
        hidden = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "VALID"))
        return {"label": tf.matmul(tf.reshape(hidden, (-1, 144)), dense)}

    return predict


def conv_reference(images: np.ndarray) -> np.ndarray:
    """(n, 8, 8, 1) -> (n, CLASSES), in float64."""
    kernel, dense = weights(1, 3, 3, 1, 4).astype(float), weights(2, 144, CLASSES).astype(float)
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0].astype(float), (3, 3), axis=(1, 2))
    hidden = np.maximum(np.einsum("nhwab,abk->nhwk", windows, kernel[:, :, 0]), 0)
    return hidden.reshape(len(images), -1) @ dense


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 1)).astype("float32")


def step_function(batch: int = 1) -> Any:
    """One LSTM step (gates i, f, c, o) with two outputs: `label` (last) and `frames` (each; time axis 1)."""
    tf = tensorflow()
    kernel, recurrent = weights(3, FEATURES, 4 * UNITS), weights(4, UNITS, 4 * UNITS)
    head, frame = weights(5, UNITS, CLASSES), weights(6, UNITS, 2)

    @tf.function(
        input_signature=[
            tf.TensorSpec((batch, 1, FEATURES), tf.float32, name="sequence"),
            tf.TensorSpec((batch, UNITS), tf.float32, name="state_0"),
            tf.TensorSpec((batch, UNITS), tf.float32, name="state_1"),
        ]
    )
    def step(sequence: Any, state_0: Any, state_1: Any) -> dict[str, Any]:
        gates = tf.matmul(sequence[:, 0], kernel) + tf.matmul(state_0, recurrent)
        i, f, c, o = tf.split(gates, 4, axis=1)
        cell = tf.sigmoid(f) * state_1 + tf.sigmoid(i) * tf.tanh(c)
        hidden = tf.sigmoid(o) * tf.tanh(cell)
        return {
            "label": tf.matmul(hidden, head),
            "frames": tf.matmul(hidden, frame)[:, tf.newaxis],
            "next_state_0": hidden,
            "next_state_1": cell,
        }

    return step


def lstm_reference(sequences: np.ndarray) -> dict[str, np.ndarray]:
    """(n, T, FEATURES) -> label (n, CLASSES), frames (n, T, 2), states after every step."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    kernel, recurrent = weights(3, FEATURES, 4 * UNITS).astype(float), weights(4, UNITS, 4 * UNITS).astype(float)
    hidden = cell = np.zeros((len(sequences), UNITS))
    frames, states = [], []
    for step in range(sequences.shape[1]):
        i, f, c, o = np.split(sequences[:, step] @ kernel + hidden @ recurrent, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = sigmoid(o) * np.tanh(cell)
        frames.append(hidden @ weights(6, UNITS, 2))
        states.append((hidden, cell))
    return {"label": hidden @ weights(5, UNITS, CLASSES), "frames": np.stack(frames, 1), "states": states}


def sequences(count: int, steps: int = STEPS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, steps, FEATURES)).astype("float32")


def step_samples() -> list[dict]:
    """Calibration samples of the step model, with states as they come up."""
    data = sequences(20, seed=9)
    states = [(np.zeros((20, UNITS)), np.zeros((20, UNITS))), *lstm_reference(data)["states"]]
    return [
        {
            "sequence": data[n : n + 1, t : t + 1],
            "state_0": states[t][0][n : n + 1].astype("float32"),
            "state_1": states[t][1][n : n + 1].astype("float32"),
        }
        for n in range(20)
        for t in range(STEPS)
    ]


def two_function(batch: int | None = 1) -> Any:
    tf = tensorflow()

    @tf.function(
        input_signature=[
            tf.TensorSpec((batch, 3), tf.float32, name="left"),
            tf.TensorSpec((batch, 2), tf.int32, name="right"),
        ]
    )
    def predict(left: Any, right: Any) -> dict[str, Any]:
        total = tf.reduce_sum(left, 1, keepdims=True)
        return {"scaled": left * 2.0 + tf.cast(right[:, :1], tf.float32), "count": right + tf.cast(total, tf.int32)}

    return predict


def language_function() -> Any:
    """A character model: one tanh recurrence; logits at every step."""
    tf = tensorflow()
    size = len(VOCABULARY)
    embedding, recurrent, head = weights(7, size, UNITS) * 5, weights(8, UNITS, UNITS) * 2, weights(9, UNITS, size) * 5

    @tf.function(
        input_signature=[
            tf.TensorSpec((1, 1), tf.int32, name="tokens"),
            tf.TensorSpec((1, UNITS), tf.float32, name="state_0"),
        ]
    )
    def step(tokens: Any, state_0: Any) -> dict[str, Any]:
        hidden = tf.tanh(tf.gather(embedding, tokens[:, 0]) + tf.matmul(state_0, recurrent))
        return {"next": tf.matmul(hidden, head)[:, tf.newaxis], "next_state_0": hidden}

    return step


def language_reference(tokens: Sequence[int]) -> np.ndarray:
    """Logits (T, vocabulary) after each token."""
    size = len(VOCABULARY)
    embedding, recurrent, head = weights(7, size, UNITS) * 5, weights(8, UNITS, UNITS) * 2, weights(9, UNITS, size) * 5
    hidden, found = np.zeros(UNITS), []
    for token in tokens:
        hidden = np.tanh(embedding[token] + hidden @ recurrent)
        found.append(hidden @ head)
    return np.array(found)


def fused_function() -> Any:
    """A whole-sequence LSTM as the fused operator, whose states are variables inside the model."""
    tf = tensorflow()
    kernel = tf.Variable(weights(3, FEATURES, 4 * UNITS))
    recurrent = tf.Variable(weights(4, UNITS, 4 * UNITS))
    bias = tf.Variable(np.zeros(4 * UNITS, "float32"))
    attributes = {"api_implements": "lstm_5f2b", "time_major": False, "go_backwards": False}

    @tf.function(experimental_attributes=attributes, autograph=False)
    def lstm(inputs: Any, init_h: Any, init_c: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
        h, c = init_h, init_c
        outputs = []
        for step in range(STEPS):
            gates = tf.matmul(inputs[:, step], kernel) + tf.matmul(h, recurrent_kernel) + bias
            i, f, g, o = tf.split(gates, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            outputs.append(h)
        return h, tf.stack(outputs, 1), h, c, tf.constant(0.0)

    zeros = np.zeros((1, UNITS), "float32")

    @tf.function(input_signature=[tf.TensorSpec((1, STEPS, FEATURES), tf.float32, name="sequence")])
    def predict(sequence: Any) -> dict[str, Any]:
        call = (sequence, tf.constant(zeros), tf.constant(zeros))
        last = lstm(*call, kernel.read_value(), recurrent.read_value(), bias.read_value())[0]
        return {"label": tf.matmul(last, weights(5, UNITS, CLASSES))}

    predict.variables_in_use = [kernel, recurrent, bias]
    return predict


def without_signature(model: bytes) -> bytes:
    tensorflow()
    from tensorflow.lite.tools import flatbuffer_utils

    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    parsed.signatureDefs = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def two_signatures(folder: Path) -> bytes:
    """Signatures `plus` and `times`, the second in a subgraph of its own."""
    tf = tensorflow()
    module = tf.Module()
    spec = tf.TensorSpec((1, 3), tf.float32, name="x")
    module.plus = tf.function(lambda x: {"y": x + 1.0}, input_signature=[spec])
    module.times = tf.function(lambda x: {"y": x * 3.0}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"plus": module.plus, "times": module.times})
    return tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()


Builder = Callable[[Path], bytes]

BUILDERS: dict[str, Builder] = {
    "conv-float32": lambda folder: convert(conv_function(), "predict", folder),
    "conv-int8": lambda folder: convert(
        conv_function(), "predict", folder, quantization="int8", samples=conv_samples()
    ),
    "conv-int8-io": lambda folder: convert(
        conv_function(), "predict", folder, quantization="int8", samples=conv_samples(), io=True
    ),
    "conv-int16x8": lambda folder: convert(
        conv_function(), "predict", folder, quantization="int16x8", samples=conv_samples()
    ),
    "conv-batch4": lambda folder: convert(conv_function(4), "predict", folder),
    "conv-free": lambda folder: convert(conv_function(None), "predict", folder),
    "conv-nameless": lambda folder: without_signature(convert(conv_function(), "predict", folder)),
    "two": lambda folder: convert(two_function(), "predict", folder),
    "two-free": lambda folder: convert(two_function(None), "predict", folder),
    "two-nameless": lambda folder: without_signature(convert(two_function(), "predict", folder)),
    "step-float32": lambda folder: convert(step_function(), "step", folder),
    "step-batch2": lambda folder: convert(step_function(2), "step", folder),
    "step-int8-io": lambda folder: convert(
        step_function(), "step", folder, quantization="int8", samples=step_samples(), io=True
    ),
    "step-int16x8-io": lambda folder: convert(
        step_function(), "step", folder, quantization="int16x8", samples=step_samples(), io=True
    ),
    "language": lambda folder: convert(language_function(), "step", folder),
    "fused": lambda folder: convert(fused_function(), "predict", folder),
    "signatures": two_signatures,
}


def conv_samples() -> list[dict]:
    return [{"image": image[np.newaxis]} for image in images(50, seed=5)]


STATES = (("state_0", "next_state_0"), ("state_1", "next_state_1"))


def bundle_of(folder: Path, model: Path, golden: tuple[dict, dict], **settings: Any) -> Path:
    """A bundle around a .tflite, its signature read from the model."""
    interpreter = Interpreter(model)
    states = settings.pop("states", ())

    def specs(edges: dict[str, Spec], taken: set[str]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(*spec) for name, spec in edges.items() if name not in taken)

    described = []
    for source, target in states:
        before, after = interpreter.inputs[source], interpreter.outputs[target]
        given = (before.shape, before.dtype, before.scale, before.zero_point, after.scale, after.zero_point)
        described.append(StateSpec(source, target, *given))
    signature = Signature(
        key=interpreter.signature,
        inputs=specs(interpreter.inputs, {source for source, _ in states}),
        outputs=specs(interpreter.outputs, {target for _, target in states}),
        states=tuple(described),
    )
    labels = settings.pop("labels", ())
    fields = {"name": "test", "variant": "float32", "lowering": "none", "quantization": "float32", "task": "regression"}
    manifest = Manifest(**{**fields, **settings, "signature": signature})
    write_bundle(folder, model.read_bytes(), manifest, golden_inputs=golden[0], golden_outputs=golden[1], labels=labels)
    return folder
