"""Latency of an image model's variants at one and two threads, beside ONNX Runtime on the same network.

Run from the repository: .venv/bin/python benchmarks/picture_latency.py RUN [--rounds 15]

RUN is the run folder of an image model (`edge-dl run mobilenet ...`). Its Keras model is also exported to ONNX, as it
is and quantized to int8 by ONNX Runtime's own tool (static, QDQ, one scale a channel, calibrated on the run's own
calibration pictures). All take turns, in an order drawn anew each round; a row says the median over rounds of each
round's median call, and its ratio to LiteRT float32 in the same round, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.files import load_npz, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import open_session

RESULT = Path(__file__).parent / "results" / "picture_latency"
Call = Callable[[], Any]


def lite_call(bundle: Path, threads: int, picture: np.ndarray) -> Call:
    session = open_session(bundle, threads=threads)
    return lambda: session.predict({"image": picture})


def onnx_models(run: Path, folder: Path) -> dict[str, Path]:
    """The network in ONNX, float32 and int8."""
    import keras
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    import edge_dl.models

    edge_dl.models.register()
    model = keras.saving.load_model(run / "train" / "model.keras")
    plain, prepared, small = folder / "float32.onnx", folder / "prepared.onnx", folder / "int8.onnx"
    pictures = load_npz(run / "export" / "calibration.npz")["x/image"]
    model({"image": pictures[:1]})  # Keras exports no model that was never called.
    model.export(plain, format="onnx", verbose=False)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # Folds batch normalization, as ONNX Runtime asks for.

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pictures[:100])

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.left, None)
            return None if picture is None else {name(plain): picture[None]}

    quantize_static(prepared, small, Pictures(), quant_format=QuantFormat.QDQ, per_channel=True)
    return {"float32": plain, "int8": small}


def name(model: Path) -> str:
    import onnxruntime

    return str(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()[0].name)


def onnx_call(model: Path, threads: int, picture: np.ndarray) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: picture}
    return lambda: session.run(None, feed)


def block(call: Call, seconds: float) -> float:
    """Median seconds of a call, called for about so long, at least three times."""
    call()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.15, help="of a block of calls")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    picture = load_npz(options.run / "data" / "test.npz")["x/image"][:1]
    bundles = {path.parent.name: path.parent for path in sorted((options.run / "variants").glob("*/manifest.json"))}
    with tempfile.TemporaryDirectory() as folder:
        others = onnx_models(options.run, Path(folder))
        calls: dict[tuple[str, int], Call] = {}
        for threads in (1, 2):
            calls |= {(f"LiteRT {key}", threads): lite_call(path, threads, picture) for key, path in bundles.items()}
            calls |= {
                (f"ONNX Runtime {key}", threads): onnx_call(path, threads, picture) for key, path in others.items()
            }
        rng = np.random.default_rng(0)
        seconds: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
        for _ in range(options.rounds):
            for key in [list(calls)[place] for place in rng.permutation(len(calls))]:
                seconds[key].append(block(calls[key], options.seconds))
    facts = machine()
    lines = [f"$ python {' '.join(sys.argv)}", f"{facts['processor']}, {facts['cores']} cores; picture "
             f"{'x'.join(map(str, picture.shape[1:]))}", "",
             f"{'':24} {'threads':>7} {'ms':>8} {'of LiteRT float32':>18} {'interval':>13}"]  # fmt: skip
    results = []
    for (label, threads), times in seconds.items():
        ratios = np.log(np.array(times) / np.array(seconds["LiteRT float32", threads]))
        means = np.exp(rng.choice(ratios, (4000, len(ratios))).mean(axis=1))
        low, high = np.percentile(means, (2.5, 97.5))
        entry = {"model": label, "threads": threads, "ms": 1e3 * float(np.median(times)),
                 "ratio": float(np.exp(ratios.mean())), "interval": [float(low), float(high)]}  # fmt: skip
        results.append(entry)
        lines.append(f"{label:24} {threads:>7} {entry['ms']:8.3f} {entry['ratio']:18.2f} {low:6.2f}-{high:6.2f}")
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(RESULT.with_suffix(".txt"), text)
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": results})


if __name__ == "__main__":
    main()
