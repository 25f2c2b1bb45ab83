"""What quantization costs recurrent networks on smartphone activity windows: accuracy and size of every variant.

Run from the repository:

    .venv/bin/python benchmarks/har_variants.py --data har.npz [--recipe lstm] [--seeds 0 1 2] [--runs FOLDER]

For every recipe and seed this is `edge-dl train`, `convert`, `verify` and `report` with examples/har_<recipe>.yaml, on
the official split by subject. The table gives, per variant, the mean over seeds of the accuracy on the test subjects
and of the drop against the Keras model, how many times smaller than the float32 variant of the same lowering the file
is, and how many runs passed every parity check. Below it, per recipe, the goal: one variant with int8 weights and
one full-integer or int16x8 variant whose accuracy is within 0.5 points of float, all checks passed in every run, and at
least 3.5 times smaller. Run folders stay in `--runs`, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl.files import read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine

HERE = Path(__file__).parent
RESULT = HERE / "results" / "har_variants"
STAGES = ("train", "convert", "verify", "report")
POINTS, SMALLER = 0.005, 3.5
GOALS = {"int8 weights": ("dynamic",), "full-integer or int16x8": ("int8", "int16x8")}


def run(recipe: str, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """The results of one run, made where they are not there yet."""
    folder = runs / f"{recipe}-{seed}"
    first = [recipe, "--config", str(HERE.parent / "examples" / f"har_{recipe}.yaml"), "--data", str(data),
             "--set", f"training.seed={seed}", "--out", str(folder)]  # fmt: skip
    for stage in STAGES:
        what = first if not (folder / "run.json").is_file() else [str(folder)]
        command = [sys.executable, "-m", "edge_dl", stage, *what]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):  # 1: a check failed, which is a result.
            raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    results: dict[str, Any] = read_json(folder / "results.json")
    return results


def rows_of(recipe: str, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a variant that every run made: means over the runs."""
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for results in found:
        for variant in results["variants"]:
            if variant["bytes"]:
                by_name[variant["name"]].append(variant)
    rows = []
    for name, variants in by_name.items():
        if len(variants) != len(found):
            continue
        lowering = variants[0]["lowering"]
        floats = [item["bytes"] for item in by_name[f"{lowering}-float32"]]
        drops = [item["metric"]["drop"] for item in variants]
        rows.append(
            {
                "recipe": recipe,
                "variant": name,
                "quantization": variants[0]["quantization"],
                "reference": statistics.mean(item["metric"]["reference"] for item in variants),
                "accuracy": statistics.mean(item["metric"]["value"] for item in variants),
                "drop": statistics.mean(drops),
                "drops": drops,
                "kib": statistics.mean(item["bytes"] for item in variants) / 1024,
                "smaller": statistics.mean(whole / item["bytes"] for whole, item in zip(floats, variants, strict=True)),
                "passed": sum(item["verdict"] == "pass" for item in variants),
                "runs": len(variants),
            }
        )
    return rows


def goals(recipe: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a goal: the smallest variant that keeps accuracy and passes every check; whether that is small enough."""
    lines = []
    for goal, kinds in GOALS.items():
        candidates = [row for row in rows if row["quantization"] in kinds]
        right = [row for row in candidates if row["drop"] <= POINTS and row["passed"] == row["runs"]]
        best = max(right or candidates, key=lambda row: row["smaller"], default=None)
        word = "reached" if right and best is not None and best["smaller"] >= SMALLER else "NOT reached"
        which = "" if best is None else (
            f": {best['variant']}, drop {100 * best['drop']:+.2f} points, {best['smaller']:.2f}x smaller, "
            f"{best['passed']} of {best['runs']} runs passed every check"
        )  # fmt: skip
        lines.append(f"{recipe}, {goal}: {word}{which}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=".npz of windows")
    parser.add_argument("--recipe", nargs="+", choices=("rnn", "lstm", "gru"), default=["rnn", "gru", "lstm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "har-variants", help="where run folders stay")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    closing = []
    for recipe in arguments.recipe:
        found = [run(recipe, seed, arguments.data.resolve(), arguments.runs) for seed in arguments.seeds]
        own = rows_of(recipe, found)
        rows += own
        closing += goals(recipe, own)
    facts = machine()
    lines = [
        f"$ python benchmarks/har_variants.py --data {arguments.data.name} --recipe {' '.join(arguments.recipe)} "
        f"--seeds {' '.join(map(str, arguments.seeds))}",
        f"{facts['processor']}, {facts['cores']} cores; mean of {len(arguments.seeds)} seeds, accuracy in %", "",
        f"{'recipe':7} {'variant':16} {'Keras':>7} {'variant':>8} {'drop':>7} {'drop by seed':22} {'KiB':>7} "
        f"{'smaller':>8}  parity",
    ]  # fmt: skip
    for row in rows:
        each = " ".join(f"{100 * drop:+.2f}" for drop in row["drops"])
        lines.append(
            f"{row['recipe']:7} {row['variant']:16} {100 * row['reference']:7.2f} {100 * row['accuracy']:8.2f} "
            f"{100 * row['drop']:+7.2f} {each:22} {row['kib']:7.1f} {row['smaller']:7.2f}x  "
            f"{row['passed']} of {row['runs']} passed"
        )
    text = "\n".join([*lines, "", *closing]) + "\n"
    print(text)
    write_atomic(RESULT.with_suffix(".txt"), text)
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "rows": rows})


if __name__ == "__main__":
    main()
