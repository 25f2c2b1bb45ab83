"""The inner loop on JAX: steps inside one `fori_loop`, state kept on the device between calls."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from edge_dl.training.batches import Arrays
from edge_dl.training.loops import filled, take


class JaxLoop:
    """See `edge_dl.training.loops.Loop`."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._state: list[list[jax.Array]] | None = None
        self._logs: dict[str, Any] = {}
        # The bounds are traced: any number of steps runs the same compiled code.
        self._train = jax.jit(self._train_steps, donate_argnums=0)
        self._evaluate = jax.jit(self._test_steps)

    def place(self, arrays: Arrays) -> Any:
        """Move arrays to the device."""
        return jax.device_put((dict(arrays.x), dict(arrays.y), dict(arrays.weight) if arrays.weight else None))

    def begin(self) -> None:
        """Start a pass: metrics at zero."""
        self._model.reset_metrics()
        # Donated buffers are gone after a call: the state must not share them with the model's variables.
        self._state = [[jnp.array(variable.value, copy=True) for variable in group] for group in self._groups()]

    def train(self, data: Any, rows: np.ndarray, first: int, last: int) -> None:
        """Training steps `first` to `last` (not included); returns when they are done."""
        self._state, self._logs = self._train(self._state, data, filled(rows), first, last)
        jax.block_until_ready(self._logs)

    def evaluate(self, data: Any, rows: np.ndarray) -> None:
        """Evaluate every batch of `rows`."""
        assert self._state is not None
        trainable, other, optimizer, metrics = self._state
        metrics, self._logs = self._evaluate([trainable, other, metrics], data, rows)
        self._state = [trainable, other, optimizer, metrics]

    def results(self) -> dict[str, float]:
        """Loss and metrics since `begin`."""
        return {name: float(value) for name, value in self._logs.items()}

    def finish(self) -> None:
        """End a pass: the model's variables are up to date."""
        for group, values in zip(self._groups(), self._state or (), strict=False):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        self._state = None

    def _groups(self) -> list[list[Any]]:
        model = self._model
        return [
            list(model.trainable_variables),
            list(model.non_trainable_variables),
            list(model.optimizer.variables),
            list(model.metrics_variables),
        ]

    def _train_steps(self, state: Any, data: Any, rows: Any, first: Any, last: Any) -> Any:
        def step(number: Any, carried: Any) -> Any:
            state, _ = carried
            logs, state = self._model.train_step(tuple(state), _batch(data, rows[number]))
            return [list(group) for group in state], logs

        return jax.lax.fori_loop(first, last, step, (state, self._no_logs(step, state)))

    def _test_steps(self, state: Any, data: Any, rows: Any) -> Any:
        def step(number: Any, carried: Any) -> Any:
            trainable, other, metrics = carried[0]
            logs, (_, _, metrics) = self._model.test_step((trainable, other, metrics), _batch(data, rows[number]))
            return [trainable, other, list(metrics)], logs

        state, logs = jax.lax.fori_loop(0, rows.shape[0], step, (state, self._no_logs(step, state)))
        return state[2], logs

    @staticmethod
    def _no_logs(step: Any, state: Any) -> Any:
        shapes = jax.eval_shape(lambda state: step(0, (state, None))[1], state)
        return jax.tree.map(lambda item: jnp.zeros(item.shape, item.dtype), shapes)


def _batch(data: Any, rows: Any) -> Any:
    return take(data, lambda array: jnp.take(array, rows, axis=0, mode="clip"))
