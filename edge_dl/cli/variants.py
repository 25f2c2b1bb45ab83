"""Which bundle a command uses that takes a bundle or a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_dl.bundle import MANIFEST
from edge_dl.errors import UsageError
from edge_dl.files import read_json

# Where no bench has chosen: the smallest that is there.
PREFERRED = ("int8", "dynamic", "int4", "mixed", "int16x8", "float16", "float32")
FAIL = "fail"


def find_bundle(path: Path, lowerings: Sequence[str], *, rule: str, make: str) -> Path:
    """A bundle, or of a run folder the variant that was chosen, else the smallest; none that failed its checks.

    Args:
        path: a bundle or a run folder.
        lowerings: what the command can use of a run folder, preferred first.
        rule: of the error, a full sentence.
        make: command that makes a run folder with such a variant.

    Raises:
        UsageError: there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    selection = _object(path / "bench" / "selection.json")
    failed = {row["variant"] for row in selection.get("rows", []) if row["verdict"] == FAIL}
    able = [
        f"{lowering}-{quantization}{edges}"
        for quantization in PREFERRED
        for lowering in lowerings
        for edges in ("", "-io")
    ]
    chosen = str(selection.get("chosen") or "")
    # A bench chooses among all lowerings of a model, and not each of them does what the command needs.
    first = [chosen] if chosen.startswith(tuple(f"{lowering}-" for lowering in lowerings)) else []
    left_out = []
    for name in dict.fromkeys([*first, *able]):
        if not (path / "variants" / name / MANIFEST).is_file():
            continue
        # There may be checks and no bench, or checks that are newer than it.
        if name not in failed and _object(path / "checks" / f"{name}.json").get("verdict") != FAIL:
            return path / "variants" / name
        left_out.append(name)
    kinds = " or ".join(f"`{lowering}`" for lowering in lowerings)
    if left_out:
        raise UsageError(
            rule,
            received=f"{path}, a run folder whose {kinds} variants failed their checks ({', '.join(left_out)})",
            todo=f"See why with edge-dl report, or name one all the same: {path / 'variants' / left_out[0]}.",
        )
    raise UsageError(
        rule,
        received=f"{path}, which is no bundle and no run folder with a {kinds} variant",
        todo=f"Make one: {make}.",
    )


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise UsageError("A file of a run folder must hold a JSON object.", received=str(path), todo="Make it again.")
    return value
