"""What a check of translations found, as plain values; part of checks/<variant>.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SystemScore:
    """A score of the Keras model and of the variant on the same sentences, each with an interval of its own.

    Attributes:
        name: "bleu" or "chrf".
        reference, variant: scores from 0 to 1.
        reference_low, reference_high, variant_low, variant_high: ends of the bootstrap intervals.
        signature: how it was computed, in sacrebleu's words.
    """

    name: str
    reference: float
    reference_low: float
    reference_high: float
    variant: float
    variant_low: float
    variant_high: float
    signature: str = ""


@dataclass(frozen=True)
class LengthScore:
    """BLEU of the sentences whose source has so many words.

    Attributes:
        shortest, longest: words between spaces; `longest` None: and more.
        sentences: number of them.
        score: BLEU of both sides.
    """

    shortest: int
    longest: int | None
    sentences: int
    score: SystemScore


@dataclass(frozen=True)
class TranslatedSentence:
    """A sentence with what both sides say.

    Attributes:
        row: its place among the sentences of the test part.
        source: the sentence.
        references: right translations.
        reference: what the Keras model says.
        variant: what the variant says.
        position: the first token in which they differ, counted from 1; None: they say the same.
        edits: tokens to put in, take out or replace.
    """

    row: int
    source: str
    references: tuple[str, ...]
    reference: str
    variant: str
    position: int | None = None
    edits: int = 0


@dataclass(frozen=True)
class SentenceAlignment:
    """What the variant looked at in a sentence.

    Attributes:
        source, target: pieces, "▁" for a space.
        weights: (target, source) attention, rounded.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TranslationReport:
    """Translations that a variant makes by itself, held against the Keras model's and against the right ones.

    Attributes:
        sentences: different source sentences of the test part.
        references: right translations of them in all.
        shortened: sentences of which both sides saw the first pieces only, because the model takes no more.
        unended_reference, unended_variant: translations that the limit cut off.
        identical: sentences of which every token is the Keras model's.
        positions: by token counted from 1, sentences in which the sides first differ there.
        scores: BLEU and chrF.
        confidence: of the scores' intervals.
        lengths: BLEU by words of the source; lengths without sentences are left out.
        worst: sentences that need the most edits.
        samples: some sentences, those that differ first.
        alignments: attention of the variant in the first of these samples; () without attention.
        seconds: how long translating took.
    """

    sentences: int
    references: int
    shortened: int
    unended_reference: int
    unended_variant: int
    identical: int
    positions: Mapping[str, int]
    scores: tuple[SystemScore, ...]
    confidence: float
    lengths: tuple[LengthScore, ...] = ()
    worst: tuple[TranslatedSentence, ...] = ()
    samples: tuple[TranslatedSentence, ...] = ()
    alignments: tuple[SentenceAlignment, ...] = field(default=())
    seconds: float = 0.0

    @property
    def identical_share(self) -> float:
        """Share of sentences that are the Keras model's token for token."""
        return self.identical / self.sentences if self.sentences else 0.0
