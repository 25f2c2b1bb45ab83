"""Learning rates over time, and the optimizer that follows them."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from edge_dl.errors import UsageError
from edge_dl.recipe import TrainingConfig

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
SCHEDULES = ("constant", "cosine", "plateau")


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then constant or half a cosine to zero (Loshchilov & Hutter 2017, without restarts).

    A function of the optimizer's step count alone: a resumed run needs no state of its own.

    Args:
        peak: largest learning rate.
        warmup: steps of warm-up; step 0 already learns with peak / warmup.
        total: steps until zero; 0: constant after the warm-up.
    """

    def __init__(self, peak: float, warmup: int, total: int = 0) -> None:
        self.peak, self.warmup, self.total = peak, warmup, total

    def __call__(self, step: Any) -> Any:
        """Learning rate at `step`."""
        step = ops.cast(step, "float32")
        rate = ops.convert_to_tensor(self.peak, dtype="float32")
        if self.total:
            done = ops.clip((step - self.warmup) / max(1, self.total - self.warmup), 0.0, 1.0)
            rate = rate * 0.5 * (1 + ops.cos(math.pi * done))
        if self.warmup:
            rate = ops.where(step < self.warmup, self.peak * (step + 1) / self.warmup, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"peak": self.peak, "warmup": self.warmup, "total": self.total}


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer that `config` describes.

    Raises:
        UsageError: a setting is unknown, out of range, or does not go with another.
    """
    check_settings(config)
    clipping: dict[str, Any] = {}
    if config.clip_norm:
        clipping["global_clipnorm"] = config.clip_norm
    if config.clip_value:
        clipping["clipvalue"] = config.clip_value
    rate: Any = config.learning_rate
    if config.schedule != "plateau" and (config.schedule == "cosine" or config.warmup):
        total = config.epochs * steps_per_epoch if config.schedule == "cosine" else 0
        rate = WarmupSchedule(config.learning_rate, config.warmup * steps_per_epoch, total)
    decay = config.weight_decay or None
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=decay, **clipping)
    elif config.optimizer == "rmsprop":
        optimizer = keras.optimizers.RMSprop(rate, weight_decay=decay, **clipping)
    else:
        kind = keras.optimizers.AdamW if config.optimizer == "adamw" else keras.optimizers.Adam
        # AdamW's own default of 0.004 would apply where the recipe says nothing; 0 is what it says.
        optimizer = kind(
            rate, weight_decay=config.weight_decay if kind is keras.optimizers.AdamW else decay, **clipping
        )
    if decay:
        # Biases and scales are not what decay is meant for (Loshchilov & Hutter 2019 decay weights).
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def check_settings(config: TrainingConfig) -> None:
    """Refuse settings that make no sense, before anything is built.

    Raises:
        UsageError: see `make_optimizer`.
    """
    for key, value, known in (("optimizer", config.optimizer, OPTIMIZERS), ("schedule", config.schedule, SCHEDULES)):
        if value not in known:
            raise UsageError(f"training.{key} must be one of {', '.join(known)}.", received=value)
    for key in ("epochs", "batch_size", "plateau"):
        if getattr(config, key) < 1:
            raise UsageError(f"training.{key} must be at least 1.", received=str(getattr(config, key)))
    for key in ("learning_rate", "fine_tune_rate"):
        rate = getattr(config, key)
        if not (rate > 0 and math.isfinite(rate)):
            raise UsageError(f"training.{key} must be above 0.", received=str(rate))
    for key in ("zoom", "brightness", "contrast", "shift"):
        if not 0 <= getattr(config, key) < 1:
            raise UsageError(f"training.{key} must be at least 0 and below 1.", received=str(getattr(config, key)))
    for key in (
        "warmup",
        "weight_decay",
        "clip_norm",
        "clip_value",
        "patience",
        "noise",
        "fine_tune_epochs",
        "fine_tune_layers",
        "steps_per_execution",
        "seed",
    ):
        value = getattr(config, key)
        if not (value >= 0 and math.isfinite(value)):
            raise UsageError(f"training.{key} must be a number of at least 0.", received=str(value))
    if config.clip_norm and config.clip_value:
        raise UsageError(
            "Gradients are clipped by their global norm or by value, not both.",
            received=f"training.clip_norm={config.clip_norm} and training.clip_value={config.clip_value}",
            todo="Set one of them to 0.",
        )
    if config.schedule == "cosine" and config.warmup >= config.epochs:
        raise UsageError(
            "The warm-up must be shorter than the training.",
            received=f"training.warmup={config.warmup}, training.epochs={config.epochs}",
        )
