"""A model's answers to many samples, in this process or spread over several."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.progress import SILENT, Progress, Step
from edge_dl.runtime import open_session
from edge_dl.runtime.agent import Session
from edge_dl.runtime.guard import GuardedCall

CHUNK_SECONDS = 0.25
"""How long the samples between two reports of progress should take."""

PROBE_SECONDS = 0.3
"""How long the samples that tell whether more processes pay should take."""

START_SECONDS = 0.6
"""What a further process costs before its first answer: Python, NumPy, the runtime, the model."""


def predict_all(
    bundle_or_model: str | os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    *,
    processes: int = 1,
    runtime: str = "auto",
    threads: int = 1,
    delegate: bool = True,
    progress: Progress = SILENT,
    timeout: float | None = None,
) -> dict[str, np.ndarray]:
    """Answers in real numbers to many samples, in the order of the samples.

    Args:
        bundle_or_model: a bundle's folder or a .tflite.
        inputs: by input name, arrays with the sample axis first.
        processes: 1 works in this process; N >= 2 spreads the samples over N child processes, in which a crash of the
            native code is an error and not the end of this process; 0 starts in this process and goes on in as many as
            the processors allow where that saves time.
        runtime: see `open_session`.
        threads: interpreter threads of each process.
        delegate: see `open_session`.
        progress: told the number of samples done.
        timeout: seconds that child processes may take together; None: no limit.

    Returns:
        By output name, arrays with the sample axis first.

    Raises:
        UsageError: bad inputs or a bad model.
        StageError: the model cannot run, or a child process crashed (the message names the signal) or took too long.
    """
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 0:
        raise UsageError("Processes must be a whole number from 0 (0: chosen by a probe).", received=repr(processes))
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    counts = {name: len(value) if value.ndim else 0 for name, value in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise UsageError("Every input must hold the same number of samples, at least one.", received=str(counts))
    count = next(iter(counts.values()))
    options: dict[str, Any] = {"runtime": runtime, "threads": threads, "delegate": delegate}
    with progress.step(f"{Path(bundle_or_model).name}: {count} samples", count) as step:
        if processes >= 2:
            return _predict_in_children(bundle_or_model, arrays, 0, processes, options, step, timeout)
        session = open_session(bundle_or_model, **options)
        if processes == 1:
            return _predict_here(session, arrays, 0, count, step)[0]
        began = time.perf_counter()
        first, done = _predict_here(session, arrays, 0, count, step, seconds=PROBE_SECONDS)
        each = (time.perf_counter() - began) / done
        if done == count:
            return first
        workers = _worth(count - done, each, processors() // threads)
        if workers == 1:
            rest = _predict_here(session, arrays, done, count, step)[0]
        else:
            rest = _predict_in_children(bundle_or_model, arrays, done, workers, options, step, timeout)
    return {name: np.concatenate([value, rest[name]]) for name, value in first.items()}


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _worth(samples: int, seconds_each: float, most: int) -> int:
    """Number of processes that answers soonest; more than one only where it saves a fifth of the time."""
    alone = samples * seconds_each
    best = min(range(1, max(most, 1) + 1), key=lambda number: alone / number + (START_SECONDS if number > 1 else 0))
    return best if best > 1 and alone / best + START_SECONDS < 0.8 * alone else 1


def _predict_here(
    session: Session,
    arrays: Mapping[str, np.ndarray],
    start: int,
    stop: int,
    step: Step,
    *,
    seconds: float = float("inf"),
) -> tuple[dict[str, np.ndarray], int]:
    """Answers to the samples from `start`, until `stop` or until the seconds are over; and the next sample's number."""
    parts: list[dict[str, np.ndarray]] = []
    batch = max(session.batch, 1)
    size = 2 * batch
    deadline = time.perf_counter() + seconds
    while start < stop:
        began = time.perf_counter()
        end = min(start + size, stop)
        parts.append(session.predict({name: value[start:end] for name, value in arrays.items()}))
        step.advance(end - start)
        now = time.perf_counter()
        each = (now - began) / (end - start)
        start = end
        if now >= deadline:
            break
        size = max(int(min(CHUNK_SECONDS, deadline - now) / each) // batch, 1) * batch
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, start
    except ValueError as error:
        raise UsageError("Samples given together must have outputs of one shape.", received=str(error)) from None


def _predict_in_children(
    bundle_or_model: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    start: int,
    workers: int,
    options: dict[str, Any],
    step: Step,
    timeout: float | None,
) -> dict[str, np.ndarray]:
    """Spread the samples from `start` over child processes, in equal stretches."""
    count = len(next(iter(arrays.values())))
    bounds = np.linspace(start, count, min(workers, count - start) + 1).astype(int).tolist()
    with tempfile.TemporaryDirectory(prefix="edge-dl-") as name:
        folder = Path(name)
        inputs = []
        for number, (key, value) in enumerate(arrays.items()):
            if value.dtype == object:
                raise UsageError(f"Input {key!r} must hold real numbers.", received="an array of objects")
            np.save(folder / f"in_{number}.npy", value[start:])
            inputs.append((key, str(folder / f"in_{number}.npy")))
        done = np.memmap(folder / "done", dtype=np.int64, mode="w+", shape=(len(bounds) - 1,))
        calls: list[GuardedCall] = []
        try:
            for number in range(len(bounds) - 1):
                arguments = (os.fspath(bundle_or_model), inputs, bounds[number] - start, bounds[number + 1] - start)
                calls.append(
                    GuardedCall("edge_dl.runtime.evaluation:_predict_part", (*arguments, number, str(folder), options))
                )
            _wait(calls, done, step, timeout)
            names = calls[0].result()
            for call in calls[1:]:
                call.result()
        finally:
            for call in calls:
                call.end()
        parts = [
            [np.load(folder / f"out_{part}_{number}.npy") for part in range(len(calls))] for number in range(len(names))
        ]
        del done
    return {key: np.concatenate(part) for key, part in zip(names, parts, strict=True)}


def _wait(calls: list[GuardedCall], done: np.ndarray, step: Step, timeout: float | None) -> None:
    """Wait until every child has ended or one has failed, telling progress on the way."""
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    told = 0
    waiting = list(calls)
    while waiting:
        waiting[0].wait(0.05)
        for call in [call for call in waiting if not call.running()]:
            waiting.remove(call)
            call.result()  # Raises what went wrong; the caller ends the others.
        total = int(done.sum())
        if total > told:
            step.advance(total - told)
            told = total
        if waiting and time.monotonic() > deadline:
            waiting[0].expire(timeout or 0.0)


class _Counter:
    """A `Step` whose count another process reads."""

    def __init__(self, file: Path, workers: int, number: int) -> None:
        self._done = np.memmap(file, dtype=np.int64, mode="r+", shape=(workers,))
        self._number = number

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done[self._number] += int(amount)


def _predict_part(
    bundle_or_model: str,
    inputs: list[tuple[str, str]],
    start: int,
    stop: int,
    number: int,
    folder: str,
    options: dict[str, Any],
) -> list[str]:
    """In a child: answers to a stretch of samples, written as .npy files; gives the outputs' names in file order."""
    arrays = {name: np.load(path, mmap_mode="r") for name, path in inputs}
    workers = os.path.getsize(os.path.join(folder, "done")) // 8
    session = open_session(bundle_or_model, **options)
    outputs, _ = _predict_here(session, arrays, start, stop, _Counter(Path(folder, "done"), workers, number))
    for place, value in enumerate(outputs.values()):
        np.save(os.path.join(folder, f"out_{number}_{place}.npy"), value)
    return list(outputs)
