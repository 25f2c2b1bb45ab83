"""Weights move between Keras backends: a .keras file saved on one gives the same answers, and trains on, on another."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="models need Keras: pip install 'edge-dl[train]'")

BACKENDS = ("tensorflow", "jax", "torch")
MODELS = """
import sys
import numpy as np
import keras
from pathlib import Path
from edge_dl import models
from edge_dl.data import load
from edge_dl.recipe import DataConfig, RecurrentConfig, Task

assert keras.backend.backend() == BACKEND, keras.backend.backend()
folder = Path(FOLDER)
classes = load(DataConfig("digits-rows", limit=64), Task.CLASSIFICATION, seed=0)
series = load(DataConfig("seasonal", samples=400, limit=64, window=24, horizon=4), Task.FORECAST, seed=0)
configs = {
    "lstm": (classes, RecurrentConfig("lstm", (8, 8), bidirectional=True, residual=True, pooling="attention")),
    "gru": (series, RecurrentConfig("gru", (8,), pooling="mean", difference=True, dense=4)),
    "rnn": (classes, RecurrentConfig("rnn", (8, 8), residual=True, dropout=0.1)),
}


def answer(model, data):
    name = next(iter(data.train.y))
    if BACKEND == "jax":  # Compiled at once: op by op, JAX compiles every single one.
        return model.predict(data.test.x, batch_size=len(data.test), verbose=0)[name]
    return keras.ops.convert_to_numpy(model(data.test.x)[name])

"""
SAVE = """
keras.utils.set_random_seed(1)
for name, (data, config) in configs.items():
    model = models.build(data.task, config, data)
    model.save(folder / f"{name}.keras")
    np.save(folder / f"{name}.npy", answer(model, data))
"""
LOAD = """
models.register()
for name, (data, _) in configs.items():
    model = keras.saving.load_model(folder / f"{name}.keras", compile=False)
    before = np.load(folder / f"{name}.npy")
    after = answer(model, data)
    difference = np.abs(after - before).max() / np.abs(before).max()
    assert difference < 1e-5, (name, difference)
# One of them trains on, without XLA where that is a choice: compiling takes longest here.
data, _ = configs["lstm"]
model = keras.saving.load_model(folder / "lstm.keras", compile=False)
jit = "auto" if BACKEND == "jax" else False
model.compile("adam", loss={"label": "sparse_categorical_crossentropy"}, jit_compile=jit)
history = model.fit(data.train.x, data.train.y, epochs=6, batch_size=len(data.train), verbose=0).history["loss"]
assert history[-1] < history[0], history
"""


def run(backend: str, folder: Path, script: str) -> None:
    code = f"BACKEND, FOLDER = {backend!r}, {str(folder)!r}\n" + MODELS + script
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [("tensorflow", "jax"), ("jax", "tensorflow"), ("torch", "tensorflow"), ("tensorflow", "torch")],
)
def test_weights_move_between_backends(first: str, second: str, tmp_path: Path) -> None:
    for backend in (first, second):
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
    run(first, tmp_path, SAVE)
    run(second, tmp_path, LOAD)
