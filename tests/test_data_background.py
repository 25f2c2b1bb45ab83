"""Recordings of noise beside sounds of words: silence is cut from them, or they are mixed with training sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sound_files import make_folder, wav

from edge_dl import data
from edge_dl.data.background import add_silence, windows
from edge_dl.data.dataset import Dataset, Split
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, save_npz
from edge_dl.recipe import DataConfig, Task, TrainingConfig
from edge_dl.runtime.wordless import is_noise, is_word
from edge_dl.training.batches import Arrays, Augmentation

RATE, LENGTH = 8_000, 4_000


def ramp(seconds: float, step: int = 1) -> np.ndarray:
    """A recording whose every sample says where it stands, from -1 to 1."""
    return (np.arange(round(seconds * RATE)) * step % 30_000 + 1) / 32_768


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of twelve tones, and two recordings of noise, one shorter than a tone."""
    root = make_folder(tmp_path / "sounds")
    (root / "_background_noise_").mkdir()
    (root / "_background_noise_" / "ramp.wav").write_bytes(wav(ramp(3.0)))
    (root / "_background_noise_" / "short.wav").write_bytes(wav(ramp(0.25, step=3)))
    (root / "_background_noise_" / "broken.wav").write_bytes(b"no sound")
    return root


def load(path: Path, task: Task = Task.CLASSIFICATION, **settings: object) -> Dataset:
    trains = bool(settings.pop("trains", True))
    return data.load(DataConfig(str(path), **settings), task, trains=trains)  # type: ignore[arg-type]


def silent(split: Split, dataset: Dataset) -> np.ndarray:
    return split.x["sound"][split.y["label"] == dataset.labels.index("_silence_")]


def test_silence_is_a_class_of_average_size_cut_from_the_recordings(folder: Path) -> None:
    dataset = load(folder)
    assert dataset.labels == ("tone 0", "tone 1", "tone 2", "_silence_")
    for split in dataset.parts.values():
        others = np.bincount(split.y["label"], minlength=4)[:3]
        assert len(silent(split, dataset)) == round(others.mean())
    assert dataset.noise is None  # Training sounds of the class serve.
    notes = " ".join(dataset.notes)
    assert "_silence_ is made: clips cut at random from 2 recordings of noise" in notes
    assert "_background_noise_/broken.wav" in notes
    assert dataset.train.x["sound"].shape[1:] == (LENGTH,)


@pytest.mark.parametrize(("part", "start", "stop"), [("train", 0, 60), ("validation", 60, 80), ("test", 80, 100)])
def test_no_noise_is_heard_in_two_parts(part: str, start: int, stop: int) -> None:
    """A recording that is noise in one part's stretch alone is heard there alone."""
    recording = np.zeros(25_000, np.int16)
    recording[250 * start : 250 * stop] = 20_000

    def split(count: int, first: int) -> Split:
        sounds, labels = np.zeros((count, 500), np.int16), np.arange(count, dtype=np.int32) % 2
        return Split({"sound": sounds}, {"label": labels}, np.arange(first, first + count))

    parts = {"train": split(60, 0), "validation": split(20, 60), "test": split(20, 80)}
    made = add_silence(parts, 2, [recording], np.random.default_rng(0))
    for name, found in made.items():
        clips = found.x["sound"][found.y["label"] == 2]
        assert len(clips) == len(parts[name]) // 2
        assert (clips > 0).all() if name == part else not clips.any()
    index = np.concatenate([found.index for found in made.values()])
    assert len(np.unique(index)) == len(index)


def test_silence_is_of_many_levels_and_the_same_for_the_same_seed(folder: Path) -> None:
    (folder / "_background_noise_" / "short.wav").unlink()
    hiss = np.random.default_rng(0).normal(0, 0.1, 20 * RATE)
    (folder / "_background_noise_" / "ramp.wav").write_bytes(wav(hiss))
    dataset = load(folder)
    levels = silent(dataset.train, dataset).std(axis=1) / 3_277
    assert levels.max() < 1.05
    assert levels.max() > 3 * levels.min()
    assert load(folder).sha256 == dataset.sha256


