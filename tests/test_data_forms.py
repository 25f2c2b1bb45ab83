"""On-disk forms: every layout is read as it says, and broken files are refused by name and place."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.data import Dataset, load
from edge_dl.data.forms import FORMS, form_of
from edge_dl.data.series import naive_forecast, seasonal_forecast
from edge_dl.data.tokens import UNKNOWN, join_words, split_words
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

RNG = np.random.default_rng(0)


def get(path: Path | str, task: Task | None, **settings: Any) -> Dataset:
    return load(DataConfig(str(path), **settings), task, seed=0)


def refused(path: Path | str, task: Task | None, message: str, **settings: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        get(path, task, **settings)
    assert "\n" not in str(caught.value)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- npz ---


def test_npz_with_train_and_test(tmp_path: Path) -> None:
    x, y = RNG.normal(size=(50, 6, 3)).astype(np.float16), np.arange(50) % 4
    path = save(tmp_path / "a.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    dataset = get(path, Task.CLASSIFICATION)
    assert dataset.labels == ("0", "1", "2", "3")
    assert dataset.train.x["sequence"].dtype == np.float32
    np.testing.assert_array_equal(dataset.test.x["sequence"], x[40:].astype(np.float32))
    np.testing.assert_array_equal(dataset.test.y["label"], y[40:])
    assert len(dataset.train) + len(dataset.validation) == 40
    assert dataset.scaling == "feature"


@pytest.mark.parametrize("ending", ["val", "validation", "valid"])
def test_npz_keeps_its_validation_part(tmp_path: Path, ending: str) -> None:
    x, y = RNG.normal(size=(30, 6)), np.arange(30) % 3
    path = save(
        tmp_path / "a.npz",
        x_train=x[:15], y_train=y[:15], x_test=x[15:21], y_test=y[15:21],
        **{f"x_{ending}": x[21:], f"y_{ending}": y[21:]},
    )  # fmt: skip
    dataset = get(path, Task.CLASSIFICATION)
    assert dataset.train.x["sequence"].shape == (15, 6, 1)  # one feature
    assert len(dataset.validation) == 9


def test_npz_with_flags_holds_out_whole_subjects(tmp_path: Path) -> None:
    subject = np.repeat(np.arange(10), 12)
    x = RNG.normal(size=(120, 5, 2))
    path = save(tmp_path / "h.npz", X=x, y=np.arange(120) % 3, subject=subject, is_test=subject >= 8)
    dataset = get(path, Task.CLASSIFICATION, validation=0.2)
    by_part = {part: set(subject[split.index]) for part, split in dataset.parts.items()}
    assert by_part["test"] == {8, 9}
    assert not by_part["train"] & by_part["validation"]
    assert len(by_part["validation"]) == 2
    for split in dataset.parts.values():
        np.testing.assert_allclose(split.x["sequence"], x[split.index], rtol=1e-6)


def test_npz_without_test_part_is_cut_by_subject(tmp_path: Path) -> None:
    subject = np.repeat(np.arange(10), 12)
    path = save(tmp_path / "h.npz", X=RNG.normal(size=(120, 5, 2)), y=np.arange(120) % 3, subject=subject)
    dataset = get(path, Task.CLASSIFICATION)
    groups = [set(subject[split.index]) for split in dataset.parts.values()]
    assert sum(map(len, groups)) == 10  # no subject in two parts


def test_npz_text_labels_are_numbered(tmp_path: Path) -> None:
    names = np.array(["walk", "sit", "walk", "run"] * 10)
    path = save(tmp_path / "t.npz", X=RNG.normal(size=(40, 5, 2)), y=names)
    dataset = get(path, Task.CLASSIFICATION)
    assert dataset.labels == ("run", "sit", "walk")
    for split in dataset.parts.values():
        np.testing.assert_array_equal(np.array(dataset.labels)[split.y["label"]], names[split.index])


def test_npz_named_labels(tmp_path: Path) -> None:
    labels = np.array(["zero", "one"])
    path = save(tmp_path / "t.npz", X=RNG.normal(size=(40, 5, 2)), y=np.arange(40) % 2, labels=labels)
    assert get(path, Task.CLASSIFICATION).labels == ("zero", "one")


def test_npz_labelling_tokens_and_regression(tmp_path: Path) -> None:
    tokens = RNG.integers(0, 9, (40, 7))
    dataset = get(save(tmp_path / "l.npz", X=tokens, y=tokens % 2), Task.LABELLING)
    assert dataset.train.x["tokens"].dtype == np.int32
    assert dataset.train.y["labels"].shape[1:] == (7,)
    x = RNG.normal(size=(40, 7, 2))
    dataset = get(save(tmp_path / "r.npz", X=x, y=x.sum(axis=(1, 2))), Task.REGRESSION)
    assert dataset.train.y["value"].shape[1:] == (1,)
    dataset = get(save(tmp_path / "m.npz", X=x, y=x[:, :3]), Task.FORECAST)
    assert dataset.train.y["forecast"].shape[1:] == (3, 2)


def test_npz_images_share_one_scale(tmp_path: Path) -> None:
    path = save(tmp_path / "i.npz", X=RNG.integers(0, 255, (40, 7, 7), np.uint8), y=np.arange(40) % 2)
    assert get(path, Task.CLASSIFICATION).scaling == "shared"


def test_npz_pictures_stay_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (40, 6, 5, 3)).astype(np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "colour.npz", X=colour, y=labels)
    np.savez(tmp_path / "grey.npz", X=colour[..., 0].astype(np.int64), y=labels)
    data = load(DataConfig(str(tmp_path / "colour.npz")), Task.CLASSIFICATION)
    assert data.train.x["image"].dtype == np.uint8
    np.testing.assert_array_equal(data.test.x["image"], colour[data.test.index])
    grey = load(DataConfig(str(tmp_path / "grey.npz"), input="image"), Task.CLASSIFICATION)
    assert grey.train.x["image"].dtype == np.uint8
    assert grey.train.x["image"].shape[1:] == (6, 5, 1)
    rows = load(DataConfig(str(tmp_path / "grey.npz")), Task.CLASSIFICATION)
    assert list(rows.train.x) == ["sequence"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((20, 4, 4, 1), 256), "0 to 255"),
        (np.full((20, 4, 4, 1), -1), "0 to 255"),
        (np.full((20, 4, 4, 1), np.nan), "NaN"),
        (np.zeros((20, 4)), "Pictures must be"),
    ],
)
def test_npz_that_holds_no_pictures_is_refused(tmp_path: Path, x: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "d.npz", X=x, y=np.arange(20) % 2)
    with pytest.raises(UsageError, match=message):
        load(DataConfig(str(tmp_path / "d.npz"), input="image"), Task.CLASSIFICATION)


def test_npz_keeps_a_users_own_names(tmp_path: Path) -> None:
    arrays = {"x/audio": RNG.normal(size=(30, 4, 4, 2)), "x/age": RNG.normal(size=(30, 1)), "y/score": np.ones((30, 2))}
    dataset = get(save(tmp_path / "n.npz", **arrays), None)
    assert {name: array.shape[1:] for name, array in dataset.train.x.items()} == {"audio": (4, 4, 2), "age": (1,)}
    assert set(dataset.train.y) == {"score"}


def test_npz_names_are_those_of_the_exported_model(tmp_path: Path) -> None:
    """An export turns the names of a Keras model into plain ones; its data may be named either way."""
    arrays = {
        "x/my tokens": RNG.integers(0, 9, (30, 4)),
        "x/9": RNG.normal(size=(30, 2)),
        "y/class 1": np.arange(30) % 2,
    }
    dataset = get(save(tmp_path / "own.npz", **arrays), Task.CLASSIFICATION)
    assert (list(dataset.train.x), list(dataset.train.y)) == (["my_tokens", "t9"], ["class_1"])


def test_npz_token_stream(tmp_path: Path) -> None:
    stream = RNG.integers(0, 5, 500)
    dataset = get(
        save(tmp_path / "s.npz", tokens=stream, vocabulary=np.array(list("abcde"))), Task.LANGUAGE_MODEL, window=8
    )
    assert dataset.vocabulary == tuple("abcde")
    row = dataset.test.index[0]
    np.testing.assert_array_equal(dataset.test.x["tokens"][0], stream[row - 1 : row + 7])
    np.testing.assert_array_equal(dataset.test.y["next_token"][0], stream[row : row + 8])


def bad(**changes: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {"X": np.ones((20, 4, 2)) * np.arange(20)[:, None, None], "y": np.arange(20) % 2}
    return {**arrays, **changes}


HOLED = np.ones((20, 4, 2)) * np.arange(20)[:, None, None]
HOLED[3, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "x_train, y_train"),
        ({"data": np.ones(3)}, "x_train, y_train"),
        (bad(X=np.zeros((0, 4, 2)), y=np.zeros(0, int)), "empty"),
        (bad(X=HOLED), "NaN in X, row 3, step 1, column 0"),
        (bad(y=np.arange(19) % 2), "20 and 19"),
        (bad(y=np.arange(20) % 2 - 1), "must not be negative"),
        (bad(y=np.arange(20) % 2 + 0.5), "whole numbers"),
        (bad(y=np.arange(20) % 2 * 2), "no training sample of class 1"),
        (bad(y=np.full(20, 2**31 - 1)), "no training sample of class 0"),
        (bad(y=np.zeros(20, int)), "single class"),
        (bad(y=np.arange(20) % 3, labels=np.array(["a", "b"])), "Labels must be 0 to 1"),
        (bad(labels=np.ones(2)), "labels must be a list of text"),
        (bad(subject=np.ones(19)), "one value a sample"),
        (bad(is_test=np.zeros(20, bool)), "none in the test part"),
        (bad(is_test=np.arange(20) < 5, is_validation=np.arange(20) < 5), "two parts"),
        (bad(X=np.ones((20, 4, 2, 2, 2))), "steps, features"),
        (bad(X=-np.ones((20, 4), int)), "must not be negative"),
        (bad(X=np.ones((20, 4, 2), complex)), "must hold numbers"),
        (bad(X=np.full((20, 4, 2), 1e300)), "infinity in X .as float32."),
        ({"x_train": np.ones((9, 4, 2))}, "Training needs at least one target"),
        ({"x_train": np.ones((9, 4, 2)), "y_train": np.ones(9), "x_test": np.ones((9, 4, 2))}, "no y_test"),
        (
            {"x_train": np.ones((9, 4, 2)), "y_train": np.ones(9), "x_test": np.ones((9, 5, 2)), "y_test": np.ones(9)},
            "same shape of sample",
        ),
        ({"x/a": np.ones((9, 4, 2))}, "Training needs at least one target"),
        ({"X": np.ones((9, 4, 2))}, "Training needs at least one target"),
        ({"X": np.ones((9, 4, 2, 2, 2)), "y": np.arange(9) % 2}, "x/NAME and y/NAME: they may have any shape"),
        ({"x/a": np.ones((9, 4, 2)), "y/b": np.arange(8) % 2}, "same number of samples"),
    ],
)
def test_bad_npz_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    refused(save(tmp_path / "bad.npz", **arrays), Task.CLASSIFICATION, message)


def test_npz_label_unknown_in_training_is_refused(tmp_path: Path) -> None:
    x = RNG.normal(size=(20, 4, 2))
    path = save(tmp_path / "a.npz", x_train=x, y_train=np.arange(20) % 2, x_test=x[:5] + 1, y_test=np.full(5, 2))
    refused(path, Task.CLASSIFICATION, "Labels must be 0 to 1.*2 in test label, row 0")


def test_pickled_npz_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "p.npz", X=np.array([[1], [2, 3]], dtype=object), y=np.arange(2))
    refused(path, Task.CLASSIFICATION, "pickled")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"no archive at all"])
def test_damaged_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    refused(tmp_path / "d.npz", Task.CLASSIFICATION, "npz")


# --- CSV series ---


def series_text(rows: int = 60, *, header: str = "date,a,b\n") -> str:
    return header + "".join(f"2020-01-01 00:{row // 60:02}:{row % 60:02},{row},{row * 10}\n" for row in range(rows))


def test_csv_windows_hold_what_they_say(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", series_text())
    dataset = get(path, Task.FORECAST, window=5, horizon=3, target="b", season=4)
    assert dataset.forecast is not None
    assert dataset.forecast.columns == ("a", "b")
    assert dataset.forecast.target_columns == (1,)
    for split in dataset.parts.values():
        row = split.index[:, None]
        np.testing.assert_array_equal(split.x["sequence"][:, :, 0], row + np.arange(-5, 0))
        np.testing.assert_array_equal(split.y["forecast"][:, :, 0], (row + np.arange(3)) * 10)
    # Cut by time: 60 rows, test from 48, validation from 41; no part's targets reach into the next.
    assert dataset.train.index.tolist() == list(range(5, 39))
    assert dataset.validation.index.tolist() == list(range(41, 46))
    assert dataset.test.index.tolist() == list(range(48, 58))


def test_csv_scale_is_that_of_the_training_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", series_text())
    info = get(path, Task.FORECAST, window=5, target="b", season=4, boundaries=(30, 40)).forecast
    assert info is not None
    values = np.arange(30) * 10.0
    assert info.mean == pytest.approx((values.mean(),))
    assert info.scale == pytest.approx((values.std(),))
    assert info.naive_error == pytest.approx((10.0,))
    assert info.seasonal_error == pytest.approx((40.0,))


def test_naive_and_seasonal_forecasts() -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    from edge_dl.data import ForecastInfo

    info = ForecastInfo(("a", "b"), ("b",), (1,), 5, 3, (0.0,), (1.0,), (1.0,))
    assert naive_forecast(x, info)[0, :, 0].tolist() == [11] * 5
    assert seasonal_forecast(x, info)[0, :, 0].tolist() == [7, 9, 11, 7, 9]
    with pytest.raises(UsageError, match="season"):
        seasonal_forecast(x[:, :2], info)


def test_csv_regression_predicts_the_next_step(tmp_path: Path) -> None:
    dataset = get(write(tmp_path / "s.csv", series_text()), Task.REGRESSION, window=5, target="a")
    np.testing.assert_array_equal(dataset.train.y["value"][:, 0], dataset.train.index)


def test_csv_without_header_and_other_delimiters(tmp_path: Path) -> None:
    rows = [f"{row}{{0}}{row * 2.5}" for row in range(40)]
    for name, delimiter in (("a.csv", ";"), ("b.tsv", "\t"), ("c.csv", ","), ("d.csv", " ")):
        path = write(tmp_path / name, "\n".join(row.format(delimiter) for row in rows))
        dataset = get(path, Task.FORECAST, window=4)
        assert dataset.forecast is not None
        assert dataset.forecast.columns == ("c0", "c1")
        assert dataset.train.x["sequence"][0, :, 1].tolist() == [0, 2.5, 5, 7.5]


def test_csv_missing_values_are_filled_from_the_past_only(tmp_path: Path) -> None:
    cells = ["NA", "", "1", "2", "?", "nan", "5", *map(str, range(6, 40))]
    path = write(tmp_path / "m.csv", "t,v\n" + "".join(f"x,{cell}\n" for cell in cells))
    refused(
        path,
        Task.FORECAST,
        "4 in .*m.csv, the first in row 2, column v.*data.missing=forward",
        columns=("v",),
        window=3,
    )
    dataset = get(path, Task.FORECAST, columns=("v",), window=3, missing="forward")
    assert dataset.train.x["sequence"][:4, :, 0].tolist() == [[1, 2, 2], [2, 2, 2], [2, 2, 5], [2, 5, 6]]
    assert dataset.train.index[0] == 5  # rows keep their place in the source
    assert any("2 filled" in note and "2 leading rows dropped" in note for note in dataset.notes)


def test_csv_boundaries(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", series_text())
    dataset = get(path, Task.FORECAST, window=5, target="a", boundaries=(20, 30, 40))
    assert dataset.test.index.tolist() == list(range(30, 40))
    refused(path, Task.FORECAST, "boundaries", window=5, boundaries=(30, 20))
    refused(path, Task.FORECAST, "boundaries", window=5, boundaries=(30, 40, 100))
    refused(path, Task.FORECAST, "boundaries", window=5, boundaries=(30,))


def test_csv_limit_takes_windows_over_the_whole_time(tmp_path: Path) -> None:
    dataset = get(write(tmp_path / "s.csv", series_text()), Task.FORECAST, window=5, limit=3)
    assert dataset.train.index.tolist() == [5, 23, 40]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "needs rows"),
        ("a,b\n", {}, "header only"),
        ("a,b\n1,2\n3\n", {}, "1 in row 3, 2 in the first"),
        ("a,a\n1,2\n3,4\n", {}, "'a' twice"),
        ("a,b\n1,2\n3,oops\n" + "5,6\n" * 30, {}, "'oops' in .*row 3, column b"),
        ("a,b\n1,2\n3,inf\n" + "5,6\n" * 30, {}, "infinity in .*row 3, column b"),
        ("a,b\n" + "x,y\n" * 30, {}, "column of numbers"),
        ("a,b\n" + "1,2\n" * 30, {"target": "c"}, "has a, b"),
        ("a,b\n" + "1,2\n" * 30, {"columns": ("a", "d")}, "'d'"),
        ("a,b\n" + "1,2\n" * 30, {"window": 0}, "data.window"),
        ("a,b\n" + "1,2\n" * 30, {"window": 40}, "too short"),
        ("a,b\n" + "1,2\n" * 30, {"season": 9}, "season 9, window 5"),
        ("a,b\n" + "1,2\n" * 30, {"test": 1.0}, "data.test"),
        ("a,b\n" + "1,2\n" * 30, {"validation": -1.0}, "data.validation"),
        ("a,b\n" + "1,2\n" * 30, {"missing": "zero"}, "refuse or forward"),
        ("a,b\n" + "1,\n" * 30, {"missing": "forward", "columns": ("a", "b")}, "column b is empty"),
        ("a,b\n" + '1,"2\n' * 3, {}, "well-formed CSV"),
        ("d,v\n2020-01-02,1\n2020-01-03,2\n2020-01-01,3\n" + "2020-02-01,4\n" * 30, {}, "time order"),
        ("a,b\n" + "1,2\n" * 30, {"stride": -1}, "must not be negative"),
        ("a,b\n" + "1,2\n" * 30, {"limit": -1}, "must not be negative"),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
    refused(write(tmp_path / "bad.csv", text), Task.FORECAST, message, **{"window": 5, **settings})


def test_csv_for_another_task_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", series_text())
    refused(path, Task.CLASSIFICATION, "data.form=rows", window=5)
    refused(path, Task.REGRESSION, "next step", window=5, horizon=2)


# --- rows ---


def test_rows_with_label_first(tmp_path: Path) -> None:
    lines = [f"{row % 2 + 1}.0000e+00  {row}  {row + 1}  {row + 2}" for row in range(40)]
    write(tmp_path / "Toy_TRAIN.txt", "\n".join(lines[:30]))
    write(tmp_path / "Toy_TEST.txt", "\n".join(lines[30:]))
    for name in ("Toy_TRAIN.txt", "Toy_TEST.txt"):  # either names the pair
        dataset = get(tmp_path / name, Task.CLASSIFICATION, form="rows")
        assert dataset.labels == ("1", "2")
        assert dataset.test.index.tolist() == list(range(30, 40))
        np.testing.assert_array_equal(dataset.test.x["sequence"][:, 0, 0], np.arange(30, 40))
        np.testing.assert_array_equal(dataset.test.y["label"], np.arange(30, 40) % 2)


def test_rows_with_named_target(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "v0,v1,kind\n" + "".join(f"{n},{n + 1},{'ab'[n % 2]}\n" for n in range(40)))
    dataset = get(path, Task.CLASSIFICATION, form="rows", target="kind")
    assert dataset.labels == ("a", "b")
    assert dataset.train.x["sequence"].shape[1:] == (2, 1)
    path = write(tmp_path / "n.csv", "v0,v1,y\n" + "".join(f"{n},{n + 1},{n / 2}\n" for n in range(40)))
    dataset = get(path, Task.REGRESSION, form="rows", target="y")
    np.testing.assert_allclose(dataset.test.y["value"][:, 0], dataset.test.index / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n0,x,4\n", "'x' in .*row 2 of the data, value 1"),
        ("1,2,3\n0,,4\n", "'' in .*row 2 of the data, value 1"),
        ("1,2,3\n0,nan,4\n", "nan in .*row 2 of the data, value 1"),
        ("1\n0\n", "label and at least one value"),
        ("1,2,3\n0,1\n", "same number of cells"),
        ("1,2,3\n1,2,4\n1,3,3\n1,1,1\n1,5,5\n", "single class"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, text: str, message: str) -> None:
    refused(write(tmp_path / "bad.csv", text), Task.CLASSIFICATION, message, form="rows")


def test_test_rows_without_training_rows_are_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "Toy_TEST.txt", "1,2\n0,3\n"), Task.CLASSIFICATION, "Add Toy_TRAIN.txt", form="rows")


# --- .ts ---

TS_HEADER = """#A comment
@problemName Toy
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength true
@seriesLength 3
@classLabel true up down
@data
"""


def ts_lines(first: int, count: int) -> str:
    return "".join(
        f"{n},{n + 1},{n + 2}:{-n},0.5,1e-3:{'up' if n % 2 else 'down'}\n" for n in range(first, first + count)
    )


def test_ts_pair(tmp_path: Path) -> None:
    write(tmp_path / "Toy_TEST.ts", TS_HEADER + ts_lines(30, 10))
    dataset = get(write(tmp_path / "Toy_TRAIN.ts", TS_HEADER + ts_lines(0, 30)), Task.CLASSIFICATION)
    assert dataset.name == "Toy"
    assert dataset.labels == ("up", "down")
    np.testing.assert_allclose(dataset.test.x["sequence"][0], [[30, -30], [31, 0.5], [32, 1e-3]])
    np.testing.assert_array_equal(dataset.test.y["label"], [1, 0] * 5)


def test_ts_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Toy.zip", "w") as archive:
        archive.writestr("set/Toy_TRAIN.ts", TS_HEADER + ts_lines(0, 30))
        archive.writestr("set/Toy_TEST.ts", TS_HEADER + ts_lines(30, 10))
        archive.writestr("set/readme.md", "nothing")
    for source in (tmp_path / "Toy.zip", f"{tmp_path / 'Toy.zip'}::set/Toy_TRAIN.ts"):
        dataset = get(source, Task.CLASSIFICATION)
        assert len(dataset.train) + len(dataset.validation) == 30
        assert len(dataset.test) == 10


def test_ts_regression(tmp_path: Path) -> None:
    header = TS_HEADER.replace("@classLabel true up down", "@targetlabel true")
    body = "".join(f"{n},2,3:1,1,1:{n / 4}\n" for n in range(40))
    path = write(tmp_path / "r.ts", header + body)
    dataset = get(path, Task.REGRESSION)
    np.testing.assert_allclose(dataset.test.y["value"][:, 0], dataset.test.index / 4)
    refused(path, Task.CLASSIFICATION, "data for regression")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "@data"),
        ("1,2:up\n", "@data"),
        (TS_HEADER, "needs samples"),
        (TS_HEADER.replace("@timeStamps false", "@timeStamps true") + ts_lines(0, 4), "Time stamps"),
        (TS_HEADER.replace("true up down", "true up") + "1,2,3:1,2,3:up\n", "single class"),
        (TS_HEADER.replace("@classLabel true up down", "@classLabel false") + "1,2,3:1,2,3\n", "classes or targets"),
        (TS_HEADER + "1,2,3:1,2,3:left\n", "'left' in .*line 11"),
        (TS_HEADER + "1,2,3:1,2,3:up\n1,2:1,2:down\n", "lengths 2 to 3"),
        (TS_HEADER + "1,2,3:1,2,3:up\n1,2,3:down\n", "number of dimensions"),
        (TS_HEADER + "1,2,3:1,2:up\n", "dimensions of a sample"),
        (TS_HEADER + "1,?,3:1,2,3:up\n", "'\\?' in .*line 11, dimension 1"),
        (TS_HEADER + "1,NaN,3:1,2,3:up\n", "NaN in .*line 11, dimension 1, step 1"),
        (TS_HEADER + "up\n", "end with its label"),
    ],
)
def test_bad_ts_is_refused(tmp_path: Path, text: str, message: str) -> None:
    refused(write(tmp_path / "bad.ts", text), Task.CLASSIFICATION, message)


# --- text ---

TEXT = "".join(f"The {n}th line, don't repeat: {n * n}.\n" for n in range(400))


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_text_characters_are_read_in_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(gzip.compress(TEXT.encode()) if suffix.endswith("gz") else TEXT.encode())
    dataset = get(path, Task.LANGUAGE_MODEL, window=20)
    assert dataset.vocabulary[0] == UNKNOWN
    assert dataset.level == "character"
    for split in dataset.parts.values():
        for row in (0, -1):
            at = int(split.index[row])
            assert "".join(dataset.vocabulary[token] for token in split.x["tokens"][row]) == TEXT[at - 1 : at + 19]
            assert "".join(dataset.vocabulary[token] for token in split.y["next_token"][row]) == TEXT[at : at + 20]
    assert dataset.train.index.max() + 20 <= dataset.validation.index.min() + 1
    assert dataset.validation.index.max() + 20 <= dataset.test.index.min() + 1


def test_vocabulary_comes_from_training_and_obeys_its_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", TEXT + "ΩΩΩ" * 20)
    dataset = get(path, Task.LANGUAGE_MODEL, window=10)
    assert "Ω" not in dataset.vocabulary
    assert dataset.test.x["tokens"].min() == 0
    assert dataset.train.x["tokens"].min() > 0
    assert any("outside the vocabulary" in note for note in dataset.notes)
    limited = get(path, Task.LANGUAGE_MODEL, window=10, vocabulary=6)
    assert limited.vocabulary == dataset.vocabulary[:6]
    assert limited.train.x["tokens"].max() == 5


def test_text_words(tmp_path: Path) -> None:
    dataset = get(write(tmp_path / "t.txt", TEXT), Task.LANGUAGE_MODEL, level="word", window=11)
    words = [dataset.vocabulary[token] for token in dataset.train.x["tokens"][0]]
    assert words == ["the", "0th", "line", ",", "don't", "repeat", ":", "0", ".", "\n", "the"]
    assert dataset.level == "word"


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_words_survive_joining(text: str) -> None:
    words = split_words(text)
    assert split_words(join_words(words).replace("\n", " \n ")) == split_words(join_words(words))
    assert all(word == "\n" or not word.isspace() for word in words)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"", {}, "empty"),
        (b"short", {}, "too short"),
        (b"\xff\xfe broken \x80" * 50, {}, "UTF-8.*byte 0"),
        (b"a\0b" * 500, {}, "NUL"),
        (TEXT.encode(), {"level": "syllable"}, "character, word"),
        (TEXT.encode(), {"vocabulary": 1}, "at least 2"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, content: bytes, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    refused(tmp_path / "bad.txt", Task.LANGUAGE_MODEL, message, **settings)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:-30])
    refused(tmp_path / "t.txt.gz", Task.LANGUAGE_MODEL, "gzip")


# --- where data is ---


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    refused("", Task.CLASSIFICATION, "must be named")
    refused("digits-row", Task.CLASSIFICATION, "Did you mean digits-rows")
    refused(tmp_path / "none.npz", Task.CLASSIFICATION, "existing path")
    refused(write(tmp_path / "a.xyz", "1"), Task.CLASSIFICATION, "tell its form.*npz.*csv.*ts.*text")
    refused(write(tmp_path / "a.npz", "1"), Task.CLASSIFICATION, "must be known.*Received: zap", form="zap")
    refused(tmp_path, Task.CLASSIFICATION, "tell its form")
    refused(tmp_path, Task.CLASSIFICATION, "a folder", form="csv")


def test_archive_members(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/s.csv", series_text())
        archive.writestr("b.txt", TEXT)
    assert len(get(f"{path}::a/s.csv", Task.FORECAST, window=5).train) == 36
    refused(f"{path}::a/t.csv", Task.FORECAST, "no such member.*a/s.csv", window=5)
    refused(f"{path}::../z.zip", Task.FORECAST, "inside its archive", window=5)
    refused(f"{path}::/etc/passwd", Task.FORECAST, "inside its archive", window=5)
    refused(path, Task.FORECAST, "several data files", window=5)
    path.write_bytes(path.read_bytes()[:100])
    refused(f"{path}::a/s.csv", Task.FORECAST, "whole zip", window=5)


def test_forms_are_told_by_name() -> None:
    names = {
        "a.npz": "npz",
        "a.CSV": "csv",
        "a.tsv.gz": "csv",
        "A_TRAIN.ts": "ts",
        "a.txt.gz": "text",
        "a.zip": "",
        "a": "",
    }
    assert {name: form_of(name) for name in names} == names
    assert set(names.values()) - {""} | {"rows", "pictures", "sounds", "sentences"} == set(FORMS)
