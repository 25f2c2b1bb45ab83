"""The inner loop on PyTorch: one step after the other, on data that stays on the device."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import keras
import numpy as np
import torch

from edge_dl.training.batches import Arrays
from edge_dl.training.loops import take


class TorchLoop:
    """See `edge_dl.training.loops.Loop`."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def place(self, arrays: Arrays) -> Any:
        """Move arrays to the device."""

        def tensors(named: Any) -> Any:
            if named is None:
                return None
            return {name: torch.as_tensor(array, device=self._device) for name, array in named.items()}

        return tensors(arrays.x), tensors(arrays.y), tensors(arrays.weight)

    def begin(self) -> None:
        """Start a pass: metrics at zero."""
        self._model.reset_metrics()

    def train(self, data: Any, rows: np.ndarray, first: int, last: int) -> None:
        """Training steps `first` to `last` (not included); returns when they are done."""
        self._model.train()
        for picked in torch.as_tensor(rows[first:last], device=self._device):
            self._model.train_step(take(data, itemgetter(picked)))

    def evaluate(self, data: Any, rows: np.ndarray) -> None:
        """Evaluate every batch of `rows`."""
        self._model.eval()
        with torch.no_grad():
            for picked in torch.as_tensor(rows, device=self._device):
                self._model.test_step(take(data, itemgetter(picked)))

    def results(self) -> dict[str, float]:
        """Loss and metrics since `begin`."""
        return {name: float(value) for name, value in self._model.get_metrics_result().items()}

    def finish(self) -> None:
        """End a pass: PyTorch's variables are never behind."""
