"""Calling a function in a child process, so that a crash in native code is an error and not the end.

A .tflite that somebody else made can kill the interpreter that loads it, or keep it busy for ever. `run_guarded` runs
a function of an importable module in a fresh Python: a signal or a time limit becomes a `StageError`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edge_dl.errors import EdgeError, StageError, signal_name

_CALL, _RESULT, _STDERR = "call.pickle", "result.pickle", "stderr.txt"


class GuardedCall:
    """A call under way in a child process; use it as a context manager, which ends the child whatever happens."""

    def __init__(
        self,
        function: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        stage: str = "run",
        variant: str = "",
    ) -> None:
        """Start calling `function` ("package.module:name") with picklable arguments."""
        self.stage, self.variant, self.function = stage, variant, function
        self._folder = Path(tempfile.mkdtemp(prefix="edge-dl-"))
        try:
            (self._folder / _CALL).write_bytes(pickle.dumps((function, tuple(args), dict(kwargs or {}))))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            with (self._folder / _STDERR).open("wb") as stderr:
                # A session of its own: Ctrl-C reaches the parent only, which then ends the child and all it started.
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "edge_dl.runtime.guard", str(self._folder), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __enter__(self) -> GuardedCall:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        """End the child and everything it started, and remove its files."""
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if hasattr(os, "killpg"):
                    os.killpg(self._child.pid, signal.SIGKILL)
                else:
                    self._child.kill()
            self._child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def running(self) -> bool:
        """Whether the child is still at it."""
        return self._child.poll() is None

    def wait(self, seconds: float) -> bool:
        """Wait for the child to end, for so long at most; gives whether it did."""
        try:
            self._child.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def result(self) -> Any:
        """What the function returned, once the child has ended.

        Raises:
            StageError: the child was ended by a signal or without an answer.
            EdgeError: what the function itself raised.
        """
        code = self._child.wait()
        try:
            kind, value = pickle.loads((self._folder / _RESULT).read_bytes())
        except Exception:  # No file, half a file, or a value whose class is not known here.
            kind, value = "none", None
        # A crash while the child ends, after its answer was written, does not make the answer wrong.
        if kind == "ok":
            return value
        if kind == "error":
            raise value
        name, words = signal_name(code), self._last_words()
        received = f"signal {name}" if name else f"exit code {code}"
        raise StageError(
            "The child process that ran the model must end by itself.",
            stage=self.stage,
            variant=self.variant,
            received=f"{received}; its last words: {words}" if words else received,
            todo="It may have run out of memory."
            if name == "SIGKILL"
            else "The model crashes this runtime: make it again, or try another runtime.",
        )

    def expire(self, timeout: float) -> NoReturn:
        """End the child and say that it took too long."""
        self.end()
        raise StageError(
            f"The call must end within {timeout:g} seconds.",
            stage=self.stage,
            variant=self.variant,
            received=f"{self.function}, still running",
            todo="Allow more time, or make the model smaller.",
        )

    def _last_words(self) -> str:
        try:
            lines = (self._folder / _STDERR).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-3:] if not line.startswith("INFO:"))[-500:]


def run_guarded(
    function: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout: float = 600.0,
    stage: str = "run",
    variant: str = "",
) -> Any:
    """Call a function in a child process and give what it returns.

    Args:
        function: "package.module:name" of an importable function.
        args: positional arguments; they and the result are pickled.
        kwargs: named arguments.
        timeout: seconds the call may take, starting Python included.
        stage: named in the error.
        variant: named in the error.

    Raises:
        StageError: the child crashed (the message names the signal), took too long, or raised something unexpected.
        EdgeError: what the function itself raised on purpose.
    """
    with GuardedCall(function, args, kwargs, stage=stage, variant=variant) as call:
        if not call.wait(timeout):
            call.expire(timeout)
        return call.result()


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, so that nothing is left behind by a kill -9."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _main(folder: Path, parent: int) -> None:
    if os.name == "posix":
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    function, args, kwargs = pickle.loads((folder / _CALL).read_bytes())
    outcome: tuple[str, Any]
    try:
        module, name = function.split(":")
        outcome = ("ok", getattr(importlib.import_module(module), name)(*args, **kwargs))
    except EdgeError as error:
        outcome = ("error", error)
    except BaseException as error:
        rule = f"{function} must not fail."
        outcome = ("error", StageError(rule, stage="run", received=f"{type(error).__name__}: {error}"))
    try:
        content = pickle.dumps(outcome)
    except Exception as error:
        unpicklable = StageError(f"{function} must give a value that can be sent.", stage="run", received=str(error))
        content = pickle.dumps(("error", unpicklable))
    temporary = folder / (_RESULT + ".part")
    temporary.write_bytes(content)
    temporary.replace(folder / _RESULT)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
