"""Error by operator: cumulative, own, share; ranges, reasons and culprits; the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spoiled_network
import tflite_models

from edge_dl.checks.culprits import find_reasons
from edge_dl.checks.layers import ActivationRange, LayerReport, WeightRange, measure_layers
from edge_dl.checks.probes import Probe
from edge_dl.checks.siblings import find_alone, find_in_run, measure
from edge_dl.checks.traces import Trace, match
from edge_dl.errors import UsageError
from edge_dl.report import layers as page
from edge_dl.variants import Quantization

Tflite = Callable[[str], Path]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = spoiled_network.make_run(tmp_path_factory.mktemp("spoiled"), spoil=True)
    spoiled_network.convert_run(
        run, Quantization.FLOAT32, Quantization.DYNAMIC, Quantization.INT8, Quantization.INT16X8
    )
    return run


@pytest.fixture(scope="module")
def report(spoiled: Path) -> LayerReport:
    return measure(find_in_run(spoiled, "int8"), 16)


def test_the_spoiled_layer_is_named_with_the_reason(report: LayerReport) -> None:
    culprit = report.by_share()[0]
    assert report.culprits[0] is culprit
    assert spoiled_network.SPOILED in culprit.name
    assert culprit.kind == "CONV_2D"
    assert culprit.share > 0.5
    assert "activation ranges of channels differ" in culprit.reasons[0]
    assert culprit.activation.spread > 50
    assert culprit.weight is not None
    assert culprit.weight.spread > 100
    assert (culprit.weight.dtype, culprit.weight.scales) == ("int8", 8)
    assert report.output_snr_db is not None
    assert report.output_snr_db < 10


def test_errors_add_up(report: LayerReport) -> None:
    assert report.finite
    assert report.matched == report.operators
    assert report.by == "by the order of operators"
    assert sum(layer.share for layer in report.layers) == pytest.approx(1)
    first = report.layers[0]  # It is fed with exact pictures: all of its error is its own.
    assert first.own_error == pytest.approx(first.error, rel=1e-3)
    pool = next(layer for layer in report.layers if layer.kind == "MAX_POOL_2D")
    assert pool.own_error == 0  # It only chooses, and passes on the error that it is fed with.
    assert pool.error is not None
    assert pool.error > 0
    # The last operator's error is that of the model's only output.
    assert report.layers[-1].snr_db == report.output_snr_db


def test_int16_activations_take_the_harm_away(spoiled: Path, report: LayerReport) -> None:
    wide = measure(find_in_run(spoiled, "int16x8"), 16)
    assert wide.output_snr_db is not None
    assert report.output_snr_db is not None
    assert wide.output_snr_db > report.output_snr_db + 5
    spoiled_layer = next(layer for layer in wide.layers if spoiled_network.SPOILED in layer.name)
    assert not spoiled_layer.culprit
    assert spoiled_layer.activation.dtype == "int16"


def test_shares_predict_what_the_whole_model_loses(spoiled: Path) -> None:
    """Errors that are small enough add up: effects of single operators come to the error of the model."""
    for name in ("dynamic", "int16x8"):
        found = measure(find_in_run(spoiled, name), 16)
        effects = [10 ** (-layer.output_snr_db / 10) for layer in found.layers if layer.output_snr_db is not None]
        assert -10 * np.log10(sum(effects)) == pytest.approx(found.output_snr_db, abs=3)


def test_a_report_survives_json(report: LayerReport) -> None:
    assert LayerReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_probe_is_the_model_itself_and_each_operator_alone(tflite: Tflite) -> None:
    trace = Trace(tflite("conv-float32"))
    probe = Probe(trace.file)
    sample = {"image": tflite_models.images(1)[0]}
    assert list(trace.calls(sample)) == [0]
    inputs = {index: trace.stored(index) for index in trace.main.inputs}
    values = {index: trace.value(index) for index in probe.tensors}
    (answer,) = probe.answers(inputs, {})
    np.testing.assert_allclose(answer, tflite_models.conv_reference(sample["image"][None]), atol=1e-4)
    for index, alone in probe.alone(inputs, values).items():
        np.testing.assert_allclose(alone, values[index], atol=1e-4)
    # An error that is put in behind the convolution comes out through the dense layer, and only that.
    place = next(index for index, operator in enumerate(trace.main.operators) if operator.name == "RESHAPE")
    (moved,) = trace.main.operators[place].outputs
    error = np.random.default_rng(0).normal(size=(1, 144)).astype("float32")
    (shifted,) = probe.answers(inputs, {moved: error})
    np.testing.assert_allclose(shifted - answer, error @ tflite_models.weights(2, 144, 4), atol=1e-4)
    np.testing.assert_array_equal(probe.answers(inputs, {})[0], answer)


def test_a_step_model_is_followed_step_by_step(step_bundle: Callable[..., Path], tmp_path: Path) -> None:
    quantized = step_bundle("step-int8-io", quantization="int8", variant="step-int8-io").rename(tmp_path / "int8")
    reference = step_bundle("step-float32")
    data = tflite_models.sequences(2)
    found = measure_layers(quantized, reference, {"sequence": data})
    assert (found.samples, found.calls) == (2, 2 * tflite_models.STEPS)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert found.output_snr_db is not None
    assert 15 < found.output_snr_db < 60


def test_a_float_model_is_refused(tflite: Tflite) -> None:
    with pytest.raises(UsageError, match="float32 throughout"):
        measure_layers(tflite("conv-float32"), tflite("conv-float32"), {"image": tflite_models.images(2)})


def test_models_of_two_networks_cannot_be_matched(tflite: Tflite) -> None:
    with pytest.raises(UsageError, match="other operators"):
        match(Trace(tflite("conv-int8")), Trace(tflite("step-float32")))


NARROW = ActivationRange(low=-1.0, high=1.0, inner=0.9, spread=2.0, dtype="int8", scale=2 / 255)
PLAIN = WeightRange(low=-1.0, high=1.0, spread=1.0, input_spread=1.0, scales=1, dtype="int8")


@pytest.mark.parametrize(
    ("activation", "weight", "rounding", "words"),
    [
        ({"saturated": 0.05, "held_low": -0.5, "held_high": 0.5}, {}, 0.9, "saturates: 5.00%"),
        ({}, {"spread": 400.0}, 0.1, "weight ranges of channels differ 400-fold"),
        ({"spread": 90.0}, {}, 0.9, "activation ranges of channels differ 90-fold"),
        ({"inner": 0.03}, {}, 0.9, "99.9 % of the values lie within 3.0% of the range"),
        ({}, {"input_spread": 1000.0}, 0.0, "weight ranges of input channels differ 1000-fold"),
        ({}, {}, 0.75, "rounding its output to int8 makes 75% of its effect"),
        ({}, {}, 0.25, "rounding its weights and inputs makes 75% of its effect"),
    ],
)
def test_reasons(activation: dict, weight: dict, rounding: float, words: str) -> None:
    from dataclasses import replace

    reasons, culprit = find_reasons(replace(NARROW, **activation), replace(PLAIN, **weight), rounding, 0.6, 5.0)
    assert culprit
    assert words in reasons[0]


def test_who_errs_without_effect_is_no_culprit() -> None:
    assert not find_reasons(NARROW, PLAIN, 0.5, 0.9, 35.0)[1]
    assert not find_reasons(NARROW, PLAIN, 0.5, 0.05, 5.0)[1]
    assert find_reasons(NARROW, PLAIN, None, 0.0, None) == ((), False)


def test_one_scale_a_channel_is_no_reason_to_name_the_weights() -> None:
    many = WeightRange(low=-1.0, high=1.0, spread=400.0, input_spread=1.0, scales=8, dtype="int8")
    assert "differ" not in " ".join(find_reasons(NARROW, many, 0.1, 0.6, 5.0)[0])


def test_the_page_names_the_culprit_and_is_inert(report: LayerReport) -> None:
    from dataclasses import replace

    evil = replace(report, layers=(replace(report.by_share()[0], name="<script>alert(1)</script>"), *report.layers[1:]))
    text = page.to_html(evil)
    assert "<script" not in text
    assert "&lt;script" in text
    assert text.count("<svg") == 3
    assert "Culprit" in text


def edge_dl(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "edge_dl", "debug", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_the_command(spoiled: Path, tmp_path: Path) -> None:
    done = edge_dl(spoiled / "variants" / "int8", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert spoiled_network.SPOILED in done.stdout.split("Culprit")[1].splitlines()[0]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not {"tensorflow", "keras", "ai_edge_quantizer"} & imported
    folder = spoiled / "debug" / "int8"
    assert LayerReport.from_json(json.loads((folder / "layers.json").read_text())).culprits
    assert (folder / "layers.html").is_file()
    told = edge_dl(spoiled / "variants" / "int16x8", "--json", cwd=tmp_path)
    wide = LayerReport.from_json(json.loads(told.stdout))
    # What made up for the spoiled channel is next: the small weights that read it share their scales with others.
    assert told.returncode == (1 if wide.culprits else 0), told.stderr
    worst = wide.by_share()[0]
    assert "shapes" in worst.name
    assert "weight ranges of input channels differ" in worst.reasons[0]


def test_two_bare_files(spoiled: Path) -> None:
    model, reference = spoiled / "variants/int8/model.tflite", spoiled / "export/none/float32.tflite"
    found = measure(find_alone(model, reference, spoiled / "data/test.npz"), 8)
    assert found.samples == 8
    assert spoiled_network.SPOILED in found.culprits[0].name


def test_what_is_missing_is_said_in_one_line(spoiled: Path, tmp_path: Path) -> None:
    model = spoiled / "variants/int8/model.tflite"
    for arguments, words in (
        ((spoiled / "variants" / "int4",), "no such path"),
        ((spoiled / "variants" / "float32",), "which is the float32 one"),
        ((model,), "without --reference"),
        ((model, "--reference", spoiled / "export/none/float32.tflite"), "without --data"),
        ((model, "--reference", tmp_path / "none.tflite", "--data", spoiled / "data/test.npz"), "must exist"),
    ):
        done = edge_dl(*arguments, cwd=tmp_path)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert done.returncode == 2
        assert len(errors) == 1
        assert words in errors[0]


def test_a_variant_of_a_run_is_found_by_name(spoiled: Path) -> None:
    with pytest.raises(UsageError, match="There are: dynamic, float32, int16x8, int8"):
        find_in_run(spoiled, "int4")
    found = find_in_run(spoiled, "dynamic")
    assert found.reference.name == "float32"
    assert found.data is not None
    assert found.data.name == "validation.npz"
