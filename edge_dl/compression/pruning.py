"""Magnitude pruning: the smallest weights of each kernel become zero while the rest is trained on.

Zhu & Gupta 2017 (https://arxiv.org/abs/1710.01878), through tensorflow-model-optimization.
"""

from __future__ import annotations

from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

from edge_dl.compression.bridge import Bridge, Weights, load
from edge_dl.compression.phase import Phase, require_some
from edge_dl.recipe import CompressionConfig

# Masks are made anew so often between the first and the last step of the schedule.
UPDATES = 20


def prune(bridge: Bridge, weights: Weights, config: CompressionConfig, steps: int) -> Phase:
    """Wrap the model for pruning.

    Args:
        bridge: builds the model.
        weights: where to start from.
        config: sparsity and schedule, and layers to leave alone.
        steps: training steps of the whole phase.

    Raises:
        RefusedError: there is nothing to prune.
    """
    schedule = make_schedule(config, steps)
    left_alone: dict[str, str] = {}
    pruned = []

    def wrap(layer: Any) -> Any:
        if not layer.weights:
            return layer
        if layer.name in config.skip:
            left_alone[layer.name] = "compression.skip names it"
        elif not PruneRegistry.supports(layer):
            left_alone[layer.name] = f"{type(layer).__name__} cannot be pruned"
        elif not PruneRegistry.make_prunable(layer).get_prunable_weights():
            return layer  # Batch normalization, depthwise kernels: few weights, all needed.
        else:
            pruned.append(layer.name)
            return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
        return layer

    plain = bridge.build()
    load(plain, weights)
    model = tf_keras.models.clone_model(plain, clone_function=wrap)
    require_some("prune", pruned, left_alone)

    def read() -> Weights:
        stripped = tfmot.sparsity.keras.strip_pruning(model)
        return {layer.name: layer.get_weights() for layer in stripped.layers}

    return Phase(model, read, tuple(pruned), left_alone, (tfmot.sparsity.keras.UpdatePruningStep(),))


def make_schedule(config: CompressionConfig, steps: int) -> Any:
    """The sparsity over `steps` training steps.

    tfmot counts steps from 1 and changes masks every so many steps only; the last change is at the step where the
    sparsity is reached, however few steps there are.
    """
    begin = round(config.begin * steps)
    last = min(max(round(config.end * steps), begin + 1), steps)
    every = max(1, (last - begin) // UPDATES)
    if config.schedule == "constant":
        return tfmot.sparsity.keras.ConstantSparsity(config.sparsity, begin, frequency=every)
    end = begin + (last - begin) // every * every
    return tfmot.sparsity.keras.PolynomialDecay(0.0, config.sparsity, begin, end, frequency=every)
