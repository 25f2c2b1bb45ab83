"""What the worker process does for an export or a conversion: functions from JSON values to JSON values.

Each runs in a child process (`edge_dl.converters.isolation`); each opens what it needs by path.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl import bundle
from edge_dl.bundle import Limits, Manifest, TensorSpec, TranslationSpec
from edge_dl.checks.runtime_profiles import find_profiles
from edge_dl.converters import calibration as calibrations
from edge_dl.converters.acceptance import check_runs
from edge_dl.converters.exporting import DEFAULT_BEAMS, RECORD, Export, read_export
from edge_dl.converters.finishing import Quantized, finish
from edge_dl.converters.internal_states import RESET, keep_inside
from edge_dl.converters.loadable import make_loadable
from edge_dl.converters.merging import split_signatures
from edge_dl.converters.metadata import add_metadata, takes_pictures
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.quantization import quantize, quantize_tflite
from edge_dl.converters.sources import Source, open_source
from edge_dl.converters.worker import note
from edge_dl.files import gzip_size, load_npz, save_npz
from edge_dl.names import values_under
from edge_dl.runtime.agent import ATTENTION
from edge_dl.variants import Lowering, VariantSpec

ENCODE_FILE, DECODE_FILE = "encode.tflite", "decode.tflite"
GOLDEN_SAMPLES = 16
PREDICT_BATCH = 256
# A decoder answers with a number for every word of its vocabulary at every step: of its answers so many numbers are
# kept as the reference (128 MB), and so many travel in a bundle.
MOST_REFERENCE = 32_000_000
MOST_GOLDEN = 2_000_000


def describe(
    source: str,
    custom: Sequence[str] = (),
    unsafe: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    split: str = "",
) -> dict[str, Any]:
    """What can be made of a model; see `sources.Source.describe`.

    Args:
        source: the model.
        custom: the user's classes as "module:name".
        unsafe: whether Lambda layers may run.
        input_shapes: shapes that the user gave, without the batch axis.
        split: .npz of a split whose shapes fill free axes; empty: none.
    """
    arrays = load_npz(split) if split else {}
    data = {name[2:]: array.shape[1:] for name, array in arrays.items() if name.startswith("x/")}
    return open_source(source, tuple(custom), unsafe).describe(input_shapes or {}, data)


def export_lowering(
    source: str,
    folder: str,
    lowering: str,
    batch: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    custom: Sequence[str] = (),
    unsafe: bool = False,
    beams: int = DEFAULT_BEAMS,
) -> dict[str, Any]:
    """Write one export."""
    opened = open_source(source, tuple(custom), unsafe)
    return opened.export(Path(folder), Lowering(lowering), batch=batch, input_shapes=input_shapes, beams=beams)


def make_reference(
    source: str,
    export: str,
    reference: str,
    golden: str,
    test: str = "",
    custom: Sequence[str] = (),
    unsafe: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the source model's answers on the test split, and the golden samples that a bundle carries.

    Of a model that decodes, as many evenly spread samples are answered as `MOST_REFERENCE` numbers hold, and `index`
    beside the answers names their rows in the split.

    Args:
        source: the model.
        export: folder of any of its exports, for names and shapes.
        reference: where to write `y/<output>`; nothing is written without a test split.
        golden: where to write `in/<input>` and `out/<output>` of a few samples.
        test: the test split as .npz; empty: golden inputs are made up.
        custom: the user's classes as "module:name".
        unsafe: whether Lambda layers may run.
        seed: chooses the golden samples.
    """
    opened = open_source(source, tuple(custom), unsafe)
    inputs = opened.whole_inputs(Path(export))
    record = Path(export) / RECORD
    decodes = record.is_file() and read_export(export).encoder is not None
    if not test:
        x: Mapping[str, np.ndarray] = calibrations.random_calibration(inputs, count=GOLDEN_SAMPLES, seed=seed).x
        count = min(GOLDEN_SAMPLES, _fitting(opened, x, MOST_GOLDEN)) if decodes else GOLDEN_SAMPLES
        rows = np.arange(count)
        y = predict(opened, {name: array[:count] for name, array in x.items()})
    else:
        arrays = load_npz(test)
        x = split_inputs(arrays, inputs)
        labels = [array for name, array in arrays.items() if name.startswith("y/")]
        total, count = len(next(iter(x.values()))), GOLDEN_SAMPLES
        index: dict[str, np.ndarray] = {}
        if decodes:
            count = min(count, _fitting(opened, x, MOST_GOLDEN))
            kept = _fitting(opened, x, MOST_REFERENCE)
            if kept < total:
                chosen = np.linspace(0, total - 1, kept).round().astype(np.int64)
                x, labels = {name: array[chosen] for name, array in x.items()}, [array[chosen] for array in labels]
                index, total = {"index": chosen}, kept
        y = predict(opened, x)
        save_npz(reference, {f"y/{name}": array for name, array in y.items()} | index)
        rows = calibrations.choose_indices(labels[0] if len(labels) == 1 else None, total, count, seed)
    members = {f"in/{name}": array[rows] for name, array in x.items()}
    save_npz(golden, members | {f"out/{name}": array[rows] for name, array in y.items()})
    return {"samples": len(next(iter(y.values()))), "golden": len(rows)}


