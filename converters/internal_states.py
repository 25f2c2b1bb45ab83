"""States inside the file: those of a `step` or `stream` model become resource variables that its interpreter keeps.

VAR_HANDLE names a variable, READ_VARIABLE copies it to where the state came in, ASSIGN_VARIABLE copies what goes out
back. Every operator between stays as it was, so that answers are those of the file with its states outside, bit for
bit, in every quantization. A signature `reset` sets all of them to zero, which the first call after loading does too
(CALL_ONCE).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_dl.bundle import Signature, StateSpec
from edge_dl.converters import packing, repairs, tensors
from edge_dl.converters.acceptance import check_runs
from edge_dl.converters.finishing import Quantized
from edge_dl.errors import RefusedError
from edge_dl.files import write_atomic

RESET = "reset"
RESET_INPUT, RESET_OUTPUT = "calls", "next_calls"
COUNTER = "calls"  # the variable that counts calls, where a state stays zero in the first ones
_OLDEST = "2.6.0"  # TFLite that has kernels for variables


def keep_inside(made: Quantized) -> Quantized:
    """Let the file of a `step` or `stream` variant keep its states; `made` with the signature that it has then.

    Raises:
        RefusedError: see `keep_states`.
        StageError: it does not load or run.
    """
    if not made.signature.states:
        raise RefusedError(
            "A file without states keeps none.", todo="Leave conversion.internal_states at false for this model."
        )
    model = tensors.read(made.path)
    keep_states(model, made.signature)
    version = tensors.min_runtime_version(model)
    write_atomic(made.path, packing.pack(model))
    check_runs(made.path)
    signature = dataclasses.replace(made.signature, states=())
    notes = (*made.notes, f"states are kept inside: call the signature {RESET} to begin anew")
    return dataclasses.replace(made, signature=signature, notes=notes, min_runtime_version=version)


def keep_states(model: Any, signature: Signature) -> None:
    """Turn states that a file takes and gives into variables of its own, and add the signature `reset`.

    `reset` takes and gives a whole number without axes, since some runtimes call no signature without inputs or
    outputs: the calls that a stream has behind it, 0, and what became of it.

    Args:
        model: a `ModelT` whose main graph is the signature's; changed in place.
        signature: what it takes and gives.

    Raises:
        RefusedError: a state starts as something else than zero, or comes in with another scale than it goes out with.
    """
    for state in signature.states:
        _check(state)
    definition = next(item for item in model.signatureDefs if tensors.text_of(item.signatureKey) == signature.key)
    main = model.subgraphs[int(definition.subgraphIndex)]
    given = {tensors.text_of(item.name): int(item.tensorIndex) for item in definition.inputs}
    made = {tensors.text_of(item.name): int(item.tensorIndex) for item in definition.outputs}
    first, last = _Graph(model, main), _Graph(model, main)
    # The first call sets everything to zero; the graph that does so may have neither inputs nor outputs.
    first.add("CALL_ONCE", [], [], _options("CallOnceOptions", initSubgraphIndex=len(model.subgraphs)))
    counts = sorted({state.silent for state in signature.states} - {0})
    kept = {}
    if counts:
        handle, calls = first.variable(COUNTER), first.tensor("INT32", (), COUNTER)
        first.add("READ_VARIABLE", [handle], [calls], _options("ReadVariableOptions"))
        for count in counts:
            kept[count] = first.tensor("BOOL", (), f"{COUNTER}_from_{count}")
            number = first.constant(np.array(count, np.int32))
            first.add("GREATER_EQUAL", [calls, number], [kept[count]], _options("GreaterEqualOptions"))
        more = last.tensor("INT32", (), f"{COUNTER}_more")
        last.add("ADD", [calls, last.constant(np.array(1, np.int32))], [more], _options("AddOptions"))
        last.add("ASSIGN_VARIABLE", [handle, last.capped(more, counts[-1])], [], _options("AssignVariableOptions"))
    for state in signature.states:
        handle, target = first.variable(state.input), given[state.input]
        first.add("READ_VARIABLE", [handle], [target], _options("ReadVariableOptions"))
        value = made[state.output]
        if state.silent:
            zero, silenced = last.zero(value, state), last.like(value, f"{state.output}_kept")
            last.add("SELECT", [kept[state.silent], value, zero], [silenced], _options("SelectOptions"))
            value = silenced
        last.add("ASSIGN_VARIABLE", [handle, value], [], _options("AssignVariableOptions"))
    main.operators = [*first.operators, *main.operators, *last.operators]
    taken, gone = {state.input for state in signature.states}, {state.output for state in signature.states}
    main.inputs = _without(main.inputs, [given[name] for name in taken])
    definition.inputs = [item for item in definition.inputs if tensors.text_of(item.name) not in taken]
    definition.outputs = [item for item in definition.outputs if tensors.text_of(item.name) not in gone]
    main.outputs = np.array([int(item.tensorIndex) for item in definition.outputs], np.int32)
    _add_reset(model, signature.states, max(counts, default=0))
    repairs.raise_min_runtime_version(model, _OLDEST)
    repairs.drop_unused_tensors(model)


def _check(state: StateSpec) -> None:
    if state.initial:
        raise RefusedError(
            f"State {state.input!r} cannot be kept inside: it starts as the encoder's output {state.initial!r}.",
            todo="Leave conversion.internal_states at false for models that decode.",
        )
    if (state.scale, state.zero_point) != (state.output_scale, state.output_zero_point):
        raise RefusedError(
            f"State {state.input!r} cannot be kept inside: it goes out with another scale than it comes in with.",
            todo="Use conversion.integer_io=false, or leave conversion.internal_states at false.",
        )


def _add_reset(model: Any, states: Sequence[StateSpec], most: int) -> None:
    """A graph that sets all variables to zero, for the first call, and another one for the signature `reset`."""
    from ai_edge_litert import schema_py_generated as schema

    for signed in (False, True):
        subgraph = schema.SubGraphT()
        subgraph.name = b"reset" if signed else b"initialize"
        subgraph.tensors, subgraph.operators = [], []
        graph = _Graph(model, subgraph)
        calls = graph.tensor("INT32", (), RESET_INPUT) if signed else graph.constant(np.zeros((), np.int32))
        after = graph.capped(calls, most) if signed else calls
        for state in states:
            pairs = [graph.variable(state.input), graph.constant(_zeros(state))]
            graph.add("ASSIGN_VARIABLE", pairs, [], _options("AssignVariableOptions"))
        if most:
            graph.add("ASSIGN_VARIABLE", [graph.variable(COUNTER), after], [], _options("AssignVariableOptions"))
        subgraph.inputs = np.array([calls] if signed else [], np.int32)
        subgraph.outputs = np.array([after] if signed else [], np.int32)
        subgraph.operators = graph.operators
        model.subgraphs.append(subgraph)
        if signed:
            definition = schema.SignatureDefT()
            definition.signatureKey = RESET.encode()
            definition.subgraphIndex = len(model.subgraphs) - 1
            definition.inputs = [_entry(RESET_INPUT, calls)]
            definition.outputs = [_entry(RESET_OUTPUT, after)]
            model.signatureDefs.append(definition)


class _Graph:
    """Operators to be added to a subgraph, with the tensors that they need."""

    def __init__(self, model: Any, subgraph: Any) -> None:
        self.model, self.subgraph = model, subgraph
        self.operators: list[Any] = []

    def add(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: tuple[int, Any]) -> None:
        """Add an operator in the version that every runtime with variables knows."""
        from ai_edge_litert import schema_py_generated as schema

        operator = schema.OperatorT()
        operator.opcodeIndex = repairs.builtin_code(self.model, name, 1)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        operator.builtinOptionsType, operator.builtinOptions = options
        self.operators.append(operator)

    def tensor(self, kind: str, shape: Sequence[int], name: str) -> int:
        """Add a tensor that an operator makes."""
        from ai_edge_litert import schema_py_generated as schema

        tensor = schema.TensorT()
        tensor.type, tensor.shape, tensor.hasRank = tensors.type_number(kind), np.array(shape, np.int32), True
        tensor.name, tensor.buffer = name.encode(), 0
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def variable(self, name: str) -> int:
        """The handle of a variable."""
        handle = self.tensor("RESOURCE", (), f"{name}_variable")
        self.add("VAR_HANDLE", [], [handle], _options("VarHandleOptions", container="", sharedName=name))
        return handle

    def constant(self, values: np.ndarray) -> int:
        """Add a constant."""
        return repairs.constant(self.model, self.subgraph, values.dtype.name.upper(), values, values.shape)

    def capped(self, calls: int, most: int) -> int:
        """The number of calls, which counts no further than anybody asks."""
        number = self.tensor("INT32", (), RESET_OUTPUT)
        limit = self.constant(np.array(most, np.int32))
        self.add("MINIMUM", [calls, limit], [number], _options("MaximumMinimumOptions"))
        return number

    def like(self, index: int, name: str) -> int:
        """A tensor of the same shape, type and scale."""
        tensor = copy.copy(self.subgraph.tensors[index])
        tensor.name, tensor.buffer = name.encode(), 0
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def zero(self, index: int, state: StateSpec) -> int:
        """Real zeros as a tensor stores them."""
        place = self.constant(_zeros(state))
        self.subgraph.tensors[place].quantization = self.subgraph.tensors[index].quantization
        return place


def _zeros(state: StateSpec) -> np.ndarray:
    return np.full(state.shape, state.zero_point, state.dtype)


def _options(name: str, **values: Any) -> tuple[int, Any]:
    """An operator's options and the number of their kind."""
    from ai_edge_litert import schema_py_generated as schema

    options = getattr(schema, f"{name}T")()
    for key, value in values.items():
        setattr(options, key, value)
    return int(getattr(schema.BuiltinOptions, name)), options


def _entry(name: str, index: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), index
    return entry


def _without(indices: Any, gone: Sequence[int]) -> np.ndarray:
    return np.array([int(index) for index in indices if int(index) not in gone], np.int32)
