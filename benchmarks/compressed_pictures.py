"""What pruning, clustering and quantization-aware training cost an image model, and what they save after gzip.

Run from the repository:

    .venv/bin/python benchmarks/compressed_pictures.py RUN [--methods none prune cluster qat prune,qat cluster,qat]

RUN is the folder of a trained image recipe (`edge-dl train mobilenet --data photos/ ...`). It stays as it is: for each
entry of --methods a copy in --runs is taken through `edge-dl run COPY --set compression.methods=...`, with the further
settings of --set. The table gives, per variant, the accuracy on the whole test part, the loss in points against
the Keras model it was converted from with its interval (that model is the one that compression made: its own loss shows
between the float32 lines), the size of the file, and its size after gzip.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_dl.files import read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine

RESULTS = Path(__file__).parent / "results"


def compress(run: Path, methods: str, settings: list[str], runs: Path) -> dict[str, Any]:
    """The results of a copy of `run` that was trained by `methods`."""
    folder = runs / methods.replace(",", "-")
    if not folder.is_dir():
        shutil.copytree(run, folder)
    changes = [*settings, *(() if methods == "none" else [f"compression.methods={methods}"])]
    flags = [part for text in changes for part in ("--set", text)]
    command = [sys.executable, "-m", "edge_dl", "run", str(folder), *flags]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1):  # 1: a check failed, which is a result.
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    results: dict[str, Any] = read_json(folder / "results.json")
    return results


def rows_of(methods: str, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for variant in results["variants"]:
        metric = variant.get("metric")
        if not metric:
            continue
        yield {"methods": methods, "variant": variant["name"], "metric": metric, "bytes": variant["bytes"],
               "gzip_bytes": variant["gzip_bytes"], "verdict": variant["verdict"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", nargs="+", default=["none", "prune", "cluster", "qat", "prune,qat", "cluster,qat"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of every copy")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "compressed", help="where the copies stay")
    parser.add_argument("--out", type=Path, default=RESULTS / "compressed_pictures.txt")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    facts = machine()
    lines = [f"$ python {' '.join(sys.argv)}", f"{facts['processor']}, {facts['cores']} cores", "",
             f"{'methods':12} {'variant':9} {'accuracy':>8} {'loss, points':>12} {'interval':>14} {'KiB':>7} "
             f"{'gzip KiB':>8}  verdict"]  # fmt: skip
    print("\n".join(lines), flush=True)
    for methods in options.methods:
        for row in rows_of(methods, compress(options.run, methods, options.set, options.runs)):
            rows.append(row)
            metric = row["metric"]
            kib, packed = row["bytes"] / 1024, row["gzip_bytes"] / 1024
            low, high = 100 * metric["low"], 100 * metric["high"]
            lines.append(
                f"{methods:12} {row['variant']:9} {metric['value']:8.4f} {100 * metric['drop']:12.2f} "
                f"{low:+6.2f} {high:+6.2f}  {kib:7.0f} {packed:8.0f}  {row['verdict']}"
            )
            print(lines[-1], flush=True)
    write_atomic(options.out, "\n".join(lines) + "\n")
    write_json(options.out.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": rows})


if __name__ == "__main__":
    main()
