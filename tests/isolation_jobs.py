"""Jobs that behave badly, for test_isolation.py. The worker imports this file by name."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from edge_dl.converters.worker import note
from edge_dl.errors import RefusedError, UsageError


def add(a: int, b: int) -> int:
    note(f"adding {a} and {b}")
    return a + b


def process() -> int:
    return os.getpid()


def noisy() -> str:
    os.write(1, b'{"event": "result", "name": "noisy", "status": "failed"}\n')
    print("printed by Python")
    os.write(2, b"\xff\xfe native bytes\n")
    return "quiet"


def crash() -> None:
    os.write(2, b"about to read address 0\n")
    ctypes.string_at(0)


def leave() -> None:
    os._exit(7)


def hang(child_pid_file: str = "") -> None:
    if child_pid_file:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(child_pid_file).write_text(str(child.pid))
    time.sleep(600)


def refuse() -> None:
    raise RefusedError("A square peg does not fit.", todo="Use a round one.")


def misuse() -> None:
    raise UsageError("Numbers must be positive.", received="-1", todo="Give another.")


def fail() -> None:
    raise KeyError("first line\nsecond line")


def not_json() -> float:
    return float("nan")


def write_much(path: str) -> None:
    """Write beyond a limit of file size: the error that a full disk gives, without filling one."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        Path(path).write_bytes(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
