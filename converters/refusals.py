"""What keeps a model from a lowering, said before any long work: by layer, with the reason and a way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_dl.converters.cells import computes_as, has_default_activations, is_known_cell
from edge_dl.converters.layers import RecurrentLayer, find_recurrent, walk_layers
from edge_dl.converters.lowering import in_float32, replaced_loops
from edge_dl.converters.messages import one_line
from edge_dl.converters.signature import Inputs, describe_inputs
from edge_dl.errors import EdgeError, RefusedError, UsageError
from edge_dl.variants import Lowering

# Size given to an axis that a model leaves free, when all that matters is what calls what.
_ANY_SIZE = 8
# More cell steps than this, written out, make a graph that takes minutes to convert and is slower than a loop.
MOST_UNROLLED_STEPS = 1024

AS_KERAS = "The lowering none converts it as Keras writes it."


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


@dataclass(frozen=True)
class LayerCall:
    """One call of a recurrent layer, seen while a model is traced. A shared layer is called more than once.

    Attributes:
        path: the layer.
        steps: time steps of what it was called with.
        masked: whether a mask came with it.
        given: whether its initial states may not be zero: from the caller, or from a `get_initial_state` of its own.
        states: shape of each state with the batch axis, in order.
    """

    path: str
    steps: int
    masked: bool
    given: bool
    states: tuple[tuple[int, ...], ...]


def find_refusals(
    model: Any, lowering: Lowering, *, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> list[Refusal]:
    """What keeps a built Keras model from a lowering; empty when nothing does. Nothing is converted.

    Args:
        model: a `keras.Model`.
        lowering: the lowering in question.
        input_shapes: sizes of free axes, by input name, where they matter.

    Raises:
        UsageError: the model is not built, takes text, was quantized by Keras, or an input has no such name.
    """
    _check_real_weights(model)
    found = find_recurrent(model)
    if lowering is Lowering.NONE:
        return []
    if lowering is Lowering.STREAM:
        from edge_dl.converters.stream_plan import find_stream_refusals

        cells = [refusal for item in found for refusal in _by_class(item, lowering)]
        return cells or find_stream_refusals(model, describe_inputs(model, input_shapes=input_shapes))
    if not found:
        return [Refusal(model.name, "It has no recurrent layer.", "Convert it with the lowering none.")]
    if lowering.decodes:
        return _find_decode_refusals(model, lowering, input_shapes)
    refusals = [refusal for item in found for refusal in _by_class(item, lowering)]
    if refusals:
        return refusals
    inputs = describe_inputs(model, input_shapes=input_shapes, free_size=_ANY_SIZE)
    calls = watch_calls(model, inputs)
    refusals = [refusal for call in calls for refusal in _by_call(call, lowering)]
    steps = sum(call.steps for call in calls)
    if lowering is Lowering.UNROLL and steps > MOST_UNROLLED_STEPS:
        reason = f"Written out, the model's recurrent layers have {steps} steps, more than {MOST_UNROLLED_STEPS}."
        refusals.append(Refusal(calls[0].path, reason, "Use while."))
    if lowering is Lowering.STEP and not refusals:
        from edge_dl.converters.stepping import find_step_refusals

        refusals = find_step_refusals(model, calls)
    return list(dict.fromkeys(refusals))


def _find_decode_refusals(
    model: Any, lowering: Lowering, input_shapes: Mapping[str, Sequence[int]] | None
) -> list[Refusal]:
    from edge_dl.converters.cutting import find_cut

    inputs = describe_inputs(model, input_shapes=input_shapes, free_size=_ANY_SIZE)
    cut, refusals = find_cut(model, inputs)
    if cut is None:
        return refusals
    whole = Lowering.UNROLL if lowering is Lowering.DECODE_UNROLL else Lowering.WHILE
    for item in find_recurrent(model):
        if id(item.layer) not in cut.decoder:
            refusals += _by_class(item, whole)
        elif type(item.layer).inner_loop not in [kind.inner_loop for kind in _known_layers()]:
            reason = f"{type(item.layer).__name__} has its own inner_loop, so what a step of it computes is not known."
            refusals.append(Refusal(item.path, reason, "Subclass a Keras layer without changing it."))
    if not refusals and whole is Lowering.UNROLL:
        calls = watch_calls(model, inputs, encoder_call(cut))
        steps = sum(call.steps for call in calls)
        if steps > MOST_UNROLLED_STEPS:
            reason = f"Written out, the encoder's recurrent layers have {steps} steps, more than {MOST_UNROLLED_STEPS}."
            refusals.append(Refusal(calls[0].path, reason, "Use decode."))
    return list(dict.fromkeys(refusals))


def encoder_call(cut: Any) -> Callable[..., Any]:
    """What `watch_calls` traces to see the calls of a cut model's encoder alone."""

    def call(**tensors: Any) -> Any:
        return cut.encode({name: tensors[name] for name in cut.sources})[0]

    return call


def _check_real_weights(model: Any) -> None:
    """Raises UsageError for a model that `keras.Model.quantize` has changed."""
    changed = [path for path, layer, _ in walk_layers(model) if getattr(layer, "quantization_mode", None) is not None]
    if changed:
        raise UsageError(
            "A model is quantized here, from weights that are real numbers.",
            received=f"layer {changed[0]!r}"
            + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
            + " of a model that Keras has quantized",
            todo="Give the model as it was before model.quantize(...).",
        )


