"""Lowerings: how the recurrent layers of a model are written while it is traced, without changing the model.

`keras.layers.RNN.call` deals with masks, initial states and what to return, and leaves the recurrence itself to
`inner_loop`. `lowered` gives every recurrent layer of a model another `inner_loop` for the time of a `with` block. The
weights are read when the layer is traced and become constants of the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edge_dl.converters.cells import CellGraph, LSTMGraph, cell_graph, starts_from_zero
from edge_dl.converters.layers import RecurrentLayer, find_recurrent, walk_layers
from edge_dl.converters.recurrence import Result, run_fused, run_loop, run_unrolled
from edge_dl.errors import RefusedError, UsageError
from edge_dl.variants import Lowering

# Runs one cell over a sequence: (graph, sequence, states, mask, whether all outputs are wanted).
RunCell = Callable[[CellGraph, Any, Sequence[Any], Any, bool], Result]
# What takes the place of a layer's `inner_loop`: (layer, sequence, initial states, mask, whether those were given by
# the caller) -> (last output, outputs, states).
InnerLoop = Callable[[RecurrentLayer, Any, Any, Any, bool], tuple[Any, Any, Any]]


@contextlib.contextmanager
def lowered(model: Any, lowering: Lowering) -> Iterator[dict[str, str]]:
    """Write the recurrent layers of `model` as `lowering` while the block runs; the model itself is not changed.

    Trace a `tf.function` with static shapes inside the block. Half precision is computed as float32, as on the device.
    `find_refusals` says beforehand whether a model can be lowered; here only what is met while tracing is refused.

    Yields:
        By path, how each recurrent layer was written; filled while the model is traced.

    Raises:
        RefusedError: the lowering cannot carry a layer that was met.
        UsageError: the lowering is `step`, `stream` or a `decode`, which need states: `edge_dl.converters.export`
            does it.
    """
    if lowering in (Lowering.STEP, Lowering.STREAM) or lowering.decodes:
        name = lowering.value
        raise UsageError(f"A model is lowered as {name} by exporting it.", received=f"lowered(model, {name})")
    notes: dict[str, str] = {}

    def inner_loop(item: RecurrentLayer, sequence: Any, states: Any, mask: Any, given: bool) -> tuple[Any, Any, Any]:
        def run_cell(graph: CellGraph, sequence: Any, states: Sequence[Any], mask: Any, collect: bool) -> Result:
            if lowering is Lowering.FUSED:
                if mask is not None or given or not isinstance(graph, LSTMGraph):
                    raise RefusedError(f"Layer {item.path!r} cannot be lowered as fused with a mask or given states.")
                return run_fused(graph, sequence, collect)
            run = run_unrolled if lowering is Lowering.UNROLL else run_loop
            return run(graph, sequence, states, mask, collect)

        last, outputs, new_states, how = run_layer(item, sequence, states, mask, given, run_cell)
        notes[item.path] = how
        return last, outputs, new_states

    with contextlib.ExitStack() as stack:
        stack.enter_context(in_float32(model))
        if lowering is Lowering.NONE:
            stack.enter_context(_plain_loops(model))
        else:
            stack.enter_context(replaced_loops(model, inner_loop))
        yield notes


@contextlib.contextmanager
def _plain_loops(model: Any) -> Iterator[None]:
    """Keep Keras' own recurrences from operators that no device has: those of cuDNN, and random dropout masks."""
    with contextlib.ExitStack() as stack:
        for item in find_recurrent(model):
            for name, value in _PLAIN.items():
                if hasattr(item.layer, name):
                    stack.enter_context(replaced(item.layer, name, value))
        yield


@contextlib.contextmanager
def as_reference(model: Any) -> Iterator[None]:
    """Let `model` compute what a variant is compared with: in float32, every call from the same first states."""
    with in_float32(model), contextlib.ExitStack() as stack:
        for item in find_recurrent(model):
            if item.layer.stateful:
                stack.enter_context(replaced(item.layer, "stateful", False))
        yield


@contextlib.contextmanager
def replaced_loops(model: Any, inner_loop: InnerLoop) -> Iterator[None]:
    """Put `inner_loop` in the place of every recurrent layer's own while the block runs."""
    with contextlib.ExitStack() as stack:
        for item in find_recurrent(model):
            for name, value in _replacements(item, inner_loop).items():
                stack.enter_context(replaced(item.layer, name, value))
        yield


