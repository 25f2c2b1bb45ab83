"""`env:` - another Python environment: one that is there, or one made here for a version of a runtime."""

from __future__ import annotations

import os
from pathlib import Path

from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.runtime.targets.base import Connection, Finding, ProcessConnection, Target
from edge_dl.runtime.targets.places import is_ready, made_folder, making
from edge_dl.runtime.targets.processes import run_command
from edge_dl.runtime.targets.pythons import find_python, requirements, supported
from edge_dl.runtime.targets.url import SPEC

PIP_SECONDS = 600.0
# One line, so that it can travel through any shell.
RUNTIME_CHECK = (
    "import importlib.util as u, sys, numpy; from importlib import metadata as m; "
    "found = [n for n in ('ai-edge-litert', 'tflite-runtime', 'tensorflow') if u.find_spec(n.replace('-', '_'))]; "
    "print(sys.version.split()[0], 'numpy', numpy.__version__, *(n + ' ' + m.version(n) for n in found)); "
    "sys.exit(0 if found else 9)"
)


class EnvironmentTarget(Target):
    """A folder of a virtual environment, a Python, or a package with its version."""

    def connect(self) -> Connection:
        """Make the environment where it is not there."""
        return ProcessConnection([str(self.python())], runtime=self.address.options.get("runtime", "auto"))

    def python(self) -> Path:
        """The environment's Python.

        Raises:
            UsageError: no such environment, or no Python that the package has wheels for.
            StageError: the environment could not be made.
        """
        spec = SPEC.fullmatch(self.address.place)
        if not spec:
            return _existing(self.address.place)
        folder = _folder(self.address.place)
        with making(folder) as needed:
            if needed:
                make_environment(folder, spec[1], spec[2])
        return _python_in(folder)

    def doctor(self) -> list[Finding]:
        """Whether the environment is there, or what it takes to make it; then whether its runtime loads."""
        spec = SPEC.fullmatch(self.address.place)
        findings = []
        if spec and not is_ready(_folder(self.address.place)):
            try:
                path, version = find_python(supported(spec[1], spec[2]))
                findings.append(Finding("Python", True, f"{path} ({version[0]}.{version[1]})"))
            except EdgeError as error:
                findings.append(Finding("Python", False, "none that has wheels of it", error.todo))
            todo = "It is made on first use, in some 20 seconds, from the package index."
            return [*findings, Finding("environment", True, "not made yet", todo)]
        try:
            python = self.python()
        except EdgeError as error:
            return [Finding("Python", False, getattr(error, "received", ""), error.todo)]
        return [Finding("Python", True, str(python)), check_runtime([str(python)])]


def make_environment(folder: Path, package: str, version: str) -> None:
    """Make a virtual environment with one runtime.

    Raises:
        UsageError: no Python for it.
        StageError: venv or pip failed.
    """
    python, _ = find_python(supported(package, version))
    _do([python, "-m", "venv", str(folder)], "The environment must be made.")
    # -I: what this process set for its own Python must not reach the other one.
    wanted = requirements(package, version)
    pip = [
        str(_python_in(folder)),
        "-I",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    _do([*pip, *wanted], f"pip must be able to install {' '.join(wanted)}.")


def check_runtime(python: list[str], environment: dict[str, str] | None = None) -> Finding:
    """Whether a Python has NumPy and a runtime, told by asking it."""
    try:
        done = run_command([*python, "-c", RUNTIME_CHECK], timeout=120, environment=environment)
    except EdgeError as error:
        return Finding("runtime", False, str(error))
    words = done.stdout.decode("utf-8", "replace").strip() or done.words
    todo = "" if done.returncode == 0 else "Install NumPy and a runtime there: pip install numpy ai-edge-litert."
    return Finding("runtime", done.returncode == 0, words, todo)


def _do(command: list[str], rule: str) -> None:
    environment = {"PYTHONPATH": "", "PIP_REQUIRE_VIRTUALENV": ""}
    done = run_command(command, timeout=PIP_SECONDS, environment=environment)
    if done.returncode:
        todo = "Is the package index within reach, and does it hold that version?"
        raise StageError(rule, stage="target", received=done.words, todo=todo)


def _folder(spec: str) -> Path:
    return made_folder("environments", spec.replace("==", "-"))


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _existing(place: str) -> Path:
    path = Path(place).expanduser().absolute()
    if path.is_file() and os.access(path, os.X_OK):
        return path
    if _python_in(path).is_file():
        return _python_in(path)
    raise UsageError(
        "An environment is a folder made by venv, or a Python in it.",
        received=str(path),
        todo="Make it: `python -m venv FOLDER`, or give a package: env:tflite-runtime==2.14.0.",
    )
