"""Targets' part of results.json: what every variant answered elsewhere, and how far that is from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl.report import shapes
from edge_dl.report.numbers import as_number
from edge_dl.report.variant_results import FAIL, NOT_ENOUGH, NOT_MADE, PASS, Reader, mapping, mappings

NOT_RUN = "not-run"
"""Verdict of a variant that a target gave no answer for."""


def target_results(
    run: Path, variants: Sequence[Mapping[str, Any]], read: Reader, notes: list[str]
) -> list[dict[str, Any]]:
    """What targets answered, by target name; docs/results.md describes the value.

    Args:
        run: the run folder.
        variants: the run's variants; what a target said of others is of an earlier state of the run and left out.
        read: gives the JSON object in a file of the run folder, as far as it has a shape; None where there is none.
        notes: receives a sentence for each target whose answers are of an earlier state of a variant.
    """
    targets = []
    for folder in sorted(path for path in run.glob("targets/*") if path.is_dir() and path.name[0] != "."):
        results, outdated = [], []
        name = address = ""
        emulated = False
        for variant in variants:
            place = f"targets/{folder.name}"
            answer = read(f"{place}/{variant['name']}.json", shapes.TARGET) or {}
            timing = read(f"{place}/bench/{variant['name']}.json", shapes.TARGET_LATENCY) or {}
            if variant["verdict"] == NOT_MADE or not (answer or timing):
                continue
            name = str(answer.get("target") or timing.get("target") or name)
            address = str(answer.get("address") or timing.get("address") or address)
            emulated = bool(answer.get("emulated") or timing.get("meaningful") is False or emulated)
            model = _model(variant["name"], read)
            if any(item.get("model") != model for item in (answer, timing) if item):
                outdated.append(variant["name"])
            answer, timing = (item if item.get("model") == model else {} for item in (answer, timing))
            if answer or timing:
                results.append(_result(variant["name"], answer, timing))
        name = name or folder.name
        if outdated:
            notes.append(
                f"What {name} said of {', '.join(outdated)} is about an earlier model and was left out: "
                f"run `edge-dl verify RUN --on {name}` again, or remove {place}."
            )
        if results:
            targets.append({"name": name, "address": address, "emulated": emulated, "results": results})
    return targets


def target_failures(targets: Sequence[Mapping[str, Any]], held: Sequence[str]) -> list[dict[str, Any]]:
    """What did not pass on targets, in the form of the verdict's `failures`."""
    failures = []
    for target in targets:
        for result in target["results"]:
            common = {"variant": result["variant"], "target": target["name"], "held": result["variant"] in held}
            if result["verdict"] == NOT_RUN:
                message = no_answer(result)
                failures.append({**common, "check": "answer", "output": "", "verdict": FAIL, "message": message})
            failures += [
                {
                    **common,
                    "check": check.get("name"),
                    "output": check.get("output") or "",
                    "verdict": check.get("verdict"),
                    "message": str(check.get("message") or ""),
                }
                for check in result["checks"]
                if result["verdict"] != NOT_RUN and check.get("verdict") in (FAIL, NOT_ENOUGH)
            ]
    return failures


def target_verdicts(targets: Sequence[Mapping[str, Any]], held: Sequence[str]) -> list[str]:
    """The verdict of every held variant on every target that was asked for it; `not-run` counts as failed."""
    found = [result["verdict"] for target in targets for result in target["results"] if result["variant"] in held]
    return [FAIL if verdict == NOT_RUN else verdict for verdict in found if verdict]


def no_answer(result: Mapping[str, Any]) -> str:
    """Why a target gave no answer and what to do, in sentences."""
    received = f"Received: {result['received']}." if result["received"] else ""
    return " ".join(part for part in (result["error"], received, result["todo"]) if part)


def silent(results: Mapping[str, Any]) -> list[str]:
    """Names of the targets that gave no answer for a variant that the run's verdict holds."""
    held = results["verdict"]["held"]
    return [
        target["name"]
        for target in results["targets"]
        if any(item["verdict"] == NOT_RUN and item["variant"] in held for item in target["results"])
    ]


def _model(variant: str, read: Reader) -> str | None:
    """SHA-256 of the variant's model as it is now."""
    manifest = read(f"variants/{variant}/manifest.json", shapes.MANIFEST) or {}
    stated = mapping(mapping(manifest.get("files")).get("model.tflite")).get("sha256")
    return stated if isinstance(stated, str) else None


def _result(name: str, answer: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    parity, run, times = mapping(answer.get("parity")), mapping(answer.get("run")), mapping(timing.get("timing"))
    told = run or times
    machine = mapping(told.get("machine"))
    outputs = mappings(answer.get("differences"))
    largest = [as_number(item.get("max_abs")) for item in outputs]
    return {
        "variant": name,
        "verdict": _verdict(answer, parity),
        "message": str(parity.get("message") or ""),
        "samples": parity.get("samples"),
        "runtime": str(told.get("runtime") or ""),
        "runtime_version": str(told.get("version") or ""),
        "architecture": str(machine.get("architecture") or ""),
        "processor": str(machine.get("processor") or ""),
        "local_runtime": str(answer.get("local_runtime") or ""),
        "max_abs": None if not largest or None in largest else max(value for value in largest if value is not None),
        "elements": _sum(outputs, "elements"),
        "differing": _sum(outputs, "differing"),
        "integer": any(as_number(item.get("scale")) for item in outputs),
        "steps": _steps(outputs),
        "outputs": outputs,
        "checks": mappings(parity.get("checks")),
        "latency": {
            "meaningful": timing.get("meaningful") is True,
            **{key: times.get(key) for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_ms", "steady")},
            "error": " ".join(str(timing.get(key) or "") for key in ("error", "received")).strip(),
        }
        if timing
        else {},
        "facts": _facts(timing.get("facts_after")) or _facts(answer.get("facts")),
        "seconds": answer.get("seconds"),
        **{key: str(answer.get(key) or "") for key in ("error", "received", "todo")},
    }


def _verdict(answer: Mapping[str, Any], parity: Mapping[str, Any]) -> str:
    """ "" where the variant was only timed."""
    if answer.get("error"):
        return NOT_RUN
    verdict = parity.get("verdict")
    return str(verdict) if verdict in (PASS, FAIL, NOT_ENOUGH) else ""


def _facts(value: Any) -> dict[str, Any]:
    return {str(key): fact for key, fact in mapping(value).items() if isinstance(fact, (str, bool, int, float))}


def _sum(outputs: Sequence[Mapping[str, Any]], key: str) -> int | None:
    values = [number for item in outputs if (number := as_number(item.get(key))) is not None]
    return round(sum(values)) if values else None


def _steps(outputs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for item in outputs:
        for steps, count in mapping(item.get("steps")).items():
            if (number := as_number(count)) is not None:
                total[str(steps)] = total.get(str(steps), 0) + round(number)
    return dict(sorted(total.items(), key=lambda entry: (len(entry[0]), entry[0])))
