"""How fast is a recurrent layer on one thread, by how it was lowered, beside TFLite's defaults and ONNX Runtime?

    python benchmarks/recurrent_lowering.py [--cells LSTM GRU RNN] [--sizes 50x16x64 ...] [--blocks 8] [--rounds 12]

For every cell (LSTM, GRU, SimpleRNN) and size (T time steps, F features, U units; the layer gives its last output,
batch 1) the same weights go into: Keras' own `model.export("litert")`, TFLiteConverter on the Keras model with batch 1,
every lowering of edge-dl in float32 and dynamic, and an ONNX node in ONNX Runtime, in float32 and after
`quantize_dynamic`. What cannot be made or run is listed with its reason.

How it is measured. Models are made in a child process; where that dies, a fresh one goes on with the next model.
Before anything is timed, every model must give Keras' answer (float32 to 1e-5; dynamic to a cosine of 0.99), twice.
Timing runs in blocks, each in a fresh process with all models of the cell loaded: how memory falls out in one process
shifts a model by several per cent for as long as the process lives. In a block all models take turns in random order;
a turn is several batches of calls, of which the lower quartile counts, since interruptions only ever add time. A
ratio is taken turn by turn; its interval is a bootstrap over blocks. For LiteRT a call is `invoke` with the input in
place, and for a fused model the `reset_all_variables` that it needs; for ONNX Runtime it is `run_with_iobinding` with
input and output bound, which spares it some 3 us of its `run`. One thread each, default settings otherwise (XNNPACK
on).

onnx and onnxruntime are needed by this script alone: pip install "edge-dl[benchmark]".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CELLS = ("GRU", "LSTM", "RNN")
SIZES = ("50x16x64", "100x128x256", "20x40x32", "200x8x16")
LARGE = "100x128x256"
KERAS, DEFAULT = "keras export", "tflite default"
OURS = ("while", "unroll", "fused")
ONNX = ("onnx float32", "onnx dynamic")
VARIANTS = (KERAS, DEFAULT, *(f"{name} {kind}" for name in OURS for kind in ("float32", "dynamic")), *ONNX)
TURN_SECONDS = 0.002
BATCHES = 8
LIMIT = 600


def build_model(cell: str, size: str, batch: int | None = None) -> Any:
    """The Keras model of a cell, with random weights and biases."""
    import keras

    steps, features, units = (int(part) for part in size.split("x"))
    layer = {"GRU": keras.layers.GRU, "LSTM": keras.layers.LSTM, "RNN": keras.layers.SimpleRNN}[cell](units, name="y")
    model = keras.Sequential([keras.Input((steps, features), batch_size=batch, name="x"), layer])
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        scale = 0.1 if len(variable.shape) == 1 or "bias" in variable.path else 0.8 / np.sqrt(variable.shape[0])
        variable.assign(scale * generator.standard_normal(variable.shape))
    return model


def make(cell: str, size: str, variant: str, folder: Path) -> None:
    """Make one model."""
    out = model_path(folder, variant)
    if variant in ONNX:
        make_onnx(cell, size, variant, out)
        return
    if variant == KERAS:
        build_model(cell, size).export(str(out), format="litert", verbose=False)
        return
    if variant == DEFAULT:
        import tensorflow as tf

        out.write_bytes(tf.lite.TFLiteConverter.from_keras_model(build_model(cell, size, batch=1)).convert())
        return
    from edge_dl.converters import export, read_export
    from edge_dl.converters.quantization import quantize
    from edge_dl.variants import Lowering, Quantization, VariantSpec

    lowering, kind = variant.split()
    exported = folder / lowering
    done = (exported / "export.json").is_file()
    record = read_export(exported) if done else export(build_model(cell, size), exported, Lowering(lowering))
    quantize(record, VariantSpec(Lowering(lowering), Quantization(kind)), out)
    (folder / f"{variant}.how").write_text(record.layers[0].how)


def make_all(cell: str, size: str, folder: Path, variants: list[str]) -> None:
    """Make Keras' answer and models, one after the other; runs in a child process.

    Writes a file VARIANT.made per model, empty or with the reason why there is none.
    """
    if not (folder / "reference.npz").is_file():
        steps, features, _ = (int(part) for part in size.split("x"))
        x = np.random.default_rng(1).standard_normal((1, steps, features)).astype(np.float32)
        np.savez(folder / "reference.npz", x=x, y=np.asarray(build_model(cell, size)(x)))
    for variant in variants:
        problem = ""
        try:
            make(cell, size, variant, folder)
        except Exception as error:  # Whatever a converter raises is this entry's result.
            problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        (folder / f"{variant}.made").write_text(problem)


def model_path(folder: Path, variant: str) -> Path:
    return folder / f"{variant}.{'onnx' if variant in ONNX else 'tflite'}"


def make_onnx(cell: str, size: str, variant: str, out: Path) -> None:
    """The same layer as one ONNX node; gates are put in ONNX's order."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    steps, features, units = (int(part) for part in size.split("x"))
    kernel, recurrent, bias = (np.asarray(array) for array in build_model(cell, size).get_weights())
    input_bias, recurrent_bias = bias if cell == "GRU" else (bias, np.zeros_like(bias))
    order = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}[cell]  # Keras: i f c o; ONNX: i o f c.

    def arrange(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, len(order), axis=-1)
        return np.concatenate([parts[index] for index in order], axis=-1)

    arrays = {
        "w": arrange(kernel).T[None],
        "r": arrange(recurrent).T[None],
        "b": np.concatenate([arrange(input_bias), arrange(recurrent_bias)])[None],
        "axis": np.array([0], np.int64),
    }
    settings: dict[str, Any] = {"linear_before_reset": 1} if cell == "GRU" else {}
    nodes = [
        helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node(cell, ["time_first", "w", "r", "b"], ["", "last"], hidden_size=units, **settings),
        helper.make_node("Squeeze", ["last", "axis"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        cell,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, steps, features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, units])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    if variant == "onnx float32":
        onnx.save(model, str(out))
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, str(out), weight_type=QuantType.QInt8)
    if not [node for node in onnx.load(str(out)).graph.node if "Quantize" in node.op_type]:
        raise ValueError(f"onnxruntime.quantization.quantize_dynamic has no integer {cell}")


