"""Training: recipes, the trainer, and how far gradients flow through time.

Importing this package imports neither Keras nor a backend; `train` does, when it is called.
"""

from __future__ import annotations

from edge_dl.training.recipes import RECIPES
from edge_dl.training.trainer import train

__all__ = ["RECIPES", "train"]
