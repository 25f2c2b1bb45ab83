"""The same check on other machines: a bundle's answers computed on a target, judged here.

A target only answers samples. Whether its answers are right is computed on this machine, from arrays whose names,
shapes and types were checked; so a target that is broken, old or hostile can fail its own check and nothing else.
Targets work side by side, and one that fails does not stop the others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import MANIFEST, MODEL, Bundle, Manifest, read_bundle
from edge_dl.checks.graph import read_graph
from edge_dl.checks.jobs import bundle_case, variant_case
from edge_dl.checks.parity import check_parity
from edge_dl.checks.pipeline import variants_of
from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.verdicts import ParityReport, failed_report
from edge_dl.errors import EdgeError, UsageError
from edge_dl.files import read_json, write_json
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import ChecksConfig
from edge_dl.runtime import run_guarded
from edge_dl.runtime.targets.answers import Machine, Run, Timing
from edge_dl.runtime.targets.base import TIME_LIMIT, Connection, Target
from edge_dl.runtime.targets.processes import end_all
from edge_dl.runtime.targets.registry import file_name

FORMAT = 1
SAMPLES = 64
"""Samples of a run's test split that a target answers, if not told otherwise: an emulated one is 20 times slower."""

MOST_STEPS = 16
_SMALL = {"int8", "uint8", "int16"}


@dataclass(frozen=True)
class OutputDifference:
    """How far a target's output is from this machine's own LiteRT on the same samples.

    Attributes:
        name: the output's name.
        elements: number of values compared.
        max_abs: largest absolute difference; None when one side holds NaN or infinity.
        differing: number of values that are not equal.
        scale: quantization step where the output's values are integers (or were, one operator before); else 0.0.
        steps: for integers: how many values differ by so many steps, e.g. {"1": 12, "2": 1}; more than 16 steps count
            as "17+".
    """

    name: str
    elements: int
    max_abs: float | None
    differing: int
    scale: float = 0.0
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TargetResult:
    """What came out of one variant on one target. Written as targets/<target>/<variant>.json.

    Attributes:
        target, address: the target's name and address.
        emulated: whether its latency is meaningless.
        variant: the variant's name.
        parity: the parity report against the reference's answers; a failed one when `error` says why there is none.
        differences: difference to this machine's own LiteRT, by output.
        local_runtime: what ran here, e.g. "ai_edge_litert 2.3.0"; "" when it could not run the model.
        run: what the agent said; None when it did not answer.
        facts: what else the target told: throttling, battery, temperature.
        seconds: from the first byte sent to the last received.
        error, received, todo: the rule that was broken, what was received, what to do; "" when all went well.
        model: SHA-256 of the model that was checked, so that a result tells whether it is still of the run's model.
    """

    target: str
    address: str
    emulated: bool
    variant: str
    parity: ParityReport
    differences: tuple[OutputDifference, ...] = ()
    local_runtime: str = ""
    run: Run | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    received: str = ""
    todo: str = ""
    model: str = ""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TargetResult:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is missing, unknown, or of the wrong type.
        """
        return from_plain(cls, value)


@dataclass(frozen=True)
class TargetLatency:
    """Latency of one variant on one target. Written as targets/<target>/bench/<variant>.json.

    Attributes:
        meaningful: false for an emulated target: its times say nothing about a device.
        timing: what the agent measured; None when `error` says why not.
        facts_before, facts_after: the target's state: governor, temperature, throttling, battery.
        error, received, todo, model: see `TargetResult`.
    """

    target: str
    address: str
    variant: str
    meaningful: bool
    timing: Timing | None = None
    facts_before: Mapping[str, Any] = field(default_factory=dict)
    facts_after: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    received: str = ""
    todo: str = ""
    model: str = ""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return to_plain(self)


@dataclass(frozen=True)
class _Case:
    """A bundle with everything that judging answers takes, and this machine's own answers."""

    bundle: Bundle
    arguments: Mapping[str, Any]
    local: Mapping[str, np.ndarray]
    local_runtime: str


