"""What training minimises and what it watches: losses and metrics by task, in keras.ops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from edge_dl.data.dataset import Dataset
from edge_dl.errors import UsageError
from edge_dl.recipe import Task, TrainingConfig

CLASSES = (Task.CLASSIFICATION, Task.LABELLING, Task.LANGUAGE_MODEL, Task.TRANSLATION)
# Far below what float32 softmax gives for a class that training can still find, and above its smallest numbers.
_TINY = 1e-30


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of class numbers with label smoothing (Szegedy et al. 2016, section 7).

    Targets (...) class numbers, predictions (..., classes) probabilities. The target distribution is
    1 - `smoothing` on the class plus `smoothing` spread evenly over all classes.
    """

    def __init__(self, smoothing: float, name: str = "cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each answer, (...)."""
        right = ops.sparse_categorical_crossentropy(ops.cast(y_true, "int32"), y_pred)
        # The even share costs -log p of every class; written out, no target of all classes is ever made.
        logs = ops.log(ops.clip(y_pred, keras.config.epsilon(), 1.0))
        return (1 - self.smoothing) * right - self.smoothing * ops.mean(logs, axis=-1)


class ScaledSquaredError(keras.losses.Loss):
    """Mean squared error in units of each target's standard deviation.

    Models answer in the target's own unit, whose size must not decide how large a learning step is.

    Args:
        scale: standard deviation of each target, along the last axis.
    """

    def __init__(self, scale: np.ndarray, name: str = "scaled_squared_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.factor = (1 / np.asarray(scale, np.float64)).astype(np.float32)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each answer: the last axis is averaged."""
        factor = ops.cast(ops.convert_to_tensor(self.factor), y_pred.dtype)
        return ops.mean(ops.square((y_pred - ops.cast(y_true, y_pred.dtype)) * factor), axis=-1)


class CtcLoss(keras.losses.Loss):
    """Connectionist temporal classification (Graves et al. 2006): what the words cost, in nats a word.

    Targets (batch, most) words from 1 on, filled with 0; predictions (batch, frames, classes) probabilities, class 0
    the blank. Divided by the number of words, long strings count no more than short ones.
    """

    def __init__(self, name: str = "ctc", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each sample, (batch,)."""
        words = ops.cast(y_true, "int32")
        count = ops.sum(ops.cast(words > 0, "int32"), axis=-1)
        # A likelihood so small that it has no logarithm would have no gradient either; softmax leaves logs as they are.
        logs = ops.log(ops.maximum(ops.cast(y_pred, "float32"), _TINY))
        frames = ops.full_like(count, y_pred.shape[1])
        return ops.ctc_loss(words, logs, count, frames, mask_index=0) / ops.cast(ops.maximum(count, 1), "float32")


class WordErrorRate(keras.metrics.Metric):
    """Edits that the words of the most likely path need, as a share of the words said.

    Paths that say more than twice as many words as any target are counted up to there, which training soon leaves.
    """

    def __init__(self, name: str = "word_error_rate", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.edits = self.add_variable((), "zeros", name="edits")
        self.said = self.add_variable((), "zeros", name="said")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count (batch, most) words, filled with 0, against (batch, frames, classes) scores; weights have no use."""
        due = ops.cast(y_true, "int32")
        edits = _edits(*_most_likely(y_pred, 2 * due.shape[1]), due)
        self.edits.assign_add(ops.sum(edits))
        self.said.assign_add(ops.sum(ops.cast(due > 0, "float32")))

    def result(self) -> Any:
        """Edits a word; 0 before any."""
        return self.edits / ops.maximum(self.said, 1.0)


def _most_likely(scores: Any, most: int) -> tuple[Any, Any]:
    """The first `most` words of each best path, (batch, most), filled with 0, and how many they are, (batch,)."""
    path = ops.cast(ops.argmax(scores, axis=-1), "int32")
    before = ops.pad(path, ((0, 0), (1, 0)))[:, :-1]
    first = ops.logical_and(path != before, path > 0)
    # The number-th word stands where so many have begun before it.
    begun = ops.cumsum(ops.cast(first, "int32"), axis=-1)
    place = ops.expand_dims(ops.where(first, begun, 0), 1) == ops.reshape(ops.arange(1, most + 1), (1, most, 1))
    words = ops.sum(ops.where(place, ops.expand_dims(path, 1), 0), axis=-1)
    return words, ops.minimum(begun[:, -1], most)


def _edits(given: Any, count: Any, due: Any) -> Any:
    """Levenshtein distance of (batch, n) words, of which the first `count` (batch,) count, to `due` (batch, m)."""
    size = due.shape[1]
    places = ops.cast(ops.arange(size + 1), "float32")
    row = ops.broadcast_to(ops.reshape(places, (1, -1)), (ops.shape(due)[0], size + 1))
    # Leaving words out, from k to j, costs j - k: a minimum over all k, where the usual way goes step by step.
    behind = np.arange(size + 1)[None, :] - np.arange(size + 1)[:, None]
    left_out = ops.convert_to_tensor(np.where(behind >= 0, behind, 1e6).astype(np.float32))
    for number in range(given.shape[1]):
        wrong = ops.cast(given[:, number : number + 1] != due, "float32")
        next_row = ops.concatenate([row[:, :1] + 1, ops.minimum(row[:, 1:] + 1, row[:, :-1] + wrong)], axis=-1)
        next_row = ops.min(ops.expand_dims(next_row, -1) + left_out, axis=1)
        row = ops.where(ops.expand_dims(number < count, -1), next_row, row)
    said = ops.sum(ops.cast(due > 0, "int32"), axis=-1)
    return ops.sum(row * ops.one_hot(said, size + 1, dtype="float32"), axis=-1)


class BalancedAccuracy(keras.metrics.Metric):
    """Mean of each class's share of right answers: a majority class cannot hide a minority that is never found.

    Classes that did not occur are left out of the mean.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int, name: str = "balanced_accuracy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.right = self.add_variable((classes,), "zeros", name="right")
        self.seen = self.add_variable((classes,), "zeros", name="seen")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count (...) class numbers against (..., classes) scores; a weight counts an answer that many times."""
        true = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        right = ops.cast(ops.equal(true, ops.reshape(ops.cast(ops.argmax(y_pred, -1), "int32"), (-1,))), "float32")
        weight = ops.ones_like(right)
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            if len(weight.shape) < len(y_pred.shape) - 1:  # One weight a sample, many answers.
                weight = ops.expand_dims(weight, -1)
            weight = ops.reshape(weight * ops.ones(ops.shape(y_pred)[:-1]), (-1,))
        classes = ops.one_hot(true, self.classes, dtype="float32") * ops.expand_dims(weight, -1)
        self.seen.assign_add(ops.sum(classes, axis=0))
        self.right.assign_add(ops.matmul(right, classes))

    def result(self) -> Any:
        """Mean recall over the classes seen; 0 before any."""
        present = ops.cast(self.seen > 0, "float32")
        recall = self.right / ops.maximum(self.seen, 1e-12)
        return ops.sum(recall * present) / ops.maximum(ops.sum(present), 1.0)


def loss_and_metrics(
    task: Task, config: TrainingConfig, dataset: Dataset, output: str
) -> tuple[keras.losses.Loss, list[keras.metrics.Metric]]:
    """Loss and metrics of one output.

    Raises:
        UsageError: a setting does not fit the task.
    """
    if not 0 <= config.label_smoothing < 1:
        raise UsageError(
            "training.label_smoothing must be at least 0 and below 1.", received=str(config.label_smoothing)
        )
    if task in (Task.TRANSCRIPTION, Task.TRANSLATION) and config.balance:
        raise UsageError("training.balance needs one class an answer.", received=f"task {task.value}")
    if task in CLASSES:
        # Keras divides by all positions, also by those of weight 0: padding would count as answers that cost nothing.
        mean = "mean_with_sample_weight" if task is Task.TRANSLATION else "sum_over_batch_size"
        loss: keras.losses.Loss = (
            SmoothedCrossEntropy(config.label_smoothing, reduction=mean)
            if config.label_smoothing
            else keras.losses.SparseCategoricalCrossentropy(reduction=mean)
        )
        metrics: list[keras.metrics.Metric] = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        if task in (Task.LANGUAGE_MODEL, Task.TRANSLATION):
            metrics.append(keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy"))
        else:
            metrics.append(BalancedAccuracy(len(dataset.labels)))
        return loss, metrics
    if config.label_smoothing:
        raise UsageError("training.label_smoothing needs classes.", received=f"task {task.value}")
    if task is Task.TRANSCRIPTION:
        return CtcLoss(), [WordErrorRate()]
    target = dataset.train.y[output]
    deviation = target.reshape(-1, target.shape[-1]).std(axis=0, dtype=np.float64)
    loss = ScaledSquaredError(np.where(deviation > 0, deviation, 1.0))
    return loss, [keras.metrics.MeanAbsoluteError(name="mae"), keras.metrics.RootMeanSquaredError(name="rmse")]


def readable(results: Mapping[str, Any], output: str) -> dict[str, float]:
    """Metric results as plain numbers under short names; a cross-entropy a token also as perplexity."""
    named = {key.removeprefix(f"{output}_"): float(value) for key, value in results.items()}
    # With a single output some versions of Keras report its loss a second time under the output's name.
    named.pop(output, None)
    if "cross_entropy" in named:
        named["perplexity"] = math.exp(min(named.pop("cross_entropy"), 700.0))
    return named
