"""Recurrent cells written with few operators a step.

A Keras cell computes, at every step, a matrix product of the input, one of the state, and a handful of element-wise
operators. Here the product of the input is taken once for all steps (`project`), and what remains (`step`) is written
so that the interpreter runs few operators: inside XNNPACK an operator costs some 25 ns on a desktop processor however
small it is, which is most of a step of a small cell. Only exact rewritings are used, such as tanh(x) = 2 sigmoid(2 x) -
1 with the factors folded into the weights, where a factor of two loses no bit.

Equations: LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), GRU (Cho et al. 2014;
`reset_after` as in cuDNN), and the simple recurrent network of Elman (1990), with the order of weights that Keras uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

# What a subclass of a Keras cell may have of its own without computing anything else.
_FREE = ("__init__", "build", "get_config", "from_config", "get_initial_state")


class CellGraph(ABC):
    """One cell's computation as TensorFlow operators over constants.

    States have the cell's own form between `encode` and `decode`: one that is scaled costs nothing at the ends and
    saves an operator a step. Zero stays zero in every form. The first state is always the cell's output.

    Attributes:
        units: size of the output and of every state.
        state_count: number of states (2 for an LSTM, else 1).
        kernel: input weights, shape (features, gates * units).
        recurrent: state weights, shape (units, gates * units).
        bias: as Keras has it; None without bias.
    """

    state_count = 1

    def __init__(self, cell: Any) -> None:
        self.units = int(cell.units)
        self.kernel = _array(cell.kernel)
        self.recurrent = _array(cell.recurrent_kernel)
        self.bias = _array(cell.bias) if cell.use_bias else None
        self.activation = _activation(cell.activation)

    @abstractmethod
    def project(self, sequence: Any) -> tuple[Any, ...]:
        """What the input adds to every step: (batch, time, features) to tensors of shape (batch, time, n)."""

    @abstractmethod
    def weights(self) -> tuple[np.ndarray, ...]:
        """The arrays that every step uses; `step` gets them as constants of the graph that it is traced in."""

    @abstractmethod
    def step(self, weights: Sequence[Any], projected: Sequence[Any], states: Sequence[Any]) -> tuple[Any, ...]:
        """The next states, from one step of the projected input, each (batch, n), and states, each (batch, units)."""

    def encode(self, states: Sequence[Any]) -> tuple[Any, ...]:
        """Keras' states in the cell's own form."""
        return tuple(states)

    def decode(self, states: Sequence[Any]) -> tuple[Any, ...]:
        """The cell's states in Keras' form."""
        return tuple(states)

    @property
    def step_bytes(self) -> int:
        """Bytes of float32 weights that one step reads."""
        return sum(array.nbytes for array in self.weights())


class SimpleRNNGraph(CellGraph):
    """h' = activation(x W + b + h R)."""

    def project(self, sequence: Any) -> tuple[Any, ...]:
        """See `CellGraph.project`."""
        return (dense(sequence, self.kernel, self.bias),)

    def weights(self) -> tuple[np.ndarray, ...]:
        """See `CellGraph.weights`."""
        return (self.recurrent,)

    def step(self, weights: Sequence[Any], projected: Sequence[Any], states: Sequence[Any]) -> tuple[Any, ...]:
        """See `CellGraph.step`."""
        return (self.activation(_product(states[0], weights[0]) + projected[0]),)


class LSTMGraph(CellGraph):
    """i, f, o = recurrent_activation(...), g = activation(...), c' = f c + i g, h' = o activation(c')."""

    state_count = 2

    def __init__(self, cell: Any) -> None:
        super().__init__(cell)
        self.recurrent_activation = _activation(cell.recurrent_activation)

    def project(self, sequence: Any) -> tuple[Any, ...]:
        """See `CellGraph.project`."""
        return (dense(sequence, self.kernel, self.bias),)

    def weights(self) -> tuple[np.ndarray, ...]:
        """See `CellGraph.weights`."""
        return (self.recurrent,)

    def step(self, weights: Sequence[Any], projected: Sequence[Any], states: Sequence[Any]) -> tuple[Any, ...]:
        """See `CellGraph.step`."""
        import tensorflow as tf

        hidden, carry = states
        i, f, g, o = tf.split(_product(hidden, weights[0]) + projected[0], 4, axis=-1)
        gate = self.recurrent_activation
        carry = gate(f) * carry + gate(i) * self.activation(g)
        return gate(o) * self.activation(carry), carry


class SigmoidLSTMGraph(LSTMGraph):
    """An LSTM with Keras' default activations, with one sigmoid for the four gates.

    With g = tanh(a) = 2 sigmoid(2 a) - 1, the 2 inside is folded into the candidate's weights, and half the carry is
    kept: c'/2 = f c/2 + i (sigmoid(2 a) - 1/2).
    """

    def project(self, sequence: Any) -> tuple[Any, ...]:
        """See `CellGraph.project`."""
        bias = None if self.bias is None else self._scaled(self.bias)
        return (dense(sequence, self._scaled(self.kernel), bias),)

    def weights(self) -> tuple[np.ndarray, ...]:
        """See `CellGraph.weights`."""
        return (self._scaled(self.recurrent),)

    def step(self, weights: Sequence[Any], projected: Sequence[Any], states: Sequence[Any]) -> tuple[Any, ...]:
        """See `CellGraph.step`."""
        import tensorflow as tf

        hidden, carry = states
        gates = tf.sigmoid(_product(hidden, weights[0]) + projected[0])
        i, f, g, o = tf.split(gates, 4, axis=-1)
        carry = f * carry + i * (g - 0.5)
        return o * tf.tanh(carry * 2.0), carry

    def encode(self, states: Sequence[Any]) -> tuple[Any, ...]:
        """Half the carry."""
        return states[0], states[1] * 0.5

    def decode(self, states: Sequence[Any]) -> tuple[Any, ...]:
        """The whole carry."""
        return states[0], states[1] * 2.0

    def _scaled(self, array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, f, 2 * g, o], axis=-1)


