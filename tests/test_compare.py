"""`edge-dl compare`: what changed between two runs, and what it calls worse."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models
from report_run import make_run
from typer.testing import CliRunner

from edge_dl.checks.run_pairs import ModelPair, pair_models
from edge_dl.checks.statistics import Interval, wilson_interval
from edge_dl.checks.turns import Comparison, Speed
from edge_dl.cli.main import app
from edge_dl.files import write_json
from edge_dl.report import collect
from edge_dl.report.changes import Change, Direction, compare_results, difference_interval, regressions
from edge_dl.report.changes_text import headline, latency_note, to_markdown
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


def compared(ratio: float, low: float, high: float, verdict: Speed) -> Comparison:
    return Comparison("after", "before", ratio, low, high, 0.95, 0.02, verdict, a_ms=0.2, b_ms=0.1)


def test_models_timed_in_turns_decide_whatever_was_recorded(pair: tuple[Results, Results]) -> None:
    old, new = pair
    variant(new, "while-dynamic")["latency"].update(p50_ms=50.0, processor="other")
    for found, direction in (
        (compared(1.05, 1.03, 1.07, Speed.SLOWER), Direction.WORSE),
        (compared(0.95, 0.93, 0.97, Speed.FASTER), Direction.BETTER),
        (compared(1.05, 1.01, 1.09, Speed.NO_DIFFERENCE), Direction.NO_DIFFERENCE),
    ):
        changes = compare_results(old, new, models={"while-dynamic": ModelPair(False, found)})
        change = only(changes, "latency")
        assert change.direction is direction
        assert (
            f"ratio {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f}, timed in turns), 2 % decide" in change.note
        )
        assert "in turns on this machine" in latency_note(changes)
    change = only(compare_results(old, new, models={"while-dynamic": ModelPair(True)}), "latency")
    assert (change.direction, change.note) == (Direction.NO_DIFFERENCE, "the same file")
    variant(new, "while-dynamic")["latency"]["processor"] = variant(old, "while-dynamic")["latency"]["processor"]
    changes = compare_results(old, new, models={"while-dynamic": ModelPair(False, error="It crashed.")})
    change = only(changes, "latency")
    assert change.direction is Direction.WORSE
    assert "not timed in turns: It crashed." in change.note
    assert "10 %" in latency_note(changes)


@pytest.fixture
def two_runs(tflite: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """Run folders of real bundles: one alike, one larger in the second, one damaged there, one only in the first."""
    images = tflite_models.images(2)
    golden = ({"image": images}, {"label": tflite_models.conv_reference(images).astype("float32")})
    saved = tflite_models.convert(larger_function(), "predict", tmp_path / "saved")
    (tmp_path / "larger.tflite").write_bytes(saved)
    for run, models in (
        ("a", {"alike": tflite("conv-float32"), "grown": tflite("conv-float32"), "broken": tflite("conv-int8"),
               "gone": tflite("conv-int8")}),
        ("b", {"alike": tflite("conv-float32"), "grown": tmp_path / "larger.tflite", "broken": tflite("conv-int8")}),
    ):  # fmt: skip
        for name, model in models.items():
            tflite_models.bundle_of(tmp_path / run / "variants" / name, model, golden, variant=name)
    with (tmp_path / "b" / "variants" / "broken" / "model.tflite").open("ab") as file:
        file.write(b"x")
    return tmp_path / "a", tmp_path / "b"


def larger_function() -> Any:
    """Takes and gives what the small model does, with some 500 times as many multiplications."""
    tf = tflite_models.tensorflow()
    first, middle, last = (tflite_models.weights(seed, *shape) for seed, shape in (
        (1, (64, 1024)), (2, (1024, 1024)), (3, (1024, tflite_models.CLASSES))))  # fmt: skip

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
    def predict(image: Any) -> dict[str, Any]:
        return {"label": tf.reshape(image, (1, 64)) @ first @ middle @ last}

    return predict


def test_the_models_of_two_run_folders(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = pair_models(*two_runs, measure=True)
    assert set(found) == {"alike", "grown", "broken"}
    assert found["alike"] == ModelPair(True)
    assert found["broken"].comparison is None
    assert "hash" in found["broken"].error
    comparison = found["grown"].comparison
    assert comparison is not None
    assert comparison.verdict is Speed.SLOWER
    assert comparison.low > 2
    assert pair_models(*two_runs)["grown"] == ModelPair(False)
    assert pair_models(two_runs[0], tmp_path / "none") == {}


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
    assert run(a, b, "--bench").exit_code == 2  # No folder, no models.
    write_json(b, {**worse, "format": 99})
    for wrong in (tmp_path / "none", b, tmp_path):
        assert run(a, wrong).exit_code == 2


def test_the_command_times_the_models_when_it_is_asked_to(finished_run: Path, tmp_path: Path) -> None:
    """The fused model of a real run in place of its loop: another file that takes and gives the same."""
    names = sorted(path.name for path in (finished_run / "variants").iterdir() if path.is_dir())
    first, second = [name for name in names if name.endswith("-float32")][:2]
    a, b = (shutil.copytree(finished_run, tmp_path / name) for name in "ab")
    shutil.rmtree(b / "variants" / second)
    shutil.copytree(a / "variants" / first, b / "variants" / second)
    words = ["compare", str(a), str(b), "--all", "--bench"]
    value = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    notes = {item["variant"]: item["note"] for item in value["changes"] if item["what"] == "latency"}
    assert "timed in turns" in notes.pop(second)
    assert notes
    assert set(notes.values()) == {"the same file"}
    text = CliRunner().invoke(app, words[:-1]).output
    assert "timed in turns)" not in text
    assert "--bench" in " ".join(text.split())
