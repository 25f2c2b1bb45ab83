"""Features of sounds: those of tf.signal and of their NumPy twin, on every backend, with TFLite's own operators."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend_program import run_on

from edge_dl.errors import UsageError
from edge_dl.models.normalizing import EPSILON, RunningNormalization, UtteranceNormalization
from edge_dl.models.spectra import SpeechFeatures
from edge_dl.runtime.spectra import FLOOR, Spectrum, features, write_golden

WIDE = Spectrum(16_000, 480, 320, 40, 20, 4_000)
NARROW = Spectrum(8_000, 240, 160, 40, 20, 4_000)
SPECTRA = {
    "wide": WIDE,
    "narrow": NARROW,
    "mfcc": dataclasses.replace(WIDE, coefficients=10),
    "all coefficients": dataclasses.replace(NARROW, coefficients=40),
    "from zero to half": Spectrum(8_000, 256, 128, 20, 0, 4_000, 13),
    "25 and 10 ms": Spectrum(16_000, 400, 160, 64, 60, 7_800),
    "no overlap": Spectrum(8_000, 200, 200, 24, 100, 3_000),
}


def sounds(length: int = 16_000) -> np.ndarray:
    """Noise, quiet noise, a chirp, silence, full scale and a click, (6, length) int16."""
    rng = np.random.default_rng(0)
    time = np.arange(length) / length
    made = np.zeros((6, length))
    made[0] = rng.normal(0, 3_000, length)
    made[1] = rng.normal(0, 2, length)
    made[2] = 20_000 * np.sin(2 * np.pi * (100 + 1_500 * time) * time)
    made[4] = 32_767 * np.sign(np.sin(900 * time))
    made[5, length // 3] = 32_767
    return np.clip(made, -32_768, 32_767).astype(np.int16)


def by_tensorflow(x: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """In float64: in float32, tf.signal's mel weights alone make a difference of 5e-4 on recorded speech."""
    values = tf.constant(x / 32_768, tf.float64)
    power = tf.square(tf.abs(tf.signal.stft(values, spectrum.window, spectrum.hop, spectrum.fft_length)))
    bands = tf.signal.linear_to_mel_weight_matrix(
        spectrum.bands, spectrum.fft_length // 2 + 1, spectrum.rate, spectrum.lowest, spectrum.highest, tf.float64
    )
    found = tf.math.log(power @ bands + FLOOR)
    if spectrum.coefficients:
        found = tf.signal.mfccs_from_log_mel_spectrograms(found)[..., : spectrum.coefficients]
    return np.asarray(found)


def assert_equal(found: np.ndarray, wanted: np.ndarray) -> None:
    """Within 1e-4; 3e-4 beside a loud pure tone, where float32 ends."""
    np.testing.assert_allclose(np.delete(found, 2, axis=0), np.delete(wanted, 2, axis=0), atol=1e-4)
    np.testing.assert_allclose(found[2], wanted[2], atol=3e-4)


def as_layer(spectrum: Spectrum, **settings: object) -> SpeechFeatures:
    return SpeechFeatures(dataclasses.asdict(spectrum), **settings)


@pytest.mark.parametrize("name", SPECTRA)
def test_features_are_those_of_tensorflow(name: str) -> None:
    x = sounds()
    wanted = by_tensorflow(x, SPECTRA[name])
    found = features(x, SPECTRA[name])
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("transform", ["rfft", "matmul"])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_graph_computes_what_its_twin_does(name: str, transform: str) -> None:
    x = sounds()
    layer = as_layer(SPECTRA[name], transform=transform)
    assert_equal(np.asarray(layer(x)), features(x, SPECTRA[name]))


def test_more_sound_only_adds_frames() -> None:
    """Nothing is padded, so a stream has the frames of the whole."""
    x = sounds()
    whole, start = features(x, WIDE), features(x[:, :8_000], WIDE)
    assert start.shape[1] == 24
    np.testing.assert_array_equal(whole[:, :24], start)
    one = np.asarray(as_layer(WIDE)(x[:, 320 : 320 + 480]))
    assert_equal(one[:, 0], whole[:, 1])


