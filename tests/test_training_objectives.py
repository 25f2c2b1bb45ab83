from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from edge_dl.data import Dataset, Split
from edge_dl.errors import UsageError
from edge_dl.recipe import Task, TrainingConfig
from edge_dl.training.objectives import (
    BalancedAccuracy,
    CtcLoss,
    ScaledSquaredError,
    SmoothedCrossEntropy,
    WordErrorRate,
    loss_and_metrics,
    readable,
)

RNG = np.random.default_rng(5)


def number(tensor: object) -> float:
    return float(keras.ops.convert_to_numpy(tensor))


def probabilities(*shape: int) -> np.ndarray:
    scores = np.exp(RNG.normal(size=shape))
    return (scores / scores.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape", [(50,), (20, 6)])
def test_balanced_accuracy_is_scikit_learns(shape: tuple[int, ...]) -> None:
    true, predicted = RNG.choice(4, shape, p=[0.7, 0.2, 0.05, 0.05]), probabilities(*shape, 4)
    metric = BalancedAccuracy(4)
    half = shape[0] // 2
    metric.update_state(true[:half], predicted[:half])
    metric.update_state(true[half:], predicted[half:])
    expected = balanced_accuracy_score(true.ravel(), predicted.argmax(-1).ravel())
    assert number(metric.result()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weight_shape", [(20, 1), (20,), (20, 6)])
def test_balanced_accuracy_counts_weights(weight_shape: tuple[int, ...]) -> None:
    true, predicted = RNG.integers(0, 3, (20, 6)), probabilities(20, 6, 3)
    weight = RNG.integers(0, 3, weight_shape).astype(np.float32)
    metric = BalancedAccuracy(3)
    metric.update_state(true, predicted, sample_weight=weight)
    spread = np.broadcast_to(weight.reshape(20, -1), (20, 6))
    expected = balanced_accuracy_score(true.ravel(), predicted.argmax(-1).ravel(), sample_weight=spread.ravel())
    assert number(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_balanced_accuracy_shows_a_class_never_found() -> None:
    true = np.array([0] * 99 + [1])
    metric = BalancedAccuracy(2)
    metric.update_state(true, np.tile([0.9, 0.1], (100, 1)))
    assert number(metric.result()) == pytest.approx(0.5)


def test_label_smoothing_is_cross_entropy_with_the_smoothed_distribution() -> None:
    true, predicted = RNG.integers(0, 5, 30), probabilities(30, 5)
    target = np.full((30, 5), 0.2 / 5)
    target[np.arange(30), true] += 0.8
    expected = -(target * np.log(predicted)).sum(-1).mean()
    assert number(SmoothedCrossEntropy(0.2)(true, predicted)) == pytest.approx(expected, rel=1e-5)


def test_scaled_error_does_not_depend_on_the_targets_unit() -> None:
    true, predicted = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2))
    unit = np.array([1000.0, 0.01])
    plain = number(ScaledSquaredError(np.ones(2))(true, predicted))
    scaled = number(ScaledSquaredError(unit)((true * unit).astype(np.float32), (predicted * unit).astype(np.float32)))
    assert plain == pytest.approx(np.mean((true - predicted) ** 2), rel=1e-5)
    assert scaled == pytest.approx(plain, rel=1e-4)


def test_names_lose_the_outputs_and_cross_entropy_becomes_perplexity() -> None:
    named = readable({"loss": 1.0, "label_accuracy": 0.5, "next_cross_entropy": math.log(8)}, "label")
    assert named == {"loss": 1.0, "accuracy": 0.5, "next_cross_entropy": pytest.approx(math.log(8))}
    assert readable({"loss": 2.0, "cross_entropy": math.log(8)}, "label")["perplexity"] == pytest.approx(8)


def made(task: Task, y: np.ndarray) -> Dataset:
    split = Split({"sequence": np.zeros((len(y), 3, 1), np.float32)}, {"y": y}, np.arange(len(y)))
    return Dataset("made", task, split, split, split, labels=("a", "b"))


def test_smoothing_needs_classes() -> None:
    data = made(Task.REGRESSION, np.zeros((4, 1), np.float32))
    with pytest.raises(UsageError, match="label_smoothing needs classes"):
        loss_and_metrics(Task.REGRESSION, TrainingConfig(label_smoothing=0.1), data, "y")


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_is_a_share(smoothing: float) -> None:
    data = made(Task.CLASSIFICATION, np.zeros(4, np.int32))
    with pytest.raises(UsageError, match="label_smoothing must be"):
        loss_and_metrics(Task.CLASSIFICATION, TrainingConfig(label_smoothing=smoothing), data, "y")


def test_a_constant_target_gives_a_finite_loss() -> None:
    y = np.full((4, 1), 3.0, np.float32)
    loss, _ = loss_and_metrics(Task.REGRESSION, TrainingConfig(), made(Task.REGRESSION, y), "y")
    assert number(loss(y, y + 1)) == pytest.approx(1.0)


def said(*rows: tuple[int, ...], most: int = 4) -> np.ndarray:
    return np.array([[*row, *[0] * (most - len(row))] for row in rows], np.int32)


def test_ctc_is_the_likelihood_of_all_paths_a_word() -> None:
    words = said((1, 2), (2, 2, 1), (1,))
    answers = probabilities(3, 6, 3)
    wanted = []
    for answer, row in zip(answers, words, strict=True):
        due = tuple(row[row > 0])
        total = 0.0
        for path in itertools.product(range(3), repeat=6):
            first = [number for place, number in enumerate(path) if not place or number != path[place - 1]]
            if tuple(number for number in first if number) == due:
                total += math.prod(float(answer[frame, number]) for frame, number in enumerate(path))
        wanted.append(-math.log(total) / len(due))
    found = keras.ops.convert_to_numpy(CtcLoss().call(words, answers))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_ctc_teaches_also_where_a_word_seems_impossible() -> None:
    tf = pytest.importorskip("tensorflow")
    scores = np.zeros((1, 5, 3), np.float32)
    scores[..., 0] = 30
    with tf.GradientTape() as tape:
        tensor = tf.constant(scores)
        tape.watch(tensor)
        loss = tf.reduce_sum(CtcLoss().call(said((1, 2)), tf.nn.softmax(tensor)))
    gradient = tape.gradient(loss, tensor).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[..., 1:].min() < -0.1


def test_word_error_rate_is_that_of_the_checks() -> None:
    from edge_dl.checks.metrics import evaluate, prepare_target

    rng = np.random.default_rng(3)
    answers = rng.dirichlet(np.full(4, 0.2), (100, 8)).astype(np.float32)
    words = np.zeros((100, 6), np.int32)
    for row in words:
        count = rng.integers(1, 7)
        row[:count] = rng.integers(1, 4, count)
    metric = WordErrorRate()
    metric.update_state(words[:30], answers[:30])
    metric.update_state(words[30:], answers[30:])
    wanted = evaluate(answers, prepare_target(answers, words, task=Task.TRANSCRIPTION))["word_error_rate"]
    assert number(metric.result()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("settings", [{"balance": True}, {"label_smoothing": 0.1}])
def test_transcription_refuses_what_needs_classes(settings: dict[str, float]) -> None:
    part = Split({"sound": np.zeros((2, 9), np.int16)}, {"words": said((1,), (2,))}, np.arange(2))
    data = Dataset("strings", Task.TRANSCRIPTION, part, part, part, labels=("_blank_", "a", "b"))
    with pytest.raises(UsageError):
        loss_and_metrics(Task.TRANSCRIPTION, TrainingConfig(**settings), data, "words")  # type: ignore[arg-type]
    loss, metrics = loss_and_metrics(Task.TRANSCRIPTION, TrainingConfig(), data, "words")
    assert isinstance(loss, CtcLoss)
    assert [metric.name for metric in metrics] == ["word_error_rate"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_costs_nothing_and_dilutes_nothing(smoothing: float) -> None:
    dataset = Dataset(
        "made", Task.TRANSLATION, *[Split({}, {"next_token": np.zeros((1, 1), np.int32)}, np.arange(1))] * 3
    )
    config = TrainingConfig(label_smoothing=smoothing)
    loss, _ = loss_and_metrics(Task.TRANSLATION, config, dataset, "next_token")
    tokens, answer, weight = RNG.integers(0, 7, (3, 4)), probabilities(3, 4, 7), np.ones((3, 4), np.float32)
    cost = number(loss(tokens, answer, sample_weight=weight))
    longer = number(
        loss(
            np.pad(tokens, ((0, 0), (0, 5))),
            np.concatenate([answer, probabilities(3, 5, 7)], axis=1),
            sample_weight=np.pad(weight, ((0, 0), (0, 5))),
        )
    )
    assert longer == pytest.approx(cost, rel=1e-6)
    by_hand = -np.log(np.take_along_axis(answer, tokens[..., None], -1))
    due = (1 - smoothing) * by_hand.mean() - smoothing * np.log(answer).mean()
    assert cost == pytest.approx(float(due), rel=1e-5)
