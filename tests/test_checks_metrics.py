from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.checks.metrics import (
    Baselines,
    answers,
    confusion_matrix,
    evaluate,
    looks_like_probabilities,
    metrics_for,
    naive_forecast,
    prepare_target,
    seasonal_forecast,
)
from edge_dl.errors import UsageError
from edge_dl.recipe import Task


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def scores(*shape: int, seed: int = 0) -> np.ndarray:
    return softmax(np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def test_classification_metrics_match_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.metrics import confusion_matrix as sklearn_confusion

    output = scores(300, 5)
    truth = np.random.default_rng(1).integers(0, 5, 300)
    target = prepare_target(output, truth, task=Task.CLASSIFICATION)
    found = evaluate(output, target)
    given_answers = output.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, given_answers))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, given_answers, average="macro"))
    assert np.array_equal(confusion_matrix(output, target), sklearn_confusion(truth, given_answers))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 10_000))
def test_macro_f1_is_scikit_learns_for_any_data(classes: int, samples: int, seed: int):
    from sklearn.metrics import f1_score

    output = scores(samples, classes, seed=seed)
    truth = np.random.default_rng(seed).integers(0, classes, samples)
    target = prepare_target(output, truth, task=Task.CLASSIFICATION)
    assert evaluate(output, target)["macro_f1"] == pytest.approx(f1_score(truth, output.argmax(1), average="macro"))


def test_labelling_leaves_masked_steps_out_and_takes_any_filler_there():
    output = scores(20, 7, 3)
    truth = output.argmax(-1)
    truth[:, 4:] = -1
    weight = np.ones((20, 7))
    weight[:, 4:] = 0
    target = prepare_target(output, truth, task=Task.LABELLING, weight=weight)
    assert evaluate(output, target) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert confusion_matrix(output, target).sum() == 80
    with pytest.raises(UsageError, match="Labels must lie in 0 to 2"):
        prepare_target(output, truth, task=Task.LABELLING)


def test_a_sample_weight_reaches_every_step():
    output = scores(4, 5, 3)
    truth = output.argmax(-1)
    truth[0] = (truth[0] + 1) % 3
    target = prepare_target(output, truth, task=Task.LABELLING, weight=np.array([0, 1, 1, 1]))
    assert evaluate(output, target)["accuracy"] == 1.0


def test_one_hot_rows_and_a_column_of_labels_are_labels():
    output = scores(10, 4)
    truth = np.arange(10) % 4
    plain = prepare_target(output, truth, task=Task.CLASSIFICATION)
    for other in (np.eye(4)[truth], truth[:, None], truth.astype("float32")):
        assert np.array_equal(prepare_target(output, other, task=Task.CLASSIFICATION).values, plain.values)


def test_a_single_column_is_the_second_of_two_classes():
    output = np.array([[0.2], [0.7], [0.9], [0.4]])
    target = prepare_target(output, np.array([0, 1, 0, 0]), task=Task.CLASSIFICATION)
    assert target.classes == 2
    assert evaluate(output, target)["accuracy"] == 0.75
    logits = np.array([[-3.0], [0.2], [5.0], [-0.1]])
    assert answers(logits, probabilities=False).tolist() == [0, 1, 1, 0]


def test_a_single_class_has_metrics_without_a_warning():
    output = np.tile([0.9, 0.1], (5, 1))
    target = prepare_target(output, np.zeros(5, int), task=Task.CLASSIFICATION)
    assert evaluate(output, target) == {"accuracy": 1.0, "macro_f1": 1.0}


def test_perplexity_is_the_same_from_logits_and_from_probabilities():
    logits = np.random.default_rng(0).standard_normal((6, 8, 11)) * 3
    tokens = np.random.default_rng(1).integers(0, 11, (6, 8))
    expected = np.exp(-np.log(np.take_along_axis(softmax(logits), tokens[..., None], -1)).mean())
    for output in (logits, softmax(logits)):
        target = prepare_target(output, tokens, task=Task.LANGUAGE_MODEL)
        found = evaluate(output, target)
        assert found["perplexity"] == pytest.approx(expected, rel=1e-6)
        assert found["bits_per_token"] == pytest.approx(np.log2(expected), rel=1e-6)
    assert metrics_for(target)[0].name == "perplexity"


