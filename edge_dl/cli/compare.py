"""`edge-dl compare`: what changed from one run to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from edge_dl.cli.console import ConsoleProgress, print_json, print_table
from edge_dl.errors import UsageError
from edge_dl.files import read_json

RESULTS = "results.json"


def compare(before: Path, after: Path, *, bench: bool, markdown: bool, everything: bool, json: bool) -> None:
    """Print what changed; exit 1 when a check that passed fails now, or a metric is worse beyond chance.

    Args:
        before, after: run folders, or their results.json.
        bench: time the variants of both run folders in turns.
        markdown: print a pull request's comment.
        everything: also print the lines that show no difference.
        json: print JSON.

    Raises:
        UsageError: one of them holds no results, or those of another format; or bench without two run folders.
        typer.Exit: 1 when something got worse.
    """
    from edge_dl.report import changes, changes_text

    old, new = read_results(before), read_results(after)
    found = changes.compare_results(old, new, _pairs(before, after), _models(before, after, bench))
    failed = changes.regressions(found)
    if json:
        verdict = changes_text.headline(found)
        print_json({"before": str(before), "after": str(after), "verdict": verdict, "regressions": len(failed),
                    "changes": [change.to_json() for change in found]})  # fmt: skip
    elif markdown:
        print(changes_text.to_markdown(old, new, found), end="")
    else:
        alike = [change for change in found if change.direction is changes.Direction.NO_DIFFERENCE]
        shown = found if everything else [change for change in found if change not in alike]
        if shown:
            print_table(changes_text.COLUMNS, changes_text.table_rows(shown))
            print()
        if alike and not everything:
            print(f"No difference shown: {changes_text.unchanged_line(found)} variants. --all shows them.")
        if note := changes_text.latency_note(found):
            print(note)
        print(changes_text.headline(found))
    if failed:
        raise typer.Exit(1)


def _pairs(before: Path, after: Path) -> Any:
    """Translations of both run folders held against each other; None without any, or for bare results.json."""
    from edge_dl.checks.translation_pairs import compare_runs, read_translated

    runs = [read_translated(path) if path.is_dir() else None for path in (before, after)]
    return compare_runs(runs[0], runs[1]) if runs[0] is not None and runs[1] is not None else None


def _models(before: Path, after: Path, bench: bool) -> Any:
    """The models of both run folders held against each other, timed where that is asked for."""
    from edge_dl.checks.run_pairs import pair_models

    if before.is_dir() and after.is_dir():
        return pair_models(before, after, measure=bench, progress=ConsoleProgress())
    if bench:
        raise UsageError(
            "--bench times the models of two run folders.",
            received=f"{before} and {after}",
            todo="Name the folders, not their results.json.",
        )
    return None


def read_results(path: Path) -> dict[str, Any]:
    """The value of a results.json, or of the one in a run folder.

    Raises:
        UsageError: there is none, or it is of another format.
    """
    from edge_dl.report.results import FORMAT, SCHEMA

    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            "A comparison takes run folders with a report, or their results.json.",
            received=str(path),
            todo="Make the report first: `edge-dl report RUN`.",
        )
    value = read_json(file)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or value.get("format") != FORMAT:
        raise UsageError(f"{RESULTS} must be of schema {SCHEMA}, format {FORMAT}.", received=str(file),
                         todo="Make the report again: `edge-dl report RUN`.")  # fmt: skip
    return value
