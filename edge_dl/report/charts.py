"""The report's charts: how training went, how far gradients reach, and what each variant costs and gives.

Each function takes parts of results.json (docs/results.md) and gives a `Chart`, or None where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import as_number
from edge_dl.report.svg import INK, MUTED, SERIES, SURFACE, Chart, figure, plain_label, to_chart
from edge_dl.report.variant_results import PASS, latency_seconds

MARKERS = {
    "float32": "o", "float16": "s", "dynamic": "D", "int8": "^", "int16x8": "v", "int4": "P", "mixed": "*", "qat": "X",
}  # fmt: skip
POINTS = ("share", "score")  # Units of numbers from 0 to 1 that are shown in hundredths.
STYLES = ("-", "--", ":", "-.")
_OUTSIDE = "validation_"
_NOT_DRAWN = ("epoch", "seconds", "input_seconds", "learning_rate")


def training_curves(training: Mapping[str, Any]) -> list[Chart]:
    """One chart a quantity in the history: training and validation over epochs, the loss first."""
    epochs = training.get("epochs") or []
    names: list[str] = []
    for epoch in epochs:
        for key in epoch:
            name = key.removeprefix(_OUTSIDE)
            if key not in _NOT_DRAWN and name not in names:
                names.append(name)
    names.sort(key=lambda name: name != "loss")
    charts = [_training_curve(training, name, place) for place, name in enumerate(names[:3])]
    return [chart for chart in charts if chart]


def _training_curve(training: Mapping[str, Any], name: str, place: int) -> Chart | None:
    epochs = training["epochs"]
    x = [as_number(epoch.get("epoch")) or float(number) for number, epoch in enumerate(epochs, 1)]
    lines = {
        "training": [_or_nan(epoch.get(name)) for epoch in epochs],
        "validation": [_or_nan(epoch.get(_OUTSIDE + name)) for epoch in epochs],
    }
    lines = {kind: y for kind, y in lines.items() if any(map(math.isfinite, y))}
    if not lines:
        return None
    word = plain_label(name.replace("_", " "))
    with figure() as drawing:
        from matplotlib.ticker import MaxNLocator

        axes = drawing.add_subplot()
        best = as_number(training.get("best_epoch"))
        if best is not None and best < x[-1]:
            axes.axvline(best, color=MUTED, linewidth=1, linestyle=":", label=f"weights kept ({best:.0f})")
        for number, (kind, y) in enumerate(lines.items()):
            marker = "o" if len(x) <= 15 else None
            axes.plot(x, y, STYLES[number], color=SERIES[number], label=kind, marker=marker, markersize=4)
        axes.set_xlabel("epoch")
        axes.set_ylabel(word)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")
        parts = [
            f"{kind} {numbers.plain(finite[0])} at first, {numbers.plain(finite[-1])} at the end"
            for kind, y in lines.items()
            if (finite := [value for value in y if math.isfinite(value)])
        ]
        return to_chart(drawing, f"curve-{place}", f"{word.capitalize()} over epochs", "; ".join(parts) + ".")


def gradient_flow(flow: Mapping[str, Any]) -> Chart | None:
    """The norm of dLoss/dx_t over the time step t on a logarithmic axis, for the untrained and the trained model."""
    steps = [as_number(step) for step in flow.get("steps") or []]
    curves: dict[str, list[float]] = {}
    for name, values in (flow.get("curves") or {}).items():
        # Zero has no logarithm: a gradient that vanished entirely leaves a gap, and the text says so.
        y = [value if (value := _or_nan(item)) > 0 else math.nan for item in values or []]
        if len(y) == len(steps) and any(map(math.isfinite, y)):
            curves[str(name)] = y
    if not curves or None in steps:
        return None
    with figure() as drawing:
        axes = drawing.add_subplot()
        for number, (name, y) in enumerate(curves.items()):
            style, colour = STYLES[number % len(STYLES)], SERIES[(number + 1) % len(SERIES)]
            axes.plot(steps, y, style, color=colour, label=plain_label(name))  # type: ignore[arg-type]
        axes.set_yscale("log")
        known = [value for y in curves.values() for value in y if math.isfinite(value)]
        _logarithmic(axes.yaxis, min(known), max(known))
        axes.set_xlabel("time step t")
        axes.set_ylabel("‖∂loss/∂x(t)‖")
        axes.legend(loc="best")
        parts = []
        for name, y in curves.items():
            finite = [value for value in y if math.isfinite(value)]
            text = f"{name}: {numbers.plain(finite[0])} at the first step, {numbers.plain(finite[-1])} at the last"
            parts.append(text + (f", zero at {len(y) - len(finite)} steps" if len(finite) < len(y) else ""))
        return to_chart(drawing, "gradient-flow", "Gradient flow through time", "; ".join(parts) + ".")


def trade_off(variants: Sequence[Mapping[str, Any]], unit: str, word: str) -> Chart | None:
    """Latency across, task metric up, file size as the mark's area: where each variant stands.

    Args:
        variants: `variants` of results.json; those without latency or metric are left out.
        unit: the metric's unit; "share" is drawn as per cent, "score" in points.
        word: the metric's name.
    """
    points = []
    for variant in variants:
        x, y = latency_seconds(variant), as_number(variant["metric"].get("value"))
        if x and y is not None and variant.get("bytes"):
            points.append((variant, x * 1e6, y * 100 if unit in POINTS else y))
    if not points:
        return None
    largest = max(variant["bytes"] for variant, _, _ in points)
    lowerings = list(dict.fromkeys(variant["lowering"] for variant, _, _ in points))
    with figure(height=4.3) as drawing:
        axes = drawing.add_subplot()
        for variant, x, y in sorted(points, key=lambda point: -point[0]["bytes"]):
            colour = SERIES[lowerings.index(variant["lowering"]) % len(SERIES)]
            axes.scatter(
                [x],
                [y],
                s=30 + 420 * variant["bytes"] / largest,
                marker=MARKERS.get(variant["quantization"], "X"),
                facecolor=colour if variant["verdict"] == PASS else SURFACE,
                edgecolor=colour,
                linewidth=1.6,
                alpha=0.85,
            )
        logarithmic = max(x for _, x, _ in points) > 6 * min(x for _, x, _ in points)
        if logarithmic:
            axes.set_xscale("log")
            _logarithmic(axes.xaxis, min(x for _, x, _ in points), max(x for _, x, _ in points))
        axes.margins(0.16, 0.18)
        _name_points(axes, points)
        axes.set_xlabel("latency p50, µs" + (" (logarithmic)" if logarithmic else ""))
        axes.set_ylabel(
            plain_label(word) + (", %" if unit == "share" else f", {unit}" if unit and unit != "score" else "")
        )
        _trade_off_legend(axes, points, lowerings)
        text = "; ".join(
            f"{variant['name']}: {numbers.duration(x / 1e6)}, {numbers.metric(variant['metric']['value'], unit)}, "
            f"{numbers.size(variant['bytes'])}"
            for variant, x, _ in points
        )
        return to_chart(drawing, "trade-off", f"Latency, {plain_label(word)} and size", text + ".")


def _name_points(axes: Any, points: Sequence[tuple[Mapping[str, Any], float, float]]) -> None:
    """Name the chosen variant and those that no other beats both ways: few names, so that they stay legible."""
    best = -math.inf
    higher = max(points, key=lambda point: point[1])[0]["metric"].get("higher_is_better", True)
    for variant, x, y in sorted(points, key=lambda point: point[1]):
        worth = y if higher else -y
        if worth > best or variant.get("chosen"):
            weight = "bold" if variant.get("chosen") else "normal"
            axes.annotate(
                variant["name"],
                (x, y),
                xytext=(0, 13),
                textcoords="offset points",
                ha="center",
                fontsize=10,
                fontweight=weight,
                color=INK,
            )
        best = max(best, worth)


def _trade_off_legend(
    axes: Any, points: Sequence[tuple[Mapping[str, Any], float, float]], lowerings: list[str]
) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in MARKERS if any(variant["quantization"] == kind for variant, _, _ in points)]
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[kind], markersize=7, color=MUTED, label=kind) for kind in kinds
    ]
    if lowerings != ["none"]:
        handles += [
            Line2D([], [], linewidth=5, color=SERIES[number % len(SERIES)], label=plain_label(lowering))
            for number, lowering in enumerate(lowerings)
        ]
    if any(variant["verdict"] != PASS for variant, _, _ in points):
        handles.append(
            Line2D(
                [], [], linestyle="", marker="o", markersize=7, markerfacecolor="none", color=MUTED, label="not passed"
            )
        )
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=4, handletextpad=0.7, handlelength=1.2, columnspacing=1.6
    )


def losses(variants: Sequence[Mapping[str, Any]], unit: str, word: str) -> Chart | None:
    """What each variant loses of the task metric against the reference, with its interval and the limit."""
    rows = [variant for variant in variants if as_number(variant["metric"].get("drop")) is not None]
    if not rows:
        return None
    percent = unit in POINTS or bool(rows[0]["metric"].get("relative"))
    factor = 100.0 if percent else 1.0
    limits = {value for variant in rows if (value := as_number(variant["metric"].get("max_drop"))) is not None}
    with figure(height=1.5 + 0.27 * len(rows)) as drawing:
        from matplotlib.ticker import MaxNLocator

        axes = drawing.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=1.2)
        if len(limits) == 1:
            axes.axvline(min(limits) * factor, color=SERIES[1], linewidth=1.6, linestyle="--", label="limit")
        texts = []
        for place, variant in enumerate(rows):
            metric = variant["metric"]
            low, high = as_number(metric.get("low")), as_number(metric.get("high"))
            if low is not None and high is not None:
                axes.plot([low * factor, high * factor], [place, place], color=SERIES[0], linewidth=2, alpha=0.6)
            fill = SERIES[0] if variant["verdict"] == PASS else SURFACE
            axes.plot([metric["drop"] * factor], [place], "o", color=SERIES[0], markersize=7, markerfacecolor=fill)
            ends = f" ({_loss(low, percent)} to {_loss(high, percent)})" if low is not None and high is not None else ""
            texts.append(f"{variant['name']}: {_loss(metric['drop'], percent)}{ends}")
        axes.set_yticks(range(len(rows)), [plain_label(variant["name"]) for variant in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(7))
        words = "points" if unit in POINTS else "% of the reference's" if percent else unit
        axes.set_xlabel(f"loss, {words}" if words else "loss")
        if len(limits) == 1:
            drawing.legend(loc="outside upper right")
        title = f"Loss of {plain_label(word)} against the Keras model, with intervals"
        return to_chart(drawing, "losses", title, "; ".join(texts) + ".")


def bleu_by_length(lines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Chart | None:
    """BLEU over the words of the source, with intervals; a line a system (`beside.length_lines`)."""
    places = {point["words"]: point["shortest"] for _, points in lines for point in points}
    groups = sorted(places, key=lambda group: places[group])
    if not groups:
        return None
    counts = {point["words"]: point["sentences"] for _, points in reversed(lines) for point in points}
    with figure(height=3.8) as drawing:
        axes = drawing.add_subplot()
        texts = []
        for number, (name, points) in enumerate(lines):
            # Side by side, so that intervals do not hide each other.
            shift = (number - (len(lines) - 1) / 2) * 0.12
            x = [groups.index(point["words"]) + shift for point in points]
            y = [_or_nan(point["value"]) * 100 for point in points]
            style, colour = STYLES[number % len(STYLES)], SERIES[number % len(SERIES)]
            axes.plot(x, y, style, color=colour, marker="o", markersize=5, label=plain_label(name, 60))
            for place, point in zip(x, points, strict=True):
                ends = [_or_nan(point[key]) * 100 for key in ("low", "high")]
                axes.plot([place, place], ends, color=colour, linewidth=1.4, alpha=0.7)
            told = ", ".join(
                f"{point['words']} words {numbers.metric(point['value'], 'score')} "
                f"({numbers.metric(point['low'], 'score')} to {numbers.metric(point['high'], 'score')})"
                for point in points
            )
            texts.append(f"{name}: {told}")
        axes.set_xticks(range(len(groups)), [f"{group}\n({numbers.count(counts[group])})" for group in groups])
        axes.set_xlabel("words of the source (sentences)")
        axes.set_ylabel("BLEU")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.12)
        axes.grid(False, axis="x")
        drawing.legend(loc="outside lower center", ncols=1 if len(lines) > 2 else 2)
        return to_chart(drawing, "bleu-by-length", "BLEU by length of the sentence", "; ".join(texts) + ".")


def _loss(value: Any, percent: bool) -> str:
    return numbers.metric_change(value, "share") if percent else numbers.metric_change(value)


def _logarithmic(axis: Any, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers: its own labels are formulas, which are switched off.

    Args:
        axis: the axis, already logarithmic.
        low: smallest value on it.
        high: largest value on it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = high > 300 * low
    axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.power(value) if wide else numbers.plain(value)))
    axis.set_minor_formatter(NullFormatter())


def _or_nan(value: Any) -> float:
    number = as_number(value)
    return math.nan if number is None else number
