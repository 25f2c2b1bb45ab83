"""Where a step stands in a sequence, for networks that would not know."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="edge_dl")
class LearnedPositions(keras.layers.Layer):
    """Adds a learned vector a step to (batch, steps, features); the number of steps is fixed (Gehring et al. 2017)."""

    def build(self, input_shape: Any) -> None:
        """Make the vectors for (batch, steps, features)."""
        self.positions = self.add_weight(
            shape=tuple(input_shape[1:]), initializer=keras.initializers.TruncatedNormal(stddev=0.02), name="positions"
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Add the vectors."""
        return inputs + self.positions

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape
