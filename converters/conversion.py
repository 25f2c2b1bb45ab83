"""The convert stage: exports become bundles, in child processes; and both stages in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Limits
from edge_dl.checks.runtime_profiles import find_profiles
from edge_dl.converters.budget import find_mix
from edge_dl.converters.export_stage import CALIBRATION, GOLDEN, run_export
from edge_dl.converters.isolation import Isolation, Job, JobResult, JobStatus, given_or_new, termination_as_interrupt
from edge_dl.converters.lowering_choice import AUTO
from edge_dl.converters.outcomes import (
    Outcome,
    find_up_to_date,
    outcome_of,
    refused_outcome,
    remove_stale,
    store_outcome,
)
from edge_dl.converters.plan import Plan, read_plan
from edge_dl.data.sentences import TABLES
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, save_npz, sha256_file
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import ConversionConfig, Task
from edge_dl.runfolder import digest, installed_versions
from edge_dl.variants import CALIBRATED, FULL_INTEGER, Lowering, Quantization, VariantSpec

_JOBS = "edge_dl.converters.jobs"


def run_conversion(
    run: Path,
    config: ConversionConfig,
    *,
    name: str = "model",
    task: str = "regression",
    labels: Sequence[str] = (),
    threshold: float | None = None,
    rate: int | None = None,
    tables: Path | None = None,
    limits: Mapping[str, Limits] | None = None,
    options: Mapping[str, Any] | None = None,
    qat: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    isolation: Isolation | None = None,
) -> list[Outcome]:
    """Make every variant of a run folder's exports: variants/<variant>/ with variants/<variant>.json.

    A variant that cannot be made is an `Outcome` too, and does not keep the others from being made. One that is there
    already, made from the same things, is not made again. Variants that are not asked for any more are removed.

    Args:
        run: the run folder, after `run_export`.
        config: quantizations, integer edges, time limit.
        name: the model's name in manifests.
        task: the task's name in manifests.
        labels: class names in output order.
        threshold: similarity from which two embeddings are called the same, for manifests of an encoder.
        rate: samples a second of the sounds that the model takes, for its manifests.
        tables: text.json with the vocabularies of a model that translates; it goes into the bundles that decode.
        limits: parity limits by quantization name.
        options: fields of `options.QuantizationOptions`.
        qat: export of a model that was trained for quantization; it becomes the variant `qat` beside the others.
        force: make everything again.
        progress: told how far it is.
        isolation: the worker process to use; None: one of its own.

    Raises:
        UsageError: there is no export.
    """
    if config.runtime:
        find_profiles(config.runtime)  # An unknown name is told before anything is made.
    plan = read_plan(run)
    folder = run / "variants"
    wanted = dict.fromkeys([*config.quantizations, *([Quantization.QAT] if qat else [])])
    edges = (*FULL_INTEGER, Quantization.QAT)
    specs = [
        VariantSpec(lowering, quantization, config.integer_io and quantization in edges)
        for lowering in plan.lowerings
        for quantization in wanted
    ]
    remove_stale(folder, {spec.name for spec in specs})
    exports = {lowering: _export_digest(run / "export", plan, lowering) for lowering in plan.lowerings}
    trained = _folder_digest(qat) if qat else ""
    versions = installed_versions()
    made_by = {
        {"edge-dl": "edge_dl"}.get(key, key): versions[key]
        for key in ("edge-dl", "tensorflow", "keras", "ai-edge-quantizer", "ai-edge-litert")
        if key in versions
    }
    outcomes: dict[str, Outcome] = {}
    jobs: list[tuple[VariantSpec, str, Job]] = []
    searches: list[tuple[VariantSpec, str, Job]] = []  # After the others: plain int8 may do.
    for spec in specs:
        limit = dataclasses.asdict((limits or {}).get(spec.quantization.value, Limits()))
        mixed = spec.quantization is Quantization.MIXED
        needs_samples = spec.quantization in CALIBRATED
        samples = run / "export" / CALIBRATION
        use = str(samples) if needs_samples and samples.is_file() else ""
        export = qat if qat and spec.quantization is Quantization.QAT else run / "export" / spec.lowering.value
        members = {TABLES: str(tables)} if tables is not None and spec.lowering.decodes else {}
        arguments = {
            "source": plan.source if plan.kind == "tflite" else "",
            "export": str(export),
            "variant": spec.name,
            "folder": str(folder / spec.name),
            "golden": str(run / "export" / GOLDEN),
            "calibration": use,
            "manifest": {
                "name": name,
                "task": task,
                "made_by": made_by,
                "threshold": threshold,
                "rate": rate,
                "tables": TABLES if members else None,
            },
            "members": members,
            "split": config.split_signatures and spec.lowering.decodes,
            "internal_states": config.internal_states and spec.lowering in (Lowering.STEP, Lowering.STREAM),
            "labels": list(labels),
            "limits": limit,
            "options": {
                **({} if config.per_channel else {"per_channel": False}),
                **({"float_scores": True} if task == Task.LANGUAGE_MODEL.value else {}),
                **(options or {}),
            },
            "runtime": list(config.runtime),
        }
        key = digest(
            {
                **{item: arguments[item] for item in ("variant", "manifest", "labels", "limits", "options", "runtime")},
                "export": trained if spec.quantization is Quantization.QAT else exports[spec.lowering],
                "golden": sha256_file(run / "export" / GOLDEN),
                "calibration": sha256_file(samples) if use else "",
                "members": {item: sha256_file(path) for item, path in members.items()},
                **{item: arguments[item] for item in ("split", "internal_states")},
                **({"search": _search_digest(run, wanted)} if mixed else {}),
            }
        )
        found = find_up_to_date(folder, spec, key)
        if found is not None and not force:
            outcomes[spec.name] = found
            continue
        outcome = refused_outcome(spec, key, trained=qat is not None) if not (options or {}).get("force") else None
        if outcome is not None:
            outcomes[spec.name] = outcome
            store_outcome(folder, outcome)
            continue
        job = Job(spec.name, f"{_JOBS}:make_variant", arguments, folder / "log" / f"{spec.name}.log", config.time_limit)
        (searches if mixed else jobs).append((spec, key, job))

    by_name = {spec.name: (spec, key) for spec, key, _ in [*jobs, *searches]}

    def receive(result: JobResult) -> None:
        spec, key = by_name[result.name]
        outcomes[spec.name] = outcome_of(spec, key, result)
        store_outcome(folder, outcomes[spec.name])
        if result.status is not JobStatus.DONE:
            progress.say(f"{spec.name}: {result.message}")

    with termination_as_interrupt(), given_or_new(isolation) as worker:
        worker.run([job for _, _, job in jobs], on_result=receive, progress=progress, description="Converting")
        for _, _, job in searches:
            receive(find_mix(run, job.arguments, worker, time_limit=config.time_limit, progress=progress))
    return [outcomes[spec.name] for spec in specs]


def convert(
    model: str | Path,
    out: str | Path,
    *,
    lowering: str | Sequence[str] = AUTO,
    quantization: str | Sequence[str] = ("float32", "dynamic"),
    data: str | Path | Mapping[str, np.ndarray] | None = None,
    custom: Sequence[str] = (),
    unsafe: bool = False,
    batch: int = 1,
    task: str = "regression",
    labels: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runtime: str | Sequence[str] = (),
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Convert a model in one call: bundles in out/variants/.

    Args:
        model: a .keras or .h5 file, a SavedModel folder, or a .tflite.
        out: where to write.
        lowering: lowering names; "auto": every one that the model allows.
        quantization: quantization names.
        data: training inputs for calibration: an .npz, or arrays by input name; a model with one input takes a single
            array under any name. int8 and int16x8 need it.
        custom: the user's classes and functions as "module:name".
        unsafe: whether Lambda layers may run.
        batch: static batch size.
        task: written into the manifests.
        labels: class names.
        input_shapes: per input, the shape without the batch axis.
        runtime: runtimes that every variant must load in, e.g. "tflite-runtime==2.14.0".
        progress: told how far it is.

    Returns:
        One outcome a variant.
    """
    out = Path(out)
    names = (quantization,) if isinstance(quantization, str) else tuple(quantization)
    try:
        quantizations = tuple(Quantization(item) for item in names)
    except ValueError:
        known = ", ".join(item.value for item in Quantization)
        raise UsageError("The quantization must exist.", received=", ".join(names), todo=f"Known: {known}.") from None
    lowerings = (lowering,) if isinstance(lowering, str) else tuple(lowering)
    runtimes = (runtime,) if isinstance(runtime, str) else tuple(runtime)
    config = ConversionConfig(lowerings=lowerings, quantizations=quantizations, batch=batch, runtime=runtimes)
    folder = None
    if data is not None:
        folder = out / "data"
        arrays = load_npz(data) if isinstance(data, (str, Path)) else dict(data)
        x = {key if key.startswith("x/") else f"x/{key}": value for key, value in arrays.items() if key[:2] != "y/"}
        for split in ("train", "test"):
            save_npz(folder / f"{split}.npz", x)
    with Isolation() as isolation:
        run_export(
            model,
            out,
            config,
            data=folder,
            custom=custom,
            unsafe=unsafe,
            input_shapes=input_shapes,
            progress=progress,
            isolation=isolation,
        )
        name = Path(model).stem
        return run_conversion(out, config, name=name, task=task, labels=labels, progress=progress, isolation=isolation)


def _search_digest(run: Path, wanted: Iterable[Quantization]) -> list[str]:
    """What the search for a mix looks at besides what every variant is made from."""
    split = run / "data" / "validation.npz"
    return [sha256_file(split) if split.is_file() else "", *(item.value for item in wanted)]


def _export_digest(folder: Path, plan: Plan, lowering: Lowering) -> str:
    return sha256_file(plan.source) if plan.kind == "tflite" else _folder_digest(folder / lowering.value)


def _folder_digest(export: Path) -> str:
    files = sorted(path for path in (export / "saved_model").rglob("*") if path.is_file())
    record = export / "export.json"
    # fingerprint.pb holds a random number.
    return digest([sha256_file(path) for path in [record, *files] if path.name != "fingerprint.pb"])
