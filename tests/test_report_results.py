from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from report_run import VARIANTS, make_outcome, make_run

from edge_dl.errors import UsageError
from edge_dl.files import read_json, save_npz, write_json
from edge_dl.report import FORMAT, collect, write_report
from edge_dl.report.charts import gradient_flow, losses, trade_off, training_curves
from edge_dl.report.junit import to_junit
from edge_dl.report.markdown import to_markdown
from edge_dl.report.samples import Samples
from edge_dl.report.view import View


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "r", variants=(*VARIANTS, "while-int8", "fused-int16x8"))


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    return collect(run)


def variant(results: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [item for item in results["variants"] if item["name"] == name]
    return found


def test_results_are_json_of_the_documented_fields(results: dict[str, Any]) -> None:
    assert results["schema"] == "edge-dl/results"
    assert results["format"] == FORMAT
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    documented = (Path(__file__).parents[1] / "docs/results.md").read_text(encoding="utf-8")
    for field in (*results, *results["verdict"], *results["variants"][0], *results["answers"][0]):
        assert f"`{field}`" in documented, field


def test_verdict_counts_every_variant_once(results: dict[str, Any]) -> None:
    verdict = results["verdict"]
    assert sum(verdict["counts"].values()) == len(results["variants"]) == 14
    assert verdict["counts"]["not-made"] == 2
    assert verdict["status"] == "fail"
    assert {failure["variant"] for failure in verdict["failures"] if failure["verdict"] == "fail"} == {
        item["name"] for item in results["variants"] if item["verdict"] == "fail"
    }
    assert verdict["failures"][0]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("variants", "status"),
    [
        (("while-float32",), "pass"),
        (("while-float32", "unroll-int8"), "fail"),
        (("while-float32", "step-dynamic"), "not-enough-samples"),
        (("while-int8",), "not-checked"),
        ((), "not-checked"),
    ],
)
def test_overall_verdict(variants: tuple[str, ...], status: str, tmp_path: Path) -> None:
    results = collect(make_run(tmp_path / "r", variants=variants))
    assert results["verdict"]["status"] == status


@pytest.mark.parametrize(
    ("lowerings", "status", "held"),
    [
        (("while", "unroll", "step"), "fail", {"while-dynamic", "step-dynamic", "unroll-int8"}),
        (("auto",), "fail", {"while-dynamic", "unroll-int8"}),
    ],
    ids=["named", "auto"],
)
def test_auto_holds_what_it_chose(lowerings: tuple[str, ...], status: str, held: set[str], tmp_path: Path) -> None:
    names = ("while-dynamic", "step-dynamic", "unroll-int8")
    verdict = collect(make_run(tmp_path / "r", variants=names, lowerings=lowerings))["verdict"]
    # Nothing of int8 passes, so nothing of it was chosen: all that there is of it is held.
    assert set(verdict["held"]) == held
    assert verdict["status"] == status


def test_a_try_that_was_not_chosen_decides_nothing(tmp_path: Path) -> None:
    names = ("while-dynamic", "step-dynamic")
    named = collect(make_run(tmp_path / "named", variants=names))["verdict"]
    auto = collect(make_run(tmp_path / "auto", variants=names, lowerings=("auto",)))["verdict"]
    assert named["status"] == "not-enough-samples"
    assert auto["status"] == "pass"
    assert {failure["held"] for failure in auto["failures"]} == {False}


def test_a_variant_carries_what_each_stage_wrote(results: dict[str, Any], run: Path) -> None:
    found = variant(results, "unroll-dynamic")
    report = read_json(run / "checks/unroll-dynamic.json")
    assert found["metric"]["value"] == report["metrics"][0]["variant"]
    assert found["metric"]["reference"] == report["metrics"][0]["reference"]
    assert found["checks"] == report["checks"]
    assert found["latency"]["p50_ms"] == read_json(run / "bench/unroll-dynamic.json")["p50_ms"]
    assert found["comparison"]["a"] == "unroll-dynamic"
    assert found["comparison"]["b"] == results["baseline"] == "while-float32"
    baseline = variant(results, "while-float32")
    assert found["ratio"] == pytest.approx(baseline["bytes"] / found["bytes"], abs=1e-4)
    assert baseline["comparison"] == {}


def test_auto_choice_is_the_selections(results: dict[str, Any], run: Path) -> None:
    chosen = read_json(run / "bench/selection.json")["chosen"]
    assert results["chosen"] == chosen
    assert [item["name"] for item in results["variants"] if item["chosen"]] == [chosen]
    assert results["answers"][0]["variant"] == chosen


def test_crash_and_refusal_are_told(results: dict[str, Any]) -> None:
    crash, refusal = variant(results, "while-int8"), variant(results, "fused-int16x8")
    assert crash["verdict"] == refusal["verdict"] == "not-made"
    assert crash["conversion"]["signal"] == "SIGSEGV"
    assert refusal["conversion"]["todo"] == "Use unroll-int16x8."
    assert crash["bytes"] is None


def test_order_is_by_lowering_then_quantization(results: dict[str, Any]) -> None:
    names = [item["name"] for item in results["variants"]]
    assert names[:5] == ["while-float32", "while-float16", "while-dynamic", "while-int8", "while-int4"]
    assert names[-1] == "step-dynamic"


