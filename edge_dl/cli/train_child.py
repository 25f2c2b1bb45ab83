"""The training stage's own process: `python -m edge_dl.cli.train_child RUN`.

It reads the recipe and the data from the run folder, which its parent holds locked, and writes train/. An error goes,
as JSON, to the file that EDGE_DL_ERROR_FILE names.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from edge_dl.cli.console import INTERRUPTED, ConsoleProgress
from edge_dl.errors import EdgeError
from edge_dl.files import write_atomic


def main(argument: str) -> int:
    """Train; returns the exit code."""
    from edge_dl import data, training
    from edge_dl.cli.stages import recipe_of
    from edge_dl.runfolder import RunFolder

    # A job started in the background ignores Ctrl-C, and then it could not be told to stop at all.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with(os.getppid())
    folder = RunFolder.open(argument)
    _log_native_output(folder.path / "train.log")
    try:
        training.train(recipe_of(folder), data.read(folder.path / "data"), folder.path, progress=ConsoleProgress())
    except KeyboardInterrupt:
        return INTERRUPTED
    except EdgeError as error:
        value = {"rule": error.rule, "received": error.received, "todo": error.todo, "exit_code": error.exit_code}
        write_atomic(Path(os.environ["EDGE_DL_ERROR_FILE"]), json.dumps(value))
        return error.exit_code
    return 0


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
