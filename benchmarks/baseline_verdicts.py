"""How often is the verdict of a latency baseline wrong? Real pytest sessions with `edge_latency` and `--edge-fail`.

    python benchmarks/baseline_verdicts.py [--same 35] [--slower 17] [--models NAME ...] [--out FILE]

Three models are made with TensorFlow in a child process, each with a larger sibling: convolutions with 22 layers for 20
and 24 for 20, a recurrent layer with 58 steps for 50. pytest runs in a project of its own, as a user's CI would: once
with --edge-update-baseline, then again and again with the same models under other names (every failure is wrong) and
with the larger ones (every pass is wrong). All of it is pinned to one core. Ctrl-C ends it with what there is so far.

The table also says what the stored numbers alone would have told: how far apart the medians of one and the same model
are in two sessions, which is what `edge_dl.testing.results.SESSIONS` must allow for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timed_networks import lstm

from edge_dl.bundle import Manifest, Signature, TensorSpec, write_bundle
from edge_dl.files import write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.testing.results import SESSIONS

RESULT = Path(__file__).parent / "results" / "baseline_verdicts.txt"
# Name -> kind, size, and what it takes to make it longer: (layers or steps, the same of the larger sibling).
MODELS: dict[str, tuple[str, tuple[int, ...], tuple[int, int]]] = {
    "cnn-small": ("cnn", (16, 24), (20, 22)),
    "lstm": ("lstm", (16, 64), (50, 58)),
    "cnn-large": ("cnn", (24, 20), (20, 24)),
}
FACTOR = 1.05
FACTORS = (1.02, 1.05, 1.1)
TEST = """
import os
import pytest

@pytest.mark.parametrize("model", os.environ["STUDY_MODELS"].split(","))
def test_speed(edge_latency, model):
    assert edge_latency(os.path.join(os.environ["STUDY_FOLDER"], model))
