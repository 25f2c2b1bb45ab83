"""report.md: the run in a form that fits into a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.beside import beside_section
from edge_dl.report.compression import compression_section
from edge_dl.report.mixes import HEADS, mix_sections
from edge_dl.report.numbers import UNKNOWN
from edge_dl.report.target_view import integer_text, target_line, target_sections
from edge_dl.report.translations import HEADS as TRANSLATION_HEADS
from edge_dl.report.translations import cell_texts, translation_note, translation_rows
from edge_dl.report.variant_results import FAIL, NOT_MADE, PASS, latency_seconds
from edge_dl.report.words import (
    VERDICTS,
    conversion_words,
    forecast_baselines,
    headline,
    metric_change,
    metric_name,
    shown_failures,
    speed,
)

_SIGNS = {"pass": "✅", "fail": "❌", "warn": "⚠️", "none": "➖"}
_FAILURES = 30
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~<>&@$-])")


def to_markdown(results: Mapping[str, Any]) -> str:
    """The report as GitHub-flavoured Markdown: verdict, table of variants, what failed, how to reproduce."""
    head = headline(results)
    lines = [f"## {_SIGNS[head['kind']]} {escape(results['name'])}: {escape(head['word'])}", "", escape(head["text"])]
    if head["more"]:
        lines += ["", escape(head["more"])]
    if results["data"] and results["data"]["synthetic"]:
        lines += ["", "**Synthetic data:** the samples were generated, not observed."]
    lines += [part for note in results["notes"] for part in ("", f"**Note:** {escape(note)}")]
    if results["variants"]:
        lines += ["", *_variants(results)]
    if results["targets"]:
        lines += ["", *_targets(results)]
    lines += _translations(results)
    for mix in mix_sections(results["variants"]):
        lines += ["", f"### What the accuracy budget took: {escape(mix['name'])}", "", _row(HEADS)]
        lines.append("|" + "---|" * len(HEADS))
        lines += [
            _row(
                [
                    escape(cell) + (" ★" if row["chosen"] and not place else "")
                    for place, cell in enumerate(row["cells"])
                ]
            )
            for row in mix["rows"]
        ]
    if compression := compression_section(results):
        lines += ["", "### Compression", "", escape(compression["text"])]
        for _, heads, rows in compression["tables"][:1]:
            lines += ["", _row(heads), "|---|" + "--:|" * (len(heads) - 1)]
            lines += [_row([escape(cell) for cell in row]) for row in rows]
    failures = shown_failures(results)
    if failures:
        lines += ["", "### Checks that did not pass", ""]
        for failure in failures[:_FAILURES]:
            sign = _SIGNS["fail" if failure["verdict"] == FAIL else "warn"]
            tried = "" if failure["held"] else " (tried, not chosen)"
            place = f" on {escape(failure['target'])}" if failure["target"] else ""
            lines.append(f"- {sign} **{escape(failure['variant'])}**{place}{tried}: {escape(failure['message'])}")
        if len(failures) > _FAILURES:
            lines.append(f"- and {len(failures) - _FAILURES} more, in report.html")
    unmade = [variant for variant in results["variants"] if variant["verdict"] == NOT_MADE]
    if unmade:
        lines += [
            "",
            "### Conversions that gave no model",
            "",
            "| variant | outcome | reason | way out |",
            "|---|---|---|---|",
        ]
        for variant in unmade:
            conversion = variant["conversion"]
            cells = [variant["name"], conversion_words(conversion)[1], conversion["message"], conversion["todo"]]
            lines.append("| " + " | ".join(escape(cell) or UNKNOWN for cell in cells) + " |")
    lines += ["", *_reproduce(results)]
    return "\n".join(lines) + "\n"


def escape(text: Any) -> str:
    """`text` on one line, so that Markdown and HTML in it are shown and not obeyed (mentions included)."""
    line = " ".join(str(text).split())
    return _SPECIAL.sub(_escaped, line)


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character in "<>&@":
        # GitHub turns @name into a mention even behind a backslash.
        return f"&#{ord(character)};"
    # A hyphen or a plus sign matters at a line's start only, where none of our texts stands.
    return character if character in "-+()#!" else "\\" + character


def _variants(results: Mapping[str, Any]) -> list[str]:
    variants = results["variants"]
    metrics = [variant["metric"] for variant in variants if variant["metric"].get("name")]
    metric = metrics[0] if metrics else {}
    timed = any(latency_seconds(variant) is not None for variant in variants)
    heads = ["variant", "verdict", "size", "smaller", "gzip"]
    if metric:
        heads += [metric_name(metric["name"]), "change"]
    if timed:
        heads += ["latency p50", f"against {results['baseline']}" if results["baseline"] else "comparison"]
    numeric = {"size", "smaller", "gzip", "latency p50", "change", heads[5] if metric else ""}
    lines = [
        _row([escape(head) for head in heads]),
        "|" + "|".join("--:" if head in numeric else "---" for head in heads) + "|",
    ]
    for variant in variants:
        if variant["verdict"] == NOT_MADE:
            continue
        kind, word = VERDICTS[variant["verdict"]]
        name = escape(variant["name"])
        cells = [
            f"**{name}** ★" if variant["chosen"] else name,
            f"{_SIGNS[kind]} {word}",
            numbers.size(variant["bytes"]),
            numbers.times(variant["ratio"]),
            numbers.size(variant["gzip_bytes"]),
        ]
        if metric:
            unit = str(variant["metric"].get("unit") or "")
            cells += [numbers.metric(variant["metric"].get("value"), unit), metric_change(variant["metric"]) or UNKNOWN]
        if timed:
            cells += [numbers.duration(latency_seconds(variant)), speed(variant["comparison"]) or UNKNOWN]
        lines.append(_row(cells))
    for chosen in [variant for variant in variants if variant["chosen"]]:
        held = "passed parity" if chosen["verdict"] == PASS else "did not fail; its metric needs more test samples"
        lines += ["", f"★ the fastest that {held}."]
    lines += [part for sentence in forecast_baselines(results) for part in ("", escape(sentence))]
    return lines


def _translations(results: Mapping[str, Any]) -> list[str]:
    """BLEU and what goes with it, a line a variant; and by length where another run stands beside."""
    rows = translation_rows(results)
    if not rows:
        return []
    lines = [
        "",
        "### Translations",
        "",
        escape(translation_note(results)),
        "",
        _row([escape(head) for head in TRANSLATION_HEADS]),
    ]
    lines.append("|---|" + "--:|" * (len(TRANSLATION_HEADS) - 1))
    for row in rows:
        texts = cell_texts(row["cells"])
        lines.append(_row([escape(texts[0]) + (" ★" if row["chosen"] else ""), *(escape(text) for text in texts[1:])]))
    if beside := beside_section(results):
        lines += ["", escape(beside["note"])]
        if beside["rows"]:
            lines += ["", _row([escape(head) for head in beside["heads"]])]
            lines.append("|---|" + "--:|" * (len(beside["heads"]) - 1))
            lines += [_row([escape(text) for text in cell_texts(row)]) for row in beside["rows"]]
    return lines


def _targets(results: Mapping[str, Any]) -> list[str]:
    sections = target_sections(results)
    lines = ["### Targets", "", *(f"- **{escape(item['name'])}** {escape(target_line(item))}" for item in sections), ""]
    lines += [_row(["variant", *(escape(item["name"]) for item in sections)]), "|" + "---|" * (len(sections) + 1)]
    for variant in results["variants"]:
        cells = [_target_cell(target, variant["name"]) for target in results["targets"]]
        if any(cell != UNKNOWN for cell in cells):
            lines.append(_row([escape(variant["name"]), *cells]))
    return lines


def _target_cell(target: Mapping[str, Any], variant: str) -> str:
    """Verdict and how far the answers are from this machine's, with integers in steps and real numbers as they are."""
    found = next((item for item in target["results"] if item["variant"] == variant and item["verdict"]), None)
    if found is None:
        return UNKNOWN
    kind, word = VERDICTS[found["verdict"]]
    if not found["outputs"]:
        return f"{_SIGNS[kind]} {word}"
    distance = integer_text(found) if found["integer"] else f"max {numbers.plain(found['max_abs'], 2)}"
    return f"{_SIGNS[kind]} {distance}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _reproduce(results: Mapping[str, Any]) -> list[str]:
    lines = ["<details><summary>How to reproduce</summary>", ""]
    line = results["reproduce"]["line"]
    if line:
        fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 3)
        lines += [f"{fence}sh", " ".join(line.split("\n")), fence, ""]
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    facts = [
        (
            "seed",
            ", ".join(f"{name} {seed}" for name, seed in results["reproduce"]["seeds"].items() if seed is not None),
        ),
        ("git commit", results["git"]),
        (
            "machine",
            ", ".join(str(machine[key]) for key in ("processor", "architecture", "system") if machine.get(key)),
        ),
        ("versions", versions),
        ("data", _data(results["data"])),
    ]
    lines += [f"- {term}: {escape(text)}" for term, text in facts if text]
    return [*lines, "", "</details>"]


def _data(data: Mapping[str, Any] | None) -> str:
    if not data:
        return ""
    parts = [str(data.get(key) or "") for key in ("name", "source", "licence")]
    parts.append(f"SHA-256 {data['sha256']}" if data.get("sha256") else "")
    return ", ".join(part for part in parts if part)
