"""The worker process: takes jobs as JSON lines on its standard input, answers on its standard output.

Started by `edge_dl.converters.isolation`; see there for the protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_dl.errors import EdgeError, RefusedError, missing_extra

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_answers = -1  # File descriptor of the pipe to the parent; -1 outside a worker.


def note(text: str) -> None:
    """Tell the parent how far the running job is. Does nothing outside a worker."""
    _send({"event": "note", "text": text})


def run_job(call: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make one call; an error becomes part of the answer.

    Args:
        call: "package.module:function".
        arguments: keyword arguments.

    Returns:
        `status` ("done", "refused", "failed") with `value`, or with `message`, `todo` and `exit_code`.
    """
    try:
        module, _, function = call.partition(":")
        value = getattr(importlib.import_module(module), function)(**arguments)
        return {"status": "done", "value": value}
    except EdgeError as error:
        _print_error()
        return _told(error)
    except OSError as error:
        _print_error()
        return {"status": "failed", "message": _disk_message(error), "todo": _disk_todo(error), "exit_code": 3}
    except MemoryError:
        _print_error()
        return {
            "status": "failed",
            "message": "The machine does not have enough memory for it.",
            "todo": "Use a smaller model, a smaller batch or fewer calibration samples.",
            "exit_code": 3,
        }
    except Exception as error:  # Anything that a converter raises: the parent goes on with the other jobs.
        _print_error()
        if isinstance(error, ImportError) and (missing := missing_extra(error)):
            return _told(missing)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        return {"status": "failed", "message": f"{type(error).__name__}: {lines[0][:400]}", "todo": "", "exit_code": 3}


def _told(error: EdgeError) -> dict[str, Any]:
    received = f" Received: {error.received}." if error.received else ""
    return {
        "status": "refused" if isinstance(error, RefusedError) else "failed",
        "message": error.rule + received,
        "todo": error.todo,
        "exit_code": error.exit_code,
    }


def _print_error() -> None:
    with contextlib.suppress(OSError):  # The log may be on the disk that is full.
        traceback.print_exc()


def _disk_message(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"A file could not be written or read: {error.strerror or error}{where}."


def _disk_todo(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space or choose another folder with --out, then run the same command again."
    return ""


def _send(message: Mapping[str, Any]) -> None:
    if _answers < 0:
        return
    try:
        data = json.dumps(message, allow_nan=False).encode() + b"\n"
    except ValueError as error:
        data = json.dumps(
            {
                "event": "result",
                "name": message.get("name"),
                "status": "failed",
                "message": f"The job's answer cannot be written as JSON: {error}.",
                "todo": "",
                "exit_code": 3,
            }
        ).encode() + (b"\n")
    while data:
        data = data[os.write(_answers, data) :]


def _die_with_parent(parent: int) -> None:
    """Ask the system to end this process when its parent dies (Linux; elsewhere the closed standard input does it)."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It died before the request was made.
            os._exit(1)


def _read_jobs(jobs: queue.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    # The parent closed the pipe: it is dead, or it wants nothing more. Nobody is left to answer to.
    os._exit(0)


def _print_to(path: Path) -> None:
    """Send what Python and native code print from now on to the file at `path`."""
    sys.stdout.flush()
    sys.stderr.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def main() -> None:
    """Answer jobs until the parent closes the pipe."""
    global _answers
    _die_with_parent(int(sys.argv[1]))
    _answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(all_threads=False)
    jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    _send({"event": "ready"})
    while (job := jobs.get()) is not None:
        with contextlib.suppress(OSError):  # A full disk must not keep the job from being answered.
            _print_to(Path(job["log"]))
        _send({"event": "started", "name": job["name"]})
        answer = run_job(job["call"], job["arguments"])
        _send({"event": "result", "name": job["name"], **answer})


if __name__ == "__main__":
    # Run the module under its own name, so that `note` called from a job finds this process's pipe.
    from edge_dl.converters import worker

    worker.main()
