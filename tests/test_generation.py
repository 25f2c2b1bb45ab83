"""Decoding loops against a model whose answers NumPy gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tflite_models as models
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.errors import UsageError
from edge_dl.runtime import Sampling, Vocabulary, agent, generate, generate_text, open_session


@pytest.fixture
def session(language_bundle: Path) -> agent.Session:
    return open_session(language_bundle)


def test_greedy_tokens_are_the_most_likely_ones(session: agent.Session) -> None:
    prompt = [3, 4, 5]
    said = list(generate(session, prompt, 12))
    tokens = list(prompt)
    for token in said:
        assert token == int(models.language_reference(tokens)[-1].argmax())
        tokens.append(token)
    assert len(said) == 12
    assert len(set(said)) > 1
    assert list(generate(session, prompt, 12)) == said


def test_the_prompt_matters_from_its_first_token_on(session: agent.Session) -> None:
    session.predict(np.array([3, 4, 5], "int32"))
    first = session.predict(np.array([1, 4, 5], "int32"))["next"][-1]
    second = session.predict(np.array([6, 4, 5], "int32"))["next"][-1]
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(first, models.language_reference([1, 4, 5])[-1], atol=1e-4)


def test_a_seed_says_the_same_again_and_another_does_not(session: agent.Session) -> None:
    def say(seed: int) -> list[int]:
        return list(generate(session, [3], 40, Sampling(temperature=2.0, seed=seed)))

    assert say(1) == say(1)
    assert say(1) != say(2)


def test_draws_follow_the_softmax() -> None:
    logits = np.log([0.5, 0.25, 0.2, 0.05]) + 3.0
    generator = np.random.default_rng(0)
    for temperature in (1.0, 0.5):
        counts = Counter(agent.choose(logits, generator, temperature=temperature) for _ in range(20000))
        want = np.array([0.5, 0.25, 0.2, 0.05]) ** (1 / temperature)
        shares = np.array([counts[token] for token in range(4)]) / 20000
        # Four standard errors of a share of at most a half.
        np.testing.assert_allclose(shares, want / want.sum(), atol=4 * 0.5 / np.sqrt(20000))


def test_probabilities_are_understood_as_such() -> None:
    generator = np.random.default_rng(0)
    counts = Counter(agent.choose(np.array([0.9, 0.1, 0.0]), generator, temperature=1.0) for _ in range(5000))
    assert counts[0] / 5000 == pytest.approx(0.9, abs=0.02)
    assert counts[2] == 0


@given(
    scores=st.lists(st.floats(-50, 50), min_size=2, max_size=20),
    top_k=st.integers(1, 20),
    temperature=st.floats(0.01, 10),
    seed=st.integers(0, 2**32),
)
def test_top_k_draws_only_among_the_best(scores: list[float], top_k: int, temperature: float, seed: int) -> None:
    token = agent.choose(np.array(scores), np.random.default_rng(seed), temperature=temperature, top_k=top_k)
    assert sum(other > scores[token] for other in scores) < top_k


def test_text_comes_piece_by_piece(session: agent.Session) -> None:
    assert session.labels == ["<unk>", "\\n", " ", "a", "b", "c", "\\\\", "é"]
    text = "".join(generate_text(session, "ab\né\\", 9))
    tokens = list(generate(session, [3, 4, 1, 7, 6], 9))
    assert text == "".join(models.VOCABULARY[token] for token in tokens)
    # A character that the vocabulary does not hold is <unk>.
    assert Vocabulary(models.VOCABULARY).encode("aZ") == [3, 0]


def test_word_vocabularies() -> None:
    words = Vocabulary(("the", "cat", "[UNK]", "a"))
    assert words.encode("the  cat\nsat") == [0, 1, 2]
    assert words.decode([0, 1]) == "the cat"
    with pytest.raises(UsageError, match="'dog'"):
        Vocabulary(("the", "cat")).encode("the dog")


@given(st.lists(st.text(), min_size=1))
def test_vocabularies_come_back_from_their_labels(tokens: list[str]) -> None:
    vocabulary = Vocabulary(tuple(tokens))
    assert Vocabulary.from_labels(vocabulary.to_labels()) == vocabulary


@pytest.mark.parametrize(
    ("prompt", "sampling", "rule"),
    [
        ([], Sampling(), "one or more tokens"),
        ([8], Sampling(), "from 0 to 7"),
        ([-1], Sampling(), "from 0 to 7"),
        ([1], Sampling(temperature=-1.0), "Temperature"),
        ([1], Sampling(temperature=float("nan")), "Temperature"),
        ([1], Sampling(top_k=-1), "Temperature"),
    ],
)
def test_bad_settings_are_refused_before_the_first_token(
    session: agent.Session, prompt: list[int], sampling: Sampling, rule: str
) -> None:
    with pytest.raises(UsageError, match=rule):
        generate(session, prompt, 3, sampling)


def test_only_language_models_generate(tflite: object, language_bundle: Path) -> None:
    session = open_session(tflite("conv-float32"))  # type: ignore[operator]
    with pytest.raises(UsageError, match="step model"):
        generate(session, [1], 3)
    with pytest.raises(UsageError, match="vocabulary"):
        generate_text(session, "a", 3)


def test_the_agent_generates_on_its_own(language_bundle: Path, session: agent.Session, capsys: object) -> None:
    import json

    assert agent.main(["generate", str(language_bundle), "--prompt", "ab", "--count", "5"]) == 0
    said = json.loads(capsys.readouterr().out)  # type: ignore[attr-defined]
    assert said["text"] == "".join(generate_text(session, "ab", 5))
    assert said["tokens"] == list(generate(session, [3, 4], 5))
    assert agent.main(["generate", str(language_bundle), "--prompt", "", "--count", "5"]) == 2
    assert "one or more tokens" in json.loads(capsys.readouterr().out)["error"]["message"]  # type: ignore[attr-defined]
