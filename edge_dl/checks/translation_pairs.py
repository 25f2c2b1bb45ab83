"""Two runs that translated the same sentences, held against each other sentence by sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_dl.checks.corpus_scores import corpus_scores
from edge_dl.checks.statistics import Interval
from edge_dl.checks.translation import (
    CONFIDENCE,
    LENGTHS,
    REFERENCE,
    Counts,
    ReferenceAnswers,
    of_length,
    paired_scores,
)
from edge_dl.errors import UsageError
from edge_dl.files import load_npz

LONG = 9
"""Words from which a sentence is long: where a fixed vector between encoder and decoder begins to lack."""


@dataclass(frozen=True)
class Difference:
    """What the second of two systems loses of a score on the same sentences.

    Attributes:
        first, second: their scores, from 0 to 1.
        loss: first less second.
        interval: of the loss, by the paired bootstrap.
        sentences: number of them.
    """

    first: float
    second: float
    loss: float
    interval: Interval
    sentences: int


class TranslatedRun:
    """The translations of a run folder, as numbers a sentence.

    Attributes:
        variants: counts by variant.
        sentences: what was translated, with the right translations.
    """

    def __init__(self, run: Path) -> None:
        """Read a run folder.

        Raises:
            UsageError: it holds no translations, or damaged ones.
        """
        found = ReferenceAnswers.read(run / "export" / REFERENCE)
        self.sentences = [(item.source, item.references) for item in found.sentences]
        files = sorted((run / "checks" / "translations").glob("*.npz"))
        self.variants = {path.stem: Counts.of(load_npz(path)) for path in files}
        if not self.variants:
            raise UsageError("There must be a variant that was asked to translate.", received=str(run))

    def same_sentences(self, other: TranslatedRun) -> bool:
        """Whether both runs translated the same sentences, and all or the same ones of them."""
        lengths = {len(counts.words) for run in (self, other) for counts in run.variants.values()}
        return self.sentences == other.sentences and len(lengths) == 1

    @property
    def keras(self) -> Mapping[str, np.ndarray]:
        """Counts of the Keras model, by score."""
        return next(iter(self.variants.values())).reference

    @property
    def words(self) -> np.ndarray:
        """Words of each source."""
        return next(iter(self.variants.values())).words


def read_translated(run: str | Path) -> TranslatedRun | None:
    """The translations of a run folder; None where there are none, or damaged ones."""
    try:
        return TranslatedRun(Path(run))
    except UsageError:
        return None


def difference(
    name: str, first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], rows: np.ndarray | None = None,
    *, seed: int = 0,
) -> Difference | None:  # fmt: skip
    """A score of two systems on the same sentences.

    Args:
        name: "bleu" or "chrf".
        first, second: counts by score, (sentences, k) each.
        rows: which sentences count, (sentences,) bool; None: all.
        seed: seeds the bootstrap.

    Returns:
        None where a side has no such score, or no sentence counts.
    """
    score = next(item for item in corpus_scores() if item.name == name)
    if name not in first or name not in second:
        return None
    left, right = (side[name] if rows is None else side[name][rows] for side in (first, second))
    if not len(left):
        return None
    values, interval = paired_scores(score, left, right, confidence=CONFIDENCE, seed=seed)
    return Difference(*values, values[0] - values[1], interval, len(left))


def compare_runs(before: TranslatedRun, after: TranslatedRun) -> dict[str, dict[str, Difference]]:
    """What the Keras model ("") and each variant of both runs lose from `before` to `after`, by score.

    Returns:
        Nothing where they did not translate the same sentences.
    """
    if not before.same_sentences(after):
        return {}
    pairs = {"": (before.keras, after.keras)}
    pairs |= {
        name: (before.variants[name].variant, after.variants[name].variant)
        for name in after.variants
        if name in before.variants
    }
    found: dict[str, dict[str, Difference]] = {}
    for name, (first, second) in pairs.items():
        for score in corpus_scores():
            if (one := difference(score.name, first, second)) is not None:
                found.setdefault(name, {})[score.name] = one
    return found


def compare_lengths(first: TranslatedRun, second: TranslatedRun) -> list[tuple[int, int | None, Difference]]:
    """BLEU of both Keras models by words of the source, (shortest, longest or None, difference).

    All sentences come last, and before them those of `LONG` words and more where that is more than one group. Nothing
    where the sentences differ.
    """
    if not first.same_sentences(second):
        return []
    words = first.words
    found: list[tuple[int, int | None, Difference]] = []
    for shortest, longest in (*LENGTHS, (LONG, None), (0, None)):
        rows = of_length(words, shortest, longest)
        if shortest == LONG and longest is None and rows.sum() in [one.sentences for _, _, one in found[-1:]]:
            continue
        if (one := difference("bleu", first.keras, second.keras, rows)) is not None:
            found.append((shortest, longest, one))
    return found
