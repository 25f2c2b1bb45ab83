"""A float32 model whose tensors between operators can be set from outside: what does an operator's own error do?

Every float32 tensor that an operator gives passes through `gain * tensor + offset` on its way to whoever reads it,
where `gain` and every `offset` are new inputs of the model. With gain 0 every operator computes alone, from the values
that are given as offsets. With gain 1 the model is the float32 model, with an error of our choice added wherever an
offset is not zero. So both questions of an error analysis, what an operator adds to the error that it is fed with, and
what that does to the model's answers, are answered by the runtime's own kernels.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.checks.traces import RUNTIME
from edge_dl.runtime.agent import find_runtime


class Probe:
    """The rebuilt model.

    Attributes:
        tensors: numbers, in the float32 model's main graph, of the tensors that can be set.
    """

    def __init__(self, model: str | Path) -> None:
        """Rebuild and load a float32 .tflite.

        Args:
            model: the file; it was read by `edge_dl.checks.graph.read_graph` before, so that it is known to be whole.
        """
        content, self._gain, self._offsets, self._outputs = _rebuilt(Path(model).read_bytes())
        self.tensors = tuple(self._offsets)
        # With the default delegate: nothing but inputs and outputs is touched. Tensors are kept for the inputs' sake,
        # whose memory would be used again once they were read.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That keeping tensors is meant for debugging: this is debugging.
            self._native = find_runtime(RUNTIME)[1].Interpreter(
                model_content=content, num_threads=1, experimental_preserve_all_tensors=True
            )
        self._native.allocate_tensors()
        self._zeros = {
            index: np.zeros(self._native.get_tensor(offset).shape, np.float32)
            for index, offset in self._offsets.items()
        }
        self._shifted: set[int] = set(self.tensors)  # Whose offsets are not zero (or not known to be).

    def alone(self, inputs: Mapping[int, np.ndarray], values: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """What every operator gives for values that come from elsewhere.

        Args:
            inputs: the model's inputs by number of the tensor, as they are stored.
            values: by number of the tensor, what its readers are given; one that is missing is all zeros.

        Returns:
            By number of the tensor, what its operator makes of the values that it was given, float32.
        """
        self._run(inputs, 0.0, values)
        return {index: self._native.get_tensor(index) for index in self.tensors}

    def answers(self, inputs: Mapping[int, np.ndarray], errors: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """The float32 outputs that operators give, in the file's order, with errors added to tensors."""
        self._run(inputs, 1.0, errors)
        return [self._native.get_tensor(index) for index in self._outputs]

    def _run(self, inputs: Mapping[int, np.ndarray], gain: float, offsets: Mapping[int, np.ndarray]) -> None:
        native = self._native
        native.reset_all_variables()
        for index, value in inputs.items():
            native.set_tensor(index, value)
        native.set_tensor(self._gain, np.array([gain], np.float32))
        for index in self._shifted - set(offsets):
            native.set_tensor(self._offsets[index], self._zeros[index])
        for index, value in offsets.items():
            native.set_tensor(self._offsets[index], np.ascontiguousarray(value, np.float32))
        self._shifted = set(offsets)
        native.invoke()


def _rebuilt(content: bytes) -> tuple[bytes, int, dict[int, int], list[int]]:
    """The new file; numbers of gain, of offsets by the tensor that they move, and of the float32 outputs."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    model.signatureDefs = None  # They would have to name the new inputs, and nothing here asks for them.
    float32 = int(schema.TensorType.FLOAT32)
    moved = [
        int(index)
        for operator in graph.operators
        for index in operator.outputs
        if int(index) >= 0 and graph.tensors[int(index)].type == float32 and not graph.tensors[int(index)].isVariable
    ]
    gain = _add_tensor(graph, "gain", np.array([1], np.int32), float32)
    offsets: dict[int, int] = {}
    readers: dict[int, int] = {}
    added: dict[int, list[Any]] = {}
    multiply, add = (_code(model, schema, name) for name in ("MUL", "ADD"))
    for index in moved:
        shape = graph.tensors[index].shape
        offsets[index] = _add_tensor(graph, f"offset/{index}", shape, float32)
        scaled = _add_tensor(graph, f"scaled/{index}", shape, float32)
        readers[index] = _add_tensor(graph, f"moved/{index}", shape, float32)
        added[index] = [
            _operator(schema, multiply, [index, gain], scaled, "Mul"),
            _operator(schema, add, [scaled, offsets[index]], readers[index], "Add"),
        ]
    operators = []
    for operator in graph.operators:
        operator.inputs = np.array([readers.get(int(index), int(index)) for index in operator.inputs], np.int32)
        operators.append(operator)
        for index in operator.outputs:
            operators += added.get(int(index), [])
    graph.operators = operators
    outputs = [readers[int(index)] for index in graph.outputs if int(index) in readers]
    graph.inputs = np.array([*graph.inputs, gain, *offsets.values()], np.int32)
    # What stands between operators becomes an output too: the memory of anything else is used again.
    graph.outputs = np.array([*graph.outputs, *outputs, *(index for index in moved if index not in graph.outputs)])
    graph.outputs = graph.outputs.astype(np.int32)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), gain, offsets, outputs


def _add_tensor(graph: Any, name: str, shape: Any, kind: int) -> int:
    tensor = copy.copy(graph.tensors[0])
    tensor.name, tensor.shape, tensor.shapeSignature = name.encode(), shape, None
    tensor.type, tensor.buffer, tensor.quantization, tensor.sparsity = kind, 0, None, None
    tensor.isVariable, tensor.hasRank = False, True
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(schema: Any, code: int, inputs: list[int], output: int, kind: str) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
    operator.builtinOptions = getattr(schema, f"{kind}OptionsT")()
    return operator


def _code(model: Any, schema: Any, name: str) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = int(getattr(schema.BuiltinOperator, name))
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
