"""How each layer of a model is computed on a stream: from the packet alone, from what is kept, or from the last clip.

Three kinds of tensors: those with a time axis, of which a packet gives a few more frames; those without, one a packet;
and constants. A layer that treats each frame by itself is called as it is. A convolution, a pool and the features of
sounds look at a window that ends in the packet. A recurrent layer carries its states on. What looks at all frames
(pooling over time, attention, flattening) gets the last clip's frames, and everything behind it is computed anew.

A stream has no end and, once it runs, no beginning: a layer that pads the end of a clip or looks at all of it to treat
a single frame is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_dl.converters.messages import one_line
from edge_dl.converters.refusals import Refusal
from edge_dl.converters.signature import Inputs, graph_of
from edge_dl.converters.stepping import mixes_time
from edge_dl.converters.timelines import Answer, Timeline, Window, delayed, sliding, to_boundary, whole_clip
from edge_dl.errors import RefusedError

AS_WHOLE = "Convert the whole-clip model."
OTHER_PADDING = 'Train it with padding "valid" or "causal" along time (model.padding of a speech recipe).'
# A packet may start at so many places in the first one at most: see `plan_stream`.
_MOST_LEADS = 4096


@dataclass(frozen=True)
class Need:
    """A state: its shape with the batch axis, its type, and in how many packets from the start it stays zero."""

    shape: tuple[int, ...]
    dtype: str
    silent: int = 0


@dataclass(frozen=True)
class Join:
    """Take a window of what was kept of `source` and of what the packet gives; goes to `target`."""

    source: Any
    target: Any
    window: Window
    slots: int
    state: int | None


@dataclass(frozen=True)
class Call:
    """Call a layer or operation.

    Attributes:
        node: Keras' node: the operation with its arguments.
        sources: by id of a symbolic tensor, the key of the value that takes its place.
        unpadded: whether padding along time is left to the windows.
        frames: the time axis that the answer must have; 0: not checked.
    """

    node: Any
    sources: dict[int, Any]
    unpadded: bool = False
    frames: int = 0


@dataclass(frozen=True)
class Carry:
    """Run a recurrent layer, or one with `advance`, from its states on; `states` are their numbers.

    Attributes:
        structure: of a layer with `advance`, the shapes as its `state_shape` gave them: how it takes its states.
    """

    node: Any
    source: Any
    states: tuple[int, ...]
    structure: Any = None


@dataclass(frozen=True)
class Copy:
    """`target` is `source`, on which a layer does nothing in a stream; `first` takes the only frame as the answer."""

    source: Any
    target: Any
    first: bool = False


@dataclass(frozen=True)
class PadRest:
    """`target` is `source` with zeros on both sides of the axis behind time."""

    source: Any
    target: Any
    sides: tuple[int, int]


@dataclass(frozen=True)
class Pool:
    """`target` is `source` pooled over one axis: the mean, or the largest."""

    source: Any
    target: Any
    axis: int
    mean: bool


Step = Join | Call | Carry | Copy | PadRest | Pool


@dataclass
class Plan:
    """How a model runs on a stream.

    Attributes:
        input: name of the input that is streamed.
        packet: its slots (samples, or frames) a call.
        lead: slots of zeros in front of the stream, so that packets end where frames end.
        steps: what is computed, in order.
        needs: states.
        outputs: per graph output, its key and what it is.
        recomputed: layers that get the whole last clip.
        rate: samples a second; 0: not known.
    """

    input: str
    packet: int
    lead: int
    steps: list[Step] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    outputs: list[tuple[Any, Timeline | Answer | None]] = field(default_factory=list)
    recomputed: list[str] = field(default_factory=list)
    rate: int = 0

    @property
    def late(self) -> int:
        """Input slots by which the latest output comes later than it could."""
        return max(kind.late for _, kind in self.outputs if kind is not None)

    @property
    def remembers(self) -> bool:
        """Whether an output depends on all that was heard since the start."""
        return any(kind.remembers for _, kind in self.outputs if kind is not None)


def find_stream_refusals(model: Any, inputs: Inputs) -> list[Refusal]:
    """What keeps a built functional model from a stream; empty when nothing that its structure says does."""
    try:
        plan_stream(model, inputs)
    except _Refused as refused:
        return [refused.refusal]
    except Exception as error:  # A layer of the user's own may have any attributes, and none of them be meant so.
        return [Refusal(model.name, f"Its graph could not be followed ({one_line(error, 200)}).", AS_WHOLE)]
    return []


def plan_stream(model: Any, inputs: Inputs) -> Plan:
    """Plan a model's stream, with the packets that make its answers come earliest.

    Raises:
        _Refused: a layer cannot stream; `refusal` says which and why.
    """
    graph = graph_of(model)
    if graph is None:
        raise _Refused(model.name, "It is a subclassed model, whose graph is not known.", f"{AS_WHOLE}")
    if len(inputs.specs) != 1 or len(inputs.specs[0].shape) < 2:
        reason = f"It takes {', '.join(spec.name for spec in inputs.specs)}, and one input with a time axis can stream."
        raise _Refused(model.name, reason, AS_WHOLE)
    first = _Planner(graph, inputs, packet=0, lead=0)
    packet = first.run().packet
    best: Plan | None = None
    step = max(1, packet // _MOST_LEADS)
    for lead in range(0, packet, step):
        plan = _Planner(graph, inputs, packet, lead).run()
        if best is None or plan.late < best.late:
            best = plan
        if best.late == 0:
            break
    assert best is not None
    return best


class _Refused(RefusedError):
    """A layer that cannot stream."""

    def __init__(self, layer: str, reason: str, todo: str) -> None:
        self.refusal = Refusal(layer, reason, todo)
        super().__init__(f"Layer {layer!r} cannot be lowered as stream: {reason}", todo=todo)


class _Planner:
    """One walk through a graph. With `packet` 0, slots are not counted yet: only the packet's size is found."""

    def __init__(self, graph: Any, inputs: Inputs, packet: int, lead: int) -> None:
        self.graph = graph
        self.batch = inputs.specs[0].shape[0]
        self.plan = Plan(inputs.specs[0].name, packet, lead)
        self.strides = {1}
        self.counting = packet > 0
        spec = inputs.specs[0]
        self.clip = spec.shape[1]
        self.kinds: dict[Any, Timeline | Answer | None] = {}
        self.shapes: dict[Any, tuple[tuple[int, ...], str]] = {}
        self.made: dict[Any, Any] = {}
        tensor = graph.inputs[0]
        self.kinds[id(tensor)] = Timeline(max(packet, 1), self.clip, lead)
        self.shapes[id(tensor)] = (spec.shape, spec.dtype)
        self.key_of = {id(tensor): id(tensor)}

    def run(self) -> Plan:
        for node, prefix in _nodes(self.graph, self.key_of, ""):
            self._visit(node, f"{prefix}{node.operation.name}")
        plan = self.plan
        plan.outputs = [(key, self.kinds[key]) for key in (self._key(tensor) for tensor in self.graph.outputs)]
        if not self.counting:
            plan.packet = math.lcm(*self.strides)
        if all(kind is None for _, kind in plan.outputs):
            raise _Refused(self.graph.name, "Its outputs do not depend on its input.", AS_WHOLE)
        answers = {kind.packet for _, kind in plan.outputs if isinstance(kind, Answer)}
        if self.counting and len(answers) > 1:
            raise _Refused(self.graph.name, "Its outputs come in different packets.", AS_WHOLE)
        return plan

    def _key(self, tensor: Any) -> Any:
        return self.key_of.get(id(tensor), id(tensor))

    def _visit(self, node: Any, path: str) -> None:
        operation = node.operation
        keys = {id(tensor): self._key(tensor) for tensor in node.input_tensors}
        kinds = [self.kinds.get(key) for key in keys.values()]
        lines = [kind for kind in kinds if isinstance(kind, Timeline)]
        if hasattr(operation, "spectrum") and hasattr(operation.spectrum, "rate"):
            self.plan.rate = int(operation.spectrum.rate)
        if not lines:
            answers = {kind.packet for kind in kinds if isinstance(kind, Answer)}
            if self.counting and len(answers) > 1:
                raise _Refused(path, "It joins answers that come in different packets.", AS_WHOLE)
            self._call(node, keys, _latest([kind for kind in kinds if isinstance(kind, Answer)]))
            return
        self._refuse(operation, path)
        single = len(keys) == 1
        key = next(iter(keys.values()))
        if single and _pads_time(operation):
            self._pad(operation, node, key, path)
        elif single and _window_of(operation) is not None:
            self._window(operation, node, key, path)
        elif single and _carries(operation):
            self._carry(operation, node, key, path)
        elif single and _pools_picture(operation):
            self._pool(operation, node, key, path)
        elif any(isinstance(kind, Answer) for kind in kinds) or _needs_clip(operation, node):
            self._clip(node, keys, path)
        else:
            self._each(node, keys, lines, path)

    def _refuse(self, operation: Any, path: str) -> None:
        """Layers that no stream has, by name."""
        import keras

        layers = keras.layers
        kind = type(operation).__name__
        if getattr(operation, "data_format", "") == "channels_first":
            raise _Refused(path, "Its time axis comes last (channels_first).", "Build it with channels_last.")
        if kind == "UtteranceNormalization":
            reason = "It normalizes every frame by the whole utterance, which a stream has not heard yet."
            raise _Refused(path, reason, 'Train with model.normalization "fitted" or "running".')
        if isinstance(operation, layers.Bidirectional):
            raise _Refused(path, "Bidirectional reads the clip from its end too.", "Use the layer inside it alone.")
        if isinstance(operation, layers.RNN):
            if operation.go_backwards:
                raise _Refused(path, "go_backwards reads the clip from its end.", AS_WHOLE)
            if operation.return_state:
                raise _Refused(path, "It gives its states to other layers.", AS_WHOLE)
        if isinstance(operation, layers.Masking):
            raise _Refused(path, "It masks frames, and the layers of a stream take none.", "Leave it out.")
        if ("Transpose" in kind and "Conv" in kind) or kind in ("UpSampling1D", "UpSampling2D"):
            raise _Refused(path, f"{kind} makes frames of others.", AS_WHOLE)
        if kind in ("Cropping1D", "Cropping2D"):
            raise _Refused(path, f"{kind} cuts the clip's ends off.", AS_WHOLE)

    def _pad(self, operation: Any, node: Any, key: Any, path: str) -> None:
        """Zeros in front of the clip are what a window finds before the first frame; those on other axes are called."""
        padding = operation.padding
        before, after = padding[0] if isinstance(padding[0], (tuple, list)) else padding
        if after:
            raise _Refused(path, f"It pads the clip's end with {after} frames of zeros.", OTHER_PADDING)
        line = self._line(key)
        if line.padded:
            raise _Refused(path, "It pads what is padded already.", "Pad once.")
        key = self._delay(key, to_boundary(line))
        line = self._line(key)
        shape, dtype = self.shapes[key]
        target = id(node.outputs[0])
        out = tuple(node.outputs[0].shape)
        if len(out) > 2 and out[2:] != shape[2:]:
            self.plan.steps.append(PadRest(key, target, tuple(operation.padding[1])))
        else:
            self.plan.steps.append(Copy(key, target))
        padded = Timeline(
            line.slots, line.frames + before, line.first - before, before, line.samples, line.late, line.remembers
        )
        self._set(target, padded, (shape[0], line.frames + before, *out[2:]), dtype)

    def _window(self, operation: Any, node: Any, key: Any, path: str) -> None:
        size, stride, padding = _window_of(operation)  # type: ignore[misc]
        line = self._line(key)
        if padding == "same":
            count = math.ceil(line.frames / stride)
            missing = max((count - 1) * stride + size - line.frames, 0)
            if missing:
                reason = (
                    f'{type(operation).__name__} with padding "same" sees {missing} frames of zeros around the clip, '
                    "where a stream has sound."
                )
                raise _Refused(path, reason, OTHER_PADDING)
        shape, _ = self.shapes[key]
        if padding == "causal":
            if line.padded:
                raise _Refused(path, "It pads what is padded already.", "Pad once.")
            key = self._delay(key, to_boundary(line))
            line = self._line(key)
            before = size - 1
            line = Timeline(
                line.slots, line.frames + before, line.first - before, before, line.samples, line.late, line.remembers
            )
        if line.padded >= size:
            raise _Refused(path, f"{line.padded} frames of zeros come before a window of {size}.", "Pad less.")
        self.strides.add(line.samples * stride)
        made = Timeline(
            1, (line.frames - size) // stride + 1, 0, 0, line.samples * stride, 0, line.remembers or line.padded > 0
        )
        if self.counting:
            made, window = sliding(line, size, stride)
            joined = (key, "window", id(node))
            self._join(key, joined, window, line.silent if line.padded else 0)
            key = joined
        unpadded = padding == "causal"
        self.plan.steps.append(Call(node, {id(node.input_tensors[0]): key}, unpadded, made.slots))
        out = node.outputs[0]
        self._set(id(out), made, (shape[0], made.frames, *out.shape[2:]), _dtype(out))

    def _carry(self, operation: Any, node: Any, key: Any, path: str) -> None:
        import keras

        line = self._line(key)
        if line.padded:
            raise _Refused(path, "Frames of zeros come before the clip.", "Pad behind it.")
        key = self._delay(key, to_boundary(line))
        line = self._line(key)
        shape, _ = self.shapes[key]
        recurrent = isinstance(operation, keras.layers.RNN)
        structure = None if recurrent else operation.state_shape(shape)
        sizes = _state_shapes(operation, shape) if recurrent else _shapes_in(structure)
        states = tuple(range(len(self.plan.needs), len(self.plan.needs) + len(sizes)))
        self.plan.needs += [Need(size, "float32", line.silent) for size in sizes]
        self.plan.steps.append(Carry(node, key, states, structure))
        out = node.outputs[0]
        after = Timeline(line.slots, line.frames, line.first, 0, line.samples, line.late, True)
        if not recurrent or operation.return_sequences:
            self._set(id(out), after, (shape[0], line.frames, *out.shape[2:]), _dtype(out))
            return
        every = (id(out), "every")
        self._set(every, after, (shape[0], line.frames, *out.shape[1:]), _dtype(out))
        answer, window = whole_clip(after, 1)
        last = (id(out), "last")
        self._join(every, last, window, 0)
        self.plan.steps.append(Copy(last, id(out), first=True))
        self.kinds[id(out)] = answer

    def _each(self, node: Any, keys: dict[int, Any], lines: Sequence[Timeline], path: str) -> None:
        """A layer that treats every frame by itself: inputs must come at the same time."""
        if any(line.padded for line in lines):
            raise _Refused(path, "It works on frames of zeros that a layer before it puts there.", "Pad behind it.")
        latest = max(line.first for line in lines)
        moved = {}
        for tensor, key in keys.items():
            kind = self.kinds.get(key)
            if isinstance(kind, Timeline) and self.counting:
                if kind.slots != lines[0].slots or kind.frames != lines[0].frames:
                    raise _Refused(path, "It joins frames of different lengths.", AS_WHOLE)
                key = self._delay(key, latest - kind.first)
            moved[tensor] = key
        joined = [self._line(key) for key in moved.values() if isinstance(self.kinds.get(key), Timeline)]
        first = max(joined, key=lambda line: line.late)
        remembers = any(line.remembers for line in joined)
        line = Timeline(first.slots, first.frames, first.first, 0, first.samples, first.late, remembers)
        self.plan.steps.append(Call(node, moved, frames=line.slots))
        for out in node.outputs:
            self._set(id(out), line, (self.batch, line.frames, *out.shape[2:]), _dtype(out))

    def _pool(self, operation: Any, node: Any, key: Any, path: str) -> None:
        """A pool over time and bands pools the bands of every frame first: so much less is kept."""
        line = self._line(key)
        if line.padded:
            raise _Refused(path, "It works on frames of zeros that a layer puts there.", "Pad behind it.")
        shape, dtype = self.shapes[key]
        mean = "Average" in type(operation).__name__
        frames, clip, out = (key, "frames", mean), (key, "pooled", mean), id(node.outputs[0])
        self.plan.steps.append(Pool(key, frames, 2, mean))
        self._set(frames, line, (shape[0], shape[1], *shape[3:]), dtype)
        answer, window = whole_clip(line, line.frames)
        self._join(frames, clip, window, 0)
        if self.counting:
            self.plan.steps.append(Pool(clip, out, 1, mean))
        self.kinds[out] = answer
        self.plan.recomputed.append(path)

    def _clip(self, node: Any, keys: dict[int, Any], path: str) -> None:
        """A layer that looks at all frames of the clip: it gets those of the last one."""
        taken, answers = {}, []
        for tensor, key in keys.items():
            kind = self.kinds.get(key)
            if isinstance(kind, Timeline):
                if kind.padded:
                    raise _Refused(path, "It works on frames of zeros that a layer puts there.", "Pad behind it.")
                clip = (key, "clip")
                if clip not in self.made:
                    answer, window = whole_clip(kind, kind.frames)
                    self._join(key, clip, window, 0)
                    self.kinds[clip] = answer
                    self.made[clip] = clip
                kind, key = self.kinds[clip], clip
            if isinstance(kind, Answer):
                answers.append(kind)
            taken[tensor] = key
        if self.counting and len({answer.packet for answer in answers}) > 1:
            raise _Refused(path, "It joins answers that come in different packets.", AS_WHOLE)
        self.plan.recomputed.append(path)
        self._call(node, taken, _latest(answers))

    def _call(self, node: Any, keys: dict[int, Any], kind: Answer | None) -> None:
        self.plan.steps.append(Call(node, keys))
        for out in node.outputs:
            self.kinds[id(out)] = kind

    def _delay(self, key: Any, slots: int) -> Any:
        if not slots or not self.counting:
            return key
        target = (key, "delayed", slots)
        if target not in self.made:
            line, window = delayed(self._line(key), slots)
            self._join(key, target, window, 0)
            self._set(target, line, *self.shapes[key])
            self.made[target] = target
        return target

    def _join(self, source: Any, target: Any, window: Window, silent: int) -> None:
        if not self.counting:
            return
        line, (shape, dtype) = self._line(source), self.shapes[source]
        state = None
        if window.kept:
            state = len(self.plan.needs)
            self.plan.needs.append(Need((self.batch, window.kept, *shape[2:]), dtype, silent))
        self.plan.steps.append(Join(source, target, window, line.slots, state))

    def _line(self, key: Any) -> Timeline:
        kind = self.kinds[key]
        assert isinstance(kind, Timeline)
        return kind

    def _set(self, key: Any, line: Timeline, shape: Sequence[Any], dtype: str) -> None:
        self.kinds[key] = line
        self.shapes[key] = (tuple(int(size) if size is not None else 0 for size in shape), dtype)


