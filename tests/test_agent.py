"""The interpreter, the session and the numbers at the model's edge, on real models in a real runtime."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models as models
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.bundle import Limits
from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.runtime import agent, open_session
from edge_dl.runtime.agent import Interpreter, Spec, dequantize, quantize, to_raw

Tflite = Callable[[str], Path]
AGENT = Path(agent.__file__)


# --- numbers at the edge ---


@given(
    dtype=st.sampled_from(["int8", "uint8", "int16"]),
    scale=st.floats(2**-20, 2**10, width=32),
    zero=st.integers(-128, 255),
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
)
def test_quantization_rounds_to_the_nearest_step_and_clips(
    dtype: str, scale: float, zero: int, values: list[float]
) -> None:
    info = np.iinfo(dtype)
    zero = int(np.clip(zero, info.min, info.max))
    spec = Spec("x", (1,), dtype, scale, zero)
    stored = quantize(np.array(values, "float32"), spec)
    assert stored.dtype == dtype
    for value, integer in zip(values, stored.tolist(), strict=True):
        exact = np.float64(value) / scale + zero
        assert info.min <= integer <= info.max
        assert abs(integer - np.clip(exact, info.min, info.max)) <= 0.5 + 1e-6 * abs(exact)
    again = quantize(dequantize(stored, spec), spec)
    np.testing.assert_array_equal(again, stored)


def test_quantization_takes_ties_to_even() -> None:
    spec = Spec("x", (1,), "int8", 1.0, 0)
    assert quantize(np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 300, -300]), spec).tolist() == [
        -2, -2, 0, 0, 2, 2, 126, 127, -128,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_quantization_of_wide_integers_clips_at_their_ends(dtype: str) -> None:
    info, spec = np.iinfo(dtype), Spec("x", (1,), dtype, 1.0, 0)
    stored = quantize(np.array([1e30, -1e30, 2.0]), spec)
    assert stored[1] == info.min
    assert stored[2] == 2
    # float64 holds no number between 2**63 - 1024 and 2**63.
    assert info.max - 1023 <= stored[0] <= info.max


def test_dequantization_by_hand() -> None:
    spec = Spec("x", (3,), "int8", 0.5, -3)
    real = dequantize(np.array([-3, 0, 127], "int8"), spec)
    assert real.dtype == np.float32
    assert real.tolist() == [0.0, 1.5, 65.0]


@pytest.mark.parametrize(
    ("values", "spec", "rule"),
    [
        ([1.0, float("nan")], Spec("x", (2,), "float32"), "NaN"),
        ([1.0, float("inf")], Spec("x", (2,), "int8", 0.1, 0), "NaN"),
        ([1e300, 0.0], Spec("x", (2,), "float32"), "NaN"),
        ([7e4, 0.0], Spec("x", (2,), "float16"), "NaN"),
        (["a", "b"], Spec("x", (2,), "float32"), "real numbers"),
        ([1j, 0j], Spec("x", (2,), "float32"), "real numbers"),
        ([[1], [1, 2]], Spec("x", (2,), "float32"), "ragged"),
        ([None, None], Spec("x", (2,), "float32"), "real numbers"),
        ([0.5, 1.0], Spec("x", (2,), "int32"), "whole numbers"),
        ([300, 1], Spec("x", (2,), "uint8"), "from 0 to 255"),
        ([0, 1], Spec("x", (2,), "bool"), "true or false"),
    ],
)
def test_bad_values_are_refused(values: Any, spec: Spec, rule: str) -> None:
    with pytest.raises(UsageError, match=rule) as caught:
        to_raw(values, spec)
    assert caught.value.exit_code == 2
    assert caught.value.received


def test_values_take_the_stored_type() -> None:
    assert to_raw(np.arange(3), Spec("x", (3,), "float32")).dtype == np.float32
    assert to_raw(np.arange(3, dtype="int64"), Spec("x", (3,), "int32")).dtype == np.int32
    assert to_raw([True, False], Spec("x", (2,), "bool")).tolist() == [True, False]
    assert to_raw(np.arange(4).reshape(2, 2).T, Spec("x", (2, 2), "float32")).flags.c_contiguous


# --- the interpreter ---


@pytest.mark.parametrize("name", ["conv-float32", "conv-batch4", "conv-free", "conv-nameless"])
def test_float_models_answer_like_numpy(tflite: Tflite, name: str) -> None:
    data = models.images(6)
    answers = open_session(tflite(name)).predict(data)
    (answer,) = answers.values()
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, models.conv_reference(data), atol=1e-5)


@pytest.mark.parametrize("name", ["conv-int8", "conv-int8-io", "conv-int16x8"])
def test_quantized_models_answer_nearly_like_numpy(tflite: Tflite, name: str) -> None:
    data = models.images(20)
    answer = open_session(tflite(name)).predict(data)["label"]
    reference = models.conv_reference(data)
    assert answer.dtype == np.float32
    assert np.sum(answer * reference) / np.linalg.norm(answer) / np.linalg.norm(reference) > 0.99
    assert np.abs(answer - reference).max() > 1e-5


def test_integer_io_gives_the_model_the_same_integers(tflite: Tflite) -> None:
    """Quantizing outside the model must be what the model's own QUANTIZE and DEQUANTIZE do."""
    data = models.images(20)
    inside = open_session(tflite("conv-int8")).predict(data)["label"]
    outside = open_session(tflite("conv-int8-io")).predict(data)["label"]
    np.testing.assert_array_equal(inside, outside)


