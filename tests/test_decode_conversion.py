"""An encoder-decoder on the way to the device: files, bundles, sessions, and the command from a user's own model."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import translation_models as models
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from translation_models import SOURCE, TARGET, TARGET_WORDS
from typer.testing import CliRunner

from edge_dl.bundle import Manifest, parse_manifest, read_bundle
from edge_dl.checks.jobs import variant_case, verify_variant
from edge_dl.checks.parity import check_parity
from edge_dl.checks.verdicts import Verdict
from edge_dl.cli.main import app
from edge_dl.converters import convert, jobs, packing, run_conversion, scores, split_signatures, tensors
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, read_json, save_npz, write_json
from edge_dl.recipe import ChecksConfig, ConversionConfig
from edge_dl.runtime import agent, open_session
from edge_dl.runtime.agent import Session
from edge_dl.runtime.decoders import SessionDecoder
from edge_dl.variants import Quantization

MADE = (
    "decode-float32", "decode-float16", "decode-dynamic", "decode-unroll-float32", "decode-unroll-float16",
    "decode-unroll-dynamic", "decode-unroll-int8", "decode-unroll-int16x8",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a GRU encoder-decoder with a mask and attention, every quantization asked for."""
    folder = tmp_path_factory.mktemp("decoder")
    keras.utils.set_random_seed(2)
    models.strengthen(models.tutorial("gru", "dot", mask=True)).save(folder / "own.keras")
    data = {key: value for key, value in models.sentences(80).items() if key.startswith("x/")}
    outcomes = convert(
        folder / "own.keras",
        folder,
        quantization=("float32", "float16", "dynamic", "int8", "int16x8", "mixed"),
        data=data,
        task="translation",
    )
    write_json(folder / "made.json", {outcome.variant: outcome.to_json() for outcome in outcomes})
    return folder


@pytest.fixture(scope="module")
def session(run: Path) -> Session:
    return open_session(run / "variants" / "decode-float32")


def test_what_cannot_be_made_is_an_outcome_with_the_way_out(run: Path) -> None:
    outcomes = read_json(run / "made.json")
    assert {name for name, item in outcomes.items() if item["status"] == "converted"} == set(MADE)
    assert {name: item["status"] for name, item in outcomes.items() if name not in MADE} == {
        "decode-int8": "refused",
        "decode-int16x8": "refused",
        "decode-mixed": "refused",
        "decode-unroll-mixed": "refused",
    }
    assert "decode-unroll-int8" in outcomes["decode-int8"]["todo"]


@pytest.mark.parametrize("variant", MADE)
def test_every_variant_says_what_keras_says(run: Path, variant: str) -> None:
    report = agent.verify(open_session(run / "variants" / variant))
    assert report["passed"], report["failures"]
    figures = report["outputs"]["next_token"]
    assert figures["top1"] > 0.9
    # Weights over a source are no choice among classes.
    assert report["outputs"]["attention"]["top1"] is None
    if variant.endswith("float32"):
        assert figures["max_abs"] < 1e-5


def test_the_step_is_the_main_graph_and_no_operator_is_foreign(run: Path) -> None:
    for variant in MADE:
        model = tensors.read(run / "variants" / variant / "model.tflite")
        keys = {tensors.text_of(item.signatureKey): item.subgraphIndex for item in model.signatureDefs}
        assert set(keys) == {"encode", "decode_step", "decode_beams"}
        assert keys["decode_step"] == 0
        assert tensors.custom_operators(model) == []
        assert ("WHILE" in tensors.operator_names(model)) == (not variant.startswith("decode-unroll"))


def test_weights_are_stored_once(run: Path) -> None:
    decoder = sum(
        weight.numpy().nbytes
        for layer in keras.models.load_model(run / "own.keras").layers
        if layer.name in ("target_embedding", "decoder", "next_token")
        for weight in layer.weights
    )
    for variant, share in (("decode-float32", 1.0), ("decode-float16", 0.5), ("decode-unroll-int8", 0.25)):
        whole = (run / "variants" / variant / "model.tflite").read_bytes()
        parts = split_signatures(whole)
        assert set(parts) == {"encode", "decode_step", "decode_beams"}
        # The step and the step for several hypotheses have the decoder's weights each when they stand alone.
        assert sum(map(len, parts.values())) - len(whole) > 0.9 * share * decoder


