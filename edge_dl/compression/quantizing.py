"""Quantization-aware training: the model is trained with the rounding that its int8 form will do.

Jacob et al. 2018 (https://arxiv.org/abs/1712.05877), through tensorflow-model-optimization. Layers that it cannot
quantize stay in float, and a quantizer stands wherever one hands its answer to a layer that is quantized: pictures
arrive as bytes and are scaled in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
    cluster_preserve_quantize_registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantize_registry
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapper

from edge_dl.compression.bridge import Bridge, Weights, load
from edge_dl.compression.phase import Phase
from edge_dl.errors import RefusedError
from edge_dl.recipe import CompressionConfig

# Share of all weights that must stand in layers that are quantized: less would make no int8 model.
SMALLEST_SHARE = 0.9
_FOLDED = ("Conv2D", "DepthwiseConv2D", "Dense")
_ACTIVATIONS = ("linear", "relu", "relu6", "swish", "gelu", "softmax", "sigmoid", "tanh")


class _ClusterRegistry(cluster_preserve_quantize_registry.Default8bitClusterPreserveQuantizeRegistry):
    """One weight quantizer a layer.

    tfmot's own gives all layers of a kind one quantizer, which forgets about zeros everywhere as soon as a single layer
    has none.
    """

    def __init__(self, keep_zeros: bool) -> None:
        super().__init__(keep_zeros)
        self._keep_zeros = keep_zeros

    def get_quantize_config(self, layer: Any) -> Any:
        """The layer's configuration with quantizers of its own."""
        fresh = cluster_preserve_quantize_registry.Default8bitClusterPreserveQuantizeRegistry(self._keep_zeros)
        return fresh.get_quantize_config(layer)


class _ClusterScheme(tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme):
    def get_quantize_registry(self) -> Any:
        """See `_ClusterRegistry`."""
        return _ClusterRegistry(self.preserve_sparsity)


def quantize(
    bridge: Bridge, weights: Weights, config: CompressionConfig, *, keep_zeros: bool, keep_clusters: bool
) -> Phase:
    """Wrap the model for quantization-aware training.

    Args:
        bridge: builds the model.
        weights: where to start from.
        config: layers to leave in float.
        keep_zeros: whether weights that are zero stay zero (PQAT, PCQAT).
        keep_clusters: whether a kernel keeps its number of different weights (CQAT, PCQAT).

    Raises:
        RefusedError: most weights stand in layers that cannot be quantized; they are named.
    """
    scheme = _scheme(keep_zeros, keep_clusters)
    plain = bridge.build()
    left_alone = _unsupported(plain, scheme.get_quantize_registry(), config.skip)
    _require_most(plain, left_alone)
    quantized: dict[str, Any] = {}  # Tensors of layers in float, quantized; two readers share one quantizer.

    def connect(layer: Any, inputs: Any) -> Any:
        if layer.name in left_alone:
            return layer(inputs)
        many = isinstance(inputs, (list, tuple))
        if keep_clusters and hasattr(layer, "kernel_regularizer"):
            # The kernel is set anew from its centroids at every step: a penalty would only pull it off them after the
            # last one.
            layer.kernel_regularizer = None
        tensors = [_quantized(tensor, left_alone, quantized) for tensor in (inputs if many else [inputs])]
        annotated = tfmot.quantization.keras.quantize_annotate_layer(layer)
        return annotated(tensors if many else tensors[0])

    annotated = bridge.build(connect)
    load(annotated, weights)
    with tfmot.quantization.keras.quantize_scope(), _one_set_of_centroids():
        model = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    names = {layer.name: [_short(weight) for weight in layer.weights] for layer in plain.layers}
    touched = tuple(layer.name for layer in plain.layers if layer.weights and layer.name not in left_alone)
    return Phase(model, lambda: _read(model, names), touched, left_alone)


def rounded_weights(model: Any) -> Weights:
    """The kernels as int8 arithmetic sees them: rounded to their grid, (name of the layer) -> kernels."""
    return {
        layer.layer.name: [
            np.asarray(quantizer(weight, False, weights=variables))
            for weight, quantizer, variables in layer._weight_vars
        ]
        for layer in model.layers
        if isinstance(layer, QuantizeWrapper) and layer._weight_vars
    }


