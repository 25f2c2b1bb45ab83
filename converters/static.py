"""Static quantization of a finished float32 .tflite by ai-edge-quantizer, each operator in a precision of its own.

Where operators of two precisions meet, the quantizer puts a QUANTIZE (integers to other integers, or floats to
integers) or a DEQUANTIZE between them; the runtime has kernels for all of these (measured with LiteRT 2.3: an int16
convolution between int8 ones).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from edge_dl.converters import packing, repairs, tensors


class Precision(str, Enum):
    """How one operator computes, the cheapest first."""

    INT8 = "int8"
    INT16X8 = "int16x8"  # int16 activations, int8 weights
    FLOAT32 = "float32"


def quantize_static(
    content: bytes,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    precision: Precision = Precision.INT8,
    exceptions: Mapping[int, Precision] | None = None,
    weights_only: Sequence[int] = (),
    rows: bool = True,
    integer_io: bool = False,
) -> bytes:
    """Quantize weights (one scale a channel) and activations.

    Args:
        content: the float32 .tflite, with one signature in its main graph.
        feeds: calibration samples as the signature takes them, by input name. The smallest and the largest value of
            all samples count: the tool's default, a moving average, cuts off what is rare.
        precision: of every operator that has such a kernel; the others stay float32.
        exceptions: by an operator's number in the main graph, another precision; where the operator has no such kernel,
            it keeps the general one.
        weights_only: numbers of FULLY_CONNECTED operators with int8 weights that take and give floats.
        rows: whether those have one scale a row, or one a matrix.
        integer_io: whether integers are taken and given at the model's edge.
    """
    from ai_edge_quantizer import qtyping, quantizer

    content = with_unique_names(content)
    ranges = _ranges(content, feeds)
    # What nothing reads gets no scale, and the kernels of SPLIT ask for one.
    exceptions = {**(exceptions or {}), **dict.fromkeys(_unread(tensors.read(content)), Precision.FLOAT32)}
    tool = quantizer.Quantizer(bytearray(content))
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    if precision is not Precision.FLOAT32:
        tool.add_static_config(".*", everything, *_bits(precision))
    for other in Precision:
        chosen = [number for number, wanted in exceptions.items() if wanted is other]
        if not chosen:
            continue
        pattern = pattern_of(content, chosen)
        if other is Precision.FLOAT32:
            leave_float(tool, pattern)
        else:
            tool.add_static_config(pattern, everything, *_bits(other))
    if weights_only:
        granularity = qtyping.QuantGranularity.CHANNELWISE if rows else qtyping.QuantGranularity.TENSORWISE
        dense = qtyping.TFLOperationName.FULLY_CONNECTED
        tool.add_dynamic_config(pattern_of(content, weights_only), dense, 8, granularity)
    if not integer_io:
        # The last rule that matches counts, and the edge has the scope of the operator that stands there: a pattern of
        # its own comes after all of the others.
        for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            tool.update_quantization_recipe("(?:.*)", edge, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    result = tool.quantize(ranges, enable_progress_report=False, enable_progress_bar=False)
    return bytes(result.quantized_model)


def leave_float(tool: Any, pattern: str) -> None:
    """Tell an ai-edge-quantizer's `Quantizer` to leave the operators that `pattern_of` named as they are."""
    from ai_edge_quantizer import qtyping, quantizer

    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    tool.update_quantization_recipe(pattern, everything, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)


def pattern_of(content: bytes, numbers: Iterable[int]) -> str:
    """The regular expression by which ai-edge-quantizer finds operators `numbers` of the main graph, and no others.

    Args:
        content: a float32 .tflite with a name of its own for every tensor (`with_unique_names`).
        numbers: the operators.
    """
    scopes = _scopes(content)
    return _exactly(scopes[number] for number in numbers)


def with_unique_names(content: bytes) -> bytes:
    """The file with a name of its own for every tensor, as ai-edge-quantizer needs; operators keep their numbers."""
    model = tensors.read(content)
    return packing.pack(model) if repairs.make_names_unique(model) else content


def has_kernel(kind: str, precision: Precision) -> bool:
    """Whether ai-edge-quantizer knows an operator (its name in the schema) in a precision."""
    from ai_edge_quantizer import algorithm_manager, qtyping
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    if precision is Precision.FLOAT32:
        return True
    number = getattr(qtyping.BuiltinOperator, kind, None)
    name = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(number)
    if name is None:
        return False
    try:
        algorithm_manager.check_op_quantization_config(
            algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT, name, _config(precision)
        )
    except ValueError:
        return False
    return True


def _bits(precision: Precision) -> tuple[int, int]:
    """Bits of activations and of weights."""
    return (16, 8) if precision is Precision.INT16X8 else (8, 8)


def _config(precision: Precision) -> Any:
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.recipe_manager import RecipeManager

    manager = RecipeManager()
    manager.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, *_bits(precision))
    return manager.get_quantization_configs(qtyping.TFLOperationName.FULLY_CONNECTED, "any")[1]


def _scopes(content: bytes) -> list[str]:
    """What ai-edge-quantizer calls each operator of the main graph."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    graph = tensors.read(content).subgraphs[0]
    return [tfl_flatbuffer_utils.get_op_scope(operator, graph.tensors) for operator in graph.operators]


def _exactly(texts: Iterable[str]) -> str:
    return f"^(?:{'|'.join(map(re.escape, texts))})$"


_calibrated: dict[str, Any] = {}  # Ranges of the last file and samples: a search asks for the same again and again.


def _ranges(content: bytes, feeds: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """Smallest and largest value of every tensor over the samples, as ai-edge-quantizer keeps them."""
    from ai_edge_quantizer import calibrator, recipe
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils import qsv_utils

    digest = hashlib.sha256(content)
    for feed in feeds:
        for name, value in feed.items():
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    key = digest.hexdigest()
    if key not in _calibrated:
        manager = RecipeManager()
        manager.load_quantization_recipe(recipe.static_wi8_ai8())
        observer = calibrator.Calibrator(_all_kept(content), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        observer.calibrate({tensors.signature_of(tensors.read(content)).key: list(feeds)}, manager)
        _calibrated.clear()
        _calibrated[key] = observer.get_model_qsvs()
    return _calibrated[key]


def _all_kept(content: bytes) -> bytes:
    """The file with what no operator reads among its outputs, so that a runtime keeps it for the calibrator."""
    model = tensors.read(content)
    graph = model.subgraphs[0]
    unread = sorted(set().union(*_unread(model).values()))
    if not unread:
        return content
    graph.outputs = [*map(int, graph.outputs), *unread]
    return packing.pack(model)


def _unread(model: Any) -> dict[int, set[int]]:
    """By number, operators of the main graph with several outputs, and those of them that nothing reads.

    Unrolled recurrent layers have such: a first step starts from zeros, and has nothing to forget.
    """
    graph = model.subgraphs[0]
    read = {int(index) for operator in graph.operators for index in operator.inputs} | set(map(int, graph.outputs))
    found = {number: set(map(int, item.outputs)) - read for number, item in enumerate(graph.operators)}
    return {number: unread for number, unread in found.items() if unread}
