"""junit.xml: one test suite a variant and one test case a check, for the test reports of CI systems.

Follows the form that Jenkins and GitLab read (testsuites/testsuite/testcase with failure, error or skipped).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

from edge_dl.report.compression import COMPRESSION, compression_failures
from edge_dl.report.numbers import as_number
from edge_dl.report.target_results import NOT_RUN, no_answer
from edge_dl.report.translations import identical_share
from edge_dl.report.variant_results import FAIL, NOT_ENOUGH, NOT_MADE, mappings

# Characters that XML 1.0 allows; everything else cannot be written even as a reference.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(results: Mapping[str, Any]) -> bytes:
    """JUnit XML, UTF-8. A failed check is a failure; too few samples and a refused conversion are skipped cases;
    a conversion that crashed, failed or timed out is an error."""
    root = ElementTree.Element("testsuites", name=_text(f"edge-dl {results['name']}"))
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for variant in results["variants"]:
        suite = ElementTree.SubElement(root, "testsuite", name=_text(variant["name"]))
        _translation_properties(suite, variant)
        _conversion_case(suite, variant, results["name"])
        for check in variant["checks"]:
            _check_case(suite, variant, check, results["name"])
        for target in results["targets"]:
            _target_case(suite, variant["name"], target, results["name"])
        counts = _counts(suite)
        for key, count in counts.items():
            totals[key] += count
        suite.attrib.update({key: str(count) for key, count in counts.items()})
        suite.set("time", _time(variant["conversion"]["seconds"]))
    if results.get("compression"):
        suite = ElementTree.SubElement(root, "testsuite", name=COMPRESSION)
        _compression_cases(suite, results)
        for key, count in _counts(suite).items():
            suite.set(key, str(count))
            totals[key] += count
    root.attrib.update({key: str(count) for key, count in totals.items()})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _translation_properties(suite: ElementTree.Element, variant: Mapping[str, Any]) -> None:
    """Scores of a variant that translates, in points, and its share of sentences that are the Keras model's."""
    told = variant.get("translation")
    if not told:
        return
    values = {str(score.get("name")): score.get("variant") for score in mappings(told.get("scores"))}
    values["identical"] = identical_share(told)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in values.items():
        number = as_number(value)
        if number is not None:
            ElementTree.SubElement(properties, "property", name=_text(name), value=f"{100 * number:.2f}")


def _conversion_case(suite: ElementTree.Element, variant: Mapping[str, Any], name: str) -> None:
    conversion = variant["conversion"]
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_text(f"{name}.{variant['name']}"),
        name="convert",
        time=_time(conversion["seconds"]),
    )
    if variant["verdict"] != NOT_MADE:
        return
    message = " ".join(part for part in (conversion["message"], conversion["todo"]) if part)
    kind = "skipped" if conversion["status"] == "refused" else "error"
    result = ElementTree.SubElement(case, kind, message=_text(message or conversion["status"]))
    if kind == "error":
        result.set("type", _text(conversion["signal"] or conversion["status"]))


def _check_case(suite: ElementTree.Element, variant: Mapping[str, Any], check: Mapping[str, Any], name: str) -> None:
    title = " ".join(str(part) for part in (check.get("output"), check.get("name")) if part)
    case = ElementTree.SubElement(
        suite, "testcase", classname=_text(f"{name}.{variant['name']}"), name=_text(title or "check"), time="0"
    )
    message = _text(check.get("message") or "")
    if check.get("verdict") == FAIL:
        ElementTree.SubElement(case, "failure", message=message, type="parity").text = _values(check)
    elif check.get("verdict") == NOT_ENOUGH:
        ElementTree.SubElement(case, "skipped", message=message)
    elif message:
        ElementTree.SubElement(case, "system-out").text = message


def _target_case(suite: ElementTree.Element, variant: str, target: Mapping[str, Any], name: str) -> None:
    """One case a target: a failure when a check failed there, an error when the target gave no answer."""
    for result in target["results"]:
        if result["variant"] != variant or not result["verdict"]:
            continue
        title = f"on {target['name']}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=_text(f"{name}.{variant}"), name=_text(title), time=_time(result["seconds"])
        )
        if result["verdict"] == NOT_RUN:
            ElementTree.SubElement(case, "error", message=_text(no_answer(result)), type="target")
        elif result["verdict"] == FAIL:
            failed = [str(check.get("message") or "") for check in result["checks"] if check.get("verdict") == FAIL]
            failure = ElementTree.SubElement(case, "failure", message=_text(result["message"]), type="parity")
            failure.text = _text("\n".join(failed))
        elif result["verdict"] == NOT_ENOUGH:
            ElementTree.SubElement(case, "skipped", message=_text(result["message"]))


def _compression_cases(suite: ElementTree.Element, results: Mapping[str, Any]) -> None:
    """One case: whether the compressed model kept the trained model's metrics."""
    case = ElementTree.SubElement(
        suite, "testcase", classname=_text(f"{results['name']}.{COMPRESSION}"), name="metric", time="0"
    )
    for failure in compression_failures(results["compression"]):
        ElementTree.SubElement(case, "failure", message=_text(failure["message"]), type="metric")


def _values(check: Mapping[str, Any]) -> str:
    pairs = [f"{key}: {check[key]}" for key in ("value", "limit") if as_number(check.get(key)) is not None]
    return _text("\n".join([str(check.get("message") or ""), *pairs]))


def _counts(suite: ElementTree.Element) -> dict[str, int]:
    cases = suite.findall("testcase")
    return {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }


def _time(seconds: Any) -> str:
    return f"{as_number(seconds) or 0:.3f}"


def _text(value: Any) -> str:
    return _NOT_XML.sub("\ufffd", str(value))
