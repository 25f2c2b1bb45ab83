"""`edge-dl debug VARIANT`: which operators lose its accuracy, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from edge_dl.checks import siblings
from edge_dl.checks.layers import LayerReport
from edge_dl.cli.console import ConsoleProgress, print_json, print_table
from edge_dl.cli.source import Kind, resolve
from edge_dl.errors import UsageError, printable
from edge_dl.files import write_atomic, write_json
from edge_dl.report import layers as page

FOLDER = "debug"
JSON = "layers.json"
HTML = "layers.html"


def debug(
    what: str,
    variant: str,
    *,
    reference: Path | None,
    data: Path | None,
    samples: int,
    out: Path | None,
    top: int,
    json: bool,
) -> None:
    """Compare a quantized model with its float32 sibling, operator by operator; print it, and write a page.

    Raises:
        UsageError: there is no such model, or what it is compared with was not given.
        StageError: a model crashed the runtime or took too long.
        typer.Exit: 1 when an operator does real harm, or what the model computes is not finite.
    """
    source = resolve(what, (Kind.RUN, Kind.BUNDLE, Kind.TFLITE))
    assert source.path is not None
    for name, path in (("--reference", reference), ("--data", data)):
        if path is not None and not path.exists():
            raise UsageError(f"{name} must exist.", received=str(path))
    if source.kind is Kind.RUN:
        found = siblings.find_in_run(source.path, variant, reference, data)
    elif variant:
        raise UsageError(
            "A variant's name goes with a run folder.", received=f"{what}, a {source.kind.value}, and {variant!r}"
        )
    else:
        found = siblings.find_alone(source.path, reference, data)
    progress = ConsoleProgress()
    with progress.step("debug"):
        report = siblings.measure(found, samples)
    folder = out or (found.run / FOLDER / found.name if found.run else None)
    places = [] if folder is None else _write(report, folder)
    if json:
        print_json(report.to_json())
    else:
        _show(report, top)
        for place in places:
            print(place)
    if report.culprits or not report.finite:
        raise typer.Exit(1)


def _write(report: LayerReport, folder: Path) -> list[Path]:
    """layers.json, and layers.html where its packages are installed."""
    write_json(folder / JSON, report.to_json())
    try:
        write_atomic(folder / HTML, page.to_html(report))
    except UsageError as error:
        print(f"No page: {error}", file=sys.stderr)
        return [folder / JSON]
    return [folder / JSON, folder / HTML]


def _show(report: LayerReport, top: int) -> None:
    heads, rows = page.table(report)
    shown = rows if top == 0 else rows[:top]
    print_table(heads, shown)
    if len(shown) < len(rows):
        print(f"and {len(rows) - len(shown)} more with smaller shares (--top 0 shows all)")
    print()
    print(printable(page.headline(report)))
    for layer in report.culprits:
        print(printable(f"  {page.layer_name(layer)}: {'; '.join(layer.reasons)}"))
