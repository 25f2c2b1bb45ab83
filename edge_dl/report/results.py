"""Everything that a run folder says, as one JSON value: results.json. The schema is described in docs/results.md.

A stage that has not run yet is absent (null or an empty list), never an error. A file that cannot be read becomes a
note, so that a damaged run still gets a report that says what is damaged.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl import __version__
from edge_dl.errors import UsageError
from edge_dl.files import read_json
from edge_dl.report import shapes
from edge_dl.report.compression import compression_failures
from edge_dl.report.numbers import as_number
from edge_dl.report.shapes import sieve
from edge_dl.report.target_results import target_failures, target_results, target_verdicts
from edge_dl.report.variant_results import (
    FAIL,
    NOT_CHECKED,
    NOT_ENOUGH,
    NOT_MADE,
    PASS,
    baseline_of,
    mapping,
    mappings,
    variant_names,
    variant_results,
)

FORMAT = 1
SCHEMA = "edge-dl/results"


class RunFiles:
    """The JSON files of a run folder; what is missing is None, what is damaged is None and noted.

    Attributes:
        run: the run folder.
        notes: one sentence for each file that could not be read.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.notes: list[str] = []
        self._read: dict[str, dict[str, Any] | None] = {}

    def mapping(self, name: str, shape: dict[str, Any]) -> dict[str, Any] | None:
        """The JSON object in file `name` (relative to the run folder), as far as it has the `shape` (report.shapes)."""
        if name not in self._read:
            self._read[name] = sieve(self._content(name), shape)
        return self._read[name]

    def _content(self, name: str) -> Any:
        path = self.run / name
        if not path.is_file():
            return None
        try:
            value = _plain(read_json(path))
        except (UsageError, OSError, RecursionError) as error:
            self.notes.append(f"{name} cannot be read: {error}")
            return None
        if not isinstance(value, dict):
            self.notes.append(f"{name} should hold a JSON object and holds something else.")
        return value


def collect(run: str | Path) -> dict[str, Any]:
    """Collect results.json's value from the files of a run folder, as far as they exist.

    Args:
        run: the run folder (ARCHITECTURE.md).

    Returns:
        A JSON value without NaN or infinity; `schema` and `format` say how to read it.

    Raises:
        UsageError: `run` is no folder.
    """
    run = Path(run)
    if not run.is_dir():
        raise UsageError("A report is made from a run folder.", received=str(run), todo="Run `edge-dl run` first.")
    files = RunFiles(run)
    record = files.mapping("run.json", shapes.RUN) or {}
    recipe = mapping(record.get("recipe"))
    data = files.mapping("data/dataset.json", shapes.DATASET)
    comparisons = files.mapping("bench/comparisons.json", shapes.COMPARISONS)
    selection = files.mapping("bench/selection.json", shapes.SELECTION)
    chosen = _chosen(selection)
    names = variant_names(run)
    variants = [variant_results(run, name, files.mapping, comparisons, files.notes) for name in names]
    baseline = baseline_of(variants, comparisons)
    for variant in variants:
        variant["chosen"] = variant["name"] == chosen
        variant["ratio"] = _ratio(baseline, variant)
    targets = target_results(run, variants, files.mapping, files.notes)
    training = files.mapping("train/history.json", shapes.HISTORY)
    plan = files.mapping("export/plan.json", shapes.PLAN) or {}
    compression = _compression(files, recipe)
    return {
        "schema": SCHEMA,
        "format": FORMAT,
        "edge_dl": __version__,
        "name": str(recipe.get("name") or run.resolve().name),
        "summary": str(recipe.get("summary") or ""),
        "task": str(recipe.get("task") or mapping(data).get("task") or ""),
        "verdict": _verdict(variants, targets, _held(variants, selection, recipe), compression_failures(compression)),
        "chosen": chosen,
        "baseline": baseline["name"] if baseline else None,
        "variants": variants,
        "targets": targets,
        "left_out": {str(name): str(reason) for name, reason in mapping(plan.get("left_out")).items()},
        "selection": selection,
        "forecast_baselines": _forecast_baselines(files, variants),
        "answers": _answers(files, variants, chosen),
        "data": _data(data),
        "training": _training(training),
        "compression": compression,
        "gradient_flow": files.mapping("train/gradient_flow.json", shapes.GRADIENT_FLOW),
        "recipe": recipe or None,
        "model": record.get("model"),
        "reproduce": _reproduce(record, recipe),
        "versions": mapping(record.get("versions")),
        "git": str(record.get("git") or ""),
        "machine": mapping(record.get("machine")),
        "stages": mapping(record.get("stages")),
        "beside": None,
        "notes": files.notes,
    }


def _held(
    variants: Sequence[Mapping[str, Any]], selection: Mapping[str, Any] | None, recipe: Mapping[str, Any]
) -> list[str]:
    """Names of the variants that the run's verdict holds.

    Every variant that was made; where the lowering was left to `auto`, of each quantization only the one that was
    chosen: the others were tries. A quantization of which none could be chosen is held with all that it has.
    """
    made = [variant for variant in variants if variant["verdict"] != NOT_MADE]
    lowerings = mapping(recipe.get("conversion")).get("lowerings")
    chosen = mapping(mapping(selection).get("by_quantization"))
    if not isinstance(lowerings, list) or "auto" not in lowerings or not chosen:
        return [variant["name"] for variant in made]
    return [
        variant["name"] for variant in made if chosen.get(variant["quantization"], variant["name"]) == variant["name"]
    ]


