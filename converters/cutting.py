"""An encoder-decoder cut in two: what the source alone decides, and what a step of the target adds.

One input of a functional model is the decoder's: its steps are what the recurrent layers behind it run over, and every
output has them as its time axis. Whatever does not depend on it is the encoder; the tensors that go from one part to
the other are the frontier. Which input it is follows from the graph alone (`find_cut`), so a model of any make can be
cut, whatever its layers are called.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_dl.converters.layers import walk_layers
from edge_dl.converters.lowering import replaced
from edge_dl.converters.refusals import Refusal
from edge_dl.converters.signature import Inputs, graph_of, name_outputs, output_names
from edge_dl.converters.stepping import flow_node, holds_recurrence
from edge_dl.names import unique_names

USE_WHOLE = "Use while or unroll, which answer for a whole target."


@dataclass(frozen=True)
class Cut:
    """Where a model is cut.

    Attributes:
        model: the model; it is not changed, and its layers are called.
        inputs: its inputs.
        target: the decoder's input, by our name.
        sources: the encoder's inputs, by our names.
        frontier: by name, the symbolic tensors that the decoder takes from the encoder; names are made of those of the
            layers that give them, and are no input's or output's.
        decoder: ids of the recurrent layers that run over the target's steps.
        repeated: layers that repeat something of the encoder's for each step of the target; they are the decoder's.
    """

    model: Any
    inputs: Inputs
    target: str
    sources: tuple[str, ...]
    frontier: Mapping[str, Any]
    decoder: frozenset[int]
    repeated: tuple[Any, ...] = ()

    def encode(self, tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run the encoder's layers.

        Args:
            tensors: the encoder's inputs by name.

        Returns:
            By the frontier's names, its tensors, and the masks of those that Keras gave one.
        """
        graph = graph_of(self.model)
        values = {id(graph.inputs[self._position(name)]): tensors[name] for name in self.sources}
        _run(self._nodes(still=True), values)
        known = {name: values[id(tensor)] for name, tensor in self.frontier.items()}
        masks = {name: mask for name, value in known.items() if (mask := _mask_of(value)) is not None}
        return known, masks

    def decode(self, target: Any, frontier: Mapping[str, Any], masks: Mapping[str, Any]) -> dict[str, Any]:
        """Run the decoder's layers; gives the model's outputs by our names.

        Args:
            target: one step of the decoder's input.
            frontier: what `encode` gave.
            masks: the masks that it gave.
        """
        import keras

        graph = graph_of(self.model)
        values = {id(graph.inputs[self._position(self.target)]): target}
        for name, tensor in self.frontier.items():
            # Where Keras keeps the mask that goes with a tensor by itself (`keras.src.backend.set_keras_mask`).
            frontier[name]._keras_mask = masks.get(name)
            values[id(tensor)] = frontier[name]
        with contextlib.ExitStack() as stack:
            for layer in self.repeated:
                stack.enter_context(replaced(layer, "n", 1))
            _run(self._nodes(still=False), values)
        results = [values[id(tensor)] for tensor in graph.outputs]
        return name_outputs(self.model, keras.tree.pack_sequence_as(graph._outputs_struct, results))

    def says_tokens(self) -> bool:
        """Whether the target is tokens that a decoder says one by one: whole numbers, or as many classes as one of the
        outputs tells apart (one-hot, as Keras' tutorial has characters). What else is fed to steps is known beforehand.
        """
        import keras

        target = self.inputs.specs[self._position(self.target)]
        if target.dtype.startswith(("int", "uint")):
            return True
        for tensor in graph_of(self.model).outputs:
            layer = tensor._keras_history.operation
            layer = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
            classes = isinstance(layer, keras.layers.Softmax) or (
                getattr(layer, "activation", None) is keras.activations.softmax
            )
            if classes and tuple(tensor.shape[2:]) == target.shape[2:]:
                return True
        return False

    def _position(self, name: str) -> int:
        return [spec.name for spec in self.inputs.specs].index(name)

    def _nodes(self, *, still: bool) -> list[Any]:
        """Calls of the encoder's layers, or of the decoder's, in an order in which they can be made."""
        graph = graph_of(self.model)
        moving = {id(graph.inputs[self._position(self.target)])}
        chosen = []
        for node in _ordered(graph):
            moves = any(id(tensor) in moving for tensor in node.input_tensors)
            moves = moves or any(node.operation is layer for layer in self.repeated)
            if moves:
                moving |= {id(tensor) for tensor in node.outputs}
            if moves is not still:
                chosen.append(node)
        return chosen