def test_a_probability_of_zero_costs_much_and_not_everything():
    output = np.array([[[1.0, 0.0]]])
    target = prepare_target(output, np.array([[1]]), task=Task.LANGUAGE_MODEL)
    assert evaluate(output, target)["perplexity"] == pytest.approx(1e7)


def test_uniform_probabilities_have_the_perplexity_of_the_vocabulary():
    output = np.full((3, 5, 20), 0.05)
    target = prepare_target(output, np.zeros((3, 5), int), task=Task.LANGUAGE_MODEL)
    assert evaluate(output, target)["perplexity"] == pytest.approx(20)


def test_logits_are_told_from_probabilities():
    assert looks_like_probabilities(scores(50, 300))
    assert looks_like_probabilities(np.array([[0.1], [0.9]]))
    assert not looks_like_probabilities(np.array([[0.1, 0.2], [0.3, 0.3]]))
    assert not looks_like_probabilities(np.array([[-1.0, 2.0]]))
    assert not looks_like_probabilities(np.zeros((0, 3)))


def test_errors_of_numbers():
    output = np.array([[1.0], [2.0], [4.0]])
    target = prepare_target(output, np.array([1.0, 2.0, 1.0]), task=Task.REGRESSION)
    assert evaluate(output, target) == {"rmse": pytest.approx(np.sqrt(3)), "mae": pytest.approx(1.0)}


def test_forecast_metrics_and_baselines():
    steps, horizon = 24, 6
    series = np.arange(200.0)[:, None] * np.array([1.0, -2.0]) + np.array([5.0, 0.0])
    starts = np.arange(100)
    window = np.stack([series[start : start + steps] for start in starts])
    truth = np.stack([series[start + steps : start + steps + horizon, 1:] for start in starts])
    assert np.array_equal(naive_forecast(window, (1,), horizon)[:, :, 0], np.repeat(window[:, -1:, 1], horizon, axis=1))
    seasonal = seasonal_forecast(window, (1,), horizon, 4)
    assert np.array_equal(seasonal[:, :, 0], window[:, [20, 21, 22, 23, 20, 21], 1])
    assert seasonal_forecast(window, (1,), horizon, 25) is None
    assert seasonal_forecast(window, (1,), horizon, 0) is None

    baselines = Baselines((1,), season=4, naive_error=(2.0,), season_error=(8.0,))
    target = prepare_target(truth, truth, task=Task.FORECAST, naive_error=(2.0,), season_error=(8.0,))
    found = baselines.evaluate(window, target)
    # The series falls by 2 a step: the naive forecast errs by 2, 4, .. 12, so by 7 on average.
    assert found["naive"]["mae"] == pytest.approx(7.0)
    assert found["naive"]["mase"] == pytest.approx(3.5)
    assert found["naive"]["mase_seasonal"] == pytest.approx(7 / 8)
    assert found["seasonal"]["mae"] == pytest.approx((8 * 4 + 16 * 2) / 6)
    assert evaluate(truth, target)["mase"] == 0.0
    assert metrics_for(target)[0].name == "mase"


def test_a_forecast_without_training_errors_is_judged_by_rmse():
    values = np.zeros((5, 3, 2))
    target = prepare_target(values, values, task=Task.FORECAST, naive_error=(1.0,))
    assert metrics_for(target)[0].name == "rmse"


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.zeros(3, int), "one entry a sample"),
        (np.array([0, 1, 2, 4]), "Labels must lie in 0 to 2"),
        (np.array([0, 1, 2, -1]), "Labels must lie in 0 to 2"),
        (np.array([0.5, 1, 2, 0]), "Class numbers must be whole"),
        (np.array([np.nan, 1, 2, 0]), "finite"),
        (np.array(["a", "b", "c", "d"]), "must be numbers"),
        (np.zeros((4, 5), int), "one class number an answer"),
    ],
)
def test_bad_labels_are_refused(values: np.ndarray, rule: str):
    with pytest.raises(UsageError, match=rule):
        prepare_target(scores(4, 3), values, task=Task.CLASSIFICATION)


