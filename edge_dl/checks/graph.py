"""A .tflite as plain data, read without an interpreter and without trusting the file.

The FlatBuffers accessors of LiteRT's schema check nothing: lengths, offsets and indices of a damaged file may point
anywhere. Here every length is compared with the file's size before a loop, every index with what it points into, and
the work is bounded, so that any file gives a `Graph` or a `UsageError`, soon.

Source: the schema at https://github.com/google-ai-edge/LiteRT (tflite/schema.fbs).
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.errors import UsageError

IDENTIFIER = b"TFL3"
# A FlatBuffers file cannot be larger: its offsets have 32 bits, of which signed ones use 31.
LARGEST_FILE = 2**31 - 1
# The largest models have some ten thousand operators; a file that asks for more work than this is damaged.
MOST_ITEMS = 200_000
# Seconds of this thread's own work, not of the clock: a busy machine must not make a good file a damaged one.
TIME_LIMIT = 10.0

BITS = {
    "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "FLOAT64": 64, "INT2": 2, "INT4": 4, "UINT4": 4, "INT8": 8,
    "UINT8": 8, "INT16": 16, "UINT16": 16, "INT32": 32, "UINT32": 32, "INT64": 64, "UINT64": 64, "BOOL": 8,
    "COMPLEX64": 64, "COMPLEX128": 128, "FLOAT8_E4M3FN": 8, "FLOAT8_E5M2": 8,
}  # fmt: skip


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of a subgraph.

    Attributes:
        name: its name in the file.
        shape: sizes; an axis of free size is -1.
        dtype: the schema's name in lower case, e.g. "float32", "int4".
        scales: quantization steps, one or one a channel; () when not quantized.
        zero_points: likewise.
        axis: the channel axis of `scales`.
        buffer: number of the buffer behind it; 0: no content.
        bytes_held: size of its content in the file; 0 when it is computed.
        variable: whether it keeps its value between calls.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0
    buffer: int = 0
    bytes_held: int = 0
    variable: bool = False

    @property
    def constant(self) -> bool:
        """Whether its content stands in the file."""
        return self.bytes_held > 0

    @property
    def elements(self) -> int:
        """Number of elements; an axis of free size counts as one."""
        return math.prod(max(1, size) if size < 0 else size for size in self.shape)

    @property
    def size(self) -> int:
        """Bytes in memory; 0 for types without a fixed size (strings, resources)."""
        return (self.elements * BITS.get(self.dtype.upper(), 0) + 7) // 8


@dataclass(frozen=True)
class GraphOperator:
    """An operator. `calls` are numbers of subgraphs that it runs: (condition, body) of a WHILE."""

    name: str
    version: int
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subgraph:
    """A subgraph: tensors, operators in the order in which they run, and the tensors at its edge."""

    name: str
    tensors: tuple[GraphTensor, ...]
    operators: tuple[GraphOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class GraphSignature:
    """A named signature; `inputs` and `outputs` map its names to tensor numbers of the subgraph."""

    key: str
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class Graph:
    """Content of a .tflite.

    Attributes:
        subgraphs: the first one is the main one.
        signatures: may be empty.
        metadata: content by name.
        size: size of the file in bytes.
        description: what the converter wrote about itself.
        content: the file's bytes, for `constant`.
        places: buffers as (offset, length) in the file.
    """

    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[GraphSignature, ...]
    metadata: dict[str, bytes]
    size: int
    description: str
    content: bytes = field(repr=False)
    places: tuple[tuple[int, int], ...] = field(repr=False)

    def constant(self, tensor: GraphTensor) -> np.ndarray | None:
        """A constant tensor's values for the types that NumPy knows, None for others and for damaged sizes."""
        offset, length = self.places[tensor.buffer] if tensor.constant else (0, 0)
        if not length or BITS.get(tensor.dtype.upper(), 0) < 8:
            return None
        try:
            return np.frombuffer(self.content, tensor.dtype, tensor.elements, offset).reshape(tensor.shape)
        except (TypeError, ValueError):
            return None


def read_graph(path: str | Path) -> Graph:
    """Read a .tflite.

    Raises:
        UsageError: the file is missing, is no .tflite, is cut off or damaged, or LiteRT is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError("A model is a .tflite file.", received=f"{path}, a folder")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError("A .tflite is smaller than 2 GiB.", received=f"{path}: {path.stat().st_size} bytes")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError("The file must exist.", received=str(path)) from None
    except OSError as error:
        raise UsageError("The file must be readable.", received=f"{path} ({error.strerror})") from None
    return parse_graph(content, str(path))


def parse_graph(content: bytes, source: str = "the model") -> Graph:
    """Parse a .tflite's bytes; see `read_graph`. `source` names it in messages."""
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise UsageError(
            "A .tflite file starts with a FlatBuffers header and the identifier TFL3.",
            received=f"{source}, {len(content)} bytes" + ("" if content else " (empty)"),
            todo="Name a model that a TFLite converter wrote.",
        )
    try:
        return _Reader(content).read()
    except _Damaged as error:
        reason = str(error)
    except (
        struct.error, IndexError, ValueError, TypeError, KeyError, OverflowError, AttributeError, MemoryError,
        RecursionError, AssertionError,
    ) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {error}"
    raise UsageError(
        "A .tflite file must be whole and keep to its schema.",
        received=f"{source} ({reason})",
        todo="Copy the file again, or convert the model again.",
    )


