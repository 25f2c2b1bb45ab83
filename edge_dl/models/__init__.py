"""Keras definitions of networks for series, pictures, speech and sentences; keras.ops only, for any Keras backend.

Importing this package does not import Keras; naming one of its functions or layers does. `register()` makes the
layers known to `keras.saving.load_model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dl.models.attention import AdditiveAttentionPooling
    from edge_dl.models.building import build, widest
    from edge_dl.models.decoding import AttentionCell, AttentionDecoder, SourceAttention, SourceMask
    from edge_dl.models.hub import HubFeatures
    from edge_dl.models.masking import SpectrumMasking
    from edge_dl.models.normalizing import RunningNormalization, UtteranceNormalization
    from edge_dl.models.positions import LearnedPositions
    from edge_dl.models.resizing import Resize
    from edge_dl.models.scaling import LastObservation, Standardize, Unstandardize
    from edge_dl.models.spectra import SpeechFeatures
    from edge_dl.models.windowed_attention import WindowedSelfAttention

_WHERE = {
    "AdditiveAttentionPooling": "edge_dl.models.attention",
    "AttentionCell": "edge_dl.models.decoding",
    "AttentionDecoder": "edge_dl.models.decoding",
    "HubFeatures": "edge_dl.models.hub",
    "LastObservation": "edge_dl.models.scaling",
    "LearnedPositions": "edge_dl.models.positions",
    "Resize": "edge_dl.models.resizing",
    "RunningNormalization": "edge_dl.models.normalizing",
    "SourceAttention": "edge_dl.models.decoding",
    "SourceMask": "edge_dl.models.decoding",
    "SpectrumMasking": "edge_dl.models.masking",
    "SpeechFeatures": "edge_dl.models.spectra",
    "Standardize": "edge_dl.models.scaling",
    "Unstandardize": "edge_dl.models.scaling",
    "UtteranceNormalization": "edge_dl.models.normalizing",
    "WindowedSelfAttention": "edge_dl.models.windowed_attention",
    "build": "edge_dl.models.building",
    "widest": "edge_dl.models.building",
}

__all__ = [
    "AdditiveAttentionPooling",
    "AttentionCell",
    "AttentionDecoder",
    "HubFeatures",
    "LastObservation",
    "LearnedPositions",
    "Resize",
    "RunningNormalization",
    "SourceAttention",
    "SourceMask",
    "SpectrumMasking",
    "SpeechFeatures",
    "Standardize",
    "Unstandardize",
    "UtteranceNormalization",
    "WindowedSelfAttention",
    "build",
    "register",
    "widest",
]


def register() -> None:
    """Make every layer of this package known to Keras' loader. Imports Keras."""
    import edge_dl.models.attention
    import edge_dl.models.decoding
    import edge_dl.models.hub
    import edge_dl.models.masking
    import edge_dl.models.normalizing
    import edge_dl.models.positions
    import edge_dl.models.resizing
    import edge_dl.models.scaling
    import edge_dl.models.spectra
    import edge_dl.models.windowed_attention  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
