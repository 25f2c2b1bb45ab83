"""What a recipe may ask of compression, checked before anything long starts."""

from __future__ import annotations

import importlib.util
import math

from edge_dl.errors import UsageError
from edge_dl.recipe import CompressionConfig, Method, Task

SCHEDULES = ("constant", "polynomial")
PACKAGES = ("tf_keras", "tensorflow_model_optimization")


def ordered(config: CompressionConfig) -> tuple[Method, ...]:
    """The methods in the order in which they are done, each once."""
    return tuple(method for method in Method if method in config.methods)


def check_settings(config: CompressionConfig, task: Task) -> None:
    """Refuse settings that make no sense, and tasks that cannot be trained.

    Raises:
        UsageError: a setting is unknown or out of range, or the task has no answers to train on.
    """
    if task is Task.EMBEDDING:
        raise UsageError("Compression trains, and an encoder is taken as it is.", received=f"task {task.value}")
    if task is Task.TRANSCRIPTION:
        raise UsageError(
            "Compression trains on classes and numbers, not on strings of words.",
            received=f"task {task.value}",
            todo="Quantize after training: conversion.quantizations=dynamic,int8,int16x8,int4.",
        )
    if config.schedule not in SCHEDULES:
        raise UsageError(f"compression.schedule must be one of {', '.join(SCHEDULES)}.", received=config.schedule)
    if not 0 < config.sparsity < 1:
        raise UsageError("compression.sparsity must be above 0 and below 1.", received=str(config.sparsity))
    if not 0 <= config.begin < config.end <= 1:
        raise UsageError(
            "compression.begin must be at least 0, and below compression.end, which is at most 1.",
            received=f"begin {config.begin}, end {config.end}",
        )
    # With fewer, nothing is left beside the cluster that pruning needs for its zeros.
    if config.clusters < 3:
        raise UsageError("compression.clusters must be at least 3.", received=str(config.clusters))
    if config.epochs < 1:
        raise UsageError("compression.epochs must be at least 1.", received=str(config.epochs))
    if not (config.learning_rate >= 0 and math.isfinite(config.learning_rate)):
        raise UsageError("compression.learning_rate must be at least 0.", received=str(config.learning_rate))


def require_tools() -> None:
    """Check that tf-keras and tensorflow-model-optimization are installed, without importing them.

    Raises:
        UsageError: one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            "Compression needs tf-keras and tensorflow-model-optimization.",
            received=f"an environment without {' and '.join(missing)}",
            todo="Install them with: pip install 'edge-dl[tfmot]'.",
        )
