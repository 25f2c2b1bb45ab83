"""Self-attention that looks a bounded way back, so that a stream can go along with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from edge_dl.errors import UsageError

# Taken off a score that must not count: float16 holds it, and e to the power of it is 0 in float32.
MASKED = 1e4


@keras.saving.register_keras_serializable(package="edge_dl")
class WindowedSelfAttention(keras.layers.Layer):
    """Each step of (batch, steps, units) attends to itself and to the `window` - 1 steps before it, none after it.

    Scaled dot-product attention with several heads (Vaswani et al. 2017), local as in Longformer (Beltagy et al. 2020).
    Where a step stands is told by a learned bias on the scores, one a head and distance (Raffel et al. 2020, after Shaw
    et al. 2018), so that it is the same however long the sequence before it is. What lies before the first step is
    masked.

    A stream (`advance`) keeps the keys and values of the last `window` - 1 steps, and which of them there were; a new
    step then costs one row of scores.

    Args:
        heads: attention heads; they divide the units.
        window: steps that each one looks at, its own among them; at least 2.

    Raises:
        UsageError: `window` or `heads` is too small, or (when built) the heads do not divide the units.
    """

    def __init__(self, heads: int, window: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1 or window < 2:
            raise UsageError(
                "Windowed attention has at least 1 head and looks at 2 steps or more.",
                received=f"{heads} heads, {window} steps",
            )
        self.heads, self.window = int(heads), int(window)

    def build(self, input_shape: Any) -> None:
        """Make the projections and biases for (batch, steps, units)."""
        units = int(input_shape[-1])
        if units % self.heads:
            raise UsageError("Attention heads must divide the units.", received=f"{self.heads} heads, {units} units")
        self.head_size = units // self.heads
        # A layer each: one matrix for all three would start with a deviation too small for any of them.
        self.query, self.key, self.value, self.output_projection = (
            keras.layers.Dense(units, name=name, dtype=self.dtype_policy)
            for name in ("query", "key", "value", "output")
        )
        for layer in (self.query, self.key, self.value, self.output_projection):
            layer.build(input_shape)
        self.distance_bias = self.add_weight(shape=(self.heads, self.window), initializer="zeros", name="distance_bias")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Attend over whole sequences (batch, steps, units); the number of steps is fixed."""
        query, key, value = self._projected(inputs)
        return self._attend(query, key, value, self._bias(inputs.shape[1], past=0))

    def state_shape(self, input_shape: Any) -> dict[str, tuple[int, ...]]:
        """Shapes of what `advance` carries on for steps of `input_shape`, zeros at first.

        `keys` and `values` are those of the last `window` - 1 steps, (batch, heads, steps, units of a head); `real` is
        1 where there was such a step, (batch, 1, 1, steps).
        """
        batch, past = int(input_shape[0]), self.window - 1
        ring = (batch, self.heads, past, int(input_shape[-1]) // self.heads)
        return {"keys": ring, "values": ring, "real": (batch, 1, 1, past)}

    def advance(self, inputs: Any, state: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The next steps (batch, steps, units) of a stream, and the state after them."""
        count = inputs.shape[1]
        query, key, value = self._projected(inputs)
        there = ops.ones((*state["real"].shape[:3], count), dtype=key.dtype)
        joined = {
            name: ops.concatenate([state[name], new], axis=axis)
            for name, new, axis in (("keys", key, 2), ("values", value, 2), ("real", there, 3))
        }
        bias = self._bias(count, past=self.window - 1) + (joined["real"] - 1.0) * MASKED
        answer = self._attend(query, joined["keys"], joined["values"], bias)
        after = {name: joined[name][:, :, count:] for name in ("keys", "values")}
        return answer, {**after, "real": joined["real"][..., count:]}

    def _projected(self, inputs: Any) -> tuple[Any, Any, Any]:
        """Query, key and value of steps, each (batch, heads, steps, units of a head); the query is scaled."""
        query = self.query(inputs) * self.head_size**-0.5
        return self._split(query), self._split(self.key(inputs)), self._split(self.value(inputs))

    def _split(self, values: Any) -> Any:
        shape = (-1, values.shape[1], self.heads, self.head_size)
        return ops.transpose(ops.reshape(values, shape), (0, 2, 1, 3))

    def _bias(self, count: int, past: int) -> Any:
        """What is added to the scores of `count` steps over `past` steps before them and themselves, (heads, q, k)."""
        distance = past + np.arange(count)[:, None] - np.arange(past + count)[None, :]
        inside = (distance >= 0) & (distance < self.window)
        bias = ops.take(self.distance_bias, np.clip(distance, 0, self.window - 1), axis=1)
        bias = ops.cast(bias, self.compute_dtype)
        if inside.all():
            return bias
        return bias + ops.convert_to_tensor(np.where(inside, 0.0, -MASKED).astype("float32"), dtype=self.compute_dtype)

    def _attend(self, query: Any, key: Any, value: Any, bias: Any) -> Any:
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) + bias
        found = ops.transpose(ops.matmul(ops.softmax(scores, axis=-1), value), (0, 2, 1, 3))
        return self.output_projection(ops.reshape(found, (-1, found.shape[1], self.heads * self.head_size)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "heads": self.heads, "window": self.window}
