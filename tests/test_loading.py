"""Models of the user's: files that load, and files that do not, each with one clear line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from lowered_runs import random_floats, sequential

from edge_dl.converters import load_model
from edge_dl.errors import UsageError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    sequential(layers.LSTM(4), layers.Dense(2)).save(path)
    return path


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_model_is_loaded_whole(suffix: str, tmp_path: Path) -> None:
    model = sequential(layers.Bidirectional(layers.GRU(4)), layers.Dense(2))
    path = tmp_path / f"model.{suffix}"
    model.save(path)
    values = random_floats(2, 7, 3)
    np.testing.assert_array_equal(np.asarray(load_model(path)(values)), np.asarray(model(values)))


def refused(path: Path, *words: str, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(path, **settings)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in text
    assert len(text) < 900
    for word in words:
        assert word in text
    return text


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "no.keras", "must exist", "no.keras")


@pytest.mark.parametrize("kept", [0, 10, 1000, -200])
def test_cut_off_file(kept: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    refused(saved, str(saved))


def test_damaged_weights(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["model.weights.h5"] = members["model.weights.h5"][:500]
    with zipfile.ZipFile(saved, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    refused(saved, "Keras must be able to load", str(saved))


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.tflite", "model.txt"])
def test_other_content(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, str(path))


def test_zip_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    (tmp_path / "arrays.npz").rename(path)
    refused(path, "config.json")


def test_config_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Model", "config": {}}))
        archive.writestr("metadata.json", "{}")
    refused(path, str(path))


def test_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "only.weights.h5"
    sequential(layers.GRU(2)).save_weights(path)
    refused(path, "architecture")


def test_folders(tmp_path: Path) -> None:
    refused(tmp_path, "saved_model.pb")
    sequential(layers.Dense(2)).export(str(tmp_path / "served"), verbose=False)
    refused(tmp_path / "served", "operators, not Keras layers", ".keras")


def test_lambda_is_refused_by_name_unless_trusted(tmp_path: Path) -> None:
    sequence = keras.Input((7, 3))
    inner_input = keras.Input((7, 3))
    inner = keras.Model(inner_input, layers.Lambda(lambda x: x * 2, name="double")(inner_input))
    model = keras.Model(sequence, layers.GRU(2)(inner(sequence)))
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        refused(tmp_path / name, "'double'", "--unsafe", "--custom module:Class")
        values = random_floats(1, 7, 3)
        loaded = load_model(tmp_path / name, unsafe=True)
        np.testing.assert_array_equal(np.asarray(loaded(values)), np.asarray(model(values)))


MODULE = """
import keras
class Scale(keras.layers.Layer):
    def call(self, x):
        return x * 3
def swish2(x):
    return x * keras.ops.sigmoid(2 * x)
"""


def test_own_classes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_layers_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_layers_of_a_user as own

    model = sequential(own.Scale(), layers.GRU(2, activation=own.swish2))
    path = tmp_path / "model.keras"
    model.save(path)
    refused(path, "own_layers_of_a_user:Scale")
    custom = ("own_layers_of_a_user:Scale", "own_layers_of_a_user:swish2")
    values = random_floats(1, 7, 3)
    np.testing.assert_array_equal(np.asarray(load_model(path, custom=custom)(values)), np.asarray(model(values)))


@pytest.mark.parametrize(
    ("custom", "word"),
    [("Scale", "module:Class"), (":Scale", "module:Class"), ("no_such_module:X", "importable"), ("json:Nope", "Nope")],
)
def test_wrong_names_of_own_classes(custom: str, word: str, saved: Path) -> None:
    refused(saved, word, custom=(custom,))


@pytest.mark.parametrize("time_major", [False, True])
def test_h5_of_keras_2_with_its_own_settings(time_major: bool, tmp_path: Path) -> None:
    import h5py

    lstm = keras.layers.LSTM(4, return_sequences=True, name="inner")
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.Bidirectional(lstm), keras.layers.GRU(2)])
    path = tmp_path / "old.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        # Keras 2 wrote it into every recurrent layer.
        setting = f'"time_major": {str(time_major).lower()}, "return_sequences"'
        file.attrs["model_config"] = text.replace('"return_sequences"', setting)
    if time_major:
        refused(path, "time_major=True", "batch, time, features")
        return
    values = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    np.testing.assert_array_equal(np.asarray(load_model(path)(values)), np.asarray(model(values)))
    assert "from_config" in vars(keras.layers.LSTM)
    with pytest.raises(ValueError, match="time_major"):  # Keras itself is as it was.
        keras.layers.LSTM.from_config({"units": 2, "time_major": False})
