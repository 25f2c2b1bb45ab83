"""The `step` lowering: one time step a call, with the states as inputs and outputs.

It is right only where every layer treats each step by itself and the recurrent layers alone remember. The structure of
a functional model says which layer breaks that; what the structure cannot say (layers of the user's own, subclassed
models) is decided by running both models on random input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.bundle import SequenceSpec, StateSpec, TensorSpec
from edge_dl.converters.cells import CellGraph
from edge_dl.converters.layers import RecurrentLayer, find_recurrent, walk_layers
from edge_dl.converters.lowering import as_reference, in_float32, replaced, replaced_loops, run_layer
from edge_dl.converters.messages import one_line
from edge_dl.converters.recurrence import Result, run_step
from edge_dl.converters.refusals import LayerCall, Refusal
from edge_dl.converters.signature import Inputs, graph_of, name_outputs, output_names
from edge_dl.errors import EdgeError, RefusedError
from edge_dl.names import unique_names
from edge_dl.variants import Lowering

# Largest difference between the step model and the whole one, beside the largest output. The two add in another order,
# and small differences grow over a long sequence.
TOLERANCE = 1e-3

_USE_WHILE = "Use while or unroll."


@dataclass(frozen=True)
class StepModel:
    """A traced step model.

    Attributes:
        concrete: the traced function.
        inputs: inputs of one step, those of the sequence with a time axis of 1.
        states: what goes from one call to the next.
        sequence: how a session feeds it.
        notes: by path, how each recurrent layer was written.
    """

    concrete: Any
    inputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    sequence: SequenceSpec
    notes: Mapping[str, str]


def trace_step(model: Any, inputs: Inputs, calls: Sequence[LayerCall], seed: int = 0) -> StepModel:
    """Trace one time step of a model, and check on random input that the steps give what the whole model gives.

    Args:
        model: a built model without refusals for `step`.
        inputs: its inputs for the whole sequence.
        calls: its recurrent layers' calls, as `refusals.watch_calls` gives them for `inputs`.
        seed: of the random input.

    Raises:
        RefusedError: the steps do not give what the whole model gives.
    """
    import tensorflow as tf

    steps = calls[0].steps
    names = sequence_inputs(model, inputs, steps)
    specs = tuple(
        TensorSpec(spec.name, (spec.shape[0], 1, *spec.shape[2:]), spec.dtype) if spec.name in names else spec
        for spec in inputs.specs
    )
    shapes = [shape for call in calls for shape in call.states]
    means = [
        layer
        for _, layer, _ in walk_layers(model)
        if _is_mean_over_time(layer) and layer.input.shape[1] in (None, steps)
    ]
    pooled: list[tuple[int, ...]] = [(specs[0].shape[0], layer.input.shape[2]) for layer in means]
    taken = {spec.name for spec in specs} | set(unique_names(output_names(model)))
    states = state_specs([(shape, "float32", 0) for shape in shapes + pooled], taken)
    notes: dict[str, str] = {}

    def step(**tensors: Any) -> dict[str, Any]:
        before = [tensors.pop(state.input) for state in states]
        after: list[Any] = []

        def run_cell(graph: CellGraph, sequence: Any, own: Sequence[Any], mask: Any, collect: bool) -> Result:
            result, new = run_step(graph, sequence, before[len(after) : len(after) + graph.state_count], mask)
            after.extend(new)
            return result

        def inner_loop(item: RecurrentLayer, sequence: Any, own: Any, mask: Any, given: bool) -> tuple[Any, Any, Any]:
            last, outputs, new, notes[item.path] = run_layer(item, sequence, own, mask, given, run_cell)
            return last, outputs, new

        sums = dict(zip(map(id, means), before[len(shapes) :], strict=True))
        with in_float32(model), replaced_loops(model, inner_loop), any_length(model), _summing(means, sums, steps):
            outputs = name_outputs(model, model(inputs.pack(tensors), training=False))
        results = {name: tf.identity(value) for name, value in outputs.items()}
        after += [sums[id(layer)] for layer in means]
        return results | {state.output: tf.identity(value) for state, value in zip(states, after, strict=True)}

    signature = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs}
    signature |= {state.input: tf.TensorSpec(state.shape, tf.float32, name=state.input) for state in states}
    try:
        concrete = tf.function(step, autograph=False).get_concrete_function(**signature)
    except EdgeError:
        raise
    except Exception as error:  # The user's layers may raise anything.
        reason = f"it cannot be traced with a time axis of 1 ({one_line(error, 300)})"
        raise _not_causal(model, reason) from error
    kinds = _check_steps(model, concrete, inputs, states, names, steps, seed)
    return StepModel(concrete, specs, states, SequenceSpec(names, steps, kinds), notes)


def state_specs(needs: Sequence[tuple[tuple[int, ...], str, int]], taken: set[str]) -> tuple[StateSpec, ...]:
    """One a state, named state_0, state_1, .., with more underscores where the model has such a name itself.

    Args:
        needs: shape with the batch axis, type, and calls from the start in which it stays zero.
        taken: the model's own names.
    """
    return tuple(
        StateSpec(name, f"next_{name}", shape, dtype, silent=silent)
        for name, (shape, dtype, silent) in zip(state_names(len(needs), taken), needs, strict=True)
    )


def state_names(count: int, taken: set[str]) -> list[str]:
    """Names of states, state_0, state_1, .., with more underscores where the model has such a name itself."""
    name = "state_"
    while any(f"{prefix}{name}{i}" in taken for i in range(count) for prefix in ("", "next_")):
        name += "_"
    return [f"{name}{i}" for i in range(count)]


def sequence_inputs(model: Any, inputs: Inputs, steps: int) -> tuple[str, ...]:
    """Names of the inputs that hold the time steps of the recurrent layers, so that a step takes one of each.

    Raises:
        RefusedError: there is none.
    """
    reached = _reaching_recurrence(model)
    names = []
    for index, spec in enumerate(inputs.specs):
        has_time = len(spec.shape) >= 3 or (len(spec.shape) == 2 and spec.dtype.startswith(("int", "uint")))
        if has_time and spec.shape[1] == steps and (reached is None or index in reached):
            names.append(spec.name)
    if not names:
        raise RefusedError(
            f"Model {model.name!r} cannot be lowered as step: none of its inputs has the {steps} time steps that its "
            "recurrent layers run over.",
            todo=_USE_WHILE,
        )
    return tuple(names)


def find_step_refusals(model: Any, calls: Sequence[LayerCall]) -> list[Refusal]:
    """Layers that mix time steps, as far as the structure of the model says."""
    import keras

    refusals = []
    for item in find_recurrent(model):
        around = [wrapper for wrapper in item.wrappers if isinstance(wrapper, keras.layers.Bidirectional)]
        inside = [wrapper for wrapper in item.wrappers if isinstance(wrapper, keras.layers.TimeDistributed)]
        if around:
            path = item.path.rsplit("/", 1)[0]
            refusals.append(Refusal(path, "Bidirectional reads the sequence from its end too.", _USE_WHILE))
        elif item.layer.go_backwards:
            refusals.append(Refusal(item.path, "go_backwards reads the sequence from its end.", _USE_WHILE))
        elif inside:
            reason = "TimeDistributed runs it over an axis of its own at every step."
            refusals.append(Refusal(item.path, reason, _USE_WHILE))
    steps = {call.steps for call in calls}
    if len(steps) > 1:
        first, other = calls[0], next(call for call in calls if call.steps != calls[0].steps)
        reason = f"It runs over {other.steps} steps, and {first.path!r} over {first.steps}."
        refusals.append(Refusal(other.path, reason, _USE_WHILE))
    graph = graph_of(model)
    if refusals or graph is None:
        return list(dict.fromkeys(refusals))
    found: list[Refusal] = []
    reached = _reaching_recurrence(model) or set()
    kinds = ["each" if index in reached and has_time(t) else "still" for index, t in enumerate(graph.inputs)]
    flow(graph, kinds, "", found)
    return list(dict.fromkeys(found))


def has_time(tensor: Any) -> bool:
    """Whether a symbolic tensor has an axis behind the batch."""
    return len(tensor.shape) >= 2


def holds_recurrence(operation: Any) -> bool:
    """Whether a layer is a recurrent one or has one inside."""
    import keras

    if isinstance(operation, keras.layers.RNN):
        return True
    return any(isinstance(layer, keras.layers.RNN) for _, layer, _ in walk_layers(operation))


def _reaching_recurrence(model: Any) -> set[int] | None:
    """Positions of the inputs that lead to a recurrent layer's sequence; None where there is no graph to tell."""
    graph = graph_of(model)
    if graph is None:
        return None
    made_by = {
        id(tensor): node for nodes in graph._nodes_by_depth.values() for node in nodes for tensor in node.outputs
    }
    pending = []
    for nodes in graph._nodes_by_depth.values():
        for node in nodes:
            if holds_recurrence(node.operation) and node.input_tensors:
                # Behind the sequence come initial states, unless the layer is one of the user's own.
                own = not isinstance(node.operation, _known_sequence_layers())
                pending += node.input_tensors if own else node.input_tensors[:1]
    seen: set[int] = set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        node = made_by.get(id(tensor))
        if node is not None and not node.is_input:
            pending += node.input_tensors
    return {index for index, tensor in enumerate(graph.inputs) if id(tensor) in seen}