def _replacements(item: RecurrentLayer, inner_loop: InnerLoop) -> dict[str, Any]:
    layer = item.layer
    # The layer asks for its own initial states only where the caller gives none.
    given = True
    own_initial_state = layer.get_initial_state
    own_is_zero = starts_from_zero(layer)

    def get_initial_state(batch_size: int) -> Any:
        nonlocal given
        given = not own_is_zero
        return own_initial_state(batch_size)

    def loop(sequences: Any, initial_state: Any, mask: Any = None, training: bool = False) -> tuple[Any, Any, Any]:
        import keras
        import tensorflow as tf

        nonlocal given
        was_given, given = given, True
        mask = keras.tree.flatten(mask)[0] if mask is not None else None
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
            mask = tf.squeeze(mask, -1) if len(mask.shape) == 3 else mask
        return inner_loop(item, tf.cast(sequences, tf.float32), initial_state, mask, was_given)

    replacements: dict[str, Any] = {
        "inner_loop": loop,
        "get_initial_state": get_initial_state,
        **{name: value for name, value in _PLAIN.items() if hasattr(layer, name)},
    }
    if layer.stateful:
        replacements["stateful"] = False
    return replacements


def run_layer(
    item: RecurrentLayer, sequence: Any, states: Any, mask: Any, given: bool, run_cell: RunCell
) -> tuple[Any, Any, Any, str]:
    """What Keras' own `inner_loop` gives, with another way to run a cell: last output, outputs, states; and how.

    Stacked cells run one after the other over the whole sequence, which is the same and lets each one's input be
    projected for all steps at once.

    Args:
        item: the layer.
        sequence: (batch, time, features), static sizes.
        states: initial states in the structure that the layer uses.
        mask: booleans (batch, time), or None.
        given: whether the initial states may not be zero: from the caller, or from a `get_initial_state` of one's own.
        run_cell: how to run one cell.
    """
    import keras
    import tensorflow as tf

    layer = item.layer
    if layer.go_backwards:
        sequence = tf.reverse(sequence, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    flat = list(keras.tree.flatten(states))
    new_states: list[Any] = []
    notes = []
    outputs = sequence
    last: Any = None
    for index, cell in enumerate(item.cells):
        graph = cell_graph(cell)
        if graph is None:
            raise RefusedError(f"Layer {item.path!r} holds a cell of its own making, {type(cell).__name__}.")
        own = flat[len(new_states) : len(new_states) + graph.state_count]
        collect = layer.return_sequences or index < len(item.cells) - 1
        result = run_cell(graph, outputs, own, mask, collect)
        outputs, last = result.outputs, result.states[0]
        new_states += result.states
        notes.append(result.how)
    if mask is not None:
        outputs, last = _masked_outputs(outputs, last, mask, given, bool(layer.zero_output_for_mask))
    if not layer.return_sequences:
        outputs = last[:, None]
    packed = keras.tree.pack_sequence_as(states, new_states) if keras.tree.is_nested(states) else new_states
    return last, outputs, packed, "; ".join(dict.fromkeys(notes))


def _masked_outputs(outputs: Any, last: Any, mask: Any, given: bool, zero: bool) -> tuple[Any, Any]:
    """Outputs at masked steps, as Keras has them: zero, or the output before, which is zero before the first step.

    The states are held at masked steps, so they are the output before, unless states were given and the sequence
    starts with masked steps.
    """
    import tensorflow as tf

    if not zero and not given:
        return outputs, last
    kept = tf.cast(mask, last.dtype)
    if not zero:
        kept = tf.minimum(tf.cumsum(kept, axis=1), 1.0)
    return None if outputs is None else outputs * kept[:, :, None], last * kept[:, -1:]


@contextlib.contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let layers that compute in half precision compute in float32 while the block runs."""
    import keras

    policy = keras.DTypePolicy("float32")
    with contextlib.ExitStack() as stack:
        for layer in [model, *(layer for _, layer, _ in walk_layers(model))]:
            current = layer.__dict__.get("_dtype_policy")
            half = getattr(current, "compute_dtype", "") in ("float16", "bfloat16")
            if half and getattr(current, "quantization_mode", None) is None:
                stack.enter_context(replaced(layer, "_dtype_policy", policy))
        yield


@contextlib.contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of this one object while the block runs, past Keras' tracking of what is set."""
    missing = object()
    before = target.__dict__.get(name, missing)
    target.__dict__[name] = value
    try:
        yield
    finally:
        if before is missing:
            del target.__dict__[name]
        else:
            target.__dict__[name] = before


def _nothing(*arguments: Any) -> None:
    pass


_PLAIN = {
    # Dropout masks draw random numbers even where inference never uses them.
    "_maybe_config_dropout_masks": _nothing,
    "_maybe_reset_dropout_masks": _nothing,
    # With cuDNN, Bidirectional would go around both layers' `inner_loop`.
    "use_cudnn": False,
}
