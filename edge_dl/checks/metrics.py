"""Task metrics, one class each, in a registry.

Every metric turns outputs and targets into one row of numbers a sample, and the rows' sum into its value. So a
metric, its bootstrap interval and a paired comparison all come from the same rows, and cost one matrix product.

Add a metric: subclass `Metric`, decorate it with `@register(Task...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edge_dl.checks.edits import edit_distance
from edge_dl.errors import UsageError
from edge_dl.recipe import Task
from edge_dl.runtime.ctc import best_path

CLASS_TASKS = (Task.CLASSIFICATION, Task.LABELLING, Task.LANGUAGE_MODEL, Task.TRANSLATION)
# Above so many classes, per-class counts of every sample cost more memory than they tell.
MAX_CLASSES_COUNTED = 100
# Rows of the matrix of products that are held at a time.
NEIGHBOURS_AT_A_TIME = 1024
# Smallest probability: Keras' own epsilon, so that an int8 softmax that rounds to zero stays comparable.
SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Target:
    """True answers for one output, checked against the output.

    Attributes:
        task: what the output answers.
        values: classes, shape (samples,) or (samples, steps) int64; words, (samples, most) int64, filled with 0; or
            numbers, the output's shape, float64.
        weight: weight of each answer, the classes' shape, or (samples, 1, ..) for numbers; None: all count the same.
        classes: number of classes; 0 for numbers.
        probabilities: whether the reference's output holds probabilities (otherwise logits).
        naive_error: per target column, the training rows' mean |y(t) - y(t-1)|, for the scaled error; () when unknown.
        season_error: likewise for |y(t) - y(t - season)|.
    """

    task: Task
    values: np.ndarray
    weight: np.ndarray | None = None
    classes: int = 0
    probabilities: bool = True
    naive_error: tuple[float, ...] = ()
    season_error: tuple[float, ...] = ()


class Metric:
    """A task metric. Subclasses fill in the class attributes, `rows` and `value`."""

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    # Whether a loss is a difference (shares) or relative to the reference (errors have no common scale).
    relative: ClassVar[bool] = True

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Contributions, shape (samples, k), of an output of shape (samples, ...)."""
        raise NotImplementedError

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Values, shape (...), of summed contributions of shape (..., k)."""
        raise NotImplementedError

    def applies(self, target: Target) -> bool:
        """Whether the metric can be computed for this target."""
        return True

    def drop(self, reference: np.ndarray, variant: np.ndarray) -> np.ndarray:
        """What the variant loses, from the two sums of shape (..., k); above zero: worse than the reference."""
        before, after = self.value(reference), self.value(variant)
        loss = before - after if self.higher_is_better else after - before
        if not self.relative:
            return loss
        # A perfect reference has no relative scale: any loss against it is then as good as infinite, and none is 0.
        return loss / np.maximum(np.abs(before), 1e-12)


METRICS: dict[Task, list[Metric]] = {task: [] for task in Task}


def register(*tasks: Task) -> Callable[[type[Metric]], type[Metric]]:
    """Class decorator: compute the metric for `tasks`. The first one of a task is held to `max_drop`."""

    def add(cls: type[Metric]) -> type[Metric]:
        for task in tasks:
            METRICS[task].append(cls())
        return cls

    return add


def metrics_for(target: Target) -> list[Metric]:
    """The task's metrics that can be computed for this target; the first is the one held to a limit."""
    return [metric for metric in METRICS[target.task] if metric.applies(target)]


def evaluate(output: np.ndarray, target: Target) -> dict[str, float]:
    """Every metric of an output by name; NaN where it has no value (no answer counts, a NaN in the output)."""
    values = {}
    for metric in metrics_for(target):
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            values[metric.name] = float(metric.value(metric.rows(output, target).sum(axis=0)))
    return values


@register(Task.LANGUAGE_MODEL, Task.TRANSLATION)
class Perplexity(Metric):
    """exp of the mean negative log-likelihood of the true token."""

    name = "perplexity"

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Summed negative log-likelihood (nats) and number of answers."""
        likelihood = _log_likelihood(output, target)
        return _summed(-likelihood, _answer_weight(target))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Perplexity."""
        return np.exp(_ratio(sums))


