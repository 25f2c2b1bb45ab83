"""Decoding loops for language models: greedy, temperature and top-k, over a `step` session.

The loops themselves live in the agent, because a device runs them too; here are their settings and the vocabulary as
values. A language model's bundle keeps its vocabulary in labels.txt, one token a line, escaped as `escape_label` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge_dl.errors import UsageError
from edge_dl.runtime import agent
from edge_dl.runtime.agent import Session


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0.0 takes the most likely token; else logits are divided by it before a draw.
        top_k: draw among the k most likely tokens; 0: among all.
        seed: of the draws; the same seed gives the same text on every machine whose model answers alike.
    """

    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in output order. Characters where every token is one (special ones such as <unk> aside), else words."""

    tokens: tuple[str, ...]

    @classmethod
    def from_labels(cls, lines: Iterable[str]) -> Vocabulary:
        """From the escaped lines of labels.txt (`Session.labels`, `Bundle.labels()`).

        Raises:
            UsageError: no lines, or an escape that `escape_label` does not write.
        """
        tokens = tuple(agent.unescape_label(line) for line in lines)
        if not tokens:
            raise UsageError("A language model's bundle must hold its vocabulary as labels.", received="no labels")
        return cls(tokens)

    def to_labels(self) -> tuple[str, ...]:
        """Escaped lines for labels.txt."""
        return tuple(agent.escape_label(token) for token in self.tokens)

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text; unknown ones become <unk> or [UNK] where the vocabulary has it.

        Raises:
            UsageError: an unknown token in a vocabulary without one for it.
        """
        return agent.encode(text, self.tokens)

    def decode(self, numbers: Sequence[int]) -> str:
        """Text of token numbers."""
        return agent.decode(numbers, self.tokens)


def generate(session: Session, prompt: Sequence[int], count: int, sampling: Sampling = Sampling()) -> Iterator[int]:
    """Yield `count` tokens that the model says after `prompt` (token numbers, at least one).

    Args:
        session: a `step` session of a language model; it is reset first.
        prompt: token numbers, fed before the first draw.
        count: tokens to yield.
        sampling: how each is chosen.

    Raises:
        UsageError: before the first token, for a session, prompt or setting that does not fit.
    """
    return agent.generate(
        session, prompt, count, temperature=sampling.temperature, top_k=sampling.top_k, seed=sampling.seed
    )


def generate_text(session: Session, prompt: str, count: int, sampling: Sampling = Sampling()) -> Iterator[str]:
    """Yield the pieces of text that the model says after `prompt`, one a token, ready to be joined by "".

    Raises:
        UsageError: as `generate`, or a prompt that the vocabulary cannot spell.
    """
    vocabulary = Vocabulary.from_labels(session.labels)
    separator = "" if agent.is_character_level(vocabulary.tokens) else " "
    numbers = generate(session, vocabulary.encode(prompt), count, sampling)
    return (separator + vocabulary.tokens[number] for number in numbers)
