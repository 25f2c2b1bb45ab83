"""The trainer, mostly in child processes: a process has one Keras backend, and some of these get killed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_run

from edge_dl.errors import StageError, UsageError
from edge_dl.recipe import apply_overrides, to_json
from edge_dl.training import RECIPES, checkpoint, train
from edge_dl.training.backend import Device, choose_precision, choose_xla, select_backend

ENVIRONMENT = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
ENVIRONMENT.pop("KERAS_BACKEND", None)
BACKENDS = ("tensorflow", "jax", "torch")


def start(folder: Path, backend: str, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, training_run.__file__, str(folder), backend, *settings]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder: Path, backend: str, *settings: str) -> list[str]:
    child = start(folder, backend, *settings)
    output, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    return output.splitlines()


def stop(folder: Path, backend: str, epoch: int, number: int) -> str:
    """Start a training, send it signal `number` as soon as it works on `epoch`, and return what it said after that."""
    child = start(folder, backend, f"stop={epoch}")
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(f"epoch {epoch},"):
            child.send_signal(number)
            break
    output, errors = child.communicate(timeout=300)
    assert child.returncode == -number or number == signal.SIGINT, errors
    return output


def outcome(folder: Path) -> tuple[checkpoint.Checkpoint, list[dict[str, Any]]]:
    """The last checkpoint, and history without what the clock says."""
    state = checkpoint.load(folder / "train" / "checkpoint")
    assert state is not None
    epochs = json.loads((folder / "train" / "history.json").read_text())["epochs"]
    return state, [{key: value for key, value in entry.items() if "seconds" not in key} for entry in epochs]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(backend: str) -> Path:
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"the {backend} package is not installed")
        if backend not in made:
            made[backend] = tmp_path_factory.mktemp(backend)
            finish(made[backend], backend)
        return made[backend]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_killed_with_kill_9_goes_on_to_the_same_weights(
    backend: str, tmp_path: Path, uninterrupted: Callable[[str], Path]
) -> None:
    whole, history = outcome(uninterrupted(backend))
    stop(tmp_path, backend, epoch=4, number=signal.SIGKILL)
    left = checkpoint.load(tmp_path / "train" / "checkpoint")
    assert left is not None
    assert left.epoch == 3
    assert not (tmp_path / "train" / "model.keras").exists()

    lines = finish(tmp_path, backend)

    assert f"Going on after epoch {left.epoch} of 8" in lines
    resumed, resumed_history = outcome(tmp_path)
    for before, after in zip(
        whole.variables + whole.optimizer + whole.best,
        resumed.variables + resumed.optimizer + resumed.best,
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    assert resumed_history == history
    assert resumed.state == whole.state


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    output = stop(tmp_path, "tensorflow", epoch=4, number=signal.SIGINT)
    assert "Interrupted after 3 of 8 epochs: the same command goes on from there" in output
    left = checkpoint.load(tmp_path / "train" / "checkpoint")
    assert left is not None
    assert left.epoch == 3


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_training_writes(backend: str, uninterrupted: Callable[[str], Path]) -> None:
    folder = uninterrupted(backend) / "train"
    history = json.loads((folder / "history.json").read_text())
    assert [entry["epoch"] for entry in history["epochs"]] == list(range(1, len(history["epochs"]) + 1))
    for entry in history["epochs"]:
        numbers = ("seconds", "learning_rate", "loss", "accuracy", "balanced_accuracy", "validation_loss",
                   "validation_accuracy", "validation_balanced_accuracy")  # fmt: skip
        assert all(math.isfinite(entry[key]) for key in numbers)
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]
    assert history["backend"].startswith(backend)
    assert 0 <= history["input_share"] < 1

    flow = json.loads((folder / "gradient_flow.json").read_text())
    assert flow["steps"] == list(range(6))
    for curve in ("untrained", "trained"):
        assert len(flow["curves"][curve]) == 6
        assert all(value > 0 for value in flow["curves"][curve])

    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    points = events.Scalars("validation_loss")
    assert [point.step for point in points] == [entry["epoch"] for entry in history["epochs"]]
    np.testing.assert_allclose([p.value for p in points], [e["validation_loss"] for e in history["epochs"]], rtol=1e-6)

    # The file loads on whatever backend this process has, and answers as it did when it was best.
    import keras

    from edge_dl import models

    models.register()
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    part = training_run.dataset().validation
    answered = np.asarray(model.predict(part.x, verbose=0)["label"]).argmax(axis=1)
    best = history["epochs"][history["best_epoch"] - 1]
    assert np.mean(answered == part.y["label"]) == pytest.approx(best["validation_accuracy"], abs=1e-6)


def small(**overrides: str) -> Any:
    """A recipe that trains in this process in about a second."""
    settings = {"training.epochs": "3", "training.jit_compile": "off", "model.recurrent_dropout": "0"}
    return apply_overrides(training_run.RECIPE, {**settings, **{k.replace("__", "."): v for k, v in overrides.items()}})


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_dl.training.trainer._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    data = training_run.dataset()
    train(small(training__epochs="2", training__schedule="constant"), data, tmp_path)
    good = checkpoint.load(tmp_path / "train" / "checkpoint")
    assert good is not None
    assert good.epoch == 2
    # The same training, two epochs later and on broken numbers: NaN cannot reach the checkpoint.
    data.train.x["sequence"][:] = np.nan
    with pytest.raises(StageError, match=r"loss must stay a finite number.*epoch 3.*learning_rate") as caught:
        train(small(training__epochs="4", training__schedule="constant"), data, tmp_path)
    assert caught.value.exit_code == 3
    kept = checkpoint.load(tmp_path / "train" / "checkpoint")
    assert kept is not None
    assert kept.epoch == 2
    assert all(np.isfinite(array).all() for array in kept.variables)


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    recipe = small(training__epochs="30", training__patience="2", training__learning_rate="0.5")
    train(recipe, training_run.dataset(), tmp_path)
    history = json.loads((tmp_path / "train" / "history.json").read_text())
    losses = [entry["validation_loss"] for entry in history["epochs"]]
    assert len(losses) < 30
    assert history["best_epoch"] == 1 + int(np.argmin(losses)) == len(losses) - 2


def test_a_plateau_halves_the_learning_rate(tmp_path: Path) -> None:
    recipe = small(training__epochs="12", training__patience="0", training__plateau="2", training__warmup="2")
    train(recipe, training_run.dataset(), tmp_path)
    epochs = json.loads((tmp_path / "train" / "history.json").read_text())["epochs"]
    best, stale, rate = math.inf, 0, recipe.training.learning_rate
    for number, entry in enumerate(epochs):
        warm = min(1.0, (number + 1) / 2)
        assert entry["learning_rate"] == pytest.approx(rate * warm, rel=1e-5)
        if entry["validation_loss"] < best:
            best, stale = entry["validation_loss"], 0
        else:
            stale += 1
            rate *= 0.5 if stale % 2 == 0 else 1.0


def test_another_learning_rate_trains_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = training_run.dataset()
    train(small(), data, tmp_path)
    first = outcome(tmp_path)[1]
    train(small(training__learning_rate="0.001"), data, tmp_path, progress=training_run.Talking())
    assert "training anew" in capsys.readouterr().out
    assert outcome(tmp_path)[1] != first


def test_a_finished_training_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = training_run.dataset()
    train(small(), data, tmp_path)
    before = outcome(tmp_path)
    train(small(), data, tmp_path, progress=training_run.Talking())
    lines = capsys.readouterr().out
    assert "Going on after epoch 3 of 3" in lines
    assert "loss" not in lines
    assert outcome(tmp_path)[1] == before[1]


def test_without_resume_it_starts_anew_and_ends_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = training_run.dataset()
    train(small(), data, tmp_path)
    before = outcome(tmp_path)[1]
    train(small(), data, tmp_path, progress=training_run.Talking(), resume=False)
    assert "epoch 1, loss" in capsys.readouterr().out
    assert outcome(tmp_path)[1] == before


def test_training_on_the_validation_part_too(tmp_path: Path) -> None:
    recipe = small(training__use_validation="true", training__patience="0", training__schedule="constant")
    train(recipe, training_run.dataset(), tmp_path)
    for entry in outcome(tmp_path)[1]:
        assert "validation_loss" not in entry
    with pytest.raises(UsageError, match="Early stopping needs a validation part"):
        train(small(training__use_validation="true"), training_run.dataset(), tmp_path)


def test_steps_per_execution_changes_no_weight(tmp_path: Path) -> None:
    data = training_run.dataset()
    for steps in ("1", "3"):
        train(small(training__steps_per_execution=steps), data, tmp_path / steps)
    assert outcome(tmp_path / "1")[1] == outcome(tmp_path / "3")[1]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full_disk)
    with pytest.raises(StageError, match=r"There must be room.*No space left"):
        train(small(), training_run.dataset(), tmp_path)


def test_a_process_keeps_its_backend() -> None:
    import keras

    loaded = keras.config.backend()
    assert select_backend("") == loaded
    other = "jax" if loaded != "jax" else "tensorflow"
    with pytest.raises(UsageError, match=f"one Keras backend.*{other}.*{loaded}.*KERAS_BACKEND={other}"):
        select_backend(other)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match=r"training.backend must be one of tensorflow, jax, torch.*theano"):
        select_backend("theano")


def test_a_backend_that_is_not_installed_is_refused_before_keras_is_imported() -> None:
    script = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "jax" else find(name, *rest)
from edge_dl.errors import UsageError
from edge_dl.training.backend import select_backend
try:
    select_backend("jax")
except UsageError as error:
    print(error)
print("keras" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "pip install 'edge-dl[jax]'" in found
    assert found.splitlines()[-1] == "False"


def test_importing_the_package_is_light() -> None:
    script = "import sys, edge_dl.training; print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


def test_precision_and_xla_follow_the_device() -> None:
    cpu, gpu = Device("cpu", "2 cores"), Device("gpu", "some GPU")
    assert choose_precision(True, "jax", cpu) == "float32"
    assert choose_precision(False, "jax", gpu) == "float32"
    assert choose_precision(True, "tensorflow", gpu) == "mixed_float16"
    assert choose_precision(True, "jax", gpu) == "mixed_bfloat16"
    facts = {"time_steps": 8, "random": False, "updates": 5000}
    assert choose_xla("auto", "tensorflow", cpu, **facts)
    assert not choose_xla("auto", "tensorflow", gpu, **facts)
    for other in ({"time_steps": 400}, {"random": True}, {"updates": 10}):
        assert not choose_xla("auto", "tensorflow", cpu, **{**facts, **other})
        assert choose_xla("on", "tensorflow", cpu, **{**facts, **other})
        assert choose_xla("auto", "jax", cpu, **{**facts, **other})
    with pytest.raises(UsageError, match="jit_compile must be one of"):
        choose_xla("maybe", "jax", cpu, **facts)


def test_recipes_are_named_by_their_key_and_survive_json() -> None:
    known = "rnn, lstm, gru, forecast, language-model, adding, cnn, resnet8, mobilenet, photo-encoder"
    speech = "speech-cnn, speech-rnn, speech-lstm, speech-transformer, speech-ctc"
    assert set(RECIPES) == set(f"{known}, {speech}, seq2seq, translate".split(", "))
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        json.dumps(to_json(recipe))
