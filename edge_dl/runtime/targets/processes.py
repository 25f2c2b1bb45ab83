"""Running a command with a time limit and a bounded answer; what it started ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from edge_dl.errors import StageError, UsageError

ANSWER_LIMIT = 4 << 20
"""Bytes of standard output (and as many of standard error) that a command may give."""


_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Completed:
    """A command that ended by itself, or by a signal (negative `returncode`)."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def words(self) -> str:
        """Its last words: the end of standard error, or of standard output where that is empty."""
        return plain_text(self.stderr) or plain_text(self.stdout.decode("utf-8", "replace"))


def plain_text(text: str, limit: int = 400) -> str:
    """The end of a text that somebody else wrote, on one line and without control characters."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= limit else "..." + words[-limit:]


def run_command(
    command: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    limit: int = ANSWER_LIMIT,
    what: str = "",
) -> Completed:
    """Run a command; whatever happens, it and all that it started in its session have ended afterwards.

    Args:
        command: program and arguments; no shell is involved.
        timeout: seconds it may take.
        environment: variables set on top of this process' own.
        stdin: what it reads; None: nothing.
        limit: bytes of output it may give.
        what: named in errors; "" takes the program's name.

    Raises:
        UsageError: there is no such program.
        StageError: it took too long, or gave more output than it may.
    """
    what = what or os.path.basename(command[0])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                list(command),
                stdin=stdin if stdin is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError("The program must be there.", received=f"{command[0]} ({error.strerror})") from None
        _running.add(child)
        deadline = time.monotonic() + timeout
        too_long = too_much = False
        try:
            while True:
                try:
                    child.wait(0.05)
                    break
                except subprocess.TimeoutExpired:
                    too_long = time.monotonic() > deadline
                    # A file on disk, not a pipe: a flood fills what is allowed and is stopped.
                    too_much = max(os.fstat(out.fileno()).st_size, os.fstat(err.fileno()).st_size) > limit
                    if too_long or too_much:
                        break
        finally:
            end(child)
            _running.discard(child)
        if too_long:
            raise StageError(
                f"The target must answer within {round(timeout, 1):g} seconds.",
                stage="target",
                received=f"{what}, still running",
                todo="Allow more time with --time-limit, or check fewer samples.",
            )
        if too_much or os.fstat(out.fileno()).st_size > limit:
            raise StageError(f"The target may answer with at most {limit} bytes.", stage="target", received=what)
        out.seek(0)
        err.seek(max(0, os.fstat(err.fileno()).st_size - 20_000))
        return Completed(child.returncode, out.read(), err.read().decode("utf-8", "replace"))


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and everything in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    if child.poll() is None:
        child.wait()


def end_all() -> None:
    """End every command under way, in whichever thread: what Ctrl-C asks for."""
    for child in tuple(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, signal.SIGTERM)
