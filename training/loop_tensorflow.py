"""The inner loop on TensorFlow: steps inside one graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edge_dl.training.batches import Arrays
from edge_dl.training.loops import take


class TensorFlowLoop:
    """See `edge_dl.training.loops.Loop`.

    Args:
        xla: compile each step with XLA.
    """

    def __init__(self, model: keras.Model, xla: bool) -> None:
        self._model = model
        train_step = tf.function(lambda *batch: _only_run(model.train_step, batch), jit_compile=xla)
        test_step = tf.function(lambda *batch: _only_run(model.test_step, batch), jit_compile=xla)
        # The bounds are tensors: any number of steps runs the same graph.
        self._train = tf.function(lambda *arguments: _steps(train_step, *arguments))
        self._test = tf.function(lambda *arguments: _steps(test_step, *arguments))

    def place(self, arrays: Arrays) -> Any:
        """Move arrays to the device."""

        def tensors(named: Any) -> Any:
            return None if named is None else {name: tf.constant(array) for name, array in named.items()}

        return tensors(arrays.x), tensors(arrays.y), tensors(arrays.weight)

    def begin(self) -> None:
        """Start a pass: metrics at zero."""
        self._model.reset_metrics()

    def train(self, data: Any, rows: np.ndarray, first: int, last: int) -> None:
        """Training steps `first` to `last` (not included); returns when they are done."""
        self._train(data, tf.constant(rows), tf.constant(first), tf.constant(last))

    def evaluate(self, data: Any, rows: np.ndarray) -> None:
        """Evaluate every batch of `rows`."""
        self._test(data, tf.constant(rows), tf.constant(0), tf.constant(len(rows)))

    def results(self) -> dict[str, float]:
        """Loss and metrics since `begin`."""
        return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def finish(self) -> None:
        """End a pass: TensorFlow's variables are never behind."""


def _only_run(step: Any, batch: Any) -> None:
    # A step's logs are not read here, and a compiled function that returns them would have to compute them.
    step(batch)


def _steps(step: Any, data: Any, rows: Any, first: Any, last: Any) -> None:
    for number in tf.range(first, last):
        picked = rows[number]
        step(*take(data, partial(tf.gather, indices=picked)))
