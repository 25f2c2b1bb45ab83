"""Asking the real runtime of a profile whether it loads files: in this Python where it is installed, else in another.

What it says is compared with the tables of `compatibility` by the tests and by benchmarks/runtime_matrix.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from edge_dl.checks.runtime_profiles import Profile
from edge_dl.errors import StageError, UsageError
from edge_dl.runtime import trial
from edge_dl.runtime.targets.environment import EnvironmentTarget
from edge_dl.runtime.targets.processes import run_command
from edge_dl.runtime.targets.url import parse_address

# By profile: the name that trial.py knows, and the package that has it.
REAL = {
    "tflite-runtime": ("tflite_runtime", "tflite-runtime"),
    "ai-edge-litert": ("ai_edge_litert", "ai-edge-litert"),
    "litert": ("ai_edge_litert", "ai-edge-litert"),
    "litert-compiled-model": ("compiled_model", "ai-edge-litert"),
    "tensorflow": ("tensorflow", "tensorflow"),
    "android-tflite": ("tensorflow", "tensorflow"),
    "litert-micro": ("tflite_micro", "tflite-micro"),
}
TIME_LIMIT = 900.0


def find_real(profile: Profile) -> str:
    """The Python that has the profile's runtime in its release: this one, or an environment made for it.

    Raises:
        UsageError: it is not here, and cannot be made.
        StageError: making the environment failed.
    """
    _, package = REAL[profile.runtime]
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        installed = ""
    if installed and (installed == profile.release or not profile.release):
        return sys.executable
    if package in ("tflite-runtime", "ai-edge-litert"):
        address = f"env:{package}=={profile.release}"
        return str(EnvironmentTarget(address, parse_address(address)).python())
    raise UsageError(
        f"{package} {profile.release} must be installed to be asked.",
        received=f"{package} {installed}" if installed else "none",
    )


def try_loading(profile: Profile, paths: Sequence[str | Path], *, python: str = "") -> dict[str, str]:
    """Load and run files in the real runtime, each in a process of its own; "" by path where it runs, else its words.

    Args:
        profile: the runtime.
        paths: .tflite files.
        python: the Python that has it; empty: see `find_real`.

    Raises:
        UsageError, StageError: there is no such runtime here, or it cannot be asked.
    """
    answer: dict[str, str] = ask(profile, [str(path) for path in paths], python=python)
    return answer


def ask(profile: Profile, arguments: Sequence[str], *, python: str = "") -> dict:
    """Run trial.py with the runtime of a profile; see there for `arguments`."""
    command = [python or find_real(profile), trial.__file__, REAL[profile.runtime][0], *arguments]
    # What is set for this Python must not reach the other one.
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "") if command[0] == sys.executable else ""}
    done = run_command(command, timeout=TIME_LIMIT, environment=environment, what=profile.name)
    if done.returncode:
        raise StageError("The runtime must be there and start.", stage="check", received=done.words)
    value: dict = json.loads(done.stdout)
    return value
