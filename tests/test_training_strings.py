"""Training strings are joined anew each epoch, and are trained on: the recipe learns on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_recipe import train_on

from edge_dl.data import Dataset, Split
from edge_dl.data.clips import Clips, Joining
from edge_dl.data.strings import join
from edge_dl.errors import UsageError
from edge_dl.recipe import Task, TrainingConfig
from edge_dl.training.batches import Arrays, Augmentation

LENGTH = 4_000


def strings() -> Dataset:
    rng = np.random.default_rng(0)
    recordings = [rng.normal(0, 1_000, 400).astype(np.int16) for _ in range(12)]
    clips = Clips.of(recordings, np.arange(12) % 3 + 1, np.zeros(12), Joining(LENGTH, 1, 4, 100, 300))
    sound, words = join(clips, 10, rng, rate=8_000)
    split = Split({"sound": sound}, {"words": words}, np.arange(10))
    labels = ("_blank_", "a", "b", "c")
    return Dataset("strings", Task.TRANSCRIPTION, split, split, split, labels=labels, rate=8_000, clips=clips)


@pytest.mark.parametrize("settings", [{}, {"speed": 0.1, "gain": 0.3, "background": 0.2}])
def test_strings_are_joined_anew_each_epoch(settings: dict[str, float]) -> None:
    data = strings()
    augment = Augmentation(TrainingConfig(**settings), data)  # type: ignore[arg-type]
    assert augment
    first, again, later = (augment(Arrays.of(data.train), epoch) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first.x["sound"], again.x["sound"])
    np.testing.assert_array_equal(first.y["words"], again.y["words"])
    assert (first.y["words"] != later.y["words"]).any()
    assert first.x["sound"].shape == data.train.x["sound"].shape
    assert first.y["words"].shape == data.train.y["words"].shape


@pytest.mark.parametrize("settings", [{"shift": 0.1}, {"use_validation": True}])
def test_strings_stay_where_they_were_joined(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="joined from training recordings"):
        Augmentation(TrainingConfig(**settings), strings())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_ctc_trains_on_every_backend(backend: str, tmp_path: Path) -> None:
    """A few updates of the recipe itself on made speech lower the loss, and word errors are counted."""
    settings = {"data.samples": 96, "data.words": "1,3", "training.epochs": 8, "training.warmup": 0,
                "training.batch_size": 8, "model.units": "16,16"}  # fmt: skip
    epochs = train_on(backend, "speech-ctc", settings, tmp_path)
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    # So short a training may still say nothing at all, which is an error rate of exactly 1.
    assert all(0 < epoch["validation_word_error_rate"] <= 2 for epoch in epochs)
