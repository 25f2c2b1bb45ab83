"""The inner loop: many training steps in one call of the backend, on data that stays on the device.

Keras' `fit` returns to Python after every step and hands each batch over from the host. For recurrent models of a size
that fits a phone, that takes as long as the arithmetic. Here a whole run of steps is one compiled call: it picks each
batch by row number from arrays that were moved once, and calls the model's own `train_step`, so losses, metrics,
weights and optimizers are Keras' own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from edge_dl.training.batches import RUN, Arrays


class Loop(Protocol):
    """Runs steps of a compiled model. Between `begin` and `finish` the model's variables may lag behind."""

    def place(self, arrays: Arrays) -> Any:
        """Move arrays to the device."""

    def begin(self) -> None:
        """Start a pass: metrics at zero."""

    def train(self, data: Any, rows: np.ndarray, first: int, last: int) -> None:
        """Training steps `first` to `last` (not included) of `rows` (steps, batch); returns when they are done."""

    def evaluate(self, data: Any, rows: np.ndarray) -> None:
        """Evaluate every batch of `rows` (steps, batch)."""

    def results(self) -> dict[str, float]:
        """Loss and metrics since `begin`."""

    def finish(self) -> None:
        """End a pass: the model's variables are up to date."""


def make_loop(model: keras.Model, backend: str, xla: bool, sample: Arrays) -> Loop:
    """The loop for `backend`.

    Args:
        model: compiled.
        xla: compile the step with XLA (TensorFlow); JAX always does, PyTorch runs as it is.
        sample: a few samples, to make the variables of metrics and optimizer.
    """
    _make_variables(model, sample)
    if backend == "jax":
        from edge_dl.training.loop_jax import JaxLoop

        return JaxLoop(model)
    if backend == "tensorflow":
        from edge_dl.training.loop_tensorflow import TensorFlowLoop

        return TensorFlowLoop(model, xla)
    from edge_dl.training.loop_torch import TorchLoop

    return TorchLoop(model)


def filled(rows: np.ndarray) -> np.ndarray:
    """`rows` (steps, batch) with steps behind them that are never trained: each shape of rows is a compilation, and so
    runs of any few steps share one.
    """
    return np.pad(rows, ((0, -len(rows) % RUN), (0, 0)))


def take(arrays: Any, pick: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """A batch of placed arrays (x, y, weight) as `train_step` takes it; `pick` gives the batch of one array."""
    x, y, weight = arrays

    def picked(named: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if named is None else {name: pick(array) for name, array in named.items()}

    return picked(x), picked(y), picked(weight)


def _make_variables(model: keras.Model, sample: Arrays) -> None:
    model.optimizer.build(model.trainable_variables)

    # Losses and metrics of a compiled model make their variables when they first see data.
    def tensors(named: Mapping[str, np.ndarray] | None) -> dict[str, Any] | None:
        return None if named is None else {key: keras.ops.convert_to_tensor(array) for key, array in named.items()}

    x, y, weight = tensors(sample.x), tensors(sample.y), tensors(sample.weight)
    # The answer's values do not matter, and on an untraced model every operator would be compiled by itself.
    # An axis that the model leaves free is one of time: the target's.
    answer = {
        name: keras.ops.zeros((len(sample), *(size or sample.steps for size in output.shape[1:])))
        for name, output in model.output.items()
    }
    model.compute_loss(x=x, y=y, y_pred=answer, sample_weight=weight, training=False)
    model.compute_metrics(x=x, y=y, y_pred=answer, sample_weight=weight)
    model.reset_metrics()
