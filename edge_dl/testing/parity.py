"""The parity check of one subject on one target, with what helps to find the reason where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edge_dl.checks.parity import check_parity
from edge_dl.checks.verdicts import ParityReport, Verdict, failed_report
from edge_dl.errors import EdgeError
from edge_dl.runtime import run_guarded
from edge_dl.runtime.targets.answers import Run
from edge_dl.runtime.targets.base import Connection
from edge_dl.testing.baselines import describe_machine
from edge_dl.testing.graphs import Start
from edge_dl.testing.results import ParityResult, find_worst, parity_values
from edge_dl.testing.subjects import Subject

EXACT_DB = 80.0
"""What counts as different where no limit of the signal-to-noise ratio applies: a relative error of 1e-4."""

GRAPH_SECONDS = 120.0


class _Refused(Exception):
    """The target could not answer."""

    def __init__(self, error: EdgeError) -> None:
        self.error = error


def check_on(
    connection: Connection,
    target: str,
    subject: Subject,
    *,
    judge: Callable[[ParityResult], ParityResult],
    time_limit: float,
) -> ParityResult:
    """Check a subject on a target. A model that the target cannot run is a failed result, not an error.

    Args:
        connection: an open connection to the target.
        target: its name.
        subject: what to check.
        judge: adds what --edge-fail says to a result.
        time_limit: seconds that one call of the target may take.

    Raises:
        UsageError: inputs, answers or true answers that do not fit the model.
    """
    runs: list[Run] = []
    answers: list[dict[str, np.ndarray]] = []

    def predict(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs, run = connection.predict(subject.bundle, inputs, timeout=time_limit)
        except EdgeError as error:
            raise _Refused(error) from None
        runs.append(run)
        answers.append(outputs)
        return outputs

    manifest = subject.bundle.manifest
    try:
        report = check_parity(predict, **subject.arguments)
    except _Refused as refused:
        report = failed_report(manifest.variant, manifest.quantization, manifest.task, str(refused.error))
    run = runs[0] if runs else None
    result = ParityResult(
        kind="parity",
        variant=manifest.variant,
        target=target,
        runtime=f"{run.runtime} {run.version}" if run else "",
        checks=report.checks,
        values=parity_values(report.outputs),
        machine=describe_machine(run.machine) if run else {},
        report=report,
        source=subject.source,
        subject=subject.name,
    )
    result = judge(result)
    return result if result or not answers else _explained(result, report, subject, answers[0])


def _explained(
    result: ParityResult, report: ParityReport, subject: Subject, answers: Mapping[str, np.ndarray]
) -> ParityResult:
    reference = subject.arguments["reference"]
    failing = [check.output for check in report.checks if check.verdict is Verdict.FAIL and check.output]
    worst = find_worst(reference, answers, [*[name for name in reference if name in failing], *reference])
    return replace(result, worst=worst, start=_find_start(subject, worst[0].sample if worst else None))


def _find_start(subject: Subject, sample: int | None) -> Start:
    """Where it starts on the worst sample, found in a child process on this machine."""
    if sample is None:
        return Start(reason="no answer differs by itself")
    if subject.sibling is None:
        return Start(reason=subject.no_sibling)
    limits = subject.arguments["limits"]
    threshold = EXACT_DB if limits.min_snr_db is None else limits.min_snr_db
    arguments = (
        str(subject.bundle.folder),
        str(subject.sibling),
        {name: np.asarray(array[sample]) for name, array in subject.arguments["inputs"].items()},
        {name: np.asarray(array[sample]) for name, array in subject.arguments["reference"].items()},
        threshold,
    )
    try:
        return run_guarded("edge_dl.testing.graphs:find_start", arguments, timeout=GRAPH_SECONDS, stage="verify")
    except EdgeError as error:
        return Start(reason=f"{error.rule} {error.received}".strip())
