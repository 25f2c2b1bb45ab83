"""report.html: one page that needs no network and no other file, made from results.json's value.

The samples' drawings come from data/test.npz where it is there. Everything that came from outside (labels, layer
names, messages) goes through Jinja2's autoescape; only drawings made here are inserted as they are.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_dl.report import charts, numbers
from edge_dl.report.beside import length_lines
from edge_dl.report.samples import Samples
from edge_dl.report.svg import missing
from edge_dl.report.translations import shown_variant
from edge_dl.report.view import VERDICTS, View

_FOLDER = Path(__file__).parent


def to_html(results: Mapping[str, Any], run: str | Path | None = None) -> str:
    """The page as text.

    Args:
        results: what `collect` gave.
        run: the run folder, for the drawings of samples; None: no drawings.

    Raises:
        UsageError: Jinja2 or Matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise missing("jinja2") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        finalize=lambda value: "" if value is None else value,
    )
    environment.filters.update(
        {
            "size": numbers.size,
            "duration": numbers.duration,
            "percent": numbers.percent,
            "times": numbers.times,
            "plain": numbers.plain,
            "count": numbers.count,
            "metric": numbers.metric,
            "cosine": numbers.cosine,
            "decibels": numbers.decibels,
            "verdict_kind": lambda verdict: VERDICTS.get(verdict, ("", ""))[0],
            "verdict_word": lambda verdict: VERDICTS.get(verdict, ("", str(verdict)))[1],
        }
    )
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    view = View(results, Samples(None if run is None else Path(run)))
    return environment.get_template("report.html").render(
        results=results,
        view=view,
        charts=_charts(results, view),
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
        script=script,
        # The browser runs this script and no other, wherever a string from outside might have landed.
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _charts(results: Mapping[str, Any], view: View) -> dict[str, Any]:
    metric, shown = view.metric, shown_variant(results)
    drawn = [
        charts.trade_off(results["variants"], metric["unit"], metric["name"]),
        charts.losses(results["variants"], metric["unit"], metric["name"]),
    ]
    return {
        "variants": [chart for chart in drawn if chart],
        "lengths": charts.bleu_by_length(length_lines(results, shown)) if shown else None,
        "training": charts.training_curves(results["training"]) if results["training"] else [],
        "gradients": charts.gradient_flow(results["gradient_flow"]) if results["gradient_flow"] else None,
    }
