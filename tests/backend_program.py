"""A Keras program on another backend than this process has: in a process of its own, with the tests' modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_on(backend: str, program: str) -> None:
    """Run a Python program with `KERAS_BACKEND`; it must end well, on that backend."""
    program += "import keras\nprint(keras.backend.backend())\n"
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == backend, result.stderr
