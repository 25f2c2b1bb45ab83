"""A stage's own process: it works in a run folder that its parent holds locked, and ends with its parent.

Its memory is free again when the variants are timed, and a crash is a result. An error goes, as JSON, to the file that
EDGE_DL_ERROR_FILE names.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_dl.cli.console import INTERRUPTED, keep_interrupts
from edge_dl.errors import EdgeError, missing_extra
from edge_dl.files import write_atomic
from edge_dl.runfolder import RunFolder


def work_in(argument: str, log: str, work: Callable[[RunFolder], None]) -> int:
    """Do a stage's work; returns the exit code.

    Args:
        argument: the run folder.
        log: name of the file in it that receives what native code prints.
        work: the stage.
    """
    # A job started in the background ignores Ctrl-C, and then it could not be told to stop at all.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_interrupts()
    _end_with(os.getppid())
    folder = RunFolder.open(argument)
    _log_native_output(folder.path / log)
    try:
        work(folder)
    except KeyboardInterrupt:
        return INTERRUPTED
    except EdgeError as error:
        return _answer(error)
    except ImportError as error:
        if missing := missing_extra(error):
            return _answer(missing)
        raise
    return 0


def _answer(error: EdgeError) -> int:
    value = {"rule": error.rule, "received": error.received, "todo": error.todo, "exit_code": error.exit_code}
    write_atomic(Path(os.environ["EDGE_DL_ERROR_FILE"]), json.dumps(value))
    return error.exit_code


def _end_with(parent: int) -> None:
    """Stop, as after Ctrl-C, when the parent is gone: nobody would read the answer, and the run folder stays locked."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        _thread.interrupt_main()

    threading.Thread(target=watch, daemon=True).start()


def _log_native_output(path: Path) -> None:
    """Send what native code writes to stderr to a log; Python's own stderr stays what it was.

    TensorFlow writes its start-up notes past Python, in the middle of our bars.
    """
    terminal = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.close(log)
    sys.stderr = os.fdopen(terminal, "w", buffering=1)
