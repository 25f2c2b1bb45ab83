"""The attention of a translation in a terminal: rows of shaded blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_dl.errors import printable
from edge_dl.report.alignment import piece_labels

SHADES = " ░▒▓█"
PLAIN = " .:*#"  # Where the output's encoding has no blocks.
STEPS = (0.05, 0.25, 0.5, 0.75)  # attention from which the next shade is drawn


def matrix(
    source: Sequence[str], target: Sequence[str], weights: np.ndarray, *, width: int = 80, encoding: str = "utf-8"
) -> str:
    """Lines of a matrix: a row for each target piece, a column for each source piece, darker for more attention.

    Columns carry the source's pieces where they fit into `width` character cells; else numbers, with the pieces in a
    list above.

    Args:
        source, target: pieces, "▁" for a space.
        weights: (target, source), from 0 to 1.
        width: of the terminal, in character cells.
        encoding: of the output.
    """
    from rich.cells import cell_len

    try:
        SHADES.encode(encoding)
        shades = SHADES
    except (UnicodeEncodeError, LookupError):
        shades = PLAIN
    columns, rows = ([printable(label) for label in piece_labels(pieces)] for pieces in (source, target))
    if not rows or not columns:
        return ""
    margin = max(map(cell_len, rows)) + 1
    levels = np.digitize(np.nan_to_num(weights), STEPS)
    widths = [max(cell_len(label), 2) for label in columns]
    above: list[str] = []
    if margin + sum(widths) + len(widths) > width:
        above = _listed([f"{number} {label}" for number, label in enumerate(columns, 1)], width)
        columns = [str(number) for number in range(1, len(columns) + 1)]
        widths = [max(len(label), 2) for label in columns]
    lines = [" " * margin + " ".join(_padded(label, size) for label, size in zip(columns, widths, strict=True))]
    for label, row in zip(rows, levels, strict=True):
        cells = " ".join(shades[level] * size for level, size in zip(row, widths, strict=True))
        lines.append(" " * (margin - 1 - cell_len(label)) + label + " " + cells)
    return "\n".join([*above, *(line.rstrip() for line in lines)])


def _padded(label: str, size: int) -> str:
    from rich.cells import cell_len

    return label + " " * (size - cell_len(label))


def _listed(items: Sequence[str], width: int) -> list[str]:
    """Items on lines of at most `width`, if none is longer."""
    from rich.cells import cell_len

    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1]) + 2 + cell_len(item) <= width:
            lines[-1] += "  " + item
        else:
            lines.append(item)
    return lines
