"""int16 dense layers on sequences: matrices, which every runtime computes alike."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from edge_dl.checks.compatibility import check_file
from edge_dl.converters import packing, tensors
from edge_dl.converters.calibration import Calibration
from edge_dl.converters.exporting import export
from edge_dl.converters.flat_dense import flatten_int16_dense
from edge_dl.converters.options import QuantizationOptions
from edge_dl.converters.routes import convert_export
from edge_dl.runtime import open_session
from edge_dl.variants import Lowering, Quantization, VariantSpec

OLD = "tflite-runtime==2.14.0,android-tflite-2.16,ai-edge-litert==1.0.1,ai-edge-litert==2.3.0"


SEQUENCES = np.random.default_rng(0).standard_normal((20, 8, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The int16x8 model as TFLiteConverter gives it: two dense layers, step by step."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 6), name="sequence")
    h = keras.layers.Dense(12, activation="relu")(inputs)
    model = keras.Model({"sequence": inputs}, {"labels": keras.layers.Dense(4)(h)})
    exported = export(model, tmp_path_factory.mktemp("dense"), Lowering.NONE)
    spec = VariantSpec(Lowering.NONE, Quantization.INT16X8)
    samples = Calibration({"sequence": SEQUENCES}, np.arange(20))
    return convert_export(exported, spec, samples, QuantizationOptions())[0]


def ranks(content: bytes) -> set[int]:
    model = tensors.read(content)
    graph = model.subgraphs[0]
    return {
        len(graph.tensors[int(operator.outputs[0])].shape)
        for operator in graph.operators
        if tensors.operator_name(model, operator.opcodeIndex) == "FULLY_CONNECTED"
    }


def test_dense_layers_give_matrices_and_the_same_answers(plain: bytes, tmp_path: Path) -> None:
    assert max(ranks(plain)) == 3, "the converter's own file has what is to be repaired"
    model = tensors.read(plain)
    assert flatten_int16_dense(model) >= 1
    flat = packing.pack(model)
    assert ranks(flat) == {2}
    answers = []
    for name, content in (("plain", plain), ("flat", flat)):
        (tmp_path / f"{name}.tflite").write_bytes(content)
        session = open_session(tmp_path / f"{name}.tflite")
        answers.append(session.predict({"sequence": SEQUENCES})["labels"])
    np.testing.assert_array_equal(*answers)
    assert flatten_int16_dense(tensors.read(flat)) == 0


def test_check_names_the_runtimes_that_answer_wrongly(plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(plain)
    wrong = [answer.runtime for answer in check_file(str(path), OLD) if "answers are wrong" in str(answer.problems)]
    assert wrong == ["tflite-runtime==2.14.0", "android-tflite-2.16", "ai-edge-litert==1.0.1"]
    model = tensors.read(plain)
    flatten_int16_dense(model)
    path.write_bytes(packing.pack(model))
    assert not any("answers are wrong" in str(answer.problems) for answer in check_file(str(path), OLD))
