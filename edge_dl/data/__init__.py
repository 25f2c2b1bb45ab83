"""Data: on-disk forms, named public sets and built-in sets, all becoming a checked `Dataset`.

Importing this package is light; `load` imports what the form or the set needs.
"""

from __future__ import annotations

from edge_dl.data.dataset import Dataset, ForecastInfo, Split, output_name, read, save
from edge_dl.data.loading import load

__all__ = ["Dataset", "ForecastInfo", "Split", "load", "output_name", "read", "save"]
