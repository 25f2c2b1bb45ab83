"""The plugin inside real pytest runs, on real models."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models

# Loaded before a run inside this process: what a run loads itself, pytester forgets again, NumPy and LiteRT among it.
from edge_dl.checks import verify_bundle  # noqa: F401
from edge_dl.errors import UsageError
from edge_dl.runtime.targets import open_target  # noqa: F401
from edge_dl.testing import graphs, latency, parity, results, subjects  # noqa: F401
from edge_dl.testing.baselines import find_model, fingerprint, read_baselines, write_baselines
from edge_dl.testing.conditions import parse_condition

pytest_plugins = ("pytester",)

Tflite = Callable[[str], Path]
SAMPLES = 16


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DL_CONFIG", str(tmp_path / "configuration"))


@pytest.fixture(scope="module")
def variants(tflite: Tflite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles side by side: float32, int8, and int8 whose last weights were negated."""
    folder = tmp_path_factory.mktemp("plugin") / "variants"
    images = tflite_models.images(SAMPLES, seed=4)
    golden = ({"image": images}, {"label": tflite_models.conv_reference(images).astype("float32")})

    def bundle(name: str, model: Path, quantization: str) -> None:
        tflite_models.bundle_of(folder / name, model, golden, variant=name, quantization=quantization,
                                task="classification", labels=("ant", "bee", "cat", "dog"))  # fmt: skip

    bundle("float32", tflite("conv-float32"), "float32")
    bundle("int8", tflite("conv-int8"), "int8")
    wrong = folder / "wrong.tflite"
    wrong.write_bytes(with_negated_weights(tflite("conv-int8").read_bytes()))
    bundle("wrong", wrong, "int8")
    return folder


def with_negated_weights(model: bytes) -> bytes:
    """The model with the weights of its FULLY_CONNECTED turned round."""
    from edge_dl.checks.graph import parse_graph

    graph = parse_graph(model)
    main = graph.subgraphs[0]
    dense = next(operator for operator in main.operators if operator.name == "FULLY_CONNECTED")
    offset, length = graph.places[main.tensors[dense.inputs[1]].buffer]
    turned = -np.frombuffer(model, np.int8, length, offset)
    return model[:offset] + turned.tobytes() + model[offset + length :]


def slow_function() -> Any:
    """What `conv_function` takes and gives, with some 17 million multiplications instead of some thousand."""
    tf = tflite_models.tensorflow()
    first, last = tflite_models.weights(1, 64, 2048), tflite_models.weights(3, 2048, tflite_models.CLASSES)
    middle = [tflite_models.weights(number, 2048, 2048) for number in (4, 5, 6, 7)]

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
    def predict(image: Any) -> dict[str, Any]:
        hidden = tf.matmul(tf.reshape(image, (1, 64)), first)
        for kernel in middle:
            hidden = tf.nn.relu(tf.matmul(hidden, kernel) * 0.01)
        return {"label": tf.matmul(hidden, last)}

    return predict


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


# --- parity ---


