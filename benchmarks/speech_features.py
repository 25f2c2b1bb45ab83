"""What features of sounds cost inside a .tflite: the spectrum by RFFT2D or as a matrix, mel bands by segment or as one.

Run from the repository: .venv/bin/python benchmarks/speech_features.py [--runs 300]

One second at 8 and at 16 kHz, windows of 30 ms every 20 ms, 40 bands from 20 to 4,000 Hz. Each graph is one of the
four combinations, in float32, in LiteRT with one thread; all take turns. Errors are of log-mel bands against the NumPy
twin in float64, over ten sounds: noise of several levels, so that what is measured is rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from edge_dl.files import write_atomic
from edge_dl.models.spectra import SpeechFeatures
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime.spectra import Spectrum, features, mel_slopes

RESULT = Path(__file__).parent / "results" / "speech_features.txt"


class MatrixBands(SpeechFeatures):
    """The same features with mel bands as one matrix."""

    def _bands(self, power: Any) -> Any:
        segment, rising, falling = mel_slopes(self.spectrum)
        matrix = np.zeros((len(segment), self.spectrum.bands), np.float32)
        for weights, first in ((rising, 0), (falling, -1)):
            rows = np.flatnonzero(weights)
            matrix[rows, segment[rows] + first] = weights[rows]
        return keras.ops.matmul(power, matrix)


def converted(layer: SpeechFeatures, length: int) -> bytes:
    traced = tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec((1, length), tf.int16))
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced], layer).convert())


class Graph:
    """A converted layer, ready to be called."""

    def __init__(self, content: bytes) -> None:
        self.bytes = len(content)
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self.seconds: list[float] = []

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input, sound[None])
        started = time.perf_counter()
        self._interpreter.invoke()
        self.seconds.append(time.perf_counter() - started)
        return np.array(self._interpreter.get_tensor(self._output)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=300)
    arguments = parser.parse_args()
    versions = installed_versions()
    lines = [f"{machine()}", ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "ai-edge-litert")), ""]
    lines.append(f"{'rate':>6} {'spectrum':<8} {'bands':<8} {'bytes':>9} {'us':>7} {'p90':>7} {'largest error':>14}")
    rng = np.random.default_rng(0)
    for rate in (8_000, 16_000):
        spectrum = Spectrum(rate, rate * 30 // 1000, rate * 20 // 1000, 40, 20, 4_000)
        sounds = (
            (rng.normal(0, 1, (10, rate)) * 10 ** rng.uniform(0.5, 4, (10, 1))).clip(-32768, 32767).astype(np.int16)
        )
        wanted = features(sounds, spectrum)
        graphs = {
            (transform, bands): Graph(converted(kind(dataclasses.asdict(spectrum), transform), rate))
            for transform in ("rfft", "matmul")
            for bands, kind in (("segment", SpeechFeatures), ("matrix", MatrixBands))
        }
        errors = {name: max(np.abs(graph(x) - y).max() for x, y in zip(sounds, wanted, strict=True))
                  for name, graph in graphs.items()}  # fmt: skip
        for graph in graphs.values():
            graph.seconds.clear()
        for number in range(arguments.runs):
            for graph in graphs.values():
                graph(sounds[number % len(sounds)])
        for name, graph in graphs.items():
            p50, p90 = np.percentile(graph.seconds, [50, 90]) * 1e6
            lines.append(
                f"{rate:>6} {name[0]:<8} {name[1]:<8} {graph.bytes:>9,} {p50:>7.0f} {p90:>7.0f} {errors[name]:>14.1e}"
            )
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(RESULT, text.encode())


if __name__ == "__main__":
    main()
