"""Data sets: what is saved is read back, what breaks a rule is refused, parts never share a sample."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.data import Dataset, ForecastInfo, Split, read, save
from edge_dl.data.dataset import data_hash
from edge_dl.data.source import Source, finish
from edge_dl.data.splitting import holdout, subset
from edge_dl.data.validation import check_dataset
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


def make_split(count: int, start: int = 0, *, classes: int = 3, seed: int = 0) -> Split:
    rng = np.random.default_rng([seed, start])
    x = rng.normal(size=(count, 5, 2)).astype(np.float32)
    y = (np.arange(count) % classes).astype(np.int32)
    return Split({"sequence": x}, {"label": y}, np.arange(start, start + count))


def make_dataset(**changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "name": "toy",
        "task": Task.CLASSIFICATION,
        "train": make_split(30),
        "validation": make_split(9, 30),
        "test": make_split(12, 39),
        "labels": ("a", "b", "c"),
    }
    dataset = Dataset(**{**values, **changes})
    return dataclasses.replace(dataset, sha256=data_hash(dataset.parts))


def with_x(split: Split, x: np.ndarray) -> Split:
    return dataclasses.replace(split, x={"sequence": x})


def with_y(split: Split, y: np.ndarray) -> Split:
    return dataclasses.replace(split, y={"label": y})


def test_saved_dataset_is_read_back(tmp_path: Path) -> None:
    weight = {"label": np.linspace(0, 1, 30, dtype=np.float32)}
    info = ForecastInfo(("a", "b"), ("b",), (1,), 4, 2, (1.0,), (2.0,), (0.5,), (0.25,))
    dataset = make_dataset(
        train=dataclasses.replace(make_split(30), weight=weight), forecast=info, notes=("one",), vocabulary=("x", "é")
    )
    save(dataset, tmp_path / "data")
    again = read(tmp_path / "data")
    assert again.describe() == dataset.describe()
    assert again.forecast == info
    assert json.loads((tmp_path / "data" / "dataset.json").read_text()) == dataset.describe()
    for part, split in dataset.parts.items():
        other = again.parts[part]
        np.testing.assert_array_equal(split.x["sequence"], other.x["sequence"])
        np.testing.assert_array_equal(split.y["label"], other.y["label"])
        np.testing.assert_array_equal(split.index, other.index)
    assert again.train.weight is not None
    np.testing.assert_array_equal(again.train.weight["label"], weight["label"])
    assert again.test.weight is None


def test_description_counts_classes_and_names_shapes() -> None:
    described = make_dataset().describe()["splits"]["test"]
    assert described["samples"] == 12
    assert described["x"]["sequence"] == {"shape": [12, 5, 2], "dtype": "float32"}
    assert described["class_counts"] == {"label": [4, 4, 4]}


def test_changed_data_is_refused(tmp_path: Path) -> None:
    save(make_dataset(), tmp_path)
    other = make_dataset(test=make_split(12, 39, seed=1))
    np.savez(tmp_path / "test.npz", **{"x/sequence": other.test.x["sequence"], "y/label": other.test.y["label"]})
    with pytest.raises(UsageError, match="index"):
        read(tmp_path)
    save(make_dataset(), tmp_path)
    arrays = {"x/sequence": other.test.x["sequence"], "y/label": other.test.y["label"], "index": other.test.index}
    np.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(UsageError, match="recorded hash"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 3}', "{"])
def test_broken_description_is_refused(tmp_path: Path, content: str) -> None:
    save(make_dataset(), tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UsageError):
        read(tmp_path)


def test_missing_key_of_description_is_refused(tmp_path: Path) -> None:
    save(make_dataset(), tmp_path)
    described = json.loads((tmp_path / "dataset.json").read_text())
    del described["labels"]
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="labels"):
        read(tmp_path)


def test_hash_sees_names_types_shapes_and_values() -> None:
    base = make_dataset()
    x = base.train.x["sequence"]
    changed = [
        dataclasses.replace(base.train, x={"other": x}),
        with_x(base.train, x.astype(np.float64)),
        with_x(base.train, x.reshape(30, 2, 5)),
        with_x(base.train, np.where(x == x.flat[7], x + 1, x)),
        with_x(base.train, np.asfortranarray(x)),
    ]
    hashes = [data_hash({**base.parts, "train": split}) for split in changed]
    assert len({base.sha256, *hashes[:4]}) == 5
    assert hashes[4] == base.sha256  # the layout in memory is no part of the data


X = make_split(30).x["sequence"]
Y = make_split(30).y["label"]


def holed(value: float) -> np.ndarray:
    x = X.copy()
    x[4, 3, 1] = value
    return x


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (with_x(make_split(30), holed(np.nan)), "NaN in train sequence, row 4, step 3, column 1"),
        (with_x(make_split(30), holed(-np.inf)), "infinity in train sequence, row 4, step 3, column 1"),
        (with_x(make_split(30), X[:, :, 0]), "steps, features"),
        (with_x(make_split(30), X[:, :0]), "must not be empty"),
        (with_x(make_split(30), X[:20]), "same number of samples"),
        (with_x(make_split(30), np.array([[1, 2], [3]] * 15, dtype=object)), "ragged"),
        (with_x(make_split(30), X.astype(str)), "must hold numbers"),
        (with_x(make_split(30), X[:, :4]), "same shape of sample"),
        (with_y(make_split(30), Y - 1), "-1 in train label, row 0"),
        (with_y(make_split(30), Y + 1), "3 in train label, row 2"),
        (with_y(make_split(30), np.zeros_like(Y)), "no training sample of b, c"),
        (with_y(make_split(30), Y.astype(np.float32)), "whole numbers"),
        (with_y(make_split(30), Y[:, None]), r"label must be \(samples,\)"),
        (make_split(1), "at least 2 samples"),
        (make_split(30, 25), "No sample may stand in two parts"),
        (dataclasses.replace(make_split(30), x={}), "at least one input"),
        (dataclasses.replace(make_split(30), y={}), "at least one target"),
        (dataclasses.replace(make_split(30), x={"sequence": X, "more": X}), "same arrays"),
        (dataclasses.replace(make_split(30), weight={"label": np.full(30, np.nan)}), "NaN in train weight of label"),
    ],
)
def test_broken_rules_are_refused(train: Split, message: str) -> None:
    check_dataset(make_dataset())
    with pytest.raises(UsageError, match=message):
        check_dataset(dataclasses.replace(make_dataset(), train=train))


def test_single_class_is_refused() -> None:
    parts = {part: with_y(make_split(9, n), np.zeros(9, np.int32)) for n, part in ((0, "train"), (9, "test"))}
    with pytest.raises(UsageError, match="single class"):
        finish(Source("toy", parts, labels=("0",)), DataConfig("toy"), Task.CLASSIFICATION, seed=0)


def test_given_parts_are_kept_and_validation_comes_from_training() -> None:
    parts = {"train": make_split(40), "test": make_split(10, 40)}
    dataset = finish(
        Source("toy", parts, labels=("a", "b", "c")), DataConfig("toy", validation=0.25), Task.CLASSIFICATION, seed=3
    )
    np.testing.assert_array_equal(dataset.test.index, np.arange(40, 50))
    np.testing.assert_array_equal(
        np.sort(np.concatenate([dataset.train.index, dataset.validation.index])), np.arange(40)
    )
    assert len(dataset.validation) == 10
    np.testing.assert_array_equal(dataset.train.x["sequence"], parts["train"].x["sequence"][dataset.train.index])


def test_same_seed_same_parts_other_seed_other_parts() -> None:
    source = Source("toy", {"all": make_split(60)}, labels=("a", "b", "c"))
    first, second, third = (
        finish(source, DataConfig("toy"), Task.CLASSIFICATION, seed=seed).sha256 for seed in (5, 5, 6)
    )
    assert first == second != third


def test_test_part_that_copies_training_is_refused() -> None:
    train = make_split(30)
    parts = {"train": train, "test": dataclasses.replace(train, index=train.index + 30)}
    with pytest.raises(UsageError, match="copy of training samples"):
        finish(
            Source("toy", {**parts, "validation": make_split(9, 60)}, labels=("a", "b", "c")),
            DataConfig("toy"),
            Task.CLASSIFICATION,
            seed=0,
        )


def test_copies_are_counted_in_a_note() -> None:
    train, test = make_split(30), make_split(10, 30)
    test.x["sequence"][:2] = train.x["sequence"][:2]
    parts = {"train": train, "test": test, "validation": make_split(9, 60)}
    dataset = finish(Source("toy", parts, labels=("a", "b", "c")), DataConfig("toy"), Task.CLASSIFICATION, seed=0)
    assert any(note.startswith("2 of 10 test samples have an exact copy") for note in dataset.notes)


def test_limit_keeps_every_class() -> None:
    source = Source("toy", {"all": make_split(300)}, labels=("a", "b", "c"))
    dataset = finish(source, DataConfig("toy", limit=7), Task.CLASSIFICATION, seed=0)
    assert [len(split) for split in dataset.parts.values()] == [7, 7, 7]
    assert set(dataset.train.y["label"]) == {0, 1, 2}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_holdout_divides_without_loss(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 80))
    share = data.draw(st.floats(0.01, 0.99))
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    stratified = data.draw(st.booleans()) and len(np.unique(labels)) < count
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kept, held = holdout(count, share, rng, labels=labels if stratified else None)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(count))
    assert len(kept) > 0
    assert len(held) > 0
    if stratified:
        assert set(labels[kept]) == set(labels)
        for name, amount in zip(*np.unique(labels, return_counts=True), strict=True):
            assert abs((labels[held] == name).sum() - share * amount) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=100), st.floats(0.05, 0.9), st.integers(0, 99))
def test_holdout_keeps_groups_whole(groups: list[int], share: float, seed: int) -> None:
    names = np.array(groups)
    kept, held = holdout(len(names), share, np.random.default_rng(seed), groups=names)
    if len(set(groups)) > 1:
        assert not set(names[kept]) & set(names[held])
    assert len(kept) + len(held) == len(names)
    assert len(kept) > 0
    assert len(held) > 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="above 0 and below 1"):
        holdout(10, share, np.random.default_rng(0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 9))
def test_subset_has_the_asked_size(labels: list[int], limit: int, seed: int) -> None:
    names = np.array(labels)
    rows = subset(len(names), limit, np.random.default_rng(seed), names)
    assert len(rows) == (min(limit, len(names)) if limit else len(names))
    assert len(set(rows.tolist())) == len(rows)
    if limit >= 2 * len(set(labels)):
        assert len(set(names[rows])) >= min(2, len(set(labels)))
