"""What the page shows, worked out from results.json's value: headline, tiles, table rows, sections.

Texts here are plain text; the template escapes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.report import numbers
from edge_dl.report.answers import answer_section
from edge_dl.report.beside import beside_section
from edge_dl.report.compression import compression_section
from edge_dl.report.details import variant_details
from edge_dl.report.mixes import HEADS, mix_sections
from edge_dl.report.numbers import UNKNOWN, as_number
from edge_dl.report.samples import Samples
from edge_dl.report.target_view import target_columns, target_sections
from edge_dl.report.translations import translation_section
from edge_dl.report.variant_results import (
    FAIL,
    NOT_CHECKED,
    NOT_ENOUGH,
    NOT_MADE,
    PASS,
    latency_seconds,
    mapping,
    mappings,
)
from edge_dl.report.words import (
    VERDICTS,
    conversion_words,
    forecast_baselines,
    headline,
    metric_change,
    metric_name,
    plural,
    shown_failures,
    speed,
    speed_interval,
)

_VERDICT_ORDER = (FAIL, NOT_ENOUGH, PASS, NOT_CHECKED, NOT_MADE)


class View:
    """The page's content.

    Args:
        results: what `collect` gave.
        samples: where samples are drawn from.
    """

    def __init__(self, results: Mapping[str, Any], samples: Samples) -> None:
        variants = results["variants"]
        metrics = [variant["metric"] for variant in variants if variant["metric"].get("name")]
        first = metrics[0] if metrics else {}
        self.metric = {
            "name": metric_name(first.get("name")),
            "unit": str(first.get("unit") or ""),
        }
        self.has_metric = bool(metrics)
        self.has_parity = any(variant["outputs"] for variant in variants)
        self.has_latency = any(latency_seconds(variant) is not None for variant in variants)
        classes = any(output.get("top1") is not None for variant in variants for output in variant["outputs"])
        self.agreement = "same top-1" if classes else "SNR"
        self.target_columns = target_columns(results)
        self.targets = target_sections(results)
        self.targets_note = _targets_note(results)
        self.columns = 2 + self.has_metric + 2 * self.has_parity + 2 * self.has_latency + len(self.target_columns)
        self.headline = headline(results)
        self.subtitle = _subtitle(results)
        self.failures = shown_failures(results)
        self.failures_title = _failures_title(self.failures)
        self.rows = [
            self._row(variant, place, classes, results["baseline"]) for place, variant in enumerate(variants, 1)
        ]
        self.tiles = _tiles(results, self.metric)
        self.variants_note = _variants_note(results)
        self.mixes, self.mix_heads = mix_sections(variants), HEADS
        self.compression = compression_section(results)
        self.translations = translation_section(results)
        self.beside = beside_section(results)
        self.selection = _selection(results)
        asked = mapping(mapping(results["recipe"]).get("conversion")).get("lowerings") or []
        self.selection_title = "What auto tried" if "auto" in asked else "Which variant is fastest"
        self.unmade = [row for row in self.rows if not row["made"]] + [
            {"name": f"{name} (lowering)", "kind": "none", "word": "left out", "message": reason, "todo": "", "log": []}
            for name, reason in results["left_out"].items()
        ]
        self.answers = [
            section
            for place, answers in enumerate(_interesting(results))
            # Sentences say more than single tokens after the right ones.
            if not self.translations and (section := answer_section(answers, samples, matrix=place == 0))
        ]
        self.training_note = _training_note(results)
        self.details = [
            variant_details(variant, row, results)
            for variant, row in zip(variants, self.rows, strict=True)
            if row["made"]
        ]
        self.facts = _facts(results)
        self.data = _data(results["data"])
        self.stages = [
            {"name": name, "status": entry.get("status"), "error": entry.get("error"), "seconds": entry.get("seconds")}
            for name, entry in results["stages"].items()
            if isinstance(entry, dict)
        ]
        self.recipe = json.dumps(results["recipe"], indent=2, ensure_ascii=False)
        self.sections = self._sections(results)

    def _sections(self, results: Mapping[str, Any]) -> list[tuple[str, str]]:
        present = {
            "Verdict": True,
            "Variants": bool(results["variants"]),
            "Targets": bool(self.targets),
            "Translations": bool(self.translations),
            "Budget": bool(self.mixes),
            "Auto": bool(self.selection),
            "Unmade": bool(self.unmade),
            "Answers": bool(self.answers),
            "Training": bool(results["training"] or results["gradient_flow"]),
            "Compression": bool(self.compression),
            "Details": bool(self.details),
            "Reproduce": True,
        }
        titles = {"Unmade": "Not converted", "Auto": "Auto" if "auto" in self.selection_title else "Fastest"}
        return [(name.lower(), titles.get(name, name)) for name, there in present.items() if there]

    def _row(self, variant: Mapping[str, Any], place: int, classes: bool, baseline: str | None) -> dict[str, Any]:
        made = variant["verdict"] != NOT_MADE
        kind, word = VERDICTS[variant["verdict"]] if made else conversion_words(variant["conversion"])
        outputs = variant["outputs"]
        top1 = [value for output in outputs if (value := as_number(output.get("top1"))) is not None]
        snr = [value for output in outputs if (value := as_number(output.get("snr_db"))) is not None]
        errors = [value for output in outputs if (value := as_number(output.get("max_abs"))) is not None]
        agreement = min(top1 if classes else snr, default=None)
        comparison = variant["comparison"]
        return {
            "name": variant["name"],
            "anchor": f"variant-{place}",
            "chosen": variant["chosen"],
            "made": made,
            "kind": kind,
            "word": word,
            "verdict_order": _VERDICT_ORDER.index(variant["verdict"]),
            "bytes": variant["bytes"],
            "gzip_bytes": variant["gzip_bytes"],
            "smaller": numbers.smaller(variant["ratio"]),
            "metric": {"value": as_number(variant["metric"].get("value"))},
            "change": metric_change(variant["metric"]),
            "agreement": agreement,
            "agreement_text": numbers.percent(agreement, 2) if classes else numbers.decibels(agreement),
            "max_abs": max(errors, default=None),
            "targets": [
                VERDICTS.get(column["verdicts"].get(variant["name"]), ("none", UNKNOWN))
                for column in self.target_columns
            ],
            "p50": latency_seconds(variant),
            "p99": latency_seconds(variant, "p99_ms"),
            "speed": "baseline" if variant["name"] == baseline else speed(comparison),
            "speed_interval": speed_interval(comparison),
            "speed_order": as_number(comparison.get("ratio")),
            "message": variant["conversion"]["message"] or "No reason was recorded.",
            "todo": variant["conversion"]["todo"],
            "log": variant["conversion"]["log"],
        }


def _subtitle(results: Mapping[str, Any]) -> str:
    parts = [results["summary"].rstrip(".")] if results["summary"] else []
    if results["task"]:
        parts.append(results["task"])
    data = results["data"]
    if data:
        samples = _samples(data, "test")
        parts.append(
            f"data: {data.get('name') or 'unnamed'}" + (f", {numbers.count(samples)} test samples" if samples else "")
        )
    machine = results["machine"]
    if machine.get("processor"):
        parts.append(f"{machine['processor']}")
    return " · ".join(parts)


def _failures_title(failures: Sequence[Mapping[str, Any]]) -> str:
    failed = sum(failure["verdict"] == FAIL for failure in failures)
    open_ = len(failures) - failed
    parts = [plural(failed, "failed check")] if failed else []
    parts += [plural(open_, "undecided check")] if open_ else []
    text = " and ".join(parts)
    return text[:1].upper() + text[1:]


def _tiles(results: Mapping[str, Any], metric: Mapping[str, str]) -> list[dict[str, str]]:
    """Key numbers of the chosen variant; without one, of the smallest and the fastest variant that passed."""
    tiles: list[dict[str, str]] = []
    by_name = {variant["name"]: variant for variant in results["variants"]}
    chosen = by_name.get(results["chosen"] or "")
    if chosen:
        tiles += [{"term": "chosen variant", "value": chosen["name"], "more": VERDICTS[chosen["verdict"]][1]}]
        if chosen["bytes"]:
            more = numbers.smaller(chosen["ratio"])
            more += " than float32" if more else ""
            tiles.append({"term": "size", "value": numbers.size(chosen["bytes"]), "more": more})
        if latency_seconds(chosen) is not None:
            tiles.append(_latency_tile(chosen, results["baseline"], "latency, median call"))
        if as_number(chosen["metric"].get("value")) is not None:
            more = metric_change(chosen["metric"])
            value = numbers.metric(chosen["metric"]["value"], metric["unit"])
            tiles.append({"term": metric["name"], "value": value, "more": f"{more} against Keras" if more else ""})
        return tiles
    passed = [variant for variant in results["variants"] if variant["verdict"] == PASS]
    sized = [variant for variant in passed if variant["bytes"]]
    timed = [variant for variant in passed if latency_seconds(variant) is not None]
    if sized:
        best = min(sized, key=lambda variant: variant["bytes"])
        tiles.append({"term": "smallest that passed", "value": numbers.size(best["bytes"]), "more": best["name"]})
    if timed:
        best = min(timed, key=lambda variant: variant["latency"]["p50_ms"])
        value = numbers.duration(latency_seconds(best))
        tiles.append({"term": "fastest that passed", "value": value, "more": best["name"]})
    references = [
        reference
        for variant in results["variants"]
        if (reference := as_number(variant["metric"].get("reference"))) is not None
    ]
    if references:
        tiles.append(
            {"term": f"{metric['name']}, Keras", "value": numbers.metric(references[0], metric["unit"]), "more": ""}
        )
    return tiles


def _latency_tile(variant: Mapping[str, Any], baseline: str | None, term: str) -> dict[str, str]:
    compared = speed(variant["comparison"])
    than = "than" if compared.endswith(("faster", "slower")) else "against"
    more = f"{compared} {than} {baseline}" if compared and baseline and baseline != variant["name"] else ""
    return {"term": term, "value": numbers.duration(latency_seconds(variant)), "more": more}


def _variants_note(results: Mapping[str, Any]) -> str:
    parts = []
    metric: dict[str, Any] = next(
        (variant["metric"] for variant in results["variants"] if variant["metric"].get("name")), {}
    )
    reference = as_number(metric.get("reference"))
    if reference is not None:
        unit = str(metric.get("unit") or "")
        text, counted = numbers.metric(reference, unit), "sentence" if unit == "score" else "sample"
        name = f"{metric_name(metric['name'])} " if unit == "score" else ""
        parts.append(
            f"The Keras model in float32 reaches {name}{text} on {plural(metric.get('samples') or 0, counted)}."
        )
    if results["baseline"]:
        parts.append(f"Sizes and latencies are held against {results['baseline']}.")
    latency: dict[str, Any] = next(
        (variant["latency"] for variant in results["variants"] if variant["latency"].get("p50_ms")), {}
    )
    where = [str(latency[key]) for key in ("runtime", "runtime_version") if latency.get(key)]
    if latency.get("threads"):
        where.append(plural(latency["threads"], "thread"))
    if where:
        parts.append(f"Latency: {', '.join(where)}.")
    if any(variant["comparison"].get("ratio") for variant in results["variants"]):
        parts.append(
            "Speed is measured by calling two variants in turns, so it is surer than the ratio of two latencies."
        )
    parts += forecast_baselines(results)
    return " ".join(parts)


def _targets_note(results: Mapping[str, Any]) -> str:
    found = [item for target in results["targets"] for item in target["results"]]
    samples = sorted({item["samples"] for item in found if item["samples"]})
    runtimes = sorted({item["local_runtime"] for item in found if item["local_runtime"]})
    parts = ["The same bundles, run elsewhere and judged here."]
    if samples:
        parts.append(f"Checked on {numbers.count(samples[-1])} samples.")
    if runtimes:
        parts.append(f"The largest difference is to this machine's {', '.join(runtimes)} on the same samples.")
    return " ".join(parts)


def _selection(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = mappings(mapping(results["selection"]).get("rows"))
    shown = [
        {
            "name": str(row.get("variant") or ""),
            "taken": bool(row.get("chosen")),
            "best": row.get("variant") == results["chosen"],
            "quantization": str(row.get("quantization") or ""),
            "verdict": row.get("verdict") if row.get("verdict") in VERDICTS else NOT_CHECKED,
            "p50": None if (p50 := as_number(row.get("p50_ms"))) is None else p50 / 1e3,
            "bytes": row.get("bytes") or None,
            "reason": str(row.get("reason") or ""),
        }
        for row in rows
    ]
    order = {name: place for place, name in enumerate(dict.fromkeys(row["quantization"] for row in shown))}
    return sorted(shown, key=lambda row: (order[row["quantization"]], row["p50"] is None, row["p50"] or 0.0))


def _interesting(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The answers to show: the chosen variant's, and those of the variant that changed most.

    Without a chosen variant the one that changed most among those that passed stands in its place.
    """
    passed = {variant["name"] for variant in results["variants"] if variant["verdict"] == PASS}
    ranked = sorted(results["answers"], key=_changed_most, reverse=True)
    first = [item for item in ranked if item["variant"] == results["chosen"]]
    first = first or [item for item in ranked if item["variant"] in passed] or ranked
    others = [item for item in ranked if item is not first[0]] if first else []
    return first[:1] + [item for item in others[:1] if _changed_most(item) > _changed_most(first[0])]


