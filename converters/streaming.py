"""The `stream` lowering: one packet of samples or frames a call, what is remembered as states in and out.

`stream_plan` decides how each layer is computed; here the plan becomes a traced function, which is run against the
whole model on random input before anything is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.bundle import StateSpec, StreamOutput, StreamSpec, TensorSpec
from edge_dl.converters.cells import CellGraph
from edge_dl.converters.layers import RecurrentLayer, find_recurrent, walk_layers
from edge_dl.converters.lowering import as_reference, in_float32, replaced, replaced_loops, run_layer
from edge_dl.converters.messages import one_line
from edge_dl.converters.recurrence import Result, run_unrolled
from edge_dl.converters.signature import Inputs, graph_of, name_outputs, output_names
from edge_dl.converters.stepping import random_inputs, state_specs
from edge_dl.converters.stream_plan import AS_WHOLE, Call, Carry, Copy, Join, PadRest, Plan, Pool, plan_stream
from edge_dl.converters.stream_walk import run_stream
from edge_dl.converters.timelines import Answer
from edge_dl.errors import EdgeError, RefusedError
from edge_dl.names import unique_names

# Largest difference between the stream's answers and the whole model's, beside the largest answer.
TOLERANCE = 1e-4
# Answers that are compared where each stands for a clip of its own.
_CHECKED_CLIPS = 4
_CHECKED_SAMPLES = 3_000  # deviation of the noise that stands for sound, in steps of 16 bits


@dataclass(frozen=True)
class StreamModel:
    """A traced stream model.

    Attributes:
        concrete: the traced function.
        inputs: its input, one packet.
        states: what goes from one call to the next.
        stream: how a session feeds it.
        notes: by path, how each recurrent layer was written.
    """

    concrete: Any
    inputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    stream: StreamSpec
    notes: Mapping[str, str]


def trace_stream(model: Any, inputs: Inputs, seed: int = 0) -> StreamModel:
    """Trace one packet of a model, and check on random input that the stream gives what the whole model gives.

    Args:
        model: a built functional or Sequential model.
        inputs: its input for a whole clip.
        seed: of the random input.

    Raises:
        RefusedError: a layer cannot stream, or the stream does not give what the whole model gives.
    """
    import tensorflow as tf

    plan = plan_stream(model, inputs)
    whole = inputs.specs[0]
    spec = TensorSpec(whole.name, (whole.shape[0], plan.packet, *whole.shape[2:]), whole.dtype)
    names = unique_names(output_names(model))
    states = state_specs([(need.shape, need.dtype, need.silent) for need in plan.needs], {spec.name, *names})
    notes: dict[str, str] = {}

    def packet(**tensors: Any) -> dict[str, Any]:
        before = [tensors.pop(state.input) for state in states]
        with in_float32(model):
            run = _Run(model, plan, before, notes)
            outputs = run.outputs(tensors[spec.name])
        results = {name: tf.identity(value) for name, value in zip(names, outputs, strict=True)}
        return results | {state.output: tf.identity(value) for state, value in zip(states, run.after, strict=True)}

    signature = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name)}
    signature |= {state.input: tf.TensorSpec(state.shape, state.dtype, name=state.input) for state in states}
    try:
        concrete = tf.function(packet, autograph=False).get_concrete_function(**signature)
    except EdgeError:
        raise
    except Exception as error:  # The user's layers may raise anything.
        raise _unequal(model, f"it cannot be traced for a packet ({one_line(error, 300)})") from error
    outputs = {
        name: StreamOutput("last", kind.packet)
        if isinstance(kind, Answer)
        else StreamOutput("each", kind.first, kind.frames)
        for name, (_, kind) in zip(names, plan.outputs, strict=True)
        if kind is not None
    }
    if len(outputs) < len(names):
        raise _unequal(model, "an output does not depend on its input")
    stream = StreamSpec(
        input=spec.name,
        packet=plan.packet,
        lead=plan.lead,
        clip=whole.shape[1],
        rate=plan.rate,
        late=plan.late,
        equal="start" if plan.remembers else "window",
        outputs=outputs,
        recomputed=tuple(dict.fromkeys(plan.recomputed)),
    )
    _check(model, concrete, inputs, states, stream, seed)
    return StreamModel(concrete, (spec,), states, stream, notes)


class _Run:
    """A plan being traced: values by key, states before and after."""

    def __init__(self, model: Any, plan: Plan, before: Sequence[Any], notes: dict[str, str]) -> None:
        self.model, self.plan, self.before, self.notes = model, plan, before, notes
        self.after: list[Any] = [None] * len(before)
        self.values: dict[Any, Any] = {}

    def outputs(self, packet: Any) -> list[Any]:
        import tensorflow as tf

        self.values[id(graph_of(self.model).inputs[0])] = packet
        for step in self.plan.steps:
            if isinstance(step, Join):
                self._join(step)
            elif isinstance(step, Carry):
                self._carry(step)
            elif isinstance(step, Copy):
                value = self.values[step.source]
                self.values[step.target] = value[:, 0] if step.first else value
            elif isinstance(step, PadRest):
                self._pad(step)
            elif isinstance(step, Pool):
                pool = tf.reduce_mean if step.mean else tf.reduce_max
                self.values[step.target] = pool(self.values[step.source], axis=step.axis)
            else:
                self._call(step)
        return [self.values[key] for key, _ in self.plan.outputs]

    def _join(self, step: Join) -> None:
        import tensorflow as tf

        window, value = step.window, self.values[step.source]
        if step.state is not None:
            value = tf.concat([self.before[step.state], value], axis=1)
            self.after[step.state] = value[:, step.slots :]
        whole = window.start == 0 and window.stop == value.shape[1]
        self.values[step.target] = value if whole else value[:, window.start : window.stop]

    def _pad(self, step: PadRest) -> None:
        import tensorflow as tf

        value = self.values[step.source]
        rest = [[0, 0]] * (len(value.shape) - 3)
        self.values[step.target] = tf.pad(value, [[0, 0], [0, 0], list(step.sides), *rest])

    def _call(self, step: Call) -> None:
        import keras
        import tensorflow as tf

        operation = step.node.operation
        given = {tensor: self.values[key] for tensor, key in step.sources.items()}
        arguments, keywords = step.node.arguments.fill_in(given)
        if isinstance(operation, keras.layers.Reshape) and step.frames:
            value = next(iter(given.values()))
            result = tf.reshape(value, [value.shape[0], value.shape[1], *step.node.outputs[0].shape[2:]])
        else:
            if getattr(operation, "_call_has_training_arg", False):
                keywords["training"] = False
            with replaced(operation, "padding", "valid") if step.unpadded else contextlib.nullcontext():
                result = operation(*arguments, **keywords)
        for tensor, value in zip(step.node.outputs, keras.tree.flatten(result), strict=True):
            if step.frames and value.shape[1] != step.frames:
                raise RefusedError(
                    f"Layer {operation.name!r} cannot be lowered as stream: it gives {value.shape[1]} frames a packet, "
                    f"where {step.frames} come in.",
                    todo=AS_WHOLE,
                )
            self.values[id(tensor)] = value

    def _carry(self, step: Carry) -> None:
        import keras
        import tensorflow as tf

        layer, value = step.node.operation, self.values[step.source]
        states = [self.before[number] for number in step.states]
        target = id(step.node.outputs[0])
        if not isinstance(layer, keras.layers.RNN):
            # A shape becomes one leaf, so that states can be packed as the layer names them and unpacked again.
            leaves = keras.tree.map_shape_structure(lambda shape: 0, step.structure)
            with tf.name_scope(layer.name):
                self.values[target], after = layer.advance(value, keras.tree.pack_sequence_as(leaves, states))
            self._remember(layer, step, leaves, after)
            return

        def run_cell(graph: CellGraph, sequence: Any, own: Sequence[Any], mask: Any, collect: bool) -> Result:
            return run_unrolled(graph, sequence, own, mask, True)

        item = next(item for item in find_recurrent(self.model) if item.layer is layer)

        def inner_loop(found: RecurrentLayer, sequence: Any, own: Any, mask: Any, given: bool) -> tuple[Any, Any, Any]:
            packed = keras.tree.pack_sequence_as(own, states) if keras.tree.is_nested(own) else states
            with replaced(layer, "return_sequences", True):
                last, outputs, new, self.notes[item.path] = run_layer(found, sequence, packed, mask, given, run_cell)
            for number, state in zip(step.states, keras.tree.flatten(new), strict=True):
                self.after[number] = state
            return last, outputs, new

        with replaced_loops(self.model, inner_loop), replaced(layer, "return_sequences", True):
            result = layer(value, training=False)
        self.values[target] = self.values[target, "every"] = result

    def _remember(self, layer: Any, step: Carry, leaves: Any, after: Any) -> None:
        """Keep what a layer with `advance` gave as its states, which must be in the form that `state_shape` says."""
        import keras

        needs = [self.plan.needs[number] for number in step.states]
        try:
            keras.tree.assert_same_structure(leaves, after)
            found = [tuple(state.shape) for state in keras.tree.flatten(after)]
        except (ValueError, TypeError, AttributeError) as error:
            found, reason = [], one_line(error, 200)
        else:
            reason = f"{found} instead of {[need.shape for need in needs]}"
        if found != [need.shape for need in needs]:
            raise RefusedError(
                f"Layer {layer.name!r} cannot be lowered as stream: its `advance` gives states in another form than "
                f"its `state_shape` says ({reason}).",
                todo="Let it give the state's structure with the shapes that it takes.",
            )
        for number, state in zip(step.states, keras.tree.flatten(after), strict=True):
            self.after[number] = state


def _check(
    model: Any, concrete: Any, inputs: Inputs, states: Sequence[StateSpec], stream: StreamSpec, seed: int
) -> None:
    """Run stream and model on random input, the clip after the start and, where each answer stands for one, the next.

    Raises:
        RefusedError: they differ.
    """
    import tensorflow as tf

    clips = _CHECKED_CLIPS if stream.equal == "window" else 1
    length = stream.clip + (clips - 1) * stream.packet
    sound = _random_stream(model, inputs, length, np.random.default_rng(seed))
    answers = run_stream(lambda feed: concrete(**{k: tf.constant(v) for k, v in feed.items()}), states, stream, sound)
    for clip in range(clips):
        part = sound[:, clip * stream.packet :][:, : stream.clip]
        with as_reference(model):
            whole = name_outputs(model, model(inputs.pack({stream.input: tf.constant(part)}), training=False))
        for name, value in whole.items():
            output, reference = stream.outputs[name], np.asarray(value)
            if output.kind == "last":
                got = answers[name][output.first + clip]
            else:
                frames = np.concatenate(answers[name], axis=1)
                first = output.first + clip * answers[name][0].shape[1]
                got = frames[:, first : first + output.frames]
            if got.shape != reference.shape:
                raise _unequal(model, f"its output {name!r} has shape {got.shape} instead of {reference.shape}")
            worst = float(np.max(np.abs(got.astype(np.float64) - reference))) if got.size else 0.0
            if not worst <= TOLERANCE * max(1.0, float(np.max(np.abs(reference), initial=0.0))):
                raise _unequal(model, f"packet by packet, its output {name!r} differs by {worst:.3g} from the whole's")


def _random_stream(model: Any, inputs: Inputs, length: int, generator: np.random.Generator) -> np.ndarray:
    spec = inputs.specs[0]
    if spec.dtype == "int16":  # Sound: noise whose loudness changes.
        level = _CHECKED_SAMPLES * np.exp(np.cumsum(generator.normal(0, 0.02, (spec.shape[0], length)), axis=1))
        noise = generator.standard_normal((spec.shape[0], length, *spec.shape[2:]))
        values = noise * level.reshape(level.shape + (1,) * (noise.ndim - 2))
        return np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    longer = TensorSpec(spec.name, (spec.shape[0], length, *spec.shape[2:]), spec.dtype)
    return random_inputs(model, Inputs((longer,), inputs.keras_names, inputs.pack), generator)[spec.name]


def _unequal(model: Any, reason: str) -> RefusedError:
    """The error for a model whose stream does not give the whole, with the layers that may be why."""
    own = [
        f"{path!r} ({type(layer).__name__})"
        for path, layer, _ in walk_layers(model)
        if not type(layer).__module__.startswith(("keras.", "edge_dl."))
    ]
    suspects = f" Layers that may look at several frames: {', '.join(own)}." if own else ""
    return RefusedError(f"Model {model.name!r} cannot be lowered as stream: {reason}.{suspects}", todo=AS_WHOLE)
