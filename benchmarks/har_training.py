"""Test accuracy of RNN, LSTM and GRU on smartphone activity windows, mean over seeds.

Run from the repository:

    .venv/bin/python benchmarks/har_training.py --data har.npz [--recipe lstm] [--seeds 0 1 2] [--backend jax]

The file holds windows X (n, steps, features), classes y, `is_test` (the official split by subject) and `subject`.
Settings are those of examples/har_<recipe>.yaml. They were chosen with `--choose`, which trains on all but every
fourth training subject and scores those; the test subjects take no part in it.

Each training is also `edge-dl run RECIPE --config examples/har_RECIPE.yaml --data har.npz`; trained models stay in
`--runs`, and a training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edge_dl.data import Dataset, load
from edge_dl.files import load_npz, write_atomic, write_json
from edge_dl.recipe import Recipe, apply_overrides, flatten, to_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.training import RECIPES, train

HERE = Path(__file__).parent
RESULT = HERE / "results" / "har_training"
LABELS = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")


def recipe_of(name: str, arguments: argparse.Namespace, seed: int) -> Recipe:
    settings = yaml.safe_load((HERE.parent / "examples" / f"har_{name}.yaml").read_text(encoding="utf-8"))
    overrides: dict[str, Any] = {
        **flatten(settings),
        "data.source": str(arguments.data),
        "training.seed": seed,
        "training.backend": arguments.backend,
        **dict(item.split("=", 1) for item in arguments.set),
    }
    return apply_overrides(RECIPES[name], overrides)


def choosing(dataset: Dataset, path: Path, fold: int) -> Dataset:
    """The training part alone, cut in two by subject: every fourth subject is the validation and the test part."""
    import dataclasses

    subject = load_npz(path)["subject"]
    whole = [dataset.train, dataset.validation]
    held = np.unique(np.concatenate([subject[part.index] for part in whole]))[fold::4]
    parts = [part.take(np.flatnonzero(np.isin(subject[part.index], held) == side)) for side in (0, 1) for part in whole]

    def joined(first: Any, second: Any) -> Any:
        x = {name: np.concatenate([first.x[name], second.x[name]]) for name in first.x}
        y = {name: np.concatenate([first.y[name], second.y[name]]) for name in first.y}
        return type(first)(x, y, np.concatenate([first.index, second.index]))

    kept, out = joined(*parts[:2]), joined(*parts[2:])
    return dataclasses.replace(dataset, train=kept, validation=out, test=out, sha256=f"{dataset.sha256}/{fold}")


def accuracy(folder: Path, dataset: Dataset) -> tuple[float, np.ndarray]:
    """Share of right answers on the test part, and the confusion matrix (true, answered)."""
    import keras

    from edge_dl import models

    models.register()
    model = keras.saving.load_model(folder / "train" / "model.keras", compile=False)
    answered = np.asarray(model.predict(dataset.test.x, batch_size=256, verbose=0)["label"]).argmax(axis=1)
    true = dataset.test.y["label"]
    confusion = np.zeros((len(dataset.labels),) * 2, int)
    np.add.at(confusion, (true, answered), 1)
    return float(np.mean(answered == true)), confusion


def run(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = recipe_of(name, arguments, seed)
    dataset = load(recipe.data, recipe.task, seed=0)
    folder = arguments.runs / f"{name}-{seed}"
    if arguments.choose is not None:
        dataset = choosing(dataset, arguments.data, arguments.choose)
        folder = arguments.runs / f"choose-{arguments.choose}-{name}-{seed}"
        if recipe.training.use_validation:
            recipe = apply_overrides(recipe, {"training.use_validation": False})
    train(recipe, dataset, folder)
    history = json.loads((folder / "train" / "history.json").read_text())
    share, confusion = accuracy(folder, dataset)
    return {
        "recipe": name,
        "seed": seed,
        "accuracy": share,
        "confusion": confusion.tolist(),
        "seconds": round(sum(entry["seconds"] for entry in history["epochs"]), 1),
        "parameters": history["parameters"],
        "settings": to_json(recipe),
    }


def report(results: list[Mapping[str, Any]], command: str) -> str:
    facts = machine()
    versions = installed_versions()
    lines = [f"$ {command}", f"{facts['processor']}, {facts['cores']} cores; Keras {versions.get('keras')}", ""]
    lines.append(f"{'recipe':8} {'parameters':>10}  {'accuracy by seed, %':30} {'mean':>6}  {'seconds each':>12}")
    for name in dict.fromkeys(item["recipe"] for item in results):
        own = [item for item in results if item["recipe"] == name]
        shares = [100 * item["accuracy"] for item in own]
        each = "  ".join(f"{item['seed']}: {share:.2f}" for item, share in zip(own, shares, strict=True))
        seconds = statistics.mean(item["seconds"] for item in own)
        lines.append(f"{name:8} {own[0]['parameters']:10,}  {each:30} {statistics.mean(shares):6.2f}  {seconds:12.0f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=".npz of windows")
    parser.add_argument("--recipe", nargs="+", choices=("rnn", "lstm", "gru"), default=["rnn", "gru", "lstm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backend", default=os.environ.get("KERAS_BACKEND", "tensorflow"))
    parser.add_argument("--runs", type=Path, default=Path("runs") / "har", help="where trained models stay")
    parser.add_argument("--choose", type=int, choices=range(4), help="score this fourth of the training subjects")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings to try")
    arguments = parser.parse_args()
    results: list[Mapping[str, Any]] = []
    command = " ".join(["python", *sys.argv])
    for name in arguments.recipe:
        for seed in arguments.seeds:
            results.append(run(name, seed, arguments))
            item = results[-1]
            print(f"{name} seed {seed}: {100 * item['accuracy']:.2f} % ({item['seconds']} s)", flush=True)
    text = report(results, command.replace(str(arguments.data), arguments.data.name))
    print(f"\n{text}")
    if arguments.choose is None and not arguments.set:
        write_atomic(RESULT.with_suffix(".txt"), text)
        for item in results:
            item["settings"]["data"]["source"] = arguments.data.name  # type: ignore[index]
        write_json(RESULT.with_suffix(".json"), {"command": command, "machine": machine(),
                   "versions": installed_versions(), "results": results})  # fmt: skip


if __name__ == "__main__":
    main()
