"""The verify and bench stages: from a run folder (or a bundle, or a bare .tflite) to reports.

Every variant is checked and timed in a child process of its own: one that crashes the interpreter becomes a failed
report, and the others go on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from edge_dl.bundle import MANIFEST, read_bundle
from edge_dl.checks.corpus_scores import require_sacrebleu
from edge_dl.checks.inspection import inspect_model
from edge_dl.checks.latency import LatencyReport
from edge_dl.checks.selection import Candidate, Selection, select
from edge_dl.checks.translation import REFERENCE
from edge_dl.checks.turns import Comparison
from edge_dl.checks.verdicts import ParityReport, Verdict, failed_report
from edge_dl.checks.weights import guess_quantization
from edge_dl.errors import EdgeError, UsageError
from edge_dl.files import read_json, write_json
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import ChecksConfig, Task
from edge_dl.runtime import run_guarded
from edge_dl.runtime.evaluation import processors
from edge_dl.runtime.guard import GuardedCall
from edge_dl.variants import Lowering, Quantization

JOBS = "edge_dl.checks.jobs"
TIME_LIMIT = 3600.0
BENCH_TIME_LIMIT = 600.0


def variants_of(run: str | Path) -> list[str]:
    """Names of the variants that a run folder holds as bundles: by lowering, then quantization.

    Raises:
        UsageError: there is none.
    """
    folder = Path(run) / "variants"
    names = [path.parent.name for path in folder.glob(f"*/{MANIFEST}")]
    if not names:
        raise UsageError(
            "There must be a variant to check.",
            received=f"{folder} without a bundle",
            todo="Convert first: `edge-dl convert`.",
        )
    return sorted(names, key=_order)


def run_verify(
    run: str | Path,
    checks: ChecksConfig | None = None,
    progress: Progress = SILENT,
    *,
    runtime: str = "auto",
    time_limit: float = TIME_LIMIT,
) -> list[ParityReport]:
    """Check every variant of a run folder on its test split; writes checks/<variant>.json.

    Args:
        run: the run folder.
        checks: what to hold the variants to; None: the defaults.
        progress: told of every variant.
        runtime: "auto" or a runtime's name.
        time_limit: seconds a variant may take.

    Raises:
        UsageError: no variant, or no test data or reference answers, or a package for translations is missing.
    """
    run = Path(run)
    checks = checks or ChecksConfig()
    names = variants_of(run)
    for needed in (run / "data" / "test.npz", run / "export" / "reference.npz"):
        if not needed.is_file():
            raise UsageError("Parity needs the test split and the reference's answers.", received=f"no {needed}")
    if (run / "export" / REFERENCE).is_file():
        require_sacrebleu()  # Told once, before anything is done.
    shutil.rmtree(run / "checks" / "translations", ignore_errors=True)  # A variant's are there if they are its own.
    reports: dict[str, ParityReport] = {}
    calls: dict[str, GuardedCall] = {}
    started: dict[str, float] = {}
    waiting = list(names)
    with progress.step("verify", len(names)) as step:
        try:
            while waiting or calls:
                # As many at a time as there are processors; timing is another stage's work.
                while waiting and len(calls) < processors():
                    name = waiting.pop(0)
                    arguments = (str(run), name, checks, runtime)
                    started[name] = time.monotonic()
                    calls[name] = GuardedCall(f"{JOBS}:verify_variant", arguments, stage="verify", variant=name)
                name = next((name for name, call in calls.items() if not call.running()), next(iter(calls)))
                call = calls[name]
                if not call.wait(0.02) and time.monotonic() - started[name] < time_limit:
                    continue
                reports[name] = _finish(call, run, name, time_limit)
                calls.pop(name).end()
                write_json(run / "checks" / f"{name}.json", reports[name].to_json())
                step.advance(1, f"{name}: {reports[name].verdict.value}")
        finally:
            for call in calls.values():
                call.end()
    return [reports[name] for name in names]


def run_bench(
    run: str | Path,
    checks: ChecksConfig | None = None,
    progress: Progress = SILENT,
    *,
    runtime: str = "auto",
    time_limit: float = BENCH_TIME_LIMIT,
) -> tuple[list[LatencyReport], list[Comparison], Selection]:
    """Time every variant of a run folder.

    Writes bench/<variant>.json, bench/comparisons.json ({"baseline": name, "comparisons": [each variant against the
    baseline, "errors": {name: why there is none}]}) and bench/selection.json. The baseline is a float32 variant: of
    the first lowering in the order none, while, unroll, fused, step, stream.

    Args:
        run: the run folder.
        checks: `threads` and `rounds` count here; None: the defaults.
        progress: told of every variant.
        runtime: "auto" or a runtime's name.
        time_limit: seconds a variant may take.

    Raises:
        UsageError: no variant.
    """
    run = Path(run)
    checks = checks or ChecksConfig()
    names = variants_of(run)
    parity = {name: found for name in names if (found := _parity(run, name)) is not None}
    baseline = _baseline(run, names, parity)
    reports: list[LatencyReport] = []
    comparisons: list[Comparison] = []
    errors: dict[str, str] = {}
    with progress.step("bench", len(names)) as step:
        for name in names:
            against = baseline if name != baseline else ""
            arguments = (str(run), name, against, checks.threads, checks.rounds, runtime)
            try:
                report, comparison, error = run_guarded(
                    f"{JOBS}:bench_variant", arguments, timeout=time_limit, stage="bench", variant=name
                )
            except EdgeError as failure:
                report, comparison, error = LatencyReport(name, error=str(failure)), None, str(failure)
            reports.append(report)
            if comparison is not None:
                comparisons.append(comparison)
            elif against:
                errors[name] = error
            write_json(run / "bench" / f"{name}.json", report.to_json())
            step.advance(1, f"{name}: {_milliseconds(report)}")
    write_json(
        run / "bench" / "comparisons.json",
        {"baseline": baseline, "comparisons": [item.to_json() for item in comparisons], "errors": errors},
    )
    selection = select(
        [_candidate(run, name, parity.get(name), report) for name, report in zip(names, reports, strict=True)]
    )
    write_json(run / "bench" / "selection.json", selection.to_json())
    return reports, comparisons, selection


def verify_bundle(
    bundle: str | Path,
    data: str | Path | None = None,
    reference: str | Path | None = None,
    *,
    checks: ChecksConfig | None = None,
    runtime: str = "auto",
    time_limit: float = TIME_LIMIT,
) -> ParityReport:
    """Check a bundle against its golden samples, or against `data` and `reference`.

    Args:
        bundle: the bundle's folder.
        data: an .npz of inputs (x/<name>) and true answers (y/<name>); None: the golden samples.
        reference: an .npz of the Keras model's answers to `data` (y/<name>).
        checks: limits; None: the bundle's own.
        runtime: "auto" or a runtime's name.
        time_limit: seconds that it may take.

    Raises:
        UsageError: no bundle, or data without reference.
    """
    opened = read_bundle(bundle)
    if (data is None) != (reference is None):
        raise UsageError(
            "Data comes with the reference's answers to it, and the other way round.",
            received="only one of the two",
        )
    files = None if data is None or reference is None else (str(data), str(reference))
    try:
        return run_guarded(
            f"{JOBS}:verify_bundle", (str(bundle), files, checks, runtime), timeout=time_limit, stage="verify",
            variant=opened.manifest.variant,
        )  # fmt: skip
    except UsageError:
        raise
    except EdgeError as error:
        return failed_report(opened.manifest.variant, opened.manifest.quantization, opened.manifest.task, str(error))


def verify_model(
    model: str | Path,
    reference: str | Path,
    data: str | Path,
    *,
    quantization: str = "",
    task: Task | str = "",
    labels: tuple[str, ...] = (),
    checks: ChecksConfig | None = None,
    runtime: str = "auto",
    time_limit: float = TIME_LIMIT,
) -> ParityReport:
    """Check a user's own .tflite.

    Args:
        model: the .tflite.
        reference: an .npz of the reference model's answers, y/<output> or <output>.
        data: an .npz of inputs, x/<input> or <input>, and, where they are known, true answers y/<output>.
        quantization: what the model says it is; "" is read from its weights.
        task: what it answers; "" is told from the true answers: whole numbers are classes, others numbers.
        labels: class names.
        checks: limits; None: the defaults.
        runtime: "auto" or a runtime's name.
        time_limit: seconds that it may take.

    Raises:
        UsageError: a file is missing or damaged, or names and shapes do not fit.
    """
    inspected = inspect_model(model)  # A damaged file is told before a child is started.
    kind = quantization or guess_quantization(inspected).value
    kind_of_task = task.value if isinstance(task, Task) else task
    arguments = (str(model), str(reference), str(data), kind, kind_of_task, labels, checks, runtime)
    try:
        return run_guarded(
            f"{JOBS}:verify_model", arguments, timeout=time_limit, stage="verify", variant=Path(model).stem
        )
    except UsageError:
        raise
    except EdgeError as error:
        return failed_report(Path(model).stem, kind, kind_of_task, str(error))


# --- small parts -----------------------------------------------------------------------------------------------------


def _finish(call: GuardedCall, run: Path, name: str, time_limit: float) -> ParityReport:
    try:
        if call.running():
            call.expire(time_limit)
        return call.result()
    except EdgeError as error:
        try:
            manifest = read_bundle(run / "variants" / name).manifest
            return failed_report(name, manifest.quantization, manifest.task, str(error))
        except UsageError:  # The bundle itself is what is wrong.
            return failed_report(name, "", "", str(error))


def _order(name: str) -> tuple[int, int, str]:
    parts = name.split("-")
    lowerings, quantizations = [item.value for item in Lowering], [item.value for item in Quantization]
    lowering = parts[0] if parts[0] in lowerings else Lowering.NONE.value
    quantization = next((part for part in parts if part in quantizations), "")
    place = quantizations.index(quantization) if quantization else len(quantizations)
    return lowerings.index(lowering), place, name


def _parity(run: Path, name: str) -> ParityReport | None:
    path = run / "checks" / f"{name}.json"
    return ParityReport.from_json(read_json(path)) if path.is_file() else None


def _baseline(run: Path, names: list[str], parity: Mapping[str, ParityReport]) -> str:
    """A float32 variant to compare with: one that runs where that is known; "" without any."""
    floats = [name for name in names if Quantization.FLOAT32.value in name.split("-")]
    running = [name for name in floats if name not in parity or not parity[name].error]
    return next(iter(running or floats), "")


def _candidate(run: Path, name: str, parity: ParityReport | None, report: LatencyReport) -> Candidate:
    model = run / "variants" / name / "model.tflite"
    manifest = read_json(run / "variants" / name / MANIFEST)
    verdict: Verdict | None = parity.verdict if parity is not None else None
    return Candidate(
        variant=name,
        lowering=str(manifest.get("lowering", "")),
        quantization=str(manifest.get("quantization", "")),
        verdict=verdict,
        message=parity.message if parity is not None else "",
        p50_ms=report.p50_ms,
        bytes=os.path.getsize(model) if model.is_file() else 0,
        error=report.error,
    )


def _milliseconds(report: LatencyReport) -> str:
    return report.error or ("" if report.p50_ms is None else f"{report.p50_ms:.3f} ms")
