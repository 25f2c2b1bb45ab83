"""The page's details of one variant: how it was made, what is in the file, what was checked, how fast it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import as_number
from edge_dl.report.variant_results import FAIL, latency_seconds, mappings
from edge_dl.report.words import metric_change, metric_name, speed, speed_interval

_OUTPUT_KEYS = ("name", "max_abs", "mean_abs", "rmse", "cosine", "snr_db", "top1")
_OPERATOR_KEYS = ("name", "version", "count", "in_loops", "custom", "runtime")


def variant_details(variant: Mapping[str, Any], row: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of `variant`; `row` is its row in the table of variants."""
    conversion = variant["conversion"]
    made_by = [conversion["tool"]] + [f"{key} {value}" for key, value in variant["made_by"].items() if key != "tool"]
    pairs = [
        ("lowering", variant["lowering"] if variant["lowering"] != "none" else ""),
        ("quantization", variant["quantization"]),
        ("bundle", variant["bundle"]),
        ("file", _size_text(variant)),
        ("made by", ", ".join(part for part in made_by if part)),
        ("conversion took", numbers.duration(conversion["seconds"]) if conversion["seconds"] is not None else ""),
        ("oldest runtime", _runtime_text(variant)),
        *_signature_pairs(variant["signature"]),
        *_metric_pairs(variant["metrics"]),
        *_latency_pairs(variant, results["baseline"]),
    ]
    total = sum(variant["weight_bytes"].values())
    weights = [
        {"share": f"{100 * size / total:.2f}", "colour": place % 6 + 1, "text": f"{kind} {numbers.size(size)}"}
        for place, (kind, size) in enumerate(variant["weight_bytes"].items())
        if total
    ]
    return {
        "name": variant["name"],
        "anchor": row["anchor"],
        "kind": row["kind"],
        "word": row["word"],
        "open": variant["chosen"] or (variant["verdict"] == FAIL and not results["chosen"]),
        "message": variant["message"],
        "pairs": pairs,
        "weights": weights,
        "outputs": [{**dict.fromkeys(_OUTPUT_KEYS), **output} for output in variant["outputs"]],
        "checks": [{"name": "", "output": "", "verdict": "", "message": "", **check} for check in variant["checks"]],
        "operators": [
            {**dict.fromkeys(_OPERATOR_KEYS), **item}
            for item in mappings((variant["inspection"] or {}).get("operators"))
        ],
        "file_notes": conversion["notes"] + [str(note) for note in (variant["inspection"] or {}).get("notes") or []],
    }


def _size_text(variant: Mapping[str, Any]) -> str:
    if not variant["bytes"]:
        return ""
    inspection = variant["inspection"] or {}
    parts = [f"{numbers.size(variant['bytes'])} ({numbers.count(variant['bytes'])} bytes)"]
    if inspection.get("arena_bytes"):
        parts.append(f"arena about {numbers.size(inspection['arena_bytes'])}")
    if inspection.get("macs"):
        least = "" if inspection.get("macs_complete", True) else "at least "
        parts.append(f"{least}{numbers.count(inspection['macs'])} multiply-accumulates a call")
    return ", ".join(parts)


def _runtime_text(variant: Mapping[str, Any]) -> str:
    inspection = variant["inspection"] or {}
    version = str(inspection.get("oldest_runtime") or variant["min_runtime_version"])
    needed_by = ", ".join(str(item) for item in inspection.get("needed_by") or [])
    return f"{version} (for {needed_by})" if version and needed_by else version


def _signature_pairs(signature: Any) -> list[tuple[str, str]]:
    if not isinstance(signature, dict):
        return []
    pairs = []
    for side in ("inputs", "outputs", "states"):
        texts = [
            f"{spec.get('name') or spec.get('input')} {spec.get('dtype')} {_shape(spec.get('shape'))}"
            for spec in signature.get(side) or []
            if isinstance(spec, dict)
        ]
        pairs.append((side, ", ".join(texts)))
    return pairs


def _shape(shape: Any) -> str:
    return "×".join(str(size) for size in shape) if isinstance(shape, (list, tuple)) else ""


def _metric_pairs(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    pairs = []
    for metric in metrics:
        unit = str(metric.get("unit") or "")
        text = f"{numbers.metric(metric.get('value'), unit)}, Keras {numbers.metric(metric.get('reference'), unit)}"
        change = metric_change(metric, interval=True)
        pairs.append((metric_name(metric.get("name")), text + (f" ({change})" if change else "")))
    return pairs


def _latency_pairs(variant: Mapping[str, Any], baseline: str | None) -> list[tuple[str, str]]:
    latency, comparison = variant["latency"], variant["comparison"]
    times = [(name, latency_seconds(variant, f"{name}_ms")) for name in ("p50", "p90", "p99")]
    text = ", ".join(f"{name} {numbers.duration(value)}" for name, value in times if value is not None)
    if text and latency.get("steady") is False:
        text += " (not steady after the warm-up)"
    pairs = [("latency", text or str(latency.get("error") or ""))]
    for term, key in (("loading", "load_ms"), ("first call", "first_call_ms")):
        if latency_seconds(variant, key) is not None:
            pairs.append((term, numbers.duration(latency_seconds(variant, key))))
    peak, before = as_number(latency.get("peak_memory_mb")), as_number(latency.get("memory_before_mb"))
    if peak is not None:
        more = (
            f", {numbers.size((peak - before) * 2**20)} more than before loading"
            if before is not None and peak >= before
            else ""
        )
        pairs.append(("peak memory", numbers.size(peak * 2**20) + more))
    compared = speed(comparison)
    if compared:
        interval = speed_interval(comparison)
        pairs.append((f"against {comparison.get('b') or baseline}", compared + (f", {interval}" if interval else "")))
    elif comparison.get("error"):
        pairs.append((f"against {baseline}", f"not compared: {comparison['error']}"))
    return pairs
