"""Buckets: samples of like length together, so that little of a batch is padding.

A compiled step has one shape, so lengths are not padded to each batch's longest but to a bucket's, and there are few.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_dl.training.batches import RUN, Arrays

_PADDING = 0.07


@dataclass(frozen=True)
class Bucket:
    """Samples that are cut to the same lengths.

    Attributes:
        rows: their rows, (samples,).
        steps: by input and output name, how many steps are kept.
    """

    rows: np.ndarray
    steps: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, arrays: Arrays) -> Arrays:
        """The bucket's samples of `arrays`, cut to its lengths."""

        def cut(named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: np.ascontiguousarray(array[self.rows, : self.steps[name]]) for name, array in named.items()}

        return Arrays(cut(arrays.x), cut(arrays.y), None if arrays.weight is None else cut(arrays.weight))


def sentence_buckets(arrays: Arrays, *, most: int) -> list[Bucket]:
    """Buckets of sentence pairs (`source`, `target` and what goes with it, padded with 0 from some step on).

    The bucket that pads most is cut in two where that saves most, by the length of one side, until less than 7 % of all
    tokens are padding or there are `most` buckets.

    Args:
        arrays: token numbers (samples, steps), 0 behind the last.
        most: largest number of buckets, each a shape to compile for.
    """
    lengths = np.stack([np.count_nonzero(arrays.x[name], axis=1) for name in ("source", "target")], axis=1)
    tokens = int(lengths.sum())
    heap = [_entry(np.arange(len(lengths)), lengths, 0)]
    number = 1
    while len(heap) < most:
        padded = sum(-item[0] for item in heap)
        if padded < _PADDING * (tokens + padded):
            break
        waste, _, rows = heap[0]
        cut = _best_cut(lengths[rows])
        if waste == 0 or cut is None:
            break
        side, longest = cut
        heapq.heappop(heap)
        short = lengths[rows, side] <= longest
        for part in (rows[short], rows[~short]):
            heapq.heappush(heap, _entry(part, lengths, number))
            number += 1
    found = []
    for _, _, rows in sorted(heap, key=lambda item: item[1]):
        source, target = (int(size) for size in lengths[rows].max(axis=0))
        steps = {name: source if name == "source" else target for name in {**arrays.x, **arrays.y}}
        found.append(Bucket(rows, steps))
    return found


def padding_share(arrays: Arrays, buckets: Sequence[Bucket]) -> float:
    """Share of all tokens of both sides that are padding when every bucket is trained on once."""
    real = sum(int(np.count_nonzero(arrays.x[name])) for name in ("source", "target"))
    held = sum(len(bucket) * (bucket.steps["source"] + bucket.steps["target"]) for bucket in buckets)
    return 1 - real / held


def bucket_runs(buckets: Sequence[Bucket], batch_size: int, seed: int, epoch: int) -> list[tuple[int, np.ndarray]]:
    """What epoch `epoch` (from 0) trains on: (bucket, rows within it (steps, batch)), in a new random order each epoch.

    What does not fill a bucket's last batch is left out of that epoch; a bucket smaller than a batch is one batch.
    """
    rng = np.random.default_rng([seed, epoch, 3])
    runs = []
    for number, bucket in enumerate(buckets):
        batch = min(batch_size, len(bucket))
        order = rng.permutation(len(bucket)).astype(np.int32)
        rows = order[: len(bucket) // batch * batch].reshape(-1, batch)
        runs += [(number, rows[first : first + RUN]) for first in range(0, len(rows), RUN)]
    return [runs[place] for place in rng.permutation(len(runs))]


def _entry(rows: np.ndarray, lengths: np.ndarray, number: int) -> tuple[int, int, np.ndarray]:
    """What a heap orders: padding (most first), then age; and the rows."""
    own = lengths[rows]
    return -int((own.max(axis=0) * len(own) - own.sum(axis=0)).sum()), number, rows


def _best_cut(lengths: np.ndarray) -> tuple[int, int] | None:
    """Side and longest length of the shorter half that leave the least padding; None where all lengths are alike."""
    best: tuple[int, int, int] | None = None
    for side in (0, 1):
        order = np.argsort(lengths[:, side], kind="stable")
        ordered = lengths[order]
        # Longest of both sides among the first and among the last n.
        below = np.maximum.accumulate(ordered, axis=0).sum(axis=1)
        above = np.maximum.accumulate(ordered[::-1], axis=0)[::-1].sum(axis=1)
        ends = np.flatnonzero(np.diff(ordered[:, side]))
        if not len(ends):
            continue
        held = below[ends] * (ends + 1) + above[ends + 1] * (len(ordered) - ends - 1)
        place = int(np.argmin(held))
        if best is None or held[place] < best[0]:
            best = (int(held[place]), side, int(ordered[ends[place], side]))
    return None if best is None else best[1:]
