"""Pieces of words and their ids: cutting a text and joining it again, equal to SentencePiece in every id.

"unigram" takes the most likely way to cut (Kudo 2018), by Viterbi (1967) in float32 as SentencePiece does, so that
ways that are equally likely are decided alike; "word" cuts at spaces and "character" everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.text.normalization import SPACE, Normalization, Normalized

PADDING, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
KINDS = ("unigram", "word", "character")
# What an unknown character costs beside the least likely piece (SentencePiece's kUnkPenalty).
PENALTY = 10
# What an unknown piece is shown as (SentencePiece's unk_surface).
UNKNOWN_SURFACE = " \u2047 "


@dataclass(frozen=True)
class Subwords:
    """A vocabulary of pieces, and how text is cut into them.

    Attributes:
        kind: "unigram", "word" or "character".
        pieces: by id; the first four are "<pad>", "<unk>", "<s>" and "</s>". "▁" stands for a space.
        scores: log probability of each piece, rounded to float32; of the first four 0.
        normalization: what is done to a text before.

    Raises:
        UsageError: an unknown kind; pieces that are not distinct texts after those four; scores that are not finite,
            or not one a piece.
    """

    kind: str
    pieces: tuple[str, ...] = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    normalization: Normalization

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"Subwords must be of a kind of {', '.join(KINDS)}.", received=repr(self.kind))
        if self.pieces[:4] != SPECIAL or len(self.pieces) < 5:
            raise UsageError(
                f"A vocabulary must begin with {', '.join(SPECIAL)}, and have pieces after them.",
                received=f"{len(self.pieces)} pieces, the first {self.pieces[:4]}",
            )
        if len(set(self.pieces)) != len(self.pieces) or "" in self.pieces:
            raise UsageError("The pieces of a vocabulary must be distinct texts, none of them empty.")
        with np.errstate(over="ignore"):  # Too large for float32 becomes infinite, and is refused below.
            scores = np.asarray(self.scores, np.float32)
        if scores.shape != (len(self.pieces),) or not np.isfinite(scores).all():
            raise UsageError(
                "Each piece of a vocabulary needs a finite score.",
                received=f"{len(self.scores)} scores of {len(self.pieces)} pieces",
            )
        object.__setattr__(self, "scores", tuple(scores.tolist()))

    def __len__(self) -> int:
        """Ids there are."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without begin and end; a run of unknown pieces is one id 1. [] where nothing is left."""
        return [number for number, _, _ in self._cut(self.normalization.normalize(text))]

    def segment(self, text: str) -> list[tuple[int, str]]:
        """The ids of `text`, each with the part of the text that it was made of.

        The parts joined are the text, but for spaces at its ends. A part may be empty: "½" becomes "1⁄2", and only the
        last of its pieces holds it.
        """
        normalized = self.normalization.normalize(text)
        return [(number, normalized.surface(start, end)) for number, start, end in self._cut(normalized)]

    def decode(self, ids: Iterable[int], copies: Mapping[int, str] | None = None) -> str:
        """The text of `ids`; padding, begin and end are nothing, an unknown piece is " ⁇ ".

        Args:
            ids: of pieces.
            copies: by place in `ids`, what stands in place of an unknown piece. Where pieces are words a space comes
                before it, as before any other word.

        Raises:
            UsageError: there is no such id.
        """
        copies = copies or {}
        text = ""
        for place, number in enumerate(ids):
            if not 0 <= number < len(self.pieces):
                raise UsageError(f"Ids must lie between 0 and {len(self.pieces) - 1}.", received=str(number))
            if number == UNKNOWN:
                text += self._copied(copies[place], first=not text) if place in copies else UNKNOWN_SURFACE
            elif number >= len(SPECIAL):
                piece = self.pieces[number]
                text += (piece if text else piece.removeprefix(SPACE)).replace(SPACE, " ")
        return text

    def _copied(self, surface: str, *, first: bool) -> str:
        if self.kind == "word":
            surface = " " + surface.strip()
        return surface.lstrip() if first else surface

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces) if number >= len(SPECIAL)}

    @cached_property
    def _prefixes(self) -> dict[str, int]:
        """The id of each piece, and -1 for each beginning of a piece that is none itself."""
        found = dict.fromkeys((piece[:end] for piece in self._ids for end in range(1, len(piece))), -1)
        return found | self._ids

    @cached_property
    def _float_scores(self) -> list[np.float32]:
        """By id; of the unknown piece what it costs."""
        scores = list(np.asarray(self.scores, np.float32))
        scores[UNKNOWN] = min(scores[len(SPECIAL) :]) - np.float32(PENALTY)
        return scores

    def _cut(self, normalized: Normalized) -> list[tuple[int, int, int]]:
        """Id, start and end (excluded) of each piece, in characters of the normalized text."""
        text = normalized.text
        if self.kind == "unigram":
            ends = self._most_likely(text)
        elif self.kind == "word":
            ends = [*(place for place, letter in enumerate(text) if letter == SPACE and place), len(text)]
        else:
            ends = list(range(1, len(text) + 1))
        cut: list[tuple[int, int, int]] = []
        for start, end in pairwise([0, *ends] if text else ()):
            number = self._ids.get(text[start:end], UNKNOWN)
            if number == UNKNOWN and cut and cut[-1][0] == UNKNOWN:
                cut[-1] = UNKNOWN, cut[-1][1], end
            else:
                cut.append((number, start, end))
        return cut

    def _most_likely(self, text: str) -> Sequence[int]:
        """Ends of the pieces of the most likely way to cut `text`."""
        prefixes, scores = self._prefixes, self._float_scores
        size = len(text)
        # The best way to each place: what it scores and where its last piece starts; of equal ones the first found.
        best: list[np.float32 | None] = [None] * (size + 1)
        best[0] = np.float32(0)
        last = [0] * (size + 1)
        for start in range(size):
            here = best[start]
            assert here is not None  # One character is always a way, known or not.
            for end in range(start + 1, size + 1):
                number = prefixes.get(text[start:end])
                if end == start + 1 and (number is None or number < 0):
                    score = here + scores[UNKNOWN]
                elif number is None:
                    break
                elif number < 0:
                    continue
                else:
                    score = here + scores[number]
                before = best[end]
                if before is None or score > before:
                    best[end], last[end] = score, start
                if number is None:
                    break
        ends, end = [], size
        while end:
            ends.append(end)
            end = last[end]
        return ends[::-1]
