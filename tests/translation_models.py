"""Small encoder-decoders as people write them: the Keras tutorial's, with and without attention, and with a cell of
one's own that is given the encoder's answers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

SOURCE, TARGET = 6, 5
SOURCE_WORDS, TARGET_WORDS = 30, 40
UNITS = 12


def tutorial(kind: str = "lstm", attention: str = "", *, mask: bool = False, shapes: bool = False) -> keras.Model:
    """The model of the Keras tutorial, with embeddings.

    Args:
        kind: "lstm" or "gru".
        attention: "", "dot" (keras.layers.Attention) or "additive".
        mask: whether padding of the source is masked.
        shapes: whether lengths are fixed.
    """
    layer = {"lstm": layers.LSTM, "gru": layers.GRU}[kind]
    source = keras.Input((SOURCE if shapes else None,), dtype="int32", name="source")
    target = keras.Input((TARGET if shapes else None,), dtype="int32", name="target")
    read = layers.Embedding(SOURCE_WORDS, UNITS, mask_zero=mask, name="source_embedding")(source)
    memory, *states = layer(UNITS, return_sequences=bool(attention), return_state=True, name="encoder")(read)
    said = layers.Embedding(TARGET_WORDS, UNITS, name="target_embedding")(target)
    steps = layer(UNITS, return_sequences=True, name="decoder")(said, initial_state=states)
    outputs: dict[str, Any] = {}
    if attention:
        looks = layers.Attention(name="look") if attention == "dot" else layers.AdditiveAttention(name="look")
        context, outputs["attention"] = looks([steps, memory], return_attention_scores=True)
        steps = layers.Concatenate(name="joined")([steps, context])
    outputs["next_token"] = layers.Dense(TARGET_WORDS, activation="softmax", name="next_token")(steps)
    return keras.Model([source, target], outputs, name=f"{kind}_{attention or 'plain'}")


@keras.saving.register_keras_serializable("translation_models")
class FeedingCell(layers.Layer):
    """An LSTM cell with additive attention over a memory that its layer hands to it, and its answer fed back."""

    def __init__(self, units: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.units = units
        self.lstm = layers.LSTMCell(units)
        self.query, self.score, self.mix = layers.Dense(units), layers.Dense(1), layers.Dense(units, activation="tanh")
        self.state_size = [units, units, units]
        self.memory: Any = None
        self.keys: Any = None
        self.mask: Any = None

    def build(self, shape: Any) -> None:
        """Weights of the layers inside."""
        self.lstm.build((shape[0], shape[-1] + self.units))
        self.query.build((shape[0], self.units))
        self.score.build((shape[0], None, self.units))
        self.mix.build((shape[0], 2 * self.units))
        self.built = True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step: what is said and the weights over the memory, side by side."""
        hidden, carry, fed = states
        hidden, (_, carry) = self.lstm(ops.concatenate([inputs, fed], -1), [hidden, carry])
        scores = self.score(ops.tanh(self.query(hidden)[:, None] + self.keys))[..., 0]
        weights = ops.softmax(ops.where(self.mask, scores, -1e9), -1)
        context = ops.sum(weights[..., None] * self.memory, 1)
        fed = self.mix(ops.concatenate([hidden, context], -1))
        return ops.concatenate([fed, weights], -1), [hidden, carry, fed]


@keras.saving.register_keras_serializable("translation_models")
class AttentionDecoder(layers.RNN):
    """A recurrent layer whose cell closes over what the encoder gives."""

    def __init__(self, units: int, **keywords: Any) -> None:
        keywords.pop("cell", None)
        keywords["return_sequences"] = True
        super().__init__(FeedingCell(units), **keywords)
        self.units = units

    def build(self, shape: Any, *others: Any, **more: Any) -> None:
        """The cell's weights."""
        self.cell.build((shape[0], shape[-1]))
        self.built = True

    def call(
        self, sequences: Any, memory: Any, keys: Any, kept: Any, initial_state: Any = None, mask: Any = None,
        training: bool = False,
    ) -> Any:  # fmt: skip
        """(batch, time, units) and (batch, time, source) weights."""
        self.cell.memory, self.cell.keys, self.cell.mask = memory, keys, kept
        both = super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        return both[..., : self.units], both[..., self.units :]

    def compute_output_spec(self, sequences: Any, memory: Any, *others: Any, **more: Any) -> Any:
        """Shapes of both."""
        batch, time = sequences.shape[:2]
        return keras.KerasTensor((batch, time, self.units)), keras.KerasTensor((batch, time, memory.shape[1]))

    def get_config(self) -> dict[str, Any]:
        """Its size."""
        kept = ("name", "trainable", "dtype")
        return {key: value for key, value in super().get_config().items() if key in kept} | {"units": self.units}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AttentionDecoder:
        """From its size; the cell is made anew."""
        return cls(**config)


