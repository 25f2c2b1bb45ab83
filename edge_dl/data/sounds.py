"""From a wav file to the samples that a microphone would give: one channel, one rate, 16 bits.

PCM of 8, 16, 24 and 32 bits and IEEE floats of 32 and 64, also as WAVE_FORMAT_EXTENSIBLE, RIFX and RF64, read by SciPy.
Channels are averaged. Another rate is resampled by SciPy's polyphase filter, which lets nothing above half the new rate
through. What is mono, 16 bits and of the right rate already comes out as it is stored.
"""

from __future__ import annotations

import io
import math
import warnings

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.runtime.samples import FULL_SCALE, to_samples

SUFFIXES = (".wav", ".wave")
RATES = (1_000, 384_000)  # Hz
# A sound whose share of samples at full scale is larger was too loud for its recorder.
CLIPPED_SHARE = 0.001


def is_sound(name: str) -> bool:
    """Whether a file's name is a wav file's."""
    return name.lower().endswith(SUFFIXES)


def decode(content: bytes) -> tuple[np.ndarray, int]:
    """What a wav file holds: samples (samples,) or (samples, channels) as stored, and its rate in Hz.

    24 bits come as the upper bits of int32.

    Raises:
        UsageError: it is no wav file, is compressed (A-law, MP3, ADPCM), is cut off, is empty, holds NaN or infinity,
            or has a rate that nothing records with.
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            # A file that ends before its header says so is warned of; chunks that are no sound are, too.
            warnings.filterwarnings("error", message="Reached EOF")
            warnings.simplefilter("ignore", append=True)
            rate, samples = wavfile.read(io.BytesIO(content))
    except wavfile.WavFileWarning as warning:
        raise UsageError("A wav file must be whole.", received=str(warning)) from None
    except Exception as error:  # Damage makes SciPy raise ValueError, struct.error, TypeError and others.
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = f"{len(content)} bytes: {what}" if content else "an empty file"
        raise UsageError("A sound must be a whole wav file of PCM or float samples.", received=kind) from None
    if not samples.size:
        raise UsageError("A sound must hold samples.", received="a wav file without any")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise UsageError("A sound must hold finite numbers.", received="a wav file with NaN or infinity")
    if not RATES[0] <= rate <= RATES[1]:
        raise UsageError(f"A sound's rate must be {RATES[0]} to {RATES[1]} Hz.", received=f"{rate} Hz")
    return samples, int(rate)


def as_samples(stored: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """One channel of int16 samples at `wanted` Hz, (samples,), from what `decode` gave at `rate` Hz."""
    if stored.dtype == np.int16 and stored.ndim == 1 and rate == wanted:
        return stored.astype(np.int16)  # In this machine's byte order: RIFX is stored in the other.
    values = _as_fractions(stored)
    if values.ndim == 2:
        values = values.mean(axis=1)
    if rate != wanted:
        from scipy.signal import resample_poly

        shared = math.gcd(rate, wanted)
        values = resample_poly(values, wanted // shared, rate // shared)
    return to_samples(values * FULL_SCALE)


def is_clipped(samples: np.ndarray) -> bool:
    """Whether int16 samples stand at full scale more often than a sound does that was not too loud."""
    full = np.count_nonzero((samples <= -FULL_SCALE + 1) | (samples >= FULL_SCALE - 1))
    return bool(full > CLIPPED_SHARE * samples.size)


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """`samples` as (length,): with zeros on both sides, or the loudest part of that length.

    A microphone's stream has the word anywhere in the window: in the middle it stands as far from both ends as it can.
    """
    spare = length - len(samples)
    if spare >= 0:
        return np.pad(samples, (spare // 2, spare - spare // 2))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return samples[start : start + length]


def _as_fractions(stored: np.ndarray) -> np.ndarray:
    """Numbers from -1 to 1, float64."""
    if stored.dtype.kind == "f":
        return stored.astype(np.float64)
    if stored.dtype.kind == "u":  # 8 bits are stored around 128.
        return (stored.astype(np.float64) - 128) / 128
    return stored / float(1 << (8 * stored.dtype.itemsize - 1))