def test_a_bundle_that_agrees(pytester: pytest.Pytester, variants: Path) -> None:
    pytester.makepyfile(
        f"""
        def test_my_model(edge_parity):
            result = edge_parity({str(variants / "int8")!r}, min_top1=0.9, max_abs=0.05)
            assert result
            assert result.top1 >= 0.9
            assert 0 < result.max_abs < 0.2
            assert "int8" in repr(result)
        """
    )
    result = run(pytester, "--junitxml=junit.xml", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_my_model?local? PASSED*"])
    found = {item.get("name"): item.get("value") for item in ElementTree.parse("junit.xml").iter("property")}
    assert found["parity.verdict"] == "pass"
    assert found["parity.target"] == "local"
    assert found["parity.variant"] == "int8"
    assert found["parity.runtime"].startswith("ai_edge_litert ")
    assert 0 < float(found["parity.max_abs"]) < 0.2
    assert float(found["parity.top1"]) >= 0.9


def test_a_failure_says_where_it_comes_from(pytester: pytest.Pytester, variants: Path) -> None:
    pytester.makepyfile(
        f"""
        def test_my_model(edge_parity):
            assert edge_parity({str(variants / "wrong")!r}, min_top1=0.9, float32={str(variants / "float32")!r})
        """
    )
    result = run(pytester, "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert <parity of wrong on local: fail: Output 'label': cosine -*",
            "*- edge-dl parity -*",
            "parity of wrong on local (ai_edge_litert *): fail",
            f"*wrong: {SAMPLES} samples, against the bundle's golden samples",
            "*ok * finite *",
            "*FAIL *min_cosine *",
            "*FAIL *min_top1 *top-1 agreement 0.*, at least 0.9 wanted.",
            "*ok * weights *",
            "*first differing output: 'label', worst samples:",
            "*sample * at index [[]*]: expected *, got *",
            "*expected  [[]*] -> *",
            "*got       [[]*] -> *",
            "*where it starts:",
            "*at operator * FULLY_CONNECTED *: SNR -*, below 8 dB",
            "*before it: operator * SNR *",
            "*compared with the float32 variant on this machine: * operators, by the order of operators",
        ]
    )
    text = ElementTree.parse("junit.xml").find(".//failure").text or ""
    assert "where it starts:" in text


def test_what_cannot_be_told_is_said(pytester: pytest.Pytester, variants: Path, tflite: Tflite) -> None:
    alone = pytester.path / "alone"
    shutil.copytree(variants / "wrong", alone)
    pytester.makepyfile(
        f"""
        def test_no_sibling(edge_parity):
            assert edge_parity("alone")
        def test_another_graph(edge_parity):
            assert edge_parity("alone", float32={str(tflite("two"))!r})
        def test_float32(edge_parity):
            assert edge_parity({str(variants / "float32")!r}, max_abs=1e-12)
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*This cannot be told: there is no float32 variant beside it (float32); name one with float32=.",
            "*This cannot be told: the float32 variant has other operators *",
            "*This cannot be told: this is the float32 variant*",
        ]
    )


def test_a_tflite_and_its_keras_model(pytester: pytest.Pytester) -> None:
    tf = tflite_models.tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,), name="x"), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.save(pytester.path / "model.keras")
    (pytester.path / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    np.savez(pytester.path / "data.npz", **{"x/x": np.ones((12, 6), "float32"), "y/y": np.zeros(12, "int64")})
    pytester.makepyfile(
        """
        def test_file_and_noise(edge_parity):
            assert edge_parity("model.tflite", "model.keras", max_abs=1e-5, min_top1=1.0)
        def test_in_memory_and_data(edge_parity):
            import keras
            result = edge_parity("model.tflite", keras.models.load_model("model.keras"), "data.npz", max_abs=1e-5)
            assert result
            assert result.report.samples == 12
        def test_a_function(edge_parity):
            result = edge_parity("model.tflite", lambda inputs: list(inputs.values())[0][:, :3] * 0 + 100.0)
            assert not result
            assert "your function" in str(result)
        def test_no_reference(edge_parity):
            edge_parity("model.tflite")
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*UsageError: A .tflite is checked against a reference.*"])


def test_a_limit_that_nothing_is_held_to_is_refused(pytester: pytest.Pytester, variants: Path) -> None:
    pytester.makepyfile(
        f"""
        def test_drop(edge_parity):
            assert edge_parity({str(variants / "int8")!r}, max_drop=0.01)
        def test_task(edge_parity):
            assert edge_parity({str(variants / "int8" / "model.tflite")!r}, {{"label": None}}, task="regression")
        def test_names(edge_parity):
            assert edge_parity({str(variants / "nothing")!r})
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["*max_drop needs true answers*", "*A bundle's folder or a .tflite must exist.*nothing*"]
    )


def test_defaults_come_from_the_ini_file(pytester: pytest.Pytester, variants: Path) -> None:
    pytester.makeini("[pytest]\nedge_dl_max_abs = 1e-9\n")
    pytester.makepyfile(
        f"""
        def test_default(edge_parity):
            assert not edge_parity({str(variants / "int8")!r})
        def test_own(edge_parity):
            assert edge_parity({str(variants / "int8")!r}, max_abs=0.1)
        """
    )
    run(pytester).assert_outcomes(passed=2)


# --- targets ---


def test_a_model_that_a_target_cannot_run_fails(pytester: pytest.Pytester, variants: Path, tflite: Tflite) -> None:
    tflite_models.tensorflow()
    from tensorflow.lite.tools import flatbuffer_utils

    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite("conv-float32").read_bytes()))
    parsed.operatorCodes[0].version = 99
    shutil.copytree(variants / "float32", pytester.path / "future")
    model = pytester.path / "future" / "model.tflite"
    model.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(parsed)))
    manifest = json.loads((pytester.path / "future" / "manifest.json").read_text())
    from edge_dl.files import sha256_file

    manifest["files"]["model.tflite"] = {"sha256": sha256_file(model), "bytes": model.stat().st_size}
    (pytester.path / "future" / "manifest.json").write_text(json.dumps(manifest))
    pytester.makepyfile(
        """
        def test_parity(edge_parity):
            assert edge_parity("future")
        def test_latency(edge_latency):
            assert edge_latency("future")
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*FAIL *runs *Didn't find op for builtin opcode*"])


def test_every_target_in_turn_and_one_that_is_absent(pytester: pytest.Pytester, variants: Path) -> None:
    pytester.makeini("[pytest]\nedge_dl_targets = local local:ai_edge_litert env:/no/such/python pi\n")
    pytester.makepyfile(
        f"""
        def test_my_model(edge_parity):
            assert edge_parity({str(variants / "int8")!r})
        """
    )
    result = run(pytester, "-rs", "-v")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "*test_my_model?local? PASSED*",
            "*test_my_model?local:ai_edge_litert? PASSED*",
            "SKIPPED*edge-dl target env:/no/such/python is absent: An environment is a folder*",
            "SKIPPED*edge-dl target pi is absent: A target must be added before it is used.*edge-dl target add*",
        ]
    )
    run(pytester, "--edge-target", "local").assert_outcomes(passed=1)


