"""A small translator trained in a process of its own: `python translation_training.py FOLDER BACKEND EPOCHS`."""

from __future__ import annotations

import dataclasses
import sys

from sentence_pairs import make_dataset

from edge_dl.recipe import Seq2SeqConfig
from edge_dl.training import RECIPES, train


class Talking:
    def say(self, message: str) -> None:
        print(message, flush=True)

    def step(self, description: str, total: float | None = None) -> object:
        from edge_dl.progress import SILENT

        return SILENT.step(description, total)


def main(folder: str, backend: str, epochs: str) -> None:
    recipe = RECIPES["translate"]
    training = dataclasses.replace(
        recipe.training, backend=backend, epochs=int(epochs), batch_size=16, schedule="constant", jit_compile="off"
    )
    network = Seq2SeqConfig("gru", (6,), 5, dropout=0.1)
    recipe = dataclasses.replace(recipe, model=network, training=training)
    train(recipe, make_dataset(300, window=9), folder, progress=Talking())  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
