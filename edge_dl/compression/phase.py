"""One phase of compression: a tf-keras model wrapped for a method, and how its weights are read afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_dl.compression.bridge import Weights
from edge_dl.errors import RefusedError


@dataclass(frozen=True)
class Phase:
    """A model that is ready to be trained by one method.

    Attributes:
        model: the wrapped tf-keras model.
        read: gives the plain layers' weights after training.
        touched: layers that the method works on.
        left_alone: layer -> why the method does nothing to it.
        callbacks: what tf-keras' `fit` must call.
    """

    model: Any
    read: Callable[[], Weights]
    touched: tuple[str, ...]
    left_alone: Mapping[str, str] = field(default_factory=dict)
    callbacks: tuple[Any, ...] = ()


def require_some(method: str, touched: Collection[str], left_alone: Mapping[str, str]) -> None:
    """Raises RefusedError where a method would touch no layer at all."""
    if not touched:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_alone.items()) or "it has no weights"
        raise RefusedError(
            f"{method} finds no layer in this model. {reasons}.", todo=f"Leave {method} out of compression.methods."
        )
