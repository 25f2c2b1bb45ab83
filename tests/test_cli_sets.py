"""`edge-dl data info` in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_dl.cli import sets


def test_a_data_set_is_described_in_words_and_whole_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    sets.info("digits-rows", task="", overrides=[], json=False)
    text = capsys.readouterr().out
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    assert "1,222 samples; sequence 8 x 8 float32; label int32; label classes 121, " in text
    assert not set("{}[]") & set(text), "a Python value was printed as it is"
    assert "None" not in text
    sets.info("digits-rows", task="", overrides=[], json=True)
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["samples"] == 1222


def test_many_tokens_are_cut_and_white_ones_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    sets.info("python-topics", task="", overrides=[], json=False)
    text = capsys.readouterr().out
    assert '<unk>, " ", e, t' in text
    assert " more" in text


def test_arrays_without_targets_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", X=np.random.default_rng(0).normal(size=(40, 5, 3)))
    sets.info(str(tmp_path / "x.npz"), task="", overrides=[], json=True)
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["y"] == {}
