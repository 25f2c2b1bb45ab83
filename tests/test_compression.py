"""Pruning, clustering, quantization-aware training: settings, schedules, and whole runs on small real models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from edge_dl import compression
from edge_dl.compression.kernels import Kernel, broken_promises, measure
from edge_dl.converters import load_model, tensors
from edge_dl.errors import RefusedError, UsageError
from edge_dl.files import gzip_size, load_npz, read_json
from edge_dl.recipe import CompressionConfig, Method, Recipe, Task, apply_overrides
from edge_dl.report import collect
from edge_dl.training.recipes import RECIPES

SMALL = ("model.filters=8,12", "model.dense=24", "training.epochs=25", "checks.rounds=2", "checks.max_drop=0.2")
CLUSTERS = 8


def command(*words: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_dl", *words, "--out", str(out)], capture_output=True, text=True, timeout=900
    )


def settings(*items: str) -> list[str]:
    return [word for item in items for word in ("--set", item)]


@pytest.fixture(scope="module")
def pcqat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN on digits, pruned, clustered and trained for quantization."""
    out = tmp_path_factory.mktemp("pcqat") / "run"
    result = command(
        "run", "cnn", *settings(*SMALL, "compression.methods=qat,prune,cluster", f"compression.clusters={CLUSTERS}",
        "compression.epochs=2", "compression.learning_rate=2e-3", "compression.sparsity=0.6",
        "training.label_smoothing=0.1",
        "conversion.quantizations=float32,int8"), out=out,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def int8_kernels(path: Path) -> list[np.ndarray]:
    """The int8 weights of a .tflite, output channel first."""
    model = tensors.read(path)
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        if tensors.operator_name(model, operator.opcodeIndex) in ("CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[int(operator.inputs[1])]
            assert tensors.type_name(tensor.type) == "int8"
            raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
            found.append(np.frombuffer(raw, np.int8).reshape(tensor.shape))
    return found


@pytest.mark.slow
def test_sparsity_and_clusters_are_reached_and_survive(pcqat: Path) -> None:
    record = read_json(pcqat / "compress" / "compression.json")
    assert [phase["method"] for phase in record["phases"]] == ["prune", "cluster", "qat"]
    for phase in record["phases"]:
        for kernel in phase["kernels"]:
            assert kernel["zeros"] == pytest.approx(0.6, abs=1 / kernel["weights"])
            assert phase["method"] == "prune" or kernel["values"] <= CLUSTERS
    for kernel in record["phases"][-1]["rounded"]:
        assert kernel["zeros"] >= 0.6 - 1 / kernel["weights"]
        assert kernel["channel_values"] <= CLUSTERS
    assert max(record["bridge"]["before"], record["bridge"]["after"]) <= 1e-5


@pytest.mark.slow
def test_the_compressed_keras_model_holds_these_weights(pcqat: Path) -> None:
    model = load_model(pcqat / "compress" / "model.keras")
    trained = load_model(pcqat / "train" / "model.keras")
    kernels = [layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")]
    assert len(kernels) == 4
    assert all((kernel == 0).mean() > 0.59 and len(np.unique(kernel)) <= CLUSTERS for kernel in kernels)
    assert all((layer.kernel.numpy() != 0).all() for layer in trained.layers if hasattr(layer, "kernel"))


@pytest.mark.slow
def test_the_qat_file_is_int8_and_keeps_zeros_and_clusters(pcqat: Path) -> None:
    kernels = int8_kernels(pcqat / "variants" / "qat" / "model.tflite")
    assert len(kernels) == 4
    for kernel in kernels:
        assert (kernel == 0).mean() >= 0.59
        assert all(len(np.unique(channel)) <= CLUSTERS for channel in kernel)
    manifest = read_json(pcqat / "variants" / "qat" / "manifest.json")
    assert manifest["quantization"] == "qat"
    assert manifest["signature"]["inputs"][0]["dtype"] == "uint8"
    assert manifest["signature"]["outputs"][0]["dtype"] == "float32"
    assert read_json(pcqat / "variants" / "qat.json")["weights"] == {"int8": sum(kernel.size for kernel in kernels)}


@pytest.mark.slow
def test_the_qat_file_answers_as_the_model_that_was_trained(pcqat: Path) -> None:
    """TFLite's integers against the quantizers in the graph: within one step of a probability, almost everywhere."""
    images = load_npz(pcqat / "data" / "test.npz")["x/image"]
    trained = tf.saved_model.load(str(pcqat / "compress" / "qat" / "saved_model")).signatures["predict"]
    interpreter = Interpreter(str(pcqat / "variants" / "qat" / "model.tflite"))
    runner = interpreter.get_signature_runner("predict")
    own, theirs = [], []
    for image in images[:200]:
        theirs.append(trained(image=tf.constant(image[None]))["label"].numpy()[0])
        own.append(runner(image=image[None])["label"][0])
    difference = np.abs(np.array(own) - np.array(theirs))
    assert np.quantile(difference.max(axis=1), 0.9) <= 0.02
    assert (np.argmax(own, axis=1) == np.argmax(theirs, axis=1)).mean() >= 0.98


@pytest.mark.slow
def test_sizes_after_gzip_and_the_way_there_are_reported(pcqat: Path) -> None:
    results = collect(pcqat)
    by_name = {variant["name"]: variant for variant in results["variants"]}
    assert set(by_name) == {"float32", "int8", "qat"}
    assert all(variant["verdict"] == "pass" for variant in by_name.values())
    content = (pcqat / "variants" / "float32" / "model.tflite").read_bytes()
    assert by_name["float32"]["gzip_bytes"] == gzip_size(content)
    weights = results["compression"]["weights"]
    assert weights["after"]["gzip_bytes"] < weights["before"]["gzip_bytes"] / 3
    history = results["compression"]["history"]
    assert [len(phase["epochs"]) for phase in history["phases"]] == [2, 2, 2]
    assert all("validation_accuracy" in epoch for phase in history["phases"] for epoch in phase["epochs"])
    assert results["compression"]["metrics"][0]["name"] == "accuracy"
    text = (pcqat / "report.md").read_text()
    assert "| gzip |" in text
    assert "### Compression" in text
    assert "quantization-aware training" in (pcqat / "report.html").read_text()


@pytest.mark.slow
def test_a_finished_compression_is_not_done_again_and_leaves_with_its_setting(pcqat: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(pcqat, run)
    again = subprocess.run(
        [sys.executable, "-m", "edge_dl", "compress", str(run)], capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    assert "compress: done before" in again.stderr
    # Interrupted after two of three methods: these are not trained again.
    shutil.rmtree(run / "compress" / "checkpoint" / "qat")
    record = read_json(run / "run.json")
    record["stages"]["compress"]["status"] = "interrupted"
    (run / "run.json").write_text(json.dumps(record))
    again = subprocess.run(
        [sys.executable, "-m", "edge_dl", "compress", str(run)], capture_output=True, text=True, timeout=600
    )
    assert again.returncode == 0, again.stderr
    assert "prune: trained before" in again.stderr
    assert "cluster: trained before" in again.stderr
    assert "qat: trained before" not in again.stderr
    before, after = (load_kernels(folder / "compress" / "model.keras") for folder in (pcqat, run))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def load_kernels(path: Path) -> list[np.ndarray]:
    return [layer.kernel.numpy() for layer in load_model(path).layers if hasattr(layer, "kernel")]


@pytest.mark.slow
def test_a_model_of_ones_own_with_logits_is_clustered_and_trained_for_quantization(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = (rng.normal(0, 1, (400, 8, 8, 1)) + y[:, None, None, None]).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    inputs = keras.Input((8, 8, 1))
    h = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(keras.layers.Rescaling(0.5)(inputs))
    h = keras.layers.Flatten()(h)
    outputs = keras.layers.Dense(3, name="scores")(h)
    model = keras.Model(inputs, outputs)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:300], y[:300], epochs=4, verbose=0)
    model.save(tmp_path / "mine.keras")
    result = command(
        "run", str(tmp_path / "mine.keras"), "--data", str(tmp_path / "data.npz"),
        *settings("compression.methods=cluster,qat", "compression.epochs=2", "compression.skip=scores",
        "conversion.quantizations=float32", "checks.max_drop=0.3", "checks.rounds=2"), out=tmp_path / "run",
    )  # fmt: skip
    # Most weights stand in the layer that is skipped, so there is no int8 model to be had.
    assert result.returncode == 2, result.stdout + result.stderr
    assert "layer 'scores': compression.skip names it" in result.stderr
    result = command(
        "run", str(tmp_path / "run"),
        *settings("compression.skip=", "compression.clusters=6"), out=tmp_path / "unused",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    record = read_json(tmp_path / "run" / "compress" / "compression.json")
    assert all(kernel["values"] <= 6 for kernel in record["phases"][-1]["kernels"])
    assert read_json(tmp_path / "run" / "checks" / "qat.json")["verdict"] == "pass"


@pytest.mark.slow
def test_recurrent_kernels_are_pruned_at_once(tmp_path: Path) -> None:
    result = command(
        "compress", "lstm", *settings("model.units=12", "training.epochs=1", "compression.methods=prune",
        "compression.schedule=constant", "compression.epochs=1"), out=tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (phase,) = read_json(tmp_path / "run" / "compress" / "compression.json")["phases"]
    lstm = [kernel for kernel in phase["kernels"] if kernel["layer"] == "lstm_1"]
    assert [kernel["number"] for kernel in lstm] == [0, 1]
    assert all(kernel["zeros"] == pytest.approx(0.5, abs=0.01) for kernel in lstm)


def test_training_recurrent_layers_for_quantization_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    result = command("run", "gru", *settings("compression.methods=qat"), out=tmp_path / "run")
    assert result.returncode == 2
    assert "no quantization-aware training for recurrent layers" in result.stderr
    assert not (tmp_path / "run" / "train").exists()


def test_compress_without_methods_says_what_to_set(tmp_path: Path) -> None:
    result = command("compress", "cnn", out=tmp_path / "run")
    assert result.returncode == 2
    assert "--set compression.methods=prune,qat" in result.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tf_keras" else found(name, *rest)
    )
    with pytest.raises(UsageError, match=r"without tf_keras.*edge-dl\[tfmot\]"):
        compression.require_tools()


def test_methods_are_done_in_order_whatever_the_order_asked() -> None:
    recipe: Recipe = apply_overrides(RECIPES["cnn"], {"compression.methods": "qat, prune,qat"})
    assert compression.ordered(recipe.compression) == (Method.PRUNE, Method.QAT)
    assert RECIPES["cnn"].compression.methods == ()
    with pytest.raises(UsageError, match="one of prune, cluster, qat"):
        apply_overrides(RECIPES["cnn"], {"compression.methods": "distill"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": 0.0}, "sparsity"),
        ({"schedule": "cubic"}, "constant, polynomial"),
        ({"begin": 0.5, "end": 0.5}, "begin"),
        ({"end": 1.5}, "begin"),
        ({"clusters": 2}, "clusters"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compression.check_settings(CompressionConfig(**changes), Task.CLASSIFICATION)


def kernel(**changes: Any) -> Kernel:
    facts: dict[str, Any] = {"zeros": 0.5, "values": 16, "channel_values": 16}
    return Kernel("conv", 0, "Conv2D", (3, 3, 4, 8), **{**facts, **changes})


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({Method.PRUNE: kernel(zeros=0.4)}, "40.0% zeros after prune instead of"),
        ({Method.PRUNE: kernel(), Method.QAT: kernel(zeros=0.45)}, "45.0% zeros after qat instead of 50.0%"),
        ({Method.CLUSTER: kernel(values=17)}, "17 values after cluster instead of 16"),
        ({Method.CLUSTER: kernel(), Method.QAT: kernel(values=40)}, "40 values after qat"),
        ({Method.PRUNE: kernel(values=90), Method.CLUSTER: kernel()}, ""),
    ],
)
def test_a_promise_that_is_not_kept_is_told(after: dict[Method, Kernel], words: str) -> None:
    reached = {method: [item] for method, item in after.items()}
    touched = dict.fromkeys(after, ("conv",))
    broken = broken_promises(reached, touched, CompressionConfig())
    assert len(broken) == bool(words)
    assert not words or words in broken[0]


def test_kernels_are_measured_and_biases_are_not() -> None:
    array = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 2.0]], np.float32)
    (found,) = measure({"dense": [array, np.zeros(2, np.float32)]}, {"dense": "Dense"})
    assert (found.layer, found.kind, found.shape, found.size) == ("dense", "Dense", (3, 2), 6)
    assert found.zeros == pytest.approx(1 / 3)
    assert (found.values, found.channel_values) == (4, 2)


def test_qat_without_training_is_refused() -> None:
    from edge_dl.converters.pairs import check_allowed
    from edge_dl.variants import Lowering, Quantization

    with pytest.raises(RefusedError, match="recurrent"):
        check_allowed(Lowering.UNROLL, Quantization.QAT)
    # A step takes what an encoder gives: it is no way out of a decoder.
    with pytest.raises(RefusedError, match=r"Use decode-dynamic, or decode-unroll-int8\."):
        check_allowed(Lowering.DECODE, Quantization.QAT)
    check_allowed(Lowering.NONE, Quantization.QAT)
