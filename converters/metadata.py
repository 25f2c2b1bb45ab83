"""The standard TFLite metadata of an image model: what Android Studio and the task libraries read from the file itself.

Written by https://github.com/tensorflow/tflite-support, tensorflow_lite_support/metadata/metadata_schema.fbs: a
FlatBuffer called TFLITE_METADATA inside the model, and the labels as a file in a zip archive appended to it, which
loaders of the model do not see. The numbers below are that schema's field numbers.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_dl.bundle import LABELS, Signature, TensorSpec
from edge_dl.converters import packing, tensors

NAME = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2
_RGB, _GREYSCALE = 1, 2
# Zip archives hold a time; a fixed one makes equal files of equal models.
_THEN = (1980, 1, 1, 0, 0, 0)


def takes_pictures(signature: Signature) -> bool:
    """Whether a model's only input is a picture as a camera gives it: bytes, grey or RGB."""
    if len(signature.inputs) != 1:
        return False
    picture = signature.inputs[0]
    return len(picture.shape) == 4 and picture.shape[-1] in (1, 3) and picture.dtype in ("uint8", "int8")


def add_metadata(content: bytes, signature: Signature, name: str, labels: Sequence[str] = ()) -> bytes:
    """An image model with metadata: what it takes, how that is normalized, what it gives, its labels.

    Normalization is mean 0 and deviation 1: the bytes go in as they are, and all scaling is in the graph.

    Args:
        content: the .tflite.
        signature: its inputs and outputs; `takes_pictures` holds.
        name: the model's name.
        labels: class names in output order.
    """
    model = tensors.read(content)
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = _metadata(signature, name, bool(labels))
    entry = schema.MetadataT()
    entry.name = NAME
    entry.buffer = len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(item for item in model.metadata or [] if item.name != NAME), entry]
    packed = packing.pack(model)
    if not labels:
        return packed
    file = io.BytesIO(packed)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS, _THEN), "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def _metadata(signature: Signature, name: str, has_labels: bool) -> np.ndarray:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    [picture] = signature.inputs
    given = [_input(builder, picture)]
    answers = [_output(builder, output, has_labels and index == 0) for index, output in enumerate(signature.outputs)]
    subgraph = _table(builder, 10, {2: _vector(builder, given), 3: _vector(builder, answers)})
    texts = {0: builder.CreateString(name), 7: builder.CreateString("1.0.0")}
    builder.Finish(_table(builder, 8, {**texts, 3: _vector(builder, [subgraph])}), file_identifier=IDENTIFIER)
    return np.frombuffer(bytes(builder.Output()), np.uint8)


def _input(builder: Any, picture: TensorSpec) -> int:
    height, width, channels = picture.shape[1:]
    builder.StartObject(2)
    builder.PrependUint32Slot(0, width, 0)
    builder.PrependUint32Slot(1, height, 0)
    size = builder.EndObject()
    builder.StartObject(2)
    builder.PrependInt8Slot(0, _RGB if channels == 3 else _GREYSCALE, 0)
    builder.PrependUOffsetTRelativeSlot(1, size, 0)
    properties = builder.EndObject()
    unit = _union(builder, _NORMALIZATION_OPTIONS, _table(builder, 2, {0: _floats(builder, [0.0]),
                                                                       1: _floats(builder, [1.0])}))  # fmt: skip
    low, high = (-128.0, 127.0) if picture.dtype == "int8" else (0.0, 255.0)
    offsets = {
        0: builder.CreateString(picture.name),
        1: builder.CreateString(f"{'An RGB' if channels == 3 else 'A grey'} picture of {width}x{height} pixels."),
        3: _union(builder, _IMAGE_PROPERTIES, properties, slots=3),
        4: _vector(builder, [unit]),
        5: _table(builder, 2, {0: _floats(builder, [high]), 1: _floats(builder, [low])}),
    }
    return _table(builder, 7, offsets)


def _output(builder: Any, output: TensorSpec, has_labels: bool) -> int:
    builder.StartObject(0)
    properties = builder.EndObject()
    offsets = {
        0: builder.CreateString(output.name),
        3: _union(builder, _FEATURE_PROPERTIES, properties, slots=3),
    }
    if has_labels:
        offsets[1] = builder.CreateString("The probability of each class.")
        name = builder.CreateString(LABELS)
        builder.StartObject(5)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependInt8Slot(2, _TENSOR_AXIS_LABELS, 0)
        offsets[6] = _vector(builder, [builder.EndObject()])
    return _table(builder, 7, offsets)


def _table(builder: Any, slots: int, offsets: dict[int, int]) -> int:
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(builder.EndObject())


def _union(builder: Any, kind: int, value: int, *, slots: int = 2) -> int:
    """A table whose first two fields are a union: what kind it is, and the value."""
    builder.StartObject(slots)
    builder.PrependUint8Slot(0, kind, 0)
    builder.PrependUOffsetTRelativeSlot(1, value, 0)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