@pytest.mark.parametrize("variant", ["decode-dynamic", "decode-unroll-int16x8"])
def test_each_signature_alone_answers_as_in_the_file(run: Path, variant: str) -> None:
    path = run / "variants" / variant / "model.tflite"
    whole = Interpreter(model_path=str(path))
    for key, content in split_signatures(path.read_bytes()).items():
        alone = Interpreter(model_content=content)
        alone.allocate_tensors()
        runner = whole.get_signature_runner(key)
        generator = np.random.default_rng(1)
        for name, detail in runner.get_input_details().items():
            value = generator.integers(0, 2, detail["shape"]) if detail["dtype"] != np.float32 else 0
            value = generator.standard_normal(detail["shape"]) if detail["dtype"] == np.float32 else value
            # A runtime without signatures finds the tensors by their names.
            found = [item["index"] for item in alone.get_input_details() if item["name"] == name]
            alone.set_tensor(found[0], value.astype(detail["dtype"]))
        feed = {item["name"]: alone.get_tensor(item["index"]) for item in alone.get_input_details()}
        alone.invoke()
        answers = runner(**feed)
        for item in alone.get_output_details():
            np.testing.assert_array_equal(alone.get_tensor(item["index"]), answers[item["name"]])


def test_a_file_without_signatures_cannot_be_split(run: Path) -> None:
    model = tensors.read(run / "variants" / "decode-float32" / "model.tflite")
    model.signatureDefs = []
    with pytest.raises(UsageError, match="signature"):
        split_signatures(packing.pack(model))


def test_probabilities_of_integer_variants_are_float_and_hold_no_ties(run: Path) -> None:
    for variant in ("decode-unroll-int8", "decode-unroll-int16x8"):
        opened = open_session(run / "variants" / variant)
        assert opened.outputs["next_token"].dtype == "float32"
        answers = opened.predict(opened.golden()[0])["next_token"]
        # 256 steps would leave many words of a vocabulary at the same probability.
        assert min(len(np.unique(row)) for row in answers.reshape(-1, TARGET_WORDS)) == TARGET_WORDS


@pytest.mark.parametrize("activation", [None, "log_softmax"])
def test_scores_that_are_the_answer_stay_float_too(activation: str | None, tmp_path: Path) -> None:
    keras.utils.set_random_seed(6)
    plain = models.tutorial("gru")
    steps = plain.get_layer("decoder").output
    steps = steps[0] if isinstance(steps, (list, tuple)) else steps
    answer = keras.layers.Dense(TARGET_WORDS, activation=activation, name="next_token")(steps)
    models.strengthen(keras.Model(plain.inputs, {"next_token": answer})).save(tmp_path / "own.keras")
    data = {key: value for key, value in models.sentences(30).items() if key.startswith("x/")}
    (made,) = convert(tmp_path / "own.keras", tmp_path, lowering="decode-unroll", quantization="int8", data=data)
    assert made.ok, made.message
    model = tensors.read(tmp_path / "variants" / "decode-unroll-int8" / "model.tflite")
    (step,) = (item for item in model.signatureDefs if tensors.text_of(item.signatureKey) == "decode_step")
    given = {tensors.text_of(item.name): int(item.tensorIndex) for item in step.outputs}
    graph = model.subgraphs[step.subgraphIndex]
    maker = {
        int(index): tensors.operator_name(model, item.opcodeIndex) for item in graph.operators for index in item.outputs
    }
    # Out of a DEQUANTIZE there would be 256 different numbers at most.
    assert maker[given["next_token"]] in ("FULLY_CONNECTED", "RESHAPE", "LOG_SOFTMAX")
    assert len(scores.find_scores(model, ["next_token"]).logits) == 1
    opened = open_session(tmp_path / "variants" / "decode-unroll-int8")
    inputs, wanted = opened.golden()
    answers = opened.predict(inputs)["next_token"]
    assert min(len(np.unique(row)) for row in answers.reshape(-1, TARGET_WORDS)) == TARGET_WORDS
    assert np.mean(answers.argmax(-1) == wanted["next_token"].argmax(-1)) > 0.9


