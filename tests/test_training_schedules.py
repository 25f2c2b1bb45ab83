from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from edge_dl.errors import UsageError
from edge_dl.recipe import TrainingConfig
from edge_dl.training.schedules import WarmupSchedule, check_settings, make_optimizer


def rates(schedule: WarmupSchedule, steps: int) -> np.ndarray:
    return np.array([float(keras.ops.convert_to_numpy(schedule(step))) for step in range(steps)])


def test_cosine_falls_to_zero() -> None:
    found = rates(WarmupSchedule(0.1, 0, 100), 120)
    np.testing.assert_allclose(found[:100], 0.05 * (1 + np.cos(np.pi * np.arange(100) / 100)), atol=1e-7)
    np.testing.assert_allclose(found[100:], 0, atol=1e-8)


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    found = rates(WarmupSchedule(0.1, 10), 20)
    np.testing.assert_allclose(found[:10], 0.01 * np.arange(1, 11), rtol=1e-5)
    np.testing.assert_allclose(found[10:], 0.1, rtol=1e-6)
    both = rates(WarmupSchedule(0.1, 10, 50), 50)
    assert both.argmax() in (9, 10)
    assert np.all(np.diff(both[10:]) < 0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_clipping_by_global_norm_bounds_the_step(name: str) -> None:
    optimizer = make_optimizer(TrainingConfig(optimizer=name, clip_norm=2.0), 10)
    assert optimizer.global_clipnorm == 2.0
    assert optimizer.clipvalue is None


def test_clipping_really_clips() -> None:
    for settings, expected in (({"clip_norm": 1.0}, [0.6, 0.8]), ({"clip_norm": 0.0, "clip_value": 0.5}, [0.5, 0.5])):
        optimizer = make_optimizer(TrainingConfig(optimizer="sgd", learning_rate=1.0, **settings), 10)  # type: ignore[arg-type]
        weight = keras.Variable(np.zeros(2, np.float32))
        optimizer.apply([keras.ops.convert_to_tensor(np.array([30.0, 40.0], np.float32))], [weight])
        np.testing.assert_allclose(-keras.ops.convert_to_numpy(weight.value), expected, rtol=1e-5)


def test_decay_spares_biases() -> None:
    optimizer = make_optimizer(TrainingConfig(optimizer="adamw", weight_decay=0.5, learning_rate=0.1), 10)
    kernel, bias = keras.Variable(np.ones(2), name="kernel"), keras.Variable(np.ones(2), name="bias")
    zero = keras.ops.zeros(2)
    optimizer.apply([zero, zero], [kernel, bias])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel.value), 0.95, rtol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias.value), 1.0)


def test_adamw_decays_only_when_told() -> None:
    optimizer = make_optimizer(TrainingConfig(optimizer="adamw", learning_rate=0.1), 10)
    kernel = keras.Variable(np.ones(2), name="kernel")
    optimizer.apply([keras.ops.zeros(2)], [kernel])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel.value), 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adagrad"}, "training.optimizer must be one of"),
        ({"schedule": "step"}, "training.schedule must be one of"),
        ({"epochs": 0}, "training.epochs must be at least 1"),
        ({"batch_size": 0}, "training.batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "training.learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "training.learning_rate must be above 0"),
        ({"noise": -0.1}, "training.noise must be a number of at least 0"),
        ({"seed": -1}, "training.seed must be a number of at least 0"),
        ({"clip_norm": math.inf}, "training.clip_norm must be a number of at least 0"),
        ({"clip_norm": 1.0, "clip_value": 0.5}, "not both"),
        ({"schedule": "cosine", "warmup": 5, "epochs": 5}, "warm-up must be shorter"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_settings(TrainingConfig(**settings))  # type: ignore[arg-type]
