"""Same or not: how well the similarity of two samples tells whether they are of one class, and from where on to say so.

The receiver operating characteristic over all pairs (Fawcett 2006, Pattern Recognition Letters 27, 861-874).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.errors import UsageError

# Pairs beyond this are drawn at random: ten thousand samples make fifty million.
MOST_PAIRS = 2_000_000


@dataclass(frozen=True)
class Verification:
    """What pairs of samples say.

    Attributes:
        threshold: similarity from which a pair is called the same: where the share of the same pairs that are found
            exceeds the share of the others that are taken for the same by most (Youden's index).
        found: share of the pairs of one class at or above it.
        mistaken: share of the pairs of two classes at or above it.
        equal_error_rate: share of wrong answers where both kinds of error are equally frequent.
        area: area under the curve: the chance that a pair of one class is more alike than a pair of two.
        pairs: pairs looked at.
    """

    threshold: float
    found: float
    mistaken: float
    equal_error_rate: float
    area: float
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return dataclasses.asdict(self)


def verification(vectors: np.ndarray, classes: np.ndarray, *, seed: int = 0) -> Verification | None:
    """Compare all pairs; None where no two samples are of one class, or all are.

    Args:
        vectors: (samples, features) of length 1.
        classes: (samples,) class of each.
        seed: draws the pairs where there are more than two million.

    Raises:
        UsageError: the two do not hold the same number of samples.
    """
    if vectors.ndim != 2 or classes.shape != (len(vectors),):
        raise UsageError(
            "Each vector needs its class.", received=f"vectors of shape {vectors.shape}, classes of {classes.shape}"
        )
    first, second = _pairs(len(vectors), seed)
    same = classes[first] == classes[second]
    if same.all() or not same.any():
        return None
    similarity = np.einsum("ij,ij->i", vectors[first], vectors[second], dtype=np.float64)
    order = np.argsort(-similarity, kind="stable")
    similarity, same = similarity[order], same[order]
    # Pairs of equal similarity are called the same together: only the last of each counts.
    last = np.append(similarity[1:] != similarity[:-1], True)
    found = np.cumsum(same)[last] / same.sum()
    mistaken = np.cumsum(~same)[last] / (~same).sum()
    best = int(np.argmax(found - mistaken))
    even = int(np.argmin(np.abs(1 - found - mistaken)))
    width, height = np.diff(mistaken, prepend=0), np.append(0, found)
    area = float((width * (height[1:] + height[:-1]) / 2).sum())
    return Verification(
        threshold=float(similarity[last][best]),
        found=float(found[best]),
        mistaken=float(mistaken[best]),
        equal_error_rate=float((1 - found[even] + mistaken[even]) / 2),
        area=area,
        pairs=len(first),
    )


def _pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if count * (count - 1) // 2 <= MOST_PAIRS:
        return np.triu_indices(count, 1)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, count, MOST_PAIRS)
    return first, (first + rng.integers(1, count, MOST_PAIRS)) % count
