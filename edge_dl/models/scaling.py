"""Scaling inside the graph: the device feeds raw units and reads raw units.

The constants are fitted on the training part and stored in the layer's config, so they travel with the .keras file and
are no weights that an optimizer or a quantizer could touch. Subtraction and multiplication only: a division has no
integer kernel in TFLite. Both layers compute in float32 whatever the model's precision, since raw units may be large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="edge_dl")
class Standardize(keras.layers.Layer):
    """(x - mean) * factor along the last axis, in float32.

    Args:
        mean: one number a feature, or a single one for all.
        factor: the same, the inverse of the standard deviation.
    """

    def __init__(self, mean: Sequence[float], factor: Sequence[float], **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.mean = [float(value) for value in mean]
        self.factor = [float(value) for value in factor]
        self.supports_masking = True

    @classmethod
    def fitted(cls, x: np.ndarray, *, shared: bool = False, **kwargs: Any) -> Standardize:
        """The layer that gives `x` mean 0 and deviation 1.

        Args:
            x: (..., features) training data.
            shared: one mean and deviation for all features, which then need one unit.
            kwargs: passed to the layer, such as `name`.

        A feature that never changes is only centred.
        """
        flat = x.reshape(-1, 1 if shared else x.shape[-1]).astype(np.float64)
        deviation = flat.std(axis=0)
        mean = flat.mean(axis=0)
        # Rounding leaves a constant column with a deviation of about 1e-16 times its size instead of 0.
        constant = deviation <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        factor = np.where(constant, 1.0, 1 / np.where(constant, 1.0, deviation))
        return cls(mean.tolist(), factor.tolist(), **kwargs)

    def call(self, inputs: Any) -> Any:
        """Scale (..., features)."""
        mean = ops.convert_to_tensor(np.asarray(self.mean, np.float32))
        factor = ops.convert_to_tensor(np.asarray(self.factor, np.float32))
        return (ops.cast(inputs, "float32") - mean) * factor

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "mean": self.mean, "factor": self.factor}


@keras.saving.register_keras_serializable(package="edge_dl")
class Unstandardize(keras.layers.Layer):
    """x * scale + mean along the last axis, in float32: from the network's unit to the target's own.

    Args:
        mean: one number a target.
        scale: standard deviation of each target.
    """

    def __init__(self, mean: Sequence[float], scale: Sequence[float], **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.mean = [float(value) for value in mean]
        self.scale = [float(value) for value in scale]

    def call(self, inputs: Any) -> Any:
        """Scale (..., targets)."""
        scale = ops.convert_to_tensor(np.asarray(self.scale, np.float32))
        mean = ops.convert_to_tensor(np.asarray(self.mean, np.float32))
        return ops.cast(inputs, "float32") * scale + mean

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


@keras.saving.register_keras_serializable(package="edge_dl")
class LastObservation(keras.layers.Layer):
    """The chosen columns of the last time step: (batch, steps, features) -> (batch, 1, columns).

    Args:
        columns: positions of the columns; neighbours in order cost one slice, others one slice each.
    """

    def __init__(self, columns: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = [int(column) for column in columns]

    def call(self, inputs: Any) -> Any:
        """Slice; slices with static bounds need no gather on the device."""
        first, count = self.columns[0], len(self.columns)
        if self.columns == list(range(first, first + count)):
            return inputs[:, -1:, first : first + count]
        return ops.concatenate([inputs[:, -1:, column : column + 1] for column in self.columns], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(batch, 1, columns)."""
        return (input_shape[0], 1, len(self.columns))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "columns": self.columns}
