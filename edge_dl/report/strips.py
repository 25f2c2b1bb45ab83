"""Small drawings of one input sample: lines for a few features, a heat strip for many, text for tokens.

Drawn by hand as SVG and PNG: a page holds dozens of them, and a Matplotlib figure each would weigh more than the data.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 240, 72
LINES = 6  # More features than that are drawn as a heat strip.
POINTS = 400
COLOUR = (38, 112, 200)
TOKENS = 120


def strip(sample: np.ndarray, vocabulary: Sequence[str] = ()) -> str:
    """HTML of one input sample, (T,), (T, F) or an array of more axes (drawn as (T, the rest)); safe to insert.

    Args:
        sample: numbers, or token numbers where `vocabulary` is given.
        vocabulary: symbols by token number.
    """
    sample = np.asarray(sample)
    if sample.size == 0 or sample.ndim == 0 or not (np.issubdtype(sample.dtype, np.number) or sample.dtype == bool):
        return ""
    if vocabulary and sample.ndim == 1 and np.issubdtype(sample.dtype, np.integer):
        return _tokens(sample, vocabulary)
    series = sample.reshape(len(sample), -1).astype(np.float64)
    if not np.isfinite(series).all():
        series = np.nan_to_num(series, nan=0.0, posinf=0.0, neginf=0.0)
    return _lines(series) if series.shape[1] <= LINES else _heat(series)


def overlay(curves: dict[str, Sequence[float | None]]) -> str:
    """SVG of a few short curves over each other, solid, dashed and dotted (a forecast, the truth); safe to insert."""
    known = [value for curve in curves.values() for value in curve if value is not None]
    longest = max((len(curve) for curve in curves.values()), default=0)
    if not known or longest < 2:
        return ""
    low, high = min(known), max(known)
    parts = []
    for number, curve in enumerate(curves.values()):
        points = [
            (place / (longest - 1), (value - low) / ((high - low) or 1.0))
            for place, value in enumerate(curve)
            if value is not None
        ]
        dashes = ("", "6 4", "2 3")[number % 3]
        parts.append(_polyline(points, f"var(--series-{number % 6 + 1})", dashes))
    return _svg(parts, "Curves: " + ", ".join(curves))


def _lines(series: np.ndarray) -> str:
    """One line a feature, all on one scale."""
    steps, features = series.shape
    if steps > POINTS:
        series = _envelope(series)
    low, high = float(series.min()), float(series.max())
    scaled = (series - low) / ((high - low) or 1.0)
    x = np.linspace(0, 1, len(series)) if len(series) > 1 else np.array([0.5])
    parts = [
        _polyline(list(zip(x, scaled[:, feature], strict=True)), f"var(--series-{feature % 6 + 1})")
        for feature in range(series.shape[1])
    ]
    return _svg(parts, f"Input: {steps} time steps, {features} feature{'s' if features > 1 else ''}")


def _envelope(series: np.ndarray) -> np.ndarray:
    """Smallest and largest value of each of many short pieces, (at most POINTS, features): no peak is passed over."""
    edges = np.linspace(0, len(series), POINTS // 2, endpoint=False).astype(int)
    both = np.stack([np.minimum.reduceat(series, edges), np.maximum.reduceat(series, edges)], axis=1)
    return both.reshape(-1, series.shape[1])


def _polyline(points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> str:
    path = " ".join(f"{2 + x * (WIDTH - 4):.1f},{HEIGHT - 3 - y * (HEIGHT - 6):.1f}" for x, y in points)
    extra = f' stroke-dasharray="{dashes}"' if dashes else ""
    style = f'style="stroke:{colour}" stroke-width="1.4" vector-effect="non-scaling-stroke"'
    return f'<polyline points="{path}" fill="none" {style}{extra}/>'


def _svg(parts: Sequence[str], text: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" preserveAspectRatio="none">'
        f"<title>{html.escape(text)}</title>{''.join(parts)}</svg>"
    )


def _heat(series: np.ndarray) -> str:
    """Features down, time across; a square one as the image that it most likely is, rows in time."""
    steps, features = series.shape
    square = steps == features
    grid = series if square else series.T
    grid = _shrunk(grid, 128, 256)
    low, high = float(grid.min()), float(grid.max())
    levels = np.round((grid - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    text = html.escape(f"Input: {steps} time steps, {features} features")
    data = base64.b64encode(_png(levels)).decode()
    return f'<img class="heat{" square" if square else ""}" alt="{text}" src="data:image/png;base64,{data}">'


def _shrunk(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """At most `rows` x `columns` values, by taking evenly spaced ones."""
    for axis, most in ((0, rows), (1, columns)):
        if grid.shape[axis] > most:
            grid = grid.take(np.linspace(0, grid.shape[axis] - 1, most).round().astype(int), axis=axis)
    return grid


def _png(alpha: np.ndarray) -> bytes:
    """PNG (RFC 2083) of one colour whose opacity is `alpha` (rows, columns) uint8: right on any ground."""
    height, width = alpha.shape
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3] = COLOUR
    pixels[..., 3] = alpha
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _tokens(sample: np.ndarray, vocabulary: Sequence[str]) -> str:
    words = [
        str(vocabulary[number]) if 0 <= number < len(vocabulary) else f"#{number}"
        for number in sample[:TOKENS].tolist()
    ]
    between = "" if all(len(word) <= 1 for word in words) else " "
    return f'<p class="tokens">{html.escape(between.join(words))}{"…" if len(sample) > TOKENS else ""}</p>'
