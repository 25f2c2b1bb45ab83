"""The stream lowering: equal to the whole-clip model, packet by packet, for every network; refusals by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import stream_bundles
from keras import layers, ops
from stream_bundles import CLIP, LABELS, RATE, network, shake, sound

from edge_dl.bundle import read_bundle
from edge_dl.converters import find_refusals
from edge_dl.converters.lowering_choice import resolve_lowerings
from edge_dl.converters.signature import describe_inputs
from edge_dl.converters.sources import KerasSource
from edge_dl.converters.stream_plan import plan_stream
from edge_dl.converters.streaming import trace_stream
from edge_dl.errors import RefusedError
from edge_dl.models import WindowedSelfAttention
from edge_dl.models.speech import NETWORKS
from edge_dl.recipe import SpeechConfig
from edge_dl.runtime import StreamSession, open_session
from edge_dl.training.recipes import RECIPES
from edge_dl.variants import Lowering, Quantization

EQUAL = 1e-4
SMALL = {"ds-cnn": (16, 16, 16), "crnn": (4, 8, 12), "lstm": (12, 12), "transformer": (16, 16)}
WINDOWED = "windowed transformer"  # the transformer with model.attention_window
# Pairs of network and padding along time that stream, and what their answers are equal to.
STREAMS = {
    ("ds-cnn", "valid"): "window",
    ("ds-cnn", "causal"): "start",
    ("crnn", "valid"): "start",
    ("crnn", "causal"): "start",
    ("lstm", "same"): "start",
    ("transformer", "valid"): "window",
    ("transformer", "causal"): "start",
    (WINDOWED, "valid"): "start",
    (WINDOWED, "causal"): "start",
}


def config(name: str, padding: str, **changes: Any) -> SpeechConfig:
    if name == WINDOWED:
        return config("transformer", padding, attention_window=0.32, **changes)
    return SpeechConfig(name, padding=padding, bands=20, units=SMALL[name], **changes)


def push_all(session: StreamSession, samples: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every score, (scores, classes), of a stream that comes in chunks of random length."""
    rng = np.random.default_rng(seed)
    scores, start = [], 0
    while start < len(samples):
        length = int(rng.choice([1, 7, 160, 333, 1_600, 5_000]))
        scores += session.push(samples[start : start + length])
        start += length
    return np.stack([score.values for score in scores])


def later_answers(model: keras.Model, settings: SpeechConfig, stream: Any, samples: np.ndarray) -> np.ndarray:
    """The network over everything heard, its last layers over the last clip's frames: (answers, classes)."""
    longer = network(settings, len(samples))
    longer.set_weights(model.get_weights())
    for name in ("normalize",):  # Fitted on other data: its constants are no weights.
        longer.get_layer(name).mean = model.get_layer(name).mean
        longer.get_layer(name).factor = model.get_layer(name).factor
    pool, counted = model.get_layer("pool"), model.get_layer("pool").input.shape[1]
    frames = keras.Model(longer.inputs, longer.get_layer("pool").input)(samples[None])
    answers = []
    for first in range(frames.shape[1] - counted + 1):
        h = model.get_layer("head")(pool(frames[:, first : first + counted]))
        answers.append(np.asarray(model.get_layer("label")(h))[0])
    return np.stack(answers)


@pytest.mark.parametrize(("name", "padding"), STREAMS)
def test_a_stream_equals_the_whole_clip(name: str, padding: str, tmp_path: Path) -> None:
    settings = config(name, padding)
    model = network(settings)
    made = stream_bundles.bundle(model, tmp_path)
    stream = made.manifest.stream
    assert stream is not None
    assert stream.equal == STREAMS[name, padding]
    assert stream.rate == RATE
    assert stream.clip == CLIP
    answers = 40
    samples = sound(CLIP + answers * stream.packet, seed=9)[0]
    session = StreamSession(made.folder)
    scores = push_all(session, samples)
    assert len(scores) >= answers - 1
    first = np.asarray(model(samples[None, :CLIP])["label"])[0]
    np.testing.assert_allclose(scores[0], first, atol=EQUAL)
    if stream.equal == "window":
        windows = np.stack([samples[i * stream.packet :][:CLIP] for i in range(answers)])
        expected = np.asarray(model(windows)["label"])
    elif name != "transformer":  # Its positions fit one clip, so no longer model exists.
        expected = later_answers(model, settings, stream, samples)
    else:
        return
    count = min(len(expected), len(scores))
    assert count >= answers - 1
    assert np.ptp(expected, axis=0).max() > 100 * EQUAL
    np.testing.assert_allclose(scores[:count], expected[:count], atol=EQUAL)


