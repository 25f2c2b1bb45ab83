"""The stages of a run, one function each: check whether there is anything to do, do it, record it.

Each takes an open run folder and leaves its files there. What went into a stage is hashed, so that a rerun of a
finished stage is a no-op, and a change makes that stage and those after it run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_dl.cli.console import Terminated
from edge_dl.cli.source import Kind
from edge_dl.errors import RefusedError, StageError, UsageError, signal_name
from edge_dl.files import read_json, sha256_file
from edge_dl.models.hub_files import is_handle
from edge_dl.progress import Progress
from edge_dl.recipe import Method, Recipe, RecurrentConfig, SpeechConfig, TransferConfig, from_json, to_json
from edge_dl.runfolder import RunFolder, digest
from edge_dl.variants import Quantization

if TYPE_CHECKING:
    from edge_dl.cli.targets import Asked

GRACE = 20.0  # seconds a child gets to save its state after Ctrl-C


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe of a run folder."""
    return from_json(Recipe, folder.record["recipe"])


def own_model(folder: RunFolder) -> dict[str, Any] | None:
    """What run.json says of the user's own model: {"path", "custom", "unsafe"}; None for a recipe's run."""
    return folder.record.get("model")


def model_path(folder: RunFolder) -> Path:
    """The model that export starts from: the compressed one where compression is asked for, else the trained one."""
    compressed = recipe_of(folder).compression.methods
    return folder.path / "compress" / "model.keras" if compressed else trained_model(folder)


def trained_model(folder: RunFolder) -> Path:
    """The model before any compression: the user's own, or the one that training wrote."""
    own = own_model(folder)
    return Path(own["path"]) if own else folder.path / "train" / "model.keras"


def run_data(folder: RunFolder, progress: Progress, *, force: bool = False) -> None:
    """Load the data once and write it to data/."""
    recipe = recipe_of(folder)
    inputs = {
        "data": to_json(recipe.data),
        "task": recipe.task.value,
        "seed": recipe.training.seed,
        "file": _fingerprint(recipe.data.source),
    }

    def work() -> None:
        from edge_dl import data

        with progress.step("data"):
            trains = own_model(folder) is None or bool(recipe.compression.methods)
            dataset = data.load(recipe.data, recipe.task, seed=recipe.training.seed, trains=trains)
            data.save(dataset, folder.path / "data")

    _stage(folder, "data", inputs, work, progress, force=force)


def run_train(folder: RunFolder, progress: Progress, *, force: bool = False) -> None:
    """Train in a child process: its memory is free again when the variants are timed, and a crash is a result."""
    recipe = recipe_of(folder)
    inputs = {
        "data": _dataset(folder)["sha256"],
        "model": to_json(recipe.model),
        "training": to_json(recipe.training),
        "weights": _fingerprint(getattr(recipe.model, "weights", "")),
    }
    if isinstance(recipe.model, TransferConfig) and is_handle(recipe.model.backbone):
        inputs["backbone"] = _fingerprint(os.path.expanduser(recipe.model.backbone))
    entry = folder.record["stages"].get("train", {})
    resume = not force and entry.get("status") in ("running", "interrupted", "failed") and _same(entry, inputs)

    def work() -> None:
        if not resume:
            shutil.rmtree(folder.path / "train", ignore_errors=True)
        _child("train", [sys.executable, "-m", "edge_dl.cli.train_child", str(folder.path)])

    _stage(folder, "train", inputs, work, progress, force=force)


def run_compress(folder: RunFolder, progress: Progress, *, force: bool = False) -> None:
    """Prune, cluster and train for quantization, as the recipe says, in a child process: it needs tf-keras."""
    recipe = recipe_of(folder)
    if not recipe.compression.methods:
        # What an earlier configuration left would pass for this one's.
        shutil.rmtree(folder.path / "compress", ignore_errors=True)
        folder.record["stages"].pop("compress", None)
        return
    inputs = {
        "model": _fingerprint(str(_existing(folder, trained_model(folder)))),
        "data": _dataset(folder)["sha256"],
        "task": recipe.task.value,
        "training": to_json(recipe.training),
        "compression": to_json(recipe.compression),
        "batch": recipe.conversion.batch,
        "own": own_model(folder),
    }

    def work() -> None:
        if force:
            shutil.rmtree(folder.path / "compress", ignore_errors=True)
        command = [sys.executable, "-m", "edge_dl.cli.compress_child", str(folder.path)]
        _child("compress", command, TF_USE_LEGACY_KERAS="1", KERAS_BACKEND="tensorflow")

    _stage(folder, "compress", inputs, work, progress, force=force)


