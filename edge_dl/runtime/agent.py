"""The one file that runs on a device: opens a .tflite or a bundle, runs it, checks it, times it, and speaks JSON.

It needs the standard library, NumPy and one interpreter (LiteRT, tflite-runtime or TensorFlow's), nothing else of
edge-dl, and keeps to what Python 3.8 understands: copy it to a Raspberry Pi and run

    python agent.py info|verify|run|bench|generate ...

It prints one JSON document. Exit codes: 0 done, 1 a check failed, 2 wrong use, 3 the model or the machine broke.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import importlib.util
import json
import math
import os
import platform
import re
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

FORMAT = 1
RUNTIMES = ("ai_edge_litert", "tflite_runtime", "tensorflow")
_MODULES = {name: name + ".interpreter" for name in RUNTIMES[:2]}
_MODULES["tensorflow"] = "tensorflow.lite.python.interpreter"
ATTENTION = "attention"  # the output with weights over a source, where no manifest says which one it is
_DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")

if TYPE_CHECKING:  # Not evaluated at run time: Python 3.8 cannot subscript dict.
    import argparse

    Arrays = dict[str, np.ndarray]


class AgentError(Exception):
    """The model, the runtime or the machine broke: the rule, what was received, what to do. Exit code 3."""

    exit_code = 3

    def __init__(self, rule: str, *, received: str = "", todo: str = "") -> None:
        """Keep the three parts."""
        self.rule, self.received, self.todo = rule, received, todo
        super().__init__(" ".join(part for part in (rule, received and f"Received: {received}.", todo) if part))


class AgentUsageError(AgentError):
    """Wrong use: bad input, a file that is not what it should be. Exit code 2."""

    exit_code = 2


_error_types: dict[str, Callable[..., Exception]] = {"usage": AgentUsageError, "stage": AgentError}


def set_error_types(*, usage: Callable[..., Exception], stage: Callable[..., Exception]) -> None:
    """Raise a host's own errors instead of this file's; both are called as (rule, received=, todo=)."""
    _error_types.update(usage=usage, stage=stage)


def _usage(rule: str, received: str = "", todo: str = "") -> Exception:
    return _error_types["usage"](rule, received=received, todo=todo)


def _stage(rule: str, received: str = "", todo: str = "") -> Exception:
    return _error_types["stage"](rule, received=received, todo=todo)


# --- numbers at the model's edge -------------------------------------------------------------------------------------


class Spec(NamedTuple):
    """One tensor at the model's edge. `scale` 0.0: not quantized; -1 in `shape`: free."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


class State(NamedTuple):
    """A state that a model which remembers takes as `input` and gives back as `output`.

    It starts at real zero, and is set back to it after each of the first `silent` calls; or it starts at what the
    encoder's output `initial` holds.
    """

    input: str
    output: str
    silent: int = 0
    initial: str = ""


def quantize(values: np.ndarray, spec: Spec) -> np.ndarray:
    """Real numbers as the integers that `spec` stores: rint(x / scale) + zero_point, clipped to the type's range.

    Ties go to the even neighbour (IEEE 754, `numpy.rint`, Kotlin's `Math.rint`). int8, uint8 and int16 are computed in
    float32, wider integers in float64, on every platform alike.
    """
    info = np.iinfo(spec.dtype)
    wide = np.dtype(np.float32 if info.bits <= 16 else np.float64)
    scaled = np.rint(np.asarray(values, wide) / wide.type(spec.scale))
    scaled += wide.type(spec.zero_point)
    # The largest float below 2**63 that float64 holds; int32 and narrower are exact.
    high = float(info.max) if info.bits <= 32 else np.nextafter(2.0**63, 0)
    return np.clip(scaled, float(info.min), high, out=scaled).astype(spec.dtype)


def dequantize(values: np.ndarray, spec: Spec) -> np.ndarray:
    """The real numbers behind stored integers: (q - zero_point) * scale, in float32."""
    if spec.scale == 0.0 or np.dtype(spec.dtype).kind == "f":
        return values.astype(np.float32) if values.dtype == np.float16 else values
    if np.dtype(spec.dtype).itemsize > 2:
        return ((values.astype(np.float64) - spec.zero_point) * float(np.float32(spec.scale))).astype(np.float32)
    return (values.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)


def to_raw(values: Any, spec: Spec) -> np.ndarray:
    """Check real values for `spec` (shape aside) and give them in its stored type, C-contiguous.

    Raises:
        usage error: not numbers, NaN or infinity, fractions or out-of-range values for an integer input.
    """
    if type(values) is np.ndarray and spec.scale == 0.0 and values.dtype == spec.dtype and values.dtype.kind in "iub":
        return np.ascontiguousarray(values)  # Samples and tokens as they are stored: nothing can be wrong with them.
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _usage(f"Input {spec.name!r} must be one array, not ragged.", str(error)) from None
    if array.dtype.kind not in "fiub":
        raise _usage(f"Input {spec.name!r} must hold real numbers.", f"an array of {array.dtype}")
    if spec.dtype == "bool" and array.dtype.kind != "b":
        raise _usage(f"Input {spec.name!r} takes true or false.", f"an array of {array.dtype}")
    real = np.dtype(spec.dtype).kind == "f"
    if not real and spec.scale == 0.0:
        if array.dtype.kind == "f":
            raise _usage(f"Input {spec.name!r} takes whole numbers ({spec.dtype}).", f"an array of {array.dtype}")
        if array.size and spec.dtype != "bool":
            info = np.iinfo(spec.dtype)
            if int(array.min()) < info.min or int(array.max()) > info.max:
                received = f"values from {array.min()} to {array.max()}"
                raise _usage(f"Input {spec.name!r} takes numbers from {info.min} to {info.max}.", received)
        return np.ascontiguousarray(array, spec.dtype)
    with np.errstate(over="ignore"):  # Too large for the type becomes infinite, which is refused in the next line.
        array = np.ascontiguousarray(array, spec.dtype if real else np.float32)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        received = f"{bad} of {array.size} values not finite in {array.dtype}"
        raise _usage(f"Input {spec.name!r} must not hold NaN or infinity.", received, "Clean the data first.")
    return array if real else quantize(array, spec)


def escape_label(text: str) -> str:
    """A token as one line of labels.txt: backslash, line breaks and control characters become backslash escapes.

    A backslash is `\\\\`, a line feed `\\n`, a carriage return `\\r`, a tab `\\t`; other control characters and the
    Unicode line separators are `\\uXXXX`; the empty token is `\\e`. Everything else stands for itself.
    """
    named = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

    def one(match: Any) -> str:
        character = match.group()
        return named.get(character) or f"\\u{ord(character):04x}"

    return re.sub("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", one, text) or "\\e"


def unescape_label(line: str) -> str:
    """Inverse of `escape_label`."""
    named = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t", "e": ""}

    def one(match: Any) -> str:
        code = match.group(1)
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code in named:
            return named[code]
        raise _usage("A token's escapes must be \\\\, \\n, \\r, \\t, \\e or \\uXXXX.", repr(line))

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.|$)", one, line)


# --- interpreters ----------------------------------------------------------------------------------------------------


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _load_runtime(name: str) -> tuple[Any, str]:
    """Import one runtime; gives its module and version."""
    module = importlib.import_module(_MODULES[name])
    if name == "tensorflow":
        return module, str(sys.modules["tensorflow"].__version__)
    from importlib import metadata

    try:
        version = metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        version = ""
    if _is_first(name, version) and int(np.__version__.split(".")[0]) >= 2:
        raise ImportError(f"{name} {version} needs numpy<2, and NumPy is {np.__version__}")
    return module, version


def _is_first(name: str, version: str) -> bool:
    """Whether a runtime is of TFLite's time: tflite-runtime, or LiteRT's first release.

    Measured of tflite-runtime 2.14.0 and LiteRT 1.0.1: they need numpy<2.
    """
    return name == "tflite_runtime" or version.startswith("1.0.")


def _mixes_halves(name: str, version: str, path: str) -> bool:
    """Whether a runtime's XNNPACK would answer wrongly, without a word, for a file with float16 constants.

    Before LiteRT 1.1 and TensorFlow 2.19, the delegate keeps what it unpacks of float16 constants in one piece of
    memory, which it fills anew for every graph of a file: for each signature, for the body of a loop. What an earlier
    graph still reads there when it runs, such as a constant that is added, is then another graph's.
    """
    if name == "tensorflow":
        old = [int(part) for part in re.findall(r"\d+", version)[:2]] < [2, 19]
    else:
        old = _is_first(name, version)
    return old and _graphs_with_halves(path) > 1


