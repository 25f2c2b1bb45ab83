"""Verdicts and comparisons in words: what the page and the Markdown summary both say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import SPACE, as_number
from edge_dl.report.target_results import NOT_RUN, target_verdicts
from edge_dl.report.variant_results import FAIL, NOT_CHECKED, NOT_ENOUGH, NOT_MADE, PASS, mapping

# Verdict -> (kind: decides colour and sign, word).
VERDICTS = {
    PASS: ("pass", "passed"),
    FAIL: ("fail", "failed"),
    NOT_ENOUGH: ("warn", "not enough samples"),
    NOT_CHECKED: ("none", "not checked"),
    NOT_MADE: ("none", "not made"),
    NOT_RUN: ("fail", "no answer"),
}
CONVERSIONS = {
    "refused": ("warn", "refused"),
    "failed": ("fail", "failed to convert"),
    "crashed": ("fail", "crashed"),
    "timed out": ("fail", "timed out"),
}


_NAMES = {"bleu": "BLEU", "chrf": "chrF"}


def metric_name(name: Any) -> str:
    """A task metric's name for a reader: `word error rate`, `BLEU`."""
    text = str(name or "metric")
    return _NAMES.get(text, text.replace("_", " "))


def plural(count: Any, word: str) -> str:
    """`1 check`, `3 checks`."""
    number = as_number(count) or 0
    return f"{numbers.count(number)} {word}{'' if number == 1 else 's'}"


def headline(results: Mapping[str, Any]) -> dict[str, str]:
    """The verdict of a run: its kind, one word, one sentence, and what else should be said at once."""
    verdict, counts = results["verdict"], results["verdict"]["counts"]
    kind, word = VERDICTS[verdict["status"]]
    held = [variant["verdict"] for variant in results["variants"] if variant["name"] in verdict["held"]]
    checked = [item for item in held if item in (PASS, FAIL, NOT_ENOUGH)]
    # With `auto`, one variant a quantization is taken; without, every one counts.
    taken = "chosen" if _tried(results) else "checked"
    elsewhere = target_verdicts(results["targets"], verdict["held"])
    if any(failure["variant"] == "compression" for failure in verdict["failures"]):
        here = f" Held against the compressed model, {_others(checked)}." if checked else ""
        text = f"Compression lost more than it may.{here}"
    elif verdict["status"] == FAIL and FAIL not in checked:
        here = f" Here, {_others(checked)}." if checked else ""
        text = f"{elsewhere.count(FAIL)} of {plural(len(elsewhere), 'check')} on {_places(results)} failed.{here}"
    elif verdict["status"] == FAIL:
        text = f"{checked.count(FAIL)} of {plural(len(checked), f'{taken} variant')} failed; {_others(checked)}."
    elif verdict["status"] == NOT_ENOUGH:
        passed = checked.count(PASS)
        text = f"{passed} of {plural(len(checked), f'{taken} variant')} passed; the others need more test samples."
        if NOT_ENOUGH not in checked:
            text = f"Every {taken} variant passed here; on {_places(results)} some need more test samples."
    elif verdict["status"] == PASS:
        what = f"The only {taken} variant" if len(checked) == 1 else f"All {len(checked)} {taken} variants"
        text = f"{what} passed every check{f', here and on {_places(results)}' if elsewhere else ''}."
        if not checked:
            text = f"Every check on {_places(results)} passed; none was made here."
    elif counts[NOT_CHECKED]:
        text = f"{plural(counts[NOT_CHECKED], 'variant')} converted, none checked yet."
    elif counts[NOT_MADE]:
        text = "No conversion gave a model."
        kind, word = "fail", "nothing converted"
    else:
        text = "Nothing has been converted yet."
    return {"kind": kind, "word": word, "text": text, "more": _also(results)}


