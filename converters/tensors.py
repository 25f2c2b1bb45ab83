"""Reading .tflite files: operators, weights, signatures.

The file format is TensorFlow Lite's FlatBuffer schema (schema.fbs), through the object API that ai-edge-litert ships.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import DTYPES, Signature, StateSpec, TensorSpec
from edge_dl.checks.counting import WEIGHT_TYPES
from edge_dl.errors import UsageError

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
MIN_WEIGHT_ELEMENTS = 32
ELEMENTWISE = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "SELECT", "SELECT_V2")


@dataclass(frozen=True)
class WeightCount:
    """How many elements of constant matrices a file stores, by element type.

    Attributes:
        elements: type name ("float32", "int8", "int4", ..) -> elements.
        nan: names of constants that hold NaN.
    """

    elements: Mapping[str, int]
    nan: tuple[str, ...]

    def share(self, *types: str) -> float:
        """Share of all elements that are of one of `types`; 1.0 when there is no matrix."""
        total = sum(self.elements.values())
        return 1.0 if not total else sum(self.elements.get(name, 0) for name in types) / total


def read(model: str | Path | bytes) -> Any:
    """Parse a .tflite into the schema's object form (`ModelT`).

    Raises:
        UsageError: it is not a .tflite file.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    data = bytes(model) if isinstance(model, (bytes, bytearray)) else Path(model).read_bytes()
    if data[4:8] != b"TFL3":
        raise UsageError(
            "A .tflite file carries the identifier TFL3.",
            received=str(model) if isinstance(model, (str, Path)) else f"{len(data)} bytes of something else",
        )
    try:
        return flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    except Exception as error:  # The generated reader indexes wherever the bytes point.
        raise UsageError("A .tflite file must be whole.", received=f"{type(error).__name__}: {error}") from None


def used_buffers(model: Any) -> set[int]:
    """Indices of the buffers that tensors and metadata refer to; 0 is the empty one."""
    used = {0}
    for subgraph in model.subgraphs:
        used |= {int(tensor.buffer) for tensor in subgraph.tensors}
    used |= {int(entry.buffer) for entry in model.metadata or []}
    return used


def operator_names(model: Any) -> Counter[str]:
    """How often each operator occurs, over all subgraphs; custom operators by their own name."""
    return Counter(
        operator_name(model, operator.opcodeIndex) for graph in model.subgraphs for operator in graph.operators
    )


def operator_name(model: Any, index: int) -> str:
    """Name of an operator code: a builtin's name in the schema, or the custom operator's own."""
    code = model.operatorCodes[index]
    if code.customCode:
        return code.customCode.decode() if isinstance(code.customCode, bytes) else str(code.customCode)
    return _names("BuiltinOperator").get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")


def custom_operators(model: Any) -> list[str]:
    """Names of the operators that are not TFLite builtins; Flex operators begin with "Flex"."""
    return sorted(
        {
            operator_name(model, operator.opcodeIndex)
            for graph in model.subgraphs
            for operator in graph.operators
            if model.operatorCodes[operator.opcodeIndex].customCode
        }
    )


def type_name(number: int) -> str:
    """Lower-case name of a tensor type of the schema, e.g. "int8"."""
    return _names("TensorType")[number].lower()


def _names(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enumeration)).items() if not name.startswith("_")}


