"""Image networks: shapes, published sizes, and that cast, resize and scaling are inside the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from edge_dl import models
from edge_dl.data import Dataset, Split
from edge_dl.errors import UsageError
from edge_dl.recipe import ImageConfig, Recipe, RecurrentConfig, Task, apply_overrides, from_json, to_json
from edge_dl.training.recipes import RECIPES


def pictures(shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Dataset:
    rng = np.random.default_rng(0)

    def part(count: int) -> Split:
        x = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        return Split({"image": x}, {"label": np.arange(count, dtype=np.int32) % classes}, np.arange(count))

    return Dataset(
        "noise", Task.CLASSIFICATION, part(20), part(10), part(10), labels=tuple(str(n) for n in range(classes))
    )


def build(config: ImageConfig, data: Dataset) -> keras.Model:
    return models.build(Task.CLASSIFICATION, config, data)


def test_resnet8_is_mlperf_tinys() -> None:
    """78,666 weights and 12,501,632 multiply-accumulates of convolutions and the head for 32x32x3, ten classes."""
    model = build(ImageConfig("resnet8"), pictures())
    assert model.count_params() == 78_666
    macs = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            macs += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            macs += int(np.prod(layer.kernel.shape))
    assert macs == 12_501_632


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (33, 17, 3), (1, 1, 1)])
@pytest.mark.parametrize("network", ["cnn", "resnet8"])
def test_any_size_of_picture_gives_probabilities(network: str, shape: tuple[int, ...]) -> None:
    data = pictures(shape, classes=4)
    model = build(ImageConfig(network, dense=8), data)
    answer = np.asarray(model(data.test.x)["label"])
    assert answer.shape == (10, 4)
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_the_graph_takes_a_cameras_bytes_and_resizes_them() -> None:
    data = pictures((40, 30, 3))
    model = build(ImageConfig("cnn", size=16), data)
    assert model.inputs[0].dtype == "uint8"
    assert tuple(model.get_layer("conv_1").output.shape[1:3]) == (16, 16)
    scaled = np.asarray(model.get_layer("standardize")(data.train.x["image"]))
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "cnnn"}, "model.network"),
        ({"pooling": "median"}, "model.pooling"),
        ({"filters": (0,)}, "model.filters"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"dense": -1}, "model.dense"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(ImageConfig(**change), pictures())


def test_sequences_are_refused() -> None:
    data = pictures()
    rows = Split({"sequence": np.zeros((4, 8, 8), np.float32)}, {"label": np.arange(4)}, np.arange(4))
    with pytest.raises(UsageError, match=r"data\.input=image"):
        build(ImageConfig(), Dataset("rows", Task.CLASSIFICATION, rows, rows, rows, labels=data.labels))


def test_a_recipes_kind_of_network_survives_its_record_and_cannot_be_changed() -> None:
    for recipe in (RECIPES["cnn"], RECIPES["gru"]):
        assert from_json(Recipe, to_json(recipe)) == recipe
    assert isinstance(RECIPES["cnn"].model, ImageConfig)
    assert isinstance(RECIPES["gru"].model, RecurrentConfig)
    with pytest.raises(UsageError, match="kind of network is fixed"):
        apply_overrides(RECIPES["cnn"], {"model.family": "recurrent"})
    with pytest.raises(UsageError, match="no such key"):
        apply_overrides(RECIPES["cnn"], {"model.units": "3"})
    record = to_json(RECIPES["cnn"])
    record["model"]["family"] = "tree"
    with pytest.raises(UsageError, match="family"):
        from_json(Recipe, record)


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda: models.build(Task.CLASSIFICATION, ImageConfig("cnn", (4,)), pictures()), 32 * 32 * 4),
        (lambda: keras.Sequential([keras.Input((50, 3)), keras.layers.LSTM(7)]), 4 * 7 * 50),
        (
            lambda: keras.Sequential([keras.Input((50, 3)), keras.layers.Bidirectional(keras.layers.GRU(7))]),
            2 * 4 * 7 * 50,
        ),
    ],
)
def test_widest_counts_the_numbers_that_a_layer_keeps(make: Callable[[], keras.Model], least: int) -> None:
    assert models.widest(make()) == least
