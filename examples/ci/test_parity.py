"""Copy this file into your tests: every model that you ship still answers as it was trained, and is not slower.

One test a variant of the run folder. Name a bundle of your own instead, or a .tflite with its Keras model:

    def test_my_model(edge_parity):
        assert edge_parity("model.tflite", "model.keras", "data.npz", min_top1=0.99)
"""

import os
from pathlib import Path

import pytest

RUN = Path(os.environ.get("EDGE_DL_RUN", "run"))
BUNDLES = sorted(path.parent for path in RUN.glob("variants/*/manifest.json"))


def test_there_are_models() -> None:
    """Without this, an empty folder would pass."""
    assert BUNDLES, f"no variants in {RUN.resolve()}"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_same_answers(edge_parity, bundle) -> None:
    """The variant against the Keras model's own answers, under the limits that stand in its bundle."""
    assert edge_parity(bundle)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_speed(edge_latency, bundle) -> None:
    """The variant against its baseline, where --edge-fail says what is too slow."""
    assert edge_latency(bundle)
