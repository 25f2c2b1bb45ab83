"""A comparison of two runs in words: a table for a terminal, and Markdown for a pull request's comment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.checks.turns import Settings
from edge_dl.report.changes import LATENCY_MARGIN, Change, Direction, regressions
from edge_dl.report.markdown import escape
from edge_dl.report.numbers import UNKNOWN
from edge_dl.report.variant_results import mappings
from edge_dl.report.words import VERDICTS, plural

COLUMNS = ["variant", "what", "before", "after", "difference", "verdict"]
_TURNS, _RUNS = (f"{100 * margin:.0f} %" for margin in (Settings.margin, LATENCY_MARGIN))
LATENCY_NOTE = (
    "A latency is different when all of its ratio's 95 % interval lies beyond a margin. Two runs were measured at two "
    f"times: the interval is how much the machine's speed moved within each run, the margin {_RUNS}. "
    f"`edge-dl compare A B --bench` times both runs' models in turns and sees {_TURNS}."
)
TURNS_NOTE = (
    f"A latency is different when all of its ratio's 95 % interval lies beyond a margin of {_TURNS}: both runs' models "
    "were timed in turns on this machine."
)
_SIGNS = {Direction.BETTER: "✅", Direction.WORSE: "❌", Direction.CHANGED: "➖", Direction.NO_DIFFERENCE: ""}
_MOST = 40


def latency_note(changes: Sequence[Change]) -> str:
    """What decided about latencies, in one or two sentences; "" where none was compared."""
    notes = [change.note for change in changes if change.what == "latency"]
    if not notes:
        return ""
    return TURNS_NOTE if any("timed in turns)" in note for note in notes) else LATENCY_NOTE


def headline(changes: Sequence[Change]) -> str:
    """The comparison in one sentence."""
    failed = regressions(list(changes))
    worse, better = (
        sum(change.direction is direction for change in changes) for direction in (Direction.WORSE, Direction.BETTER)
    )
    if failed:
        text = f"Worse: {plural(len(failed), 'regression')}"
    elif worse:
        text = "No check and no metric got worse, other things did"
    elif better:
        text = "Better"
    elif any(change.direction is Direction.CHANGED for change in changes):
        text = "Changed, neither better nor worse"
    else:
        text = "No difference shown"
    counts = [f"{count} {word}" for count, word in ((worse, "worse"), (better, "better")) if count]
    return f"{text} ({', '.join(counts)})." if counts else f"{text}."


def table_rows(changes: Sequence[Change]) -> list[list[str]]:
    """A line a change, by `COLUMNS`."""
    return [
        [
            change.variant or "run",
            change.detail if change.what == "metric" else " ".join(filter(None, (change.what, change.detail))),
            change.before,
            change.after,
            change.note,
            change.direction.value.upper() if change.regression else change.direction.value,
        ]
        for change in changes
    ]


def unchanged_line(changes: Sequence[Change]) -> str:
    """How many comparisons of each kind show no difference; "" without any."""
    counts: dict[str, int] = {}
    for change in changes:
        if change.direction is Direction.NO_DIFFERENCE:
            name = change.detail or change.what
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} of {count}" for name, count in counts.items())


def to_markdown(before: Mapping[str, Any], after: Mapping[str, Any], changes: Sequence[Change]) -> str:
    """A pull request's comment: one sentence, a table with a line a variant, and what got worse."""
    sign = "❌" if regressions(list(changes)) else "✅"
    lines = [f"## {sign} {escape(after.get('name') or 'run')}: {escape(headline(changes))}", ""]
    commits = [str(side.get("git") or "")[:12] for side in (before, after)]
    if all(commits) and commits[0] != commits[1]:
        lines += [f"From {escape(commits[0])} to {escape(commits[1])}.", ""]
    lines += [f"- {_cell(change, name=True)}" for change in changes if not change.variant]
    variants = list(dict.fromkeys(change.variant for change in changes if change.variant))
    if variants:
        metric = next((change.detail for change in changes if change.what == "metric"), "metric")
        lines += [
            "",
            f"| variant | verdict | {escape(metric)} | SNR | size | latency p50 |",
            "|---|---|--:|--:|--:|--:|",
        ]
    for name in variants[:_MOST]:
        own = [change for change in changes if change.variant == name]
        verdict = _cells(own, ("verdict", "variant"))
        cells = [_verdict(name, after) if verdict == UNKNOWN else verdict]
        cells += [_cells(own, (what,)) for what in ("metric", "parity", "size", "latency")]
        lines.append(f"| {escape(name)} | {' | '.join(cells)} |")
    if len(variants) > _MOST:
        lines.append(f"\n{len(variants) - _MOST} more variants: `edge-dl compare --json`.")
    worse = [change for change in changes if change.direction is Direction.WORSE and change.what in ("check", "target")]
    if worse:
        lines += ["", "### Got worse", ""]
        for change in worse[:_MOST]:
            title = escape(" ".join(filter(None, (change.variant, change.what, change.detail))))
            lines.append(f"- ❌ **{title}**: {escape(change.note or change.after)}")
        if len(worse) > _MOST:
            lines.append(f"- and {len(worse) - _MOST} more")
    reasons = dict.fromkeys(
        change.note for change in changes if change.note.startswith(("not comparable", "other test"))
    )
    lines += [part for note in reasons for part in ("", f"<sub>{escape(note)}</sub>")]
    if note := latency_note(changes):  # It names a command: its backticks are ours.
        lines += ["", f"<sub>{note}</sub>"]
    return "\n".join(lines) + "\n"


def _verdict(variant: str, results: Mapping[str, Any]) -> str:
    """A variant's verdict as it is."""
    found = next((item for item in mappings(results.get("variants")) if item.get("name") == variant), {})
    return escape(VERDICTS.get(str(found.get("verdict")), ("", UNKNOWN))[1])


def _cells(changes: Sequence[Change], whats: Sequence[str]) -> str:
    return ", ".join(_cell(change) for change in changes if change.what in whats) or UNKNOWN


def _cell(change: Change, *, name: bool = False) -> str:
    """`24.1 KiB → 30.2 KiB ❌`, or what it is now where no difference is shown."""
    after = escape(change.after) or UNKNOWN
    title = ""
    if name:
        words = f"{change.detail} of the Keras model" if change.what == "metric" else f"{change.what} {change.detail}"
        title = f"{escape(words)}: "
    if change.direction is Direction.NO_DIFFERENCE or not change.before:
        return title + after
    return f"{title}{escape(change.before)} → {after} {_SIGNS[change.direction]}".rstrip()
