"""A recurrent network in TensorFlow's own operators, for benchmarks that time models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def lstm(
    weights: Callable[..., Any], steps: int, features: int, units: int
) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """An LSTM without biases as a loop, its input projection in front of it, and the shape that it takes.

    Args:
        weights: makes a float32 tensor of a shape.
        steps, features: of what it takes, (1, steps, features).
        units: of what it gives, (1, units).
    """
    import tensorflow as tf

    kernel, recurrent = weights(features, 4 * units), weights(units, 4 * units)

    def predict(x: Any) -> Any:
        projected = tf.reshape(tf.reshape(x, (steps, features)) @ kernel, (steps, 1, 4 * units))

        def step(t: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
            i, f, g, o = tf.split(projected[t] + h @ recurrent, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            return t + 1, tf.sigmoid(o) * tf.tanh(c), c

        zeros = tf.zeros((1, units))
        return tf.while_loop(lambda t, *_: t < steps, step, (0, zeros, zeros))[1]

    return predict, (1, steps, features)
