"""report.md and junit.xml."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_run import make_run

from edge_dl.report import collect
from edge_dl.report.junit import to_junit
from edge_dl.report.markdown import escape, to_markdown

VARIANTS = ("while-float32", "while-dynamic", "unroll-int8", "step-dynamic", "while-int8", "fused-int16x8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return collect(make_run(tmp_path_factory.mktemp("run") / "r", variants=VARIANTS))


def test_markdown_tells_the_verdict_first(results: dict[str, Any]) -> None:
    text = to_markdown(results)
    assert text.startswith("## ❌ lstm: failed\n")
    assert "**while-dynamic** ★" in text
    assert "crashed (SIGSEGV)" in text
    assert "edge-dl run lstm --out 'runs/my run'" in text


def test_markdown_says_of_a_choice_whether_its_metric_was_decided(results: dict[str, Any]) -> None:
    assert "★ the fastest that passed parity." in to_markdown(results)
    undecided = copy.deepcopy(results)
    next(item for item in undecided["variants"] if item["chosen"])["verdict"] = "not-enough-samples"
    assert "★ the fastest that did not fail; its metric needs more test samples." in to_markdown(undecided)


def test_markdown_tables_are_rectangular(results: dict[str, Any]) -> None:
    widths: set[int] = set()
    for line in [*to_markdown(results).splitlines(), ""]:
        if line.startswith("|"):
            widths.add(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(widths) <= 1
            widths = set()


@given(st.text(max_size=60))
def test_escaped_markdown_is_one_inert_line(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert "<" not in escaped
    assert "@" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`\[\]*_~]", escaped)


def test_markdown_command_cannot_leave_its_fence(results: dict[str, Any]) -> None:
    line = "edge-dl run x\n```\n# heading ````"
    text = to_markdown({**results, "reproduce": {**results["reproduce"], "line": line}})
    fence = re.search(r"^(`{3,})sh\n(.*)\n(`{3,})$", text, flags=re.MULTILINE)
    assert fence
    assert fence.group(1) == fence.group(3)
    assert fence.group(1) not in fence.group(2)


def suites(results: dict[str, Any]) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(to_junit(results))
    return {str(suite.get("name")): suite for suite in root.findall("testsuite")}


def test_junit_has_a_suite_a_variant_and_a_case_a_check(results: dict[str, Any]) -> None:
    found = suites(results)
    assert list(found) == [variant["name"] for variant in results["variants"]]
    for variant in results["variants"]:
        cases = found[variant["name"]].findall("testcase")
        assert len(cases) == 1 + len(variant["checks"])
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)


def test_junit_outcomes(results: dict[str, Any]) -> None:
    found = suites(results)
    assert found["unroll-int8"].find("testcase/failure") is not None
    assert found["step-dynamic"].find("testcase/skipped") is not None
    assert found["while-float32"].get("failures") == found["while-float32"].get("errors") == "0"
    crash = found["while-int8"].find("testcase/error")
    assert crash is not None
    assert crash.get("type") == "SIGSEGV"
    refusal = found["fused-int16x8"].find("testcase/skipped")
    assert refusal is not None
    assert "Use unroll-int16x8." in str(refusal.get("message"))


def test_junit_totals_are_sums(results: dict[str, Any]) -> None:
    root = ElementTree.fromstring(to_junit(results))
    for key in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(key, "")) == sum(int(suite.get(key, "")) for suite in root.findall("testsuite"))
    assert int(root.get("failures", "")) == sum(
        failure["verdict"] == "fail" for failure in results["verdict"]["failures"]
    )


@given(text=st.text(st.characters(exclude_categories=()), max_size=40))
def test_junit_is_xml_whatever_a_message_holds(text: str, results: dict[str, Any]) -> None:
    variant = results["variants"][0]
    check = {**variant["checks"][0], "verdict": "fail", "message": text, "name": text}
    changed = {**results, "name": text, "variants": [{**variant, "name": text, "checks": [check]}]}
    root = ElementTree.fromstring(to_junit(changed))
    assert root.find("testsuite/testcase/failure") is not None


def test_empty_run(tmp_path: Path) -> None:
    results = collect(tmp_path)
    assert "Nothing has been converted yet" in to_markdown(results)
    assert ElementTree.fromstring(to_junit(results)).get("tests") == "0"
