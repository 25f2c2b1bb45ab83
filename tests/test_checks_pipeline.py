from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tflite_models

from edge_dl.checks import ParityReport, Verdict, pipeline, run_bench, run_verify, verify_bundle, verify_model
from edge_dl.checks.jobs import guess_task
from edge_dl.errors import UsageError
from edge_dl.files import read_json, save_npz, write_json
from edge_dl.recipe import ChecksConfig, Task
from edge_dl.variants import VariantSpec

Tflite = Callable[[str], Path]
SAMPLES = 400
QUICK = ChecksConfig(rounds=4)
# Random weights leave many answers close to a tie: rounding moves some.
LOOSE = ChecksConfig(max_drop=0.05)


@pytest.fixture
def run(tflite: Tflite, tmp_path: Path) -> Callable[..., Path]:
    """A run folder with test data, reference answers and bundles: {variant: name of the .tflite in it}."""

    def make(**variants: str) -> Path:
        folder = tmp_path / "run"
        images = tflite_models.images(SAMPLES, seed=4)
        reference = tflite_models.conv_reference(images).astype("float32")
        truth = reference.argmax(1).astype("int32")
        truth[::20] = (truth[::20] + 1) % tflite_models.CLASSES
        save_npz(
            folder / "data" / "test.npz", {"x/image": images, "y/label": truth, "index": np.arange(SAMPLES) + 7000}
        )
        write_json(
            folder / "data" / "dataset.json", {"task": "classification", "labels": list("abcd"), "forecast": None}
        )
        save_npz(folder / "export" / "reference.npz", {"y/label": reference})
        for key, model in variants.items():
            name = key.replace("_", "-")
            spec = VariantSpec.parse(name)
            tflite_models.bundle_of(
                folder / "variants" / name, tflite(model), ({"image": images[:8]}, {"label": reference[:8]}),
                variant=name, lowering=spec.lowering.value, quantization=spec.quantization.value,
                task="classification", labels="abcd",
            )  # fmt: skip
        return folder

    return make


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total: float | None = None

    def step(self, description: str, total: float | None = None) -> Told:
        self.total = total
        return self

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.notes.append(note)

    def say(self, message: str) -> None:
        self.notes.append(message)


def test_a_run_is_verified_variant_by_variant(run: Callable[..., Path]):
    folder = run(float32="conv-float32", int8="conv-int8", int16x8="conv-int16x8")
    told = Told()
    reports = run_verify(folder, LOOSE, told)
    assert [report.variant for report in reports] == ["float32", "int8", "int16x8"]
    assert [report.verdict for report in reports] == [Verdict.PASS] * 3, [report.message for report in reports]
    assert len(told.notes) == told.total == 3
    for report in reports:
        assert ParityReport.from_json(read_json(folder / "checks" / f"{report.variant}.json")) == report
        assert report.samples == SAMPLES
        assert report.metrics[0].reference == pytest.approx(0.95)
        assert report.labels == ("a", "b", "c", "d")
        assert report.outputs[0].worst[0].index >= 7000
        assert sum(report.weight_bytes.values()) > 0


def test_a_variant_that_is_not_what_it_says_fails(run: Callable[..., Path]):
    (report,) = run_verify(run(int8="conv-float32"))
    assert report.failed
    assert "0.0% of the weights are int8" in report.message


def test_samples_limits_and_drop_come_from_the_recipe(run: Callable[..., Path]):
    folder = run(float32="conv-float32")
    (few,) = run_verify(folder, ChecksConfig(samples=50))
    assert few.samples == 50
    assert few.verdict is Verdict.NOT_ENOUGH_SAMPLES
    strict = ChecksConfig(limits={"float32": dataclasses.replace(few.limits, max_abs=1e-12)})
    (failed,) = run_verify(folder, strict)
    assert failed.failed
    assert failed.limits.max_abs == 1e-12


