"""The plan of an export: what the export stage decided, written as export/plan.json, and read by those after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_dl.errors import UsageError
from edge_dl.files import read_json
from edge_dl.variants import Lowering

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What the export stage decided. Written as export/plan.json.

    Attributes:
        source: path of the model.
        kind: "keras", "saved_model" or "tflite".
        lowerings: lowerings that were exported, in order.
        left_out: lowering -> why `auto` does not make it.
        layers: recurrent layers as {"path", "kind", "steps"}.
        custom: the user's classes as "module:name".
        unsafe: whether Lambda layers may run.
    """

    source: str
    kind: str
    lowerings: tuple[Lowering, ...]
    left_out: Mapping[str, str]
    layers: tuple[Mapping[str, Any], ...] = ()
    custom: tuple[str, ...] = ()
    unsafe: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return dataclasses.asdict(self) | {"lowerings": [item.value for item in self.lowerings]}


def read_plan(run: Path) -> Plan:
    """What `run_export` decided.

    Raises:
        UsageError: the run folder holds no whole export.
    """
    path = run / "export" / PLAN
    if not path.is_file():
        raise UsageError(
            "The model must be exported first.", received=f"{run}, without {PLAN}", todo="Run `edge-dl export`."
        )
    value = read_json(path)
    try:
        return Plan(
            source=value["source"],
            kind=value["kind"],
            lowerings=tuple(Lowering(item) for item in value["lowerings"]),
            left_out=dict(value["left_out"]),
            layers=tuple(value["layers"]),
            custom=tuple(value["custom"]),
            unsafe=bool(value["unsafe"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{PLAN} must be one that `edge-dl export` wrote.", received=f"{path} ({error})") from None
