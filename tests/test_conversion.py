"""The export and convert stages on real Keras models, with real crashes, limits and interruptions."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_dl.bundle import Limits, read_bundle
from edge_dl.converters.conversion import convert, run_conversion
from edge_dl.converters.export_stage import run_export
from edge_dl.converters.lowering_choice import UNROLL_LIMIT, resolve_lowerings
from edge_dl.converters.outcomes import Outcome, read_outcomes, store_outcome
from edge_dl.errors import RefusedError, StageError, UsageError
from edge_dl.files import load_npz, save_npz
from edge_dl.recipe import ConversionConfig
from edge_dl.variants import Lowering, Quantization

STEPS, FEATURES, CLASSES = 8, 5, 3
FLOAT32, DYNAMIC, INT8 = Quantization.FLOAT32, Quantization.DYNAMIC, Quantization.INT8


def save_model(path: Path, steps: int | None = STEPS) -> Path:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input((steps, FEATURES), name="motion")
    hidden = keras.layers.SimpleRNN(16, name="memory")(inputs)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="label")(hidden)
    keras.Model(inputs, outputs).save(path)
    return path


def save_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 90), ("test", 40)):
        arrays = {
            "x/motion": rng.normal(size=(count, STEPS, FEATURES)).astype("float32"),
            "y/label": np.arange(count) % CLASSES,
            "index": np.arange(count),
        }
        save_npz(folder / f"{split}.npz", arrays)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with data and a `while` and an `unroll` export; tests make variants in copies of it."""
    run = tmp_path_factory.mktemp("run")
    save_data(run / "data")
    config = ConversionConfig(lowerings=("while", "unroll"), calibration_samples=30)
    run_export(save_model(run / "model.keras"), run, config, seed=5)
    return run


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    (tmp_path / "export").symlink_to(exported / "export")
    return tmp_path


def by_name(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {outcome.variant: outcome for outcome in outcomes}


def test_an_export_holds_reference_golden_and_calibration_samples(exported: Path) -> None:
    import keras

    model = keras.models.load_model(exported / "model.keras")
    train, test = load_npz(exported / "data/train.npz"), load_npz(exported / "data/test.npz")
    reference = load_npz(exported / "export/reference.npz")
    truth = np.asarray(model(test["x/motion"]))
    assert list(reference) == ["y/label"]
    assert reference["y/label"].dtype == np.float32
    np.testing.assert_allclose(reference["y/label"], truth, atol=1e-6)
    samples = load_npz(exported / "export/calibration.npz")
    assert len(samples["index"]) == 30
    np.testing.assert_array_equal(samples["x/motion"], train["x/motion"][samples["index"]])
    # Every class has its share.
    assert np.bincount(train["y/label"][samples["index"]]).tolist() == [10, 10, 10]
    golden = load_npz(exported / "export/golden.npz")
    np.testing.assert_allclose(np.asarray(model(golden["in/motion"])), golden["out/label"], atol=1e-6)
    assert {path.name for path in (exported / "export").iterdir()} >= {"while", "unroll", "plan.json"}
    assert not list((exported / "export").rglob("*.log"))


@pytest.mark.slow
def test_a_crash_of_the_converter_leaves_the_other_variants_alone(run: Path) -> None:
    config = ConversionConfig(quantizations=(FLOAT32, INT8, DYNAMIC))
    outcomes = by_name(run_conversion(run, config, name="rnn", task="classification", options={"force": True}))
    assert list(outcomes) == [
        "while-float32", "while-int8", "while-dynamic", "unroll-float32", "unroll-int8", "unroll-dynamic",
    ]  # fmt: skip
    crashed = outcomes.pop("while-int8")
    assert (crashed.status, crashed.signal, crashed.exit_code) == ("crashed", "SIGSEGV", 3)
    assert "while-int8" in crashed.message
    assert "SIGSEGV" in crashed.message
    assert crashed.log
    assert not (run / "variants/while-int8").exists()
    stored = json.loads((run / "variants/while-int8.json").read_text())
    assert stored["status"] == "crashed"
    for outcome in outcomes.values():
        assert outcome.status == "converted", outcome
        assert read_bundle(run / "variants" / outcome.variant).manifest.variant == outcome.variant
    assert {item.variant for item in read_outcomes(run)} == {*outcomes, "while-int8"}


def test_a_bundle_says_what_a_device_must_know(run: Path) -> None:
    config = ConversionConfig(quantizations=(FLOAT32, INT8), integer_io=True)
    limits = {"int8": Limits(min_top1=0.9)}
    outcomes = by_name(
        run_conversion(run, config, name="rnn", task="classification", labels=("walk", "sit", "lie"), limits=limits)
    )
    assert outcomes["while-int8-io"].status == "refused"
    assert "step-int8" in outcomes["while-int8-io"].todo
    plain, integer = (read_bundle(run / "variants" / name) for name in ("while-float32", "unroll-int8-io"))
    assert plain.labels() == ("walk", "sit", "lie")
    manifest = integer.manifest
    assert (manifest.name, manifest.task, manifest.lowering, manifest.quantization) == (
        "rnn", "classification", "unroll", "int8",
    )  # fmt: skip
    (source,), (target,) = manifest.signature.inputs, manifest.signature.outputs
    assert (source.name, source.shape, source.dtype) == ("motion", (1, STEPS, FEATURES), "int8")
    assert source.scale > 0
    assert (target.name, target.shape, target.scale, target.zero_point) == ("label", (1, CLASSES), 1 / 256, -128)
    assert manifest.limits == limits["int8"]
    assert plain.manifest.limits == Limits()
    assert {"edge_dl", "tensorflow", "keras", "tool"} <= set(manifest.made_by)
    assert manifest.min_runtime_version
    inputs, outputs = plain.golden()
    assert inputs["motion"].shape == (16, STEPS, FEATURES)
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(plain.model), num_threads=1).get_signature_runner("predict")
    for sample, answer in zip(inputs["motion"], outputs["label"], strict=True):
        np.testing.assert_allclose(runner(motion=sample[None])["label"][0], answer, atol=1e-5)


