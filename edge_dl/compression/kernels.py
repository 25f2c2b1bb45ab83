"""What pruning and clustering did to each kernel: zeros, different values, and the size after gzip."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.files import gzip_size
from edge_dl.recipe import CompressionConfig, Method


@dataclass(frozen=True)
class Kernel:
    """One kernel (any weight of two axes or more) of a layer.

    Attributes:
        layer: the layer's name.
        number: which of the layer's kernels, from 0 (an LSTM has two).
        kind: its class.
        shape: the kernel's shape.
        zeros: share of its weights that are zero.
        values: how many different values it has.
        channel_values: the same within one output channel (the last axis), the most of any.
    """

    layer: str
    number: int
    kind: str
    shape: tuple[int, ...]
    zeros: float
    values: int
    channel_values: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))


def measure(weights: Mapping[str, Iterable[np.ndarray]], kinds: Mapping[str, str]) -> list[Kernel]:
    """Every kernel of a model.

    Args:
        weights: arrays by layer.
        kinds: class of each layer.
    """
    return [
        Kernel(
            layer,
            number,
            kinds.get(layer, ""),
            array.shape,
            float(np.mean(array == 0)),
            len(np.unique(array)),
            max(len(np.unique(channel)) for channel in np.moveaxis(array, -1, 0)),
        )
        for layer, arrays in weights.items()
        for number, array in enumerate(array for array in arrays if array.ndim > 1)
    ]


def broken_promises(
    reached: Mapping[Method, Sequence[Kernel]], touched: Mapping[Method, Collection[str]], config: CompressionConfig
) -> list[str]:
    """What a method should have reached, or kept of those before it, and has not; one sentence each.

    Args:
        reached: every kernel after each method so far, in the order of the methods.
        touched: the layers that each method worked on.
        config: the sparsity and the number of clusters asked for.
    """
    broken = []
    pruned = {(kernel.layer, kernel.number): kernel.zeros for kernel in reached.get(Method.PRUNE, ())}
    now = list(reached)[-1]
    for kernel in reached[now]:
        if kernel.layer in touched.get(Method.PRUNE, ()):
            least = config.sparsity - 1 / kernel.size if now is Method.PRUNE else pruned[kernel.layer, kernel.number]
            if kernel.zeros < least - 1e-9:
                broken.append(f"{kernel.layer} has {kernel.zeros:.1%} zeros after {now.value} instead of {least:.1%}")
        if kernel.layer in touched.get(Method.CLUSTER, ()) and kernel.values > config.clusters:
            broken.append(f"{kernel.layer} has {kernel.values} values after {now.value} instead of {config.clusters}")
    return broken


def sizes(weights: Mapping[str, Iterable[np.ndarray]]) -> dict[str, int]:
    """Bytes of all weights in float32, and after gzip."""
    content = b"".join(np.asarray(array, np.float32).tobytes() for arrays in weights.values() for array in arrays)
    return {"bytes": len(content), "gzip_bytes": gzip_size(content)}


def zeros(kernels: Iterable[Kernel]) -> float:
    """Share of all weights of some kernels that are zero; 0 without any."""
    found = list(kernels)
    return sum(kernel.zeros * kernel.size for kernel in found) / max(1, sum(kernel.size for kernel in found))


def to_json(kernel: Kernel) -> dict[str, Any]:
    """Plain JSON value."""
    return {
        "layer": kernel.layer,
        "number": kernel.number,
        "kind": kernel.kind,
        "shape": list(kernel.shape),
        "weights": kernel.size,
        "zeros": round(kernel.zeros, 6),
        "values": kernel.values,
        "channel_values": kernel.channel_values,
    }