class _Damaged(Exception):
    """The file breaks the format; the text says where."""


class _Reader:
    def __init__(self, content: bytes) -> None:
        try:
            from ai_edge_litert import schema_py_generated as schema
        except ImportError as error:
            raise UsageError(
                "Looking into a model needs LiteRT's schema.",
                received=str(error),
                todo="Install it: pip install ai-edge-litert.",
            ) from None
        self.schema = schema
        self.content = content
        self.items = 0
        self.deadline = time.thread_time() + TIME_LIMIT
        self.operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
        self.types = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}

    def read(self) -> Graph:
        model = self.schema.Model.GetRootAs(self.content, 0)
        places = tuple(self._buffer(item) for item in self._each(model.BuffersLength(), model.Buffers))
        codes = [self._code(item) for item in self._each(model.OperatorCodesLength(), model.OperatorCodes)]
        count = self._length(model.SubgraphsLength())
        if count == 0:
            raise _Damaged("no subgraph")
        subgraphs = tuple(self._subgraph(item, places, codes, count) for item in self._each(count, model.Subgraphs))
        signatures = tuple(
            self._signature(item, subgraphs) for item in self._each(model.SignatureDefsLength(), model.SignatureDefs)
        )
        metadata = {}
        for item in self._each(model.MetadataLength(), model.Metadata):
            offset, length = places[self._index(item.Buffer(), len(places), "a metadata's buffer")]
            metadata[_text(item.Name())] = self.content[offset : offset + length]
        return Graph(
            subgraphs, signatures, metadata, len(self.content), _text(model.Description()), self.content, places
        )

    def _length(self, length: int) -> int:
        """A vector's length, checked against the file's size."""
        if length * 4 > len(self.content):
            raise _Damaged(f"a list of {length} entries in a file of {len(self.content)} bytes")
        return int(length)

    def _each(self, length: int, get: Callable[[int], Any]) -> Iterator[Any]:
        for number in range(self._length(length)):
            self._count(1)
            item = get(number)
            if item is None:
                raise _Damaged("a missing entry in a list")
            yield item

    def _count(self, items: int) -> None:
        """Bound the work: a file can make many lists share one place."""
        self.items += items
        if self.items > MOST_ITEMS or time.thread_time() > self.deadline:
            raise _Damaged("more entries than any model has")

    def _index(self, value: int, length: int, what: str, *, optional: bool = False) -> int:
        if optional and value == -1:
            return -1
        if not 0 <= value < length:
            raise _Damaged(f"{what} is number {value} of {length}")
        return int(value)

    def _numbers(self, item: Any, name: str, limit: int = 1 << 20) -> tuple[Any, ...]:
        """A vector of numbers as a tuple."""
        length = getattr(item, f"{name}Length")()
        if length == 0:
            return ()
        if length > min(limit, len(self.content)):
            raise _Damaged(f"{length} numbers in {name}")
        self._count(1 + length // 64)
        return tuple(getattr(item, f"{name}AsNumpy")().tolist())

    def _buffer(self, item: Any) -> tuple[int, int]:
        length = item.DataLength()
        if length:
            table = item._tab
            offset = table.Vector(table.Offset(4))
        else:  # Large models keep their buffers behind the FlatBuffer.
            offset, length = (item.Offset(), item.Size()) if item.Offset() > 1 else (0, 0)
        if offset + length > len(self.content):
            raise _Damaged(f"a buffer of {length} bytes at {offset} in a file of {len(self.content)} bytes")
        return int(offset), int(length)

    def _code(self, item: Any) -> tuple[str, int, bool]:
        # Numbers above 126 stand in the newer field, and the older one then holds 127.
        number = max(item.BuiltinCode(), item.DeprecatedBuiltinCode())
        if number not in self.operators:
            raise _Damaged(f"an operator with the unknown number {number}")
        name = self.operators[number]
        custom = name == "CUSTOM"
        return (_text(item.CustomCode()) or "CUSTOM" if custom else name), int(item.Version()), custom

    def _subgraph(self, item: Any, places: Any, codes: list[tuple[str, int, bool]], subgraphs: int) -> Subgraph:
        tensors = tuple(self._tensor(entry, places) for entry in self._each(item.TensorsLength(), item.Tensors))
        operators = tuple(
            self._operator(entry, codes, len(tensors), subgraphs)
            for entry in self._each(item.OperatorsLength(), item.Operators)
        )
        inputs, outputs = (
            tuple(self._index(number, len(tensors), "an edge of a subgraph") for number in self._numbers(item, name))
            for name in ("Inputs", "Outputs")
        )
        return Subgraph(_text(item.Name()), tensors, operators, inputs, outputs)

    def _tensor(self, item: Any, places: Any) -> GraphTensor:
        number = item.Type()
        if number not in self.types:
            raise _Damaged(f"a tensor of the unknown type {number}")
        buffer = self._index(item.Buffer(), len(places), "a tensor's buffer")
        shape = self._numbers(item, "ShapeSignature", 64) or self._numbers(item, "Shape", 64)
        scales: tuple[float, ...] = ()
        zero_points: tuple[int, ...] = ()
        axis = 0
        quantization = item.Quantization()
        if quantization is not None:
            scales = self._numbers(quantization, "Scale")
            zero_points = self._numbers(quantization, "ZeroPoint")
            axis = int(quantization.QuantizedDimension())
        return GraphTensor(
            name=_text(item.Name()),
            shape=shape,
            dtype=self.types[number],
            scales=scales,
            zero_points=zero_points,
            axis=axis,
            buffer=buffer,
            bytes_held=places[buffer][1],
            variable=bool(item.IsVariable()),
        )

    def _operator(self, item: Any, codes: Any, tensors: int, subgraphs: int) -> GraphOperator:
        name, version, custom = codes[self._index(item.OpcodeIndex(), len(codes), "an operator's code")]
        inputs, outputs = (
            tuple(
                self._index(number, tensors, f"a tensor of {name}", optional=True)
                for number in self._numbers(item, edge)
            )
            for edge in ("Inputs", "Outputs")
        )
        calls = tuple(self._index(number, subgraphs, f"a subgraph of {name}") for number in self._called(item, name))
        return GraphOperator(name, version, custom, inputs, outputs, calls, self._options(item, name))

    def _table(self, item: Any, name: str, second: bool = False) -> Any:
        """The operator's options as the schema's class `name`; None when the file holds others or none."""
        kinds = self.schema.BuiltinOptions2 if second else self.schema.BuiltinOptions
        kind = item.BuiltinOptions2Type() if second else item.BuiltinOptionsType()
        table = item.BuiltinOptions2() if second else item.BuiltinOptions()
        if table is None or kind != getattr(kinds, name, None):
            return None
        options = getattr(self.schema, name)()
        options.Init(table.Bytes, table.Pos)
        return options

    def _called(self, item: Any, name: str) -> tuple[int, ...]:
        if name == "WHILE" and (options := self._table(item, "WhileOptions")):
            return options.CondSubgraphIndex(), options.BodySubgraphIndex()
        if name == "IF" and (options := self._table(item, "IfOptions")):
            return options.ThenSubgraphIndex(), options.ElseSubgraphIndex()
        if name == "CALL_ONCE" and (options := self._table(item, "CallOnceOptions")):
            return (options.InitSubgraphIndex(),)
        if name == "STABLEHLO_COMPOSITE" and (options := self._table(item, "StableHLOCompositeOptions", True)):
            return (options.DecompositionSubgraphIndex(),)
        if name in ("WHILE", "IF"):
            raise _Damaged(f"{name} without its subgraphs")
        return ()

    def _options(self, item: Any, name: str) -> dict[str, Any]:
        """The few options that counting multiplications needs."""
        if name == "BATCH_MATMUL" and (options := self._table(item, "BatchMatMulOptions")):
            return {"transpose_left": bool(options.AdjX()), "transpose_right": bool(options.AdjY())}
        return {}

    def _signature(self, item: Any, subgraphs: tuple[Subgraph, ...]) -> GraphSignature:
        number = self._index(item.SubgraphIndex(), len(subgraphs), "a signature's subgraph")
        tensors = len(subgraphs[number].tensors)
        inputs, outputs = (
            {
                _text(entry.Name()): self._index(entry.TensorIndex(), tensors, "a tensor of a signature")
                for entry in self._each(length, get)
            }
            for length, get in ((item.InputsLength(), item.Inputs), (item.OutputsLength(), item.Outputs))
        )
        return GraphSignature(_text(item.SignatureKey()), number, inputs, outputs)


def _text(value: bytes | None) -> str:
    if value is None:
        return ""
    if len(value) > 1 << 16:
        raise _Damaged(f"a name of {len(value)} bytes")
    return value.decode("utf-8", errors="replace")