@pytest.mark.parametrize(
    ("weight", "rule"),
    [(np.array([1, -1, 1, 1]), "not negative"), (np.ones(3), "one entry a sample"), (np.full(4, np.nan), "finite")],
)
def test_bad_weights_are_refused(weight: np.ndarray, rule: str):
    with pytest.raises(UsageError, match=rule):
        prepare_target(scores(4, 3), np.zeros(4, int), task=Task.CLASSIFICATION, weight=weight)


def test_numbers_of_another_shape_are_refused():
    with pytest.raises(UsageError, match="output's shape"):
        prepare_target(np.zeros((4, 2)), np.zeros((4, 3)), task=Task.REGRESSION)
    with pytest.raises(UsageError, match="one entry a sample"):
        prepare_target(np.zeros((4, 2)), np.zeros((4, 2)), task=Task.REGRESSION, weight=np.ones((3, 1)))


def spelled(*rows: tuple[int, ...], frames: int = 6, classes: int = 4) -> np.ndarray:
    """Answers whose best path says each row: (samples, frames, classes)."""
    answer = np.full((len(rows), frames, classes), 0.1, np.float32)
    answer[..., 0] = 0.5
    for number, row in enumerate(rows):
        for place, word in enumerate(row):
            answer[number, 2 * place, word] = 0.9
    return answer / answer.sum(-1, keepdims=True)


def test_word_errors_are_the_fewest_edits():
    due = np.array([[1, 2, 3], [1, 1, 0], [2, 0, 0], [3, 2, 1]])
    output = spelled((1, 2, 3), (1,), (2, 3), (1, 2, 3))
    found = evaluate(output, prepare_target(output, due, task=Task.TRANSCRIPTION))
    assert found["word_error_rate"] == pytest.approx((0 + 1 + 1 + 2) / 9)
    assert found["string_accuracy"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("given_words", "due", "edits"),
    [
        ((), (), 0),
        ((1,), (), 1),
        ((), (1, 2), 2),
        ((1, 2, 3), (2, 3), 1),
        ((1, 2), (2, 1), 2),
        ((1, 3, 3), (1, 2, 3), 1),
    ],
)
def test_edit_distance(given_words: tuple[int, ...], due: tuple[int, ...], edits: int):
    from edge_dl.checks.edits import edit_distance

    assert edit_distance(given_words, due) == edit_distance(due, given_words) == edits


def test_more_word_errors_are_a_loss():
    from edge_dl.checks.comparison import compare_metric
    from edge_dl.checks.verdicts import Verdict

    rng = np.random.default_rng(0)
    rows = [tuple(rng.integers(1, 4, 3)) for _ in range(200)]
    due, reference = np.array(rows), spelled(*rows)
    variant = spelled(*(row[:2] if number % 10 == 0 else row for number, row in enumerate(rows)))
    target = prepare_target(reference, due, task=Task.TRANSCRIPTION)
    metric = metrics_for(target)[0]
    found = compare_metric(metric, "words", reference, variant, target, max_drop=0.01)
    assert not found.higher_is_better
    assert found.drop == pytest.approx(20 / 600)
    assert found.verdict is Verdict.FAIL
    same = compare_metric(metric, "words", reference, reference, target, max_drop=0.01)
    assert same.verdict is Verdict.PASS
    assert same.drop == 0 < same.high  # Nothing changed in 600 words: that is no certainty.
    few = prepare_target(reference[:25], due[:25], task=Task.TRANSCRIPTION)
    undecided = compare_metric(metric, "words", reference[:25], reference[:25], few, max_drop=0.01)
    assert undecided.verdict is Verdict.NOT_ENOUGH_SAMPLES
    assert compare_metric(metric, "words", variant, reference, target, max_drop=0.01).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("due", "rule"),
    [
        (np.array([1, 2]), "words of each sample"),
        (np.array([[0.5], [1.0]]), "words of each sample"),
        (np.array([[1, 4], [1, 0]]), "1 to 3"),
        (np.array([[1, -1], [1, 0]]), "1 to 3"),
    ],
)
def test_bad_words_are_refused(due: np.ndarray, rule: str):
    output = spelled((1,), (2,))
    with pytest.raises(UsageError, match=rule):
        prepare_target(output, due, task=Task.TRANSCRIPTION)