def test_an_unknown_name_on_the_command_line_is_a_mistake(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = run(pytester, "--edge-target", "pi")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: edge-dl: A target must be added before it is used.*'pi'*"])


def test_times_of_an_emulated_target_are_not_taken(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from edge_dl.pytest_plugin import OpenTarget

        @pytest.fixture
        def edge_target():
            return OpenTarget("pi-emulated", None, emulated=True)
        """
    )
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('x')")
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*pi-emulated is emulated: its times say nothing about a device*"])


# --- latency and baselines ---


def put_bundle(folder: Path, model: Path, variant: str = "float32") -> Path:
    """A bundle in place of what is there; two of different names have different content, whatever the model."""
    shutil.rmtree(folder, ignore_errors=True)
    images = tflite_models.images(SAMPLES, seed=4)
    golden = ({"image": images}, {"label": tflite_models.conv_reference(images).astype("float32")})
    return tflite_models.bundle_of(folder, model, golden, variant=variant)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "model.tflite").write_bytes(tflite_models.convert(slow_function(), "predict", folder / "saved"))
    return folder / "model.tflite"


def ratio_of(junit: Path) -> dict[str, float]:
    """What `latency.p50.ratio` and its interval are in a report with one test."""
    found = {item.get("name"): item.get("value") for item in ElementTree.parse(junit).iter("property")}
    return {name: float(found[f"latency.p50.{name}"]) for name in ("ratio", "ratio_low", "ratio_high")}


def test_a_slower_model_fails_against_its_baseline(pytester: pytest.Pytester, tflite: Tflite, slow: Path) -> None:
    bundle = put_bundle(pytester.path / "bundle", tflite("conv-float32"))
    pytester.makeini("[pytest]\nedge_dl_openings = 1\nedge_dl_fail =\n    latency.p50 > 3x\n    parity.max_abs > 2x\n")
    pytester.makepyfile(
        """
        def test_time(edge_latency):
            assert edge_latency("bundle", max_p50_ms=500)
        def test_answers(edge_parity):
            assert edge_parity("bundle", max_abs=1e9, min_cosine=-1)
        """
    )
    without = run(pytester)
    without.assert_outcomes(passed=2)
    without.stdout.fnmatch_lines(
        ['not judged by "latency.p50 > 3x", for want of a baseline: *test_time[[]local] latency*']
    )

    stored = run(pytester, "--edge-update-baseline")
    stored.assert_outcomes(passed=2)
    stored.stdout.fnmatch_lines(["2 baselines stored in *.edge-dl/baselines/*.json"])
    folder = pytester.path / ".edge-dl" / "baselines"
    path = stored_results(folder)
    kept = json.loads(path.read_text())
    assert path.stem == fingerprint(kept["machine"])
    key = "test_a_slower_model_fails_against_its_baseline.py::test_time[local] latency"
    assert kept["results"][key]["values"]["p50"] > 0
    # One sample of the golden ones is kept, and no more of the bundle than it takes to time it.
    digest = json.loads((folder / "models.json").read_text())["models"][key]
    model, why = find_model(folder, key)
    assert why == ""
    assert model is not None
    assert model.folder == folder / "models" / digest
    assert model.model.read_bytes() == (bundle / "model.tflite").read_bytes()
    assert {name: array.shape for name, array in model.golden()[0].items()} == {"image": (1, 8, 8, 1)}
    run(pytester).assert_outcomes(passed=2)

    # The same weights under another name: nothing is known to be equal, so both are timed.
    put_bundle(pytester.path / "bundle", tflite("conv-float32"), "copy")
    run(pytester, "-k", "time", "--junitxml=copy.xml").assert_outcomes(passed=1)
    found = ratio_of(pytester.path / "copy.xml")
    assert 0.5 < found["ratio_low"] <= found["ratio"] <= found["ratio_high"] < 2

    put_bundle(pytester.path / "bundle", slow)
    result = run(pytester, "--junitxml=slow.xml")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*assert <latency of float32 on local: fail: latency.p50 is * times that of the baseline's model *",
            "*FAIL *--edge-fail *latency.p50 is *timed in turns); fails when all of the interval is > 3.",
            "*FAIL *--edge-fail *parity.max_abs is *",
        ]
    )
    assert ratio_of(pytester.path / "slow.xml")["ratio_low"] > 3
    assert json.loads(path.read_text()) == kept  # A failed run changes no baseline.


def test_numbers_of_another_session_decide_nothing(pytester: pytest.Pytester, tflite: Tflite, slow: Path) -> None:
    """A machine that was 1000 times as fast when the baseline was stored fails nobody, nor the other way round."""
    put_bundle(pytester.path / "bundle", tflite("conv-float32"))
    pytester.makeini("[pytest]\nedge_dl_openings = 1\n")
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('bundle')")
    run(pytester, "--edge-update-baseline").assert_outcomes(passed=1)
    folder = pytester.path / ".edge-dl" / "baselines"
    change_stored(folder, lambda entry: entry["values"].update(p50=entry["values"]["p50"] / 1000))
    fail = ("--edge-fail", "latency.p50 > 3x")
    run(pytester, *fail).assert_outcomes(passed=1)
    put_bundle(pytester.path / "bundle", tflite("conv-float32"), "copy")
    run(pytester, *fail).assert_outcomes(passed=1)
    change_stored(folder, lambda entry: entry["values"].update(p50=entry["values"]["p50"] * 1e6))
    put_bundle(pytester.path / "bundle", slow)
    run(pytester, *fail).assert_outcomes(failed=1)
    # Nor is a machine needed that is known: the model is timed again wherever its test runs.
    path = stored_results(folder)
    path.unlink()
    run(pytester, *fail).assert_outcomes(failed=1)
    put_bundle(pytester.path / "bundle", tflite("conv-float32"), "copy")
    run(pytester, *fail).assert_outcomes(passed=1)


def stored_results(folder: Path) -> Path:
    """The only file of stored results: that of this machine."""
    (path,) = (item for item in folder.glob("*.json") if item.name != "models.json")
    return path


def change_stored(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every stored result."""
    path = stored_results(folder)
    value = json.loads(path.read_text())
    for entry in value["results"].values():
        change(entry)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("loss", ["no models", "no model", "damaged"])
def test_without_its_model_the_stored_numbers_count(pytester: pytest.Pytester, tflite: Tflite, loss: str) -> None:
    put_bundle(pytester.path / "bundle", tflite("conv-float32"))
    pytester.makeini("[pytest]\nedge_dl_openings = 1\n")
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('bundle')")
    run(pytester, "--edge-update-baseline").assert_outcomes(passed=1)
    folder = pytester.path / ".edge-dl" / "baselines"
    (model,) = (folder / "models").iterdir()
    if loss == "damaged":
        with (model / "model.tflite").open("ab") as file:
            file.write(b"x")
    else:
        shutil.rmtree(model)
        if loss == "no models":
            (folder / "models.json").unlink()
    why = {"no models": "its model was not kept", "no model": "its model is not in *", "damaged": "*damaged: *"}[loss]
    result = run(pytester, "--edge-fail", "latency.p50 > 50x", "-rA")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"compared with numbers of an earlier session, to which more is allowed: *: {why}"])
    change_stored(folder, lambda entry: entry["values"].update(p50=entry["values"]["p50"] / 1000))
    result = run(pytester, "--edge-fail", "latency.p50 > 50x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*FAIL *(50 times the baseline's *, and 1.5 times that because they are numbers of two sessions).",
            f"*note: not timed beside its baseline: {why}",
        ]
    )


