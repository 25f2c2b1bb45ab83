"""Made noise, to mix with sounds."""

from __future__ import annotations

import numpy as np


def coloured_noise(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise from white to brown, (count, length) float64, of level 1: its power falls with frequency, up to squared."""
    slopes = rng.uniform(0, 2, (count, 1))
    frequencies = np.fft.rfftfreq(length)
    frequencies[0] = frequencies[1]
    white = np.fft.rfft(rng.standard_normal((count, length)))
    noise = np.fft.irfft(white * frequencies ** (-slopes / 2), length)
    return noise / level(noise)[:, None]


def level(values: np.ndarray) -> np.ndarray:
    """Root of the mean square along the last axis; of silence a number that makes no difference."""
    return np.maximum(np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=-1)), 1e-9)