def test_integer_attention_leaves_padding_out(run: Path) -> None:
    opened = open_session(run / "variants" / "decode-unroll-int8")
    inputs, _ = opened.golden()
    weights = opened.predict(inputs)["attention"]
    padded = np.broadcast_to(inputs["source"][:, None] == 0, weights.shape)
    assert weights[padded].max() < 1e-6
    # What is left is told apart: a scale over the mask's billion would make it all equal.
    first = weights[np.argmax((inputs["source"] > 0).sum(1)), 0]
    assert np.ptp(first[first > 1e-6]) > 0.01


def test_a_cell_of_ones_own_in_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input feeding: the attention is computed inside the decoder's loop, and what it found is a state."""
    # The child process imports the cell's module.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    keras.utils.set_random_seed(4)
    models.strengthen(models.input_feeding()).save(tmp_path / "own.keras")
    data = {key: value for key, value in models.sentences(60).items() if key.startswith("x/")}
    made = convert(
        tmp_path / "own.keras",
        tmp_path,
        lowering="decode-unroll",
        quantization=("float32", "int8", "int16x8"),
        data=data,
        custom=("translation_models:AttentionDecoder",),
        task="translation",
    )
    assert [item.status for item in made] == ["converted"] * 3, [item.message for item in made]
    for variant, agreement in (("float32", 1.0), ("int8", 0.9), ("int16x8", 0.95)):
        report = agent.verify(open_session(tmp_path / "variants" / f"decode-unroll-{variant}"))
        assert report["outputs"]["next_token"]["top1"] >= agreement
        assert report["outputs"]["attention"]["cosine"] > 0.99


# --- the session ---


def test_steps_by_hand_are_what_predict_gives(session: Session) -> None:
    inputs, _ = session.golden()
    together = session.predict(inputs)
    for row in range(4):
        session.encode({"source": inputs["source"][row]})
        for step in range(TARGET):
            answer = session.step(inputs["target"][row, step])
            for name, value in answer.items():
                np.testing.assert_allclose(value, together[name][row, step], atol=1e-6)


def test_a_target_may_be_longer_than_in_training(session: Session) -> None:
    source = session.golden()[0]["source"][0]
    answers = session.predict({"source": source, "target": np.full(3 * TARGET, 5, "int32")})
    assert answers["next_token"].shape == (3 * TARGET, TARGET_WORDS)


def test_a_step_needs_a_source(session: Session) -> None:
    session.reset()
    with pytest.raises(UsageError, match="encoded before"):
        session.step(2)
    session.encode(session.golden()[0]["source"][0])
    session.step(2)
    session.predict(session.golden()[0])  # Other samples: the source is not the one that was encoded.
    with pytest.raises(UsageError, match="encoded before"):
        session.step(2)


@pytest.mark.parametrize("source", [np.zeros(SOURCE + 1, "int32"), np.zeros((2, SOURCE), "int32"), np.zeros(SOURCE)])
def test_a_source_that_does_not_fit_is_refused(session: Session, source: np.ndarray) -> None:
    with pytest.raises(UsageError, match="'source'"):
        session.encode({"source": source})


def test_beams_follow_their_parents(session: Session) -> None:
    beams = session.beam_session()
    assert (session.beams, beams.batch) == (4, 4)
    source = session.golden()[0]["source"][1]
    beams.encode(source)
    first = np.array([4, 9, 17, 30], "int32")
    beams.step(first)
    parents = np.array([2, 2, 0, 3])
    beams.reorder(parents)
    second = np.array([7, 8, 9, 10], "int32")
    answers = beams.step({"target": second})
    for row in range(4):
        session.encode(source)
        session.step(first[parents[row]])
        for name, value in session.step(second[row]).items():
            np.testing.assert_allclose(answers[name][row], value, atol=1e-6)


def test_both_sessions_take_turns(session: Session) -> None:
    """One file in memory, states apart."""
    source = session.golden()[0]["source"]
    beams = session.beam_session()
    session.encode(source[0])
    alone = [session.step(token)["next_token"] for token in (2, 5, 6)]
    session.encode(source[0])
    beams.encode(source[1])
    for token, wanted in zip((2, 5, 6), alone, strict=True):
        beams.step(np.full(4, token + 1, "int32"))
        np.testing.assert_array_equal(session.step(token)["next_token"], wanted)


