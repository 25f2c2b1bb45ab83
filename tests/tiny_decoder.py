"""A sequence model of a few numbers in NumPy, for tests of decoding: recurrent, with attention."""

from __future__ import annotations

import numpy as np

from edge_dl.runtime.search import BEGIN, END


class TinyDecoder:
    """An Elman network over token embeddings, with dot-product attention to the source.

    Attributes:
        calls: rows of every step, to see what was asked.
        moved: how often states were reordered.
    """

    def __init__(
        self, vocabulary: int = 7, *, beams: int = 1, steps: int = 6, seed: int = 0, sharp: float = 2.0,
        attends: bool = True, ends: float = 0.0,
    ) -> None:  # fmt: skip
        self.beams, self.steps, self.attends = beams, steps, attends
        generator = np.random.default_rng(seed)
        size = 5
        self.embedding = generator.normal(size=(vocabulary, size))
        self.recurrent = generator.normal(size=(size, size))
        self.output = generator.normal(size=(2 * size, vocabulary)) * sharp
        self.bias = np.zeros(vocabulary)
        self.bias[END] = ends
        self.calls: list[list[int]] = []
        self.moved = 0

    def begin(self, source: np.ndarray) -> None:
        self.memory = self.embedding[source]
        self.mask = np.where(source == 0, -np.inf, 0.0)
        self.states: np.ndarray | None = None

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        assert len(tokens) in (1, self.beams)
        assert tokens.dtype == np.int32
        if self.states is None:
            assert (tokens == BEGIN).all()
            self.states = np.tile(np.tanh(self.memory.mean(0)), (len(tokens), 1))
        assert len(tokens) == len(self.states)
        self.calls.append(tokens.tolist())
        self.states = np.tanh(self.embedding[tokens] + self.states @ self.recurrent)
        attention = softmax(self.states @ self.memory.T + self.mask)
        context = attention @ self.memory
        answer = softmax(np.concatenate([self.states, context], 1) @ self.output + self.bias)
        return answer.astype(np.float32), attention.astype(np.float32) if self.attends else None

    def reorder(self, parents: np.ndarray) -> None:
        assert self.states is not None
        self.moved += 1
        self.states = self.states[parents]


def softmax(values: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    grown = np.exp(values - values.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)
