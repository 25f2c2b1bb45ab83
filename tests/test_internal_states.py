"""States inside the file: the answers of the file with its states outside, bit for bit; a signature sets them back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import stream_bundles
from keras import layers
from stream_bundles import CLIP, LABELS, network, sound

from edge_dl.bundle import Bundle, Limits, read_bundle, write_bundle
from edge_dl.checks.compatibility import check_model
from edge_dl.checks.inspection import version_key
from edge_dl.checks.runtime_profiles import find_profiles
from edge_dl.checks.traces import Trace
from edge_dl.converters import packing, tensors
from edge_dl.converters.conversion import run_conversion
from edge_dl.converters.export_stage import run_export
from edge_dl.converters.internal_states import RESET, keep_states
from edge_dl.errors import RefusedError, UsageError
from edge_dl.files import save_npz
from edge_dl.recipe import ConversionConfig, SpeechConfig
from edge_dl.runtime import StreamSession, open_session, verify
from edge_dl.runtime.agent import Interpreter
from edge_dl.variants import Quantization

# Rings of samples and frames, keys and values, states that stay zero in the first packets.
WINDOWED = SpeechConfig("transformer", padding="valid", bands=20, units=(16, 16), attention_window=0.32)
CRNN = SpeechConfig("crnn", padding="valid", bands=20, units=(4, 8, 12))


def kept_inside(bundle: Bundle) -> Bundle:
    """The same bundle with its states in the file."""
    model, manifest = tensors.read(bundle.model), bundle.manifest
    keep_states(model, manifest.signature)
    signature = dataclasses.replace(manifest.signature, states=())
    inputs, outputs = bundle.golden()
    return write_bundle(
        bundle.folder.with_name("inside"),
        packing.pack(model),
        dataclasses.replace(manifest, signature=signature, reset=RESET),
        golden_inputs=inputs,
        golden_outputs=outputs,
        labels=bundle.labels(),
    )


@pytest.mark.parametrize(
    ("settings", "quantization", "integer_io"),
    [
        (WINDOWED, Quantization.FLOAT32, False),
        (WINDOWED, Quantization.INT8, True),
        (CRNN, Quantization.FLOAT32, False),
        (CRNN, Quantization.FLOAT16, False),
        (CRNN, Quantization.DYNAMIC, False),
        (CRNN, Quantization.INT4, False),
        (CRNN, Quantization.INT8, False),
        (CRNN, Quantization.INT16X8, True),
    ],
    ids=lambda value: getattr(value, "network", str(value)),
)
def test_the_same_bits(settings: SpeechConfig, quantization: Quantization, integer_io: bool, tmp_path: Path) -> None:
    samples = sound(CLIP, seed=1, count=4)
    outside = stream_bundles.bundle(network(settings), tmp_path, quantization, samples, integer_io)
    inside = kept_inside(outside)
    assert max(state.silent for state in outside.manifest.signature.states) > 0
    one, other = StreamSession(outside.folder), StreamSession(inside.folder)
    assert other.session.states == []
    long = sound(2 * CLIP, seed=2)[0]
    for _ in range(2):  # Also after a reset, in the middle of a stream.
        expected, got = one.push(long), other.push(long)
        assert len(got) == len(expected) > 20
        np.testing.assert_array_equal([item.values for item in got], [item.values for item in expected])
        one.reset()
        other.reset()
    clips = open_session(outside.folder).predict(samples)["label"]
    np.testing.assert_array_equal(open_session(inside.folder).predict(samples)["label"], clips)
    backwards = open_session(inside.folder).predict(samples[::-1])["label"]
    np.testing.assert_array_equal(backwards[::-1], clips)


def test_a_fresh_file_needs_no_reset(tmp_path: Path) -> None:
    """The first call sets the states itself: whoever knows nothing of `reset` hears one stream all the same."""
    outside = stream_bundles.bundle(network(CRNN), tmp_path)
    session = open_session(outside.folder)
    bare = Interpreter(kept_inside(outside).model, signature="stream")
    assert bare.keeps_state()
    packet = session.stream["packet"]  # type: ignore[index]
    for part in sound(30 * packet, seed=3)[0].reshape(30, packet):
        np.testing.assert_array_equal(bare.invoke({"sound": part[None]})["label"][0], session.packet(part)["label"])


def test_reset_is_a_signature_that_takes_a_number(tmp_path: Path) -> None:
    """Android's runtime calls none without inputs or outputs."""
    outside = stream_bundles.bundle(network(CRNN), tmp_path)
    inside = kept_inside(outside)
    reset = Interpreter(inside.model, signature=RESET)
    assert [(spec.shape, spec.dtype) for spec in reset.inputs.values()] == [((), "int32")]
    assert reset.invoke({"calls": np.zeros((), np.int32)})["next_calls"] == 0
    # A stream that goes on elsewhere begins behind its silent packets: the counter goes no further than they do.
    most = max(state.silent for state in outside.manifest.signature.states)
    assert reset.invoke({"calls": np.array(1_000, np.int32)})["next_calls"] == most