def test_beams_that_mix_up_their_states_fail(run: Path, tmp_path: Path) -> None:
    """A step for one is right, the step for several is not: only what compares the two can tell."""
    keras.utils.set_random_seed(5)
    models.strengthen(models.tutorial("lstm")).save(tmp_path / "own.keras")
    data = {key: value for key, value in models.sentences(20).items() if key.startswith("x/")}
    convert(tmp_path / "own.keras", tmp_path, lowering="decode", quantization="float32", data=data, task="translation")
    folder = tmp_path / "variants" / "decode-float32"
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"limits": {"max_abs": 1e-4}})
    good = agent.verify(open_session(folder))
    assert good["passed"], good["failures"]
    assert good["beams"]["next_token"]["max_abs"] < 1e-5
    model = tensors.read(folder / "model.tflite")
    (beams,) = (item for item in model.signatureDefs if tensors.text_of(item.signatureKey) == "decode_beams")
    swapped = {tensors.text_of(item.name): item for item in beams.outputs}
    first, second = swapped["next_state_0"], swapped["next_state_1"]
    first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex
    (folder / "model.tflite").write_bytes(packing.pack(model))
    session = Session(folder, check_hashes=False)
    report = agent.verify(session)
    assert not report["passed"]
    assert [text[:27] for text in report["failures"]] == ["beams: next_token: max_abs "]
    inputs, wanted = session.golden()
    found = check_parity(session, inputs, wanted, task="translation")
    assert [check.name for check in found.checks if check.verdict is Verdict.FAIL] == ["beams"]


def test_one_golden_sample_is_enough_to_compare_beams(session: Session) -> None:
    inputs = {name: value[:1] for name, value in session.golden()[0].items()}
    figures, failures = agent.compare_beams(session, inputs, "translation", {"max_abs": 1e-5})
    assert failures == []
    assert set(figures) == {"next_token", "attention"}
    assert (figures["next_token"]["top1"], figures["attention"]["top1"]) == (1.0, None)


def test_a_manifest_that_knows_its_tokens_says_what_they_are_chosen_by() -> None:
    names = ["attention", "weights"]
    assert agent.class_outputs({}, names) == ["weights"]
    assert agent.class_outputs({"translation": {"output": "attention"}}, names) == ["attention"]


@pytest.mark.parametrize("parents", [[0, 1, 2], [0, 1, 2, 4], [0, 1, 2, -1], [0.0, 1.0, 2.0, 3.0]])
def test_parents_are_rows(session: Session, parents: list[Any]) -> None:
    beams = session.beam_session()
    beams.encode(session.golden()[0]["source"][0])
    with pytest.raises(UsageError, match="Parents"):
        beams.reorder(parents)


def test_beams_take_steps_only(session: Session) -> None:
    with pytest.raises(UsageError, match="beams"):
        session.beam_session().predict(session.golden()[0])


def test_a_description_says_what_was_timed(run: Path, session: Session) -> None:
    report = agent.measure([lambda: open_session(run / "variants" / "decode-float32")], rounds=2, warmup_seconds=0.1)
    (model,) = report["models"]
    assert model["call"] == f"an encode and {TARGET} steps"
    assert (model["encoder"], model["beams"]) == ("encode", 4)
    assert model["p50_us"] > 0
    assert set(agent.sample_input(session)) == {"source", "target"}


@pytest.mark.parametrize("runtime", ["ai_edge_litert", "tensorflow"])
def test_the_agent_alone_checks_a_bundle(run: Path, runtime: str) -> None:
    words = [sys.executable, agent.__file__, "verify", str(run / "variants" / "decode-dynamic"), "--runtime", runtime]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["passed"]