def allowed_lowerings(model: Any, *, input_shapes: Mapping[str, Sequence[int]] | None = None) -> list[Lowering]:
    """Lowerings that carry the model; `none` alone where it has no recurrent layer, or none that can be lowered."""
    whole = (Lowering.WHILE, Lowering.UNROLL, Lowering.FUSED, Lowering.STEP)
    candidates = (*whole, Lowering.DECODE, Lowering.DECODE_UNROLL)
    allowed = [item for item in candidates if not find_refusals(model, item, input_shapes=input_shapes)]
    return allowed or [Lowering.NONE]


def watch_calls(model: Any, inputs: Inputs, part: Callable[..., Any] | None = None) -> list[LayerCall]:
    """Trace a model with recurrences that compute nothing, and note what its recurrent layers are called with.

    Args:
        model: the model.
        inputs: its inputs.
        part: what to trace instead of the whole model, from tensors by our names.

    Raises:
        UsageError: the model cannot be traced with these inputs.
    """
    import keras
    import tensorflow as tf

    calls: list[LayerCall] = []

    def inner_loop(item: RecurrentLayer, sequence: Any, states: Any, mask: Any, given: bool) -> tuple[Any, Any, Any]:
        flat = keras.tree.flatten(states)
        batch, steps = sequence.shape[0], sequence.shape[1]
        shapes = tuple((batch, int(state.shape[-1])) for state in flat)
        calls.append(LayerCall(item.path, int(steps), mask is not None, given, shapes))
        size = int(item.cells[-1].units)
        # Depends on the sequence, so that nothing before it is cut off.
        outputs = tf.zeros([batch, steps, size]) + tf.reduce_sum(sequence)
        return outputs[:, -1], outputs if item.layer.return_sequences else outputs[:, -1:], states

    def call(**tensors: Any) -> Any:
        return model(inputs.pack(tensors), training=False)

    specs = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in inputs.specs}
    with in_float32(model), replaced_loops(model, inner_loop):
        try:
            tf.function(part or call, autograph=False).get_concrete_function(**specs)
        except EdgeError:
            raise
        except Exception as error:  # The user's layers may raise anything.
            shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs.specs)
            raise UsageError(
                "The model must be traceable with static shapes.",
                received=f"inputs {shapes}: {type(error).__name__}: {one_line(error)}",
                todo="Give the shapes of its inputs if they are why; otherwise change what the message names.",
            ) from error
    return calls


def _known_layers() -> tuple[Any, ...]:
    import keras

    return (keras.layers.RNN, keras.layers.SimpleRNN, keras.layers.GRU, keras.layers.LSTM)


def _by_class(item: RecurrentLayer, lowering: Lowering) -> list[Refusal]:
    """What a layer's class and settings say."""
    layer = item.layer
    kind = type(layer).__name__
    known = _known_layers()
    if "ConvLSTM" in {base.__name__ for base in type(layer).__mro__}:
        return [Refusal(item.path, f"{kind} convolves its states, which no lowering here writes.", AS_KERAS)]
    own = [
        name for name in ("call", "inner_loop") if getattr(type(layer), name) not in [getattr(c, name) for c in known]
    ]
    if own:
        reason = f"{kind} has its own {' and '.join(own)}, so what it computes is not known."
        return [Refusal(item.path, reason, f"Subclass a Keras layer without changing these. {AS_KERAS}")]
    refusals = []
    for cell in item.cells:
        if not is_known_cell(cell):
            reason = f"Its cell {type(cell).__name__} is not one of Keras' LSTMCell, GRUCell and SimpleRNNCell."
            refusals.append(Refusal(item.path, reason, f"Use one of these. {AS_KERAS}"))
    if refusals:
        return refusals
    if layer.stateful and lowering not in (Lowering.STEP, Lowering.STREAM):
        reason = (
            "It is stateful: what it answers depends on the calls before, and one call of this lowering has no past."
        )
        refusals.append(Refusal(item.path, reason, "Use step, whose session keeps the states, or set stateful=False."))
    if lowering is Lowering.FUSED:
        refusals += _fused_by_class(item)
    return refusals


def _fused_by_class(item: RecurrentLayer) -> list[Refusal]:
    import keras

    if not all(computes_as(cell, keras.layers.LSTMCell) for cell in item.cells):
        return [Refusal(item.path, f"TFLite's fused operator is an LSTM, and this is a {item.kind}.", "Use while.")]
    if not all(has_default_activations(cell) for cell in item.cells):
        return [Refusal(item.path, "TFLite's fused LSTM has tanh and sigmoid activations only.", "Use while.")]
    if item.layer.return_state:
        return [
            Refusal(item.path, "TFLite's fused LSTM does not give its cell state, and it is asked for.", "Use while.")
        ]
    return []


def _by_call(call: LayerCall, lowering: Lowering) -> list[Refusal]:
    """What the way a layer is called says."""
    if lowering is Lowering.FUSED and call.masked:
        return [Refusal(call.path, "It gets a mask, which TFLite's fused LSTM does not take.", "Use while.")]
    if lowering is Lowering.FUSED and call.given:
        return [
            Refusal(
                call.path,
                "It is given initial states of its own, and TFLite's fused LSTM starts from zero.",
                "Use while.",
            )
        ]
    if lowering is Lowering.STEP and call.given:
        reason = "It is given initial states of its own, and a step model's states start from zero."
        return [Refusal(call.path, reason, "Use while.")]
    return []