@pytest.mark.parametrize("transform", ["rfft", "matmul"])
def test_tflite_has_every_operator_and_computes_the_same(transform: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    spectrum = SPECTRA["mfcc"]
    layer = as_layer(spectrum, transform=transform)
    traced = tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec((1, 16_000), tf.int16))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    content = converter.convert()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    names = {item["op_name"] for item in interpreter._get_ops_details()}
    assert ("RFFT2D" in names) == (transform == "rfft")
    assert not any(name.startswith("Flex") for name in names)
    assert len(content) < (16_000 if transform == "rfft" else 1_100_000)
    wanted = features(sounds(), spectrum)
    found = []
    for sound in sounds():
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sound[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    assert_equal(np.stack(found), wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hop": 481}, "next one must start"),
        ({"hop": 0}, "next one must start"),
        ({"window": 479}, "share 1"),
        ({"highest": 8_001}, "half the rate"),
        ({"lowest": 4_000}, "half the rate"),
        ({"bands": 0}, "0 bands"),
        ({"coefficients": 41}, "41 coefficients"),
        ({"bands": 120}, "fewer bands"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(WIDE, **change)  # type: ignore[arg-type]


def test_a_sound_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="479 samples for a window of 480"):
        features(sounds(479), WIDE)


def test_layers_survive_being_saved(tmp_path: Path) -> None:
    inputs = keras.Input((8_000,), dtype="int16", name="sound")
    h = as_layer(SPECTRA["mfcc"])(inputs)
    assert h.dtype == "float32"
    assert h.shape == (None, 24, 10)
    both = [RunningNormalization([1.0] * 10, [0.5] * 10, name="running")(h), UtteranceNormalization(name="whole")(h)]
    model = keras.Model(inputs, both)
    model.save(tmp_path / "model.keras")
    x = sounds(8_000)
    for found, wanted in zip(keras.models.load_model(tmp_path / "model.keras")(x), model(x), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_running_normalization_is_the_recursion() -> None:
    x = np.random.default_rng(1).normal(3, 2, (2, 30, 4)).astype(np.float32)
    mean, factor = np.array([1.0, 2, 3, 4]), np.array([1.0, 0.5, 2, 1])
    wanted, state = np.empty_like(x), np.tile(mean, (2, 1))
    for step in range(30):
        state = 0.9 * state + 0.1 * x[:, step]
        wanted[:, step] = (x[:, step] - state) * factor
    found = RunningNormalization(mean.tolist(), factor.tolist(), memory=0.9)(x)
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-5)


def test_an_utterance_is_normalized_by_itself() -> None:
    x = np.random.default_rng(1).normal(3, 2, (2, 30, 4)).astype(np.float32)
    x[0, :, 0] = 7
    found = np.asarray(UtteranceNormalization()(x))
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found[1].std(axis=0), 1, atol=2 * EPSILON)
    np.testing.assert_array_equal(found[0, :, 0], 0)


def test_golden_vectors_hold_everything_that_a_device_needs(tmp_path: Path) -> None:
    spectrum = SPECTRA["mfcc"]
    write_golden(tmp_path / "golden.npz", sounds(), spectrum)
    with np.load(tmp_path / "golden.npz") as file:
        golden = dict(file)
    settings = {name.split("/")[1]: golden[name].item() for name in golden if name.startswith("setting/")}
    assert Spectrum(**settings) == spectrum
    x = golden["in/sound"]
    frames = np.stack([x[:, start : start + 480] for start in range(0, 320 * 49, 320)], axis=1)
    power = np.abs(np.fft.rfft(frames / 32_768 * golden["table/window"], spectrum.fft_length)) ** 2
    bands = np.zeros((*power.shape[:2], spectrum.bands + 2))
    for place, segment in enumerate(golden["table/segment"]):
        bands[..., segment + 1] += power[..., place] * golden["table/rising"][place]
        bands[..., segment] += power[..., place] * golden["table/falling"][place]
    found = np.log(bands[..., 1:-1] + FLOOR) @ golden["table/cosines"]
    np.testing.assert_allclose(found, golden["out/features"], atol=1e-4)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compute_the_same(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    program = (
        "import dataclasses, numpy as np, keras, test_models_spectra as t\n"
        "x = t.sounds(4_000)\n"
        "for s in (t.WIDE, t.SPECTRA['mfcc']):\n"
        "    f = keras.ops.convert_to_numpy(t.as_layer(s)(x))\n"
        "    t.assert_equal(f, t.features(x, s))\n"
    )
    run_on(backend, program)
