"""Weight clustering: a kernel's weights share a few values, the centroids, which are trained.

Through tensorflow-model-optimization (https://www.tensorflow.org/model_optimization/guide/clustering), after Han, Mao &
Dally 2016 (https://arxiv.org/abs/1510.00149).
"""

from __future__ import annotations

from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import ClusteringRegistry
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import cluster_weights

from edge_dl.compression.bridge import Bridge, Weights, load
from edge_dl.compression.phase import Phase, require_some
from edge_dl.recipe import CompressionConfig


def cluster(bridge: Bridge, weights: Weights, config: CompressionConfig, *, keep_zeros: bool) -> Phase:
    """Wrap the model for clustering.

    Args:
        bridge: builds the model.
        weights: where to start from.
        config: number of clusters, and layers to leave alone.
        keep_zeros: whether weights that are zero stay zero (after pruning).

    Raises:
        RefusedError: there is nothing to cluster.
    """
    left_alone: dict[str, str] = {}
    clustered = []

    def wrap(layer: Any) -> Any:
        if not layer.weights:
            return layer
        if layer.name in config.skip:
            left_alone[layer.name] = "compression.skip names it"
            return layer
        if not ClusteringRegistry.supports(layer):
            left_alone[layer.name] = f"{type(layer).__name__} cannot be clustered"
            return layer
        found = ClusteringRegistry.make_clusterable(layer).get_clusterable_weights()
        if not found:
            return layer  # Batch normalization, depthwise kernels.
        smallest = min(int(weight.shape.num_elements()) for _, weight in found)
        if smallest <= config.clusters:
            left_alone[layer.name] = f"its {smallest} weights are no more than the clusters"
            return layer
        clustered.append(layer.name)
        return cluster_weights(
            layer,
            number_of_clusters=config.clusters,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=keep_zeros,
        )

    plain = bridge.build()
    load(plain, weights)
    model = tf_keras.models.clone_model(plain, clone_function=wrap)
    require_some("cluster", clustered, left_alone)

    def read() -> Weights:
        stripped = tfmot.clustering.keras.strip_clustering(model)
        return {layer.name: layer.get_weights() for layer in stripped.layers}

    return Phase(model, read, tuple(clustered), left_alone)
