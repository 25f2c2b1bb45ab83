"""Normalization of features over time: by the utterance itself, or by what has been heard of it so far.

Both take (batch, frames, features) and compute in float32. `edge_dl.models.Standardize`, fitted on the training part,
is the third way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

# Added to a variance: a feature that does not change in an utterance is only centred.
EPSILON = 1e-3


@keras.saving.register_keras_serializable(package="edge_dl")
class UtteranceNormalization(keras.layers.Layer):
    """Every feature with mean 0 and deviation 1 over the frames of an utterance (Viikki & Laurila 1998).

    It needs the whole utterance: a stream is normalized by `RunningNormalization`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def call(self, inputs: Any) -> Any:
        """Normalize (batch, frames, features)."""
        values = ops.cast(inputs, "float32")
        centred = values - ops.mean(values, axis=1, keepdims=True)
        variance = ops.mean(centred * centred, axis=1, keepdims=True)
        return centred * ops.rsqrt(variance + EPSILON)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape


@keras.saving.register_keras_serializable(package="edge_dl")
class RunningNormalization(keras.layers.Layer):
    """(x - m) * factor, where m(t) = memory m(t - 1) + (1 - memory) x(t): no frame needs one that comes after it.

    Over a whole utterance the recursion is one matrix product over time; a stream keeps m.

    Args:
        mean: what m starts from, one number a feature: its mean over the training part.
        factor: the inverse of each feature's deviation there.
        memory: share of m that stays from frame to frame; m follows over about 1 / (1 - memory) frames.
    """

    def __init__(self, mean: Sequence[float], factor: Sequence[float], memory: float = 0.98, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.mean = [float(value) for value in mean]
        self.factor = [float(value) for value in factor]
        self.memory = float(memory)

    def call(self, inputs: Any) -> Any:
        """Normalize (batch, frames, features); the number of frames is fixed."""
        # What m starts from is taken off first, and so has a share in nothing.
        values = ops.cast(inputs, "float32") - _constant(self.mean)
        return (values - ops.matmul(_constant(self._shares(inputs.shape[1])), values)) * _constant(self.factor)

    def state_shape(self, input_shape: Any) -> tuple[int, ...]:
        """Shape of what `advance` carries on for frames of `input_shape`: m less its start, zero at first."""
        return (int(input_shape[0]), int(input_shape[-1]))

    def advance(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        """The next frames (batch, frames, features) of a stream, and the state after them."""
        count = inputs.shape[1]
        values = ops.cast(inputs, "float32") - _constant(self.mean)
        left = self.memory ** np.arange(1, count + 1)[:, None]
        running = ops.matmul(_constant(self._shares(count)), values) + state[:, None] * _constant(left)
        return (values - running) * _constant(self.factor), running[:, -1]

    def _shares(self, count: int) -> np.ndarray:
        """What of frame s is left in m at frame t, (t, s)."""
        steps = np.arange(count)
        age = steps[:, None] - steps[None, :]
        return np.where(age >= 0, (1 - self.memory) * self.memory ** np.maximum(age, 0), 0.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "mean": self.mean, "factor": self.factor, "memory": self.memory}


def _constant(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, np.float32))