def test_integer_edges(run: Path, tmp_path: Path) -> None:
    """Encoder and step are quantized apart: the session puts one's integers into the other's scale."""
    shutil.copytree(run / "export", tmp_path / "export")
    config = ConversionConfig(quantizations=(Quantization.INT8,), integer_io=True)
    made = {item.variant: item for item in run_conversion(tmp_path, config, task="translation")}
    assert made["decode-unroll-int8-io"].ok, made["decode-unroll-int8-io"].message
    opened = open_session(tmp_path / "variants" / "decode-unroll-int8-io")
    edges = opened.interpreter.inputs
    assert {edges[name].dtype for name in ("encoder_0", "state_0")} == {"int8"}
    assert opened.outputs["next_token"].dtype == "float32"
    inputs, wanted = opened.golden()
    answers = opened.predict(inputs)
    assert np.mean(answers["next_token"].argmax(-1) == wanted["next_token"].argmax(-1)) > 0.9
    beams = opened.beam_session()
    beams.encode(inputs["source"][0])
    got = beams.step(np.full(4, inputs["target"][0, 0], "int32"))["next_token"]
    np.testing.assert_allclose(got, np.repeat(answers["next_token"][0, :1], 4, 0), atol=0.02)


def test_an_older_runtime_is_kept_in_mind(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "export", tmp_path / "export")
    config = ConversionConfig(quantizations=(Quantization.INT8,), runtime=("tflite-runtime==2.14.0",))
    made = {item.variant: item for item in run_conversion(tmp_path, config, task="translation")}
    assert made["decode-unroll-int8"].ok, made["decode-unroll-int8"].message
    report = agent.verify(open_session(tmp_path / "variants" / "decode-unroll-int8"))
    assert report["passed"], report["failures"]


def test_a_batch_of_sources(run: Path, tmp_path: Path) -> None:
    data = {key: value for key, value in models.sentences(7).items() if key.startswith("x/")}
    made = convert(run / "own.keras", tmp_path, lowering="decode", quantization="float32", data=data, batch=3)
    assert made[0].ok, made[0].message
    opened = open_session(tmp_path / "variants" / "decode-float32")
    assert (opened.batch, opened.beams) == (3, 0)
    with pytest.raises(UsageError, match=rf"has shape \[3, {SOURCE}\]"):
        opened.encode(np.ones(SOURCE, "int32"))
    with pytest.raises(UsageError, match=r"conversion\.batch=1"):
        opened.beam_session()
    assert any("conversion.batch=1" in note for note in made[0].notes)
    report = agent.verify(opened)
    assert report["passed"], report["failures"]
    assert report["samples"] == 7  # Which 3 does not divide.


# --- what is written ---


def test_bundles_may_hold_tables_and_a_file_for_each_signature(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "export", tmp_path / "export")
    tables = tmp_path / "text.json"
    write_json(tables, {"words": []})
    config = ConversionConfig(quantizations=(Quantization.FLOAT32,), split_signatures=True)
    run_conversion(tmp_path, config, task="translation", tables=tables)
    bundle = read_bundle(tmp_path / "variants" / "decode-float32")
    assert {"text.json", "encode.tflite", "decode.tflite"} <= set(bundle.manifest.files)
    assert (bundle.folder / "text.json").read_bytes() == tables.read_bytes()
    words = bundle.manifest.translation
    assert words is not None
    assert (words.source, words.target, words.output, words.attention) == (
        "source",
        "target",
        "next_token",
        "attention",
    )
    open_session(bundle.folder)

    # Both files, called by hand, are the session.
    session = open_session(bundle.folder)
    encode, decode = (Interpreter(model_path=str(bundle.folder / f"{name}.tflite")) for name in ("encode", "decode"))
    inputs, _ = session.golden()
    wanted = session.predict(inputs)["next_token"]
    states = bundle.manifest.signature.states
    for row in range(3):
        encoded = called(encode, {"source": inputs["source"][row : row + 1]})
        current = {state.input: encoded[state.initial] for state in states}
        for step in range(TARGET):
            given = {
                item.name: encoded[item.name] for item in bundle.manifest.signature.inputs if item.name != "target"
            }
            answers = called(decode, {**given, **current, "target": inputs["target"][row : row + 1, step : step + 1]})
            current = {state.input: answers[state.output] for state in states}
            np.testing.assert_allclose(answers["next_token"][0, 0], wanted[row, step], atol=1e-6)


def called(interpreter: Interpreter, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One call of a file's main graph, tensors by name."""
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], feed[detail["name"]])
    interpreter.invoke()
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}


