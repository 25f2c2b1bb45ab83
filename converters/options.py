"""The choices that a quantization has, and what is chosen where they leave it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_dl.converters import tensors
from edge_dl.variants import Quantization

# Rows of dense weights that are shorter than this on average get one scale a matrix: see `scale_rows`.
SHORT_ROW = 80


@dataclass(frozen=True)
class QuantizationOptions:
    """Choices that a target may need.

    Attributes:
        allow_flex: let operators through that are no TFLite builtins; the runtime must bring them.
        per_channel_dense: one scale a row for dense weights, or one a matrix. With float activations, one a row needs
            FULLY_CONNECTED version 12 (TFLite 2.17, LiteRT 1.0); tflite-runtime 2.14 loads version 9, one a matrix.
            None: see `scale_rows`.
        per_channel: one scale a channel for the weights of int8 and int16x8, as their specification asks, or one a
            tensor, as accelerators of an older kind do.
        weight_only: ai-edge-quantizer's names of operators, e.g. ("CONV_2D_TRANSPOSE",), whose int8 weights are turned
            into floats by a DEQUANTIZE in dynamic and int4, for runtimes without a kernel that reads them.
        precisions: in `mixed`, by an operator's number in the float32 .tflite (as text, as JSON has it), a
            `static.Precision` other than int8.
        float_scores: in int8 and int16x8, probabilities of answers and what leads to them stay float32, as a decoder's:
            a vocabulary's probabilities in steps of 1/256 are mostly zero.
        force: try what is known to fail.
    """

    allow_flex: bool = False
    per_channel_dense: bool | None = None
    per_channel: bool = True
    weight_only: tuple[str, ...] = ()
    precisions: Mapping[str, str] = field(default_factory=dict)
    float_scores: bool = False
    force: bool = False


def scale_rows(content: bytes, quantization: Quantization, options: QuantizationOptions) -> bool:
    """Whether dense weights get one scale a row rather than one a matrix.

    A scale is 4 bytes (8 with a bias): with rows of 64 int8 weights, the tables are a tenth of the file. Measured on
    two trained 64-unit layers run for 128 steps, one a row against one a matrix: dynamic, cosine to float32
    .999998/.999982 (LSTM), .999999/.999997 (GRU), .9995/.9998 (SimpleRNN); int8 .9766/.9761, .9995/.9995, .9962/.9961.
    The file is 8 to 13 % smaller, and loads in every runtime. int16x8 and int4 keep one a row: .999998/.9944 for the
    LSTM in int16x8.

    Args:
        content: the float32 .tflite.
        quantization: what it becomes.
        options: may decide it.
    """
    if options.per_channel_dense is not None:
        return options.per_channel_dense
    if quantization not in (Quantization.DYNAMIC, Quantization.INT8):
        return True
    elements, rows = tensors.dense_rows(tensors.read(content))
    return elements >= SHORT_ROW * rows
