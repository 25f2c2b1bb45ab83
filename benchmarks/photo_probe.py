"""A linear probe of frozen backbones: what photos of each size say, in minutes instead of a fine-tuning's hours.

Run from the repository:

    .venv/bin/python benchmarks/photo_probe.py PHOTOS --weights FOLDER [--sizes 160 224 288]

FOLDER holds the backbones' weights without top, as for photo_transfer.py. Logistic regression on the mean of the last
feature map, standardized, is cross-validated on the training photos (five folds, twice, in other orders); its penalty
is the best of four by the same folds, which flatters every line alike. The test part is not read.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.files import write_atomic, write_json
from edge_dl.recipe import apply_overrides
from edge_dl.runfolder import installed_versions, machine

RESULT = Path(__file__).parent / "results" / "photo_probe.txt"
BACKBONES = {
    "V1 0.5": ("mobilenet_v1_0.5_224_no_top.weights.h5", {"model.backbone": "mobilenet", "model.alpha": 0.5}),
    "V2 0.35": ("mobilenet_v2_0.35_224_no_top.weights.h5", {"model.backbone": "mobilenet_v2", "model.alpha": 0.35}),
}
PENALTIES = (0.003, 0.01, 0.03, 0.1)  # scikit-learn's C


def features(photos: Path, size: int, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
    """(photos, channels) of the training photos, their classes, and milliseconds a photo."""
    import keras

    from edge_dl import data, models
    from edge_dl.training import RECIPES

    changes = {"data.source": str(photos), "data.size": f"{size},{size}", "model.size": size, **settings}
    recipe = apply_overrides(RECIPES["mobilenet"], changes)
    dataset = data.load(recipe.data, recipe.task)
    model = models.build(recipe.task, recipe.model, dataset)
    inside = keras.Model(model.input, model.get_layer("features").output)
    parts = (dataset.train, dataset.validation)
    x = np.concatenate([part.x["image"] for part in parts])
    inside.predict(x[:32], batch_size=32, verbose=0)  # Traced before the clock starts.
    started = time.process_time()
    found = inside.predict(x, batch_size=32, verbose=0)
    took = 1000 * (time.process_time() - started) / len(x)
    return np.asarray(found), np.concatenate([part.y["label"] for part in parts]), took


def accuracies(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Cross-validated accuracy with each penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
    probes = [make_pipeline(StandardScaler(), LogisticRegression(C=value, max_iter=300)) for value in PENALTIES]
    return [float(cross_val_score(probe, x, y, cv=folds).mean()) for probe in probes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 224, 288])
    options = parser.parse_args()
    facts, rows = machine(), []
    lines = [f"$ python {' '.join(sys.argv)}", f"{facts['processor']}, {facts['cores']} cores", "",
             f"{'backbone':9} {'pixels':>6} {'accuracy':>8} {'CPU ms a photo':>14}"]  # fmt: skip
    print("\n".join(lines), flush=True)
    for name, (file, settings) in BACKBONES.items():
        for size in options.sizes:
            x, y, took = features(options.photos, size, {**settings, "model.weights": str(options.weights / file)})
            found = accuracies(x, y)
            rows.append({"backbone": name, "size": size, "photos": len(y), "accuracies": found, "milliseconds": took})
            lines.append(f"{name:9} {size:6} {100 * max(found):8.2f} {took:14.1f}")
            print(lines[-1], flush=True)
    write_atomic(RESULT, "\n".join(lines) + "\n")
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": rows})


if __name__ == "__main__":
    main()
