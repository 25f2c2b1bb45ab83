"""The export and convert stages: a model on disk becomes exports, and exports become bundles, in child processes."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Limits, TensorSpec
from edge_dl.checks.runtime_profiles import find_profiles
from edge_dl.checks.translation import REFERENCE as TRANSLATIONS
from edge_dl.converters import calibration as calibrations
from edge_dl.converters.budget import find_mix
from edge_dl.converters.isolation import Isolation, Job, JobResult, JobStatus, termination_as_interrupt
from edge_dl.converters.lowering_choice import AUTO, check_names, resolve_lowerings
from edge_dl.converters.outcomes import (
    Outcome,
    find_up_to_date,
    outcome_of,
    refused_outcome,
    remove_stale,
    store_outcome,
)
from edge_dl.converters.plan import PLAN, Plan, read_plan
from edge_dl.data.sentences import FILE as SENTENCES
from edge_dl.data.sentences import TABLES
from edge_dl.errors import EdgeError, RefusedError, StageError, UsageError
from edge_dl.files import load_npz, save_npz, sha256_file, write_json
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import ConversionConfig, Task
from edge_dl.runfolder import digest, installed_versions
from edge_dl.variants import CALIBRATED, FULL_INTEGER, Lowering, Quantization, VariantSpec

REFERENCE = "reference.npz"
CALIBRATION = "calibration.npz"
GOLDEN = "golden.npz"
_JOBS = "edge_dl.converters.jobs"


def run_export(
    source: str | Path,
    run: Path,
    config: ConversionConfig,
    *,
    data: Path | None = None,
    custom: Sequence[str] = (),
    unsafe: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: str = "data",
    seed: int = 0,
    progress: Progress = SILENT,
    isolation: Isolation | None = None,
) -> Plan:
    """Write export/: one SavedModel a lowering, the reference answers, golden samples and calibration samples.

    Args:
        source: a .keras or .h5 file, a SavedModel folder, or a .tflite.
        run: the run folder.
        config: lowerings, batch, number of calibration samples, time limit.
        data: folder with train.npz and test.npz; None: run/data where it is there. Without data there is no reference,
            golden inputs are made up, and int8 and int16x8 cannot be made.
        custom: the user's classes and functions as "module:name".
        unsafe: whether Lambda layers may run.
        input_shapes: per input, the shape without the batch axis, where the model leaves an axis free. Where there is
            data its shapes are used.
        calibration: "data" (the training split) or "random" (made up: for a look at size and speed only).
        seed: chooses calibration and golden samples.
        progress: told how far it is.
        isolation: the worker process to use; None: one of its own.

    Raises:
        UsageError: model, data or names are wrong.
        RefusedError: a lowering that was asked for by name cannot carry a layer.
        StageError: exporting crashed, ran out of time or failed.
    """
    if calibration not in ("data", calibrations.RANDOM):
        raise UsageError("Calibration samples come from `data` or are `random`.", received=repr(calibration))
    wanted = check_names(config.lowerings)
    source = Path(source).resolve()
    if not source.exists():
        raise UsageError("The model must exist.", received=str(source))
    folder = run / "export"
    splits = _find_splits(run / "data" if data is None else data, required=data is not None)
    shared = {"source": str(source), "custom": list(custom), "unsafe": unsafe}
    logs = folder / "log"
    with termination_as_interrupt(), _worker(isolation) as worker:
        with progress.step("Reading the model") as step:
            asked = {
                **shared,
                "input_shapes": {name: list(shape) for name, shape in (input_shapes or {}).items()},
                "split": str(splits.get("train") or splits.get("test") or ""),
            }
            facts = _one(
                worker, Job("model", f"{_JOBS}:describe", asked, logs / "model.log", config.time_limit, "export")
            )
            step.advance(1)
        lowerings, left_out = resolve_lowerings(wanted, facts)
        for name, reason in left_out.items():
            progress.say(f"{name} is left out: {reason}")
        for lowering in Lowering:
            shutil.rmtree(folder / lowering.value, ignore_errors=True)
        for name in (PLAN, REFERENCE, CALIBRATION, GOLDEN, TRANSLATIONS):
            (folder / name).unlink(missing_ok=True)
        jobs = [
            Job(
                f"export {lowering.value}",
                f"{_JOBS}:export_lowering",
                {
                    **shared,
                    "folder": str(folder / lowering.value),
                    "lowering": lowering.value,
                    "batch": config.batch,
                    "beams": config.beams,
                    "input_shapes": facts["shapes"],
                },
                logs / f"{lowering.value}.log",
                config.time_limit,
                "export",
            )
            for lowering in lowerings
        ]
        results = worker.run(jobs, progress=progress, description="Exporting")
        lowerings, failed = _settle(lowerings, results, by_name=wanted)
        for name, reason in failed.items():
            shutil.rmtree(folder / name, ignore_errors=True)
            progress.say(f"{name} is left out: {reason}")
        left_out |= failed
        reference = {
            **shared,
            # One that decodes says that its answers are many.
            "export": str(folder / next((item for item in lowerings if item.decodes), lowerings[0]).value),
            "reference": str(folder / REFERENCE),
            "golden": str(folder / GOLDEN),
            "test": str(splits.get("test", "")),
            "seed": seed,
        }
        job = Job(
            "reference", f"{_JOBS}:make_reference", reference, logs / "reference.log", config.time_limit, "export"
        )
        _raise_unless_done(worker.run([job], progress=progress, description="Reference answers")[0])
        pairs = run / "data" if data is None else data
        if (pairs / SENTENCES).is_file():
            asked = {**shared, "export": reference["export"], "data": str(pairs), "answers": str(folder / TRANSLATIONS)}
            call, log = "edge_dl.converters.translations:make_translations", logs / "translations.log"
            job = Job("translations", call, asked, log, config.time_limit, "export")
            _raise_unless_done(worker.run([job], progress=progress, description="Reference translations")[0])
    golden = load_npz(folder / GOLDEN)
    inputs = [
        TensorSpec(name[3:], (1, *item.shape[1:]), item.dtype.name)
        for name, item in golden.items()
        if name[:3] == "in/"
    ]
    _write_calibration(folder / CALIBRATION, inputs, splits.get("train"), calibration, config.calibration_samples, seed)
    plan = Plan(str(source), facts["kind"], tuple(lowerings), left_out, tuple(facts["layers"]), tuple(custom), unsafe)
    write_json(folder / PLAN, plan.to_json())
    return plan


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

    with termination_as_interrupt(), _worker(isolation) as worker:
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


def _settle(
    lowerings: Sequence[Lowering], results: Sequence[JobResult], *, by_name: Sequence[str]
) -> tuple[list[Lowering], dict[str, str]]:
    """Which lowerings were exported, and why each other one, that only `auto` had wanted, was not.

    Raises:
        EdgeError: one that was asked for by name was not exported, or none was.
    """
    done, failed = [], {}
    for lowering, result in zip(lowerings, results, strict=True):
        if result.status is JobStatus.DONE:
            done.append(lowering)
        elif lowering.value in by_name:
            raise _as_error(result)
        else:
            failed[lowering.value] = result.message
    if not done:
        raise _as_error(results[0])
    return done, failed


def _find_splits(folder: Path, *, required: bool) -> dict[str, Path]:
    found = {name: folder / f"{name}.npz" for name in ("train", "test") if (folder / f"{name}.npz").is_file()}
    if required and not found:
        raise UsageError("The data folder must hold train.npz or test.npz.", received=str(folder))
    return found


def _write_calibration(
    path: Path, inputs: Sequence[TensorSpec], train: Path | None, kind: str, count: int, seed: int
) -> None:
    if kind == calibrations.RANDOM:
        calibrations.save(calibrations.random_calibration(inputs, count=count, seed=seed), path)
        return
    if train is None:
        return
    from edge_dl.converters.jobs import split_inputs

    arrays = load_npz(train)
    x = split_inputs(arrays, inputs)
    y = {name[2:]: array for name, array in arrays.items() if name.startswith("y/")}
    calibrations.save(calibrations.from_split(x, y, count=count, seed=seed), path)


def _worker(isolation: Isolation | None) -> contextlib.AbstractContextManager[Isolation]:
    """The given worker, left open for who gave it; or one for the block."""
    return Isolation() if isolation is None else contextlib.nullcontext(isolation)


def _one(worker: Isolation, job: Job) -> Any:
    result = worker.run([job])[0]
    _raise_unless_done(result)
    return result.value


def _raise_unless_done(result: JobResult) -> None:
    if result.status is JobStatus.DONE:
        return
    raise _as_error(result)


def _as_error(result: JobResult) -> EdgeError:
    if result.status is JobStatus.REFUSED:
        return RefusedError(result.message, todo=result.todo)
    if result.exit_code == 2:
        return UsageError(result.message, todo=result.todo)
    return StageError(result.message, stage="export", todo=result.todo)


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
