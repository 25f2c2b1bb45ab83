"""What benchmarks/translation_speed.py counts. How fast anything is, no test asserts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_decoder import TinyDecoder

from edge_dl.runtime.search import END, search

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import translation_speed


@pytest.mark.parametrize("ends", [-50.0, 50.0])
def test_an_end_counts_where_the_model_said_it(ends: float) -> None:
    decoder, source = TinyDecoder(steps=6, ends=ends), np.array([4, 5, END], np.int32)
    (found,) = search(decoder, source)
    assert found.finished == (ends > 0)
    seconds, count = translation_speed.tokens_of(decoder, [source, source], 1)
    assert count == (2 * 1 if found.finished else 2 * 6)
    assert seconds > 0
