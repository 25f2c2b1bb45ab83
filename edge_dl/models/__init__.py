"""Keras definitions of recurrent and image networks, in keras.ops only: they train on TensorFlow, JAX and PyTorch.

Importing this package does not import Keras; naming one of its functions or layers does. `register()` makes the
layers known to `keras.saving.load_model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dl.models.attention import AdditiveAttentionPooling
    from edge_dl.models.building import build, widest
    from edge_dl.models.hub import HubFeatures
    from edge_dl.models.resizing import Resize
    from edge_dl.models.scaling import LastObservation, Standardize, Unstandardize

_WHERE = {
    "AdditiveAttentionPooling": "edge_dl.models.attention",
    "HubFeatures": "edge_dl.models.hub",
    "LastObservation": "edge_dl.models.scaling",
    "Resize": "edge_dl.models.resizing",
    "Standardize": "edge_dl.models.scaling",
    "Unstandardize": "edge_dl.models.scaling",
    "build": "edge_dl.models.building",
    "widest": "edge_dl.models.building",
}

__all__ = [
    "AdditiveAttentionPooling",
    "HubFeatures",
    "LastObservation",
    "Resize",
    "Standardize",
    "Unstandardize",
    "build",
    "register",
    "widest",
]


def register() -> None:
    """Make every layer of this package known to Keras' loader. Imports Keras."""
    import edge_dl.models.attention
    import edge_dl.models.hub
    import edge_dl.models.resizing
    import edge_dl.models.scaling  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
