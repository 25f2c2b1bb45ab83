"""The `decode` lowerings: an encoder, and one step of its decoder, as functions of one file.

`encode` runs the encoder's layers and gives what a step looks at, and the states that the decoder's recurrent layers
start from. `decode_step` takes one token, those tensors and the states; `decode_beams` does it for several hypotheses
of one source. A step calls the decoder's own layers with a time axis of 1, so attention is computed as Keras writes it,
and a cell that is the user's own is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_dl.bundle import SequenceSpec, Signature, StateSpec, TensorSpec
from edge_dl.converters.cells import CellGraph, cell_graph, is_known_cell
from edge_dl.converters.cutting import USE_WHOLE, Cut
from edge_dl.converters.exporting import output_spec
from edge_dl.converters.layers import RecurrentLayer
from edge_dl.converters.lowering import as_reference, in_float32, lowered, replaced_loops, run_layer
from edge_dl.converters.messages import one_line
from edge_dl.converters.recurrence import Result, run_step
from edge_dl.converters.signature import name_outputs, output_names
from edge_dl.converters.stepping import TOLERANCE, any_length, random_inputs, state_names, worst_difference
from edge_dl.errors import EdgeError, RefusedError, StageError
from edge_dl.names import unique_names
from edge_dl.variants import Lowering

ENCODE = "encode"
STEP = "decode_step"
BEAMS = "decode_beams"
KEYS = (ENCODE, STEP, BEAMS)


@dataclass(frozen=True)
class DecodeModel:
    """A traced encoder-decoder.

    Attributes:
        functions: traced functions by signature key: `encode`, `decode_step` and, with beams, `decode_beams`.
        encode: what the encoder takes and gives.
        step: what a step of batch `batch` takes and gives, with its states.
        sequence: how a session feeds it.
        notes: by path, how each recurrent layer was written.
    """

    functions: Mapping[str, Any]
    encode: Signature
    step: Signature
    sequence: SequenceSpec
    notes: Mapping[str, str]


@dataclass(frozen=True)
class _Start:
    """A state that the decoder starts from: the encoder's output that holds it ("": zeros), and its shape."""

    output: str
    shape: tuple[int, ...]


def trace_decode(cut: Cut, lowering: Lowering, *, beams: int = 0, seed: int = 0) -> DecodeModel:
    """Trace an encoder and a step of its decoder, and check on random input that they give what the whole model gives.

    Args:
        cut: the model and where it is cut.
        lowering: `decode` or `decode-unroll`, which says how the encoder's recurrent layers are written.
        beams: hypotheses of one source that `decode_beams` takes at a time; 0: no such function.
        seed: of the random input.

    Raises:
        RefusedError: the steps do not give what the whole model gives.
        StageError: TensorFlow cannot trace the encoder.
    """
    specs = {spec.name: spec for spec in cut.inputs.specs}
    whole = specs[cut.target]
    target = TensorSpec(whole.name, (whole.shape[0], 1, *whole.shape[2:]), whole.dtype)
    steps = whole.shape[1]
    notes: dict[str, str] = {}
    encoder = _Encoder(cut, lowering, notes)
    sources = [specs[name] for name in cut.sources]
    full = _trace(encoder.everything, sources)
    given = {name: output_spec(name, full.structured_outputs[name]) for name in encoder.names}
    starts = encoder.starts
    taken = {*specs, *unique_names(output_names(cut.model)), *given, *(start.output for start in starts)}
    states = tuple(
        StateSpec(name, f"next_{name}", start.shape, initial=start.output)
        for name, start in zip(state_names(len(starts), taken), starts, strict=True)
    )
    step = _Step(cut, given, encoder.masks, states, notes)
    # A first trace tells which of the encoder's tensors a step looks at: one that only starts a state is none of them.
    used = _inputs_read(_trace(step.function(1), step.specs(target, 1), cut))
    step.given = {name: spec for name, spec in given.items() if name in used}
    functions = {ENCODE: _trace(encoder.function([*step.given, *(s.output for s in starts if s.output)]), sources)}
    functions[STEP] = _trace(step.function(1), step.specs(target, 1), cut)
    if beams:
        functions[BEAMS] = _trace(step.function(beams), step.specs(target, beams), cut)
    model = DecodeModel(functions, *_signatures(cut, functions, sources, target, step), notes)
    _check(cut, model, beams, steps, seed)
    return model


