"""Strings of words: what is said is what the target says, of the part's own recordings, and fits where it stands."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from sound_files import make_folder, tone, wav

from edge_dl import data
from edge_dl.data.clips import Clips, Joining
from edge_dl.data.noise import level
from edge_dl.data.strings import BLANK, join, trim
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

RATE = 8_000
JOINING = Joining(length=16_000, fewest=2, most=5, shortest=400, longest=1_600)


def clips(each: int = 4, speakers: int = 2, joining: Joining = JOINING) -> Clips:
    """Three words, tones of 500, 1,000 and 2,000 Hz of 0.2 s; a speaker's are `20 * speaker` Hz higher."""
    recordings, words, who = [], [], []
    for speaker in range(speakers):
        for word in (1, 2, 3):
            for _ in range(each):
                recordings.append((tone(RATE, 0.2, 250 * 2**word + 20 * speaker) * 10_000).astype(np.int16))
                words.append(word)
                who.append(speaker)
    return Clips.of(recordings, np.array(words), np.array(who), joining)


def heard(sound: np.ndarray) -> list[tuple[int, int, float]]:
    """Start, end and frequency of what is loud in a sound."""
    frames = level(sound[: len(sound) // 80 * 80].reshape(-1, 80).astype(np.float64))
    loud = frames > frames.max() / 4
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    found = []
    for start, end in edges.reshape(-1, 2) * 80:
        power = np.abs(np.fft.rfft(sound[start:end] * np.hanning(end - start), RATE))
        found.append((int(start), int(end), float(power.argmax())))
    return found


def test_a_string_says_its_words_in_order_with_pauses_between() -> None:
    sounds, words = join(clips(), 40, np.random.default_rng(0), rate=RATE)
    assert sounds.dtype == np.int16
    assert sounds.shape == (40, 16_000)
    assert words.shape == (40, 5)
    counts = set()
    for sound, row in zip(sounds, words, strict=True):
        said = row[row > 0]
        assert not row[len(said) :].any()
        counts.add(len(said))
        found = heard(sound)
        assert [round(np.log2(hertz / 250)) for *_, hertz in found] == said.tolist()
        # One speaker a string: all are higher by the same step, or none is.
        assert len({hertz - 250 * 2**word > 10 for (*_, hertz), word in zip(found, said, strict=True)}) == 1
        pauses = [after[0] - before[1] for before, after in itertools.pairwise(found)]
        assert all(200 <= pause <= 1_800 for pause in pauses)
    assert counts == {2, 3, 4, 5}


def test_every_recording_is_used_before_one_is_again() -> None:
    single = clips(speakers=1)
    drawn = np.zeros(4, int)
    joining = dataclasses.replace(JOINING, fewest=3, most=3)
    _, words = join(dataclasses.replace(single, joining=joining), 4, np.random.default_rng(0), rate=RATE)
    for word in (1, 2, 3):
        drawn[word] = np.count_nonzero(words == word)
    assert drawn[1:].tolist() == [4, 4, 4]  # Twelve recordings, twelve words.


def test_strings_follow_the_seed() -> None:
    first, words = join(clips(), 5, np.random.default_rng(1), rate=RATE, speed=0.2)
    again, same = join(clips(), 5, np.random.default_rng(1), rate=RATE, speed=0.2)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(words, same)
    assert (join(clips(), 5, np.random.default_rng(2), rate=RATE)[0] != first).any()


def test_speed_changes_length_and_pitch() -> None:
    joining = dataclasses.replace(JOINING, fewest=1, most=1)
    one = dataclasses.replace(clips(1, 1, joining), words=np.array([1, 1, 1], np.int32))
    ratios = []
    for sound in join(one, 30, np.random.default_rng(0), rate=RATE, speed=0.3)[0]:
        ((start, end, hertz),) = heard(sound)
        ratios.append(min(abs(hertz / (500 * 2**octave) - 1) for octave in range(3)))
        assert 0.2 / 1.35 < (end - start) / RATE < 0.2 / 0.65
    assert 0.15 < max(ratios) <= 0.31


def test_pauses_shrink_before_words_are_drawn_anew() -> None:
    joining = Joining(length=5 * 1_600 + 4 * 400 + 100, fewest=5, most=5, shortest=400, longest=8_000)
    sounds, words = join(clips(joining=joining), 10, np.random.default_rng(0), rate=RATE)
    assert (words > 0).all()
    assert all(len(heard(sound)) == 5 for sound in sounds)


def test_strings_that_cannot_fit_are_refused() -> None:
    joining = dataclasses.replace(JOINING, length=3_000)
    with pytest.raises(UsageError, match=r"Raise data\.seconds"):
        join(clips(joining=joining), 1, np.random.default_rng(0), rate=RATE)


def test_quiet_ends_are_cut_off() -> None:
    said = (tone(RATE, 0.1) * 10_000).astype(np.int16)
    sound = np.concatenate([np.zeros(400, np.int16), said, np.full(800, 3, np.int16)])
    assert len(trim(sound, RATE)) == len(said)
    assert len(trim(np.zeros(1_000, np.int16), RATE)) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones by class, other ones in each part."""
    root = make_folder(tmp_path_factory.mktemp("sounds") / "tones", parts=("train", "validation", "test"))
    for part in ("train", "validation", "test"):
        quiet = root / part / "_silence_"
        quiet.mkdir()
        (quiet / "0.wav").write_bytes(wav(tone(level=0.001)))
    return root


def test_a_part_has_its_own_recordings_only(folder: Path) -> None:
    config = DataConfig(str(folder), samples=30, words=(2, 4), seconds=3)
    strings = data.load(config, Task.TRANSCRIPTION)
    assert strings.labels == (BLANK, "tone 0", "tone 1", "tone 2")
    assert [len(split) for split in strings.parts.values()] == [30, 100, 100]
    assert strings.train.x["sound"].shape == (30, 24_000)
    assert any("No words, and in no string: _silence_" in note for note in strings.notes)
    # The folder's tones are 300, 600 and 900 Hz, up to 11 higher, and 20 for each letter of the part's name.
    for part, split in strings.parts.items():
        for sound, row in zip(split.x["sound"][:10], split.y["words"], strict=False):
            found = heard(sound)
            assert len(found) == np.count_nonzero(row)
            for (*_, hertz), word in zip(found, row, strict=False):
                assert -2 <= hertz - 300 * word - 20 * len(part) <= 13
    assert data.load(config, Task.TRANSCRIPTION).sha256 == strings.sha256
    assert data.load(config, Task.TRANSCRIPTION, seed=1).sha256 != strings.sha256


def test_strings_are_kept_with_the_words_they_are_joined_of(folder: Path, tmp_path: Path) -> None:
    strings = data.load(DataConfig(str(folder), samples=20, limit=5), Task.TRANSCRIPTION)
    data.save(strings, tmp_path)
    again = data.read(tmp_path)
    assert again.clips is not None
    assert strings.clips is not None
    assert again.clips.joining == strings.clips.joining
    for name, array in strings.clips.arrays().items():
        np.testing.assert_array_equal(again.clips.arrays()[name], array)
    counts = again.describe()["splits"]["test"]["class_counts"]["words"]
    assert counts[0] == 0
    assert sum(counts) == np.count_nonzero(again.test.y["words"])
    other = dataclasses.replace(strings.clips, words=strings.clips.words[::-1].copy())
    np.savez(tmp_path / "clips.npz", **other.arrays())
    with pytest.raises(UsageError, match="recorded hash"):
        data.read(tmp_path)


def test_made_words_are_spoken_by_voices_of_their_part() -> None:
    strings = data.load(DataConfig("vowel-words", samples=10, words=(3,)), Task.TRANSCRIPTION)
    assert strings.synthetic
    assert (strings.train.y["words"] > 0).sum(axis=1).tolist() == [3] * 10
    assert strings.clips is not None
    assert len(np.unique(strings.clips.speakers)) == 40


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"words": (0, 3)}, "data.words"),
        ({"words": (5, 3)}, "data.words"),
        ({"words": ()}, "data.words"),
        ({"pause": (-0.1, 0.2)}, "data.pause"),
        ({"seconds": 0.6}, "fit into the length"),
    ],
)
def test_settings_are_checked(folder: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        data.load(DataConfig(str(folder), **settings), Task.TRANSCRIPTION)  # type: ignore[arg-type]


def test_words_are_checked(folder: Path) -> None:
    from edge_dl.data.validation import check_dataset

    strings = data.load(DataConfig(str(folder), samples=10, limit=4), Task.TRANSCRIPTION)
    for row, words in (([0, 1], "behind its last"), ([1, 0, 2], "behind its last"), ([9], "known classes")):
        bad = strings.train.y["words"].copy()
        bad[1] = 0
        bad[1, : len(row)] = row
        broken = dataclasses.replace(strings.train, y={"words": bad})
        with pytest.raises(UsageError, match=words):
            check_dataset(dataclasses.replace(strings, train=broken))
