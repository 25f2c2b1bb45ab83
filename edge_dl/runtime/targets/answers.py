"""What comes back from a target, which is not trusted: JSON against a schema, arrays against what they must be.

Text is cut and freed of control characters, numbers must be finite, arrays must have the names, shapes and types that
the bundle's manifest implies, before a byte of them is read. Paths in an answer are never used.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Manifest
from edge_dl.errors import EdgeError, StageError, UsageError, signal_name
from edge_dl.runtime.agent import RUNTIMES
from edge_dl.runtime.targets.processes import Completed, plain_text

Facts = Mapping[str, tuple[str, Callable[[str], Any]]]
_TYPES = ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")


@dataclass(frozen=True)
class Machine:
    """What a target says about itself. "" or None: not told."""

    system: str = ""
    release: str = ""
    architecture: str = ""
    processor: str = ""
    cores: int | None = None
    governor: str = ""
    temperature_c: float | None = None
    python: str = ""
    numpy: str = ""


@dataclass(frozen=True)
class Run:
    """What the agent said about answering samples.

    Attributes:
        runtime, version: the interpreter.
        delegated: whether a delegate took over operators.
        seconds: that the answers took.
        load_ms: that reading the model took.
        machine: where it ran.
    """

    runtime: str
    version: str
    delegated: bool
    seconds: float
    load_ms: float
    machine: Machine = field(default_factory=Machine)


@dataclass(frozen=True)
class Timing:
    """Latency of one model as a target measured it: milliseconds a call, bytes of memory. None: not told."""

    runtime: str
    version: str
    delegated: bool
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    calls: int
    steady: bool
    load_ms: float
    first_call_ms: float | None = None
    memory_peak_bytes: int | None = None
    machine: Machine = field(default_factory=Machine)
    machine_after: Machine = field(default_factory=Machine)

    @property
    def typical_ms(self) -> float:
        """The median of a call; its mean where the target does not tell the median."""
        return self.mean_ms if self.p50_ms is None else self.p50_ms


@dataclass(frozen=True)
class Pair:
    """Two models that a target timed in turns, opened one after the other.

    Attributes:
        timings: of both.
        rounds_ms: for each the milliseconds of a call, one number a round (the lower quartile of its calls); a round of
            one was measured beside the same round of the other.
    """

    timings: tuple[Timing, Timing]
    rounds_ms: tuple[tuple[float, ...], tuple[float, ...]]


def read_answer(done: Completed) -> dict[str, Any]:
    """The JSON object that the agent printed.

    Raises:
        UsageError, StageError: what the agent itself reports, by its exit code.
        StageError: it crashed, its Python lacks something, or it printed something else.
    """
    text = done.stdout.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text, parse_constant=_refuse_constant) if text else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and "error" not in value and done.returncode in (0, 1):
        return value
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        raise _told(value["error"], value.get("exit_code"))
    raise _broken(done)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _told(error: Mapping[str, Any], code: Any) -> EdgeError:
    parts = {key: plain_text(str(error.get(key, ""))) for key in ("rule", "received", "todo")}
    rule = parts["rule"] or "The target must run the model."
    if "reads bundles of format" in rule:
        parts["todo"] = "The target's agent is older than the bundle: install a newer edge-dl and try again."
    if re.search(r"No space left on device|File too large|Disk quota", str(error.get("message", ""))):
        return full_disk(plain_text(str(error["message"])))
    if code == 2:
        return UsageError(rule, received=parts["received"], todo=parts["todo"])
    return StageError(rule, stage="target", received=parts["received"], todo=parts["todo"])


def _broken(done: Completed) -> EdgeError:
    words, errors = done.words, plain_text(done.stderr, 4000)
    missing = re.search(r"No module named '?(numpy)\b", errors)
    if missing:
        return StageError(
            "The target's Python needs NumPy.",
            stage="target",
            received="a Python without it",
            todo="Install it there: pip install numpy ai-edge-litert (or: apt install python3-numpy).",
        )
    if done.returncode in (126, 127):
        return StageError(
            "The target needs Python 3.8 or newer.",
            stage="target",
            received=words,
            todo="Install it there (apt install python3), or name it: ?python=PATH in the target's address.",
        )
    if re.search(r"No space left on device|File too large|Disk quota exceeded", errors) or done.returncode in (
        -25,
        153,
    ):
        return full_disk(words)
    code = done.returncode
    name = signal_name(code) or (signal_name(128 - code) if 128 < code < 160 else "")
    if name == "SIGKILL":
        received = "SIGKILL"
        todo = "It may have run out of memory or of time."
    elif name:
        received, todo = name, "The model crashes this runtime: make it again, or try another runtime."
    else:
        received, todo = f"exit code {code}", "Look at the target with `edge-dl target doctor NAME`."
    received += f"; its last words: {words}" if words else ""
    return StageError("The target must answer with JSON.", stage="target", received=received, todo=todo)


def full_disk(words: str) -> StageError:
    """The error for a target whose disk takes no more."""
    return StageError(
        "The target must have room for the bundle and its answers.",
        stage="target",
        received=words,
        todo="Make room there, or choose another folder with ?folder=PATH in the target's address.",
    )


# --- the schema ---


class _Fields:
    """Fields of an object in an answer, each checked when it is read."""

    def __init__(self, value: Any, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise self._error("an object", value)
        self.value: dict[str, Any] = value

    def _error(self, wanted: str, received: Any, name: str = "") -> StageError:
        return StageError(
            f"A target's answer must hold {wanted} at {self.where}{'.' + name if name else ''}.",
            stage="target",
            received=plain_text(repr(received), 100),
            todo="The agent there may be another version's: install the same edge-dl, or look at the target.",
        )

    def object(self, name: str) -> _Fields:
        return _Fields(self.value.get(name), f"{self.where}.{name}")

    def objects(self, name: str, count: int) -> list[_Fields]:
        items = self.value.get(name)
        if not isinstance(items, list) or len(items) != count:
            raise self._error(f"a list of {count}", items, name)
        return [_Fields(item, f"{self.where}.{name}[{place}]") for place, item in enumerate(items)]

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        items = self.value.get(name)
        if not isinstance(items, list) or len(items) != count:
            raise self._error(f"a list of {count} numbers", items, name)
        fields = _Fields({str(place): item for place, item in enumerate(items)}, f"{self.where}.{name}")
        return tuple(fields.number(str(place)) for place in range(count))

    def text(self, name: str, choices: tuple[str, ...] = ()) -> str:
        value = self.value.get(name)
        if value is None and not choices:
            return ""
        if not isinstance(value, str) or (choices and value not in choices):
            raise self._error("one of " + ", ".join(choices) if choices else "text", value, name)
        return plain_text(value, 200)

    def flag(self, name: str) -> bool:
        value = self.value.get(name)
        if not isinstance(value, bool):
            raise self._error("true or false", value, name)
        return value

    def number(self, name: str, low: float = 0.0) -> float:
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= 1e15:
            raise self._error(f"a number from {low:g}", value, name)
        return float(value)

    def maybe(self, name: str, low: float = 0.0) -> float | None:
        return None if self.value.get(name) is None else self.number(name, low)

    def whole(self, name: str) -> int:
        number = self.number(name)
        if number != int(number):
            raise self._error("a whole number", number, name)
        return int(number)


def _machine(fields: _Fields) -> Machine:
    cores = fields.maybe("cores")
    return Machine(
        **{name: fields.text(name) for name in (
            "system", "release", "architecture", "processor", "governor", "python", "numpy")},
        cores=None if cores is None else int(cores),
        temperature_c=fields.maybe("temperature_c", -300.0),
    )  # fmt: skip


def parse_run(value: Any) -> Run:
    """Check what the agent's `run` printed.

    Raises:
        StageError: a field is missing or of the wrong kind; the message names it.
    """
    fields = _Fields(value, "run")
    model = fields.object("model")
    return Run(
        runtime=model.text("runtime", RUNTIMES),
        version=model.text("version"),
        delegated=model.flag("delegated"),
        seconds=fields.number("seconds"),
        load_ms=model.number("load_ms"),
        machine=_machine(fields.object("machine")),
    )


def parse_timing(value: Any) -> Timing:
    """Check what the agent's `bench` of one model printed.

    Raises:
        StageError: see `parse_run`.
    """
    fields = _Fields(value, "bench")
    return _timing(fields, fields.objects("models", 1)[0])


def parse_pair(value: Any, rounds: int) -> Pair:
    """Check what the agent's `bench` of two models printed, in the order of its command line.

    Raises:
        StageError: see `parse_run`.
    """
    fields = _Fields(value, "bench")
    one, other = fields.objects("models", 2)
    times = [tuple(number / 1e3 for number in model.numbers("round_us", rounds)) for model in (one, other)]
    return Pair((_timing(fields, one), _timing(fields, other)), (times[0], times[1]))


def _timing(fields: _Fields, model: _Fields) -> Timing:
    peak = model.maybe("memory_peak_bytes")
    return Timing(
        runtime=model.text("runtime", RUNTIMES),
        version=model.text("version"),
        delegated=model.flag("delegated"),
        p50_ms=model.number("p50_us") / 1e3,
        p90_ms=model.number("p90_us") / 1e3,
        p99_ms=model.number("p99_us") / 1e3,
        mean_ms=model.number("mean_us") / 1e3,
        calls=model.whole("calls"),
        steady=model.flag("steady"),
        load_ms=model.number("load_ms"),
        first_call_ms=model.maybe("first_call_ms"),
        memory_peak_bytes=None if peak is None else int(peak),
        machine=_machine(fields.object("machine")),
        machine_after=_machine(fields.object("machine_after")),
    )


def parse_facts(text: str, patterns: Facts) -> dict[str, Any]:
    """Facts in a target's text: per name the pattern of its value, and what turns that into a number or text."""
    facts: dict[str, Any] = {}
    for name, (pattern, convert) in patterns.items():
        if found := re.search(pattern, text[:100_000], re.MULTILINE):
            try:
                value = convert(plain_text(found[1], 200))
            except (ValueError, OverflowError):
                continue
            if not isinstance(value, float) or math.isfinite(value):
                facts[name] = value
    return facts