def _changed_most(answers: Mapping[str, Any]) -> tuple[float, float]:
    worst = max((as_number(item.get("max_abs")) or 0.0 for item in answers["worst"]), default=0.0)
    return as_number(answers.get("changed_count")) or 0.0, worst


def _training_note(results: Mapping[str, Any]) -> str:
    training = results["training"]
    if not training:
        return ""
    epochs = len(training["epochs"])
    parts = [plural(epochs, "epoch")]
    if training.get("seconds") is not None:
        parts[0] += f" in {numbers.duration(training['seconds'])}"
    best = training.get("best_epoch")
    if best is not None:
        parts.append(f"weights kept from epoch {best}" if best != epochs else "weights of the last epoch")
    if training.get("parameters") is not None:
        parts.append(f"{numbers.count(training['parameters'])} parameters")
    parts += [str(training[key]) for key in ("backend", "device", "precision") if training.get(key)]
    if as_number(training.get("samples_per_second")) is not None:
        parts.append(f"{numbers.count(training['samples_per_second'])} samples a second")
    return ", ".join(parts) + "."


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = results["machine"]
    seeds = ", ".join(f"{name} {seed}" for name, seed in results["reproduce"]["seeds"].items() if seed is not None)
    system = " ".join(str(machine[key]) for key in ("system", "release", "architecture") if machine.get(key))
    cores = plural(machine["cores"], "core") if machine.get("cores") else ""
    hardware = ", ".join(part for part in (str(machine.get("processor") or ""), cores) if part)
    own = results["model"] if isinstance(results["model"], dict) else {}
    return [
        ("model", str(own.get("path") or "")),
        ("seed", seeds),
        ("git commit", results["git"]),
        ("processor", hardware),
        ("system", system),
    ]


def _data(data: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not data:
        return []
    parts = []
    for name in ("train", "validation", "test"):
        samples = _samples(data, name)
        if samples is not None:
            parts.append(f"{numbers.count(samples)} {name}")
    labels = data.get("labels") or []
    return [
        ("name", str(data.get("name") or "")),
        ("kind", "synthetic: generated, not observed" if data["synthetic"] else "observed"),
        ("source", str(data.get("source") or "")),
        ("licence", str(data.get("licence") or "")),
        ("samples", ", ".join(parts)),
        (
            "classes",
            f"{len(labels)}: " + ", ".join(map(str, labels[:20])) + (", …" if len(labels) > 20 else "")
            if labels
            else "",
        ),
        ("SHA-256", str(data.get("sha256") or "")),
        ("remarks", " ".join(str(note) for note in data.get("notes") or [])),
    ]


def _samples(data: Mapping[str, Any], part: str) -> int | None:
    splits = data.get("splits")
    entry = splits.get(part) if isinstance(splits, dict) else None
    samples = entry.get("samples") if isinstance(entry, dict) else None
    return samples if isinstance(samples, int) else None
