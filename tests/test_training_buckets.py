"""Buckets of sentence lengths: nothing lost, little padding, and an order that follows from seed and epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edge_dl.training.batches import Arrays
from edge_dl.training.buckets import bucket_runs, padding_share, sentence_buckets


def make_arrays(count: int, seed: int = 0, longest: int = 30) -> Arrays:
    """Pairs whose lengths go together, as those of translations do."""
    rng = np.random.default_rng(seed)
    source = rng.integers(2, longest, count)
    target = np.clip(source + rng.integers(-2, 4, count), 1, longest)
    steps = np.arange(longest)
    x = {
        name: np.where(steps < length[:, None], np.arange(count)[:, None] + 1, 0).astype(np.int32)
        for name, length in (("source", source), ("target", target))
    }
    return Arrays(x, {"next_token": x["target"]}, {"next_token": (x["target"] > 0).astype(np.float32)})


def test_every_sample_is_in_one_bucket_and_loses_nothing() -> None:
    arrays = make_arrays(500)
    buckets = sentence_buckets(arrays, most=8)
    assert len(buckets) == 8
    np.testing.assert_array_equal(np.sort(np.concatenate([bucket.rows for bucket in buckets])), np.arange(500))
    for bucket in buckets:
        cut = bucket.of(arrays)
        assert cut.weight is not None
        for before, after in (
            (arrays.x["source"], cut.x["source"]),
            (arrays.x["target"], cut.x["target"]),
            (arrays.y["next_token"], cut.y["next_token"]),
            ((arrays.weight or {})["next_token"], cut.weight["next_token"]),
        ):
            np.testing.assert_array_equal(before[bucket.rows].sum(axis=1), after.sum(axis=1))
            assert after[:, -1].any()  # No shorter cut would do.


def test_more_buckets_pad_less_until_little_is_padding() -> None:
    arrays = make_arrays(4_000)
    shares = [padding_share(arrays, sentence_buckets(arrays, most=most)) for most in (1, 4, 24)]
    assert shares[0] > 0.4
    assert shares[0] > 2 * shares[1] > 2 * shares[2]
    assert shares[2] < 0.1
    assert len(sentence_buckets(arrays, most=1_000)) < 100  # Little padding is little enough.
    assert padding_share(arrays, sentence_buckets(arrays, most=1_000)) < 0.07
    held = sum(array.size for array in arrays.x.values())
    assert shares[0] == pytest.approx(1 - sum(np.count_nonzero(array) for array in arrays.x.values()) / held, abs=0.05)


def test_equal_lengths_are_one_bucket() -> None:
    x = {"source": np.ones((9, 5), np.int32), "target": np.ones((9, 5), np.int32)}
    (bucket,) = sentence_buckets(Arrays(x, {"next_token": x["target"]}), most=24)
    assert len(bucket) == 9
    assert set(bucket.steps.values()) == {5}


def test_an_epoch_follows_from_seed_and_number_and_takes_each_sample_at_most_once() -> None:
    arrays = make_arrays(1_000)
    buckets = sentence_buckets(arrays, most=6)
    first, again, second = (bucket_runs(buckets, 16, 1, epoch) for epoch in (0, 0, 1))
    assert [number for number, _ in first] == [number for number, _ in again]
    for (_, rows), (_, same) in zip(first, again, strict=True):
        np.testing.assert_array_equal(rows, same)
    assert [number for number, _ in first] != [number for number, _ in second]
    seen = Counter(int(buckets[number].rows[row]) for number, rows in first for row in rows.ravel())
    assert set(seen.values()) == {1}
    assert len(seen) >= 1_000 - 6 * 15
    assert all(rows.shape[1] == min(16, len(buckets[number])) for number, rows in first)
    # As many steps in every epoch: schedules count on it.
    assert sum(len(rows) for _, rows in first) == sum(len(rows) for _, rows in second)
