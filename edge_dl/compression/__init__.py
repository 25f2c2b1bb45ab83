"""Training that makes a trained model smaller: pruning, weight clustering, quantization-aware training.

tensorflow-model-optimization does the work, and it knows tf-keras models only. So a Keras 3 model is rebuilt as an
equal tf-keras model (`bridge`), trained there (`pruning`, `clustering`, `quantizing`), and its weights come back.
Importing this package imports neither.
"""

from __future__ import annotations

from edge_dl.compression.settings import check_settings, ordered, require_tools

__all__ = ["check_settings", "ordered", "require_tools"]
