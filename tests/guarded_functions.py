"""Functions that the guard's tests call in a child process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

from edge_dl.errors import RefusedError


def add(left: Any, right: Any = 1) -> Any:
    return left + right


def crash() -> None:
    print("about to read address 0", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def refuse() -> None:
    raise RefusedError("A rule.", received="something", todo="Do another thing.")


def fail() -> None:
    raise ZeroDivisionError("by zero")


def not_sendable() -> Any:
    return lambda: None


def loud() -> str:
    print("text on standard output", flush=True)
    os.write(1, b"more, from native code\n")
    return "quiet"


def hang_with_child(file: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(file, "w") as out:
        out.write(f"{os.getpid()} {child.pid}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
