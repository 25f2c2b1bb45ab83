"""Integers throughout for a finished float32 .tflite, by ai-edge-quantizer: int8, int16x8, and `mixed`.

`edge_dl.converters.static` quantizes operator by operator. Here is decided which operators stay float32 whatever was
asked for, because integers would spoil the answers: features of sounds, softmaxes with a mask, probabilities of a
vocabulary. `edge_dl.converters.weights` is for weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_dl.converters import packing, repairs, tensors
from edge_dl.converters.front import find_front
from edge_dl.converters.lookups import quantize_lookups
from edge_dl.converters.options import QuantizationOptions, scale_rows
from edge_dl.converters.scores import find_masked_scores, find_scores, find_tables, give_floats
from edge_dl.converters.static import Precision, quantize_static
from edge_dl.errors import RefusedError
from edge_dl.variants import Quantization, VariantSpec

MIXING = "ai-edge-quantizer static, each operator in its own precision"
FLOAT_SCORES = "softmaxes and what leads to them stay float32"
FLOAT_FRONT = "the features of the sound stay float32"
FLOAT_MASKED = "softmaxes with a mask, and what masks their scores, stay float32"


def quantize_integers(
    content: bytes, spec: VariantSpec, feeds: list[dict[str, np.ndarray]], options: QuantizationOptions
) -> tuple[bytes, str, list[str]]:
    """int8, int16x8 or `mixed`; features of sounds and softmaxes with a mask stay float32.

    Args:
        content: the float32 .tflite.
        spec: what it becomes, and whether its edges are integers.
        feeds: calibration samples by input name, with the batch axis.
        options: for `mixed`, operators that are not to be int8: `precisions`.

    Returns:
        The file's content, the tool, and notes.

    Raises:
        RefusedError: int8 or int16x8 with one scale a tensor is asked for.
    """
    model = tensors.read(content)
    front, masked = find_front(model), find_masked_scores(model)
    asked = {int(number): Precision(name) for number, name in options.precisions.items()}
    exceptions = asked | dict.fromkeys([*front, *masked], Precision.FLOAT32)
    if spec.quantization is Quantization.MIXED:
        return quantize_static(content, feeds, exceptions=exceptions), MIXING, []
    wide = spec.quantization is Quantization.INT16X8
    precision = Precision.INT16X8 if wide else Precision.INT8
    if not options.per_channel:
        raise RefusedError(
            f"{spec.quantization.value} of sounds, tokens, masked attention and .tflite files has one scale a "
            "channel, and no other.",
            todo="Leave conversion.per_channel at true.",
        )
    tables = find_tables(model) if wide else []
    exceptions |= dict.fromkeys(tables, Precision.FLOAT32)
    result = quantize_static(content, feeds, precision=precision, exceptions=exceptions, integer_io=spec.integer_io)
    if tables:
        result = _with_short_tables(result)
    kept = ((FLOAT_FRONT, front), (FLOAT_MASKED, masked))
    return result, _tool(spec), [note for note, found in kept if found]


def quantize_with_float_scores(
    content: bytes,
    spec: VariantSpec,
    feeds: list[dict[str, np.ndarray]],
    options: QuantizationOptions,
    answers: Sequence[str],
) -> tuple[bytes, str, list[str]]:
    """Full integer for one signature of an encoder-decoder, or a language model; what leads to probabilities of a
    vocabulary stays float32.

    Args:
        content: the float32 .tflite.
        spec: int8 or int16x8, and whether its edges are integers.
        feeds: calibration samples by input name, with the batch axis.
        options: see `QuantizationOptions`.
        answers: names of outputs that may be scores themselves.

    Returns:
        The file's content, the tool, and notes.

    Raises:
        RefusedError: one scale a tensor is asked for.
    """
    if not options.per_channel:
        raise RefusedError(
            f"{spec.quantization.value} of decoders and language models has one scale a channel, and no other.",
            todo="Leave conversion.per_channel at true.",
        )
    wide = spec.quantization is Quantization.INT16X8
    model = tensors.read(content)
    if repairs.separate_outputs(model):
        content = packing.pack(model)
        model = tensors.read(content)
    scores = find_scores(model, answers)
    tables = find_tables(model) if wide else []  # See `_with_short_tables`.
    result = quantize_static(
        content,
        feeds,
        precision=Precision.INT16X8 if wide else Precision.INT8,
        exceptions=dict.fromkeys([*scores.floating, *tables], Precision.FLOAT32),
        weights_only=scores.logits,
        rows=scale_rows(content, Quantization.DYNAMIC, options),
        integer_io=spec.integer_io,
    )
    model = tensors.read(result)
    quantize_lookups(model)
    repairs.drop_idle_reshapes(model)
    if spec.integer_io:
        give_floats(model)
    return packing.pack(model), _tool(spec), [FLOAT_SCORES] if scores.floating or scores.logits else []


def _with_short_tables(content: bytes) -> bytes:
    """With int16 activations a table would be of int16; with one of int8 what is looked up becomes float first."""
    model = tensors.read(content)
    return packing.pack(model) if quantize_lookups(model) else content


def _tool(spec: VariantSpec) -> str:
    return f"ai-edge-quantizer static_wi8_ai{16 if spec.quantization is Quantization.INT16X8 else 8}"
