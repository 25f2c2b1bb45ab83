"""A model of one's own through the command line, with inputs alone: parity needs no true answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow
def test_inputs_alone_are_enough(tmp_path: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.utils.set_random_seed(0)
    left, right = (keras.Input((6,), name=name) for name in ("left", "right"))
    kind = keras.Input((1,), dtype="int32", name="kind")
    looked_up = keras.layers.Flatten()(keras.layers.Embedding(9, 3)(kind))
    h = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()([left, right, looked_up]))
    keras.Model([left, right, kind], keras.layers.Dense(3, name="score")(h)).save(tmp_path / "own.keras")
    rng = np.random.default_rng(0)
    arrays = {f"x/{name}": rng.normal(size=(200, 6)).astype("float32") for name in ("left", "right")}
    np.savez(tmp_path / "x.npz", **arrays, **{"x/kind": rng.integers(0, 9, (200, 1)).astype("int32")})
    done = subprocess.run(
        [sys.executable, "-m", "edge_dl", "run", "own.keras", "--data", "x.npz", "--out", "run", "--json",
         "--set", "conversion.quantizations=float32,int8,int16x8"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    verdicts = {item["name"]: item["verdict"] for item in results["variants"]}
    assert verdicts == {"float32": "pass", "int8": "pass", "int16x8": "pass"}
    assert (tmp_path / "run" / "report.html").is_file()