@pytest.mark.parametrize(
    "missing",
    ["run.json", "data/dataset.json", "train/history.json", "train/gradient_flow.json", "checks/while-float32.json",
     "bench/while-float32.json", "bench/comparisons.json", "bench/selection.json", "variants/while-float32.json"],
)  # fmt: skip
def test_a_stage_that_has_not_run_is_absent(missing: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32", "while-dynamic"))
    (run / missing).unlink()
    results = collect(run)
    assert results["notes"] == []
    assert len(results["variants"]) == 2
    assert to_markdown(results)
    View(results, Samples(run))


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "\ufeff{}", '{"format": 1e999}', '"text"'])
@pytest.mark.parametrize("name", ["run.json", "checks/while-float32.json", "variants/while-float32/manifest.json"])
def test_a_damaged_file_is_a_note_not_an_end(name: str, content: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32",))
    (run / name).write_text(content, encoding="utf-8")
    results = collect(run)
    if content not in ("null", '{"format": 1e999}'):
        assert any(name in note for note in results["notes"])
    json.dumps(results, allow_nan=False)


def test_nan_left_by_another_writer_becomes_null(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/history.json").write_text('{"epochs": [{"epoch": 1, "loss": NaN, "accuracy": Infinity}]}')
    assert collect(tmp_path)["training"]["epochs"] == [{"epoch": 1, "loss": None, "accuracy": None}]
    assert write_report(tmp_path).html.is_file()


def test_lone_surrogates_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 1, "recipe": {"name": "\\ud800"}, "stages": {}}')
    assert write_report(tmp_path).results.is_file()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("small") / "r", variants=("while-float32", "unroll-int8"))


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value; of a list, the first item stands for all."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, item in inner for found in paths_of(item, (*path, key))]


# Shrinking such a failure takes minutes, and tells no more than the first one.
@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_any_field_may_hold_anything(data: st.DataObject, small: Path) -> None:
    names = [
        "run.json", "data/dataset.json", "train/history.json", "train/gradient_flow.json", "checks/while-float32.json",
        "bench/while-float32.json", "bench/comparisons.json", "bench/selection.json", "variants/while-float32.json",
        "variants/while-float32/manifest.json",
    ]  # fmt: skip
    path = small / data.draw(st.sampled_from(names))
    original = path.read_bytes()
    value = json.loads(original)
    place = data.draw(st.sampled_from(paths_of(value)))
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = data.draw(JSON)
    try:
        path.write_text(json.dumps(value), encoding="utf-8")
        results = collect(small)
        json.dumps(results, allow_nan=False)
        assert to_markdown(results)
        assert to_junit(results)
        View(results, Samples(small))
        if path.parent.name == "train":
            training_curves(results["training"] or {})
            gradient_flow(results["gradient_flow"] or {})
        else:
            trade_off(results["variants"], "share", "accuracy")
            losses(results["variants"], "share", "accuracy")
    finally:
        path.write_bytes(original)


def test_a_real_model_is_inspected(tmp_path: Path, tflite: Callable[[str], Path]) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32",))
    (run / "variants/while-float32/model.tflite").write_bytes(tflite("conv-float32").read_bytes())
    inspection = variant(collect(run), "while-float32")["inspection"]
    assert any(operator["name"] == "CONV_2D" for operator in inspection["operators"])
    assert "tensors" not in inspection
    assert "CONV_2D" in write_report(run).html.read_text(encoding="utf-8")


def test_a_model_that_is_none_is_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32",))
    (run / "variants/while-float32/model.tflite").write_bytes(b"not a model")
    results = collect(run)
    assert variant(results, "while-float32")["inspection"] is None
    assert "model.tflite" in results["notes"][0]


def test_what_an_earlier_run_left_behind_does_not_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32", "while-dynamic"))
    make_outcome(run, "while-dynamic", "timed out", "It took longer than 600 s.", "Raise the limit.")
    (run / "checks/gone-float32.json").write_text("{}")
    results = collect(run)
    assert [item["name"] for item in results["variants"]] == ["while-float32", "while-dynamic"]
    assert variant(results, "while-dynamic")["verdict"] == "not-made"
    assert variant(results, "while-dynamic")["checks"] == []


def test_forecasts_show_the_worst_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32",))
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 6, 1)).astype(np.float32)
    save_npz(
        run / "data/test.npz", {"x/sequence": rng.normal(size=(4, 20, 2)), "y/forecast": truth, "index": np.arange(4)}
    )
    save_npz(run / "export/reference.npz", {"y/forecast": truth + 0.1})
    report = read_json(run / "checks/while-float32.json")
    report |= {
        "task": "forecast",
        "labels": [],
        "confusion": [],
        "reference_confusion": [],
        "changed": [],
        "changed_count": 0,
    }
    report["outputs"][0] |= {"name": "forecast", "top1": None, "worst": [{"index": 2, "max_abs": 0.25}]}
    metric = {"name": "mae", "unit": "°C", "output": "forecast", "higher_is_better": False, "relative": True}
    values = {"reference": 1.0, "variant": 1.02, "drop": 0.02, "low": 0.01, "high": 0.03, "max_drop": 0.05}
    report["metrics"] = [{**metric, **values, "confidence": 0.9, "samples": 4, "verdict": "pass"}]
    report["baselines"] = {"naive": {"mae": 1.5}}
    write_json(run / "checks/while-float32.json", report)
    results = collect(run)
    assert results["answers"][0]["worst"] == [{"output": "forecast", "index": 2, "max_abs": 0.25}]
    page = write_report(run).html.read_text(encoding="utf-8")
    assert "furthest from the Keras model" in page
    assert "truth (solid), Keras model (dashed)" in page
    assert "1.02\u00a0°C" in page
    assert "2.00\u00a0% worse" in page
    assert "The naive forecast on the same samples: mae 1.5" in page
    assert "The naive forecast on the same samples: mae 1.5" in to_markdown(results)


def test_a_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run folder"):
        collect(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="run folder"):
        write_report(tmp_path / "nowhere")
