"""Look into a .tflite without running it: signatures, tensors, operators, weights, memory, oldest runtime, work.

report = inspect_model("model.tflite")
print(render(report))
report.to_json()
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from edge_dl.checks.counting import count, visits
from edge_dl.checks.graph import Graph, GraphOperator, GraphSignature, GraphTensor, Subgraph, parse_graph, read_graph
from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.errors import printable

FORMAT = 1
# These move numbers or convert them; they do not compute.
NOT_COMPUTING = (
    "QUANTIZE",
    "DEQUANTIZE",
    "CAST",
    "RESHAPE",
    "WHILE",
    "IF",
    "CALL_ONCE",
    "SHAPE",
    "EXPAND_DIMS",
    "SQUEEZE",
)
NUMBER_TYPES = ("float32", "float16", "bfloat16", "int8", "uint8", "int16", "int4")


@dataclass(frozen=True)
class TensorReport:
    """A tensor.

    Attributes:
        name: name in the signature for its inputs and outputs, else in the file.
        shape: sizes; -1 where free.
        dtype: element type.
        scale: quantization step; None when not quantized or one a channel.
        zero_point: likewise.
        channels: number of quantization steps when there is one a channel, else 0.
        axis: the channel axis.
        bytes: content in the file; 0 when computed.
        subgraph: where it stands.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    channels: int = 0
    axis: int = 0
    bytes: int = 0
    subgraph: int = 0


@dataclass(frozen=True)
class SignatureReport:
    """A signature and what stands at its edge."""

    key: str
    subgraph: int
    inputs: tuple[TensorReport, ...]
    outputs: tuple[TensorReport, ...]


@dataclass(frozen=True)
class OperatorReport:
    """One operator in one version.

    Attributes:
        name: as TFLite names it; a custom operator's own name.
        version: the operator's version.
        count: how often it stands in the file.
        in_loops: how many of these stand in a loop's condition or body.
        custom: whether a runtime must be given it (Flex operators too).
        runtime: oldest runtime that knows the version; "" when the table does not know it.
    """

    name: str
    version: int
    count: int
    in_loops: int = 0
    custom: bool = False
    runtime: str = ""


@dataclass(frozen=True)
class LoopReport:
    """A loop: how often its body runs (None: depends on the input), and the body's number of operators."""

    subgraph: int
    iterations: int | None
    operators: int


