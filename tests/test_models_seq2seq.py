"""Encoder-decoders: names and shapes, attention against NumPy, no look ahead, no look at padding, saving, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_pairs import make_dataset

from edge_dl.data import Dataset
from edge_dl.errors import UsageError
from edge_dl.recipe import Seq2SeqConfig, Task

keras = pytest.importorskip("keras", reason="models need Keras: pip install 'edge-dl[train]'")
pytest.importorskip("sentencepiece", reason="vocabularies need SentencePiece: pip install 'edge-dl[train]'")

from edge_dl.models import AttentionCell, AttentionDecoder, SourceAttention, build, register  # noqa: E402

CONFIGS = {
    "fixed vector": Seq2SeqConfig("gru", (6,), 5, attention="none", input_feeding=False),
    "attention": Seq2SeqConfig("lstm", (6, 6), 5, attention="multiplicative", input_feeding=False, residual=True),
    "input feeding": Seq2SeqConfig("lstm", (8, 6), 5),
    "input feeding, gru": Seq2SeqConfig(
        "gru", (6, 6), 5, attention="multiplicative", residual=True, bidirectional=False
    ),
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset(window=9)


def answers(model: Any, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: keras.ops.convert_to_numpy(value) for name, value in model(x, training=False).items()}


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request: pytest.FixtureRequest, dataset: Dataset) -> Any:
    keras.utils.set_random_seed(0)
    return build(Task.TRANSLATION, CONFIGS[request.param], dataset)


def test_names_shapes_and_probabilities(model: Any, dataset: Dataset) -> None:
    x = dataset.test.x
    found = answers(model, x)
    assert list(model.input) == ["source", "target"]
    count, steps = x["target"].shape
    assert found["next_token"].shape == (count, steps, len(dataset.vocabulary))
    np.testing.assert_allclose(found["next_token"].sum(axis=-1), 1, atol=1e-5)
    if "attention" in found:
        assert found["attention"].shape == (count, steps, x["source"].shape[1])
        np.testing.assert_allclose(found["attention"].sum(axis=-1), 1, atol=1e-5)
        there = np.broadcast_to((x["source"] != 0)[:, None], found["attention"].shape)
        assert found["attention"][~there].max() == 0
        assert found["attention"][there].min() > 0


def test_a_step_sees_nothing_of_what_follows(model: Any, dataset: Dataset) -> None:
    x = {name: array[:4].copy() for name, array in dataset.test.x.items()}
    before = answers(model, x)
    x["target"][:, 3:] = 4
    after = answers(model, x)
    for name, value in before.items():
        np.testing.assert_allclose(value[:, :3], after[name][:, :3], atol=1e-6)
    assert np.abs(before["next_token"][:, 3:] - after["next_token"][:, 3:]).max() > 1e-6


def test_padding_changes_nothing(model: Any, dataset: Dataset) -> None:
    x = {name: array[:4] for name, array in dataset.test.x.items()}
    longer = {**x, "source": np.pad(x["source"], ((0, 0), (0, 5)))}
    before, after = answers(model, x), answers(model, longer)
    np.testing.assert_allclose(before["next_token"], after["next_token"], atol=1e-6)


def test_every_source_token_counts(model: Any, dataset: Dataset) -> None:
    x = {name: array[:1].copy() for name, array in dataset.test.x.items()}
    before = answers(model, x)["next_token"]
    for place in range(np.count_nonzero(x["source"])):
        changed = x["source"].copy()
        changed[0, place] = 5 if changed[0, place] != 5 else 6
        assert np.abs(answers(model, {**x, "source": changed})["next_token"] - before).max() > 1e-7


def test_a_saved_model_answers_the_same(model: Any, dataset: Dataset, tmp_path: Path) -> None:
    register()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    for name, value in answers(model, dataset.test.x).items():
        np.testing.assert_allclose(answers(loaded, dataset.test.x)[name], value, atol=1e-6)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponential = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("score", ["additive", "multiplicative"])
def test_attention_equals_its_formula(score: str) -> None:
    rng = np.random.default_rng(0)
    states, memory, keys = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4), (2, 5, 7), (2, 5, 4)))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    layer = SourceAttention(4, score)
    answer, weights = (keras.ops.convert_to_numpy(value) for value in layer(states, memory, keys, mask))
    weight = {item.path.split("/")[-2]: keras.ops.convert_to_numpy(item) for item in layer.weights}
    for row in range(2):
        for step in range(3):
            if score == "additive":
                scores = np.tanh(states[row, step] @ weight["query"] + keys[row]) @ weight["energy"][:, 0]
            else:
                scores = keys[row] @ states[row, step]
            due = np.zeros(5)
            due[mask[row]] = softmax(scores[mask[row]])
            np.testing.assert_allclose(weights[row, step], due, atol=1e-6)
            both = np.concatenate([due @ memory[row], states[row, step]])
            np.testing.assert_allclose(answer[row, step], np.tanh(both @ weight["combine"]), atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_input_feeding_hands_the_answer_to_the_next_step(kind: str) -> None:
    """The loop against steps by hand with the cell's own parts."""
    rng = np.random.default_rng(1)
    sequence, memory, keys = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 4, 3), (2, 5, 7), (2, 5, 6)))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    cell = AttentionCell(kind, (5, 6), SourceAttention(6))
    first = [rng.normal(size=(2, size)).astype(np.float32) for size in cell.state_size[:-1]]
    decoder = AttentionDecoder(cell)
    answers, weights = decoder(sequence, memory=memory, keys=keys, source_mask=mask, initial_state=first)
    each = 2 if kind == "lstm" else 1
    states, fed = [first[:each], first[each:]], np.zeros((2, 6), np.float32)
    for step in range(4):
        h: Any = np.concatenate([sequence[:, step], fed], axis=-1)
        for number, part in enumerate(cell.cells):
            h, states[number] = part(h, states[number])
        answer, looked = cell.attention(keras.ops.expand_dims(h, 1), memory=memory, keys=keys, source_mask=mask)
        fed = keras.ops.convert_to_numpy(answer)[:, 0]
        np.testing.assert_allclose(keras.ops.convert_to_numpy(answers)[:, step], fed, atol=1e-5)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(weights)[:, step], keras.ops.convert_to_numpy(looked)[:, 0], atol=1e-5
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "rnn"}, "model.cell must be one of lstm, gru"),
        ({"attention": "dot"}, "model.attention must be one of additive, multiplicative, none"),
        ({"units": ()}, "at least one layer"),
        ({"units": (5,)}, "even number of units"),
        ({"embedding": 0}, "model.embedding"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        build(Task.TRANSLATION, dataclasses.replace(Seq2SeqConfig(), **settings), dataset)


def test_data_without_sentences_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="needs sentence pairs"):
        build(Task.TRANSLATION, Seq2SeqConfig(), dataclasses.replace(dataset, sentences=None))
    with pytest.raises(UsageError, match="network translates"):
        build(Task.CLASSIFICATION, Seq2SeqConfig(), dataset)
