"""Matplotlib figures as SVG that belongs into a page: text stays text, colours follow the page's theme.

Figures are drawn in stand-in colours; each one becomes a CSS variable of the page, so that one drawing is right on
a light and on a dark ground. Only `matplotlib.figure` is used, never pyplot: no global state, no window, no backend.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_dl.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010101"
MUTED = "#020202"
GRID = "#030303"
SURFACE = "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", SURFACE: "--surface"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
_SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # Comes with Matplotlib; the page puts its own font in its place.
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "edge-dl",  # The same run gives the same page, byte for byte.
    "text.color": INK,
    "text.parse_math": False,  # A label that holds dollar signs is text, not a formula.
    "xtick.color": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.color": MUTED,
    "ytick.labelsize": 10.5,
}
_WIDTH = 5.7  # Inches at 72 units each: 410 units, about what a phone shows without shrinking the text much.


@dataclass(frozen=True)
class Chart:
    """A drawing for the page.

    Attributes:
        name: unique on the page; prefix of the ids inside the drawing.
        title: what it shows, a short phrase (plain text).
        text: what can be read from it, for those who cannot see it (plain text).
        svg: the drawing, safe to put into HTML as it is.
    """

    name: str
    title: str
    text: str
    svg: str


@contextmanager
def figure(height: float = 3.5, width: float = _WIDTH) -> Iterator[Figure]:
    """A Matplotlib figure of `width` x `height` inches in the page's style; draw and call `to_chart` inside.

    Raises:
        UsageError: Matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib") from None
    with mpl.rc_context({**mpl.rcParamsDefault, **_SETTINGS}):  # type: ignore[dict-item]
        yield Figure(figsize=(width, height), layout="constrained")


def to_chart(drawing: Figure, name: str, title: str, text: str) -> Chart:
    """Turn a figure into a `Chart`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Labels in scripts that the bundled font lacks: the browser draws them with a font of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(name, title, text, _inline(buffer.getvalue(), name, title, text))


def missing(package: str) -> UsageError:
    """The error for a package that the page needs and that is not installed."""
    return UsageError(
        f"The HTML report needs {package}.",
        received="an environment without it",
        todo="Install it with: pip install 'edge-dl[report]'.",
    )


def plain_label(text: Any, longest: int = 40) -> str:
    """`text` on one line without control characters (SVG allows none), cut to `longest` characters."""
    line = "".join(character if character.isprintable() else " " for character in str(text)).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _inline(svg: str, name: str, title: str, text: str) -> str:
    """Cut the XML prologue, theme the colours, make ids unique, and let the page choose size and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)  # Matplotlib repeats texts of paths as comments.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ?([^;\"]*?)([\d.]+)px [^;\"]*", r"font: \1\2px var(--font)", svg)
    svg = re.sub(r"font-family: ?[^;\"]*", "font-family: var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box.group() if box else ""} role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-text">{html.escape(text)}</desc>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip()