def _nodes(graph: Any, key_of: dict[int, Any], prefix: str) -> Iterator[tuple[Any, str]]:
    """Nodes in the order of computing, models inside models opened up; `key_of` learns which tensors are the same."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            inner = graph_of(node.operation)
            if inner is None:
                yield node, prefix
                continue
            if any(id(inside) in key_of for inside in inner.inputs):
                raise _Refused(f"{prefix}{node.operation.name}", "It is called more than once.", AS_WHOLE)
            for outside, inside in zip(node.input_tensors, inner.inputs, strict=False):
                key_of[id(inside)] = key_of.get(id(outside), id(outside))
            yield from _nodes(inner, key_of, f"{prefix}{node.operation.name}/")
            for outside, inside in zip(node.outputs, inner.outputs, strict=True):
                key_of[id(outside)] = key_of.get(id(inside), id(inside))


def _latest(answers: Sequence[Answer]) -> Answer | None:
    if not answers:
        return None
    late = max(answers, key=lambda answer: answer.late)
    return Answer(late.packet, late.late, any(answer.remembers for answer in answers))


def _dtype(tensor: Any) -> str:
    import keras

    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float32" if dtype in ("float16", "bfloat16") else str(dtype)


def _pads_time(operation: Any) -> bool:
    import keras

    return isinstance(operation, (keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D))


def _window_of(operation: Any) -> tuple[int, int, str] | None:
    """Frames that a layer looks at, by how many it goes on, and its padding; None for other layers."""
    import keras

    kind = type(operation).__name__
    spectrum = getattr(operation, "spectrum", None)
    if spectrum is not None and hasattr(spectrum, "window") and hasattr(spectrum, "hop"):
        return spectrum.window, spectrum.hop, "features"
    layers = keras.layers
    pools = (layers.MaxPooling1D, layers.MaxPooling2D, layers.AveragePooling1D, layers.AveragePooling2D)
    if isinstance(operation, pools):
        size, stride, dilation = operation.pool_size, operation.strides, 1
    elif hasattr(operation, "kernel_size") and "Conv" in kind and hasattr(operation, "strides"):
        size, stride, dilation = operation.kernel_size, operation.strides, operation.dilation_rate
    else:
        return None

    def along_time(value: Any) -> int:
        return int(value[0] if isinstance(value, (tuple, list)) else value)

    reach = (along_time(size) - 1) * along_time(dilation) + 1
    return reach, along_time(stride), str(operation.padding)


def _carries(operation: Any) -> bool:
    """Whether a layer carries states from frame to frame: Keras' recurrent ones, and those with `advance`."""
    import keras

    own = hasattr(operation, "advance") and hasattr(operation, "state_shape")
    return own or isinstance(operation, keras.layers.RNN)


