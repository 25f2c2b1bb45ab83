"""The page's section on answers: confusion matrices, and the samples whose answer changed or moved most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.numbers import SPACE, as_number
from edge_dl.report.samples import Samples
from edge_dl.report.words import plural

MATRIX_CLASSES = 16  # Larger matrices are shown as a list of the commonest mistakes.
MISTAKES = 12
EXAMPLES = 8
WORST = 6
_EFFECTS = {"broken": ("fail", "was right, now wrong"), "repaired": ("pass", "was wrong, now right")}


def answer_section(answers: Mapping[str, Any], samples: Samples, *, matrix: bool) -> dict[str, Any] | None:
    """What the page shows of one variant's answers; None where there is nothing.

    Args:
        answers: an entry of `answers` of results.json.
        samples: where samples are drawn from.
        matrix: whether to show confusion matrices.
    """
    section: dict[str, Any] = {
        "variant": answers["variant"],
        "samples": answers.get("samples"),
        "matrices": [],
        "mistakes": [],
        "examples": [],
        "title": "",
        "note": "",
    }
    labels = [str(label) for label in answers.get("labels") or []]
    confusion = _matrix(answers.get("confusion"))
    reference = _matrix(answers.get("reference_confusion"))
    if matrix and confusion:
        if len(confusion) <= MATRIX_CLASSES:
            pairs = (("Keras model, float32", reference), (str(answers["variant"]), confusion))
            section["matrices"] = [_shown(title, table, labels) for title, table in pairs if table]
        else:
            section["mistakes"] = _mistakes(reference, confusion, labels)
    changed = [item for item in answers.get("changed") or [] if isinstance(item, dict)]
    if changed or (answers.get("changed_count") == 0 and confusion):
        section |= _changed(answers, changed, labels, samples)
    elif answers.get("worst"):
        section |= _worst(answers, samples)
    return section if section["title"] or section["matrices"] or section["mistakes"] else None


def _changed(
    answers: Mapping[str, Any], changed: Sequence[Mapping[str, Any]], labels: Sequence[str], samples: Samples
) -> dict[str, Any]:
    total = int(as_number(answers.get("changed_count")) or len(changed))
    variant = answers["variant"]
    if not total:
        return {
            "title": f"Answers that changed in {variant}",
            "note": "None: every answer is the Keras model's answer.",
            "examples": [],
        }
    steps = any(item.get("step") is not None for item in changed)
    what = f"{plural(total, 'answer')} changed" + (
        " (time steps)" if steps else f" of {numbers.count(answers.get('samples'))}"
    )
    effects = [_effect(item) for item in changed]
    parts = [
        f"{effects.count('broken')} right before and wrong now",
        f"{effects.count('repaired')} wrong before and right now",
    ]
    known = f"; of the {len(changed)} listed" if len(changed) < total else ""
    note = f"{what}{known}: {', '.join(parts)}."
    # The answers that got worse come first: they are what a reader looks for.
    order = sorted(range(len(changed)), key=lambda place: (effects[place] != "broken", effects[place] == "", place))
    examples = []
    for place in order[:EXAMPLES]:
        item = changed[place]
        kind, word = _EFFECTS.get(effects[place], ("none", "both wrong" if effects[place] else "target not known"))
        pairs = [
            ("truth", _name(item, "target", labels)),
            ("Keras", _name(item, "reference", labels)),
            (variant, _name(item, "variant", labels)),
            (
                "sample",
                f"row{SPACE}{item.get('index')}" + (f", step {item['step']}" if item.get("step") is not None else ""),
            ),
        ]
        examples.append(
            {
                "drawing": samples.input(item.get("index")),
                "kind": kind,
                "word": word,
                "pairs": [(term, text) for term, text in pairs if text],
            }
        )
    return {"title": f"Answers that changed in {variant}", "note": note, "examples": examples}


def _worst(answers: Mapping[str, Any], samples: Samples) -> dict[str, Any]:
    examples = []
    for item in answers["worst"][:WORST]:
        pairs = [
            ("largest difference", numbers.plain(item.get("max_abs"))),
            ("sample", f"row{SPACE}{item.get('index')}"),
        ]
        drawing = samples.forecast(item.get("index"), item.get("output"))
        if drawing:
            pairs.append(("drawn", "truth (solid), Keras model (dashed)"))
        examples.append(
            {"drawing": drawing or samples.input(item.get("index")), "kind": "", "word": "", "pairs": pairs}
        )
    return {
        "title": f"Samples on which {answers['variant']} is furthest from the Keras model",
        "note": "Largest absolute difference of the output first.",
        "examples": examples,
    }


def _effect(item: Mapping[str, Any]) -> str:
    target = item.get("target")
    if target is None:
        return ""
    return "broken" if item.get("reference") == target else "repaired" if item.get("variant") == target else "wrong"


def _name(item: Mapping[str, Any], key: str, labels: Sequence[str]) -> str:
    number = item.get(key)
    if number is None:
        return ""
    if item.get(f"{key}_label"):
        return str(item[f"{key}_label"])
    return labels[number] if isinstance(number, int) and 0 <= number < len(labels) else str(number)


def _matrix(value: Any) -> list[list[int]]:
    """A square matrix of counts; empty for anything else."""
    if (
        not isinstance(value, list)
        or not value
        or any(not isinstance(row, list) or len(row) != len(value) for row in value)
    ):
        return []
    return [[round(as_number(count) or 0) for count in row] for row in value]


def _shown(title: str, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> dict[str, Any]:
    """Counts with the share of their row, which shades the cell."""
    names = labels if len(labels) == len(matrix) else [str(number) for number in range(len(matrix))]
    right = sum(matrix[place][place] for place in range(len(matrix)))
    total = sum(map(sum, matrix))
    rows = []
    for place, row in enumerate(matrix):
        cells = []
        for column, count in enumerate(row):
            share = 100 * count / (sum(row) or 1)
            kind = "nothing" if not count else "right-answer" if column == place else "wrong"
            cells.append(
                {"count": count, "kind": kind + (" deep" if share > 55 else ""), "share": f"{share * 0.9:.0f}"}
            )
        rows.append({"label": names[place], "cells": cells})
    return {
        "title": f"{title}: {numbers.percent(right / total if total else None, 2)} right",
        "labels": names,
        "rows": rows,
    }


def _mistakes(
    reference: Sequence[Sequence[int]], confusion: Sequence[Sequence[int]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    names = labels if len(labels) == len(confusion) else [str(number) for number in range(len(confusion))]
    same = reference if len(reference) == len(confusion) else [[0] * len(confusion)] * len(confusion)
    cells = [
        (count + same[target][answer], target, answer)
        for target, row in enumerate(confusion)
        for answer, count in enumerate(row)
        if target != answer and count + same[target][answer]
    ]
    cells.sort(key=lambda cell: -cell[0])
    return [
        {
            "target": names[target],
            "answer": names[answer],
            "reference": same[target][answer],
            "variant": confusion[target][answer],
        }
        for _, target, answer in cells[:MISTAKES]
    ]
