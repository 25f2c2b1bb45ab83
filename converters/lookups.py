"""Tables that GATHER reads, such as an embedding's, as int8: the converters leave them float."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from edge_dl.converters.repairs import builtin_code, drop_unused_tensors, int8_copy, opcode, raise_min_runtime_version
from edge_dl.converters.tensors import is_constant, operator_name, type_name, type_number

# TensorFlow's op_version.cc: the versions that know int8, both from the same release.
GATHER_INT8_VERSION = DEQUANTIZE_INT8_VERSION = 2
LOOKUP_RUNTIME = "1.14.0"


def quantize_lookups(model: Any) -> int:
    """Let GATHER read rows of int8 from a constant float32 matrix, and a DEQUANTIZE make them float again.

    The table is stored once, symmetric with one scale, so that a row looked up differs from its float32 by at most
    half a step of max |table| / 127. A table that is used in any other way too is kept beside it.

    Args:
        model: a `ModelT`; changed in place.

    Returns:
        How many GATHER operators were changed.
    """
    int8 = type_number("INT8")
    changed = 0
    for subgraph in model.subgraphs:
        operators: list[Any] = []
        tables: dict[int, int] = {}
        for operator in subgraph.operators:
            operators.append(operator)
            if not _is_lookup(model, subgraph, operator):
                continue
            table = int(operator.inputs[0])
            if table not in tables:
                tables[table] = len(subgraph.tensors)
                subgraph.tensors.append(int8_copy(model, subgraph.tensors[table], int8))
            floats = int(operator.outputs[0])
            rows = copy.copy(subgraph.tensors[floats])
            rows.type = int8
            rows.name = (rows.name or b"rows") + b"/int8"
            rows.quantization = copy.copy(subgraph.tensors[tables[table]].quantization)
            operator.inputs[0] = tables[table]
            operator.outputs[0] = len(subgraph.tensors)
            operator.opcodeIndex = opcode(model, operator.opcodeIndex, GATHER_INT8_VERSION)
            operators.append(_dequantize(model, len(subgraph.tensors), floats))
            subgraph.tensors.append(rows)
            changed += 1
        subgraph.operators = operators
    if changed:
        raise_min_runtime_version(model, LOOKUP_RUNTIME)
        drop_unused_tensors(model)
    return changed


def _is_lookup(model: Any, subgraph: Any, operator: Any) -> bool:
    if operator_name(model, operator.opcodeIndex) != "GATHER":
        return False
    table = subgraph.tensors[int(operator.inputs[0])]
    return type_name(table.type) == "float32" and is_constant(model, table) and len(table.shape) == 2


def _dequantize(model: Any, source: int, target: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex = builtin_code(model, "DEQUANTIZE", DEQUANTIZE_INT8_VERSION)
    operator.inputs = np.array([source], np.int32)
    operator.outputs = np.array([target], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    return operator