def test_a_runtime_that_became_slower_is_told_by_the_stored_numbers(pytester: pytest.Pytester, tflite: Tflite) -> None:
    put_bundle(pytester.path / "bundle", tflite("conv-float32"))
    pytester.makeini("[pytest]\nedge_dl_openings = 1\n")
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('bundle')")
    run(pytester, "--edge-update-baseline").assert_outcomes(passed=1)

    def change(entry: dict[str, Any]) -> None:
        entry["runtime"] = "ai_edge_litert 0.1"
        entry["values"]["p50"] /= 1000

    change_stored(pytester.path / ".edge-dl" / "baselines", change)
    result = run(pytester, "--edge-fail", "latency.p50 > 50x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*ok  *latency.p50: the model is the baseline's own.",
            "*FAIL *numbers of two sessions, of ai_edge_litert 0.1 and ai_edge_litert *",
        ]
    )


def test_models_that_no_baseline_needs_are_removed(pytester: pytest.Pytester, tflite: Tflite) -> None:
    pytester.makeini("[pytest]\nedge_dl_openings = 1\n")
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('bundle', max_p50_ms=500)")
    folder = pytester.path / ".edge-dl" / "baselines" / "models"
    names = []
    for variant in ("one", "two"):
        put_bundle(pytester.path / "bundle", tflite("conv-float32"), variant)
        run(pytester, "--edge-update-baseline").assert_outcomes(passed=1)
        names.append([path.name for path in folder.iterdir()])
    assert [len(found) for found in names] == [1, 1]
    assert names[0] != names[1]
    # A test that fails leaves its baseline, and the model of that, as they were.
    put_bundle(pytester.path / "bundle", tflite("conv-float32"), "three")
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('bundle', max_p50_ms=1e-9)")
    run(pytester, "--edge-update-baseline").assert_outcomes(failed=1)
    assert [path.name for path in folder.iterdir()] == names[1]


