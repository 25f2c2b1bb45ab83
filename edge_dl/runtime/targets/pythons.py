"""Pythons on this machine: which there are, and which a runtime's wheels exist for."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_dl.errors import EdgeError, UsageError
from edge_dl.runtime.targets.processes import run_command

# Wheels by the first number of the version, newest Python first (PyPI's file lists).
_TFLITE = ((3, 11), (3, 10), (3, 9), (3, 8))
_LITERT_1 = ((3, 11), (3, 12), (3, 10), (3, 9))
_LITERT_2 = ((3, 11), (3, 12), (3, 13), (3, 10))


def supported(package: str, version: str) -> tuple[tuple[int, int], ...]:
    """Python versions that a runtime has wheels for, the ones to try first in front."""
    if package == "tflite-runtime":
        return _TFLITE
    return _LITERT_1 if version.startswith("1.") else _LITERT_2


def requirements(package: str, version: str) -> list[str]:
    """What pip must install: the runtime, and the NumPy it works with, which its metadata does not say."""
    old = package == "tflite-runtime" or version.startswith("1.0.")
    return [f"{package}=={version}", "numpy<2" if old else "numpy"]


def find_python(versions: tuple[tuple[int, int], ...]) -> tuple[str, tuple[int, int]]:
    """A working Python of one of the versions, the first of them that is found; with its version.

    Raises:
        UsageError: there is none; the message says how to get one.
    """
    for version in versions:
        for path in _candidates(version):
            if _works(path, version):
                return path, version
    names = ", ".join(f"{major}.{minor}" for major, minor in sorted(versions))
    latest = ".".join(map(str, max(versions)))
    raise UsageError(
        f"This runtime has wheels for Python {names} only.",
        received="none of them on this machine",
        todo=f"Install one: `apt install python{latest}-venv`, `uv python install {latest}`, `pyenv install {latest}`.",
    )


def _candidates(version: tuple[int, int]) -> Iterator[str]:
    name = f"python{version[0]}.{version[1]}"
    if sys.version_info[:2] == version:
        yield getattr(sys, "_base_executable", None) or sys.executable
    if found := shutil.which(name):
        yield found
    roots = [
        (Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions", f"{version[0]}.{version[1]}.*"),
        (Path.home() / ".local" / "share" / "uv" / "python", f"cpython-{version[0]}.{version[1]}.*"),
    ]
    for root, pattern in roots:
        yield from (str(path / "bin" / name) for path in sorted(root.glob(pattern), reverse=True))
    yield from (f"{folder}/{name}" for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"))


def _works(path: str, version: tuple[int, int]) -> bool:
    """Whether it starts, is what its name says (pyenv's shims often are not), and can make environments."""
    if not Path(path).is_file():
        return False
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = run_command([path, "-I", "-c", code], timeout=30)
    except EdgeError:
        return False
    return done.returncode == 0 and done.stdout.split() == [str(part).encode() for part in version]
