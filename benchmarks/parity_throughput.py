"""What verifying many samples costs: bare interpreter calls against `predict_all` with one and two processes.

Run from the repository: .venv/bin/python benchmarks/parity_throughput.py [MODEL_OR_BUNDLE ...]

Without arguments it makes two models: a small convolution (a few microseconds a call, so that every overhead shows) and
a convolution that takes about a third of a millisecond, where more processes can pay. The bare loop is what a user
would write: set_tensor, invoke, get_tensor on the runtime's own class, into an array made before. Rounds are
interleaved, and the median of each is printed, with the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.files import write_atomic
from edge_dl.runtime import agent, open_session, predict_all
from edge_dl.runtime.evaluation import processors

RESULT = Path(__file__).parent / "results" / "parity_throughput.txt"


def make_models(folder: Path) -> list[Path]:
    """Two convolutions over constants, small and larger, converted in a child so that this process stays light."""
    from edge_dl.runtime import run_guarded

    sys.path.insert(0, str(Path(__file__).parent))
    return [Path(path) for path in run_guarded("parity_throughput:convert_models", (str(folder),))]


def convert_models(folder: str) -> list[str]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    def function(side: int, kernels: list[np.ndarray]) -> Any:
        @tf.function(input_signature=[tf.TensorSpec((1, side, side, 1), tf.float32, name="image")])
        def predict(image: Any) -> dict[str, Any]:
            for kernel in kernels:
                image = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME"))
            return {"label": tf.reduce_mean(image, (1, 2))}

        return predict

    generator = np.random.default_rng(0)
    paths = []
    for name, side, shapes in (("small", 8, [(3, 3, 1, 4)]), ("larger", 32, [(3, 3, 1, 32), (3, 3, 32, 32)])):
        predict = function(side, [generator.standard_normal(shape).astype("float32") * 0.1 for shape in shapes])
        module = tf.Module()
        module.predict = predict
        saved = os.path.join(folder, name)
        tf.saved_model.save(module, saved, signatures={"predict": predict})
        paths.append(saved + ".tflite")
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=["predict"])
        Path(paths[-1]).write_bytes(converter.convert())
    return paths


def bare_loop(path: Path, inputs: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
    """The loop that a user would write around the runtime, for a model of static batch 1."""
    _, module, _ = agent.find_runtime()

    def run() -> dict[str, np.ndarray]:
        interpreter = module.Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        indices = {name: detail["index"] for name, detail in runner.get_input_details().items()}
        details = runner.get_output_details()
        del runner  # The runtime refuses to invoke while anything else holds its inside.
        count = len(next(iter(inputs.values())))
        outputs = {name: np.empty((count, *detail["shape"][1:]), detail["dtype"]) for name, detail in details.items()}
        targets = [(details[name]["index"], value) for name, value in outputs.items()]
        sources = [(indices[name], value) for name, value in inputs.items()]
        for number in range(count):
            for index, value in sources:
                interpreter.set_tensor(index, value[number : number + 1])
            interpreter.invoke()
            for index, value in targets:
                value[number] = interpreter.get_tensor(index)[0]
        return outputs

    return run


def compare(path: Path, samples: int, rounds: int) -> list[str]:
    session = open_session(path)
    model = Path(session.path, "model.tflite") if session.manifest else path
    if session.is_step or session.batch != 1 or {s.dtype for s in session.inputs.values()} - {"float32", "uint8"}:
        raise SystemExit(f"{path}: this benchmark takes whole models of batch 1 with float32 or uint8 inputs.")
    generator = np.random.default_rng(0)
    inputs = {
        name: generator.integers(0, 256, (samples, *spec.shape[1:]), np.uint8)
        if spec.dtype == "uint8"
        else generator.standard_normal((samples, *spec.shape[1:]), np.float32)
        for name, spec in session.inputs.items()
    }
    ways: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "bare interpreter calls": bare_loop(model, inputs),
        "predict_all, 1 process": lambda: predict_all(path, inputs, processes=1),
        "predict_all, 2 processes": lambda: predict_all(path, inputs, processes=2),
        "predict_all, chosen by its probe": lambda: predict_all(path, inputs, processes=0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            answers[name] = way()
            if number:  # The first round warms up files, caches and clocks.
                seconds[name].append(time.perf_counter() - started)
    first = answers["bare interpreter calls"]
    same = all(np.array_equal(value, other[key]) for other in answers.values() for key, value in first.items())
    bare = seconds["bare interpreter calls"]
    lines = [f"{'/'.join(path.parts[-3:])}: {samples} samples, all answers bit-identical: {'yes' if same else 'NO'}"]
    for name, times in seconds.items():
        ratio = statistics.median(time / other for time, other in zip(times, bare, strict=True))
        each = statistics.median(times) / samples * 1e6
        lines.append(f"  {name:34} {statistics.median(times):7.3f} s  {each:8.2f} us a sample  {ratio:5.2f} x bare")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", type=Path, help="a .tflite or a bundle")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    machine = agent.machine()
    runtime, _, version = agent.find_runtime()
    lines = [
        f"{machine['processor']}, {processors()} processors, {machine['system']} {machine['architecture']}",
        f"Python {platform.python_version()}, NumPy {np.__version__}, {runtime} {version}, one interpreter thread",
        f"median of {options.rounds} interleaved rounds; loading the model is part of every way",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for path in options.model or make_models(Path(folder)):
            lines += [*compare(path, options.samples, options.rounds), ""]
    text = "\n".join(lines)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, text)


if __name__ == "__main__":
    main()