# --- arrays ---


def expected_outputs(manifest: Manifest, inputs: Mapping[str, np.ndarray], count: int) -> dict[str, tuple[int, ...]]:
    """Shape of every output for so many samples; -1 where the model leaves a size free (not counted in `limit`)."""
    shapes = {}
    sequence = manifest.sequence
    for spec in manifest.signature.outputs:
        tail = spec.shape[1:]
        if sequence is not None and sequence.outputs[spec.name] == "each":
            steps = inputs[sequence.inputs[0]].shape[1]
            tail = (steps, *(tail[1:] if tail[:1] == (1,) else tail))
        elif manifest.stream is not None and manifest.stream.outputs[spec.name].kind == "each":
            tail = (manifest.stream.outputs[spec.name].frames, *tail[1:])
        shapes[spec.name] = (count, *tail)
    return shapes


def load_outputs(path: Path, manifest: Manifest, inputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Read the outputs that the agent wrote: exactly the model's, of the right shape and type, without pickles.

    Raises:
        StageError: anything else is in the file, or it is damaged.
    """
    wanted = expected_outputs(manifest, inputs, count)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {item.filename: item for item in archive.infolist()}
            if set(members) != {f"y/{name}.npy" for name in wanted} or len(members) != len(archive.infolist()):
                raise ValueError(f"members {', '.join(sorted(members))[:200]}")
            return {name: _read_array(archive, members[f"y/{name}.npy"], shape) for name, shape in wanted.items()}
    except EdgeError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for damaged bytes.
        raise StageError(
            "The target must give back the model's outputs and nothing else.",
            stage="target",
            received=plain_text(f"{type(error).__name__}: {error}"),
        ) from None


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: tuple[int, ...]) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, fortran, dtype = read(file, max_header_size=4096)
        if found != shape or dtype.name not in _TYPES or not dtype.isnative:
            raise ValueError(f"{member.filename} of shape {found} and type {dtype}, not {shape}")
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        # One byte more than there should be tells a longer member without unpacking all of it.
        content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"{member.filename} of another length than its header says")
    array = np.frombuffer(content, dtype)
    return (array.reshape(shape[::-1]).T if fortran else array.reshape(shape)).copy()
