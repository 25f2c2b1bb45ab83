"""What training did to make the model smaller: rows for the page and the Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import UNKNOWN, as_number
from edge_dl.report.variant_results import FAIL, mapping, mappings
from edge_dl.report.words import metric_change

PHASE_HEADS = ("after", "on validation", "zeros", "values a kernel", "weights, gzip")
KERNEL_HEADS = ("layer", "shape", "zeros", "values", "rounded: zeros", "values a channel")
COMPRESSION = "compression"
METHODS = {"prune": "pruning", "cluster": "clustering", "qat": "quantization-aware training"}


def compression_section(results: Mapping[str, Any]) -> dict[str, Any]:
    """Its "text", and "tables" as (title, heads, rows of texts); empty without compression.

    Args:
        results: results.json's value.
    """
    record = mapping(results.get("compression"))
    phases = mappings(record.get("phases"))
    if not phases:
        return {}
    history = mapping(record.get("history"))
    epochs = {str(phase.get("method")): mappings(phase.get("epochs")) for phase in mappings(history.get("phases"))}
    before = mapping(mapping(record.get("weights")).get("before"))
    rows: list[tuple[str, ...]] = [
        ("the training", _validation(mapping(history.get("trained"))), UNKNOWN, UNKNOWN, _size(before))
    ]
    for phase in phases:
        method = str(phase.get("method") or "")
        last = epochs.get(method) or [{}]
        touched = phase.get("touched") or []
        kernels = [kernel for kernel in mappings(phase.get("kernels")) if kernel.get("layer") in touched]
        values = [value for kernel in kernels if (value := as_number(kernel.get("values"))) is not None]
        rows.append(
            (
                METHODS.get(method, method),
                _validation(last[-1]),
                numbers.percent(as_number(phase.get("zeros")), 1),
                f"at most {numbers.count(max(values))}" if values else UNKNOWN,
                _size(phase),
            )
        )
    tables = [("Step by step", PHASE_HEADS, rows), ("Layer by layer, at the end", KERNEL_HEADS, _kernels(phases[-1]))]
    return {"text": _text(record), "tables": tables}


def compression_failures(record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Metrics of which compression lost more than `checks.max_drop`, as failures of the run's verdict."""
    failures = []
    for metric in mappings(mapping(record).get("metrics")):
        if metric.get("verdict") != FAIL:
            continue
        name = str(metric.get("name") or "metric").replace("_", " ")
        lost = numbers.percent(as_number(metric.get("drop")), 2)
        most = numbers.percent(as_number(metric.get("max_drop")), 2)
        failures.append(
            {
                "variant": COMPRESSION,
                "target": "",
                "held": True,
                "check": "metric",
                "output": str(metric.get("output") or ""),
                "verdict": FAIL,
                "message": f"Training to a smaller model lost {lost} of {name} on the test split; {most} is allowed.",
            }
        )
    return failures


def _text(record: Mapping[str, Any]) -> str:
    methods = ", ".join(METHODS.get(str(method), str(method)) for method in record.get("methods") or [])
    parts = [f"By {methods}. Everything below is made from the compressed model."]
    metrics = mappings(record.get("metrics"))
    if metrics:
        metric = metrics[0]
        unit, name = str(metric.get("unit") or ""), str(metric.get("name") or "metric").replace("_", " ")
        values = [numbers.metric(metric.get(key), unit) for key in ("reference", "variant")]
        change = metric_change({"value" if key == "variant" else key: value for key, value in metric.items()})
        text = f"On the test split, in float32: {name} {values[0]} before, {values[1]} after"
        parts.append(text + (f" ({change})." if change else "."))
    left = {
        str(name): str(reason)
        for phase in mappings(record.get("phases"))
        for name, reason in mapping(phase.get("left_alone")).items()
    }
    if left:
        parts.append("Left as they were: " + "; ".join(f"{name} ({reason})" for name, reason in left.items()) + ".")
    return " ".join(parts)


def _validation(epoch: Mapping[str, Any]) -> str:
    found = {key.removeprefix("validation_"): value for key, value in epoch.items() if key.startswith("validation_")}
    loss = found.pop("loss", None)
    shown = next(iter(found.items()), ("loss", loss))
    value = as_number(shown[1])
    return UNKNOWN if value is None else f"{shown[0].replace('_', ' ')} {numbers.plain(value)}"


def _size(sizes: Mapping[str, Any]) -> str:
    return numbers.size(as_number(sizes.get("gzip_bytes")) or None)


def _kernels(phase: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rounded = {(item.get("layer"), item.get("number")): item for item in mappings(phase.get("rounded"))}
    rows: list[tuple[str, ...]] = []
    for kernel in mappings(phase.get("kernels")):
        after = rounded.get((kernel.get("layer"), kernel.get("number")), {})
        rows.append(
            (
                str(kernel.get("layer") or ""),
                "×".join(str(size) for size in kernel.get("shape") or []),
                numbers.percent(as_number(kernel.get("zeros")), 1),
                numbers.count(kernel.get("values")),
                numbers.percent(as_number(after.get("zeros")), 1) if after else UNKNOWN,
                numbers.count(after.get("channel_values")) if after else UNKNOWN,
            )
        )
    return rows
