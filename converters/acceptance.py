"""What a converted file must be before it is a variant: it runs, answers with numbers, and holds what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Signature
from edge_dl.checks.weights import WEIGHT_TYPES
from edge_dl.converters import tensors
from edge_dl.converters.messages import one_line
from edge_dl.errors import StageError
from edge_dl.variants import VariantSpec

# A variant may be named after a type when at least this share of its weights has it. What a kernel cannot take in that
# type (a matrix of a few elements, one that an unusual operator reads) may stay.
CLAIMED_SHARE = 0.9


def check_runs(path: Path) -> None:
    """Load a .tflite in LiteRT and call it with zeros, and where it has no answer to zero (a logarithm), with ones.

    Of a file with several signatures, each is called.

    Raises:
        StageError: it does not load, does not run, or answers both with NaN or infinity.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        bad = _not_finite(interpreter, 0) and _not_finite(interpreter, 1)
        keys = interpreter.get_signature_list()
        for key in keys if len(keys) > 1 else ():
            runner = interpreter.get_signature_runner(key)
            bad = bad or (_signature_not_finite(runner, key, 0) and _signature_not_finite(runner, key, 1))
    except (RuntimeError, ValueError) as error:
        raise StageError(
            "A converted file must load and run in LiteRT.",
            stage="convert",
            received=one_line(error, 500),
        ) from error
    if bad:
        raise StageError(
            "A converted file must answer with finite numbers.",
            stage="convert",
            received=f"NaN or infinity in {', '.join(bad)} for an input of zeros and for one of ones",
        )


def _not_finite(interpreter: Any, step: int) -> list[str]:
    """Outputs with NaN or infinity where every input is zero, or as many steps above it, in the input's own type."""
    for detail in interpreter.get_input_details():
        value = detail["quantization"][1] + step
        interpreter.set_tensor(detail["index"], np.full(detail["shape"], min(value, 127), detail["dtype"]))
    interpreter.reset_all_variables()
    interpreter.invoke()
    outputs = {item["name"]: interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()}
    return [name for name, value in outputs.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]


def _signature_not_finite(runner: Any, key: str, step: int) -> list[str]:
    """What `_not_finite` gives, for one signature of several."""
    feed = {
        name: np.full(item["shape"], min(item["quantization"][1] + step, 127), item["dtype"])
        for name, item in runner.get_input_details().items()
    }
    results = runner(**feed)
    return [
        f"{key}/{name}" for name, value in results.items() if value.dtype.kind == "f" and not np.isfinite(value).all()
    ]


def check_claims(spec: VariantSpec, weights: tensors.WeightCount, signature: Signature) -> None:
    """Hold a file against the name of its variant.

    Args:
        spec: what it is called.
        weights: the file's weights, counted.
        signature: what it takes and gives.

    Raises:
        StageError: a weight is NaN, fewer than `CLAIMED_SHARE` of the weights have the type that the name says, or an
            axis of the signature has no fixed size.
    """
    if weights.nan:
        raise StageError(
            "Weights must be numbers.", stage="convert", variant=spec.name, received=f"NaN in {', '.join(weights.nan)}"
        )
    share = weights.share(*WEIGHT_TYPES[spec.quantization])
    if share < CLAIMED_SHARE:
        found = ", ".join(f"{name}: {count}" for name, count in sorted(weights.elements.items()))
        raise StageError(
            f"A variant called {spec.quantization.value} must hold {' or '.join(WEIGHT_TYPES[spec.quantization])} "
            f"weights ({CLAIMED_SHARE:.0%} of all at least).",
            stage="convert",
            variant=spec.name,
            received=f"elements by type: {found}",
            todo="Use another quantization: the converter has no such kernel for this model's operators.",
        )
    free = [item.name for item in (*signature.inputs, *signature.outputs) if any(size < 1 for size in item.shape)]
    if free:
        raise StageError(
            "Every axis must have a fixed size on the device.", stage="convert", received=f"{', '.join(free)}"
        )
