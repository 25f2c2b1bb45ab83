"""A small training in a process of its own: `python training_run.py FOLDER BACKEND [stop=EPOCH] [key=value ...]`.

It prints one line per call of the inner loop and one per remark. With `stop` it waits in that epoch for its parent's
signal, which could otherwise come after the last epoch: they take milliseconds here.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import numpy as np

from edge_dl.data import Dataset, Split
from edge_dl.recipe import DataConfig, Recipe, RecurrentConfig, Task, TrainingConfig, apply_overrides
from edge_dl.training import train, trainer


class Talking:
    def __init__(self, stop: str = "") -> None:
        self.stop = stop

    def say(self, message: str) -> None:
        print(message, flush=True)

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[Talking]:
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        print(note, flush=True)
        if note.startswith(f"epoch {self.stop},"):
            time.sleep(300)


def dataset(samples: int = 90, steps: int = 6) -> Dataset:
    """Sequences whose class is the sign of their sum."""
    rng = np.random.default_rng(1)
    x = rng.normal(2, 3, (3 * samples, steps, 3)).astype(np.float32)
    y = (x.sum(axis=(1, 2)) > 2 * 3 * steps).astype(np.int32)
    rows = np.split(np.arange(3 * samples), 3)
    parts = [Split({"sequence": x[part]}, {"label": y[part]}, part) for part in rows]
    return Dataset("signs", Task.CLASSIFICATION, *parts, labels=("low", "high"), sha256="made")


RECIPE = Recipe(
    "signs",
    "",
    Task.CLASSIFICATION,
    DataConfig("signs"),
    RecurrentConfig("gru", (5,), dropout=0.2, recurrent_dropout=0.1),
    TrainingConfig(epochs=8, batch_size=16, optimizer="adamw", learning_rate=0.02, schedule="plateau", plateau=1,
                   warmup=2, weight_decay=0.01, label_smoothing=0.05, patience=6, noise=0.1, gain=0.1,
                   jit_compile="off"),
)  # fmt: skip


def main(folder: str, backend: str, *settings: str) -> None:
    # Epochs here take milliseconds: without this no checkpoint would be written before the last one.
    trainer._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    overrides = {"training.backend": backend, **dict(item.split("=", 1) for item in settings)}
    talking = Talking(overrides.pop("stop", ""))
    train(apply_overrides(RECIPE, overrides), dataset(), folder, progress=talking)


if __name__ == "__main__":
    main(*sys.argv[1:])
