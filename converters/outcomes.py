"""Outcomes: what became of each variant, their files variants/<variant>.json, and whether those are up to date."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_dl.bundle import MANIFEST
from edge_dl.converters.isolation import JobResult, JobStatus
from edge_dl.converters.pairs import check_allowed
from edge_dl.errors import RefusedError, StageError, UsageError
from edge_dl.files import read_json, write_json
from edge_dl.variants import Lowering, Quantization, VariantSpec


@dataclass(frozen=True)
class Outcome:
    """What became of one variant. Written as variants/<variant>.json.

    Attributes:
        variant: the variant's name.
        lowering: how recurrent layers were to be written.
        quantization: how numbers were to be stored.
        status: "converted", "refused", "crashed", "timed out" or "failed".
        message: what went wrong, one line.
        todo: what the user can do about it.
        signal: name of the signal that ended the converter.
        seconds: how long it took.
        tool: what made it.
        bytes: size of model.tflite.
        gzip_bytes: its size after gzip, which is where zeros and few different weights show.
        notes: what the user should know about it.
        weights: elements of weight matrices by type.
        log: last lines of what the converter printed, when it did not end well.
        exit_code: 0, 2 (wrong use) or 3 (broke).
        digest: what it was made from; the same digest is not made again.
        path: candidates that the search for a mix made (`budget.Step`), in order; empty for other variants.
    """

    variant: str
    lowering: Lowering
    quantization: Quantization
    status: str
    message: str = ""
    todo: str = ""
    signal: str = ""
    seconds: float = 0.0
    tool: str = ""
    bytes: int = 0
    gzip_bytes: int = 0
    notes: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    exit_code: int = 0
    digest: str = ""
    path: tuple[Mapping[str, Any], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a bundle."""
        return self.status == "converted"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return dataclasses.asdict(self) | {"lowering": self.lowering.value, "quantization": self.quantization.value}


def read_outcomes(run: Path) -> list[Outcome]:
    """Every outcome in a run folder's variants/, by name."""
    return [_read_outcome(path) for path in sorted((run / "variants").glob("*.json"))]


def _read_outcome(path: Path) -> Outcome:
    value = read_json(path)
    try:
        return Outcome(
            **{
                **value,
                "lowering": Lowering(value["lowering"]),
                "quantization": Quantization(value["quantization"]),
                "notes": tuple(value["notes"]),
                "log": tuple(value["log"]),
                "path": tuple(value.get("path", ())),
            }
        )
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(
            "An outcome file must be one that `edge-dl convert` wrote.", received=f"{path} ({error})", todo="Remove it."
        ) from None


def refused_outcome(spec: VariantSpec, key: str, *, trained: bool) -> Outcome | None:
    """The outcome of a variant that no tool can make; None where one can.

    Args:
        spec: the variant.
        key: digest of what it would be made from.
        trained: whether there is a model that was trained for quantization.
    """
    try:
        check_allowed(spec.lowering, spec.quantization)
        if spec.quantization is Quantization.QAT and not trained:
            raise RefusedError(
                "qat is made by training: nothing was trained for quantization here.",
                todo="Set compression.methods=qat.",
            )
    except RefusedError as error:
        return Outcome(
            spec.name, spec.lowering, spec.quantization, "refused", error.rule, error.todo, exit_code=2, digest=key
        )
    return None


def outcome_of(spec: VariantSpec, key: str, result: JobResult) -> Outcome:
    """The outcome of a variant whose job has ended.

    Args:
        spec: the variant.
        key: digest of what it was made from.
        result: of `jobs.make_variant`, or of the search for a mix.
    """
    made = result.value if result.status is JobStatus.DONE else {}
    return Outcome(
        variant=spec.name,
        lowering=spec.lowering,
        quantization=spec.quantization,
        status="converted" if result.status is JobStatus.DONE else result.status.value,
        message=result.message,
        todo=result.todo,
        signal=result.signal,
        seconds=result.seconds,
        tool=made.get("tool", ""),
        bytes=made.get("bytes", 0),
        gzip_bytes=made.get("gzip_bytes", 0),
        notes=tuple(made.get("notes", ())),
        weights=made.get("weights", {}),
        log=result.log,
        exit_code=result.exit_code,
        digest=key,
        path=tuple((result.value or {}).get("path", ())),
    )


def store_outcome(folder: Path, outcome: Outcome) -> None:
    """Write an outcome's file. A variant that was not made loses what stands there of other settings.

    Args:
        folder: the run folder's variants/.
        outcome: what became of the variant.

    Raises:
        StageError: it cannot be written.
    """
    if not outcome.ok:
        spec = VariantSpec.parse(outcome.variant)
        if find_up_to_date(folder, spec, outcome.digest) is not None:
            return  # Made from the same things before: this attempt, forced, takes nothing away.
        # A bundle of other settings would pass for this one.
        shutil.rmtree(folder / outcome.variant, ignore_errors=True)
    try:
        write_json(folder / f"{outcome.variant}.json", outcome.to_json())
    except OSError as error:
        raise StageError(
            "The outcome of a conversion could not be written.",
            stage="convert",
            variant=outcome.variant,
            received=f"{error.strerror or error} ({folder})",
            todo="Free some space, then run the same command again: what is converted is kept.",
        ) from error


def find_up_to_date(folder: Path, spec: VariantSpec, key: str) -> Outcome | None:
    """The outcome of a variant that was made before from the same things, and is whole; None: it is to be made.

    Args:
        folder: the run folder's variants/.
        spec: the variant.
        key: digest of what it is made from now.
    """
    path = folder / f"{spec.name}.json"
    if not path.is_file():
        return None
    try:
        outcome = _read_outcome(path)
    except UsageError:
        return None
    whole = (folder / spec.name / MANIFEST).is_file()
    return outcome if outcome.ok and outcome.digest == key and whole else None


def remove_stale(folder: Path, names: set[str]) -> None:
    """Remove variants that an earlier configuration made, and what an interrupted run left behind."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and path.name != "log" and path.name not in names:
            shutil.rmtree(path)
        elif path.suffix == ".json" and path.stem not in names:
            path.unlink()
