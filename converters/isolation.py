"""Jobs in a child process: a crash, a hang or an endless loop in native code becomes a result instead of an end.

TensorFlow's converter and the interpreters are C++ that can die on a signal. They run in a worker process
(`python -m edge_dl.converters.worker`), one for many jobs because importing TensorFlow takes seconds. Parent and
worker speak JSON, one object a line, over the worker's standard input and output:

    parent -> worker   {"name": .., "call": "module:function", "arguments": {..}, "log": path}
    worker -> parent   {"event": "ready"} once, {"event": "started", "name": ..}, {"event": "note", "text": ..},
                       {"event": "result", "name": .., "status": .., "value": .., "message": .., "todo": ..}

Everything else that is printed, by Python or by native code, goes to the job's log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from edge_dl.errors import signal_name
from edge_dl.progress import SILENT, Progress

START_LIMIT = 300.0  # Seconds until a worker is ready; importing TensorFlow takes 3 s, more on a busy or slow machine.
LOG_LINES = 12


class JobStatus(str, Enum):
    """How a job ended."""

    DONE = "done"
    REFUSED = "refused"  # It cannot be done, for a stated reason.
    FAILED = "failed"  # It raised an error.
    CRASHED = "crashed"  # The process died on a signal or ended without an answer.
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Job:
    """One call to make in the worker.

    Attributes:
        name: what the job is about, for example a variant's name; different for every job of a list.
        call: "package.module:function"; the function takes `arguments` as keywords and returns a JSON value.
        arguments: JSON values.
        log: file that receives everything printed during the job; removed again when the job is done.
        time_limit: seconds the call may take.
        stage: the stage's name for messages.
    """

    name: str
    call: str
    arguments: Mapping[str, Any]
    log: Path
    time_limit: float = 600.0
    stage: str = "convert"


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        name: the job's name.
        status: how it ended.
        value: what the function returned (status "done").
        message: what went wrong, one line.
        todo: what the user can do about it.
        signal: name of the signal that killed the worker, for example "SIGSEGV".
        exit_code: 0, 2 (wrong use) or 3 (broke).
        seconds: how long the call took.
        log: last lines of what was printed, when it did not end well.
    """

    name: str
    status: JobStatus
    value: Any = None
    message: str = ""
    todo: str = ""
    signal: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    log: tuple[str, ...] = field(default=())


class Isolation:
    """A worker process that is kept between lists of jobs. Use it as a context manager: it ends the worker.

    A worker that dies is replaced for the jobs that remain. Ctrl-C, or any other exception here, kills the worker with
    everything it started; results that `on_result` has received by then are complete.
    """

    def __init__(self) -> None:
        self._worker: _Worker | None = None

    def __enter__(self) -> Isolation:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_result: Callable[[JobResult], None] | None = None,
        on_note: Callable[[str, str], None] | None = None,
        progress: Progress = SILENT,
        description: str = "",
    ) -> list[JobResult]:
        """Run `jobs` one after the other.

        Args:
            jobs: what to run, in this order.
            on_result: called with each result as soon as it is there.
            on_note: called with a job's name and a text whenever a job says how far it is (`worker.note`).
            progress: told about each job.
            description: the progress bar's text; empty: no bar.

        Returns:
            One result a job, in the same order.
        """
        if len({job.name for job in jobs}) != len(jobs):
            raise ValueError(f"Jobs must have different names. Received: {[job.name for job in jobs]}.")
        results: list[JobResult] = []
        bar = progress.step(description, float(len(jobs))) if description and jobs else SILENT.step("")
        try:
            with bar as step:
                for job in jobs:
                    step.advance(0, job.name)
                    result = self._run_one(job, on_note)
                    results.append(result)
                    if on_result is not None:
                        on_result(result)
                    step.advance(1, job.name)
        except BaseException:
            self._end()
            raise
        return results

    def _run_one(self, job: Job, on_note: Callable[[str, str], None] | None) -> JobResult:
        if self._worker is None:
            self._worker = _Worker(job.log)
        result = self._worker.run(job, on_note)
        if result.status in (JobStatus.CRASHED, JobStatus.TIMED_OUT):
            self._end()
        if result.status is JobStatus.DONE:
            job.log.unlink(missing_ok=True)
        return result


