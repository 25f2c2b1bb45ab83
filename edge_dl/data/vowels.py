"""Made speech: words of vowels from a small formant synthesizer, for running without a download.

A voice is the harmonics of a falling pitch, each as strong as three resonances of the vocal tract let it be (the
cascade of Klatt 1980) and weaker by 12 dB an octave. Vowels glide into each other. It says whether a pipeline works; it
says nothing of how well a network hears people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_dl.data.noise import coloured_noise, level
from edge_dl.runtime.samples import FULL_SCALE, to_samples

# First three formants in Hz, of men (Peterson & Barney 1952, table II; e and o as in Klatt 1980).
FORMANTS = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (480.0, 1720.0, 2520.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (540.0, 900.0, 2300.0),
    "u": (300.0, 870.0, 2240.0),
}
BANDWIDTHS = (60.0, 90.0, 150.0)
WORDS = ("ai", "eo", "iau", "oa", "ue", "uoi")
SILENCE, UNKNOWN = "_silence_", "_unknown_"
LABELS = (SILENCE, UNKNOWN, *WORDS)
# A vocal tract does not change within so many seconds.
_STEP = 0.01


@dataclass(frozen=True)
class Voice:
    """Who speaks.

    Attributes:
        pitch: fundamental frequency, in Hz.
        tract: factor on all formants; a shorter vocal tract has higher ones.
        pace: seconds of one vowel.
    """

    pitch: float
    tract: float
    pace: float


def random_voice(rng: np.random.Generator) -> Voice:
    """A voice between a slow deep one and a quick high one; high voices have short tracts."""
    height = rng.random()
    return Voice(85 * 2.6**height, 0.95 + 0.25 * height + rng.normal(0, 0.02), rng.uniform(0.1, 0.22))


def speak(word: str, voice: Voice, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A word of the letters a, e, i, o and u, float64 (samples,) of level 1."""
    pace = voice.pace * rng.uniform(0.8, 1.25)
    length = round(rate * pace * len(word))
    seconds = np.arange(length) / rate
    pitch = voice.pitch * rng.uniform(0.92, 1.08) * (1.08 - 0.16 * seconds / seconds[-1])
    turns = np.cumsum(pitch) / rate
    grid = np.arange(0, seconds[-1] + _STEP, _STEP)
    # A vowel is itself in its middle; between two middles the tract moves.
    middles = (np.arange(len(word)) + 0.5) * pace
    targets = np.array([FORMANTS[vowel] for vowel in word]) * voice.tract * rng.normal(1, 0.03, (len(word), 3))
    formants = np.stack([np.interp(grid, middles, targets[:, number]) for number in range(3)], axis=1)
    made = np.zeros(length)
    base = np.interp(grid, seconds, pitch)
    for harmonic in range(1, int(0.48 * rate / pitch.max()) + 1):
        strength = _resonance(harmonic * base, formants) / harmonic**2
        made += np.interp(seconds, grid, strength) * np.sin(2 * np.pi * harmonic * turns)
    # As lips do: 6 dB an octave.
    made = np.diff(made, prepend=0.0)
    edge = np.minimum(1, np.minimum(seconds, seconds[::-1]) / 0.03)
    made *= edge
    return made / level(made)


def record(label: str, voice: Voice, length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A window of `length` samples in which `label` is said somewhere, with noise, int16."""
    window = coloured_noise(1, length, rng)[0]
    if label != SILENCE:
        word = _unknown_word(rng) if label == UNKNOWN else label
        said = speak(word, voice, rate, rng)[:length]
        start = rng.integers(0, length - len(said) + 1)
        window *= 10 ** (-rng.uniform(5, 30) / 20)
        window[start : start + len(said)] += said
    loudness = 10 ** (rng.uniform(-35, -15) / 20)
    return to_samples(window * loudness * FULL_SCALE)


def _unknown_word(rng: np.random.Generator) -> str:
    while True:
        word = "".join(rng.choice(list(FORMANTS), rng.integers(2, 4)))
        if word not in WORDS:
            return word


def _resonance(frequency: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """How much a tract lets through at `frequency` (times,), with `formants` (times, 3)."""
    passed = np.ones_like(frequency)
    widths: Sequence[float] = BANDWIDTHS
    for number, width in enumerate(widths):
        centre = formants[:, number]
        passed *= centre**2 / np.sqrt((centre**2 - frequency**2) ** 2 + (width * frequency) ** 2)
    return passed
