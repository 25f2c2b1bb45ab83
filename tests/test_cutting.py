"""Where an encoder ends and its decoder begins: found in every way of writing one, refused by name elsewhere."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import translation_models as models
from keras import layers
from translation_models import SOURCE, TARGET, UNITS

from edge_dl.converters import find_refusals
from edge_dl.converters.cutting import Cut, find_cut
from edge_dl.converters.decoding import trace_decode
from edge_dl.converters.lowering_choice import resolve_lowerings
from edge_dl.converters.signature import describe_inputs
from edge_dl.converters.sources import KerasSource
from edge_dl.errors import RefusedError
from edge_dl.variants import Lowering

SHAPES = {"source": [SOURCE], "target": [TARGET]}


def cut_of(model: keras.Model) -> Cut:
    cut, refusals = find_cut(model, describe_inputs(model, input_shapes=SHAPES))
    assert cut is not None, refusals
    return cut


def decoder_of(build: Any) -> keras.Model:
    """An encoder-decoder whose decoder is what `build` makes of the target's embedding, memory and states."""
    source = keras.Input((SOURCE,), dtype="int32", name="source")
    target = keras.Input((TARGET,), dtype="int32", name="target")
    memory, *states = layers.LSTM(UNITS, return_sequences=True, return_state=True, name="encoder")(
        layers.Embedding(30, UNITS)(source)
    )
    said = layers.Embedding(40, UNITS)(target)
    return keras.Model([source, target], build(said, memory, states), name="made")


@pytest.mark.parametrize("shapes", [False, True])
def test_the_target_is_the_input_that_every_output_follows(shapes: bool) -> None:
    cut = cut_of(models.tutorial("lstm", "dot", shapes=shapes))
    assert (cut.target, cut.sources) == ("target", ("source",))
    assert set(cut.frontier) == {"encoder_0", "encoder_1", "encoder_2"}


def test_the_order_of_inputs_does_not_matter() -> None:
    model = models.tutorial()
    turned = keras.Model(model.inputs[::-1], model.outputs)
    assert cut_of(turned).target == "target"


def test_names_of_the_frontier_are_the_layers_and_stay_the_same() -> None:
    first, second = (list(cut_of(models.input_feeding()).frontier) for _ in range(2))
    # Made by functions, not layers: Keras counts their calls since the process began.
    assert first == second
    assert {"encoder", "keys", "start_0", "start_1", "not_equal"} <= set(first)


def test_names_do_not_collide_with_inputs_and_outputs() -> None:
    def build(said: Any, memory: Any, states: Any) -> Any:
        steps = layers.LSTM(UNITS, return_sequences=True, name="decoder")(said, initial_state=states)
        looked = layers.Attention(name="seen")([steps, layers.Dense(UNITS, name="answer")(memory)])
        return {"answer": layers.Dense(40)(looked)}

    cut = cut_of(decoder_of(build))
    assert "answer" not in cut.frontier
    assert "answer_1" in cut.frontier


def test_the_model_is_not_changed() -> None:
    model = models.tutorial("gru", "dot", mask=True)
    before = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    cut = cut_of(model)
    source = np.full((1, SOURCE), 5, "int32")
    known, masks = cut.encode({"source": source})
    cut.decode(np.full((1, 1), 2, "int32"), known, masks)
    assert {layer.name: len(layer._inbound_nodes) for layer in model.layers} == before


def test_both_parts_together_are_the_model() -> None:
    model = models.strengthen(models.tutorial("gru", "dot", mask=True))
    cut = cut_of(model)
    data = models.sentences(8)
    source, target = data["x/source"], data["x/target"]
    known, masks = cut.encode({"source": source})
    assert set(masks) == {"encoder_0"}
    answers = cut.decode(target, known, masks)
    for name, wanted in model([source, target]).items():
        np.testing.assert_array_equal(np.asarray(answers[name]), np.asarray(wanted))
    # The mask matters: without it attention looks at padding.
    assert not np.allclose(cut.decode(target, cut.encode({"source": source})[0], {})["attention"], answers["attention"])


def test_a_language_model_is_no_encoder_decoder() -> None:
    tokens = keras.Input((TARGET,), dtype="int32", name="tokens")
    answer = layers.Dense(40)(layers.LSTM(UNITS, return_sequences=True)(layers.Embedding(40, UNITS)(tokens)))
    model = keras.Model(tokens, answer)
    assert find_cut(model, describe_inputs(model))[0] is None


@pytest.mark.parametrize("steps", [None, 7])
def test_two_sequences_side_by_side_are_no_encoder_and_decoder(steps: int | None) -> None:
    first, second = (keras.Input((steps, 3), name=name) for name in ("first", "second"))
    joined = layers.Concatenate()(
        [layers.LSTM(8, return_sequences=True)(first), layers.GRU(8, return_sequences=True)(second)]
    )
    model = keras.Model([first, second], layers.Dense(2)(joined))
    shapes = {"first": [7, 3], "second": [7, 3]}
    refusals = find_refusals(model, Lowering.DECODE, input_shapes=shapes)
    assert refusals
    assert "joins every step with a sequence" in refusals[0].reason
    facts = KerasSource(model).describe(shapes, {})
    chosen, _ = resolve_lowerings(["auto"], facts)
    assert Lowering.WHILE in chosen
    assert not any(lowering.decodes for lowering in chosen)


