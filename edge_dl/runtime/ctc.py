"""From a CTC network's answers to words: best path and prefix beam search. NumPy only, to be repeated on a device.

A network of connectionist temporal classification (Graves, Fernandez, Gomez & Schmidhuber 2006) gives, for each frame,
a probability of every word and of the blank, which says nothing. A path is one class a frame; what it says is left
when repetitions are taken together and blanks away. Many paths say the same words, and their probabilities add up.

Best path decoding takes the most likely path (Graves 2012, chapter 7.5.1). Prefix beam search adds up the paths of
each prefix and keeps the best prefixes of a frame (Graves 2012, chapter 7.5.2, as in Hannun, Maas, Jurafsky & Ng 2014,
algorithm 1, without a language model).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.files import save_npz

BLANK = 0
WIDTH = 8
# An int8 softmax rounds what is small to zero; no word is impossible.
SMALLEST = 1e-7


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said.

    Attributes:
        words: class numbers, in order.
        log_probability: natural logarithm of the probability of all paths that the search kept for them.
    """

    words: tuple[int, ...]
    log_probability: float


def collapse(path: Sequence[int] | np.ndarray, blank: int = BLANK) -> tuple[int, ...]:
    """What a path (frames,) of class numbers says: repetitions taken together, blanks away."""
    path = np.asarray(path)
    first = np.concatenate([[True], path[1:] != path[:-1]]) if len(path) else np.zeros(0, bool)
    return tuple(int(number) for number in path[first & (path != blank)])


def best_path(answer: np.ndarray, blank: int = BLANK) -> tuple[int, ...]:
    """Words of the most likely path; of two classes that are equally likely in a frame, the first.

    Args:
        answer: (frames, classes) probabilities, or anything that grows with them.
        blank: number of the blank class.

    Raises:
        UsageError: the answer has another shape, or no such class.
    """
    _check(answer, blank)
    return collapse(answer.argmax(axis=-1), blank)


class BestPath:
    """`best_path` of an answer that comes in pieces: words as they come up, those at the border of two pieces once.

    Args:
        blank: number of the blank class.
    """

    def __init__(self, blank: int = BLANK) -> None:
        self._blank = blank
        self.reset()

    def reset(self) -> None:
        """Begin a new answer."""
        self._last = self._blank

    def push(self, answer: np.ndarray) -> list[tuple[int, int]]:
        """Words that come up in more frames, as (frame of this piece, class number), in order.

        Args:
            answer: (frames, classes), perhaps without frames; see `best_path`.

        Raises:
            UsageError: the answer has another shape, or no such class.
        """
        if not len(answer):
            return []
        _check(answer, self._blank)
        path = answer.argmax(axis=-1)
        before = np.concatenate([[self._last], path[:-1]])
        self._last = int(path[-1])
        return [(int(frame), int(path[frame])) for frame in np.flatnonzero((path != before) & (path != self._blank))]


def prefix_beam_search(probabilities: np.ndarray, width: int = WIDTH, blank: int = BLANK) -> list[Hypothesis]:
    """The most likely strings of words, best first, at most `width`.

    With a width of all strings there are, probabilities are exact. Prefixes that are equally likely are ordered by
    their numbers, so that every device keeps the same.

    Args:
        probabilities: (frames, classes) of one sample; below 1e-7 they count as that.
        width: prefixes kept from frame to frame.
        blank: number of the blank class.

    Raises:
        UsageError: probabilities have another shape or are none, there is no such class, or `width` is below 1.
    """
    _check(probabilities, blank)
    if width < 1:
        raise UsageError("A beam must be at least 1 wide.", received=f"width={width}")
    if not np.isfinite(probabilities).all() or probabilities.min() < 0:
        raise UsageError(
            "A beam search needs probabilities.",
            received=f"numbers from {probabilities.min():g} to {probabilities.max():g}",
            todo="Apply softmax first.",
        )
    logs = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))
    # Per prefix the paths that end with a blank, and those that end with its last word.
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in logs.tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (silent, spoken) in beam.items():
            either = _add(silent, spoken)
            held = spoken + frame[prefix[-1]] if prefix else -math.inf
            _put(grown, prefix, either + frame[blank], held)
            for word, log in enumerate(frame):
                if word == blank:
                    continue
                # The same word twice needs a blank between.
                before = silent if prefix and word == prefix[-1] else either
                _put(grown, (*prefix, word), -math.inf, before + log)
        best = sorted(grown.items(), key=lambda item: (-_add(*item[1]), item[0]))
        beam = dict(best[:width])
    return [Hypothesis(prefix, _add(*ends)) for prefix, ends in beam.items()]


def spell(words: Sequence[int], labels: Sequence[str]) -> str:
    """Words by class number as text, with a space between two."""
    return " ".join(labels[number] for number in words)


def write_golden(path: str | Path, probabilities: np.ndarray, width: int = WIDTH, blank: int = BLANK) -> None:
    """Write answers and what they say, for code in another language to be held to.

    A .npz with `in/probabilities` (samples, frames, classes) float32; `out/best_path` (samples, longest) int32;
    `out/beam` (samples, hypotheses, longest) int32, best first, and `out/log_probability` (samples, hypotheses)
    float64; `setting/width`, `setting/blank`, `setting/smallest`. Behind the last word stands the blank; a hypothesis
    that there is not has the log probability -inf.

    Args:
        path: the file.
        probabilities: (samples, frames, classes).
        width: of the beam.
        blank: number of the blank class.
    """
    probabilities = np.asarray(probabilities, np.float32)
    greedy = [best_path(sample, blank) for sample in probabilities]
    beams = [prefix_beam_search(sample, width, blank) for sample in probabilities]
    longest = max(1, *map(len, greedy), *(len(item.words) for beam in beams for item in beam))
    kept = max(map(len, beams))
    words = np.full((len(beams), kept, longest), blank, np.int32)
    logs = np.full((len(beams), kept), -np.inf)
    paths = np.full((len(beams), longest), blank, np.int32)
    for row, (single, beam) in enumerate(zip(greedy, beams, strict=True)):
        paths[row, : len(single)] = single
        for number, item in enumerate(beam):
            words[row, number, : len(item.words)] = item.words
            logs[row, number] = item.log_probability
    save_npz(
        path,
        {
            "in/probabilities": probabilities,
            "out/best_path": paths,
            "out/beam": words,
            "out/log_probability": logs,
            "setting/width": np.array(width),
            "setting/blank": np.array(blank),
            "setting/smallest": np.array(SMALLEST),
        },
    )


def _put(
    beam: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], silent: float, spoken: float
) -> None:
    before = beam.get(prefix, (-math.inf, -math.inf))
    beam[prefix] = _add(before[0], silent), _add(before[1], spoken)


def _add(first: float, second: float) -> float:
    """log(exp(first) + exp(second))."""
    if first < second:
        first, second = second, first
    return first if second == -math.inf else first + math.log1p(math.exp(second - first))


def _check(answer: np.ndarray, blank: int) -> None:
    if answer.ndim != 2 or not len(answer) or not 0 <= blank < answer.shape[1]:
        raise UsageError(
            "A CTC answer must be (frames, classes), the blank among the classes.",
            received=f"shape {answer.shape}, blank {blank}",
        )
