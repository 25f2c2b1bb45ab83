"""BLEU and chrF of many resamples at once, against sacrebleu's own corpus scores."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import sacrebleu

from edge_dl.checks.corpus_scores import Bleu, Chrf, CorpusScore, corpus_scores
from edge_dl.checks.statistics import resample_sums

WORDS = ["le", "la", "chat", "chien", "mange", "dort", "l'eau", "été", "rouge,", "où", "?", "3,5", "aujourd'hui", "."]


def corpus(sentences: int, seed: int, *, wrong: float = 0.4) -> tuple[list[str], list[tuple[str, ...]]]:
    """Translations, and from one to three references each."""
    rng = np.random.default_rng(seed)
    texts, references = [], []
    for _ in range(sentences):
        truth = [WORDS[word] for word in rng.integers(0, len(WORDS), rng.integers(1, 12))]
        said = [word if rng.random() > wrong else WORDS[rng.integers(0, len(WORDS))] for word in truth]
        texts.append(" ".join(said[: rng.integers(0, len(said) + 1)] if rng.random() < 0.2 else said))
        others = [" ".join(rng.permutation(truth)) for _ in range(rng.integers(0, 3))]
        references.append((" ".join(truth), *others))
    return texts, references


def official(name: str, texts: list[str], references: list[tuple[str, ...]]) -> float:
    most = max(map(len, references))
    streams = [[own[place] if place < len(own) else None for own in references] for place in range(most)]
    metric = sacrebleu.BLEU() if name == "bleu" else sacrebleu.CHRF()
    return float(metric.corpus_score(texts, streams).score) / 100


@pytest.mark.parametrize("score", corpus_scores(), ids=lambda score: score.name)
@pytest.mark.parametrize(("sentences", "wrong"), [(300, 0.4), (300, 0.95), (40, 0.0), (3, 0.5), (1, 0.3), (1, 1.0)])
def test_the_value_is_sacrebleus(score: CorpusScore, sentences: int, wrong: float) -> None:
    for seed in range(6):
        texts, references = corpus(sentences, seed, wrong=wrong)
        value = float(score.value(score.rows(texts, references).sum(axis=0)))
        assert value == pytest.approx(official(score.name, texts, references), abs=1e-12)


@pytest.mark.parametrize("score", corpus_scores(), ids=lambda score: score.name)
def test_values_of_resamples_are_those_of_the_sentences_drawn(score: CorpusScore) -> None:
    texts, references = corpus(30, seed=3)
    rows = score.rows(texts, references)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(texts), (20, len(texts)))
    values = score.value(np.stack([rows[places].sum(axis=0) for places in drawn]))
    for places, value in zip(drawn, values, strict=True):
        again = official(score.name, [texts[at] for at in places], [references[at] for at in places])
        assert value == pytest.approx(again, abs=1e-12)


@pytest.mark.parametrize("score", corpus_scores(), ids=lambda score: score.name)
@pytest.mark.parametrize("texts", [["", ""], ["zzz", "qqq"], ["le", ""], ["le chat mange la", "zzz"]])
def test_empty_and_hopeless_translations(score: CorpusScore, texts: list[str]) -> None:
    references = [("le chat mange la souris.",), ("la souris dort.", "elle dort")]
    value = float(score.value(score.rows(texts, references).sum(axis=0)))
    assert value == pytest.approx(official(score.name, texts, references), abs=1e-12)


def test_every_reference_counts() -> None:
    score = Bleu()
    texts = ["il fait beau aujourd'hui dans le jardin", "tu as raison sur ce point"]
    references = [("le temps est agréable",), ("vous avez raison", "tu as raison sur ce point")]
    one = float(score.value(score.rows(texts, [own[:1] for own in references]).sum(axis=0)))
    both = float(score.value(score.rows(texts, references).sum(axis=0)))
    assert both > one
    assert "nrefs:var" in score.signature()
    assert "tok:13a" in score.signature()


def test_a_perfect_translation_is_one() -> None:
    texts, references = corpus(50, seed=1, wrong=0.0)
    texts = [own[0] for own in references]
    for score in (Bleu(), Chrf()):
        assert float(score.value(score.rows(texts, references).sum(axis=0))) == pytest.approx(1.0)


def test_resamples_spread_around_the_score() -> None:
    score = Bleu()
    texts, references = corpus(200, seed=5)
    rows = score.rows(texts, references)
    values = score.value(resample_sums(rows, seed=0))
    assert values.std() > 0.005
    assert values.mean() == pytest.approx(float(score.value(rows.sum(axis=0))), abs=0.01)
    np.testing.assert_array_equal(values, score.value(resample_sums(rows, seed=0)))


def test_without_sacrebleu_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['sacrebleu'] = None\n"
        "import edge_dl.checks.jobs, edge_dl.checks.pipeline  # other tasks are checked without it\n"
        "from edge_dl.checks.corpus_scores import Bleu\n"
        "from edge_dl.errors import UsageError\n"
        "try:\n    Bleu().rows(['a'], [('a',)])\nexcept UsageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert "edge-dl[convert]" in done.stdout
