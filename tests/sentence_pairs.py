"""Small made sentence pairs for tests: a letter for a letter, in another order."""

from __future__ import annotations

import numpy as np

from edge_dl.data.dataset import Dataset
from edge_dl.data.sentences import Pair, Pairs, tokenize
from edge_dl.recipe import DataConfig, Task

LETTERS = "abcdefgh"


def make_pairs(count: int, seed: int = 0, longest: int = 6) -> list[Pair]:
    """A word of letters and the same in capitals from behind, e.g. "cab" -> "BAC"; sources may come twice."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(LETTERS), rng.integers(2, longest + 1))) for _ in range(count)]
    return [(word, word[::-1].upper()) for word in words]


def make_dataset(count: int = 120, *, window: int = 0, longest: int = 6) -> Dataset:
    """Those pairs as tokens, a character each."""
    config = DataConfig("made", level="character", window=window)
    return tokenize(Pairs("made", {"all": make_pairs(count, longest=longest)}), config, Task.TRANSLATION, seed=0)