@pytest.mark.parametrize("name", ["ds-cnn", "lstm"])
def test_running_normalization_streams(name: str, tmp_path: Path) -> None:
    settings = config(name, "valid", normalization="running", memory=0.9)
    model = network(settings)
    made = stream_bundles.bundle(model, tmp_path)
    assert made.manifest.stream is not None
    assert made.manifest.stream.equal == "start"
    samples = sound(2 * CLIP, seed=3)[0]
    scores = push_all(StreamSession(made.folder), samples)
    expected = later_answers(model, settings, made.manifest.stream, samples)
    count = min(len(expected), len(scores))
    assert count > 20
    np.testing.assert_allclose(scores[:count], expected[:count], atol=EQUAL)


@pytest.mark.parametrize("name", ["ds-cnn", "crnn", "lstm", WINDOWED])
@pytest.mark.parametrize("quantization", [Quantization.DYNAMIC, Quantization.INT8])
def test_quantized_streams_answer_as_their_clips(name: str, quantization: Quantization, tmp_path: Path) -> None:
    model = network(config(name, "valid"))
    samples = sound(CLIP, seed=1, count=8)
    made = stream_bundles.bundle(model, tmp_path, quantization, samples)
    expected = np.asarray(model(samples)["label"])
    got = open_session(made.folder).predict({"sound": samples})["label"]
    # The transformer that sees the whole clip loses as much: 0.051 and 0.083.
    assert np.abs(got - expected).max() < (0.12 if name == WINDOWED else 0.05)
    weights = made.model.read_bytes()
    assert len(weights) < 60_000


@pytest.mark.parametrize("quantization", [Quantization.INT8, Quantization.INT16X8])
def test_states_are_integers_between_integer_edges(quantization: Quantization, tmp_path: Path) -> None:
    """One scale for what goes out and comes in again, so that a session hands it on as it is."""
    model = network(config("lstm", "valid"))
    samples = sound(CLIP, seed=1, count=8)
    made = stream_bundles.bundle(model, tmp_path, quantization, samples, integer_io=True)
    states = made.manifest.signature.states
    assert {state.dtype for state in states} == {"int16", "int8" if quantization is Quantization.INT8 else "int16"}
    assert all(state.scale == state.output_scale and state.zero_point == state.output_zero_point for state in states)
    got = open_session(made.folder).predict({"sound": samples})["label"]
    assert np.abs(got - np.asarray(model(samples)["label"])).max() < 0.06


def test_recipes_stream_with_valid_padding() -> None:
    """Every speech recipe does, and as it stands says by name which layer keeps it from it."""
    speech = [recipe for recipe in RECIPES.values() if isinstance(recipe.model, SpeechConfig)]
    assert {recipe.model.network for recipe in speech} == set(NETWORKS)
    for recipe in speech:
        for padding, streams in (("valid", True), (recipe.model.padding, recipe.model.network == "lstm")):
            model = network(dataclasses.replace(recipe.model, padding=padding))
            refusals = find_refusals(model, Lowering.STREAM)
            assert (not refusals) is (streams or padding != "same"), recipe.name
            if refusals:
                assert refusals[0].layer in {layer.name for layer in model.layers}
                assert "same" in refusals[0].reason
                assert "model.padding" in refusals[0].todo


def test_normalization_by_the_utterance_is_refused_by_name() -> None:
    (refusal,) = find_refusals(network(config("lstm", "valid", normalization="utterance")), Lowering.STREAM)
    assert refusal.layer == "normalize"
    assert "fitted" in refusal.todo
    assert "running" in refusal.todo
    with pytest.raises(RefusedError, match="'normalize' cannot be lowered as stream"):
        trace_stream(*_described(network(config("lstm", "valid", normalization="utterance"))))


def test_windowed_attention_computes_nothing_again() -> None:
    """A whole-clip transformer's attention is computed anew for every packet, a windowed one's is carried on."""
    whole, windowed = (plan_stream(*_described(network(config(name, "valid")))) for name in ("transformer", WINDOWED))
    # All that follows the positions, which fit one clip, is computed anew; of a windowed one the mean over the clip is.
    assert whole.recomputed == ["positions"]
    assert windowed.recomputed == ["pool"]
    # Keys and values of 7 tokens before each one, and which of them there were, in both blocks.
    shapes = [need.shape for need in windowed.needs]
    assert shapes.count((1, 2, 7, 8)) == 4
    assert shapes.count((1, 1, 1, 7)) == 2


