from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.data import Dataset, Split
from edge_dl.errors import UsageError
from edge_dl.recipe import Task, TrainingConfig
from edge_dl.training.batches import (
    Arrays,
    Augmentation,
    evaluation_rows,
    move_pictures,
    random_rotations,
    training_rows,
)


def dataset(features: int = 3, samples: int = 400, scaling: str = "feature") -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(5, np.arange(1, features + 1), (samples, 7, features)).astype(np.float32)
    split = Split({"sequence": x}, {"label": rng.integers(0, 2, samples).astype(np.int32)}, np.arange(samples))
    return Dataset("made", Task.CLASSIFICATION, split, split, split, labels=("a", "b"), scaling=scaling)


@given(count=st.integers(1, 300), batch=st.integers(1, 64), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_training_rows_are_a_fixed_order_of_distinct_samples(count: int, batch: int, seed: int, epoch: int) -> None:
    config = TrainingConfig(batch_size=batch, seed=seed)
    rows = training_rows(config, count, epoch)
    assert rows.shape == (max(1, count // batch), min(batch, count))
    assert len(np.unique(rows)) == rows.size
    assert rows.min() >= 0
    assert rows.max() < count
    np.testing.assert_array_equal(rows, training_rows(config, count, epoch))


def test_training_rows_change_with_epoch_and_seed() -> None:
    rows = [training_rows(TrainingConfig(seed=seed), 200, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[1], rows[2])


@given(count=st.integers(1, 5000), numbers=st.integers(1, 1 << 20))
def test_evaluation_sees_every_sample_once_in_at_most_two_shapes(count: int, numbers: int) -> None:
    parts = evaluation_rows(count, numbers)
    assert len(parts) <= 2
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), np.arange(count))


def test_rotations_are_rotations_of_the_asked_size() -> None:
    turns = random_rotations(2000, 0.2, np.random.default_rng(0)).astype(np.float64)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-6)
    angles = np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert np.sqrt(np.mean(angles**2) / 3) == pytest.approx(0.2, rel=0.05)


def test_no_rotation_is_the_identity() -> None:
    turns = random_rotations(3, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(turns, np.broadcast_to(np.eye(3, dtype=np.float32), turns.shape))


def test_noise_is_in_units_of_each_features_deviation() -> None:
    data = dataset()
    change = Augmentation(TrainingConfig(noise=0.5), data)(Arrays.of(data.train), 0).x["sequence"]
    difference = change - data.train.x["sequence"]
    np.testing.assert_allclose(difference.std(axis=(0, 1)), 0.5 * np.array([1, 2, 3]), rtol=0.1)


def test_gain_keeps_a_samples_features_in_proportion_over_time() -> None:
    data = dataset()
    change = Augmentation(TrainingConfig(gain=0.1), data)(Arrays.of(data.train), 0).x["sequence"]
    factor = change / data.train.x["sequence"]
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=1e-4)
    assert factor[:, 0].std() == pytest.approx(0.1, rel=0.1)


def test_augmentation_is_a_function_of_seed_and_epoch_and_leaves_the_data_alone() -> None:
    data = dataset()
    before = data.train.x["sequence"].copy()
    augment = Augmentation(TrainingConfig(noise=0.5, gain=0.1, rotation=0.2, seed=3), data)
    first, again, later = (augment(Arrays.of(data.train), epoch).x["sequence"] for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - later).max() > 0.1
    np.testing.assert_array_equal(data.train.x["sequence"], before)


def test_nothing_asked_for_is_no_augmentation() -> None:
    assert not Augmentation(TrainingConfig(), dataset())


def test_rotation_needs_three_axis_sensors() -> None:
    with pytest.raises(UsageError, match=r"groups of three.*4 features"):
        Augmentation(TrainingConfig(rotation=0.1), dataset(features=4))


def test_pictures_are_shifted_by_at_most_the_share_and_repeat_their_edge() -> None:
    pictures = np.arange(300 * 10 * 20, dtype=np.int32).reshape(300, 10, 20, 1)
    moved = move_pictures(pictures, 0.1, False, np.random.default_rng(0))
    assert moved.dtype == pictures.dtype
    shifts = set()
    for before, after in zip(pictures[..., 0], moved[..., 0], strict=True):
        row, column = np.argwhere(before == after[5, 10])[0]
        down, right = 5 - row, 10 - column
        rows, columns = np.clip(np.arange(10) - down, 0, 9), np.clip(np.arange(20) - right, 0, 19)
        np.testing.assert_array_equal(after, before[rows][:, columns])
        shifts.add((down, right))
    assert shifts == {(down, right) for down in (-1, 0, 1) for right in (-2, -1, 0, 1, 2)}


def test_half_of_the_pictures_are_mirrored() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (400, 6, 6, 3)).astype(np.uint8)
    moved = move_pictures(pictures, 0.0, True, np.random.default_rng(2))
    mirrored = (moved == pictures[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (moved == pictures).all(axis=(1, 2, 3))
    assert (mirrored | same).all()
    assert 150 < mirrored.sum() < 250
