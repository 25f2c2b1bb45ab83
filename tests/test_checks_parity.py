from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from edge_dl.bundle import Limits
from edge_dl.checks import DEFAULT_LIMITS, ParityReport, Verdict, check_parity, limits_for
from edge_dl.checks.differences import agreement, compare_output
from edge_dl.checks.metrics import Baselines
from edge_dl.errors import UsageError
from edge_dl.recipe import ChecksConfig
from edge_dl.variants import Quantization

CLASSES = 4
KERNEL = np.random.default_rng(0).standard_normal((6, CLASSES))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def inputs_of(count: int, seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 6)).astype("float32")}


class Model:
    """A small classifier in NumPy, with one thing wrong with it at a time."""

    def __init__(self, noise: float = 0.0, *, leak: float = 0.0, carry: float = 0.0, holes: int = 0) -> None:
        self.kernel = KERNEL + noise * np.random.default_rng(7).standard_normal(KERNEL.shape)
        self.leak, self.carry, self.holes = leak, carry, holes
        self.calls = 0
        self.before = np.zeros(CLASSES)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = []
        for row in inputs["x"]:
            self.calls += 1
            logits = row @ self.kernel + self.leak * self.calls + self.carry * self.before
            self.before = logits
            rows.append(softmax(logits * (1 + self.leak * self.calls)))
        output = np.array(rows, "float32")
        output[: self.holes] = np.nan
        return {"label": output}


def check(model: Model, count: int = 600, **settings: object) -> ParityReport:
    inputs = inputs_of(count)
    reference = Model().predict(inputs)
    # One answer in ten is wrong, so that there is something to lose and to gain.
    truth = reference["label"].argmax(1)
    truth[::10] = (truth[::10] + 1) % CLASSES
    given = {"task": "classification", "targets": {"label": truth}, **settings}
    return check_parity(model, inputs, reference, given.pop("targets"), **given)


def verdicts(report: ParityReport, name: str) -> list[Verdict]:
    return [item.verdict for item in report.checks if item.name == name]


def test_the_same_model_passes_every_check():
    report = check(Model(), labels=("a", "b", "c", "d"), variant="float32")
    assert report.passed, report.message
    assert {item.name for item in report.checks} == {
        "finite", "max_abs", "min_cosine", "repeatable", "order", "metric",
    }  # fmt: skip
    (output,) = report.outputs
    assert (output.max_abs, output.top1, output.cosine, output.snr_db) == (0.0, 1.0, pytest.approx(1.0), None)
    accuracy = report.metrics[0]
    assert accuracy.reference == accuracy.variant == pytest.approx(0.9)
    assert accuracy.low < 0 < accuracy.high < 0.01
    assert np.array(report.confusion).sum() == 600
    assert report.changed == ()


def test_a_rounded_model_passes_int8_and_fails_float32():
    assert check(Model(0.01), quantization="int8").passed
    report = check(Model(0.01), quantization="float32")
    assert report.failed
    assert "largest difference" in report.message


def test_a_broken_model_fails_by_its_metric_and_its_agreement():
    report = check(Model(2.0), quantization="int8")
    assert report.failed
    assert verdicts(report, "metric") == [Verdict.FAIL]
    assert verdicts(report, "min_top1") == [Verdict.FAIL]
    metric = report.metrics[0]
    assert metric.low > 0.01
    assert metric.drop == pytest.approx(metric.reference - metric.variant)


def test_changed_answers_name_index_classes_and_labels():
    report = check(
        Model(0.3), quantization="int4", labels=("a", "b", "c", "d"), index=np.arange(5000, 5600), limits=Limits()
    )
    inputs = inputs_of(600)
    before, after = Model().predict(inputs)["label"].argmax(1), Model(0.3).predict(inputs)["label"].argmax(1)
    assert report.changed_count == (before != after).sum() > 0
    for item in report.changed:
        row = item.index - 5000
        assert (item.reference, item.variant) == (before[row], after[row])
        assert item.reference_label == "abcd"[before[row]]
        assert item.target_label == "abcd"[item.target]
    right_before = [item.reference == item.target for item in report.changed]
    assert right_before == sorted(right_before, reverse=True)
    worst = report.outputs[0].worst
    assert worst[0].max_abs == report.outputs[0].max_abs
    assert [item.max_abs for item in worst] == sorted((item.max_abs for item in worst), reverse=True)


