"""Translations held against the Keras model's: scores, sameness, where they part, and the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from tiny_decoder import TinyDecoder
from translation_run import WORDS, answer, changed, translated_sentences

from edge_dl.bundle import Limits
from edge_dl.checks.limits import limits_for
from edge_dl.checks.translation import (
    Answer,
    Counts,
    ReferenceAnswer,
    ReferenceAnswers,
    Translated,
    compare_translations,
    first_difference,
    sample_rows,
    translate_sentences,
    translation_checks,
)
from edge_dl.checks.verdicts import ParityReport, Verdict
from edge_dl.errors import UsageError
from edge_dl.recipe import ChecksConfig, Task
from edge_dl.runtime.search import search
from edge_dl.runtime.translation import Source, spell
from edge_dl.text import SPECIAL, Normalization, Subwords, Tables


def sentences(count: int) -> list[ReferenceAnswer]:
    return translated_sentences(count, wrong=0.1, forgets=0.1)


def translated(answers: tuple[Answer, ...]) -> Translated:
    return Translated(answers, (), 0.0)


def test_the_same_answers_lose_nothing() -> None:
    wanted = sentences(200)
    report, metrics, _ = compare_translations(wanted, translated(tuple(item.answer for item in wanted)), max_drop=0.005)
    assert (report.identical, report.identical_share, report.positions, report.worst) == (200, 1.0, {}, ())
    bleu, chrf = metrics
    assert (bleu.name, chrf.name, bleu.drop, bleu.low, bleu.high) == ("bleu", "chrf", 0.0, 0.0, 0.0)
    assert (bleu.verdict, chrf.verdict) == (Verdict.PASS, None)
    official = sacrebleu.corpus_bleu([item.answer.text for item in wanted], [[item.references[0] for item in wanted]])
    assert bleu.reference == pytest.approx(official.score / 100, abs=1e-12)
    (score, _) = report.scores
    assert score.reference == bleu.reference
    assert score.reference_low < score.reference < score.reference_high
    assert [check.verdict for check in translation_checks(report, metrics, Limits(min_identical=0.99))] == [
        Verdict.PASS
    ] * 2


@pytest.mark.parametrize(
    ("share", "max_drop", "verdict"),
    [(0.4, 0.005, Verdict.FAIL), (0.4, 0.9, Verdict.PASS), (0.02, 0.008, Verdict.NOT_ENOUGH_SAMPLES)],
)
def test_the_verdict_follows_the_interval(share: float, max_drop: float, verdict: Verdict) -> None:
    wanted = sentences(300)
    _, (bleu, _), _ = compare_translations(wanted, translated(changed(wanted, share)), max_drop=max_drop)
    assert bleu.verdict is verdict
    assert bleu.drop is not None
    assert bleu.low is not None
    assert bleu.high is not None
    assert bleu.low < bleu.drop < bleu.high
    assert (bleu.samples_needed is not None) == (verdict is Verdict.NOT_ENOUGH_SAMPLES)


def test_pairs_make_the_interval_narrow() -> None:
    """The same sentences are drawn for both sides: what makes one hard cancels out."""
    wanted = sentences(300)
    report, (bleu, _), _ = compare_translations(wanted, translated(changed(wanted, 0.02)))
    score = report.scores[0]
    assert bleu.high is not None
    assert bleu.low is not None
    assert bleu.high - bleu.low < 0.5 * (score.variant_high - score.variant_low)


def test_identical_sentences_have_a_limit() -> None:
    wanted = sentences(200)
    report, metrics, _ = compare_translations(wanted, translated(changed(wanted, 0.05)))
    assert 0.9 < report.identical_share < 0.99
    (check,) = translation_checks(report, metrics, Limits(min_identical=0.99))
    assert (check.name, check.verdict, check.value) == ("min_identical", Verdict.FAIL, report.identical_share)
    assert translation_checks(report, metrics, Limits(min_identical=0.9))[0].verdict is Verdict.PASS
    assert translation_checks(report, metrics, Limits()) == ()


@pytest.mark.parametrize(("count", "verdict"), [(12, Verdict.PASS), (9, Verdict.FAIL)])
def test_from_ten_sentences_on_one_may_differ(count: int, verdict: Verdict) -> None:
    wanted = sentences(count)
    answers = [item.answer for item in wanted]
    answers[3] = answer([*answers[3].tokens, 0])
    report, metrics, _ = compare_translations(wanted, translated(tuple(answers)))
    assert report.identical == count - 1
    assert translation_checks(report, metrics, Limits(min_identical=0.99))[0].verdict is verdict


def test_only_float_variants_of_a_translation_must_be_identical() -> None:
    assert limits_for("float32", task=Task.TRANSLATION).min_identical == 0.99
    assert limits_for("float16", task="translation").min_identical == 0.99
    assert limits_for("int8", task=Task.TRANSLATION).min_identical is None
    assert limits_for("float32", task=Task.LANGUAGE_MODEL).min_identical is None
    own = ChecksConfig(limits={"float32": Limits(min_identical=0.5), "int8": Limits(min_identical=0.7)})
    assert limits_for("float32", own, Task.TRANSLATION).min_identical == 0.5
    assert limits_for("int8", own, Task.TRANSLATION).min_identical == 0.7


@pytest.mark.parametrize(
    ("left", "right", "position"),
    [
        (answer([1, 2]), answer([1, 2]), None),
        (answer([]), answer([]), None),
        (answer([1, 2]), answer([3, 2]), 1),
        (answer([1, 2]), answer([1]), 2),
        (answer([1, 2]), answer([1, 2], ended=False), 3),
        (answer([1, 2], ended=False), answer([1, 2, 4], ended=False), 3),
    ],
)
def test_where_two_answers_part(left: Answer, right: Answer, position: int | None) -> None:
    assert first_difference(left, right) == first_difference(right, left) == position


def test_what_a_report_tells_of_sentences() -> None:
    wanted = sentences(50)
    answers = [item.answer for item in wanted]
    row = max(range(50), key=lambda at: len(wanted[at].answer.tokens))
    answers[row] = answer([], ended=False)
    other = next(at for at in range(50) if at != row and len(answers[at].tokens) > 4)
    tokens = list(answers[other].tokens)
    answers[other] = answer([*tokens[:3], (tokens[3] + 1) % len(WORDS), *tokens[4:]])
    wanted[0] = ReferenceAnswer(wanted[0].source, (*wanted[0].references, "encore"), wanted[0].answer, shortened=True)
    report, _, counts = compare_translations(wanted, translated(tuple(answers)))
    assert (report.sentences, report.references, report.shortened, report.identical) == (50, 51, 1, 48)
    assert (report.unended_reference, report.unended_variant) == (0, 1)
    assert report.positions == {"1": 1, "4": 1}
    assert [item.row for item in report.worst] == [row, other]
    assert report.worst[0].edits == len(wanted[row].answer.tokens)
    assert (report.worst[1].edits, report.worst[1].position) == (1, 4)
    assert report.worst[1].reference == wanted[other].answer.text
    lengths = [len(item.source.split()) for item in wanted]
    assert [item.sentences for item in report.lengths] == [
        sum(low <= length <= high for length in lengths) for low, high in ((1, 4), (5, 8), (9, 12), (13, 99))
    ]
    assert report.lengths[-1].longest is None
    again = ParityReport("v", "float32", "translation", Verdict.PASS, "", translation=report)
    assert ParityReport.from_json(again.to_json()) == again
    back = Counts.of(counts.arrays())
    np.testing.assert_array_equal(back.variant["bleu"], counts.variant["bleu"])
    with pytest.raises(UsageError, match="row a sentence"):
        Counts.of({**counts.arrays(), "words": counts.words[1:]})


def test_samples_are_taken_by_length() -> None:
    texts = [" ".join(["w"] * number) for number in np.random.default_rng(0).permutation(40) + 1]
    rows = sample_rows(texts)
    found = [len(texts[row].split()) for row in rows]
    assert len(rows) == 8
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 40)
    assert sample_rows(texts[:3]) == sorted(range(3), key=lambda row: len(texts[row]))


def test_a_comparison_needs_an_answer_a_sentence() -> None:
    wanted = sentences(5)
    with pytest.raises(UsageError, match="4 answers to 5 sentences"):
        compare_translations(wanted, translated(changed(wanted, 0)[:4]))
    with pytest.raises(UsageError, match="0 answers"):
        compare_translations([], translated(()))


def test_reference_answers_on_disk(tmp_path: Path) -> None:
    answers = ReferenceAnswers(tuple(sentences(3)), longest=9)
    answers.write(tmp_path / "translations.json")
    assert ReferenceAnswers.read(tmp_path / "translations.json") == answers
    ReferenceAnswers((), longest=9).write(tmp_path / "empty.json")
    with pytest.raises(UsageError, match="right translation"):
        ReferenceAnswers.read(tmp_path / "empty.json")


PIECES = tuple(f"▁{word}" for word in "abcdefgh")


def tables() -> Tables:
    side = Subwords("word", SPECIAL + PIECES, (0.0,) * 4 + (-1.0,) * len(PIECES), Normalization())
    return Tables(side, side)


def test_a_decoder_translates_sentences() -> None:
    made = tables()
    texts = ["a b c", "", "a x", "x y", "a b c d e f g h a b c"]
    decoder = TinyDecoder(len(SPECIAL) + len(PIECES), steps=7, seed=4)
    found = translate_sentences(decoder, made, texts, length=6, draw=[0, 4, 2])
    assert len(found.answers) == 5
    # Nothing is asked of what the model does not know at all.
    assert found.answers[1] == Answer("", ())
    assert found.answers[3] == Answer("x y", ())
    # Too long: the first pieces only.
    cut = Source.of(texts[4], made, most=5)
    (best,) = search(decoder, cut.row(6))
    assert len(cut.tokens) == 5
    assert found.answers[4] == Answer(spell(best, cut, made).text, best.tokens, best.finished)
    assert [item.source for item in found.alignments] == [("▁a", "▁b", "▁c", "</s>"), (*cut.pieces(made), "</s>")]
    for item in found.alignments:
        assert np.asarray(item.weights).shape == (len(item.target), len(item.source))


def test_without_attention_nothing_is_drawn() -> None:
    decoder = TinyDecoder(len(SPECIAL) + len(PIECES), steps=7, attends=False)
    assert translate_sentences(decoder, tables(), ["a b"], length=6, draw=[0]).alignments == ()
