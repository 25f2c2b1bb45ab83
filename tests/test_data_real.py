"""Public data from a folder of the user's: EDGE_DL_DATA names it. Skipped, file by file, where it is not there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_dl.data import Dataset, load
from edge_dl.data.series import naive_forecast, seasonal_forecast
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


def get(name: str, task: Task, **settings: Any) -> Dataset:
    folder = os.environ.get("EDGE_DL_DATA", "")
    path = Path(folder) / name.split("::")[0]
    if not folder or not path.is_file():
        pytest.skip(f"{path.name} is not in the folder that EDGE_DL_DATA names")
    return load(DataConfig(str(Path(folder) / name), **settings), task, seed=0)


def test_har_windows_keep_subjects_apart() -> None:
    dataset = get("har_windows_f16.npz", Task.CLASSIFICATION)
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (7415, 2996)
    assert dataset.train.x["sequence"].shape[1:] == (128, 6)
    assert len(dataset.labels) == 6
    assert any("whole groups" in note for note in dataset.notes)


def test_mnist_rows() -> None:
    dataset = get("mnist_20k.npz", Task.CLASSIFICATION)
    assert dataset.train.x["sequence"].shape[1:] == (28, 28)
    assert len(dataset.test) == 10_000
    assert dataset.scaling == "shared"


def test_etth1_baselines() -> None:
    dataset = get(
        "timeseries.zip::ETTh1.csv", Task.FORECAST,
        window=96, horizon=24, season=24, target="OT", boundaries=(8640, 11520, 14400),
    )  # fmt: skip
    assert dataset.forecast is not None
    assert {part: len(split) for part, split in dataset.parts.items()} == {
        "train": 8521, "validation": 2857, "test": 2857,
    }  # fmt: skip
    x, y = dataset.test.x["sequence"], dataset.test.y["forecast"]
    naive = np.abs(naive_forecast(x, dataset.forecast) - y).mean()
    seasonal = np.abs(seasonal_forecast(x, dataset.forecast) - y).mean()
    assert 0 < naive < dataset.forecast.scale[0]
    assert 0 < seasonal < dataset.forecast.scale[0]


def test_pollution_has_gaps() -> None:
    name = "timeseries.zip::pollution.csv"
    with pytest.raises(UsageError, match=r"2067 in .*first in row 2, column pm2\.5"):
        get(name, Task.FORECAST, window=24, columns=("pm2.5",))
    dataset = get(name, Task.FORECAST, window=24, columns=("pm2.5",), missing="forward")
    assert any("24 leading rows dropped" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("name", "train", "test", "shape", "classes"),
    [
        ("ArrowHead", 36, 175, (251, 1), 3),
        ("BasicMotions", 40, 40, (100, 6), 4),
        ("GunPoint", 50, 150, (150, 1), 2),
        ("ItalyPowerDemand", 67, 1029, (24, 1), 2),
    ],
)
def test_ucr_sets(name: str, train: int, test: int, shape: tuple[int, int], classes: int) -> None:
    dataset = get(f"timeseries.zip::ucr/{name}_TRAIN.ts", Task.CLASSIFICATION)
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (train, test)
    assert dataset.train.x["sequence"].shape[1:] == shape
    assert len(dataset.labels) == classes


def test_ragged_ucr_set_is_refused() -> None:
    with pytest.raises(UsageError, match="lengths 7 to 26"):
        get("timeseries.zip::ucr/JapaneseVowels_TRAIN.ts", Task.CLASSIFICATION)


def test_text_corpus() -> None:
    dataset = get("corpus_imdb_unsup_15k.txt.gz", Task.LANGUAGE_MODEL, level="word", vocabulary=5000, limit=100)
    assert len(dataset.vocabulary) == 5000
    assert {"the", "movie", "film"} <= set(dataset.vocabulary[:40])


def test_spoken_digits_in_two_splits() -> None:
    official = get("fsdd.zip", Task.CLASSIFICATION)
    assert (len(official.train) + len(official.validation), len(official.test)) == (2_700, 300)
    assert (official.rate, official.train.x["sound"].shape[1:]) == (8_000, (8_000,))
    assert official.labels == tuple("0123456789")
    assert "20 sounds longer than 1 s were cut to their loudest part." in official.notes
    apart = get("fsdd.zip", Task.CLASSIFICATION, split="split_speaker_disjoint")
    assert [len(split) for split in apart.parts.values()] == [1_500, 500, 1_000]


def test_speech_commands() -> None:
    dataset = get("speech_commands_12x.zip", Task.CLASSIFICATION)
    assert [len(split) for split in dataset.parts.values()] == [792, 120, 360]
    assert dataset.rate == 16_000
    assert {"_silence_", "_unknown_", "yes"} <= set(dataset.labels)


@pytest.mark.parametrize(("name", "rate"), [("fsdd.zip", 8_000), ("speech_commands_12x.zip", 16_000)])
@pytest.mark.parametrize("coefficients", [0, 10])
def test_features_of_real_speech_are_those_of_the_twin(name: str, rate: int, coefficients: int) -> None:
    """Within 1e-4 of float64, log-mel and MFCC."""
    from edge_dl.models import SpeechFeatures
    from edge_dl.runtime.spectra import Spectrum, features

    sounds = get(name, Task.CLASSIFICATION).test.x["sound"]
    spectrum = Spectrum(rate, rate * 30 // 1000, rate * 20 // 1000, 40, 20, 4_000, coefficients)
    found = np.asarray(SpeechFeatures(dataclasses.asdict(spectrum))(sounds))
    np.testing.assert_allclose(found, features(sounds, spectrum), atol=1e-4)