@dataclass(frozen=True)
class ModelReport:
    """What `inspect_model` found.

    Attributes:
        path: the file.
        bytes: its size.
        description: what the converter wrote about itself.
        signatures: signatures; a model without one gets a nameless one from its main subgraph.
        tensors: every tensor of every subgraph.
        operators: operators by name and version, most frequent first.
        loops: every WHILE.
        subgraphs: number of subgraphs.
        custom: names of operators that are not builtins, Flex ones among them.
        weight_bytes: bytes of weight matrices by element type.
        weight_elements: elements of weight matrices by type.
        constant_bytes: bytes of all constants by type, each buffer once.
        activations: operators that compute, by the type of what they give; without those that make a spectrum of sound.
        arena_bytes: estimate of the interpreter's working memory, from below.
        macs: multiply-accumulates of one call; a loop of unknown length counts once.
        macs_complete: whether every loop's length was known.
        min_runtime_version: what the converter stated; "" when it did not.
        oldest_runtime: oldest TensorFlow Lite runtime that knows every operator version, the statement included.
        needed_by: operators that set `oldest_runtime`.
        unknown_versions: operators in versions that the table does not know.
        notes: what a reader must know about these numbers.
    """

    path: str
    bytes: int
    description: str = ""
    signatures: tuple[SignatureReport, ...] = ()
    tensors: tuple[TensorReport, ...] = ()
    operators: tuple[OperatorReport, ...] = ()
    loops: tuple[LoopReport, ...] = ()
    subgraphs: int = 1
    custom: tuple[str, ...] = ()
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    weight_elements: Mapping[str, int] = field(default_factory=dict)
    constant_bytes: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)
    arena_bytes: int = 0
    macs: int = 0
    macs_complete: bool = True
    min_runtime_version: str = ""
    oldest_runtime: str = ""
    needed_by: tuple[str, ...] = ()
    unknown_versions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelReport:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is missing, unknown, or of the wrong type.
        """
        return from_plain(cls, value)


def inspect_model(path: str | Path) -> ModelReport:
    """Look into a .tflite.

    Raises:
        UsageError: the file is missing, is no .tflite, or is damaged.
    """
    return _report(read_graph(path), str(path))


def inspect_bytes(content: bytes, source: str = "the model") -> ModelReport:
    """Look into a .tflite that is in memory; see `inspect_model`."""
    return _report(parse_graph(content, source), source)


def _report(graph: Graph, path: str) -> ModelReport:
    signatures = graph.signatures or (_plain_signature(graph),)
    starts = sorted({signature.subgraph for signature in signatures})
    costs = [count(graph, start) for start in starts]
    # Signatures share weights and are run one at a time: weights are added up, work and memory are the first one's.
    main = costs[0]
    weights = {tensor.buffer: tensor for cost in costs for tensor in cost.weights}.values()
    in_loops = {visit.subgraph for start in starts for visit in visits(graph, start) if _is_in_loop(visit.callers)}
    operators = _operators(graph, in_loops)
    stated = graph.metadata.get("min_runtime_version", b"").split(b"\0")[0].decode("ascii", "replace").strip()
    oldest, needed_by, unknown = _oldest_runtime(operators, stated)
    notes = []
    if not main.macs_complete:
        notes.append("A loop's length depends on the input: its multiply-accumulates are counted for one iteration.")
    if len(starts) > 1:
        notes.append(f"Work and memory are those of signature {signatures[0].key!r}.")
    if _has_unstated_channels(graph):
        notes.append(
            "FULLY_CONNECTED with float inputs and one scale a channel says an older version than it needs: runtimes "
            f"before {operator_versions().oldest('FULLY_CONNECTED', 12)} may load it and compute something else."
        )
    custom = tuple(item.name for item in operators if item.custom)
    if custom:
        notes.append("Operators that are not builtins: no plain runtime can run this model.")
    return ModelReport(
        path=path,
        bytes=graph.size,
        description=graph.description,
        signatures=tuple(_signature(graph, signature) for signature in signatures),
        tensors=tuple(
            _tensor(tensor, number) for number, subgraph in enumerate(graph.subgraphs) for tensor in subgraph.tensors
        ),
        operators=operators,
        loops=tuple(
            LoopReport(loop.body, loop.iterations, len(graph.subgraphs[loop.body].operators)) for loop in main.loops
        ),
        subgraphs=len(graph.subgraphs),
        custom=custom,
        weight_bytes=_added((tensor.dtype, tensor.bytes_held) for tensor in weights),
        weight_elements=_added((tensor.dtype, tensor.elements) for tensor in weights),
        constant_bytes=_constants(graph),
        activations=_activations(graph),
        arena_bytes=main.arena_bytes,
        macs=main.macs,
        macs_complete=main.macs_complete,
        min_runtime_version=stated,
        oldest_runtime=oldest,
        needed_by=needed_by,
        unknown_versions=unknown,
        notes=tuple(notes),
    )


def _plain_signature(graph: Graph) -> GraphSignature:
    main = graph.subgraphs[0]
    inputs, outputs = (
        {main.tensors[number].name or f"tensor_{number}": number for number in numbers}
        for numbers in (main.inputs, main.outputs)
    )
    return GraphSignature("", 0, inputs, outputs)


def _is_in_loop(callers: tuple[tuple[int, Any], ...]) -> bool:
    return any(operator.name == "WHILE" for _, operator in callers)


def _signature(graph: Graph, signature: GraphSignature) -> SignatureReport:
    tensors = graph.subgraphs[signature.subgraph].tensors

    def edge(names: Mapping[str, int]) -> tuple[TensorReport, ...]:
        return tuple(_tensor(tensors[number], signature.subgraph, name) for name, number in names.items())

    return SignatureReport(signature.key, signature.subgraph, edge(signature.inputs), edge(signature.outputs))


def _tensor(tensor: GraphTensor, subgraph: int, name: str = "") -> TensorReport:
    single = len(tensor.scales) == 1
    return TensorReport(
        name=name or tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        scale=float(tensor.scales[0]) if single else None,
        zero_point=int(tensor.zero_points[0]) if single and tensor.zero_points else None,
        channels=len(tensor.scales) if len(tensor.scales) > 1 else 0,
        axis=tensor.axis if len(tensor.scales) > 1 else 0,
        bytes=tensor.bytes_held,
        subgraph=subgraph,
    )


def _operators(graph: Graph, in_loops: set[int]) -> tuple[OperatorReport, ...]:
    table = operator_versions()
    total: Counter[tuple[str, int, bool]] = Counter()
    looped: Counter[tuple[str, int, bool]] = Counter()
    for number, subgraph in enumerate(graph.subgraphs):
        for operator in subgraph.operators:
            key = (operator.name, operator.version, operator.custom)
            total[key] += 1
            looped[key] += number in in_loops
    order = sorted(total, key=lambda key: (-total[key], key))
    return tuple(
        OperatorReport(name, version, total[name, version, custom], looped[name, version, custom], custom,
                       "" if custom else table.oldest(name, version))
        for name, version, custom in order
    )  # fmt: skip


def _has_unstated_channels(graph: Graph) -> bool:
    """Whether a dense layer holds int8 weights with one scale a channel for float inputs, in a version before the one
    that brought them (12). Quantizers that work on a finished .tflite leave versions as they were.
    """
    for subgraph in graph.subgraphs:
        for operator in subgraph.operators:
            if operator.name == "FULLY_CONNECTED" and operator.version < 12 and len(operator.inputs) > 1:
                values, weights = (subgraph.tensors[number] for number in operator.inputs[:2])
                if values.dtype == "float32" and weights.dtype == "int8" and len(weights.scales) > 1:
                    return True
    return False


def _oldest_runtime(operators: tuple[OperatorReport, ...], stated: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    known = [item for item in operators if item.runtime]
    unknown = tuple(f"{item.name} version {item.version}" for item in operators if not item.runtime and not item.custom)
    oldest = max([operator_versions().lowest, *(item.runtime for item in known)], key=version_key)
    by = tuple(
        f"{item.name} version {item.version}"
        for item in known
        if item.runtime == oldest and oldest != operator_versions().lowest
    )
    if stated and version_key(stated) > version_key(oldest):
        return stated, ("min_runtime_version",), unknown
    return oldest, by, unknown


def _constants(graph: Graph) -> dict[str, int]:
    found = {tensor.buffer: tensor for subgraph in graph.subgraphs for tensor in subgraph.tensors if tensor.constant}
    return _added((tensor.dtype, tensor.bytes_held) for tensor in found.values())


def _activations(graph: Graph) -> dict[str, int]:
    return _added(
        (subgraph.tensors[operator.outputs[0]].dtype, 1)
        for subgraph in graph.subgraphs
        for operator in _after_spectrum(subgraph)
        if operator.name not in NOT_COMPUTING
        and operator.outputs
        and operator.outputs[0] >= 0
        and subgraph.tensors[operator.outputs[0]].dtype in NUMBER_TYPES
    )


def _after_spectrum(subgraph: Subgraph) -> list[GraphOperator]:
    """Operators but those that make the logarithm of a spectrum out of int16 samples, which no integer can hold."""
    sounds = {
        index
        for index in subgraph.inputs
        if subgraph.tensors[index].dtype == "int16" and not subgraph.tensors[index].scales
    }
    heard = set(sounds)  # Numbers of tensors that come from a sound.
    for operator in subgraph.operators:
        if heard & set(operator.inputs) and operator.name != "QUANTIZE":
            heard |= set(operator.outputs)
    wanted = {number for item in subgraph.operators if item.name == "LOG" for number in item.outputs} & heard
    left = []
    for operator in reversed(subgraph.operators):
        if wanted & set(operator.outputs):
            wanted |= set(operator.inputs)
        else:
            left.append(operator)
    return left[::-1]


def _added(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, amount in pairs:
        total[name] += amount
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers to compare: "2.14.0" -> (2, 14, 0); what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


class OperatorVersions:
    """Oldest runtime by operator and version, from op_versions.json."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.source: str = table["source"]
        self.lowest: str = table["oldest"]
        self.measured: Mapping[str, list[str]] = table["measured"]
        self._versions: Mapping[str, Mapping[str, str]] = table["versions"]
        self._known: Mapping[str, int] = table["known"]
        self._first: Mapping[str, int] = table["first"]
        self._litert: Mapping[str, Mapping[str, str]] = table["litert"]
        self._litert_base: str = table["litert_base"]

    def oldest(self, name: str, version: int) -> str:
        """Oldest runtime that knows an operator's version; "" when that is not on record."""
        if version < self._first.get(name, 1):
            return ""
        own = self._versions.get(name, {})
        if str(version) in own:
            return own[str(version)]
        if not own and name.startswith("STABLEHLO_"):  # None of them was there in the oldest runtime.
            return ""
        highest = max([self._known.get(name, 1), *(int(number) for number in own)])
        return self.lowest if version <= highest else ""

    def oldest_litert(self, name: str, version: int) -> str:
        """Oldest LiteRT that knows an operator's version; "" when that is not on record."""
        own = self._litert.get(name, {})
        if str(version) in own:
            return own[str(version)]
        tflite = self.oldest(name, version)
        known = tflite and version_key(tflite) <= version_key(self._litert_base)
        return self.measured["litert"][0] if known else ""