def _graphs_with_halves(path: str) -> int:
    """How many graphs of a .tflite hold float16 tensors, read by hand: no runtime's Python tells of all of them.

    Source: FlatBuffers' internals (https://flatbuffers.dev/internals) and TFLite's schema: Model.subgraphs is field 2,
    SubGraph.tensors field 0, Tensor.type field 1, FLOAT16 is 1.
    """
    with open(path, "rb") as file:
        content = file.read()

    def number(form: str, place: int) -> int:
        return int(struct.unpack_from(form, content, place)[0])

    def field(table: int, index: int) -> int:
        """Place of a table's field; 0: it has none."""
        fields = table - number("<i", table)
        offset = number("<H", fields + 4 + 2 * index) if 4 + 2 * index < number("<H", fields) else 0
        return table + offset if offset else 0

    def tables(place: int) -> list[int]:
        """Places of the tables in the vector that a field points to."""
        if not place:
            return []
        start = place + number("<I", place)
        count = min(number("<I", start), len(content) // 4)
        return [start + 4 * item + number("<I", start + 4 * item) for item in range(1, count + 1)]

    def is_half(tensor: int) -> bool:
        kind = field(tensor, 1)
        return bool(kind) and number("<b", kind) == 1

    try:
        graphs = tables(field(number("<I", 0), 2))
        return sum(any(is_half(tensor) for tensor in tables(field(graph, 0))) for graph in graphs)
    except struct.error:  # A damaged file; the runtime says so.
        return 0


def find_runtime(runtime: str = "auto") -> tuple[str, Any, str]:
    """Name, module and version of a runtime; "auto" takes the first that works, TensorFlow last.

    Raises:
        usage error: unknown name, or none is installed and working.
    """
    if runtime not in RUNTIMES and runtime != "auto":
        raise _usage("A runtime is one of auto, {}.".format(", ".join(RUNTIMES)), repr(runtime))
    reasons = []
    for name in RUNTIMES if runtime == "auto" else (runtime,):
        if not _installed(name):
            reasons.append(f"{name} is not installed")
            continue
        try:
            module, version = _load_runtime(name)
            return name, module, version
        except Exception as error:  # A broken native library raises what it likes.
            reasons.append(f"{name} does not load ({error})")
    todo = "Install one in this Python: pip install ai-edge-litert (32-bit ARM: pip install tflite-runtime 'numpy<2')."
    raise _usage("Running a .tflite needs an interpreter.", "; ".join(reasons), todo)


class Interpreter:
    """One .tflite in one runtime, with named inputs and outputs in their stored types.

    Attributes:
        runtime, version: which interpreter, e.g. "ai_edge_litert", "2.3.0".
        signature: key of the signature in use; "" for a model without one, whose names come from its tensors.
        inputs, outputs: `Spec` by name.
        load_seconds: time to read the model and allocate its tensors.
    """

    def __init__(
        self,
        model: Any,
        *,
        runtime: str = "auto",
        threads: int = 1,
        delegate: bool = True,
        signature: str = "",
        keep_tensors: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: path of a .tflite.
            runtime: "auto" or one of RUNTIMES.
            threads: threads of the interpreter, at least 1.
            delegate: whether the default delegate (XNNPACK) may take over operators. Where it would answer wrongly (see
                `_mixes_halves`) it may not.
            signature: key of the signature to run; "" takes the only one, else the first that there is of "predict",
                "step", "decode_step" and "serving_default".
            keep_tensors: whether what operators compute on the way can be read with `get_tensor` after a call. Where a
                delegate takes over, its own tensors are not kept.
        """
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise _usage("Threads must be a whole number from 1.", repr(threads))
        path = os.fspath(model)
        _check_file(path)
        self.runtime, module, self.version = find_runtime(runtime)
        delegate = delegate and not _mixes_halves(self.runtime, self.version, path)
        self.threads, self.delegate = threads, delegate
        resolver = module.OpResolverType.AUTO if delegate else module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        kept = {"experimental_preserve_all_tensors": True} if keep_tensors else {}
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tf.lite announces its end on every use.
                self._native = module.Interpreter(
                    model_path=path, num_threads=threads, experimental_op_resolver_type=resolver, **kept
                )
            self._native.allocate_tensors()
            self._bind(signature)
        except (ValueError, RuntimeError, TypeError, SystemError) as error:
            self._refuse(path, error)
        self.load_seconds = time.perf_counter() - started

    def _refuse(self, path: str, error: Exception) -> NoReturn:
        message = " ".join(str(error).split())
        if re.search(r"Flex|custom op", message, re.I):
            todo = "The model holds operators that are not TFLite builtins: convert it again with builtins only."
        elif "Didn't find op for builtin opcode" in message:
            todo = "The runtime is older than an operator's version: install a newer one or convert for this runtime."
        else:
            todo = "Make the model again, or try another runtime."
        received = f"{path} in {self.runtime} {self.version}: {message}"
        raise _stage("The runtime must be able to load the model.", received, todo) from None

    def _bind(self, signature: str) -> None:
        """Find inputs and outputs by name."""
        native = self._native
        keys = list(native.get_signature_list())
        if signature and signature not in keys:
            raise _usage("The model has no such signature.", repr(signature), "It has: " + (", ".join(keys) or "none"))
        preferred = [key for key in ("predict", "step", "decode_step", "serving_default") if key in keys]
        self.signature = signature or (keys[0] if len(keys) == 1 else (preferred or [""])[0])
        if keys and not self.signature:
            raise _usage("A signature must be chosen.", "a model with {}".format(", ".join(keys)), "Name one of them.")
        self._runner: Any = None
        self._subgraph = 0
        if self.signature:
            runner = native.get_signature_runner(self.signature)
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
            self._subgraph = int(getattr(runner, "_subgraph_index", 0))
            if self._subgraph != 0:
                self._runner = runner
        else:
            inputs, outputs = _named(native.get_input_details()), _named(native.get_output_details())
        self.inputs = {name: _spec(name, detail) for name, detail in inputs.items()}
        self.outputs = {name: _spec(name, detail) for name, detail in outputs.items()}
        self._in = {name: int(detail["index"]) for name, detail in inputs.items()}
        self._out = {name: int(detail["index"]) for name, detail in outputs.items()}
        self._free = any(-1 in spec.shape for spec in self.inputs.values())
        self._sizes = {name: tuple(int(size) for size in detail["shape"]) for name, detail in inputs.items()}
        self.set_tensor, self.get_tensor = native.set_tensor, native.get_tensor
        self.run, self.reset = native.invoke, native.reset_all_variables
        if self._subgraph and not self._free:
            self._reach_subgraph(self._subgraph)

    def _reach_subgraph(self, number: int) -> None:
        """Call a graph that is not the main one as the main one is called.

        The runtimes' runner of a signature resizes and allocates on every call, several times the price of a small
        model. What it calls itself takes a graph's number; where a runtime has no such calls, the runner stays.
        """
        owner = self._native
        try:
            owner._interpreter.AllocateTensors(number)
            for name, index in self._in.items():
                owner._interpreter.SetTensor(index, np.zeros(self._sizes[name], self.inputs[name].dtype), number)
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return
        # Looked up at every call: the runtimes take a reference that is kept for memory in use, and refuse to run.
        self.set_tensor = lambda index, value: owner._interpreter.SetTensor(index, value, number)
        self.get_tensor = lambda index: owner._interpreter.GetTensor(index, number)
        self.run = lambda: owner._interpreter.Invoke(number)
        self._runner = None

    def view(self, signature: str) -> Interpreter:
        """Another signature of the same loaded model: one file in memory, tensors of its own.

        Raises:
            usage error: the model has no such signature.
        """
        other = copy.copy(self)
        try:
            other._bind(signature)
        except (ValueError, RuntimeError, TypeError, SystemError) as error:
            self._refuse(signature, error)
        return other

    def invoke(self, inputs: Arrays) -> Arrays:
        """One call in stored types: arrays by input name, exactly shaped and typed; gives arrays by output name.

        Raises:
            usage error: a name, shape or type that does not fit.
        """
        if self._free:
            self._resize(inputs)
        try:
            if self._runner is not None:
                return dict(self._runner(**inputs))
            if len(inputs) != len(self._in):
                raise KeyError
            for name, value in inputs.items():
                self.set_tensor(self._in[name], value)
            self.run()
            return {name: self.get_tensor(index) for name, index in self._out.items()}
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise self._explain(inputs, error) from None

    def _explain(self, inputs: Arrays, error: Exception) -> Exception:
        """The error behind a failed call: the input that does not fit, or else the runtime's own words."""
        check_names(inputs, self.inputs)
        for name, spec in self.inputs.items():
            value = np.asarray(inputs[name])
            fits = len(value.shape) == len(spec.shape) and all(
                want in (-1, size)
                for want, size in zip(spec.shape, value.shape)  # noqa: B905 (Python 3.8)
            )
            if not fits or value.dtype != spec.dtype:
                received = f"{list(value.shape)} {value.dtype}"
                return _usage(f"Input {name!r} takes {list(spec.shape)} {spec.dtype}.", received)
        return _stage(
            "The model must run.", "{} {}: {}".format(self.runtime, self.version, " ".join(str(error).split()))
        )

    def _resize(self, inputs: Arrays) -> None:
        """Give free axes the sizes of the arrays, which allocates again."""
        check_names(inputs, self.inputs)
        changed = False
        for name, value in inputs.items():
            if value.shape != self._sizes[name]:
                want = self.inputs[name].shape
                if len(want) != len(value.shape) or any(
                    w not in (-1, v)
                    for w, v in zip(want, value.shape)  # noqa: B905 (Python 3.8)
                ):
                    raise _usage(f"Input {name!r} takes {list(want)} (-1: any size).", str(list(value.shape)))
                if self._runner is None:
                    self._native.resize_tensor_input(self._in[name], value.shape)
                self._sizes[name] = value.shape
                changed = True
        if changed and self._runner is None:
            try:
                self._native.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                # Nothing is known about the tensors now: the next call sets every size again.
                self._sizes = dict.fromkeys(self.inputs, (-1,))
                raise _usage("The model must accept the input's size.", " ".join(str(error).split())) from None

    def bare(self, inputs: Arrays) -> Callable[[], None]:
        """A call for timing: sets the given raw inputs, runs, reads every output, and nothing else."""
        self.invoke(inputs)  # Names, shapes and types are known to be right from here on.
        if self._runner is not None:
            return lambda: self._runner(**inputs)
        pairs, indices = [(self._in[name], value) for name, value in inputs.items()], list(self._out.values())
        set_tensor, run, get_tensor = self.set_tensor, self.run, self.get_tensor

        def call() -> None:
            for index, value in pairs:
                set_tensor(index, value)
            run()
            for index in indices:
                get_tensor(index)

        return call

    def operators(self) -> set[str]:
        """Kinds of operators of the main graph, DELEGATE among them where one took over; empty: not told."""
        if self._subgraph:
            return set()
        try:
            native = self._native._interpreter
            return {native.NodeName(number) for number in range(native.NumNodes())}
        except Exception:  # Not part of the runtimes' public interface.
            return set()

    def keeps_state(self) -> bool:
        """Whether one call may leave something to the next, so that samples need a `reset` between them.

        Recurrent operators keep variables. The graphs behind control flow are not listed, and custom operators (whose
        names are not all capitals) can do what they like: these count as keeping something.
        """
        names = self.operators()
        known = re.compile(r"(?!(.*(LSTM|RNN|SVDF|_VARIABLE)|WHILE|IF|CALL|CALL_ONCE)$)[A-Z0-9_]+")
        return not names or not all(known.fullmatch(name) for name in names)


def _check_file(path: str) -> None:
    if not os.path.isfile(path):
        raise _usage("The model must be a .tflite file.", path + (" (a folder)" if os.path.isdir(path) else ""))
    with open(path, "rb") as file:
        head = file.read(8)
    if head[4:] != b"TFL3":
        raise _usage("A .tflite starts with the mark TFL3.", f"{path}, which does not", "Was it cut off or renamed?")


def _named(details: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tensor details by a readable name, for a model without signature."""
    named: dict[str, dict[str, Any]] = {}
    for detail in details:
        base = re.sub(r"^serving_default_|:\d+$", "", detail["name"]) or "tensor"
        name, number = base, 1
        while name in named:
            name, number = f"{base}_{number}", number + 1
        named[name] = detail
    return named


def _spec(name: str, detail: dict[str, Any]) -> Spec:
    dtype = np.dtype(detail["dtype"]).name
    if dtype not in _DTYPES:
        raise _usage("Inputs and outputs must be of {}.".format(", ".join(_DTYPES)), f"{name!r} of {dtype}")
    signature = detail.get("shape_signature", detail["shape"])
    shape = tuple(int(size) for size in (signature if len(signature) else detail["shape"]))
    scales = detail["quantization_parameters"]["scales"]
    if np.dtype(dtype).kind == "f" or len(scales) == 0:
        return Spec(name, shape, dtype)
    if len(scales) > 1:
        raise _usage("Inputs and outputs must have one scale.", f"{name!r} with one a channel")
    return Spec(name, shape, dtype, float(scales[0]), int(detail["quantization_parameters"]["zero_points"][0]))


def check_names(given: Any, wanted: Any) -> None:
    """Raise a usage error unless both hold the same names."""
    if set(given) != set(wanted):
        raise _usage(
            "Exactly these inputs must be given: {}.".format(", ".join(wanted)), ", ".join(map(str, given)) or "none"
        )


# --- sessions --------------------------------------------------------------------------------------------------------


def read_manifest(folder: str, *, check_hashes: bool = True) -> dict[str, Any]:
    """manifest.json of a bundle, with what the agent needs of it checked, and the hash of every member.

    Raises:
        usage error: no bundle, another format, a member that is missing, changed or outside the folder.
    """
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        if manifest["format"] != FORMAT:
            raise _usage(f"This agent reads bundles of format {FORMAT}.", "format " + repr(manifest["format"]))
        files, signature = manifest["files"], manifest["signature"]
        members = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in files.items()}
        labels = [manifest["labels"]] if manifest.get("labels") else []
        if not {"model.tflite", "golden.npz", *labels} <= set(members) or not isinstance(signature["key"], str):
            raise KeyError("files")
        _check_signature(signature)
        _check_sequence(manifest, signature)
        _check_encoder(manifest, signature)
        _check_translation(manifest, signature, set(members))
        reset = manifest.get("reset")
        if reset is not None and (not isinstance(reset, str) or not reset or signature.get("states")):
            raise ValueError(f"reset {reset!r}, or states beside it")
        if not all(limit is None or type(limit) in (int, float) for limit in manifest.get("limits", {}).values()):
            raise ValueError(f"limits {manifest['limits']}")
    except FileNotFoundError:
        raise _usage("A bundle is a folder that holds manifest.json.", folder) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        received = f"{path} ({type(error).__name__}: {error})"
        raise _usage("A bundle's manifest must keep to its format.", received, "Make the bundle again.") from None
    for name, (digest, size) in members.items():
        member, root = os.path.realpath(os.path.join(folder, name)), os.path.realpath(folder)
        if os.path.commonpath([member, root]) != root or os.path.isabs(name) or ".." in name.split("/"):
            raise _usage("A bundle's members must lie inside its folder.", repr(name))
        if not os.path.isfile(member):
            raise _usage("Every member that the manifest names must exist.", f"{folder} without {name}")
        if check_hashes and (os.path.getsize(member) != size or _sha256(member) != digest):
            todo = "Copy the bundle again: it was changed or cut off on the way."
            raise _usage("A member must have the hash that the manifest states.", member, todo)
    return manifest


def _check_signature(signature: dict[str, Any]) -> None:
    """Raise ValueError where a signature's tensors are not described as a manifest describes them."""
    inputs, outputs = list(signature["inputs"]), list(signature["outputs"])
    states = list(signature.get("states", []))
    for item in inputs + outputs:
        _check_tensor(item, ("name",), ("",))
    for item in states:
        _check_tensor(item, ("input", "output"), ("", "output_"))
        silent, initial = item.get("silent", 0), item.get("initial", "")
        if type(silent) is not int or silent < 0 or not isinstance(initial, str):
            raise ValueError(f"state {item['input']!r}")
    for items, kind in ((inputs, "input"), (outputs, "output")):
        names = [item["name"] for item in items] + [item[kind] for item in states]
        if not items or len(set(names)) != len(names):
            raise ValueError(f"{kind}s {names}")


def _check_tensor(item: dict[str, Any], names: Sequence[str], prefixes: Sequence[str]) -> None:
    words = [item[key] for key in names]
    shape, dtype = item["shape"], item["dtype"]
    fits = all(isinstance(word, str) and word for word in words) and dtype in _DTYPES and isinstance(shape, list)
    # -1: a size that is free until the model is called.
    if not fits or not all(type(size) is int and size >= -1 for size in shape):
        raise ValueError(f"{words[0]!r} of shape {shape!r} and type {dtype!r}")
    for prefix in prefixes:
        scale, zero = item.get(prefix + "scale", 0.0), item.get(prefix + "zero_point", 0)
        # Scales are float32; a whole number of hundreds of digits is no float at all.
        if type(scale) not in (int, float) or not 0 <= scale <= 3.4e38 or type(zero) is not int:
            raise ValueError(f"{words[0]!r} of scale {scale!r} and zero point {zero!r}")


def _check_sequence(manifest: dict[str, Any], signature: dict[str, Any]) -> None:
    """Raise ValueError where what a manifest says of the steps does not fit its signature."""
    sequence = manifest.get("sequence")
    if sequence is None:
        return
    inputs, steps, outputs = sequence["inputs"], sequence["steps"], sequence["outputs"]
    shapes = {item["name"]: item["shape"] for item in signature["inputs"]}
    fits = isinstance(inputs, list) and len(inputs) > 0 and type(steps) is int and steps >= 1
    # Batch and time stand in front.
    fits = fits and all(isinstance(name, str) and len(shapes.get(name, [])) >= 2 for name in inputs)
    fits = fits and isinstance(outputs, dict) and set(outputs) == {item["name"] for item in signature["outputs"]}
    if not fits or not all(kind in ("each", "last") for kind in outputs.values()):
        raise ValueError(f"sequence {json.dumps(sequence)}")


def _check_encoder(manifest: dict[str, Any], signature: dict[str, Any]) -> None:
    """Raise ValueError where what a manifest says of encoder and beams does not fit its step."""
    encoder, beams = manifest.get("encoder"), manifest.get("beams")
    states = signature.get("states", [])
    starts = {item["initial"]: item["shape"] for item in states if item.get("initial")}
    if encoder is None:
        if starts or beams is not None:
            raise ValueError(f"states from {sorted(starts)} or beams, without an encoder")
        return
    _check_signature({"inputs": encoder["inputs"], "outputs": encoder["outputs"]})
    if not isinstance(encoder["key"], str) or manifest.get("sequence") is None:
        raise ValueError(f"encoder {encoder['key']!r}, or no sequence")
    given = {item["name"]: item["shape"] for item in encoder["outputs"]}
    fed = manifest["sequence"]["inputs"]
    wanted = {item["name"]: item["shape"] for item in signature["inputs"] if item["name"] not in fed}
    wanted.update(starts)
    wrong = [name for name, shape in wanted.items() if given.get(name) != shape]
    if wrong or {item["name"] for item in encoder["inputs"]} & set(fed):
        raise ValueError(f"encoder, which does not give {wrong} as a step takes them, or is fed by steps")
    if beams is None:
        return
    if not isinstance(beams["key"], str) or type(beams["count"]) is not int or beams["count"] < 2:
        raise ValueError(f"beams {json.dumps(beams)}")
    if not all(item["shape"] for item in [*signature["outputs"], *states]):
        raise ValueError("beams of a step without a batch axis")


def _check_translation(manifest: dict[str, Any], signature: dict[str, Any], members: set[str]) -> None:
    """Raise ValueError where what a manifest says of its tokens does not fit its signatures."""
    words = manifest.get("translation")
    if words is None:
        return
    outputs = {item["name"] for item in signature["outputs"]}
    encoder, sequence = manifest.get("encoder") or {}, manifest.get("sequence") or {}
    known = {
        "tables": members,
        "source": {item["name"] for item in encoder.get("inputs", [])},
        "target": set(sequence.get("inputs", [])),
        "output": outputs,
    }
    fits = all(isinstance(words[key], str) and words[key] in names for key, names in known.items())
    attention = words.get("attention")
    if not fits or not (attention is None or (isinstance(attention, str) and attention in outputs)):
        raise ValueError(f"translation {json.dumps(words)}")


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _check_edges(described: dict[str, Any], interpreter: Interpreter) -> None:
    """Compare what a manifest says of a signature with the model, and take its shapes over."""
    if not described:
        return
    for kind, edges in (("input", interpreter.inputs), ("output", interpreter.outputs)):
        prefix = "output_" if kind == "output" else ""
        wanted = {item["name"]: ("", item) for item in described[kind + "s"]}
        wanted.update({item[kind]: (prefix, item) for item in described.get("states", [])})
        if set(wanted) != set(edges):
            received = f"{sorted(wanted)} in the manifest, {sorted(edges)} in the model"
            raise _usage(f"The manifest must name the model's {kind}s.", received, "Make the bundle again.")
        for name, (before, item) in wanted.items():
            spec = edges[name]
            same = len(item["shape"]) == len(spec.shape) and all(
                real in (-1, size)
                for size, real in zip(item["shape"], spec.shape)  # noqa: B905 (Python 3.8)
            )
            scale, zero = item.get(before + "scale", 0.0), item.get(before + "zero_point", 0)
            same = same and item["dtype"] == spec.dtype and zero == spec.zero_point
            if not same or not math.isclose(scale, spec.scale, rel_tol=1e-6):
                received = f"{json.dumps(item)} in the manifest, {spec} in the model"
                raise _usage(f"The manifest must describe {kind} {name!r} as it is.", received)
            edges[name] = spec._replace(shape=tuple(int(size) for size in item["shape"]))


def _many(described: dict[str, Any], fed: Sequence[str], count: int) -> dict[str, Any]:
    """A step's signature as a manifest describes it, with `count` rows of what is fed, given and remembered."""

    def rows(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "shape": [item["shape"][0] * count, *item["shape"][1:]]}

    return {
        "inputs": [rows(item) if item["name"] in fed else item for item in described["inputs"]],
        "outputs": [rows(item) for item in described["outputs"]],
        "states": [rows(item) for item in described.get("states", [])],
    }


def _requantizer(given: Spec, taken: Spec) -> Callable[[np.ndarray], np.ndarray] | None:
    """What turns a tensor given into a tensor taken; None where they are stored alike and stay as they are."""
    if given[2:] == taken[2:]:  # dtype, scale, zero point
        return None
    if taken.scale:
        return lambda value: quantize(dequantize(value, given), taken)
    return lambda value: dequantize(value, given).astype(taken.dtype)


class Session:
    """A model with its bundle's knowledge: real numbers in and out, samples, time steps and states.

    Attributes:
        path: the bundle's folder or the .tflite.
        manifest: the bundle's manifest; None for a bare .tflite.
        interpreter: the `Interpreter`.
        inputs, outputs: `Spec` by name, without states; of a model with an encoder, the encoder's inputs and those that
            are fed step by step.
        states: of a model which remembers.
        beams: hypotheses that `beam_session` takes a step for at a time; 0: there is no such signature.
        stream: the manifest's words on how a `stream` model is fed; None for others.
        batch: samples a call takes; 0 where the tensors share no batch axis, so that a call is one sample.
    """

    def __init__(
        self,
        path: Any,
        *,
        runtime: str = "auto",
        threads: int = 1,
        delegate: bool = True,
        signature: str = "",
        check_hashes: bool = True,
        keep_tensors: bool = False,
    ) -> None:
        """Open a bundle's folder or a .tflite; see `Interpreter` for the arguments."""
        self.path = os.fspath(path)
        self.manifest: dict[str, Any] | None = None
        model = self.path
        self.labels: list[str] = []  # type: str, list[str]
        if os.path.isdir(self.path):
            self.manifest = read_manifest(self.path, check_hashes=check_hashes)
            model, signature = os.path.join(self.path, "model.tflite"), self.manifest["signature"]["key"]
            if self.manifest.get("labels"):
                with open(os.path.join(self.path, self.manifest["labels"]), encoding="utf-8", newline="") as file:
                    self.labels = file.read().split("\n")[:-1]
        self.interpreter = Interpreter(
            model, runtime=runtime, threads=threads, delegate=delegate, signature=signature, keep_tensors=keep_tensors
        )
        described = self.manifest["signature"] if self.manifest else {}
        self.states = [
            State(item["input"], item["output"], int(item.get("silent", 0)), item.get("initial", ""))
            for item in described.get("states", [])
        ]
        _check_edges(described, self.interpreter)
        encoder: dict[str, Any] = (self.manifest or {}).get("encoder") or {}
        self._encoder = self.interpreter.view(encoder["key"]) if encoder else None
        if self._encoder is not None:
            _check_edges(encoder, self._encoder)
        reset = (self.manifest or {}).get("reset")
        self._resetting = self.interpreter.view(reset) if reset else None
        self.beams = int(((self.manifest or {}).get("beams") or {}).get("count", 0))
        self._rows = 0  # Of a session of beams, how many they are.
        self._prepare()

    def _prepare(self) -> None:
        """Find out what the interpreter's signature is fed and gives."""
        taken, given = {state.input for state in self.states}, {state.output for state in self.states}
        self.inputs = {name: spec for name, spec in self.interpreter.inputs.items() if name not in taken}
        self.outputs = {name: spec for name, spec in self.interpreter.outputs.items() if name not in given}
        sequence = (self.manifest or {}).get("sequence") or {}
        self.sequence_inputs: tuple[str, ...] = tuple(sequence.get("inputs", ()))
        self._each = {name for name, kind in sequence.get("outputs", {}).items() if kind == "each"}
        if not set(self.sequence_inputs) <= set(self.inputs) or not self._each <= set(self.outputs):
            raise _usage("A bundle's sequence must name inputs and outputs of its model.", json.dumps(sequence))
        self.stream: dict[str, Any] | None = (self.manifest or {}).get("stream")
        self._check_stream()
        looked_at: set[str] = set()
        if self._encoder is not None:
            fed = {name: self.inputs[name] for name in self.sequence_inputs}
            looked_at = set(self.inputs) - set(fed)
            self.inputs = {**self._encoder.inputs, **fed}
        edges = [spec for name, spec in self.interpreter.inputs.items() if name not in looked_at]
        edges += self.interpreter.outputs.values()
        first = {abs(spec.shape[0]) if spec.shape else 0 for spec in edges}  # abs: a free batch (-1) is called with 1.
        self.batch = first.pop() if len(first) == 1 else 0
        if self.states and not self.batch:
            raise _usage(
                "A step model's tensors must share their batch axis.", str([list(edge.shape) for edge in edges])
            )
        if (self.is_step or self.stream) and (self.interpreter._runner or any(-1 in edge.shape for edge in edges)):
            raise _usage(
                "A step model must have static shapes and its signature in a graph that is reached.", self.path
            )
        inside, outside = self.interpreter._in, self.interpreter._out
        self._links = [
            (
                inside[one.input],
                outside[one.output],
                _requantizer(self.interpreter.outputs[one.output], self.interpreter.inputs[one.input]),
            )
            for one in self.states
        ]
        # What each step looks at, and what states start from: the encoder's output, whose input, how to store it.
        self._handed = []
        if self._encoder is not None:
            pairs = [(name, name) for name in sorted(looked_at)]
            pairs += [(one.initial, one.input) for one in self.states if one.initial]
            for source, target in pairs:
                convert = _requantizer(self._encoder.outputs[source], self.interpreter.inputs[target])
                self._handed.append((source, target, convert))
        self.used = False
        self._calls = 0
        self._current: Arrays = {}
        self._held: Arrays | None = None
        self.reset()

    @property
    def is_step(self) -> bool:
        """Whether the model takes one time step a call."""
        return bool(self.sequence_inputs)

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` comes before the steps."""
        return self._encoder is not None

    def beam_session(self) -> Session:
        """The same loaded model as a session that takes a step for `beams` hypotheses of one source at a time.

        Its `encode` starts all of them from the source, `step` takes and gives one row a hypothesis, and `reorder` lets
        rows go on from others. States are its own.

        Raises:
            usage error: the model has no such signature.
        """
        if not self.beams or self.manifest is None:
            todo = "Set conversion.beams=4 and conversion.batch=1."
            raise _usage("Only a decoder with beams takes several hypotheses.", self.path, todo)
        other = copy.copy(self)
        other.interpreter = self.interpreter.view(self.manifest["beams"]["key"])
        other._rows = self.beams
        _check_edges(_many(self.manifest["signature"], self.sequence_inputs, self.beams), other.interpreter)
        other._prepare()
        return other

    def _check_stream(self) -> None:
        """Compare what the manifest says of a stream with the model."""
        if self.stream is None:
            return
        stream = self.stream
        try:
            items = list(stream["outputs"].items())
            whole = [stream[key] for key in ("packet", "lead", "clip", "late")]
            whole += [item[key] for _, item in items for key in ("first", "frames")]
            fits = all(type(value) is int and value >= 0 for value in whole)
            fits = fits and list(self.inputs) == [stream["input"]] and {name for name, _ in items} == set(self.outputs)
            packet, lead, clip, late = whole[:4]
            shape = self.inputs[stream["input"]].shape
            fits = fits and len(shape) > 1 and shape[1] == packet > lead and late <= clip
            for name, item in items:
                each = item["kind"] == "each"
                calls = (item["first"] + item["frames"]) / self.outputs[name].shape[1] if each else item["first"] + 1
                # The clip's answer comes with the packet that it ends in, or as much later as frames are late.
                fits = fits and item["kind"] in ("each", "last") and (calls - 1) * packet <= lead + clip + late
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
            fits = False
        if not fits:
            raise _usage("A bundle's stream must describe its model.", json.dumps(stream), "Make the bundle again.")

    def reset(self) -> None:
        """Every state back to real zero, the model's own variables too; a source that was encoded is forgotten."""
        self.interpreter.reset()
        if self._resetting is not None:
            # States that the file keeps itself: real zeros begin a new sequence or stream.
            specs = self._resetting.inputs.values()
            self._resetting.invoke({spec.name: np.full(spec.shape, spec.zero_point, spec.dtype) for spec in specs})
        self._calls = 0
        self._held = None
        for state in self.states:
            spec = self.interpreter.inputs[state.input]
            self._current[state.input] = np.full(spec.shape, spec.zero_point, spec.dtype)

    def invoke(self, raw: Arrays) -> Arrays:
        """One call of the model in stored types, states among inputs and outputs, nothing kept. See `Interpreter`."""
        self.used = True
        return self.interpreter.invoke(raw)

    def predict(self, inputs: Any) -> Arrays:
        """Answers in real numbers for one sample or many.

        Args:
            inputs: by input name (or the array alone for a model with one input), real numbers or tokens. An array of
                the input's rank without its batch axis is one sample; with one more axis in front, many samples. Inputs
                of a step model that are fed step by step have their time axis after the sample axis, of any length.
                A stream model takes whole clips here, packet by packet from fresh states; `packet` goes on. A model
                with an encoder is told what it should have said: it encodes once and takes a step a position.

        Returns:
            By output name: float32 (or the stored integers where they stand for themselves), with the sample axis first
            if the inputs had it. Every sample is computed from fresh states.

        Raises:
            usage error: a missing or unknown name, a wrong shape or type, NaN or infinity.
        """
        self._refuse_beams()
        raw, count, single = self._samples(inputs)
        self.used = True
        run = self._run_sequences if self.is_step else self._run_clips if self.stream else self._run
        stored = run(raw, count)
        outputs = {name: dequantize(value, self.outputs[name]) for name, value in stored.items()}
        return {name: value[0] for name, value in outputs.items()} if single else outputs

    def _refuse_beams(self) -> None:
        if self._rows:
            raise _usage("A session of beams takes steps for one source.", self.path, "Ask the session that made it.")

    def _samples(self, inputs: Any) -> tuple[Arrays, int, bool]:
        """Inputs as raw arrays with a sample axis; the number of samples; whether one was given without that axis."""
        if not isinstance(inputs, dict):
            if hasattr(inputs, "keys"):
                inputs = dict(inputs)
            elif len(self.inputs) == 1:
                inputs = {next(iter(self.inputs)): inputs}
            else:
                raise _usage("Inputs must be given by name: {}.".format(", ".join(self.inputs)), type(inputs).__name__)
        check_names(inputs, self.inputs)
        raw: Arrays = {}
        counts: dict[str, int] = {}
        steps: dict[str, int] = {}
        singles: set[bool] = set()
        for name, spec in self.inputs.items():
            value = to_raw(inputs[name], spec)
            want = list(spec.shape[1:] if self.batch else spec.shape)
            fed = name in self.sequence_inputs
            if fed:
                want[0] = -1
            elif self.stream:
                want[0] = int(self.stream["clip"])
            single = value.ndim == len(want)
            if single:
                value = value[np.newaxis]
            shape = value.shape[1:]
            if len(shape) != len(want) or any(w not in (-1, s) for w, s in zip(want, shape)):  # noqa: B905
                todo = "Give one sample of that shape, or many with the sample axis in front (-1: any size)."
                raise _usage(f"A sample of input {name!r} has shape {want}.", str(list(np.shape(inputs[name]))), todo)
            if fed:
                steps[name] = shape[0]
            raw[name], counts[name] = value, len(value)
            singles.add(single)
        if len(set(counts.values())) != 1 or len(singles) != 1 or 0 in counts.values():
            raise _usage("Every input must hold the same number of samples, at least one.", str(counts))
        if steps and (len(set(steps.values())) != 1 or 0 in steps.values()):
            raise _usage("Inputs fed step by step must have the same number of steps, at least one.", str(steps))
        return raw, counts.popitem()[1], singles.pop()

    def _chunks(self, raw: Arrays, count: int) -> Iterator[tuple[int, Arrays]]:
        """Inputs of one call after another with the first sample's number; the last call is filled up."""
        size = self.batch or 1
        for start in range(0, count, size):
            chunk = {name: value[start : start + size] for name, value in raw.items()}
            missing = size - (min(start + size, count) - start)
            if missing:
                chunk = {name: np.concatenate([part, part[-1:].repeat(missing, 0)]) for name, part in chunk.items()}
            yield start, chunk if self.batch else {name: part[0] for name, part in chunk.items()}

    def _run(self, raw: Arrays, count: int) -> Arrays:
        """Whole samples through the model, in stored types."""
        interpreter = self.interpreter
        results: Arrays = {}
        free = interpreter._free or any(-1 in spec.shape for spec in self.outputs.values())
        plain = self.batch == 1 and not free and interpreter._runner is None
        for start, chunk in self._chunks(raw, 1 if plain else count):
            interpreter.reset()
            for name, value in interpreter.invoke(chunk).items():
                value = value if self.batch else value[np.newaxis]
                if name not in results:
                    results[name] = np.empty((count, *value.shape[1:]), value.dtype)
                rows = results[name][start : start + (self.batch or 1)]
                if value.shape[1:] != rows.shape[1:]:
                    received = f"{list(value.shape[1:])} after {list(rows.shape[1:])} for output {name!r}"
                    raise _usage("Samples given together must have outputs of one shape.", received)
                rows[...] = value[: len(rows)]
        if plain and count > 1:
            # The path that evaluation of thousands of samples takes: nothing but the interpreter's own calls.
            pairs = [(interpreter._in[name], value) for name, value in raw.items()]
            gets = [(interpreter._out[name], value) for name, value in results.items()]
            set_tensor, run, get_tensor = interpreter.set_tensor, interpreter.run, interpreter.get_tensor
            keeps_state = interpreter.keeps_state()
            try:
                for number in range(1, count):
                    if keeps_state:
                        interpreter.reset()
                    for index, value in pairs:
                        set_tensor(index, value[number : number + 1])
                    run()
                    for index, value in gets:
                        value[number] = get_tensor(index)
            except (ValueError, RuntimeError) as error:
                raise interpreter._explain({name: value[:1] for name, value in raw.items()}, error) from None
        return results

    def _run_sequences(self, raw: Arrays, count: int) -> Arrays:
        """Whole sequences through a step model, in stored types. Nothing but the interpreter's calls in the loop."""
        interpreter = self.interpreter
        set_tensor, run, get_tensor = interpreter.set_tensor, interpreter.run, interpreter.get_tensor
        steps = raw[self.sequence_inputs[0]].shape[1]
        results: Arrays = {}
        each: list[tuple[int, np.ndarray]] = []
        last: list[tuple[int, np.ndarray]] = []
        for name, spec in self.outputs.items():
            shape = (steps, *self._step_shape(name)) if name in self._each else spec.shape[1:]
            results[name] = np.empty((count, *shape), spec.dtype)
            (each if name in self._each else last).append((interpreter._out[name], results[name]))
        for start, chunk in self._chunks(raw, count):
            self.reset()
            stop = min(start + self.batch, count)
            still = {name: value for name, value in chunk.items() if name not in self.sequence_inputs}
            if self._encoder is not None:
                self._begin(self._encoder.invoke(still))
                still = self._held or {}
            fixed = [(interpreter._in[name], value) for name, value in still.items()]
            # The time axis first, and one step with the axes that the model takes: (steps, batch, 1, ...).
            fed = [
                (interpreter._in[name], np.ascontiguousarray(chunk[name].swapaxes(0, 1))[:, :, np.newaxis])
                for name in self.sequence_inputs
            ]
            held = list(self._current.values())
            try:
                for step in range(steps):
                    for index, value in fed:
                        set_tensor(index, value[step])
                    # Also what does not change: the memory of an input is used again once it was read.
                    for index, value in fixed:
                        set_tensor(index, value)
                    for (index, _, _), value in zip(self._links, held):  # noqa: B905 (Python 3.8)
                        set_tensor(index, value)
                    run()
                    held = [keep(get_tensor(index)) if keep else get_tensor(index) for _, index, keep in self._links]
                    for index, result in each:
                        rows = result[start:stop, step]
                        rows[...] = get_tensor(index).reshape(self.batch, *rows.shape[1:])[: len(rows)]
            except (ValueError, RuntimeError) as error:
                words = " ".join(str(error).split())
                raise _stage("The model must run.", f"{interpreter.runtime} {interpreter.version}: {words}") from None
            for index, result in last:
                result[start:stop] = get_tensor(index)[: stop - start]
        self.reset()
        return results

    @property
    def clip_calls(self) -> int:
        """Packets that a stream model takes until it has given every answer of a whole clip."""
        assert self.stream is not None
        calls = 1
        for key, item in self.stream["outputs"].items():
            frames = self.outputs[key].shape[1] if item["kind"] == "each" else 0
            last = -(-(item["first"] + item["frames"]) // frames) if frames else item["first"] + 1
            calls = max(calls, last)
        return calls

    def _run_clips(self, raw: Arrays, count: int) -> Arrays:
        """Whole clips through a stream model, packet by packet, in stored types: every clip's own answer."""
        assert self.stream is not None
        stream = self.stream
        name, packet, lead = stream["input"], stream["packet"], stream["lead"]
        spec = self.inputs[name]
        calls = self.clip_calls
        results: Arrays = {}
        for key, item in stream["outputs"].items():
            own = self.outputs[key]
            if item["kind"] == "last":
                results[key] = np.empty((count, *own.shape[1:]), own.dtype)
            else:
                results[key] = np.empty((count, item["frames"], *own.shape[2:]), own.dtype)
        for start, chunk in self._chunks(raw, count):
            self.reset()
            stop = min(start + self.batch, count)
            value = chunk[name]
            padded = np.full((len(value), calls * packet, *value.shape[2:]), spec.zero_point, spec.dtype)
            heard = min(value.shape[1], calls * packet - lead)
            padded[:, lead : lead + heard] = value[:, :heard]
            pieces: dict[str, list[np.ndarray]] = {}
            for call in range(calls):
                answers = self._advance({name: np.ascontiguousarray(padded[:, call * packet : (call + 1) * packet])})
                for key, item in stream["outputs"].items():
                    if item["kind"] == "each":
                        pieces.setdefault(key, []).append(answers[key])
                    elif call == item["first"]:
                        results[key][start:stop] = answers[key][: stop - start]
            for key, found in pieces.items():
                first, frames = stream["outputs"][key]["first"], stream["outputs"][key]["frames"]
                results[key][start:stop] = np.concatenate(found, 1)[: stop - start, first : first + frames]
        self.reset()
        return results

    def packet(self, values: Any) -> Arrays:
        """The next packet of a stream, in real numbers or the samples' own integers; states are kept until `reset`.

        Args:
            values: (packet, ...) for a model of batch 1, or with the batch axis.

        Returns:
            By output name, this call's answer; without batch axis where the batch is 1.
        """
        if self.stream is None:
            raise _usage("Only a stream model takes packets.", self.path, "Convert it with the lowering `stream`.")
        name = self.stream["input"]
        spec = self.inputs[name]
        value = to_raw(values, spec)
        if value.shape not in (spec.shape[1:] if self.batch == 1 else None, spec.shape):
            raise _usage(f"A packet has shape {list(spec.shape[1:])}.", str(list(value.shape)))
        self.used = True
        answers = {}
        for key, item in self._advance({name: value.reshape(spec.shape)}).items():
            real = dequantize(item, self.outputs[key])
            answers[key] = real[0] if self.batch == 1 else real
        return answers

    def _step_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one step's answer of one sample: without batch axis, and without time axis for an `each` output."""
        shape = self.outputs[name].shape[1:]
        return shape[1:] if name in self._each and shape[:1] == (1,) else shape

    def encode(self, inputs: Any) -> Arrays:
        """Run the encoder on a source. The steps that follow look at it and start from it, until the next or `reset`.

        Args:
            inputs: by the encoder's input names (or the array alone where it has one), one sample, without batch axis
                or with one of 1; of a model of batch B > 1, B samples with the batch axis.

        Returns:
            By name, what the encoder gives, in real numbers, with the batch axis.

        Raises:
            usage error: the model has no encoder, or an input does not fit.
        """
        encoder = self._encoder
        if encoder is None:
            raise _usage("Only a model with an encoder encodes.", self.path, "Convert it with the lowering `decode`.")
        if not isinstance(inputs, dict):
            inputs = {next(iter(encoder.inputs)): inputs}
        check_names(inputs, encoder.inputs)
        raw = {}
        for name, spec in encoder.inputs.items():
            value = to_raw(inputs[name], spec)
            if value.shape not in (spec.shape[1:] if spec.shape[0] == 1 else None, spec.shape):
                wanted = list(spec.shape[1:] if spec.shape[0] == 1 else spec.shape)
                raise _usage(f"A source of input {name!r} has shape {wanted}.", str(list(value.shape)))
            raw[name] = value.reshape(spec.shape)
        self.used = True
        self.reset()
        results = encoder.invoke(raw)
        self._begin(results)
        return {name: dequantize(value, encoder.outputs[name]) for name, value in results.items()}

    def _begin(self, encoded: Arrays) -> None:
        """Hand on what the encoder gave, in stored types: to what each step looks at, and to states."""
        held: Arrays = {}
        for source, target, convert in self._handed:
            value = encoded[source] if convert is None else convert(encoded[source])
            if target in self._current:
                rows = self.interpreter.inputs[target].shape[0] // len(value)
                self._current[target] = value.repeat(rows, 0) if rows > 1 else value
            else:
                held[target] = value
        self._held = held

    def reorder(self, parents: Any) -> None:
        """Let row i of every state go on from where row `parents[i]` is: hypotheses follow their parents.

        Args:
            parents: (batch,) whole numbers from 0 to batch - 1.

        Raises:
            usage error: other numbers.
        """
        rows = np.asarray(parents)
        fits = rows.shape == (self.batch,) and rows.dtype.kind in "iu"
        if not fits or rows.min() < 0 or rows.max() >= self.batch:
            raise _usage(f"Parents are {self.batch} whole numbers from 0 to {self.batch - 1}.", repr(parents))
        for name, value in self._current.items():
            self._current[name] = value[rows]

    def _advance(self, inputs: Arrays) -> Arrays:
        """One time step or packet in stored types; keeps the states."""
        interpreter, current = self.interpreter, self._current
        if self._held:
            inputs = {**inputs, **self._held}
        set_tensor, get_tensor = interpreter.set_tensor, interpreter.get_tensor
        try:
            for name, value in inputs.items():
                set_tensor(interpreter._in[name], value)
            for (index, _, _), value in zip(self._links, current.values()):  # noqa: B905 (Python 3.8)
                set_tensor(index, value)
            interpreter.run()
            for state, (_, index, keep) in zip(self.states, self._links):  # noqa: B905 (Python 3.8)
                if self._calls >= state.silent:
                    current[state.input] = keep(get_tensor(index)) if keep else get_tensor(index)
            self._calls += 1
            return {name: get_tensor(interpreter._out[name]) for name in self.outputs}
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise interpreter._explain({**inputs, **current}, error) from None

    def step(self, inputs: Any) -> Arrays:
        """One time step in real numbers; states are kept until `reset`.

        Args:
            inputs: by input name (or the array alone), one step of one sample, e.g. the shape (features,) or () for a
                token; a model of batch B > 1 takes (B, ...). Of a model with an encoder, what is fed step by step.

        Returns:
            By output name, the answer to this step, without time axis; without batch axis where the batch is 1.
        """
        if not self.is_step:
            raise _usage("Only a step model takes one time step.", self.path, "Use predict, or the lowering `step`.")
        specs = self.inputs
        if self._encoder is not None:
            if self._held is None:
                raise _usage("A source is encoded before the first step.", self.path, "Call encode.")
            specs = {name: self.inputs[name] for name in self.sequence_inputs}
        if not isinstance(inputs, dict):
            inputs = {next(iter(specs)): inputs}
        check_names(inputs, specs)
        raw = {}
        for name, spec in specs.items():
            value = to_raw(inputs[name], spec)
            tail = spec.shape[2:] if name in self.sequence_inputs else spec.shape[1:]
            if value.shape not in (tail if self.batch == 1 else None, (self.batch, *tail), spec.shape):
                raise _usage(f"One step of input {name!r} has shape {list(tail)}.", str(list(value.shape)))
            raw[name] = value.reshape(spec.shape)
        self.used = True
        answers = {}
        for name, value in self._advance(raw).items():
            value = dequantize(value.reshape(self.batch, *self._step_shape(name)), self.outputs[name])
            answers[name] = value[0] if self.batch == 1 else value
        return answers

    def bare(self, inputs: Any) -> Callable[[], Any]:
        """A call for timing, without checks or conversions: one answer to `inputs`, which is one sample.

        For a step or stream model that is the whole sequence or clip, states carried on; for one with an encoder, an
        encode and a step a position.
        """
        self._refuse_beams()
        raw, count, _ = self._samples(inputs)
        chunk = next(self._chunks(raw, count))[1]
        self.used = True
        if self.stream:
            return lambda: self._run_clips(raw, 1)
        if not self.is_step:
            return self.interpreter.bare(chunk)
        return lambda: self._run_sequences(raw, 1)

    def golden(self) -> tuple[Arrays, Arrays]:
        """Golden inputs and reference outputs by name, sample axis first."""
        if self.manifest is None:
            raise _usage("Golden samples come with a bundle.", self.path, "Name a bundle's folder.")
        path = os.path.join(self.path, "golden.npz")
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile and NumPy raise many kinds for a damaged file.
            raise _usage("golden.npz must be an archive of plain arrays.", f"{path} ({error})") from None
        inputs = {name[3:]: value for name, value in arrays.items() if name.startswith("in/")}
        outputs = {name[4:]: value for name, value in arrays.items() if name.startswith("out/")}
        check_names(inputs, self.inputs)
        check_names(outputs, self.outputs)
        return inputs, outputs

    def describe(self) -> dict[str, Any]:
        """What is open, as plain JSON values."""
        interpreter, manifest = self.interpreter, self.manifest or {}

        def plain(specs: dict[str, Spec]) -> list[dict[str, Any]]:
            return [{**spec._asdict(), "shape": list(spec.shape)} for spec in specs.values()]

        return {
            "path": self.path,
            "name": manifest.get("name", ""),
            "variant": manifest.get("variant", ""),
            "runtime": interpreter.runtime,
            "version": interpreter.version,
            "threads": interpreter.threads,
            "delegate": interpreter.delegate,
            "delegated": "DELEGATE" in interpreter.operators(),
            "signature": interpreter.signature,
            "inputs": plain(self.inputs),
            "outputs": plain(self.outputs),
            "states": [state._asdict() for state in self.states],
            "batch": self.batch,
            **self._described_decoder(),
            "load_ms": round(interpreter.load_seconds * 1e3, 3),
        }

    def _described_decoder(self) -> dict[str, Any]:
        """Of a model with an encoder: its signature, beams, and what `bare` does for a sample of the usual length."""
        if self._encoder is None:
            return {}
        steps = (self.manifest or {})["sequence"]["steps"]
        return {"encoder": self._encoder.signature, "beams": self.beams, "call": f"an encode and {steps} steps"}


# --- checks ----------------------------------------------------------------------------------------------------------


def verify(session: Session) -> dict[str, Any]:
    """Run a bundle's golden samples and compare with the reference, under the manifest's limits.

    NaN and infinity fail first; then shape, largest error, cosine, signal-to-noise ratio (dB) and top-1 agreement an
    output; then the same samples in reverse order must give the same bits (a leaking state does not). Of a decoder with
    beams, steps for several hypotheses must give what steps for one give (`compare_beams`).

    Returns:
        {"passed": bool, "samples": n, "failures": [text...], "outputs": {name: {"max_abs", "mean_abs", "rmse",
        "cosine", "snr_db", "top1"}}, "model": Session.describe()}; None where a figure does not exist. With beams also
        "beams", as "outputs", against steps for one.
    """
    inputs, reference = session.golden()
    answers = session.predict(inputs)
    backwards = session.predict({name: value[::-1] for name, value in inputs.items()})
    manifest = session.manifest or {}
    limits = {name: limit for name, limit in manifest.get("limits", {}).items() if limit is not None}
    failures: list[str] = []
    outputs: dict[str, dict[str, Any]] = {}
    classes = class_outputs(manifest, list(reference))
    for name, want in reference.items():
        got = answers[name]
        if not np.isfinite(want).all():
            failures.append(f"{name}: the reference answers hold NaN or infinity")
            continue
        if got.shape != want.shape:
            failures.append(f"{name}: shape {list(got.shape)} instead of {list(want.shape)}")
            continue
        bad = int(got.size - np.isfinite(got).sum())
        if bad:
            failures.append(f"{name}: {bad} of {got.size} values are NaN or infinite")
            continue
        if not np.array_equal(got, backwards[name][::-1]):
            failures.append(f"{name}: another answer when the samples come in another order (a state leaks)")
        figures = _compare(got, want, manifest.get("task", "") if name in classes else "")
        outputs[name] = figures
        failures += [f"{name}: {text}" for text in _beyond(figures, want, limits)]
    count = len(next(iter(inputs.values())))
    report: dict[str, Any] = {"samples": count, "outputs": outputs}
    if session.beams:
        report["beams"], found = compare_beams(session, inputs, manifest.get("task", ""), limits)
        failures += [f"beams: {text}" for text in found]
    return {"passed": not failures, "failures": failures, **report, "model": session.describe()}


def class_outputs(manifest: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Outputs among which one class is chosen, if the task is one of classes at all.

    Weights over a source are no choice among classes, whatever the task. A manifest that knows its tokens says which
    output they are chosen by; elsewhere weights have the name `ATTENTION`.
    """
    named = (manifest.get("translation") or {}).get("output")
    return [name for name in names if (name == named if named else name != ATTENTION)]


def compare_beams(
    session: Session, inputs: Arrays, task: str, limits: dict[str, float], *, samples: int = 3, steps: int = 16
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Compare steps for several hypotheses at a time with the same model's steps for one.

    The rows of `beams` are told different things, and go on from each other's states now and then, as in a search.
    What each row answered on its way is held against `predict` of the same target.

    Args:
        session: one with beams.
        inputs: samples by input name, sample axis first.
        task, limits: as in `verify`.
        samples: how many sources to take.
        steps: steps of each at most.

    Returns:
        Figures by output name, as in `verify`, and what is beyond the limits.
    """
    beams, count = session.beam_session(), session.beams
    fed = {name: inputs[name][:, :steps] for name in session.sequence_inputs}
    total, steps = len(next(iter(fed.values()))), next(iter(fed.values())).shape[1]
    got: dict[str, list[np.ndarray]] = {name: [] for name in session.outputs}
    wanted: dict[str, list[np.ndarray]] = {name: [] for name in session.outputs}
    for row in range(min(samples, total)):
        source = {name: value[row] for name, value in inputs.items() if name not in fed}
        # Other samples' targets, each moved on by its row: one golden sample is enough for rows that differ.
        told = {
            name: np.stack([np.roll(value[(row + beam) % total], -beam, 0) for beam in range(count)])
            for name, value in fed.items()
        }
        answers: dict[str, list[np.ndarray]] = {name: [] for name in session.outputs}
        beams.encode(source)
        for step in range(steps):
            if step:
                # Mostly another order; every third time two go on from each row of the first half.
                parents = np.roll(np.arange(count), 1) if step % 3 else np.arange(count) // 2
                beams.reorder(parents)
                for value in told.values():
                    value[:, :step] = value[parents, :step]
                answers = {name: [part[parents] for part in parts] for name, parts in answers.items()}
            for name, part in beams.step({name: value[:, step] for name, value in told.items()}).items():
                answers[name].append(part)
        repeated = {name: np.repeat(value[np.newaxis], count, 0) for name, value in source.items()}
        for name, value in session.predict({**repeated, **told}).items():
            got[name].append(np.stack(answers[name], 1))
            wanted[name].append(value)
    figures: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    classes = class_outputs(session.manifest or {}, list(got))
    for name in session.outputs:
        have, want = np.concatenate(got[name]), np.concatenate(wanted[name])
        if have.shape != want.shape or not np.isfinite(have).all() or not np.isfinite(want).all():
            failures.append(f"{name}: shape {list(have.shape)} instead of {list(want.shape)}, or NaN or infinity")
            continue
        figures[name] = _compare(have, want, task if name in classes else "")
        failures += [f"{name}: {text}" for text in _beyond(figures[name], want, limits)]
    return figures, failures


def _beyond(figures: dict[str, Any], want: np.ndarray, limits: dict[str, float]) -> list[str]:
    """What of an output's figures is beyond the limits, in words."""
    # The limit of the largest error is in units of the output's own scale, probabilities and temperatures alike.
    bounds: dict[str, Any] = {}
    if "max_abs" in limits:
        bounds["max_abs"] = limits["max_abs"] * max(1.0, float(np.abs(want).max()))
    bounds.update({figure: limits.get("min_" + figure) for figure in ("cosine", "snr_db", "top1")})
    if bounds["top1"] is not None:
        # A share of a few samples is coarse: whole samples are counted.
        bounds["top1"] = 1 - math.ceil((1 - bounds["top1"]) * len(want)) / len(want)
    found = []
    for figure, bound in bounds.items():
        value = figures[figure]
        if bound is None or value is None:
            continue
        if value > bound if figure == "max_abs" else value < bound - 1e-9:
            found.append(f"{figure} {value:.6g} beyond the limit {bound:.6g}")
    return found


def _compare(got: np.ndarray, want: np.ndarray, task: str) -> dict[str, float | None]:
    """Figures of agreement in float64."""
    a, b = got.astype(np.float64), want.astype(np.float64)
    error, signal = a - b, float(np.sum(b * b))
    noise, norm = float(np.sum(error * error)), float(np.sqrt(np.sum(a * a) * signal))
    many = task in ("classification", "labelling", "language-model", "translation") and a.ndim > 1 and a.shape[-1] > 1
    return {
        "max_abs": float(np.max(np.abs(error))),
        "mean_abs": float(np.mean(np.abs(error))),
        "rmse": math.sqrt(noise / error.size),
        "cosine": float(np.sum(a * b)) / norm if norm else (1.0 if not noise else None),
        "snr_db": 10 * math.log10(signal / noise) if signal and noise else None,
        "top1": float(np.mean(a.argmax(-1) == b.argmax(-1))) if many else None,
    }


# --- timing ----------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What a latency depends on, read where it is readable: processor, cores, governor, temperature, memory."""
    cpu = platform.processor()
    for pattern in (r"(?m)^model name\s*:\s*(.+)$", r"(?m)^Model\s*:\s*(.+)$", r"(?m)^Hardware\s*:\s*(.+)$"):
        found = re.search(pattern, _read("/proc/cpuinfo"))
        if found:
            cpu = found.group(1).strip()
            break
    heats = [
        _read(f"/sys/class/thermal/{zone}/temp")
        for zone in (os.listdir("/sys/class/thermal") if os.path.isdir("/sys/class/thermal") else [])
        if zone.startswith("thermal_zone")
    ]
    celsius = [int(heat) / 1000 for heat in heats if heat.lstrip("-").isdigit()]
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": cpu,
        "cores": os.cpu_count() or 1,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "temperature_c": max(celsius) if celsius else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def memory() -> tuple[int | None, int | None]:
    """This process' resident memory now and at its peak, in bytes."""
    status = dict(re.findall(r"(?m)^(VmRSS|VmHWM):\s*(\d+) kB", _read("/proc/self/status")))
    if status:
        return int(status["VmRSS"]) * 1024, int(status["VmHWM"]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None, peak if sys.platform == "darwin" else peak * 1024


def sample_input(session: Session) -> Arrays:
    """One sample to time with: the first golden one, or seeded noise (zeros for integers) for a bare .tflite."""
    if session.manifest is not None:
        return {name: value[0] for name, value in session.golden()[0].items()}
    generator, sample = np.random.default_rng(0), {}
    for name, spec in session.inputs.items():
        shape = tuple(abs(size) for size in (spec.shape[1:] if session.batch else spec.shape))
        real = np.dtype(spec.dtype).kind == "f" or spec.scale
        sample[name] = generator.standard_normal(shape) if real else np.zeros(shape, spec.dtype)
    return sample


def measure(
    openers: Sequence[Callable[[], Session]],
    inputs: Sequence[Any] | None = None,
    *,
    rounds: int = 30,
    block_seconds: float = 0.02,
    warmup_seconds: float = 2.0,
    max_calls: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Time models against each other: in each round every model has a block of calls, in random order.

    Args:
        openers: open one `Session` each; opening is timed too.
        inputs: one sample for each; None: golden samples or noise (`sample_input`).
        rounds: blocks of each model.
        block_seconds: how long a block should take, which decides the number of calls in it (at most `max_calls`).
        warmup_seconds: calls before anything is kept go on until the median of a stretch of calls stays within 3 % of
            the one before it twice running, for so long at most.
        seed: of the order.

    Returns:
        {"machine", "machine_after", "models": [{..Session.describe(), "first_call_ms", "warmup_calls", "steady",
        "memory_before_bytes", "memory_peak_bytes", "blocks_ns": [[call...] a round], "round_us": [lower quartile of its
        calls a round], "calls", "p50_us", "p90_us", "p99_us", "mean_us"}]}. The peak covers loading and the first call;
        where the system cannot forget an earlier peak (not Linux) it is the process'. For a step or stream model one
        call is the whole sequence or clip, for one with an encoder an encode and a step a position ("call" says so).
    """
    before = machine()
    calls, results = [], []
    for number, opener in enumerate(openers):
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # Linux: the peak of resident memory starts again from here.
        resident = memory()[0]
        session = opener()
        fresh = not session.used
        call, first = _first_call(session, sample_input(session) if inputs is None else inputs[number])
        result = {**session.describe(), "first_call_ms": round(first / 1e6, 4) if fresh else None}
        result.update(memory_before_bytes=resident, memory_peak_bytes=memory()[1])
        calls.append(call)
        results.append(result)
    blocks: list[list[list[int]]] = [[] for _ in calls]
    sizes = []
    for call, result in zip(calls, results):  # noqa: B905 (Python 3.8)
        typical, made, steady = _warm_up(call, warmup_seconds)
        result.update(warmup_calls=made, steady=steady)
        sizes.append(int(min(max(block_seconds * 1e9 / max(typical, 1.0), 1), max_calls)))
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for number in generator.permutation(len(calls)):
            calls[number]()  # The other model's data fills the caches: not this model's time.
            blocks[number].append(_time(calls[number], sizes[number]))
    for result, times in zip(results, blocks):  # noqa: B905 (Python 3.8)
        flat = np.array(times, np.float64).ravel() / 1e3
        p50, p90, p99 = (round(float(value), 3) for value in np.percentile(flat, (50, 90, 99)))
        result.update(blocks_ns=times, calls=int(flat.size), p50_us=p50, p90_us=p90, p99_us=p99)
        result["mean_us"] = round(float(flat.mean()), 3)
        # Interruptions only ever add time: the lower quartile of a round is steadier than its median.
        result["round_us"] = [round(float(np.percentile(block, 25)) / 1e3, 4) for block in times]
    return {"machine": before, "machine_after": machine(), "models": results}


def _first_call(session: Session, sample: Any) -> tuple[Callable[[], Any], int]:
    started = time.perf_counter_ns()
    session.predict(sample)
    first = time.perf_counter_ns() - started
    return session.bare(sample), first


def _time(call: Callable[[], Any], count: int) -> list[int]:
    """Nanoseconds of each of `count` calls."""
    now, times = time.perf_counter_ns, []
    for _ in range(count):
        started = now()
        call()
        times.append(now() - started)
    return times


def _warm_up(call: Callable[[], Any], seconds: float) -> tuple[float, int, bool]:
    """Call until steady; gives the last median in nanoseconds, the number of calls, and whether it became steady."""
    deadline, last, made, agreed = time.perf_counter() + seconds, 0.0, 0, 0
    count = 3
    while True:
        median = float(np.median(_time(call, count)))
        made += count
        agreed = agreed + 1 if last and abs(median - last) <= 0.03 * last else 0
        last = median
        if agreed >= 2 or time.perf_counter() > deadline:
            return median, made, agreed >= 2
        count = int(min(max(0.02 * 1e9 / max(median, 1.0), 3), 2000))


# --- decoding --------------------------------------------------------------------------------------------------------


def choose(scores: np.ndarray, generator: Any, *, temperature: float = 0.0, top_k: int = 0) -> int:
    """Next token from a model's scores, which may be logits or probabilities.

    Args:
        scores: one number a token.
        generator: a `numpy.random.Generator`.
        temperature: 0.0 takes the most likely token (the first of equals); else logits are divided by it.
        top_k: draw among the k most likely only; 0: among all.
    """
    logits = np.asarray(scores, np.float64).ravel()
    if temperature == 0.0:
        return int(logits.argmax())
    if logits.min() >= 0 and abs(logits.sum() - 1) < 0.05:  # A softmax' answer, quantized perhaps.
        logits = np.log(np.maximum(logits, 1e-12))
    logits = logits / temperature
    if 0 < top_k < logits.size:
        keep = np.argsort(-logits, kind="stable")[:top_k]
        masked = np.full(logits.shape, -np.inf)
        masked[keep] = logits[keep]
        logits = masked
    weights = np.exp(logits - logits.max())
    # A draw by inverse transform is the same on every NumPy version; Generator.choice does not promise that.
    total = np.cumsum(weights)
    return int(min(np.searchsorted(total, generator.random() * total[-1], side="right"), logits.size - 1))


def generate(
    session: Session, prompt: Sequence[int], count: int, *, temperature: float = 0.0, top_k: int = 0, seed: int = 0
) -> Iterator[int]:
    """Tokens that a language model says after `prompt`, one at a time.

    Args:
        session: a `step` session with one token input and one output over the vocabulary. It is reset first.
        prompt: token numbers to feed first, at least one.
        count: how many tokens to generate.
        temperature, top_k: see `choose`.
        seed: of the draws.

    Raises:
        usage error: not a language model's session, an empty prompt, a token outside the vocabulary, a bad setting.
    """
    if not session.is_step or len(session.inputs) != 1 or len(session.outputs) != 1:
        raise _usage("Generating needs a step model with one input and one output.", session.path)
    (spec,), (name, output) = session.inputs.values(), next(iter(session.outputs.items()))
    if np.dtype(spec.dtype).kind not in "iu" or spec.scale:
        raise _usage("Generating needs a model whose input is token numbers.", f"{spec.name!r} of {spec.dtype}")
    size = output.shape[-1]
    if session.labels and len(session.labels) != size:
        received = f"{len(session.labels)} labels for {size} outputs"
        raise _usage("A language model's labels must be its vocabulary.", received)
    if len(prompt) == 0 or not all(0 <= token < size for token in prompt):
        raise _usage(f"A prompt must hold one or more tokens from 0 to {size - 1}.", str(list(prompt)))
    if not (temperature >= 0 and math.isfinite(temperature)) or top_k < 0 or count < 0:
        received = f"temperature={temperature}, top_k={top_k}, count={count}"
        raise _usage("Temperature, top_k and count must be numbers from 0.", received)
    return _generate(session, [int(token) for token in prompt], count, name, temperature, top_k, seed)


def _generate(
    session: Session, prompt: list[int], count: int, name: str, temperature: float, top_k: int, seed: int
) -> Iterator[int]:
    generator = np.random.default_rng(seed)
    dtype = next(iter(session.inputs.values())).dtype
    session.reset()
    scores: Any = None
    for token in prompt:
        scores = session.step(np.asarray(token, dtype))[name]
    for number in range(count):
        token = choose(scores, generator, temperature=temperature, top_k=top_k)
        yield token
        if number + 1 < count:
            scores = session.step(np.asarray(token, dtype))[name]


def is_character_level(tokens: Sequence[str]) -> bool:
    """Whether a vocabulary's tokens are single characters, special ones such as <unk> or [UNK] aside."""
    return all(len(token) <= 1 or (token[0] + token[-1] in ("<>", "[]")) for token in tokens)


def encode(text: str, tokens: Sequence[str]) -> list[int]:
    """Token numbers of a text: its characters, or its words between spaces where the vocabulary holds words.

    Raises:
        usage error: a token that is not in a vocabulary without <unk> or [UNK].
    """
    numbers = {token: number for number, token in reversed(list(enumerate(tokens)))}
    unknown = numbers.get("<unk>", numbers.get("[UNK]"))
    found = []
    for piece in text if is_character_level(tokens) else text.split():
        number = numbers.get(piece, unknown)
        if number is None:
            raise _usage("A prompt must be made of the model's tokens.", repr(piece))
        found.append(number)
    return found


def decode(numbers: Sequence[int], tokens: Sequence[str]) -> str:
    """Text of token numbers; inverse of `encode` for known tokens."""
    return ("" if is_character_level(tokens) else " ").join(tokens[number] for number in numbers)


# --- command line ----------------------------------------------------------------------------------------------------


def _run_file(session: Session, source: str, target: str) -> dict[str, Any]:
    """Answers to the samples of an .npz, to another .npz."""
    try:
        with np.load(source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise _usage("Inputs must be an .npz of plain arrays.", f"{source} ({error})") from None
    inputs = {re.sub(r"^(in|x)/", "", name): value for name, value in arrays.items() if not name.startswith("out/")}
    started = time.perf_counter()
    answers = session.predict({name: value for name, value in inputs.items() if name in session.inputs})
    seconds = time.perf_counter() - started
    temporary = target + ".part.npz"
    np.savez(temporary, **{"y/" + name: value for name, value in answers.items()})  # type: ignore[arg-type]
    os.replace(temporary, target)
    shapes = {name: list(value.shape) for name, value in answers.items()}
    spent = round(seconds, 6)
    return {"outputs": target, "shapes": shapes, "seconds": spent, "model": session.describe(), "machine": machine()}


def _arguments() -> argparse.ArgumentParser:
    import argparse  # Not at the top: who imports this file as a module has no use for it.

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise _usage("The command line must be right.", message, "See --help.")

    parser = Parser(prog="agent.py", description="Run, check and time .tflite models; prints JSON.")
    commands = parser.add_subparsers(dest="command", required=True)
    common = Parser(add_help=False)
    common.add_argument("--runtime", default="auto", help="auto, " + ", ".join(RUNTIMES))
    common.add_argument("--threads", type=int, default=1)
    common.add_argument("--no-delegate", dest="delegate", action="store_false", help="run without XNNPACK")
    for name, text in (
        ("info", "what a model takes and gives"),
        ("verify", "run a bundle's golden samples"),
        ("run", "answers to the samples of an .npz"),
        ("bench", "time models against each other"),
        ("generate", "let a language model go on with a text"),
    ):
        command = commands.add_parser(name, help=text, parents=[common])
        command.add_argument("model", nargs="+" if name == "bench" else None, help="a bundle's folder or a .tflite")
        if name == "run":
            command.add_argument("--inputs", required=True, help=".npz with an array for each input")
            command.add_argument("--outputs", required=True, help=".npz to write")
        if name == "bench":
            command.add_argument("--rounds", type=int, default=30)
            command.add_argument("--block-seconds", type=float, default=0.02)
            command.add_argument("--warmup-seconds", type=float, default=2.0)
            command.add_argument("--no-samples", action="store_true", help="leave single calls out of the JSON")
        if name == "generate":
            command.add_argument("--prompt", required=True)
            command.add_argument("--count", type=int, default=100, help="tokens to generate")
            command.add_argument("--temperature", type=float, default=0.0)
            command.add_argument("--top-k", type=int, default=0)
            command.add_argument("--seed", type=int, default=0)
    return parser


def _execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    def open_one(path: str) -> Session:
        return Session(path, runtime=options.runtime, threads=options.threads, delegate=options.delegate)

    if options.command == "bench":
        openers = [lambda path=path: open_one(path) for path in options.model]
        seconds, warmup = options.block_seconds, options.warmup_seconds
        report = measure(openers, rounds=options.rounds, block_seconds=seconds, warmup_seconds=warmup)
        for model in report["models"] if options.no_samples else []:
            del model["blocks_ns"]
        return report, 0
    session = open_one(options.model)
    if options.command == "info":
        return {**session.describe(), "machine": machine()}, 0
    if options.command == "verify":
        report = verify(session)
        return report, 0 if report["passed"] else 1
    if options.command == "run":
        return _run_file(session, options.inputs, options.outputs), 0
    tokens = [unescape_label(line) for line in session.labels]
    if not tokens:
        raise _usage("Generating text needs a bundle with a vocabulary.", session.path)
    settings = {"temperature": options.temperature, "top_k": options.top_k, "seed": options.seed}
    started = time.perf_counter()
    numbers = list(generate(session, encode(options.prompt, tokens), options.count, **settings))
    seconds = round(time.perf_counter() - started, 6)
    return {"text": decode(numbers, tokens), "tokens": numbers, "seconds": seconds, "model": session.describe()}, 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and print one JSON document; gives the exit code."""
    try:
        value, code = _execute(_arguments().parse_args(arguments))
    except Exception as error:
        code = getattr(error, "exit_code", 3)
        rule = getattr(error, "rule", type(error).__name__)
        parts = {"received": getattr(error, "received", ""), "todo": getattr(error, "todo", "")}
        value = {"error": {"message": str(error), "rule": rule, **parts}, "exit_code": code}
    json.dump(value, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
