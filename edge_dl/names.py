"""Names of inputs and outputs that every part of the way can carry: Python, TensorFlow, npz members, Kotlin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

# TensorFlow calls a signature by keyword arguments, beside its own.
_TAKEN = ("self",)


def unique_names(names: Sequence[str]) -> list[str]:
    """Names made of letters, digits and underscores, each once: "a b.c" -> "a_b_c", a second "x" -> "x_1"."""
    result: list[str] = []
    for name in names:
        plain = re.sub(r"[^0-9A-Za-z_]", "_", name) or "tensor"
        if not re.match(r"[A-Za-z]", plain):
            plain = f"t{plain}"
        candidate, number = plain, 0
        while candidate in (*result, *_TAKEN):
            number += 1
            candidate = f"{plain}_{number}"
        result.append(candidate)
    return result


def values_under(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Values named `prefix` NAME, by the names that an exported model's inputs and outputs of these names have."""
    found = [name for name in named if name.startswith(prefix)]
    names = unique_names([name[len(prefix) :] for name in found])
    return {name: named[own] for name, own in zip(names, found, strict=True)}
