"""Features of sounds in NumPy alone: what the graph of a speech model computes, for devices and their golden vectors.

Frames without padding (a frame needs no sample that comes after it), a periodic Hann window, the power spectrum, mel
bands of equal width on the scale of HTK (Young et al., The HTK Book, 5.4) with triangular weights, the natural
logarithm, and for MFCC a DCT-II. That is `tf.signal`'s stft, linear_to_mel_weight_matrix and
mfccs_from_log_mel_spectrograms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.files import save_npz
from edge_dl.runtime.samples import FULL_SCALE

# Added to the power of a band. Noise of 14 steps of 16 bits has about that power in a band: what a room is never below.
# It also keeps float32 within 1e-4 of float64, but for a loud pure tone (2e-4); 1e-6 let 1e-3 through.
FLOOR = 1e-4
# A frame is put together from so many pieces at most: see `Spectrum.block`.
MOST_BLOCKS = 16


@dataclass(frozen=True)
class Spectrum:
    """How sounds become features.

    Attributes:
        rate: samples a second, in Hz.
        window: samples of a frame.
        hop: samples from the start of one frame to the next.
        bands: mel bands.
        lowest, highest: where the first band starts and the last one ends, in Hz.
        coefficients: MFCC to give, from the zeroth on; 0: the logarithm of the mel bands.

    Raises:
        UsageError: the numbers do not fit together; a band has no frequency of the spectrum in it.
    """

    rate: int
    window: int
    hop: int
    bands: int
    lowest: float
    highest: float
    coefficients: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.hop <= self.window:
            raise UsageError(
                "A frame must have samples, and the next one must start inside it or right behind it.",
                received=f"a window of {self.window} samples, a hop of {self.hop} at {self.rate} Hz",
            )
        if self.window // self.block > MOST_BLOCKS:
            raise UsageError(
                "Window and hop must be multiples of one number of samples, and the window "
                f"at most {MOST_BLOCKS} times that.",
                received=f"{self.window} and {self.hop} samples at {self.rate} Hz, which share {self.block}",
                todo="For example a window of 0.03 and a hop of 0.02 seconds, at 8,000 or 16,000 Hz.",
            )
        if not 0 <= self.lowest < self.highest <= self.rate / 2:
            raise UsageError(
                "Bands must lie between 0 and half the rate.",
                received=f"{self.lowest:g} to {self.highest:g} Hz at {self.rate} Hz",
            )
        if self.bands < 1 or not 0 <= self.coefficients <= self.bands:
            raise UsageError(
                "There must be mel bands, and no more coefficients than those.",
                received=f"{self.bands} bands, {self.coefficients} coefficients",
            )
        segment, rising, falling = mel_slopes(self)
        inside = np.bincount(segment, rising, self.bands + 1)[:-1] + np.bincount(segment, falling, self.bands + 1)[1:]
        if not inside.all():
            raise UsageError(
                "Every mel band must hold a frequency of the spectrum.",
                received=f"{self.bands} bands; number {int(np.argmin(inside > 0)) + 1} is narrower than "
                f"{self.rate / self.fft_length:g} Hz",
                todo="Choose fewer bands or a longer window.",
            )

    @property
    def fft_length(self) -> int:
        """The power of two that a frame is filled up to."""
        return 1 << (self.window - 1).bit_length()

    @property
    def block(self) -> int:
        """The largest number of samples that window and hop are multiples of: frames share whole blocks."""
        return math.gcd(self.window, self.hop)

    @property
    def size(self) -> int:
        """Features of a frame."""
        return self.coefficients or self.bands

    def frames(self, length: int) -> int:
        """Frames of a sound of `length` samples.

        Raises:
            UsageError: it is shorter than one frame.
        """
        if length < self.window:
            raise UsageError(
                "A sound must hold at least one frame.", received=f"{length} samples for a window of {self.window}"
            )
        return 1 + (length - self.window) // self.hop


def hann(length: int) -> np.ndarray:
    """The periodic Hann window, (length,) float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def mel_slopes(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangular mel bands as sums over segments of the spectrum.

    The edges of the bands cut the spectrum into bands + 1 segments. A frequency in segment s is on the rising side of
    band s and on the falling side of band s - 1, and nowhere else. Two sums by segment are so all bands, with three
    numbers a frequency instead of one for every band.

    Returns:
        For each frequency of the spectrum its segment (int32) and its weights on the rising and the falling side
        (float64). What lies in no band has weights 0.
    """

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    lowest, highest = mel(np.array([spectrum.lowest, spectrum.highest]))
    edges = np.linspace(lowest, highest, spectrum.bands + 2)
    frequencies = mel(np.arange(spectrum.fft_length // 2 + 1) * (spectrum.rate / spectrum.fft_length))
    place = (frequencies - edges[0]) / (edges[1] - edges[0])
    inside = (place >= 0) & (place < spectrum.bands + 1)
    segment = np.clip(np.floor(place), 0, spectrum.bands).astype(np.int32)
    rising = np.where(inside & (segment < spectrum.bands), place - segment, 0.0)
    falling = np.where(inside & (segment > 0), 1 - (place - segment), 0.0)
    return segment, rising, falling


def cosines(bands: int, coefficients: int) -> np.ndarray:
    """The DCT-II that makes MFCC of log-mel bands, (bands, coefficients) float64, scaled by sqrt(2 / bands) (HTK)."""
    angles = np.pi / bands * np.outer(np.arange(bands) + 0.5, np.arange(coefficients))
    return math.sqrt(2 / bands) * np.cos(angles)


def features(sounds: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Features of sounds, (sounds, frames, size) float32, computed in float64.

    Args:
        sounds: (sounds, samples) int16 at `spectrum.rate`.
        spectrum: what to compute.
    """
    count = spectrum.frames(sounds.shape[1])
    segment, rising, falling = mel_slopes(spectrum)
    window = hann(spectrum.window)
    starts = spectrum.hop * np.arange(count)[:, None] + np.arange(spectrum.window)
    bands = np.zeros((spectrum.fft_length // 2 + 1, spectrum.bands))
    for weights, first in ((rising, 0), (falling, -1)):
        rows = np.flatnonzero(weights)
        bands[rows, segment[rows] + first] = weights[rows]
    found = np.empty((len(sounds), count, spectrum.size), np.float32)
    for number, sound in enumerate(sounds):  # One by one: all frames of all sounds are a lot.
        frames = sound[starts] / FULL_SCALE * window
        power = np.square(np.abs(np.fft.rfft(frames, spectrum.fft_length)))
        values = np.log(power @ bands + FLOOR)
        found[number] = values @ cosines(spectrum.bands, spectrum.size) if spectrum.coefficients else values
    return found


def write_golden(path: str | Path, sounds: np.ndarray, spectrum: Spectrum) -> None:
    """Write sounds and their features, for code in another language to be held to.

    A .npz with `in/sound` (sounds, samples) int16, `out/features` (sounds, frames, size) float32, each setting as
    `setting/<name>`, and the tables `table/window`, `table/segment`, `table/rising`, `table/falling` and, for MFCC,
    `table/cosines`.
    """
    segment, rising, falling = mel_slopes(spectrum)
    tables = {"window": hann(spectrum.window), "rising": rising, "falling": falling}
    if spectrum.coefficients:
        tables["cosines"] = cosines(spectrum.bands, spectrum.coefficients)
    save_npz(
        path,
        {"in/sound": sounds, "out/features": features(sounds, spectrum), "table/segment": segment}
        | {f"table/{name}": table.astype(np.float32) for name, table in tables.items()}
        | {f"setting/{item.name}": np.array(getattr(spectrum, item.name)) for item in fields(spectrum)},
    )