@pytest.mark.slow
def test_a_crash_and_a_hang_fail_their_variant_and_the_others_go_on(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(pipeline, "JOBS", "crashing_jobs")
    folder = run(while_float32="conv-float32", unroll_float32="conv-float32", fused_float32="conv-float32")
    reports = {report.variant: report for report in run_verify(folder, time_limit=15)}
    assert reports["while-float32"].passed
    assert reports["unroll-float32"].failed
    assert "SIGSEGV" in reports["unroll-float32"].error
    assert reports["fused-float32"].failed
    assert "15 seconds" in reports["fused-float32"].error
    assert set(reports) == {path.stem for path in (folder / "checks").glob("*.json")}
    latencies, comparisons, selection = run_bench(folder, QUICK, time_limit=10)
    assert {item.variant: bool(item.error) for item in latencies} == {
        "while-float32": False, "unroll-float32": True, "fused-float32": True,
    }  # fmt: skip
    assert comparisons == []
    assert selection.chosen == "while-float32"
    errors = read_json(folder / "bench" / "comparisons.json")["errors"]
    assert "SIGSEGV" in errors["unroll-float32"]


def test_a_changed_bundle_fails_with_its_reason(run: Callable[..., Path]):
    folder = run(float32="conv-float32", int8="conv-int8")
    with (folder / "variants" / "int8" / "model.tflite").open("ab") as file:
        file.write(b"more")
    good, bad = run_verify(folder)
    assert good.passed
    assert "must have the hash" in bad.error


def test_a_run_is_benched_compared_and_selected(run: Callable[..., Path]):
    folder = run(while_float32="conv-float32", while_int8="conv-int8", unroll_int8="conv-float32")
    run_verify(folder, LOOSE)
    latencies, comparisons, selection = run_bench(folder, QUICK)
    assert [item.variant for item in latencies] == ["while-float32", "while-int8", "unroll-int8"]
    assert all(item.p50_ms and not item.error for item in latencies), latencies
    written = read_json(folder / "bench" / "comparisons.json")
    assert written["baseline"] == "while-float32"
    assert [(item["a"], item["b"]) for item in written["comparisons"]] == [
        ("while-int8", "while-float32"), ("unroll-int8", "while-float32"),
    ]  # fmt: skip
    assert len(comparisons) == 2
    # The third says int8 and holds float32: whatever its speed, it is not chosen.
    assert selection.by_quantization == {"float32": "while-float32", "int8": "while-int8"}
    assert read_json(folder / "bench" / "selection.json") == selection.to_json()


def test_a_run_without_variants_or_data_is_refused(run: Callable[..., Path], tmp_path: Path):
    with pytest.raises(UsageError, match="must be a variant"):
        run_verify(tmp_path)
    with pytest.raises(UsageError, match="must be a variant"):
        run_bench(tmp_path)
    folder = run(float32="conv-float32")
    (folder / "export" / "reference.npz").unlink()
    with pytest.raises(UsageError, match="reference's answers"):
        run_verify(folder)


def test_a_bundle_is_checked_on_its_golden_samples(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    folder = run(int8="conv-int8")
    bundle = folder / "variants" / "int8"
    report = verify_bundle(bundle)
    assert report.passed, report.message
    assert (report.variant, report.samples, report.metrics) == ("int8", 8, ())
    data, reference = folder / "data" / "test.npz", folder / "export" / "reference.npz"
    full = verify_bundle(bundle, data, reference, checks=LOOSE)
    assert full.passed, full.message
    assert full.metrics[0].samples == SAMPLES
    with pytest.raises(UsageError, match="Data comes with the reference"):
        verify_bundle(bundle, data)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(pipeline, "JOBS", "crashing_jobs")
    assert "SIGSEGV" in verify_bundle(bundle).error


def test_a_step_bundle_is_checked_over_whole_sequences(step_bundle: Callable[..., Path]):
    report = verify_bundle(step_bundle())
    assert report.passed, report.message
    assert {output.name for output in report.outputs} == {"label", "frames"}


def test_a_language_model_is_checked(language_bundle: Path):
    report = verify_bundle(language_bundle)
    assert report.passed, report.message
    assert report.outputs[0].top1 == 1.0


def test_a_model_of_the_users_own_is_checked(tflite: Tflite, tmp_path: Path):
    images = tflite_models.images(SAMPLES)
    reference = tflite_models.conv_reference(images).astype("float32")
    data, answers = tmp_path / "data.npz", tmp_path / "reference.npz"
    np.savez(data, image=images)
    np.savez(answers, label=reference)
    report = verify_model(tflite("conv-int16x8"), answers, data)
    assert report.passed, report.message
    assert (report.quantization, report.task) == ("int16x8", "")
    np.savez(data, **{"x/image": images, "y/label": reference.argmax(1)})
    report = verify_model(tflite("conv-float32"), answers, data, labels=("a", "b", "c", "d"))
    assert report.passed, report.message
    assert (report.task, report.metrics[0].name) == ("classification", "accuracy")
    assert verify_model(tflite("conv-float32"), answers, data, quantization="int8").failed


def test_a_users_bad_files_are_refused(tflite: Tflite, tmp_path: Path):
    model, data, answers = tflite("conv-float32"), tmp_path / "data.npz", tmp_path / "reference.npz"
    images = tflite_models.images(4)
    np.savez(answers, label=tflite_models.conv_reference(images))
    np.savez(data, one=images, two=images)
    with pytest.raises(UsageError, match="every input"):
        verify_model(model, answers, data)
    np.savez(data, image=images[:3])
    with pytest.raises(UsageError, match="same samples"):
        verify_model(model, answers, data)
    images[0, 0, 0, 0] = np.nan
    np.savez(data, image=images)
    with pytest.raises(UsageError, match="NaN"):
        verify_model(model, answers, data)
    np.savez(data, image=images[:0])
    with pytest.raises(UsageError, match="at least one"):
        verify_model(model, answers, data)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(model.read_bytes()[:700])
    with pytest.raises(UsageError, match="must be whole"):
        verify_model(broken, answers, data)
    np.savez(answers, a=images, b=images)
    with pytest.raises(UsageError, match="named as the model's outputs"):
        verify_model(model, answers, data)


def test_the_task_is_told_from_the_true_answers():
    two, three = {"y": np.zeros((5, 3))}, {"y": np.zeros((5, 4, 3))}
    assert guess_task({"y": np.zeros(5, int)}, two) is Task.CLASSIFICATION
    assert guess_task({"y": np.zeros((5, 4), int)}, three) is Task.LABELLING
    assert guess_task({"y": np.zeros((5, 3))}, two) is Task.REGRESSION
    assert guess_task({}, two) is None