class LiteRT:
    """A .tflite in LiteRT, one thread."""

    def __init__(self, path: Path, x: np.ndarray) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], x)
        names = {operator["op_name"] for operator in self.interpreter._get_ops_details()}
        self.resets = "UNIDIRECTIONAL_SEQUENCE_LSTM" in names

    def answer(self) -> np.ndarray:
        self.run(1)
        return np.array(self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"]))

    def run(self, calls: int) -> None:
        invoke, reset = self.interpreter.invoke, self.interpreter.reset_all_variables
        if self.resets:
            for _ in range(calls):
                reset()
                invoke()
        else:
            for _ in range(calls):
                invoke()


class OnnxRuntime:
    """A .onnx in ONNX Runtime, one thread, with input and output bound."""

    def __init__(self, path: Path, x: np.ndarray) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.output = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros(self.session.get_outputs()[0].shape, np.float32)
        )
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        self.binding.bind_ortvalue_output("y", self.output)

    def answer(self) -> np.ndarray:
        self.run(1)
        return np.array(self.output.numpy())

    def run(self, calls: int) -> None:
        run, binding = self.session.run_with_iobinding, self.binding
        for _ in range(calls):
            run(binding)


def open_model(folder: Path, variant: str) -> LiteRT | OnnxRuntime:
    with np.load(folder / "reference.npz") as reference:
        x = reference["x"]
    return (OnnxRuntime if variant in ONNX else LiteRT)(model_path(folder, variant), x)


def check(folder: Path, variant: str) -> dict[str, float]:
    """Compare a model's two first answers with Keras'; runs in a child process."""
    with np.load(folder / "reference.npz") as reference:
        expected = reference["y"].astype(np.float64)
    model = open_model(folder, variant)
    first, second = model.answer(), model.answer()
    if not np.array_equal(first, second):
        raise SystemExit("failed: the second call gives another answer")
    error = float(np.max(np.abs(first - expected)))
    cosine = float((first * expected).sum() / np.sqrt((first.astype(np.float64) ** 2).sum() * (expected**2).sum()))
    if not (cosine > 0.99 if "dynamic" in variant else error < 1e-5):
        raise SystemExit(f"failed: differs by {error:.2g} (cosine {cosine:.5f})")
    return {"max_abs": error, "cosine": cosine}


