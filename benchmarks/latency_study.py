"""How often is a latency comparison wrong? Models against themselves, and against copies slowed down by 10 %.

    python benchmarks/latency_study.py [--comparisons 200] [--slowed 100] [--models cnn-20us ...] [--out FILE]

Three models that take about 20 us, 100 us and 1 ms are made with TensorFlow in a child process, so that this process
measures with nothing but the runtime in it. Each is compared with itself (every "faster" or "slower" is an error) and
with itself slowed down: a wrapper takes the time of each call and then waits for a tenth of it (every other verdict
than "slower" is an error). The table also says how often the interval alone, without the margin, would have claimed a
difference, what spread the ratios have, and how long a comparison takes.

The defaults of `edge_dl.checks.turns.Settings` come from this script's table. Two settings matter most, seen on two
cores that eight other processes used at the same time:
- blocks: with one pair of interpreters for all 96 rounds (--blocks 1 --rounds 96), 34 of 50 intervals of a model
  against itself did not hold 1, and 6 of 50 lay beyond the margin; with 8 blocks of 12 rounds none of 72 did;
- the quantile of a round's calls: the ratio of the 1 ms model against itself spreads by 8 % with the median and by
  0.6 % with the lower quartile, since interruptions only ever add time.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timed_networks import lstm

from edge_dl.checks import Comparison, Settings, Speed, compare
from edge_dl.files import write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import open_session
from edge_dl.runtime.agent import sample_input

RESULT = Path(__file__).parent / "results" / "latency_study.txt"
MODELS = ("cnn-20us", "lstm-100us", "cnn-1ms")
SLOWED = 0.10


def build(folder: Path) -> None:
    """Write the three models; run in a child process."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    generator = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return tf.constant(generator.standard_normal(shape) * 0.1, tf.float32)

    def cnn(channels: int, size: int) -> tuple[Any, tuple[int, ...]]:
        first, second, third = weights(3, 3, 1, channels), weights(3, 3, channels, channels), weights(channels, 10)

        def predict(x: Any) -> Any:
            x = tf.nn.relu(tf.nn.conv2d(x, first, 2, "SAME"))
            x = tf.nn.relu(tf.nn.conv2d(x, second, 1, "SAME"))
            return tf.nn.softmax(tf.reduce_mean(x, [1, 2]) @ third)

        return predict, (1, size, size, 1)

    for name, (predict, shape) in {
        "cnn-20us": cnn(24, 32),
        "lstm-100us": lstm(weights, 50, 16, 64),
        "cnn-1ms": cnn(64, 96),
    }.items():
        module = tf.Module()
        module.predict = tf.function(predict, input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
        concrete = module.predict.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
        (folder / f"{name}.tflite").write_bytes(converter.convert())


def slowed(call: Callable[[], Any], share: float) -> Callable[[], Any]:
    """A call that takes `share` more of its own time, by waiting without giving the processor away."""
    now = time.perf_counter_ns

    def slow() -> Any:
        started = now()
        result = call()
        ended = now()
        until = ended + (ended - started) * share
        while now() < until:
            pass
        return result

    return slow


def opener(path: Path, share: float = 0.0) -> Callable[[], Callable[[], Any]]:
    def open_anew() -> Callable[[], Any]:
        session = open_session(path)
        call = session.bare(sample_input(session))
        return slowed(call, share) if share else call

    return open_anew


def study(path: Path, comparisons: int, share: float, settings: Settings, seed: int) -> list[Comparison]:
    found = []
    for number in range(comparisons):
        found.append(compare(opener(path, share), opener(path), settings=settings, seed=seed + number))
        if sys.stderr.isatty():
            print(f"\r{path.stem} {share:.0%}: {number + 1}/{comparisons}", end="", file=sys.stderr)
    return found


def summary(name: str, share: float, found: list[Comparison]) -> dict[str, Any]:
    logs = [math.log(item.ratio) for item in found]
    shown = sum(item.verdict is not Speed.NO_DIFFERENCE for item in found)
    return {
        "model": name,
        "slowed": share,
        "call_us": float(np.median([item.b_ms for item in found])) * 1e3,
        "comparisons": len(found),
        "difference_shown": shown,
        "slower": sum(item.verdict is Speed.SLOWER for item in found),
        "interval_without_1": sum(item.low > 1 or item.high < 1 for item in found),
        "ratio": float(np.exp(np.mean(logs))),
        "spread": float(np.std(logs)),
        "largest": float(np.max(np.abs(logs - np.mean(logs)))),
        "half_width": float(np.mean([(item.high - item.low) / 2 for item in found])),
        "seconds": float(np.mean([item.seconds for item in found])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200, help="of each model with itself")
    parser.add_argument("--slowed", type=int, default=100, help="of each model with its slowed copy")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", type=Path, default=RESULT, help="the table; every comparison goes to .json beside it")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    defaults = Settings()
    parser.add_argument("--blocks", type=int, default=defaults.blocks)
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--margin", type=float, default=defaults.margin)
    parser.add_argument("--quantile", type=float, default=defaults.quantile)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.build)
        return
    settings = Settings(
        blocks=arguments.blocks, rounds=arguments.rounds, margin=arguments.margin, quantile=arguments.quantile
    )
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    facts, versions = machine(), installed_versions()
    say(
        f"{facts['processor']}, {facts['cores']} cores, load {os.getloadavg()[0]:.1f}; "
        f"ai-edge-litert {versions.get('ai-edge-litert')}, numpy {versions.get('numpy')}"
    )
    say(str(settings))
    with tempfile.TemporaryDirectory() as name:
        subprocess.run([sys.executable, __file__, "--build", name], check=True, stderr=subprocess.DEVNULL)
        rows, everything = [], []
        columns = ("model", "slowed", "us a call", "n", "shown", "slower", "no margin", "ratio", "spread", "half", "s")
        say("".join(f"{column:>12}" for column in columns))
        for model in arguments.models:
            for share, count in ((0.0, arguments.comparisons), (SLOWED, arguments.slowed)):
                if not count:
                    continue
                found = study(Path(name) / f"{model}.tflite", count, share, settings, seed=len(rows) * 10_000)
                row = summary(model, share, found)
                rows.append(row)
                everything += [{"model": model, "slowed": share, **item.to_json()} for item in found]
                say(
                    f"{model:>12}{share:>12.0%}{row['call_us']:>12.1f}{row['comparisons']:>12}"
                    f"{row['difference_shown']:>12}{row['slower']:>12}{row['interval_without_1']:>12}"
                    f"{row['ratio']:>12.4f}{row['spread']:>12.4f}{row['half_width']:>12.4f}{row['seconds']:>12.2f}"
                )
    same = [row for row in rows if not row["slowed"]]
    other = [row for row in rows if row["slowed"]]
    if same:
        wrong, total = sum(row["difference_shown"] for row in same), sum(row["comparisons"] for row in same)
        say(f"a model with itself: {wrong} of {total} comparisons show a difference ({wrong / total:.1%})")
    if other:
        right, total = sum(row["slower"] for row in other), sum(row["comparisons"] for row in other)
        say(f"slowed by {SLOWED:.0%}: {right} of {total} comparisons say slower ({right / total:.1%})")
    write_atomic(arguments.out, "\n".join(lines) + "\n")
    record = {"machine": facts, "versions": versions, "rows": rows, "comparisons": everything}
    write_json(arguments.out.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