def test_specs_name_shapes_types_and_scales(tflite: Tflite) -> None:
    interpreter = Interpreter(tflite("conv-int8-io"))
    spec = interpreter.inputs["image"]
    assert (spec.name, spec.shape, spec.dtype) == ("image", (1, 8, 8, 1), "int8")
    assert 0.01 < spec.scale < 0.1
    assert interpreter.signature == "predict"
    assert Interpreter(tflite("conv-free")).inputs["image"].shape == (-1, 8, 8, 1)


def test_names_of_a_model_without_signature_are_its_tensors(tflite: Tflite) -> None:
    interpreter = Interpreter(tflite("two-nameless"))
    assert interpreter.signature == ""
    assert set(interpreter.inputs) == {"predict_left", "predict_right"}
    assert len(interpreter.outputs) == 2


def test_two_inputs_and_outputs(tflite: Tflite) -> None:
    left = np.array([[1, 2, 3], [4, 5, 6]], "float32")
    right = np.array([[1, 2], [3, 4]], "int64")
    for name in ("two", "two-free"):
        answers = open_session(tflite(name)).predict({"left": left, "right": right})
        np.testing.assert_array_equal(answers["scaled"], left * 2 + right[:, :1])
        np.testing.assert_array_equal(answers["count"], right + np.array([[6], [15]]))
        assert answers["count"].dtype == np.int32


def test_a_signature_outside_the_main_graph(tflite: Tflite) -> None:
    path = tflite("signatures")
    data = np.array([[1, 2, 3], [4, 5, 6]], "float32")
    np.testing.assert_array_equal(open_session(path, signature="plus").predict(data)["y"], data + 1)
    np.testing.assert_array_equal(open_session(path, signature="times").predict(data)["y"], data * 3)
    with pytest.raises(UsageError, match="no such signature"):
        open_session(path, signature="minus")
    with pytest.raises(UsageError, match=r"must be chosen.*plus, times"):
        open_session(path)


