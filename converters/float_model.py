"""The float32 .tflite of an export: what most other quantizations are made from, or calibrated with."""

from __future__ import annotations

from pathlib import Path

from edge_dl.converters import decoding, packing, repairs, tensors
from edge_dl.converters.exporting import RECORD, Export
from edge_dl.converters.tflite_converter import convert_saved_model
from edge_dl.files import write_atomic

FLOAT_MODEL = "float32.tflite"


def float_model(export: Export) -> Path:
    """The float32 .tflite of an export, made by TFLiteConverter when it is not there yet."""
    own = export.signature.key in decoding.KEYS
    path = export.folder / (f"{export.signature.key}.{FLOAT_MODEL}" if own else FLOAT_MODEL)
    record = export.folder / RECORD
    if not path.is_file() or path.stat().st_mtime_ns < record.stat().st_mtime_ns:
        model = tensors.read(convert_saved_model(export, lambda converter: None, allow_flex=True))
        repairs.unclip_lstm(model)
        write_atomic(path, packing.pack(model))
    return path