def check_compression(folder: RunFolder, *, required: bool = False) -> None:
    """Refuse a compression that cannot work, before the training that comes before it.

    Args:
        folder: the run folder.
        required: whether there must be methods.

    Raises:
        UsageError: a setting is wrong, a package is missing, or there are no layers or true answers to train on.
        RefusedError: the recipe's network cannot be trained for quantization, or not be compressed at all.
    """
    from edge_dl.compression import check_settings, require_tools

    recipe, own = recipe_of(folder), own_model(folder)
    if not recipe.compression.methods:
        if required:
            raise UsageError(
                "Compression needs methods.",
                received="compression.methods is empty",
                todo="For example --set compression.methods=prune,qat (any of prune, cluster, qat).",
            )
        return
    check_settings(recipe.compression, recipe.task)
    if own is not None and own.get("kind") in (Kind.SAVED_MODEL.value, Kind.TFLITE.value):
        raise UsageError(
            "Compression trains Keras layers.",
            received=f"{own['path']}, a {own['kind']}, which holds operators alone",
            todo="Start from the .keras file.",
        )
    speech = recipe.model.network if own is None and isinstance(recipe.model, SpeechConfig) else ""
    if speech == "transformer":
        raise RefusedError(
            "Compression goes through tf-keras, which has no attention layer of this kind.",
            todo="Leave compression.methods empty: conversion.quantizations has int8, int16x8 and dynamic.",
        )
    recurrent = own is None and (isinstance(recipe.model, RecurrentConfig) or speech in ("crnn", "lstm"))
    if recurrent and Method.QAT in recipe.compression.methods:
        raise RefusedError(
            "tensorflow-model-optimization has no quantization-aware training for recurrent layers.",
            todo="Leave qat out of compression.methods; prune and cluster work on them, and conversion.quantizations "
            "has int8, int16x8 and dynamic.",
        )
    if own is None and isinstance(recipe.model, TransferConfig) and is_handle(recipe.model.backbone):
        raise RefusedError(
            "Compression trains Keras layers, and a backbone from TensorFlow Hub is a SavedModel, which has none.",
            todo="Take one of edge-dl's own backbones, or leave compression.methods empty: conversion.quantizations "
            "has int8, int16x8 and dynamic.",
        )
    require_tools()


def run_export(folder: RunFolder, progress: Progress, *, force: bool = False) -> None:
    """Write one SavedModel a lowering, the reference answers, and the calibration samples."""
    recipe = recipe_of(folder)
    inputs = _export_inputs(folder, recipe)

    def work() -> None:
        from edge_dl.converters import run_export as export

        own = own_model(folder) or {}
        export(
            model_path(folder),
            folder.path,
            recipe.conversion,
            custom=tuple(own.get("custom", ())),
            unsafe=bool(own.get("unsafe")),
            seed=recipe.training.seed,
            progress=progress,
        )

    _stage(folder, "export", inputs, work, progress, force=force)


def run_convert(folder: RunFolder, progress: Progress, *, force: bool = False) -> None:
    """Make every variant; what cannot be made is a recorded outcome, not an end."""
    recipe = recipe_of(folder)
    inputs = _convert_inputs(folder, recipe)

    def work() -> None:
        from edge_dl.checks.limits import limits_for
        from edge_dl.converters import run_conversion
        from edge_dl.data.sentences import TABLES

        dataset = _dataset(folder)
        tables = folder.path / "data" / TABLES
        outcomes = run_conversion(
            folder.path,
            recipe.conversion,
            name=recipe.name,
            task=recipe.task.value,
            labels=_labels(dataset),
            threshold=_threshold(folder),
            rate=dataset.get("rate") or None,
            tables=tables if tables.is_file() else None,
            limits={item.value: limits_for(item, recipe.checks, recipe.task) for item in Quantization},
            qat=folder.path / "compress" / "qat" if Method.QAT in recipe.compression.methods else None,
            force=force,
            progress=progress,
        )
        if not any(outcome.ok for outcome in outcomes):
            reasons = "; ".join(dict.fromkeys(f"{outcome.variant}: {outcome.message}" for outcome in outcomes))
            raise StageError("At least one variant must be converted.", stage="convert", received=reasons)

    _stage(folder, "convert", inputs, work, progress, force=force)


def run_verify(folder: RunFolder, progress: Progress, *, force: bool = False, time_limit: float | None = None) -> None:
    """Check parity of every variant on the test split, each within so many seconds."""
    recipe = recipe_of(folder)

    def work() -> None:
        from edge_dl.checks.pipeline import TIME_LIMIT
        from edge_dl.checks.pipeline import run_verify as verify

        verify(folder.path, recipe.checks, progress=progress, time_limit=time_limit or TIME_LIMIT)

    _stage(folder, "verify", _check_inputs(folder, recipe), work, progress, force=force)


def run_bench(folder: RunFolder, progress: Progress, *, force: bool = False) -> None:
    """Time every variant, and pick the lowering where that was left to us."""
    recipe = recipe_of(folder)

    def work() -> None:
        from edge_dl.checks.pipeline import run_bench as bench

        bench(folder.path, recipe.checks, progress=progress)

    _stage(folder, "bench", _check_inputs(folder, recipe), work, progress, force=force)


