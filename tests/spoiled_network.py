"""A digits network that is right in float32 and broken in int8: one layer's channels have ranges that differ 500-fold.

Two random convolutions and a dense layer fitted by least squares: no training, always the same. Channel 0 of the first
convolution is multiplied by `SPOIL` and the next layer divides by it: the same function in real numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_dl.bundle import Limits
from edge_dl.converters.conversion import run_conversion
from edge_dl.converters.export_stage import run_export
from edge_dl.converters.outcomes import Outcome
from edge_dl.files import save_npz, write_json
from edge_dl.recipe import ConversionConfig
from edge_dl.variants import Quantization

SPOIL = 500.0
SPOILED = "edges"
"""Name of the layer that was spoiled."""


def splits() -> dict[str, dict[str, np.ndarray]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.images[order] / 16)[..., None].astype("float32"), digits.target[order].astype("int32")
    cuts = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
    return {name: {"x/image": x[part], "y/label": y[part]} for name, part in cuts.items()}


def save_model(path: Path, train: dict[str, np.ndarray], *, spoil: bool) -> None:
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1), name="image")
    first = keras.layers.Conv2D(8, 3, activation="relu", name=SPOILED)
    second = keras.layers.Conv2D(16, 3, activation="relu", name="shapes")
    features = keras.layers.Flatten(name="flatten")(second(keras.layers.MaxPooling2D(2, 1, name="pool")(first(image))))
    head = keras.layers.Dense(10, name="head")
    model = keras.Model(image, keras.layers.Softmax(name="label")(head(features)))
    values = keras.Model(image, features).predict(train["x/image"], verbose=0)
    square = values.T @ values + 1e-2 * len(values) * np.eye(values.shape[1])
    head.set_weights([np.linalg.solve(square, values.T @ (10 * np.eye(10)[train["y/label"]] - 1)), np.zeros(10)])
    if spoil:
        kernel, bias = first.get_weights()
        kernel[..., 0] *= SPOIL
        bias[0] *= SPOIL
        first.set_weights([kernel, bias])
        kernel, bias = second.get_weights()
        kernel[:, :, 0] /= SPOIL
        second.set_weights([kernel, bias])
    model.save(path)


def make_run(run: Path, *, spoil: bool) -> Path:
    """A run folder up to its exports."""
    parts = splits()
    for name, arrays in parts.items():
        save_npz(run / "data" / f"{name}.npz", arrays)
    write_json(run / "data" / "dataset.json", {"name": "digits", "task": "classification", "labels": []})
    save_model(run / "model.keras", parts["train"], spoil=spoil)
    run_export(run / "model.keras", run, ConversionConfig(lowerings=("none",)))
    return run


def convert_run(
    run: Path,
    *kinds: Quantization,
    max_drop: float | None = 0.01,
    time_limit: float = 120.0,
) -> dict[str, Outcome]:
    outcomes = run_conversion(
        run,
        ConversionConfig(quantizations=kinds, time_limit=time_limit),
        task="classification",
        limits={"mixed": Limits(max_drop=max_drop)},
    )
    return {outcome.variant: outcome for outcome in outcomes}