def test_its_operators_can_be_followed(tmp_path: Path) -> None:
    """LiteRT ends the process when it is asked for a variable's handle."""
    outside = stream_bundles.bundle(network(CRNN), tmp_path)
    inside = Trace(kept_inside(outside).folder)
    assert "resource" in {tensor.dtype for tensor in inside.main.tensors}
    assert list(inside.calls({"sound": sound(CLIP, seed=1)[0]}))
    for number, tensor in enumerate(inside.main.tensors):
        assert tensor.dtype != "resource" or inside.value(number) is None


def test_runtimes_with_variables_load_it(tmp_path: Path) -> None:
    inside = kept_inside(stream_bundles.bundle(network(WINDOWED), tmp_path))
    names = "tflite-runtime==2.14.0,litert-2.3,android-tflite-2.16,tensorflow==2.5.0"
    answers = {item.runtime: item for item in check_model(inside.model, find_profiles(names.split(",")))}
    assert [answer.loads for answer in answers.values()] == [True, True, True, False]
    assert "VAR_HANDLE" in answers["tensorflow==2.5.0"].reason


def recurrent() -> keras.Model:
    keras.utils.set_random_seed(1)
    stack = [layers.LSTM(5, return_sequences=True), layers.GRU(4), layers.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input((12, 2), name="sequence"), *stack])


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def convert(**settings: Any) -> dict[str, Any]:
        model, run = tmp_path / "model.keras", tmp_path / "run"
        recurrent().save(model)
        x = np.random.default_rng(0).normal(size=(40, 12, 2)).astype(np.float32)
        for part in ("train", "test"):
            save_npz(run / "data" / f"{part}.npz", {"x/sequence": x})
        config = ConversionConfig(lowerings=("step", "stream", "while"), **settings)
        run_export(model, run, config)
        return {outcome.variant: outcome for outcome in run_conversion(run, config)} | {"run": run}

    return convert


def test_a_setting_makes_them(converted: Callable[..., dict[str, Any]]) -> None:
    """Steps and streams keep their states; a loop has none to keep. Verified as any bundle is."""
    quantizations = (Quantization.FLOAT32, Quantization.INT8)
    made = converted(internal_states=True, quantizations=quantizations)
    for name in ("step-float32", "step-int8", "stream-float32", "stream-int8", "while-float32"):
        assert made[name].ok, made[name].message
        bundle = read_bundle(made["run"] / "variants" / name)
        inside = not name.startswith("while")
        assert bundle.manifest.reset == (RESET if inside else None)
        assert bundle.manifest.signature.states == ()
        assert any(RESET in note for note in made[name].notes) is inside
        assert not inside or version_key(bundle.manifest.min_runtime_version) >= version_key("2.6.0")
    x = np.random.default_rng(5).normal(size=(6, 12, 2)).astype(np.float32)
    (expected,) = open_session(made["run"] / "variants" / "while-float32").predict(x).values()
    for name in ("step-float32", "stream-float32"):
        session = open_session(made["run"] / "variants" / name)
        (got,) = session.predict(x).values()
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert verify(session)["passed"]
    step = open_session(made["run"] / "variants" / "step-float32")
    step.reset()
    (last,) = [step.step(row) for row in x[0]][-1].values()
    np.testing.assert_allclose(last, expected[0], atol=1e-5)


