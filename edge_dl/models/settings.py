"""Checks of a network's settings that every kind of network shares."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edge_dl.errors import UsageError


def one_of(key: str, value: str, known: Collection[str]) -> None:
    """Raises UsageError for a name that is not known."""
    if value not in known:
        raise UsageError(f"{key} must be one of {', '.join(known)}.", received=value)


def below_one(config: Any, *keys: str) -> None:
    """Raises UsageError where a rate of `config` is not at least 0 and below 1."""
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise UsageError(f"model.{key} must be at least 0 and below 1.", received=str(getattr(config, key)))


def not_negative(config: Any, *keys: str) -> None:
    """Raises UsageError where a number of `config` is below 0."""
    for key in keys:
        if getattr(config, key) < 0:
            raise UsageError(f"model.{key} must not be negative.", received=str(getattr(config, key)))
