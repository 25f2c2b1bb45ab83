"""What is particular to pictures: metadata in the file, bytes without a float operator, one scale a tensor."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_models_images import pictures

from edge_dl import models
from edge_dl.bundle import Signature, TensorSpec
from edge_dl.converters import tensors
from edge_dl.converters.calibration import Calibration
from edge_dl.converters.exporting import Export, export
from edge_dl.converters.finishing import Quantized
from edge_dl.converters.float_model import float_model
from edge_dl.converters.metadata import add_metadata, takes_pictures
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.quantization import quantize
from edge_dl.recipe import ImageConfig, Task
from edge_dl.runtime import open_session
from edge_dl.variants import Lowering, Quantization, VariantSpec

DATA = pictures((16, 16, 3), classes=4)
IMAGES = DATA.train.x["image"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    model = models.build(Task.CLASSIFICATION, ImageConfig("cnn", (4, 8), size=12), DATA)
    return export(model, tmp_path_factory.mktemp("export"), Lowering.NONE)


def make(exported: Export, folder: Path, *, integer_io: bool = False, **options: Any) -> Quantized:
    spec = VariantSpec(Lowering.NONE, Quantization.INT8, integer_io)
    samples = Calibration({"image": IMAGES}, np.arange(len(IMAGES)))
    return quantize(exported, spec, folder / "model.tflite", samples, QuantizationOptions(**options))


def test_integer_edges_take_bytes_and_no_operator_computes_in_float(exported: Export, tmp_path: Path) -> None:
    made = make(exported, tmp_path, integer_io=True)
    [image] = made.signature.inputs
    assert (image.dtype, image.scale, image.zero_point) == ("int8", 1.0, -128)
    model = tensors.read(made.path)
    assert "CAST" not in tensors.operator_names(model)
    kinds = {tensors.type_name(tensor.type) for graph in model.subgraphs for tensor in graph.tensors}
    assert kinds == {"int8", "int32"}
    answer = open_session(made.path).predict({"image": IMAGES})["label"]
    expected = open_session(float_model(exported)).predict({"image": IMAGES})["label"]
    assert np.abs(answer - expected).max() < 0.03


def test_every_byte_arrives_as_itself(exported: Export, tmp_path: Path) -> None:
    """Scale 1 from bytes to integers: real numbers from 0 to 255 become -128 to 127 without rounding."""
    session = open_session(make(exported, tmp_path, integer_io=True).path)
    spec = session.inputs["image"]
    values = np.arange(256, dtype=np.float32)
    np.testing.assert_array_equal(np.rint(values / spec.scale) + spec.zero_point, values - 128)


def scales_of_weights(path: Path) -> set[int]:
    model = tensors.read(path)
    graph = model.subgraphs[0]
    return {
        len(graph.tensors[int(operator.inputs[1])].quantization.scale)
        for operator in graph.operators
        if tensors.operator_name(model, operator.opcodeIndex) in ("CONV_2D", "FULLY_CONNECTED")
    }


@pytest.mark.parametrize("integer_io", [False, True])
def test_weights_have_one_scale_a_channel_or_one_a_tensor(exported: Export, tmp_path: Path, integer_io: bool) -> None:
    assert scales_of_weights(make(exported, tmp_path, integer_io=integer_io).path) >= {4, 8}
    one = make(exported, tmp_path, integer_io=integer_io, per_channel=False)
    assert scales_of_weights(one.path) == {1}


class Reader:
    """The least of FlatBuffers that reads a table back: https://flatbuffers.dev/internals/."""

    def __init__(self, data: bytes, at: int | None = None) -> None:
        self.data = data
        self.at = struct.unpack_from("<I", data, 0)[0] if at is None else at

    def field(self, slot: int) -> int:
        table = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        size = struct.unpack_from("<H", self.data, table)[0]
        offset = struct.unpack_from("<H", self.data, table + 4 + 2 * slot)[0] if 4 + 2 * slot < size else 0
        return self.at + offset if offset else 0

    def number(self, slot: int, kind: str) -> int:
        return struct.unpack_from(f"<{kind}", self.data, self.field(slot))[0] if self.field(slot) else 0

    def follow(self, place: int) -> int:
        return place + struct.unpack_from("<I", self.data, place)[0]

    def table(self, slot: int) -> Reader:
        return Reader(self.data, self.follow(self.field(slot)))

    def text(self, slot: int) -> str:
        start = self.follow(self.field(slot))
        return self.data[start + 4 : start + 4 + struct.unpack_from("<I", self.data, start)[0]].decode()

    def tables(self, slot: int) -> list[Reader]:
        start = self.follow(self.field(slot))
        count = struct.unpack_from("<I", self.data, start)[0]
        return [Reader(self.data, self.follow(start + 4 + 4 * number)) for number in range(count)]

    def floats(self, slot: int) -> list[float]:
        start = self.follow(self.field(slot))
        count = struct.unpack_from("<I", self.data, start)[0]
        return list(struct.unpack_from(f"<{count}f", self.data, start + 4))


def test_metadata_says_size_normalization_and_labels(exported: Export, tmp_path: Path) -> None:
    """Field numbers of metadata_schema.fbs (tflite-support), read without the code that wrote them."""
    made = make(exported, tmp_path)
    assert takes_pictures(made.signature)
    content = add_metadata(made.path.read_bytes(), made.signature, "tiny", ["a", "b", "c", "d é"])
    model = tensors.read(content)
    [entry] = [item for item in model.metadata if bytes(item.name) == b"TFLITE_METADATA"]
    buffer = bytes(model.buffers[entry.buffer].data)
    assert buffer[4:8] == b"M001"
    root = Reader(buffer)
    assert root.text(0) == "tiny"
    [graph] = root.tables(3)
    [image], [label] = graph.tables(2), graph.tables(3)
    assert image.text(0) == "image"
    content_of = image.table(3)
    assert content_of.number(0, "B") == 2  # ImageProperties
    properties = content_of.table(1)
    assert properties.number(0, "b") == 1  # RGB
    assert [properties.table(1).number(slot, "I") for slot in (0, 1)] == [16, 16]
    [unit] = image.tables(4)
    assert unit.number(0, "B") == 1  # NormalizationOptions
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ([0.0], [1.0])
    assert (image.table(5).floats(0), image.table(5).floats(1)) == ([255.0], [0.0])
    [file] = label.tables(6)
    assert file.text(0) == "labels.txt"
    assert file.number(2, "b") == 2  # TENSOR_AXIS_LABELS
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.read("labels.txt").decode() == "a\nb\nc\nd é\n"
    again = add_metadata(content, made.signature, "tiny", ["a", "b", "c", "d é"])
    names = [bytes(item.name) for item in tensors.read(again).metadata]
    assert names.count(b"TFLITE_METADATA") == 1, "written twice, it stands there once"
    assert zipfile.ZipFile(io.BytesIO(again)).namelist() == ["labels.txt"]


def test_a_model_with_metadata_answers_the_same(exported: Export, tmp_path: Path) -> None:
    made = make(exported, tmp_path)
    (tmp_path / "with.tflite").write_bytes(add_metadata(made.path.read_bytes(), made.signature, "tiny", list("abcd")))
    answers = [open_session(path).predict({"image": IMAGES})["label"] for path in (made.path, tmp_path / "with.tflite")]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("sequence", (1, 8, 8)),
        TensorSpec("image", (1, 8, 8, 3)),
        TensorSpec("image", (1, 8, 8, 5), "uint8"),
    ],
)
def test_what_is_no_picture_gets_no_metadata(spec: TensorSpec) -> None:
    assert not takes_pictures(Signature("predict", (spec,), ()))