def _verdict(
    variants: Sequence[Mapping[str, Any]],
    targets: Sequence[Mapping[str, Any]],
    held: Sequence[str],
    compression: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Fail when a check of a held variant failed, not enough samples when one is undecided, pass when all passed.

    A compression that lost more than it may fails the run: all variants are held against the compressed model alone.
    Checks here and on targets count alike, and a target that gave no answer has failed. A conversion that was refused
    or crashed is no failed check: nothing was made that could be wrong. It is counted.
    """
    kinds = (PASS, FAIL, NOT_ENOUGH, NOT_CHECKED, NOT_MADE)
    counts = {kind: sum(variant["verdict"] == kind for variant in variants) for kind in kinds}
    verdicts = [variant["verdict"] for variant in variants if variant["name"] in held]
    verdicts += target_verdicts(targets, held)
    verdicts += [FAIL] * len(compression)
    status = next((kind for kind in (FAIL, NOT_ENOUGH, PASS) if kind in verdicts), NOT_CHECKED)
    failures = [
        {
            "variant": variant["name"],
            "target": "",
            "held": variant["name"] in held,
            "check": check.get("name"),
            "output": check.get("output") or "",
            "verdict": check.get("verdict"),
            "message": str(check.get("message") or ""),
        }
        for variant in variants
        for check in variant["checks"]
        if check.get("verdict") in (FAIL, NOT_ENOUGH)
    ]
    failures += target_failures(targets, held)
    failures += compression
    failures.sort(key=lambda failure: (not failure["held"], failure["verdict"] != FAIL))
    return {"status": status, "held": list(held), "counts": counts, "failures": failures}


def _ratio(baseline: Mapping[str, Any] | None, variant: Mapping[str, Any]) -> float | None:
    """How many times smaller than float32 a variant's file is."""
    if not baseline or not baseline["bytes"] or not variant["bytes"]:
        return None
    return round(baseline["bytes"] / variant["bytes"], 4)


def _chosen(selection: Mapping[str, Any] | None) -> str | None:
    chosen = mapping(selection).get("chosen")
    return chosen if isinstance(chosen, str) and chosen else None


def _answers(files: RunFiles, variants: Sequence[Mapping[str, Any]], chosen: str | None) -> list[dict[str, Any]]:
    """Confusion matrices and changed answers of each variant that has them, the chosen one first."""
    answers = []
    for variant in variants:
        if variant["verdict"] in (NOT_MADE, NOT_CHECKED):
            continue
        report = files.mapping(f"checks/{variant['name']}.json", shapes.PARITY) or {}
        kept = {
            key: report.get(key)
            for key in ("labels", "confusion", "reference_confusion", "changed", "changed_count", "samples")
        }
        worst = [
            {"output": output.get("name"), **sample}
            for output in mappings(report.get("outputs"))
            for sample in mappings(output.get("worst"))
        ]
        if kept["confusion"] or kept["changed"] or worst:
            answers.append({"variant": variant["name"], **kept, "worst": worst})
    answers.sort(key=lambda item: item["variant"] != chosen)
    return answers


def _forecast_baselines(files: RunFiles, variants: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of the naive and the seasonal forecast on the same samples, from the first report that has them."""
    for variant in variants:
        found = mapping((files.mapping(f"checks/{variant['name']}.json", shapes.PARITY) or {}).get("baselines"))
        if found:
            return found
    return {}


def _data(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    kept = {key: value for key, value in data.items() if key != "vocabulary"}
    vocabulary = data.get("vocabulary")
    if isinstance(vocabulary, list):
        kept["vocabulary_size"] = len(vocabulary)
    return {**kept, "synthetic": bool(data.get("synthetic"))}


def _training(history: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The history with the seconds that all epochs took; None without any epoch."""
    epochs = mappings(mapping(history).get("epochs"))
    if history is None or not epochs:
        return None
    seconds = [value for epoch in epochs if (value := as_number(epoch.get("seconds"))) is not None]
    return {**({"seconds": round(sum(seconds), 3)} if seconds else {}), **history, "epochs": epochs}


def _compression(files: RunFiles, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """What compression.json says, with the epochs of every method; None where the recipe asks for none."""
    record = files.mapping("compress/compression.json", shapes.COMPRESSION)
    if record is None or not mapping(recipe.get("compression")).get("methods"):
        return None
    return {**record, "history": files.mapping("compress/history.json", shapes.COMPRESSION_HISTORY) or {}}


def _reproduce(record: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    command = record.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    return {
        "command": words,
        "line": shlex.join(words),
        "seeds": {"training": mapping(recipe.get("training")).get("seed", record.get("seed"))},
    }


def _plain(value: Any) -> Any:
    """JSON as we write it: NaN and infinity, which other writers may leave behind, become null."""
    if isinstance(value, dict):
        return {_writable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and as_number(value) is None:
        return None
    return _writable(value) if isinstance(value, str) else value


def _writable(text: str) -> str:
    """`text` without lone surrogates: JSON can carry them escaped, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