def _fitting(source: Source, x: Mapping[str, np.ndarray], numbers: int) -> int:
    """How many samples' answers are so many numbers at most; one at least."""
    answer = source.predict({name: array[:1] for name, array in x.items()})
    return max(1, numbers // sum(array.size for array in answer.values()))


def predict(source: Source, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The source model's float32 answers on `x`, batch by batch."""
    total = len(next(iter(x.values())))
    pieces: dict[str, list[np.ndarray]] = {}
    for start in range(0, total, PREDICT_BATCH):
        for name, value in source.predict(
            {key: array[start : start + PREDICT_BATCH] for key, array in x.items()}
        ).items():
            pieces.setdefault(name, []).append(value)
        note(f"{min(start + PREDICT_BATCH, total)}/{total}")
    return {name: np.concatenate(values) for name, values in pieces.items()}


def split_inputs(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """A split's inputs by the model's names.

    A model with one input takes a split with one input, whatever it is called. Otherwise names must agree, where
    Keras' own are as good as ours.

    Raises:
        UsageError: an input is missing or has another shape.
    """
    x = values_under(arrays, "x/")
    if len(inputs) == 1 and len(x) == 1:
        x = {inputs[0].name: next(iter(x.values()))}
    samples = calibrations.Calibration(x, np.zeros(0, np.int64))
    calibrations.check_inputs(samples, inputs, None)
    return {spec.name: x[spec.name].astype(spec.dtype) for spec in inputs}


def make_variant(
    source: str,
    export: str,
    variant: str,
    folder: str,
    golden: str,
    calibration: str,
    manifest: Mapping[str, Any],
    labels: Sequence[str],
    limits: Mapping[str, float | None],
    options: Mapping[str, Any],
    runtime: Sequence[str] = (),
    members: Mapping[str, str] | None = None,
    split: bool = False,
    internal_states: bool = False,
) -> dict[str, Any]:
    """Make one variant and its bundle; the bundle appears under its name only when it is whole.

    Args:
        source: the model, read only when it is a .tflite.
        export: folder of the export.
        variant: the variant's name.
        folder: where the bundle goes; a bundle that is there already is replaced at the end.
        golden: .npz of golden samples.
        calibration: .npz of calibration samples; empty: none.
        manifest: name, task, made_by; for an encoder, threshold; for a model of sounds, their rate; for one that
            translates, the member that holds its vocabularies as `tables`.
        members: by name, paths of further files that go into the bundle.
        split: whether an encoder and a decoder are also written as a file each.
        internal_states: whether the file keeps its states itself.
        labels: class names.
        limits: parity limits.
        options: fields of `QuantizationOptions`.
        runtime: runtimes that it must load in, by name.

    Raises:
        RefusedError: there is no way to make it so that it loads there.
    """
    spec = VariantSpec.parse(variant)
    samples = calibrations.read(calibration) if calibration else None
    target = Path(folder)
    making = target.parent / f".{variant}.making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        file = making / "model.tflite.tmp"
        record = None if source.endswith(".tflite") else read_export(export)

        def make(choices: QuantizationOptions) -> Quantized:
            if record is not None:
                made = quantize(record, spec, file, samples, choices)
                return keep_inside(made) if internal_states else made
            content, tool, notes = quantize_tflite(Path(source).read_bytes(), spec, samples, choices)
            return finish(content, spec, file, tool=tool, notes=notes, export=None, options=choices)

        result = make_loadable(make, QuantizationOptions(**options), spec, find_profiles(runtime) if runtime else [])
        if record is not None and takes_pictures(result.signature):
            file.write_bytes(add_metadata(file.read_bytes(), result.signature, manifest["name"], labels))
            check_runs(file)
        if record is not None and record.encoder is not None and record.beams is None and record.batch > 1:
            note_on_beams = "no step for several hypotheses: set conversion.beams=4 and conversion.batch=1"
            result = dataclasses.replace(result, notes=(*result.notes, note_on_beams))
        samples_of = load_npz(golden)
        further = {name: Path(path).read_bytes() for name, path in (members or {}).items()}
        if split and result.encoder is not None:
            files = split_signatures(file.read_bytes())
            further |= {ENCODE_FILE: files[result.encoder.key], DECODE_FILE: files[result.signature.key]}
        bundle.write_bundle(
            making,
            file.read_bytes(),
            Manifest(
                name=manifest["name"],
                variant=variant,
                lowering=spec.lowering.value,
                quantization=spec.quantization.value,
                task=manifest["task"],
                signature=result.signature,
                sequence=record.sequence if record is not None else None,
                stream=record.stream if record is not None else None,
                encoder=result.encoder,
                beams=record.beams if record is not None else None,
                translation=_translation(record, manifest.get("tables")),
                limits=Limits(**limits),
                made_by={**manifest["made_by"], "tool": result.tool},
                min_runtime_version=result.min_runtime_version,
                threshold=manifest.get("threshold"),
                rate=manifest.get("rate"),
                reset=RESET if internal_states else None,
            ),
            golden_inputs={name[3:]: array for name, array in samples_of.items() if name.startswith("in/")},
            golden_outputs={name[4:]: array for name, array in samples_of.items() if name.startswith("out/")},
            labels=labels,
            members=further,
        )
        file.unlink()
        # Readers see the old bundle or the new one; in between, for one rename, none.
        old = target.parent / f".{variant}.old"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        making.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return summary(result, target)


def _translation(record: Export | None, tables: str | None) -> TranslationSpec | None:
    """What the manifest of a model that translates says of its tokens; None for one whose tokens are not known."""
    if not tables or record is None or record.encoder is None or record.sequence is None:
        return None
    outputs = [spec.name for spec in record.signature.outputs]
    return TranslationSpec(
        tables=tables,
        source=record.encoder.inputs[0].name,
        target=record.sequence.inputs[0],
        output=next(name for name in outputs if name != ATTENTION),
        attention=ATTENTION if ATTENTION in outputs else None,
    )


def summary(result: Quantized, folder: Path) -> dict[str, Any]:
    """What an outcome says about a variant that was made."""
    return {
        "tool": result.tool,
        "notes": list(result.notes),
        "bytes": (folder / bundle.MODEL).stat().st_size,
        "gzip_bytes": gzip_size((folder / bundle.MODEL).read_bytes()),
        "weights": dict(result.weights),
        "min_runtime_version": result.min_runtime_version,
        "signature": dataclasses.asdict(result.signature),
    }
