"""Backbones from TensorFlow Hub: real SavedModels in its format, as folder, archive and handle; what is refused."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from picture_files import make_folder
from test_models_images import pictures

from edge_dl import models
from edge_dl.bundle import read_bundle
from edge_dl.cli.main import app
from edge_dl.converters import load_model
from edge_dl.errors import RefusedError, StageError, UsageError
from edge_dl.models.hub import HubFeatures
from edge_dl.recipe import Task, TransferConfig, apply_overrides
from edge_dl.training import train
from edge_dl.training.recipes import RECIPES

FEATURES = 24


class Published(tf.Module):
    """A small convolutional network in Hub's format: hub.load(folder)(images) gives vectors."""

    def __init__(self, size: int | None, *, trains: bool = True) -> None:
        super().__init__()
        rng = np.random.default_rng(3)

        def values(*shape: int) -> np.ndarray:
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)

        self.first = tf.Variable(values(3, 3, 3, 12), trainable=trains, name="first/kernel")
        self.second = tf.Variable(values(3, 3, 12, FEATURES), trainable=trains, name="second/kernel")
        self.scale = tf.Variable(tf.ones(12), trainable=trains, name="norm/gamma")
        self.offset = tf.Variable(tf.zeros(12), trainable=trains, name="norm/beta")
        self.mean = tf.Variable(tf.fill([12], 0.1), trainable=False, name="norm/moving_mean")
        self.variance = tf.Variable(tf.fill([12], 0.5), trainable=False, name="norm/moving_variance")
        for training in (True, False):
            self.__call__.get_concrete_function(tf.TensorSpec((None, size, size, 3)), training=training)

    @tf.function
    def __call__(self, images: Any, training: bool = False) -> Any:
        h = tf.nn.conv2d(images, self.first, 2, "SAME")
        if training:
            h, mean, _ = tf.compat.v1.nn.fused_batch_norm(h, self.scale, self.offset)
            self.mean.assign(mean)
        else:
            h = tf.nn.batch_normalization(h, self.mean, self.variance, self.offset, self.scale, 1e-3)
        h = tf.nn.relu6(tf.nn.conv2d(tf.nn.relu6(h), self.second, 2, "SAME"))
        return tf.reduce_mean(h, (1, 2))


class Map(tf.Module):
    """Gives a feature map: no vector."""

    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
    def __call__(self, images: Any) -> Any:
        return images[:, ::2, ::2]


