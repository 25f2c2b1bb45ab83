"""A Keras model's own translations: in batches, step by step for a search, and in a plain loop, all the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import translation_models
from keras import layers

from edge_dl.checks.translation import Answer
from edge_dl.errors import StageError, UsageError
from edge_dl.models.decoding import SourceMask
from edge_dl.models.seq2seq import build
from edge_dl.models.translating import (
    NAMES,
    KerasDecoder,
    Names,
    find_names,
    greedy_loop,
    reference_answers,
    translate_greedily,
)
from edge_dl.recipe import DataConfig, Seq2SeqConfig, Task
from edge_dl.runtime.search import Search, search
from edge_dl.text import END, SPECIAL, Normalization, Subwords, Tables


def scattered(model: keras.Model, scale: float = 0.5, ends: float = 0.0) -> keras.Model:
    """A model whose answers differ from sentence to sentence, and end now and then."""
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) * scale)
    bias = model.get_layer("head" if "head" in [layer.name for layer in model.layers] else "next_token").bias
    bias.assign(keras.ops.convert_to_numpy(bias) + ends * (np.arange(bias.shape[0]) == END))
    return model


def sources(count: int, width: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, width), np.int32)
    for row in rows:
        length = rng.integers(1, width)
        row[:length] = rng.integers(4, size, length)
        row[length] = END
    return rows


@pytest.fixture(scope="module")
def made() -> dict[str, keras.Model]:
    from edge_dl import data

    dataset = data.load(DataConfig("toy-translation", vocabulary=250, limit=2000), Task.TRANSLATION)
    configs = {
        "feeding": Seq2SeqConfig(units=(8,), embedding=6),
        "attention": Seq2SeqConfig(units=(8, 8), embedding=6, input_feeding=False, cell="gru"),
        "fixed": Seq2SeqConfig(units=(8,), embedding=6, attention="none", input_feeding=False),
    }
    spread = {"feeding": (2.0, 6.0), "attention": (2.0, 2.0), "fixed": (1.0, 2.0)}
    return {
        name: scattered(build(Task.TRANSLATION, config, dataset), *spread[name]) for name, config in configs.items()
    }


@pytest.mark.parametrize("name", ["feeding", "attention", "fixed"])
def test_all_ways_say_the_same(made: dict[str, keras.Model], name: str) -> None:
    model = made[name]
    rows = sources(40, 20, 60)
    longest = 19
    found = translate_greedily(model, rows, longest, batch=16)
    assert len({answer.tokens for answer in found}) > 8
    assert 0 < sum(answer.finished for answer in found) < 40
    decoder = KerasDecoder(model, steps=longest)
    for row in range(0, 40, 9):
        (best,) = search(decoder, rows[row])
        assert (found[row].tokens, found[row].finished) == (best.tokens, best.finished)
        assert found[row].score == pytest.approx(best.score, abs=1e-4)
        assert found[row].log_probability == pytest.approx(best.log_probability, abs=1e-4)
        if best.attention is None:
            assert found[row].attention is None
        else:
            np.testing.assert_allclose(found[row].attention, best.attention, atol=1e-5)
    assert greedy_loop(model, rows[9], longest) == list(found[9].tokens)


def test_a_beam_of_the_keras_model_is_likelier(made: dict[str, keras.Model]) -> None:
    decoder = KerasDecoder(made["feeding"], beams=4, steps=12)
    for row in sources(4, 10, 60, seed=2):
        (greedy,) = search(decoder, row)
        best, *others = search(decoder, row, Search(beams=4, best=4, length_penalty=0.0))
        assert best.log_probability >= greedy.log_probability - 1e-6 or best.finished != greedy.finished
        assert [one.score for one in (best, *others)] == sorted((one.score for one in (best, *others)), reverse=True)
        # A hypothesis' probability is what the model gives to its tokens in one piece.
        fed = np.array([[2, *best.tokens]], np.int32)
        given = made["feeding"].predict_on_batch({"source": row[np.newaxis], "target": fed})["next_token"][0]
        said = [*best.tokens, END] if best.finished else list(best.tokens)
        total = sum(np.log(given[place, token]) for place, token in enumerate(said))
        assert best.log_probability == pytest.approx(float(total), abs=1e-3)


@pytest.mark.parametrize("kind", ["", "dot", "fixed shapes", "masked"])
def test_models_of_the_users_own(kind: str) -> None:
    attention = "dot" if kind == "dot" else ""
    model = scattered(
        translation_models.tutorial("lstm", attention, mask=kind == "masked", shapes=kind == "fixed shapes"), ends=1.0
    )
    assert find_names(model, translation_models.TARGET_WORDS) == NAMES
    width, longest = translation_models.SOURCE, translation_models.TARGET
    rows = sources(6, width, translation_models.SOURCE_WORDS)
    decoder = KerasDecoder(model, steps=longest)
    for row, answer in zip(rows, translate_greedily(model, rows, longest), strict=True):
        assert search(decoder, row)[0].tokens == answer.tokens
        assert greedy_loop(model, row, longest) == list(answer.tokens)


def test_padding_that_a_model_looks_at_stays() -> None:
    """A plain LSTM reads the zeros behind a sentence: taking them away would be another answer."""
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    _, *states = layers.LSTM(8, return_state=True)(layers.Embedding(30, 8)(source))
    steps = layers.LSTM(8, return_sequences=True)(layers.Embedding(30, 8)(target), initial_state=states)
    model = keras.Model([source, target], layers.Dense(30, activation="softmax", name="words")(steps))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    names = find_names(model, 30)
    assert names == Names(output="words")
    rows = sources(12, 30, 30)
    rows[:, 5:] = 0
    rows[:, 5] = END
    answers = translate_greedily(model, rows, 10, names=names)
    shorter = translate_greedily(model, rows[:, :8], 10, names=names)
    assert [one.tokens for one in answers] != [one.tokens for one in shorter]
    decoder = KerasDecoder(model, steps=10, names=names)
    assert [search(decoder, row)[0].tokens for row in rows] == [one.tokens for one in answers]


def test_names_of_other_models() -> None:
    model = translation_models.tutorial()
    assert find_names(model, 17) is None
    one = keras.Input((None,), dtype="int32", name="tokens")
    assert find_names(keras.Model(one, layers.Embedding(9, 9)(one)), 9) is None


def test_bad_input(made: dict[str, keras.Model]) -> None:
    model = made["fixed"]
    with pytest.raises(UsageError, match="rows of token numbers"):
        translate_greedily(model, np.zeros((2, 3), np.float32), 5)
    with pytest.raises(UsageError, match="longest 0"):
        translate_greedily(model, sources(2, 5, 30), 0)
    assert translate_greedily(model, np.zeros((0, 5), np.int32), 5) == []
    with pytest.raises(UsageError, match="Name it words"):
        translate_greedily(model, sources(2, 5, 30), 5, names=Names(output="words"))
    broken = translation_models.tutorial()
    broken.get_layer("next_token").bias.assign(np.full(translation_models.TARGET_WORDS, np.nan))
    with pytest.raises(StageError, match="finite"):
        translate_greedily(broken, sources(2, 5, 30), 5)


def test_answers_for_sentences(made: dict[str, keras.Model]) -> None:
    pieces = tuple(f"▁{word}" for word in "abcdefghijklmnop")
    side = Subwords("word", SPECIAL + pieces, (0.0,) * 4 + (-1.0,) * len(pieces), Normalization())
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    mask = SourceMask()(source)
    _, *states = layers.LSTM(8, return_state=True)(layers.Embedding(20, 8)(source), mask=mask)
    steps = layers.LSTM(8, return_sequences=True)(layers.Embedding(20, 8)(target), initial_state=states)
    model = scattered(keras.Model([source, target], layers.Dense(20, activation="softmax", name="next_token")(steps)))
    sentences = [("a b", ("x",)), ("x y", ("y", "z")), ("a b c d e f g", ("q",))]
    found = reference_answers(model, Tables(side, side), sentences, length=6, longest=9)
    assert [item.source for item in found.sentences] == [text for text, _ in sentences]
    assert [item.shortened for item in found.sentences] == [False, False, True]
    assert found.sentences[1].answer == Answer("x y", ())
    assert found.sentences[1].references == ("y", "z")
    decoder = KerasDecoder(model, steps=9)
    for row, ids in ((0, [4, 5, END, 0, 0, 0]), (2, [4, 5, 6, 7, 8, END])):
        (best,) = search(decoder, np.array(ids))
        answer = found.sentences[row].answer
        assert (answer.tokens, answer.ended) == (best.tokens, best.finished)
        assert answer.text == side.decode(best.tokens).strip()