def test_features_beside_a_sequence_are_no_source() -> None:
    steps, still = keras.Input((7, 3), name="steps"), keras.Input((4,), name="still")
    both = layers.Concatenate()([steps, layers.RepeatVector(7)(still)])
    model = keras.Model([steps, still], layers.Dense(2)(layers.LSTM(8, return_sequences=True)(both)))
    assert find_cut(model, describe_inputs(model))[0] is None


def test_an_output_of_the_encoder_alone_is_named() -> None:
    def build(said: Any, memory: Any, states: Any) -> Any:
        steps = layers.LSTM(UNITS, return_sequences=True)(said, initial_state=states)
        return {"label": layers.Dense(40, name="label")(steps), "memory": memory}

    (refusal,) = find_refusals(decoder_of(build), Lowering.DECODE, input_shapes=SHAPES)
    assert "'memory' is the encoder's own" in refusal.reason
    assert "Leave it out" in refusal.todo


def test_an_encoder_inside_a_nested_model_is_named() -> None:
    source, target = (keras.Input((size,), dtype="int32", name=name) for name, size in (("a", SOURCE), ("b", TARGET)))
    inner = models.tutorial("gru", "dot", shapes=True)
    model = keras.Model([source, target], inner([source, target])["next_token"], name="outer")
    (refusal,) = find_refusals(model, Lowering.DECODE, input_shapes={})
    assert refusal.layer == inner.name
    assert "inside a nested model" in refusal.reason
    assert "directly" in refusal.todo


def cho(said: Any, memory: Any, states: Any) -> Any:
    context = layers.RepeatVector(TARGET, name="context")(states[0])
    both = layers.Concatenate()([said, context])
    steps = layers.LSTM(UNITS, return_sequences=True, name="decoder")(both, initial_state=states)
    return layers.Dense(40, activation="softmax", name="label")(layers.Concatenate()([steps, context]))


def context_alone(said: Any, memory: Any, states: Any) -> Any:
    both = layers.Concatenate()([said, layers.RepeatVector(TARGET)(layers.Dense(7)(states[1]))])
    return layers.Dense(40, activation="softmax", name="label")(layers.GRU(UNITS, return_sequences=True)(both))


@pytest.mark.parametrize("build", [cho, context_alone])
def test_the_same_context_at_every_step(build: Any) -> None:
    model = models.strengthen(decoder_of(build))
    cut = cut_of(model)
    assert all(len(tensor.shape) == 2 for tensor in cut.frontier.values())
    # Which compares the steps with the whole model.
    traced = trace_decode(cut, Lowering.DECODE, beams=2)
    assert {spec.name: spec.shape for spec in traced.step.inputs}["target"] == (1, 1)
    assert [layer.n for layer in cut.repeated] == [TARGET]


def test_what_an_encoder_repeats_for_itself_stays_its_own() -> None:
    def build(said: Any, memory: Any, states: Any) -> Any:
        again = layers.GRU(UNITS, return_sequences=True)(layers.RepeatVector(TARGET)(states[0]))
        steps = layers.LSTM(UNITS, return_sequences=True, name="decoder")(said, initial_state=states)
        return layers.Dense(40)(layers.Attention()([steps, again]))

    cut = cut_of(decoder_of(build))
    assert cut.repeated == ()
    assert len(cut.decoder) == 1


def bidirectional(said: Any, memory: Any, states: Any) -> Any:
    return layers.Dense(40)(layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True), name="both")(
        said, initial_state=[*states, *states]
    ))  # fmt: skip


def backwards(said: Any, memory: Any, states: Any) -> Any:
    return layers.Dense(40)(
        layers.LSTM(UNITS, return_sequences=True, go_backwards=True, name="back")(said, initial_state=states)
    )


def convolved(said: Any, memory: Any, states: Any) -> Any:
    ahead = layers.Conv1D(UNITS, 3, padding="same", name="ahead")(said)
    return layers.Dense(40)(layers.LSTM(UNITS, return_sequences=True)(ahead, initial_state=states))


def looks_at_itself(said: Any, memory: Any, states: Any) -> Any:
    steps = layers.LSTM(UNITS, return_sequences=True)(said, initial_state=states)
    return layers.Dense(40)(layers.Attention(name="itself")([steps, steps], use_causal_mask=True))


def last_only(said: Any, memory: Any, states: Any) -> Any:
    return layers.Dense(40, name="label")(layers.LSTM(UNITS)(said, initial_state=states))


