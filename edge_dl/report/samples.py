"""Drawings of test samples by their row in the data's source, from a run folder's data/test.npz where it is there."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.files import load_npz, read_json
from edge_dl.report.strips import overlay, strip


class Samples:
    """The test split of a run folder. Whatever is missing or damaged gives no drawing, never an error."""

    def __init__(self, run: Path | None) -> None:
        self._run = run

    def input(self, index: object) -> str:
        """HTML of the first input of the sample whose row in the source is `index`; "" where it is not known."""
        row = self._row(index)
        names = [name for name in self._arrays if name.startswith("x/")]
        if row is None or not names or row >= len(self._arrays[names[0]]):
            return ""
        return strip(self._arrays[names[0]][row], self._vocabulary)

    def forecast(self, index: object, output: object) -> str:
        """HTML of a forecast's truth and reference answer over each other; "" where they are not known or no curves."""
        row = self._row(index)
        truth, answer = self._arrays.get(f"y/{output}"), self._reference.get(f"y/{output}")
        if "index" in self._reference:  # Only some rows have an answer, and these are no forecasts.
            return ""
        if row is None or truth is None or answer is None or row >= min(len(truth), len(answer)):
            return ""
        if truth[row].size < 2 or truth[row].shape != answer[row].shape:
            return ""
        curves = {"truth": truth[row], "Keras model": answer[row]}
        return overlay({name: _plain(curve) for name, curve in curves.items()})

    def _row(self, index: object) -> int | None:
        if isinstance(index, bool) or not isinstance(index, int):
            return None
        return self._rows.get(index)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return self._load("data/test.npz")

    @cached_property
    def _reference(self) -> dict[str, np.ndarray]:
        return self._load("export/reference.npz")

    @cached_property
    def _rows(self) -> dict[int, int]:
        index = self._arrays.get("index")
        if index is None or index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            return {}
        return {source: row for row, source in reversed(list(enumerate(index.tolist())))}

    @cached_property
    def _vocabulary(self) -> list[str]:
        if self._run is None:
            return []
        try:
            description = read_json(self._run / "data/dataset.json")
        except (UsageError, OSError):
            return []
        words = description.get("vocabulary") if isinstance(description, dict) else None
        return [str(word) for word in words] if isinstance(words, list) else []

    def _load(self, name: str) -> dict[str, np.ndarray]:
        if self._run is None:
            return {}
        try:
            return load_npz(self._run / name)
        except (UsageError, OSError):
            return {}


def _plain(curve: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in np.asarray(curve, np.float64).reshape(-1)]
