"""The bridge: a Keras 3 model as an equal tf-keras model, its weights carried both ways, its outputs compared.

Nested models are written out flat. Equal means: the largest difference of an output on real samples is at most 1e-5,
relative to the largest value where that is above 1. Where it is more, the first layer that differs is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tf_keras
from tf_keras.src.engine.keras_tensor import KerasTensor

from edge_dl.bundle import TensorSpec
from edge_dl.compression.twins import Carried, make_twin
from edge_dl.converters.signature import describe_inputs, graph_of, output_names
from edge_dl.errors import RefusedError, StageError
from edge_dl.names import unique_names

TOLERANCE = 1e-5
BATCH = 64

Connect = Callable[[Any, Any], Any]
Weights = dict[str, list[np.ndarray]]


class Bridge:
    """A Keras 3 model and what is needed to build tf-keras models equal to it.

    Args:
        model: a functional or Sequential Keras 3 model; TensorFlow is Keras' backend.
        input_shapes: per input the shape without the batch axis, where the model leaves an axis free.

    Attributes:
        source: the Keras 3 model.
        inputs: its inputs by our names, with static shapes.
        outputs: its outputs' names, in order.
        model: the tf-keras model, with the same weights.

    Raises:
        RefusedError: a layer cannot be carried; it is named.
    """

    def __init__(self, model: keras.Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        _graph(model)  # What has none is refused before its inputs are looked at.
        self.source = model
        self.inputs: tuple[TensorSpec, ...] = describe_inputs(model, input_shapes=input_shapes).specs
        self.outputs = unique_names(output_names(model))
        self._layers: dict[str, keras.layers.Layer] = {}
        self.model = self.build()
        load(self.model, self.read_source())

    def build(self, connect: Connect | None = None) -> tf_keras.Model:
        """A new tf-keras model; its layers have first weights, not the model's.

        Args:
            connect: called with each twin and its input instead of calling the twin: it may wrap it.
        """
        tensors = [tf_keras.Input(spec.shape[1:], dtype=spec.dtype, name=spec.name) for spec in self.inputs]
        builder = _Builder(connect or _call)
        outputs = builder.run(self.source, tensors, frozen=False)
        self._layers = builder.layers
        return tf_keras.Model(tensors, outputs, name=self.source.name)

    def read_source(self) -> Weights:
        """The Keras 3 model's weights by layer."""
        return {name: [np.asarray(value) for value in layer.get_weights()] for name, layer in self._layers.items()}

    def write_back(self, weights: Weights) -> None:
        """Copy weights into the Keras 3 model; layers that are not named keep theirs."""
        for name, arrays in weights.items():
            self._layers[name].set_weights(arrays)

    def prove(self, x: Mapping[str, np.ndarray]) -> float:
        """Compare the two models on samples.

        Args:
            x: inputs by our names, (samples, ...).

        Returns:
            The largest difference of an output, relative to its largest value where that is above 1.

        Raises:
            RefusedError: it is more than 1e-5; the first layer that differs is named.
        """
        arrays = [x[spec.name] for spec in self.inputs]
        difference = max(
            difference_of(own, theirs)
            for own, theirs in zip(answers(self.source, arrays), answers(self.model, arrays), strict=True)
        )
        if difference <= TOLERANCE:
            return difference
        raise RefusedError(
            f"The tf-keras model must give the Keras model's outputs: they differ by {difference:.2g}, "
            f"{TOLERANCE:g} is allowed. {self._first_difference(arrays)}",
            todo="Compression works through tf-keras: use a layer that computes alike in both.",
        )

    def _first_difference(self, arrays: list[np.ndarray]) -> str:
        few = [array[:BATCH] for array in arrays]
        for layer in self.model.layers:
            source = self._layers.get(layer.name)
            if source is None or len(source._inbound_nodes) != 1 or len(layer.inbound_nodes) != 1:
                continue
            try:
                pair = (keras.Model(self.source.inputs, source.output), tf_keras.Model(self.model.inputs, layer.output))
            except ValueError:  # A layer of a nested model: its tensors are not this graph's.
                continue
            own, theirs = (answers(model, few)[0] for model in pair)
            if own.shape != theirs.shape or difference_of(own, theirs) > TOLERANCE:
                return f"Layer {layer.name!r} ({type(source).__name__}) is the first that computes otherwise."
        return ""


def load(model: tf_keras.Model, weights: Weights) -> None:
    """Copy weights into a tf-keras model that a bridge built, also where its layers are wrapped.

    Raises:
        RefusedError: a layer's weights have other shapes there.
    """
    for layer in model.layers:
        twin = getattr(layer, "layer", layer) if layer.name not in weights else layer
        if twin.name not in weights or isinstance(twin, Carried):
            continue
        arrays = weights[twin.name]
        own, theirs = [array.shape for array in arrays], [tuple(weight.shape) for weight in twin.weights]
        if own != theirs:
            raise RefusedError(
                f"Layer {twin.name!r} cannot be carried to tf-keras: its weights have the shapes {own}, {theirs} there."
            )
        twin.set_weights(arrays)


