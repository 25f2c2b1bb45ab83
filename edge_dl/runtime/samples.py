"""Samples of sound as a microphone gives them: int16."""

from __future__ import annotations

import numpy as np

FULL_SCALE = 32768  # int16 samples become numbers from -1 to 1


def to_samples(values: np.ndarray) -> np.ndarray:
    """Numbers in steps of 16 bits as int16 of the same shape; what would be louder than full scale is clipped."""
    return np.clip(np.rint(values), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