@register(Task.LANGUAGE_MODEL, Task.TRANSLATION)
class BitsPerToken(Perplexity):
    """Mean negative log2-likelihood of the true token."""

    name = "bits_per_token"
    unit = "bits"

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Bits a token."""
        return _ratio(sums) / np.log(2)


@register(*CLASS_TASKS)
class Accuracy(Metric):
    """Share of answers (samples; time steps that count) whose arg max is the true class."""

    name = "accuracy"
    unit = "share"
    higher_is_better = True
    relative = False

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Hits and number of answers."""
        hits = (answers(output, target.probabilities) == target.values).astype(np.float64)
        return _summed(hits, _answer_weight(target))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Share of hits."""
        return _ratio(sums)


@register(Task.CLASSIFICATION, Task.LABELLING)
class MacroF1(Metric):
    """Mean F1 over the classes that occur among the true or the given answers."""

    name = "macro_f1"
    unit = "share"
    higher_is_better = True
    relative = False

    def applies(self, target: Target) -> bool:
        """Up to `MAX_CLASSES_COUNTED` classes."""
        return target.classes <= MAX_CLASSES_COUNTED

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Per class: hits, answers given, answers due; shape (samples, 3 * classes)."""
        given = answers(output, target.probabilities)
        weight = _answer_weight(target)
        hit = np.where(given == target.values, weight, 0.0)
        counts = [
            _per_class(target.values, hit, target.classes),
            _per_class(given, weight, target.classes),
            _per_class(target.values, weight, target.classes),
        ]
        return np.concatenate(counts, axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Macro F1; F1 of a class is 2 hits / (given + due)."""
        hits, given, due = np.split(sums, 3, axis=-1)
        total = given + due
        scores = np.where(total > 0, 2 * hits / np.where(total > 0, total, 1.0), 0.0)
        return scores.sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1)


@register(Task.EMBEDDING)
class NearestNeighbour(Metric):
    """Share of samples whose most similar other sample is of their class (precision at 1, leave-one-out).

    Vectors are compared by their product: of length 1, that is the cosine.
    """

    name = "precision_at_1"
    unit = "share"
    higher_is_better = True
    relative = False

    def applies(self, target: Target) -> bool:
        """With several classes."""
        return target.classes > 1

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Hits and number of samples, shape (samples, 2)."""
        nearest = np.empty(len(output), np.int64)
        for start in range(0, len(output), NEIGHBOURS_AT_A_TIME):
            rows = np.arange(start, min(start + NEIGHBOURS_AT_A_TIME, len(output)))
            products = output[rows] @ output.T
            products[np.arange(len(rows)), rows] = -np.inf  # Nobody is his own neighbour.
            nearest[rows] = products.argmax(axis=1)
        hits = (target.values[nearest] == target.values).astype(np.float64)
        return np.stack([hits, np.ones(len(output))], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Share of hits."""
        return _ratio(sums)


@register(Task.TRANSCRIPTION)
class WordErrorRate(Metric):
    """Words put in, left out or wrong of the most likely path, as a share of the words said; may exceed 1."""

    name = "word_error_rate"
    unit = "share"
    relative = False

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Edits and number of words, shape (samples, 2)."""
        return np.array(
            [[edit_distance(best_path(answer), said), len(said)] for answer, said in _said(output, target)], np.float64
        ).reshape(-1, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Edits a word."""
        return _ratio(sums)


@register(Task.TRANSCRIPTION)
class StringAccuracy(Metric):
    """Share of samples whose most likely path says exactly the words that were said."""

    name = "string_accuracy"
    unit = "share"
    higher_is_better = True
    relative = False

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Hits and number of samples, shape (samples, 2)."""
        return np.array([[best_path(answer) == said, 1] for answer, said in _said(output, target)], np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Share of hits."""
        return _ratio(sums)


class _ScaledError(Metric):
    """Mean absolute error over a naive forecast's mean absolute error on the training rows, mean over columns."""

    def denominators(self, target: Target) -> tuple[float, ...]:
        raise NotImplementedError

    def applies(self, target: Target) -> bool:
        """When the denominators are known for every target column."""
        scales = self.denominators(target)
        return bool(scales) and len(scales) == target.values.shape[-1] and min(scales) > 0

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Summed scaled absolute error and number of values."""
        error = np.abs(output - target.values) / np.asarray(self.denominators(target))
        return _summed(error, _value_weight(target))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Mean scaled error; below 1: better than the naive forecast one step ahead."""
        return _ratio(sums)


@register(Task.FORECAST)
class MeanAbsoluteScaledError(_ScaledError):
    """MASE against the naive forecast (Hyndman & Koehler, Int. J. Forecasting 22 (2006) 679-688)."""

    name = "mase"

    def denominators(self, target: Target) -> tuple[float, ...]:
        """Naive errors."""
        return target.naive_error


@register(Task.FORECAST)
class SeasonalScaledError(_ScaledError):
    """MASE against the seasonal naive forecast."""

    name = "mase_seasonal"

    def denominators(self, target: Target) -> tuple[float, ...]:
        """Seasonal naive errors."""
        return target.season_error


@register(Task.REGRESSION, Task.FORECAST)
class RootMeanSquaredError(Metric):
    """Root mean squared error, in the target's unit."""

    name = "rmse"

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Summed squared error and number of values."""
        return _summed((output - target.values) ** 2, _value_weight(target))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Root of the mean."""
        return np.sqrt(_ratio(sums))


@register(Task.REGRESSION, Task.FORECAST)
class MeanAbsoluteError(Metric):
    """Mean absolute error, in the target's unit."""

    name = "mae"

    def rows(self, output: np.ndarray, target: Target) -> np.ndarray:
        """Summed absolute error and number of values."""
        return _summed(np.abs(output - target.values), _value_weight(target))

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Mean."""
        return _ratio(sums)


def prepare_target(
    reference: np.ndarray,
    values: np.ndarray,
    *,
    task: Task,
    name: str = "",
    weight: np.ndarray | None = None,
    naive_error: Sequence[float] = (),
    season_error: Sequence[float] = (),
) -> Target:
    """Check true answers against the reference's output and say what kind of numbers the output holds.

    Args:
        reference: the reference's output, (samples, classes), (samples, steps, classes) or (samples, ...).
        values: class numbers, one-hot rows, words (samples, most) filled with 0, or numbers of the output's shape.
        task: what the output answers.
        name: the output's name, for messages.
        weight: (samples,) or the answers' shape; 0 leaves an answer out.
        naive_error: training rows' naive error per target column (forecast).
        season_error: training rows' seasonal naive error per target column (forecast).

    Raises:
        UsageError: shapes do not fit, targets hold NaN, labels are out of range, weights are negative.
    """
    values = np.asarray(values)
    where = f"target of output {name!r}" if name else "target"
    if len(values) != len(reference):
        raise UsageError(
            "Targets must have one entry a sample.",
            received=f"{where} with {len(values)} entries for {len(reference)} samples",
        )
    if not np.issubdtype(values.dtype, np.number) and values.dtype != bool:
        raise UsageError("Targets must be numbers.", received=f"{where} of type {values.dtype}")
    if not np.isfinite(values).all():
        raise UsageError("Targets must be finite.", received=f"{where} holding NaN or infinity")
    if task in CLASS_TASKS:
        return _class_target(reference, values, task, where, weight)
    if task is Task.EMBEDDING:
        if values.shape != (len(reference),) or not np.issubdtype(values.dtype, np.integer):
            raise UsageError(
                "An embedding's target is the class of each sample.",
                received=f"{where} of type {values.dtype} and shape {values.shape}",
            )
        return Target(task, values.astype(np.int64), classes=len(np.unique(values)))
    if task is Task.TRANSCRIPTION:
        return _word_target(reference, values, where, weight)
    if values.shape != reference.shape:
        if values.size != reference.size:
            raise UsageError(
                "Targets must have the output's shape.",
                received=f"{where} of shape {values.shape} for an output of shape {reference.shape}",
            )
        values = values.reshape(reference.shape)
    shape = (len(values),) + (1,) * (values.ndim - 1)
    if weight is not None:
        weight = _checked_weight(weight, where)
        if weight.size == len(values):
            weight = weight.reshape(shape)
        elif weight.shape != values.shape[: weight.ndim]:
            raise _weight_error(weight, values.shape, where)
        else:
            weight = weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
    return Target(
        task,
        values.astype(np.float64),
        weight,
        naive_error=tuple(naive_error),
        season_error=tuple(season_error),
    )


def task_beside(task: Task, reference: np.ndarray, values: np.ndarray) -> Task:
    """What a further output of a model answers, told by its true answers.

    Args:
        task: what the first output answers; kept where the true answers may be of that kind.
        reference: the output, (samples, ...).
        values: its true answers.
    """
    values = np.asarray(values)
    one_each = values.shape == reference.shape[:-1] and reference.shape[-1] > 1
    whole = np.issubdtype(values.dtype, np.integer) or (one_each and bool((values == np.rint(values)).all()))
    if whole and one_each and task not in CLASS_TASKS:
        return Task.CLASSIFICATION if values.ndim == 1 else Task.LABELLING
    return Task.REGRESSION if task in CLASS_TASKS and not whole else task


def looks_like_probabilities(output: np.ndarray) -> bool:
    """Whether the last axis holds probabilities: within [0, 1], and summing to one where there are several classes."""
    if output.size == 0 or float(output.min()) < -1e-6 or float(output.max()) > 1 + 1e-6:
        return False
    # One in a thousand is more than float32 softmax loses over any vocabulary, and far less than logits would miss by.
    return output.shape[-1] == 1 or bool(np.abs(output.sum(axis=-1, dtype=np.float64) - 1).max() < 1e-3)


def answers(output: np.ndarray, probabilities: bool = True) -> np.ndarray:
    """Class numbers of an output whose last axis is the class; a single column is the second of two classes."""
    if output.shape[-1] == 1:
        return (output[..., 0] > (0.5 if probabilities else 0.0)).astype(np.int64)
    return output.argmax(axis=-1)


def confusion_matrix(output: np.ndarray, target: Target) -> np.ndarray:
    """Counts of answers, shape (classes, classes): rows are true classes, columns given ones. Weight 0 is left out."""
    given = answers(output, target.probabilities)
    counted = _answer_weight(target) > 0
    code = target.values[counted] * target.classes + given[counted]
    counts = np.bincount(code, minlength=target.classes**2)
    return counts.reshape(target.classes, target.classes)


def naive_forecast(window: np.ndarray, columns: Sequence[int], horizon: int) -> np.ndarray:
    """The last observed value, repeated.

    Args:
        window: input windows in the series' unit, (samples, steps, columns).
        columns: which input columns are predicted.
        horizon: steps to predict.

    Returns:
        Shape (samples, horizon, len(columns)).
    """
    return np.repeat(window[:, -1:, list(columns)].astype(np.float64), horizon, axis=1)


def seasonal_forecast(window: np.ndarray, columns: Sequence[int], horizon: int, season: int) -> np.ndarray | None:
    """The value one season (or as many whole seasons as needed) before; None when the window is shorter than that."""
    steps = window.shape[1]
    if season <= 0 or season > steps:
        return None
    rows = steps - season + np.arange(horizon) % season
    return window[:, rows][..., list(columns)].astype(np.float64)


@dataclass(frozen=True)
class Baselines:
    """What a forecast has to beat.

    Attributes:
        target_columns: where the targets stand among the input's columns.
        season: steps in a season; 0: none.
        naive_error: per target, mean |y(t) - y(t-1)| on the training rows.
        season_error: per target, mean |y(t) - y(t-season)| on the training rows.
    """

    target_columns: tuple[int, ...]
    season: int = 0
    naive_error: tuple[float, ...] = ()
    season_error: tuple[float, ...] = ()

    def evaluate(self, window: np.ndarray, target: Target) -> dict[str, dict[str, float]]:
        """Metrics of the naive and, where there is a season, the seasonal forecast, by name."""
        horizon = target.values.shape[1]
        forecasts = {
            "naive": naive_forecast(window, self.target_columns, horizon),
            "seasonal": seasonal_forecast(window, self.target_columns, horizon, self.season),
        }
        return {
            name: evaluate(forecast, target)
            for name, forecast in forecasts.items()
            if forecast is not None and forecast.shape == target.values.shape
        }


def _class_target(
    reference: np.ndarray, values: np.ndarray, task: Task, where: str, weight: np.ndarray | None
) -> Target:
    if reference.ndim < 2:
        raise UsageError("An output of classes has the shape (samples, .., classes).", received=str(reference.shape))
    classes = max(2, reference.shape[-1])
    if values.shape == reference.shape and reference.shape[-1] > 1:
        values = values.argmax(axis=-1)  # one-hot rows
    elif values.shape == (*reference.shape[:-1], 1):
        values = values[..., 0]
    if values.shape != reference.shape[:-1]:
        raise UsageError(
            "Targets must be one class number an answer.",
            received=f"{where} of shape {values.shape} for an output of shape {reference.shape}",
        )
    if (values != np.floor(values)).any():
        raise UsageError("Class numbers must be whole.", received=f"{where} of type {values.dtype}")
    values = values.astype(np.int64)
    if weight is not None:
        weight = _checked_weight(weight, where)
        if weight.shape == values.shape[:1] and values.ndim > 1:
            weight = np.broadcast_to(weight.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        if weight.shape != values.shape:
            raise _weight_error(weight, values.shape, where)
        values = np.where(weight > 0, values, 0)  # What does not count may hold any filler, such as -1.
    if values.size and (values.min() < 0 or values.max() >= classes):
        raise UsageError(
            f"Labels must lie in 0 to {classes - 1}, one for each class of the output.",
            received=f"{where} with labels from {values.min()} to {values.max()}",
            todo="Number the classes from 0 in the order of the model's output.",
        )
    return Target(task, values, weight, classes, looks_like_probabilities(reference))


def _word_target(reference: np.ndarray, values: np.ndarray, where: str, weight: np.ndarray | None) -> Target:
    if reference.ndim != 3 or values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise UsageError(
            "A transcription's target is the words of each sample, (samples, most), for an output of shape (samples, "
            "frames, classes).",
            received=f"{where} of type {values.dtype} and shape {values.shape} for an output of {reference.shape}",
        )
    if values.size and (values.min() < 0 or values.max() >= reference.shape[-1]):
        raise UsageError(
            f"Words must lie in 1 to {reference.shape[-1] - 1}, with 0 behind the last.",
            received=f"{where} with words from {values.min()} to {values.max()}",
        )
    if weight is not None:
        raise UsageError("Words have no weights.", received=f"weights of the {where}")
    return Target(Task.TRANSCRIPTION, values.astype(np.int64), classes=reference.shape[-1])


def _said(output: np.ndarray, target: Target) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Each sample's answer (frames, classes) and the words that are due."""
    for answer, words in zip(output, target.values, strict=True):
        yield answer, tuple(int(word) for word in words if word)


def _checked_weight(weight: np.ndarray, where: str) -> np.ndarray:
    weight = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise UsageError("Weights must be finite and not negative.", received=f"weights of the {where}")
    return weight


def _weight_error(weight: np.ndarray, shape: tuple[int, ...], where: str) -> UsageError:
    return UsageError(
        "Weights must have one entry a sample or one an answer.",
        received=f"weights of shape {weight.shape} for the {where} of shape {shape}",
    )


def _answer_weight(target: Target) -> np.ndarray:
    return np.ones(target.values.shape) if target.weight is None else target.weight


def _value_weight(target: Target) -> np.ndarray:
    return np.ones((1,) * target.values.ndim) if target.weight is None else target.weight


def _summed(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows (weighted sum, sum of weights) of one sample each."""
    axes = tuple(range(1, values.ndim))
    # Where the weight is zero the value may be anything, also infinite.
    weighted = np.where(weight > 0, values, 0.0) * weight
    return np.stack([weighted.sum(axis=axes), np.broadcast_to(weight, values.shape).sum(axis=axes)], axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _per_class(classes: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Summed weight per sample and class, shape (samples, count)."""
    samples = len(classes)
    code = classes.reshape(samples, -1) + np.arange(samples)[:, None] * count
    total = np.bincount(code.ravel(), weights=weight.reshape(-1), minlength=samples * count)
    return total.reshape(samples, count)


def _log_likelihood(output: np.ndarray, target: Target) -> np.ndarray:
    """Natural logarithm of the probability of the true class, the answers' shape."""
    output = output.astype(np.float64)
    if output.shape[-1] == 1:
        raise UsageError("A language model's output has one column a token.", received=f"shape {output.shape}")
    chosen = np.take_along_axis(output, target.values[..., None], axis=-1)[..., 0]
    if target.probabilities:
        total = output.sum(axis=-1)
        return np.log(np.maximum(chosen / np.where(total > 0, total, 1.0), SMALLEST_PROBABILITY))
    highest = output.max(axis=-1, keepdims=True)
    return chosen - highest[..., 0] - np.log(np.exp(output - highest).sum(axis=-1))