def test_what_is_there_is_not_made_again(run: Path) -> None:
    config = ConversionConfig(quantizations=(FLOAT32,))
    first = run_conversion(run, config, name="rnn")
    file = run / "variants/unroll-float32/model.tflite"
    stamp = file.stat().st_mtime_ns
    assert run_conversion(run, config, name="rnn") == first
    assert file.stat().st_mtime_ns == stamp
    # Another setting that goes into the manifest, or --force, makes it again.
    run_conversion(run, config, name="other")
    assert file.stat().st_mtime_ns > stamp
    assert read_bundle(file.parent).manifest.name == "other"
    # What the configuration does not name any more is removed; what a killed run left too.
    (run / "variants/.while-float32.making").mkdir()
    run_conversion(run, ConversionConfig(quantizations=(DYNAMIC,)), name="other")
    names = {path.name for path in (run / "variants").iterdir()} - {"log"}
    assert names == {"while-dynamic", "while-dynamic.json", "unroll-dynamic", "unroll-dynamic.json"}


def test_a_damaged_variant_is_made_again(run: Path) -> None:
    config = ConversionConfig(quantizations=(FLOAT32,))
    run_conversion(run, config)
    (run / "variants/while-float32/manifest.json").unlink()
    (run / "variants/unroll-float32.json").write_text("{")
    assert all(outcome.ok for outcome in run_conversion(run, config))
    read_bundle(run / "variants/while-float32")


def test_a_converter_that_takes_too_long_is_stopped(run: Path) -> None:
    config = ConversionConfig(quantizations=(FLOAT32,), time_limit=0.05)
    outcomes = run_conversion(run, config)
    assert {outcome.status for outcome in outcomes} == {"timed out"}
    assert "0.05 s" in outcomes[0].message
    assert not (run / "variants/while-float32").exists()
    assert run_conversion(run, ConversionConfig(quantizations=(FLOAT32,)))[0].ok


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limit the size of files that this process and its children write: what a full disk does to them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_that_was_made(run: Path, small_files: Callable[[int], None]) -> None:
    config = ConversionConfig(quantizations=(FLOAT32,))
    before = read_bundle_of(run, config)
    small_files(2000)
    outcomes = run_conversion(run, config, force=True)
    small_files(resource.RLIM_INFINITY)
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert "could not be written" in outcomes[0].message
    assert "Free some space" in outcomes[0].todo
    # What was made before is still whole.
    assert read_bundle(before.folder).manifest == before.manifest
    assert not list((run / "variants").glob(".*"))
    assert all(outcome.ok for outcome in read_outcomes(run))


def read_bundle_of(run: Path, config: ConversionConfig) -> Any:
    assert all(outcome.ok for outcome in run_conversion(run, config))
    return read_bundle(run / "variants/while-float32")


