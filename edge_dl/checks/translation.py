"""What a translation is judged by: BLEU and chrF against right translations, and sameness with the Keras model's.

Both sides translate by themselves: greedy, each from its own tokens, so one token that differs may change all behind
it. Differences of scores have intervals by the paired bootstrap (Koehn, Statistical Significance Tests for Machine
Translation Evaluation, EMNLP 2004): the same sentences are drawn for both sides. Every sentence of the test part
counts; one that is too long for the model is cut, on both sides alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Limits
from edge_dl.checks.comparison import DEFAULT_CONFIDENCE, decide
from edge_dl.checks.corpus_scores import UNIT, Bleu, CorpusScore, corpus_scores
from edge_dl.checks.edits import edit_distance
from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.statistics import Interval, percentile_interval, resample_sums
from edge_dl.checks.translation_report import (
    LengthScore,
    SentenceAlignment,
    SystemScore,
    TranslatedSentence,
    TranslationReport,
)
from edge_dl.checks.verdicts import Check, MetricComparison, Verdict, decision, finite
from edge_dl.errors import UsageError
from edge_dl.files import read_json, write_json
from edge_dl.progress import SILENT, Progress
from edge_dl.runtime.search import Decoder, Hypothesis, Search, search
from edge_dl.runtime.translation import Source, Translation, spell, untranslated
from edge_dl.text import Tables

FORMAT = 1
REFERENCE = "translations.json"
CONFIDENCE = 0.95
"""Of the intervals of one score, and of differences between runs."""

LENGTHS = ((1, 4), (5, 8), (9, 12), (13, None))
"""Words of a source, for BLEU by length."""

SAMPLES, WORST, ALIGNMENTS = 8, 10, 2
# Pieces on one side of a picture that a page has room for.
DRAWN = 30
# From so many sentences on, one that differs is always allowed, as for `min_top1`.
ONE_ALLOWED_FROM = 10


@dataclass(frozen=True)
class Answer:
    """What a model says to a sentence by itself.

    Attributes:
        text: as a reader sees it.
        tokens: without begin and end.
        ended: whether the model ended it; False where the limit did.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool = True


@dataclass(frozen=True)
class ReferenceAnswer:
    """A sentence of the test part with what the Keras model says to it.

    Attributes:
        source: the sentence.
        references: right translations.
        answer: the Keras model's.
        shortened: whether the model saw the sentence's first pieces only.
    """

    source: str
    references: tuple[str, ...]
    answer: Answer
    shortened: bool = False


@dataclass(frozen=True)
class ReferenceAnswers:
    """export/translations.json.

    Attributes:
        sentences: each different source sentence of the test part, in the data's order.
        longest: tokens that an answer may have, the end among them.
    """

    sentences: tuple[ReferenceAnswer, ...]
    longest: int
    format: int = FORMAT

    def write(self, path: str | Path) -> None:
        """Write the file, atomically."""
        write_json(Path(path), to_plain(self))

    @classmethod
    def read(cls, path: str | Path) -> ReferenceAnswers:
        """Read what `write` wrote.

        Raises:
            UsageError: the file is missing, of another format, or holds no sentence.
        """
        found = from_plain(cls, read_json(path))
        if found.format != FORMAT or not found.sentences or not all(item.references for item in found.sentences):
            raise UsageError(
                f"Reference translations must be of format {FORMAT}, and each sentence needs a right translation.",
                received=str(path),
                todo="Export the model again.",
            )
        return found


