"""One variant's part of results.json: how it was made, what it weighs, how it was checked, how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl.checks import inspect_model
from edge_dl.errors import EdgeError
from edge_dl.files import gzip_size
from edge_dl.report import shapes
from edge_dl.report.numbers import as_number
from edge_dl.variants import VariantSpec

PASS = "pass"
FAIL = "fail"
NOT_ENOUGH = "not-enough-samples"
NOT_CHECKED = "not-checked"
NOT_MADE = "not-made"
CONVERTED = "converted"

Reader = Callable[[str, "dict[str, Any]"], "dict[str, Any] | None"]
_LOWERINGS = ("none", "while", "unroll", "fused", "step", "stream")
_QUANTIZATIONS = ("float32", "float16", "dynamic", "int8", "int16x8", "int4", "mixed", "qat")


def variant_names(run: Path) -> list[str]:
    """Names of all variants that a run folder tells of, made or not, by lowering and then by quantization."""
    names = {path.parent.name for path in run.glob("variants/*/manifest.json")}
    names |= {path.stem for path in run.glob("variants/*.json")}
    if not names:  # A user's own .tflite was checked, and nothing converted. Reports of removed variants do not count.
        names = {path.stem for folder in ("checks", "bench") for path in run.glob(f"{folder}/*.json")}
    # A name with a dot in front is a variant or a file in the making.
    return sorted((name for name in names - {"comparisons", "selection"} if name[0] != "."), key=_order)


def variant_results(
    run: Path, name: str, read: Reader, comparisons: Mapping[str, Any] | None, notes: list[str]
) -> dict[str, Any]:
    """Results of the variant `name`.

    Args:
        run: the run folder.
        name: the variant's name.
        read: gives the JSON object in a file of the run folder, as far as it has a shape; None where there is none.
        comparisons: content of bench/comparisons.json.
        notes: receives a sentence for each file that cannot be read.
    """
    outcome = read(f"variants/{name}.json", shapes.OUTCOME) or {}
    manifest = read(f"variants/{name}/manifest.json", shapes.MANIFEST) or {}
    parity = read(f"checks/{name}.json", shapes.PARITY) or {}
    bench = read(f"bench/{name}.json", shapes.LATENCY) or {}
    status = outcome.get("status")
    made = status == CONVERTED if status else bool(manifest or parity or bench)
    if not made:  # What an earlier run may have left behind says nothing about this one.
        manifest = parity = bench = {}
    lowering, quantization = _kind(name)
    inspection = _inspection(run, name, notes) if made else None
    return {
        "name": name,
        "lowering": str(manifest.get("lowering") or outcome.get("lowering") or lowering),
        "quantization": str(manifest.get("quantization") or outcome.get("quantization") or quantization),
        "verdict": _verdict(made, parity),
        "message": str(parity.get("message") or parity.get("error") or ""),
        "conversion": _conversion(outcome, manifest, made),
        "bundle": f"variants/{name}" if manifest else None,
        "bytes": _bytes(run, name, manifest) if made else None,
        "gzip_bytes": _gzip_bytes(run, name, outcome) if made else None,
        "weight_bytes": _weights(parity, inspection or {}),
        "signature": manifest.get("signature"),
        "made_by": mapping(manifest.get("made_by")),
        "min_runtime_version": str(
            manifest.get("min_runtime_version") or (inspection or {}).get("oldest_runtime") or ""
        ),
        "limits": mapping(parity.get("limits") or manifest.get("limits")),
        "samples": parity.get("samples"),
        "checks": mappings(parity.get("checks")),
        "outputs": [
            {key: value for key, value in output.items() if key != "worst"}
            for output in mappings(parity.get("outputs"))
        ],
        "metrics": [_metric(metric) for metric in mappings(parity.get("metrics"))],
        "metric": _headline_metric(mappings(parity.get("metrics"))),
        "translation": mapping(parity.get("translation")) or None,
        "latency": bench,
        "comparison": _comparison(name, comparisons) if made else {},
        "inspection": inspection,
    }


def baseline_of(
    variants: Sequence[Mapping[str, Any]], comparisons: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The variant that sizes and latencies are held against: the one that comparisons name, else a float32 one."""
    named = mapping(comparisons).get("baseline")
    by_name = {variant["name"]: variant for variant in variants}
    if isinstance(named, str) and named in by_name:
        return by_name[named]
    floats = [variant for variant in variants if variant["quantization"] == "float32" and variant["bytes"]]
    return floats[0] if floats else None