def test_another_setting_makes_them_anew(converted: Callable[..., dict[str, Any]]) -> None:
    settings: dict[str, Any] = {"quantizations": (Quantization.FLOAT32,)}
    outside, inside = (converted(internal_states=kept, **settings)["step-float32"] for kept in (False, True))
    assert outside.digest != inside.digest


@pytest.mark.slow
def test_a_mix_is_searched_for_without_them(tmp_path: Path) -> None:
    """Operators are counted in the exported model, where none reads a variable: the same mix is found either way."""
    model, rng = recurrent(), np.random.default_rng(0)
    model.save(tmp_path / "model.keras")
    paths, answers = [], []
    for part, count in (("train", 40), ("validation", 300), ("test", 40)):
        x = rng.normal(size=(count, 12, 2)).astype(np.float32)
        y = np.asarray(model(x)).argmax(1).astype(np.int32)
        for run in ("outside", "inside"):
            save_npz(tmp_path / run / "data" / f"{part}.npz", {"x/sequence": x, "y/label": y})
    for run in ("outside", "inside"):
        config = ConversionConfig(
            lowerings=("step",), quantizations=(Quantization.MIXED,), internal_states=run == "inside"
        )
        run_export(tmp_path / "model.keras", tmp_path / run, config)
        limits = {"mixed": Limits(max_drop=0.1)}
        (made,) = run_conversion(tmp_path / run, config, task="classification", labels=("a", "b", "c"), limits=limits)
        assert made.ok, made.message
        paths.append([(step["operators"], step["drop"], step["chosen"]) for step in made.path])
        session = open_session(tmp_path / run / "variants" / "step-mixed")
        assert (session.states == []) is (run == "inside")
        answers.append(next(iter(session.predict(x).values())))
    assert len(paths[0]) > 2
    assert paths[1] == paths[0]
    np.testing.assert_array_equal(answers[1], answers[0])


def test_what_keeps_no_state_is_refused(tmp_path: Path) -> None:
    outside = stream_bundles.bundle(network(CRNN), tmp_path)
    signature = outside.manifest.signature
    states = (dataclasses.replace(signature.states[0], output_scale=0.5), *signature.states[1:])
    with pytest.raises(RefusedError, match="goes out with another scale"):
        keep_states(tensors.read(outside.model), dataclasses.replace(signature, states=states))
    states = (dataclasses.replace(signature.states[0], initial="memory"), *signature.states[1:])
    with pytest.raises(RefusedError, match="starts as the encoder's output 'memory'"):
        keep_states(tensors.read(outside.model), dataclasses.replace(signature, states=states))
    plain = keras.Sequential([keras.Input((4, 3)), layers.Dense(2)])
    with pytest.raises(RefusedError, match="without states keeps none"):
        stream_bundles.bundle(plain, tmp_path / "plain", internal_states=True)


@pytest.mark.parametrize("reset", [3, "", "stream"])
def test_a_manifest_must_name_a_signature_of_its_own(reset: Any, tmp_path: Path) -> None:
    inside = stream_bundles.bundle(network(CRNN), tmp_path, internal_states=True)
    assert inside.labels() == LABELS
    path = inside.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "reset": reset}))
    with pytest.raises(UsageError, match="reset"):
        read_bundle(inside.folder)


def test_the_agent_refuses_a_reset_that_is_not_there(tmp_path: Path) -> None:
    inside = stream_bundles.bundle(network(CRNN), tmp_path, internal_states=True)
    path = inside.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for reset, message in (("begin", "no such signature"), (3, "format")):
        path.write_text(json.dumps({**manifest, "reset": reset}))
        with pytest.raises(UsageError, match=message):
            open_session(inside.folder)
