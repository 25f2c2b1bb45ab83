"""Latency: how fast a variant is, and whether one is faster than another.

A latency alone is a number of one machine at one moment; what carries over is a comparison (`edge_dl.checks.turns`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.turns import Call, Comparison, Opener, Settings, compare
from edge_dl.errors import UsageError
from edge_dl.runtime import Session, measure, open_session
from edge_dl.runtime.agent import sample_input

FORMAT = 1


@dataclass(frozen=True)
class LatencyReport:
    """How fast one model is on one machine. None: not known here. Times are in milliseconds.

    Attributes:
        variant: the variant's name, or the file's.
        p50_ms, p90_ms, p99_ms, mean_ms: time of one call: inputs set, model run, outputs read. For a `step` model one
            call is a whole sequence.
        load_ms: reading the file and allocating its tensors.
        first_call_ms: the first call.
        peak_memory_mb: peak resident memory while it was loaded and first called (MiB), and
        memory_before_mb: the resident memory before that.
        calls: timed calls.
        warmup_calls: calls before that.
        steady: whether the warm-up became steady.
        threads: interpreter threads.
        runtime: name of the runtime, and
        runtime_version: its version.
        delegated: whether XNNPACK took over operators.
        processor: processor name.
        cores: number of cores.
        architecture: machine type.
        system: operating system.
        governor: frequency governor, where there is one.
        temperature_c: highest temperature before the measurement, degrees Celsius, and
        temperature_after_c: after it.
        error: why it could not be measured; "" when it was.
    """

    variant: str
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    load_ms: float | None = None
    first_call_ms: float | None = None
    peak_memory_mb: float | None = None
    memory_before_mb: float | None = None
    calls: int = 0
    warmup_calls: int = 0
    steady: bool | None = None
    threads: int = 1
    runtime: str = ""
    runtime_version: str = ""
    delegated: bool | None = None
    processor: str = ""
    cores: int = 0
    architecture: str = ""
    system: str = ""
    governor: str | None = None
    temperature_c: float | None = None
    temperature_after_c: float | None = None
    error: str = ""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LatencyReport:
        """Inverse of `to_json`."""
        return from_plain(cls, value)


def measure_model(
    path: str | Path,
    *,
    variant: str = "",
    threads: int = 1,
    runtime: str = "auto",
    delegate: bool = True,
    sample: Any = None,
    rounds: int = 20,
    round_seconds: float = 0.025,
    warmup_seconds: float = 1.0,
) -> LatencyReport:
    """Time one model by itself, in this process.

    Args:
        path: a bundle's folder or a .tflite.
        variant: name for the report; "" takes the bundle's or the file's.
        threads: interpreter threads.
        runtime: "auto" or a runtime's name.
        delegate: whether the default delegate may take over operators.
        sample: one sample to call with; None: the first golden sample, or seeded noise.
        rounds: stretches of calls.
        round_seconds: length of a stretch.
        warmup_seconds: limit of the warm-up.

    Raises:
        UsageError: a bad model or argument.
        StageError: the model cannot be loaded or run.
    """

    def opener() -> Session:
        return open_session(path, threads=threads, runtime=runtime, delegate=delegate)

    found = measure(
        [opener],
        None if sample is None else [sample],
        rounds=rounds,
        block_seconds=round_seconds,
        warmup_seconds=warmup_seconds,
    )
    return _report(found, variant or str(found["models"][0].get("variant") or "") or Path(path).name)


def compare_models(
    a: str | Path,
    b: str | Path,
    *,
    names: tuple[str, str] | None = None,
    threads: int = 1,
    runtime: str = "auto",
    delegate: bool = True,
    samples: tuple[Any, Any] = (None, None),
    settings: Settings | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the latency of two files or bundles; see `compare` and `measure_model` for the arguments."""

    def opener(path: str | Path, sample: Any) -> Opener:
        def open_anew() -> Call:
            session = open_session(path, threads=threads, runtime=runtime, delegate=delegate)
            return session.bare(sample_input(session) if sample is None else sample)

        return open_anew

    first, second = names or (Path(a).name, Path(b).name)
    return compare(
        opener(a, samples[0]), opener(b, samples[1]), a=first, b=second, settings=settings, seed=seed
    )  # fmt: skip


def bench_models(
    paths: Sequence[str | Path],
    *,
    threads: int = 1,
    runtime: str = "auto",
    delegate: bool = True,
    settings: Settings | None = None,
) -> tuple[list[LatencyReport], list[Comparison]]:
    """Time each model by itself, and compare the first with each of the others.

    Raises:
        UsageError: no model.
    """
    if not paths:
        raise UsageError("At least one model must be named.")
    options: dict[str, Any] = {"threads": threads, "runtime": runtime, "delegate": delegate}
    reports = [measure_model(path, **options) for path in paths]
    compared = [compare_models(paths[0], path, settings=settings, **options) for path in paths[1:]]
    return reports, compared


def _report(found: Mapping[str, Any], variant: str) -> LatencyReport:
    model, before, after = found["models"][0], found["machine"], found["machine_after"]

    def milliseconds(name: str) -> float | None:
        value = model.get(name)
        return None if value is None else float(value) / 1e3

    def mebibytes(name: str) -> float | None:
        value = model.get(name)
        return None if value is None else round(float(value) / 2**20, 3)

    return LatencyReport(
        variant=variant,
        p50_ms=milliseconds("p50_us"),
        p90_ms=milliseconds("p90_us"),
        p99_ms=milliseconds("p99_us"),
        mean_ms=milliseconds("mean_us"),
        load_ms=model.get("load_ms"),
        first_call_ms=model.get("first_call_ms"),
        peak_memory_mb=mebibytes("memory_peak_bytes"),
        memory_before_mb=mebibytes("memory_before_bytes"),
        calls=int(model.get("calls", 0)),
        warmup_calls=int(model.get("warmup_calls", 0)),
        steady=model.get("steady"),
        threads=int(model.get("threads", 1)),
        runtime=str(model.get("runtime", "")),
        runtime_version=str(model.get("version", "")),
        delegated=model.get("delegated"),
        processor=str(before.get("processor", "")),
        cores=int(before.get("cores", 0)),
        architecture=str(before.get("architecture", "")),
        system=str(before.get("system", "")),
        governor=before.get("governor"),
        temperature_c=before.get("temperature_c"),
        temperature_after_c=after.get("temperature_c"),
    )