def test_workers_measure_one_after_the_other(pytester: pytest.Pytester, tflite: Tflite) -> None:
    """Every measurement writes when it began and ended; no two overlap, in whichever worker."""
    put_bundle(pytester.path / "bundle", tflite("conv-float32"))
    pytester.makeini("[pytest]\nedge_dl_openings = 1\n")
    pytester.makeconftest(
        """
        import os, time
        import pytest

        @pytest.fixture(autouse=True)
        def watched(monkeypatch, request):
            from edge_dl.runtime.targets.base import Connection
            measure = Connection.measure

            def timed(self, *arguments, **options):
                started = time.monotonic()
                time.sleep(0.2)
                try:
                    return measure(self, *arguments, **options)
                finally:
                    with open("times.txt", "a") as file:
                        file.write(f"{started} {time.monotonic()} {os.environ['PYTEST_XDIST_WORKER']}\\n")

            monkeypatch.setattr(Connection, "measure", timed)
        """
    )
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("number", range(4))
        def test_time(edge_latency, number): assert edge_latency("bundle")
        """
    )
    result = pytester.runpytest_subprocess("-n", "2", "--edge-update-baseline")
    result.assert_outcomes(passed=4)
    rows = [line.split() for line in (pytester.path / "times.txt").read_text().splitlines()]
    assert {row[2] for row in rows} == {"gw0", "gw1"}
    spans = sorted((float(start), float(end)) for start, end, _ in rows)
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert len(list((pytester.path / ".edge-dl" / "baselines" / "models").iterdir())) == 1


def test_an_environment_as_a_target_is_timed_in_turns_too(
    pytester: pytest.Pytester, tflite: Tflite, slow: Path
) -> None:
    put_bundle(pytester.path / "bundle", tflite("conv-float32"))
    pytester.makeini(f"[pytest]\nedge_dl_openings = 1\nedge_dl_targets = env:{sys.executable}\n")
    pytester.makepyfile("def test_time(edge_latency): assert edge_latency('bundle')")
    run(pytester, "--edge-update-baseline").assert_outcomes(passed=1)
    put_bundle(pytester.path / "bundle", slow)
    result = run(pytester, "--edge-fail", "latency.p50 > 3x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*FAIL *timed in turns); fails when all of the interval is > 3."])


def test_limits_in_milliseconds(pytester: pytest.Pytester, variants: Path, tflite: Tflite) -> None:
    pytester.makepyfile(
        f"""
        def test_too_slow(edge_latency):
            assert edge_latency({str(tflite("conv-float32"))!r}, max_p50_ms=1e-6)
        def test_fast(edge_latency):
            result = edge_latency({str(variants / "float32")!r})
            assert result
            assert 0 < result.p50_ms < 1000
        """
    )
    result = run(pytester, "--edge-fail", "latency.p99 > 1e4ms", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FAIL *max_p50 *is above 1e-06 ms.", "*note: medians of 3 openings: *"])
    names = {item.get("name") for item in ElementTree.parse("junit.xml").iter("property")}
    assert {"latency.p50", "latency.target", "latency.verdict"} <= names


def test_workers_share_one_file_of_baselines(pytester: pytest.Pytester, variants: Path) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.mark.parametrize("name", ["float32", "int8"])
        def test_parity(edge_parity, name):
            assert edge_parity({str(variants)!r} + "/" + name)
        def test_wrong(edge_parity):
            assert edge_parity({str(variants / "wrong")!r})
        """
    )
    result = pytester.runpytest_subprocess("-n", "2", "--edge-update-baseline", "--junitxml=junit.xml")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*where it starts:*", "2 baselines stored in *.json"])
    (path,) = (pytester.path / ".edge-dl" / "baselines").glob("*.json")
    keys = set(json.loads(path.read_text())["results"])
    assert {key.partition("::")[2] for key in keys} == {
        "test_parity[local-float32] parity", "test_parity[local-int8] parity"
    }  # fmt: skip
    verdicts = [item.get("value") for item in ElementTree.parse(pytester.path / "junit.xml").iter("property")
                if item.get("name") == "parity.verdict"]  # fmt: skip
    assert sorted(verdicts) == ["fail", "pass", "pass"]


