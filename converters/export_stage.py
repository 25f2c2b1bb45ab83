"""The export stage: a model on disk becomes SavedModels, reference answers and samples, in a child process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl.bundle import TensorSpec
from edge_dl.checks.translation import REFERENCE as TRANSLATIONS
from edge_dl.converters import calibration as calibrations
from edge_dl.converters.isolation import Isolation, Job, JobResult, JobStatus, given_or_new, termination_as_interrupt
from edge_dl.converters.lowering_choice import check_names, resolve_lowerings
from edge_dl.converters.plan import PLAN, Plan
from edge_dl.data.sentences import FILE as SENTENCES
from edge_dl.errors import EdgeError, RefusedError, StageError, UsageError
from edge_dl.files import load_npz, write_json
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import ConversionConfig
from edge_dl.variants import Lowering

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
    with termination_as_interrupt(), given_or_new(isolation) as worker:
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