def time_block(folder: Path, variants: list[str], rounds: int, seed: int) -> dict[str, list[float]]:
    """Microseconds a call, by variant and round; runs in a child process."""
    models = {name: open_model(folder, name) for name in variants}
    calls = {}
    for name, model in models.items():
        model.run(20)
        started = time.perf_counter()
        model.run(20)
        calls[name] = max(1, round(TURN_SECONDS * 20 / (time.perf_counter() - started)))
    times: dict[str, list[float]] = {name: [] for name in models}
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for index in generator.permutation(len(variants)):
            name = variants[index]
            models[name].run(2)  # The others have filled the caches.
            batches = []
            for _ in range(BATCHES):
                started = time.perf_counter()
                models[name].run(calls[name])
                batches.append((time.perf_counter() - started) / calls[name] * 1e6)
            times[name].append(float(np.quantile(batches, 0.25)))
    return times


def child(*arguments: str) -> tuple[Any, str]:
    """Run this script in a child process; returns what it printed last, as JSON, and why it failed ("" if not)."""
    environment = {
        **os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow",
    }  # fmt: skip
    command = [sys.executable, __file__, "--child", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment)
    except subprocess.TimeoutExpired:
        return None, f"took more than {LIMIT} s"
    if result.returncode == 0:
        return json.loads(result.stdout.splitlines()[-1]), ""
    if result.returncode < 0:
        return None, f"died by signal {-result.returncode}"
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("failed:") or "Error:" in line]
    return None, (named or lines or [f"exit code {result.returncode}"])[-1][:160]


def child_main(arguments: list[str]) -> None:
    action, folder = arguments[0], Path(arguments[1])
    value: Any = {}
    if action == "make":
        make_all(arguments[2], arguments[3], folder, arguments[4:])
    elif action == "check":
        value = check(folder, arguments[2])
    else:
        value = time_block(folder, arguments[4:], int(arguments[2]), int(arguments[3]))
    print("\n" + json.dumps(value))


def measure_cell(cell: str, size: str, blocks: int, rounds: int) -> dict[str, Any]:
    """Make, check and time every variant of one cell and size."""
    variants = [name for name in VARIANTS if cell == "LSTM" or not name.startswith("fused")]
    entries: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        left = list(variants)
        while left:
            _, problem = child("make", temporary, cell, size, *left)
            left = [name for name in left if not (folder / f"{name}.made").is_file()]
            if left:  # The process died over this one.
                (folder / f"{left[0]}.made").write_text(problem or "the process ended")
        for variant in variants:
            problem, parity = (folder / f"{variant}.made").read_text(), None
            if not problem:
                parity, problem = child("check", temporary, variant)
            note = folder / f"{variant}.how"
            entries[variant] = {"problem": problem, **(parity or {}), "how": note.read_text() if note.is_file() else ""}
            if model_path(folder, variant).is_file():
                entries[variant]["bytes"] = model_path(folder, variant).stat().st_size
        usable = [name for name, entry in entries.items() if not entry["problem"]]
        runs = []
        for block in range(blocks):
            times, problem = child("time", temporary, str(rounds), str(block), *usable)
            if problem:
                raise SystemExit(f"Timing of {cell} {size} failed: {problem}")
            runs.append(times)
    for name in usable:
        entries[name]["us"] = float(np.median([np.median(run[name]) for run in runs]))
        entries[name]["block_us"] = [float(np.median(run[name])) for run in runs]
    return {"cell": cell, "size": size, "entries": entries, "ratios": ratios(entries, runs)}


def ratio(runs: list[dict[str, list[float]]], slow: str, fast: str) -> dict[str, Any]:
    """How many times faster `fast` is than `slow`: the median over blocks of medians over turns, with an interval."""
    values = np.array([np.median(np.array(run[slow]) / np.array(run[fast])) for run in runs])
    draws = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
    return {"slow": slow, "fast": fast, "ratio": float(np.median(values)), "low": float(low), "high": float(high)}