def _known_sequence_layers() -> tuple[type, ...]:
    import keras

    return (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)


def flow(graph: Any, kinds: Sequence[str], prefix: str, found: list[Refusal]) -> list[str]:
    """Follow time through a functional model: "each" has every step on axis 1, "last" comes from the last one only,
    "still" does not depend on time. Returns the kinds of the outputs; layers that mix steps are added to `found`.
    """
    known = {id(tensor): kind for tensor, kind in zip(graph.inputs, kinds, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            incoming = [known.get(id(tensor), "still") for tensor in node.input_tensors]
            results = flow_node(node, incoming, prefix, found)
            known |= {id(tensor): kind for tensor, kind in zip(node.outputs, results, strict=True)}
    return [known.get(id(tensor), "still") for tensor in graph.outputs]


def flow_node(node: Any, incoming: list[str], prefix: str, found: list[Refusal]) -> list[str]:
    """Kinds of what one call of a layer gives from the kinds of what it takes; see `flow`."""
    import keras

    operation = node.operation
    path = f"{prefix}{operation.name}"
    recurrent = isinstance(operation, keras.layers.RNN)
    if recurrent and incoming[0] != "each":
        reason = "It runs over a sequence that the model makes itself, not over the steps of an input."
        found.append(Refusal(path, reason, _USE_WHILE))
    if "each" not in incoming:
        return ["last" if "last" in incoming else "still"] * len(node.outputs)
    if _is_mean_over_time(operation):
        return ["last"]
    if recurrent:
        # A mask of the sequence, where it is given as an argument, has the sequence's steps.
        mask = node.arguments.kwargs.get("mask")
        given = zip(node.input_tensors[1:], incoming[1:], strict=True)
        if any(kind != "still" for tensor, kind in given if tensor is not mask):
            found.append(Refusal(path, "Its initial states or what it looks at come from the steps.", _USE_WHILE))
        steps = node.input_tensors[0].shape[1]
        # Keras' own give states behind the first output; a layer with a `call` of its own, what it likes.
        own = not type(operation).call.__module__.startswith("keras.")
        others = ["each" if own and len(t.shape) > 2 and t.shape[1] == steps else "last" for t in node.outputs[1:]]
        return ["each" if operation.return_sequences else "last", *others]
    inner = graph_of(operation)
    if inner is not None:
        # Behind the inputs may come their masks.
        return flow(inner, incoming[: len(inner.inputs)], f"{path}/", found)
    if "last" in incoming:
        reason = "It joins every step with what only the last one gives."
        found.append(Refusal(path, reason, _USE_WHILE))
    reason = _joins_sequences(node, incoming)
    if not _looks_at_still(node, incoming):
        reason = reason or mixes_time(operation, len(node.input_tensors[0].shape))
    if reason:
        found.append(Refusal(path, reason, _USE_WHILE))
    steps = next(tensor.shape[1] for tensor, kind in zip(node.input_tensors, incoming, strict=True) if kind == "each")
    return ["each" if len(t.shape) > 1 and t.shape[1] == steps else "last" for t in node.outputs]


def _looks_at_still(node: Any, incoming: Sequence[str]) -> bool:
    """Whether an attention, or a product such as Luong's is made of, takes each step by itself to something still.

    Attention: the queries are steps, and keys and values are not. A `Dot` contracts features of the steps, which come
    first, so that its result has their time axis.
    """
    import keras

    layers = keras.layers
    if incoming[0] != "each" or any(kind != "still" for kind in incoming[1:]) or len(incoming) < 2:
        return False
    if isinstance(node.operation, layers.Dot):
        axes = node.operation.axes
        return (axes if isinstance(axes, int) else axes[0]) not in (1, 1 - len(node.input_tensors[0].shape))
    if isinstance(node.operation, (layers.Attention, layers.AdditiveAttention, layers.MultiHeadAttention)):
        return not node.arguments.kwargs.get("use_causal_mask", False)
    return False


# Layers and functions of Keras that join tensors element by element, or one behind the other.
_JOINING = (
    "Add", "Average", "Concatenate", "Divide", "Maximum", "Minimum", "Multiply", "Stack", "Subtract", "Where",
)  # fmt: skip


def _joins_sequences(node: Any, incoming: Sequence[str]) -> str:
    """Why an operation that joins its inputs is given a whole sequence beside single steps; "" where it is not."""
    own = {base.__name__ for base in type(node.operation).__mro__ if base.__module__.startswith("keras.")}
    if not own & set(_JOINING):
        return ""
    rank = len(node.outputs[0].shape)
    for tensor, kind in zip(node.input_tensors, incoming, strict=True):
        if kind == "still" and len(tensor.shape) == rank >= 3 and tensor.shape[1] != 1:
            return f"{type(node.operation).__name__} joins every step with a sequence that has steps of its own."
    return ""


def mixes_time(operation: Any, rank: int) -> str:
    """Why one of Keras' own layers or operations does not treat each step by itself; "" where it does, or where nothing
    is known. `rank` is the number of axes of what it takes.
    """
    import keras

    layers = keras.layers
    kind = type(operation).__name__
    if hasattr(operation, "kernel_size") and "Conv" in kind:
        alone = operation.kernel_size[0] == 1 and operation.strides[0] == 1
        return "" if alone else f"{kind} looks at {operation.kernel_size[0]} time steps at once."
    # By Keras' own name: a layer of the user's own may be called a pool and be none.
    if any("Pool" in base.__name__ for base in type(operation).__mro__ if base.__module__.startswith("keras.")):
        return f"{kind} takes all time steps or several of them together."
    if isinstance(operation, (layers.Attention, layers.AdditiveAttention, layers.MultiHeadAttention)) or kind in (
        "GroupedQueryAttention",
        "GroupQueryAttention",
    ):
        return f"{kind} looks at all time steps."
    if isinstance(operation, (layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Dot)):
        return f"{kind} rearranges the time axis."
    if kind in ("Cropping1D", "ZeroPadding1D", "UpSampling1D", "GroupNormalization"):
        return f"{kind} changes or mixes the time axis."
    axis = getattr(operation, "axis", None)
    rank += kind == "ExpandDims"  # Whose axis is one of what it gives.
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if 1 in [item + rank if isinstance(item, int) and item < 0 else item for item in axes]:
        return f"{kind} {'joins' if isinstance(operation, layers.Concatenate) else 'works'} along the time axis."
    return ""


def _is_mean_over_time(layer: Any) -> bool:
    """Whether a layer's mean over all steps can be a running sum, so that the last step's answer is the mean."""
    import keras

    return (
        type(layer) is keras.layers.GlobalAveragePooling1D
        and layer.data_format == "channels_last"
        and not layer.keepdims
        and len(layer._inbound_nodes) == 1
        # A second input is a mask: the mean of those steps only that it keeps.
        and not isinstance(layer.input, (list, tuple))
    )


@contextlib.contextmanager
def _summing(layers: Sequence[Any], sums: dict[int, Any], steps: int) -> Iterator[None]:
    """Let mean poolings add each step's share to `sums` (by the layer's id) and answer with the sum so far."""

    def sum_so_far(layer: Any) -> Any:
        def call(inputs: Any, mask: Any = None) -> Any:
            if mask is not None:
                reason = "it takes the mean of those steps only that a mask keeps."
                raise Refusal(layer.name, reason, _USE_WHILE).error(Lowering.STEP)
            sums[id(layer)] = sums[id(layer)] + inputs[:, 0] * (1.0 / steps)
            return sums[id(layer)]

        return call

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced(layer, "call", sum_so_far(layer)))
        yield


@contextlib.contextmanager
def any_length(model: Any) -> Iterator[None]:
    """Let functional models inside `model` take another number of steps than they were built for."""

    def accept(*arguments: Any) -> None:
        pass

    with contextlib.ExitStack() as stack:
        for layer in [model, *(layer for _, layer, _ in walk_layers(model))]:
            if graph_of(layer) is not None:
                stack.enter_context(replaced(layer, "_assert_input_compatibility", accept))
        yield


def _check_steps(
    model: Any,
    concrete: Any,
    inputs: Inputs,
    states: Sequence[StateSpec],
    names: Sequence[str],
    steps: int,
    seed: int,
) -> dict[str, str]:
    """Run both models on random input; returns per output "each" or "last".

    Raises:
        RefusedError: an output is neither.
    """
    import tensorflow as tf

    values = random_inputs(model, inputs, np.random.default_rng(seed))
    with as_reference(model):
        whole = name_outputs(model, model(inputs.pack({n: tf.constant(v) for n, v in values.items()}), training=False))
    expected = {name: np.asarray(value) for name, value in whole.items()}
    state = {item.input: tf.zeros(item.shape) for item in states}
    answers: dict[str, list[np.ndarray]] = {name: [] for name in expected}
    for index in range(steps):
        now = {n: tf.constant(v[:, index : index + 1] if n in names else v) for n, v in values.items()}
        results = concrete(**now, **state)
        state = {item.input: results[item.output] for item in states}
        for name in answers:
            answers[name].append(np.asarray(results[name]))
    kinds = {}
    for name, reference in expected.items():
        first = answers[name][0]
        if first.shape == reference.shape:
            kinds[name], got = "last", answers[name][-1]
        elif first.shape == (reference.shape[0], 1, *reference.shape[2:]) and reference.shape[1] == steps:
            kinds[name], got = "each", np.concatenate(answers[name], axis=1)
        else:
            reason = f"its output {name!r} has shape {first.shape} for one step and {reference.shape} for {steps}"
            raise _not_causal(model, reason)
        worst = worst_difference(got, reference)
        if not worst <= TOLERANCE * (1 + float(np.max(np.abs(reference), initial=0.0))):
            reason = f"step by step, its output {name!r} differs by {worst:.3g} from the whole model's"
            raise _not_causal(model, reason)
    return kinds


def worst_difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference of two arrays of one shape; 0.0 where they are empty."""
    return float(np.max(np.abs(got.astype(np.float64) - wanted))) if got.size else 0.0


def _not_causal(model: Any, reason: str) -> RefusedError:
    """The error for a model whose steps do not give the whole, with the layers that may be why."""
    own = [
        f"{path!r} ({type(layer).__name__})"
        for path, layer, _ in walk_layers(model)
        if not type(layer).__module__.startswith("keras.")
    ]
    suspects = f" Layers that may mix time steps: {', '.join(own)}." if own else ""
    return RefusedError(f"Model {model.name!r} cannot be lowered as step: {reason}.{suspects}", todo=_USE_WHILE)


def random_inputs(model: Any, inputs: Inputs, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Random input that a model takes: tokens within its vocabulary, and some masked steps where it masks."""
    import keras

    layers = [layer for _, layer, _ in walk_layers(model)]
    vocabulary = min((layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)), default=2)
    masked = [layer.mask_value for layer in layers if isinstance(layer, keras.layers.Masking)]
    values = {}
    for spec in inputs.specs:
        if spec.dtype.startswith("float"):
            value = generator.standard_normal(spec.shape).astype(spec.dtype)
            if masked and len(spec.shape) >= 3:
                value[:, generator.random(spec.shape[1]) < 0.2] = masked[0]
        else:
            value = generator.integers(0, vocabulary, spec.shape).astype(spec.dtype)
        values[spec.name] = value
    return values