class _Encoder:
    """The encoder's functions; `everything` is traced first and finds out what there is to give."""

    def __init__(self, cut: Cut, lowering: Lowering, notes: dict[str, str]) -> None:
        self.cut = cut
        self.lowering = Lowering.UNROLL if lowering is Lowering.DECODE_UNROLL else Lowering.WHILE
        self.notes = notes
        self.names: list[str] = []  # Of the frontier and of the masks that go with it.
        self.masks: dict[str, str] = {}  # The frontier's name to its mask's.
        self.starts: list[_Start] = []

    def everything(self, **tensors: Any) -> dict[str, Any]:
        """Frontier, masks and the states that the decoder starts from."""
        import tensorflow as tf

        cut = self.cut
        with lowered(cut.model, self.lowering) as notes:
            known, masks = cut.encode(tensors)
        self.notes |= notes
        results = {name: tf.identity(value) for name, value in known.items()}
        taken = [spec.name for spec in cut.inputs.specs] + unique_names(output_names(cut.model))
        found: dict[int, str] = {}
        self.masks = {}
        for name, mask in masks.items():
            if id(mask) not in found:
                found[id(mask)] = unique_names([*taken, *results, f"{name}_mask"])[-1]
                results[found[id(mask)]] = tf.identity(mask)
            self.masks[name] = found[id(mask)]
        self.names = list(results)
        self.starts = []
        for layer, number, value in self._states(known, masks):
            # A start of zeros is none: that is how a session starts a state anyway.
            constant = tf.get_static_value(value)
            zero = constant is not None and not np.any(constant)
            name = "" if zero else unique_names([*taken, *results, f"{layer}_state_{number}"])[-1]
            self.starts.append(_Start(name, tuple(value.shape)))
            if name:
                results[name] = tf.identity(value)
        return results

    def function(self, names: Sequence[str]) -> Callable[..., dict[str, Any]]:
        """The encoder with some of its outputs only."""

        def encode(**tensors: Any) -> dict[str, Any]:
            results = self.everything(**tensors)
            return {name: results[name] for name in names}

        return encode

    def _states(self, known: Mapping[str, Any], masks: Mapping[str, Any]) -> list[tuple[str, int, Any]]:
        """First states of the decoder's recurrent layers in the form that a step takes: (layer, number, tensor)."""
        import keras
        import tensorflow as tf

        cut = self.cut
        found: list[tuple[str, int, Any]] = []
        spec = next(spec for spec in cut.inputs.specs if spec.name == cut.target)

        def inner_loop(item: RecurrentLayer, sequence: Any, states: Any, mask: Any, given: bool) -> Any:
            flat = list(keras.tree.flatten(states))
            values = flat if given else [tf.zeros(state.shape) for state in flat]
            values = _own_form(item, values)
            output = _answer_once(item, sequence, states)
            if mask is not None and not _is_known(item):
                values += [tf.zeros(part.shape) for part in keras.tree.flatten(output)]
            found.extend((item.layer.name, number, value) for number, value in enumerate(values))
            sequences = keras.tree.map_structure(lambda part: part[:, None], output)
            return output, sequences, states

        step = tf.zeros([spec.shape[0], 1, *spec.shape[2:]], spec.dtype)
        with in_float32(cut.model), replaced_loops(cut.model, inner_loop), any_length(cut.model):
            cut.decode(step, {name: tf.identity(value) for name, value in known.items()}, masks)
        return found