def _described(model: keras.Model) -> tuple[keras.Model, Any]:
    return model, describe_inputs(model)


# --- models of one's own ---


def sequential(*stack: Any, frames: int = 40, features: int = 3) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((frames, features)), *stack])
    shake(model)
    return model


def residual() -> keras.Model:
    """Two strided branches, and zeros in front of one of them alone."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((40, 3))
    left = layers.Conv1D(4, 5, strides=2, padding="causal", activation="relu")(inputs)
    right = layers.Conv1D(4, 1, strides=2)(inputs)
    h = layers.Add()([left, right])
    h = layers.Conv1D(4, 3, padding="causal", dilation_rate=2)(h)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


def squeeze_and_excite() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((40, 3))
    h = layers.Conv1D(4, 3, activation="relu")(inputs)
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling1D(keepdims=True)(h))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Multiply()([h, gate]))))


def nested() -> keras.Model:
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((38, 4)), layers.Conv1D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    inputs = keras.Input((40, 3))
    h = inner(layers.Conv1D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(5)(h)))


def attending(**settings: Any) -> keras.Model:
    """Keras' own self-attention, which sees whole clips: it is computed anew for every packet."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((40, 3))
    h = layers.Conv1D(8, 5, strides=2)(inputs)
    h = layers.Add()([h, layers.MultiHeadAttention(2, 4, name="attention")(h, h, **settings)])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))
    shake(model)
    return model