"""


def build(folder: Path, names: list[str]) -> None:
    """Write every model as a bundle, twice as it is and once larger; run in a child process."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    generator = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return tf.constant(generator.standard_normal(shape) * (0.7 / np.sqrt(np.prod(shape[:-1]))), tf.float32)

    def cnn(channels: int, size: int, layers: int) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
        kernels = [weights(3, 3, 1, channels), *(weights(3, 3, channels, channels) for _ in range(layers - 1))]
        head = weights(channels, 10)

        def predict(x: Any) -> Any:
            for kernel in kernels:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
            return tf.reduce_mean(x, [1, 2]) @ head

        return predict, (1, size, size, 1)

    for name in names:
        kind, size, lengths = MODELS[name]
        for length, places in zip(lengths, (("baseline", "same"), ("slower",)), strict=True):
            if kind == "cnn":
                predict, shape = cnn(size[0], size[1], length)
            else:
                predict, shape = lstm(weights, length, *size)
            module = tf.Module()
            module.predict = tf.function(predict, input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
            saved = folder / "saved" / f"{name}-{length}"
            tf.saved_model.save(module, str(saved), signatures={"predict": module.predict})
            model = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
            output = module.predict.get_concrete_function().output_shapes
            for place in places:
                _write_bundle(folder / place / name, f"{name}-{place}", model, shape, tuple(output))


def _write_bundle(folder: Path, name: str, model: bytes, shape: tuple[int, ...], output: tuple[int, ...]) -> None:
    inputs = (TensorSpec("x", shape, "float32", 0.0, 0),)
    outputs = (TensorSpec("output_0", output, "float32", 0.0, 0),)
    manifest = Manifest(
        name=name, variant=name, lowering="none", quantization="float32", task="regression",
        signature=Signature("predict", inputs, outputs), made_by={"edge_dl": "benchmark"},
    )  # fmt: skip
    sample = np.random.default_rng(1).standard_normal((1, *shape[1:])).astype("float32")
    golden = {"output_0": np.zeros((1, *output[1:]), "float32")}
    write_bundle(folder, model, manifest, golden_inputs={"x": sample}, golden_outputs=golden)


def session(project: Path, bundles: Path, names: list[str], *arguments: str) -> list[dict[str, Any]]:
    """Run pytest on a folder of bundles; gives what every test found."""
    report = project / "report.xml"
    environment = {**os.environ, "STUDY_FOLDER": str(bundles), "STUDY_MODELS": ",".join(names)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    tests = []
    for case in ElementTree.parse(report).iter("testcase"):
        model = str(case.get("name")).partition("-")[2].removesuffix("]")
        found = {str(item.get("name")): str(item.get("value")) for item in case.iter("property")}
        numbers = {key.partition(".")[2]: float(found[key]) for key in found if key.startswith("latency.p50")}
        tests.append({"model": model, "failed": case.find("failure") is not None, **numbers})
    return tests


def row(name: str, against: str, found: list[dict[str, Any]], stored: float) -> dict[str, Any]:
    """One line of the table."""
    ratios = np.array([item["p50.ratio"] for item in found])
    apart = np.array([item["p50"] / stored for item in found])
    return {
        "model": name,
        "against": against,
        "p50_ms": float(np.median([item["p50"] for item in found])),
        "comparisons": len(found),
        "failed": sum(item["failed"] for item in found),
        **{f"failed_{factor}x": sum(item["p50.ratio_low"] > factor for item in found) for factor in FACTORS},
        "ratio": float(np.exp(np.log(ratios).mean())),
        "spread": float(np.log(ratios).std()),
        "half_width": float(np.mean([(item["p50.ratio_high"] - item["p50.ratio_low"]) / 2 for item in found])),
        "sessions_median": float(np.median(apart)),
        "sessions_low": float(apart.min()),
        "sessions_high": float(apart.max()),
        **{f"stored_{factor}x": int((apart > factor).sum()) for factor in FACTORS},
        "stored_with_margin": int((apart > FACTOR * SESSIONS).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", type=int, default=35, help="comparisons of each model with itself")
    parser.add_argument("--slower", type=int, default=17, help="comparisons of each model with its larger sibling")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", type=Path, default=RESULT, help="the table; every comparison goes to .json beside it")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.build, arguments.models)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    facts, versions, started = machine(), installed_versions(), time.perf_counter()
    say(
        f"{facts['processor']}, {facts['cores']} cores, pinned to one, load {os.getloadavg()[0]:.1f}; "
        f"ai-edge-litert {versions.get('ai-edge-litert')}, numpy {versions.get('numpy')}"
    )
    say(f'--edge-fail "latency.p50 > {FACTOR}x"; "with itself": every failure is wrong; "larger": every pass is wrong')
    with tempfile.TemporaryDirectory() as name:
        folder, project = Path(name) / "models", Path(name) / "project"
        project.mkdir()
        (project / "test_speed.py").write_text(TEST)
        (project / "pytest.ini").write_text("[pytest]\n")
        build_command = [sys.executable, __file__, "--build", str(folder), "--models", *arguments.models]
        subprocess.run(build_command, check=True, stderr=subprocess.DEVNULL)
        stored = {
            item["model"]: item["p50"]
            for item in session(project, folder / "baseline", arguments.models, "--edge-update-baseline")
        }
        kept = sum(path.stat().st_size for path in (project / ".edge-dl").rglob("*") if path.is_file())
        say(f"the baselines of {len(stored)} models take {kept / 1024:.0f} KB")
        everything: list[dict[str, Any]] = []
        condition = ("--edge-fail", f"latency.p50 > {FACTOR}x")
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(max(arguments.same, arguments.slower)):
                for bundles, count, word in (
                    ("same", arguments.same, "itself"),
                    ("slower", arguments.slower, "larger"),
                ):
                    if number < count:
                        found = session(project, folder / bundles, arguments.models, *condition)
                        everything += [{"against": word, **item} for item in found]
    rows = []
    new, old = ([f"{word}>{factor}x" for factor in FACTORS] for word in ("", "old"))
    columns = ("model", "against", "p50 ms", "n", "failed", *new, "ratio", "spread", "half", *old, "old margin",
               "old from", "old to")  # fmt: skip
    say("".join(f"{column:>11}" for column in columns))
    for word in ("itself", "larger"):
        for model in arguments.models:
            mine = [item for item in everything if item["model"] == model and item["against"] == word]
            if not mine:
                continue
            line = row(model, word, mine, stored[model])
            rows.append(line)
            say(
                f"{model:>11}{word:>11}{line['p50_ms']:>11.4f}{line['comparisons']:>11}{line['failed']:>11}"
                + "".join(f"{line[f'failed_{factor}x']:>11}" for factor in FACTORS)
                + f"{line['ratio']:>11.4f}{line['spread']:>11.4f}{line['half_width']:>11.4f}"
                + "".join(f"{line[f'stored_{factor}x']:>11}" for factor in FACTORS)
                + f"{line['stored_with_margin']:>11}{line['sessions_low']:>11.3f}{line['sessions_high']:>11.3f}"
            )
    for word, wrong in (("itself", "fail"), ("larger", "pass")):
        mine = [item for item in everything if item["against"] == word]
        failures = sum(item["failed"] for item in mine)
        if mine:
            say(f"against {word}: {failures} of {len(mine)} fail ({wrong} is wrong)")
    say(f"{(time.perf_counter() - started) / 60:.0f} minutes")
    write_atomic(arguments.out, "\n".join(lines) + "\n")
    record = {"machine": facts, "versions": versions, "rows": rows, "comparisons": everything}
    write_json(arguments.out.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