def test_too_few_samples_are_said_with_how_many_would_do():
    report = check(Model(), count=40)
    assert report.verdict is Verdict.NOT_ENOUGH_SAMPLES
    assert not report.passed
    assert not report.failed
    needed = report.metrics[0].samples_needed
    assert 200 < needed < 500
    assert str(needed) in report.message
    assert check(Model(), count=2 * needed).passed


@pytest.mark.parametrize("where", ["variant", "reference"])
def test_nan_fails_before_anything_else(where: str):
    inputs = inputs_of(50)
    good, bad = Model().predict(inputs), Model(holes=3).predict(inputs)
    outputs, reference = (bad, good) if where == "variant" else (good, bad)
    report = check_parity(
        Model(), inputs, reference, {"label": np.zeros(50, int)}, task="classification", outputs=outputs
    )
    assert report.failed
    assert report.checks[0].name == "finite"
    assert f"of the {where} holds NaN" in report.message
    assert "3 of 50 samples" in report.message
    assert report.outputs == ()


def test_infinity_fails():
    inputs = inputs_of(30)
    outputs = Model().predict(inputs)
    outputs["label"][7, 1] = np.inf
    report = check_parity(Model(), inputs, Model().predict(inputs), outputs=outputs)
    assert report.failed
    assert report.checks[0].name == "finite"


def test_a_state_that_leaks_is_found():
    drifting = check(Model(leak=1e-5), quantization="int4")
    assert verdicts(drifting, "repeatable") == [Verdict.FAIL]
    assert drifting.failed
    assert "a state leaks" in drifting.message
    carrying = check(Model(carry=0.01), quantization="int4")
    assert verdicts(carrying, "order") == [Verdict.FAIL]


def test_a_missing_output_and_another_shape_fail():
    inputs = inputs_of(10)
    reference = Model().predict(inputs)
    missing = check_parity(lambda x: {"other": reference["label"]}, inputs, reference)
    assert missing.failed
    assert "missing" in missing.message
    shorter = check_parity(lambda x: {"label": reference["label"][:, :2]}, inputs, reference)
    assert shorter.failed
    assert "shape" in shorter.message


def test_a_tie_that_holds_the_answer_is_no_change():
    reference = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    variant = np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]])
    assert agreement(reference, variant).tolist() == [True, True, False]


def test_differences_are_numpys():
    generator = np.random.default_rng(3)
    reference = generator.standard_normal((2000, 40, 20)).astype("float32")
    variant = reference + 0.01 * generator.standard_normal(reference.shape).astype("float32")
    result = compare_output("y", reference, variant, index=np.arange(2000))
    delta = variant.astype(float) - reference
    assert result.max_abs == pytest.approx(np.abs(delta).max())
    assert result.mean_abs == pytest.approx(np.abs(delta).mean())
    assert result.rmse == pytest.approx(np.sqrt((delta**2).mean()))
    assert result.snr_db == pytest.approx(10 * np.log10((reference.astype(float) ** 2).sum() / (delta**2).sum()))
    a, b = reference.ravel().astype(float), variant.ravel().astype(float)
    assert result.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert result.worst[0].index == np.abs(delta).max(axis=(1, 2)).argmax()


