"""What a data set must satisfy before any training starts; each broken rule is a `UsageError` of one line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from edge_dl.data.dataset import PARTS, Dataset, Split
from edge_dl.errors import UsageError
from edge_dl.recipe import Task

MIN_SAMPLES = {"train": 2, "validation": 1, "test": 1}
RANKS = {"sequence": 3, "image": 4, "sound": 2, "tokens": 2, "source": 2, "target": 2, "label": 1, "labels": 2,
         "value": 2, "forecast": 3, "next_token": 2, "embedding": 1, "words": 2}  # fmt: skip
MEANING = {
    "sequence": "(samples, steps, features)",
    "image": "(samples, height, width, channels)",
    "sound": "(samples, length), a sound each",
    "tokens": "(samples, steps)",
    "source": "(samples, steps), tokens",
    "target": "(samples, steps), tokens",
    "label": "(samples,)",
    "labels": "(samples, steps)",
    "value": "(samples, values)",
    "forecast": "(samples, horizon, targets)",
    "next_token": "(samples, steps)",
    "embedding": "(samples,), the class of each sample",
    "words": "(samples, most), the words of each sample",
}


def check_dataset(dataset: Dataset, *, trains: bool = True) -> None:
    """Check a whole data set.

    Args:
        trains: whether a model is trained on it. For one that is trained already the training part only calibrates,
            and need not hold every class that the model knows.

    Raises:
        UsageError: an array is empty, of the wrong rank or type, holds NaN or infinity; parts disagree in shape, share
            samples or are too small; a class number is out of range or missing from the training part.
    """
    for part, split in dataset.parts.items():
        check_split(split, part, trains=trains)
        if len(split) < MIN_SAMPLES[part]:
            raise UsageError(
                f"The {part} part needs at least {MIN_SAMPLES[part]} sample{'s' if MIN_SAMPLES[part] > 1 else ''}.",
                received=f"{len(split)}",
                todo="Give more data, or change data.validation or data.test.",
            )
    _check_same_shapes(dataset)
    _check_overlap(dataset)
    target = next(iter(dataset.train.y), None)
    if target and dataset.task in (Task.CLASSIFICATION, Task.LABELLING, Task.EMBEDDING):
        _check_labels(dataset, target, trains)
    if target and dataset.task is Task.TRANSCRIPTION:
        _check_words(dataset, target)
    if dataset.vocabulary:
        for part, split in dataset.parts.items():
            for name, array in {**split.x, **split.y}.items():
                if name in ("tokens", "target", "next_token"):
                    _check_range(array, len(dataset.vocabulary), f"{part} {name}", "token numbers", "the vocabulary")


def check_split(split: Split, part: str, *, trains: bool = True) -> None:
    """Check one part by itself: names, types, ranks, sample counts, finite numbers.

    Args:
        trains: whether a model is trained on it, which needs targets.

    Raises:
        UsageError: see `check_dataset`.
    """
    if not split.x:
        raise UsageError("A data set needs at least one input.", received=f"no x in the {part} part")
    if trains and not split.y:
        raise UsageError(
            "Training needs at least one target.",
            received=f"no y in the {part} part" if part != "all" else "inputs alone",
            todo="Name targets y, y_train and y_test, or y/NAME. A trained model needs none: convert it with "
            "`edge-dl run MODEL --data FILE`.",
        )
    arrays = {**split.x, **split.y, **{f"weight of {name}": array for name, array in (split.weight or {}).items()}}
    if np.shape(split.index) != (len(split.index),) or not np.issubdtype(split.index.dtype, np.integer):
        raise UsageError("index must be whole numbers, one a sample.", received=f"shape {np.shape(split.index)}")
    for name, array in arrays.items():
        check_array(array, f"{part} {name}", names=name)
        if len(array) != len(split.index):
            raise UsageError(
                "Every array of a part must hold the same number of samples.",
                received=f"{part} {name} holds {len(array)}, its index {len(split.index)}",
            )


def check_array(array: np.ndarray, where: str, *, names: str = "") -> None:
    """Check one array: numbers, not empty, the rank that its name asks for, finite.

    Args:
        array: the array; the first axis is the sample.
        where: what to call it in the message, e.g. "train sequence".
        names: its canonical name; a known one decides the rank.

    Raises:
        UsageError: see `check_dataset`.
    """
    if array.dtype == object:
        raise UsageError(
            "Arrays must be rectangular and hold plain numbers.",
            received=f"{where} of Python objects (ragged rows, or mixed types)",
            todo="Cut or pad the samples to one length, and save them as one numeric array.",
        )
    if array.dtype.kind not in "biuf":
        raise UsageError("Arrays must hold numbers.", received=f"{where} of type {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise UsageError("Arrays must not be empty.", received=f"{where} of shape {array.shape}")
    rank = RANKS.get(names)
    if rank is not None and array.ndim != rank:
        raise UsageError(f"{names} must be {MEANING[names]}.", received=f"{where} of shape {array.shape}")
    check_finite(array, where)


def check_finite(array: np.ndarray, where: str) -> None:
    """Refuse NaN and infinity, naming the first place.

    Raises:
        UsageError: with row (the sample) and, beyond one axis, the position inside it.
    """
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    place = [int(axis) for axis in np.unravel_index(int(np.argmax(bad)), array.shape)]
    what = "NaN" if np.isnan(array[tuple(place)]) else "infinity"
    inside = ""
    if array.ndim == 3:
        inside = f", step {place[1]}, column {place[2]}"
    elif array.ndim > 1:
        inside = f", column {place[1]}" if array.ndim == 2 else f", position {tuple(place[1:])}"
    raise UsageError(
        "Data must hold finite numbers only.",
        received=f"{what} in {where}, row {place[0]}{inside} ({int(bad.sum())} such values in all)",
        todo="Remove or fill them (for a CSV series: data.missing=forward).",
    )


def check_classes(array: np.ndarray, where: str) -> np.ndarray:
    """Class numbers as int32.

    Raises:
        UsageError: text, fractions or negative numbers.
    """
    if array.dtype.kind not in "biuf":
        raise UsageError("Class numbers must be whole numbers.", received=f"{where} of type {array.dtype}")
    check_finite(array, where)
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        first = int(np.argmax(array.ravel() != np.round(array.ravel())))
        raise UsageError(
            "Class numbers must be whole numbers.",
            received=f"{array.ravel()[first]} in {where}, position {first}",
            todo="For numbers to predict, use a regression recipe.",
        )
    if array.size and array.min() < 0:
        row = int(np.argmax(array.reshape(len(array), -1).min(axis=1) < 0))
        raise UsageError(
            "Labels must not be negative: classes are numbered 0, 1, 2 and so on.",
            received=f"{int(array.min())} in {where}, row {row}",
        )
    return array.astype(np.int32)


def _check_range(array: np.ndarray, size: int, where: str, noun: str, of: str) -> None:
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= size:
        bad = (array < 0) | (array >= size)
        row = int(np.argmax(bad.reshape(len(array), -1).any(axis=1)))
        raise UsageError(
            f"{noun.capitalize()} must be 0 to {size - 1}, within {of}.",
            received=f"{low if low < 0 else high} in {where}, row {row}",
        )


def _check_labels(dataset: Dataset, name: str, trains: bool) -> None:
    classes = len(dataset.labels)
    # A single class says nothing of what is alike, but its pictures can be embedded and compared all the same.
    if classes < (1 if dataset.task is Task.EMBEDDING else 2):
        found = np.unique(dataset.train.y[name]).tolist()
        raise UsageError(
            "Classification needs at least two classes.",
            received=f"a single class in train {name}: {', '.join(dataset.labels) or found}",
        )
    for part, split in dataset.parts.items():
        if name not in split.y:
            continue
        if split.y[name].dtype.kind not in "iu":
            raise UsageError("Labels must be whole numbers.", received=f"{part} {name} of type {split.y[name].dtype}")
        _check_range(split.y[name], classes, f"{part} {name}", "labels", "the known classes")
    counts = np.bincount(dataset.train.y[name].ravel(), minlength=classes)
    if trains and (counts == 0).any():
        missing = [dataset.labels[number] for number in np.flatnonzero(counts == 0)]
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UsageError(
            "Every class needs samples in the training part.",
            received=f"no training sample of {shown} ({classes} classes)",
            todo="Number the classes without gaps, give more data, or raise data.limit.",
        )


def _check_words(dataset: Dataset, name: str) -> None:
    for part, split in dataset.parts.items():
        words = split.y[name]
        if words.dtype.kind not in "iu":
            raise UsageError("Words must be class numbers.", received=f"{part} {name} of type {words.dtype}")
        _check_range(words, len(dataset.labels), f"{part} {name}", "words", "the known classes")
        said = words > 0
        bad = ~said[:, 0] | (said[:, 1:] & ~said[:, :-1]).any(axis=1)
        if bad.any():
            raise UsageError(
                "Every sample must have a word, and 0 only behind its last.",
                received=f"{part} {name}, row {int(np.argmax(bad))}: {words[int(np.argmax(bad))].tolist()}",
            )


def _check_same_shapes(dataset: Dataset) -> None:
    for kind in ("x", "y"):
        first: Mapping[str, np.ndarray] = getattr(dataset.train, kind)
        for part in PARTS[1:]:
            other: Mapping[str, np.ndarray] = getattr(dataset.parts[part], kind)
            if set(first) != set(other):
                raise UsageError(
                    "All parts must hold the same arrays.",
                    received=f"train {kind}: {', '.join(first)}; {part} {kind}: {', '.join(other)}",
                )
            for name, array in first.items():
                if array.shape[1:] != other[name].shape[1:]:
                    raise UsageError(
                        "All parts must have the same shape of sample.",
                        received=f"train {name} {array.shape[1:]}, {part} {name} {other[name].shape[1:]}",
                    )


def _check_overlap(dataset: Dataset) -> None:
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = np.intersect1d(dataset.parts[first].index, dataset.parts[second].index)
        if len(shared):
            raise UsageError(
                "No sample may stand in two parts.",
                received=f"{len(shared)} rows in both {first} and {second}, the first is row {int(shared[0])}",
            )


def copies(first: Split, second: Split) -> int:
    """How many samples of `second` have an exact copy of all their inputs in `first`."""
    known = set(_sample_hashes(first))
    return sum(item in known for item in _sample_hashes(second))


def _sample_hashes(split: Split) -> list[bytes]:
    names = sorted(split.x)
    arrays = [np.ascontiguousarray(split.x[name]) for name in names]
    return [
        hashlib.blake2b(b"".join(array[row].tobytes() for array in arrays), digest_size=16).digest()
        for row in range(len(split))
    ]
