"""Write a run's report: results.json first, then the three documents that are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_dl.errors import UsageError
from edge_dl.files import write_atomic, write_json
from edge_dl.report.results import collect

RESULTS = "results.json"
HTML = "report.html"
MARKDOWN = "report.md"
JUNIT = "junit.xml"


@dataclass(frozen=True)
class ReportPaths:
    """Where a report's files are."""

    results: Path
    html: Path
    markdown: Path
    junit: Path


def write_report(run: str | Path, beside: str | Path | None = None) -> ReportPaths:
    """Write results.json, report.md, junit.xml and report.html into the run folder, each one atomically.

    What needs no extra package is written first, so that a missing Jinja2 or Matplotlib costs only the page.

    Args:
        run: the run folder.
        beside: another run folder, whose translations are drawn beside this one's; None: none.

    Raises:
        UsageError: `run` or `beside` is no folder, one of two does not translate, or Jinja2 or Matplotlib is not
            installed (the message names the extra).
    """
    run = Path(run)
    if not run.is_dir():
        raise UsageError("A report is made from a run folder.", received=str(run), todo="Run `edge-dl run` first.")
    from edge_dl.report.junit import to_junit
    from edge_dl.report.markdown import to_markdown

    paths = ReportPaths(run / RESULTS, run / HTML, run / MARKDOWN, run / JUNIT)
    results = collect(run)
    if beside is not None:
        from edge_dl.report.beside import beside_results

        results["beside"] = beside_results(run, results, Path(beside), collect(beside))
    write_json(paths.results, results)
    write_atomic(paths.markdown, to_markdown(results))
    write_atomic(paths.junit, to_junit(results))

    from edge_dl.report.page import to_html

    write_atomic(paths.html, to_html(results, run))
    return paths