def _pools_picture(operation: Any) -> bool:
    import keras

    pools = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    return isinstance(operation, pools) and not operation.keepdims


def _needs_clip(operation: Any, node: Any) -> bool:
    """Whether an operation looks at more than one frame at once."""
    import keras

    taken = tuple(node.input_tensors[0].shape)
    given = tuple(node.outputs[0].shape)
    if isinstance(operation, keras.layers.Reshape):
        return len(given) < 2 or given[1] != taken[1]
    alone = len(taken) == 2 and isinstance(operation, (keras.layers.Dense, keras.layers.EinsumDense))
    if alone or type(operation).__name__ == "LearnedPositions":
        return True
    if mixes_time(operation, len(taken)):
        return True
    frames = {tensor.shape[1] for tensor in node.input_tensors if len(tensor.shape) > 1}
    return any(len(tensor.shape) < 2 or tensor.shape[1] not in frames for tensor in node.outputs)


def _shapes_in(structure: Any) -> list[tuple[int, ...]]:
    """The shapes that `state_shape` gave, in the order in which `keras.tree` flattens: one, or a structure of them."""
    import keras

    found: list[tuple[int, ...]] = []
    keras.tree.map_shape_structure(lambda shape: found.append(tuple(int(size) for size in shape)), structure)
    return found


def _state_shapes(layer: Any, shape: Sequence[int]) -> list[tuple[int, ...]]:
    import keras

    flat = keras.tree.flatten(layer.get_initial_state(shape[0]))
    return [tuple(int(size) for size in state.shape) for state in flat]