def run_jobs(jobs: Sequence[Job], **listeners: Any) -> list[JobResult]:
    """Run `jobs` in a worker of their own; arguments as for `Isolation.run`."""
    with Isolation() as isolation:
        return isolation.run(jobs, **listeners)


class _Worker:
    """A worker process and the thread that reads its answers."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
        # A session of its own: Ctrl-C reaches the parent only, which then ends the whole group.
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_dl.converters.worker", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._ready = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    self._events.put(event)
        self._events.put(None)

    def run(self, job: Job, on_note: Callable[[str, str], None] | None) -> JobResult:
        """Send one job and wait for its result."""
        started = time.monotonic()
        deadline = started + START_LIMIT
        if self._ready:
            deadline = started + job.time_limit
        request = {"name": job.name, "call": job.call, "arguments": dict(job.arguments), "log": str(job.log)}
        with contextlib.suppress(OSError):  # A worker that is dead already: its end arrives as an event.
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        while True:
            try:
                event = self._events.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                return self._timed_out(job, time.monotonic() - started)
            if event is None:
                return self._crashed(job, time.monotonic() - started)
            kind = event.get("event")
            if kind in ("ready", "started"):
                # The limit is the job's own: the time a worker needs to start does not count.
                self._ready = True
                started = time.monotonic()
                deadline = started + job.time_limit
            elif kind == "note" and on_note is not None:
                on_note(job.name, str(event.get("text", "")))
            elif kind == "result" and event.get("name") == job.name:
                status = JobStatus(event["status"])
                return JobResult(
                    name=job.name,
                    status=status,
                    value=event.get("value"),
                    message=event.get("message", ""),
                    todo=event.get("todo", ""),
                    exit_code=int(event.get("exit_code", 0)),
                    seconds=round(time.monotonic() - started, 3),
                    log=() if status in (JobStatus.DONE, JobStatus.REFUSED) else last_lines(job.log),
                )

    def _timed_out(self, job: Job, seconds: float) -> JobResult:
        limit = job.time_limit if self._ready else START_LIMIT
        return JobResult(
            name=job.name,
            status=JobStatus.TIMED_OUT,
            message=f"Stage {job.stage} of {job.name} did not end within {limit:g} s and was stopped.",
            todo="Give it more time (conversion.time_limit), or leave this variant out.",
            exit_code=3,
            seconds=round(seconds, 3),
            log=last_lines(job.log),
        )

    def _crashed(self, job: Job, seconds: float) -> JobResult:
        code = self._process.wait()
        name = signal_name(code)
        how = f"was killed by signal {name}" if name else f"ended with exit code {code} and no answer"
        todo = "Other variants are not affected."
        if name == "SIGKILL":
            todo += " Signal SIGKILL usually means that the machine ran out of memory."
        return JobResult(
            name=job.name,
            status=JobStatus.CRASHED,
            message=f"Stage {job.stage} of {job.name} broke: the process {how}.",
            todo=f"{todo} What it printed is in {job.log}.",
            signal=name,
            exit_code=3,
            seconds=round(seconds, 3),
            log=last_lines(job.log),
        )

    def kill(self) -> None:
        """End the worker and everything in its process group, and wait until it is gone."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def last_lines(path: Path, count: int = LOG_LINES) -> tuple[str, ...]:
    """The last non-empty lines of a log; native code may have written any bytes."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 65536, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    # Python's own dump after a fatal signal comes last; what the converter said stands before it.
    for index, line in enumerate(lines):
        if line.startswith("Fatal Python error"):
            return tuple(lines[max(index - count, 0) : index + 1])
    return tuple(lines[-count:])


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """While it is open, SIGTERM raises KeyboardInterrupt, so that the worker is ended in the same way as by Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def given_or_new(isolation: Isolation | None) -> contextlib.AbstractContextManager[Isolation]:
    """The given worker, left open for who gave it; or one for the block."""
    return Isolation() if isolation is None else contextlib.nullcontext(isolation)
