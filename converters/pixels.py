"""Full-integer models whose pictures go in as the integers they are, for accelerators that compute nothing else.

A picture model takes bytes, casts them to float and scales them. In its full-integer form with integer edges there is
no float left: the cast goes, and the input's quantization becomes scale 1 and zero point -128, so that what is fed is
the camera's byte minus 128, without rounding. Everything after it is TFLite's own post-training quantization.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edge_dl.bundle import Signature
from edge_dl.converters import packing, repairs, tensors

LOWEST, HIGHEST = 0.0, 255.0


def takes_bytes(signature: Signature) -> bool:
    """Whether an input is a picture of bytes."""
    return any(item.dtype == "uint8" and len(item.shape) == 4 for item in signature.inputs)


def quantize_pixels(
    content: bytes,
    feeds: Iterable[Mapping[str, np.ndarray]],
    key: str,
    *,
    per_channel_dense: bool = True,
    per_channel: bool = True,
) -> bytes:
    """The int8 model with int8 edges of a float32 model that takes bytes.

    Args:
        content: the float32 .tflite.
        feeds: calibration samples by input name, with the batch axis.
        key: the signature's key.
        per_channel_dense: one scale a row for dense weights, or one a matrix.
        per_channel: one scale a channel for the weights of convolutions, or one a tensor.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    model = tensors.read(content)
    pixels = _without_casts(model)
    samples = [dict(feed) for feed in feeds]
    # The full range of a byte, whatever the samples hold: that is what makes the scale 1.
    for value in (LOWEST, HIGHEST):
        samples.append({**samples[0], **{name: np.full(samples[0][name].shape, value) for name in pixels}})

    def calibration() -> Iterable[tuple[str, dict[str, np.ndarray]]]:
        for sample in samples:
            yield (key, {name: array.astype(np.float32) if name in pixels else array for name, array in sample.items()})

    calibrated = Calibrator(packing.pack(model)).calibrate(calibration)
    return bytes(
        mlir_quantize(
            calibrated,
            fully_quantize=True,
            input_data_type=tf.int8,
            output_data_type=tf.int8,
            disable_per_channel=not per_channel,
            disable_per_channel_for_dense_layers=not per_channel_dense,
        )
    )


def _without_casts(model: Any) -> set[str]:
    """Take the casts at the edge away, in place; the signature's names of the inputs that are float now."""
    graph = model.subgraphs[0]
    changed: dict[int, int] = {}
    for operator in graph.operators:
        name = tensors.operator_name(model, operator.opcodeIndex)
        source = int(operator.inputs[0]) if len(operator.inputs) else -1
        if name == "CAST" and source in set(map(int, graph.inputs)):
            readers = sum(source in set(map(int, other.inputs)) for other in graph.operators)
            if readers == 1 and graph.tensors[source].type == tensors.type_number("UINT8"):
                changed[source] = int(operator.outputs[0])
    graph.operators = [
        item for item in graph.operators
        if not (len(item.outputs) == 1 and int(item.outputs[0]) in changed.values())
    ]  # fmt: skip
    graph.inputs = [changed.get(int(index), int(index)) for index in graph.inputs]
    for old, new in changed.items():
        graph.tensors[new].name = graph.tensors[old].name
    names = set()
    for signature in model.signatureDefs:
        for item in signature.inputs:
            if item.tensorIndex in changed:
                item.tensorIndex = changed[item.tensorIndex]
                names.add(tensors.text_of(item.name))
    repairs.drop_unused_tensors(model)  # The calibrator loads every operator that the file names, used or not.
    return names