def packed(folder: Path, path: Path, top: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, top)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SavedModel in all its forms: of any size, of one size, as archives."""
    root = tmp_path_factory.mktemp("published")
    tf.saved_model.save(Published(None), str(root / "free"))
    tf.saved_model.save(Published(32), str(root / "fixed"))
    tf.saved_model.save(Published(32, trains=False), str(root / "still"))
    tf.saved_model.save(Map(), str(root / "map"))
    packed(root / "fixed", root / "flat.tar.gz", ".")
    packed(root / "fixed", root / "inside.tar.gz", "model")
    (root / "cut.tar.gz").write_bytes((root / "flat.tar.gz").read_bytes()[:2000])
    (root / "empty").mkdir()
    (root / "first").mkdir()
    (root / "first" / "tfhub_module.pb").write_bytes(b"\x08\x03")
    (root / "first" / "saved_model.pb").write_bytes(b"")
    (root / "damaged").mkdir()
    (root / "damaged" / "saved_model.pb").write_bytes(b"\xff\xff")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, (None, 32, 32, 3))
        tf.compat.v1.saved_model.simple_save(
            session, str(root / "old"), {"images": images}, {"default": tf.reduce_mean(images, (1, 2))}
        )
    return root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_DL_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache" / "hub"))
    return tmp_path


def build(backbone: Path | str, task: Task = Task.CLASSIFICATION, **settings: Any) -> keras.Model:
    data = pictures((40, 48, 3), classes=3)
    if task is Task.EMBEDDING:
        for split in data.parts.values():
            split.y["embedding"] = split.y.pop("label")
    return models.build(task, TransferConfig(str(backbone), **settings), data)


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 40, 48, 3)).astype(np.uint8)


def answer(model: keras.Model) -> np.ndarray:
    return np.asarray(model({"image": images()}, training=False)["label"])


@pytest.mark.parametrize(("form", "side"), [("free", 48), ("fixed", 32), ("flat.tar.gz", 32), ("inside.tar.gz", 32)])
def test_the_backbone_computes_what_it_was_published_as(published: Path, form: str, side: int) -> None:
    """Of the middle square, resized, from 0 to 1, in inference mode; model.size counts where the size is free."""
    model = build(published / form, size=48)
    inside = keras.Model(model.inputs, model.get_layer("features").output)
    middle = tf.image.resize(images()[:, :, 4:44].astype(np.float32), (side, side)) / 255
    expected = tf.saved_model.load(
        str(published / form.replace("flat.tar.gz", "fixed").replace("inside.tar.gz", "fixed"))
    )(middle)
    np.testing.assert_allclose(np.asarray(inside({"image": images()})), expected, atol=1e-5)


def test_the_file_carries_the_backbone_and_another_machine_must_trust_it(
    published: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(published / "fixed")
    model.save(home / "model.keras")
    np.testing.assert_array_equal(answer(load_model(home / "model.keras")), answer(model))
    monkeypatch.setenv("EDGE_DL_CONFIG", str(home / "elsewhere"))
    with pytest.raises(UsageError, match="--unsafe"):
        load_model(home / "model.keras")
    again = load_model(home / "model.keras", unsafe=True)
    np.testing.assert_array_equal(answer(again), answer(model))
    assert again.count_params() == model.count_params()
    with pytest.raises(UsageError, match="--unsafe"):
        load_model(home / "model.keras")


def test_fine_tuning_trains_the_backbone_and_keeps_its_statistics(published: Path, home: Path) -> None:
    settings = {"training.epochs": 1, "training.fine_tune_epochs": 1, "training.fine_tune_rate": 1e-2}
    recipe = apply_overrides(RECIPES["mobilenet"], {"model.backbone": str(published / "fixed"), **settings})
    data = pictures((40, 48, 3), classes=3)
    train(recipe, data, home / "head", build=None)
    trained = load_model(home / "head" / "train" / "model.keras")
    before, after = (
        {weight.name: np.asarray(weight) for weight in model.get_layer("features").weights}
        for model in (models.build(recipe.task, recipe.model, data), trained)
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"first_kernel", "second_kernel", "norm_gamma", "norm_beta"}
    trained.save(home / "again.keras")
    np.testing.assert_array_equal(answer(load_model(home / "again.keras")), answer(trained))
    # As published, the backbone gives other vectors.
    trained.get_layer("features").set_weights(list(before.values()))
    assert np.abs(answer(trained) - answer(load_model(home / "again.keras"))).max() > 1e-4


def test_a_frozen_backbone_stays_as_it_is(published: Path, home: Path) -> None:
    settings = {"training.epochs": 1, "training.fine_tune_epochs": 0, "model.backbone": str(published / "still")}
    recipe = apply_overrides(RECIPES["mobilenet"], settings)
    train(recipe, pictures((40, 48, 3), classes=3), home)
    layer = load_model(home / "train" / "model.keras").get_layer("features")
    np.testing.assert_array_equal(np.asarray(layer.weights[0]), Published(32).first.numpy())
    with pytest.raises(UsageError, match="without trainable variables"):
        train(apply_overrides(recipe, {"training.fine_tune_epochs": 1}), pictures((40, 48, 3), classes=3), home)


def test_an_encoder_takes_it_too(published: Path) -> None:
    vectors = np.asarray(build(published / "free", Task.EMBEDDING)({"image": images()})["embedding"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "with no file"),
        ("nowhere", "no folder and no archive"),
        ("cut.tar.gz", "must be a whole"),
        ("damaged", "must be readable"),
        ("first", "first format"),
        ("old", "of TensorFlow 1"),
        ("map", r"float32 of shape \(1, 16, 16, 3\)"),
    ],
)
def test_what_is_no_feature_vector_is_told(published: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(published / name)


def test_weights_and_misspelt_names_are_refused(published: Path) -> None:
    with pytest.raises(UsageError, match="own weights"):
        build(published / "fixed", weights="none")
    with pytest.raises(UsageError, match="with a / in it"):
        build("mobilenet_v9")


@pytest.fixture
def site(published: Path) -> Iterator[str]:
    """A server that answers as Hub does: a handle with ?tf-hub-format=compressed is a .tar.gz."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def translate_path(self, path: str) -> str:
            assert "tf-hub-format=compressed" in path
            return str(published / ("flat.tar.gz" if path.startswith("/google/vector/1?") else "nothing"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_handle_is_downloaded_once(published: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(f"{site}/google/vector/1")
    assert model.get_layer("features").features == FEATURES
    with pytest.raises(StageError, match="404"):
        build(f"{site}/google/vector/2")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked again"))
    build(f"{site}/google/vector/1")


def test_without_a_network_the_message_says_what_to_do() -> None:
    with pytest.raises(StageError, match=r"--set model\.backbone=PATH"):
        build("http://127.0.0.1:9/google/vector/1")


def test_without_tensorflow_hub_the_message_names_the_extra(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(UsageError, match=r"edge-dl\[hub\]"):
        build("google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2")
    build(published / "fixed")  # A folder needs no handle to be resolved.


def test_other_backends_are_refused_by_name(published: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_models_images import pictures\n"
        "from edge_dl import models; from edge_dl.recipe import Task, TransferConfig\n"
        "models.build(Task.CLASSIFICATION, TransferConfig(sys.argv[2]), pictures())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__), str(published / "fixed")],
        env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "on TensorFlow alone" in done.stderr
    assert "training.backend=tensorflow" in done.stderr


def test_compression_names_the_layer(published: Path) -> None:
    from edge_dl.compression.twins import make_twin

    layer = build(published / "fixed").get_layer("features")
    assert isinstance(layer, HubFeatures)
    with pytest.raises(RefusedError, match=r"'features' \(HubFeatures\).*SavedModel"):
        make_twin(layer, "features")


@pytest.mark.slow
def test_from_photos_to_variants(published: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.chdir(home)
    photos = make_folder(home / "photos", each=24)
    arguments = ["convert", "mobilenet", "--data", str(photos), "--set", f"model.backbone={published / 'flat.tar.gz'}"]
    for setting in ("training.epochs=10", "training.learning_rate=0.02", "training.fine_tune_epochs=1", "data.test=0.5",
                    "conversion.quantizations=float32,int8", "conversion.integer_io=true",
                    "checks.max_drop=0.1"):  # fmt: skip
        arguments += ["--set", setting]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    run = home / "runs" / "mobilenet"
    verified = CliRunner().invoke(app, ["verify", str(run), "--json"])
    reports = json.loads(verified.stdout)
    assert {report["variant"]: report["verdict"] for report in reports} == {"float32": "pass", "int8-io": "pass"}
    assert read_bundle(run / "variants" / "int8-io").manifest.signature.inputs[0].dtype == "int8"
    refused = CliRunner().invoke(app, [*arguments, "--set", "compression.methods=prune"])
    assert refused.exit_code == 2
    assert "SavedModel" in refused.output
