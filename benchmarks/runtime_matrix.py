"""Every variant of run folders in every runtime: what the tables say, and what the runtime says when it loads the file.

Run: .venv/bin/python benchmarks/runtime_matrix.py RUN ... [--runtime NAME,NAME] [--python NAME=PATH]

Runtimes that are not installed are made from the package index in the cache folder; --python names a Python that has
one (litert-micro=/path/to/python with tflite-micro). The table goes to benchmarks/results/runtime_matrix.md. Exit code
1: table and runtime disagree somewhere.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from edge_dl.checks.compatibility import check_model
from edge_dl.checks.runtime_profiles import Profile, find_profiles
from edge_dl.checks.trials import try_loading
from edge_dl.errors import EdgeError
from edge_dl.files import write_atomic

RESULTS = Path(__file__).parent / "results"
RUNTIMES = "litert-2.3,litert-compiled-model,tensorflow,ai-edge-litert==1.4.0,tflite-runtime==2.14.0"


def cell(table: str, real: str | None) -> str:
    """`loads`, `no`, or what they disagree about; without a real runtime the table's word in brackets."""
    if real is None:
        return "(loads)" if not table else "(no)"
    if bool(table) != bool(real):
        return "DISAGREE: table " + ("no" if table else "loads") + ", runtime " + ("no" if real else "runs")
    return "no" if real else "loads"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--runtime", default=RUNTIMES, help="runtimes, separated by commas")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="a Python that has a runtime"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "runtime_matrix.md")
    options = parser.parse_args()
    pythons = {name: path for name, _, path in (item.rpartition("=") for item in options.python)}
    profiles = find_profiles(options.runtime)
    models = [path for run in options.runs for path in sorted(run.glob("variants/*/model.tflite"))]
    said: dict[Profile, dict[Path, str]] = {}
    heard: dict[Profile, dict[str, str] | None] = {}
    notes = []
    for profile in profiles:
        looked_up = {path: check_model(path, [profile])[0] for path in models}
        # What loads and answers wrongly cannot be told by loading it: tests/test_compatibility.py compares answers.
        said[profile] = {path: "" if answer.loads else answer.reason for path, answer in looked_up.items()}
        notes += [
            f"{profile.name}, {path.parents[2].name} {path.parent.name}: {answer.word}: {answer.reason}"
            for path, answer in looked_up.items()
            if answer.loads and not answer.right
        ]
        try:
            heard[profile] = try_loading(profile, models, python=pythons.get(profile.name, ""))
        except EdgeError as error:
            heard[profile] = None
            notes.append(f"{profile.name} was not asked: {error}")
    rows, wrong, errors = [], 0, {}
    for path in models:
        cells = []
        for profile in profiles:
            answers = heard[profile]
            real = None if answers is None else answers[str(path)]
            text = cell(said[profile][path], real)
            wrong += text.startswith("DISAGREE")
            if real:
                errors.setdefault(profile.name, {}).setdefault(real[:160], []).append(path)
            cells.append(text)
        rows.append([path.parents[2].name, path.parent.name, *cells])
    columns = ["run", "variant", *(f"{profile.name}" for profile in profiles)]
    lines = [
        "# Every variant in every runtime\n",
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}; {len(models)} files. Each was "
        "looked up in the tables (`edge-dl check`) and loaded and run in the runtime itself; `(...)`: the table's word "
        f"only. Disagreements: {wrong}.\n",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
        "\n## First errors\n",
    ]
    for name, found in errors.items():
        for words, paths in found.items():
            lines.append(
                f"- {name}, {len(paths)} files, e.g. {paths[0].parents[2].name} {paths[0].parent.name}: `{words}`"
            )
    lines += [f"- {note}" for note in notes]
    text = "\n".join(lines) + "\n"
    write_atomic(options.out, text)
    print(text + f"\nWritten to {options.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