class GRUGraph(CellGraph):
    """z, r = recurrent_activation(...), n = activation(...), h' = z h + (1 - z) n.

    n takes r * (h R + b') with `reset_after`, (r * h) R without. The update is written n + z (h - n).
    """

    def __init__(self, cell: Any) -> None:
        super().__init__(cell)
        self.recurrent_activation = _activation(cell.recurrent_activation)
        self.reset_after = bool(cell.reset_after)

    def project(self, sequence: Any) -> tuple[Any, ...]:
        """See `CellGraph.project`."""
        border = 2 * self.units
        gates = candidate = None
        if self.bias is not None:
            # The recurrent bias of z and r only ever adds to the input's.
            gates = self.bias.sum(0)[:border] if self.reset_after else self.bias[:border]
            candidate = (self.bias[0] if self.reset_after else self.bias)[border:]
        return (
            dense(sequence, self.kernel[:, :border], gates),
            dense(sequence, self.kernel[:, border:], candidate),
        )

    def weights(self) -> tuple[np.ndarray, ...]:
        """See `CellGraph.weights`."""
        border = 2 * self.units
        arrays = (self.recurrent[:, :border], self.recurrent[:, border:])
        if self.bias is not None and self.reset_after:
            return (*arrays, self.bias[1, border:])
        return arrays

    def step(self, weights: Sequence[Any], projected: Sequence[Any], states: Sequence[Any]) -> tuple[Any, ...]:
        """See `CellGraph.step`."""
        import tensorflow as tf

        hidden = states[0]
        gates = self.recurrent_activation(_product(hidden, weights[0]) + projected[0])
        z, r = tf.split(gates, 2, axis=-1)
        recurrent = r * _product(hidden, *weights[1:]) if self.reset_after else _product(r * hidden, weights[1])
        candidate = self.activation(recurrent + projected[1])
        return (candidate + z * (hidden - candidate),)


def cell_graph(cell: Any) -> CellGraph | None:
    """The graph of a Keras cell; None where the cell computes anything else than Keras' own three."""
    import keras

    if computes_as(cell, keras.layers.SimpleRNNCell):
        return SimpleRNNGraph(cell)
    if computes_as(cell, keras.layers.GRUCell):
        return GRUGraph(cell)
    if computes_as(cell, keras.layers.LSTMCell):
        return SigmoidLSTMGraph(cell) if has_default_activations(cell) else LSTMGraph(cell)
    return None


def is_known_cell(cell: Any) -> bool:
    """Whether `cell_graph` can write the cell; needs no weights."""
    import keras

    known = (keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell)
    return any(computes_as(cell, item) for item in known)


def computes_as(layer: Any, kind: type) -> bool:
    """Whether a layer computes what Keras' own class `kind` does: it is one, or a subclass that leaves alone all that
    decides the answer. `call` is not enough: an LSTM cell's gates, for one, are methods of their own.
    """
    own = type(layer)
    if not issubclass(own, kind):
        return False
    methods = [name for name, value in vars(kind).items() if callable(value) or isinstance(value, property)]
    return all(getattr(own, name) is getattr(kind, name) for name in ["__call__", *methods] if name not in _FREE)


def starts_from_zero(layer: Any) -> bool:
    """Whether a recurrent layer (or cell) that is given no states starts from zero, as Keras' own do."""
    import keras

    cells = [layer.cell] if isinstance(layer, keras.layers.RNN) else getattr(layer, "cells", [])
    module = getattr(getattr(type(layer), "get_initial_state", None), "__module__", "keras.")
    return module.startswith("keras.") and all(starts_from_zero(cell) for cell in cells)


def has_default_activations(cell: Any) -> bool:
    """Whether a cell uses tanh and, for its gates, sigmoid."""
    import keras

    return (
        _activation(cell.activation) is keras.activations.tanh
        and _activation(getattr(cell, "recurrent_activation", "sigmoid")) is keras.activations.sigmoid
    )


def dense(inputs: Any, kernel: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """Matrix product over the last axis as one FULLY_CONNECTED: static shape (..., n) to (..., m)."""
    import tensorflow as tf

    *outer, size = inputs.shape.as_list()
    flat = inputs if len(outer) == 1 else tf.reshape(inputs, [int(np.prod(outer)), size])
    product = _product(flat, tf.constant(kernel), None if bias is None else tf.constant(bias))
    return product if len(outer) == 1 else tf.reshape(product, [*outer, kernel.shape[1]])


def _product(inputs: Any, kernel: Any, bias: Any = None) -> Any:
    import tensorflow as tf

    product = tf.matmul(inputs, kernel)
    return product if bias is None else tf.nn.bias_add(product, bias)


def _array(variable: Any) -> np.ndarray:
    import keras
    import tensorflow as tf

    # Layers are often met while a graph is traced, where a variable has no value.
    with tf.init_scope():
        return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


def _activation(function: Any) -> Any:
    import keras

    return keras.activations.get(function)