SCRIPT = """
import sys
from pathlib import Path
from edge_dl.converters.conversion import run_conversion
from edge_dl.recipe import ConversionConfig
try:
    run_conversion(Path(sys.argv[1]), ConversionConfig(), name="rnn")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_finished(run: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(run)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (run / "variants/while-float32.json").is_file():
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.send_signal(number)
        assert parent.wait(timeout=30) == 130
    finally:
        parent.kill()
    outcomes = read_outcomes(run)
    assert 1 <= len(outcomes) < 10
    for outcome in outcomes:
        if outcome.ok:
            read_bundle(run / "variants" / outcome.variant)
    assert "while-float32" in by_name(outcomes)


def test_calibration_that_is_not_there_fails_only_what_needs_it(exported: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    for item in (exported / "export").iterdir():
        if item.name != "calibration.npz":
            (export / item.name).symlink_to(item)
    config = ConversionConfig(quantizations=(FLOAT32, INT8))
    outcomes = by_name(run_conversion(tmp_path, config))
    assert outcomes["unroll-float32"].ok
    assert (outcomes["unroll-int8"].status, outcomes["unroll-int8"].exit_code) == ("failed", 2)
    assert "--data" in outcomes["unroll-int8"].todo
    (export / "calibration.npz").write_bytes(b"PK\x03\x04 cut off")
    outcome = by_name(run_conversion(tmp_path, config))["unroll-int8"]
    assert outcome.status == "failed"
    assert "calibration.npz" in outcome.message


def test_one_call_converts_a_model_without_data(tmp_path: Path) -> None:
    model = save_model(tmp_path / "mine.keras")
    outcomes = by_name(convert(model, tmp_path / "out", lowering="while"))
    assert list(outcomes) == ["while-float32", "while-dynamic"]
    assert all(outcome.ok for outcome in outcomes.values())
    bundle = read_bundle(tmp_path / "out/variants/while-dynamic")
    assert bundle.manifest.name == "mine"
    inputs, outputs = bundle.golden()
    assert inputs["motion"].shape == (16, STEPS, FEATURES)
    assert outputs["label"].shape == (16, CLASSES)


def test_a_free_axis_is_taken_from_the_data(tmp_path: Path) -> None:
    model = save_model(tmp_path / "free.keras", steps=None)
    with pytest.raises(UsageError, match="fixed size"):
        convert(model, tmp_path / "out", lowering="while", quantization="float32")
    data = {"x": np.random.default_rng(0).normal(size=(20, 4, FEATURES)).astype("float32")}
    (outcome,) = convert(model, tmp_path / "out", lowering="while", quantization="float32", data=data)
    assert outcome.ok
    assert read_bundle(tmp_path / "out/variants/while-float32").manifest.signature.inputs[0].shape == (1, 4, FEATURES)


def test_a_saved_model_and_a_tflite_are_sources_too(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((12,), name="x"), keras.layers.Dense(40), keras.layers.Dense(4, name="y")])
    model.export(tmp_path / "saved", verbose=False)
    data = {"x": np.random.default_rng(0).normal(size=(50, 12)).astype("float32")}
    kinds = ("float32", "float16", "dynamic", "int8", "int16x8")
    first = convert(tmp_path / "saved", tmp_path / "one", quantization=kinds, data=data)
    assert [(item.variant, item.status) for item in first] == [(kind, "converted") for kind in kinds]
    file = tmp_path / "one/variants/float32/model.tflite"
    second = convert(file, tmp_path / "two", quantization=kinds, data=data)
    assert [(item.variant, item.status) for item in second] == [(kind, "converted") for kind in kinds]
    assert (tmp_path / "two/variants/float32/model.tflite").read_bytes() == file.read_bytes()
    truth = np.asarray(model(data["x"]))
    for folder in ("one", "two"):
        reference = load_npz(tmp_path / folder / "export/reference.npz")
        np.testing.assert_allclose(next(iter(reference.values())), truth, atol=1e-5)
    with pytest.raises(RefusedError, match="no recurrent layer"):
        convert(file, tmp_path / "three", lowering="step")


@pytest.mark.parametrize(
    ("name", "content"),
    [("random.tflite", bytes(range(256))), ("cut.keras", b"PK\x03\x04"), ("text.h5", b"hello"), ("empty.tflite", b"")],
)
def test_a_file_that_is_no_model_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        convert(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_use_is_found_before_any_work(tmp_path: Path) -> None:
    config = ConversionConfig()
    with pytest.raises(UsageError, match="must exist"):
        run_export(tmp_path / "missing.keras", tmp_path, config)
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(UsageError, match="Known: auto, none, while"):
        run_export(tmp_path / "model.keras", tmp_path, dataclasses.replace(config, lowerings=("loop",)))
    with pytest.raises(UsageError, match="Known: float32"):
        convert(tmp_path / "model.keras", tmp_path / "out", quantization="int7")
    with pytest.raises(UsageError, match="exported first"):
        run_conversion(tmp_path, config)
    with pytest.raises(UsageError, match="`random`"):
        run_export(tmp_path / "model.keras", tmp_path, config, calibration="noise")
    with pytest.raises(UsageError, match=r"train\.npz"):
        run_export(tmp_path / "model.keras", tmp_path, config, data=tmp_path / "nothing")


LAYERS = [{"path": "lstm", "kind": "LSTM", "steps": 100}, {"path": "lstm_1", "kind": "LSTM", "steps": 100}]


def facts(steps: int = 100, **refusals: list[dict[str, str]]) -> dict[str, Any]:
    names = ("while", "unroll", "fused", "step")
    return {
        "layers": [{**layer, "steps": steps} for layer in LAYERS],
        "allowed": [name for name in names if not refusals.get(name)],
        "refusals": {name: refusals.get(name, []) for name in names},
    }


def test_auto_takes_what_the_model_allows_and_says_what_it_leaves_out() -> None:
    masked = {"layer": "lstm", "reason": "It is masked.", "todo": "Use while."}
    chosen, left_out = resolve_lowerings(["auto"], facts(fused=[masked]))
    assert chosen == [Lowering.WHILE, Lowering.UNROLL, Lowering.STEP]
    assert left_out == {"fused": "layer 'lstm': It is masked."}
    chosen, left_out = resolve_lowerings(["auto"], facts(steps=UNROLL_LIMIT))
    assert Lowering.UNROLL not in chosen
    assert str(2 * UNROLL_LIMIT) in left_out["unroll"]
    chosen, _ = resolve_lowerings(["unroll"], facts(steps=UNROLL_LIMIT))
    assert chosen == [Lowering.UNROLL]


def test_a_lowering_asked_for_by_name_is_refused_with_layer_reason_and_way_out() -> None:
    masked = {"layer": "encoder/lstm", "reason": "It is masked.", "todo": "Use while."}
    with pytest.raises(RefusedError) as caught:
        resolve_lowerings(["while", "fused"], facts(fused=[masked]))
    assert "'encoder/lstm'" in str(caught.value)
    assert "It is masked." in str(caught.value)
    assert caught.value.todo == "Use while."
    with pytest.raises(RefusedError, match="it has recurrent layers"):
        resolve_lowerings(["none"], facts())


def test_auto_leaves_out_a_lowering_that_fails_only_when_it_is_exported(tmp_path: Path) -> None:
    import keras

    sequence = keras.Input((6, 3), name="sequence")
    # Nothing in the model's structure says that this turns time around: the step model fails its own check.
    keras.Model(sequence, keras.layers.GRU(4)(sequence[:, ::-1])).save(tmp_path / "model.keras")
    plan = run_export(tmp_path / "model.keras", tmp_path, ConversionConfig(lowerings=("auto",)))
    assert plan.lowerings == (Lowering.WHILE, Lowering.UNROLL)
    assert "step by step" in plan.left_out["step"]
    assert not (tmp_path / "export" / "step").exists()
    with pytest.raises(RefusedError, match="step by step"):
        run_export(tmp_path / "model.keras", tmp_path, ConversionConfig(lowerings=("while", "step")))


def test_what_no_lowering_carries_is_converted_as_keras_writes_it(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    images = keras.Input((3, 6, 2), name="images")
    hidden = layers.Flatten()(layers.ConvLSTM1D(2, 3, name="frames")(images))
    keras.Model(images, layers.Dense(2, name="label")(hidden)).save(tmp_path / "model.keras")
    plan = run_export(tmp_path / "model.keras", tmp_path, ConversionConfig(lowerings=("auto",)))
    assert plan.lowerings == (Lowering.NONE,)
    assert "'frames'" in plan.left_out["while"]
    with pytest.raises(RefusedError, match=r"'frames'.*convolves"):
        run_export(tmp_path / "model.keras", tmp_path, ConversionConfig(lowerings=("while",)))
    data = {"images": np.random.default_rng(0).standard_normal((8, 3, 6, 2)).astype("float32")}
    made = by_name(
        convert(
            tmp_path / "model.keras",
            tmp_path / "out",
            quantization=("float32", "int8", "int16x8", "dynamic"),
            data=data,
        )
    )
    assert {name: outcome.status for name, outcome in made.items()} == {
        "float32": "converted", "int8": "refused", "int16x8": "refused", "dynamic": "converted",
    }  # fmt: skip
    assert made["int8"].todo == "Use dynamic, which has int8 weights."


def test_a_plan_that_was_tampered_with_is_named(run: Path) -> None:
    (run / "export").unlink()
    (run / "export").mkdir()
    (run / "export/plan.json").write_text('{"source": "x"}')
    with pytest.raises(UsageError, match=r"plan\.json"):
        run_conversion(run, ConversionConfig())


def test_an_outcome_that_cannot_be_written_is_a_stage_error(tmp_path: Path) -> None:
    (tmp_path / "variants").write_text("a file where the folder should be")
    with pytest.raises(StageError, match="could not be written") as caught:
        store_outcome(tmp_path / "variants", Outcome("float32", Lowering.NONE, FLOAT32, "failed"))
    assert caught.value.exit_code == 3
