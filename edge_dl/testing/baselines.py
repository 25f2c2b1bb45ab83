"""Baselines: results of earlier tests, one JSON file a machine, that `--edge-fail` compares with.

    <folder>/<fingerprint>.json   {"format": 1, "machine": {...}, "results": {"<test> parity": {"values": {..}, ..}}}

A latency is a property of a model on a machine: a result is only compared with one of the same processor, number of
cores, architecture and system. Runtime and model are recorded with a result and do not part baselines: that a new
runtime is slower is what a baseline is there to tell.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
_FIELDS = ("system", "architecture", "processor", "cores")
Entry = Mapping[str, Any]


def describe_machine(machine: Any) -> dict[str, Any]:
    """What tells machines apart, of a target's `answers.Machine`."""
    return {name: getattr(machine, name) for name in _FIELDS}


def fingerprint(machine: Mapping[str, Any]) -> str:
    """File name for a machine, e.g. "linux-x86_64-3f2a9c01d4e7"; see `describe_machine`."""
    parts = [str(machine.get(name) or "unknown") for name in _FIELDS]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    words = (re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-") for part in parts[:2])
    return "-".join([*words, digest])


def read_baselines(folder: Path, machine: Mapping[str, Any]) -> dict[str, Entry]:
    """Stored results of a machine by key; {} when there are none.

    Raises:
        UsageError: the file is damaged.
    """
    from edge_dl.errors import UsageError
    from edge_dl.files import read_json

    path = baseline_path(folder, machine)
    if not path.is_file():
        return {}
    value = read_json(path)
    results = value.get("results") if isinstance(value, dict) and value.get("format") == FORMAT else None
    if not isinstance(results, dict) or not all(
        isinstance(item, dict) and isinstance(item.get("values"), dict) for item in results.values()
    ):
        raise UsageError(
            f"A baseline file is of format {FORMAT}.",
            received=str(path),
            todo="Remove it, and store baselines again with --edge-update-baseline.",
        )
    return results


def write_baselines(folder: Path, machine: Mapping[str, Any], results: Mapping[str, Entry]) -> Path:
    """Put results in the machine's file, in place of those of the same key; gives the file's path."""
    from edge_dl.files import write_json

    path = baseline_path(folder, machine)
    merged = {**read_baselines(folder, machine), **results}
    write_json(path, {"format": FORMAT, "machine": dict(machine), "results": dict(sorted(merged.items()))})
    return path


def baseline_path(folder: Path, machine: Mapping[str, Any]) -> Path:
    """The machine's file."""
    return folder / f"{fingerprint(machine)}.json"


def stored_value(entry: Entry | None, metric: str) -> float | None:
    """A stored number; None where there is none."""
    value = entry["values"].get(metric.partition(".")[2]) if entry else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
