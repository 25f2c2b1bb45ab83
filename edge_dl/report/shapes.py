"""What the report reads from each file of a run folder, and a sieve that lets nothing else through.

Files may come from another version, another tool or a damaged disk. A field of the wrong type is dropped here, once,
so that the rest of the report only has to expect that a field is missing.
"""

from __future__ import annotations

from typing import Any

from edge_dl.report.numbers import as_number

# A shape is str, bool or float (any finite number), [shape] (a list), {"*": shape} (a mapping with any keys), or a
# mapping of known keys. Keys that a shape does not name pass as they are: nothing here reads them.
ANY_NUMBERS = {"*": float}
TENSOR = {"name": str, "input": str, "dtype": str, "shape": [float]}
SPLIT = {"samples": float}

RUN = {
    "recipe": {
        "name": str,
        "summary": str,
        "task": str,
        "training": {"seed": float},
        "conversion": {"lowerings": [str]},
    },
    "command": [str],
    "versions": {"*": str},
    "git": str,
    "machine": {"system": str, "release": str, "architecture": str, "processor": str, "cores": float},
    "stages": {"*": {"status": str, "error": str, "seconds": float}},
    "model": {"path": str},
}
DATASET = {
    "name": str,
    "task": str,
    "labels": [str],
    "synthetic": bool,
    "source": str,
    "licence": str,
    "sha256": str,
    "vocabulary": [str],
    "notes": [str],
    "splits": {"train": SPLIT, "validation": SPLIT, "test": SPLIT},
}
HISTORY = {
    "epochs": [ANY_NUMBERS],
    "backend": str,
    "device": str,
    "precision": str,
    "parameters": float,
    "best_epoch": float,
    "samples_per_second": float,
}
_KERNEL = {
    "layer": str,
    "number": float,
    "kind": str,
    "shape": [float],
    "weights": float,
    "zeros": float,
    "values": float,
    "channel_values": float,
}
_SIZES = {"bytes": float, "gzip_bytes": float}
COMPRESSION = {
    "methods": [str],
    "weights": {"before": _SIZES, "after": _SIZES},
    "phases": [
        {
            "method": str,
            "touched": [str],
            "left_alone": {"*": str},
            "zeros": float,
            "kernels": [_KERNEL],
            "rounded": [_KERNEL],
            **_SIZES,
        }
    ],
    "metrics": [
        {
            "name": str,
            "unit": str,
            "output": str,
            "higher_is_better": bool,
            "relative": bool,
            "reference": float,
            "variant": float,
            "drop": float,
            "low": float,
            "high": float,
            "max_drop": float,
            "verdict": str,
        }
    ],
}
COMPRESSION_HISTORY = {"trained": ANY_NUMBERS, "phases": [{"method": str, "epochs": [ANY_NUMBERS]}]}
GRADIENT_FLOW = {"steps": [float], "curves": {"*": [float]}}
PLAN = {"left_out": {"*": str}}
OUTCOME = {
    "lowering": str,
    "quantization": str,
    "status": str,
    "message": str,
    "todo": str,
    "signal": str,
    "seconds": float,
    "gzip_bytes": float,
    "tool": str,
    "notes": [str],
    "log": [str],
    "path": [
        {
            "what": str,
            "operators": {"*": [str]},
            "status": str,
            "message": str,
            "metric": str,
            "unit": str,
            "value": float,
            "reference": float,
            "drop": float,
            "holds": bool,
            "bytes": float,
            "ms": float,
            "samples": float,
            "chosen": bool,
        }
    ],
}
MANIFEST = {
    "lowering": str,
    "quantization": str,
    "files": {"*": {"bytes": float}},
    "signature": {"inputs": [TENSOR], "outputs": [TENSOR], "states": [TENSOR]},
    "limits": ANY_NUMBERS,
    "made_by": {"*": str},
    "min_runtime_version": str,
}
_SCORE = {
    "name": str,
    "reference": float,
    "reference_low": float,
    "reference_high": float,
    "variant": float,
    "variant_low": float,
    "variant_high": float,
    "signature": str,
}
_SENTENCE = {
    "row": float,
    "source": str,
    "references": [str],
    "reference": str,
    "variant": str,
    "position": float,
    "edits": float,
}
TRANSLATION = {
    "sentences": float,
    "references": float,
    "shortened": float,
    "unended_reference": float,
    "unended_variant": float,
    "identical": float,
    "positions": ANY_NUMBERS,
    "scores": [_SCORE],
    "confidence": float,
    "lengths": [{"shortest": float, "longest": float, "sentences": float, "score": _SCORE}],
    "worst": [_SENTENCE],
    "samples": [_SENTENCE],
    "alignments": [{"source": [str], "target": [str], "weights": [[float]]}],
    "seconds": float,
}
PARITY = {
    "verdict": str,
    "message": str,
    "samples": float,
    "checks": [{"name": str, "verdict": str, "message": str, "output": str, "value": float, "limit": float}],
    "outputs": [
        {
            "name": str,
            "max_abs": float,
            "mean_abs": float,
            "rmse": float,
            "cosine": float,
            "snr_db": float,
            "top1": float,
            "worst": [{"index": float, "max_abs": float}],
        }
    ],
    "metrics": [
        {
            "name": str,
            "unit": str,
            "output": str,
            "higher_is_better": bool,
            "reference": float,
            "variant": float,
            "drop": float,
            "relative": bool,
            "low": float,
            "high": float,
            "confidence": float,
            "max_drop": float,
            "verdict": str,
            "samples": float,
        }
    ],
    "changed": [
        {
            "index": float,
            "step": float,
            "reference": float,
            "variant": float,
            "target": float,
            "reference_label": str,
            "variant_label": str,
            "target_label": str,
        }
    ],
    "changed_count": float,
    "confusion": [[float]],
    "reference_confusion": [[float]],
    "labels": [str],
    "limits": ANY_NUMBERS,
    "baselines": {"*": ANY_NUMBERS},
    "weight_bytes": ANY_NUMBERS,
    "translation": TRANSLATION,
    "error": str,
}
TOLD = {
    "runtime": str,
    "version": str,
    "machine": {"architecture": str, "processor": str},
    "p50_ms": float,
    "p90_ms": float,
    "p99_ms": float,
    "mean_ms": float,
    "load_ms": float,
    "steady": bool,
}
ANSWERED = {"target": str, "address": str, "model": str, "error": str, "received": str, "todo": str}
TARGET = {
    **ANSWERED,
    "emulated": bool,
    "parity": PARITY,
    "differences": [
        {
            "name": str,
            "elements": float,
            "max_abs": float,
            "differing": float,
            "scale": float,
            "steps": ANY_NUMBERS,
        }
    ],
    "local_runtime": str,
    "run": TOLD,
    "seconds": float,
}
TARGET_LATENCY = {**ANSWERED, "meaningful": bool, "timing": TOLD}
LATENCY = {
    "p50_ms": float,
    "p90_ms": float,
    "p99_ms": float,
    "load_ms": float,
    "first_call_ms": float,
    "peak_memory_mb": float,
    "memory_before_mb": float,
    "steady": bool,
    "threads": float,
    "runtime": str,
    "runtime_version": str,
    "error": str,
}
COMPARISONS = {
    "baseline": str,
    "comparisons": [{"a": str, "b": str, "ratio": float, "low": float, "high": float, "verdict": str}],
    "errors": {"*": str},
}
SELECTION = {
    "chosen": str,
    "rows": [
        {
            "variant": str,
            "quantization": str,
            "verdict": str,
            "p50_ms": float,
            "bytes": float,
            "chosen": bool,
            "reason": str,
        }
    ],
}


def sieve(value: Any, shape: Any) -> Any:
    """`value` without what does not have the `shape`; None where nothing of it does.

    In a mapping a wrong field is left out. In a list of mappings, lists or texts a wrong item is left out; in a list
    of numbers it becomes None, so that every number keeps its place.
    """
    if shape is float:
        return value if as_number(value) is not None else None
    if isinstance(shape, type):
        return value if isinstance(value, shape) else None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return None
        items = [sieve(item, shape[0]) for item in value]
        return items if shape[0] is float else [item for item in items if item is not None]
    if not isinstance(value, dict):
        return None
    kept = {}
    for key, item in value.items():
        expected = shape.get(key, shape.get("*"))
        found = item if expected is None else sieve(item, expected)
        if found is not None or item is None:
            kept[key] = found
    return kept
