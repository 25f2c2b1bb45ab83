"""Transfer learning: what is frozen, what the graph holds, where weights come from; encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from test_models_images import pictures

from edge_dl import models
from edge_dl.checks.roc import verification
from edge_dl.errors import StageError, UsageError
from edge_dl.models.transfer import unfreeze
from edge_dl.recipe import Recipe, RecurrentConfig, Task, TrainingConfig, TransferConfig, apply_overrides
from edge_dl.training.phases import phases
from edge_dl.training.recipes import RECIPES

SMALL = TransferConfig("mobilenet", alpha=0.25, size=32, weights="none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the backbone without its top, as Keras saves it."""
    keras.utils.set_random_seed(7)
    backbone = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, include_top=False, weights=None)
    path = tmp_path_factory.mktemp("weights") / "backbone.weights.h5"
    backbone.save_weights(path)
    return path


def build(config: TransferConfig, shape: tuple[int, ...] = (40, 48, 3), task: Task = Task.CLASSIFICATION) -> Any:
    data = pictures(shape, classes=4)
    if task is Task.EMBEDDING:
        for split in data.parts.values():
            split.y["embedding"] = split.y.pop("label")
    return models.build(task, config, data)


@pytest.mark.parametrize("backbone", ["mobilenet", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
def test_every_backbone_takes_a_cameras_bytes(backbone: str) -> None:
    model = build(TransferConfig(backbone, alpha=1.0 if "v3" in backbone else 0.35, size=32, weights="none"))
    assert model.inputs[0].dtype == "uint8"
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)], "layers stand in the model itself"
    answer = np.asarray(model({"image": np.full((2, 40, 48, 3), 200, np.uint8)})["label"])
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_pictures_are_cut_resized_and_scaled_as_the_backbone_was_trained(weights: Path) -> None:
    """The same numbers as the backbone gives alone on Keras' own preprocessing of the middle square."""
    model = build(TransferConfig("mobilenet", alpha=0.25, size=32, weights=str(weights)))
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3)).astype(np.uint8)
    inside = keras.Model(model.inputs, model.get_layer("features").output)
    backbone = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, include_top=False, weights=None)
    backbone.load_weights(weights)
    middle = keras.layers.Resizing(32, 32)(image[:, :, 4:44].astype(np.float32))
    scaled = keras.applications.mobilenet.preprocess_input(np.array(middle))
    expected = np.asarray(backbone(scaled)).mean(axis=(1, 2))
    np.testing.assert_allclose(np.asarray(inside({"image": image})), expected, atol=1e-5)


def test_grey_pictures_are_taken_as_rgb() -> None:
    model = build(SMALL, (32, 32, 1))
    assert model.get_layer("grey_to_rgb").output.shape[-1] == 3


def test_only_the_last_layers_train_and_normalization_keeps_still(weights: Path) -> None:
    model = build(TransferConfig("mobilenet", alpha=0.25, size=32, weights=str(weights)))
    unfreeze(model, 0)
    assert {weight.path.split("/")[0] for weight in model.trainable_weights} == {"head"}
    unfreeze(model, 3)
    assert {weight.path.split("/")[0] for weight in model.trainable_weights} == {
        "conv_pw_12", "conv_dw_13", "conv_pw_13", "head"
    }  # fmt: skip
    unfreeze(model, 10_000)
    names = {layer.name for layer in model.layers if layer.trainable_weights}
    assert "conv1" in names
    assert not {name for name in names if name.endswith("_bn")}


def test_weights_must_fit(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mobilenet with alpha 0\.5"):
        build(TransferConfig("mobilenet", alpha=0.5, size=32, weights=str(weights)))
    with pytest.raises(UsageError, match="existing file"):
        build(TransferConfig("mobilenet", weights=str(tmp_path / "none.h5")))
    (tmp_path / "broken.weights.h5").write_bytes(b"x")
    with pytest.raises(UsageError, match="without its top"):
        build(TransferConfig("mobilenet", alpha=0.25, size=32, weights=str(tmp_path / "broken.weights.h5")))


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keras' own download, sent to an address where nobody answers."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.src.applications.mobilenet, "BASE_WEIGHT_PATH", "http://127.0.0.1:9/")
    monkeypatch.setattr(keras.src.utils.file_utils, "config", keras.src.backend.config, raising=False)
    with pytest.raises(StageError, match="--weights FILE"):
        build(TransferConfig("mobilenet", alpha=0.25, size=128))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet"}, "model.backbone"),
        ({"alpha": 0.0}, "model.alpha"),
        ({"size": 16}, "model.size"),
        ({"dropout": 1.0}, "model.dropout"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(TransferConfig(**{"weights": "none", **change}))


def test_phases() -> None:
    recipe = apply_overrides(RECIPES["mobilenet"], {"training.epochs": 3, "training.fine_tune_epochs": 2})
    head, tuned = phases(recipe)
    assert (head.first, head.last, head.unfrozen) == (0, 3, 0)
    assert (tuned.first, tuned.last, tuned.unfrozen) == (3, 5, recipe.training.fine_tune_layers)
    assert tuned.config.learning_rate == recipe.training.fine_tune_rate
    with pytest.raises(UsageError, match="layers to tune"):
        phases(apply_overrides(recipe, {"training.fine_tune_layers": 0}))
    plain = Recipe("x", "", Task.CLASSIFICATION, recipe.data, RecurrentConfig(), TrainingConfig(fine_tune_epochs=1))
    with pytest.raises(UsageError, match="pretrained backbone"):
        phases(plain)


def test_an_encoder_gives_vectors_of_length_one() -> None:
    model = build(SMALL, task=Task.EMBEDDING)
    # Fresh weights of so many layers give numbers near zero, which have no direction.
    model.set_weights([3 * weight if weight.ndim > 1 else weight for weight in model.get_weights()])
    vectors = np.asarray(model({"image": pictures((40, 48, 3)).test.x["image"]})["embedding"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_the_threshold_parts_same_from_not() -> None:
    """Three far-apart bundles of vectors; one of the third lies with the first."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 20)
    vectors = np.eye(3)[classes] + 0.05 * rng.standard_normal((60, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = verification(vectors, classes)
    assert found is not None
    assert found.pairs == 60 * 59 // 2
    assert found.area == 1
    assert found.equal_error_rate == 0
    assert 0.5 < found.threshold < 1
    vectors[59] = vectors[0]
    worse = verification(vectors, classes)
    assert worse is not None
    wrong_same, wrong_other = 19 / 570, 20 / 1200
    assert worse.found == pytest.approx(1 - wrong_same)
    assert worse.mistaken == pytest.approx(wrong_other)
    assert worse.area < 1
    assert verification(vectors, np.zeros(60, int)) is None
