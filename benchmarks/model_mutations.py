"""Ways to damage a .tflite: blindly, byte by byte, and by its schema, so that what comes out still parses.

Every function takes a model's bytes and a generator of random numbers and gives other bytes; the same generator state
gives the same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_dl.checks.graph import parse_graph
from edge_dl.errors import UsageError

WORDS = (0, 1, 2, 4, 127, 255, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC)
SIZES = (-(2**31), -1, 0, 1, 2, 7, 2**16, 2**30, 2**31 - 1)
SCALES = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan"))
NAMES = (
    b"",
    b"x",
    b"a\nb",
    b"\x1b[31mred\x1b[0m",
    b"\xff\xfe",
    b"n" * 70_000,
    "\u202ename".encode(),
    b"[bold]x",
    b"../x",
)


@lru_cache(maxsize=128)
def structure(model: bytes) -> np.ndarray:
    """Offsets of the bytes that are not content of a buffer: tables, offsets, lengths, names, shapes.

    All of them where the model is damaged already: a bundle's may be damaged more than once.
    """
    inside = np.ones(len(model), bool)
    with contextlib.suppress(UsageError):
        for offset, length in parse_graph(model).places:
            inside[offset : offset + length] = False
    return np.flatnonzero(inside)


def _place(model: bytes, rng: np.random.Generator) -> int:
    """A byte to damage: four times in five one of the structure, which is a small part of the file."""
    if rng.random() < 0.8:
        return int(rng.choice(structure(model)))
    return int(rng.integers(len(model)))


def flip_bits(model: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """1 to 64 bits, each somewhere."""
    changed = bytearray(model)
    for _ in range(int(2 ** rng.integers(0, 7))):
        changed[_place(model, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite_words(model: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """1 to 8 aligned 32-bit words, where FlatBuffers keeps offsets and lengths, by numbers that break something."""
    changed = bytearray(model)
    for _ in range(int(2 ** rng.integers(0, 4))):
        place = _place(model, rng) & ~3
        old = int.from_bytes(changed[place : place + 4], "little")
        choices = (
            *WORDS,
            len(model),
            old + 4,
            old - 4,
            old * 2,
            int(rng.integers(2**32)),
            int(rng.integers(len(model))),
        )
        changed[place : place + 4] = (choices[int(rng.integers(len(choices)))] & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(changed[: len(model)])


def truncate(model: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """The beginning of the file, with nothing, zeros or noise after it."""
    kept = model[: int(rng.integers(len(model)))]
    missing = len(model) - len(kept)
    return kept + (b"", bytes(missing), rng.bytes(min(missing, 4096)))[int(rng.integers(3))]


def splice(model: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """A stretch of a file put over, into, or out of this one."""
    other = others[int(rng.integers(len(others)))]
    size = int(2 ** rng.integers(2, 13))
    start = int(rng.integers(max(1, len(other) - size))) & ~3
    piece = other[start : start + size]
    place = _place(model, rng) & ~3
    way = int(rng.integers(3))
    return model[:place] + (piece if way < 2 else b"") + model[place + (len(piece) if way != 1 else 0) :]


# --- by the schema: unpacked, changed, packed again -------------------------------------------------------------------


def _any(items: Any, rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _tensor(model: Any, rng: np.random.Generator) -> Any:
    return _any(_any(model.subgraphs, rng).tensors, rng)


def _operator(model: Any, rng: np.random.Generator) -> Any:
    filled = [subgraph for subgraph in model.subgraphs if subgraph.operators]
    return _any(_any(filled, rng).operators, rng)


def _shapes(model: Any, rng: np.random.Generator) -> None:
    tensor = _tensor(model, rng)
    shape = list(tensor.shape) if tensor.shape is not None else []
    way = int(rng.integers(4))
    if way == 0 and shape:
        shape[int(rng.integers(len(shape)))] = _any(SIZES, rng)
    elif way == 1:
        shape += [int(_any(SIZES, rng))] * int(rng.integers(1, 70))
    elif way == 2:
        shape = shape[:-1]
    else:
        shape = [2**20] * max(2, len(shape))
    tensor.shape = np.array(shape, np.int32)
    if rng.random() < 0.3:
        tensor.shapeSignature = np.array([_any(SIZES, rng) for _ in shape], np.int32)


def _types(model: Any, rng: np.random.Generator) -> None:
    _tensor(model, rng).type = int(rng.integers(0, 24))


def _buffers(model: Any, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        first, second = _tensor(model, rng), _tensor(model, rng)
        first.buffer, second.buffer = second.buffer, first.buffer
    else:
        _tensor(model, rng).buffer = int(_any((0, 1, len(model.buffers), 2**31, 2**32 - 1), rng))


def _constants(model: Any, rng: np.random.Generator) -> None:
    """Small constants, among them the lengths of loops, shapes to reshape to, axes."""
    small = [item for item in model.buffers if item.data is not None and 0 < len(item.data) <= 64] or model.buffers
    buffer = _any(small, rng)
    length = len(buffer.data) if buffer.data is not None else 4
    content = (np.full(length // 4 + 1, _any(SIZES, rng), np.int32).tobytes()[:length], rng.bytes(length), b"")
    buffer.data = np.frombuffer(content[int(rng.integers(3))], np.uint8)


def _edges(model: Any, rng: np.random.Generator) -> None:
    """Which tensors an operator or a subgraph takes and gives; circles among them."""
    owner = _operator(model, rng) if rng.random() < 0.7 else _any(model.subgraphs, rng)
    name = "inputs" if rng.random() < 0.5 else "outputs"
    values = list(getattr(owner, name)) if getattr(owner, name) is not None else []
    top = max(len(subgraph.tensors) for subgraph in model.subgraphs)
    way = int(rng.integers(4))
    if way == 0 and values:
        values[int(rng.integers(len(values)))] = int(_any((-1, -2, 0, top, 2**31 - 1, int(rng.integers(top))), rng))
    elif way == 1:
        values = values[:-1]
    elif way == 2:
        values = values + values[:1] * int(2 ** rng.integers(0, 12))
    else:
        rng.shuffle(values)
    setattr(owner, name, np.array(values, np.int32))


def _operators(model: Any, rng: np.random.Generator) -> None:
    """Another operator code or version; operators in another order, twice, or missing."""
    way = int(rng.integers(4))
    if way == 0:
        code = _any(model.operatorCodes, rng)
        number = int(_any((int(rng.integers(0, 210)), 32, 119, 127, 2**31 - 1), rng))
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.customCode = _any(NAMES[:6], rng)
    elif way == 1:
        _any(model.operatorCodes, rng).version = int(_any((0, -1, 2, 13, 2**31 - 1), rng))
    elif way == 2:
        _operator(model, rng).opcodeIndex = int(_any((0, 1, len(model.operatorCodes), 2**32 - 1), rng))
    else:
        operators = _any(model.subgraphs, rng).operators
        if operators:
            operators[:] = (operators[::-1], operators * 2, operators[1:])[int(rng.integers(3))]


def _options(model: Any, rng: np.random.Generator) -> None:
    """A number of an operator's options (strides, axes, subgraphs), or options of another kind."""
    operator = _operator(model, rng)
    options = operator.builtinOptions
    fields = [name for name, value in vars(options).items() if isinstance(value, (int, float))] if options else []
    if fields and rng.random() < 0.8:
        setattr(options, _any(fields, rng), int(_any((-1, 0, 1, 100, 127), rng)))
    else:
        operator.builtinOptionsType = int(rng.integers(0, 127))


