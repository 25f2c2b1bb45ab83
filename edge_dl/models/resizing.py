"""Resizing inside the graph: the device resizes the camera's picture exactly as training did."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="edge_dl")
class Resize(keras.layers.Layer):
    """Bilinear resizing of (batch, height, width, channels), without antialiasing, with half-pixel centres.

    That is TFLite's RESIZE_BILINEAR. `keras.layers.Resizing` is another thing in two ways: of bytes it makes bytes,
    rounded, and in a call of a model that does not say `training=False` it lets the layers after it think that they
    are trained (seen in Keras 3.15: batch normalization then takes the batch's statistics).

    Args:
        height, width: size to give, in pixels.
    """

    def __init__(self, height: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height, self.width = int(height), int(width)

    def call(self, inputs: Any) -> Any:
        """Resize; bytes become real numbers first."""
        values = ops.cast(inputs, self.compute_dtype)
        return ops.image.resize(values, (self.height, self.width), interpolation="bilinear", antialias=False)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(batch, height, width, channels)."""
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "height": self.height, "width": self.width}