def ratios(entries: dict[str, dict[str, Any]], runs: list[dict[str, list[float]]]) -> dict[str, Any]:
    def best(names: list[str]) -> str:
        usable = [name for name in names if "us" in entries.get(name, {})]
        return min(usable, key=lambda name: entries[name]["us"]) if usable else ""

    ours = best([f"{name} float32" for name in OURS])
    quantized = best([f"{name} dynamic" for name in OURS])
    pairs = {
        "float32 / tflite default": (best([DEFAULT]), ours),
        "quantized / tflite default": (best([DEFAULT]), quantized),
        "best / onnx": (best(list(ONNX)), best([ours, quantized])),
    }
    return {name: ratio(runs, *pair) for name, pair in pairs.items() if all(pair)}


def report(results: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "Recurrent layers on one thread: microseconds a call (batch 1, last output).",
        f"{facts['machine']['processor']}, {facts['machine']['cores']} cores, {facts['machine']['system']}; "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        f"{facts['blocks']} blocks of {facts['rounds']} rounds, {facts['seconds']:.0f} s, {facts['when']}",
        "",
    ]
    width = max(len(name) for name in VARIANTS)
    for result in results:
        lines.append(f"{result['cell']} T x F x U = {result['size']}")
        for name, entry in result["entries"].items():
            if entry["problem"]:
                lines.append(f"  {name:{width}}         -  {entry['problem']}")
                continue
            spread = f"{min(entry['block_us']):.1f} to {max(entry['block_us']):.1f}"
            lines.append(
                f"  {name:{width}}  {entry['us']:8.1f}  blocks {spread:18}  max error {entry['max_abs']:.0e}"
                f"  {entry.get('bytes', 0) / 1024:8.1f} KB  {entry.get('how', '')}".rstrip()
            )
        for name, item in result["ratios"].items():
            lines.append(
                f"  {name}: {item['ratio']:.2f} times faster [{item['low']:.2f}, {item['high']:.2f}]"
                f" ({item['fast']} against {item['slow']})"
            )
        lines.append("")
    return "\n".join([*lines, *goals(results), ""])


def goals(results: list[dict[str, Any]]) -> list[str]:
    def holds(name: str, least: float, chosen: list[dict[str, Any]]) -> tuple[int, list[str]]:
        good = [item for item in chosen if item["ratios"].get(name, {}).get("ratio", 0) >= least]
        bad = [f"{item['cell']} {item['size']} {item['ratios'].get(name, {}).get('ratio', 0):.2f}"
               for item in chosen if item not in good]  # fmt: skip
        return len(good), bad

    lines = ["Goals"]
    large = [item for item in results if item["size"] == LARGE]
    for text, name, least, chosen in (
        (
            "best float32 at least 1.3 times faster than TFLiteConverter's default",
            "float32 / tflite default",
            1.3,
            results,
        ),
        ("best quantized at least 3 times faster on the large size", "quantized / tflite default", 3.0, large),
        ("at or ahead of ONNX Runtime's better mode", "best / onnx", 1.0, results),
    ):
        good, bad = holds(name, least, chosen)
        lines.append(f"  {text}: {good} of {len(chosen)}" + (f"; not: {', '.join(bad)}" if bad else ""))
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child_main(sys.argv[2:])
        return
    from importlib.metadata import version

    from edge_dl.files import write_atomic, write_json
    from edge_dl.runfolder import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="TxFxU")
    parser.add_argument("--blocks", type=int, default=8, help="fresh processes a cell")
    parser.add_argument("--rounds", type=int, default=12, help="turns of every model in a block")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args()
    started = time.time()
    results = []
    for size in options.sizes:
        for cell in options.cells:
            print(f"{cell} {size} ...", flush=True)
            results.append(measure_cell(cell, size, options.blocks, options.rounds))
            print({name: item.get("us") and round(item["us"], 1) for name, item in results[-1]["entries"].items()})
    facts = {
        "machine": machine(),
        "versions": {
            name: version(name)
            for name in ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "onnx", "onnxruntime")
        },
        "blocks": options.blocks,
        "rounds": options.rounds,
        "seconds": round(time.time() - started, 1),
        "when": time.strftime("%Y-%m-%d"),
    }
    text = report(results, facts)
    write_atomic(options.out / "recurrent_lowering.txt", text)
    write_json(options.out / "recurrent_lowering.json", {**facts, "results": results})
    print("\n" + text)


if __name__ == "__main__":
    main()
