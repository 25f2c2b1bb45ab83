"""A second run beside the first: BLEU by length of the sentence, with attention and without.

A fixed vector between encoder and decoder holds a short sentence and not a long one (Cho et al., On the Properties of
Neural Machine Translation, SSST 2014); attention was made for that (Bahdanau, Cho & Bengio, ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl.checks.translation_pairs import compare_lengths, read_translated
from edge_dl.errors import UsageError
from edge_dl.report import numbers
from edge_dl.report.numbers import as_number
from edge_dl.report.translations import cell, translating
from edge_dl.report.variant_results import mapping, mappings
from edge_dl.report.words import plural


def run_label(results: Mapping[str, Any]) -> str:
    """`translate, additive attention`, `seq2seq, no attention`: what tells a run from another in one chart."""
    attention = mapping(mapping(results.get("recipe")).get("model")).get("attention")
    more = ", no attention" if attention == "none" else f", {attention} attention" if attention else ""
    return f"{results.get('name') or 'run'}{more}"


def beside_results(run: Path, results: Mapping[str, Any], other: Path, others: Mapping[str, Any]) -> dict[str, Any]:
    """`beside` of results.json: what a second run's Keras model reaches, and how far it is from the first's.

    Args:
        run, other: the run folders.
        results, others: what `collect` gave of each.

    Raises:
        UsageError: one of them does not translate.
    """
    for folder, value in ((run, results), (other, others)):
        if not translating(value):
            raise UsageError(
                "Two runs are put beside each other by their translations.",
                received=f"{folder}, whose variants were not asked to translate",
                todo="Run it to the end first: `edge-dl run` or `edge-dl verify`.",
            )
    first, second = read_translated(run), read_translated(other)
    pairs = compare_lengths(first, second) if first is not None and second is not None else []
    told = translating(others)[0]["translation"]
    return {
        "run": str(other),
        "name": others["name"],
        "label": run_label(others),
        "lengths": mappings(told.get("lengths")),
        "scores": mappings(told.get("scores")),
        "differences": [
            {
                "shortest": shortest,
                "longest": longest,
                "sentences": one.sentences,
                "value": one.first,
                "beside": one.second,
                "gain": one.loss,
                "low": one.interval.low,
                "high": one.interval.high,
                "confidence": one.interval.confidence,
            }
            for shortest, longest, one in pairs
        ],
    }


def beside_section(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The page's table of both runs, cells as in `translations.translation_rows`; None without a second one."""
    beside = mapping(results.get("beside"))
    if not beside:
        return None
    differences = mappings(beside.get("differences"))
    names = [str(results.get("name") or ""), str(beside.get("name") or "")]
    if names[0] == names[1]:
        names = ["this run", "the other"]
    rows = [
        [
            cell(words(item.get("shortest"), item.get("longest")), plural(item.get("sentences"), "sentence")),
            cell(numbers.metric(item.get("value"), "score")),
            cell(numbers.metric(item.get("beside"), "score")),
            cell(
                _points_less(item.get("gain")), f"{_points_less(item.get('low'))} to {_points_less(item.get('high'))}"
            ),
        ]
        for item in differences
    ]
    note = (
        f"BLEU of both Keras models ({run_label(results)}; {beside.get('label')}) on the same sentences, with "
        f"{numbers.percent(differences[0].get('confidence'), 0)} intervals of the difference by paired bootstrap."
        if differences
        else "The runs did not translate the same sentences, so no difference is told."
    )
    return {"title": "How far they are apart", "heads": ("words of the source", *names, "difference"), "rows": rows,
            "note": note}  # fmt: skip


def _points_less(value: Any) -> str:
    """`+4.66`."""
    return numbers.metric_change(value, "score").removesuffix(f"{numbers.SPACE}points")


def words(shortest: Any, longest: Any) -> str:
    """`5 to 8`, `13 and more`, `all`."""
    low, high = as_number(shortest), as_number(longest)
    if high is None:
        return f"{low:.0f} and more" if low else "all"
    return f"{low or 0:.0f} to {high:.0f}"


def length_lines(
    results: Mapping[str, Any], variant: Mapping[str, Any]
) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """BLEU by length to draw: the Keras model's, the variant's where it differs, and the run's beside.

    Each line is a name and points with `words`, `sentences`, `value`, `low` and `high`.
    """
    own = mappings(mapping(variant.get("translation")).get("lengths"))
    beside = mapping(results.get("beside"))
    keras = f"Keras: {run_label(results)}" if beside else "Keras model"
    lines = [(keras, _points(own, "reference")), (str(variant["name"]), _points(own, "variant"))]
    if beside:
        lines.append((f"Keras: {beside.get('label')}", _points(mappings(beside.get("lengths")), "reference")))
    return [(name, points) for name, points in lines if points]


def _points(lengths: Sequence[Mapping[str, Any]], side: str) -> list[dict[str, Any]]:
    points = []
    for item in lengths:
        score = mapping(item.get("score"))
        if as_number(score.get(side)) is not None:
            points.append(
                {
                    "words": words(item.get("shortest"), item.get("longest")),
                    "shortest": as_number(item.get("shortest")) or 0,
                    "sentences": item.get("sentences"),
                    "value": score[side],
                    "low": score.get(f"{side}_low"),
                    "high": score.get(f"{side}_high"),
                }
            )
    return points