class _Step:
    """The decoder's functions.

    Attributes:
        given: what a step takes of the encoder, by name: tensors of the frontier and masks.
    """

    def __init__(
        self,
        cut: Cut,
        given: Mapping[str, TensorSpec],
        masks: Mapping[str, str],
        states: Sequence[StateSpec],
        notes: dict[str, str],
    ) -> None:
        self.cut, self.given, self.masks, self.states, self.notes = cut, given, masks, states, notes
        self._shapes = dict(given)

    def specs(self, target: TensorSpec, beams: int) -> list[TensorSpec]:
        """What a step takes: the target's step and the states `beams` times, the encoder's tensors once."""
        states = [TensorSpec(state.input, _times(state.shape, beams), state.dtype) for state in self.states]
        return [replace(target, shape=_times(target.shape, beams)), *self.given.values(), *states]

    def function(self, beams: int) -> Callable[..., dict[str, Any]]:
        """One step for `beams` hypotheses of the same source."""
        import keras
        import tensorflow as tf

        def step(**tensors: Any) -> dict[str, Any]:
            before = [tensors[state.input] for state in self.states]
            after: list[Any] = []

            def inner_loop(item: RecurrentLayer, sequence: Any, own: Any, mask: Any, _: bool) -> tuple[Any, Any, Any]:
                if not _is_known(item):
                    count = len(keras.tree.flatten(own))
                    last, outputs, states, new = _call_cell(item, sequence, own, before[len(after) :], count, mask)
                    after.extend(new)
                    self.notes[item.path] = "its own cell, one step a call"
                    return last, outputs, states

                def run_cell(graph: CellGraph, sequence: Any, _: Any, mask: Any, collect: bool) -> Result:
                    held = before[len(after) : len(after) + graph.state_count]
                    result, new = run_step(graph, sequence, held, mask)
                    after.extend(new)
                    return result

                # Not given: a held state is the output before, also behind a start that is not zero.
                last, outputs, states, self.notes[item.path] = run_layer(item, sequence, own, mask, False, run_cell)
                return last, outputs, states

            # What only starts a state has no effect here, whatever its values are.
            frontier = {
                name: self._repeated(tensors[name], beams)
                if name in tensors
                else tf.zeros(_times(self._shapes[name].shape, beams), self._shapes[name].dtype)
                for name in self.cut.frontier
            }
            masks = {name: self._repeated(tensors[mask], beams) for name, mask in self.masks.items() if mask in tensors}
            with in_float32(self.cut.model), replaced_loops(self.cut.model, inner_loop), any_length(self.cut.model):
                outputs = self.cut.decode(tensors[self.cut.target], frontier, masks)
            results = {name: tf.identity(value) for name, value in outputs.items()}
            pairs = zip(self.states, after, strict=True)
            return results | {state.output: tf.identity(value) for state, value in pairs}

        return step

    @staticmethod
    def _repeated(tensor: Any, beams: int) -> Any:
        import tensorflow as tf

        if beams == 1:
            return tf.identity(tensor)
        # Not TILE or BROADCAST_TO: a concatenation has an integer kernel everywhere.
        if tensor.dtype == tf.bool:
            return tf.concat([tf.cast(tensor, tf.int32)] * beams, 0) > 0
        return tf.concat([tensor] * beams, 0)


def _times(shape: Sequence[int], beams: int) -> tuple[int, ...]:
    return (shape[0] * beams, *shape[1:])


def _is_known(item: RecurrentLayer) -> bool:
    return all(is_known_cell(cell) for cell in item.cells)


def _own_form(item: RecurrentLayer, states: Sequence[Any]) -> list[Any]:
    """Keras' states in the form in which a step takes them."""
    if not _is_known(item):
        return list(states)
    result: list[Any] = []
    for cell in item.cells:
        graph = cell_graph(cell)
        assert graph is not None
        result += graph.encode(states[len(result) : len(result) + graph.state_count])
    return result


def _answer_once(item: RecurrentLayer, sequence: Any, states: Any) -> Any:
    """An answer of the right shape; what it is does not matter."""
    import tensorflow as tf

    if _is_known(item):
        return tf.zeros([sequence.shape[0], int(item.cells[-1].units)]) + tf.reduce_sum(sequence)
    return item.layer.cell(sequence[:, 0], states)[0]


def _call_cell(
    item: RecurrentLayer, sequence: Any, like: Any, before: Sequence[Any], count: int, mask: Any
) -> tuple[Any, Any, Any, list[Any]]:
    """One step of a cell of the user's own: last output, outputs, states as the layer has them, and all new states.

    With a mask, a masked step holds the states and gives the answer before, which is then a state too, as Keras' own
    loop has it (`keras.backend.rnn`): zeros before the first.
    """
    import keras
    import tensorflow as tf

    layer = item.layer
    states = keras.tree.pack_sequence_as(like, list(before[:count]))
    output, new = layer.cell(sequence[:, 0], states)
    after = list(keras.tree.flatten(new))
    if mask is not None:
        # The mask is (batch, 1).
        def chosen(value: Any, held: Any) -> Any:
            kept = tf.reshape(tf.cast(mask, value.dtype), [-1] + [1] * (len(value.shape) - 1))
            return kept * value + (1.0 - kept) * held

        after = [chosen(value, held) for value, held in zip(after, before[:count], strict=True)]
        parts = list(keras.tree.flatten(output))
        last = before[count : count + len(parts)]
        held = [tf.zeros_like(part) for part in parts] if layer.zero_output_for_mask else last
        answers = [chosen(part, old) for part, old in zip(parts, held, strict=True)]
        after += [chosen(part, old) for part, old in zip(parts, last, strict=True)]
        output = keras.tree.pack_sequence_as(output, answers)
    outputs = keras.tree.map_structure(lambda part: part[:, None], output)
    return output, outputs, keras.tree.pack_sequence_as(like, after[:count]), after


def _trace(function: Callable[..., dict[str, Any]], specs: Sequence[TensorSpec], cut: Cut | None = None) -> Any:
    """Trace a function of named tensors; with `cut`, one that is a step."""
    import tensorflow as tf

    signature = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs}
    try:
        return tf.function(function, autograph=False).get_concrete_function(**signature)
    except EdgeError:
        raise
    except Exception as error:  # The user's layers may raise anything.
        if cut is not None:
            raise _not_stepwise(cut, f"a step of it cannot be traced ({one_line(error, 300)})") from error
        raise StageError(
            "TensorFlow must be able to trace the encoder with static shapes.",
            stage="export",
            received=f"{type(error).__name__}: {one_line(error, 600)}",
        ) from error


