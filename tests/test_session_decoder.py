"""Searching with a bundle's session against searching with the Keras model itself: greedy, beams, every state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import translation_models as networks
from translation_bundles import bundle, lively

from edge_dl.bundle import Bundle
from edge_dl.errors import UsageError
from edge_dl.runtime import Search, SessionDecoder, open_session
from edge_dl.runtime.search import BEGIN, Hypothesis, search
from edge_dl.variants import Quantization

MODELS = {
    "plain": lambda: networks.tutorial("lstm"),
    "gru-dot": lambda: networks.tutorial("gru", "dot", mask=True),
    "input-feeding": networks.input_feeding,
}


class WholeModel:
    """The Keras model as a decoder without states: every step runs it over all the tokens so far."""

    def __init__(self, model: Any, beams: int) -> None:
        self.model, self.beams, self.steps = model, beams, networks.TARGET

    def begin(self, source: np.ndarray) -> None:
        self.source = np.zeros(networks.SOURCE, np.int32)
        self.source[: len(source)] = source
        self.said: np.ndarray | None = None

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        column = tokens[:, np.newaxis]
        self.said = column if self.said is None else np.concatenate([self.said, column], 1)
        # Padded to the length that some have from their definition: no step looks at later ones.
        last = self.said.shape[1] - 1
        target = np.pad(self.said, [(0, 0), (0, networks.TARGET - last - 1)])
        given = {"source": np.tile(self.source, (len(tokens), 1)), "target": target}
        answers = self.model.predict_on_batch(given if isinstance(self.model.input, dict) else list(given.values()))
        attention = answers.get("attention")
        return answers["next_token"][:, last], None if attention is None else attention[:, last]

    def reorder(self, parents: np.ndarray) -> None:
        assert self.said is not None
        self.said = self.said[parents]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Bundle]:
    keras.utils.set_random_seed(1)
    model = lively(MODELS[request.param]())
    return model, bundle(model, tmp_path_factory.mktemp(request.param))


def compare(found: list[Hypothesis], wanted: list[Hypothesis]) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-5)
        assert one.finished == other.finished
        assert (one.attention is None) == (other.attention is None)
        if one.attention is not None and other.attention is not None:
            np.testing.assert_allclose(one.attention, other.attention, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        Search(),
        Search(beams=4, best=4),
        Search(beams=3, best=2, length_penalty=1.0),
    ],
)
def test_a_session_finds_what_the_keras_model_finds(pair: tuple[Any, Bundle], settings: Search) -> None:
    model, made = pair
    decoder, reference = SessionDecoder(open_session(made.folder)), WholeModel(model, 4)
    assert (decoder.beams, decoder.steps, decoder.length, decoder.vocabulary) == (
        4, networks.TARGET, networks.SOURCE, networks.TARGET_WORDS,
    )  # fmt: skip
    said = set()
    for source in networks.sentences(6, seed=3)["x/source"]:
        found = search(decoder, source, settings)
        compare(found, search(reference, source, settings))
        said |= {one.tokens for one in found}
    assert len(said) > 2, "the model always says the same, which shows little"
    assert len(set(map(len, said))) > 1


def test_one_source_leaves_nothing_to_the_next(pair: tuple[Any, Bundle]) -> None:
    decoder = SessionDecoder(open_session(pair[1].folder))
    first, second, *_ = networks.sentences(4, seed=5)["x/source"]
    before = search(decoder, first, Search(beams=4, best=4))
    search(decoder, second, Search(beams=4))
    search(decoder, second)
    compare(search(decoder, first, Search(beams=4, best=4)), before)


def test_a_source_without_padding_is_padded(pair: tuple[Any, Bundle]) -> None:
    decoder = SessionDecoder(open_session(pair[1].folder))
    compare(
        search(decoder, np.array([5, 6, 3]), Search(beams=2)),
        search(decoder, np.array([5, 6, 3, 0, 0, 0]), Search(beams=2)),
    )
    with pytest.raises(UsageError, match=r"at most 6 tokens\. Received: 7"):
        search(decoder, np.array([5, 6, 7, 8, 9, 10, 3]))


def test_without_beams_there_is_greedy_search(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = lively(networks.tutorial("gru", "dot"))
    decoder = SessionDecoder(open_session(bundle(model, tmp_path, beams=0).folder))
    assert decoder.beams == 1
    source = networks.sentences(1)["x/source"][0]
    compare(search(decoder, source), search(WholeModel(model, 1), source))
    with pytest.raises(UsageError, match=r"1 hypothesis a step.*conversion\.beams=2"):
        search(decoder, source, Search(beams=2))
    decoder.begin(source)
    with pytest.raises(UsageError, match="one hypothesis"):
        decoder.step(np.full(2, BEGIN, np.int32))
    with pytest.raises(UsageError, match="after a step"):
        decoder.reorder(np.zeros(1, np.int64))


def test_quantized_weights(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    made = bundle(lively(networks.tutorial("lstm", "additive")), tmp_path, Quantization.DYNAMIC)
    for source in networks.sentences(4)["x/source"]:
        (found,) = search(SessionDecoder(open_session(made.folder)), source, Search(beams=4))
        assert np.isfinite(found.score)
        assert found.attention is not None
        np.testing.assert_allclose(found.attention.sum(1), 1, atol=0.02)
