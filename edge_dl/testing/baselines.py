"""Baselines: what earlier tests found, and the models that they timed, for `--edge-fail` to compare with.

    <folder>/<fingerprint>.json   {"format": 1, "machine": {...}, "results": {"<test> parity": {"values": {..}, ..}}}
    <folder>/models.json          {"format": 1, "models": {"<test> latency": "<hash>"}}
    <folder>/models/<hash>/       a bundle with one golden sample: what it takes to time that model again

Numbers are a property of a model on a machine: they are only compared with those of the same processor, number of
cores, architecture and system. Runtime and model are recorded with them and do not part baselines: that a new runtime
is slower is what they are there to tell. A model is the same everywhere: timed again beside its successor, it makes a
baseline on any machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dl.bundle import Bundle

FORMAT = 1
MODELS = "models"
_HASH = re.compile(r"[0-9a-f]{64}")
_PART = ".part-"
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


# --- models ---


def keep_model(folder: Path, bundle: Bundle) -> str:
    """Keep what it takes to time a bundle again; gives the name that it is kept under, see `model_name`."""
    place = folder / MODELS
    place.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there whole: workers may keep the same model at the same time.
    with tempfile.TemporaryDirectory(prefix=_PART, dir=place) as name:
        made = Path(name) / "bundle"
        digest = _write_model(made, bundle)
        if not is_whole(place / digest):
            shutil.rmtree(place / digest, ignore_errors=True)
            with contextlib.suppress(OSError):  # Another worker was faster.
                made.rename(place / digest)
    return digest


def model_name(bundle: Bundle) -> str:
    """SHA-256 of what is kept of a bundle."""
    with tempfile.TemporaryDirectory(prefix="edge-dl-") as name:
        return _write_model(Path(name), bundle)


def _write_model(folder: Path, bundle: Bundle) -> str:
    """Write a bundle with one golden sample and no other members than the model; gives the hash of its files.

    Labels and tables are not needed to time a model, and more samples neither.
    """
    from dataclasses import replace

    from edge_dl.bundle import write_bundle
    from edge_dl.runtime.targets.base import content_hash

    inputs, outputs = ({name: array[:1] for name, array in arrays.items()} for arrays in bundle.golden())
    manifest = replace(bundle.manifest, translation=None)
    write_bundle(folder, bundle.model.read_bytes(), manifest, golden_inputs=inputs, golden_outputs=outputs)
    return content_hash({path.name: path for path in folder.iterdir()})


def is_whole(folder: Path) -> bool:
    """Whether a kept model is there with the content that it is named by."""
    from edge_dl.runtime.targets.base import content_hash

    return folder.is_dir() and content_hash({path.name: path for path in folder.iterdir()}) == folder.name


def find_model(folder: Path, key: str) -> tuple[Bundle | None, str]:
    """The model that a test timed for its baseline; None, and why, where it cannot be timed again.

    Raises:
        UsageError: models.json is damaged.
    """
    from edge_dl.bundle import read_bundle

    digest = _read_models(folder).get(key)
    if digest is None:
        return None, "its model was not kept"
    place = folder / MODELS / digest
    if not place.is_dir():
        return None, f"its model is not in {place}"
    if not is_whole(place):
        return None, f"its model is damaged: {place}"
    return read_bundle(place), ""


def write_models(folder: Path, models: Mapping[str, str]) -> None:
    """Point tests to the models of their new baselines, and remove the models that no test points to any more.

    Args:
        folder: of the baselines.
        models: names of kept models (`keep_model`) by key.
    """
    from edge_dl.files import write_json

    merged = {**_read_models(folder), **models}
    if merged:
        write_json(folder / f"{MODELS}.json", {"format": FORMAT, "models": dict(sorted(merged.items()))})
    if (folder / MODELS).is_dir():
        for path in (folder / MODELS).iterdir():
            if path.name.startswith(_PART) or (_HASH.fullmatch(path.name) and path.name not in merged.values()):
                shutil.rmtree(path, ignore_errors=True)


def _read_models(folder: Path) -> dict[str, str]:
    from edge_dl.errors import UsageError
    from edge_dl.files import read_json

    path = folder / f"{MODELS}.json"
    if not path.is_file():
        return {}
    value = read_json(path)
    models = value.get("models") if isinstance(value, dict) and value.get("format") == FORMAT else None
    if not isinstance(models, dict) or not all(
        isinstance(item, str) and _HASH.fullmatch(item) for item in models.values()
    ):
        raise UsageError(
            f"The list of the baselines' models is of format {FORMAT}.",
            received=str(path),
            todo="Remove it, and store baselines again with --edge-update-baseline.",
        )
    return models