def shown_failures(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict's failures; what several variants met alike on one target is told once, with their names."""
    shown: list[dict[str, Any]] = []
    for failure in results["verdict"]["failures"]:
        target = failure.get("target", "")
        key = (target, failure["check"], failure["message"])
        same = next((item for item in shown if target and item["key"] == key), None)
        if same is None:
            shown.append({**failure, "target": target, "key": key, "variants": [failure["variant"]]})
        else:
            same["variants"].append(failure["variant"])
    for item in shown:
        names = item["variants"]
        made = len(results["variants"]) - results["verdict"]["counts"][NOT_MADE]
        everything = len(names) > 1 and len(names) == made
        item["variant"] = "all variants" if everything else ", ".join(names)
    return shown


def _places(results: Mapping[str, Any]) -> str:
    """`target old`, `3 targets`."""
    names = [target["name"] for target in results["targets"]]
    return f"target {names[0]}" if len(names) == 1 else plural(len(names), "target")


def _others(checked: Sequence[str]) -> str:
    undecided = checked.count(NOT_ENOUGH)
    more = f", {undecided} undecided for want of samples" if undecided else ""
    return f"{checked.count(PASS)} passed every check{more}"


def forecast_baselines(results: Mapping[str, Any]) -> list[str]:
    """One sentence a baseline: what the naive and the seasonal forecast reach on the test samples."""
    sentences = []
    for name, values in results["forecast_baselines"].items():
        texts = [
            f"{key} {numbers.plain(value)}" for key, value in mapping(values).items() if as_number(value) is not None
        ]
        if texts:
            sentences.append(f"The {name} forecast on the same samples: {', '.join(texts)}.")
    return sentences


def _tried(results: Mapping[str, Any]) -> list[str]:
    """Verdicts of variants that were made and checked, and not taken because `auto` chose another lowering."""
    held = results["verdict"]["held"]
    return [
        variant["verdict"]
        for variant in results["variants"]
        if variant["name"] not in held and variant["verdict"] not in (NOT_MADE, NOT_CHECKED)
    ]


def _also(results: Mapping[str, Any]) -> str:
    outcomes: dict[str, int] = {}
    for variant in results["variants"]:
        if variant["verdict"] == NOT_MADE:
            word = conversion_words(variant["conversion"])[1]
            outcomes[word] = outcomes.get(word, 0) + 1
    parts = []
    chosen = next((variant for variant in results["variants"] if variant["chosen"]), None)
    if chosen and results["verdict"]["status"] != PASS and chosen["verdict"] == PASS:
        parts.append(f"The chosen variant, {chosen['name']}, passed every check.")
    if tried := _tried(results):
        failed = f", {tried.count(FAIL)} of which failed" if FAIL in tried else ""
        parts.append(f"{plural(len(tried), 'other variant')} tried{failed}.")
    if outcomes:
        total = sum(outcomes.values())
        parts.append(
            f"{plural(total, 'conversion')} gave no model: "
            + ", ".join(f"{count} {word}" for word, count in outcomes.items())
            + "."
        )
    counts = results["verdict"]["counts"]
    elsewhere = target_verdicts(results["targets"], results["verdict"]["held"])
    if FAIL in elsewhere and any(
        variant["verdict"] == FAIL and variant["name"] in results["verdict"]["held"] for variant in results["variants"]
    ):
        parts.append(f"{elsewhere.count(FAIL)} of {plural(len(elsewhere), 'check')} on {_places(results)} failed.")
    if counts[NOT_CHECKED] and results["verdict"]["status"] != NOT_CHECKED:
        parts.append(f"{plural(counts[NOT_CHECKED], 'variant')} not checked.")
    untimed = sum(bool(variant["latency"].get("error")) for variant in results["variants"])
    if untimed:
        parts.append(f"{plural(untimed, 'variant')} could not be timed.")
    return " ".join(parts)


def conversion_words(conversion: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and word for a conversion that gave no model; a crash names its signal."""
    kind, word = CONVERSIONS.get(conversion["status"], ("none", conversion["status"]))
    return kind, f"{word} ({conversion['signal']})" if conversion["signal"] else word


def metric_change(metric: Mapping[str, Any], *, interval: bool = False) -> str:
    """What a variant loses or wins of a task metric: `−0.12 points`, `1.3 % worse`; with its interval if asked for."""
    drop = as_number(metric.get("drop"))
    if drop is None:
        return ""
    text = _change(drop, metric)
    low, high = as_number(metric.get("low")), as_number(metric.get("high"))
    if interval and low is not None and high is not None:
        confidence = as_number(metric.get("confidence"))
        share = f"{numbers.percent(confidence, 0)} " if confidence else ""
        text += f", {share}interval {_change(high, metric)} to {_change(low, metric)}"
    return text


def _change(drop: float, metric: Mapping[str, Any]) -> str:
    if metric.get("relative"):
        if round(drop * 100, 2) == 0:
            return f"±0{SPACE}%"
        return f"{numbers.percent(abs(drop), 2)} {'worse' if drop > 0 else 'better'}"
    change = -drop if metric.get("higher_is_better", True) else drop
    return numbers.metric_change(change, str(metric.get("unit") or ""))


def speed(comparison: Mapping[str, Any]) -> str:
    """A latency comparison: `1.84× faster`, `1.20× slower`, `no difference shown`; "" where there is none."""
    verdict, ratio = comparison.get("verdict"), as_number(comparison.get("ratio"))
    if verdict not in ("faster", "slower") or not ratio or ratio <= 0:
        return str(verdict or "")
    return f"{numbers.times(1 / ratio if verdict == 'faster' else ratio)} {verdict}"


def speed_interval(comparison: Mapping[str, Any]) -> str:
    """The interval of a latency ratio: `ratio 0.54 (0.52 to 0.57)`."""
    ratio, low, high = (as_number(comparison.get(key)) for key in ("ratio", "low", "high"))
    if ratio is None:
        return ""
    ends = f" ({_ratio(low)} to {_ratio(high)})" if low is not None and high is not None else ""
    return f"ratio {_ratio(ratio)}{ends}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
