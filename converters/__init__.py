"""From a Keras model to .tflite: loading, lowering, export, quantization, conversion in child processes.

Importing this package is light: TensorFlow and Keras are imported where they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Public name -> the module that holds it.
_PUBLIC = {
    "Export": "exporting",
    "Outcome": "outcomes",
    "convert": "conversion",
    "run_conversion": "conversion",
    "run_export": "export_stage",
    "Refusal": "refusals",
    "as_reference": "lowering",
    "allowed_lowerings": "refusals",
    "export": "exporting",
    "find_recurrent": "layers",
    "find_refusals": "refusals",
    "load_model": "loading",
    "lowered": "lowering",
    "read_export": "exporting",
    "split_signatures": "merging",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    # Set once, so that the next look-up does not come here.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
