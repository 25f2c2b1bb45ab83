"""Targets: places where a bundle runs, behind one interface. See `base` for what each can do, `url` for addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dl.runtime.targets.base import Connection, Finding, Target
    from edge_dl.runtime.targets.opening import open_target
    from edge_dl.runtime.targets.registry import add_target, read_targets, remove_target

__all__ = ["Connection", "Finding", "Target", "add_target", "open_target", "read_targets", "remove_target"]

_HOMES = {
    "Connection": "base",
    "Finding": "base",
    "Target": "base",
    "open_target": "opening",
    "add_target": "registry",
    "read_targets": "registry",
    "remove_target": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