@dataclass(frozen=True)
class Counts:
    """What scores are made of, a row a sentence; checks/translations/<variant>.npz.

    Attributes:
        reference, variant: by score, (sentences, k) counts.
        words: of each source, (sentences,).
    """

    reference: Mapping[str, np.ndarray]
    variant: Mapping[str, np.ndarray]
    words: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, for a file."""
        named = {f"reference/{name}": rows for name, rows in self.reference.items()}
        return named | {f"variant/{name}": rows for name, rows in self.variant.items()} | {"words": self.words}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Counts:
        """Inverse of `arrays`.

        Raises:
            UsageError: an array is missing, or has another number of rows.
        """
        sides: dict[str, dict[str, np.ndarray]] = {"reference": {}, "variant": {}}
        for name, rows in arrays.items():
            side, _, score = name.partition("/")
            if side in sides:
                sides[side][score] = rows
        words = arrays.get("words")
        if words is None or any(len(rows) != len(words) for side in sides.values() for rows in side.values()):
            raise UsageError("Counts of translations need a row a sentence.", received=", ".join(arrays) or "nothing")
        return cls(sides["reference"], sides["variant"], words)


@dataclass(frozen=True)
class Translated:
    """What a decoder said to sentences.

    Attributes:
        answers: one a sentence.
        alignments: of the sentences that were asked for, where there is attention.
        seconds: how long it took.
    """

    answers: tuple[Answer, ...]
    alignments: tuple[SentenceAlignment, ...]
    seconds: float


def translate_sentences(
    decoder: Decoder,
    tables: Tables,
    sentences: Sequence[str],
    *,
    length: int,
    longest: int = 0,
    draw: Sequence[int] = (),
    progress: Progress = SILENT,
) -> Translated:
    """Translate greedily, one by one.

    Args:
        decoder: the model.
        tables: vocabularies of both sides.
        sentences: to translate; a longer one than the model takes is cut.
        length: tokens of a source that the model takes, its end among them; 0: any number.
        longest: tokens of an answer; 0: what the model was made for.
        draw: rows whose attention is wanted, best first; of those with few enough pieces `ALIGNMENTS` are kept.
        progress: told the number of sentences.
    """
    started = time.perf_counter()
    settings = Search(longest=longest)
    answers, looked = [], {}
    with progress.step("Translating", len(sentences)) as step:
        for row, text in enumerate(sentences):
            source = Source.of(text, tables, most=max(0, length - 1))
            found = search(decoder, source.row(length), settings)[0] if source.known else None
            translation = spelled(found, source, tables)
            answers.append(answer_of(found, translation))
            if row in draw and translation.alignment is not None:
                looked[row] = translation
            step.advance(1)
    drawn = [looked[row] for row in draw if row in looked and 0 < max(_sizes(looked[row])) <= DRAWN]
    alignments = tuple(
        SentenceAlignment(
            item.source_pieces,
            item.pieces,
            tuple(tuple(round(float(weight), 4) for weight in row) for row in np.asarray(item.alignment)),
        )
        for item in drawn[:ALIGNMENTS]
    )
    return Translated(tuple(answers), alignments, round(time.perf_counter() - started, 3))


def spelled(found: Hypothesis | None, source: Source, tables: Tables) -> Translation:
    """A greedy answer as text; None: the model knew nothing of the sentence and was not asked."""
    return untranslated(source, tables) if found is None else spell(found, source, tables)


def answer_of(found: Hypothesis | None, translation: Translation) -> Answer:
    """What is kept of an answer."""
    return Answer(translation.text, () if found is None else found.tokens, found is None or found.finished)


def sample_rows(sentences: Sequence[str], count: int = SAMPLES) -> list[int]:
    """Rows of some sentences, taken evenly by the number of their words, the shortest first."""
    order = np.argsort(word_counts(sentences), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(order[place]) for place in places]


def word_counts(sentences: Sequence[str]) -> np.ndarray:
    """Words between spaces of each sentence, (sentences,)."""
    return np.array([len(text.split()) for text in sentences], np.int64)


def compare_translations(
    wanted: Sequence[ReferenceAnswer],
    translated: Translated,
    *,
    max_drop: float | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> tuple[TranslationReport, tuple[MetricComparison, ...], Counts]:
    """Hold a variant's translations against the Keras model's.

    Args:
        wanted: sentences with the Keras model's answers.
        translated: the variant's answers to the same sentences.
        max_drop: the largest loss of BLEU that passes (0.005: half a point); None: no verdict.
        confidence: of the losses' intervals.
        seed: seeds the bootstrap.

    Raises:
        UsageError: no sentence, another number of answers, or sacrebleu is not installed.
    """
    answers = translated.answers
    if not wanted or len(wanted) != len(answers):
        raise UsageError(
            "A comparison of translations needs an answer a sentence.",
            received=f"{len(answers)} answers to {len(wanted)} sentences",
        )
    references = [item.references for item in wanted]
    words = word_counts([item.source for item in wanted])
    before: dict[str, np.ndarray] = {}
    after: dict[str, np.ndarray] = {}
    scores, metrics = [], []
    for number, score in enumerate(corpus_scores()):
        before[score.name] = score.rows([item.answer.text for item in wanted], references)
        after[score.name] = score.rows([answer.text for answer in answers], references)
        rows = before[score.name], after[score.name]
        scores.append(system_score(score, *rows, seed=seed))
        limit = max_drop if number == 0 else None
        metrics.append(compare_score(score, *rows, max_drop=limit, confidence=confidence, seed=seed))
    positions = [first_difference(item.answer, answer) for item, answer in zip(wanted, answers, strict=True)]
    different = [row for row, position in enumerate(positions) if position is not None]
    edits = {row: edit_distance(answers[row].tokens, wanted[row].answer.tokens) for row in different}

    def sentence(row: int) -> TranslatedSentence:
        item = wanted[row]
        texts = item.answer.text, answers[row].text
        return TranslatedSentence(row, item.source, item.references, *texts, positions[row], edits.get(row, 0))

    worst = sorted(different, key=lambda row: (-edits[row] / max(1, len(wanted[row].answer.tokens)), row))
    found = [positions[row] or 0 for row in different]
    report = TranslationReport(
        sentences=len(wanted),
        references=sum(map(len, references)),
        shortened=sum(item.shortened for item in wanted),
        unended_reference=sum(not item.answer.ended for item in wanted),
        unended_variant=sum(not answer.ended for answer in answers),
        identical=len(wanted) - len(different),
        positions={str(place): found.count(place) for place in sorted(set(found))},
        scores=tuple(scores),
        confidence=CONFIDENCE,
        lengths=length_scores(before[Bleu.name], after[Bleu.name], words, seed=seed),
        worst=tuple(sentence(row) for row in worst[:WORST]),
        samples=tuple(sentence(row) for row in sample_rows([item.source for item in wanted])),
        alignments=translated.alignments,
        seconds=translated.seconds,
    )
    return report, tuple(metrics), Counts(before, after, words)


def first_difference(left: Answer, right: Answer) -> int | None:
    """The first token, counted from 1, in which two answers differ, an end being one; None where they do not."""
    sides = [(*answer.tokens, *(() if not answer.ended else (None,))) for answer in (left, right)]
    shorter = min(map(len, sides))
    for place in range(shorter):
        if sides[0][place] != sides[1][place]:
            return place + 1
    return None if len(sides[0]) == len(sides[1]) else shorter + 1


def paired_scores(
    score: CorpusScore, before: np.ndarray, after: np.ndarray, *, confidence: float, seed: int = 0
) -> tuple[tuple[float, float], Interval]:
    """Both systems' scores, and by the paired bootstrap the interval of what the second loses."""
    width = before.shape[1]
    sums = resample_sums(np.concatenate([before, after], axis=1), seed=seed)
    interval = percentile_interval(score.drop(sums[:, :width], sums[:, width:]), confidence)
    return (float(score.value(before.sum(axis=0))), float(score.value(after.sum(axis=0)))), interval


