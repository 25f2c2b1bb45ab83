"""Jobs in a child process: crashes, hangs and interruptions are results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge_dl.converters.isolation import Job, JobResult, JobStatus, run_jobs

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _jobs_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])))


def job(folder: Path, name: str, function: str = "", limit: float = 60.0, **arguments: Any) -> Job:
    return Job(name, f"isolation_jobs:{function or name}", arguments, folder / f"{name}.log", limit, "convert")


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within some time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_many_jobs_share_one_process(tmp_path: Path) -> None:
    notes = []
    jobs = [job(tmp_path, "first", "process"), job(tmp_path, "sum", "add", a=2, b=3), job(tmp_path, "last", "process")]
    first, total, last = run_jobs(jobs, on_note=lambda name, text: notes.append((name, text)))
    assert (total.status, total.value) == (JobStatus.DONE, 5)
    assert first.value == last.value != os.getpid()
    assert notes == [("sum", "adding 2 and 3")]
    assert list(tmp_path.iterdir()) == []  # Logs of jobs that went well are not kept.
    assert gone(first.value)


def test_results_arrive_as_jobs_finish(tmp_path: Path) -> None:
    seen: list[JobResult] = []
    jobs = [job(tmp_path, f"sum {index}", "add", a=index, b=1) for index in range(3)]
    results = run_jobs(jobs, on_result=seen.append)
    assert seen == results
    assert [result.value for result in results] == [1, 2, 3]


def test_printing_does_not_disturb_the_protocol(tmp_path: Path) -> None:
    assert run_jobs([job(tmp_path, "noisy")])[0].value == "quiet"


def test_a_crash_is_a_result_and_the_others_go_on(tmp_path: Path) -> None:
    before, crashed, after = run_jobs(
        [job(tmp_path, "before", "process"), job(tmp_path, "crash"), job(tmp_path, "after", "process")]
    )
    assert (crashed.status, crashed.signal, crashed.exit_code) == (JobStatus.CRASHED, "SIGSEGV", 3)
    assert "convert" in crashed.message
    assert "crash" in crashed.message
    assert "SIGSEGV" in crashed.message
    assert "about to read address 0" in crashed.log
    assert (tmp_path / "crash.log").is_file()
    assert before.status is after.status is JobStatus.DONE
    assert before.value != after.value


def test_a_process_that_ends_without_an_answer_is_a_crash(tmp_path: Path) -> None:
    (result,) = run_jobs([job(tmp_path, "leave")])
    assert (result.status, result.signal) == (JobStatus.CRASHED, "")
    assert "exit code 7" in result.message


def test_a_hang_is_stopped_with_everything_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    hung, after = run_jobs(
        [job(tmp_path, "hang", limit=1.5, child_pid_file=str(pid_file)), job(tmp_path, "sum", "add", a=1, b=1)]
    )
    assert (hung.status, hung.exit_code) == (JobStatus.TIMED_OUT, 3)
    assert "1.5 s" in hung.message
    assert "time_limit" in hung.todo
    assert after.value == 2
    assert gone(int(pid_file.read_text()))


@pytest.mark.parametrize(
    ("function", "status", "exit_code", "message", "todo"),
    [
        ("refuse", JobStatus.REFUSED, 2, "A square peg does not fit.", "Use a round one."),
        ("misuse", JobStatus.FAILED, 2, "Numbers must be positive. Received: -1.", "Give another."),
        ("fail", JobStatus.FAILED, 3, "KeyError", ""),
        ("not_json", JobStatus.FAILED, 3, "cannot be written as JSON", ""),
        ("no_such_function", JobStatus.FAILED, 3, "no_such_function", ""),
    ],
)
def test_errors_become_results(
    tmp_path: Path, function: str, status: JobStatus, exit_code: int, message: str, todo: str
) -> None:
    bad, good = run_jobs([job(tmp_path, function), job(tmp_path, "sum", "add", a=1, b=1)])
    assert (bad.status, bad.exit_code, bad.todo) == (status, exit_code, todo)
    assert message in bad.message
    assert "\n" not in bad.message
    assert good.value == 2


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full, after = run_jobs(
        [job(tmp_path, "write_much", path=str(tmp_path / "big")), job(tmp_path, "sum", "add", a=1, b=1)]
    )
    assert full.status is JobStatus.FAILED
    assert "could not be written" in full.message
    assert "Free some space" in full.todo
    assert after.value == 2


def test_jobs_need_different_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different names"):
        run_jobs([job(tmp_path, "a", "process"), job(tmp_path, "a", "process")])


SCRIPT = """
import os, sys
from pathlib import Path
from edge_dl.converters.isolation import Job, run_jobs

folder = Path(sys.argv[1])
def save(result):
    (folder / "temporary").write_text(str(result.value))
    os.replace(folder / "temporary", folder / result.name)

jobs = [
    Job("done", "isolation_jobs:process", {}, folder / "a.log"),
    Job("hang", "isolation_jobs:hang", {"child_pid_file": str(folder / "grandchild")}, folder / "b.log"),
]
try:
    run_jobs(jobs, on_result=save)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_worker_ends_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    try:
        grandchild = tmp_path / "grandchild"
        deadline = time.monotonic() + 60
        while not (grandchild.is_file() and grandchild.read_text()):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker = int((tmp_path / "done").read_text())
        parent.send_signal(number)
        assert parent.wait(timeout=30) == (130 if number is signal.SIGINT else -number)
        assert gone(worker)
        if number is signal.SIGINT:
            assert gone(int(grandchild.read_text()))
        # What was finished before is complete.
        assert (tmp_path / "done").read_text() == str(worker)
        assert not (tmp_path / "hang").exists()
    finally:
        parent.kill()
        if (tmp_path / "grandchild").is_file():
            subprocess.run(
                ["kill", "-9", (tmp_path / "grandchild").read_text()], stderr=subprocess.DEVNULL, check=False
            )
