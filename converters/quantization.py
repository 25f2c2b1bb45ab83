"""One interface to every way of storing numbers: an export and a `VariantSpec` go in, a checked .tflite comes out.

Two tools do the work. TFLiteConverter reads the SavedModel; ai-edge-quantizer rewrites the float32 .tflite. Which one
is used is decided here, by lowering and quantization, and said in the result. What is known to fail, or to kill the
process, is refused before anything starts.

These functions import TensorFlow and may crash in native code: call them through `edge_dl.converters.isolation`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_dl.converters import tensors
from edge_dl.converters.calibration import (
    Calibration,
    batches,
    check_finite,
    check_inputs,
)
from edge_dl.converters.exporting import Export
from edge_dl.converters.feeds import make_feeds, make_feeds_by_part
from edge_dl.converters.finishing import AS_IT_IS, Quantized, finish, put_right, write_variant
from edge_dl.converters.float_model import float_model
from edge_dl.converters.front import takes_samples
from edge_dl.converters.integers import quantize_integers, quantize_with_float_scores
from edge_dl.converters.merging import merge
from edge_dl.converters.options import QuantizationOptions, scale_rows
from edge_dl.converters.pairs import check_allowed
from edge_dl.converters.pixels import quantize_pixels, takes_bytes
from edge_dl.converters.scores import find_masked_scores, find_tables
from edge_dl.converters.tflite_converter import convert_saved_model
from edge_dl.converters.weights import halve_weights, quantize_weights
from edge_dl.errors import RefusedError, StageError, UsageError
from edge_dl.variants import CALIBRATED, FULL_INTEGER, Lowering, Quantization, VariantSpec


def quantize(
    export: Export,
    spec: VariantSpec,
    out: Path,
    calibration: Calibration | None = None,
    options: QuantizationOptions | None = None,
) -> Quantized:
    """Make one variant and check what came out.

    Args:
        export: the exported model in the variant's lowering.
        spec: what to make.
        out: where the .tflite goes.
        calibration: whole samples, needed for int8 and int16x8.
        options: see `QuantizationOptions`.

    Raises:
        RefusedError: it cannot be made; the message says what would work.
        UsageError: calibration samples are missing or do not fit.
        StageError: the tool failed, or its file is not what it claims to be.
    """
    options = options or QuantizationOptions()
    if not options.force:
        check_allowed(export.lowering, spec.quantization)
    if spec.quantization in CALIBRATED:
        if calibration is None:
            raise _no_calibration(spec)
        check_finite(calibration)
        check_inputs(calibration, export.clip_inputs, export.sequence)
    if export.encoder is not None:
        return _quantize_parts(export, spec, out, calibration, options)
    content, tool, notes = _ROUTES[spec.quantization](export, spec, calibration, options)
    return finish(content, spec, out, tool=tool, notes=notes, export=export, options=options)


def _quantize_parts(
    export: Export, spec: VariantSpec, out: Path, calibration: Calibration | None, options: QuantizationOptions
) -> Quantized:
    """Make each signature of an encoder and its decoder by itself, and one file of all."""
    parts = export.parts
    feeds = make_feeds_by_part(export, calibration) if spec.quantization in FULL_INTEGER and calibration else {}
    models, notes, tool = [], [], ""
    for part in parts:
        key = part.signature.key
        if feeds:
            assert export.encoder is not None
            answers = () if key == export.encoder.key else [item.name for item in part.signature.outputs]
            content, tool, told = quantize_with_float_scores(
                float_model(part).read_bytes(), spec, feeds[key], options, answers
            )
        else:
            content, tool, told = _ROUTES[spec.quantization](part, spec, calibration, options)
        models.append(put_right(content, spec, part, options, told))
        notes += [f"{key}: {note}" for note in told]
    return write_variant(merge(models), spec, out, tool=tool, notes=notes, export=export)


_Route = Callable[
    [Export, VariantSpec, "Calibration | None", QuantizationOptions], "tuple[bytes, str, list[str]]"
]  # content, tool, notes


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


def _edge_quantizer(export: Export, bits: int, options: QuantizationOptions) -> bytes:
    return quantize_weights(float_model(export).read_bytes(), bits, options)


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
    model = tensors.read(float_model(export).read_bytes())
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
        return quantize_with_float_scores(float_model(export).read_bytes(), spec, feeds, options, answers)
    wide = spec.quantization is Quantization.INT16X8
    # TensorFlow's converter wants a range for the tokens themselves where activations are int16, and ends without one.
    looks_up = wide and find_tables(model)
    # It has one scale for scores and what masks them: causal attention would be off by a quarter of its answers' range.
    masked = find_masked_scores(model) and export.lowering is not Lowering.FUSED
    if takes_samples(export.signature) or looks_up or masked:
        return quantize_integers(float_model(export).read_bytes(), spec, feeds, options)
    sets = tf.lite.OpsSet
    strict = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8 if wide else sets.TFLITE_BUILTINS_INT8

    def configure(converter: Any, *operators: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: iter([(export.signature.key, feed) for feed in feeds])
        converter.target_spec.supported_ops = list(operators)
        if spec.integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int16 if wide else tf.int8

    tool = f"TFLiteConverter {spec.quantization.value}"
    rows = scale_rows(float_model(export).read_bytes(), spec.quantization, options)
    rows = rows and options.per_channel
    scales = {"per_channel_dense": rows, "per_channel": options.per_channel}
    choices = {"allow_flex": options.allow_flex, **scales}
    if spec.integer_io and not wide and takes_bytes(export.signature):
        content = float_model(export).read_bytes()
        return quantize_pixels(content, feeds, export.signature.key, **scales), tool, []
    try:
        return convert_saved_model(export, lambda item: configure(item, strict), **choices), tool, []
    except StageError as error:
        unsupported = re.search(r"not (?:yet )?supported for op:? '?(\w+)", error.received)
        if unsupported is None:
            raise
        # One operator without an integer kernel: it stays float between a DEQUANTIZE and a QUANTIZE.
        content = convert_saved_model(export, lambda item: configure(item, strict, sets.TFLITE_BUILTINS), **choices)
        note = f"{unsupported.group(1)} has no {spec.quantization.value} kernel and stays float32"
        return content, tool, [note]


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

    return (
        convert_saved_model(export, configure, allow_flex=options.allow_flex),
        "TFLiteConverter, trained by tfmot",
        [],
    )


def quantize_tflite(
    content: bytes, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    """Quantize a user's own float32 .tflite with ai-edge-quantizer; `finish` makes it a variant.

    Returns:
        The file's content, the tool, and notes.

    Raises:
        RefusedError: the file is quantized already, or holds an operator that cannot be quantized in this way.
        UsageError: calibration samples are missing or do not fit.
    """
    model = tensors.read(content)
    if spec.quantization is Quantization.FLOAT32:
        return content, AS_IT_IS, []
    if spec.quantization is Quantization.QAT:
        raise RefusedError("A .tflite cannot be trained for quantization.", todo="Start from the Keras model.")
    if tensors.count_weights(model).share("float32") < 1.0:
        raise RefusedError(
            "Only a float32 .tflite can be quantized; this one is quantized already.",
            todo="Start from the Keras model or from the float32 .tflite.",
        )
    operators = tensors.operator_names(model)
    if spec.quantization in CALIBRATED:
        for name in ("WHILE", "IF", tensors.LSTM):
            if operators[name] and not options.force:
                raise RefusedError(
                    f"{spec.quantization.value} of a .tflite that holds {name} cannot be made: ai-edge-quantizer has "
                    "no calibration or no kernel for it.",
                    todo="Start from the Keras model: step, unroll and (int8) fused can be made from it.",
                )
        if calibration is None:
            raise _no_calibration(spec)
        signature = tensors.signature_of(tensors.read(content))
        check_inputs(calibration, signature.inputs, None)
        return quantize_integers(content, spec, list(batches(calibration, signature.inputs)), options)
    if spec.quantization is Quantization.FLOAT16:
        return halve_weights(content), "ai-edge-quantizer float16 weights", []
    if spec.quantization is Quantization.INT4 and operators[tensors.LSTM]:
        check_allowed(Lowering.FUSED, spec.quantization)
    bits = 4 if spec.quantization is Quantization.INT4 else 8
    return quantize_weights(content, bits, options), f"ai-edge-quantizer dynamic_wi{bits}_afp32", []


def _no_calibration(spec: VariantSpec) -> UsageError:
    return UsageError(
        f"{spec.quantization.value} needs calibration samples from the training data.",
        todo="Give the training data with --data.",
    )


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