def _calls(model: Any, rng: np.random.Generator) -> None:
    """Subgraphs that call each other in a circle, or that are not there."""
    callers = [
        operator.builtinOptions
        for subgraph in model.subgraphs
        for operator in subgraph.operators or []
        if operator.builtinOptions is not None and any("ubgraphIndex" in name for name in vars(operator.builtinOptions))
    ]
    if not callers:
        return _options(model, rng)
    options = _any(callers, rng)
    name = _any([name for name in vars(options) if "ubgraphIndex" in name], rng)
    return setattr(options, name, int(_any((0, 1, len(model.subgraphs), -1, 2**31 - 1), rng)))


def _quantization(model: Any, rng: np.random.Generator) -> None:
    tensor = _tensor(model, rng)
    tensor.quantization = tensor.quantization or schema.QuantizationParametersT()
    count = int(_any((0, 1, 2, 3, 1000), rng))
    tensor.quantization.scale = np.full(count, _any(SCALES, rng), np.float32)
    tensor.quantization.zeroPoint = np.full(
        int(_any((count, 0, 1), rng)), int(_any((0, -129, 2**40, -(2**63)), rng)), np.int64
    )
    tensor.quantization.quantizedDimension = int(_any((0, -1, 5, 2**31 - 1), rng))


def _signatures(model: Any, rng: np.random.Generator) -> None:
    found = model.signatureDefs or []
    if not found or rng.random() < 0.15:
        model.signatureDefs = _any(([], found * 2, None), rng)
        return
    signature = _any(found, rng)
    way = int(rng.integers(4))
    entries = (signature.inputs or []) + (signature.outputs or [])
    if way == 0 and entries:
        _any(entries, rng).tensorIndex = int(_any((0, 1, 10**6, 2**32 - 1), rng))
    elif way == 1 and entries:
        _any(entries, rng).name = _any(NAMES, rng)
    elif way == 2:
        signature.subgraphIndex = int(_any((1, len(model.subgraphs), 2**32 - 1), rng))
    else:
        signature.signatureKey = _any(NAMES, rng)


