"""What the worker process does in the search for a mix: rank operators, make a candidate, hold it against the budget.

Functions from JSON values to JSON values, as in `edge_dl.converters.jobs`; the search itself is
`edge_dl.converters.budget`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import MODEL
from edge_dl.checks.graph import Subgraph, read_graph
from edge_dl.checks.jobs import chosen_inputs, split_case
from edge_dl.checks.layers import LayerError, measure_layers
from edge_dl.checks.parity import check_parity
from edge_dl.converters.jobs import make_variant
from edge_dl.converters.static import Precision, has_kernel
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, save_npz
from edge_dl.names import values_under
from edge_dl.recipe import ChecksConfig
from edge_dl.runtime import open_session, predict_all

SPLIT = "validation"
# 0.61 - 0.60 is a little more than 0.01: a loss of just the budget holds it.
ROUNDING = 1e-9
RANKING_SAMPLES = 16
# These pass numbers on: between operators in a wider type they would round to int8 what was just kept.
PASSING_ON = (
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D", "PAD", "PADV2", "MIRROR_PAD", "SLICE",
    "STRIDED_SLICE", "SPLIT", "SPLIT_V", "CONCATENATION", "PACK", "UNPACK", "GATHER", "GATHER_ND", "SPACE_TO_DEPTH",
    "DEPTH_TO_SPACE", "RESIZE_NEAREST_NEIGHBOR", "BROADCAST_TO",
)  # fmt: skip


def make_reference(run: str, arguments: Mapping[str, Any], answers: str) -> dict[str, Any]:
    """Make the float32 variant, and write its answers to the held-out split.

    Args:
        run: the run folder.
        arguments: of `jobs.make_variant`, for the float32 variant.
        answers: .npz to write, y/<output>.

    Raises:
        UsageError: the run holds no validation split.
    """
    data = Path(run) / "data" / f"{SPLIT}.npz"
    if not data.is_file():
        raise UsageError(
            "An accuracy budget is held on the validation split.",
            received=f"no {data}",
            todo="Give data with a validation part, or set data.validation above 0.",
        )
    made = make_variant(**arguments)
    inputs = _inputs(arguments["folder"], data)
    outputs = predict_all(arguments["folder"], inputs, processes=0)
    save_npz(answers, {f"y/{name}": value for name, value in outputs.items()})
    return {"bytes": made["bytes"], "samples": len(next(iter(inputs.values())))}


def try_mix(
    run: str, arguments: Mapping[str, Any] | None, bundle: str, answers: str, max_drop: float
) -> dict[str, Any]:
    """Make one candidate and hold it against the budget on the held-out split.

    Args:
        run: the run folder.
        arguments: of `jobs.make_variant`; None: the bundle is there already.
        bundle: the candidate's folder.
        answers: .npz of the float32 variant's answers.
        max_drop: the budget.

    Returns:
        What `jobs.summary` says of it ("made"), and "metric", "unit", "value", "reference", "drop", "holds", "bytes",
        "ms" (a sample's time on this machine, roughly), "samples".

    Raises:
        UsageError: the held-out split has no true answers, so that there is no metric.
    """
    made = make_variant(**arguments) if arguments else {}
    case = split_case(run, bundle, SPLIT, answers, ChecksConfig(max_drop=max_drop))
    started = time.perf_counter()
    outputs = predict_all(bundle, case["inputs"], processes=0)
    seconds = time.perf_counter() - started
    report = check_parity(open_session(bundle), outputs=outputs, **case)
    held = [metric for metric in report.metrics if metric.verdict is not None and metric.drop is not None]
    finite = all(check.verdict.value == "pass" for check in report.checks if check.name == "finite")
    if finite and not held:
        raise UsageError(
            "An accuracy budget needs true answers to hold a metric against.",
            received=f"a {SPLIT} split without",
            todo="Give data with targets.",
        )
    worst = max(held, key=lambda metric: metric.drop or 0.0) if held else None
    return {
        "made": made,
        "metric": worst.name if worst else "",
        "unit": worst.unit if worst else "",
        "value": worst.variant if worst else None,
        "reference": worst.reference if worst else None,
        "drop": worst.drop if worst else None,
        "holds": finite and worst is not None and worst.drop is not None and worst.drop <= max_drop + ROUNDING,
        "bytes": (Path(bundle) / MODEL).stat().st_size,
        "ms": 1e3 * seconds / report.samples,
        "samples": report.samples,
    }


def rank(run: str, bundle: str, reference: str) -> dict[str, Any]:
    """Moves to a wider precision, the most telling first.

    Args:
        run: the run folder.
        bundle: the candidate with every operator in int8.
        reference: the float32 variant.

    Returns:
        "moves": see `find_moves`; "names": by the operators' numbers (as text), what people call them; "operators":
        numbers of all operators that compute.
    """
    inputs = _inputs(bundle, Path(run) / "data" / f"{SPLIT}.npz")
    rows = np.linspace(0, len(next(iter(inputs.values()))) - 1, RANKING_SAMPLES).astype(int)
    report = measure_layers(bundle, reference, {name: value[np.unique(rows)] for name, value in inputs.items()})
    graph = read_graph(Path(reference) / MODEL).subgraphs[0]
    return {
        "moves": find_moves(report.layers, graph),
        "names": {str(layer.reference_number): layer.name.split(";")[0] for layer in report.layers},
        "operators": [layer.reference_number for layer in report.layers],
    }


def find_moves(layers: Sequence[LayerError], graph: Subgraph) -> list[dict[str, Any]]:
    """Moves of operators to a wider precision, in the order of the errors that they take away.

    Rounding an operator's output needs a wider type for the output: the operator, what passes the output on, and who
    reads it compute with int16 activations, which costs no weight. What its weights and inputs lose needs float32 for
    the operator alone. An operator may need both, and each is a move of its own. After all of these, the first kind
    becomes float32 too.

    Args:
        layers: measured operators.
        graph: the float32 model's main graph.

    Returns:
        By move: "operators" (numbers moved), "precision", "share" (of the error at the outputs).
    """
    moves: list[dict[str, Any]] = []
    for layer in layers:
        number, rounding = layer.reference_number, layer.rounding or 0.0
        if layer.share * rounding > 0:
            together = sorted({number, *_readers(graph, number)})
            wide = all(has_kernel(graph.operators[place].name, Precision.INT16X8) for place in together)
            precision = Precision.INT16X8 if wide else Precision.FLOAT32
            moves.append({"operators": together, "precision": precision.value, "share": layer.share * rounding})
        if layer.share * (1 - rounding) > 0:
            alone = {"operators": [number], "precision": Precision.FLOAT32.value}
            moves.append({**alone, "share": layer.share * (1 - rounding)})
    moves.sort(key=lambda move: -move["share"])
    wide_ones = [move for move in moves if move["precision"] == Precision.INT16X8.value]
    return moves + [{**move, "precision": Precision.FLOAT32.value} for move in wide_ones]


def _readers(graph: Subgraph, number: int) -> set[int]:
    """Operators that read an operator's outputs, and those behind what only passes them on."""
    found: set[int] = set()
    waiting = [number]
    while waiting:
        outputs = set(graph.operators[waiting.pop()].outputs)
        for place, operator in enumerate(graph.operators):
            if place not in found and outputs & set(operator.inputs):
                found.add(place)
                if operator.name in PASSING_ON:
                    waiting.append(place)
    return found


def _inputs(bundle: str | Path, data: Path) -> dict[str, np.ndarray]:
    session = open_session(bundle)
    return chosen_inputs(values_under(load_npz(data), "x/"), list(session.inputs), str(data))
