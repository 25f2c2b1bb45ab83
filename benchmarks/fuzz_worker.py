"""Commands in a process that may break: arguments in, exit code and output out, watched from outside.

Run as a script this is that process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ADDRESS_SPACE = 8 << 30
"""Bytes that any process here may ask for, so that a model that wants a terabyte harms nobody."""


def serve() -> None:
    """Run the commands that standard input names, one a line, and answer with a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from edge_dl.cli import main as command
    from edge_dl.runtime.agent import memory

    for line in requests:
        request = json.loads(line)
        files = [open(path, "w+b") for path in request["outputs"]]  # noqa: SIM115
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        escaped = ""
        try:
            command.main(request["arguments"])
            code: Any = 0
        except SystemExit as ended:
            code = 0 if ended.code is None else ended.code
        except BaseException as error:
            code, escaped = None, f"{type(error).__name__}: {error}"
        sys.stdout.flush()
        sys.stderr.flush()
        for file in files:
            file.close()
        # Not getrusage alone: on Linux a process starts with the peak of the one that started it.
        peak = memory()[1] or 0
        answers.write(json.dumps({"code": code, "escaped": escaped, "peak": peak}) + "\n")
        answers.flush()


class Worker:
    """The process that runs commands; one that breaks is replaced."""

    def __init__(self, cwd: Path, home: Path, temporary: Path, scratch: Path, *, seconds: float) -> None:
        self.cwd, self.scratch, self.seconds = cwd, scratch, seconds
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
            # Compiled modules are kept, and not beside their sources: a child starts in half the time.
            "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPYCACHEPREFIX": str(scratch / "compiled"),
            "EDGE_DL_CACHE": str(home / "cache"), "EDGE_DL_CONFIG": str(home / "config"), "COLUMNS": "200",
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        def limits() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        return subprocess.Popen(
            [sys.executable, __file__], cwd=self.cwd, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=limits,
        )  # fmt: skip

    def run(self, arguments: Sequence[str]) -> tuple[dict[str, Any], str, str]:
        """The worker's answer ({"hang": ..} or {"crash": ..} when there is none), standard output and error."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        outputs = [self.scratch / "stdout", self.scratch / "stderr"]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"arguments": list(arguments), "outputs": list(map(str, outputs))}) + "\n")
        process.stdin.flush()
        timer = _Timer(process, self.seconds)
        line = process.stdout.readline()
        late = timer.stop()
        if line:
            answer = json.loads(line)
        else:
            code = process.wait()
            answer = {"hang": f"still running after {self.seconds:g} s"} if late else {"crash": f"ended with {code}"}
            self._process = None
        out, err = (path.read_bytes().decode("utf-8", "replace") if path.is_file() else "" for path in outputs)
        return answer, out, err

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)


class _Timer:
    """Ends a process and its session when its time is over."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self._late = False
        self._timer = threading.Timer(seconds, self._end, (process.pid,))
        self._timer.start()

    def _end(self, pid: int) -> None:
        self._late = True
        os.killpg(pid, signal.SIGKILL)

    def stop(self) -> bool:
        self._timer.cancel()
        return self._late


if __name__ == "__main__":
    serve()
