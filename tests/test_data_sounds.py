"""Wav files of every kind become samples of one rate and length; damage is named; manifests say parts and speakers."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sound_files import FLOAT, PCM, make_folder, tone, wav

from edge_dl import data
from edge_dl.data.sounds import as_samples, decode, fit, is_clipped
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

VALUES = tone()


def load(path: Path, **settings: object) -> data.Dataset:
    return data.load(DataConfig(str(path), **settings), Task.CLASSIFICATION)  # type: ignore[arg-type]


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("bits", "kind", "step"), [(8, PCM, 128), (16, PCM, 0), (24, PCM, 1), (32, PCM, 1), (32, FLOAT, 1), (64, FLOAT, 1)]
)
def test_every_kind_of_sample_comes_out_as_sixteen_bits(bits: int, kind: int, step: int, extensible: bool) -> None:
    stored, rate = decode(wav(VALUES, bits=bits, kind=kind, extensible=extensible))
    samples = as_samples(stored, rate, 8000)
    assert samples.dtype == np.int16
    wanted = np.clip(np.rint(VALUES * 32768), -32768, 32767)
    assert np.abs(samples - wanted).max() <= step


def test_channels_are_averaged_and_full_scale_does_not_wrap() -> None:
    stored, rate = decode(wav(np.stack([VALUES, 0 * VALUES], axis=1)))
    assert np.abs(as_samples(stored, rate, rate) - VALUES * 16384).max() <= 1
    loud, rate = decode(wav(np.array([1.5, -1.5, 1.0, -1.0] * 10), bits=32, kind=FLOAT))
    assert as_samples(loud, rate, rate)[:2].tolist() == [32767, -32768]


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_another_rate_is_resampled(rate: int) -> None:
    """A tone keeps pitch and level; one above half the new rate is gone."""
    stored, found = decode(wav(tone(rate, 1.0), rate))
    assert found == rate
    samples = as_samples(stored, rate, 8000)[200:-200]
    assert np.abs(samples - tone(8000, 1.0)[200:-200] * 32768).max() < 120
    if rate > 12000:
        high, _ = decode(wav(tone(rate, 1.0, hertz=5000), rate))
        assert np.abs(as_samples(high, rate, 8000)[200:-200]).max() < 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"hello, this is no sound at all", "30 bytes"),
        (wav(VALUES)[:30], "30 bytes"),
        (wav(VALUES)[:1000], "Reached EOF"),
        (wav(VALUES)[:1001], "1001 bytes"),
        (wav(VALUES[:0]), "without any"),
        (wav(np.full(20, np.nan), bits=32, kind=FLOAT), "NaN"),
        (wav(VALUES, rate=10), "10 Hz"),
        (wav(VALUES, bits=8, kind=7), "MULAW"),
    ],
)
def test_what_is_no_whole_sound_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        decode(content)


def test_a_header_without_a_length_is_read_to_the_end() -> None:
    """What a recorder writes that cannot go back to its header."""
    content = bytearray(wav(VALUES))
    content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    assert len(decode(bytes(content))[0]) == len(VALUES)


def test_sounds_are_fitted_to_one_length() -> None:
    assert fit(np.array([1, 2], np.int16), 5).tolist() == [0, 1, 2, 0, 0]
    assert fit(np.array([0, 1, 9, 8, 0], np.int16), 2).tolist() == [9, 8]
    assert fit(np.array([3, 1], np.int16), 2).tolist() == [3, 1]


def test_too_loud_is_told() -> None:
    samples = (tone(level=0.9) * 32767).astype(np.int16)
    assert not is_clipped(samples)
    assert is_clipped(np.clip(samples * 2.0, -32768, 32767).astype(np.int16))


def test_one_folder_a_class(tmp_path: Path) -> None:
    dataset = load(make_folder(tmp_path))
    assert dataset.labels == ("tone 0", "tone 1", "tone 2")
    assert dataset.rate == 8000
    assert dataset.train.x["sound"].shape[1:] == (4000,)
    assert dataset.train.x["sound"].dtype == np.int16
    assert sum(len(split) for split in dataset.parts.values()) == 36
    data.save(dataset, tmp_path / "saved")
    assert data.read(tmp_path / "saved").rate == 8000


def test_parts_as_they_are_also_in_an_archive(tmp_path: Path) -> None:
    make_folder(tmp_path / "all", parts=("train", "test"), each=4)
    archive = tmp_path / "sounds.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tmp_path / "all").rglob("*.wav")):
            file.write(path, path.relative_to(tmp_path).as_posix())
    dataset = load(archive)
    assert len(dataset.test) == 12
    assert len(dataset.train) + len(dataset.validation) == 12


def test_rates_lengths_and_damage_are_noted(tmp_path: Path) -> None:
    make_folder(tmp_path)
    folder = tmp_path / "tone 0"
    (folder / "long.wav").write_bytes(wav(tone(seconds=2.0, hertz=310)))
    (folder / "other.wav").write_bytes(wav(tone(44100, 0.5), 44100))
    (folder / "broken.wav").write_bytes(b"no sound")
    (folder / "loud.wav").write_bytes(wav(tone(level=2.0)))
    dataset = load(tmp_path)
    assert dataset.train.x["sound"].shape[1:] == (8000,)
    notes = " ".join(dataset.notes)
    for words in (
        "1 sounds were resampled to 8000 Hz: 1 of 44100 Hz.",
        "38 sounds shorter than 1 s got zeros on both sides.",
        "1 sounds longer than 1 s were cut to their loudest part.",
        "1 sounds are clipped",
        "1 files are no whole sounds and were left out: tone 0/broken.wav",
    ):
        assert words in notes
    assert load(tmp_path, seconds=0.25, rate=16000).train.x["sound"].shape[1:] == (4000,)


def test_a_manifest_says_class_part_and_speaker(tmp_path: Path) -> None:
    rows = ["file,digit,speaker,split_official,split_new"]
    (tmp_path / "wav").mkdir()
    for number in range(24):
        name = f"{number:02d}.wav"
        (tmp_path / "wav" / name).write_bytes(wav(tone(hertz=200 + 10 * number)))
        speaker = "abcd"[number % 4]
        parts = f"{'test' if number < 6 else 'train'},{'test' if speaker == 'd' else 'train'}"
        rows.append(f"{name},{number % 3},{speaker},{parts}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    official = load(tmp_path)
    assert len(official.test) == 6
    assert official.labels == ("0", "1", "2")
    assert "Parts by the column split_official of manifest.csv; others: split_new (data.split)." in official.notes
    assert any("seeded" in note for note in official.notes)  # Speakers stand on both sides: none is held out.
    apart = load(tmp_path, split="split_new")
    assert len(apart.test) == 6
    assert any("whole groups" in note for note in apart.notes)
    speakers = {part: set((split.index % 4).tolist()) for part, split in apart.parts.items()}
    assert not speakers["train"] & speakers["validation"]
    with pytest.raises(UsageError, match=r"data\.split must name a column.*split_official, split_new"):
        load(tmp_path, split="split")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name,label\na.wav,x\n", "needs the columns file and label"),
        ("", "needs the columns file and label"),
        ("file,label\nz.wav,x\n", "line 2: no files end with 'z.wav'"),
        ("file,label\na.wav,\n", "class ''"),
        ("file,label,split\na.wav,x,dev\n", "split: 'dev'"),
        ("file,label\na.wav,x\na.wav,y\n", "line 3: .a.wav. again"),
        ("file,label\n", "needs the columns"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "a.wav").write_bytes(wav(VALUES))
    (tmp_path / "b.wav").write_bytes(wav(VALUES))
    (tmp_path / "manifest.csv").write_text(table)
    with pytest.raises(UsageError, match=words):
        load(tmp_path, form="sounds")


def test_speech_commands_are_read_as_published(tmp_path: Path) -> None:
    for label in ("yes", "no"):
        (tmp_path / label).mkdir()
        for number in range(8):
            (tmp_path / label / f"s{number}_nohash_0.wav").write_bytes(wav(tone(hertz=100 * (number + 1) + len(label))))
    (tmp_path / "_background_noise_").mkdir()
    (tmp_path / "_background_noise_" / "hum.wav").write_bytes(wav(tone(seconds=3)))
    (tmp_path / "validation_list.txt").write_text("yes/s0_nohash_0.wav\nno/s0_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/s1_nohash_0.wav\nno/s1_nohash_0.wav\n")
    dataset = load(tmp_path)
    assert dataset.labels == ("no", "yes", "_silence_")
    words = {part: np.bincount(split.y["label"], minlength=3).tolist() for part, split in dataset.parts.items()}
    assert words == {"train": [6, 6, 6], "validation": [1, 1, 1], "test": [1, 1, 1]}
    assert any("_silence_ is made" in note and "6 in train, 1 in validation" in note for note in dataset.notes)


@pytest.mark.parametrize("task", [Task.REGRESSION, Task.EMBEDDING, None])
def test_other_tasks_are_refused(tmp_path: Path, task: Task | None) -> None:
    with pytest.raises(UsageError, match="classification"):
        data.load(DataConfig(str(make_folder(tmp_path))), task)


def test_a_folder_of_damage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="none whole"):
        load(tmp_path)