def _inputs_read(concrete: Any) -> set[str]:
    """Names of the arguments that something between them and the outputs reads."""
    pending = list(concrete.outputs)
    seen: set[int] = set()
    while pending:
        tensor = pending.pop()
        if id(tensor.op) not in seen:
            seen.add(id(tensor.op))
            pending += [*tensor.op.inputs]
    _, keywords = concrete.structured_input_signature
    placeholders = {tensor.op.name: tensor for tensor in concrete.inputs}
    return {name for name, spec in keywords.items() if id(placeholders[spec.name].op) in seen}


def _signatures(
    cut: Cut, functions: Mapping[str, Any], sources: Sequence[TensorSpec], target: TensorSpec, step: _Step
) -> tuple[Signature, Signature, SequenceSpec]:
    encoded = functions[ENCODE].structured_outputs
    encode = Signature(ENCODE, tuple(sources), tuple(output_spec(name, value) for name, value in encoded.items()))
    results = functions[STEP].structured_outputs
    names = unique_names(output_names(cut.model))
    outputs = tuple(output_spec(name, results[name]) for name in names)
    steps = next(spec.shape[1] for spec in cut.inputs.specs if spec.name == cut.target)
    return (
        encode,
        Signature(STEP, (target, *step.given.values()), outputs, tuple(step.states)),
        SequenceSpec((target.name,), steps, dict.fromkeys(names, "each")),
    )


def _check(cut: Cut, model: DecodeModel, beams: int, steps: int, seed: int) -> None:
    """Run the steps against the whole model on random input.

    Raises:
        RefusedError: an answer differs.
    """
    import tensorflow as tf

    inputs = cut.inputs
    values = random_inputs(cut.model, inputs, np.random.default_rng(seed))
    for name in cut.sources:
        if values[name].dtype.kind in "iu" and values[name].ndim == 2:
            # Padding: who masks it must mask it at every step as well.
            values[name][:, values[name].shape[1] - max(1, values[name].shape[1] // 3) :] = 0
    if values[cut.target].dtype.kind in "iu":
        # No target begins with padding; Keras answers that with zeros instead of the states given.
        values[cut.target][:, 0] = np.maximum(values[cut.target][:, 0], 1)
    packed = inputs.pack({name: tf.constant(value) for name, value in values.items()})
    with as_reference(cut.model):
        whole = name_outputs(cut.model, cut.model(packed, training=False))
    expected = {name: np.asarray(value) for name, value in whole.items()}
    encoded = model.functions[ENCODE](**{name: tf.constant(values[name]) for name in cut.sources})
    for key, times in ((STEP, 1), *(((BEAMS, beams),) if beams else ())):
        given = {spec.name: encoded[spec.name] for spec in model.step.inputs if spec.name != cut.target}
        state = {item.input: tf.zeros(_times(item.shape, times)) for item in model.step.states}
        state |= {item.input: tf.repeat(encoded[item.initial], times, 0) for item in model.step.states if item.initial}
        answers: dict[str, list[np.ndarray]] = {name: [] for name in expected}
        for index in range(steps):
            now = np.repeat(values[cut.target][:, index : index + 1], times, 0)
            results = model.functions[key](**{cut.target: tf.constant(now)}, **given, **state)
            state = {item.input: results[item.output] for item in model.step.states}
            for name in answers:
                answers[name].append(np.asarray(results[name]))
        for name, reference in expected.items():
            got = answers[name]
            if any(piece.shape[1:2] != (1,) for piece in got):
                raise _not_stepwise(cut, f"its output {name!r} has shape {got[0].shape} for one step")
            together = np.concatenate(got, axis=1)
            wanted = np.repeat(reference, times, 0)
            if together.shape != wanted.shape:
                raise _not_stepwise(cut, f"its output {name!r} has shape {together.shape} instead of {wanted.shape}")
            worst = worst_difference(together, wanted)
            if not worst <= TOLERANCE * (1 + float(np.max(np.abs(wanted), initial=0.0))):
                raise _not_stepwise(cut, f"step by step, its output {name!r} differs by {worst:.3g} from the whole one")


def _not_stepwise(cut: Cut, reason: str) -> RefusedError:
    return RefusedError(
        f"Model {cut.model.name!r} cannot be cut into an encoder and a decoder at {cut.target!r}: {reason}.",
        todo=USE_WHOLE,
    )
