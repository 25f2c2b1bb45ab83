"""A crash in a child process is an error that names the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from edge_dl.errors import RefusedError, StageError
from edge_dl.runtime.guard import run_guarded

HERE = "guarded_functions:"


def gone(process: int) -> bool:
    """Whether a process has ended (a zombie that nobody waits for has)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: object, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def test_values_go_there_and_back() -> None:
    data = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(run_guarded(HERE + "add", (data,), {"right": 2.5}), data + 2.5)
    assert run_guarded(HERE + "loud") == "quiet"


def test_a_segmentation_fault_is_named() -> None:
    with pytest.raises(StageError, match="SIGSEGV") as caught:
        run_guarded(HERE + "crash", stage="verify", variant="while-int8")
    assert caught.value.stage == "verify"
    assert caught.value.variant == "while-int8"
    assert "about to read address 0" in caught.value.received


def test_an_abort_and_a_kill_are_named() -> None:
    with pytest.raises(StageError, match="SIGABRT"):
        run_guarded(HERE + "end_by", (signal.SIGABRT,))
    with pytest.raises(StageError, match=r"SIGKILL.*memory"):
        run_guarded(HERE + "end_by", (signal.SIGKILL,))


@pytest.mark.parametrize("code", [0, 7])
def test_leaving_without_an_answer_is_an_error(code: int) -> None:
    with pytest.raises(StageError, match=f"exit code {code}"):
        run_guarded(HERE + "leave", (code,))


def test_errors_raised_on_purpose_come_through_whole() -> None:
    with pytest.raises(RefusedError) as caught:
        run_guarded(HERE + "refuse")
    assert (caught.value.rule, caught.value.received, caught.value.todo) == (
        "A rule.",
        "something",
        "Do another thing.",
    )


def test_other_errors_name_their_kind() -> None:
    with pytest.raises(StageError, match="ZeroDivisionError: by zero"):
        run_guarded(HERE + "fail")
    with pytest.raises(StageError, match="value that can be sent"):
        run_guarded(HERE + "not_sendable")
    with pytest.raises(StageError, match="ModuleNotFoundError"):
        run_guarded("no_such_module:function")


def test_a_time_limit_ends_the_child_and_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    with pytest.raises(StageError, match="within 4 seconds"):
        run_guarded(HERE + "hang_with_child", (str(note),), timeout=4.0)
    processes = [int(word) for word in note.read_text().split()]
    assert len(processes) == 2
    assert wait_until(lambda: all(gone(process) for process in processes))


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_guarded(HERE + "add", (1,))
    with pytest.raises(StageError):
        run_guarded(HERE + "leave", (1,))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_in_the_parent_ends_the_child(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "from edge_dl.runtime.guard import run_guarded\n"
        f"run_guarded('guarded_functions:hang_with_child', ({str(note)!r},))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert wait_until(lambda: note.exists() and len(note.read_text().split()) == 2)
    parent.send_signal(signal.SIGINT)
    _, words = parent.communicate(timeout=30)
    assert b"KeyboardInterrupt" in words
    assert wait_until(lambda: all(gone(int(word)) for word in note.read_text().split()))
