"""From a model's next-token probabilities to whole sequences: greedy and beam search. NumPy only, for any device.

A decoder gives, step by step, the probability of every next token given the source and the tokens so far. Greedy
search takes the likeliest token each time. Beam search keeps the `beams` likeliest prefixes and ranks what is finished
by Wu et al. 2016 (Google's Neural Machine Translation System, equation 14): of a hypothesis Y for the source X

    score(Y) = log P(Y | X) / lp(Y) + coverage * sum_i log(min(sum_j p_ij, 1))
    lp(Y)    = ((5 + |Y|) / 6) ** length_penalty

where |Y| counts the tokens of Y and its end, and p_ij is the attention that token j of Y (its end included) pays to
source position i; padding and the source's end are no positions. Prefixes in the beam are of one length and are
compared by their log probability alone, as there.

How a beam grows and when it stops:

- Of all continuations of all prefixes, an end that is among the `beams` likeliest finishes its hypothesis; the
  `beams` likeliest that are no end live on.
- Log probabilities only fall and lp only grows, so a living prefix can reach log P / lp(longest) at most (the coverage
  term is at most 0). The search is over when the likeliest living prefix cannot get above the last of the `best`
  finished hypotheses that way: nothing that this beam would find later could change the answer.
- At `longest` tokens everything stops. Hypotheses without an end are given only where fewer than `best` have one.

Of equals the one that finished first counts as better, then the one from the better prefix, then the lower token:
every device gives the same. A probability of zero, which quantized models give, counts as the smallest float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge_dl.errors import StageError, UsageError
from edge_dl.text.subwords import BEGIN, END, PADDING

# No token is impossible: log 0 of a quantized softmax would make every later comparison one of infinities.
SMALLEST = float(np.finfo(np.float32).tiny)
# Attention below this is no attention. Rounded to integers it may be zero, and log 0 would outweigh everything else.
LEAST_ATTENTION = 1e-7
# Wu et al. used weights of at most 1. Far beyond, powers of a length are larger than any float64.
MOST_WEIGHT = 10
MOST_COUNT = 2**31 - 1


class Decoder(Protocol):
    """What a search asks of a model.

    Attributes:
        beams: the most hypotheses that one step takes.
        steps: tokens of a target that the model was made for, its end among them; 0: any number.
    """

    @property
    def beams(self) -> int:
        """The most hypotheses that one step takes."""

    @property
    def steps(self) -> int:
        """Tokens of a target that the model was made for, its end among them; 0: any number."""

    def begin(self, source: np.ndarray) -> None:
        """Take a source (S,) int32 of token numbers, padded with 0; every hypothesis starts at its states."""

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Give each hypothesis its next token.

        Args:
            tokens: (B,) int32. B is 1 or `beams`, the same from `begin` to `begin`.

        Returns:
            Probabilities (B, V) of the token after it, and the attention (B, S) that was paid to the source, or None.
        """

    def reorder(self, parents: np.ndarray) -> None:
        """Let hypothesis i go on from the states of hypothesis `parents[i]`; parents is (B,) of whole numbers."""


