"""Made speech: formants where they should be, voices apart, and said to be made."""

from __future__ import annotations

import numpy as np
import pytest

from edge_dl import data
from edge_dl.data.noise import level
from edge_dl.data.vowels import FORMANTS, LABELS, Voice, record, speak
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


def test_a_vowel_is_loudest_at_its_formants() -> None:
    voice = Voice(pitch=100.0, tract=1.0, pace=0.5)
    for vowel, (first, second, _) in FORMANTS.items():
        said = speak(vowel, voice, 8_000, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(said * np.hanning(len(said)))) ** 2
        hertz = np.fft.rfftfreq(len(said), 1 / 8_000)

        def loud(low: float, high: float, power: np.ndarray = power, hertz: np.ndarray = hertz) -> float:
            return float(power[(hertz > low) & (hertz < high)].sum())

        assert loud(0.75 * first, 1.25 * first) > 3 * loud(first + 1.5 * (second - first), 4_000) or vowel in "oua"
        assert loud(0.85 * second, 1.15 * second) > 3 * loud(1.25 * second, 1.55 * second)


def test_every_label_can_be_recorded() -> None:
    rng = np.random.default_rng(0)
    for label in LABELS:
        for voice in (Voice(85, 0.95, 0.22), Voice(220, 1.2, 0.1)):
            sound = record(label, voice, 8_000, 8_000, rng)
            assert sound.shape == (8_000,)
            assert sound.dtype == np.int16
            assert level(sound) > 100


def test_the_set_is_made_by_seed_and_says_so() -> None:
    config = DataConfig("vowel-words", samples=40)
    dataset = data.load(config, Task.CLASSIFICATION)
    assert dataset.synthetic
    assert dataset.rate == 8_000
    assert dataset.labels == LABELS
    assert [len(split) for split in dataset.parts.values()] == [40, 100, 100]
    assert data.load(config, Task.CLASSIFICATION).sha256 == dataset.sha256
    assert data.load(config, Task.CLASSIFICATION, seed=1).sha256 != dataset.sha256
    wide = data.load(DataConfig("vowel-words", samples=40, rate=16_000, seconds=1.5), Task.CLASSIFICATION)
    assert wide.train.x["sound"].shape == (40, 24_000)


@pytest.mark.parametrize("settings", [{"seconds": 0.5}, {"rate": 500}])
def test_what_does_not_fit_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"0\.9 seconds"):
        data.load(DataConfig("vowel-words", **settings), Task.CLASSIFICATION)  # type: ignore[arg-type]