OWN = {
    "attention": attending,
    "causal attention": lambda: attending(use_causal_mask=True),
    "windowed attention": lambda: sequential(
        layers.Conv1D(8, 5, strides=2), WindowedSelfAttention(2, 6), layers.GlobalAveragePooling1D(), layers.Dense(2)
    ),
    "windowed attention to several steps a packet": lambda: sequential(
        WindowedSelfAttention(1, 4), layers.Conv1D(4, 3, strides=3), layers.GlobalMaxPooling1D()
    ),
    "convolution and pools": lambda: sequential(
        layers.Conv1D(4, 3), layers.MaxPooling1D(2), layers.SeparableConv1D(4, 3), layers.AveragePooling1D(3),
        layers.Flatten(), layers.Dense(2),
    ),
    "dilated and causal": lambda: sequential(
        layers.Conv1D(4, 2, padding="causal", activation="relu"),
        layers.Conv1D(4, 2, padding="causal", dilation_rate=2, activation="relu"),
        layers.Conv1D(4, 2, padding="causal", dilation_rate=4, activation="relu"), layers.Dense(2),
    ),
    "strided, then recurrent": lambda: sequential(
        layers.Conv1D(4, 4, strides=3), layers.GRU(5, return_sequences=True), layers.LSTM(4), layers.Dense(2)
    ),
    "zeros in front": lambda: sequential(
        layers.ZeroPadding1D((3, 0)), layers.Conv1D(4, 4, strides=2), layers.SimpleRNN(4), layers.Dense(2)
    ),
    "depthwise with gaps": lambda: sequential(
        layers.DepthwiseConv1D(2, strides=4), layers.Dense(4, activation="relu"), layers.GlobalMaxPooling1D()
    ),
    "pictures": lambda: sequential(
        layers.Reshape((40, 3, 1)), layers.Conv2D(4, (3, 2), strides=(2, 1)), layers.MaxPooling2D((2, 2)),
        layers.GlobalMaxPooling2D(),
    ),
    "answers for every frame": lambda: sequential(layers.Conv1D(4, 5, strides=2), layers.Dense(2)),
    "several frames a packet": lambda: sequential(
        layers.Conv1D(4, 3), layers.LSTM(4, return_sequences=True), layers.Conv1D(3, 3, strides=2),
        layers.GlobalAveragePooling1D(),
    ),
    "residual with causal padding": residual,
    "squeeze and excite": squeeze_and_excite,
    "a model inside": nested,
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_models_of_ones_own_stream(name: str, tmp_path: Path) -> None:
    """Tracing compares four clips; the file is compared here, clip by clip and in one stream."""
    model = OWN[name]()
    made = stream_bundles.bundle(model, tmp_path)
    stream = made.manifest.stream
    assert stream is not None
    clips = np.random.default_rng(2).standard_normal((3, stream.clip, 3)).astype(np.float32)
    expected = np.asarray(model(clips))
    (got,) = open_session(made.folder).predict(clips).values()
    np.testing.assert_allclose(got, expected, atol=EQUAL)


@pytest.mark.parametrize("settings", [{}, {"use_causal_mask": True}], ids=["both ways", "causal"])
def test_keras_attention_is_computed_anew(settings: dict[str, Any]) -> None:
    plan = plan_stream(*_described(attending(**settings)))
    assert "attention" in plan.recomputed
    assert not plan.remembers


@pytest.mark.parametrize("quantization", [Quantization.INT8, Quantization.INT16X8])
@pytest.mark.parametrize("name", ["causal attention", "windowed attention"])
def test_a_mask_leaves_scores_their_scale(name: str, quantization: Quantization, tmp_path: Path) -> None:
    """With one scale for both, answers are off by .26 to .89."""
    model = OWN[name]()
    clips = np.random.default_rng(2).standard_normal((16, 40, 3)).astype(np.float32)
    made = stream_bundles.bundle(model, tmp_path, quantization, clips)
    (got,) = open_session(made.folder).predict(clips).values()
    assert np.abs(got - np.asarray(model(clips))).max() < 0.04


def test_windows_slide_over_a_stream(tmp_path: Path) -> None:
    model = OWN["convolution and pools"]()
    made = stream_bundles.bundle(model, tmp_path)
    stream, session = made.manifest.stream, open_session(made.folder)
    assert stream is not None
    assert stream.equal == "window"
    (output,) = stream.outputs.values()
    long = np.random.default_rng(4).standard_normal((stream.clip + 20 * stream.packet, 3)).astype(np.float32)
    padded = np.concatenate([np.zeros((stream.lead, 3), np.float32), long])
    answers = [
        next(iter(session.packet(padded[start : start + stream.packet]).values()))
        for start in range(0, len(padded) - stream.packet + 1, stream.packet)
    ][output.first :]
    assert len(answers) >= 19
    for number, answer in enumerate(answers[:20]):
        window = long[number * stream.packet :][: stream.clip]
        np.testing.assert_allclose(answer, np.asarray(model(window[None]))[0], atol=EQUAL)


@keras.saving.register_keras_serializable(package="tests")
class Neighbours(layers.Layer):
    """Adds the frame before, which nothing in its name says."""

    def call(self, inputs: Any) -> Any:
        return inputs + ops.roll(inputs, 1, axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


REFUSED = {
    "same": (lambda: sequential(layers.Conv1D(4, 3, padding="same", name="wide")), "'wide'.*padding"),
    "both ways": (lambda: sequential(layers.Bidirectional(layers.LSTM(3), name="both")), "'both'.*from its end"),
    "backwards": (lambda: sequential(layers.LSTM(3, go_backwards=True, name="back")), "'back'.*from its end"),
    "zeros behind": (lambda: sequential(layers.ZeroPadding1D((0, 2), name="pad"), layers.Conv1D(3, 3)), "'pad'.*end"),
    "masked": (lambda: sequential(layers.Masking(name="mask"), layers.LSTM(3)), "'mask'.*masks"),
    "more frames": (lambda: sequential(layers.UpSampling1D(2, name="up")), "'up'.*makes frames"),
    "of one's own": (lambda: sequential(layers.Dense(3), Neighbours(name="near")), "differs by.*'near'"),
    "zeros that are not convolved": (
        lambda: sequential(layers.ZeroPadding1D((2, 0)), layers.LSTM(3, name="after")), "'after'.*zeros"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_stream_says_so_by_name(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(RefusedError, match=message):
        trace_stream(*_described(build()))


def test_a_packet_is_what_all_strides_divide() -> None:
    model = sequential(layers.Conv1D(4, 3, strides=2), layers.MaxPooling1D(3), layers.GlobalMaxPooling1D())
    plan = plan_stream(*_described(model))
    assert plan.packet == 6
    assert plan.late == 0
    assert not plan.remembers


def test_the_manifest_describes_the_stream(tmp_path: Path) -> None:
    made = stream_bundles.bundle(network(config("crnn", "valid")), tmp_path)
    again = read_bundle(made.folder).manifest
    assert again.stream == made.manifest.stream
    assert again.signature == made.manifest.signature
    assert max(state.silent for state in again.signature.states) > 0
    session = open_session(made.folder)
    assert session.labels == list(LABELS)


def test_streams_are_made_when_asked_for_by_name() -> None:
    """`auto` does not make them, and says nothing of models that cannot stream."""
    same, valid = (KerasSource(network(config("ds-cnn", padding))).describe({}, {}) for padding in ("same", "valid"))
    assert resolve_lowerings(["auto"], same) == resolve_lowerings(["auto"], valid) == ([Lowering.NONE], {})
    assert resolve_lowerings(["auto", "stream"], valid) == ([Lowering.NONE, Lowering.STREAM], {})
    with pytest.raises(RefusedError, match=r"cannot be lowered as stream. Layer 'conv': .*model\.padding"):
        resolve_lowerings(["auto", "stream"], same)


def test_a_file_without_layers_says_that_it_has_none() -> None:
    facts = {"allowed": ["none"], "refusals": {}, "layers": []}
    with pytest.raises(RefusedError, match="only a Keras model"):
        resolve_lowerings(["stream"], facts)


@keras.saving.register_keras_serializable(package="tests")
class Decaying(layers.Layer):
    """A layer of one's own that remembers: y(t) = x(t) + y(t - 1) / 2."""

    def call(self, inputs: Any) -> Any:
        state = ops.zeros_like(inputs[:, 0])
        return self.advance(inputs, state)[0]

    def state_shape(self, input_shape: Any) -> tuple[int, ...]:
        return (input_shape[0], input_shape[-1])

    def advance(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        given = []
        for step in range(inputs.shape[1]):
            state = inputs[:, step] + state / 2
            given.append(state)
        return ops.stack(given, axis=1), state

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def test_layers_of_ones_own_may_remember(tmp_path: Path) -> None:
    model = sequential(layers.Conv1D(4, 4, strides=2), Decaying(), layers.Conv1D(3, 3), layers.GlobalMaxPooling1D())
    made = stream_bundles.bundle(model, tmp_path)
    assert made.manifest.stream is not None
    assert made.manifest.stream.equal == "start"
    clips = np.random.default_rng(2).standard_normal((3, made.manifest.stream.clip, 3)).astype(np.float32)
    (got,) = open_session(made.folder).predict(clips).values()
    np.testing.assert_allclose(got, np.asarray(model(clips)), atol=EQUAL)


@keras.saving.register_keras_serializable(package="tests")
class Mean(layers.Layer):
    """The layer of docs/speech.md: the mean of all frames so far."""

    def state_shape(self, input_shape: Any) -> dict[str, tuple[int, ...]]:
        return {"sum": (input_shape[0], input_shape[2]), "count": (input_shape[0], 1)}

    def advance(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        sums = state["sum"][:, None] + ops.cumsum(inputs, axis=1)
        counts = state["count"][:, None] + ops.reshape(ops.arange(1.0, inputs.shape[1] + 1), (1, -1, 1))
        return sums / counts, {"sum": sums[:, -1], "count": counts[:, -1]}

    def call(self, inputs: Any) -> Any:
        return self.advance(inputs, {"sum": ops.zeros_like(inputs[:, 0]), "count": ops.zeros_like(inputs[:, 0, :1])})[0]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def test_layers_of_ones_own_may_remember_several_things(tmp_path: Path) -> None:
    model = sequential(layers.Conv1D(4, 4, strides=2), Mean(), layers.Conv1D(3, 3), layers.GlobalMaxPooling1D())
    made = stream_bundles.bundle(model, tmp_path)
    clips = np.random.default_rng(2).standard_normal((3, 40, 3)).astype(np.float32)
    (got,) = open_session(made.folder).predict(clips).values()
    np.testing.assert_allclose(got, np.asarray(model(clips)), atol=EQUAL)
    shapes = [state.shape for state in made.manifest.signature.states]
    assert (1, 4) in shapes
    assert (1, 1) in shapes


class Mistaken(Mean):
    """It gives its states in another form than it takes them."""

    def advance(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        answer, after = super().advance(inputs, state)
        return answer, after["sum"]


class Growing(Mean):
    """It gives a state of another shape than it says."""

    def advance(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        answer, after = super().advance(inputs, {**state, "count": state["count"][:, :1]})
        return answer, {**after, "count": ops.concatenate([after["count"]] * 2, axis=1)}


@pytest.mark.parametrize("kind", [Mistaken, Growing])
def test_states_given_in_another_form_are_refused_by_name(kind: type[Mean]) -> None:
    with pytest.raises(RefusedError, match=r"'mine'.*state_shape"):
        trace_stream(*_described(sequential(kind(name="mine"), layers.GlobalMaxPooling1D())))