def run_targets(folder: RunFolder, asked: Asked, progress: Progress, *, force: bool = False) -> None:
    """Check every variant on targets, and time it there; writes targets/<target>/.

    A target that did not answer is a result and no end. It is asked again by a rerun, whatever has changed or not.
    """
    from edge_dl.checks.targets import bench_on, unanswered, verify_on

    recipe = recipe_of(folder)
    inputs = {
        "checks": _check_inputs(folder, recipe),
        "targets": {target.name: target.address.text for target in asked.targets},
        "samples": asked.samples,
    }
    waiting = list(asked.targets)
    if not force and folder.done("targets", inputs):
        waiting = unanswered(folder.path, waiting)
    if not waiting:
        progress.say("targets: done before, nothing changed")
        return
    with folder.stage("targets", inputs):
        verify_on(
            folder.path,
            waiting,
            checks=recipe.checks,
            samples=asked.samples,
            time_limit=asked.time_limit,
            progress=progress,
        )
        bench_on(folder.path, waiting, time_limit=asked.time_limit, progress=progress)


def run_report(folder: RunFolder, progress: Progress, beside: Path | None = None) -> Any:
    """Write results.json, report.html, report.md and junit.xml from what is there; returns their paths."""
    from edge_dl.report import write_report

    with progress.step("report"):
        return write_report(folder.path, beside)


def _stage(
    folder: RunFolder, name: str, inputs: Any, work: Callable[[], None], progress: Progress, *, force: bool
) -> None:
    if not force and folder.done(name, inputs):
        progress.say(f"{name}: done before, nothing changed")
        return
    with folder.stage(name, inputs):
        work()


def _same(entry: dict[str, Any], inputs: Any) -> bool:
    return entry.get("digest") == digest(inputs)


def _dataset(folder: RunFolder) -> dict[str, Any]:
    path = folder.path / "data" / "dataset.json"
    if not path.is_file():
        raise UsageError(
            "The data stage comes first.",
            received=f"{folder.path} without data/dataset.json",
            todo="Run `edge-dl run` or `edge-dl train` on it.",
        )
    value: dict[str, Any] = read_json(path)
    return value


def _threshold(folder: RunFolder) -> float | None:
    """Where an encoder's pictures are the same from on, as training measured it; None for everything else."""
    path = folder.path / "train" / "verification.json"
    return float(read_json(path)["threshold"]) if path.is_file() else None


def _labels(dataset: dict[str, Any]) -> tuple[str, ...]:
    """Class names, or a language model's vocabulary, as the lines of labels.txt."""
    if not dataset.get("vocabulary"):
        return tuple(dataset.get("labels", ()))
    from edge_dl.runtime.generation import Vocabulary

    return Vocabulary(tuple(dataset["vocabulary"])).to_labels()


def _existing(folder: RunFolder, path: Path) -> Path:
    if not path.exists():
        stage = "compress" if path.parent.name == "compress" else "train"
        raise UsageError(
            "A stage needs what the one before it wrote.",
            received=f"{folder.path} without {path.parent.name}/{path.name}",
            todo=f"Run `edge-dl {stage} {folder.path}` first.",
        )
    return path


def _export_inputs(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    conversion = recipe.conversion
    return {
        "model": _fingerprint(str(_existing(folder, model_path(folder)))),
        "data": _dataset(folder)["sha256"],
        "lowerings": list(conversion.lowerings),
        "batch": conversion.batch,
        "beams": conversion.beams,
        "calibration_samples": conversion.calibration_samples,
        "own": own_model(folder),
        **({"sentences": sentences} if (sentences := _dataset(folder).get("sentences")) else {}),
    }


def _convert_inputs(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    return {
        "export": _export_inputs(folder, recipe),
        "compression": to_json(recipe.compression),
        "conversion": to_json(recipe.conversion),
        "limits": to_json(recipe.checks)["limits"],
        "max_drop": recipe.checks.max_drop,
    }


def _check_inputs(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    return {"convert": _convert_inputs(folder, recipe), "checks": to_json(recipe.checks)}


def _fingerprint(source: str) -> Any:
    """What tells one state of a file or folder from another; None for a name that is not a path."""
    path = Path(source)
    if not source:
        return None  # An empty path would be the current folder.
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return [[str(item.relative_to(path)), item.stat().st_size, item.stat().st_mtime_ns] for item in files]
    return None


def _child(stage: str, command: list[str], **environment: str) -> None:
    """Run a stage in a child that shares our terminal; its errors become ours.

    Ctrl-C reaches the child as well, SIGTERM is passed on: it gets a moment to save its state.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "error.json"
        process = subprocess.Popen(command, env={**os.environ, **environment, "EDGE_DL_ERROR_FILE": str(answer)})
        try:
            code = process.wait()
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            raise
        if code == 0:
            return
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        error = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else None
    if error is None:
        name = signal_name(code)
        why = f"killed by {name}" if name else f"exit code {code}"
        hint = " The system may have run out of memory." if name == "SIGKILL" else ""
        raise StageError(
            f"The {stage} stage ended without a result.", stage=stage, received=why,
            todo=f"Run the same command again to go on from its last checkpoint.{hint}",
        )  # fmt: skip
    if error["exit_code"] == UsageError.exit_code:
        raise UsageError(error["rule"], received=error["received"], todo=error["todo"])
    raise StageError(error["rule"], stage=stage, received=error["received"], todo=error["todo"])
