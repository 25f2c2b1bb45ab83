"""The decode lowerings: encode and steps give what the whole model gives, for one hypothesis and for several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import translation_models as models
from keras import layers, ops
from lowered_runs import keras_answers
from translation_models import SOURCE, SOURCE_WORDS, TARGET, TARGET_WORDS, UNITS

from edge_dl.converters import Export, export, read_export
from edge_dl.converters.cutting import Cut, find_cut
from edge_dl.converters.decoding import trace_decode
from edge_dl.converters.signature import describe_inputs
from edge_dl.errors import RefusedError
from edge_dl.models import seq2seq
from edge_dl.recipe import Seq2SeqConfig, Task
from edge_dl.variants import Lowering

SHAPES = {"source": [SOURCE], "target": [TARGET]}
EQUAL = 1e-5


def ours(**settings: Any) -> keras.Model:
    tables = SimpleNamespace(
        source=SimpleNamespace(pieces=tuple(range(SOURCE_WORDS))),
        target=SimpleNamespace(pieces=tuple(range(TARGET_WORDS))),
    )
    dataset: Any = SimpleNamespace(sentences=SimpleNamespace(tables=tables))
    config = Seq2SeqConfig(embedding=UNITS, **{"units": (UNITS, UNITS), **settings})
    return seq2seq.build(Task.TRANSLATION, config, dataset)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "lstm": lambda: models.tutorial("lstm"),
    "gru": lambda: models.tutorial("gru", mask=True),
    "lstm and dot attention": lambda: models.tutorial("lstm", "dot", mask=True),
    "gru and additive attention": lambda: models.tutorial("gru", "additive"),
    "models in a model": models.in_two,
    "dots, and a masked target": models.luong,
    "a cell of one's own": models.input_feeding,
    "ours, fixed context": lambda: ours(cell="gru", attention="none", input_feeding=False),
    "ours, attention behind": lambda: ours(cell="lstm", attention="multiplicative", input_feeding=False),
    "ours, input feeding": lambda: ours(cell="lstm", attention="additive", residual=True),
    "ours, input feeding, gru": lambda: ours(cell="gru", attention="multiplicative", bidirectional=False),
}


def decode(record: Export, x: dict[str, np.ndarray], beams: int = 1) -> dict[str, np.ndarray]:
    """Answers of a saved export to samples, step by step; with beams, those of the last hypothesis."""
    functions = tf.saved_model.load(str(record.saved_model)).signatures
    assert record.encoder is not None
    assert record.sequence is not None
    (target,) = record.sequence.inputs
    key = record.signature.key
    if beams > 1:
        assert record.beams is not None
        key = record.beams.key
    pieces: dict[str, list[np.ndarray]] = {}
    for row in range(len(x[target])):
        sources = {spec.name: tf.constant(x[spec.name][row : row + 1]) for spec in record.encoder.inputs}
        encoded = functions[record.encoder.key](**sources)
        given = {spec.name: encoded[spec.name] for spec in record.signature.inputs if spec.name != target}
        state = {
            item.input: tf.repeat(encoded[item.initial] if item.initial else tf.zeros(item.shape), beams, 0)
            for item in record.signature.states
        }
        steps: dict[str, list[np.ndarray]] = {}
        for step in range(x[target].shape[1]):
            now = tf.constant(x[target][row, step : step + 1, None].repeat(beams, 0))
            results = functions[key](**{target: now}, **given, **state)
            state = {item.input: results[item.output] for item in record.signature.states}
            for spec in record.signature.outputs:
                steps.setdefault(spec.name, []).append(np.asarray(results[spec.name])[-1:])
        for name, found in steps.items():
            pieces.setdefault(name, []).append(np.concatenate(found, 1))
    return {name: np.concatenate(found) for name, found in pieces.items()}


@pytest.mark.parametrize("lowering", [Lowering.DECODE, Lowering.DECODE_UNROLL])
@pytest.mark.parametrize("name", MODELS)
def test_steps_give_what_the_whole_model_gives(name: str, lowering: Lowering, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = models.strengthen(MODELS[name]())
    record = export(model, tmp_path, lowering, input_shapes=SHAPES)
    assert read_export(tmp_path) == record
    data = models.sentences(6, seed=4)
    x = {key[2:]: value for key, value in data.items() if key.startswith("x/")}
    wanted = keras_answers(model, x)
    for beams in (1, 4):
        answers = decode(record, x, beams)
        assert set(answers) == set(wanted)
        for output, value in wanted.items():
            np.testing.assert_allclose(answers[output], value, atol=EQUAL, err_msg=output)


def test_what_only_starts_a_state_is_no_input_of_a_step(tmp_path: Path) -> None:
    record = export(models.tutorial("lstm", "dot", mask=True), tmp_path, Lowering.DECODE, input_shapes=SHAPES)
    assert record.encoder is not None
    assert [spec.name for spec in record.signature.inputs] == ["target", "encoder_0", "encoder_0_mask"]
    assert [state.initial for state in record.signature.states] == ["decoder_state_0", "decoder_state_1"]
    assert {spec.name for spec in record.encoder.outputs} == {
        "encoder_0", "encoder_0_mask", "decoder_state_0", "decoder_state_1",
    }  # fmt: skip


def test_a_state_that_starts_from_zero_needs_no_output(tmp_path: Path) -> None:
    record = export(ours(units=(UNITS,)), tmp_path, Lowering.DECODE, input_shapes=SHAPES)
    # Two of the LSTM, from the encoder; and the answer fed back, of which there is none before the first step.
    assert [bool(state.initial) for state in record.signature.states] == [True, True, False]


@pytest.mark.parametrize(("batch", "beams", "count"), [(1, 4, 4), (1, 0, 0), (1, 1, 0), (3, 4, 0)])
def test_beams_are_made_for_one_source(batch: int, beams: int, count: int, tmp_path: Path) -> None:
    record = export(models.tutorial(), tmp_path, Lowering.DECODE, input_shapes=SHAPES, batch=batch, beams=beams)
    assert (record.beams.count if record.beams else 0) == count
    assert len(record.parts) == (3 if count else 2)
    assert all(state.shape[0] == batch for state in record.signature.states)


def test_half_precision_is_computed_as_on_the_device(tmp_path: Path) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = ours(units=(UNITS,))
    finally:
        keras.config.set_dtype_policy(before)
    record = export(model, tmp_path, Lowering.DECODE, input_shapes=SHAPES)
    assert {state.dtype for state in record.signature.states} == {"float32"}
    x = {key[2:]: value for key, value in models.sentences(3).items() if key.startswith("x/")}
    answers = decode(record, x)
    for output, value in keras_answers(model, x).items():
        np.testing.assert_allclose(answers[output], value, atol=1e-4)


@keras.saving.register_keras_serializable("test_decoding")
class Ahead(layers.Layer):
    """Looks at the step that comes next, which the structure of a model does not tell."""

    def call(self, inputs: Any) -> Any:
        return inputs + ops.roll(inputs, -1, axis=1)


def test_a_layer_that_looks_ahead_is_found_by_running_it(tmp_path: Path) -> None:
    source = keras.Input((SOURCE,), dtype="int32", name="source")
    target = keras.Input((TARGET,), dtype="int32", name="target")
    _, *states = layers.LSTM(UNITS, return_state=True)(layers.Embedding(SOURCE_WORDS, UNITS)(source))
    said = Ahead(name="ahead")(layers.Embedding(TARGET_WORDS, UNITS)(target))
    answer = layers.Dense(TARGET_WORDS)(layers.LSTM(UNITS, return_sequences=True)(said, initial_state=states))
    with pytest.raises(RefusedError, match="step by step"):
        export(keras.Model([source, target], answer), tmp_path, Lowering.DECODE, input_shapes=SHAPES)


def test_padding_of_the_source_is_part_of_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is lost between encoder and step changes nothing where no source is padded."""
    model = models.strengthen(models.tutorial("gru", "dot", mask=True))
    cut = find_cut(model, describe_inputs(model, input_shapes=SHAPES))[0]
    assert cut is not None
    own = Cut.encode
    monkeypatch.setattr(Cut, "encode", lambda cut, tensors: (own(cut, tensors)[0], {}))
    with pytest.raises(RefusedError, match="step by step"):
        trace_decode(cut, Lowering.DECODE)