def test_a_manifest_comes_back(run: Path) -> None:
    for variant in MADE:
        manifest = read_bundle(run / "variants" / variant).manifest
        assert parse_manifest(json.loads(json.dumps(manifest.to_json()))) == manifest
        assert [spec.name for spec in manifest.inputs] == ["source", "target"]
        assert manifest.translation is None  # The tokens are not ours.


def without(*path: Any) -> Any:
    def change(value: dict[str, Any]) -> None:
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


def put(*path: Any, value: Any) -> Any:
    def change(target: dict[str, Any]) -> None:
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


WORDS = {"tables": "golden.npz", "source": "source", "target": "target", "output": "next_token"}


@pytest.mark.parametrize(
    ("change", "parsed", "told"),
    [
        (without("encoder"), "without an encoder", "encoder that there is not"),
        (without("sequence"), "no sequence", "without a sequence"),
        (without("encoder", "key"), "KeyError: 'key'", "encoder.key"),
        (put("encoder", "key", value="other"), "no such signature", ""),
        (put("encoder", "key", value=3), "encoder 3", "encoder.key"),
        (put("encoder", "outputs", value=[]), r"outputs \[\]", "where a step takes"),
        (put("encoder", "inputs", value=[]), r"inputs \[\]", "different names"),
        (put("encoder", "inputs", 0, "name", value="target"), "fed by steps", "different names"),
        (without("encoder", "inputs", 0, "dtype"), "KeyError: 'dtype'", "encoder.inputs.dtype"),
        (put("encoder", "inputs", 0, "dtype", value="int33"), "type 'int33'", "encoder.inputs.dtype"),
        (without("encoder", "inputs", 0, "shape"), "KeyError: 'shape'", "encoder.inputs.shape"),
        (put("encoder", "inputs", 0, "shape", value="16"), "of shape '16'", "encoder.inputs.shape"),
        (put("encoder", "inputs", 0, "shape", value=[1, 99]), "input 'source' as it is", ""),
        (put("encoder", "outputs", 0, "scale", value="1"), "of scale '1'", "encoder.outputs.scale"),
        (put("encoder", "outputs", 0, "shape", value=[1, 2]), "as a step takes them", "where a step takes"),
        (put("encoder", "outputs", 0, "scale", value=10**400), "of scale 1000", "encoder.outputs.scale"),
        (put("limits", value=[1]), "AttributeError", "limits"),
        (put("limits", value={"max_abs": "1"}), "limits", "limits"),
        (put("signature", "inputs", 0, "dtype", value=None), "type None", "signature.inputs.dtype"),
        (put("signature", "outputs", 0, "zero_point", value=0.5), "zero point 0.5", "signature.outputs.zero_point"),
        (put("signature", "states", 0, "initial", value="nothing"), "does not give", "where a step takes"),
        (put("signature", "states", 0, "initial", value=["a"]), "state 'state_0'", "signature.states.initial"),
        (put("signature", "states", 0, "silent", value="2"), "state 'state_0'", "signature.states.silent"),
        (put("signature", "states", 0, "output_scale", value=-1), "of scale -1", "signature.states.output_scale"),
        (put("sequence", "outputs", value=1), "sequence", "sequence.outputs"),
        (put("sequence", "steps", value="5"), "sequence", "sequence.steps"),
        (put("sequence", "steps", value=0), "sequence", "sequence.steps"),
        (without("sequence", "steps"), "KeyError: 'steps'", "sequence.steps"),
        (put("sequence", "inputs", value=[["target"]]), "sequence", "sequence.inputs"),
        (put("beams", "count", value=1), "beams", "beams.count"),
        (put("beams", "count", value=3), "as it is", ""),
        (put("beams", "key", value="other"), "no such signature", ""),
        (put("beams", "key", value=None), "beams", "beams.key"),
        (put("translation", value={**WORDS, "tables": "text.json"}), "translation", "translation.tables"),
        (put("translation", value={**WORDS, "output": "other"}), "translation", "translation.output"),
        (put("translation", value={**WORDS, "output": ["next_token"]}), "translation", "translation.output"),
        (put("translation", value={**WORDS, "attention": 1}), "translation", "translation.attention"),
        (put("translation", value={**WORDS, "target": "encoder_0"}), "translation", "translation.target"),
        (put("translation", value=[1]), "TypeError", "translation"),
    ],
)
def test_a_manifest_that_does_not_describe_its_decoder_is_refused(
    run: Path, tmp_path: Path, change: Any, parsed: str, told: str
) -> None:
    """By the agent, which is alone on a device, and by the host; what only the model knows, by the session alone."""
    folder = tmp_path / "bundle"
    shutil.copytree(run / "variants" / "decode-float32", folder)
    value = read_json(folder / "manifest.json")
    change(value)
    write_json(folder / "manifest.json", value)
    with pytest.raises(UsageError, match=parsed):
        Session(folder).beam_session()
    if told:
        with pytest.raises(UsageError, match=re.escape(told) if "." in told else told):
            parse_manifest(value)


