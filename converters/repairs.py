"""Repairs of .tflite files: what the converters leave wrong or undone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_dl.converters.tensors import (
    LSTM,
    is_constant,
    min_runtime_version,
    operator_name,
    scale_of,
    text_of,
    type_name,
    type_number,
    used_buffers,
)
from edge_dl.errors import StageError

# Inputs of UNIDIRECTIONAL_SEQUENCE_LSTM that hold matrices: 4 input, 4 recurrent, 1 projection
# (tensorflow/lite/kernels/lstm_shared.h).
LSTM_WEIGHTS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
LSTM_HYBRID_VERSION = 3  # int8 weights with asymmetric_quantize_inputs
LSTM_HYBRID_RUNTIME = "2.3.0"
MIN_FILL_BYTES = 1024


def quantize_fused_lstm(model: Any) -> int:
    """Turn float UNIDIRECTIONAL_SEQUENCE_LSTM operators into hybrid ones: int8 weights, float everything else.

    ai-edge-quantizer leaves the operator alone, and TFLiteConverter does too as soon as one of its matrices has less
    than 1024 elements. The hybrid kernel takes symmetric int8 matrices with one scale each
    (tensorflow/lite/kernels/unidirectional_sequence_lstm.cc).

    Returns:
        How many operators were changed.
    """
    changed = 0
    int8 = type_number("INT8")
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            if operator_name(model, operator.opcodeIndex) != LSTM:
                continue
            weights = [int(operator.inputs[i]) for i in LSTM_WEIGHTS if int(operator.inputs[i]) >= 0]
            tensors = [subgraph.tensors[index] for index in weights]
            if any(type_name(tensor.type) != "float32" or not is_constant(model, tensor) for tensor in tensors):
                continue
            for position in LSTM_WEIGHTS:
                index = int(operator.inputs[position])
                if index < 0:
                    continue
                # A copy: the tensor may be shared with an operator that needs floats.
                operator.inputs[position] = len(subgraph.tensors)
                subgraph.tensors.append(int8_copy(model, subgraph.tensors[index], int8))
            operator.builtinOptions.asymmetricQuantizeInputs = True
            operator.opcodeIndex = opcode(model, operator.opcodeIndex, LSTM_HYBRID_VERSION)
            changed += 1
    if changed:
        raise_min_runtime_version(model, LSTM_HYBRID_RUNTIME)
        drop_unused_tensors(model)
    return changed


def make_names_unique(model: Any) -> int:
    """Give every tensor a name of its own, as ai-edge-quantizer needs; returns how many were changed."""
    seen: set[bytes] = set()
    changed = 0
    for number, subgraph in enumerate(model.subgraphs):
        for index, tensor in enumerate(subgraph.tensors):
            if not tensor.name or tensor.name in seen:
                tensor.name = (tensor.name or b"tensor") + f"/{number}/{index}".encode()
                changed += 1
            seen.add(tensor.name)
    return changed


def correct_versions(model: Any) -> None:
    """Raise the versions of FULLY_CONNECTED with integer weights and float activations, and of RSQRT of int16, to what
    the kernel must know.

    ai-edge-quantizer leaves version 1. A runtime that is too old would then load the file and use the first channel's
    scale for all of them, or fail without naming its age; with the right version it refuses. TensorFlow's
    op_version.cc: FULLY_CONNECTED 9 for one scale a matrix, 10 for int4, 12 for one scale a row; RSQRT 3 for int16.
    """
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            name = operator_name(model, operator.opcodeIndex)
            if name == "RSQRT" and type_name(subgraph.tensors[int(operator.inputs[0])].type) == "int16":
                operator.opcodeIndex = opcode(model, operator.opcodeIndex, 3)
                raise_min_runtime_version(model, "2.15.0")
            if name != "FULLY_CONNECTED":
                continue
            source, weight = (subgraph.tensors[int(index)] for index in operator.inputs[:2])
            if type_name(source.type) != "float32" or type_name(weight.type) not in ("int8", "int4"):
                continue
            per_row = weight.quantization is not None and len(weight.quantization.scale) > 1
            version = 12 if per_row else 10 if type_name(weight.type) == "int4" else 9
            operator.opcodeIndex = opcode(model, operator.opcodeIndex, version)
            raise_min_runtime_version(model, {12: "2.17.0", 10: "2.14.0", 9: "2.3.0"}[version])
    drop_unused_tensors(model)


def unclip_lstm(model: Any) -> None:
    """Remove the clipping of the cell state at +-10 that the converter adds to the fused LSTM; Keras has none."""
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            if operator_name(model, operator.opcodeIndex) == LSTM:
                operator.builtinOptions.cellClip = 0.0


def int8_copy(model: Any, tensor: Any, int8: int) -> Any:
    """A constant float32 tensor as symmetric int8 with one scale; its buffer is added to the model, it is not."""
    from ai_edge_litert import schema_py_generated as schema

    values = np.frombuffer(np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes(), np.float32)
    # A matrix of zeros keeps scale 1: the kernel divides by nothing, and 0 stays 0.
    scale = np.float32(np.abs(values).max(initial=0.0) / 127.0) or np.float32(1.0)
    result = copy.copy(tensor)
    result.type = int8
    result.name = (tensor.name or b"") + b"/int8"
    result.quantization = _quantization(float(scale), 0)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.clip(np.round(values / scale), -127, 127).astype(np.int8).tobytes(), np.uint8)
    result.buffer = len(model.buffers)
    model.buffers.append(buffer)
    return result


def _quantization(scale: float, zero_point: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    result = schema.QuantizationParametersT()
    result.scale = np.array([scale], np.float32)
    result.zeroPoint = np.array([zero_point], np.int64)
    return result


def opcode(model: Any, index: int, version: int) -> int:
    """Index of an operator code like the one at `index` with at least `version`, added when missing."""
    code = model.operatorCodes[index]
    if code.version >= version:
        return index
    wanted = copy.copy(code)
    wanted.version = version
    for position, other in enumerate(model.operatorCodes):
        if vars(other) == vars(wanted):
            return position
    model.operatorCodes.append(wanted)
    return len(model.operatorCodes) - 1


def drop_unused_tensors(model: Any) -> None:
    """Remove tensors, buffers and operator codes that nothing refers to; indices are renumbered."""
    for number, subgraph in enumerate(model.subgraphs):
        signatures = [item for item in model.signatureDefs or [] if item.subgraphIndex == number]
        maps = [entry for item in signatures for entry in (*item.inputs, *item.outputs)]
        used = {*map(int, subgraph.inputs), *map(int, subgraph.outputs), *(int(entry.tensorIndex) for entry in maps)}
        for operator in subgraph.operators:
            for indices in (operator.inputs, operator.outputs, operator.intermediates):
                used |= {int(index) for index in (() if indices is None else indices) if int(index) >= 0}
        order = sorted(used)
        position = {old: new for new, old in enumerate(order)} | {-1: -1}
        subgraph.tensors = [subgraph.tensors[old] for old in order]
        subgraph.inputs = _renumber(subgraph.inputs, position)
        subgraph.outputs = _renumber(subgraph.outputs, position)
        for entry in maps:
            entry.tensorIndex = position[int(entry.tensorIndex)]
        for operator in subgraph.operators:
            operator.inputs = _renumber(operator.inputs, position)
            operator.outputs = _renumber(operator.outputs, position)
            if operator.intermediates is not None:
                operator.intermediates = _renumber(operator.intermediates, position)
    codes = sorted({int(operator.opcodeIndex) for graph in model.subgraphs for operator in graph.operators})
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            operator.opcodeIndex = codes.index(int(operator.opcodeIndex))
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    buffers = sorted(used_buffers(model))
    moved = {old: new for new, old in enumerate(buffers)}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = moved[int(tensor.buffer)]
    for entry in model.metadata or []:
        entry.buffer = moved[int(entry.buffer)]
    model.buffers = [model.buffers[index] for index in buffers]


def _renumber(indices: Any, position: Mapping[int, int]) -> np.ndarray:
    return np.array([position[int(index)] for index in (() if indices is None else indices)], np.int32)


def unify_state_scales(model: Any, states: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Give each state's output the scale of its input, so that a session can hand integers on as they are.

    Where the two differ, a QUANTIZE operator (integer to integer) is put behind the output.

    Returns:
        Names of the states that needed it.
    """
    from ai_edge_litert import schema_py_generated as schema

    definition = next(item for item in model.signatureDefs if text_of(item.signatureKey) == key)
    subgraph = model.subgraphs[definition.subgraphIndex]
    changed = []
    for state in states:
        source = next(item for item in definition.inputs if text_of(item.name) == state["input"])
        target = next(item for item in definition.outputs if text_of(item.name) == state["output"])
        wanted, given = subgraph.tensors[source.tensorIndex], subgraph.tensors[target.tensorIndex]
        if wanted.type != given.type:
            raise StageError(
                "A state must enter and leave the model in the same type.",
                stage="convert",
                received=f"{state['input']}: {type_name(wanted.type)}, {state['output']}: {type_name(given.type)}",
            )
        if scale_of(wanted) == scale_of(given):
            continue
        tensor = copy.copy(given)
        tensor.name = (given.name or b"") + b"/state"
        tensor.buffer = 0
        tensor.quantization = _quantization(*scale_of(wanted))
        old, new = int(target.tensorIndex), len(subgraph.tensors)
        subgraph.tensors.append(tensor)
        operator = schema.OperatorT()
        operator.opcodeIndex = builtin_code(model, "QUANTIZE", 2 if type_name(tensor.type) == "int16" else 1)
        operator.inputs = np.array([old], np.int32)
        operator.outputs = np.array([new], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
        operator.builtinOptions = schema.QuantizeOptionsT()
        subgraph.operators.append(operator)
        # An output may stand in the list twice, once as the state: only one place is moved.
        outputs = [int(index) for index in subgraph.outputs]
        outputs[outputs.index(old)] = new
        if any(int(item.tensorIndex) == old for item in definition.outputs if item is not target):
            outputs.append(old)
        subgraph.outputs = np.array(outputs, np.int32)
        target.tensorIndex = new
        changed.append(str(state["input"]))
    return changed


def adopt_state_scales(model: Any, states: Sequence[Mapping[str, Any]], key: str) -> None:
    """Give a state's input the scale of its output where every reader of the input can take any scale.

    Those are MUL (cell states, gated hidden states) and FULLY_CONNECTED (recurrent kernels), whose bias then gets the
    scale that goes with it. Calibration sees nearly the same range for both, so nothing is lost, and
    `unify_state_scales` has less to insert.
    """
    definition = next(item for item in model.signatureDefs if text_of(item.signatureKey) == key)
    subgraph = model.subgraphs[definition.subgraphIndex]
    adopted = False
    for state in states:
        source = next(item for item in definition.inputs if text_of(item.name) == state["input"])
        target = next(item for item in definition.outputs if text_of(item.name) == state["output"])
        tensor, result = subgraph.tensors[source.tensorIndex], subgraph.tensors[target.tensorIndex]
        readers = [item for item in subgraph.operators if int(source.tensorIndex) in [int(i) for i in item.inputs]]
        known = all(_takes_any_scale(model, subgraph, item, int(source.tensorIndex)) for item in readers)
        if tensor.type == result.type and scale_of(result)[0] > 0 and known:
            tensor.quantization = _quantization(*scale_of(result))
            adopted = True
    if adopted:
        repair_biases(model)


def _takes_any_scale(model: Any, subgraph: Any, operator: Any, index: int) -> bool:
    name = operator_name(model, operator.opcodeIndex)
    if name != "FULLY_CONNECTED":
        return name == "MUL"
    bias = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
    return int(operator.inputs[0]) == index and (bias < 0 or is_constant(model, subgraph.tensors[bias]))


def repair_sums(model: Any) -> int:
    """Give integer ADD and SUB scales that their kernel can take; returns how many operators had none.

    The kernel needs every input scale > 0, and 2 * largest input scale / 2^shift < output scale, with a shift of 15
    (int16) or 20 (int8) bits. Otherwise preparing the model ends the process (SIGABRT in quantization_util.cc,
    QuantizeMultiplierSmallerThanOneExp). An unrolled layer may meet both: its first states are zeros, which the
    converter gives scale 0 in int16x8, and a sum that is near zero in the first steps gets a tiny scale. Zeros may have
    any scale, and the smallest output scale that works is still finer than the inputs' own steps.

    Where all scales of an int16 sum are powers of two, the kernel shifts instead of multiplying, and asks for an input
    with the output's scale (sub.cc, add.cc). It does so unless the option pot_scale_int16 is off, which TFLiteConverter
    sees to and ai-edge-quantizer does not.
    """
    repaired = 0
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            if operator_name(model, operator.opcodeIndex) not in ("ADD", "SUB"):
                continue
            output = subgraph.tensors[int(operator.outputs[0])]
            shift = {"int16": 15, "int8": 20}.get(type_name(output.type))
            if shift is None or not scale_of(output)[0]:
                continue
            inputs = [subgraph.tensors[int(index)] for index in operator.inputs]
            largest = max(scale_of(tensor)[0] for tensor in inputs)
            smallest = 2 * largest / 2**shift * 1.01
            zeros = [tensor for tensor in inputs if not scale_of(tensor)[0] and _is_zero(model, tensor)]
            for tensor in zeros:
                tensor.quantization = _quantization(largest or scale_of(output)[0], 0)
            narrow = scale_of(output)[0] < smallest
            if narrow:
                output.quantization = _quantization(smallest, scale_of(output)[1])
            shifts = type_name(output.type) == "int16" and operator.builtinOptions.potScaleInt16
            operator.builtinOptions.potScaleInt16 = False
            repaired += bool(zeros) or narrow or shifts
    return repaired


def _is_zero(model: Any, tensor: Any) -> bool:
    return is_constant(model, tensor) and not np.any(model.buffers[tensor.buffer].data)


def fill_zeros(model: Any) -> int:
    """Replace blocks of zeros that a loop starts from by a FILL operator; returns how many bytes that saves.

    The converter stores the empty list of a layer's outputs in full: steps x units zeros.
    """
    from ai_edge_litert import schema_py_generated as schema

    saved = 0
    for subgraph in model.subgraphs:
        starts = {
            int(index)
            for operator in subgraph.operators
            if operator_name(model, operator.opcodeIndex) == "WHILE"
            for index in operator.inputs
        }
        for index in sorted(starts):
            tensor = subgraph.tensors[index]
            data = model.buffers[tensor.buffer].data
            if type_name(tensor.type) != "float32" or data is None or len(data) < MIN_FILL_BYTES or np.any(data):
                continue
            operator = schema.OperatorT()
            operator.opcodeIndex = builtin_code(model, "FILL", 1)
            shape = np.asarray(tensor.shape, np.int32)
            operator.inputs = np.array(
                [
                    constant(model, subgraph, "INT32", shape, [len(shape)]),
                    constant(model, subgraph, "FLOAT32", np.zeros(1, np.float32), []),
                ],
                np.int32,
            )
            operator.outputs = np.array([index], np.int32)
            operator.builtinOptionsType = schema.BuiltinOptions.FillOptions
            operator.builtinOptions = schema.FillOptionsT()
            subgraph.operators.insert(0, operator)
            tensor.buffer = 0
            saved += len(data)
    if saved:
        drop_unused_tensors(model)
    return saved


def constant(model: Any, subgraph: Any, kind: str, values: np.ndarray, shape: Sequence[int]) -> int:
    """Add a constant tensor of a type by its upper-case name; its index."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    tensor = schema.TensorT()
    tensor.type = type_number(kind)
    tensor.shape = np.array(shape, np.int32)
    tensor.hasRank = True
    tensor.name = f"constant/{len(model.buffers)}".encode()
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)
    subgraph.tensors.append(tensor)
    return len(subgraph.tensors) - 1


def repair_biases(model: Any) -> int:
    """Give each FULLY_CONNECTED and CONV_2D a bias in the scale that its kernel assumes: input scale x weight scale.

    The converter quantizes a bias that several operators share once, for the first of them: in int16x8 it does not make
    copies for the others. An unrolled layer uses one bias at every time step, with another input scale at each, and
    came out wrong by half its range, without an error.

    Returns:
        How many operators got a bias of their own.
    """
    repaired = 0
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            if operator_name(model, operator.opcodeIndex) not in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
                continue
            if len(operator.inputs) < 3 or int(operator.inputs[2]) < 0:
                continue
            source, weight, bias = (subgraph.tensors[int(index)] for index in operator.inputs[:3])
            kind = type_name(bias.type)
            if kind not in ("int32", "int64") or not is_constant(model, bias) or not scale_of(bias)[0]:
                continue
            given = np.asarray(bias.quantization.scale, np.float64)
            wanted = scale_of(source)[0] * np.asarray(weight.quantization.scale, np.float64)
            if not wanted.all() or np.allclose(given, wanted, rtol=1e-4):
                continue
            values = np.frombuffer(np.asarray(model.buffers[bias.buffer].data, np.uint8).tobytes(), kind)
            limits = np.iinfo(kind)
            moved = np.clip(np.round(values * given / wanted), limits.min, limits.max).astype(kind)
            operator.inputs[2] = len(subgraph.tensors)
            subgraph.tensors.append(_bias_copy(model, bias, moved, wanted))
            repaired += 1
    if repaired:
        drop_unused_tensors(model)
    return repaired


def _bias_copy(model: Any, tensor: Any, values: np.ndarray, scales: np.ndarray) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    result = copy.copy(tensor)
    result.name = (tensor.name or b"") + f"/{len(model.buffers)}".encode()
    result.quantization = copy.copy(tensor.quantization)
    result.quantization.scale = scales.astype(np.float32)
    result.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    result.buffer = len(model.buffers)
    model.buffers.append(buffer)
    return result


def builtin_code(model: Any, name: str, version: int) -> int:
    """Index of a builtin's operator code with at least `version`, added when missing."""
    from ai_edge_litert import schema_py_generated as schema

    number = int(getattr(schema.BuiltinOperator, name))
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = number
    code.deprecatedBuiltinCode = min(number, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def raise_min_runtime_version(model: Any, version: str) -> None:
    """Set the stated runtime version to `version` where the file states an older one."""
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version" and _order(min_runtime_version(model)) < _order(version):
            model.buffers[entry.buffer].data = np.frombuffer(version.encode().ljust(16, b"\0"), np.uint8)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def separate_outputs(model: Any) -> int:
    """Give each output of the main graph a tensor that nothing else is or reads; returns how many had none.

    ai-edge-quantizer puts one QUANTIZE behind such a tensor for whoever reads it, and takes its integers for the output
    as well, which should be float. A RESHAPE to the same shape, behind all other operators, keeps the two apart;
    `drop_idle_reshapes` takes it out afterwards.

    Args:
        model: a `ModelT` of floats with one graph; changed in place.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    entries = [item for definition in model.signatureDefs or [] for item in definition.outputs]
    read = {int(index) for item in graph.operators for index in item.inputs} | set(map(int, graph.inputs))
    outputs, changed = [], 0
    for place, index in enumerate(map(int, graph.outputs)):
        if index not in read and index not in outputs:
            outputs.append(index)
            continue
        source, copied = graph.tensors[index], copy.copy(graph.tensors[index])
        copied.name = (source.name or b"") + f"/output/{place}".encode()
        copied.buffer = 0
        graph.tensors.append(copied)
        outputs.append(len(graph.tensors) - 1)
        shape = np.asarray(source.shape, np.int32)
        operator = schema.OperatorT()
        operator.opcodeIndex = builtin_code(model, "RESHAPE", 1)
        operator.outputs = np.array([outputs[-1]], np.int32)
        operator.inputs = np.array([index, constant(model, graph, "INT32", shape, [len(shape)])], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT()
        operator.builtinOptions.newShape = shape
        graph.operators.append(operator)
        # Two names for one tensor: each takes a place of its own.
        entry = next(item for item in entries if int(item.tensorIndex) == index)
        entries.remove(entry)
        entry.tensorIndex = outputs[-1]
        changed += 1
    graph.outputs = np.array(outputs, np.int32)
    return changed


def drop_idle_reshapes(model: Any) -> int:
    """Take out every RESHAPE of the main graph that gives what it takes; returns how many there were.

    Args:
        model: a `ModelT`; changed in place.
    """
    graph = model.subgraphs[0]
    inputs = set(map(int, graph.inputs))
    moved: dict[int, int] = {}
    for operator in graph.operators:
        if operator_name(model, operator.opcodeIndex) != "RESHAPE":
            continue
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        one, other = graph.tensors[source], graph.tensors[target]
        alike = list(one.shape) == list(other.shape) and one.type == other.type and scale_of(one) == scale_of(other)
        if alike and not is_constant(model, one) and moved.get(source, source) not in inputs:
            moved[target] = moved.get(source, source)
    # An output that is another one as well keeps its operator: a place in the list is one tensor.
    ends = [moved.get(int(index), int(index)) for index in graph.outputs]
    for index in map(int, graph.outputs):
        if index in moved and ends.count(moved[index]) > 1:
            del moved[index]
    graph.operators = [item for item in graph.operators if int(item.outputs[0]) not in moved]
    for operator in graph.operators:
        operator.inputs = np.array([moved.get(int(index), int(index)) for index in operator.inputs], np.int32)
    graph.outputs = np.array([moved.get(int(index), int(index)) for index in graph.outputs], np.int32)
    for definition in model.signatureDefs or []:
        for entry in definition.outputs:
            entry.tensorIndex = moved.get(int(entry.tensorIndex), int(entry.tensorIndex))
    drop_unused_tensors(model)
    return len(moved)


def name_edges(model: Any) -> None:
    """Call the tensors at the model's edge what the signature calls them: the converter's names are not stable."""
    for definition in model.signatureDefs or []:
        subgraph = model.subgraphs[definition.subgraphIndex]
        given = [(int(entry.tensorIndex), entry.name) for entry in (*definition.inputs, *definition.outputs)]
        # A tensor that is two things at once keeps its name, and so does one whose new name is taken.
        indices = [index for index, _ in given]
        names = {tensor.name for index, tensor in enumerate(subgraph.tensors) if index not in indices}
        for index, name in given:
            if indices.count(index) == 1 and name not in names:
                subgraph.tensors[index].name = name