def test_an_output_of_zeros_has_no_cosine_and_fails_its_limit():
    zeros, ones = np.zeros((5, 2)), np.ones((5, 2))
    assert compare_output("y", zeros, zeros, index=np.arange(5)).cosine == 1.0
    assert compare_output("y", ones, zeros, index=np.arange(5)).cosine is None
    report = check_parity(lambda x: {"y": np.zeros((len(x["x"]), 2))}, inputs_of(5), {"y": ones}, quantization="int8")
    assert verdicts(report, "min_cosine") == [Verdict.FAIL]


def test_max_abs_is_held_against_the_outputs_own_scale():
    reference = {"y": np.full((30, 1), 500.0)}
    near, far = {"y": np.full((30, 1), 500.004)}, {"y": np.full((30, 1), 500.02)}
    inputs = {"x": np.zeros((30, 1))}
    assert check_parity(lambda x: {"y": np.full((len(x["x"]), 1), 500.004)}, inputs, reference, outputs=near).passed
    assert check_parity(lambda x: {"y": np.full((len(x["x"]), 1), 500.02)}, inputs, reference, outputs=far).failed


def test_numbers_are_judged_by_relative_error():
    inputs = {"x": np.random.default_rng(0).standard_normal((500, 3))}
    truth = inputs["x"].sum(1, keepdims=True)
    noise = np.random.default_rng(1).standard_normal((500, 1))
    reference = {"y": truth + 0.1 * noise}

    def worse(factor: float) -> ParityReport:
        return check_parity(
            lambda x: {"y": np.zeros((len(x["x"]), 1))}, inputs, reference, {"y": truth}, task="regression",
            outputs={"y": truth + 0.1 * factor * noise}, limits=Limits(max_drop=0.05),
        )  # fmt: skip

    passing, failing = worse(1.02).metrics[0], worse(1.2).metrics[0]
    assert (passing.name, passing.relative, passing.verdict) == ("rmse", True, Verdict.PASS)
    assert passing.drop == pytest.approx(0.02)
    assert failing.verdict is Verdict.FAIL
    assert failing.drop == pytest.approx(0.2)


def test_a_perfect_reference_has_no_relative_scale_and_the_report_stays_json():
    inputs = {"x": np.zeros((50, 1))}
    values = np.ones((50, 1))
    report = check_parity(
        lambda x: {"y": np.ones((len(x["x"]), 1))}, inputs, {"y": values}, {"y": values}, task="regression",
        limits=Limits(max_drop=0.01),
    )  # fmt: skip
    assert report.passed
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("order", [("label", "score"), ("score", "label")])
def test_outputs_of_different_kinds_each_have_their_metric(order: tuple[str, str]):
    class Both(Model):
        def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return super().predict(inputs) | {"score": inputs["x"] @ self.kernel[:, :1]}

    inputs = inputs_of(600)
    reference = Both().predict(inputs)
    truth = {"label": reference["label"].argmax(1), "score": reference["score"] + 0.1}
    task = "classification" if order[0] == "label" else "regression"
    report = check_parity(Both(), inputs, reference, {name: truth[name] for name in order}, task=task)
    assert report.verdict is Verdict.PASS, report.message
    kinds = {metric.output: metric.name for metric in report.metrics}
    assert kinds["label"] != kinds["score"]
    # Only numbers that are wrong make a class another.
    broken = check_parity(Both(noise=2.0), inputs, reference, {name: truth[name] for name in order}, task=task)
    assert {item.output for item in broken.changed} == {"label"}


def test_forecasts_come_with_their_baselines():
    window = np.cumsum(np.random.default_rng(0).standard_normal((300, 24, 2)), axis=1)
    truth = window[:, -1:, :1] + np.random.default_rng(1).standard_normal((300, 6, 1))
    report = check_parity(
        lambda x: {"forecast": x["series"][:, -6:, :1]}, {"series": window}, {"forecast": window[:, -6:, :1]},
        {"forecast": truth}, task="forecast", baselines=Baselines((0,), 12, (0.8,), (2.0,)),
    )  # fmt: skip
    assert report.metrics[0].name == "mase"
    assert report.baselines["naive"]["mae"] == pytest.approx(np.abs(truth - window[:, -1:, :1]).mean())
    assert set(report.baselines) == {"naive", "seasonal"}


