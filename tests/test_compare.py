"""`edge-dl compare`: what changed between two runs, and what it calls worse."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_run import make_run
from typer.testing import CliRunner

from edge_dl.checks.statistics import Interval, wilson_interval
from edge_dl.cli.main import app
from edge_dl.files import write_json
from edge_dl.report import collect
from edge_dl.report.changes import Change, Direction, compare_results, difference_interval, regressions
from edge_dl.report.changes_text import headline, to_markdown
from edge_dl.report.latency_spread import ASSUMED_DEVIATION, spread_of

NAMES = ("while-float32", "while-float16", "while-dynamic", "unroll-float32", "unroll-dynamic", "unroll-int8")
Results = dict[str, Any]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return collect(make_run(tmp_path_factory.mktemp("compare") / "run", variants=NAMES))


@pytest.fixture
def pair(stored: Results) -> tuple[Results, Results]:
    # Once through JSON, as the command reads it.
    return json.loads(json.dumps(stored)), json.loads(json.dumps(stored))


def variant(results: Results, name: str) -> Results:
    return next(item for item in results["variants"] if item["name"] == name)


def only(changes: list[Change], what: str, name: str = "while-dynamic") -> Change:
    (found,) = [change for change in changes if change.what == what and change.variant == name]
    return found


def test_the_same_run_twice_shows_no_difference(pair: tuple[Results, Results]) -> None:
    changes = compare_results(*pair)
    assert {change.direction for change in changes} == {Direction.NO_DIFFERENCE}
    assert {change.what for change in changes} == {"metric", "parity", "size", "latency"}
    assert {change.variant for change in changes} == {"", *NAMES}
    assert headline(changes) == "No difference shown."


def test_a_check_that_fails_now(pair: tuple[Results, Results]) -> None:
    old, new = pair
    check = variant(new, "while-float16")["checks"][1]
    assert check["verdict"] == "pass"
    check.update(verdict="fail", message="Output 'label': largest difference 2 is above 1.")
    variant(new, "while-float16")["verdict"] = "fail"
    new["verdict"]["status"], old["verdict"]["status"] = "fail", "pass"
    changes = compare_results(old, new)
    assert [(change.variant, change.what) for change in regressions(changes)] == [
        ("", "verdict"),
        ("while-float16", "verdict"),
        ("while-float16", "check"),
    ]
    assert "largest difference 2" in only(changes, "check", "while-float16").note
    back = compare_results(new, old)
    assert regressions(back) == []
    assert only(back, "check", "while-float16").direction is Direction.BETTER


def test_metric_of_the_same_model_is_held_to_the_paired_interval(pair: tuple[Results, Results]) -> None:
    old, new = pair
    before, after = (variant(side, "while-dynamic")["metric"] for side in pair)
    before.update(value=0.90, reference=0.90, drop=0.0, low=-0.003, high=0.003)
    for value, direction in ((0.897, Direction.NO_DIFFERENCE), (0.88, Direction.WORSE), (0.92, Direction.BETTER)):
        drop = 0.90 - value
        after.update(value=value, reference=0.90, drop=drop, low=drop - 0.004, high=drop + 0.004)
        found = only(compare_results(old, new), "metric")
        assert found.direction is direction, value
        assert found.regression == (direction is Direction.WORSE)
    # A metric that was computed on other samples says nothing.
    new["data"]["sha256"] = "00" * 32
    found = only(compare_results(old, new), "metric")
    assert found.direction is Direction.NO_DIFFERENCE
    assert "other test data" in found.note


def test_metric_of_another_model_is_held_to_both_intervals(pair: tuple[Results, Results]) -> None:
    before, after = (variant(side, "while-dynamic")["metric"] for side in pair)
    before.update(value=0.90, reference=0.90)
    # 360 samples: two shares of nine in ten are 4.4 points unsure of each other.
    for value, direction in ((0.87, Direction.NO_DIFFERENCE), (0.84, Direction.WORSE), (0.95, Direction.BETTER)):
        after.update(value=value, reference=value)
        assert only(compare_results(*pair), "metric").direction is direction, value
    for side in (before, after):
        side.update(name="mae", unit="", higher_is_better=False, relative=True, samples=360)
    before.update(value=2.0, reference=2.0)
    for value, direction in ((2.2, Direction.NO_DIFFERENCE), (2.5, Direction.WORSE), (1.5, Direction.BETTER)):
        after.update(value=value, reference=value)
        found = only(compare_results(*pair), "metric")
        assert found.direction is direction, value
        assert found.detail == "mae"


def test_intervals_of_a_difference_hold_it_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    right = total = 0
    for _ in range(400):
        hits = rng.binomial(300, 0.9), rng.binomial(300, 0.87)
        ranges = [wilson_interval(count, 300) for count in hits]
        found = difference_interval(hits[0] / 300, ranges[0], hits[1] / 300, ranges[1])
        right += found.low <= -0.03 <= found.high
        total += 1
    assert right / total > 0.92
    # Newcombe's tenth method, his example (a): 56/70 against 48/80 gives 0.0524 to 0.3339.
    sides = [(48 / 80, wilson_interval(48, 80)), (56 / 70, wilson_interval(56, 70))]
    found = difference_interval(*sides[0], *sides[1])
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    assert isinstance(found, Interval)


def test_latency_is_called_different_only_beyond_what_the_machine_moved(pair: tuple[Results, Results]) -> None:
    old, new = pair
    for side in pair:
        for place, item in enumerate(side["variants"]):
            if item["comparison"]:
                item["comparison"]["b_ms"] = 0.084 * (1 + 0.01 * (-1) ** place)
    spread = spread_of("while-dynamic", old)
    assert spread is not None
    assert spread.deviation == pytest.approx(ASSUMED_DEVIATION / 3)
    latency = variant(new, "while-dynamic")["latency"]
    measured = latency["p50_ms"]
    for factor, direction in ((1.08, Direction.NO_DIFFERENCE), (1.4, Direction.WORSE), (0.7, Direction.BETTER)):
        latency["p50_ms"] = factor * measured
        found = only(compare_results(old, new), "latency")
        assert found.direction is direction, factor
        assert not found.regression
    latency["p50_ms"] = 1.4 * measured
    # The machine itself was 30 % unsteady while one of the runs was timed.
    for place, item in enumerate(new["variants"]):
        if item["comparison"]:
            item["comparison"]["b_ms"] = 0.084 * (1 + 0.3 * (-1) ** place)
    assert only(compare_results(old, new), "latency").direction is Direction.NO_DIFFERENCE


@pytest.mark.parametrize("key", ["processor", "runtime_version", "threads", "cores"])
def test_latency_elsewhere_is_not_compared(pair: tuple[Results, Results], key: str) -> None:
    latency = variant(pair[1], "while-dynamic")["latency"]
    latency.update({"p50_ms": 50.0, key: "other"})
    found = only(compare_results(*pair), "latency")
    assert found.direction is Direction.NO_DIFFERENCE
    assert f"not comparable: {key.replace('_', ' ')}" in found.note


def test_size_and_parity(pair: tuple[Results, Results]) -> None:
    old, new = pair
    for factor, direction in ((1.005, Direction.NO_DIFFERENCE), (1.2, Direction.WORSE), (0.5, Direction.BETTER)):
        variant(new, "while-dynamic")["bytes"] = round(variant(old, "while-dynamic")["bytes"] * factor)
        assert only(compare_results(old, new), "size").direction is direction
    variant(new, "while-dynamic")["outputs"][0]["snr_db"] -= 6.0
    found = only(compare_results(old, new), "parity")
    assert found.direction is Direction.WORSE
    assert not found.regression


def test_variants_come_and_go(pair: tuple[Results, Results]) -> None:
    old, new = pair
    new["variants"] = [item for item in new["variants"] if item["name"] != "unroll-dynamic"]
    old["variants"] = [item for item in old["variants"] if item["name"] != "while-float16"]
    broken = variant(new, "while-float32")
    broken["verdict"], broken["conversion"] = "not-made", {**broken["conversion"], "message": "The converter died."}
    new["chosen"] = "while-dynamic"
    changes = compare_results(old, new)
    assert only(changes, "variant", "unroll-dynamic").after == "gone"
    assert only(changes, "variant", "while-float16").after.startswith("added")
    made = only(changes, "variant", "while-float32")
    assert made.regression
    assert made.note == "The converter died."
    assert only(changes, "chosen", "").after == "while-dynamic"
    assert regressions(changes) == [made]
    assert only(compare_results(new, old), "variant", "while-float32").direction is Direction.BETTER


def test_targets(pair: tuple[Results, Results]) -> None:
    def target(verdict: str, **more: str) -> Results:
        result = {"variant": "while-dynamic", "verdict": verdict, "message": "", "error": "", "received": "", **more}
        return {"name": "pi", "address": "ssh://pi", "emulated": False, "results": [result]}

    old, new = pair
    new["targets"] = [target("pass")]
    assert only(compare_results(old, new), "target", "").after == "1 pass"
    old["targets"] = [target("pass")]
    new["targets"] = [target("not-run", error="The host must be within reach.", received="timed out")]
    found = only(compare_results(old, new), "target")
    assert found.regression
    assert found.note == "The host must be within reach. timed out"
    assert only(compare_results(new, old), "target").direction is Direction.BETTER


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.update(variants=None, verdict=None, targets=[1], data="x"),
        lambda value: value.update(variants=[{}, {"name": 3}, "x"]),
        lambda value: [item.update(metric=[], latency=1, outputs=None, checks={}) for item in value["variants"]],
        lambda value: [item.update(bytes="1", comparison=0, verdict=[1]) for item in value["variants"]],
        lambda value: [item["latency"].update(p50_ms=-1, processor={}) for item in value["variants"]],
        lambda value: [item["metric"].update(samples=0, low=None, unit=4) for item in value["variants"]],
    ],
)
def test_damaged_results_are_compared_as_far_as_they_go(
    pair: tuple[Results, Results], damage: Callable[[Results], Any]
) -> None:
    old, new = pair
    damage(new)
    for sides in ((old, new), (new, old), (new, copy.deepcopy(new))):
        changes = compare_results(*sides)
        json.dumps([change.to_json() for change in changes], allow_nan=False)
        assert to_markdown(*sides, changes)


def test_markdown_fits_a_comment(pair: tuple[Results, Results]) -> None:
    old, new = pair
    hostile = "| <b> @you `x` | [a](b)\n# t"
    check = variant(new, "while-float16")["checks"][1]
    check.update(verdict="fail", message=hostile)
    variant(new, "while-float16")["bytes"] *= 2
    new["name"] = hostile
    text = to_markdown(old, new, compare_results(old, new))
    assert "<b>" not in text
    assert "@you" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(NAMES)
    assert {line.replace("\\|", "").count("|") for line in rows} == {7}
    (row,) = [line for line in rows if line.startswith("| while-float16")]
    assert "❌" in row
    assert "KiB →" in row
    assert text.count("two times") == 1


def test_the_command(tmp_path: Path, stored: Results) -> None:
    def run(*words: str | Path) -> Any:
        return CliRunner().invoke(app, ["compare", *map(str, words)])

    a, b = tmp_path / "a", tmp_path / "b.json"
    write_json(a / "results.json", stored)
    worse = copy.deepcopy(stored)
    worse["verdict"]["status"] = "pass"
    write_json(a / "results.json", worse)
    variant(worse, "while-float16")["checks"][1]["verdict"] = "fail"
    write_json(b, worse)
    same = run(a, a)
    assert same.exit_code == 0, same.output
    assert "No difference shown." in same.stdout
    assert "two times" in same.stdout
    found = run(a, b)
    assert found.exit_code == 1
    assert "while-float16" in found.stdout
    assert run(b, a).exit_code == 0
    value = json.loads(run(a, b, "--json").stdout)
    assert value["regressions"] == 1
    assert {item["direction"] for item in value["changes"]} == {"worse", "no difference shown"}
    assert run(a, b, "--markdown").stdout.startswith("## ❌")
    assert len(run(a, a, "--all").stdout.splitlines()) > 4 * len(NAMES)
    write_json(b, {**worse, "format": 99})
    for wrong in (tmp_path / "none", b, tmp_path):
        assert run(a, wrong).exit_code == 2