def test_a_class_of_silence_stays_as_it_is_and_noise_is_mixed_in(folder: Path, tmp_path: Path) -> None:
    (folder / "tone 2").rename(folder / "Silence")
    dataset = load(folder)
    assert dataset.labels == ("Silence", "tone 0", "tone 1")
    assert dataset.noise is not None
    np.testing.assert_array_equal(dataset.noise[:6].ravel(), np.rint(ramp(3.0) * 32_768))
    assert any("2 recordings of noise are no class" in note for note in dataset.notes)
    data.save(dataset, tmp_path / "saved")
    again = data.read(tmp_path / "saved")
    np.testing.assert_array_equal(again.noise, dataset.noise)
    assert again.describe()["noise"] == len(dataset.noise) == 7
    changed = load_npz(tmp_path / "saved" / "noise.npz")
    save_npz(tmp_path / "saved" / "noise.npz", {"noise": changed["noise"] + 1})
    with pytest.raises(UsageError, match="recorded hash"):
        data.read(tmp_path / "saved")


def test_recorded_noise_stands_behind_training_sounds(folder: Path) -> None:
    """The recording here has two values only: so has what is added, where it is that and no made noise."""
    (folder / "tone 2").rename(folder / "_silence_")
    (folder / "_background_noise_" / "short.wav").unlink()
    square = np.where(np.arange(2 * RATE) % 50 < 25, 0.1, -0.1)
    (folder / "_background_noise_" / "ramp.wav").write_bytes(wav(square))
    for path in (folder / "_silence_").iterdir():
        path.write_bytes(wav(np.zeros(LENGTH)))
    dataset = load(folder, limit=40)
    before = dataset.train.x["sound"].astype(float)
    augment, found = Augmentation(TrainingConfig(background=0.5), dataset), 0
    for epoch in range(4):
        added = augment(Arrays.of(dataset.train), epoch).x["sound"] - before
        found += sum(len(np.unique(np.abs(item).round(-1))) <= 2 and item.any() for item in added)
    assert found > 10


def test_a_model_that_is_trained_already_gets_no_further_class(folder: Path) -> None:
    dataset = load(folder, trains=False)
    assert dataset.labels == ("tone 0", "tone 1", "tone 2")
    assert dataset.noise is None
    assert any("2 recordings of noise are no class and were left out" in note for note in dataset.notes)


def test_noise_beside_a_manifest_is_noise_unless_it_is_named(folder: Path) -> None:
    rows = [f"tone {number}/{place:02d}.wav,{number}" for number in range(3) for place in range(12)]
    (folder / "manifest.csv").write_text("\n".join(["file,label", *rows, ""]))
    dataset = load(folder)
    assert dataset.labels == ("0", "1", "2", "_silence_")
    assert not any("does not name" in note for note in dataset.notes)
    (folder / "manifest.csv").write_text("\n".join(["file,label", *rows, "_background_noise_/ramp.wav,hum", ""]))
    assert load(folder).labels == ("0", "1", "2", "hum", "_silence_")


def test_a_limit_holds_for_silence_too(folder: Path) -> None:
    dataset = load(folder, limit=8)
    assert [len(split) for split in dataset.parts.values()] == [8, len(dataset.validation), len(dataset.test)]
    assert set(dataset.train.y["label"]) == {0, 1, 2, 3}
    assert max(len(dataset.validation), len(dataset.test)) <= 8


def test_strings_hold_no_silence_and_are_mixed_with_noise(folder: Path) -> None:
    (folder / "silence").mkdir()
    for number in range(6):
        (folder / "silence" / f"{number}.wav").write_bytes(wav(ramp(0.5, step=number + 2)))
    strings = load(folder, Task.TRANSCRIPTION, words=(1, 2), samples=20)
    assert strings.labels == ("_blank_", "tone 0", "tone 1", "tone 2")
    assert strings.noise is not None
    assert strings.noise.shape[1] == strings.train.x["sound"].shape[1]
    assert Augmentation(TrainingConfig(background=0.3), strings)


def test_windows_follow_each_other_and_short_recordings_are_repeated() -> None:
    found = windows([np.arange(7, dtype=np.int16), np.array([9, 8], np.int16)], 3)
    assert found.tolist() == [[0, 1, 2], [3, 4, 5], [9, 8, 9]]


@pytest.mark.parametrize("label", ["_silence_", "silence", "Noise", "background noise", "_background_noise_"])
def test_noise_by_its_name(label: str) -> None:
    assert is_noise(label)
    assert not is_word(label)


@pytest.mark.parametrize(
    ("label", "word"),
    [("yes", True), ("_yes", True), ("_", True), ("0", True), ("_blank_", False), ("_unknown_", False),
     ("Unknown", False), ("noisy", True)],
)  # fmt: skip
def test_words_by_their_name(label: str, word: bool) -> None:
    assert is_word(label) is word
    assert not is_noise(label)