def test_free_axes_take_any_size(tflite: Tflite) -> None:
    interpreter = Interpreter(tflite("conv-free"))
    for count in (1, 5, 2):
        data = models.images(count)
        np.testing.assert_allclose(interpreter.invoke({"image": data})["label"], models.conv_reference(data), atol=1e-5)
    with pytest.raises(UsageError, match=r"\[-1, 8, 8, 1\]"):
        interpreter.invoke({"image": np.zeros((1, 9, 8, 1), "float32")})


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({}, "Exactly these inputs"),
        ({"image": np.zeros((1, 8, 8, 1), "float32"), "more": np.zeros(1)}, "Exactly these inputs"),
        ({"picture": np.zeros((1, 8, 8, 1), "float32")}, "Exactly these inputs"),
        ({"image": np.zeros((1, 8, 8, 1), "float64")}, "float64"),
        ({"image": np.zeros((1, 8, 9, 1), "float32")}, r"\[1, 8, 9, 1\]"),
        ({"image": np.zeros((8, 8, 1), "float32")}, r"\[8, 8, 1\]"),
    ],
)
def test_raw_calls_check_their_inputs(tflite: Tflite, given: dict, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        Interpreter(tflite("conv-float32")).invoke(given)


@pytest.mark.parametrize("delegate", [True, False])
def test_the_delegate_can_be_left_out(tflite: Tflite, delegate: bool) -> None:
    interpreter = Interpreter(tflite("conv-float32"), delegate=delegate)
    assert ("DELEGATE" in interpreter.operators()) is delegate


def test_which_models_keep_something_between_calls(tflite: Tflite) -> None:
    assert not Interpreter(tflite("conv-float32")).keeps_state()
    assert Interpreter(tflite("fused")).keeps_state()


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_bad_numbers_of_threads(tflite: Tflite, threads: Any) -> None:
    with pytest.raises(UsageError, match="Threads"):
        open_session(tflite("conv-float32"), threads=threads)


def test_threads_do_not_change_the_answer(tflite: Tflite) -> None:
    data = models.images(3)
    answers = [open_session(tflite("conv-int8"), threads=threads).predict(data)["label"] for threads in (1, 2)]
    np.testing.assert_array_equal(*answers)


def test_the_runtime_of_tensorflow(tflite: Tflite) -> None:
    data = models.images(3)
    session = open_session(tflite("conv-float32"), runtime="tensorflow")
    assert session.describe()["runtime"] == "tensorflow"
    np.testing.assert_allclose(session.predict(data)["label"], models.conv_reference(data), atol=1e-5)


def test_unknown_and_missing_runtimes(tflite: Tflite) -> None:
    with pytest.raises(UsageError, match="one of auto, ai_edge_litert"):
        open_session(tflite("conv-float32"), runtime="onnx")
    if importlib.util.find_spec("tflite_runtime") is None:
        with pytest.raises(UsageError, match="tflite_runtime is not installed"):
            open_session(tflite("conv-float32"), runtime="tflite_runtime")


def test_files_that_are_no_models(tflite: Tflite, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    with pytest.raises(UsageError, match=r"must be a \.tflite file"):
        Interpreter(path)
    for content in (b"", b"TFL3", np.random.default_rng(0).bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="TFL3"):
            open_session(path)


def test_a_truncated_model_is_refused_with_the_runtimes_words(tflite: Tflite, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite("conv-float32").read_bytes()[:1000])
    with pytest.raises(StageError, match="must be able to load") as caught:
        open_session(path)
    assert "ai_edge_litert" in caught.value.received
    assert caught.value.exit_code == 3


# --- sessions ---


def test_one_sample_or_many(tflite: Tflite) -> None:
    session = open_session(tflite("conv-float32"))
    data = models.images(3)
    many = session.predict({"image": data})["label"]
    assert many.shape == (3, models.CLASSES)
    one = session.predict({"image": data[1]})["label"]
    assert one.shape == (models.CLASSES,)
    np.testing.assert_array_equal(one, many[1])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_a_static_batch_is_filled_up(tflite: Tflite, count: int) -> None:
    data = models.images(count)
    answer = open_session(tflite("conv-batch4")).predict(data)["label"]
    assert answer.shape == (count, models.CLASSES)
    np.testing.assert_allclose(answer, models.conv_reference(data), atol=1e-5)


def test_the_order_of_samples_does_not_matter_to_the_fused_lstm(tflite: Tflite) -> None:
    """Its states are variables of the model: they must be zero again before every sample."""
    session = open_session(tflite("fused"))
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in session.interpreter.operators()
    data = models.sequences(4)
    forwards, backwards = session.predict(data)["label"], session.predict(data[::-1])["label"]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    np.testing.assert_allclose(forwards, models.lstm_reference(data)["label"], atol=1e-5)
    # The test would be empty if the operator did not remember: without a reset it does.
    for row in data:
        last = session.invoke({"sequence": row[np.newaxis]})["label"]
    assert np.abs(last - forwards[-1]).max() > 1e-4


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"image": np.zeros((2, 8, 9, 1))}, r"has shape \[8, 8, 1\].*\[2, 8, 9, 1\]"),
        ({"image": np.zeros(8)}, r"has shape"),
        ({"image": np.zeros((0, 8, 8, 1))}, "at least one"),
        ({"image": np.full((8, 8, 1), np.nan)}, "NaN"),
        ({"wrong": np.zeros((8, 8, 1))}, "image"),
    ],
)
def test_bad_samples(tflite: Tflite, given: dict, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        open_session(tflite("conv-float32")).predict(given)


def test_inputs_must_hold_as_many_samples_as_each_other(tflite: Tflite) -> None:
    session = open_session(tflite("two"))
    with pytest.raises(UsageError, match="same number of samples"):
        session.predict({"left": np.zeros((2, 3)), "right": np.zeros((3, 2), int)})
    with pytest.raises(UsageError, match="same number of samples"):
        session.predict({"left": np.zeros((1, 3)), "right": np.zeros(2, int)})
    with pytest.raises(UsageError, match="by name"):
        session.predict(np.zeros((2, 3)))


def test_a_step_session_equals_the_whole_sequence(step_bundle: Callable[..., Path]) -> None:
    session = open_session(step_bundle())
    data = models.sequences(4, seed=1)
    reference = models.lstm_reference(data)
    answers = session.predict(data)
    assert answers["frames"].shape == (4, models.STEPS, 2)
    np.testing.assert_allclose(answers["label"], reference["label"], atol=1e-5)
    np.testing.assert_allclose(answers["frames"], reference["frames"], atol=1e-5)
    one = session.predict(data[2])
    np.testing.assert_array_equal(one["frames"], answers["frames"][2])


def test_steps_keep_the_state_until_reset(step_bundle: Callable[..., Path]) -> None:
    session = open_session(step_bundle())
    data = models.sequences(1, seed=2)[0]
    whole = session.predict(data)
    for _ in range(2):
        answers = [session.step(row) for row in data]
        np.testing.assert_array_equal(np.stack([answer["frames"] for answer in answers]), whole["frames"])
        np.testing.assert_array_equal(answers[-1]["label"], whole["label"])
        session.reset()
    session.step(data[0])
    forgotten = session.step(data[0])["label"]
    session.reset()
    assert np.abs(session.step(data[0])["label"] - forgotten).max() > 1e-4


def test_a_step_model_with_a_batch(step_bundle: Callable[..., Path]) -> None:
    session = open_session(step_bundle("step-batch2"))
    assert session.batch == 2
    data = models.sequences(5, seed=3)
    reference = models.lstm_reference(data)
    answers = session.predict(data)
    np.testing.assert_allclose(answers["label"], reference["label"], atol=1e-5)
    np.testing.assert_allclose(answers["frames"], reference["frames"], atol=1e-5)
    assert session.step(data[:2, 0])["frames"].shape == (2, 2)


@pytest.mark.parametrize(("name", "cosine"), [("step-int8-io", 0.99), ("step-int16x8-io", 0.999)])
def test_states_that_are_stored_differently_in_and_out_are_requantized(
    step_bundle: Callable[..., Path], name: str, cosine: float
) -> None:
    session = open_session(step_bundle(name))
    data = models.sequences(30, seed=4)
    want = models.lstm_reference(data)["frames"]
    got = session.predict(data)["frames"]
    assert np.sum(got * want) / np.linalg.norm(got) / np.linalg.norm(want) > cosine
    # The same, by hand: states go through real numbers at every step.
    interpreter = Interpreter(session.path + "/model.tflite")
    state = {source: np.zeros((1, models.UNITS)) for source, _ in models.STATES}
    for step in range(models.STEPS):
        raw = {"sequence": quantize(data[0:1, step : step + 1], interpreter.inputs["sequence"])}
        raw |= {source: quantize(value, interpreter.inputs[source]) for source, value in state.items()}
        out = interpreter.invoke(raw)
        state = {source: dequantize(out[target], interpreter.outputs[target]) for source, target in models.STATES}
        np.testing.assert_array_equal(dequantize(out["frames"], interpreter.outputs["frames"])[0, 0], got[0, step])


def test_any_number_of_steps(step_bundle: Callable[..., Path]) -> None:
    session = open_session(step_bundle())
    data = models.sequences(2, steps=19)
    np.testing.assert_allclose(session.predict(data)["frames"], models.lstm_reference(data)["frames"], atol=1e-5)
    with pytest.raises(UsageError, match="number of steps, at least one"):
        session.predict(np.zeros((2, 0, models.FEATURES)))


def test_stepping_is_for_step_models(tflite: Tflite, step_bundle: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="Only a step model"):
        open_session(tflite("conv-float32")).step(models.images(1)[0])
    session = open_session(step_bundle())
    with pytest.raises(UsageError, match=r"One step of input 'sequence' has shape \[3\]"):
        session.step(np.zeros(4))
    with pytest.raises(UsageError, match="NaN"):
        session.step(np.full(3, np.nan))


# --- bundles ---


def test_golden_verification_passes_and_says_what_it_saw(step_bundle: Callable[..., Path]) -> None:
    report = agent.verify(open_session(step_bundle(limits=Limits(max_abs=1e-5, min_cosine=0.9999, min_snr_db=60))))
    assert report["passed"], report["failures"]
    assert report["samples"] == 5
    assert 0 < report["outputs"]["label"]["max_abs"] < 1e-5
    assert report["outputs"]["frames"]["top1"] is None
    json.dumps(report, allow_nan=False)


def test_golden_verification_fails_beyond_each_limit(tflite: Tflite, tmp_path: Path) -> None:
    data = models.images(8)
    wrong = -models.conv_reference(data).astype("float32")
    limits = Limits(max_abs=0.1, min_cosine=0.5, min_snr_db=10.0, min_top1=0.9)
    golden = ({"image": data}, {"label": wrong})
    path = models.bundle_of(tmp_path / "b", tflite("conv-float32"), golden, task="classification", limits=limits)
    report = agent.verify(open_session(path))
    assert not report["passed"]
    assert [text.split(": ")[1].split(" ")[0] for text in report["failures"]] == ["max_abs", "cosine", "snr_db", "top1"]
    assert report["outputs"]["label"]["cosine"] == pytest.approx(-1.0)


def test_golden_verification_finds_a_leaking_state(tflite: Tflite, tmp_path: Path, monkeypatch: Any) -> None:
    data = models.sequences(5)
    golden = ({"sequence": data}, {"label": models.lstm_reference(data)["label"].astype("float32")})
    session = open_session(models.bundle_of(tmp_path / "b", tflite("fused"), golden))
    assert agent.verify(session)["passed"]
    monkeypatch.setattr(session.interpreter, "reset", lambda: None)
    report = agent.verify(session)
    assert any("a state leaks" in text for text in report["failures"])


def test_a_manifest_that_lies_about_the_model_is_refused(step_bundle: Callable[..., Path]) -> None:
    folder = step_bundle("step-int8-io")
    truth = json.loads((folder / "manifest.json").read_text())
    lies: list[tuple[Callable[[dict], Any], str]] = [
        (lambda s: s["inputs"][0].update(scale=0.5), "describe input 'sequence'"),
        (lambda s: s["outputs"][0].update(zero_point=100), "describe output"),
        (lambda s: s["inputs"][0].update(shape=[1, 1, 4]), "describe input 'sequence'"),
        (lambda s: s["inputs"][0].update(dtype="int16"), "describe input 'sequence'"),
        (lambda s: s["states"][0].update(output_scale=0.7), "describe output 'next_state_0'"),
        (lambda s: s["states"].pop(), "name the model's inputs"),
        (lambda s: s.update(key="other"), "no such signature"),
    ]
    for lie, rule in lies:
        changed = json.loads(json.dumps(truth))
        lie(changed["signature"])
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=rule):
            open_session(folder)


