"""Text to token ids and back, as a device must repeat it. NumPy and the standard library only.

What SentencePiece trained is read from a table (`Tables`), and cut as SentencePiece cuts it (`Subwords`).
"""

from edge_dl.text.normalization import Normalization
from edge_dl.text.subwords import BEGIN, END, KINDS, PADDING, SPECIAL, UNKNOWN, Subwords
from edge_dl.text.tables import Tables

__all__ = [
    "BEGIN",
    "END",
    "KINDS",
    "PADDING",
    "SPECIAL",
    "UNKNOWN",
    "Normalization",
    "Subwords",
    "Tables",
]
