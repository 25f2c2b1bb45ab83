from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models

from edge_dl.checks.counting import count
from edge_dl.checks.graph import IDENTIFIER, Graph, GraphOperator, GraphTensor, Subgraph, parse_graph
from edge_dl.checks.inspection import ModelReport, inspect_bytes, inspect_model, operator_versions, render, version_key
from edge_dl.checks.verdicts import Verdict
from edge_dl.checks.weights import check_weights, guess_quantization
from edge_dl.errors import UsageError

Tflite = Callable[[str], Path]


def loop_model(folder: Path, *, limit_from_input: bool = False) -> bytes:
    """A WHILE of 12 steps, each one dense layer of 8 x 8."""
    tf = tflite_models.tensorflow()
    kernel = tflite_models.weights(1, 8, 8)
    shapes = [tf.TensorSpec((1, 8), tf.float32, name="x")]
    if limit_from_input:
        shapes.append(tf.TensorSpec((), tf.int32, name="steps"))

    @tf.function(input_signature=shapes)
    def predict(x: Any, steps: Any = None) -> dict[str, Any]:
        end = 12 if steps is None else steps
        found = tf.while_loop(lambda i, _: i < end, lambda i, h: (i + 1, tf.tanh(h @ kernel)), (0, x))
        return {"y": found[1]}

    return tflite_models.convert(predict, "predict", folder)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return loop_model(tmp_path_factory.mktemp("loop"))


def test_a_convolution_model_is_told_in_full(tflite: Tflite):
    report = inspect_model(tflite("conv-float32"))
    (signature,) = report.signatures
    assert signature.key == "predict"
    assert (signature.inputs[0].name, signature.inputs[0].shape) == ("image", (1, 8, 8, 1))
    assert (signature.outputs[0].name, signature.outputs[0].shape) == ("label", (1, 4))
    # 6 x 6 positions of 4 filters of 3 x 3 x 1, and 144 x 4 in the dense layer.
    assert report.macs == 6 * 6 * 4 * 9 + 144 * 4
    assert report.weight_elements == {"float32": 36 + 576}
    assert report.weight_bytes == {"float32": 4 * (36 + 576)}
    names = {item.name: item.count for item in report.operators}
    assert names["CONV_2D"] == names["FULLY_CONNECTED"] == 1
    # At least the input and the convolution's output live at the same time.
    assert 4 * (64 + 144) <= report.arena_bytes <= 4 * 1024
    assert report.bytes == tflite("conv-float32").stat().st_size


