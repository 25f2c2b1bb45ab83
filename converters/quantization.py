"""One interface to every way of storing numbers: an export and a `VariantSpec` go in, a checked .tflite comes out.

A user's own float32 .tflite may stand in the export's place. What is known to fail, or to kill the process, is refused
before anything starts. `edge_dl.converters.routes` knows which tool is used.

These functions import TensorFlow and may crash in native code: call them through `edge_dl.converters.isolation`.
"""

from __future__ import annotations

from pathlib import Path

from edge_dl.converters import tensors
from edge_dl.converters.calibration import Calibration, batches, check_finite, check_inputs
from edge_dl.converters.exporting import Export
from edge_dl.converters.feeds import make_feeds_by_part
from edge_dl.converters.finishing import AS_IT_IS, Quantized, finish, put_right, write_variant
from edge_dl.converters.float_model import float_model
from edge_dl.converters.integers import quantize_integers, quantize_with_float_scores
from edge_dl.converters.merging import merge
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.pairs import check_allowed
from edge_dl.converters.routes import convert_export
from edge_dl.converters.weights import halve_weights, quantize_weights
from edge_dl.errors import RefusedError, UsageError
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
    content, tool, notes = convert_export(export, spec, calibration, options)
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
            content, tool, told = convert_export(part, spec, calibration, options)
        models.append(put_right(content, spec, part, options, told))
        notes += [f"{key}: {note}" for note in told]
    return write_variant(merge(models), spec, out, tool=tool, notes=notes, export=export)


def quantize_tflite(
    content: bytes, spec: VariantSpec, calibration: Calibration | None, options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    """Quantize a user's own float32 .tflite with ai-edge-quantizer; `finishing.finish` makes it a variant.

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
