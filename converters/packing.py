"""Writing .tflite files: as small as the format allows."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_dl.converters.tensors import used_buffers


def pack(model: Any, *, keep_names: bool = True) -> bytes:
    """Serialize a `ModelT`, storing equal vectors and equal tables once.

    TensorFlow's writer stores a vector of zero points (8 bytes a channel), of shapes or of options anew for every
    tensor and operator; in a quantized recurrent model that is a third of the file. A FlatBuffer may point to one copy
    from many places, and every reader follows.

    Args:
        model: changed in place.
        keep_names: keep tensor names. Without them only the signature's own names remain, in the signature.
    """
    builder = _builder()
    model.description = None
    used = used_buffers(model)
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    for subgraph in model.subgraphs:
        edge = {*map(int, subgraph.inputs), *map(int, subgraph.outputs)}
        for index, tensor in enumerate(subgraph.tensors):
            if not keep_names and index not in edge:
                tensor.name = None
            quantization = tensor.quantization
            if quantization is not None:
                # Ranges seen in calibration: no kernel reads them.
                quantization.min = quantization.max = None
                if quantization.scale is None and quantization.details is None:
                    tensor.quantization = None
                else:
                    tensor.quantization = _Shared(quantization)
        subgraph.tensors = [_Shared(tensor) for tensor in subgraph.tensors]
        for operator in subgraph.operators:
            if operator.builtinOptions is not None:
                operator.builtinOptions = _Shared(operator.builtinOptions)
            if operator.builtinOptions2 is not None:
                operator.builtinOptions2 = _Shared(operator.builtinOptions2)
            if operator.mutatingVariableInputs is not None and not len(operator.mutatingVariableInputs):
                operator.mutatingVariableInputs = None
            if operator.intermediates is not None and not len(operator.intermediates):
                operator.intermediates = None
    model.buffers = [_AlignedBuffer(buffer) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _builder() -> Any:
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """A builder that writes equal strings and equal number vectors once."""

        def __init__(self) -> None:
            super().__init__(1 << 16)
            self.vectors: dict[Any, int] = {}
            self.tables: dict[Any, int] = {}

        def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
            key = s if isinstance(s, bytes) else str(s).encode()
            if ("text", key) not in self.vectors:
                self.vectors["text", key] = super().CreateString(key, encoding, errors)
            return self.vectors["text", key]

        def CreateNumpyVector(self, x: np.ndarray, alignment: int = 0) -> int:
            key = (x.dtype.str, alignment, x.tobytes())
            if key not in self.vectors:
                if alignment:
                    payload = x.tobytes()
                    self.StartVector(1, len(payload), alignment)
                    self.head: int = self.head - len(payload)
                    self.Bytes[self.head : self.head + len(payload)] = payload
                    self.vectorNumElems = len(payload)
                    self.vectors[key] = self.EndVector()
                else:
                    self.vectors[key] = super().CreateNumpyVector(x)
            return self.vectors[key]

    return Builder()


class _Shared:
    """A table of the schema that is written once for all tables with the same content."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def Pack(self, builder: Any) -> int:
        key = _content(self._table)
        if key not in builder.tables:
            builder.tables[key] = self._table.Pack(builder)
        return int(builder.tables[key])


class _AlignedBuffer:
    """A buffer whose data lies at a multiple of 16, as the schema asks (`force_align`) and Python's writer forgets."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:
        from ai_edge_litert import schema_py_generated as schema

        data = self._buffer.data
        offset = None
        if data is not None and len(data):
            offset = builder.CreateNumpyVector(np.asarray(data, np.uint8), alignment=16)
        schema.BufferStart(builder)
        if offset is not None:
            schema.BufferAddData(builder, offset)
        return int(schema.BufferEnd(builder))


def _content(value: Any) -> Any:
    """A hashable value that is equal for tables with equal content."""
    if isinstance(value, _Shared):
        value = value._table
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, (list, tuple)):
        return tuple(_content(item) for item in value)
    if hasattr(value, "__dict__"):
        fields = sorted(vars(value).items())
        return (type(value).__name__, *((name, _content(item)) for name, item in fields))
    return value
