"""What a report says of translations: page, Markdown, JUnit, terminal, and two runs beside each other."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report_page import Page
from translation_run import WORDS, changed, make_translation_run, translated_sentences
from typer.testing import CliRunner

from edge_dl.checks.translation_pairs import LONG, compare_lengths, compare_runs, read_translated
from edge_dl.cli.main import app
from edge_dl.errors import UsageError
from edge_dl.files import read_json, write_json
from edge_dl.report import collect, write_report
from edge_dl.report.beside import beside_results, beside_section, length_lines, run_label, words
from edge_dl.report.page import to_html
from edge_dl.report.translations import _marked, shown_variant, translation_rows, translation_section


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_translation_run(tmp_path_factory.mktemp("attention") / "run")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sentences without attention: what comes late in a sentence is lost."""
    folder = tmp_path_factory.mktemp("fixed") / "run"
    make_translation_run(folder, name="seq2seq", attention="none", forgets=0.6)
    write_report(folder)
    return folder


def test_results_say_what_the_documentation_does(run: Path) -> None:
    documented = (Path(__file__).parents[1] / "docs/results.md").read_text(encoding="utf-8")
    results = read_json(run / "results.json")
    told = results["variants"][1]["translation"]
    for field in (*told, *told["worst"][0], *told["lengths"][0]):
        assert f"`{field}`" in documented, field
    assert results["beside"] is None
    assert results["variants"][1]["metric"]["name"] == "bleu"
    assert results["verdict"]["status"] == "fail"


def test_a_row_for_keras_and_one_a_variant(run: Path) -> None:
    results = read_json(run / "results.json")
    rows = translation_rows(results)
    names = [row["cells"][0]["text"] for row in rows]
    assert names == ["Keras model", "decode-float32", "decode-int8"]
    keras, same, less = ([cell["text"] for cell in row["cells"]] for row in rows)
    assert keras[1:3] == same[1:3]
    assert (same[3], same[4]) == ("±0.00\u00a0points", "100.0\u00a0%")
    assert less[3].startswith("−")
    assert re.search(r"\d+ differ, half by token \d", rows[2]["cells"][4]["more"])
    low, high = (float(end) for end in rows[0]["cells"][1]["more"].split(" to "))
    assert low < float(keras[1]) < high


def test_the_page_shows_sentences_lengths_and_attention(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    read = Page(page)
    text = re.sub(r"\s+", " ", read.text)
    assert "Sentences in which decode-int8 is furthest from the Keras model" in text
    assert "same as Keras" in text
    assert "BLEU by length of the sentence" in text
    assert 'class="attention"' in page
    assert "<mark>" in page
    # A word that is markup stays a word.
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    # The picture takes the page's styles, and brings none that would change other drawings.
    assert page.count("<style>") == 1


def test_the_mark_begins_with_the_word_that_differs() -> None:
    assert _marked("le chat dort", "le chien dort") == "le <mark>chat dort</mark>"
    assert _marked("le chat", "le chats") == 'le chat<mark title="ends here">†</mark>'
    assert _marked("<b> le", "<b> la") == "&lt;b&gt; <mark>le</mark>"
    assert _marked("", "le") == '<mark title="ends here">†</mark>'


def test_markdown_and_junit(run: Path) -> None:
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "### Translations" in markdown
    assert "| variant | BLEU | chrF | BLEU against Keras |" in markdown
    suites = {suite.get("name"): suite for suite in ElementTree.parse(run / "junit.xml").getroot()}
    properties = {item.get("name"): item.get("value") for item in suites["decode-int8"].iter("property")}
    assert set(properties) == {"bleu", "chrf", "identical"}
    told = read_json(run / "results.json")["variants"][1]["translation"]
    assert properties["bleu"] == f"{100 * told['scores'][0]['variant']:.2f}"
    failed = [case.get("name") for case in suites["decode-int8"].iter("testcase") if case.find("failure") is not None]
    assert failed == ["metric"]


def test_two_runs_beside_each_other(run: Path, other: Path, tmp_path: Path) -> None:
    both = shutil.copytree(run, tmp_path / "run")
    paths = write_report(both, other)
    results = read_json(paths.results)
    assert results["beside"]["label"] == "seq2seq, no attention"
    assert run_label(results) == "translate, additive attention"
    differences = {(item["shortest"], item["longest"]): item for item in results["beside"]["differences"]}
    short, long = differences[(1, 4)], differences[(LONG, None)]
    assert short["gain"] == pytest.approx(0.0, abs=1e-9)
    assert long["low"] > 0.1
    assert long["low"] < long["gain"] < long["high"]
    assert long["gain"] == pytest.approx(long["value"] - long["beside"])
    variant = shown_variant(results)
    assert variant is not None
    lines = length_lines(results, variant)
    assert [name for name, _ in lines] == [
        "Keras: translate, additive attention", "decode-float32", "Keras: seq2seq, no attention"
    ]  # fmt: skip
    page = paths.html.read_text(encoding="utf-8")
    assert "Keras: seq2seq, no attention" in page
    assert "How far they are apart" in page
    assert "9 and more" in paths.markdown.read_text(encoding="utf-8")
    # A report without it forgets the other run.
    write_report(both)
    assert read_json(paths.results)["beside"] is None


def test_runs_of_other_sentences_give_lines_and_no_differences(run: Path, tmp_path: Path) -> None:
    fewer = make_translation_run(tmp_path / "fewer", count=150)
    results, others = collect(run), collect(fewer)
    beside = beside_results(run, results, fewer, others)
    assert beside["differences"] == []
    section = beside_section({**results, "beside": beside})
    assert section is not None
    assert section["rows"] == []
    assert "did not translate the same sentences" in section["note"]
    assert section["heads"][1:3] == ("this run", "the other")


def test_a_run_without_translations_has_nothing_beside(run: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"recipe": {"name": "lstm"}})
    with pytest.raises(UsageError, match="not asked to translate"):
        write_report(run, tmp_path)
    results = collect(tmp_path)
    assert translation_section(results) is None
    assert translation_rows(results) == []
    assert shown_variant(results) is None