def count_weights(model: Any) -> WeightCount:
    """Count the elements of constant matrices by type.

    A weight is a constant with two or more axes that are not 1, at least `MIN_WEIGHT_ELEMENTS` elements, and more than
    one value; shape arguments, biases, blocks of zeros, masks and what is only added or multiplied element by element
    (the encoding of positions, say) are none.
    """
    elements: Counter[str] = Counter()
    nan = []
    seen = set()
    plain = _only_elementwise(model)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data) or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            name = type_name(tensor.type)
            raw = np.asarray(data, np.uint8).tobytes()
            if name in ("float32", "float16") and np.isnan(np.frombuffer(raw, name)).any():
                nan.append((tensor.name or b"?").decode())
            shape = [int(size) for size in tensor.shape] if tensor.shape is not None else []
            count = int(np.prod(shape, dtype=np.int64))
            if sum(size > 1 for size in shape) < 2 or count < MIN_WEIGHT_ELEMENTS:
                continue
            if raw == raw[:4] * (len(raw) // 4) or name not in WEIGHT_TYPES or tensor.buffer in plain:
                continue
            elements[name] += count
    return WeightCount(dict(elements), tuple(nan))


def _only_elementwise(model: Any) -> set[int]:
    """Buffers that nothing but element-wise operators read."""
    elementwise: set[int] = set()
    others: set[int] = set()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            readers = elementwise if operator_name(model, operator.opcodeIndex) in ELEMENTWISE else others
            readers |= {int(subgraph.tensors[int(index)].buffer) for index in operator.inputs if int(index) >= 0}
    return elementwise - others


def dense_rows(model: Any) -> tuple[int, int]:
    """Elements and rows (output units) of all constant FULLY_CONNECTED weights."""
    elements = rows = 0
    seen = set()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            if operator_name(model, operator.opcodeIndex) != "FULLY_CONNECTED":
                continue
            weight = subgraph.tensors[int(operator.inputs[1])]
            if is_constant(model, weight) and weight.buffer not in seen:
                seen.add(weight.buffer)
                elements += int(np.prod(weight.shape, dtype=np.int64))
                rows += int(weight.shape[0])
    return elements, rows


def min_runtime_version(model: Any) -> str:
    """The converter's statement of the oldest TFLite runtime; "" when the file holds none."""
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version":
            return bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
    return ""


def signature_of(model: Any, states: Iterable[Mapping[str, Any]] = (), key: str = "") -> Signature:
    """What a file takes and gives, with the scales that it was given.

    Args:
        model: a `ModelT`.
        states: pairs of input and output that are a state, each with keys "input" and "output", and "silent" and
            "initial" where it has them.
        key: the signature's key; empty: the only one. A file without signatures gets "predict" and its tensors' names.

    Raises:
        UsageError: there is no such signature, or a tensor has a type that no bundle knows.
    """
    definitions = {text_of(item.signatureKey): item for item in model.signatureDefs or []}
    if not definitions and not key:
        graph = model.subgraphs[0]
        inputs = {text_of(graph.tensors[i].name): graph.tensors[i] for i in graph.inputs}
        outputs = {text_of(graph.tensors[i].name): graph.tensors[i] for i in graph.outputs}
        key = "predict"
    else:
        key = key or next(iter(definitions))
        if key not in definitions:
            raise UsageError("The signature must exist in the file.", received=f"{key!r} of {sorted(definitions)}")
        definition = definitions[key]
        tensors = model.subgraphs[definition.subgraphIndex].tensors
        inputs = {text_of(item.name): tensors[item.tensorIndex] for item in definition.inputs}
        outputs = {text_of(item.name): tensors[item.tensorIndex] for item in definition.outputs}
    states = list(states)
    pairs = [(state["input"], state["output"]) for state in states]
    state_specs = []
    for (name, result), state in zip(pairs, states, strict=True):
        source, target = _tensor_spec(name, inputs[name]), _tensor_spec(result, outputs[result])
        state_specs.append(
            StateSpec(
                input=name,
                output=result,
                shape=source.shape,
                dtype=source.dtype,
                scale=source.scale,
                zero_point=source.zero_point,
                output_scale=target.scale,
                output_zero_point=target.zero_point,
                silent=int(state.get("silent", 0)),
                initial=str(state.get("initial", "")),
            )
        )
    hidden_inputs, hidden_outputs = {name for name, _ in pairs}, {name for _, name in pairs}
    return Signature(
        key=key,
        inputs=tuple(_tensor_spec(name, tensor) for name, tensor in inputs.items() if name not in hidden_inputs),
        outputs=tuple(_tensor_spec(name, tensor) for name, tensor in outputs.items() if name not in hidden_outputs),
        states=tuple(state_specs),
    )


def text_of(value: Any) -> str:
    """A name in the file as text; files hold bytes."""
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _tensor_spec(name: str, tensor: Any) -> TensorSpec:
    dtype = type_name(tensor.type)
    if dtype not in DTYPES:
        raise UsageError(f"Inputs and outputs must be one of {', '.join(DTYPES)}.", received=f"{name}: {dtype}")
    scale, zero = scale_of(tensor)
    return TensorSpec(name, tuple(int(size) for size in tensor.shape), dtype, scale, zero)


def scale_of(tensor: Any) -> tuple[float, int]:
    """Scale and zero point of a tensor that is quantized as a whole; (0.0, 0) when it is not quantized."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return 0.0, 0
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor holds data of its own."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def type_number(name: str) -> int:
    """Number of a tensor type in the schema, by its upper-case name."""
    from ai_edge_litert import schema_py_generated as schema

    return int(getattr(schema.TensorType, name))