def input_feeding(*, mask: bool = True) -> keras.Model:
    """A bidirectional encoder with a mask, an LSTM, and a decoder whose cell attends and is fed what it said."""
    source = keras.Input((SOURCE,), dtype="int32", name="source")
    target = keras.Input((TARGET,), dtype="int32", name="target")
    read = layers.Embedding(SOURCE_WORDS, UNITS, mask_zero=mask, name="source_embedding")(source)
    memory = layers.Bidirectional(layers.GRU(UNITS // 2, return_sequences=True), name="encoder")(read)
    keys = layers.Dense(UNITS, name="keys")(memory)
    kept = ops.not_equal(source, 0)
    start = [layers.Dense(UNITS, activation="tanh", name=f"start_{n}")(memory[:, 0]) for n in range(2)]
    said = layers.Embedding(TARGET_WORDS, UNITS, name="target_embedding")(target)
    steps = layers.LSTM(UNITS, return_sequences=True, name="lower")(said, initial_state=start)
    zero = ops.zeros_like(start[0])
    steps, weights = AttentionDecoder(UNITS, name="upper")(steps, memory, keys, kept, initial_state=[*start, zero])
    answer = layers.Dense(TARGET_WORDS, activation="softmax", name="next_token")(steps)
    return keras.Model(
        {"source": source, "target": target}, {"next_token": answer, "attention": weights}, name="input_feeding"
    )


def in_two() -> keras.Model:
    """Encoder and decoder as models of their own, called by a third."""
    source = keras.Input((SOURCE,), dtype="int32", name="words")
    read = layers.Embedding(SOURCE_WORDS, UNITS)(source)
    memory, state = layers.GRU(UNITS, return_sequences=True, return_state=True)(read)
    encoder = keras.Model(source, [memory, state], name="encoder")
    target = keras.Input((TARGET,), dtype="int32", name="said")
    given, start = keras.Input((SOURCE, UNITS), name="memory"), keras.Input((UNITS,), name="start")
    # The start is changed inside: the encoder alone does not know it.
    first = layers.Dense(UNITS, activation="tanh", name="bridge")(start)
    steps = layers.GRU(UNITS, return_sequences=True)(layers.Embedding(TARGET_WORDS, UNITS)(target), initial_state=first)
    joined = layers.Concatenate()([steps, layers.AdditiveAttention()([steps, given])])
    decoder = keras.Model(
        [target, given, start], layers.Dense(TARGET_WORDS, activation="softmax")(joined), name="decoder"
    )
    outer, told = (
        keras.Input((SOURCE,), dtype="int32", name="source"),
        keras.Input((TARGET,), dtype="int32", name="target"),
    )
    return keras.Model([outer, told], {"next_token": decoder([told, *encoder(outer)])}, name="in_two")


def luong() -> keras.Model:
    """Attention made of Dot and Activation, as many tutorials have it, and padding masked in the target too."""
    source = keras.Input((SOURCE,), dtype="int32", name="source")
    target = keras.Input((TARGET,), dtype="int32", name="target")
    read = layers.Embedding(SOURCE_WORDS, UNITS)(source)
    memory, *states = layers.LSTM(UNITS, return_sequences=True, return_state=True)(read)
    said = layers.Embedding(TARGET_WORDS, UNITS, mask_zero=True)(target)
    steps = layers.LSTM(UNITS, return_sequences=True)(said, initial_state=states)
    weights = layers.Activation("softmax", name="attention")(layers.Dot(axes=[2, 2])([steps, memory]))
    context = layers.Dot(axes=[2, 1])([weights, memory])
    joined = layers.Concatenate()([steps, context])
    answer = layers.TimeDistributed(layers.Dense(TARGET_WORDS, activation="softmax"), name="next_token")(joined)
    return keras.Model([source, target], [answer, weights], name="luong")


def strengthen(model: keras.Model, factor: float = 2.5, seed: int = 0) -> keras.Model:
    """The model with larger weights and biases that are not zero: answers far from uniform, as after training."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        value = np.asarray(weight.numpy())
        weight.assign(value * factor if value.any() else generator.normal(0, 0.2, value.shape).astype(value.dtype))
    return model


def sentences(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Made-up sentences as the data form has them: x/source, x/target, y/next_token, weight/next_token."""
    generator = np.random.default_rng(seed)
    source = np.zeros((count, SOURCE), np.int32)
    target = np.zeros((count, TARGET), np.int32)
    answer = np.zeros((count, TARGET), np.int32)
    for row in range(count):
        read, said = generator.integers(1, SOURCE), generator.integers(1, TARGET)
        source[row, :read] = generator.integers(4, SOURCE_WORDS, read)
        source[row, read] = 3
        words = generator.integers(4, TARGET_WORDS, said)
        target[row, 0], target[row, 1 : said + 1] = 2, words
        answer[row, :said], answer[row, said] = words, 3
    weight = (answer > 0).astype(np.float32)
    return {"x/source": source, "x/target": target, "y/next_token": answer, "weight/next_token": weight}
