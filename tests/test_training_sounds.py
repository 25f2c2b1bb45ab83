"""Augmentation of sounds: what moves, how fast, how loud, and what stands behind it; the same for the same epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_recipe import train_on

from edge_dl.data import Dataset, Split
from edge_dl.data.noise import coloured_noise, level
from edge_dl.recipe import Task, TrainingConfig
from edge_dl.training.batches import Arrays, Augmentation
from edge_dl.training.sounds import move

LENGTH = 4_000


def dataset(*, labels: tuple[str, ...] = ("a", "b"), quiet: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    x = np.zeros((12, LENGTH), np.int16)
    x[:, 1_500:2_500] = rng.normal(0, 1_000, (12, 1_000))
    if quiet:
        x[::2] = 0
    split = Split({"sound": x}, {"label": np.arange(12, dtype=np.int32) % 2}, np.arange(12))
    return Dataset("sounds", Task.CLASSIFICATION, split, split, split, labels=labels, rate=8_000)


def changed(data: Dataset, epoch: int = 0, **settings: float) -> np.ndarray:
    augment = Augmentation(TrainingConfig(**settings), data)  # type: ignore[arg-type]
    assert augment
    return augment(Arrays.of(data.train), epoch).x["sound"]


@pytest.mark.parametrize("setting", ["shift", "speed", "gain", "background"])
def test_each_setting_changes_sounds_alike_for_one_epoch(setting: str) -> None:
    data = dataset()
    first = changed(data, **{setting: 0.3})
    assert first.dtype == np.int16
    assert (first != data.train.x["sound"]).any(axis=1).sum() >= 6
    np.testing.assert_array_equal(first, changed(data, **{setting: 0.3}))
    assert (first != changed(data, epoch=1, **{setting: 0.3})).any()


def test_nothing_asked_for_is_nothing_done() -> None:
    assert not Augmentation(TrainingConfig(), dataset())
    assert not Augmentation(TrainingConfig(noise=0.1, flip=True), dataset())


def test_a_shift_moves_and_lets_silence_in() -> None:
    sound = np.arange(1, 101, dtype=np.int16)
    for seed in range(20):
        moved = move(sound, 0.3, 0, np.random.default_rng(seed))
        inside = moved[moved > 0]
        assert len(inside) >= 70
        np.testing.assert_array_equal(np.diff(inside), 1)


def test_speed_changes_pitch_about_the_middle() -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(8_000) / 8_000) * 10_000
    counts = []
    for seed in range(30):
        moved = move(tone, 0, 0.2, np.random.default_rng(seed))[3_000:5_000]
        counts.append(np.count_nonzero(np.diff(np.sign(moved))) / 2 / 0.25)
    assert 158 <= min(counts) < 175
    assert 225 < max(counts) <= 242


def test_noise_stands_in_proportion_to_the_sound() -> None:
    data = dataset()
    before = data.train.x["sound"].astype(float)
    after = changed(data, background=0.5)
    ratio = level(after - before) / level(before)
    assert ratio.max() <= 0.51
    assert (ratio > 0.02).any()


def test_recorded_noise_is_used_where_a_class_is_silence() -> None:
    """Silence of zeros is no noise; one with sound in it is mixed in, whatever its class is called around the word."""
    rng = np.random.default_rng(1)
    data = dataset(labels=("_silence_", "word"))
    data.train.x["sound"][::2] = np.sign(rng.normal(0, 1, (6, LENGTH))) * 500
    words = slice(1, None, 2)
    found = 0
    for epoch in range(6):
        added = changed(data, epoch, background=0.5)[words].astype(float) - data.train.x["sound"][words]
        # A noise of two values stays one, scaled; made noise has many.
        found += sum(len(np.unique(np.abs(item))) <= 3 and item.any() for item in added)
    assert 0 < found < 36
    assert Augmentation(TrainingConfig(background=0.5), dataset(labels=("silence", "word"), quiet=True))


def test_made_noise_is_of_many_colours() -> None:
    noise = coloured_noise(50, 8_000, np.random.default_rng(0))
    np.testing.assert_allclose(level(noise), 1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[:, 10:100].mean(axis=1), power[:, 2_000:].mean(axis=1)
    assert (low / high).min() < 3
    assert (low / high).max() > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_speech_trains_on_every_backend(backend: str, tmp_path: Path) -> None:
    """A few updates of the recipe itself on made speech, masks and all, and the model loads in Keras afterwards."""
    settings = {"data.samples": 64, "training.epochs": 2, "model.mask_time": 0.2, "model.mask_bands": 0.2}
    epochs = train_on(backend, "speech-cnn", settings, tmp_path)
    assert (tmp_path / "train" / "model.keras").is_file()
    assert len(epochs) == 2
