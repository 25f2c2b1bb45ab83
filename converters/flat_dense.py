"""Dense layers on sequences as matrix products, in int16: other shapes are computed wrongly by many runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_dl.converters.repairs import builtin_code, constant
from edge_dl.converters.tensors import operator_name, type_name

DENSE = "FULLY_CONNECTED"


def flatten_int16_dense(model: Any) -> int:
    """Let every int16 FULLY_CONNECTED give a matrix, and a RESHAPE what it gave before; how many were changed.

    With one scale a row, the kernel of TFLite up to 2.16.2 (also on Android) and ai-edge-litert 1.0.1 takes the first
    two axes of its output for rows and columns: of (1, 8, 256) it fills a few numbers and leaves the rest as memory
    was. Nothing is refused, and the answers are wrong. Measured; ai-edge-litert 2.3.0 is right either way.

    Args:
        model: changed in place.
    """
    from ai_edge_litert import schema_py_generated as schema

    changed = 0
    for subgraph in model.subgraphs:
        operators = []
        for operator in subgraph.operators:
            operators.append(operator)
            if operator_name(model, operator.opcodeIndex) != DENSE:
                continue
            output = subgraph.tensors[int(operator.outputs[0])]
            if type_name(output.type) != "int16" or len(output.shape) < 3:
                continue
            matrix = schema.TensorT()
            matrix.type, matrix.quantization = output.type, output.quantization
            matrix.shape = np.array([int(np.prod(output.shape[:-1])), output.shape[-1]], np.int32)
            matrix.hasRank, matrix.buffer = True, 0
            matrix.name = (output.name or b"") + b"/matrix"
            subgraph.tensors.append(matrix)
            reshape = schema.OperatorT()
            reshape.opcodeIndex = builtin_code(model, "RESHAPE", 1)
            shape = np.asarray(output.shape, np.int32)
            reshape.inputs = np.array(
                [len(subgraph.tensors) - 1, constant(model, subgraph, "INT32", shape, [len(shape)])], np.int32
            )
            reshape.outputs = np.array([int(operator.outputs[0])], np.int32)
            reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            reshape.builtinOptions = schema.ReshapeOptionsT()
            reshape.builtinOptions.newShape = shape
            operator.outputs = np.array([int(reshape.inputs[0])], np.int32)
            operator.builtinOptions.keepNumDims = False
            operators.append(reshape)
            changed += 1
        subgraph.operators = operators
    return changed
