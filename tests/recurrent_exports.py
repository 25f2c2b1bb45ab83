"""Small LSTM exports written by hand with TensorFlow, one a lowering, and the same network in NumPy."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import SequenceSpec, Signature, StateSpec, TensorSpec
from edge_dl.converters.exporting import RECORD, Export
from edge_dl.files import write_json
from edge_dl.variants import Lowering

STEPS, FEATURES, UNITS, CLASSES = 10, 6, 24, 5


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {
        "kernel": (FEATURES, 4 * UNITS),
        "recurrent": (UNITS, 4 * UNITS),
        "bias": (4 * UNITS,),
        "dense": (UNITS, CLASSES),
    }
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[0] if len(shape) == 2 else 4)).astype("float32")
        for name, shape in shapes.items()
    }


def sequences(count: int, seed: int = 0) -> np.ndarray:
    """Random walks, (count, STEPS, FEATURES)."""
    return np.cumsum(np.random.default_rng(seed).normal(0, 0.4, (count, STEPS, FEATURES)), axis=1).astype("float32")


def reference(x: np.ndarray) -> np.ndarray:
    """The network in float64: (n, STEPS, FEATURES) -> (n, CLASSES)."""
    w = {name: value.astype("float64") for name, value in weights().items()}
    hidden = cell = np.zeros((len(x), UNITS))
    for step in range(x.shape[1]):
        i, f, g, o = np.split(x[:, step] @ w["kernel"] + w["bias"] + hidden @ w["recurrent"], 4, axis=1)
        cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        hidden = np.tanh(cell) / (1 + np.exp(-o))
    return hidden @ w["dense"]


def build(folder: Path, lowering: Lowering) -> Export:
    """Write the network as a SavedModel in a lowering, with its record."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    module = tf.Module()
    module.w = {name: tf.Variable(value) for name, value in weights().items()}
    whole = tf.TensorSpec((1, STEPS, FEATURES), name="sequence")
    function = _FUNCTIONS[lowering](tf, module.w)
    states: tuple[StateSpec, ...] = ()
    sequence = None
    if lowering is Lowering.STEP:
        specs = [tf.TensorSpec((1, 1, FEATURES), name="sequence")]
        specs += [tf.TensorSpec((1, UNITS), name=f"state_{index}") for index in range(2)]
        states = tuple(StateSpec(f"state_{index}", f"next_state_{index}", (1, UNITS)) for index in range(2))
        sequence = SequenceSpec(("sequence",), STEPS, {"label": "last"})
    else:
        specs = [whole]
    key = "step" if states else "predict"
    traced = tf.function(function, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(folder / "saved_model"), signatures={key: traced})
    shape = (1, 1 if states else STEPS, FEATURES)
    record = Export(
        folder=folder,
        lowering=lowering,
        batch=1,
        signature=Signature(key, (TensorSpec("sequence", shape),), (TensorSpec("label", (1, CLASSES)),), states),
        sequence=sequence,
    )
    write_json(folder / RECORD, record.to_json())
    return record


def _cell(tf: Any, z: Any, cell: Any) -> tuple[Any, Any]:
    i, f, g, o = tf.split(z, 4, axis=-1)
    cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(cell), cell


def _while(tf: Any, w: Any) -> Any:
    def predict(sequence: Any) -> dict[str, Any]:
        projected = tf.matmul(tf.reshape(sequence, (STEPS, FEATURES)), w["kernel"]) + w["bias"]

        def body(step: Any, hidden: Any, cell: Any) -> tuple[Any, Any, Any]:
            z = tf.gather(projected, tf.reshape(step, (1,))) + tf.matmul(hidden, w["recurrent"])
            hidden, cell = _cell(tf, tf.reshape(z, (1, 4 * UNITS)), cell)
            return step + 1, hidden, cell

        start = (tf.constant(0), tf.zeros((1, UNITS)), tf.zeros((1, UNITS)))
        _, hidden, _ = tf.while_loop(lambda step, *_: step < STEPS, body, start, maximum_iterations=STEPS)
        return {"label": tf.matmul(hidden, w["dense"])}

    return predict


def _unroll(tf: Any, w: Any) -> Any:
    def predict(sequence: Any) -> dict[str, Any]:
        hidden = cell = tf.zeros((1, UNITS))
        for x in tf.unstack(sequence, axis=1):
            # The bias goes with the state on purpose: each step's matrix product then has another input scale.
            z = tf.matmul(x, w["kernel"]) + (tf.matmul(hidden, w["recurrent"]) + w["bias"])
            hidden, cell = _cell(tf, z, cell)
        return {"label": tf.matmul(hidden, w["dense"])}

    return predict


def _fused(tf: Any, w: Any) -> Any:
    attributes = {"api_implements": f"lstm_{uuid.uuid4()}", "time_major": False, "go_backwards": False}

    @tf.function(experimental_attributes=attributes, autograph=False)
    def lstm(inputs: Any, hidden: Any, cell: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, ...]:
        outputs = []
        for x in tf.unstack(inputs, axis=1):
            hidden, cell = _cell(tf, tf.matmul(x, kernel) + tf.matmul(hidden, recurrent) + bias, cell)
            outputs.append(hidden)
        return hidden, tf.stack(outputs, 1), hidden, cell, tf.constant(0.0)

    def predict(sequence: Any) -> dict[str, Any]:
        zero = tf.zeros((1, UNITS))
        values = (w[name].read_value() for name in ("kernel", "recurrent", "bias"))
        return {"label": tf.matmul(lstm(sequence, zero, zero, *values)[0], w["dense"])}

    return predict


def _step(tf: Any, w: Any) -> Any:
    def step(sequence: Any, state_0: Any, state_1: Any) -> dict[str, Any]:
        x = tf.reshape(sequence, (1, FEATURES))
        z = tf.matmul(x, w["kernel"]) + w["bias"] + tf.matmul(state_0, w["recurrent"])
        hidden, cell = _cell(tf, z, state_1)
        return {"label": tf.matmul(hidden, w["dense"]), "next_state_0": hidden, "next_state_1": cell}

    return step


_FUNCTIONS = {Lowering.WHILE: _while, Lowering.UNROLL: _unroll, Lowering.FUSED: _fused, Lowering.STEP: _step}
