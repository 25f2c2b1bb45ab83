"""An encoder is taken as it is: nothing is trained, its weights are written, and its threshold is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.checks.roc import verification
from edge_dl.data.dataset import Dataset
from edge_dl.files import atomic_path, write_json

VERIFICATION = "verification.json"


def write_encoder(model: Any, dataset: Dataset, folder: Path, facts: dict[str, Any]) -> None:
    """Write train/: model.keras, history.json without an epoch, and verification.json.

    Args:
        model: gives one vector a sample under the name of the data set's target.
        dataset: its validation part decides from where on two pictures are called the same.
        folder: the train folder.
        facts: what history.json says of backend and device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.keras") as temporary:
        model.save(temporary)
    name, classes = next(iter(dataset.validation.y.items()))
    vectors = np.asarray(model.predict(dataset.validation.x, batch_size=32, verbose=0)[name])
    found = verification(vectors, classes)
    if found is not None:
        write_json(folder / VERIFICATION, {**found.to_json(), "split": "validation"})
    write_json(folder / "history.json", {"epochs": [], "parameters": int(model.count_params()), **facts})