def test_the_arena_estimate_is_of_the_runtimes_order(tflite: Tflite):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path = str(tflite("conv-float32"))
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(path, experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    computed = {
        index
        for operator in interpreter._get_ops_details()
        for index in operator["outputs"]
    }  # fmt: skip
    sizes = {detail["index"]: int(np.prod(detail["shape"])) * 4 for detail in interpreter.get_tensor_details()}
    total = sum(sizes[index] for index in computed) + 4 * 64
    assert inspect_model(path).arena_bytes <= total + 64 * (len(computed) + 1)


def test_quantized_models_show_their_scales(tflite: Tflite):
    report = inspect_model(tflite("conv-int8-io"))
    image = report.signatures[0].inputs[0]
    assert image.dtype == "int8"
    assert image.scale > 0
    assert image.zero_point is not None
    kernels = [tensor for tensor in report.tensors if tensor.channels == 4 and tensor.dtype == "int8"]
    assert kernels
    assert report.weight_elements == {"int8": 36 + 576}
    assert "4 scales on axis" in render(report, tensors=True)


def test_weights_are_what_the_name_says_or_fail(tflite: Tflite):
    made = {name: inspect_model(tflite(f"conv-{name}")) for name in ("float32", "int8", "int16x8")}
    for name, report in made.items():
        for claimed in ("float32", "float16", "int8", "int16x8", "int4"):
            expected = Verdict.PASS if claimed == name else Verdict.FAIL
            assert check_weights(report, claimed).verdict is expected, (name, claimed)
        assert guess_quantization(report).value == name
    check = check_weights(made["float32"], "int8")
    assert check.value == 0.0
    assert "612 float32" in check.message
    with pytest.raises(UsageError, match="A quantization is one of"):
        check_weights(made["float32"], "int7")


def test_a_loop_is_multiplied_out(loop: bytes):
    report = inspect_bytes(loop)
    assert [item.iterations for item in report.loops] == [12]
    assert (report.macs, report.macs_complete) == (12 * 64, True)
    assert report.weight_elements == {"float32": 64}
    dense = next(item for item in report.operators if item.name == "FULLY_CONNECTED")
    assert (dense.count, dense.in_loops) == (1, 1)
    assert "12 iterations" in render(report)


def test_a_loop_whose_length_is_an_input_is_counted_once_and_said(tmp_path: Path):
    report = inspect_bytes(loop_model(tmp_path, limit_from_input=True))
    assert [item.iterations for item in report.loops] == [None]
    assert (report.macs, report.macs_complete) == (64, False)
    assert any("length depends on the input" in note for note in report.notes)


def test_the_fused_operators_work_is_counted(tflite: Tflite):
    report = inspect_model(tflite("fused"))
    assert any(item.name == "UNIDIRECTIONAL_SEQUENCE_LSTM" for item in report.operators)
    steps, features, units, classes = (
        tflite_models.STEPS, tflite_models.FEATURES, tflite_models.UNITS, tflite_models.CLASSES,
    )  # fmt: skip
    assert report.macs == steps * 4 * (features * units + units * units) + units * classes


def test_signatures_and_nameless_models(tflite: Tflite):
    report = inspect_model(tflite("signatures"))
    assert sorted(signature.key for signature in report.signatures) == ["plus", "times"]
    nameless = inspect_model(tflite("conv-nameless"))
    assert nameless.signatures[0].key == ""
    assert "main graph (no signature)" in render(nameless)


def test_custom_and_flex_operators_are_named(tmp_path: Path):
    tf = tflite_models.tensorflow()
    module = tf.Module()
    spec = tf.TensorSpec((1, 4, 4), tf.float32, name="x")
    module.predict = tf.function(lambda x: {"y": tf.linalg.cholesky(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path), signatures={"predict": module.predict})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    report = inspect_bytes(converter.convert())
    assert report.custom == ("FlexCholesky",)
    assert any("not builtins" in note for note in report.notes)


def test_the_oldest_runtime_comes_from_versions_and_the_files_word(tflite: Tflite):
    table = operator_versions()
    assert table.oldest("FULLY_CONNECTED", 12) == "2.17.0"
    assert table.oldest("FULLY_CONNECTED", 9) == "2.5.0"
    assert table.oldest("FULLY_CONNECTED", 99) == ""
    assert table.oldest("TANH", 3) == "2.5.0"
    assert table.oldest("STABLEHLO_SORT", 1) == ""
    assert table.source.startswith("https://")
    assert version_key("2.14.0") > version_key("2.9.1")
    report = inspect_model(tflite("conv-float32"))
    assert version_key(report.oldest_runtime) >= version_key(report.min_runtime_version)


def test_a_report_survives_json(tflite: Tflite):
    report = inspect_model(tflite("conv-int8"))
    assert ModelReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\0" * 4, b"\0\0\0\0TFL3", b"not a model at all, just text", b"PK\3\4" * 9]
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"TFL3|must be whole"):
        inspect_model(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="must exist"):
        inspect_model(tmp_path / "none.tflite")
    with pytest.raises(UsageError, match="a folder"):
        inspect_model(tmp_path)


def test_cut_off_files_are_refused_or_told(tflite: Tflite):
    """Only a cut in the padding at the end can leave a file whole."""
    content = tflite("conv-int8").read_bytes()
    for end in range(0, len(content) - 64, 37):
        with pytest.raises(UsageError):
            inspect_bytes(content[:end])


def _mutants(content: bytes, count: int, seed: int) -> list[bytes]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        data = bytearray(content)
        for _ in range(int(generator.integers(1, 12))):
            place = int(generator.integers(8, len(data) - 4))
            kind = generator.integers(0, 3)
            if kind == 0:
                data[place] = int(generator.integers(0, 256))
            elif kind == 1:
                data[place : place + 4] = struct.pack("<I", int(generator.integers(0, 2**32)))
            else:
                data[place : place + 4] = b"\xff\xff\xff\x7f"
        made.append(bytes(data))
    return made


@pytest.mark.parametrize("name", ["conv-int8", "loop"])
def test_any_damage_gives_a_report_or_a_usage_error_soon(tflite: Tflite, loop: bytes, name: str):
    content = loop if name == "loop" else tflite(name).read_bytes()
    refused, slowest = 0, 0.0
    for data in _mutants(content, 400, seed=len(name)):
        started = time.perf_counter()
        try:
            render(inspect_bytes(data), tensors=True)
        except UsageError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - started)
    assert refused > 40  # The damage is real: much of it must be noticed.
    assert slowest < 30


