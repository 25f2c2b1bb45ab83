"""Training in phases: what trains when, and going on exactly across the border between two phases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from edge_dl.data import Dataset, Split
from edge_dl.files import read_json
from edge_dl.models.heads import classify
from edge_dl.recipe import DataConfig, Recipe, Task, TrainingConfig, TransferConfig, apply_overrides
from edge_dl.training import checkpoint, train, trainer
from edge_dl.training.batches import Arrays, balanced, cut_pictures, light_pictures

RECIPE = Recipe(
    "patches",
    "",
    Task.CLASSIFICATION,
    DataConfig("patches"),
    TransferConfig(weights="pretend"),
    TrainingConfig(epochs=3, batch_size=16, learning_rate=0.02, schedule="cosine", fine_tune_epochs=3,
                   fine_tune_layers=1, fine_tune_rate=0.003, patience=5, balance=True, zoom=0.2, flip=True,
                   contrast=0.1, jit_compile="off"),
)  # fmt: skip


def dataset() -> Dataset:
    """Patches whose class is their brightest channel; two of three are of the first class."""
    rng = np.random.default_rng(3)
    y = (np.arange(144) % 3 // 2).astype(np.int32)
    x = rng.integers(0, 150, (144, 8, 8, 3))
    x[np.arange(144), :, :, y] += 60
    parts = [Split({"image": x[rows].astype(np.uint8)}, {"label": y[rows]}, rows)
             for rows in np.split(np.arange(144), [96, 120])]  # fmt: skip
    return Dataset("patches", Task.CLASSIFICATION, *parts, labels=("red", "green"), sha256="made")


def build(task: Task, config: Any, data: Dataset) -> keras.Model:
    """A backbone of two convolutions, under the names that transfer learning knows."""
    image = keras.Input((8, 8, 3), dtype="uint8", name="image")
    h = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    for number in (1, 2):
        h = keras.layers.Conv2D(4, 3, activation="relu", name=f"conv_{number}")(h)
        h = keras.layers.BatchNormalization(name=f"norm_{number}")(h)
    h = keras.layers.GlobalAveragePooling2D(name="features")(h)
    h = keras.layers.Dropout(0.1)(h)
    return keras.Model({"image": image}, {"label": classify(h, 2, "label")})


class StopAt:
    """Progress that ends the training in the middle of one epoch, as Ctrl-C does."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def say(self, message: str) -> None:
        pass

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[StopAt]:
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        if self.epoch and note.startswith(f"epoch {self.epoch},"):
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(RECIPE, dataset(), folder, build=build)
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    model = keras.saving.load_model(folder / "train" / "model.keras")
    return {weight.path: np.asarray(weight) for weight in model.weights}


@pytest.mark.parametrize("epoch", [2, 3, 4, 5])
def test_a_training_goes_on_exactly_on_either_side_of_the_border(epoch: int, whole: Path, tmp_path: Path) -> None:
    """Epoch 4 is the first of the second phase: interrupted there, the checkpoint is still of the first."""
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, dataset(), tmp_path, progress=StopAt(epoch), build=build)
    state = checkpoint.load(tmp_path / "train" / "checkpoint")
    assert state is not None
    assert state.epoch == epoch - 1
    train(RECIPE, dataset(), tmp_path, build=build)
    resumed, expected = weights(tmp_path), weights(whole)
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    left_out = ("seconds", "input_seconds")
    histories = [
        [{key: value for key, value in entry.items() if key not in left_out}
         for entry in read_json(folder / "train" / "history.json")["epochs"]]
        for folder in (tmp_path, whole)
    ]  # fmt: skip
    assert histories[0] == histories[1]


def test_the_backbone_keeps_still_at_first_and_its_last_layer_moves_then(whole: Path, tmp_path: Path) -> None:
    head_only = apply_overrides(RECIPE, {"training.fine_tune_epochs": 0})
    train(head_only, dataset(), tmp_path, build=build)
    keras.utils.set_random_seed(0)
    first, after = weights(tmp_path), weights(whole)
    norm = [name for name in first if name.startswith("norm")]
    for name in ["conv_1/kernel", *norm]:
        np.testing.assert_array_equal(first[name], after[name], err_msg=name)
    assert not np.array_equal(first["conv_2/kernel"], after["conv_2/kernel"])
    # Normalization stayed in inference mode: its statistics are the ones that it was made with.
    assert all((after[name] == (1 if name.endswith(("gamma", "variance")) else 0)).all() for name in norm)


def test_the_file_says_what_keeps_still(whole: Path) -> None:
    model = keras.saving.load_model(whole / "train" / "model.keras")
    still = [layer.name for layer in model.layers if layer.weights and not layer.trainable]
    assert still == ["conv_1", "norm_1", "norm_2"]


def test_each_phase_has_its_own_learning_rate(whole: Path) -> None:
    history = read_json(whole / "train" / "history.json")
    rates = [entry["learning_rate"] for entry in history["epochs"]]
    assert len(rates) == 6
    assert rates[3] < rates[0]
    assert max(rates[3:]) <= 0.003
    assert history["phases"] == [{"name": "head", "epochs": 3}, {"name": "fine-tuning", "epochs": 3}]


def test_a_phase_that_stalls_gives_way_to_the_next(tmp_path: Path) -> None:
    """With a rate of nothing the first phase cannot improve: it ends by patience, and the second still trains."""
    settings = {"training.epochs": 9, "training.patience": 2, "training.learning_rate": 1e-12, "training.zoom": 0,
                "training.flip": False, "training.contrast": 0, "training.schedule": "constant"}  # fmt: skip
    train(apply_overrides(RECIPE, settings), dataset(), tmp_path, build=build)
    epochs = [entry["epoch"] for entry in read_json(tmp_path / "train" / "history.json")["epochs"]]
    assert epochs[:3] == [1, 2, 3]
    assert epochs[-3:] == [10, 11, 12]
    assert len(epochs) < 9


def test_balanced_weights_make_every_class_count_the_same() -> None:
    y = np.array([0, 0, 0, 1, 2, 2], np.int32)
    arrays = balanced(Arrays({"x": np.zeros(6)}, {"label": y}), "label")
    assert arrays.weight is not None
    weight = arrays.weight["label"]
    np.testing.assert_allclose([weight[y == number].sum() for number in range(3)], 2)
    assert weight.mean() == pytest.approx(1)


def test_cut_and_lit_pictures_keep_their_size_and_stay_pictures() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 12, 9, 3)).astype(np.uint8)
    cut = cut_pictures(pictures, 0.5, np.random.default_rng(1))
    assert (cut.shape, cut.dtype) == (pictures.shape, np.uint8)
    assert not np.array_equal(cut, pictures)
    np.testing.assert_array_equal(cut_pictures(pictures, 0.0, np.random.default_rng(1)), pictures)
    grey = cut_pictures(pictures[..., :1], 0.3, np.random.default_rng(1))
    assert grey.shape == (5, 12, 9, 1)
    lit = light_pictures(pictures, 0.2, 0.0, np.random.default_rng(2))
    moved = lit.astype(int) - pictures
    inside = (lit > 0) & (lit < 255)
    for number in range(5):
        assert np.ptp(moved[number][inside[number]]) <= 1, "one change of brightness a picture"
    np.testing.assert_array_equal(light_pictures(pictures, 0.0, 0.0, np.random.default_rng(2)), pictures)
