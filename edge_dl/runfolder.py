"""The run folder: what every stage hands to the next, with a record of how it came to be.

`run.json` holds the recipe, the command, seed, package versions, git commit, machine, and per stage its status, the
digest of what went into it and how long it took. One process works in a folder at a time: a lock file says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_dl.errors import UsageError
from edge_dl.files import read_json, write_json

RECORD = "run.json"
LOCK = ".lock"
STAGES = ("data", "train", "compress", "export", "convert", "verify", "bench", "targets", "report")
OUTPUTS = {
    "data": ("data/dataset.json", "data/train.npz", "data/validation.npz", "data/test.npz"),
    "train": ("train/model.keras",),
    "compress": ("compress/model.keras",),
}
"""Files without which a stage was not done, whatever its record says: those that take long to make or read."""
PACKAGES = (
    "edge-dl", "numpy", "tensorflow", "keras", "jax", "torch", "ai-edge-litert", "ai-edge-quantizer", "tflite-runtime",
    "tf-keras", "tensorflow-model-optimization",
)  # fmt: skip


class RunFolder:
    """A folder of one run. Open it with `RunFolder.open`; use it as a context manager to hold its lock."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self._lock: Any = None

    @classmethod
    def create(cls, path: str | Path, *, recipe: Mapping[str, Any], command: list[str]) -> RunFolder:
        """Open `path` for a recipe, making it when missing.

        An existing folder is used again when it is a run folder of a recipe of the same name; its stages are done
        again where the recipe's settings differ (see `done`).

        Raises:
            UsageError: `path` is a folder that holds other things, or another recipe's run.
        """
        path = Path(path)
        if (path / RECORD).is_file():
            folder = cls.open(path)
            name = folder.record.get("recipe", {}).get("name")
            if name != recipe.get("name"):
                raise UsageError(
                    "A run folder belongs to one recipe.",
                    received=f"{path}, which holds a run of {name!r}, for {recipe.get('name')!r}",
                    todo="Choose another folder with --out.",
                )
            folder.record["recipe"] = dict(recipe)
            folder.record["command"] = command
            return folder
        if path.exists() and (not path.is_dir() or any(item.name != LOCK for item in path.iterdir())):
            raise UsageError(
                "A new run needs an empty or a new folder.",
                received=str(path),
                todo="Choose another folder with --out.",
            )
        record = {
            "format": 1,
            "recipe": dict(recipe),
            "command": command,
            "versions": installed_versions(),
            "git": git_commit(),
            "machine": machine(),
            "stages": {},
        }
        return cls(path, record)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            UsageError: `path` is not a run folder.
        """
        path = Path(path)
        if not (path / RECORD).is_file():
            raise UsageError(
                f"A run folder holds {RECORD}.", received=str(path), todo="Name a folder that `edge-dl run` wrote."
            )
        record = read_json(path / RECORD)
        if (
            not isinstance(record, dict)
            or record.get("format") != 1
            or not isinstance(record.get("recipe", {}), dict)
            or not isinstance(record.get("stages"), dict)
            or not all(isinstance(entry, dict) for entry in record["stages"].values())
        ):
            raise UsageError("run.json must be a run record of format 1.", received=str(path / RECORD))
        return cls(path, record)

    def __enter__(self) -> RunFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / LOCK).open("a+")
        try:
            _lock(file)
        except OSError:
            file.close()
            raise UsageError(
                "One command at a time works in a run folder.",
                received=f"{self.path}, which another command is using",
                todo="Wait for it to end, or choose another folder with --out.",
            ) from None
        self._lock = file
        self.save()
        return self

    def __exit__(self, *exception: object) -> None:
        # The lock file stays: removing it would let two commands lock two different files of the same name.
        self._lock.close()
        self._lock = None

    def save(self) -> None:
        """Write run.json."""
        write_json(self.path / RECORD, self.record)

    def done(self, stage: str, inputs: Any) -> bool:
        """Whether `stage` finished with the same inputs (any JSON value), so that a rerun is a no-op."""
        there = all((self.path / name).is_file() for name in OUTPUTS.get(stage, ()))
        return there and self._finished(stage, digest(inputs))

    def _finished(self, stage: str, inputs: str) -> bool:
        entry = self.record["stages"].get(stage, {})
        return entry.get("status") == "done" and entry.get("digest") == inputs

    @contextlib.contextmanager
    def stage(self, name: str, inputs: Any) -> Iterator[None]:
        """Record that a stage starts, and how it ends. Later stages' records are dropped: their inputs change now."""
        entry: dict[str, Any] = {"status": "running", "digest": digest(inputs)}
        # The same file read once more is the same data: a lost data/ is no reason to train again.
        if name != "data" or not self._finished(name, entry["digest"]):
            for later in STAGES[STAGES.index(name) + 1 :]:
                self.record["stages"].pop(later, None)
        self.record["stages"][name] = entry
        self.save()
        started = time.monotonic()
        try:
            yield
        except BaseException as error:
            entry["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            entry["error"] = str(error) or type(error).__name__
            with contextlib.suppress(OSError):  # A full disk must not hide the error that is on its way.
                self.save()
            raise
        entry["status"] = "done"
        entry["seconds"] = round(time.monotonic() - started, 3)
        self.save()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide a result, read without importing them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def git_commit() -> str:
    """Commit of the working directory's git checkout, with `+changes` when it is not clean; "" outside one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """What a result's speed depends on: system, architecture, processor, cores."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": processor,
        "cores": os.cpu_count() or 1,
    }


def _lock(file: Any) -> None:
    """Take an exclusive lock without waiting; the system releases it when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