def test_random_bytes_with_the_identifier_are_refused():
    generator = np.random.default_rng(0)
    for _ in range(200):
        data = generator.integers(0, 256, int(generator.integers(8, 400)), dtype=np.uint8).tobytes()
        with pytest.raises(UsageError):
            inspect_bytes(data[:4] + IDENTIFIER + data[8:])


def test_lists_that_share_one_place_do_not_multiply():
    """A file of 40 KB whose subgraph list names one subgraph 5,000 times, each with 4,000 tensors at one place."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder(1 << 16)

    def shared(start: Callable[[Any, int], Any], item: int, count: int) -> int:
        start(builder, count)
        for _ in range(count):
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    schema.TensorStart(builder)
    tensor = schema.TensorEnd(builder)
    tensors = shared(schema.SubGraphStartTensorsVector, tensor, 4000)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    subgraph = schema.SubGraphEnd(builder)
    subgraphs = shared(schema.ModelStartSubgraphsVector, subgraph, 5000)
    schema.BufferStart(builder)
    buffers = shared(schema.ModelStartBuffersVector, schema.BufferEnd(builder), 1)
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), file_identifier=IDENTIFIER)
    with pytest.raises(UsageError, match="more entries than any model has"):
        parse_graph(bytes(builder.Output()))


def test_a_loop_that_calls_itself_is_refused(loop: bytes):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(loop), 0))
    operator = next(
        item for item in model.subgraphs[0].operators if item.builtinOptions.__class__ is schema.WhileOptionsT
    )
    operator.builtinOptions.bodySubgraphIndex = 0
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    with pytest.raises(UsageError, match="in a circle"):
        inspect_bytes(bytes(builder.Output()))


def graph_of(*subgraphs: Subgraph) -> Graph:
    return Graph(subgraphs, (), {}, 0, "", b"", ((0, 0),))


def operator(name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], calls: tuple[int, ...] = ()):
    return GraphOperator(name, 1, False, inputs, outputs, calls)


def test_calls_that_grow_by_a_power_are_refused_soon():
    # Three loops a level, fifteen levels: 6 ** 15 ways through the graph, and no circle.
    tensor = GraphTensor("x", (1,), "int32")
    levels = [
        Subgraph("", (tensor,), tuple(operator("WHILE", (0,), (0,), (n + 1, n + 1)) for _ in range(3)), (0,), (0,))
        for n in range(15)
    ]
    graph = graph_of(*levels, Subgraph("", (tensor,), (), (0,), (0,)))
    started = time.monotonic()
    with pytest.raises(UsageError, match="too often"):
        count(graph)
    assert time.monotonic() - started < 60


def test_a_condition_that_takes_what_it_gives_has_no_length():
    tensors = (GraphTensor("x", (1,), "int32"), GraphTensor("again", (1,), "bool"))
    condition = Subgraph("", tensors, (operator("LOGICAL_AND", (1, 1), (1,)),), (0,), (1,))
    body = Subgraph("", tensors, (), (0,), (0,))
    main = Subgraph("", tensors, (operator("WHILE", (0,), (0,), (1, 2)),), (0,), (0,))
    assert [loop.iterations for loop in count(graph_of(main, condition, body)).loops] == [None]


def test_names_in_a_file_cannot_play_tricks_on_a_terminal(tflite: Tflite):
    report = inspect_model(tflite("conv-float32"))
    report = replace(report, description="\x1b[2J\nsignature 'mine'")
    assert "\x1b" not in render(report)
    assert "\\x1b[2J signature 'mine'" in render(report).splitlines()[0]


def test_inspecting_imports_neither_keras_nor_tensorflow_nor_an_interpreter(tflite: Tflite):
    code = (
        "import sys; from edge_dl.checks import inspect_model, render; render(inspect_model(sys.argv[1]));"
        "bad = {name.split('.')[0] for name in sys.modules} & {'keras', 'tensorflow', 'scipy', 'tf_keras'};"
        "assert not bad, bad; assert 'ai_edge_litert.interpreter' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tflite("conv-float32"))], check=True, timeout=60)
