"""CTC decoding against all paths there are, and against TensorFlow's; golden files; what is refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.errors import UsageError
from edge_dl.files import load_npz
from edge_dl.runtime.ctc import SMALLEST, BestPath, best_path, collapse, prefix_beam_search, spell, write_golden


def probabilities(frames: int, classes: int, seed: int = 0, peaked: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, peaked), frames).astype(np.float32)


def enumerated(answer: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """Probability of every string of words: the sum over all paths that say it."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(answer.shape[1]), repeat=len(answer)):
        words, last = [], blank
        for number in path:
            if number != last and number != blank:
                words.append(number)
            last = number
        chance = math.prod(max(float(answer[frame, number]), SMALLEST) for frame, number in enumerate(path))
        found[tuple(words)] = found.get(tuple(words), 0.0) + chance
    return found


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_all_strings_is_exact(seed: int, blank: int) -> None:
    answer = probabilities(6, 3, seed)
    wanted = enumerated(answer, blank)
    found = prefix_beam_search(answer, width=len(wanted), blank=blank)
    assert {item.words for item in found} == set(wanted)
    for item in found:
        assert math.exp(item.log_probability) == pytest.approx(wanted[item.words], rel=1e-6)
    assert [item.log_probability for item in found] == sorted((item.log_probability for item in found), reverse=True)
    assert sum(math.exp(item.log_probability) for item in found) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_a_narrow_beam_keeps_less_and_never_more(seed: int) -> None:
    answer = probabilities(7, 3, seed)
    wanted = enumerated(answer, 0)
    for width in (1, 2, 5):
        found = prefix_beam_search(answer, width)
        assert len(found) <= width
        assert all(math.exp(item.log_probability) <= wanted[item.words] * (1 + 1e-6) for item in found)


def test_many_paths_beat_the_best_one() -> None:
    answer = np.array([[0.6, 0.4], [0.6, 0.4]])
    assert best_path(answer) == ()
    best = prefix_beam_search(answer)[0]
    assert best.words == (1,)
    assert math.exp(best.log_probability) == pytest.approx(0.64)


@pytest.mark.parametrize(
    ("path", "words"),
    [([0, 0], ()), ([1, 1, 1], (1,)), ([1, 0, 1], (1, 1)), ([0, 2, 2, 1, 0], (2, 1)), ([2, 1, 2], (2, 1, 2)), ([], ())],
)
def test_repetitions_are_one_word_unless_a_blank_parts_them(path: list[int], words: tuple[int, ...]) -> None:
    assert collapse(path) == words


@given(
    path=st.lists(st.integers(0, 3), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    blank=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_pieces_say_what_the_whole_says(path: list[int], cuts: list[int], blank: int, seed: int) -> None:
    """Words of pieces, cut anywhere and perhaps without frames, are those of the best path, each where it begins."""
    answer = 0.2 * np.random.default_rng(seed).random((len(path), 4))
    answer[np.arange(len(path)), path] = 1
    edges = [0, *sorted(min(cut, len(path)) for cut in cuts), len(path)]
    decoder, found = BestPath(blank), []
    for start, stop in itertools.pairwise(edges):
        found += [(start + frame, word) for frame, word in decoder.push(answer[start:stop])]
    assert tuple(word for _, word in found) == (best_path(answer, blank) if path else ())
    for frame, word in found:
        assert path[frame] == word
        assert frame == 0 or path[frame - 1] != word
    decoder.reset()
    if path:
        assert tuple(word for _, word in decoder.push(answer)) == best_path(answer, blank)


def test_pieces_must_be_answers() -> None:
    with pytest.raises(UsageError, match="must be"):
        BestPath().push(np.zeros(3))
    with pytest.raises(UsageError, match="blank 4"):
        BestPath(4).push(np.zeros((2, 4)))


@pytest.mark.parametrize("peaked", [0.1, 1.0])
def test_both_agree_with_tensorflow(peaked: float) -> None:
    tf = pytest.importorskip("tensorflow")
    answers = np.stack([probabilities(6, 4, seed, peaked) for seed in range(12)])
    answers = np.maximum(answers, SMALLEST)
    time_major = np.log(answers).transpose(1, 0, 2)
    lengths = np.full(len(answers), 6)
    (greedy,), _ = tf.nn.ctc_greedy_decoder(time_major, lengths, blank_index=0)
    # Its beam search has the blank last. The beams hold all strings: what theirs drops on the way is another than ours.
    rolled = np.roll(time_major, -1, axis=2)
    beams, logs = tf.nn.ctc_beam_search_decoder(rolled, lengths, beam_width=1_500, top_paths=2)
    paths = tf.sparse.to_dense(greedy, default_value=-1).numpy()
    strings = [tf.sparse.to_dense(beam, default_value=-1).numpy() + 1 for beam in beams]
    for row, answer in enumerate(answers):
        assert best_path(answer) == tuple(paths[row][paths[row] >= 0])
        # Rows do not sum to 1 any more where small numbers were raised; theirs normalizes them.
        found = prefix_beam_search(answer / answer.sum(axis=-1, keepdims=True), width=1_500)
        for number, string in enumerate(strings):
            assert found[number].words == tuple(string[row][string[row] > 0])
            assert found[number].log_probability == pytest.approx(float(logs[row, number]), abs=1e-4)


def test_ties_are_ordered_by_number() -> None:
    found = prefix_beam_search(np.full((1, 4), 0.25))
    assert [item.words for item in found] == [(), (1,), (2,), (3,)]
    assert best_path(np.full((3, 4), 0.25)) == ()


def test_what_int8_rounds_to_zero_is_not_impossible() -> None:
    answer = np.zeros((3, 3), np.float32)
    answer[[0, 1, 2], [1, 0, 2]] = 1
    assert prefix_beam_search(answer)[0].words == best_path(answer) == (1, 2)
    assert all(math.isfinite(item.log_probability) for item in prefix_beam_search(np.zeros((4, 3))))


def test_words_are_spelled_by_their_labels() -> None:
    assert spell((2, 1, 1), ("_blank_", "no", "yes")) == "yes no no"


def test_golden_answers_are_what_is_decoded(tmp_path: Path) -> None:
    answers = np.stack([probabilities(9, 4, seed) for seed in range(5)])
    write_golden(tmp_path / "ctc.npz", answers, width=3)
    golden = load_npz(tmp_path / "ctc.npz")
    assert golden["setting/width"] == 3
    np.testing.assert_array_equal(golden["in/probabilities"], answers)
    for row, answer in enumerate(golden["in/probabilities"]):
        path = golden["out/best_path"][row]
        assert tuple(path[path > 0]) == best_path(answer)
        for number, item in enumerate(prefix_beam_search(answer, 3)):
            words = golden["out/beam"][row, number]
            assert tuple(words[words > 0]) == item.words
            assert golden["out/log_probability"][row, number] == item.log_probability


@pytest.mark.parametrize(
    ("answer", "settings", "words"),
    [
        (np.ones((3,)), {}, "frames, classes"),
        (np.ones((0, 3)), {}, "frames, classes"),
        (np.ones((3, 3)), {"blank": 3}, "frames, classes"),
        (np.ones((3, 3)), {"width": 0}, "at least 1 wide"),
        (np.array([[-0.5, 1.5]]), {}, "softmax"),
        (np.array([[np.nan, 1.0]]), {}, "probabilities"),
    ],
)
def test_what_is_no_answer_is_refused(answer: np.ndarray, settings: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prefix_beam_search(answer, **settings)