def test_baselines_of_another_machine_are_not_touched(tmp_path: Path) -> None:
    one = {"system": "Linux", "architecture": "aarch64", "processor": "Cortex-A72", "cores": 4}
    other = {**one, "cores": 2}
    first = write_baselines(tmp_path, one, {"a": {"values": {"p50": 1.0}}})
    write_baselines(tmp_path, one, {"b": {"values": {"p50": 2.0}}})
    second = write_baselines(tmp_path, other, {"a": {"values": {"p50": 3.0}}})
    assert first != second
    assert first.name.startswith("linux-aarch64-")
    assert {key: item["values"]["p50"] for key, item in read_baselines(tmp_path, one).items()} == {"a": 1.0, "b": 2.0}
    second.write_text('{"format": 1, "results": {"a": 3}}')
    with pytest.raises(UsageError, match="--edge-update-baseline"):
        read_baselines(tmp_path, other)


# --- options ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("latency.p50 > 1.1x", ("latency.p50", ">", 1.1, True)),
        ("latency.p90>=5ms", ("latency.p90", ">=", 5.0, False)),
        (" latency.memory > 64MB ", ("latency.memory", ">", 64.0, False)),
        ("parity.top1 < 0.99", ("parity.top1", "<", 0.99, False)),
        ("parity.max_abs > 1e-5", ("parity.max_abs", ">", 1e-5, False)),
        ("parity.snr_db < 0.9x", ("parity.snr_db", "<", 0.9, True)),
    ],
)
def test_conditions(text: str, parts: tuple[str, str, float, bool]) -> None:
    found = parse_condition(text)
    assert (found.metric, found.operator, found.number, found.relative) == parts