def answers(model: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A model's outputs on samples, in the order in which Keras flattens them; for both packages.

    Raises:
        StageError: an answer is not finite.
    """
    graph = graph_of(model) if isinstance(model, keras.Model) else None
    pieces: list[list[np.ndarray]] = []
    for start in range(0, len(arrays[0]), BATCH):
        batch = [array[start : start + BATCH] for array in arrays]
        inputs = batch if graph is None else keras.tree.pack_sequence_as(graph._inputs_struct, batch)
        given = model(inputs, training=False)
        flat = keras.tree.flatten(given)
        pieces.append([np.asarray(item) for item in flat])
    found = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    if not all(np.isfinite(array).all() for array in found):
        raise StageError("A model must answer with finite numbers.", stage="compress", received="NaN or infinity")
    return found


def difference_of(own: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value of `own` where that is above 1."""
    scale = max(1.0, float(np.abs(own).max(initial=0.0)))
    return float(np.abs(own.astype(np.float64) - theirs).max(initial=0.0)) / scale


def _call(twin: Any, inputs: Any) -> Any:
    return twin(inputs)


def _graph(model: keras.Model) -> Any:
    """A model's graph of layers; RefusedError where it has none."""
    graph = graph_of(model)
    if graph is None:
        raise RefusedError(
            f"Model {model.name!r} cannot be carried to tf-keras: its layers are connected by code.",
            todo="Write it as a functional or Sequential model.",
        )
    return graph


class _Builder:
    """Walks a Keras 3 graph and calls twins in its place."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.layers: dict[str, keras.layers.Layer] = {}
        self._twins: dict[int, Any] = {}
        self._names: set[str] = set()

    def run(self, model: keras.Model, tensors: list[Any], *, frozen: bool) -> list[Any]:
        """Outputs, in order, of `model` on tf-keras tensors."""
        graph = _graph(model)

        def operation(item: Any) -> Callable[..., Any]:
            return lambda *arguments, **keywords: self._step(model, item, arguments, keywords, frozen)

        return list(keras.tree.flatten(graph._run_through_graph(tensors, operation_fn=operation)))

    def _step(self, owner: keras.Model, item: Any, arguments: Any, keywords: dict[str, Any], frozen: bool) -> Any:
        frozen = frozen or keywords.pop("training", None) is False
        if isinstance(item, keras.Model):
            outputs = self.run(item, keras.tree.flatten(arguments), frozen=frozen)
            return outputs[0] if len(outputs) == 1 else outputs
        given = {key: value for key, value in keywords.items() if value is not None}
        plain = isinstance(item, keras.layers.Layer) and len(arguments) == 1 and not given
        if plain:
            return self.connect(self._twin(owner, item, frozen), arguments[0])
        return self._function(owner, item, arguments, given)

    def _twin(self, owner: keras.Model, layer: keras.layers.Layer, frozen: bool) -> Any:
        if id(layer) not in self._twins:
            name = self._name(owner, layer)
            self._twins[id(layer)] = make_twin(layer, name, frozen=frozen)
            self.layers[name] = layer
        return self._twins[id(layer)]

    def _function(self, owner: keras.Model, item: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        """An operator of keras.ops, or a layer that takes more than its input, as a function of its tensors."""
        if getattr(item, "trainable_variables", None):
            raise RefusedError(
                f"Layer {item.name!r} ({type(item).__name__}) cannot be carried to tf-keras: it has weights that train "
                "and takes more than one argument.",
            )
        flat = keras.tree.flatten((arguments, keywords))
        places = [place for place, value in enumerate(flat) if isinstance(value, KerasTensor)]

        def call(tensors: Any) -> Any:
            filled = list(flat)
            for place, tensor in zip(places, keras.tree.flatten(tensors), strict=True):
                filled[place] = tensor
            given, named = keras.tree.pack_sequence_as((arguments, keywords), filled)
            return item(*given, **named)

        tensors = [flat[place] for place in places]
        name = self._name(owner, item)
        if isinstance(item, keras.layers.Layer):
            self.layers[name] = item
        return self.connect(Carried.around(call, name), tensors[0] if len(tensors) == 1 else tensors)

    def _name(self, owner: keras.Model, item: Any) -> str:
        """The layer's own name, with its model's before it where two models have one of that name."""
        name = item.name
        if name in self._names:
            name = f"{owner.name}_{item.name}"
        number = 1
        while name in self._names:
            number += 1
            name = f"{owner.name}_{item.name}_{number}"
        self._names.add(name)
        return str(name)
