"""Reports of a run: results.json, and from it one HTML page, a Markdown summary and JUnit XML.

    collect(run) -> dict           everything that a run folder says, as one JSON value (schema: docs/results.md)
    write_report(run) -> paths     results.json, report.html, report.md and junit.xml in the run folder

Importing this package is cheap: Jinja2 and Matplotlib are loaded when a page is made, Keras and TensorFlow never.
"""

from __future__ import annotations

from edge_dl.report.results import FORMAT, collect
from edge_dl.report.writer import ReportPaths, write_report

__all__ = ["FORMAT", "ReportPaths", "collect", "write_report"]