@dataclass(frozen=True)
class Search:
    """How to look for the best sequence.

    Attributes:
        beams: prefixes kept; 1 is greedy search. At most what the model takes in a step.
        length_penalty: exponent of lp, from 0 to 10; 0 ranks by probability, which favours short answers.
        coverage: weight of the coverage term, from 0 to 10, which favours answers that look at all of the source; needs
            attention.
        best: hypotheses to give, at most `beams`.
        longest: tokens a hypothesis may have, its end among them; 0: as many as the model was made for.
    """

    beams: int = 1
    length_penalty: float = 0.6
    coverage: float = 0.0
    best: int = 1
    longest: int = 0

    def check(self) -> None:
        """Raise a `UsageError` that names the setting that is out of its range."""
        for name, low in (("beams", 1), ("best", 1), ("longest", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MOST_COUNT:
                raise UsageError(
                    f"A search's {name} must be a whole number from {low} to {MOST_COUNT}.", received=repr(value)
                )
        for name in ("length_penalty", "coverage"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_WEIGHT:
                raise UsageError(f"A search's {name} must be a number from 0 to {MOST_WEIGHT}.", received=repr(value))
        if self.best > self.beams:
            raise UsageError(
                "A search gives at most as many hypotheses as it has beams.",
                received=f"best={self.best}, beams={self.beams}",
                todo=f"Ask for {self.best} beams, or for fewer hypotheses.",
            )


GREEDY = Search()


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A sequence that a search found.

    Attributes:
        tokens: token numbers, without begin and end.
        score: what hypotheses are ranked by (see above); higher is better, 0 the highest there is.
        log_probability: natural logarithm of its probability, that of its end included where it has one.
        attention: (tokens, S) that was paid to the source when each token was chosen; None where the model gives none.
        finished: whether the model ended it; False where the limit cut it off.
    """

    tokens: tuple[int, ...]
    score: float
    log_probability: float
    attention: np.ndarray | None
    finished: bool


def length_penalty(length: int, exponent: float) -> float:
    """lp of a hypothesis of `length` tokens, its end among them."""
    return ((5.0 + length) / 6.0) ** exponent


def coverage_penalty(attention: np.ndarray, weight: float) -> np.ndarray:
    """The coverage term for attention (..., S), summed over the target's tokens; S are the source's real positions."""
    return weight * np.log(np.clip(attention, LEAST_ATTENTION, 1.0)).sum(-1)


def search(decoder: Decoder, source: np.ndarray | Sequence[int], settings: Search = GREEDY) -> list[Hypothesis]:
    """The best sequences for a source, best first: `settings.best` of them, or as many as the beam found.

    Args:
        decoder: a model.
        source: (S,) token numbers as the model takes them: pieces, end, padding.
        settings: how to search.

    Raises:
        UsageError: a setting out of its range, more beams than the model takes, no limit to the length, coverage
            without attention, or answers that are no probabilities.
        StageError: the model answers NaN or infinity.
    """
    settings.check()
    source = np.asarray(source)
    if source.ndim != 1 or not source.size or source.dtype.kind not in "iu":
        raise UsageError(
            "A search's source must be a row of token numbers, at least one.",
            received=f"{source.dtype} of shape {list(source.shape)}",
        )
    if settings.beams > decoder.beams:
        raise too_many_beams(settings, decoder)
    longest = settings.longest or decoder.steps
    if not longest:
        raise UsageError("A search needs a limit to the length.", received="a model of any length", todo="Set longest.")
    decoder.begin(source.astype(np.int32))
    if settings.beams == 1:
        return [_greedy(decoder, source, settings, longest)]
    return _Beam(decoder, source, settings, longest).run()


def _greedy(decoder: Decoder, source: np.ndarray, settings: Search, longest: int) -> Hypothesis:
    """The likeliest token each time, until it is the end."""
    tokens: list[int] = []
    rows: list[np.ndarray] = []
    total, finished = 0.0, False
    scorer = _Scorer(source, settings)
    chooser = _Chooser(1)
    fed = np.array([BEGIN], np.int32)
    while len(rows) < longest and not finished:
        probabilities, attention = decoder.step(fed)
        picks, chances = chooser.likeliest(probabilities)
        token = int(picks[0, 0])
        total += math.log(min(max(float(chances[0, 0]), SMALLEST), 1.0))
        rows.append(scorer.checked(attention, 1)[0])
        finished = token == END
        if not finished:
            tokens.append(token)
            fed = np.array([token], np.int32)
    score = scorer.score(total, len(rows), np.sum(rows, 0) if settings.coverage else None)
    attention = scorer.attention(rows[: len(tokens)], rows[0].size)
    return Hypothesis(tuple(tokens), score, total, attention, finished)


class _Beam:
    """One beam search: what lives, what is finished, and the way back from each."""

    def __init__(self, decoder: Decoder, source: np.ndarray, settings: Search, longest: int) -> None:
        self.decoder, self.settings, self.longest = decoder, settings, longest
        self.scorer = _Scorer(source, settings)
        self.chooser = _Chooser(settings.beams + 1)  # One more than live on: an end does not.
        # Of each step: the tokens that were chosen, the rows they grew from, and the attention of those rows.
        self.tokens: list[np.ndarray] = []
        self.parents: list[np.ndarray] = []
        self.looked: list[np.ndarray] = []
        self.finished: list[Hypothesis] = []

    def run(self) -> list[Hypothesis]:
        """Search; best first."""
        decoder, width = self.decoder, self.decoder.beams
        # The model takes `width` hypotheses; those beyond the living ones follow the first and are not looked at.
        fed, parents = np.full(width, BEGIN, np.int32), np.zeros(width, np.intp)
        unmoved = np.arange(width)
        live = np.zeros(1)  # Log probabilities. All rows are alike before the first token: one of them is enough.
        covered: np.ndarray | None = None
        for length in range(1, self.longest + 1):
            probabilities, attention = decoder.step(fed)
            count = len(live)
            rows = self.scorer.checked(attention, count)
            self.looked.append(rows)
            if self.settings.coverage:
                covered = rows if covered is None else covered[parents[:count]] + rows
            picks, grown, chosen = self._grow(probabilities[:count], live, length, covered)
            live = grown
            count = len(live)
            self.tokens.append(picks)
            self.parents.append(chosen)
            if not count or self._decided(float(live[0])):
                break
            # New ones each time: a decoder may keep what it was given.
            fed, parents = fed.copy(), parents.copy()
            fed[:count], parents[:count] = picks, chosen
            if length < self.longest and not np.array_equal(parents[:count], unmoved[:count]):
                decoder.reorder(parents)
        return self._answer(live, covered)

    def _grow(
        self, probabilities: np.ndarray, live: np.ndarray, length: int, covered: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finish what ends here; gives tokens, log probabilities and rows of what lives on, likeliest first."""
        beams = self.settings.beams
        tokens, chances = self.chooser.likeliest(probabilities)
        totals = (live[:, np.newaxis] + np.log(np.clip(chances, SMALLEST, 1.0))).ravel()
        order = np.argsort(-totals, kind="stable")
        picked = tokens.ravel()[order]
        for place in np.flatnonzero(picked[:beams] == END).tolist():
            row = int(order[place]) // tokens.shape[1]
            self._finish(row, length, float(totals[order[place]]), None if covered is None else covered[row])
        on = order[picked != END][:beams]
        return tokens.ravel()[on], totals[on], on // tokens.shape[1]

    def _finish(self, row: int, length: int, total: float, covered: np.ndarray | None) -> None:
        """Add what ends in `row`, if it is among the best; of equals the first stays in front."""
        score, best = self.scorer.score(total, length, covered), self.settings.best
        if len(self.finished) == best and score <= self.finished[-1].score:
            return
        place = sum(other.score >= score for other in self.finished)
        tokens, attention = self._trace(row)
        self.finished.insert(place, Hypothesis(tokens, score, total, attention, finished=True))
        del self.finished[best:]

    def _decided(self, highest: float) -> bool:
        """Whether no living prefix can get among the best any more."""
        if len(self.finished) < self.settings.best:
            return False
        bound = highest / length_penalty(self.longest, self.settings.length_penalty)
        return bound <= self.finished[-1].score

    def _answer(self, live: np.ndarray, covered: np.ndarray | None) -> list[Hypothesis]:
        """The finished ones, filled up with those that the limit cut off."""
        found = list(self.finished)
        if len(found) == self.settings.best:
            return found
        cut = []
        for row, total in enumerate(live.tolist()):
            parent = int(self.parents[-1][row])
            score = self.scorer.score(total, len(self.tokens), None if covered is None else covered[parent])
            tokens, attention = self._trace(parent, int(self.tokens[-1][row]))
            cut.append(Hypothesis(tokens, score, total, attention, finished=False))
        cut.sort(key=lambda one: -one.score)
        return (found + cut)[: self.settings.best]

    def _trace(self, row: int, last: int | None = None) -> tuple[tuple[int, ...], np.ndarray | None]:
        """Tokens and attention of what stood in `row` at the last step, and of `last`, which was chosen in it."""
        tokens = [] if last is None else [last]
        looked = [] if last is None else [self.looked[-1][row]]
        for step in range(len(self.looked) - 2, -1, -1):
            tokens.append(int(self.tokens[step][row]))
            row = int(self.parents[step][row])
            looked.append(self.looked[step][row])
        return tuple(tokens[::-1]), self.scorer.attention(looked[::-1], self.looked[0].shape[1])


class _Chooser:
    """Picks the likeliest tokens of each hypothesis, checking what the model gives."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.copy: np.ndarray | None = None

    def likeliest(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The `count` likeliest tokens of each row and their probabilities, likeliest first, of equals the lowest.

        Padding and begin are never among them.
        """
        if self.copy is None:
            _check_probabilities(probabilities)
        if self.copy is None or len(self.copy) < len(probabilities):
            wide = np.float64 if probabilities.dtype == np.float64 else np.float32
            self.copy = np.empty(probabilities.shape, wide)
        left = self.copy[: len(probabilities)]
        left[...] = probabilities
        left[:, PADDING] = left[:, BEGIN] = -1
        count = min(self.count, left.shape[1] - 2)
        tokens, chances = np.empty((len(left), count), np.intp), np.empty((len(left), count))
        rows = np.arange(len(left))
        # A few passes of argmax are faster than argpartition over a vocabulary, and take the first of equals.
        for place in range(count):
            picked = left.argmax(1)
            tokens[:, place], chances[:, place] = picked, left[rows, picked]
            left[rows, picked] = -1
        # argmax takes NaN for the largest there is: none can hide behind the first place.
        if not np.isfinite(chances[:, 0]).all():
            raise _not_finite("probabilities")
        return tokens, chances


class _Scorer:
    """Scores what is finished, and keeps attention."""

    def __init__(self, source: np.ndarray, settings: Search) -> None:
        self.places = np.flatnonzero((source != PADDING) & (source != END))
        self.settings = settings
        self.attends = False

    def checked(self, attention: np.ndarray | None, count: int) -> np.ndarray:
        """The first `count` rows of a step's attention, as a copy; (count, 0) where there is none."""
        if attention is None:
            if self.settings.coverage:
                raise no_coverage()
            return np.zeros((count, 0), np.float32)
        self.attends = True
        rows = np.array(attention[:count], np.float32)
        if not np.isfinite(rows).all():
            raise _not_finite("attention")
        return rows

    def attention(self, rows: Sequence[np.ndarray], width: int) -> np.ndarray | None:
        """Rows (S,) of each token's attention as one array (tokens, S)."""
        return np.array(rows, np.float32).reshape(len(rows), width) if self.attends else None

    def score(self, total: float, length: int, covered: np.ndarray | None) -> float:
        """Equation 14 for `length` tokens with the log probability `total` and the attention `covered` (S,) in sum."""
        score = total / length_penalty(length, self.settings.length_penalty)
        if covered is None:
            return score
        return score + float(coverage_penalty(covered[self.places], self.settings.coverage))


def too_many_beams(settings: Search, decoder: Decoder) -> UsageError:
    """The error for more beams than a model takes."""
    return UsageError(
        f"The model takes {decoder.beams} hypothes{'is' if decoder.beams == 1 else 'es'} a step.",
        received=f"beams={settings.beams}",
        todo=f"Ask for at most {decoder.beams}, or convert the model again: --set conversion.beams={settings.beams}.",
    )


def no_coverage() -> UsageError:
    """The error for a coverage term without attention."""
    return UsageError(
        "The coverage term needs a model that gives its attention.",
        received="a model without attention",
        todo="Leave coverage at 0.",
    )


def _check_probabilities(given: np.ndarray) -> None:
    if given.ndim != 2 or given.shape[1] <= END or given.dtype.kind != "f":
        raise UsageError(
            f"A step must give probabilities (hypotheses, vocabulary), {END + 1} or more of them.",
            received=f"{given.dtype} of shape {list(given.shape)}",
        )
    if not np.isfinite(given).all():
        raise _not_finite("probabilities")
    total = given.sum(1, dtype=np.float64)
    # Rounded to integers they need not add up to exactly 1.
    if given.min() < 0 or np.abs(total - 1).max() > 0.1:
        raise UsageError(
            "A search needs probabilities, which add up to 1.",
            received=f"numbers from {given.min():g} to {given.max():g} that add up to {total[0]:g}",
            todo="End the model in a softmax.",
        )


def _not_finite(what: str) -> StageError:
    return StageError(
        f"A model's {what} must be finite.",
        stage="run",
        received="NaN or infinity",
        todo="Look for where they come from with `edge-dl verify` and `edge-dl debug`.",
    )
