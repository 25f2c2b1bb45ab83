"""Checks: is a variant still the model that was trained, how fast is it, and what does its file hold?

    report = check_parity(session, inputs, reference, targets, task="classification", quantization="int8")
    comparison = compare_models("a.tflite", "b.tflite")
    print(render(inspect_model("model.tflite")))

Importing this package is cheap; no module in it imports Keras or TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dl.checks.inspection import ModelReport, inspect_bytes, inspect_model, render
    from edge_dl.checks.latency import LatencyReport, bench_models, compare_models, measure_model
    from edge_dl.checks.limits import DEFAULT_LIMITS, limits_for
    from edge_dl.checks.parity import check_parity
    from edge_dl.checks.pipeline import run_bench, run_verify, verify_bundle, verify_model
    from edge_dl.checks.selection import Candidate, Selection, select
    from edge_dl.checks.turns import Comparison, Settings, Speed, compare
    from edge_dl.checks.verdicts import (
        ChangedAnswer,
        Check,
        MetricComparison,
        OutputParity,
        ParityReport,
        Verdict,
    )
    from edge_dl.checks.weights import check_weights

_WHERE = {
    "inspection": ("ModelReport", "inspect_bytes", "inspect_model", "render"),
    "latency": ("LatencyReport", "bench_models", "compare_models", "measure_model"),
    "limits": ("DEFAULT_LIMITS", "limits_for"),
    "parity": ("check_parity",),
    "pipeline": ("run_bench", "run_verify", "verify_bundle", "verify_model"),
    "selection": ("Candidate", "Selection", "select"),
    "turns": ("Comparison", "Settings", "Speed", "compare"),
    "verdicts": ("ChangedAnswer", "Check", "MetricComparison", "OutputParity", "ParityReport", "Verdict"),
    "weights": ("check_weights",),
}  # fmt: skip
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "DEFAULT_LIMITS",
    "Candidate",
    "ChangedAnswer",
    "Check",
    "Comparison",
    "LatencyReport",
    "MetricComparison",
    "ModelReport",
    "OutputParity",
    "ParityReport",
    "Selection",
    "Settings",
    "Speed",
    "Verdict",
    "bench_models",
    "check_parity",
    "check_weights",
    "compare",
    "compare_models",
    "inspect_bytes",
    "inspect_model",
    "limits_for",
    "measure_model",
    "render",
    "run_bench",
    "run_verify",
    "select",
    "verify_bundle",
    "verify_model",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(importlib.import_module(f"edge_dl.checks.{_MODULE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
