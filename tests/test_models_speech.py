"""Speech networks: published size, normalization in the graph, masks in training only, settings checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

from edge_dl import models
from edge_dl.data import Dataset, Split
from edge_dl.errors import UsageError
from edge_dl.models.masking import SpectrumMasking
from edge_dl.models.speech import NETWORKS, spectrum_of
from edge_dl.recipe import Recipe, SpeechConfig, Task, apply_overrides, from_json, to_json
from edge_dl.runtime.spectra import features
from edge_dl.training.recipes import RECIPES


def sounds(length: int = 8_000, rate: int = 8_000, classes: int = 3) -> Dataset:
    rng = np.random.default_rng(0)

    def part(count: int) -> Split:
        x = rng.normal(0, 1_000, (count, length)).astype(np.int16)
        return Split({"sound": x}, {"label": np.arange(count, dtype=np.int32) % classes}, np.arange(count))

    labels = tuple(str(number) for number in range(classes))
    return Dataset("noise", Task.CLASSIFICATION, part(20), part(10), part(10), labels=labels, rate=rate)


def build(config: SpeechConfig, data: Dataset) -> keras.Model:
    return models.build(Task.CLASSIFICATION, config, data)


def test_ds_cnn_is_mlperf_tinys() -> None:
    """Its convolutions and head have 2,656,768 multiply-accumulates for 49 frames of 10 MFCC and 12 classes."""
    data = sounds(16_000, 16_000, classes=12)
    model = build(SpeechConfig("ds-cnn", coefficients=10, highest=4_000), data)
    assert model.get_layer("features").output.shape == (None, 49, 10)
    macs = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            macs += int(np.prod(layer.output.shape[1:])) * 9
        elif isinstance(layer, keras.layers.Conv2D):
            macs += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            macs += int(np.prod(layer.kernel.shape))
    assert macs == 2_656_768
    # Theirs has a bias beside each batch normalization, which folds into it: 24,908 with 576 of those.
    assert model.count_params() + 576 == 24_908


@pytest.mark.parametrize("normalization", ["fitted", "utterance", "running", "none"])
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "ctc"])
def test_every_network_gives_probabilities(network: str, normalization: str) -> None:
    data = sounds(4_000)
    model = build(SpeechConfig(network, normalization=normalization, dropout=0.1), data)
    assert model.inputs[0].dtype == "int16"
    answer = np.asarray(model(data.test.x)["label"])
    assert answer.shape == (10, 3)
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_a_window_of_attention_is_in_seconds() -> None:
    """A token each 40 ms; where they stand is told by their distance, in place of positions that fit one clip."""
    data = sounds(4_000)
    model = build(SpeechConfig("transformer", attention_window=0.2), data)
    assert [model.get_layer(f"block_{number}_attention").window for number in (1, 2, 3)] == [5, 5, 5]
    assert "positions" not in {layer.name for layer in model.layers}
    np.testing.assert_allclose(np.asarray(model(data.test.x)["label"]).sum(axis=1), 1, rtol=1e-5)
    whole = build(SpeechConfig("transformer"), data)
    assert "positions" in {layer.name for layer in whole.layers}


def strings(length: int = 8_000, words: int = 3) -> Dataset:
    data = sounds(length)

    def said(split: Split) -> Split:
        rows = np.zeros((len(split), words), np.int32)
        rows[:, 0] = 1 + split.y["label"]
        return dataclasses.replace(split, y={"words": rows})

    parts = {part: said(split) for part, split in data.parts.items()}
    return dataclasses.replace(data, task=Task.TRANSCRIPTION, labels=("_blank_", *data.labels), **parts)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_ctc_answers_every_fourth_frame(bidirectional: bool) -> None:
    data = strings()
    config = SpeechConfig("ctc", units=(12, 16, 8), dropout=0.1, bidirectional=bidirectional)
    model = models.build(Task.TRANSCRIPTION, config, data)
    frames = spectrum_of(config, 8_000).frames(8_000)
    answer = np.asarray(model(data.test.x)["words"])
    assert answer.shape == (10, -(-frames // 4), 4)
    np.testing.assert_allclose(answer.sum(axis=-1), 1, rtol=1e-5)
    # One way, what comes later changes nothing before it, but for what the convolutions look ahead.
    later = {"sound": data.test.x["sound"].copy()}
    later["sound"][:, 6_000:] = 0
    changed = np.abs(np.asarray(model(later)["words"]) - answer).max(axis=(0, 2)) > 1e-6
    assert changed[0] == bidirectional
    assert changed[-1]


def test_ctc_needs_strings_and_frames_for_them() -> None:
    with pytest.raises(UsageError, match="ctc is for transcription"):
        build(SpeechConfig("ctc"), sounds())
    with pytest.raises(UsageError, match="two answers for each word"):
        models.build(Task.TRANSCRIPTION, SpeechConfig("ctc"), strings(words=12))


def test_normalization_is_fitted_on_the_training_part() -> None:
    data = sounds()
    model = build(SpeechConfig(), data)
    found = np.asarray(
        model.get_layer("normalize")(features(data.train.x["sound"], spectrum_of(SpeechConfig(), 8_000)))
    )
    np.testing.assert_allclose(found.mean(axis=(0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=(0, 1)), 1, atol=1e-3)


def test_masks_are_drawn_in_training_only() -> None:
    x = np.ones((64, 50, 40), np.float32)
    layer = SpectrumMasking(0.2, 0.1, seed=1)
    np.testing.assert_array_equal(np.asarray(layer(x)), x)
    masked = np.asarray(layer(x, training=True)) == 0
    frames, bands = masked.all(axis=2).sum(axis=1), masked.all(axis=1).sum(axis=1)
    assert 0 < frames.mean() < 20
    assert frames.max() <= 20
    assert 0 < bands.mean() < 8
    assert (masked == (masked.all(axis=2)[:, :, None] | masked.all(axis=1)[:, None, :])).all()
    assert (np.asarray(layer(x, training=True)) == 0).tolist() != masked.tolist()


def test_settings_say_what_the_features_are() -> None:
    assert spectrum_of(SpeechConfig(), 16_000).highest == 7_600
    spectrum = spectrum_of(SpeechConfig(window=0.025, hop=0.01, highest=3_000, coefficients=13), 8_000)
    assert (spectrum.window, spectrum.hop, spectrum.highest, spectrum.size) == (200, 80, 3_000, 13)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "cnn"}, "model.network"),
        ({"transform": "dct"}, "model.transform"),
        ({"normalization": "layer"}, "model.normalization"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"mask_time": 1.0}, "model.mask_time"),
        ({"l2": -1.0}, "model.l2"),
        ({"units": (0,)}, "model.units"),
        ({"network": "crnn", "units": (8, 8)}, "at least 3 layers"),
        ({"network": "transformer", "units": (8, 16)}, "one number of units"),
        ({"network": "transformer", "heads": 3}, "model.heads"),
        ({"attention_window": 0.5}, "network transformer"),
        ({"network": "transformer", "attention_window": -1.0}, "model.attention_window"),
        ({"network": "transformer", "attention_window": 0.05}, "two tokens at least"),
        ({"network": "transformer", "attention_window": 0.5, "hop": 0.0}, "hop"),
        ({"hop": 0.04}, "window of 240 samples, a hop of 320"),
        ({"highest": 5_000.0}, "half the rate"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(SpeechConfig(**change), sounds())


def test_what_are_no_sounds_is_refused() -> None:
    with pytest.raises(UsageError, match="int16 of a known rate"):
        build(SpeechConfig(), dataclasses.replace(sounds(), rate=0))
    with pytest.raises(UsageError, match="ds-cnn is for classification"):
        models.build(Task.REGRESSION, SpeechConfig(), sounds())


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("speech-")])
def test_recipes_survive_their_record(name: str) -> None:
    recipe = RECIPES[name]
    assert from_json(Recipe, to_json(recipe)) == recipe
    assert isinstance(recipe.model, SpeechConfig)
    assert apply_overrides(recipe, {"model.units": "8,8,8"}).model.units == (8, 8, 8)  # type: ignore[union-attr]