@pytest.mark.parametrize(
    ("build", "layer", "word"),
    [
        (bidirectional, "both", "from its end"),
        (backwards, "back", "go_backwards"),
        (convolved, "ahead", "3 time steps"),
        (looks_at_itself, "itself", "all time steps"),
        (last_only, "made", "no answer for each step"),
    ],
)
def test_what_is_not_step_by_step_is_refused_by_name(build: Any, layer: str, word: str) -> None:
    refusals = find_refusals(decoder_of(build), Lowering.DECODE, input_shapes=SHAPES)
    assert [refusal.layer for refusal in refusals] == [layer]
    assert word in refusals[0].reason
    with pytest.raises(RefusedError, match=layer):
        resolve_lowerings(["decode"], KerasSource(decoder_of(build)).describe(SHAPES, {}))


def test_auto_decodes_what_can_be_decoded() -> None:
    facts = KerasSource(models.tutorial()).describe(SHAPES, {})
    chosen, left_out = resolve_lowerings(["auto"], facts)
    assert chosen == [Lowering.DECODE, Lowering.DECODE_UNROLL]
    assert set(left_out) == {"while", "unroll", "fused", "step"}
    # Asked for by name, the whole model is still made.
    assert resolve_lowerings(["while"], facts)[0] == [Lowering.WHILE]


def forecaster(hours: int = 12) -> keras.Model:
    """What is known of the hours to come is there from the start: nobody says it step by step."""
    past, known = keras.Input((24, 3), name="past"), keras.Input((hours, 2), name="known")
    _, *states = layers.LSTM(8, return_state=True, name="reads")(past)
    steps = layers.LSTM(8, return_sequences=True, name="goes_on")(known, initial_state=states)
    return keras.Model([past, known], layers.Dense(1, name="forecast")(steps), name="forecaster")


def labeller() -> keras.Model:
    """A state that starts from what is known of a person makes no translator."""
    sensors, person = keras.Input((50, 6), name="sensors"), keras.Input((4,), name="person")
    start = [layers.Dense(8, name=f"start_{number}")(person) for number in range(2)]
    steps = layers.LSTM(8, return_sequences=True, name="steps")(sensors, initial_state=start)
    return keras.Model([sensors, person], layers.Dense(5, activation="softmax", name="label")(steps), name="labeller")


@pytest.mark.parametrize("build", [forecaster, labeller])
def test_what_is_no_translator_keeps_the_lowerings_of_whole_models(build: Any) -> None:
    facts = KerasSource(build()).describe({}, {})
    assert facts["decoding"] == ["decode", "decode-unroll"]
    chosen, left_out = resolve_lowerings(["auto"], facts)
    assert {Lowering.WHILE, Lowering.UNROLL} <= set(chosen)
    assert not any(lowering.decodes for lowering in chosen)
    for name, reason in left_out.items():
        assert "whole target" not in reason
        if facts["refusals"].get(name):
            assert facts["refusals"][name][0]["reason"] in reason
    assert "by name" in left_out["decode"]
    chosen, left_out = resolve_lowerings(["auto", "decode"], facts)
    assert Lowering.DECODE in chosen
    assert "decode" not in left_out


def test_characters_as_one_hot_vectors_are_tokens() -> None:
    source, target = keras.Input((SOURCE, 7), name="source"), keras.Input((TARGET, 9), name="target")
    _, *states = layers.LSTM(UNITS, return_state=True)(source)
    steps = layers.LSTM(UNITS, return_sequences=True)(target, initial_state=states)
    model = keras.Model([source, target], layers.Dense(9, activation="softmax")(steps))
    assert resolve_lowerings(["auto"], KerasSource(model).describe({}, {}))[0][0] is Lowering.DECODE


def test_what_a_layer_refuses_stays_the_reason() -> None:
    facts = KerasSource(models.tutorial("lstm", "dot", mask=True)).describe(SHAPES, {})
    left_out = resolve_lowerings(["auto"], facts)[1]
    refused = {name: found[0]["reason"] for name, found in facts["refusals"].items() if found}
    assert refused
    assert all(reason in left_out[name] for name, reason in refused.items())


def test_steps_of_a_decoder_are_those_of_its_target() -> None:
    facts = KerasSource(models.tutorial()).describe({"source": [600], "target": [9]}, {})
    assert {item["path"]: item["steps"] for item in facts["layers"]} == {"encoder": 600, "decoder": 9}
    # Only the encoder is written out.
    assert facts["encoder_steps"] == 600


@pytest.mark.parametrize("kind", ["tflite", "saved_model"])
def test_a_file_without_layers_is_not_said_to_have_no_recurrent_one(kind: str) -> None:
    facts = {"kind": kind, "layers": [], "allowed": ["none"], "refusals": {}, "shapes": {}}
    with pytest.raises(RefusedError, match="only a Keras model says which layers it has"):
        resolve_lowerings(["decode"], facts)


def test_a_long_source_is_not_written_out_by_auto() -> None:
    facts = KerasSource(models.tutorial()).describe({"source": [600], "target": [9]}, {})
    chosen, left_out = resolve_lowerings(["auto"], facts)
    assert chosen == [Lowering.DECODE]
    assert "600" in left_out["decode-unroll"]