@lru_cache(maxsize=1)
def operator_versions() -> OperatorVersions:
    """The table, read once."""
    text = resources.files("edge_dl.checks").joinpath("op_versions.json").read_text(encoding="utf-8")
    return OperatorVersions(json.loads(text))


def render(report: ModelReport, *, tensors: bool = False) -> str:
    """The report as plain text for a terminal; `tensors` lists every tensor too."""
    lines = [f"{report.path}: {report.bytes:,} bytes, {report.description or 'no description'}"]
    for signature in report.signatures:
        lines.append(f"signature {signature.key!r}" if signature.key else "main graph (no signature)")
        lines += [f"  in   {_described(tensor)}" for tensor in signature.inputs]
        lines += [f"  out  {_described(tensor)}" for tensor in signature.outputs]
    lines.append("operators")
    for item in report.operators:
        where = f", {item.in_loops} in loops" if item.in_loops else ""
        since = "custom" if item.custom else (f"since {item.runtime}" if item.runtime else "newer than the table")
        lines.append(f"  {item.count:5d} x {item.name} version {item.version} ({since}{where})")
    for loop in report.loops:
        length = "unknown" if loop.iterations is None else str(loop.iterations)
        lines.append(f"loop    subgraph {loop.subgraph}: {length} iterations of {loop.operators} operators")
    held = ", ".join(f"{size:,} {dtype}" for dtype, size in report.weight_bytes.items()) or "none"
    lines.append(f"weights {held} (bytes)")
    lines.append(f"arena   about {report.arena_bytes:,} bytes")
    lines.append(f"work    {report.macs:,} multiply-accumulates a call")
    by = f", for {', '.join(report.needed_by)}" if report.needed_by else ""
    stated = f"; the file states {report.min_runtime_version}" if report.min_runtime_version else ""
    lines.append(
        f"runtime TensorFlow Lite {report.oldest_runtime} or newer{by}{stated}; any LiteRT knows 2.17 and older"
    )
    lines += [f"runtime newer than the table: {item}" for item in report.unknown_versions]
    lines += [f"note    {note}" for note in report.notes]
    if tensors:
        lines.append("tensors")
        lines += [f"  [{tensor.subgraph}] {_described(tensor)}" for tensor in report.tensors]
    # Names stand in the file, and a file may come from anybody.
    return "\n".join(printable(line) for line in lines)


def _described(tensor: TensorReport) -> str:
    text = f"{tensor.name} {tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
    if tensor.channels:
        text += f" {tensor.channels} scales on axis {tensor.axis}"
    elif tensor.scale is not None:
        text += f" scale {tensor.scale:.6g} zero {tensor.zero_point or 0}"
    return text + (f" {tensor.bytes:,} bytes" if tensor.bytes else "")