@pytest.mark.parametrize(
    "text",
    ["", "latency.p50", "p50 > 1.1x", "latency.p51 > 1x", "latency.p50 > 1.1", "latency.p50 > 1.1s", "latency.p50 > x",
     "latency.p50 > -1x", "latency.p50 > 0x", "latency.p50 < 2x", "parity.top1 > 0.5", "parity.max_abs > 1ms",
     "latency.p50 > 1.1x and parity.top1 < 1", "latency.p50 == 1x", "latency.p50 > nanx", "latency.p50 > 1e999ms",
     "latency.memory > 5ms", "__import__('os')", "latency.p50 > ١x"],
)  # fmt: skip
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(UsageError):
        parse_condition(text)


@pytest.mark.parametrize(
    ("ini", "arguments", "words"),
    [
        ("", ["--edge-fail", "latency.p50 < 1.1x"], "*Write > instead of <.*"),
        ("edge_dl_max_abs = much", [], "*edge_dl_max_abs is a number.*'much'*"),
        ("edge_dl_openings = 1.5", [], "*edge_dl_openings is a whole number*"),
        ("edge_dl_targets = ftp:x", [], "*A target's address is one of*"),
    ],
)
def test_wrong_settings_end_pytest_at_once(
    pytester: pytest.Pytester, ini: str, arguments: list[str], words: str
) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_nothing(): pass")
    result = run(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: edge-dl: {words}"])


def test_pytest_starts_without_numbers_or_interpreters(pytester: pytest.Pytester) -> None:
    """The plugin is loaded wherever edge-dl is installed: also for projects that never use it."""
    pytester.makeconftest(
        """
        import sys
        def pytest_unconfigure(config):
            heavy = {"numpy", "tensorflow", "keras", "ai_edge_litert", "tflite_runtime", "tf_keras", "edge_dl.runtime"}
            print("plugin:", "edge_dl.pytest_plugin" in sys.modules, "heavy:", sorted(heavy & set(sys.modules)))
        """
    )
    pytester.makepyfile("def test_nothing(): pass")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plugin: True heavy: []" in done.stdout, done.stdout
