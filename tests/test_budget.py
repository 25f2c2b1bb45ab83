"""The variant `mixed`: operators in precisions of their own, and the search that holds an accuracy budget."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spoiled_network
import tflite_models

from edge_dl.bundle import read_bundle
from edge_dl.checks.graph import Graph, parse_graph, read_graph
from edge_dl.checks.layers import ActivationRange, LayerError
from edge_dl.cli.budget import parse_share, with_budget
from edge_dl.converters import budget, tensors
from edge_dl.converters.calibration import batches, random_calibration
from edge_dl.converters.isolation import Isolation, Job, JobResult, JobStatus
from edge_dl.converters.outcomes import Outcome, read_outcomes
from edge_dl.converters.static import Precision, has_kernel, quantize_static
from edge_dl.converters.tries import find_moves
from edge_dl.errors import UsageError
from edge_dl.files import load_npz
from edge_dl.report.markdown import to_markdown
from edge_dl.report.mixes import HEADS, mix_sections
from edge_dl.report.results import collect
from edge_dl.runtime import open_session
from edge_dl.variants import Quantization

FLOAT32, INT8, MIXED = Quantization.FLOAT32, Quantization.INT8, Quantization.MIXED


def accuracy(run: Path, variant: str) -> float:
    test = load_npz(run / "data/test.npz")
    answers = open_session(run / "variants" / variant).predict({"image": test["x/image"]})["label"]
    return float((answers.argmax(axis=1) == test["y/label"]).mean())


# --- one operator in another precision ---


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Mapping[str, np.ndarray]]]:
    content = tflite_models.convert(tflite_models.conv_function(), "predict", tmp_path_factory.mktemp("conv"))
    inputs = tensors.signature_of(tensors.read(content)).inputs
    return content, list(batches(random_calibration(inputs, count=20, seed=0), inputs))


def types(content: bytes) -> dict[str, str]:
    """Type of each operator's output, by the operator's kind."""
    graph = parse_graph(content).subgraphs[0]
    return {operator.name: graph.tensors[operator.outputs[0]].dtype for operator in graph.operators}


@pytest.mark.parametrize("other", [Precision.INT16X8, Precision.FLOAT32])
def test_one_operator_differs_from_the_others(conv: Any, other: Precision, tmp_path: Path) -> None:
    content, feeds = conv
    kinds = [operator.name for operator in parse_graph(content).subgraphs[0].operators]
    result = quantize_static(content, feeds, exceptions={kinds.index("CONV_2D"): other})
    found = types(result)
    assert found["CONV_2D"] == {"int16x8": "int16", "float32": "float32"}[other.value]
    assert found["FULLY_CONNECTED"] == "int8"
    edges = tensors.signature_of(tensors.read(result))
    assert {item.dtype for item in (*edges.inputs, *edges.outputs)} == {"float32"}
    path = tmp_path / "model.tflite"
    path.write_bytes(result)
    images = tflite_models.images(20)
    (answers,) = open_session(path).predict({"image": images}).values()
    truth = tflite_models.conv_reference(images)
    noise = ((answers - truth) ** 2).sum() / (truth**2).sum()
    assert -10 * np.log10(noise) > 25  # Random pictures reach a little beyond what calibration saw.


def test_everything_in_float_is_the_float_model(conv: Any) -> None:
    content, feeds = conv
    count = len(parse_graph(content).subgraphs[0].operators)
    result = quantize_static(content, feeds, exceptions=dict.fromkeys(range(count), Precision.FLOAT32))
    assert set(types(result).values()) == {"float32"}


def test_kernels() -> None:
    assert has_kernel("CONV_2D", Precision.INT16X8)
    assert has_kernel("ARG_MAX", Precision.FLOAT32)
    assert not has_kernel("ARG_MAX", Precision.INT8)


# --- which operators to move ---


def layer(number: int, share: float, rounding: float) -> LayerError:
    activation = ActivationRange(low=0.0, high=1.0, inner=0.9, spread=1.0, dtype="int8", scale=1 / 255)
    return LayerError(
        number, number, "CONV_2D", f"layer {number}", 10.0, 0.3, 10.0, 0.3, rounding, share, 10.0, activation
    )


def test_rounding_takes_the_readers_along_and_weights_do_not(tmp_path: Path) -> None:
    graph = chain(tmp_path)
    kinds = [operator.name for operator in graph.subgraphs[0].operators]
    assert kinds == ["CONV_2D", "MAX_POOL_2D", "CONV_2D", "FULLY_CONNECTED"]
    moves = find_moves([layer(0, 0.7, 0.9), layer(2, 0.3, 0.0), layer(3, 0.0, 0.9)], graph.subgraphs[0])
    # Behind the pooling, which only passes numbers on, stands the second convolution: it reads what is kept.
    assert [(move["operators"], move["precision"], round(move["share"], 2)) for move in moves] == [
        ([0, 1, 2], "int16x8", 0.63), ([2], "float32", 0.3), ([0], "float32", 0.07), ([0, 1, 2], "float32", 0.63),
    ]  # fmt: skip


def chain(folder: Path) -> Graph:
    tf = tflite_models.tensorflow()
    first, second = tflite_models.weights(1, 3, 3, 1, 4), tflite_models.weights(2, 3, 3, 4, 4)

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
    def predict(image: Any) -> dict[str, Any]:
        hidden = tf.nn.max_pool2d(tf.nn.conv2d(image, first, 1, "VALID"), 2, 2, "VALID")
        hidden = tf.nn.conv2d(hidden, second, 1, "VALID")
        return {"label": tf.matmul(tf.reshape(hidden, (-1, 4)), tflite_models.weights(3, 4, 2))}

    path = folder / "chain.tflite"
    path.write_bytes(tflite_models.convert(predict, "predict", folder / "saved"))
    return read_graph(path)


# --- the search ---


class Pretended(Isolation):
    """Answers for the child process: the budget holds when every operator in `needed` has left int8."""

    def __init__(self, needed: set[int], moves: int, crash: set[int] | None = None) -> None:
        super().__init__()
        self.needed, self.moves, self.crash = needed, moves, crash
        self.tried: list[set[int]] = []

    def run(self, jobs: Sequence[Job], **_: Any) -> list[JobResult]:
        (job,) = jobs
        if job.call.endswith("make_reference"):
            return [JobResult(job.name, JobStatus.DONE, {})]
        if job.call.endswith("rank"):
            moves = [{"operators": [number], "precision": "float32"} for number in range(self.moves)]
            names = {str(number): f"layer_{number}" for number in range(self.moves)}
            value = {"moves": moves, "names": names, "operators": list(range(self.moves))}
            return [JobResult(job.name, JobStatus.DONE, value)]
        moved = {int(number) for number in job.arguments["arguments"]["options"]["precisions"]}
        self.tried.append(moved)
        if moved == self.crash:
            return [JobResult(job.name, JobStatus.CRASHED, message="killed by signal SIGSEGV", signal="SIGSEGV")]
        Path(job.arguments["bundle"]).mkdir()
        holds = self.needed <= moved
        value = {"made": {"tool": "", "notes": [], "bytes": 1, "weights": {}}, "metric": "accuracy", "unit": "share",
                 "value": 0.9 if holds else 0.1, "reference": 0.9, "drop": 0.0 if holds else 0.8, "holds": holds,
                 "bytes": 1 + len(moved), "ms": 1.0, "samples": 100}  # fmt: skip
        return [JobResult(job.name, JobStatus.DONE, value)]


def search(worker: Pretended, folder: Path) -> JobResult:
    arguments = {"variant": "mixed", "folder": str(folder / "variants" / "mixed"), "options": {}, "calibration": "",
                 "limits": {"max_drop": 0.005}}  # fmt: skip
    return budget.find_mix(folder, arguments, worker, time_limit=10)


@pytest.mark.parametrize("needed", [set(), {0}, {3}, {0, 5}, {2, 6}, {11}, {1, 9, 10}])
def test_the_search_finds_what_is_needed_and_gives_the_rest_back(needed: set[int], tmp_path: Path) -> None:
    worker = Pretended(needed, 12)
    result = search(worker, tmp_path)
    assert result.status is JobStatus.DONE
    (chosen,) = [step for step in result.value["path"] if step["chosen"]]
    assert chosen["holds"]
    names = {name for listed in chosen["operators"].values() for name in listed}
    found = {int(name.removeprefix("layer_")) for name in names}
    assert needed <= found
    # At most 8 are given back: of 12 moves that were made with the last one needed, 3 may remain beside.
    assert len(found - needed) <= max(0, max(needed, default=0) - budget.MOST_GIVEN_BACK)
    assert len(worker.tried) == len(result.value["path"])
    assert len(worker.tried) == len(set(map(frozenset, worker.tried)))
    assert len(worker.tried) <= 1 + 2 * 4 + budget.MOST_GIVEN_BACK + 1
    assert (tmp_path / "variants" / "mixed").is_dir()
    assert not list((tmp_path / "variants").glob(".*"))


def test_a_candidate_that_crashes_is_a_row_and_no_end(tmp_path: Path) -> None:
    result = search(Pretended({1}, 12, crash={0, 1}), tmp_path)
    assert result.status is JobStatus.DONE
    path = result.value["path"]
    assert [step["status"] for step in path if not step["holds"]].count("crashed") == 1
    (chosen,) = [step for step in path if step["chosen"]]
    assert chosen["operators"] == {"float32": ["layer_1"]}


def test_a_budget_that_nothing_holds_is_said(tmp_path: Path) -> None:
    result = search(Pretended({99}, 4), tmp_path)
    assert result.status is JobStatus.FAILED
    assert "holds the budget of 0.50" in result.message
    assert len(result.value["path"]) == 4  # none, 1, 2 and all of the 4
    assert not (tmp_path / "variants" / "mixed").exists()


# --- for real ---


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    run = spoiled_network.make_run(tmp_path_factory.mktemp("spoiled"), spoil=True)
    return run, spoiled_network.convert_run(run, FLOAT32, INT8, MIXED, max_drop=0.02)


def test_a_broken_int8_model_is_mended(spoiled: Any) -> None:
    run, outcomes = spoiled
    mixed = outcomes["mixed"]
    assert mixed.ok, mixed.message
    whole, broken, mended = (accuracy(run, name) for name in ("float32", "int8", "mixed"))
    assert whole > 0.85
    assert broken < whole - 0.1
    assert mended > whole - 0.04
    assert mixed.bytes < 0.7 * outcomes["float32"].bytes
    first, *_ = mixed.path
    (chosen,) = [step for step in mixed.path if step["chosen"]]
    assert (first["what"], first["holds"], first["chosen"]) == ("int8 as converted", False, False)
    assert first["drop"] > 0.1
    assert chosen["holds"]
    assert chosen["drop"] <= 0.02
    moved = list(itertools.chain(*chosen["operators"].values()))
    assert any(spoiled_network.SPOILED in name for name in moved)
    graph = read_graph(run / "variants/mixed/model.tflite").subgraphs[0]
    kinds = {graph.tensors[operator.outputs[0]].dtype for operator in graph.operators}
    assert "int8" in kinds
    assert {"int16", "float32"} & kinds
    manifest = read_bundle(run / "variants/mixed").manifest
    assert (manifest.variant, manifest.quantization, manifest.limits.max_drop) == ("mixed", "mixed", 0.02)


def test_the_path_is_recorded_and_reported(spoiled: Any) -> None:
    run, outcomes = spoiled
    (stored,) = [outcome for outcome in read_outcomes(run) if outcome.variant == "mixed"]
    assert json.dumps(stored.path) == json.dumps(outcomes["mixed"].path)
    results = collect(run)
    (section,) = mix_sections(results["variants"])
    assert section["name"] == "mixed"
    assert len(section["rows"]) == len(stored.path)
    assert all(len(row["cells"]) == len(HEADS) for row in section["rows"])
    assert [row["chosen"] for row in section["rows"]].count(True) == 1
    assert "What the accuracy budget took: mixed" in to_markdown(results)


def test_nothing_is_done_again(spoiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, outcomes = spoiled
    monkeypatch.setattr("edge_dl.converters.conversion.find_mix", None)
    again = spoiled_network.convert_run(run, FLOAT32, INT8, MIXED, max_drop=0.02)
    assert json.dumps(again["mixed"].to_json()) == json.dumps(outcomes["mixed"].to_json())


def test_plain_int8_that_holds_the_budget_is_taken_as_it_is(tmp_path: Path) -> None:
    run = spoiled_network.make_run(tmp_path, spoil=False)
    mixed = spoiled_network.convert_run(run, INT8, MIXED)["mixed"]
    assert mixed.ok, mixed.message
    assert [step["what"] for step in mixed.path] == ["int8 as converted"]
    assert "this is the same model" in mixed.notes[-1]
    same = [(run / "variants" / name / "model.tflite").read_bytes() for name in ("int8", "mixed")]
    assert same[0] == same[1]
    # Without a plain int8 beside it, the first candidate does.
    alone = spoiled_network.convert_run(run, MIXED)["mixed"]
    assert [step["what"] for step in alone.path] == ["int8 everywhere"]
    assert accuracy(run, "mixed") > 0.85
    # What is wrong with the data is one line, and takes nothing else away.
    (run / "data/validation.npz").unlink()
    missing = spoiled_network.convert_run(run, INT8, MIXED)
    assert missing["int8"].ok
    assert missing["mixed"].exit_code == 2
    assert "validation split" in missing["mixed"].message
    without = spoiled_network.convert_run(run, INT8, MIXED, max_drop=None)["mixed"]
    assert "accuracy budget" in without.message


def test_a_candidate_has_a_time_limit(spoiled: Any, tmp_path: Path) -> None:
    run = spoiled_network.make_run(tmp_path, spoil=True)
    late = spoiled_network.convert_run(run, MIXED, time_limit=0.01)["mixed"]
    assert late.status == "timed out"
    assert not (run / "variants/mixed").exists()


# --- the command line ---


@pytest.mark.parametrize(
    ("text", "share"), [("0.5%", 0.005), ("0.005", 0.005), (" 2 % ", 0.02), ("0%", 0.0), ("20%", 0.2), ("0.1", 0.1)]
)
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "words"),
    [("-1%", "from 0%"), ("100%", "less than 100%"), ("half", "half"), ("nan", "from 0%"), ("", "from 0%"),
     ("0.5", "per cent sign"), ("0,5%", "0.5%")],
)  # fmt: skip
def test_what_is_no_share(text: str, words: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_share(text)
    assert words in str(told.value)


def test_a_budget_asks_for_the_mix_and_holds_every_variant_to_it() -> None:
    from edge_dl.training.recipes import RECIPES

    recipe = with_budget(RECIPES["cnn"], "0.5%")
    assert recipe.checks.max_drop == 0.005
    assert recipe.conversion.quantizations == (*RECIPES["cnn"].conversion.quantizations, MIXED)
    assert with_budget(recipe, "1%").conversion.quantizations.count(MIXED) == 1
    assert with_budget(RECIPES["cnn"], "") is RECIPES["cnn"]
