"""Heads that more than one kind of network ends with."""

from __future__ import annotations

from typing import Any

import keras


def classify(h: Any, classes: int, name: str, penalty: Any = None) -> Any:
    """Probabilities (batch, ..., classes) from features (batch, ..., features), as the output `name`.

    Args:
        penalty: regularizer of the head's kernel.
    """
    scores = keras.layers.Dense(classes, kernel_regularizer=penalty, name="head")(h)
    # Float32 also in mixed precision: the loss and a perplexity need the small probabilities.
    return keras.layers.Activation("softmax", name=name, dtype="float32")(scores)
