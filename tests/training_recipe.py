"""A recipe trained in a process of its own, since a process has one Keras backend."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_dl.files import read_json

_PROGRAM = """
import json, sys
from edge_dl import data
from edge_dl.recipe import apply_overrides
from edge_dl.training import RECIPES, train
name, settings, folder = sys.argv[1:]
recipe = apply_overrides(RECIPES[name], json.loads(settings))
train(recipe, data.load(recipe.data, recipe.task), folder)
"""


def train_on(backend: str, name: str, settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The epochs of recipe `name`, trained on its built-in data; skips the test where the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    changes = json.dumps({**settings, "training.backend": backend})
    command = [sys.executable, "-c", _PROGRAM, name, changes, str(folder)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    epochs: list[dict[str, Any]] = read_json(folder / "train" / "history.json")["epochs"]
    return epochs
