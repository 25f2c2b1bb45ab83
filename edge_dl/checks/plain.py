"""Reports as plain JSON values and back: frozen dataclasses, enums, tuples, mappings, numbers.

JSON holds no NaN and no infinity: a number that is not finite is written as null and read back as None.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, Union

import numpy as np

from edge_dl.errors import UsageError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A value as plain JSON values; see above."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(cls: type[T], value: Any) -> T:
    """Build the dataclass `cls` from what `to_plain` gave.

    Raises:
        UsageError: a field is missing, unknown, or of the wrong type.
    """
    return _read(value, cls, cls.__name__)


def _read(value: Any, kind: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _read(value, next(item for item in typing.get_args(kind) if item is not type(None)), where)
    if origin is tuple:
        items = _checked(value, list, where)
        return tuple(_read(item, typing.get_args(kind)[0], where) for item in items)
    if origin is not None:  # Mapping[str, X]
        entries = _checked(value, dict, where)
        return {key: _read(item, typing.get_args(kind)[1], f"{where}.{key}") for key, item in entries.items()}
    if dataclasses.is_dataclass(kind):
        return _read_fields(_checked(value, dict, where), kind, where)
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _wrong(where, value) from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and kind is not bool:
        raise _wrong(where, value)
    return _checked(value, kind, where)


def _read_fields(value: dict[str, Any], kind: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    required = {
        item.name
        for item in dataclasses.fields(kind)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    for name in required - set(value):
        raise UsageError("A report must keep to its format.", received=f"{where} without {name!r}")
    for name in value:
        if name not in hints:
            raise UsageError(
                "A report must keep to its format.",
                received=f"{where} with {name!r}, which is not known",
                todo="It may come from another version of edge-dl: make it again.",
            )
    return kind(**{name: _read(item, hints[name], f"{where}.{name}") for name, item in value.items()})


def _checked(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise _wrong(where, value)
    return value


def _wrong(where: str, value: Any) -> UsageError:
    return UsageError("A report must keep to its format.", received=f"{where}: {value!r}")