def find_cut(model: Any, inputs: Inputs) -> tuple[Cut | None, list[Refusal]]:
    """Where a model can be cut into an encoder and a decoder; the reasons against it where it cannot be.

    Args:
        model: a built model.
        inputs: its inputs.
    """
    graph = graph_of(model)
    if graph is None or len(inputs.specs) < 2:
        reason = "Only a functional model with an input of its own for the target has an encoder and a decoder to tell."
        return None, [Refusal(model.name, reason, USE_WHOLE)]
    against: list[Refusal] = []
    for index, spec in enumerate(inputs.specs):
        if not (len(spec.shape) >= 3 or (len(spec.shape) == 2 and spec.dtype.startswith(("int", "uint")))):
            continue
        found = _cut_at(model, graph, inputs, index)
        if isinstance(found, Cut):
            return found, []
        # The same context at every step (Cho et al. 2014): only where there is no cut without.
        other = _cut_at(model, graph, inputs, index, repeating=True)
        if isinstance(other, Cut):
            return other, []
        against = found or against
    reason = (
        "It has no input whose steps a recurrent layer runs over and all outputs have, beside what an encoder gives."
    )
    return None, against or [Refusal(model.name, reason, USE_WHOLE)]


def _cut_at(model: Any, graph: Any, inputs: Inputs, index: int, *, repeating: bool = False) -> Cut | list[Refusal]:
    """The cut for one input as the decoder's; layers that speak against it, none where nothing recurrent follows it.

    With `repeating`, a layer that repeats something still as often as the target has steps belongs to the decoder.
    """
    import keras

    kinds = {id(tensor): "still" for tensor in graph.inputs}
    kinds[id(graph.inputs[index])] = "each"
    refusals: list[Refusal] = []
    recurrent: list[Any] = []
    frontier: dict[int, Any] = {}
    encoded = reads = False
    repeated: list[Any] = []
    steps = inputs.specs[index].shape[1]
    for node in _ordered(graph):
        incoming = [kinds[id(tensor)] for tensor in node.input_tensors]
        still = all(kind == "still" for kind in incoming)
        if still and repeating and isinstance(node.operation, keras.layers.RepeatVector) and node.operation.n == steps:
            repeated.append(node.operation)
            frontier |= {id(tensor): tensor for tensor in node.input_tensors}
            kinds |= {id(tensor): "each" for tensor in node.outputs}
            encoded = encoded or reads  # What was read of a source; features that are merely given make no encoder.
            continue
        if still:
            reads = reads or holds_recurrence(node.operation)
            kinds |= {id(tensor): "still" for tensor in node.outputs}
            continue
        frontier |= {id(t): t for t, kind in zip(node.input_tensors, incoming, strict=True) if kind == "still"}
        if holds_recurrence(node.operation):
            recurrent.append(node.operation)
            refusals += _against_layer(node.operation)
            if _holds_encoder(node.operation, incoming):
                reason = "An encoder inside a nested model cannot be told apart from its decoder."
                return [Refusal(node.operation.name, reason, "Call its layers directly, or convert that model alone.")]
        results = flow_node(node, incoming, "", refusals)
        kinds |= {id(tensor): kind for tensor, kind in zip(node.outputs, results, strict=True)}
        takes_states = isinstance(node.operation, keras.layers.RNN) and len(incoming) > 1
        encoded = encoded or takes_states or any(len(tensor.shape) >= 3 for tensor in frontier.values())
        encoded = encoded or (graph_of(node.operation) is not None and len(incoming) > 1)
    spec = inputs.specs[index]
    if not recurrent or not encoded:
        return []
    if refusals:
        return [Refusal(item.layer, item.reason, USE_WHOLE) for item in dict.fromkeys(refusals)]
    outputs = zip(output_names(model), graph.outputs, strict=True)
    short = [name for name, tensor in outputs if kinds[id(tensor)] != "each"]
    own = [
        name for name, tensor in zip(output_names(model), graph.outputs, strict=True) if kinds[id(tensor)] == "still"
    ]
    if own:
        reason = f"The output {own[0]!r} is the encoder's own: it does not depend on {spec.name!r}."
        todo = "Leave it out, keras.Model(model.inputs, [the other outputs]), or use while or unroll."
        return [Refusal(model.name, reason, todo)]
    if short:
        reason = f"The output {short[0]!r} has no answer for each step of {spec.name!r}."
        return [Refusal(model.name, reason, USE_WHOLE)]
    taken = [item.name for item in inputs.specs] + unique_names(output_names(model))
    names = unique_names([*taken, *(_name_of(tensor) for tensor in frontier.values())])[len(taken) :]
    inside = {id(layer) for item in recurrent for layer in _recurrences(item)}
    sources = tuple(item.name for number, item in enumerate(inputs.specs) if number != index)
    known = dict(zip(names, frontier.values(), strict=True))
    return Cut(model, inputs, spec.name, sources, known, frozenset(inside), tuple(repeated))


