"""Greedy and beam search against all sequences there are and against a plain beam search; limits, ties, bad models."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_decoder import TinyDecoder

from edge_dl.errors import StageError, UsageError
from edge_dl.runtime.search import (
    BEGIN,
    END,
    LEAST_ATTENTION,
    MOST_COUNT,
    MOST_WEIGHT,
    PADDING,
    SMALLEST,
    Hypothesis,
    Search,
    length_penalty,
    search,
)

SOURCE = np.array([4, 5, 4, 6, END, PADDING, PADDING], np.int32)
PLACES = 4  # of SOURCE that are pieces


@dataclasses.dataclass(frozen=True)
class Scored:
    """A hypothesis as the tests compute it."""

    score: float
    tokens: tuple[int, ...]
    total: float
    attention: np.ndarray
    finished: bool


def follow(decoder: TinyDecoder, tokens: tuple[int, ...], settings: Search, *, finished: bool) -> Scored:
    """Equation 14 of one sequence, from one run of the model over it, in a form that looks nothing like the search."""
    single = TinyDecoder.__new__(TinyDecoder)
    single.__dict__.update(decoder.__dict__, beams=1, calls=[])
    single.begin(SOURCE)
    total, looked, last = 0.0, [], BEGIN
    for token in (*tokens, END) if finished else tokens:
        probabilities, attention = single.step(np.array([last], np.int32))
        total += math.log(max(float(probabilities[0, token]), SMALLEST))
        looked.append(np.zeros(len(SOURCE)) if attention is None else attention[0].astype(np.float64))
        last = token
    score = total / ((5 + len(looked)) ** settings.length_penalty / 6**settings.length_penalty)
    for place in range(PLACES if settings.coverage else 0):
        score += settings.coverage * math.log(min(max(sum(row[place] for row in looked), LEAST_ATTENTION), 1.0))
    return Scored(score, tokens, total, np.array(looked[: len(tokens)]).reshape(len(tokens), len(SOURCE)), finished)


def enumerated(decoder: TinyDecoder, settings: Search, longest: int) -> list[Scored]:
    """All sequences that end within `longest` tokens, best first."""
    allowed = [token for token in range(decoder.output.shape[1]) if token not in (PADDING, BEGIN, END)]
    found = [
        follow(decoder, tokens, settings, finished=True)
        for length in range(longest)
        for tokens in itertools.product(allowed, repeat=length)
    ]
    return sorted(found, key=lambda one: (-one.score, len(one.tokens), one.tokens))


def plain_beam(decoder: TinyDecoder, settings: Search, longest: int) -> list[Scored]:
    """Beam search as in a textbook: prefixes as tuples, everything computed anew, never stopped before the limit."""
    live: list[tuple[int, ...]] = [()]
    finished: list[Scored] = []
    vocabulary = decoder.output.shape[1]
    for _ in range(longest):
        grown = [
            (follow(decoder, (*prefix, token), settings, finished=False).total, place, token)
            for place, prefix in enumerate(live)
            for token in range(vocabulary)
            if token not in (PADDING, BEGIN)
        ]
        grown.sort(key=lambda one: (-one[0], one[1], one[2]))
        for _, place, token in grown[: settings.beams]:
            if token == END:
                finished.append(follow(decoder, live[place], settings, finished=True))
        live = [(*live[place], token) for _, place, token in grown if token != END][: settings.beams]
    finished.sort(key=lambda one: -one.score)
    cut = sorted((follow(decoder, prefix, settings, finished=False) for prefix in live), key=lambda one: -one.score)
    return (finished + cut)[: settings.best]


def compare(found: list[Hypothesis], wanted: list[Scored], *, attends: bool = True) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert one.log_probability == pytest.approx(other.total, rel=1e-5)
        assert one.finished == other.finished
        if attends:
            assert one.attention is not None
            np.testing.assert_allclose(one.attention, other.attention, atol=1e-6)
        else:
            assert one.attention is None


@pytest.mark.parametrize(("penalty", "coverage"), [(0.0, 0.0), (0.6, 0.0), (1.0, 0.2), (0.6, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_all_sequences_is_exact(seed: int, penalty: float, coverage: float) -> None:
    longest, width = 4, 4**3 * 5
    settings = Search(beams=width, length_penalty=penalty, coverage=coverage, best=30, longest=longest)
    decoder = TinyDecoder(beams=width, seed=seed)
    wanted = enumerated(decoder, settings, longest)
    assert len(wanted) == 1 + 4 + 16 + 64
    compare(search(decoder, SOURCE, settings), wanted[:30])


@pytest.mark.parametrize("ends", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize(("beams", "best"), [(2, 1), (3, 3), (4, 2), (8, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_a_narrow_beam_is_the_plain_one(seed: int, beams: int, best: int, ends: float) -> None:
    settings = Search(beams=beams, best=best, coverage=0.3 * (seed % 2), longest=6)
    decoder = TinyDecoder(9, beams=beams, seed=seed, ends=ends)
    compare(search(decoder, SOURCE, settings), plain_beam(decoder, settings, 6))


@pytest.mark.parametrize("seed", range(6))
def test_greedy_takes_the_likeliest_each_time(seed: int) -> None:
    decoder = TinyDecoder(12, seed=seed, steps=8)
    (found,) = search(decoder, SOURCE)
    decoder.begin(SOURCE)
    last, tokens = BEGIN, []
    for _ in range(8):
        chances = decoder.step(np.array([last], np.int32))[0][0]
        last = max((token for token in range(12) if token not in (PADDING, BEGIN)), key=lambda one: chances[one])
        if last == END:
            break
        tokens.append(last)
    compare([found], [follow(decoder, tuple(tokens), Search(), finished=last == END)])


def test_a_beam_narrower_than_the_model_is_as_good_as_its_own() -> None:
    wide, own = TinyDecoder(9, beams=5, seed=3), TinyDecoder(9, beams=2, seed=3)
    settings = Search(beams=2, best=2)
    one, other = search(wide, SOURCE, settings), search(own, SOURCE, settings)
    assert [item.tokens for item in one] == [item.tokens for item in other]
    assert all(len(call) == 5 for call in wide.calls)
    # Greedy search of the same model takes a step of one hypothesis.
    search(wide, SOURCE)
    assert len(wide.calls[-1]) == 1


def test_it_stops_when_nothing_can_win_any_more_and_not_before() -> None:
    """A model that nearly always ends is not asked to the limit; one whose good answer is long is."""

    def model(chances: Callable[[int], list[float]]) -> Scripted:
        return Scripted(chances, beams=2, steps=40)

    early = model(lambda step: [0, 0, 0, 0.9, 0.06, 0.04])
    assert search(early, SOURCE, Search(beams=2))[0].tokens == ()
    assert early.count == 1
    # Ending at once has log 0.3 = -1.2; four certain tokens after log 0.7 come to -0.36 / lp.
    late = model(lambda step: [0, 0, 0, 0.3, 0.7, 0] if step == 0 else [0, 0, 0, step == 4, step != 4, 0])
    assert search(late, SOURCE, Search(beams=2))[0].tokens == (4, 4, 4, 4)
    # A long way of small losses that the length penalty pays for: a rule that stopped at the first end would miss it.
    paid = model(lambda step: [0, 0, 0, 0.5, 0.5, 0] if step == 0 else [0, 0, 0, step == 30, step != 30, 0])
    assert len(search(paid, SOURCE, Search(beams=2, length_penalty=1.0))[0].tokens) == 30
    assert search(paid, SOURCE, Search(beams=2, length_penalty=0.0))[0].tokens == ()


def test_what_the_limit_cuts_is_not_finished() -> None:
    endless = Scripted(lambda step: [0, 0, 0, 0, 0.6, 0.4], beams=3, steps=5)
    (greedy,) = search(endless, SOURCE)
    assert greedy.tokens == (4,) * 5
    assert not greedy.finished
    found = search(endless, SOURCE, Search(beams=3, best=3, longest=2))
    assert [one.tokens for one in found] == [(4, 4), (4, 5), (5, 4)]
    assert not any(one.finished for one in found)
    # One finished, the rest cut: the finished one first, however improbable.
    some = Scripted(lambda step: [0, 0, 0, 0.1, 0.9, 0], beams=2, steps=3)
    found = search(some, SOURCE, Search(beams=2, best=2, longest=1))
    assert [(one.tokens, one.finished) for one in found] == [((), True), ((4,), False)]


def test_a_longer_limit_than_the_models_own_is_kept() -> None:
    endless = Scripted(lambda step: [0, 0, 0, 0, 1.0, 0], steps=5)
    assert len(search(endless, SOURCE, Search(longest=9))[0].tokens) == 9


def test_equals_are_ordered_by_their_numbers() -> None:
    even = Scripted(lambda step: [0.0, 0.25, 0, 0.25, 0.25, 0.25], beams=4, steps=3)
    found = search(even, SOURCE, Search(beams=4, best=4, length_penalty=0.0))
    assert [one.tokens for one in found] == [(), (1,), (1, 1), (1, 1, 1)]
    assert [one.finished for one in found] == [True, True, True, False]
    assert search(even, SOURCE)[0].tokens == (1, 1, 1)
    wide = Scripted(lambda step: [0, 0, 0, 0] + [1 / 60] * 60, beams=30, steps=2)
    found = search(wide, SOURCE, Search(beams=30, best=30))
    assert [one.tokens for one in found] == [(4, token) for token in range(4, 34)]


def test_of_equals_the_shorter_is_first_and_the_longer_is_not_waited_for() -> None:
    even = Scripted(lambda step: [0, 0, 0, 0.5, 0.5, 0] if step == 0 else [0, 0, 0, 1.0, 0, 0], beams=2, steps=9)
    found = search(even, SOURCE, Search(beams=2, best=2, length_penalty=0.0))
    assert [one.tokens for one in found] == [(), (4,)]
    assert found[0].score == found[1].score
    assert [one.tokens for one in search(even, SOURCE, Search(beams=2, length_penalty=0.0))] == [()]
    assert even.count == 1


def test_padding_and_begin_are_never_said() -> None:
    odd = Scripted(lambda step: [0.5, 0, 0.4, 0.01, 0.05, 0.04], beams=3, steps=4)
    for settings in (Search(), Search(beams=3, best=3)):
        for one in search(odd, SOURCE, settings):
            assert not {PADDING, BEGIN} & set(one.tokens)


def test_zeros_of_a_quantized_model_are_only_very_unlikely() -> None:
    certain = Scripted(lambda step: [0, 0, 0, float(step == 2), float(step != 2), 0], beams=4, steps=4)
    found = search(certain, SOURCE, Search(beams=4, best=4))
    assert found[0].tokens == (4, 4)
    assert found[0].score == 0.0
    assert all(math.isfinite(one.score) for one in found)
    assert len({one.tokens for one in found}) == 4
    nothing = Scripted(lambda step: [1.0, 0, 0, 0, 0, 0], beams=2, steps=3)
    assert math.isfinite(search(nothing, SOURCE)[0].score)


def test_attention_of_nothing_weighs_much_and_not_infinitely() -> None:
    blind = Scripted(lambda step: [0, 0, 0, 1.0, 0, 0], beams=2, attention=lambda step: [1.0, 0, 0, 0, 0, 0, 0])
    found = search(blind, SOURCE, Search(beams=2, coverage=0.5))[0]
    assert found.score == pytest.approx(0.5 * 3 * math.log(LEAST_ATTENTION))
    # The source's end and padding need no look.
    seeing = Scripted(lambda step: [0, 0, 0, 1.0, 0, 0], beams=2, attention=lambda step: [1, 1, 1, 1, 0, 0, 0])
    assert search(seeing, SOURCE, Search(beams=2, coverage=0.5))[0].score == 0.0


def test_a_vocabulary_smaller_than_the_beam() -> None:
    small = Scripted(lambda step: [0, 0, 0, 0.4, 0.6], beams=8, steps=3)
    found = search(small, SOURCE, Search(beams=8, best=8))
    assert len({one.tokens for one in found}) == len(found) == 8
    only = Scripted(lambda step: [0, 0, 0, 1.0], beams=4, steps=3)
    assert [one.tokens for one in search(only, SOURCE, Search(beams=4, best=1))] == [()]


def test_a_decoder_may_reuse_its_arrays() -> None:
    held = np.empty((3, 8), np.float32), np.empty((3, len(SOURCE)), np.float32)

    class Reusing(TinyDecoder):
        def step(self, tokens: np.ndarray) -> Any:
            chances, attention = super().step(tokens)
            assert attention is not None
            for kept, answer in zip(held, (chances, attention), strict=True):
                kept[...] = answer
            return held

    settings = Search(beams=3, best=3, coverage=0.4)
    fresh = search(TinyDecoder(8, beams=3, seed=2), SOURCE, settings)
    reused = search(Reusing(8, beams=3, seed=2), SOURCE, settings)
    for one, other in zip(fresh, reused, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_array_equal(one.attention, other.attention)


def test_a_decoder_may_keep_what_it_is_given() -> None:
    class Keeping(TinyDecoder):
        def __init__(self, beams: int) -> None:
            super().__init__(9, beams=beams, seed=3)
            self.kept: list[tuple[np.ndarray, np.ndarray]] = []

        def step(self, tokens: np.ndarray) -> Any:
            self.kept.append((tokens, tokens.copy()))
            return super().step(tokens)

        def reorder(self, parents: np.ndarray) -> None:
            self.kept.append((parents, parents.copy()))
            super().reorder(parents)

    for beams in (1, 4):
        decoder = Keeping(beams)
        search(decoder, SOURCE, Search(beams=beams))
        assert len({given.tobytes() for given, _ in decoder.kept}) > 1
        for given, then in decoder.kept:
            np.testing.assert_array_equal(given, then)


def test_states_stay_where_they_are_if_no_hypothesis_moved() -> None:
    """After the first token, for which both beams grow from one row, their ranks never change."""
    steady = Scripted(
        lambda step: [0, 0, 0, 0, 0.6, 0.4] if step == 0 else [0, 0, 0, step == 4, step != 4, 0], beams=2, steps=6
    )
    assert [one.tokens for one in search(steady, SOURCE, Search(beams=2, best=2))] == [(4, 4, 4, 4), (5, 4, 4, 4)]
    assert steady.count == 5
    assert steady.moved == [[0, 0]]


def test_states_move_with_their_hypotheses() -> None:
    class Turning(Scripted):
        """After the less likely token 5 all is certain; after token 4 it is not, and its beam falls behind."""

        def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            chances, looked = super().step(tokens)
            chances[tokens == 5] = [0, 0, 0, 0, 0, 1]
            return chances, looked

    turning = Turning(lambda step: [0, 0, 0, 0, 0.6, 0.4] if step == 0 else [0, 0, 0, 0, 0.5, 0.5], beams=2, steps=3)
    found = search(turning, SOURCE, Search(beams=2, best=2, longest=3))
    assert [one.tokens for one in found] == [(5, 5, 5), (4, 4, 4)]
    assert turning.moved == [[0, 0], [1, 0]]
    both = Scripted(lambda step: [0, 0, 0, 0, 0.6, 0.4], beams=2, steps=3)
    assert [one.tokens for one in search(both, SOURCE, Search(beams=2, best=2))] == [(4, 4, 4), (4, 4, 5)]
    assert both.moved == [[0, 0], [0, 0]], "both grow from the better one each time"


def test_without_attention() -> None:
    decoder = TinyDecoder(9, beams=3, seed=1, attends=False)
    settings = Search(beams=3, best=2)
    compare(search(decoder, SOURCE, settings), plain_beam(decoder, settings, 6), attends=False)
    assert search(decoder, SOURCE)[0].attention is None
    with pytest.raises(UsageError, match="needs a model that gives its attention"):
        search(decoder, SOURCE, Search(beams=3, coverage=0.1))
    with pytest.raises(UsageError, match="needs a model that gives its attention"):
        search(decoder, SOURCE, Search(coverage=0.1))


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number_is_an_error_that_says_so(value: float, when: int, beams: int) -> None:
    broken = Scripted(lambda step: [0, 0, 0, 0, 0.5, value if step == when else 0.5], beams=beams, steps=5)
    with pytest.raises(StageError, match="probabilities must be finite"):
        search(broken, SOURCE, Search(beams=beams))
    blind = Scripted(
        lambda step: [0, 0, 0, 0, 0.5, 0.5], beams=beams, attention=lambda step: [value if step == when else 0] * 7
    )
    with pytest.raises(StageError, match="attention must be finite"):
        search(blind, SOURCE, Search(beams=beams))


@pytest.mark.parametrize("row", [[0, 1, 2, 3, 4, 5], [-1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
def test_scores_that_are_no_probabilities_are_refused(row: list[float]) -> None:
    with pytest.raises(UsageError, match="probabilities, which add up to 1"):
        search(Scripted(lambda step: row), SOURCE)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (Search(beams=0), "beams must be a whole number from 1"),
        (Search(beams=True), "beams must be a whole number"),
        (Search(best=0), "best must be"),
        (Search(longest=-1), "longest must be"),
        (Search(length_penalty=-0.1), "length_penalty must be a number from 0"),
        (Search(length_penalty=math.nan), "length_penalty"),
        (Search(length_penalty=1000.0), r"length_penalty must be a number from 0 to 10\. Received: 1000\.0"),
        (Search(coverage=math.inf), "coverage"),
        (Search(coverage=1e300), "coverage must be a number from 0 to 10"),
        (Search(longest=10**400), "longest must be a whole number from 0 to 2147483647"),
        (Search(beams=2, best=3), "as many hypotheses as it has beams"),
        (Search(beams=5), r"takes 4 hypotheses a step\. Received: beams=5\. Ask for at most 4"),
    ],
)
def test_settings_are_checked(settings: Search, match: str) -> None:
    decoder = TinyDecoder(beams=4)
    with pytest.raises(UsageError, match=match):
        search(decoder, SOURCE, settings)
    assert not decoder.calls


def test_the_largest_settings_there_are() -> None:
    decoder = TinyDecoder(9, beams=4, seed=1, ends=2.0)
    settings = Search(beams=4, best=4, length_penalty=10, coverage=10, longest=300)
    found = search(decoder, SOURCE, settings)
    assert all(math.isfinite(one.score) for one in found)
    assert math.isfinite(length_penalty(MOST_COUNT, MOST_WEIGHT))


@pytest.mark.parametrize("source", [np.zeros(0, np.int32), np.zeros((1, 4), np.int32), np.zeros(4)])
def test_a_source_is_a_row_of_numbers(source: np.ndarray) -> None:
    with pytest.raises(UsageError, match="row of token numbers"):
        search(TinyDecoder(), source)


def test_a_model_of_any_length_needs_a_limit() -> None:
    with pytest.raises(UsageError, match="limit to the length"):
        search(TinyDecoder(steps=0), SOURCE)
    assert search(TinyDecoder(steps=0), SOURCE, Search(longest=3))


class Scripted:
    """A decoder whose answers a test writes: the same for every hypothesis of a step.

    Attributes:
        moved: the parents of every reordering.
    """

    def __init__(
        self, chances: Callable[[int], list[Any]], *, beams: int = 1, steps: int = 6,
        attention: Callable[[int], list[float]] | None = None,
    ) -> None:  # fmt: skip
        self.chances, self.beams, self.steps, self.attention = chances, beams, steps, attention
        self.moved: list[list[int]] = []

    def begin(self, source: np.ndarray) -> None:
        self.count = 0

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        row = np.array(self.chances(self.count), np.float32)
        looked = None if self.attention is None else np.array(self.attention(self.count), np.float32)
        self.count += 1
        return np.tile(row, (len(tokens), 1)), None if looked is None else np.tile(looked, (len(tokens), 1))

    def reorder(self, parents: np.ndarray) -> None:
        self.moved.append(parents.tolist())
