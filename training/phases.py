"""Phases of a training: what trains, for how long, and how fast.

Most trainings have one. Transfer learning has two: the new head on a frozen backbone, then the backbone's last layers
too, at a lower rate (https://keras.io/guides/transfer_learning/).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edge_dl.errors import UsageError
from edge_dl.recipe import Recipe, TrainingConfig, TransferConfig


@dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes:
        name: for progress and curves.
        first, last: the epochs that it takes, from 0; `last` is not included.
        config: settings as they hold in this phase: epochs, learning rate and warm-up are its own.
        unfrozen: layers of the backbone that train, counted from its end; None: the whole model as it was built.
    """

    name: str
    first: int
    last: int
    config: TrainingConfig
    unfrozen: int | None = None


def phases(recipe: Recipe) -> tuple[Phase, ...]:
    """The phases of a recipe's training, in order.

    Raises:
        UsageError: fine-tuning is asked for where nothing is frozen at first, or of no layers.
    """
    config = recipe.training
    if not isinstance(recipe.model, TransferConfig) or recipe.model.weights == "none":
        if config.fine_tune_epochs:
            raise UsageError(
                "Fine-tuning needs a pretrained backbone.",
                received=f"training.fine_tune_epochs={config.fine_tune_epochs} for {recipe.name}",
                todo="Set training.fine_tune_epochs=0, or model.weights of a backbone.",
            )
        return (Phase("", 0, config.epochs, config),)
    head = Phase("head", 0, config.epochs, config, unfrozen=0)
    if not config.fine_tune_epochs:
        return (head,)
    if config.fine_tune_layers < 1:
        raise UsageError(
            "Fine-tuning needs layers to tune.",
            received=f"training.fine_tune_layers={config.fine_tune_layers}",
            todo="Say how many of the backbone's last layers train, or set training.fine_tune_epochs=0.",
        )
    total = config.epochs + config.fine_tune_epochs
    tuned = dataclasses.replace(
        config,
        epochs=config.fine_tune_epochs,
        learning_rate=config.fine_tune_rate,
        warmup=min(config.warmup, config.fine_tune_epochs - 1),
    )
    return (head, Phase("fine-tuning", config.epochs, total, tuned, unfrozen=config.fine_tune_layers))
