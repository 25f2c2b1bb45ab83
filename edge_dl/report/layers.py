"""debug/<variant>/layers.html: which operators lose a variant's accuracy. Made from a `LayerReport`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_dl.checks.layers import LayerError, LayerReport
from edge_dl.report import numbers
from edge_dl.report.numbers import UNKNOWN
from edge_dl.report.svg import GRID, INK, SERIES, Chart, figure, missing, plain_label, to_chart

_FOLDER = Path(__file__).parent
# Rows of a chart: more are no longer legible. The table has them all.
SHOWN = 24


def layer_name(layer: LayerError) -> str:
    """What a reader knows an operator by: the first of the names that converters string together."""
    return layer.name.split(";")[0] or f"operator {layer.number}"


def headline(report: LayerReport) -> str:
    """What was found, in one or two sentences."""
    if not report.finite:
        return "The variant computes NaN or infinity on the way."
    quality = numbers.decibels(report.output_snr_db) if report.output_snr_db is not None else "no difference"
    text = f"Signal-to-noise ratio at the outputs: {quality}."
    culprits = report.culprits
    if not culprits:
        return f"{text} No operator does real harm alone."
    names = ", ".join(f"{layer_name(item)} ({numbers.percent(item.share, 0)} of the error)" for item in culprits)
    return f"{text} {'Culprit' if len(culprits) == 1 else 'Culprits'}: {names}."


def table(report: LayerReport) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, the largest share of the error first."""
    heads = ["operator", "kind", "type", "share", "own error", "cumulative", "SNR", "weights", "activations", "why"]
    return heads, [_row(layer) for layer in report.by_share()]


def _row(layer: LayerError) -> list[str]:
    activation, weight = layer.activation, layer.weight
    weights = UNKNOWN
    if weight is not None:
        weights = f"{numbers.plain(weight.low, 3)} to {numbers.plain(weight.high, 3)}"
        if weight.spread > 1:
            weights += f", channels {numbers.plain(weight.spread, 2)}-fold"
    activations = f"{numbers.plain(activation.low, 3)} to {numbers.plain(activation.high, 3)}"
    if activation.scale:
        activations += f", step {numbers.plain(activation.scale, 2)}"
    if activation.saturated:
        activations += f", {numbers.percent(activation.saturated, 2)} beyond"
    return [
        ("> " if layer.culprit else "  ") + layer_name(layer),
        layer.kind,
        activation.dtype,
        numbers.percent(layer.share, 1),
        _error(layer.own_error),
        _error(layer.error),
        UNKNOWN if layer.snr_db is None else numbers.decibels(layer.snr_db),
        weights,
        activations,
        "; ".join(layer.reasons),
    ]


def _error(value: float | None) -> str:
    return UNKNOWN if value is None else "0" if value == 0 else numbers.percent(value, 2)


def to_html(report: LayerReport) -> str:
    """The page as text.

    Raises:
        UsageError: Jinja2 or Matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise missing("jinja2") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    heads, rows = table(report)
    return environment.get_template("layers.html").render(
        report=report,
        headline=headline(report),
        kind="fail" if report.culprits or not report.finite else "pass",
        heads=heads,
        rows=[
            {"cells": [cell.removeprefix("> ").strip() for cell in row], "culprit": layer.culprit}
            for row, layer in zip(rows, report.by_share(), strict=True)
        ],
        charts=[chart for chart in (errors(report), shares(report), ranges(report)) if chart],
        style=(_FOLDER / "report.css").read_text(encoding="utf-8"),
    )


def errors(report: LayerReport) -> Chart | None:
    """Cumulative and own signal-to-noise ratio of every operator, in the order in which they run."""
    layers = report.layers
    cumulative = [(layer.number, layer.snr_db) for layer in layers if layer.snr_db is not None]
    own = [(layer.number, layer.own_snr_db) for layer in layers if layer.own_snr_db is not None]
    if not cumulative:
        return None
    with figure(height=3.5, width=8.0) as drawing:
        axes = drawing.add_subplot()
        axes.plot(*zip(*cumulative, strict=True), "-o", color=SERIES[0], markersize=4, label="cumulative")
        if own:
            axes.plot(*zip(*own, strict=True), "s", color=SERIES[1], markersize=5, label="own")
        for layer in report.culprits:
            if layer.own_snr_db is not None:
                axes.annotate(plain_label(layer_name(layer)), (layer.number, layer.own_snr_db), xytext=(4, 6),
                              textcoords="offset points", fontsize=9.5, color=INK)  # fmt: skip
        axes.set_xlabel("operator, in the order in which they run")
        axes.set_ylabel("signal-to-noise ratio, dB")
        axes.legend(loc="best")
        known = [layer for layer in layers if layer.snr_db is not None]
        text = "; ".join(f"{layer_name(layer)}: {numbers.decibels(layer.snr_db)}" for layer in known[:SHOWN])
        return to_chart(drawing, "errors", "Error through the graph (higher is better)", text + ".")


def shares(report: LayerReport) -> Chart | None:
    """Each operator's share of the error at the outputs, the largest first."""
    layers = [layer for layer in report.by_share() if layer.share > 0][:SHOWN]
    if not layers:
        return None
    with figure(height=1.0 + 0.27 * len(layers), width=8.0) as drawing:
        axes = drawing.add_subplot()
        colours = [SERIES[1] if layer.culprit else SERIES[0] for layer in layers]
        axes.barh(range(len(layers)), [100 * layer.share for layer in layers], color=colours, height=0.7)
        _name_rows(axes, layers)
        axes.set_xlabel("share of the error at the model's outputs, %")
        text = "; ".join(f"{layer_name(layer)}: {numbers.percent(layer.share)}" for layer in layers)
        return to_chart(drawing, "shares", "Who causes the error", text + ".")


def ranges(report: LayerReport) -> Chart | None:
    """What each operator's output spans, where 99.9 % of it lies, and what its type can hold."""
    layers = [layer for layer in report.by_share() if layer.share > 0 and layer.activation.scale][:SHOWN]
    if not layers:
        return None
    with figure(height=1.6 + 0.27 * len(layers), width=8.0) as drawing:
        axes = drawing.add_subplot()
        for place, layer in enumerate(layers):
            found = layer.activation
            held = (found.held_low or 0.0, found.held_high or 0.0)
            inner = (max(found.low, -found.inner), min(found.high, found.inner))
            largest = max(map(abs, (*held, found.low, found.high))) or 1.0
            for ends, colour, width, word in (
                (held, GRID, 9, "what the type holds"),
                ((found.low, found.high), SERIES[0], 2, "values"),
                (inner, SERIES[1], 5, "99.9 % of them"),
            ):
                axes.plot([100 * end / largest for end in ends], [place, place], color=colour, linewidth=width,
                          solid_capstyle="butt", label=None if place else word)  # fmt: skip
        _name_rows(axes, layers)
        axes.set_xlabel("% of the largest absolute value")
        drawing.legend(loc="outside lower center", ncols=3)
        text = "; ".join(
            f"{layer_name(layer)}: {numbers.plain(layer.activation.low, 3)} to "
            f"{numbers.plain(layer.activation.high, 3)}, 99.9 % within {numbers.plain(layer.activation.inner, 3)}"
            for layer in layers
        )
        return to_chart(drawing, "ranges", "Activation ranges", text + ".")


def _name_rows(axes: Any, layers: Sequence[LayerError]) -> None:
    axes.set_yticks(range(len(layers)), [plain_label(layer_name(layer)) for layer in layers])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.grid(False, axis="y")