@contextlib.contextmanager
def _one_set_of_centroids() -> Iterator[None]:
    """Let a kernel keep the centroids that clustering gave it.

    tfmot would train a set for each output channel: a float32 kernel of 64 channels and 16 clusters then has a thousand
    values, which gzip cannot make small, and the training graph has a part for every channel.
    """

    def whole(layer: Any, weight: Any, data_format: str) -> tuple[Any, Any, Any, bool]:
        centroids, index = cluster_preserve_quantize_registry.get_unique(weight)
        return centroids, tf.size(centroids), index, False

    before = cluster_preserve_quantize_registry.get_centroids
    cluster_preserve_quantize_registry.get_centroids = whole
    try:
        yield
    finally:
        cluster_preserve_quantize_registry.get_centroids = before


def _scheme(keep_zeros: bool, keep_clusters: bool) -> Any:
    if keep_clusters:
        return _ClusterScheme(keep_zeros)
    if keep_zeros:
        return tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    # Its own module has no shorter public name.
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantize_scheme

    return default_8bit_quantize_scheme.Default8BitQuantizeScheme()


def _unsupported(model: Any, registry: Any, skip: Collection[str]) -> dict[str, str]:
    """Layers that stay in float -> why."""
    default = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    left: dict[str, str] = {}
    for layer in model.layers:
        if not isinstance(layer, tf_keras.layers.InputLayer) and (
            reason := _reason(layer, default, registry, skip, left)
        ):
            left[layer.name] = reason
    return left


def _reason(layer: Any, default: Any, registry: Any, skip: Collection[str], left: dict[str, str]) -> str:
    """Why a layer stays in float; "" where it does not. `left`: the layers before it that do."""
    kind = type(layer).__name__
    if layer.name in skip:
        return "compression.skip names it"
    if len(layer.inbound_nodes) > 1:
        return "it is used more than once"
    if any(tensor.dtype != "float32" for tensor in _flat(layer.input)):
        return "it takes whole numbers"
    if kind == "BatchNormalization":
        folded = _follows_convolution(layer) and _sources(layer)[0].name not in left
        return "" if folded else "a BatchNormalization is folded into the convolution before it, and there is none"
    if not (default.supports(layer) and registry.supports(layer)):
        return f"tfmot cannot quantize {kind}"
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    if activation is not None and (name not in _ACTIVATIONS or (name == "relu6" and kind != "Activation")):
        return f"tfmot cannot quantize the activation {name}"
    return ""


def _follows_convolution(layer: Any) -> bool:
    before = _sources(layer)
    return (
        len(before) == 1
        and type(before[0]).__name__ in _FOLDED
        and before[0].activation is tf_keras.activations.linear
        and len(before[0].outbound_nodes) == 1
    )


def _sources(layer: Any) -> list[Any]:
    return _flat(layer.inbound_nodes[0].inbound_layers)


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _require_most(model: Any, left_alone: dict[str, str]) -> None:
    kernels = {
        layer.name: sum(int(weight.shape.num_elements()) for weight in layer.weights if len(weight.shape) > 1)
        for layer in model.layers
    }
    total = sum(kernels.values())
    left = {name: count for name, count in kernels.items() if count and name in left_alone}
    if total and sum(left.values()) > (1 - SMALLEST_SHARE) * total:
        largest = sorted(left, key=lambda name: -left[name])[:5]
        reasons = "; ".join(f"layer {name!r}: {left_alone[name]}" for name in largest)
        share = sum(left.values()) / total
        raise RefusedError(
            f"Quantization-aware training would leave {share:.0%} of the weights in float. {reasons}.",
            todo="Leave qat out of compression.methods: conversion.quantizations has other int8 forms, and prune and "
            "cluster work on more kinds of layers.",
        )


def _quantized(tensor: Any, left_alone: dict[str, str], quantized: dict[str, Any]) -> Any:
    """`tensor`, through a quantizer where it comes from an input or a layer in float."""
    source = tensor.node.layer
    if not (isinstance(source, tf_keras.layers.InputLayer) or source.name in left_alone):
        return tensor
    key = tensor.name
    if key not in quantized:
        quantizer = tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
            num_bits=8, per_axis=False, symmetric=False, narrow_range=False
        )
        quantized[key] = QuantizeLayer(quantizer, name=f"quantize_{source.name}")(tensor)
    return quantized[key]


def _short(weight: Any) -> str:
    """A weight's own name: `kernel` of `conv_1/kernel:0`."""
    return str(weight.name).split("/")[-1].split(":")[0]


def _read(model: Any, names: dict[str, list[str]]) -> Weights:
    weights: Weights = {}
    for layer in model.layers:
        wrapped = isinstance(layer, QuantizeWrapper)
        name = layer.layer.name if wrapped else layer.name
        if name not in names:
            continue
        own = {_short(weight): weight for weight in layer.weights}
        weights[name] = [own[short].numpy() for short in names[name]] if wrapped else layer.get_weights()
    return weights