def _names(model: Any, rng: np.random.Generator) -> None:
    way = int(rng.integers(4))
    if way == 0:
        _tensor(model, rng).name = _any(NAMES, rng)
    elif way == 1:
        model.description = _any(NAMES, rng)
    elif way == 2 and model.metadata:
        _any(model.metadata, rng).name = _any(NAMES, rng)
    else:
        _any(model.subgraphs, rng).name = _any(NAMES, rng)


def _missing(model: Any, rng: np.random.Generator) -> None:
    """A list that is not there, or one that is far too long."""
    owner, name = _any(
        ((model, "buffers"), (model, "operatorCodes"), (model, "metadata"), (_any(model.subgraphs, rng), "operators"),
         (_any(model.subgraphs, rng), "tensors"), (model, "subgraphs")), rng,
    )  # fmt: skip
    values = getattr(owner, name) or []
    setattr(owner, name, _any((None, [], values[:-1], values * 30), rng))


STRUCTURED: dict[str, Callable[[Any, np.random.Generator], None]] = {
    "shapes": _shapes, "types": _types, "buffers": _buffers, "constants": _constants, "edges": _edges,
    "operators": _operators, "options": _options, "calls": _calls, "quantization": _quantization,
    "signatures": _signatures, "names": _names, "missing": _missing,
}  # fmt: skip
BLIND: dict[str, Callable[[bytes, np.random.Generator, Sequence[bytes]], bytes]] = {
    "bits": flip_bits, "words": overwrite_words, "truncated": truncate, "splice": splice,
}  # fmt: skip


def mutate_model(model: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> tuple[bytes, str]:
    """A damaged model, and the name of what was done to it.

    Args:
        model: a whole .tflite.
        rng: decides everything.
        others: models to splice with.
    """
    if rng.random() < 0.4:
        name = str(rng.choice(list(BLIND)))
        return BLIND[name](model, rng, others), name
    names = [str(name) for name in rng.choice(list(STRUCTURED), int(rng.integers(1, 4)), replace=False)]
    names.sort(key="missing".__eq__)  # Last: the others change what this one removes.
    builder = flatbuffers.Builder(len(model) + 4096)
    try:
        parsed = schema.ModelT.InitFromPackedBuf(model, 0)
        for name in names:
            STRUCTURED[name](parsed, rng)
        builder.Finish(parsed.Pack(builder), b"TFL3")
    except Exception:  # The schema has no place for some values, and nothing to change in some models.
        return overwrite_words(model, rng, others), "words"
    return bytes(builder.Output()), "+".join(names)
