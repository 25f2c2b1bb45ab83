"""What a decoder looks back at the source with: attention for a whole target at once, or step by step in the loop.

`SourceAttention` is the mathematics; `AttentionDecoder` is a recurrent layer whose cell attends at every step and is
told at the next what it found (input feeding), so it cannot be computed for all steps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

SCORES = ("additive", "multiplicative")
CELLS = {"lstm": keras.layers.LSTMCell, "gru": keras.layers.GRUCell}
# Enough to vanish under softmax, finite in float16.
_NEVER = -3e4


@keras.saving.register_keras_serializable(package="edge_dl")
class SourceMask(keras.layers.Layer):
    """Where a row of tokens is no padding: (batch, steps) int32 -> (batch, steps) bool."""

    def call(self, tokens: Any) -> Any:
        """True where a token is not 0."""
        return ops.not_equal(tokens, 0)

    def compute_output_spec(self, tokens: Any) -> Any:
        """(batch, steps) bool."""
        return keras.KerasTensor(tokens.shape, dtype="bool")


@keras.saving.register_keras_serializable(package="edge_dl")
class SourceAttention(keras.layers.Layer):
    """Attention of decoder states over the encoder's output, and what is made of both.

    Scores of state h and source position j with encoder output m_j:
    "additive": v . tanh(W h + k_j) with keys k_j = U m_j + b (Bahdanau, Cho & Bengio 2015, appendix A.1.2);
    "multiplicative": h . k_j with keys k_j = U m_j (Luong, Pham & Manning 2015, equation 8, "general").
    Weights are the softmax over positions that are no padding; the context c is the mean of m_j by these weights; the
    answer is tanh(C [c; h]) (Luong et al., equation 5).

    `states` (batch, target steps, units), `memory` (batch, source steps, features), `keys` (batch, source steps, units)
    and `source_mask` (batch, source steps) give the answer (batch, target steps, units) and the weights (batch, target
    steps, source steps).

    Args:
        units: size of decoder states, keys and answer.
        score: "additive" or "multiplicative".
    """

    def __init__(self, units: int, score: str = "additive", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}. Received: score={score!r}")
        self.units, self.score = int(units), score
        self.combine = self._dense(self.units, "combine", activation="tanh")
        if score == "additive":
            self.query = self._dense(self.units, "query")
            self.energy = self._dense(1, "energy")

    def _dense(self, units: int, name: str, **kwargs: Any) -> keras.layers.Dense:
        return keras.layers.Dense(units, use_bias=False, name=name, dtype=self.dtype_policy, **kwargs)

    def keys_layer(self, **kwargs: Any) -> keras.layers.Dense:
        """A new layer that makes `keys` of `memory`, to be called once a sentence."""
        return keras.layers.Dense(self.units, use_bias=self.score == "additive", **kwargs)

    def build(self, states_shape: Any, memory_shape: Any, keys_shape: Any, source_mask_shape: Any) -> None:
        """Make the weights."""
        self.combine.build((*states_shape[:-1], memory_shape[-1] + states_shape[-1]))
        if self.score == "additive":
            self.query.build(states_shape)
            self.energy.build((*states_shape[:-1], self.units))
        self.built = True

    def call(self, states: Any, memory: Any, keys: Any, source_mask: Any) -> tuple[Any, Any]:
        """Answer and weights."""
        if self.score == "additive":
            hidden = ops.tanh(ops.expand_dims(self.query(states), 2) + ops.expand_dims(keys, 1))
            scores = ops.squeeze(self.energy(hidden), -1)
        else:
            scores = ops.matmul(states, ops.transpose(keys, (0, 2, 1)))
        there = ops.cast(ops.expand_dims(source_mask, 1), scores.dtype)
        weights = ops.softmax(scores + (1 - there) * _NEVER, axis=-1)
        context = ops.matmul(weights, memory)
        return self.combine(ops.concatenate([context, states], axis=-1)), weights

    def compute_output_spec(self, states: Any, memory: Any, keys: Any, source_mask: Any) -> Any:
        """See the class."""
        batch, steps = states.shape[:2]
        return (
            keras.KerasTensor((batch, steps, self.units), dtype=self.compute_dtype),
            keras.KerasTensor((batch, steps, memory.shape[1]), dtype=self.compute_dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "units": self.units, "score": self.score}


@keras.saving.register_keras_serializable(package="edge_dl")
class AttentionCell(keras.layers.Layer):
    """One step of a decoder with input feeding (Luong, Pham & Manning 2015, section 3.3).

    The token's embedding and the last step's answer go through stacked LSTM or GRU cells; the top one's state attends
    to the source. `attend_to` says what the source is before the loop runs. Output: the answer and behind it the
    attention's weights, (batch, units + source steps). States: those of the cells, then the answer.

    Args:
        cell: "lstm" or "gru".
        units: units of each stacked cell.
        attention: what attends; its units are those of the last cell.
        residual: whether a cell's input is added to its output where the sizes allow it.
    """

    def __init__(
        self, cell: str, units: Sequence[int], attention: SourceAttention, residual: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cell, self.units, self.attention, self.residual = cell, tuple(units), attention, residual
        self.cells = [
            CELLS[cell](size, name=f"cell_{number}", dtype=self.dtype_policy)
            for number, size in enumerate(self.units, start=1)
        ]
        self._source: tuple[Any, Any, Any] | None = None

    @property
    def state_size(self) -> list[int]:
        """Size of each state."""
        each = 2 if self.cell == "lstm" else 1
        return [size for units in self.units for size in [units] * each] + [self.attention.units]

    @property
    def output_size(self) -> int:
        """Size of the answer, the weights behind it not counted."""
        return self.attention.units

    def attend_to(self, memory: Any, keys: Any, source_mask: Any) -> None:
        """What the next steps attend to; see `SourceAttention`."""
        self._source = (memory, keys, source_mask)

    def forget(self) -> None:
        """Let go of what was attended to."""
        self._source = None

    def build(self, input_shape: Any) -> None:
        """Make the weights for (batch, features)."""
        size = input_shape[-1] + self.attention.units
        for cell, units in zip(self.cells, self.units, strict=True):
            cell.build((input_shape[0], size))
            size = units
        self.built = True

    def call(self, inputs: Any, states: Sequence[Any], training: bool = False) -> tuple[Any, list[Any]]:
        """Output and new states of one step."""
        assert self._source is not None, "attend_to comes first"
        each = 2 if self.cell == "lstm" else 1
        *states, answer = states
        h = ops.concatenate([inputs, answer], axis=-1)
        after: list[Any] = []
        for number, cell in enumerate(self.cells):
            own = states[number * each : (number + 1) * each]
            out, new = cell(h, own, training=training)
            h = out + h if self.residual and out.shape[-1] == h.shape[-1] else out
            after += list(new)
        memory, keys, mask = self._source
        answers, weights = self.attention(ops.expand_dims(h, 1), memory=memory, keys=keys, source_mask=mask)
        answer = answers[:, 0]
        return ops.concatenate([answer, weights[:, 0]], axis=-1), [*after, answer]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "cell": self.cell,
            "units": list(self.units),
            "attention": keras.saving.serialize_keras_object(self.attention),
            "residual": self.residual,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AttentionCell:
        """From constructor arguments."""
        attention = keras.saving.deserialize_keras_object(config.pop("attention"))
        return cls(attention=attention, **config)


@keras.saving.register_keras_serializable(package="edge_dl")
class AttentionDecoder(keras.layers.RNN):
    """A recurrent layer over an `AttentionCell`.

    Called with `sequences` (batch, target steps, features), `memory`, `keys` and `source_mask` (see `SourceAttention`)
    and the first states of the stacked cells; the answer that the first step is told is zero. Gives answers (batch,
    target steps, units) and weights (batch, target steps, source steps).
    """

    def __init__(self, cell: AttentionCell, **kwargs: Any) -> None:
        super().__init__(cell, **{**kwargs, "return_sequences": True})

    def build(
        self,
        sequences_shape: Any,
        memory_shape: Any,
        keys_shape: Any,
        source_mask_shape: Any,
        initial_state_shape: Any = None,
    ) -> None:
        """Make the weights."""
        # A saved cell is built before it is given to this layer.
        if not self.cell.built:
            self.cell.build((sequences_shape[0], sequences_shape[-1]))
        units = self.cell.attention.units
        if not self.cell.attention.built:
            self.cell.attention.build((sequences_shape[0], 1, units), memory_shape, keys_shape, source_mask_shape)
        self.built = True

    def call(
        self,
        sequences: Any,
        memory: Any,
        keys: Any,
        source_mask: Any,
        initial_state: Any = None,
        training: bool = False,
    ) -> tuple[Any, Any]:
        """Answers and weights."""
        units = self.cell.attention.units
        if initial_state is not None:
            nothing = ops.zeros((ops.shape(sequences)[0], units), self.compute_dtype)
            initial_state = [*keras.tree.flatten(initial_state), nothing]
        self.cell.attend_to(memory, keys, source_mask)
        try:
            outputs = super().call(sequences, initial_state=initial_state, training=training)
        finally:
            self.cell.forget()
        return outputs[..., :units], outputs[..., units:]

    def compute_output_spec(
        self,
        sequences: Any,
        memory: Any,
        keys: Any,
        source_mask: Any,
        initial_state: Any = None,
        training: bool = False,
    ) -> Any:
        """See the class."""
        batch, steps = sequences.shape[:2]
        return (
            keras.KerasTensor((batch, steps, self.cell.attention.units), dtype=self.compute_dtype),
            keras.KerasTensor((batch, steps, memory.shape[1]), dtype=self.compute_dtype),
        )
