"""The path to a mix of precisions that holds an accuracy budget: rows for the page, the Markdown and the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import UNKNOWN, as_number
from edge_dl.report.variant_results import mapping, mappings

HEADS = ("candidate", "not in int8", "on validation", "loses", "size", "a sample, roughly", "budget")


def mix_sections(variants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By variant with a path: "name", "rows" of texts under `HEADS`, the row that was taken marked by "chosen".

    Args:
        variants: `variants` of results.json.
    """
    sections = []
    for variant in variants:
        steps = mappings(variant["conversion"].get("path"))
        if steps:
            rows = [_row(step, place) for place, step in enumerate(steps, 1)]
            sections.append({"name": variant["name"], "rows": rows})
    return sections


def _row(step: Mapping[str, Any], place: int) -> dict[str, Any]:
    operators = [
        f"{precision}: {', '.join(map(str, names))}" for precision, names in mapping(step.get("operators")).items()
    ]
    unit = str(step.get("unit") or "")
    drop = step.get("drop")
    if step.get("status") != "done":
        verdict = f"{step.get('status')}: {step.get('message')}"
    else:
        verdict = "holds" if step.get("holds") else "over"
    return {
        "chosen": bool(step.get("chosen")),
        "cells": [
            f"{place}. {step.get('what') or ''}",
            "; ".join(operators) or "nothing",
            numbers.metric(step.get("value"), unit),
            UNKNOWN if drop is None else numbers.percent(drop, 2),
            numbers.size(step.get("bytes") or None),
            UNKNOWN if (ms := as_number(step.get("ms"))) is None else numbers.duration(ms / 1e3),
            verdict,
        ],
    }