@pytest.fixture(scope="module")
def plain(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = read_json(run / "variants" / "decode-float32" / "manifest.json")
    return value


@pytest.fixture(scope="module")
def fuzzed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle, whose manifest is written again and again."""
    return Path(shutil.copytree(run / "variants" / "decode-float32", tmp_path_factory.mktemp("fuzzed") / "bundle"))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_change_to_a_manifest_gives_a_traceback(fuzzed: Path, plain: dict[str, Any], data: st.DataObject) -> None:
    value = copy.deepcopy(plain)
    value["translation"] = {**WORDS, "attention": "attention"}
    parts = ["encoder", "beams", "translation", "signature", "sequence"]
    target: Any = value[data.draw(st.sampled_from(parts))]
    while True:
        key = data.draw(st.sampled_from(list(target) if isinstance(target, dict) else range(len(target))))
        if not isinstance(target[key], (dict, list)) or not target[key] or data.draw(st.booleans()):
            break
        target = target[key]
    if isinstance(target, dict) and data.draw(st.booleans()):
        del target[key]
    else:
        others = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=3)
        target[key] = data.draw(others | st.lists(st.integers(), max_size=2) | st.lists(st.text(max_size=2)))
    with contextlib.suppress(UsageError):
        assert isinstance(parse_manifest(value), Manifest)
    (fuzzed / "manifest.json").write_text(json.dumps(value), encoding="utf-8")  # NaN too.
    with contextlib.suppress(UsageError):
        take_a_step(fuzzed)


def take_a_step(folder: Path) -> np.ndarray:
    session = Session(folder, check_hashes=False)
    session.describe()
    decoder = SessionDecoder(session)
    decoder.begin(np.full(2, 5, np.int32))
    return decoder.step(np.full(decoder.beams, 2, np.int32))[0]


def test_what_the_fuzzed_manifest_is_made_of_takes_a_step(fuzzed: Path, plain: dict[str, Any]) -> None:
    write_json(fuzzed / "manifest.json", {**plain, "translation": {**WORDS, "attention": "attention"}})
    assert take_a_step(fuzzed).shape == (4, TARGET_WORDS)


# --- the reference ---


def test_a_reference_that_is_too_large_keeps_samples_spread_over_the_split(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = TARGET * (TARGET_WORDS + SOURCE)
    monkeypatch.setattr(jobs, "MOST_REFERENCE", 20 * each + 1)
    monkeypatch.setattr(jobs, "MOST_GOLDEN", 3 * each)
    (tmp_path / "data").mkdir()
    split = {**models.sentences(79, seed=9), "index": np.arange(100, 179)}
    save_npz(tmp_path / "data" / "test.npz", split)
    write_json(tmp_path / "data" / "dataset.json", {"task": "language-model"})
    shutil.copytree(run / "variants" / "decode-float32", tmp_path / "variants" / "decode-float32")
    export = tmp_path / "export"
    made = jobs.make_reference(
        str(run / "own.keras"),
        str(run / "export" / "decode"),
        str(export / "reference.npz"),
        str(export / "golden.npz"),
        test=str(tmp_path / "data" / "test.npz"),
    )
    assert made == {"samples": 20, "golden": 3}
    kept = load_npz(export / "reference.npz")
    assert kept["index"].tolist() == np.linspace(0, 78, 20).round().astype(int).tolist()
    assert kept["y/next_token"].shape == (20, TARGET, TARGET_WORDS)
    case = variant_case(tmp_path, "decode-float32", ChecksConfig())
    np.testing.assert_array_equal(case["inputs"]["source"], split["x/source"][kept["index"]])
    np.testing.assert_array_equal(case["targets"]["next_token"], split["y/next_token"][kept["index"]])
    np.testing.assert_array_equal(case["index"], split["index"][kept["index"]])
    report = verify_variant(str(tmp_path), "decode-float32", ChecksConfig(), "auto")
    assert report.verdict is Verdict.PASS, report.failures
    # Padding counts nowhere.
    (accuracy,) = [metric for metric in report.metrics if metric.name == "accuracy"]
    said = split["weight/next_token"][kept["index"]] > 0
    right = kept["y/next_token"].argmax(-1) == split["y/next_token"][kept["index"]]
    assert accuracy.reference == pytest.approx(right[said].mean())


def test_a_small_reference_is_whole(run: Path) -> None:
    kept = load_npz(run / "export" / "reference.npz")
    assert "index" not in kept
    assert len(kept["y/next_token"]) == 80


# --- from a user's own model to a report ---


@pytest.mark.parametrize(("kind", "attention"), [("lstm", ""), ("gru", "additive")])
def test_the_commands_take_a_model_of_ones_own(kind: str, attention: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    models.strengthen(models.tutorial(kind, attention)).save(tmp_path / "own.keras")
    data = models.sentences(120)
    np.savez(tmp_path / "own.npz", **data)  # type: ignore[arg-type]
    folder = tmp_path / "run"

    def command(*words: Any) -> Any:
        done = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    settings = ["--set", "conversion.quantizations=float32,int8"]
    command("convert", tmp_path / "own.keras", "--data", tmp_path / "own.npz", "--out", folder, *settings)
    plan = read_json(folder / "export" / "plan.json")
    assert plan["lowerings"] == ["decode", "decode-unroll"]
    command("verify", folder)
    command("bench", folder)
    for variant in ("decode-float32", "decode-unroll-float32", "decode-unroll-int8"):
        assert read_json(folder / "checks" / f"{variant}.json")["verdict"] == "pass"
        assert (folder / "bench" / f"{variant}.json").is_file()
    told = command("inspect", folder / "variants" / "decode-unroll-int8")
    assert {item["key"] for item in told["signatures"]} == {"decode_step", "encode", "decode_beams"}
    results = command("report", folder)
    assert results is not None
    assert read_json(folder / "results.json")["variants"]


def test_the_task_is_told_from_what_is_told_before(tmp_path: Path) -> None:
    from edge_dl.cli.workflow import _guess_task
    from edge_dl.recipe import Task

    def guessed(**arrays: np.ndarray) -> Task:
        np.savez(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
        return _guess_task(str(tmp_path / "own.npz"))

    data = {key: value for key, value in models.sentences(30).items() if key[:2] in ("x/", "y/")}
    assert guessed(**data) is Task.LANGUAGE_MODEL
    generator = np.random.default_rng(0)
    words, kinds, tags = (generator.integers(1, most, (30, 8)) for most in (50, 9, 5))
    # Words with a kind each, a tag for every word: as many whole numbers, and nothing that was said before.
    assert guessed(**{"x/words": words, "x/kind": kinds, "y/tag": tags}) is Task.LABELLING
    assert guessed(**{"x/words": words, "x/kind": np.zeros_like(kinds), "y/tag": tags}) is Task.LABELLING


def test_weights_of_a_users_own_arrays_reach_the_checks(tmp_path: Path) -> None:
    from edge_dl.data import load
    from edge_dl.recipe import DataConfig, Task

    np.savez(tmp_path / "own.npz", **models.sentences(50))  # type: ignore[arg-type]
    for task in (Task.LANGUAGE_MODEL, Task.TRANSLATION):
        dataset = load(DataConfig(source=str(tmp_path / "own.npz")), task, seed=0)
        assert dataset.test.weight is not None
        np.testing.assert_array_equal(dataset.test.weight["next_token"] > 0, dataset.test.y["next_token"] > 0)
    np.savez(tmp_path / "bad.npz", **models.sentences(50), **{"weight/other": np.ones((50, TARGET))})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="weight/other"):
        load(DataConfig(source=str(tmp_path / "bad.npz")), Task.LANGUAGE_MODEL, seed=0)