def _holds_encoder(operation: Any, incoming: list[str]) -> bool:
    """Whether a model that is called as a layer has a recurrent layer of its own that does not follow the target."""
    graph = graph_of(operation)
    if graph is None:
        return False
    kinds = {id(tensor): kind for tensor, kind in zip(graph.inputs, incoming[: len(graph.inputs)], strict=True)}
    for node in _ordered(graph):
        taken = [kinds.get(id(tensor), "still") for tensor in node.input_tensors]
        if all(kind == "still" for kind in taken):
            if holds_recurrence(node.operation):
                return True
        elif _holds_encoder(node.operation, taken):
            return True
        results = flow_node(node, taken, "", [])
        kinds |= {id(tensor): kind for tensor, kind in zip(node.outputs, results, strict=True)}
    return False


def _against_layer(operation: Any) -> list[Refusal]:
    """The first recurrent layer in a decoder's layer that does not go forward through the target, a step at a time."""
    import keras

    for path, layer, _ in [(operation.name, operation, ()), *_inside(operation)]:
        if isinstance(layer, keras.layers.Bidirectional):
            return [Refusal(path, "Bidirectional reads the target from its end too.", USE_WHOLE)]
        if isinstance(layer, keras.layers.TimeDistributed) and holds_recurrence(layer):
            reason = "TimeDistributed runs a recurrence over an axis of its own at every step."
            return [Refusal(path, reason, USE_WHOLE)]
        if isinstance(layer, keras.layers.RNN) and layer.go_backwards:
            return [Refusal(path, "go_backwards reads the target from its end.", USE_WHOLE)]
    return []


def _inside(operation: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for path, layer, holders in walk_layers(operation):
        yield f"{operation.name}/{path}", layer, holders


def _recurrences(operation: Any) -> list[Any]:
    import keras

    layers = [operation, *(layer for _, layer, _ in _inside(operation))]
    return [layer for layer in layers if isinstance(layer, keras.layers.RNN)]


def _name_of(tensor: Any) -> str:
    """What gives a symbolic tensor, with a number where that gives several."""
    import keras

    history = tensor._keras_history
    outputs = history.operation._inbound_nodes[history.node_index].outputs
    name = str(history.operation.name)
    if not isinstance(history.operation, keras.layers.Layer):
        # A function's name counts all its calls since the process began.
        name = re.sub(r"_\d+$", "", name)
    return f"{name}_{history.tensor_index}" if len(outputs) > 1 else name


def _ordered(graph: Any) -> Iterator[Any]:
    """Calls of a functional model's layers, each after those whose answers it takes; inputs are left out."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from (node for node in graph._nodes_by_depth[depth] if not node.is_input)


def _run(nodes: list[Any], values: dict[int, Any]) -> None:
    """Make calls, as `keras.src.ops.function.Function` makes them; `values` holds tensors by id of the symbolic one."""
    import keras

    for node in nodes:
        arguments, keywords = node.arguments.fill_in(values)
        if getattr(node.operation, "_call_has_training_arg", False):
            keywords["training"] = False
        results = keras.tree.flatten(node.operation(*arguments, **keywords))
        values |= {id(tensor): value for tensor, value in zip(node.outputs, results, strict=True)}


def _mask_of(tensor: Any) -> Any:
    return getattr(tensor, "_keras_mask", None)
