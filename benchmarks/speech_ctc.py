"""Strings of three to seven spoken digits: word error rate of the Keras model and of every variant, decoded two ways.

Run from the repository:

    .venv/bin/python benchmarks/speech_ctc.py --data fsdd.zip [--seed 0] [--run FOLDER]

This is `edge-dl run speech-ctc --data fsdd.zip` with the settings below. Training, validation and test strings are
joined from the recordings of that part of the official split; settings were chosen by the validation part. A 95 %
interval of the word error rate is drawn over whole strings. The run folder stays, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.checks.edits import edit_distance
from edge_dl.checks.statistics import bootstrap_interval
from edge_dl.files import load_npz, read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import predict_all
from edge_dl.runtime.ctc import WIDTH, best_path, prefix_beam_search

HERE = Path(__file__).parent
RESULT = HERE / "results" / "speech_ctc"
SETTINGS = ("data.samples=2000", "training.epochs=40")
GOAL = 0.05


def rate(found: Sequence[tuple[int, ...]], said: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Word error rate with its interval, and by number of words; strings that are right."""
    rows = np.array([[edit_distance(given, due), len(due)] for given, due in zip(found, said, strict=True)], float)
    interval = bootstrap_interval(rows, lambda sums: sums[..., 0] / sums[..., 1])
    sizes = np.unique(rows[:, 1]).astype(int)
    return {
        "wer": float(rows[:, 0].sum() / rows[:, 1].sum()),
        "low": interval.low,
        "high": interval.high,
        "right": float(np.mean(rows[:, 0] == 0)),
        "by_words": {str(size): float(rows[rows[:, 1] == size, 0].mean() / size) for size in sizes},
    }


def decoded(answer: np.ndarray, said: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    started = time.perf_counter()
    beams = [prefix_beam_search(sample)[0].words for sample in answer]
    seconds = time.perf_counter() - started
    return {
        "best_path": rate([best_path(sample) for sample in answer], said),
        "beam": rate(beams, said),
        "beam_ms": 1e3 * seconds / len(answer),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="sounds of single words with a manifest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("runs") / "speech-ctc", help="the run folder")
    arguments = parser.parse_args()
    settings = [*SETTINGS, f"training.seed={arguments.seed}"]
    what = ["speech-ctc", "--data", str(arguments.data.resolve()), "--out", str(arguments.run),
            *(word for setting in settings for word in ("--set", setting))]  # fmt: skip
    if (arguments.run / "run.json").is_file():
        what = [str(arguments.run)]
    done = subprocess.run([sys.executable, "-m", "edge_dl", "run", *what], check=False)
    if done.returncode not in (0, 1):  # 1: a check failed, which is a result.
        raise SystemExit(f"edge-dl run {' '.join(what)} ended with exit code {done.returncode}")
    results, data = read_json(arguments.run / "results.json"), load_npz(arguments.run / "data" / "test.npz")
    said = [tuple(int(word) for word in row if word) for row in data["y/words"]]
    reference = load_npz(arguments.run / "export" / "reference.npz")["y/words"]
    rows = [{"variant": "Keras", "bytes": None, "verdict": "", "p50_ms": None, **decoded(reference, said)}]
    for variant in results["variants"]:
        if variant["bytes"]:
            answer = predict_all(arguments.run / variant["bundle"], {"sound": data["x/sound"]}, processes=0)["words"]
            kept = {"variant": variant["name"], "bytes": variant["bytes"], "verdict": variant["verdict"],
                    "p50_ms": variant["latency"].get("p50_ms")}  # fmt: skip
            rows.append({**kept, **decoded(answer, said)})
    history = read_json(arguments.run / "train" / "history.json")
    facts, described = machine(), read_json(arguments.run / "data" / "dataset.json")
    last = history["epochs"][-1]
    lines = [
        f"$ python benchmarks/speech_ctc.py --data {arguments.data.name} --seed {arguments.seed}",
        f"{facts['processor']}, {facts['cores']} cores; {', '.join(settings)}",
        *described["notes"],
        f"{history['parameters']:,} parameters, trained {sum(item['seconds'] for item in history['epochs']) / 60:.0f} "
        f"minutes; validation: word error rate {100 * last['validation_word_error_rate']:.2f} %",
        f"test: {len(said)} strings, {sum(map(len, said))} words; word error rate in % with its 95 % interval, "
        f"strings without an error in %, beam {WIDTH} wide", "",
        f"{'variant':16} {'best path':>9} {'interval':>14} {'strings':>8} {'beam':>6} {'strings':>8} {'KiB':>7} "
        f"{'p50 ms':>7}  parity",
    ]  # fmt: skip
    for row in rows:
        path, beam = row["best_path"], row["beam"]
        size = f"{row['bytes'] / 1024:7.0f}" if row["bytes"] else f"{'':7}"
        latency = f"{row['p50_ms']:7.2f}" if row["p50_ms"] else f"{'':7}"
        lines.append(
            f"{row['variant']:16} {100 * path['wer']:9.2f} {100 * path['low']:6.2f} to {100 * path['high']:4.2f} "
            f"{100 * path['right']:8.1f} {100 * beam['wer']:6.2f} {100 * beam['right']:8.1f} {size} {latency}  "
            f"{row['verdict']}"
        )
    sizes = rows[0]["best_path"]["by_words"]
    lines += [
        "",
        "Keras, best path, by words in a string: "
        + ", ".join(f"{size}: {100 * share:.2f} %" for size, share in sizes.items()),
        f"prefix beam search in NumPy: {np.median([row['beam_ms'] for row in rows]):.1f} ms a string",
    ]
    for row in rows:
        if row["best_path"]["wer"] >= GOAL:
            lines.append(f"{row['variant']}: word error rate under {100 * GOAL:.0f} % NOT reached")
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(RESULT.with_suffix(".txt"), text)
    described["source"] = Path(described["source"]).name
    write_json(
        RESULT.with_suffix(".json"),
        {"machine": facts, "versions": installed_versions(), "settings": settings, "data": described, "rows": rows},
    )


if __name__ == "__main__":
    main()
