"""Recordings of noise that come with sounds of words, as Speech Commands' `_background_noise_`.

They are no class. Where no class is silence, one is made: clips cut from them at random places and at random levels,
from nothing to as loud as they are, as the set's publisher does (Warden 2018, arXiv:1804.03209, and TensorFlow's
example speech_commands, input_data.py). Otherwise they are noise for training sounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge_dl.data.dataset import PARTS, Split
from edge_dl.runtime.samples import to_samples

SILENCE = "_silence_"


def windows(recordings: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Recordings (samples,) int16, none empty, one window behind the other: (windows, length) int16.

    What does not fill a last window is left out; a recording shorter than a window is repeated in one.
    """
    whole = [_stretched(item, length)[: max(1, len(item) // length) * length] for item in recordings]
    return np.concatenate(whole).reshape(-1, length)


def add_silence(
    parts: Mapping[str, Split], classes: int, recordings: Sequence[np.ndarray], rng: np.random.Generator
) -> dict[str, Split]:
    """`parts` with clips of a further class, silence: as many in each part as a class has there on average.

    Each part has a stretch of every recording to itself, as long as the part's share of all samples, so that no noise
    is heard in two of them. Clips of one part may overlap.

    Args:
        parts: training, validation and test, each with one input of sounds (samples, length) int16 and classes.
        classes: how many there are; the number of the new one.
        recordings: noise of the sounds' rate, (samples,) int16 each, none empty.
        rng: decides places and levels.
    """
    shares = np.cumsum([0, *(len(parts[part]) for part in PARTS)]) / sum(map(len, parts.values()))
    row = 1 + max(int(split.index.max()) for split in parts.values())
    found = dict(parts)
    for number, part in enumerate(PARTS):
        split = parts[part]
        ((sound, sounds),), ((label, numbers),) = split.x.items(), split.y.items()
        length, count = sounds.shape[1], max(1, round(len(split) / classes))
        edges = [(round(shares[number] * len(item)), round(shares[number + 1] * len(item))) for item in recordings]
        stretches = [
            _stretched(item[start:stop], length)
            for item, (start, stop) in zip(recordings, edges, strict=True)
            if stop > start
        ]
        if not stretches:  # Recordings of a few samples: there is nothing to tell silence by.
            stretches = [np.zeros(length, np.int16)]
        lengths = np.array([len(item) for item in stretches])
        clips = np.empty((count, length), np.int16)
        for clip, which in enumerate(rng.choice(len(stretches), count, p=lengths / lengths.sum())):
            start = rng.integers(lengths[which] - length + 1)
            clips[clip] = to_samples(stretches[which][start : start + length] * rng.random())
        found[part] = Split(
            {sound: np.concatenate([sounds, clips])},
            {label: np.concatenate([numbers, np.full(count, classes, numbers.dtype)])},
            np.concatenate([split.index, np.arange(row, row + count)]),
        )
        row += count
    return found


def note_noise(recordings: Sequence[np.ndarray]) -> str:
    """A remark for the report on recordings that are no class."""
    return f"{len(recordings)} recordings of noise are no class: training.background mixes them with training sounds."


def _stretched(recording: np.ndarray, length: int) -> np.ndarray:
    """A recording, repeated where it is shorter than `length`."""
    return recording if len(recording) >= length else np.resize(recording, length)
