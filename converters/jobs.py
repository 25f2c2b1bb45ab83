"""What the worker process does for an export or a conversion: functions from JSON values to JSON values.

Each runs in a child process (`edge_dl.converters.isolation`); each opens what it needs by path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl import bundle
from edge_dl.bundle import Limits, Manifest, TensorSpec
from edge_dl.checks.runtime_profiles import find_profiles
from edge_dl.converters import calibration as calibrations
from edge_dl.converters import worker
from edge_dl.converters.exporting import read_export
from edge_dl.converters.loadable import make_loadable
from edge_dl.converters.metadata import add_metadata, takes_pictures
from edge_dl.converters.quantization import (
    QuantizationOptions,
    Quantized,
    check_runs,
    finish,
    quantize,
    quantize_tflite,
)
from edge_dl.converters.sources import KerasSource, Source, open_source
from edge_dl.converters.worker import note
from edge_dl.data.sentences import FILE, TABLES
from edge_dl.files import gzip_size, load_npz, read_json, save_npz
from edge_dl.names import values_under
from edge_dl.text import Tables
from edge_dl.variants import Lowering, VariantSpec

GOLDEN_SAMPLES = 16
PREDICT_BATCH = 256


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
) -> dict[str, Any]:
    """Write one export."""
    opened = open_source(source, tuple(custom), unsafe)
    return opened.export(Path(folder), Lowering(lowering), batch=batch, input_shapes=input_shapes)


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
    if not test:
        x: Mapping[str, np.ndarray] = calibrations.random_calibration(inputs, count=GOLDEN_SAMPLES, seed=seed).x
        rows = np.arange(GOLDEN_SAMPLES)
        y = predict(opened, x)
    else:
        arrays = load_npz(test)
        x = split_inputs(arrays, inputs)
        labels = [array for name, array in arrays.items() if name.startswith("y/")]
        y = predict(opened, x)
        save_npz(reference, {f"y/{name}": array for name, array in y.items()})
        total = len(next(iter(x.values())))
        rows = calibrations.choose_indices(labels[0] if len(labels) == 1 else None, total, GOLDEN_SAMPLES, seed)
    members = {f"in/{name}": array[rows] for name, array in x.items()}
    save_npz(golden, members | {f"out/{name}": array[rows] for name, array in y.items()})
    return {"samples": len(next(iter(y.values()))), "golden": len(rows)}


def make_translations(
    source: str, export: str, data: str, answers: str, custom: Sequence[str] = (), unsafe: bool = False
) -> dict[str, Any]:
    """Write what the model says by itself to the sentences of a test part; nothing where it takes no sentence pairs.

    Args:
        source: the model.
        export: folder of any of its exports, for the sizes of sources and targets.
        data: folder with sentences.json and text.json.
        answers: where to write (`edge_dl.checks.translation.ReferenceAnswers`).
        custom: the user's classes as "module:name".
        unsafe: whether Lambda layers may run.
    """
    opened = open_source(source, tuple(custom), unsafe)
    if not isinstance(opened, KerasSource):
        return {"sentences": 0}
    from edge_dl.converters.lowering import as_reference
    from edge_dl.models.translating import find_names, reference_answers

    names = find_names(opened.model)
    tables = Tables.read(Path(data) / TABLES)
    if names is None or opened.model.get_layer(names.output).output.shape[-1] != len(tables.target):
        return {"sentences": 0}
    shapes = {spec.name: spec.shape for spec in opened.whole_inputs(Path(export))}
    sentences = [(item["source"], tuple(item["references"])) for item in read_json(Path(data) / FILE)["test"]]
    with as_reference(opened.model):
        found = reference_answers(
            opened.model, tables, sentences, length=shapes[names.source][1], longest=shapes[names.target][1],
            names=names, progress=_Noting(len(sentences)),
        )  # fmt: skip
    found.write(answers)
    return {"sentences": len(found.sentences)}


class _Noting:
    """A `Progress` that tells the parent."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0.0

    def say(self, message: str) -> None:
        note(message)

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[_Noting]:
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        worker.note(f"{self.done:.0f}/{self.total}")


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
) -> dict[str, Any]:
    """Make one variant and its bundle; the bundle appears under its name only when it is whole.

    Args:
        source: the model, read only when it is a .tflite.
        export: folder of the export.
        variant: the variant's name.
        folder: where the bundle goes; a bundle that is there already is replaced at the end.
        golden: .npz of golden samples.
        calibration: .npz of calibration samples; empty: none.
        manifest: name, task, made_by; for an encoder, threshold; for a model of sounds, their rate.
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
                return quantize(record, spec, file, samples, choices)
            content, tool, notes = quantize_tflite(Path(source).read_bytes(), spec, samples, choices)
            return finish(content, spec, file, tool=tool, notes=notes, export=None, options=choices)

        result = make_loadable(make, QuantizationOptions(**options), spec, find_profiles(runtime) if runtime else [])
        if record is not None and takes_pictures(result.signature):
            file.write_bytes(add_metadata(file.read_bytes(), result.signature, manifest["name"], labels))
            check_runs(file)
        members = load_npz(golden)
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
                limits=Limits(**limits),
                made_by={**manifest["made_by"], "tool": result.tool},
                min_runtime_version=result.min_runtime_version,
                threshold=manifest.get("threshold"),
                rate=manifest.get("rate"),
            ),
            golden_inputs={name[3:]: array for name, array in members.items() if name.startswith("in/")},
            golden_outputs={name[4:]: array for name, array in members.items() if name.startswith("out/")},
            labels=labels,
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
