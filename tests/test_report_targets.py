"""Targets in the report: results.json, the page, Markdown and JUnit, from results as targets leave them."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from report_run import make_run

from edge_dl.checks.targets import OutputDifference, TargetLatency, TargetResult
from edge_dl.checks.verdicts import Check, ParityReport, Verdict, failed_report
from edge_dl.files import read_json, write_json
from edge_dl.report import collect, write_report
from edge_dl.report.target_view import target_sections
from edge_dl.report.words import headline
from edge_dl.runtime.targets.answers import Machine, Run, Timing

NAMES = ("while-float32", "while-float16", "unroll-dynamic", "fused-dynamic")
HASH = "0" * 64
PI = Machine(system="Linux", architecture="aarch64", processor="Cortex-A72", cores=4)


def answer(run: Path, target: str, variant: str, *, passed: bool = True, emulated: bool = False, **more: Any) -> None:
    """An answer of a target as `verify_on` writes it, with a latency as `bench_on` does."""
    report = ParityReport.from_json(read_json(run / f"checks/{variant}.json"))
    if not passed:
        check = Check("max_abs", Verdict.FAIL, "Output 'label': too far away.", "label", 2.0, 1.0)
        report = dataclasses.replace(report, verdict=Verdict.FAIL, checks=(check,))
    differences = (OutputDifference("label", 3600, 0.0117, 14, 1 / 256, {"1": 12, "2": 2}),)
    fields: dict[str, Any] = {
        "differences": differences,
        "local_runtime": "ai_edge_litert 2.3.0",
        "run": Run("tflite_runtime", "2.14.0", True, 0.5, 1.5, PI),
        "facts": {"governor": "ondemand", "throttled": False},
        "seconds": 2.5,
        "model": HASH,
        **more,
    }
    address = "qemu-aarch64:" if emulated else f"ssh://{target}"
    result = TargetResult(target, address, emulated, variant, report, **fields)
    write_json(run / f"targets/{target}/{variant}.json", result.to_json())
    timing = Timing("tflite_runtime", "2.14.0", True, 4.25, 5.0, 6.0, 4.3, 1000, True, 1.5, machine=PI)
    latency = TargetLatency(target, address, variant, not emulated, timing, model=HASH)
    write_json(run / f"targets/{target}/bench/{variant}.json", latency.to_json())


def silence(run: Path, target: str, variant: str, words: str) -> None:
    """What is written for a target that gave no answer."""
    parts = {"error": "The host must be within reach.", "received": words, "todo": "Is it switched on?"}
    report = failed_report(variant, "", "classification", "The host must be within reach.")
    result = TargetResult(target, f"ssh://{target}", False, variant, report, model=HASH, **parts)
    write_json(run / f"targets/{target}/{variant}.json", result.to_json())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", variants=NAMES)


def names_of_failures(results: dict[str, Any]) -> set[tuple[str, str]]:
    return {(failure["variant"], failure["target"]) for failure in results["verdict"]["failures"] if failure["target"]}


def test_results_say_what_a_target_answered(run: Path) -> None:
    before = collect(run)
    assert before["targets"] == []
    for name in NAMES:
        answer(run, "pi", name)
        answer(run, "emulated", name, emulated=True)
    results = collect(run)
    assert results["verdict"]["status"] == before["verdict"]["status"]
    assert results["notes"] == []
    assert [(item["name"], item["emulated"]) for item in results["targets"]] == [("emulated", True), ("pi", False)]
    found = results["targets"][1]["results"][0]
    expected = {
        "variant": "while-float32", "verdict": "pass", "runtime": "tflite_runtime", "runtime_version": "2.14.0",
        "architecture": "aarch64", "max_abs": 0.0117, "elements": 3600, "differing": 14, "integer": True,
        "steps": {"1": 12, "2": 2}, "local_runtime": "ai_edge_litert 2.3.0", "error": "",
        "facts": {"governor": "ondemand", "throttled": False},
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["latency"]["p50_ms"] == 4.25
    assert found["latency"]["meaningful"]
    assert not results["targets"][0]["results"][0]["latency"]["meaningful"]


def test_a_failing_target_fails_the_run(run: Path) -> None:
    for name in NAMES:
        (run / f"checks/{name}.json").write_text(
            json.dumps({**read_json(run / f"checks/{name}.json"), "verdict": "pass", "checks": []})
        )
        answer(run, "pi", name)
    assert collect(run)["verdict"]["status"] == "pass"
    assert headline(collect(run))["text"] == "All 4 checked variants passed every check, here and on target pi."
    answer(run, "pi", "while-float16", passed=False)
    results = collect(run)
    assert results["verdict"]["status"] == "fail"
    assert names_of_failures(results) == {("while-float16", "pi")}
    assert headline(results)["text"].startswith("1 of 4 checks on target pi failed.")
    silence(run, "pi", "unroll-dynamic", "no route")
    results = collect(run)
    assert names_of_failures(results) == {("while-float16", "pi"), ("unroll-dynamic", "pi")}
    assert results["targets"][0]["results"][2]["verdict"] == "not-run"


def test_with_auto_only_what_was_chosen_is_held_on_targets(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", variants=NAMES, lowerings=("auto",))
    held = collect(run)["verdict"]["held"]
    (tried,) = set(NAMES) - set(held)
    answer(run, "pi", tried, passed=False)
    results = collect(run)
    assert results["verdict"]["status"] != "fail"
    assert [failure["held"] for failure in results["verdict"]["failures"] if failure["target"]] == [False]


def test_the_page_shows_every_target(run: Path) -> None:
    for name in NAMES:
        answer(run, "emulated", name, emulated=True, passed=name != "unroll-dynamic")
        silence(run, "away", name, "timed out <b>")
    paths = write_report(run)
    page = paths.html.read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", page.split("</style>", 1)[1]).split())
    assert "<b>" not in page
    assert 'href="#targets"' in page
    assert "12 of 3,600 by 1, 2 by 2 steps" in text
    assert "tflite_runtime 2.14.0 aarch64 · Cortex-A72 · governor ondemand" in text
    assert text.count("emulated: meaningless") == len(NAMES)
    assert "its latency says nothing about a device" in text
    # One reason for all variants is told once in its section, and once among the failures.
    assert text.count("The host must be within reach.") == 2
    assert "all variants on away" in text
    assert page.count('class="badge sign') == 2 * len(NAMES)


def test_markdown_and_junit(run: Path) -> None:
    for name in NAMES:
        answer(run, "pi", name, passed=name != "while-float16")
        silence(run, "away", name, "timed out")
    paths = write_report(run)
    text = paths.markdown.read_text(encoding="utf-8")
    assert "| variant | away | pi |" in text
    assert "| while-float16 | ❌ no answer | ❌ 12 of 3,600 by 1, 2 by 2 steps |" in text
    assert "**all variants** on away" in text
    root = ElementTree.parse(paths.junit).getroot()
    cases = {(suite.get("name"), case.get("name")): case for suite in root for case in suite.findall("testcase")}
    assert cases["while-float32", "on pi"].find("failure") is None
    assert cases["while-float16", "on pi"].find("failure") is not None
    error = cases["while-float16", "on away"].find("error")
    assert error is not None
    assert "Is it switched on?" in str(error.get("message"))
    assert int(root.get("errors", "0")) == len(NAMES)


def test_sections_tell_real_numbers_from_integers(run: Path) -> None:
    answer(run, "pi", "while-float32", differences=(OutputDifference("label", 100, 3e-7, 9),))
    answer(run, "pi", "while-float16", differences=(OutputDifference("label", 100, None, 9),))
    answer(run, "pi", "unroll-dynamic", differences=(OutputDifference("label", 100, 0.0, 0, 0.5, {}),))
    answer(run, "pi", "fused-dynamic", differences=())
    rows = target_sections(collect(run))[0]["rows"]
    assert [(row["max_abs"], row["differing"]) for row in rows] == [
        ("3.0e−7", "–"), ("NaN or infinity", "–"), ("0", "none of 100"), ("–", "–"),
    ]  # fmt: skip


def test_answers_of_another_model_and_damaged_ones(run: Path) -> None:
    answer(run, "pi", "while-float32", model="1" * 64)
    answer(run, "pi", "while-float16")
    (run / "targets/pi/unroll-dynamic.json").write_text("{")
    (run / "targets/empty").mkdir()
    write_json(run / "targets/odd/while-float32.json", {"parity": 3, "run": [], "differences": {}, "model": HASH})
    results = collect(run)
    # The latency is of the present model; the answer is not.
    assert [(item["variant"], item["verdict"]) for item in results["targets"][1]["results"]] == [
        ("while-float32", ""), ("while-float16", "pass"),
    ]  # fmt: skip
    assert any("while-float32 is about an earlier model" in note for note in results["notes"])
    assert any("unroll-dynamic.json cannot be read" in note for note in results["notes"])
    assert write_report(run).html.is_file()
