"""A translation from its Keras model to its report: export, conversion, verification by itself, page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from edge_dl import data
from edge_dl.checks import run_verify
from edge_dl.checks.translation import REFERENCE, ReferenceAnswers
from edge_dl.checks.verdicts import ParityReport, Verdict
from edge_dl.converters import run_conversion, run_export
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, read_json, save_npz, write_json
from edge_dl.models.seq2seq import build
from edge_dl.recipe import ChecksConfig, ConversionConfig, DataConfig, Seq2SeqConfig, Task
from edge_dl.report import write_report
from edge_dl.runtime import Search, Translator
from edge_dl.text import END
from edge_dl.variants import Lowering, Quantization

pytestmark = pytest.mark.slow
VARIANTS = ("decode-float32", "decode-dynamic")
CHECKS = ChecksConfig(max_drop=0.005, samples=60)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translation") / "run"
    dataset = data.load(DataConfig("toy-translation", vocabulary=200, limit=1500), Task.TRANSLATION)
    assert dataset.sentences is not None
    # One sentence that is too long for the window, and one of which nothing is known.
    first = dataset.sentences.test[0]
    long = replace(first, source=" ".join([first.source] * 9))
    strange = replace(first, source="数字")
    sentences = replace(dataset.sentences, test=(long, strange, *dataset.sentences.test[:70]))
    data.save(replace(dataset, sentences=sentences), folder / "data")
    keras.utils.set_random_seed(5)
    model = build(Task.TRANSLATION, Seq2SeqConfig(units=(8,), embedding=6), dataset)
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    bias = model.get_layer("head").bias
    bias.assign(keras.ops.convert_to_numpy(bias) + 3.0 * (np.arange(bias.shape[0]) == END))
    model.save(folder / "model.keras")
    config = ConversionConfig(
        lowerings=(Lowering.DECODE.value,), quantizations=(Quantization.FLOAT32, Quantization.DYNAMIC)
    )
    run_export(folder / "model.keras", folder, config)
    run_conversion(folder, config, name="tiny", task="translation", tables=folder / "data" / "text.json")
    write_json(folder / "run.json", {"format": 1, "recipe": {"name": "tiny", "task": "translation"}})
    run_verify(folder, CHECKS)
    return folder


def report_of(run: Path, variant: str) -> ParityReport:
    return ParityReport.from_json(read_json(run / "checks" / f"{variant}.json"))


def test_the_keras_model_answers_every_sentence(run: Path) -> None:
    found = ReferenceAnswers.read(run / "export" / REFERENCE)
    assert len(found.sentences) == 72
    assert [item.shortened for item in found.sentences[:3]] == [True, False, False]
    assert found.sentences[1].answer.text == "数字"
    assert len({item.answer.tokens for item in found.sentences}) > 5


def test_float32_says_the_same_sentences(run: Path) -> None:
    report = report_of(run, "decode-float32")
    assert report.verdict is Verdict.PASS, report.message
    told = report.translation
    assert told is not None
    assert (told.sentences, told.identical, told.worst) == (60, 60, ())
    assert {check.name for check in report.checks} >= {"metric", "min_identical", "max_abs", "repeatable"}
    # The first metric is BLEU, which is held; those of the next token are only told.
    held = [metric.name for metric in report.metrics if metric.verdict is not None]
    assert held == ["bleu"]
    assert [metric.name for metric in report.metrics][:2] == ["bleu", "chrf"]
    assert {"perplexity", "accuracy"} <= {metric.name for metric in report.metrics}
    assert report.limits.max_drop == CHECKS.max_drop
    assert told.alignments
    for alignment in told.alignments:
        sums = np.asarray(alignment.weights).sum(axis=1)
        assert ((sums > 0) & (sums <= 1.001)).all()
    answers = read_json(run / "checks" / "translations" / "decode-float32.json")["answers"]
    reference = {item.answer.text for item in ReferenceAnswers.read(run / "export" / REFERENCE).sentences}
    assert {answer["text"] for answer in answers} <= reference


def test_the_translator_says_what_was_checked(run: Path) -> None:
    translator = Translator(run / "variants" / "decode-float32")
    whole = [item for item in ReferenceAnswers.read(run / "export" / REFERENCE).sentences if not item.shortened]
    for item in whole[:12]:
        (best,) = translator.translate(item.source, Search(), split=False)
        assert best.text == item.answer.text


def test_what_is_not_the_model_is_found_out(run: Path) -> None:
    """Reference answers of another model: identical sentences and BLEU fall, and the variant fails."""
    path = run / "export" / REFERENCE
    before, check = path.read_text(encoding="utf-8"), run / "checks" / "decode-float32.json"
    kept = check.read_text(encoding="utf-8")
    found = ReferenceAnswers.read(path)
    right = tuple(replace(item, answer=replace(item.answer, text=item.references[0])) for item in found.sentences)
    other = tuple(
        replace(item, answer=replace(item.answer, tokens=(*item.answer.tokens, 9))) if row % 2 else item
        for row, item in enumerate(right)
    )
    try:
        ReferenceAnswers(other, found.longest).write(path)
        run_verify(run, CHECKS)
        report = report_of(run, "decode-float32")
        assert report.verdict is Verdict.FAIL
        assert {item.name for item in report.checks if item.verdict is Verdict.FAIL} == {"metric", "min_identical"}
        assert report.translation is not None
        assert report.translation.identical < 40
    finally:
        path.write_text(before, encoding="utf-8")
        check.write_text(kept, encoding="utf-8")


def test_a_metric_of_the_next_token_leaves_padding_out(run: Path) -> None:
    report = report_of(run, "decode-float32")
    arrays, answers = load_npz(run / "data" / "test.npz"), load_npz(run / "export" / "reference.npz")["y/next_token"]
    rows = np.sort(np.random.default_rng(0).permutation(len(answers))[: CHECKS.samples])
    truth, counted = arrays["y/next_token"][rows], arrays["weight/next_token"][rows] > 0
    hits = answers[rows].argmax(-1) == truth
    accuracy = next(metric for metric in report.metrics if metric.name == "accuracy")
    assert accuracy.reference == pytest.approx(hits[counted].mean())
    assert hits.mean() != pytest.approx(hits[counted].mean())


def test_the_report_tells_of_translations(run: Path) -> None:
    paths = write_report(run)
    results: dict[str, Any] = json.loads(paths.results.read_text(encoding="utf-8"))
    assert [variant["name"] for variant in results["variants"]] == list(VARIANTS)
    assert all(variant["translation"] for variant in results["variants"])
    page = paths.html.read_text(encoding="utf-8")
    assert 'class="attention"' in page
    assert "BLEU by length of the sentence" in page


def test_without_reference_translations_the_next_token_is_held(run: Path, tmp_path: Path) -> None:
    moved = (run / "export" / REFERENCE).rename(tmp_path / REFERENCE)
    kept = (run / "checks" / "decode-float32.json").read_text(encoding="utf-8")
    try:
        run_verify(run, CHECKS)
        report = report_of(run, "decode-float32")
        assert report.translation is None
        assert [metric.name for metric in report.metrics if metric.verdict is not None] == ["perplexity"]
        assert not (run / "checks" / "translations").exists()
    finally:
        moved.rename(run / "export" / REFERENCE)
        (run / "checks" / "decode-float32.json").write_text(kept, encoding="utf-8")


def test_without_sacrebleu_verify_says_so_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(UsageError, match=r"edge-dl\[convert\]"):
        run_verify(run, CHECKS)


def test_a_model_that_gives_nan_fails_and_does_not_end_the_check(run: Path) -> None:
    """What was found before the translations stands: parity of the next token fails first."""
    path = run / "export" / "reference.npz"
    kept = path.read_bytes()
    arrays = load_npz(path)
    try:
        save_npz(path, {name: np.full_like(array, np.nan) for name, array in arrays.items()})
        run_verify(run, CHECKS)
        report = report_of(run, "decode-float32")
        assert report.verdict is Verdict.FAIL
        assert report.checks[0].name == "finite"
        assert report.translation is not None
    finally:
        path.write_bytes(kept)
