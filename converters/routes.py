"""Which tool makes which quantization of an export, and the export's way through it.

TFLiteConverter reads the SavedModel; ai-edge-quantizer rewrites the float32 .tflite. A route is a function by
quantization that says what came out, which tool made it, and what the user should know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from edge_dl.converters import tensors
from edge_dl.converters.calibration import Calibration
from edge_dl.converters.exporting import Export
from edge_dl.converters.feeds import make_feeds
from edge_dl.converters.float_model import float_model
from edge_dl.converters.front import takes_samples
from edge_dl.converters.integers import quantize_integers, quantize_with_float_scores
from edge_dl.converters.options import QuantizationOptions, scale_rows
from edge_dl.converters.pixels import quantize_pixels, takes_bytes
from edge_dl.converters.scores import find_masked_scores, find_tables
from edge_dl.converters.tflite_converter import convert_saved_model
from edge_dl.converters.weights import quantize_weights
from edge_dl.errors import RefusedError, StageError
from edge_dl.variants import Lowering, Quantization, VariantSpec


def convert_export(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    """Convert an export of one signature; `edge_dl.converters.finishing` makes a variant of what comes out.

    Args:
        export: the exported model, or a part of one.
        spec: what to make.
        calibration: whole samples, needed for int8, int16x8 and `mixed`.
        options: see `QuantizationOptions`.

    Returns:
        The file's content, the tool, and notes.

    Raises:
        RefusedError: the model holds what the tool is known to fail on, or to die of.
        StageError: the tool failed.
    """
    return _ROUTES[spec.quantization](export, spec, calibration, options)


def _float32(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    return float_model(export).read_bytes(), "TFLiteConverter", []


def _float16(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    def configure(converter: Any) -> None:
        import tensorflow as tf

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return convert_saved_model(export, configure, allow_flex=options.allow_flex), "TFLiteConverter float16", []


def _dynamic(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    """Int8 weights.

    Measured on two 64-unit LSTM layers over 50 steps, one thread, as a ratio to float32: ai-edge-quantizer and
    TFLiteConverter are equally fast (while .95 / .94, unroll .35-.41 / .27-.29, step .76-.79 / .77-.79) and equally
    right (largest error .0009 / .0008). ai-edge-quantizer quantizes every matrix; TFLiteConverter leaves those under
    1024 elements in float32, and with one of them in it a whole fused LSTM. So ai-edge-quantizer, with the fused
    operator done here and operator versions put right afterwards.
    """
    return _edge_quantizer(export, 8, options), "ai-edge-quantizer dynamic_wi8_afp32", []


def _int4(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    return _edge_quantizer(export, 4, options), "ai-edge-quantizer dynamic_wi4_afp32", []


def _full_integer(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    import tensorflow as tf

    assert calibration is not None
    if takes_samples(export.signature) and export.lowering is Lowering.FUSED:
        raise RefusedError(
            f"{spec.quantization.value} of a speech model with the fused LSTM operator cannot be made: "
            "ai-edge-quantizer, which leaves the features in float, leaves that operator so, too.",
            todo=f"Use unroll-{spec.quantization.value} or fused-dynamic.",
        )
    content = float_model(export).read_bytes()
    model = tensors.read(content)
    if tensors.operator_names(model)["WHILE"] and not options.force:
        raise RefusedError(
            f"{spec.quantization.value} of a model with a loop cannot be made: TensorFlow's converter crashes on it "
            "(SIGSEGV). Layers such as ConvLSTM2D or an RNN with a cell of its own are loops.",
            todo=f"Use {VariantSpec(export.lowering, Quantization.DYNAMIC).name}, which has int8 weights.",
        )
    feeds = make_feeds(export, calibration)
    # ai-edge-quantizer would leave the fused operator in float too.
    if options.float_scores and export.lowering is not Lowering.FUSED:
        answers = [item.name for item in export.signature.outputs]
        return quantize_with_float_scores(content, spec, feeds, options, answers)
    wide = spec.quantization is Quantization.INT16X8
    # TensorFlow's converter wants a range for the tokens themselves where activations are int16, and ends without one.
    looks_up = wide and find_tables(model)
    # It has one scale for scores and what masks them: causal attention would be off by a quarter of its answers' range.
    masked = find_masked_scores(model) and export.lowering is not Lowering.FUSED
    if takes_samples(export.signature) or looks_up or masked:
        return quantize_integers(content, spec, feeds, options)
    sets = tf.lite.OpsSet
    strict = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8 if wide else sets.TFLITE_BUILTINS_INT8

    def configure(converter: Any, *operators: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: iter([(export.signature.key, feed) for feed in feeds])
        converter.target_spec.supported_ops = list(operators)
        if spec.integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int16 if wide else tf.int8

    tool = f"TFLiteConverter {spec.quantization.value}"
    rows = scale_rows(content, spec.quantization, options)
    rows = rows and options.per_channel
    scales = {"per_channel_dense": rows, "per_channel": options.per_channel}
    choices = {"allow_flex": options.allow_flex, **scales}
    if spec.integer_io and not wide and takes_bytes(export.signature):
        return quantize_pixels(content, feeds, export.signature.key, **scales), tool, []
    try:
        return convert_saved_model(export, lambda item: configure(item, strict), **choices), tool, []
    except StageError as error:
        unsupported = re.search(r"not (?:yet )?supported for op:? '?(\w+)", error.received)
        if unsupported is None:
            raise
        # One operator without an integer kernel: it stays float between a DEQUANTIZE and a QUANTIZE.
        mixed = convert_saved_model(export, lambda item: configure(item, strict, sets.TFLITE_BUILTINS), **choices)
        note = f"{unsupported.group(1)} has no {spec.quantization.value} kernel and stays float32"
        return mixed, tool, [note]


def _mixed(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    assert calibration is not None
    content = float_model(export).read_bytes()
    return quantize_integers(content, spec, make_feeds(export, calibration), options)


def _trained(
    export: Export, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    """Int8 of a model with quantizers in it (`edge_dl.compression`): training found every range."""
    if not options.per_channel:
        raise RefusedError(
            "qat was trained with one scale a channel for convolutions, and has no other.",
            todo="Use int8 with conversion.per_channel=false.",
        )

    def configure(converter: Any) -> None:
        import tensorflow as tf

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if spec.integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8

    content = convert_saved_model(export, configure, allow_flex=options.allow_flex)
    return content, "TFLiteConverter, trained by tfmot", []


def _edge_quantizer(export: Export, bits: int, options: QuantizationOptions) -> bytes:
    return quantize_weights(float_model(export).read_bytes(), bits, options)


_Route = Callable[
    [Export, VariantSpec, "Calibration | None", QuantizationOptions], "tuple[bytes, str, list[str]]"
]  # content, tool, notes

_ROUTES: dict[Quantization, _Route] = {
    Quantization.FLOAT32: _float32,
    Quantization.FLOAT16: _float16,
    Quantization.DYNAMIC: _dynamic,
    Quantization.INT8: _full_integer,
    Quantization.INT16X8: _full_integer,
    Quantization.INT4: _int4,
    Quantization.MIXED: _mixed,
    Quantization.QAT: _trained,
}
