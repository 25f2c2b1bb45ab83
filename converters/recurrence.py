"""A cell run over a whole sequence: unrolled, as a loop over blocks of steps, or as TFLite's fused LSTM operator.

All take and give Keras' own conventions: (batch, time, features) with static sizes, and for a masked step the state is
held. A mask never enters as a selection inside the loop: `h = m * new + (1 - m) * old` with m of 0 or 1 is exact and
stays inside XNNPACK, where a SELECT would cut the graph in two at every step.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_dl.converters.cells import CellGraph, LSTMGraph

# What a loop costs, in microseconds, measured with LiteRT 2.3 on one x86-64 core. Only the ratios matter: one more step
# in the body (its operators are set up again at every call of the model), one more iteration, and a byte of a loop
# variable (TFLite copies the collected outputs twice an iteration).
_STEP_COST = 0.75
_ITERATION_COST = 0.45
_COPY_COST = 2 / 20_000
# Every copy of a weight in the graph is packed by itself, so a body of many steps reads more memory. Packed weights
# should stay in a second-level cache; where outputs are collected, the copies they save weigh more.
_CACHE = 512 * 1024
_CACHE_COLLECTING = 4 * 1024 * 1024


@dataclass(frozen=True)
class Result:
    """What a recurrence gives.

    Attributes:
        outputs: (batch, time, units); None where only the end was asked for.
        states: the last states in Keras' form, each (batch, units); the first one is the last output.
        how: what was chosen, in words.
    """

    outputs: Any
    states: tuple[Any, ...]
    how: str


def block_size(steps: int, step_bytes: int, collected_bytes: int = 0) -> int:
    """Steps to write into one iteration of a loop, 1 to `steps`, by what the loop then costs.

    Args:
        steps: number of time steps. Those that do not fill a block are written behind the loop.
        step_bytes: bytes of weights that one step reads.
        collected_bytes: bytes of outputs that the loop collects; 0 where only the last is wanted.
    """
    limit = _CACHE_COLLECTING if collected_bytes else _CACHE
    best, least = 1, float("inf")
    for size in range(1, steps + 1):
        rest = steps % size
        if size > 1 and (size + rest) * step_bytes > limit:
            continue
        cost = _STEP_COST * (size + rest) + (steps // size) * (_ITERATION_COST + _COPY_COST * collected_bytes)
        if cost < least:
            best, least = size, cost
    return best


def run_unrolled(graph: CellGraph, sequence: Any, states: Sequence[Any], mask: Any, collect: bool) -> Result:
    """Every step written out.

    Args:
        graph: the cell.
        sequence: (batch, time, features).
        states: first states in Keras' form.
        mask: booleans (batch, time), or None.
        collect: whether the outputs of all steps are wanted.
    """
    import tensorflow as tf

    steps = sequence.shape[1]
    pieces = [tf.unstack(item, axis=1) for item in _per_step(graph, sequence, mask)]
    outputs, state = _run_steps(graph, pieces, graph.encode(states), mask is not None)
    return Result(tf.stack(outputs, axis=1) if collect else None, graph.decode(state), f"{steps} steps written out")


def run_step(graph: CellGraph, sequence: Any, states: Sequence[Any], mask: Any) -> tuple[Result, tuple[Any, ...]]:
    """One step, from states in the cell's own form; gives the next states in that form too.

    Args:
        graph: the cell.
        sequence: (batch, 1, features).
        states: in the form of `CellGraph.encode`.
        mask: booleans (batch, 1), or None.
    """
    pieces = [[item[:, 0]] for item in _per_step(graph, sequence, mask)]
    outputs, state = _run_steps(graph, pieces, states, mask is not None)
    return Result(outputs[0][:, None], graph.decode(state), "one step a call"), tuple(state)


def run_loop(graph: CellGraph, sequence: Any, states: Sequence[Any], mask: Any, collect: bool) -> Result:
    """A WHILE loop over blocks of steps, see `block_size`; arguments as for `run_unrolled`."""
    import tensorflow as tf

    batch, steps = sequence.shape[0], sequence.shape[1]
    collected_bytes = 4 * batch * steps * graph.units if collect else 0
    size = block_size(steps, graph.step_bytes, collected_bytes)
    count = steps // size
    looped = count * size
    per_step = [_time_first(item) for item in _per_step(graph, sequence, mask)]
    blocks = [tf.reshape(item[:looped], [count, size, *item.shape[1:]]) for item in per_step]
    masked = mask is not None

    def body(index: Any, state: tuple[Any, ...], *collected: Any) -> Any:
        pieces = [tf.unstack(tf.gather(block, index), axis=0) for block in blocks]
        outputs, state = _run_steps(graph, pieces, state, masked)
        if collect:
            collected = (_write(collected[0], tf.stack(outputs), index),)
        return (index + 1, state, *collected)

    start = [tf.constant(0), graph.encode(states)]
    if collect:
        start.append(tf.zeros([count, size, batch, graph.units]))
    _, state, *collected = tf.while_loop(lambda index, *_: index < count, body, start)
    rest = [tf.unstack(item[looped:], axis=0) for item in per_step] if looped < steps else []
    outputs, state = _run_steps(graph, rest, state, masked) if rest else ([], state)
    result = None
    if collect:
        result = tf.reshape(collected[0], [looped, batch, graph.units])
        if outputs:
            result = tf.concat([result, tf.stack(outputs)], axis=0)
        result = _batch_first(result)
    how = f"a loop of {count} x {size} steps" + (f", then {steps - looped}" if looped < steps else "")
    return Result(result, graph.decode(state), how)


def run_fused(graph: LSTMGraph, sequence: Any, collect: bool) -> Result:
    """TFLite's UNIDIRECTIONAL_SEQUENCE_LSTM, from states of zero.

    The converter puts that operator in the place of a function that says, by its attribute, that it implements an LSTM
    of Keras, as tf-keras' own LSTM does. All six arguments must be tensors.
    """
    import tensorflow as tf

    def recurrence(inputs: Any, hidden: Any, carry: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
        # Never run by the device: it says what the operator computes, also when the SavedModel is called.
        def step(before: Any, item: Any) -> Any:
            i, f, g, o = tf.split(tf.matmul(item, kernel) + tf.matmul(before[0], recurrent) + bias, 4, axis=-1)
            carry = tf.sigmoid(f) * before[1] + tf.sigmoid(i) * tf.tanh(g)
            return tf.sigmoid(o) * tf.tanh(carry), carry

        hiddens, carries = tf.scan(step, _time_first(inputs), (hidden, carry))
        return hiddens[-1], _batch_first(hiddens), hiddens[-1], carries[-1], tf.constant(1.0)

    attributes = {"api_implements": f"lstm_{uuid.uuid4()}", "time_major": False, "go_backwards": False}
    function = tf.function(recurrence, experimental_attributes=attributes, autograph=False)
    zero = tf.zeros([sequence.shape[0], graph.units])
    bias = tf.zeros([4 * graph.units]) if graph.bias is None else tf.constant(graph.bias)
    last, outputs, _, carry, _ = function(
        sequence, zero, zero, tf.constant(graph.kernel), tf.constant(graph.recurrent), bias
    )
    return Result(outputs if collect else None, (last, carry), "one operator")


def _per_step(graph: CellGraph, sequence: Any, mask: Any) -> list[Any]:
    """What every step needs from outside, each (batch, time, n): the projected input, then m and 1 - m."""
    import tensorflow as tf

    if mask is None:
        return list(graph.project(sequence))
    mask = mask[:, :, None]
    # What a masked step holds must not matter, not even NaN, which times zero is NaN.
    projected = graph.project(tf.where(mask, sequence, tf.zeros_like(sequence)))
    kept = tf.cast(mask, sequence.dtype)
    return [*projected, kept, 1.0 - kept]


def _run_steps(graph: CellGraph, pieces: Sequence[Sequence[Any]], state: Sequence[Any], masked: bool) -> Any:
    """Outputs of all steps, each (batch, units), and the last states, from per-step tensors, each (batch, n)."""
    import tensorflow as tf

    weights = [tf.constant(array) for array in graph.weights()]
    outputs = []
    for current in zip(*pieces, strict=True):
        if masked:
            *projected, kept, held = current
            new = graph.step(weights, projected, state)
            state = tuple(kept * after + held * before for after, before in zip(new, state, strict=True))
        else:
            state = graph.step(weights, current, state)
        outputs.append(state[0])
    return outputs, state


def _write(collected: Any, block: Any, index: Any) -> Any:
    """`collected`, (count, ...), with `block` at `index`: a DYNAMIC_UPDATE_SLICE, which TensorFlow has for XLA only."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    position = tf.stack([index, *[tf.constant(0)] * (len(block.shape))])
    updated = gen_xla_ops.xla_dynamic_update_slice(collected, block[None], position)
    updated.set_shape(collected.shape)
    return updated


def _time_first(tensor: Any) -> Any:
    import tensorflow as tf

    batch, steps, *rest = tensor.shape.as_list()
    if batch == 1:
        return tf.reshape(tensor, [steps, batch, *rest])
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])


def _batch_first(tensor: Any) -> Any:
    import tensorflow as tf

    steps, batch, *rest = tensor.shape.as_list()
    if batch == 1:
        return tf.reshape(tensor, [batch, steps, *rest])
    return tf.transpose(tensor, [1, 0, *range(2, len(tensor.shape))])