@pytest.mark.parametrize("opener", [open_session, agent.Session])
def test_changed_missing_and_escaping_members(
    step_bundle: Callable[..., Path], opener: Callable[[Path], Any], tmp_path: Path
) -> None:
    folder = step_bundle()
    manifest = json.loads((folder / "manifest.json").read_text())
    model = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    with pytest.raises(UsageError, match="hash"):
        opener(folder)
    (folder / "model.tflite").write_bytes(model)
    opener(folder)
    (tmp_path / "secret").write_bytes(b"x")
    for name in ("../secret", str(tmp_path / "secret")):
        changed = {**manifest, "files": {**manifest["files"], name: {"sha256": "0", "bytes": 1}}}
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match="inside its folder"):
            opener(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "golden.npz").unlink()
    with pytest.raises(UsageError, match="must exist"):
        opener(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"holds manifest\.json"):
        opener(folder)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["format", "files", "signature", "key", "inputs", "model.tflite"]), inner)
        ),
    )
)
@settings(max_examples=60)
def test_any_manifest_gives_an_error_and_not_a_traceback(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name, "manifest.json").write_text(json.dumps(value))
        with pytest.raises(UsageError):
            agent.read_manifest(name)


# --- labels ---


@given(st.text())
def test_escaped_labels_come_back(text: str) -> None:
    line = agent.escape_label(text)
    assert line
    assert len(line.splitlines()) == 1
    assert line.isprintable() or not set(line) & set("\n\r\t\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
    assert agent.unescape_label(line) == text


def test_labels_that_look_like_escapes() -> None:
    assert [agent.escape_label(text) for text in ("\n", "\\n", "", "\\", "\u2028", "é", " ")] == [
        "\\n", "\\\\n", "\\e", "\\\\", "\\u2028", "é", " ",
    ]  # fmt: skip
    for line in ("\\", "\\x", "\\u12", "a\\"):
        with pytest.raises(UsageError, match="escapes"):
            agent.unescape_label(line)


# --- the one file, alone ---


def run_agent(*arguments: Any, code: int = 0, python: str = sys.executable, cwd: Path | None = None) -> dict[str, Any]:
    """Run a copy of the agent where nothing of edge_dl can be imported."""
    done = subprocess.run(
        [python, "-I", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_the_agent_imports_nothing_else_of_edge_dl() -> None:
    import ast

    tree = ast.parse(AGENT.read_text(encoding="utf-8"), feature_version=(3, 8))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy"}


def test_commands_speak_json(step_bundle: Callable[..., Path], tmp_path: Path) -> None:
    alone = shutil.copy(AGENT, tmp_path / "agent.py")
    folder = step_bundle(limits=Limits(max_abs=1e-5))
    info = run_agent(alone, "info", folder)
    assert [spec["name"] for spec in info["inputs"]] == ["sequence"]
    assert info["machine"]["cores"] >= 1
    assert run_agent(alone, "verify", folder)["passed"] is True

    data = models.sequences(3, seed=8)
    np.savez(tmp_path / "in.npz", **{"x/sequence": data})
    ran = run_agent(alone, "run", folder, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    assert ran["shapes"] == {"label": [3, models.CLASSES], "frames": [3, models.STEPS, 2]}
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_array_equal(archive["y/label"], open_session(folder).predict(data)["label"])

    settings = ("--rounds", 3, "--block-seconds", 0.001, "--warmup-seconds", 0.05)
    timed = run_agent(alone, "bench", folder, folder / "model.tflite", *settings)
    assert [model["signature"] for model in timed["models"]] == ["step", "step"]
    for model in timed["models"]:
        assert len(model["blocks_ns"]) == 3
        assert model["p50_us"] > 0
        assert model["memory_peak_bytes"] > 1e6


def test_command_errors_are_json_too(tflite: Tflite, step_bundle: Callable[..., Path], tmp_path: Path) -> None:
    alone = shutil.copy(AGENT, tmp_path / "agent.py")
    error = run_agent(alone, "info", tmp_path / "none.tflite", code=2)
    assert error["exit_code"] == 2
    assert "none.tflite" in error["error"]["received"]
    for wrong in ((), ("fly",), ("info",), ("info", "x", "--threads", "two"), ("info", "x", "--wings")):
        assert run_agent(alone, *wrong, code=2)["error"]["rule"] == "The command line must be right."
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(tflite("conv-float32").read_bytes()[:1000])
    assert run_agent(alone, "info", cut, code=3)["error"]["todo"]
    assert run_agent(alone, "verify", tflite("conv-float32"), code=2)["error"]["rule"].startswith("Golden samples")
    folder = step_bundle(limits=Limits(max_abs=1e-12))
    assert run_agent(alone, "verify", folder, code=1)["passed"] is False
    (tmp_path / "in.npz").write_bytes(b"PK")
    run_agent(alone, "run", folder, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz", code=2)
    assert not (tmp_path / "out.npz").exists()


# --- timing ---


def test_measure_interleaves_and_reports(tflite: Tflite) -> None:
    openers = [lambda name=name: open_session(tflite(name)) for name in ("conv-float32", "conv-int8")]
    report = agent.measure(openers, rounds=4, block_seconds=0.001, warmup_seconds=0.05)
    json.dumps(report, allow_nan=False)
    for model in report["models"]:
        assert len(model["blocks_ns"]) == 4
        assert model["calls"] == sum(len(block) for block in model["blocks_ns"])
        assert min(min(block) for block in model["blocks_ns"]) > 0
        quartiles = [np.percentile(block, 25) / 1e3 for block in model["blocks_ns"]]
        np.testing.assert_allclose(model["round_us"], quartiles, atol=1e-3)
        assert model["p50_us"] <= model["p90_us"] <= model["p99_us"]
        assert model["first_call_ms"] > 0
        assert model["warmup_calls"] >= 3
        assert model["memory_peak_bytes"] >= model["memory_before_bytes"]


def test_host_errors_are_edge_errors(tflite: Tflite) -> None:
    with pytest.raises(EdgeError):
        open_session(tflite("conv-float32")).predict({"image": np.full((8, 8, 1), np.nan)})
    assert dataclasses.is_dataclass(Limits)


OTHER_PYTHON = os.environ.get("EDGE_DL_DEVICE_PYTHON", "")


@pytest.mark.skipif(not OTHER_PYTHON, reason="EDGE_DL_DEVICE_PYTHON names no Python with another runtime")
@pytest.mark.parametrize("name", ["step-float32", "step-int8-io", "step-int16x8-io"])
def test_another_environment_answers_alike(step_bundle: Callable[..., Path], tmp_path: Path, name: str) -> None:
    alone = shutil.copy(AGENT, tmp_path / "agent.py")
    folder = step_bundle(name)
    data = models.sequences(20, seed=11)
    np.savez(tmp_path / "in.npz", sequence=data)
    arguments = (alone, "run", folder, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    run_agent(*arguments, python=OTHER_PYTHON)
    session = open_session(folder)
    here = session.predict(data)
    with np.load(tmp_path / "out.npz") as archive:
        for output, spec in session.outputs.items():
            # Steps of the output where it is quantized: other kernels round differently, and a recurrence adds up.
            np.testing.assert_allclose(archive["y/" + output], here[output], atol=5.01 * spec.scale or 1e-5)
    assert run_agent(alone, "verify", folder, python=OTHER_PYTHON)["passed"] is True
    arguments = ("bench", folder, "--rounds", 2, "--block-seconds", 0.001, "--warmup-seconds", 0.05)
    assert run_agent(alone, *arguments, python=OTHER_PYTHON)["models"][0]["p50_us"] > 0