def test_labelling_counts_only_what_the_mask_counts():
    generator = np.random.default_rng(0)
    inputs = {"x": generator.standard_normal((300, 10, 6))}

    def predict(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"labels": softmax(given["x"] @ KERNEL)}

    reference = predict(inputs)
    truth = reference["labels"].argmax(-1)
    weight = np.ones(truth.shape)
    weight[:, 5:] = 0
    outputs = {"labels": reference["labels"].copy()}
    outputs["labels"][:, 5:] = np.roll(outputs["labels"][:, 5:], 1, axis=-1)
    report = check_parity(
        predict, inputs, reference, {"labels": truth}, task="labelling", weights={"labels": weight}, outputs=outputs,
        limits=Limits(min_top1=1.0, max_drop=0.01),
    )  # fmt: skip
    assert report.outputs[0].top1 == 1.0
    assert report.changed_count == 0
    assert report.metrics[0].variant == 1.0
    report = check_parity(
        predict, inputs, reference, {"labels": truth}, task="labelling", outputs=outputs, limits=Limits(min_top1=0.9)
    )
    assert report.outputs[0].top1 == pytest.approx(0.5)
    assert report.changed[0].step == 5


def test_a_report_survives_json():
    report = check(Model(0.3), quantization="int8", labels=("a", "b", "c", "d"), variant="while-int8")
    text = json.dumps(report.to_json(), allow_nan=False)
    assert ParityReport.from_json(json.loads(text)) == report


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"inputs": {}}, "at least one sample"),
        ({"inputs": {"x": np.zeros((0, 6))}}, "at least one sample"),
        ({"inputs": inputs_of(7)}, "same samples"),
        ({"reference": {}}, "at least one sample"),
        ({"targets": {"other": np.zeros(10, int)}}, "named as the outputs are"),
        ({"targets": {"label": np.full(10, 9)}}, "Labels must lie in 0 to 3"),
        ({"targets": {"label": np.zeros(9, int)}}, "one entry a sample"),
        ({"index": np.arange(9)}, "one row number a sample"),
        ({"quantization": "int7"}, "A quantization is one of"),
    ],
)
def test_wrong_use_is_refused(change: dict, rule: str):
    settings = {"inputs": inputs_of(10), "reference": Model().predict(inputs_of(10)), "targets": None, **change}
    inputs, reference, targets = settings.pop("inputs"), settings.pop("reference"), settings.pop("targets")
    with pytest.raises(UsageError, match=rule):
        check_parity(Model(), inputs, reference, targets, task="classification", **settings)


def test_limits_come_from_the_quantization_and_the_recipe():
    assert set(DEFAULT_LIMITS) == set(Quantization)
    checks = ChecksConfig(max_drop=0.02, limits={"int8": Limits(min_top1=0.8)})
    limits = limits_for("int8", checks)
    assert limits.min_top1 == 0.8
    assert limits.min_cosine == DEFAULT_LIMITS[Quantization.INT8].min_cosine
    assert limits.max_drop == 0.02
    assert limits_for("float32", checks).min_top1 is None
    with pytest.raises(UsageError, match="A quantization is one of"):
        limits_for("int8", ChecksConfig(limits={"int9": Limits()}))


def test_one_changed_answer_of_ten_is_allowed_and_two_are_not():
    reference = np.tile([0.9, 0.1], (12, 1))

    def changed(count: int) -> ParityReport:
        outputs = reference.copy()
        outputs[:count] = outputs[:count, ::-1]
        return check_parity(
            lambda x: {"y": outputs[x["x"][:, 0].astype(int)]}, {"x": np.arange(12.0)[:, None]}, {"y": reference},
            task="classification", limits=Limits(min_top1=0.97),
        )  # fmt: skip

    assert changed(1).passed
    assert changed(2).failed