def compare_score(
    score: CorpusScore,
    before: np.ndarray,
    after: np.ndarray,
    *,
    max_drop: float | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> MetricComparison:
    """A score of two systems on the same sentences, from counts (sentences, k) each, and the interval of the loss."""
    values, interval = paired_scores(score, before, after, confidence=confidence, seed=seed)
    drop = values[0] - values[1]
    verdict, needed = (None, None) if max_drop is None else decide(drop, interval, max_drop, len(before))
    return MetricComparison(
        name=score.name,
        unit=UNIT,
        output="",
        higher_is_better=True,
        reference=values[0],
        variant=values[1],
        drop=drop,
        relative=False,
        low=finite(interval.low),
        high=finite(interval.high),
        confidence=confidence,
        samples=len(before),
        max_drop=max_drop,
        verdict=verdict,
        samples_needed=needed,
    )


def system_score(score: CorpusScore, before: np.ndarray, after: np.ndarray, *, seed: int = 0) -> SystemScore:
    """A score of both sides, each with its own bootstrap interval."""
    width = before.shape[1]
    sums = resample_sums(np.concatenate([before, after], axis=1), seed=seed)
    reference = percentile_interval(score.value(sums[:, :width]), CONFIDENCE)
    variant = percentile_interval(score.value(sums[:, width:]), CONFIDENCE)
    return SystemScore(
        score.name,
        float(score.value(before.sum(axis=0))),
        reference.low,
        reference.high,
        float(score.value(after.sum(axis=0))),
        variant.low,
        variant.high,
        score.signature(),
    )


def of_length(words: np.ndarray, shortest: int, longest: int | None) -> np.ndarray:
    """Which sentences have so many words, (sentences,) bool; one without any counts with the shortest."""
    return (words >= (0 if shortest == 1 else shortest)) & (words <= (np.inf if longest is None else longest))


def length_scores(
    before: np.ndarray, after: np.ndarray, words: np.ndarray, *, seed: int = 0
) -> tuple[LengthScore, ...]:
    """BLEU of the sentences of each length, from its counts."""
    found = []
    for shortest, longest in LENGTHS:
        rows = of_length(words, shortest, longest)
        if rows.any():
            score = system_score(Bleu(), before[rows], after[rows], seed=seed)
            found.append(LengthScore(shortest, longest, int(rows.sum()), score))
    return tuple(found)


def translation_checks(
    report: TranslationReport, metrics: Sequence[MetricComparison], limits: Limits
) -> tuple[Check, ...]:
    """Whether the translations are within the limits: those of BLEU's loss, and of identical sentences."""
    checks = [_score_check(item) for item in metrics if item.verdict is not None]
    if limits.min_identical is not None:
        share, different = report.identical_share, report.sentences - report.identical
        good = share >= limits.min_identical or (different == 1 and report.sentences >= ONE_ALLOWED_FROM)
        text = (
            f"{report.identical} of {report.sentences} sentences are translated token for token as by the Keras model "
            f"({share:.4f}), at least {limits.min_identical:g} wanted."
        )
        verdict = Verdict.PASS if good else Verdict.FAIL
        checks.append(Check("min_identical", verdict, text, "", share, limits.min_identical))
    return tuple(checks)


def _score_check(item: MetricComparison) -> Check:
    def points(value: float | None) -> str:
        return "unknown" if value is None else f"{100 * value:.2f}"

    title = next((score.title for score in corpus_scores() if score.name == item.name), item.name)
    text = (
        f"{title} {points(item.reference)} with Keras, {points(item.variant)} here: loss {points(item.drop)} "
        f"({points(item.low)} to {points(item.high)})"
    )
    text += decision(item, points(item.max_drop), "sentences")
    return Check("metric", item.verdict or Verdict.PASS, text, "", item.drop, item.max_drop)


def _sizes(translation: Translation) -> tuple[int, int]:
    return len(translation.pieces), len(translation.source_pieces)


def plain_answers(translated: Translated) -> dict[str, Any]:
    """The content of checks/translations/<variant>.json."""
    return {"format": FORMAT, "answers": to_plain(translated.answers)}
