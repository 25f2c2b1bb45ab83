"""What the page and the Markdown summary show of targets, worked out from results.json's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import UNKNOWN, as_number
from edge_dl.report.target_results import NOT_RUN, no_answer
from edge_dl.report.variant_results import FAIL, NOT_ENOUGH, PASS
from edge_dl.report.words import VERDICTS, plural

MOST_COLUMNS = 5
"""So many targets get a column in the table of variants; more are in their own section only."""


def target_columns(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A column a target for the table of variants: its name, and per variant the verdict there."""
    targets = results["targets"][:MOST_COLUMNS]
    return [
        {"name": target["name"], "verdicts": {item["variant"]: item["verdict"] for item in target["results"]}}
        for target in targets
    ]


def target_sections(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One section a target: what ran there, a line a variant, and one message where none of them got an answer."""
    return [_section(target, results["verdict"]["held"]) for target in results["targets"]]


def _section(target: Mapping[str, Any], held: Sequence[str]) -> dict[str, Any]:
    found = target["results"]
    errors = {(item["error"], item["received"], item["todo"]) for item in found}
    alike = len(errors) == 1 and all(item["verdict"] == NOT_RUN for item in found)
    kind, word = _summary(found)
    return {
        "name": target["name"],
        "kind": kind,
        "word": word,
        "where": _where(target),
        "emulated": target["emulated"],
        "error": no_answer({**found[0], "todo": ""}) if alike else "",
        "todo": found[0]["todo"] if alike else "",
        "timed": any(item["latency"] for item in found),
        "rows": [] if alike else [_row(item, target["emulated"], item["variant"] in held) for item in found],
    }


def _summary(found: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    verdicts = [item["verdict"] for item in found if item["verdict"]]
    for verdict in (NOT_RUN, FAIL, NOT_ENOUGH):
        if count := verdicts.count(verdict):
            kind, word = VERDICTS[verdict]
            return kind, f"{count} of {len(verdicts)} {word}"
    return VERDICTS[PASS][0] if verdicts else "none", f"{len(verdicts)} passed" if verdicts else "timed only"


def _where(target: Mapping[str, Any]) -> str:
    found = target["results"]
    told = [
        " ".join(part for part in (item["runtime"], item["runtime_version"], item["architecture"]) if part)
        for item in found
    ]
    processors = [item["processor"] for item in found if item["processor"]]
    facts: Mapping[str, Any] = next((item["facts"] for item in found if item["facts"]), {})
    parts = [target["address"], *dict.fromkeys(text for text in told if text), *dict.fromkeys(processors)]
    parts += [f"{key.replace('_', ' ')} {value}" for key, value in facts.items()]
    return " · ".join(part for part in parts if part)


def _row(item: Mapping[str, Any], emulated: bool, held: bool) -> dict[str, Any]:
    kind, word = VERDICTS.get(item["verdict"], ("none", "timed only"))
    latency = item["latency"]
    p50 = as_number(latency.get("p50_ms") or latency.get("mean_ms"))
    failed = [str(check.get("message") or "") for check in item["checks"] if check.get("verdict") in (FAIL, NOT_ENOUGH)]
    why = [no_answer(item)] if item["verdict"] == NOT_RUN else failed
    if item["verdict"] != NOT_RUN and latency.get("error"):
        why.append(f"Not timed: {latency['error']}")
    return {
        "variant": item["variant"],
        "held": held,
        "kind": kind,
        "word": word,
        "max_abs": _largest(item),
        "differing": integer_text(item),
        "p50": "" if p50 is None else numbers.duration(p50 / 1e3),
        "meaningless": emulated and p50 is not None,
        "why": " ".join(part for part in why if part),
    }


def _largest(item: Mapping[str, Any]) -> str:
    """Largest difference to this machine's runtime: a number, `NaN or infinity`, or a dash where there is none."""
    if not item["outputs"]:
        return UNKNOWN
    return "NaN or infinity" if item["max_abs"] is None else numbers.plain(item["max_abs"], 2)


def integer_text(item: Mapping[str, Any]) -> str:
    """How many integers differ by how many steps: `12 of 160 by 1, 2 by 2`, `none of 160`; a dash for real numbers."""
    if not item["integer"]:
        return UNKNOWN
    total = numbers.count(item["elements"])
    if not item["steps"]:
        return f"none of {total}"
    first, *others = [(numbers.count(count), f"by {steps}") for steps, count in item["steps"].items()]
    unit = "step" if list(item["steps"]) == ["1"] else "steps"
    return ", ".join([f"{first[0]} of {total} {first[1]}", *(" ".join(part) for part in others)]) + f" {unit}"


def target_line(section: Mapping[str, Any]) -> str:
    """One sentence a target for the Markdown summary."""
    text = f"{section['where']}: {section['word']}"
    return f"{text}, {plural(len(section['rows']), 'variant')}" if section["rows"] else f"{text}. {section['error']}"
