"""Ending `edge-dl run` from outside while it trains: nothing runs on, nothing is lost, and the exit code says why."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it reads /proc to find child processes")

SETTINGS = ("training.epochs=100000", "training.jit_compile=off", "model.units=4", "data.limit=200")
COMMAND = [sys.executable, "-m", "edge_dl", "train", "rnn", *(word for item in SETTINGS for word in ("--set", item))]


def children(parent: int) -> list[int]:
    paths = Path("/proc").glob(f"{parent}/task/*/children")
    return [int(word) for path in paths for word in path.read_text().split()]


def wait_for(condition: object, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_training_process_ends_with_the_command(number: signal.Signals, code: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = subprocess.Popen([*COMMAND, "--out", str(run)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: any((run / "train" / "checkpoint").glob("*")), 120, "no checkpoint was written")
        (child,) = children(command.pid)
        command.send_signal(number)
        _, told = command.communicate(timeout=60)
        assert command.returncode == code
        wait_for(lambda: not Path(f"/proc/{child}").exists(), 60, "the training goes on")
    finally:
        command.kill()
    assert "Traceback" not in told
    if number is signal.SIGTERM:
        assert told.strip().endswith("run the same command again to go on.")
    # The folder is free again, and the training goes on where its checkpoint stands.
    again = subprocess.Popen([*COMMAND, "--out", str(run)], stderr=subprocess.PIPE, text=True)
    try:
        assert again.stderr is not None
        lines: list[str] = []
        while not any(line.startswith("Going on after epoch") for line in lines):
            lines.append(again.stderr.readline())
            assert lines[-1], lines
    finally:
        again.send_signal(signal.SIGINT)
        assert again.wait(timeout=60) == 130


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")])
def test_an_interrupt_during_garbage_collection_is_not_lost(number: signal.Signals, raised: str) -> None:
    # Python ignores what such a callback raises; JAX has one.
    code = f"""
import gc, signal, time
from edge_dl.cli.console import end_on_sigterm, keep_interrupts
end_on_sigterm()
keep_interrupts()
def callback(phase, info):
    gc.callbacks.clear()
    signal.raise_signal({int(number)})
gc.callbacks.append(callback)
try:
    gc.collect()
    time.sleep(60)
except KeyboardInterrupt as stop:
    print(type(stop).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert (done.stdout.strip(), done.stderr) == (raised, "")
