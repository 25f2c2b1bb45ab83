"""The page's section on translations: scores with intervals, sameness with the Keras model, sentences, alignments.

Works on `translation` of each variant in results.json; texts here are plain text unless they say that they are HTML.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from edge_dl.report import numbers
from edge_dl.report.alignment import Alignment, inline
from edge_dl.report.numbers import SPACE, UNKNOWN, as_number
from edge_dl.report.variant_results import PASS, mapping, mappings
from edge_dl.report.words import metric_change, plural

HEADS = ("variant", "BLEU", "chrF", "BLEU against Keras", "same sentences", "cut off", "size")
KERAS = "Keras model"
SHOWN = 6


def translating(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The variants of results.json that were asked to translate."""
    return [variant for variant in results["variants"] if variant.get("translation")]


def shown_variant(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The variant whose sentences are shown: the chosen one, else the first that passed, else the first."""
    found = translating(results)
    chosen = [variant for variant in found if variant["chosen"]]
    passed = [variant for variant in found if variant["verdict"] == PASS]
    return next(iter(chosen or passed or found), None)


def translation_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for the Keras model and one a variant, with cells by `HEADS`, each a text and a quieter text below it."""
    found = translating(results)
    rows = []
    if found:
        told = found[0]["translation"]
        cells = [(KERAS, "float32"), *(_score(told, name, "reference") for name in ("bleu", "chrf")), (UNKNOWN, "")]
        rows.append(_row([*cells, (UNKNOWN, ""), (numbers.count(told.get("unended_reference")), ""), (UNKNOWN, "")]))
    for variant in found:
        told = variant["translation"]
        metric: Mapping[str, Any] = next((item for item in variant["metrics"] if item.get("name") == "bleu"), {})
        low, high = (as_number(metric.get(key)) for key in ("low", "high"))
        confidence = numbers.percent(metric.get("confidence"), 0)
        interval = ""
        if low is not None and high is not None:
            interval = (
                f"{confidence}: {numbers.metric_change(-high, 'score')} to {numbers.metric_change(-low, 'score')}"
            )
        cells = [
            (variant["name"], ""),
            *(_score(told, name, "variant") for name in ("bleu", "chrf")),
            (metric_change(metric) or UNKNOWN, interval.replace(f"{SPACE}points", "")),
            (numbers.percent(identical_share(told), 1), _parting(told)),
            (numbers.count(told.get("unended_variant")), ""),
            (numbers.size(variant["bytes"]), numbers.smaller(variant["ratio"])),
        ]
        rows.append(_row(cells, chosen=variant["chosen"]))
    return rows


def cell(text: str, more: str = "") -> dict[str, str]:
    """A cell of a table: a text and a quieter one below it."""
    return {"text": text, "more": more}


def cell_texts(cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Cells of a row as one text each, where there is no smaller print: `81.48 (78.40 to 84.29)`."""
    return [f"{cell['text']} ({cell['more']})" if cell["more"] else cell["text"] for cell in cells]


def identical_share(told: Mapping[str, Any]) -> float | None:
    """Share of sentences that are the Keras model's token for token."""
    identical, sentences = as_number(told.get("identical")), as_number(told.get("sentences"))
    return None if identical is None or not sentences else identical / sentences


def translation_note(results: Mapping[str, Any]) -> str:
    """What was translated, and how it was judged."""
    found = translating(results)
    if not found:
        return ""
    told = found[0]["translation"]
    parts = [
        f"{plural(told.get('sentences'), 'different test sentence')} with "
        f"{plural(told.get('references'), 'right translation')}, "
        "translated greedily, each side from its own tokens."
    ]
    if shortened := as_number(told.get("shortened")):
        parts.append(f"{plural(shortened, 'sentence')} longer than the model takes: cut, on both sides alike.")
    parts.append(
        f"Intervals: {numbers.percent(told.get('confidence'), 0)} by bootstrap over sentences; "
        "of a difference with the same sentences drawn for both sides."
    )
    signature = next((str(item["signature"]) for item in mappings(told.get("scores")) if item.get("signature")), "")
    if signature:
        parts.append(f"sacrebleu: {signature}.")
    return " ".join(parts)


def translation_section(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page shows; None for a run that does not translate."""
    variant = shown_variant(results)
    if variant is None:
        return None
    told = variant["translation"]
    # The one that most sentences changed in has most to show; the chosen one where all are alike.
    furthest = min([variant, *translating(results)], key=lambda item: identical_share(item["translation"]) or 0.0)
    worst = [_sentence(item, furthest["name"]) for item in mappings(furthest["translation"].get("worst"))[:SHOWN]]
    samples = [_sentence(item, variant["name"]) for item in mappings(told.get("samples"))]
    return {
        "heads": HEADS,
        "rows": translation_rows(results),
        "note": translation_note(results),
        "variant": variant["name"],
        "furthest": furthest["name"],
        "positions": _positions(furthest["translation"]),
        "worst": worst,
        "samples": samples,
        "alignments": [drawn for item in mappings(told.get("alignments")) if (drawn := _drawn(item))],
    }


def _row(cells: Sequence[tuple[str, str]], *, chosen: bool = False) -> dict[str, Any]:
    return {"cells": [cell(text, more) for text, more in cells], "chosen": chosen}


def _score(told: Mapping[str, Any], name: str, side: str) -> tuple[str, str]:
    score = next((item for item in mappings(told.get("scores")) if item.get("name") == name), {})
    ends = [numbers.metric(score.get(f"{side}_{end}"), "score") for end in ("low", "high")]
    return numbers.metric(score.get(side), "score"), "" if UNKNOWN in ends else f"{ends[0]} to {ends[1]}"


def _parting(told: Mapping[str, Any]) -> str:
    """How many sentences differ, and by which token half of them do."""
    places = _places(told)
    if not places:
        return ""
    return f"{numbers.count(len(places))} differ, half by token {places[(len(places) - 1) // 2]}"


def _places(told: Mapping[str, Any]) -> list[int]:
    """The first token that differs, of each sentence that does, in order."""
    counts = {int(place): int(as_number(count) or 0) for place, count in mapping(told.get("positions")).items()
              if str(place).isdigit()}  # fmt: skip
    return [place for place in sorted(counts) for _ in range(min(counts[place], 1_000_000))]


def _positions(told: Mapping[str, Any]) -> str:
    """Where sentences first differ, in one sentence."""
    places = _places(told)
    if not places:
        return "Every sentence is the Keras model's, token for token."
    common = [f"{places.count(place)} at token {place}" for place in sorted(set(places))]
    shown = ", ".join(common[:12]) + (", …" if len(common) > 12 else "")
    return f"{plural(len(places), 'sentence')} differ from the Keras model's. They first do so: {shown}."


def _sentence(item: Mapping[str, Any], variant: str) -> dict[str, Any]:
    reference, said = str(item.get("reference") or ""), str(item.get("variant") or "")
    same = as_number(item.get("position")) is None
    right = [str(text) for text in item.get("references") or []]
    pairs = [
        ("source", html.escape(str(item.get("source") or ""))),
        ("right", "<br>".join(map(html.escape, right[:3]))),
    ]
    if same:
        pairs.append(("both", html.escape(said) or "<i>nothing</i>"))
        kind, word = "pass", "same as Keras"
    else:
        pairs += [("Keras", _marked(reference, said)), (variant, _marked(said, reference))]
        kind, word = "warn", f"differs from token {int(item['position'])} on"
    if said in right:
        word += ", right" if same else ", and right"
    return {"kind": kind, "word": word, "pairs": pairs}


def _marked(text: str, other: str) -> str:
    """HTML of `text` with all from the first word that differs from `other` marked; an end too early is a dagger."""
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))
    while start and start < len(text) and not text[start - 1].isspace():
        start -= 1
    if start >= len(text):
        return f'{html.escape(text)}<mark title="ends here">†</mark>'
    return f"{html.escape(text[:start])}<mark>{html.escape(text[start:])}</mark>"


def _drawn(item: Mapping[str, Any]) -> str:
    """SVG of an alignment; "" where it is damaged."""
    source, target = ([str(piece) for piece in item.get(side) or []] for side in ("source", "target"))
    weights = item.get("weights") or []
    if not source or len(weights) != len(target) or any(len(row or []) != len(source) for row in weights):
        return ""
    return inline(Alignment(source, target, np.array(weights, np.float64)))
