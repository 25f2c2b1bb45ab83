"""Additive attention as pooling: a weighted mean over time whose weights are learned."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="edge_dl")
class AdditiveAttentionPooling(keras.layers.Layer):
    """One vector from a sequence by additive attention (Bahdanau, Cho & Bengio 2015, equations 5 and 6).

    score(t) = v . tanh(W h(t) + b), weight = softmax over t, output = sum of weight(t) h(t). The decoder's state of the
    paper is not there in pooling; it would add the same vector at every step, which b holds.

    (batch, steps, features) -> (batch, features). Masked steps get weight zero.

    Args:
        units: size of the hidden layer that scores a step.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = int(units)
        self.hidden = keras.layers.Dense(self.units, activation="tanh", name="hidden", dtype=self.dtype_policy)
        self.score = keras.layers.Dense(1, use_bias=False, name="score", dtype=self.dtype_policy)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make the weights for (batch, steps, features)."""
        self.hidden.build(input_shape)
        self.score.build((*input_shape[:-1], self.units))
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Pool (batch, steps, features); `mask` (batch, steps) is true where a step counts."""
        steps = ops.shape(inputs)[1]
        scores = ops.reshape(self.score(self.hidden(inputs)), (-1, steps))
        if mask is not None:
            # The smallest finite float16 is -65504: enough to vanish under softmax, and no infinity to spread.
            scores = ops.where(ops.cast(mask, "bool"), scores, ops.full_like(scores, -3e4))
        weights = ops.reshape(ops.softmax(scores, axis=-1), (-1, 1, steps))
        return ops.reshape(ops.matmul(weights, inputs), (-1, inputs.shape[-1]))

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """No mask goes on: there are no steps left."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(batch, features)."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "units": self.units}
