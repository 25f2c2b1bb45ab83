"""The inner loop on TensorFlow: steps inside one graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edge_dl.training.batches import Arrays
from edge_dl.training.loops import filled, take


class TensorFlowLoop:
    """See `edge_dl.training.loops.Loop`.

    Args:
        xla: compile each step with XLA.
    """

    def __init__(self, model: keras.Model, xla: bool) -> None:
        self._model = model
        self._train = _Graphs(model.train_step, xla)
        self._test = _Graphs(model.test_step, xla)

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
        self._train(data, tf.constant(filled(rows)), tf.constant(first), tf.constant(last))

    def evaluate(self, data: Any, rows: np.ndarray) -> None:
        """Evaluate every batch of `rows`."""
        self._test(data, tf.constant(rows), tf.constant(0), tf.constant(len(rows)))

    def results(self) -> dict[str, float]:
        """Loss and metrics since `begin`."""
        return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def finish(self) -> None:
        """End a pass: TensorFlow's variables are never behind."""


class _Graphs:
    """Steps as a graph for each shape of data: one function for all would warn of every shape as a mistake."""

    def __init__(self, step: Any, xla: bool) -> None:
        self._step, self._xla = step, xla
        self._made: dict[tuple[Any, ...], Any] = {}

    def __call__(self, data: Any, rows: Any, first: Any, last: Any) -> None:
        shapes = tuple(tuple(array.shape) for array in tf.nest.flatten(data) if array is not None)
        key = (shapes, tuple(rows.shape))
        if key not in self._made:
            step = tf.function(lambda *batch: _only_run(self._step, batch), jit_compile=self._xla)
            # The bounds are tensors: any number of steps runs the same graph.
            whole = tf.function(lambda *arguments: _steps(step, *arguments))
            self._made[key] = whole.get_concrete_function(data, rows, first, last)
        self._made[key](data, rows, first, last)


def _only_run(step: Any, batch: Any) -> None:
    # A step's logs are not read here, and a compiled function that returns them would have to compute them.
    step(batch)


def _steps(step: Any, data: Any, rows: Any, first: Any, last: Any) -> None:
    for number in tf.range(first, last):
        picked = rows[number]
        step(*take(data, partial(tf.gather, indices=picked)))
