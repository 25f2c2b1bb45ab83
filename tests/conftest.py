"""Fixtures that several test files use."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models
from hypothesis import HealthCheck, settings

from edge_dl.bundle import SequenceSpec
from edge_dl.runtime import escape_label

# How long an example takes depends on what else the machine does: no test asserts it.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


# A shell that starts a job in the background has it ignore Ctrl-C, and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a small real .tflite by its name in `tflite_models.BUILDERS`, made when first asked for."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            path = folder / "model.tflite"
            path.write_bytes(tflite_models.BUILDERS[name](folder / "saved_model"))
            made[name] = path
        return made[name]

    return get


@pytest.fixture
def step_bundle(tflite: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "step-float32", **settings: Any) -> Path:
        data = tflite_models.sequences(5)
        reference = tflite_models.lstm_reference(data)
        golden = {name: reference[name].astype("float32") for name in ("label", "frames")}
        sequence = SequenceSpec(("sequence",), tflite_models.STEPS, {"label": "last", "frames": "each"})
        return tflite_models.bundle_of(
            tmp_path / "bundle",
            tflite(name),
            ({"sequence": data}, golden),
            **{"sequence": sequence, "states": tflite_models.STATES, "lowering": "step", **settings},
        )

    return make


@pytest.fixture
def language_bundle(tflite: Callable[[str], Path], tmp_path: Path) -> Path:
    tokens = np.array([[3, 4, 5, 1], [7, 6, 2, 0]], "int32")
    golden = np.stack([tflite_models.language_reference(row) for row in tokens]).astype("float32")
    return tflite_models.bundle_of(
        tmp_path / "language",
        tflite("language"),
        ({"tokens": tokens}, {"next": golden}),
        sequence=SequenceSpec(("tokens",), 4, {"next": "each"}),
        states=(("state_0", "next_state_0"),),
        task="language-model",
        labels=[escape_label(token) for token in tflite_models.VOCABULARY],
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that `edge-dl run lstm` made, with a small network; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = ["training.epochs=3", "model.units=12", "conversion.lowerings=while,step",
                "conversion.quantizations=float32,dynamic", "checks.rounds=3"]  # fmt: skip
    command = [sys.executable, "-m", "edge_dl", "run", "lstm", "--out", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder
