"""SpecAugment inside the model: masks over time and over bands, in training only."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

MASKS = 2  # along each axis: SpecAugment's LD policy


@keras.saving.register_keras_serializable(package="edge_dl")
class SpectrumMasking(keras.layers.Layer):
    """Two masks over frames and two over bands of (batch, frames, bands), each of random place and width, set to 0.

    Park et al. 2019, without time warping, on features whose mean is 0. It draws in training; otherwise it gives its
    input, and no trace of it is left on a device.

    Args:
        time_rate: the longest mask, as a share of all frames.
        band_rate: the widest mask, as a share of all bands.
        seed: where the draws start; None: from Keras' own generator.
    """

    def __init__(self, time_rate: float, band_rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.time_rate, self.band_rate, self.seed = float(time_rate), float(band_rate), seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Mask in training."""
        if not training:
            return inputs
        h = inputs
        for axis, rate in ((1, self.time_rate), (2, self.band_rate)):
            for _ in range(MASKS if rate else 0):
                h = h * self._kept(ops.shape(h)[0], h.shape[axis], rate, axis, h.dtype)
        return h

    def _kept(self, batch: Any, size: int, rate: float, axis: int, dtype: Any) -> Any:
        """1 where a place is kept, 0 where it is masked: (batch, size, 1) or (batch, 1, size)."""
        draws = keras.random.uniform((2, batch, 1), seed=self.seed_generator)
        width = draws[0] * (rate * size)
        start = draws[1] * (size - width)
        places = ops.reshape(ops.arange(size, dtype="float32"), (1, size))
        masked = ops.logical_and(places >= start - 0.5, places < start + width - 0.5)
        return ops.expand_dims(ops.cast(ops.logical_not(masked), dtype), 3 - axis)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "time_rate": self.time_rate, "band_rate": self.band_rate, "seed": self.seed}
