"""Every quantization of every lowering: what comes out is what it is called, and answers like the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recurrent_exports as exports
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.bundle import TensorSpec
from edge_dl.converters import calibration, finishing, packing, quantization, repairs, tensors
from edge_dl.converters.acceptance import check_runs
from edge_dl.converters.calibration import Calibration
from edge_dl.converters.exporting import Export
from edge_dl.converters.finishing import Quantized
from edge_dl.converters.float_model import float_model
from edge_dl.converters.options import QuantizationOptions
from edge_dl.errors import RefusedError, StageError, UsageError
from edge_dl.variants import Lowering, Quantization, VariantSpec

SAMPLES = 12


@pytest.fixture(scope="session")
def export_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Lowering], Export]:
    made: dict[Lowering, Export] = {}

    def get(lowering: Lowering) -> Export:
        if lowering not in made:
            made[lowering] = exports.build(tmp_path_factory.mktemp(lowering.value), lowering)
        return made[lowering]

    return get


@pytest.fixture(scope="session")
def samples() -> Calibration:
    return Calibration({"sequence": exports.sequences(60, seed=1)}, np.arange(60))


def run(result: Quantized, x: np.ndarray) -> np.ndarray:
    """Answers of a variant to whole sequences, quantizing at its edge as its signature says; states are passed raw."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(result.path), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(result.signature.key)
    source, target = result.signature.inputs[0], result.signature.outputs[0]

    def encode(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
        if not spec.scale:
            return value.astype(spec.dtype)
        limits = np.iinfo(spec.dtype)
        return np.clip(np.round(value / spec.scale) + spec.zero_point, limits.min, limits.max).astype(spec.dtype)

    def decode(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
        return (value.astype("float32") - spec.zero_point) * spec.scale if spec.scale else value.astype("float32")

    answers = []
    for sample in x:
        interpreter.reset_all_variables()  # The fused LSTM keeps its state between calls.
        if not result.signature.states:
            answers.append(decode(runner(sequence=encode(sample[None], source))["label"], target)[0])
            continue
        states = {item.input: np.full(item.shape, item.zero_point, item.dtype) for item in result.signature.states}
        for step in sample:
            outputs = runner(sequence=encode(step[None, None], source), **states)
            states = {item.input: outputs[item.output] for item in result.signature.states}
        answers.append(decode(outputs["label"], target)[0])
    return np.stack(answers)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


CASES = [
    ("while-float32", 1e-5, 0.0), ("while-float16", 5e-3, 0.0), ("while-dynamic", 0.05, 0.0), ("while-int4", 0.6, 0.0),
    ("unroll-float32", 1e-5, 0.0), ("unroll-dynamic", 0.05, 0.0), ("unroll-int8", 0.0, 0.995),
    ("unroll-int16x8", 0.05, 0.999), ("fused-float32", 1e-5, 0.0), ("fused-float16", 5e-3, 0.0),
    ("fused-dynamic", 0.05, 0.0), ("fused-int8", 0.0, 0.99), ("fused-int8-io", 0.0, 0.99), ("step-float32", 1e-5, 0.0),
    ("step-dynamic", 0.05, 0.0), ("step-int8", 0.0, 0.995), ("step-int8-io", 0.0, 0.995), ("step-int16x8", 0.05, 0.999),
    ("step-int16x8-io", 0.05, 0.999), ("step-int4", 0.6, 0.0),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "max_abs", "min_cosine"), CASES)
def test_a_variant_is_what_it_is_called(
    name: str,
    max_abs: float,
    min_cosine: float,
    export_of: Callable[[Lowering], Export],
    samples: Calibration,
    tmp_path: Path,
) -> None:
    spec = VariantSpec.parse(name)
    result = quantization.quantize(export_of(spec.lowering), spec, tmp_path / "model.tflite", samples)
    x = exports.sequences(SAMPLES, seed=2)
    answer, truth = run(result, x), exports.reference(x)
    if max_abs:
        assert np.abs(answer - truth).max() < max_abs
    assert cosine(answer, truth) > min_cosine
    assert result.tool
    claimed = {"float32": "float32", "float16": "float16", "int4": "int4"}.get(spec.quantization.value, "int8")
    assert set(result.weights) == {claimed}
    edge = {"int8": "int8", "int16x8": "int16"}[spec.quantization.value] if spec.integer_io else "float32"
    assert {item.dtype for item in (*result.signature.inputs, *result.signature.outputs)} == {edge}
    for state in result.signature.states:
        # A session hands the integers on as they are.
        assert (state.scale, state.zero_point) == (state.output_scale, state.output_zero_point)
        assert state.dtype == edge
        assert (state.scale > 0) == spec.integer_io
    model = tensors.read(result.path)
    assert tensors.custom_operators(model) == []
    graph = model.subgraphs[0]
    named = {graph.tensors[index].name.decode() for index in (*graph.inputs, *graph.outputs)}
    signature = result.signature
    assert named == {item.name for item in (*signature.inputs, *signature.outputs)} | {
        name for state in signature.states for name in (state.input, state.output)
    }


@pytest.mark.parametrize(
    ("lowering", "kind", "names"),
    [
        (Lowering.WHILE, Quantization.INT8, ("SIGSEGV", "step-int8", "while-dynamic")),
        (Lowering.WHILE, Quantization.INT16X8, ("SIGSEGV", "unroll-int16x8")),
        (Lowering.FUSED, Quantization.INT16X8, ("int16 kernel", "step-int16x8")),
        (Lowering.FUSED, Quantization.INT4, ("int4 kernel", "fused-dynamic")),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(
    lowering: Lowering, kind: Quantization, names: tuple[str, ...], tmp_path: Path
) -> None:
    nowhere = Export(tmp_path / "not there", lowering, 1, exports.Signature("predict", (), ()))
    with pytest.raises(RefusedError) as caught:
        quantization.quantize(nowhere, VariantSpec(lowering, kind), tmp_path / "model.tflite")
    for name in names:
        assert name in str(caught.value)
    assert caught.value.exit_code == 2


def bad(**x: np.ndarray) -> Calibration:
    return Calibration(x, np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("given_samples", "message"),
    [
        (None, "--data"),
        (bad(sequence=np.zeros((4, exports.STEPS, exports.FEATURES + 1), "float32")), "shape"),
        (bad(other=np.zeros((4, exports.STEPS, exports.FEATURES), "float32")), "without 'sequence'"),
        (bad(sequence=np.full((4, exports.STEPS, exports.FEATURES), np.nan, "float32")), "NaN or infinity"),
        (bad(sequence=np.full((4, exports.STEPS, exports.FEATURES), np.inf, "float32")), "NaN or infinity"),
    ],
)
def test_bad_calibration_samples_are_named(
    given_samples: Calibration | None, message: str, export_of: Callable[[Lowering], Export], tmp_path: Path
) -> None:
    spec = VariantSpec(Lowering.FUSED, Quantization.INT8)
    with pytest.raises(UsageError, match=message):
        quantization.quantize(export_of(Lowering.FUSED), spec, tmp_path / "model.tflite", given_samples)
    assert not (tmp_path / "model.tflite").exists()


def finish(content: bytes, name: str, out: Path) -> Quantized:
    return finishing.finish(
        content, VariantSpec.parse(name), out, tool="a test", notes=[], export=None, options=QuantizationOptions()
    )


@pytest.mark.parametrize("name", ["fused-int8", "fused-dynamic", "fused-float16", "fused-int4", "fused-int16x8"])
def test_float_weights_do_not_pass_for_another_type(
    name: str, export_of: Callable[[Lowering], Export], tmp_path: Path
) -> None:
    content = float_model(export_of(Lowering.FUSED)).read_bytes()
    with pytest.raises(StageError, match=r"must hold .* weights"):
        finish(content, name, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


def test_nan_weights_are_found(export_of: Callable[[Lowering], Export], tmp_path: Path) -> None:
    model = tensors.read(float_model(export_of(Lowering.FUSED)))
    buffer = max((item for item in model.buffers if item.data is not None), key=lambda item: len(item.data))
    values = np.frombuffer(buffer.data.tobytes(), "float32").copy()
    values[3] = np.nan
    buffer.data = np.frombuffer(values.tobytes(), "uint8")
    with pytest.raises(StageError, match="NaN"):
        finish(packing.pack(model), "fused-float32", tmp_path / "model.tflite")


def save_function(folder: Path, function: Any, shape: tuple[int, ...]) -> Export:
    import tensorflow as tf

    traced = tf.function(function, input_signature=[tf.TensorSpec(shape, name="x")], autograph=False)
    tf.saved_model.save(tf.Module(), str(folder / "saved_model"), signatures={"predict": traced})
    record = Export(
        folder, Lowering.NONE, 1, exports.Signature("predict", (TensorSpec("x", shape),), (TensorSpec("y", shape),))
    )
    exports.write_json(folder / exports.RECORD, record.to_json())
    return record


def test_an_operator_that_is_no_builtin_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    record = save_function(tmp_path, lambda x: {"y": tf.math.cumprod(x, axis=1)}, (1, 4))
    with pytest.raises(StageError) as caught:
        quantization.quantize(record, VariantSpec(Lowering.NONE, Quantization.FLOAT32), tmp_path / "model.tflite")
    assert "Cumprod" in str(caught.value)
    assert "other keras.ops" in str(caught.value)
    allowed = quantization.quantize(
        record,
        VariantSpec(Lowering.NONE, Quantization.FLOAT32),
        tmp_path / "model.tflite",
        options=QuantizationOptions(allow_flex=True),
    )
    assert "FlexCumprod" in allowed.notes[0]


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    record = save_function(tmp_path, lambda x: {"y": tf.math.log(-1.0 - tf.abs(x))}, (1, 4))
    with pytest.raises(StageError, match="NaN or infinity in"):
        quantization.quantize(record, VariantSpec(Lowering.NONE, Quantization.FLOAT32), tmp_path / "model.tflite")


def test_dense_weights_state_the_version_that_their_scales_need(
    export_of: Callable[[Lowering], Export], tmp_path: Path
) -> None:
    versions = {}
    for per_channel in (True, False, None):
        result = quantization.quantize(
            export_of(Lowering.STEP),
            VariantSpec(Lowering.STEP, Quantization.DYNAMIC),
            tmp_path / "model.tflite",
            options=QuantizationOptions(per_channel_dense=per_channel),
        )
        model = tensors.read(result.path)
        numbers = {
            code.version
            for index, code in enumerate(model.operatorCodes)
            if tensors.operator_name(model, index) == "FULLY_CONNECTED"
        }
        versions[per_channel] = (numbers, result.min_runtime_version)
    # Rows of 24 weights are short, so the default is one scale a matrix.
    assert versions == {True: ({12}, "2.17.0"), False: ({9}, "2.3.0"), None: ({9}, "2.3.0")}


def test_the_fused_cell_is_not_clipped(export_of: Callable[[Lowering], Export]) -> None:
    model = tensors.read(float_model(export_of(Lowering.FUSED)))
    clips = [
        operator.builtinOptions.cellClip
        for operator in model.subgraphs[0].operators
        if tensors.operator_name(model, operator.opcodeIndex) == tensors.LSTM
    ]
    assert clips == [0.0]


def test_shared_biases_get_the_scale_of_their_operator(
    export_of: Callable[[Lowering], Export], samples: Calibration, tmp_path: Path
) -> None:
    spec = VariantSpec(Lowering.UNROLL, Quantization.INT16X8)
    result = quantization.quantize(export_of(Lowering.UNROLL), spec, tmp_path / "model.tflite", samples)
    assert any("biases" in note for note in result.notes)
    model = tensors.read(result.path)
    checked = 0
    for operator in model.subgraphs[0].operators:
        if tensors.operator_name(model, operator.opcodeIndex) != "FULLY_CONNECTED" or operator.inputs[2] < 0:
            continue
        source, weight, bias = (model.subgraphs[0].tensors[index] for index in operator.inputs[:3])
        wanted = tensors.scale_of(source)[0] * np.asarray(weight.quantization.scale)
        np.testing.assert_allclose(bias.quantization.scale, wanted, rtol=1e-3)
        checked += 1
    assert checked >= exports.STEPS
    assert repairs.repair_biases(model) == 0


def test_a_sum_that_would_end_the_process_is_repaired(
    export_of: Callable[[Lowering], Export], samples: Calibration, tmp_path: Path
) -> None:
    spec = VariantSpec(Lowering.UNROLL, Quantization.INT16X8)
    result = quantization.quantize(export_of(Lowering.UNROLL), spec, tmp_path / "model.tflite", samples)
    model = tensors.read(result.path)
    assert repairs.repair_sums(model) == 0
    graph = model.subgraphs[0]
    sums = [item for item in graph.operators if tensors.operator_name(model, item.opcodeIndex) == "ADD"]
    output = graph.tensors[sums[0].outputs[0]]
    output.quantization.scale = np.array([1e-12], np.float32)  # LiteRT aborts on this.
    assert repairs.repair_sums(model) == 1
    largest = max(tensors.scale_of(graph.tensors[index])[0] for index in sums[0].inputs)
    assert 2 * largest / 2**15 < tensors.scale_of(output)[0] < largest
    (tmp_path / "repaired.tflite").write_bytes(packing.pack(model))
    check_runs(tmp_path / "repaired.tflite")


def test_a_sum_that_would_have_to_shift_is_repaired(
    export_of: Callable[[Lowering], Export], samples: Calibration, tmp_path: Path
) -> None:
    """All scales are powers of two, and no input has the output's: the int16 kernel refuses to be prepared."""
    spec = VariantSpec(Lowering.UNROLL, Quantization.INT16X8)
    result = quantization.quantize(export_of(Lowering.UNROLL), spec, tmp_path / "model.tflite", samples)
    model = tensors.read(result.path)
    graph = model.subgraphs[0]
    number = next(item for item in graph.operators if tensors.operator_name(model, item.opcodeIndex) == "ADD")
    for index, power in zip((*number.inputs, *number.outputs), (-14, -13, -12), strict=True):
        graph.tensors[index].quantization.scale = np.array([2.0**power], np.float32)
    number.builtinOptions.potScaleInt16 = True
    (tmp_path / "broken.tflite").write_bytes(packing.pack(model))
    with pytest.raises(StageError, match="failed to prepare"):
        check_runs(tmp_path / "broken.tflite")
    model = tensors.read(tmp_path / "broken.tflite")
    assert repairs.repair_sums(model) == 1
    assert repairs.repair_sums(model) == 0
    (tmp_path / "repaired.tflite").write_bytes(packing.pack(model))
    check_runs(tmp_path / "repaired.tflite")


def test_zeros_that_a_loop_starts_from_are_not_stored(tmp_path: Path) -> None:
    import tensorflow as tf

    def double(x: Any) -> dict[str, Any]:
        def body(step: Any, total: Any) -> tuple[Any, Any]:
            return step + 1, total + x

        _, total = tf.while_loop(lambda step, _: step < 3, body, (0, tf.zeros((1, 2000))))
        return {"y": total}

    record = save_function(tmp_path, double, (1, 2000))
    spec = VariantSpec(Lowering.NONE, Quantization.FLOAT32)
    result = quantization.quantize(record, spec, tmp_path / "model.tflite")
    assert result.path.stat().st_size < 2000 * 4
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(result.path)).get_signature_runner("predict")
    x = np.arange(2000, dtype="float32")[None]
    for _ in range(2):
        np.testing.assert_array_equal(runner(x=x)["y"], 3 * x)


def test_packing_changes_size_and_nothing_else(export_of: Callable[[Lowering], Export], tmp_path: Path) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(export_of(Lowering.UNROLL).saved_model), signature_keys=["predict"]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content = converter.convert()
    packed = packing.pack(tensors.read(content), keep_names=False)
    again = packing.pack(tensors.read(packed), keep_names=False)
    assert len(packed) < 0.8 * len(content)
    assert len(again) == len(packed)
    x = exports.sequences(4, seed=3)
    answers = []
    for data in (content, packed, again):
        path = tmp_path / "model.tflite"
        path.write_bytes(data)
        signature = tensors.signature_of(tensors.read(path))
        answers.append(run(Quantized(path, signature, "", (), {}, ""), x))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    from ai_edge_litert import schema_py_generated as schema

    root = schema.Model.GetRootAs(packed)
    for index in range(root.BuffersLength()):
        if root.Buffers(index).DataLength():
            vector = root.Buffers(index)._tab.Vector(root.Buffers(index)._tab.Offset(4))
            assert vector % 16 == 0


def test_a_users_own_tflite_cannot_be_trained_for_quantization(tflite: Callable[[str], Path]) -> None:
    content = tflite("conv-float32").read_bytes()
    with pytest.raises(RefusedError, match="Keras model"):
        quantization.quantize_tflite(content, VariantSpec(Lowering.NONE, Quantization.QAT), None, QuantizationOptions())


@pytest.mark.parametrize("kind", [kind for kind in Quantization if kind is not Quantization.QAT])
def test_a_users_own_tflite_can_be_quantized(kind: Quantization, tflite: Callable[[str], Path], tmp_path: Path) -> None:
    content = tflite("conv-float32").read_bytes()
    spec = VariantSpec(Lowering.NONE, kind)
    model = tensors.read(content)
    inputs = tensors.signature_of(model).inputs
    samples = calibration.random_calibration(inputs, count=20, seed=0)
    data, tool, notes = quantization.quantize_tflite(content, spec, samples, QuantizationOptions())
    result = finishing.finish(
        data, spec, tmp_path / "model.tflite", tool=tool, notes=notes, export=None, options=QuantizationOptions()
    )
    if kind is Quantization.FLOAT32:
        assert result.path.read_bytes() == content
    from ai_edge_litert.interpreter import Interpreter

    def answer(path: Path, value: np.ndarray) -> np.ndarray:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        return next(iter(interpreter.get_signature_runner()(**{inputs[0].name: value}).values()))

    values = [samples.x[inputs[0].name][index : index + 1] for index in range(10)]
    truth = np.concatenate([answer(tflite("conv-float32"), value) for value in values])
    given_answers = np.concatenate([answer(result.path, value) for value in values])
    assert cosine(given_answers, truth) > (0.97 if kind is Quantization.INT4 else 0.995)


def test_a_quantized_tflite_is_not_quantized_again(export_of: Callable[[Lowering], Export], tmp_path: Path) -> None:
    spec = VariantSpec(Lowering.FUSED, Quantization.DYNAMIC)
    result = quantization.quantize(export_of(Lowering.FUSED), spec, tmp_path / "model.tflite")
    with pytest.raises(RefusedError, match="quantized already"):
        quantization.quantize_tflite(result.path.read_bytes(), spec, None, QuantizationOptions())


def test_a_loop_in_a_users_tflite_is_refused_before_it_crashes(
    export_of: Callable[[Lowering], Export], samples: Calibration
) -> None:
    content = float_model(export_of(Lowering.WHILE)).read_bytes()
    with pytest.raises(RefusedError, match="WHILE"):
        quantization.quantize_tflite(
            content, VariantSpec(Lowering.NONE, Quantization.INT8), samples, QuantizationOptions()
        )


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 100, b"\x1c\0\0\0TFL3" + bytes(range(256))])
def test_a_file_that_is_no_tflite_is_named(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"\.tflite"):
        tensors.read(content)


def test_a_step_model_is_calibrated_with_states_that_it_reaches(
    export_of: Callable[[Lowering], Export], samples: Calibration
) -> None:
    record = export_of(Lowering.STEP)
    assert record.sequence is not None
    feeds = calibration.step_batches(float_model(record), record.signature, record.sequence, samples, seed=0)
    hidden = np.concatenate([feed["state_0"] for feed in feeds])
    assert feeds[0]["sequence"].shape == (1, 1, exports.FEATURES)
    assert np.abs(hidden).max() <= 1.0
    assert hidden.std() > 0.05
    again = calibration.step_batches(float_model(record), record.signature, record.sequence, samples, seed=0)
    np.testing.assert_array_equal(hidden, np.concatenate([feed["state_0"] for feed in again]))


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    count=st.integers(1, 120),
    seed=st.integers(0, 2**31),
)
def test_calibration_rows_cover_all_classes(classes: list[int], count: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(classes)), classes)
    total = len(labels)
    rows = calibration.choose_indices(labels, total, count, seed)
    assert len(rows) == len(set(rows.tolist())) == min(count, total)
    assert (np.diff(rows) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < total
    np.testing.assert_array_equal(rows, calibration.choose_indices(labels, total, count, seed))
    if count >= len(classes):
        assert set(labels[rows].tolist()) == set(range(len(classes)))


def test_calibration_samples_survive_the_file(tmp_path: Path, samples: Calibration) -> None:
    calibration.save(samples, tmp_path / "calibration.npz")
    read = calibration.read(tmp_path / "calibration.npz")
    np.testing.assert_array_equal(read.x["sequence"], samples.x["sequence"])
    np.testing.assert_array_equal(read.index, samples.index)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({}, "equally many"),
        ({"a": np.zeros((0, 3))}, "equally many"),
        ({"a": np.zeros((4, 3)), "b": np.zeros((5, 3))}, "equally many"),
        ({"a": np.array([[1.0], [np.nan]])}, "NaN or infinity in input 'a', sample 1"),
    ],
)
def test_a_bad_training_split_gives_no_calibration(x: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        calibration.from_split(x, {}, count=10, seed=0)


def test_random_calibration_is_the_same_for_a_seed() -> None:
    specs = [TensorSpec("a", (1, 3)), TensorSpec("tokens", (1, 4), "int32")]
    first, second = (calibration.random_calibration(specs, count=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.x["a"], second.x["a"])
    assert first.x["tokens"].dtype == np.int32
    assert first.x["a"].shape == (5, 3)


def test_options_are_plain_values() -> None:
    assert QuantizationOptions(**dataclasses.asdict(QuantizationOptions())) == QuantizationOptions()
