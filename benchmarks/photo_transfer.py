"""Transfer learning on two sets of photos: which settings the validation part prefers, and what they reach.

Run from the repository, best on a GPU:

    .venv/bin/python benchmarks/photo_transfer.py --flowers FLOWERS.zip --cats CATS.zip --weights FOLDER \
        [--backend jax] [--jobs 12] [--runs FOLDER]

FOLDER holds the backbones' weights without top, as Keras publishes them (mobilenet_v1_0.5_224_no_top.weights.h5 and
mobilenet_v2_0.35_224_no_top.weights.h5). Each line is `edge-dl train mobilenet` with the settings it shows: three
seeds with the validation part held out, whose mean accuracy there decides, and then trainings on the validation part
too. The test part decides nothing: what it says is printed for every training, and its goals are 90 % of the flowers
and 97.5 % of the cats and dogs, by the settings that were chosen. A run that was stopped goes on; what a training
reached stays in its folder as outcome.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edge_dl.files import load_npz, read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine

RESULT = Path(__file__).parent / "results" / "photo_transfer"
V1, V2 = "mobilenet_v1_0.5_224_no_top.weights.h5", "mobilenet_v2_0.35_224_no_top.weights.h5"
ALL_V1 = {"training.fine_tune_layers": 86}
V2_MODEL = {"model.backbone": "mobilenet_v2", "model.alpha": 0.35}
GOALS = {"flowers": 0.9, "cats": 0.975}
# Pictures of 160 pixels are enlarged once, by the loader, rather than in every step.
COMMON: dict[str, dict[str, Any]] = {"flowers": {"data.size": "224,224"}, "cats": {}}
CANDIDATES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "flowers": {
        "V1 0.5, the recipe": (V1, {}),
        "V1 0.5, all layers, 30 epochs": (V1, {**ALL_V1, "training.fine_tune_epochs": 30}),
        "  at 3e-4": (V1, {**ALL_V1, "training.fine_tune_epochs": 30, "training.fine_tune_rate": 3e-4}),
        "  at 2e-4, zoom 0.5, dropout 0.4": (
            V1,
            {
                **ALL_V1,
                "training.fine_tune_epochs": 30,
                "training.fine_tune_rate": 2e-4,
                "training.zoom": 0.5,
                "model.dropout": 0.4,
            },
        ),
        "V2 0.35, all layers, 30 epochs at 3e-4": (
            V2,
            {
                **V2_MODEL,
                "training.fine_tune_epochs": 30,
                "training.fine_tune_layers": 160,
                "training.fine_tune_rate": 3e-4,
            },
        ),
        "  zoom 0.5, dropout 0.4": (
            V2,
            {
                **V2_MODEL,
                "training.fine_tune_epochs": 30,
                "training.fine_tune_layers": 160,
                "training.fine_tune_rate": 3e-4,
                "training.zoom": 0.5,
                "model.dropout": 0.4,
            },
        ),
    },
    "cats": {
        "V1 0.5, the recipe": (V1, {}),
        "V1 0.5, all layers, 20 epochs": (V1, {**ALL_V1, "training.fine_tune_epochs": 20}),
        "  at 160 pixels": (V1, {**ALL_V1, "training.fine_tune_epochs": 20, "model.size": 160}),
    },
}
SEEDS = (0, 1, 2)


def train(folder: Path, data: Path, weights: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What one training reached; made where it is not there yet."""
    if not (folder / "outcome.json").is_file():
        changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "edge_dl", "train", "mobilenet", "--data", str(data),
                   "--weights", str(weights), *changes, "--out", str(folder)]  # fmt: skip
        # Several share a GPU: none may take all of its memory.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
        subprocess.run([sys.executable, __file__, "--score", str(folder)], check=True, env=environment)
    found: dict[str, Any] = read_json(folder / "outcome.json")
    return found


def score(folder: Path) -> None:
    """Write how often the trained model is right on the test part, beside what training said of the validation part."""
    import keras
    import numpy as np

    from edge_dl import models

    models.register()
    model = keras.saving.load_model(folder / "train" / "model.keras", compile=False)
    test = load_npz(folder / "data" / "test.npz")
    answer = np.asarray(model.predict(test["x/image"], batch_size=100, verbose=0)["label"]).argmax(axis=1)
    history = read_json(folder / "train" / "history.json")
    outcome = {
        "test": float(np.mean(answer == test["y/label"])),
        "validation": history["epochs"][-1].get("validation_accuracy"),
        "seconds": round(sum(epoch["seconds"] for epoch in history["epochs"])),
        "device": history["device"],
    }
    write_json(folder / "outcome.json", outcome)


def results(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A candidate after the other, with all of its trainings."""
    data = {"flowers": options.flowers, "cats": options.cats}
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = []
        for photos, candidates in CANDIDATES.items():
            for number, (label, (weights, settings)) in enumerate(candidates.items()):
                trainings = {}
                for kind in ("held", "all"):
                    for seed in SEEDS if kind == "held" else SEEDS[: options.final]:
                        changes = {**COMMON[photos], **settings, "training.backend": options.backend,
                                   "training.seed": seed, "training.use_validation": kind == "all"}  # fmt: skip
                        folder = options.runs / f"{photos}-{number}-{kind}-{seed}"
                        job = pool.submit(train, folder, data[photos], options.weights / weights, changes)
                        trainings[kind, seed] = job
                waiting.append((photos, label, settings, trainings))
        for photos, label, settings, trainings in waiting:
            found = {key: job.result() for key, job in trainings.items()}
            yield {
                "photos": photos,
                "candidate": label.strip(),
                "label": label,
                "settings": settings,
                "validation": [one["validation"] for (kind, _), one in found.items() if kind == "held"],
                "test_held_out": [one["test"] for (kind, _), one in found.items() if kind == "held"],
                "test": [one["test"] for (kind, _), one in found.items() if kind == "all"],
                "device": next(iter(found.values()))["device"],
            }


def percent(shares: list[float | None]) -> str:
    return " ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)


def main() -> None:
    if sys.argv[1:2] == ["--score"]:
        score(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flowers", type=Path, required=True)
    parser.add_argument("--cats", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backend", default="jax")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--final", type=int, default=1, help="seeds trained on the validation part too")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "photo_transfer")
    options = parser.parse_args()
    rows = list(results(options))
    head = (
        f"{'settings':42} {'validation, 3 seeds':>21} {'mean':>5}  {'test then':>17}  trained on validation too: test"
    )
    lines = [f"$ python {' '.join(sys.argv)}", f"trained on {rows[0]['device']}", "", head]
    for photos, goal in GOALS.items():
        own = [row for row in rows if row["photos"] == photos]
        chosen = max(own, key=lambda row: statistics.fmean(row["validation"]))
        lines.append(f"{photos}: goal {100 * goal:.1f} %")
        for row in own:
            mark, mean = "> " if row is chosen else "  ", 100 * statistics.fmean(row["validation"])
            lines.append(
                f"{mark}{row['label']:40} {percent(row['validation']):>21} {mean:5.1f}  "
                f"{percent(row['test_held_out']):>17}  {percent(row['test'])}"
            )
    lines.append("> the settings that the validation part prefers")
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(RESULT.with_suffix(".txt"), text)
    write_json(RESULT.with_suffix(".json"), {"machine": machine(), "versions": installed_versions(), "results": rows})


if __name__ == "__main__":
    main()
