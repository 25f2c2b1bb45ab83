"""The way of a converted file to a variant: put right what the tools left wrong, shrink, write, check.

It is the same for every tool. `edge_dl.converters.repairs` knows what is put right, `acceptance` what is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_dl.bundle import EncoderSpec, Signature
from edge_dl.converters import packing, repairs, tensors
from edge_dl.converters.acceptance import check_claims, check_runs
from edge_dl.converters.exporting import Export
from edge_dl.converters.flat_dense import flatten_int16_dense
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.tflite_converter import not_builtin
from edge_dl.files import write_atomic
from edge_dl.variants import Quantization, VariantSpec

AS_IT_IS = "none (the file as it was)"


@dataclass(frozen=True)
class Quantized:
    """A .tflite that was made and checked.

    Attributes:
        path: the file.
        signature: what it takes and gives, with scales.
        tool: what made it, e.g. "ai-edge-quantizer dynamic_wi4_afp32".
        notes: what the user should know, e.g. operators that stayed float.
        weights: elements of weight matrices by type.
        min_runtime_version: the oldest TFLite runtime by the file's own statement; "" when it makes none.
        encoder: of a `decode` variant, the encoder's signature with scales.
    """

    path: Path
    signature: Signature
    tool: str
    notes: tuple[str, ...]
    weights: Mapping[str, int]
    min_runtime_version: str
    encoder: EncoderSpec | None = None


def finish(
    content: bytes,
    spec: VariantSpec,
    out: Path,
    *,
    tool: str,
    notes: list[str],
    export: Export | None,
    options: QuantizationOptions,
) -> Quantized:
    """Repair, shrink, write and check a converted file.

    Args:
        content: what the tool gave.
        spec: what it should be.
        out: where it goes.
        tool: what made it.
        notes: what is known about it already.
        export: the export that it comes from; None for a user's own .tflite.
        options: see `QuantizationOptions`.

    Raises:
        StageError: it cannot run on a device, or is not what its name says.
    """
    model = put_right(content, spec, export, options, notes)
    return write_variant(model, spec, out, tool=tool, notes=notes, export=export, content=content)


def put_right(
    content: bytes, spec: VariantSpec, export: Export | None, options: QuantizationOptions, notes: list[str]
) -> Any:
    """A converted file of one signature as a `ModelT`, put right.

    Args:
        content: what the tool gave.
        spec: what it should be.
        export: the export of that signature; None for a user's own .tflite.
        options: see `QuantizationOptions`.
        notes: what was put right is added here.

    Raises:
        StageError: it holds operators that are no TFLite builtins, and `allow_flex` is not set.
    """
    model = tensors.read(content)
    custom = tensors.custom_operators(model)
    if custom and not options.allow_flex:
        raise not_builtin(custom)
    states = _states(export)
    key = export.signature.key if export else ""
    if export is not None:
        repairs.unclip_lstm(model)
        repairs.fill_zeros(model)
        flatten_int16_dense(model)
    sums = repairs.repair_sums(model)
    if sums:
        notes.append(f"{sums} sums with a scale that their kernel cannot take were put right")
    repaired = repairs.repair_biases(model)
    if repaired:
        notes.append(f"{repaired} biases that the converter had given another operator's scale were put right")
    if states and spec.integer_io:
        repairs.adopt_state_scales(model, states, key)
        changed = repairs.unify_state_scales(model, states, key)
        if changed:
            notes.append(f"states rescaled at the model's edge: {', '.join(changed)}")
    repairs.correct_versions(model)
    if export is not None:
        repairs.name_edges(model)
    return model


def write_variant(
    model: Any,
    spec: VariantSpec,
    out: Path,
    *,
    tool: str,
    notes: list[str],
    export: Export | None,
    content: bytes = b"",
) -> Quantized:
    """Shrink, write and check a file that was put right.

    Args:
        model: the file as a `ModelT`, of one signature or of several.
        spec: what it should be.
        out: where it goes.
        tool: what made it; a file `AS_IT_IS` is written as it came.
        notes: what is known about it already; what is found here is added.
        export: the export that it comes from; None for a user's own .tflite.
        content: what `model` was read from, for a file `AS_IT_IS`.

    Raises:
        StageError: it is not what its name says, or does not run.
    """
    custom = tensors.custom_operators(model)
    # Names are for people who look into a model, and they do that in float32. They are up to a tenth of a small file.
    data = packing.pack(model, keep_names=spec.quantization is Quantization.FLOAT32)
    if tool == AS_IT_IS:
        data = content
    model = tensors.read(data)
    signature = tensors.signature_of(model, _states(export), export.signature.key if export else "")
    encoder = None
    if export is not None and export.encoder is not None:
        found = tensors.signature_of(model, (), export.encoder.key)
        encoder = EncoderSpec(found.key, found.inputs, found.outputs)
    weights = tensors.count_weights(model)
    check_claims(spec, weights, signature)
    write_atomic(out, data)
    if custom:
        notes.append(f"not run here: the runtime must bring {', '.join(custom)}")
    else:
        check_runs(out)
    return Quantized(
        path=out,
        signature=signature,
        tool=tool,
        notes=tuple(notes),
        weights=weights.elements,
        min_runtime_version=tensors.min_runtime_version(model),
        encoder=encoder,
    )


def _states(export: Export | None) -> list[dict[str, Any]]:
    return [
        {"input": item.input, "output": item.output, "silent": item.silent, "initial": item.initial}
        for item in (export.signature.states if export else ())
    ]
