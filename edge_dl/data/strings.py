"""Strings of words for transcription: single words joined with pauses, at one level, with a little noise.

Strings of a part are made of that part's own recordings. All stand in sounds of one length, anywhere in them: what is
not speech is quiet noise, as a microphone hears it, and a network has to give blanks there. So no string needs to say
how many of its samples are valid. Where speakers are known, a string has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edge_dl.data.background import note_noise, windows
from edge_dl.data.clips import Clips, Joining
from edge_dl.data.dataset import Dataset, Split, data_hash, output_name
from edge_dl.data.noise import coloured_noise, level
from edge_dl.data.validation import check_dataset
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task
from edge_dl.runtime.samples import FULL_SCALE, to_samples
from edge_dl.runtime.wordless import is_word

BLANK = "_blank_"
SAMPLES = 2_000
# Ends that are quieter than a recording's loudest hundredth of a second by so many dB are pause, not word.
QUIET = 40.0
# In dB: how much words of a string differ in level, what noise is below speech, how loud a string is of full scale.
UNEVEN, NOISE, LOUDNESS = 3.0, (20.0, 40.0), (-35.0, -15.0)
# Made noise is a number of different sounds, each of which may start anywhere.
MADE = 32
# Seconds over which a word comes and goes.
_EDGE = 0.005
_TRIES = 1_000


def join_dataset(
    single: Dataset, speakers: np.ndarray | None, config: DataConfig, *, seed: int, noise: Sequence[np.ndarray] = ()
) -> Dataset:
    """Strings joined from single words, part by part.

    Args:
        single: `sound` (samples, length) int16 and `label`. Classes that stand for no word stay away
            (`edge_dl.runtime.wordless.is_word`).
        speakers: speaker of each row of the source, "" where not known; None: there are none.
        config: `words`, `pause`, `seconds`, `samples` (training strings, 2,000; validation and test have a fifth of
            that each, at least 100) and `limit`.
        seed: decides the strings.
        noise: recordings of it, (samples,) int16 each, to mix with training strings.

    Raises:
        UsageError: settings are out of range, a part has no words, or strings do not fit into the length.
    """
    fewest, most = _pair("data.words", config.words, least=1)
    shortest, longest = _pair("data.pause", config.pause, least=0)
    names = [name for name in single.labels if is_word(name)]
    numbers = np.array([names.index(name) + 1 if name in names else 0 for name in single.labels])
    rate = single.rate
    found: dict[str, tuple[list[np.ndarray], np.ndarray, np.ndarray]] = {}
    silent = 0
    for part, split in single.parts.items():
        words = numbers[split.y[output_name(Task.CLASSIFICATION)]]
        cut = {row: trim(split.x["sound"][row], rate) for row in np.flatnonzero(words)}
        rows = [row for row, samples in cut.items() if len(samples)]
        silent += len(cut) - len(rows)
        if not rows:
            raise UsageError("Strings need recordings of words in every part.", received=f"none in the {part} part")
        who = np.array([""] * len(split) if speakers is None else speakers[split.index])
        found[part] = [cut[row] for row in rows], words[rows], np.unique(who[rows], return_inverse=True)[1]
    mean = np.mean([len(samples) for samples in found["train"][0]]) / rate
    seconds = config.seconds or round(most * (mean + longest), 1)
    joining = Joining(round(seconds * rate), fewest, most, round(shortest * rate), round(longest * rate))
    samples = config.samples or SAMPLES
    parts, start = {}, 0
    clips = {part: Clips.of(*arrays, joining) for part, arrays in found.items()}
    for number, (part, those) in enumerate(clips.items()):
        count = samples if part == "train" else max(100, samples // 5)
        count = min(count, config.limit) if config.limit else count
        sound, words = join(those, count, np.random.default_rng([seed, number, 0x701]), rate=rate)
        index = np.arange(start, start + count)
        parts[part] = Split({"sound": sound}, {output_name(Task.TRANSCRIPTION): words}, index)
        start += count
    heard = ", ".join(f"{len(those):,} in {part}" for part, those in clips.items())
    notes = [
        *single.notes,
        f"Strings of {fewest} to {most} words, pauses of {shortest:g} to {longest:g} s, in sounds of {seconds:g} s, "
        f"joined from the part's own recordings of single words: {heard}.",
    ]
    if len(names) < len(single.labels):
        away = [name for name in single.labels if name not in names]
        notes.append(f"No words, and in no string: {', '.join(away)}.")
    if silent:
        notes.append(f"{silent} recordings hold no sound and are in no string.")
    if noise:
        notes.append(note_noise(noise))
    joined = replace(
        single,
        name=f"{single.name}-strings",
        task=Task.TRANSCRIPTION,
        labels=(BLANK, *names),
        notes=tuple(notes),
        clips=clips["train"],
        noise=windows(noise, joining.length) if noise else None,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
    )
    check_dataset(joined)
    return replace(joined, sha256=data_hash(joined.parts, joined.clips, joined.noise))


def join(
    clips: Clips, count: int, rng: np.random.Generator, *, rate: int, speed: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """`count` random strings: sounds (count, length) int16 and words (count, most) int32, filled with 0.

    Every recording of a speaker is used before one is used again. Words come to one level, and a string to a random
    one; two strings of one draw may share noise, from another place on.

    Args:
        clips: single words, and what strings look like.
        rate: samples a second.
        speed: largest change of a string's speed (and so its pitch), as a share of it.

    Raises:
        UsageError: the words do not fit into the length.
    """
    joining = clips.joining
    sounds = np.empty((count, joining.length), np.int16)
    words = np.zeros((count, joining.most), np.int32)
    noise = coloured_noise(min(count, MADE), joining.length, rng)
    by_speaker = [np.flatnonzero(clips.speakers == speaker) for speaker in np.unique(clips.speakers)]
    shares = np.array([len(rows) for rows in by_speaker]) / len(clips)
    decks = [_deck(rows, rng) for rows in by_speaker]
    for row in range(count):
        deck = decks[rng.choice(len(decks), p=shares)]
        pace = 1 + rng.uniform(-speed, speed) if speed else 1.0
        chosen, said = _words(clips, deck, pace, rng)
        pauses = _pauses(joining, joining.length - sum(map(len, said)), len(said), rng)
        sound = np.roll(noise[rng.integers(len(noise))], rng.integers(joining.length))
        sound *= 10 ** (-rng.uniform(*NOISE) / 20)
        place = int(rng.integers(joining.length - sum(map(len, said)) - pauses.sum() + 1))
        for samples, pause in zip(said, [*pauses, 0], strict=True):
            loud = 10 ** (rng.uniform(-UNEVEN, UNEVEN) / 20) / level(samples)
            sound[place : place + len(samples)] += samples * loud * _edges(len(samples), rate)
            place += len(samples) + int(pause)
        sound *= FULL_SCALE * 10 ** (rng.uniform(*LOUDNESS) / 20)
        sounds[row] = to_samples(sound)
        words[row, : len(said)] = clips.words[chosen]
    return sounds, words


def trim(sound: np.ndarray, rate: int) -> np.ndarray:
    """A recording (samples,) without its quiet ends; without anything where it is silent."""
    size = max(1, rate // 100)
    frames = level(np.pad(sound, (0, -len(sound) % size)).reshape(-1, size))
    loud = np.flatnonzero((frames > frames.max() * 10 ** (-QUIET / 20)) & (frames >= 1))
    return sound[loud[0] * size : (loud[-1] + 1) * size] if len(loud) else sound[:0]


def _deck(rows: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """All rows in random order, then again in another, without end."""
    while True:
        yield from rng.permutation(rows)


def _words(
    clips: Clips, deck: Iterator[int], pace: float, rng: np.random.Generator
) -> tuple[list[int], list[np.ndarray]]:
    """Recordings of one string, and their samples at another pace, that fit with the shortest pauses."""
    joining = clips.joining
    for _ in range(_TRIES):
        chosen = [next(deck) for _ in range(rng.integers(joining.fewest, joining.most + 1))]
        said = [_at_pace(clips[number], pace) for number in chosen]
        if sum(map(len, said)) + joining.shortest * (len(said) - 1) <= joining.length:
            return chosen, said
    raise UsageError(
        f"Strings of {joining.fewest} to {joining.most} words must fit into the length of their sounds.",
        received=f"{joining.length} samples for words of {len(clips.samples) / len(clips):.0f} on average",
        todo="Raise data.seconds, or lower data.words and data.pause.",
    )


def _at_pace(samples: np.ndarray, pace: float) -> np.ndarray:
    """Samples, float64, between which others stand on the straight line."""
    if pace == 1:
        return samples.astype(np.float64)
    return np.interp(np.arange(0, len(samples) - 1, pace), np.arange(len(samples)), samples)


def _pauses(joining: Joining, room: int, words: int, rng: np.random.Generator) -> np.ndarray:
    """Pauses between words, (words - 1,) int64: as drawn, or all shorter by one share so that they fit into `room`."""
    more = rng.uniform(0, joining.longest - joining.shortest, words - 1)
    spare = room - joining.shortest * (words - 1)
    share = min(1.0, spare / max(more.sum(), 1.0))
    return joining.shortest + np.floor(more * share).astype(np.int64)


def _edges(length: int, rate: int) -> np.ndarray:
    """Factors (length,) that rise from 0 to 1 and fall back, over a moment each."""
    places = np.arange(length) + 0.5
    return np.minimum(1, np.minimum(places, places[::-1]) / max(1.0, _EDGE * rate))


def _pair(key: str, values: tuple, *, least: float) -> tuple:
    if len(values) not in (1, 2) or min(values) < least or values[0] > values[-1]:
        raise UsageError(f"{key} must be two numbers from {least}, the smaller one first.", received=str(values))
    return values[0], values[-1]