def latency_seconds(variant: Mapping[str, Any], which: str = "p50_ms") -> float | None:
    """A time of the variant's latency report in seconds; None where it was not measured."""
    value = as_number(variant["latency"].get(which))
    return None if value is None else value / 1e3


def _kind(name: str) -> tuple[str, str]:
    """Lowering and quantization from a variant's name; empty for a name that is not one of ours."""
    try:
        spec = VariantSpec.parse(name)
    except ValueError:
        return "", ""
    return spec.lowering.value, spec.quantization.value


def _order(name: str) -> tuple[int, int, str]:
    lowering, quantization = _kind(name)
    return (
        _LOWERINGS.index(lowering) if lowering in _LOWERINGS else len(_LOWERINGS),
        _QUANTIZATIONS.index(quantization) if quantization in _QUANTIZATIONS else len(_QUANTIZATIONS),
        name,
    )


def _verdict(made: bool, parity: Mapping[str, Any]) -> str:
    verdict = parity.get("verdict")
    if verdict in (PASS, FAIL, NOT_ENOUGH):
        return str(verdict)
    return NOT_CHECKED if made else NOT_MADE


def _conversion(outcome: Mapping[str, Any], manifest: Mapping[str, Any], made: bool) -> dict[str, Any]:
    return {
        "status": str(outcome.get("status") or (CONVERTED if made else "unknown")),
        "message": str(outcome.get("message") or ""),
        "todo": str(outcome.get("todo") or ""),
        "seconds": as_number(outcome.get("seconds")),
        "tool": str(outcome.get("tool") or mapping(manifest.get("made_by")).get("tool") or ""),
        "signal": str(outcome.get("signal") or ""),
        "notes": [str(note) for note in outcome.get("notes") or []],
        "log": [str(line) for line in outcome.get("log") or []],
        "path": mappings(outcome.get("path")),
    }


def _bytes(run: Path, name: str, manifest: Mapping[str, Any]) -> int | None:
    stated = mapping(mapping(manifest.get("files")).get("model.tflite")).get("bytes")
    if isinstance(stated, int) and not isinstance(stated, bool):
        return stated
    model = run / "variants" / name / "model.tflite"
    return model.stat().st_size if model.is_file() else None


def _gzip_bytes(run: Path, name: str, outcome: Mapping[str, Any]) -> int | None:
    stated = as_number(outcome.get("gzip_bytes"))
    if stated:
        return int(stated)
    model = run / "variants" / name / "model.tflite"
    return gzip_size(model.read_bytes()) if model.is_file() else None


def _weights(*sources: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of weights by element type, largest first, from the first source that states them."""
    for source in sources:
        weights = mapping(source.get("weight_bytes"))
        kept = {str(kind): int(size) for kind, value in weights.items() if (size := as_number(value)) is not None}
        if kept:
            return dict(sorted(kept.items(), key=lambda item: -item[1]))
    return {}


def _metric(metric: Mapping[str, Any]) -> dict[str, Any]:
    """A task metric's comparison; the variant's value is called `value`."""
    return {("value" if key == "variant" else key): value for key, value in metric.items()}


def _headline_metric(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metric that the variant is held to, else the first one; empty without any."""
    held = [metric for metric in metrics if metric.get("verdict")]
    return _metric((held or list(metrics) or [{}])[0])


def _comparison(name: str, comparisons: Mapping[str, Any] | None) -> dict[str, Any]:
    """The comparison of the variant's latency with the baseline's (or whatever it was compared with first)."""
    error = mapping(mapping(comparisons).get("errors")).get(name)
    if error:
        return {"error": str(error)}
    found = [item for item in mappings(mapping(comparisons).get("comparisons")) if item.get("a") == name]
    baseline = mapping(comparisons).get("baseline")
    return next((item for item in found if item.get("b") == baseline), found[0] if found else {})


def _inspection(run: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    """What `edge_dl.checks.inspect_model` reads out of the variant's file, without its list of tensors."""
    model = run / "variants" / name / "model.tflite"
    if not model.is_file():
        return None
    try:
        report = inspect_model(model).to_json()
    except (EdgeError, OSError) as error:
        notes.append(f"variants/{name}/model.tflite cannot be inspected: {error}")
        return None
    report["path"] = f"variants/{name}/model.tflite"
    del report["tensors"]
    return report


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list; empty for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, (list, tuple)) else []
