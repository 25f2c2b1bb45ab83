"""Many samples, in one process and in several, give the same answers; a crash is an error."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models as models

from edge_dl.errors import StageError, UsageError
from edge_dl.runtime import evaluation, open_session, predict_all

Tflite = Callable[[str], Path]


class Counting:
    """A `Progress` that adds up."""

    def __init__(self) -> None:
        self.total: float | None = None
        self.done = 0.0
        self.reports = 0

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[Any]:
        self.total = total
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        self.reports += 1

    def say(self, message: str) -> None:
        raise AssertionError(message)


@pytest.mark.parametrize("processes", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["conv-int8-io", "conv-batch4"])
def test_answers_do_not_depend_on_the_number_of_processes(tflite: Tflite, name: str, processes: int) -> None:
    data = models.images(601)
    progress = Counting()
    answers = predict_all(tflite(name), {"image": data}, processes=processes, progress=progress)
    assert answers["label"].shape == (601, models.CLASSES)
    np.testing.assert_array_equal(answers["label"], open_session(tflite(name)).predict(data)["label"])
    assert progress.total == 601
    assert progress.done == 601
    assert progress.reports > 1 or processes > 1  # Children may be done before anybody asks them.


def test_several_inputs_and_outputs_in_children(tflite: Tflite) -> None:
    inputs = {"left": np.random.default_rng(0).random((7, 3)), "right": np.arange(14).reshape(7, 2)}
    for processes in (1, 2):
        answers = predict_all(tflite("two"), inputs, processes=processes)
        np.testing.assert_allclose(answers["scaled"], inputs["left"] * 2 + inputs["right"][:, :1], rtol=1e-6)
        assert answers["count"].dtype == np.int32


def test_more_processes_than_samples(tflite: Tflite) -> None:
    data = models.images(2)
    answers = predict_all(tflite("conv-float32"), {"image": data}, processes=5)
    np.testing.assert_allclose(answers["label"], models.conv_reference(data), atol=1e-5)


def test_the_probe_asks_for_children_only_where_they_pay() -> None:
    assert evaluation._worth(1000, 1e-4, 8) == 1  # a tenth of a second is less than a child's start
    assert evaluation._worth(100_000, 1e-3, 1) == 1
    assert evaluation._worth(100_000, 1e-3, 2) == 2
    assert evaluation._worth(100_000, 1e-3, 8) == 8


def test_the_probe_goes_on_in_children(tflite: Tflite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(evaluation, "_worth", lambda samples, seconds, most: 2)
    used = []
    real = evaluation._predict_in_children
    monkeypatch.setattr(evaluation, "_predict_in_children", lambda *args: used.append(args[2:4]) or real(*args))
    data = models.images(50)
    answers = predict_all(tflite("conv-float32"), {"image": data}, processes=0)
    assert used == [(2, 2)]
    np.testing.assert_allclose(answers["label"], models.conv_reference(data), atol=1e-5)


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_data_and_models_are_usage_errors(tflite: Tflite, tmp_path: Path, processes: int) -> None:
    data = models.images(4)
    bad = data.copy()
    bad[3, 0, 0, 0] = np.nan
    path = tflite("conv-float32")
    for inputs, rule in (
        ({"image": bad}, "NaN"),
        ({"image": data[:, :7]}, "has shape"),
        ({"picture": data}, "Exactly these inputs"),
        ({"image": data[:0]}, "at least one"),
        ({"image": np.array(1.0)}, "at least one"),
        ({"image": np.array([{}, {}, {}])}, "real numbers"),
        ({}, "at least one"),
    ):
        with pytest.raises(UsageError, match=rule):
            predict_all(path, inputs, processes=processes)
    with pytest.raises(UsageError, match=r"\.tflite"):
        predict_all(tmp_path / "none", {"image": data}, processes=processes)


@pytest.mark.parametrize("processes", [-1, 1.0, True])
def test_bad_numbers_of_processes(tflite: Tflite, processes: Any) -> None:
    with pytest.raises(UsageError, match="Processes"):
        predict_all(tflite("conv-float32"), {"image": models.images(1)}, processes=processes)


def test_a_crashing_worker_is_named_and_leaves_nothing(
    tflite: Tflite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        evaluation, "GuardedCall", lambda function, args: real_call("guarded_functions:crash", (), stage="run")
    )
    with pytest.raises(StageError, match="SIGSEGV"):
        predict_all(tflite("conv-float32"), {"image": models.images(4)}, processes=2)
    assert list(tmp_path.iterdir()) == []


def test_a_hanging_worker_meets_its_time_limit(tflite: Tflite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pids"
    monkeypatch.setattr(
        evaluation,
        "GuardedCall",
        lambda function, args: real_call("guarded_functions:hang_with_child", (str(note),), stage="run"),
    )
    with pytest.raises(StageError, match="within 2 seconds"):
        predict_all(tflite("conv-float32"), {"image": models.images(4)}, processes=2, timeout=2)


real_call = evaluation.GuardedCall