def verify_on(
    what: str | Path,
    targets: Sequence[Target],
    *,
    checks: ChecksConfig | None = None,
    samples: int = SAMPLES,
    variants: Sequence[str] = (),
    time_limit: float = TIME_LIMIT,
    progress: Progress = SILENT,
) -> list[TargetResult]:
    """Check a bundle, or every variant of a run folder, on targets.

    For a run folder the samples are the first draw of its test split, the task metric is reported and not judged (so
    few samples cannot), and each result is written as targets/<target>/<variant>.json. A bundle answers its golden
    samples.

    Args:
        what: a run folder or a bundle.
        targets: where; each is reached in a thread of its own.
        checks: limits; None: the bundle's own, or the defaults.
        samples: of a run's test split; 0: all.
        variants: names of the run's variants to check; (): all.
        time_limit: seconds that one call of a target may take.
        progress: told of every result.

    Returns:
        Results, by target and then by variant, errors among them.

    Raises:
        UsageError: neither a run folder nor a bundle, no test data, or the same target twice.
    """
    folder = Path(what)
    run = None if (folder / MANIFEST).is_file() else folder
    cases = list(_cases(folder, run, checks, samples, variants))

    def work(target: Target, connection: Connection, case: _Case) -> TargetResult:
        return _verify_one(target, connection, case, time_limit)

    def failure(target: Target, case: _Case, error: EdgeError) -> TargetResult:
        manifest = case.bundle.manifest
        report = failed_report(manifest.variant, manifest.quantization, manifest.task, str(error))
        return TargetResult(
            target.name, target.address.text, target.emulated, manifest.variant, report,
            local_runtime=case.local_runtime, model=model_hash(manifest), **_parts(error),
        )  # fmt: skip

    def write(target: Target, case: _Case, result: TargetResult) -> str:
        if run is not None:
            write_json(_place(run, target) / f"{case.bundle.manifest.variant}.json", result.to_json())
        return f"{target.name}, {result.variant}: {result.error or result.parity.verdict.value}"

    return _on_each(targets, cases, work, failure, write, progress, "verify on targets")


def bench_on(
    what: str | Path,
    targets: Sequence[Target],
    *,
    rounds: int = 30,
    variants: Sequence[str] = (),
    time_limit: float = TIME_LIMIT,
    progress: Progress = SILENT,
) -> list[TargetLatency]:
    """Time a bundle, or every variant of a run folder, on targets.

    With a run folder each result is written as targets/<target>/bench/<variant>.json.

    Args:
        what, targets, variants, time_limit, progress: see `verify_on`.
        rounds: blocks of calls.

    Raises:
        UsageError: see `verify_on`.
    """
    folder = Path(what)
    run = None if (folder / MANIFEST).is_file() else folder
    bundles = [read_bundle(path) for path in _folders(folder, run, variants)]

    def work(target: Target, connection: Connection, bundle: Bundle) -> TargetLatency:
        before = connection.facts()
        timing = connection.measure(bundle, rounds=rounds, timeout=time_limit)
        return TargetLatency(
            target.name, target.address.text, bundle.manifest.variant, not target.emulated, timing, before,
            connection.facts(), model=model_hash(bundle.manifest),
        )  # fmt: skip

    def failure(target: Target, bundle: Bundle, error: EdgeError) -> TargetLatency:
        fields = (target.name, target.address.text, bundle.manifest.variant, not target.emulated)
        return TargetLatency(*fields, model=model_hash(bundle.manifest), **_parts(error))

    def write(target: Target, bundle: Bundle, result: TargetLatency) -> str:
        if run is not None:
            write_json(_place(run, target) / "bench" / f"{bundle.manifest.variant}.json", result.to_json())
        note = "" if result.meaningful else " (emulated: no device's time)"
        return f"{target.name}, {result.variant}: {result.error or _milliseconds(result.timing)}{note}"

    check_distinct(targets)
    found: list[TargetLatency] = []
    # One after the other: two that share this machine (and an emulated one always does) would slow each other down.
    for target in targets:
        title = f"bench on {target.name}"
        found += _on_each([target], bundles, work, failure, write, progress, title)
    return found