def test_groups_of_words() -> None:
    assert [words(1, 4), words(13, None), words(0, None)] == ["1 to 4", "13 and more", "all"]


def test_pairs_of_runs(run: Path, other: Path) -> None:
    first, second = read_translated(other), read_translated(run)
    assert first is not None
    assert second is not None
    found = compare_runs(first, second)
    assert set(found) == {"", "decode-float32", "decode-int8"}
    one = found[""]["bleu"]
    assert one.loss < 0
    assert one.interval.low <= one.loss <= one.interval.high < 0
    told = read_json(run / "results.json")["variants"][0]["translation"]["scores"][0]
    assert one.second == pytest.approx(told["reference"])
    again = compare_runs(second, second)
    assert again[""]["bleu"].loss == again[""]["bleu"].interval.high == 0
    lengths = compare_lengths(second, first)
    assert lengths[-1][:2] == (0, None)
    assert sum(item.sentences for _, _, item in lengths[:4]) == lengths[-1][2].sentences == 200


def test_compare_draws_the_same_sentences_for_both(run: Path, other: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["compare", str(other), str(run), "--json"])
    assert done.exit_code == 0, done.output
    changes = json.loads(done.output)["changes"]
    keras = next(item for item in changes if item["variant"] == "" and item["what"] == "metric")
    assert (keras["detail"], keras["direction"]) == ("BLEU", "better")
    assert "same sentences drawn for both" in keras["note"]
    worse = runner.invoke(app, ["compare", str(run), str(other), "--json"])
    assert worse.exit_code == 1
    # Without the folders each side's own interval has to do, which is wider; other data is not compared at all.
    for name, folder in (("a", other), ("b", run)):
        results: dict[str, Any] = read_json(folder / "results.json")
        results["data"]["sha256"] = "one"
        write_json(tmp_path / f"{name}.json", results)
    bare = runner.invoke(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"])
    changes = json.loads(bare.output)["changes"]
    alone = next(item for item in changes if item["variant"] == "" and item["what"] == "metric")
    assert "same sentences" not in alone["note"]
    assert _width(alone["note"]) > _width(keras["note"])


def _width(note: str) -> float:
    found = re.search(r"interval (\S+) points to (\S+) points", note.replace("\u00a0", " "))
    assert found is not None, note
    low, high = (float(end.replace("−", "-")) for end in found.groups())
    return high - low


def test_the_terminal_shows_both_tables(run: Path, other: Path, tmp_path: Path) -> None:
    both = shutil.copytree(run, tmp_path / "run")
    done = CliRunner().invoke(app, ["report", str(both), "--beside", str(other)], env={"COLUMNS": "200"})
    assert done.exit_code == 1, done.output  # int8 fails its check.
    assert "Keras model" in done.output
    assert "BLEU against Keras" in done.output
    assert "words of the source" in done.output


@pytest.mark.parametrize(
    "damage",
    [
        "text",
        {},
        {"scores": 3, "worst": [{"reference": 1}], "positions": {"x": 1, "2": "y"}},
        {"alignments": [{"source": ["a"], "target": ["b"], "weights": [[1.0, 2.0]]}]},
    ],
)
def test_a_damaged_check_still_has_a_page(run: Path, tmp_path: Path, damage: Any) -> None:
    broken = shutil.copytree(run, tmp_path / "run")
    for path in (broken / "checks").glob("*.json"):
        write_json(path, {**read_json(path), "translation": damage})
    for path in (broken / "checks" / "translations").glob("*.npz"):
        path.write_bytes(b"PK")
    results = collect(broken)
    assert to_html(results, broken)
    assert read_translated(broken) is None


def test_without_attention_there_is_no_picture(other: Path) -> None:
    page = (other / "report.html").read_text(encoding="utf-8")
    assert 'class="attention"' not in page
    assert "Translations" in page


def test_the_made_run_is_what_it_says() -> None:
    wanted = translated_sentences(50, 0.0, 1.0)
    assert all(item.answer.tokens[:8] == tuple(WORDS.index(word) for word in item.references[0].split())[:8]
               for item in wanted)  # fmt: skip
    assert np.mean([one == item.answer for one, item in zip(changed(wanted, 0.0), wanted, strict=True)]) == 1
