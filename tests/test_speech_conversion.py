"""What is particular to speech: features stay in float32 in every quantization, samples go in as they are, rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_models_speech import sounds, strings

from edge_dl import models
from edge_dl.checks.inspection import inspect_model
from edge_dl.checks.verdicts import Verdict
from edge_dl.checks.weights import check_weights, guess_quantization
from edge_dl.converters import tensors
from edge_dl.converters.calibration import Calibration
from edge_dl.converters.exporting import Export, export
from edge_dl.converters.finishing import Quantized
from edge_dl.converters.float_model import float_model
from edge_dl.converters.front import find_front, takes_samples
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.quantization import quantize
from edge_dl.errors import RefusedError
from edge_dl.recipe import SpeechConfig, Task
from edge_dl.runtime import open_session
from edge_dl.variants import Lowering, Quantization, VariantSpec

DATA = sounds(4_000)
SOUNDS = DATA.train.x["sound"]
NETWORKS = {
    "ds-cnn": (SpeechConfig("ds-cnn", units=(64, 64)), Lowering.NONE),
    "crnn": (SpeechConfig("crnn", units=(8, 8, 16), normalization="utterance"), Lowering.UNROLL),
    "lstm": (SpeechConfig("lstm", units=(16,), window=0.04, hop=0.04), Lowering.UNROLL),
    "ctc": (SpeechConfig("ctc", units=(8, 16)), Lowering.UNROLL),
    "transformer": (SpeechConfig("transformer", units=(64,), coefficients=20, normalization="running"), Lowering.NONE),
}
QUANTIZED = (Quantization.DYNAMIC, Quantization.INT8, Quantization.INT16X8, Quantization.INT4, Quantization.MIXED)


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    config, lowering = NETWORKS[request.param]
    joined = config.network == "ctc"
    task, data = (Task.TRANSCRIPTION, strings(4_000)) if joined else (Task.CLASSIFICATION, DATA)
    model = models.build(task, config, data)
    rng = np.random.default_rng(0)
    model.set_weights([weight + rng.normal(0, 0.02, weight.shape) for weight in model.get_weights()])
    return export(model, tmp_path_factory.mktemp("export"), lowering)


def make(exported: Export, quantization: Quantization, folder: Path, **settings: Any) -> Quantized:
    spec = VariantSpec(exported.lowering, quantization, settings.pop("integer_io", False))
    samples = Calibration({"sound": SOUNDS}, np.arange(len(SOUNDS)))
    return quantize(exported, spec, folder / "model.tflite", samples, QuantizationOptions(**settings))


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_features_stay_as_they_are(exported: Export, quantization: Quantization, tmp_path: Path) -> None:
    before = tensors.read(float_model(exported))
    front = find_front(before)
    made = make(exported, quantization, tmp_path)
    after = tensors.read(made.path)
    assert takes_samples(made.signature)
    kinds = [tensors.operator_name(before, before.subgraphs[0].operators[number].opcodeIndex) for number in front]
    assert front == list(range(len(front)))
    assert {"CAST", "RFFT2D", "LOG"} <= set(kinds)
    assert not set(kinds) & {"CONV_2D", "DEPTHWISE_CONV_2D", "SOFTMAX"}
    # The one dense layer is that of MFCC; a normalization's factor may stand in the network's first one.
    size = before.subgraphs[0].tensors[before.subgraphs[0].operators[front[-1]].outputs[0]].shape[-1]
    assert kinds.count("FULLY_CONNECTED") == (size == 20)
    graph = after.subgraphs[0]
    for kind, operator in zip(kinds, graph.operators, strict=False):
        assert tensors.operator_name(after, operator.opcodeIndex) == kind
        for index in (*operator.inputs, *operator.outputs):
            assert tensors.type_name(graph.tensors[int(index)].type) in ("float32", "complex64", "int16", "int32")


@pytest.mark.parametrize(("quantization", "dtype"), [(Quantization.INT8, "int8"), (Quantization.INT16X8, "int16")])
def test_integer_edges_take_samples_as_they_are(
    exported: Export, quantization: Quantization, dtype: str, tmp_path: Path
) -> None:
    made = make(exported, quantization, tmp_path, integer_io=True)
    [sound], [output] = made.signature.inputs, made.signature.outputs
    assert (sound.dtype, sound.scale) == ("int16", 0.0)
    assert (output.dtype, output.scale > 0) == (dtype, True)
    answer = open_session(made.path).predict({"sound": SOUNDS})[output.name]
    expected = open_session(float_model(exported)).predict({"sound": SOUNDS})[output.name]
    assert np.abs(answer - expected).max() < 0.1


def test_one_scale_a_tensor_is_refused(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="one scale a channel"):
        make(exported, Quantization.INT8, tmp_path, per_channel=False)


def test_int8_of_the_fused_lstm_is_refused(tmp_path: Path) -> None:
    config, _ = NETWORKS["lstm"]
    made = export(models.build(Task.CLASSIFICATION, config, DATA), tmp_path, Lowering.FUSED)
    with pytest.raises(RefusedError, match="unroll-int8"):
        make(made, Quantization.INT8, tmp_path)


def test_a_model_of_other_things_has_no_front(tmp_path: Path) -> None:
    from test_models_images import pictures

    from edge_dl.recipe import ImageConfig

    model = models.build(Task.CLASSIFICATION, ImageConfig("cnn", (4,)), pictures((8, 8, 3)))
    made = export(model, tmp_path, Lowering.NONE)
    assert not takes_samples(made.signature)
    assert find_front(tensors.read(float_model(made))) == []


@pytest.mark.parametrize("quantization", [Quantization.INT8, Quantization.INT16X8])
def test_a_spectrum_in_float_is_no_broken_promise(exported: Export, quantization: Quantization, tmp_path: Path) -> None:
    made = inspect_model(make(exported, quantization, tmp_path).path)
    assert check_weights(made, quantization).verdict is Verdict.PASS
    assert guess_quantization(made) is quantization
    whole = inspect_model(float_model(exported))
    assert whole.activations
    assert check_weights(whole, quantization).verdict is Verdict.FAIL


def test_a_dense_layer_with_the_normalization_fused_into_it_is_no_feature(tmp_path: Path) -> None:
    """The converter names it after both. It was left in float, and with it an eighth of a speech-lstm's weights."""
    model = models.build(Task.CLASSIFICATION, SpeechConfig("lstm", units=(64,)), DATA)
    made = export(model, tmp_path, Lowering.WHILE)
    quantized = quantize(made, VariantSpec(Lowering.WHILE, Quantization.DYNAMIC), tmp_path / "model.tflite")
    assert quantized.weights["int8"] > 0.99 * sum(quantized.weights.values())
