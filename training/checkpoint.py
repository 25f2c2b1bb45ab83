"""A training state on disk: one file, whole or not there, that training goes on from exactly.

It holds every variable of the model (weights, normalisation statistics, random seeds), of the optimizer (moments, step
count, learning rate), the best weights so far, and a record of everything else as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.files import atomic_path, load_npz

FILE = "state.npz"
FORMAT = 1


@dataclass
class Checkpoint:
    """State after a whole epoch.

    Attributes:
        fingerprint: digest of what was trained on what; another one is another training.
        epoch: epochs done.
        history: one entry an epoch, as in history.json.
        variables: model variables in their order.
        optimizer: optimizer variables in their order.
        best: the best weights so far; empty when not kept.
        state: early stopping, schedule and other small facts; JSON values.
    """

    fingerprint: str
    epoch: int
    history: list[dict[str, Any]]
    variables: list[np.ndarray]
    optimizer: list[np.ndarray]
    best: list[np.ndarray] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint; the one before stays until the new one is whole."""
    record = {
        "format": FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "epoch": checkpoint.epoch,
        "history": checkpoint.history,
        "state": checkpoint.state,
    }
    arrays = {"record": np.frombuffer(json.dumps(record, allow_nan=False).encode(), np.uint8)}
    for kind in ("variables", "optimizer", "best"):
        arrays |= {f"{kind}/{number:05d}": array for number, array in enumerate(getattr(checkpoint, kind))}
    # Not compressed: weights hardly shrink, and training waits.
    with atomic_path(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load(folder: Path) -> Checkpoint | None:
    """Read the checkpoint in `folder`; None when there is none.

    Raises:
        UsageError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    arrays = load_npz(path)
    try:
        record: Mapping[str, Any] = json.loads(arrays["record"].tobytes())
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}")
        kinds = {
            kind: [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]
            for kind in ("variables", "optimizer", "best")
        }
        return Checkpoint(record["fingerprint"], record["epoch"], record["history"], state=record["state"], **kinds)
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(
            "A checkpoint must be one that this version wrote.",
            received=f"{path} ({type(error).__name__}: {error})",
            todo="Remove it to train anew.",
        ) from None
