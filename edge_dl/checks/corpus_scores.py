"""BLEU and chrF of a corpus, from numbers a sentence: so an interval or a comparison costs one matrix product.

sacrebleu counts; what it makes of the counts is repeated here for many resamples at once, and is the same to the last
digit that a report shows (a test holds both together). Settings are sacrebleu's own: BLEU on text as it is written,
tokenized as mteval-v13a does, with exponential smoothing (Post, A Call for Clarity in Reporting BLEU Scores, WMT 2018);
chrF of character 6-grams, beta 2 (Popović, chrF: character n-gram F-score, WMT 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from edge_dl.errors import missing_extra

UNIT = "score"
"""Unit of BLEU and chrF: 0.412 is shown as 41.2, as everybody writes them."""

ORDERS = 4  # of BLEU's n-grams
CHARACTER_ORDERS, BETA = 6, 2  # of chrF


class CorpusScore:
    """A score of a whole corpus. Subclasses fill in the class attributes and `value`."""

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self) -> None:
        self._metric: Any = None

    def rows(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """Counts, shape (sentences, k) int64, by sacrebleu.

        Args:
            texts: translations, as a reader sees them.
            references: of each sentence all translations that are right, at least one; their number may differ.

        Raises:
            UsageError: sacrebleu is not installed.
        """
        if not texts:
            return np.zeros((0, 0), np.int64)
        self._metric = self._make(require_sacrebleu())
        most = max(map(len, references))
        # One stream for the first references, one for the second, ..; None where a sentence has no more.
        streams = [[own[place] if place < len(own) else None for own in references] for place in range(most)]
        # What `corpus_score` and sacrebleu's own bootstrap begin with; there is no public name for it.
        return np.array(self._metric._extract_corpus_statistics(list(texts), streams), np.int64)

    def signature(self) -> str:
        """How the last rows were counted, in sacrebleu's words."""
        return "" if self._metric is None else str(self._metric.get_signature())

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Scores, shape (...), from 0 to 1, of summed counts of shape (..., k)."""
        raise NotImplementedError

    def drop(self, reference: np.ndarray, variant: np.ndarray) -> np.ndarray:
        """What the variant loses, from the two sums of shape (..., k)."""
        return self.value(reference) - self.value(variant)

    def _make(self, sacrebleu: Any) -> Any:
        raise NotImplementedError


class Bleu(CorpusScore):
    """BLEU (Papineni et al., ACL 2002)."""

    name, title = "bleu", "BLEU"

    def value(self, sums: np.ndarray) -> np.ndarray:
        """The geometric mean of the precisions of n-grams, less where the translations are too short."""
        sums = np.asarray(sums, np.float64)
        length, wanted = sums[..., 0], sums[..., 1]
        correct, total = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
        # An order without a hit counts as 1/2, 1/4, .. of a hit: each further one half of the one before.
        missed = np.cumsum((correct == 0) & (total > 0), axis=-1)
        hits = np.where(correct > 0, correct, 0.5**missed)
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms = np.log(hits / total)
            brevity = np.where(length < wanted, 1 - wanted / length, 0.0)
            scores = np.exp(logarithms.mean(axis=-1) + brevity)
        # Nothing right at all, or no n-grams of an order to be right.
        return np.where((correct > 0).any(axis=-1) & (total > 0).all(axis=-1), scores, 0.0)

    def _make(self, sacrebleu: Any) -> Any:
        return sacrebleu.metrics.BLEU(force=True)


class Chrf(CorpusScore):
    """chrF2."""

    name, title = "chrf", "chrF"

    def value(self, sums: np.ndarray) -> np.ndarray:
        """F-score of the mean precision and the mean recall over the orders that both sides have."""
        sums = np.asarray(sums, np.float64)
        counts = sums.reshape(*sums.shape[:-1], CHARACTER_ORDERS, 3)
        given, wanted, hits = counts[..., 0], counts[..., 1], counts[..., 2]
        there = (given > 0) & (wanted > 0)
        orders = np.maximum(there.sum(axis=-1), 1)
        precision = np.where(there, hits / np.where(there, given, 1), 0).sum(axis=-1) / orders
        recall = np.where(there, hits / np.where(there, wanted, 1), 0).sum(axis=-1) / orders
        below = BETA**2 * precision + recall
        scores: np.ndarray = (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)
        return scores

    def _make(self, sacrebleu: Any) -> Any:
        return sacrebleu.metrics.CHRF(char_order=CHARACTER_ORDERS, beta=BETA)


def corpus_scores() -> tuple[CorpusScore, ...]:
    """The scores of a translation; the first is held to a limit."""
    return Bleu(), Chrf()


def require_sacrebleu() -> Any:
    """sacrebleu.

    Raises:
        UsageError: it is not installed (the message names the extra).
    """
    try:
        import sacrebleu
        import sacrebleu.metrics
    except ImportError as error:
        raise missing_extra(error) or error from None
    return sacrebleu
