"""How a part is held out: by class shares, by whole groups, at random, or by time. Always seeded."""

from __future__ import annotations

import numpy as np

from edge_dl.errors import UsageError


def holdout(
    count: int,
    share: float,
    rng: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep and rows to hold out, each sorted.

    Args:
        count: number of samples.
        share: share to hold out, above 0 and below 1.
        rng: source of randomness.
        groups: (count,) group of each sample (subject, speaker): whole groups are held out, so that the held-out part
            measures what the model does for somebody new.
        labels: (count,) class of each sample: without groups, every class gives the same share (stratified) and keeps
            at least one sample.

    Raises:
        UsageError: `share` is not between 0 and 1, or there are too few samples or groups.
    """
    check_share(share, "data.validation or data.test")
    if groups is not None and len(np.unique(groups)) > 1:
        return _by_groups(groups, share, rng)
    if count < 2:
        raise UsageError("At least two samples are needed to hold one out.", received=f"{count}")
    if labels is not None:
        held = _stratified(labels, share, rng)
    else:
        held = rng.permutation(count)[: min(count - 1, max(1, round(count * share)))]
    mask = np.zeros(count, bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def check_share(share: float, key: str) -> None:
    """Refuse a share that leaves nothing on either side.

    Raises:
        UsageError: `share` is not above 0 and below 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"{key} must be above 0 and below 1.", received=f"{share}")


def subset(count: int, limit: int, rng: np.random.Generator, labels: np.ndarray | None = None) -> np.ndarray:
    """At most `limit` of `count` rows, sorted; all of them when `limit` is 0. With labels, class shares are kept."""
    if limit <= 0 or limit >= count:
        return np.arange(count)
    if labels is not None and len(np.unique(labels)) <= limit:
        chosen = _stratified(labels, limit / count, rng)
        # Rounding by class may give a few more or less than asked for.
        rest = np.setdiff1d(np.arange(count), chosen)
        if len(chosen) < limit:
            chosen = np.concatenate([chosen, rng.choice(rest, limit - len(chosen), replace=False)])
        elif len(chosen) > limit:
            _, first = np.unique(labels[chosen], return_index=True)
            spare = np.setdiff1d(np.arange(len(chosen)), first)
            chosen = np.delete(chosen, rng.choice(spare, len(chosen) - limit, replace=False))
        return np.sort(chosen)
    return np.sort(rng.choice(count, limit, replace=False))


def _by_groups(groups: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    names, counts = np.unique(groups, return_counts=True)
    order = rng.permutation(len(names))
    wanted = share * len(groups)
    held: list[int] = []
    taken = 0
    for position in order[:-1]:
        # Take a group only when that comes closer to the wanted share than leaving it.
        if held and abs(taken + counts[position] - wanted) > abs(taken - wanted):
            continue
        held.append(int(position))
        taken += int(counts[position])
        if taken >= wanted:
            break
    mask = np.isin(groups, names[held])
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _stratified(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    held = []
    for name in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == name))
        amount = max(1, round(len(rows) * share)) if len(rows) > 1 else 0
        held.append(rows[: min(amount, len(rows) - 1)])
    return np.concatenate(held)
