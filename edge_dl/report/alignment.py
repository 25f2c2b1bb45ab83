"""Which source pieces a translation looked at: the attention as a picture, for a page or a file of its own.

Columns are pieces of the source, rows pieces of the translation in the order they were chosen; the darker a cell, the
more of the attention. Drawn by hand as SVG: a few hundred squares and their labels need no plotting library.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_dl.report.svg import plain_label
from edge_dl.text import END, SPECIAL
from edge_dl.text.normalization import SPACE

CELL, FONT, GAP = 26, 13, 8
SLANT = 0.7072  # sin and cos of 45 degrees
LONGEST = 24  # characters of a label
MOST_CELLS = 40_000  # A picture with more is a blur that takes a browser minutes.
STYLE = (
    "<style>"
    "svg{color-scheme:light dark;--ink:#17202b;--muted:#586474;--line:#dfe3e8;--paper:#fff;--cell:#1b63b8}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6eaef;--muted:#9aa6b3;--line:#303a45;--paper:#191f26;"
    "--cell:#6caaf2}}"
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif;fill:var(--ink)}"
    ".head{font-size:15px;font-weight:600}.quiet{fill:var(--muted);font-size:12px}"
    ".paper{fill:var(--paper)}.cell{fill:var(--cell)}.line{stroke:var(--line);fill:none}"
    "</style>"
)


@dataclass(frozen=True)
class Alignment:
    """One picture.

    Attributes:
        source, target: pieces, "▁" for a space.
        weights: (target, source) attention, from 0 to 1.
        title: a line above it.
        note: a quieter line below that.
    """

    source: Sequence[str]
    target: Sequence[str]
    weights: np.ndarray
    title: str = ""
    note: str = ""


def piece_labels(pieces: Sequence[str]) -> list[str]:
    """Pieces as a reader sees them: words as they are, what goes on with a word behind a dot ("piz", "·za").

    Punctuation and what follows it have no dot; a space alone is "␣". Where all pieces are single characters none has.
    """
    characters = all(len(piece.removeprefix(SPACE)) <= 1 for piece in pieces if piece != SPECIAL[END])
    labels = []
    in_word = False
    for piece in pieces:
        word = piece.removeprefix(SPACE)
        shown = plain_label(word.replace(SPACE, " "), LONGEST) or "␣"
        goes_on = in_word and not piece.startswith(SPACE) and not characters and word[:1].isalnum()
        labels.append(f"·{shown}" if goes_on else shown)
        in_word = word[-1:].isalnum()
    return labels


def draw(pictures: Sequence[Alignment]) -> str:
    """An SVG document of one or more pictures below each other."""
    parts = []
    height = width = 0.0
    for picture in pictures:
        body, wide, high = _draw(picture)
        parts.append(f'<g transform="translate(0 {height:g})">{body}</g>')
        width, height = max(width, wide), height + high
    text = " ".join(plain_label(picture.title, 200) for picture in pictures[:20])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img"><title>Attention: {html.escape(text)}</title>{STYLE}'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def inline(picture: Alignment) -> str:
    """SVG for a page that styles it (`.attention` in report.css): without colours and fonts of its own."""
    body, wide, high = _draw(picture)
    title = html.escape(plain_label(picture.title or "What each piece looked at in the source", 200))
    return (
        f'<svg class="attention" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" width="{wide:g}" '
        f'height="{high:g}" role="img"><title>{title}</title>{body}</svg>'
    )


def page(pictures: Sequence[Alignment]) -> str:
    """An HTML page of its own with the pictures."""
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Attention</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>:root{color-scheme:light dark}body{margin:0;overflow-x:auto}</style>\n" + draw(pictures) + "</html>\n"
    )


def _draw(picture: Alignment) -> tuple[str, float, float]:
    """One picture's elements, with its width and height."""
    columns, rows = piece_labels(picture.source), piece_labels(picture.target)
    lines = [(picture.title, "head", 24.0), (picture.note, "quiet", 18.0)]
    parts, top = [], 12.0
    widest = 0.0
    for text, kind, step in lines:
        if text:
            shown = plain_label(text, 160)
            top += step
            parts.append(f'<text class="{kind}" x="16" y="{top - 6:g}">{html.escape(shown)}</text>')
            widest = max(widest, _width(shown, 15 if kind == "head" else 12) + 32)
    if not rows or not columns or len(rows) * len(columns) > MOST_CELLS:
        why = "Nothing was looked at." if not rows or not columns else f"{len(rows)} x {len(columns)} are too many."
        parts.append(f'<text class="quiet" x="16" y="{top + 18:g}">{why}</text>')
        return "".join(parts), max(widest, 240.0), top + 36
    left = 16 + max(_width(label) for label in rows) + GAP
    # Labels above the columns lean to the right, and need as much room above as beside the last one.
    top += max(_width(label) for label in columns) * SLANT + FONT + GAP
    lean = max(
        number * CELL + CELL / 2 + _width(label) * SLANT + FONT for number, label in enumerate(columns)
    )  # fmt: skip
    for number, label in enumerate(columns):
        x, y = left + (number + 0.5) * CELL + FONT * 0.3, top - GAP * 0.75
        parts.append(f'<text transform="translate({x:g} {y:g}) rotate(-45)">{html.escape(label)}</text>')
    for number, label in enumerate(rows):
        y = top + (number + 0.5) * CELL + FONT * 0.35
        parts.append(f'<text x="{left - GAP:g}" y="{y:g}" text-anchor="end">{html.escape(label)}</text>')
    weights = np.clip(np.nan_to_num(np.asarray(picture.weights, np.float64)), 0, 1)
    for (row, column), weight in np.ndenumerate(weights):
        if weight >= 0.005:
            told = html.escape(f"{rows[row]} looked at {columns[column]}: {weight:.0%}")
            parts.append(
                f'<rect class="cell" x="{left + column * CELL:g}" y="{top + row * CELL:g}" width="{CELL}" '
                f'height="{CELL}" fill-opacity="{weight:.2f}"><title>{told}</title></rect>'
            )
    wide, high = len(columns) * CELL, len(rows) * CELL
    across = "".join(f"M{left:g} {top + row * CELL:g}h{wide}" for row in range(len(rows) + 1))
    down = "".join(f"M{left + column * CELL:g} {top:g}v{high}" for column in range(len(columns) + 1))
    parts.append(f'<path class="line" d="{across}{down}"/>')
    return "".join(parts), math.ceil(max(left + max(wide, lean) + 16, widest)), math.ceil(top + high + 20)


def _width(text: str, size: float = FONT) -> float:
    """About how wide a browser draws a text: no font is at hand here. Rather too wide than cut off."""
    return sum(1.05 if ord(letter) > 0x1100 else 0.9 if letter in "MWmw@%—…" else 0.6 for letter in text) * size
