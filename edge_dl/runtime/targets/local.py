"""`local:` - this Python's own runtime, in a child process, so that a crash is a result."""

from __future__ import annotations

import os
import sys

from edge_dl.errors import EdgeError
from edge_dl.runtime.agent import find_runtime
from edge_dl.runtime.targets.base import Connection, Finding, ProcessConnection, Target


class LocalTarget(Target):
    """This machine and this Python; `local:tensorflow` names another of its runtimes."""

    def connect(self) -> Connection:
        """Nothing to reach."""
        runtime = self.address.place or "auto"
        find_runtime(runtime)
        # The packages of this very Python, also those that a parent process put on its path.
        paths = os.pathsep.join(path for path in sys.path if path)
        return ProcessConnection([sys.executable], {"PYTHONPATH": paths, "PYTHONNOUSERSITE": ""}, runtime)

    def doctor(self) -> list[Finding]:
        """Whether the runtime loads."""
        python = Finding("Python", True, f"{sys.executable} {sys.version.split()[0]}")
        try:
            name, _, version = find_runtime(self.address.place or "auto")
            return [python, Finding("runtime", True, f"{name} {version}")]
        except EdgeError as error:
            return [python, Finding("runtime", False, getattr(error, "received", str(error)), error.todo)]
