"""Training a phase: tf-keras' `fit`, epoch by epoch, on the recipe's own batches and random changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from edge_dl.checks.metrics import CLASS_TASKS, Target, evaluate
from edge_dl.compression.bridge import answers
from edge_dl.compression.phase import Phase
from edge_dl.errors import StageError
from edge_dl.progress import Progress, Step
from edge_dl.recipe import TrainingConfig
from edge_dl.training.batches import Arrays, Augmentation, training_rows
from edge_dl.training.objectives import ScaledSquaredError, SmoothedCrossEntropy


@dataclass(frozen=True)
class Part:
    """Samples for a model, by the model's own names.

    Attributes:
        arrays: inputs and weights of answers; targets as the losses take them.
        targets: true answers by output, as metrics take them.
    """

    arrays: Arrays
    targets: Mapping[str, Target]


class Batches(tf_keras.utils.Sequence):
    """One epoch's batches.

    Args:
        arrays: samples.
        rows: (steps, batch) which samples each step takes.
        inputs, outputs: names in the model's order.
    """

    def __init__(self, arrays: Arrays, rows: np.ndarray, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._arrays, self._rows, self._inputs, self._outputs = arrays, rows, inputs, outputs

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        rows = self._rows[step]
        x = [self._arrays.x[name][rows] for name in self._inputs]
        y = [self._arrays.y[name][rows] for name in self._outputs]
        batch: list[Any] = [_one(x), _one(y)]
        if self._arrays.weight is not None:
            weight = self._arrays.weight
            ones = np.ones(len(rows), np.float32)
            batch.append(_one([weight[name][rows] if name in weight else ones for name in self._outputs]))
        return tuple(batch)


def tune(
    phase: Phase,
    name: str,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    training: Part,
    validation: Part | None,
    config: TrainingConfig,
    epochs: int,
    learning_rate: float,
    augment: Augmentation,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train a wrapped model.

    Args:
        phase: the model and its callbacks.
        name: of the method, for progress and messages.
        inputs: names of the model's inputs, in its order.
        outputs: names of its outputs, in its order.
        training: what it is trained on.
        validation: what each epoch is judged by; None: nothing.
        config: batch size, seed, label smoothing, clipping.
        epochs: how many.
        learning_rate: the first; it falls to zero by half a cosine.
        augment: random changes of the inputs.
        progress: hears of steps done.

    Returns:
        One entry an epoch: epoch, seconds, learning_rate, loss, validation_loss, validation_<metric>.

    Raises:
        StageError: the loss is not a number any more.
    """
    count = len(training.arrays)
    steps = len(training_rows(config, count, 0))
    losses = [make_loss(training.targets[output], training.arrays.y[output], config) for output in outputs]
    rate = tf_keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    clipping = {"global_clipnorm": config.clip_norm} if config.clip_norm else {}
    tf_keras.utils.set_random_seed(config.seed)
    model = phase.model
    model.compile(tf_keras.optimizers.Adam(rate, **clipping), loss=_one(losses))
    history: list[dict[str, Any]] = []
    with progress.step(f"Compressing ({name})", epochs * steps) as bar:
        for epoch in range(epochs):
            started = time.perf_counter()
            arrays = augment(training.arrays, epoch) if augment else training.arrays
            batches = Batches(arrays, training_rows(config, count, epoch), inputs, outputs)
            fitted = model.fit(
                batches,
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,
                verbose=0,
                callbacks=[*phase.callbacks, _Bar(bar, epoch)],
            )
            entry: dict[str, Any] = {
                "epoch": epoch + 1,
                "learning_rate": float(rate(epoch * steps)),
                "loss": float(fitted.history["loss"][0]),
            }
            if not math.isfinite(entry["loss"]):
                raise StageError(
                    f"The loss of {name} must stay a finite number.",
                    stage="compress",
                    received=f"{entry['loss']} in epoch {epoch + 1}",
                    todo="Lower compression.learning_rate. The trained model is untouched.",
                )
            if validation is not None:
                entry |= judge(model, losses, validation, inputs, outputs)
            entry["seconds"] = round(time.perf_counter() - started, 4)
            history.append(entry)
    return history


def judge(
    model: Any, losses: Sequence[Any], part: Part, inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, float]:
    """`validation_loss` and `validation_<metric>` of a tf-keras model."""
    given = answers(model, [part.arrays.x[name] for name in inputs])
    found: dict[str, float] = {"validation_loss": 0.0}
    for output, loss, answer in zip(outputs, losses, given, strict=True):
        target = part.targets[output]
        each = np.asarray(loss(part.arrays.y[output], answer), np.float64)
        weight = (part.arrays.weight or {}).get(output)
        found["validation_loss"] += float(np.average(each, weights=None if weight is None else _spread(weight, each)))
        prefix = "validation_" if len(outputs) == 1 else f"validation_{output}_"
        found |= {f"{prefix}{name}": value for name, value in evaluate(answer, target).items() if math.isfinite(value)}
    return found


def make_loss(target: Target, values: np.ndarray, config: TrainingConfig) -> Callable[[Any, Any], Any]:
    """Loss of each answer, a function of true and given answers; told by what the output answers.

    Args:
        target: tells classes from numbers, and probabilities from logits.
        values: the true answers of the training part.
        config: label smoothing.
    """
    if target.task not in CLASS_TASKS:
        deviation = values.reshape(-1, values.shape[-1]).std(axis=0, dtype=np.float64)
        return ScaledSquaredError(np.where(deviation > 0, deviation, 1.0)).call
    logits = not target.probabilities
    if target.classes == 2 and values.shape[-1:] == (1,):
        return lambda true, given: tf_keras.losses.binary_crossentropy(true, given, from_logits=logits)
    if config.label_smoothing and not logits:
        smoothed = SmoothedCrossEntropy(config.label_smoothing)
        # `fit` gives targets of one axis a second one.
        return lambda true, given: smoothed.call(tf.reshape(true, tf.shape(given)[:-1]), given)
    return lambda true, given: tf_keras.losses.sparse_categorical_crossentropy(true, given, from_logits=logits)


def loss_values(target: Target, output: np.ndarray) -> np.ndarray:
    """True answers in the form that `make_loss`'s function takes.

    Args:
        target: true answers of some samples.
        output: a model's answers on any samples: its shape tells a single column of two classes.
    """
    if target.task not in CLASS_TASKS:
        return target.values.astype(np.float32)
    values = target.values.astype(np.int32)
    return values[..., None].astype(np.float32) if output.shape[-1] == 1 else values


class _Bar(tf_keras.callbacks.Callback):
    """Tells a progress bar of each step."""

    def __init__(self, bar: Step, epoch: int) -> None:
        super().__init__()
        self._bar, self._epoch = bar, epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One more step is done."""
        self._bar.advance(1, f"epoch {self._epoch + 1}, loss {logs['loss']:.4g}" if logs else "")


def _one(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else tuple(items)


def _spread(weight: np.ndarray, each: np.ndarray) -> np.ndarray:
    return np.broadcast_to(weight.reshape(weight.shape + (1,) * (each.ndim - weight.ndim)), each.shape)
