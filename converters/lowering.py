"""Lowerings: how the recurrent layers of a model are written while it is traced, without changing the model.

`keras.layers.RNN.call` deals with masks, initial states and what to return, and leaves the recurrence itself to
`inner_loop`. `lowered` gives every recurrent layer of a model another `inner_loop` for the time of a `with` block. The
weights are read when the block is entered and become constants of the graph that is traced inside.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_dl.converters.cells import CellGraph, LSTMGraph, cell_graph
from edge_dl.converters.layers import RecurrentLayer, find_recurrent
from edge_dl.errors import RefusedError
from edge_dl.variants import Lowering


@dataclass(frozen=True)
class Refusal:
    """A layer that a lowering cannot carry.

    Attributes:
        layer: path of the layer in the model, e.g. "encoder/bidirectional/forward_lstm".
        reason: why not, a full sentence.
        todo: what the user can do, a full sentence.
    """

    layer: str
    reason: str
    todo: str

    def error(self, lowering: Lowering) -> RefusedError:
        """The refusal as an error."""
        return RefusedError(
            f"Layer {self.layer!r} cannot be lowered as {lowering.value}: {self.reason}", todo=self.todo
        )


def find_refusals(model: Any, lowering: Lowering) -> list[Refusal]:
    """What keeps a model from a lowering, found without tracing or converting anything; empty when nothing does."""
    return []


def allowed_lowerings(model: Any) -> list[Lowering]:
    """Lowerings that carry the model, `none` alone where it has no recurrent layer."""
    if not find_recurrent(model):
        return [Lowering.NONE]
    candidates = (Lowering.WHILE, Lowering.UNROLL, Lowering.FUSED, Lowering.STEP)
    return [lowering for lowering in candidates if not find_refusals(model, lowering)]


@contextlib.contextmanager
def lowered(model: Any, lowering: Lowering) -> Iterator[None]:
    """Write the recurrent layers of `model` as `lowering` while the block runs; the model itself is not changed.

    Trace a `tf.function` with static shapes inside the block. Outside, the model computes as before.

    Raises:
        RefusedError: the lowering cannot carry the model; see `find_refusals`.
    """
    if lowering is Lowering.NONE:
        yield
        return
    with contextlib.ExitStack() as stack:
        for item in find_recurrent(model):
            layer = item.layer
            replaced = {
                "inner_loop": _inner_loop(item, lowering),
                # Dropout masks draw random numbers even where inference never uses them.
                "_maybe_config_dropout_masks": _nothing,
                "_maybe_reset_dropout_masks": _nothing,
            }
            if hasattr(layer, "use_cudnn"):
                # Bidirectional would go around both layers' `inner_loop` otherwise.
                replaced["use_cudnn"] = False
            for name, value in replaced.items():
                stack.enter_context(_replaced(layer, name, value))
        yield


@contextlib.contextmanager
def _replaced(layer: Any, name: str, value: Any) -> Iterator[None]:
    missing = object()
    # Past Keras' own __setattr__: nothing here is to be tracked or saved.
    before = layer.__dict__.get(name, missing)
    layer.__dict__[name] = value
    try:
        yield
    finally:
        if before is missing:
            del layer.__dict__[name]
        else:
            layer.__dict__[name] = before


def _nothing(*arguments: Any) -> None:
    pass


def _inner_loop(item: RecurrentLayer, lowering: Lowering) -> Any:
    import keras
    import tensorflow as tf

    layer = item.layer
    graphs = [cell_graph(cell) for cell in item.cells]

    def inner_loop(sequences: Any, initial_state: Any, mask: Any = None, training: bool = False) -> Any:
        mask = keras.tree.flatten(mask)[0] if mask is not None else None
        states = keras.tree.flatten(initial_state)
        if layer.go_backwards:
            sequences = tf.reverse(sequences, [1])
            mask = None if mask is None else tf.reverse(mask, [1])
        outputs, last_output, new_states = sequences, None, []
        for index, graph in enumerate(graphs):
            own = [states.pop(0) for _ in range(graph.state_count)]
            last = index == len(graphs) - 1
            need_all = layer.return_sequences or not last
            run = _fused if lowering is Lowering.FUSED else _loop
            outputs, last_output, end = run(graph, outputs, own, mask, need_all, lowering)
            new_states += end
        packed = (
            keras.tree.pack_sequence_as(initial_state, new_states)
            if keras.tree.is_nested(initial_state)
            else new_states
        )
        if not layer.return_sequences:
            outputs = tf.expand_dims(last_output, 1)
        return last_output, outputs, packed

    return inner_loop


def _loop(graph: CellGraph, sequence: Any, states: Sequence[Any], mask: Any, need_all: bool, lowering: Lowering) -> Any:
    import tensorflow as tf

    projected = graph.project(sequence)
    steps = sequence.shape[1]
    state = graph.encode(states)
    if lowering is Lowering.UNROLL:
        collected = []
        pieces = [tf.unstack(item, axis=1) for item in projected]
        for index in range(steps):
            state = graph.step([piece[index] for piece in pieces], state)
            if need_all:
                collected.append(graph.output(state))
        outputs = graph.finish(tf.stack(collected, axis=1)) if need_all else None
        end = graph.decode(state)
        return outputs, end[0], list(end)
    major = [tf.transpose(item, [1, 0, 2]) for item in projected]

    def body(index: Any, state: Any, *collected: Any) -> Any:
        state = graph.step([tf.gather(item, index) for item in major], state)
        if need_all:
            from tensorflow.compiler.tf2xla.ops import gen_xla_ops

            update = tf.expand_dims(graph.output(state), 0)
            collected = (gen_xla_ops.xla_dynamic_update_slice(collected[0], update, tf.stack([index, 0, 0])),)
        return (index + 1, state, *collected)

    start = [tf.constant(0), state]
    if need_all:
        start.append(tf.zeros([steps, sequence.shape[0], graph.units]))
    _, state, *collected = tf.while_loop(lambda index, *_: index < steps, body, start)
    outputs = graph.finish(tf.transpose(collected[0], [1, 0, 2])) if need_all else None
    end = graph.decode(state)
    return outputs, end[0], list(end)


def _fused(
    graph: CellGraph, sequence: Any, states: Sequence[Any], mask: Any, need_all: bool, lowering: Lowering
) -> Any:
    import tensorflow as tf

    assert isinstance(graph, LSTMGraph)

    def recurrence(inputs: Any, hidden: Any, carry: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
        # The converter replaces the body by its own operator; this one only says what it computes.
        outputs = []
        for item in tf.unstack(inputs, axis=1):
            i, f, g, o = tf.split(tf.matmul(item, kernel) + tf.matmul(hidden, recurrent) + bias, 4, axis=-1)
            carry = tf.sigmoid(f) * carry + tf.sigmoid(i) * tf.tanh(g)
            hidden = tf.sigmoid(o) * tf.tanh(carry)
            outputs.append(hidden)
        return outputs[-1], tf.stack(outputs, axis=1), hidden, carry, tf.constant(1.0)

    attributes = {"api_implements": f"lstm_{uuid.uuid4()}", "time_major": False, "go_backwards": False}
    function = tf.function(recurrence, experimental_attributes=attributes, autograph=False)
    bias = graph.bias if graph.bias is not None else tf.zeros([4 * graph.units])
    last, outputs, hidden, carry, _ = function(
        sequence, *states, tf.constant(graph.kernel), tf.constant(graph.recurrent), tf.constant(bias)
    )
    return outputs, last, [hidden, carry]
