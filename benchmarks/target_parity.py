"""The same bundles on several targets: largest difference to this machine's LiteRT, and integers by how many steps.

Run from the repository: .venv/bin/python benchmarks/target_parity.py RUN_OR_BUNDLE ... [--on TARGET,TARGET ...]

Without --on: LiteRT here, tflite-runtime 2.14 here, and both on an emulated 64-bit Raspberry Pi. The table goes to
benchmarks/results/target_parity.md, every figure to target_parity.json beside it.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from edge_dl.bundle import MANIFEST
from edge_dl.checks.targets import TargetResult, verify_on
from edge_dl.cli.console import ConsoleProgress
from edge_dl.cli.targets import COLUMNS, read_asked, table_row
from edge_dl.files import read_json, write_atomic, write_json

RESULTS = Path(__file__).parent / "results"
TARGETS = "local:,env:tflite-runtime==2.14.0,qemu-aarch64:,qemu-aarch64:tflite-runtime==2.14.0"


def name_of(path: Path) -> str:
    """The model's name as its bundle or run folder says it."""
    manifests = [path / MANIFEST] if (path / MANIFEST).is_file() else sorted(path.glob(f"variants/*/{MANIFEST}"))
    return str(read_json(manifests[0])["name"]) if manifests else path.name


def markdown(rows: list[list[str]], columns: list[str]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write(found: list[tuple[str, TargetResult]], samples: int, out: Path) -> str:
    """Write the table and its JSON; returns the table with its heading."""
    found = sorted(found, key=lambda item: (item[0], item[1].variant))
    local = next((result.local_runtime for _, result in found if result.local_runtime), "no runtime")
    head = (
        f"# The same model on other targets\n\nDifference to {local} on {platform.system()} {platform.machine()}; "
        f"at most {samples} samples a variant. The verdict is against the Keras model's answers.\n\n"
    )
    table = markdown([[name, *table_row(result)] for name, result in found], ["model", *COLUMNS])
    write_atomic(out, head + table)
    write_json(out.with_suffix(".json"), [{"name": name, **result.to_json()} for name, result in found])
    return head + table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", type=Path, help="run folders or bundles")
    parser.add_argument("--on", default=TARGETS, help="targets, separated by commas")
    parser.add_argument("--samples", type=int, default=32, help="of a run's test split")
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds that one call of a target may take")
    parser.add_argument("--out", type=Path, default=RESULTS / "target_parity.md")
    options = parser.parse_args()
    found: list[tuple[str, TargetResult]] = []
    table = ""
    asked = read_asked(options.on, options.samples, options.time_limit)
    assert asked is not None
    for path in options.what:
        results = verify_on(
            path, asked.targets, samples=options.samples, time_limit=options.time_limit,
            progress=ConsoleProgress(),
        )  # fmt: skip
        found += [(name_of(path), result) for result in results]
        table = write(found, options.samples, options.out)  # What is there stays, should a later target break.
    print(table + f"\nWritten to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
