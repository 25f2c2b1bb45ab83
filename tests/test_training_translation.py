"""Training on sentence pairs: in buckets, resumed to the same weights, and with a loss that padding does not touch."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import translation_training
from sentence_pairs import make_dataset

from edge_dl.errors import UsageError
from edge_dl.recipe import Seq2SeqConfig, Task, TrainingConfig
from edge_dl.training import RECIPES, checkpoint, train

keras = pytest.importorskip("keras", reason="models need Keras: pip install 'edge-dl[train]'")
pytest.importorskip("sentencepiece", reason="vocabularies need SentencePiece: pip install 'edge-dl[train]'")

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
ENVIRONMENT.pop("KERAS_BACKEND", None)


def run(folder: Path, backend: str, epochs: int) -> tuple[list[str], str]:
    """What a training said, and what was written to standard error."""
    command = [sys.executable, translation_training.__file__, str(folder), backend, str(epochs)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_resumed_training_comes_to_the_same_weights(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said, errors = run(whole, backend, 3)
    buckets, padding = re.match(r"(\d+) buckets of sentence lengths: ([\d.]+)% of", said[1]).groups()  # type: ignore[union-attr]
    assert int(buckets) >= 2
    assert "retracing" not in errors  # Several shapes are meant.
    run(parts, backend, 1)
    assert "Going on after epoch 1 of 3" in run(parts, backend, 3)[0]
    first, second = (checkpoint.load(folder / "train" / "checkpoint") for folder in (whole, parts))
    assert first is not None
    assert second is not None
    for straight, resumed in zip(first.variables + first.optimizer, second.variables + second.optimizer, strict=True):
        np.testing.assert_array_equal(straight, resumed)
    history = json.loads((whole / "train" / "history.json").read_text())
    assert history["padding"] == pytest.approx(float(padding) / 100, abs=6e-4)
    losses = [entry["loss"] for entry in history["epochs"]]
    assert losses[-1] < losses[0]
    # One loss a real token on both sides, whatever the buckets pad.
    assert history["epochs"][-1]["validation_loss"] == pytest.approx(losses[-1], rel=0.15)


def test_settings_that_do_not_go_with_translation_are_refused(tmp_path: Path) -> None:
    recipe = RECIPES["translate"]
    training = dataclasses.replace(TrainingConfig(), balance=True, epochs=1, backend=keras.backend.backend())
    recipe = dataclasses.replace(recipe, model=Seq2SeqConfig("gru", (4,), 4), training=training)
    with pytest.raises(UsageError, match="balance needs one class an answer"):
        train(recipe, make_dataset(60), tmp_path)


def test_arrays_without_sentences_are_refused_in_words(tmp_path: Path) -> None:
    dataset = make_dataset(60)
    parts = {
        part: dataclasses.replace(split, x={"encoder_in": split.x["source"], "decoder_in": split.x["target"]})
        for part, split in dataset.parts.items()
    }
    recipe = dataclasses.replace(RECIPES["translate"], task=Task.TRANSLATION)
    recipe = dataclasses.replace(recipe, training=TrainingConfig(epochs=1, backend=keras.backend.backend()))
    with pytest.raises(UsageError, match="needs sentence pairs"):
        train(recipe, dataclasses.replace(dataset, sentences=None, **parts), tmp_path)
