"""Running exports for tests: as a traced TensorFlow function, and as a float32 .tflite in LiteRT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from edge_dl.converters import Export, as_reference, export, lowered
from edge_dl.converters.exporting import describe_inputs, name_outputs
from edge_dl.variants import Lowering

TOLERANCE = 1e-5


def keras_answers(model: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What Keras answers, by our output names."""
    shapes = {name: array.shape[1:] for name, array in inputs.items()}
    described = describe_inputs(model, input_shapes=shapes)
    tensors = described.pack({name: tf.constant(array) for name, array in inputs.items()})
    with as_reference(model):
        return {name: np.asarray(value) for name, value in name_outputs(model, model(tensors, training=False)).items()}


def traced_answers(model: Any, lowering: Lowering, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a lowered model answers as a TensorFlow graph with static shapes."""
    shapes = {name: array.shape[1:] for name, array in inputs.items()}
    batch = len(next(iter(inputs.values())))
    described = describe_inputs(model, batch=batch, input_shapes=shapes)

    def call(**tensors: Any) -> dict[str, Any]:
        return name_outputs(model, model(described.pack(tensors), training=False))

    specs = {spec.name: tf.TensorSpec(spec.shape, spec.dtype) for spec in described.specs}
    with lowered(model, lowering):
        concrete = tf.function(call, autograph=False).get_concrete_function(**specs)
    results = concrete(**{name: tf.constant(array) for name, array in inputs.items()})
    return {name: np.asarray(value) for name, value in results.items()}


def interpreter_of(record: Export) -> Interpreter:
    """The export as float32 .tflite, loaded; made of builtin operators only."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(record.saved_model), signature_keys=[record.signature.key])
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    names = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert not [name for name in names if name.startswith("Flex")]
    return interpreter


def tflite_answers(record: Export, inputs: Mapping[str, np.ndarray], calls: int = 2) -> dict[str, np.ndarray]:
    """What the .tflite answers, a step model step by step; asked twice, since states must not leak."""
    interpreter = interpreter_of(record)
    signature = next(iter(interpreter._get_full_signature_list().values()))
    assert set(signature["inputs"]) == {
        *(spec.name for spec in record.signature.inputs),
        *(state.input for state in record.signature.states),
    }

    def invoke(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, value in values.items():
            interpreter.set_tensor(signature["inputs"][name], value)
        interpreter.reset_all_variables()
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in signature["outputs"].items()}

    for _ in range(calls):
        answers = _steps(record, invoke, inputs) if record.sequence else invoke(inputs)
    for spec in record.signature.outputs:
        assert str(answers[spec.name].dtype) == spec.dtype
    return answers


def _steps(record: Export, invoke: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert record.sequence is not None
    states = {state.input: np.zeros(state.shape, state.dtype) for state in record.signature.states}
    collected: list[dict[str, np.ndarray]] = []
    for index in range(record.sequence.steps):
        now = {
            name: array[:, index : index + 1] if name in record.sequence.inputs else array
            for name, array in inputs.items()
        }
        results = invoke({**now, **states})
        states = {state.input: results[state.output] for state in record.signature.states}
        collected.append(results)
    return {
        name: np.concatenate([item[name] for item in collected], axis=1) if kind == "each" else collected[-1][name]
        for name, kind in record.sequence.outputs.items()
    }


def check_export(
    model: Any, lowering: Lowering, inputs: Mapping[str, np.ndarray], folder: Path, **settings: Any
) -> Export:
    """Export, convert to float32, run, and compare with Keras to 1e-5; returns the record."""
    record = export(model, folder / lowering.value, lowering, batch=len(next(iter(inputs.values()))), **settings)
    expected = keras_answers(model, inputs)
    answers = tflite_answers(record, inputs)
    assert [spec.name for spec in record.signature.outputs] == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(answers[name], value, rtol=0, atol=TOLERANCE, err_msg=f"{lowering.value} {name}")
    return record


def scramble(model: Any, seed: int = 0) -> Any:
    """Give every weight of a model a random value, biases too, so that no term is missed by being zero."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        size = max(1, variable.shape[0] if len(variable.shape) > 1 else 4)
        variable.assign(generator.standard_normal(variable.shape) / np.sqrt(size))
    return model


def random_floats(*shape: int, seed: int = 1) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sequential(*layers: Any, shape: tuple[int | None, ...] = (7, 3), **settings: Any) -> Any:
    """A Sequential model with an input named "sequence" and random weights."""
    return scramble(keras.Sequential([keras.Input(shape, name="sequence", **settings), *layers]))