def check_distinct(targets: Sequence[Target]) -> None:
    """Make sure that there are targets, and that no two file their results under the same name.

    Raises:
        UsageError: otherwise.
    """
    names = [file_name(target.name) for target in targets]
    if not targets or len(set(names)) != len(names):
        raise UsageError("Name one or more different targets.", received=", ".join(names) or "none")


def unanswered(run: Path, targets: Sequence[Target]) -> list[Target]:
    """The targets of which a run folder does not hold an answer to every variant, as the variant is now."""

    def answered(target: Target, name: str) -> bool:
        path = _place(run, target) / f"{name}.json"
        try:
            result = TargetResult.from_json(read_json(path))
        except (UsageError, OSError):
            return False
        return not result.error and result.model == model_hash(read_bundle(run / "variants" / name).manifest)

    names = variants_of(run)
    return [target for target in targets if not all(answered(target, name) for name in names)]


def model_hash(manifest: Manifest) -> str:
    """SHA-256 of a bundle's model."""
    return str(manifest.files[MODEL]["sha256"])


def compare_outputs(
    have: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], scales: Mapping[str, float]
) -> tuple[OutputDifference, ...]:
    """Differences of outputs of equal names and shapes.

    Args:
        have, want: outputs in real numbers by name.
        scales: quantization step of the outputs that are integers underneath.
    """
    found = []
    for name, left in have.items():
        right = want[name]
        distance = np.abs(left.astype(np.float64) - right.astype(np.float64))
        differing = int(np.count_nonzero(left != right))
        scale = scales.get(name, 0.0)
        steps: dict[str, int] = {}
        finite = bool(np.isfinite(distance).all())
        if scale and finite:
            numbers, counts = np.unique(np.rint(distance / scale).astype(np.int64), return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                key = str(number) if number <= MOST_STEPS else f"{MOST_STEPS + 1}+"
                if number:
                    steps[key] = steps.get(key, 0) + count
        largest = float(distance.max(initial=0.0)) if finite else None
        found.append(OutputDifference(name, left.size, largest, differing, scale, steps))
    return tuple(found)


def output_scales(bundle: Bundle) -> dict[str, float]:
    """Quantization step of every output that is an 8- or 16-bit integer, or was one before its last operator."""
    scales = {
        spec.name: spec.scale for spec in bundle.manifest.signature.outputs if spec.scale and spec.dtype in _SMALL
    }
    graph = read_graph(bundle.model)
    for signature in graph.signatures:
        if signature.key != bundle.manifest.signature.key:
            continue
        subgraph = graph.subgraphs[signature.subgraph]
        for operator in subgraph.operators:
            if operator.name != "DEQUANTIZE" or not operator.inputs or operator.inputs[0] < 0:
                continue
            tensor = subgraph.tensors[operator.inputs[0]]
            for name, number in signature.outputs.items():
                if number in operator.outputs and tensor.dtype in _SMALL and len(tensor.scales) == 1:
                    scales[name] = float(tensor.scales[0])
    return {name: scale for name, scale in scales.items() if scale > 0}


# --- small parts -----------------------------------------------------------------------------------------------------


def _folders(folder: Path, run: Path | None, variants: Sequence[str]) -> list[Path]:
    if run is None:
        return [folder]
    names = variants_of(run)
    for name in variants:
        if name not in names:
            raise UsageError("The run must hold the variant.", received=repr(name), todo=f"It has {', '.join(names)}.")
    return [run / "variants" / name for name in names if not variants or name in variants]


def _cases(
    folder: Path, run: Path | None, checks: ChecksConfig | None, samples: int, variants: Sequence[str]
) -> Iterator[_Case]:
    for path in _folders(folder, run, variants):
        bundle = read_bundle(path)
        if run is None:
            arguments = bundle_case(path, checks=checks)
        else:
            arguments = variant_case(run, path.name, replace(checks or ChecksConfig(), samples=samples))
            arguments["limits"] = replace(arguments["limits"], max_drop=None)
        arguments["labels"] = arguments["labels"] if len(arguments["labels"]) <= 1000 else ()
        try:
            local, runtime = run_guarded(
                "edge_dl.checks.targets:answer_here",
                (str(path), arguments["inputs"]),
                stage="verify",
                variant=path.name,
            )
        except EdgeError:  # What does not run here may run there.
            local, runtime = {}, ""
        yield _Case(bundle, arguments, local, runtime)


def answer_here(folder: str, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """This machine's own answers, and the name and version of its runtime; called in a child process."""
    from edge_dl.runtime import open_session

    session = open_session(folder)
    return dict(session.predict(dict(inputs))), f"{session.interpreter.runtime} {session.interpreter.version}"


def _verify_one(target: Target, connection: Connection, case: _Case, time_limit: float) -> TargetResult:
    started = time.monotonic()
    runs: list[Run] = []
    answers: list[dict[str, np.ndarray]] = []

    def predict(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs, run = connection.predict(case.bundle, inputs, timeout=time_limit)
        runs.append(run)
        answers.append(outputs)
        return outputs

    report = check_parity(predict, **case.arguments)
    differences: tuple[OutputDifference, ...] = ()
    if case.local:
        differences = compare_outputs(answers[0], case.local, output_scales(case.bundle))
    return TargetResult(
        target.name,
        target.address.text,
        target.emulated,
        case.bundle.manifest.variant,
        report,
        differences,
        case.local_runtime,
        runs[0],
        connection.facts(),
        round(time.monotonic() - started, 3),
        model=model_hash(case.bundle.manifest),
    )


def _milliseconds(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{timing.typical_ms:.3f} ms"


def _parts(error: EdgeError) -> dict[str, Any]:
    return {"error": error.rule, "received": error.received, "todo": error.todo}


def _place(run: Path, target: Target) -> Path:
    return run / "targets" / file_name(target.name)


def _on_each(
    targets: Sequence[Target],
    cases: Sequence[Any],
    work: Callable[[Target, Connection, Any], Any],
    failure: Callable[[Target, Any, EdgeError], Any],
    write: Callable[[Target, Any, Any], str],
    progress: Progress,
    title: str,
) -> list[Any]:
    """Every case on every target: a thread each, their results written by this one."""
    check_distinct(targets)
    results: queue.Queue[tuple[int, int, Any]] = queue.Queue()
    stop = threading.Event()

    def serve(number: int) -> None:
        target, done = targets[number], 0
        try:
            with target.open() as connection:
                for case in cases:
                    if stop.is_set():
                        return
                    results.put((number, done, _attempt(target, connection, case, work, failure)))
                    done += 1
        except Exception as error:  # It could not be reached, or closing it failed: what is left fails alike.
            for place in range(done, len(cases)):
                results.put((number, place, failure(target, cases[place], _as_edge_error(error))))

    threads = [threading.Thread(target=serve, args=(number,), daemon=True) for number in range(len(targets))]
    found: dict[tuple[int, int], Any] = {}
    total = len(targets) * len(cases)
    for thread in threads:
        thread.start()
    try:
        with progress.step(title, total) as step:
            while len(found) < total:
                number, place, result = results.get()
                found[number, place] = result
                step.advance(1, write(targets[number], cases[place], result))
    except BaseException:
        stop.set()
        end_all()
        raise
    finally:
        for thread in threads:
            thread.join(60.0)  # A connection removes what it wrote on its target.
    return [found[key] for key in sorted(found)]


def _attempt(
    target: Target,
    connection: Connection,
    case: Any,
    work: Callable[[Target, Connection, Any], Any],
    failure: Callable[[Target, Any, EdgeError], Any],
) -> Any:
    try:
        return work(target, connection, case)
    except Exception as error:
        return failure(target, case, _as_edge_error(error))


def _as_edge_error(error: Exception) -> EdgeError:
    if isinstance(error, EdgeError):
        return error
    received = f"{type(error).__name__}: {error}"
    return EdgeError("The target's answer must be one that can be judged.", received=received)


__all__ = ["Machine", "OutputDifference", "TargetLatency", "TargetResult", "bench_on", "compare_outputs", "verify_on"]
