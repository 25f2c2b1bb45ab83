"""`edge-dl translate` with real bundles: texts and pipes, pictures, JSON, and what is refused, with exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import keras
import numpy as np
import pytest
import translation_models as networks
from translation_bundles import TABLES, TARGET, bundle, lively, tables
from typer.testing import CliRunner, Result

from edge_dl.bundle import Bundle, read_bundle
from edge_dl.cli.main import app
from edge_dl.files import read_json, sha256_file, write_json
from edge_dl.runtime import Search, Translator
from edge_dl.text import SPECIAL, Normalization, Subwords, Tables

TEXT = "q w e r"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    keras.utils.set_random_seed(1)
    model = lively(networks.tutorial("gru", "dot", mask=True))
    return bundle(model, tmp_path_factory.mktemp("translates"), words=tables())


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Without attention and without beams."""
    keras.utils.set_random_seed(1)
    model = lively(networks.tutorial("gru"))
    return bundle(model, tmp_path_factory.mktemp("blind"), words=tables(), beams=0)


def call(*arguments: object, given: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, ["translate", *map(str, arguments)], input=given)


def changed(made: Bundle, folder: Path, **fields: object) -> Path:
    """A copy of a bundle whose manifest says something else; None takes a field out."""
    copy = folder / "bundle"
    shutil.copytree(made.folder, copy)
    manifest = read_json(copy / "manifest.json")
    for name, value in fields.items():
        manifest[name] = value
        if value is None:
            del manifest[name]
    for name, entry in manifest["files"].items():
        if (copy / name).is_file():
            entry.update(sha256=sha256_file(copy / name), bytes=(copy / name).stat().st_size)
    write_json(copy / "manifest.json", manifest)
    return copy


def test_translation_and_score(made: Bundle) -> None:
    result = call(made.folder, TEXT, "a b")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    translator = Translator(made.folder)
    for line, text in zip(lines, (TEXT, "a b"), strict=True):
        (found,) = translator.translate(text)
        assert line == f"{found.text}\t{found.score:.3f}"
        assert all(f"▁{word}" in TARGET for word in found.text.split())


def test_best_of_a_beam(made: Bundle) -> None:
    result = call(made.folder, TEXT, "--beams", 4, "--best", 3, "--length-penalty", 1, "--coverage", 0.2)
    found = Translator(made).translate(TEXT, Search(4, 1.0, 0.2, 3))
    assert result.stdout.splitlines() == [*(f"{one.text}\t{one.score:.3f}" for one in found), ""]
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_lines_of_standard_input_and_of_a_file(made: Bundle, tmp_path: Path) -> None:
    texts = f"\ufeff{TEXT}\r\n\n披萨\n{TEXT}"
    (tmp_path / "texts").write_text(texts, encoding="utf-8", newline="")
    piped = call(made.folder, given=texts.encode())
    dashed = call(made.folder, "-", given=texts.encode())
    filed = call(made.folder, "--file", tmp_path / "texts")
    assert piped.exit_code == 0, piped.output
    assert piped.stdout == dashed.stdout == filed.stdout
    first, empty, foreign, last = piped.stdout.splitlines()
    assert first == last
    assert empty == "\t0.000"
    assert foreign == "披萨\t0.000"
    assert "copied as it is" in piped.stderr


def test_json_lines(made: Bundle) -> None:
    result = call(made.folder, TEXT, "a " * 9, "--json", "--beams", 2, "--best", 2)
    assert result.exit_code == 2
    good, bad = map(json.loads, result.stdout.splitlines())
    first, second = Translator(made).translate(TEXT, Search(beams=2, best=2))
    assert good["source"] == TEXT
    assert [one["text"] for one in good["translations"]] == [first.text, second.text]
    assert good["translations"][0]["pieces"] == list(first.pieces)
    for one, found in zip(good["translations"], (first, second), strict=True):
        assert found.alignment is not None
        np.testing.assert_allclose(np.reshape(one["alignment"], found.alignment.shape), found.alignment, atol=1e-5)
    assert bad["error"]["received"].startswith("9 tokens")


def test_attention_in_the_terminal_and_as_a_picture(made: Bundle, tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    translator = Translator(made)
    texts = [text for text in (TEXT, "a b", "z y x", "p o", "m n") if translator.translate(text)[0].text]
    assert len(texts) > 1
    result = call(made.folder, *texts, "--attention", "--picture", picture)
    assert result.exit_code == 0, result.output
    assert "q  w  e  r" in result.stdout
    assert str(picture) in result.stderr
    words = [item.text for item in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    for text in texts:
        (found,) = translator.translate(text)
        assert f"{text} → {found.text}" in words
        assert {*text.split(), *found.text.split()} <= set(words)
    page = tmp_path / "a.HTML"
    assert call(made.folder, TEXT, "--picture", page).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_text_that_is_too_long_stops_nothing_else(made: Bundle) -> None:
    result = call(made.folder, TEXT, "a b c d e f g", "q", given="")
    assert result.exit_code == 2
    assert "at most 5 tokens for this model. Received: 7 tokens: 'a b c d e f g'" in result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert lines[1] == ""


def test_a_run_folder_translates_with_what_was_chosen_and_did_not_fail(made: Bundle, tmp_path: Path) -> None:
    for name in ("decode-float32", "while-float32"):
        shutil.copytree(made.folder, tmp_path / "variants" / name)
    # Smaller, so preferred, and no model that could translate.
    shutil.copytree(made.folder, tmp_path / "variants" / "decode-int8")
    (tmp_path / "variants" / "decode-int8" / TABLES).unlink()
    assert call(tmp_path, TEXT).exit_code == 2
    wanted = call(made.folder, TEXT).stdout
    write_json(tmp_path / "bench" / "selection.json", {"chosen": "decode-float32", "rows": []})
    assert call(tmp_path, TEXT).stdout == wanted
    write_json(tmp_path / "bench" / "selection.json", {"chosen": "while-float32", "rows": []})
    assert call(tmp_path, TEXT).exit_code == 2, "another lowering cannot say anything by itself"
    (tmp_path / "bench" / "selection.json").unlink()
    write_json(tmp_path / "checks" / "decode-int8.json", {"verdict": "fail"})
    assert call(tmp_path, TEXT).stdout == wanted
    write_json(tmp_path / "checks" / "decode-float32.json", {"verdict": "fail"})
    result = call(tmp_path, TEXT)
    assert result.exit_code == 2
    assert "variants failed their checks (decode-int8, decode-float32)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beams", 5], "takes 4 hypotheses a step"),
        (["--length-penalty", 1000], "length_penalty must be a number from 0 to 10"),
        (["--best", 2], "as many hypotheses as it has beams"),
        (["--picture", "a.png"], "is an .svg or an .html"),
        (["--file", "nowhere.txt"], "Name one source of texts"),
        (["--runtime", "nothing"], "A runtime is one of"),
    ],
)
def test_wrong_use(made: Bundle, arguments: list[object], message: str) -> None:
    result = call(made.folder, TEXT, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_no_such_file(made: Bundle, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        result = call(made.folder, "--file", path)
        assert result.exit_code == 2
        assert f"file of texts must exist, and be no folder. Received: {path}." in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes and terminals of POSIX")
def test_a_file_of_texts_may_be_a_pipe(made: Bundle, tmp_path: Path) -> None:
    wanted = call(made.folder, TEXT, "q").stdout
    os.mkfifo(tmp_path / "named")
    writer = threading.Thread(target=(tmp_path / "named").write_text, args=(f"{TEXT}\nq\n",), daemon=True)
    writer.start()
    named = call(made.folder, "--file", tmp_path / "named")
    assert (named.exit_code, named.stdout) == (0, wanted)
    writer.join(10)
    reading, writing = os.pipe()
    os.write(writing, f"{TEXT}\nq\n".encode())
    os.close(writing)
    numbered = call(made.folder, "--file", f"/dev/fd/{reading}")
    os.close(reading)
    assert (numbered.exit_code, numbered.stdout) == (0, wanted)


@pytest.mark.parametrize("options", [["--attention"], ["--picture", "a.svg"], ["--coverage", "0.1"], ["--beams", "2"]])
def test_what_a_model_without_attention_and_beams_cannot_do(
    blind: Bundle, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(blind.folder, TEXT, *options)
    assert result.exit_code == 2
    assert "attention" in result.stderr or "takes 1 hypothesis a step" in result.stderr
    assert list(tmp_path.iterdir()) == []
    assert call(blind.folder, TEXT).exit_code == 0


def test_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        result = call(path, TEXT)
        assert result.exit_code == 2
        assert "Name a bundle that translates" in result.stderr


def test_bundles_that_do_not_translate(made: Bundle, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"task": "classification"}, "a bundle of the task classification"),
        ({"translation": None}, "tables of its tokens"),
    ]
    for number, (fields, message) in enumerate(cases):
        result = call(changed(made, tmp_path / str(number), **fields), TEXT)
        assert result.exit_code == 2
        assert message in result.stderr


def test_tables_that_are_missing_or_broken_or_of_another_model(made: Bundle, tmp_path: Path) -> None:
    missing = changed(made, tmp_path / "missing")
    (missing / TABLES).unlink()
    result = call(missing, TEXT)
    assert result.exit_code == 2
    assert "text.json" in result.stderr
    whole = (made.folder / TABLES).read_bytes()
    for name, content in {"broken": b"{}", "binary": b"\x80\x00", "cut": whole[:99]}.items():
        source = Bundle(tmp_path / name / "made", made.manifest)
        shutil.copytree(made.folder, source.folder)
        (source.folder / TABLES).write_bytes(content)
        result = call(changed(source, tmp_path / name), TEXT)
        assert result.exit_code == 2, name
        assert "text.json" in result.stderr
    few = Subwords("word", (*SPECIAL, "▁a"), (0.0,) * 4 + (-1.0,), Normalization())
    source = Bundle(tmp_path / "few" / "made", made.manifest)
    shutil.copytree(made.folder, source.folder)
    Tables(tables().source, few).write(source.folder / TABLES)
    result = call(changed(source, tmp_path / "few"), TEXT)
    assert result.exit_code == 2
    assert "5 pieces in text.json, 40 in the model" in result.stderr


def test_bytes_that_are_no_text(made: Bundle, tmp_path: Path) -> None:
    binary = b"a b\n" + os.urandom(64).replace(b"\n", b"") + b"\xff\xfe\n"
    result = call(made.folder, given=binary)
    assert result.exit_code == 2
    assert "must be UTF-8" in result.stderr
    assert "in line 2 of standard input" in result.stderr
    assert len(result.stdout.splitlines()) == 1, "lines before it were translated"
    (tmp_path / "latin").write_bytes("été\n".encode("latin-1"))
    result = call(made.folder, "--file", tmp_path / "latin")
    assert result.exit_code == 2
    assert "byte 0xe9 in line 1" in result.stderr


def test_texts_cannot_drive_the_terminal(made: Bundle) -> None:
    result = call(made.folder, "\x1b[31m☃", "a\nb", "\x07", "--attention")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes and terminals of POSIX")
def test_copied_words_are_whole_in_a_file_and_harmless_in_a_terminal(made: Bundle) -> None:
    copied = "می\u200cخواهم 👩\u200d👩 1\u202f000"
    assert call(made.folder, copied).stdout == f"{copied}\t0.000\n"
    # A tab or a line break within would make another field or line.
    assert call(made.folder, "☃\t☃\x1b\u2028☃").stdout == "☃\\t☃\\x1b ☃\t0.000\n"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    words = [sys.executable, "-m", "edge_dl", "translate", str(made.folder), copied]
    ours, theirs = os.openpty()
    subprocess.run(words, env=environment, stdout=theirs, stderr=subprocess.DEVNULL, check=True, timeout=120)
    os.close(theirs)
    shown = os.read(ours, 4096).decode("utf-8")
    os.close(ours)
    assert shown.splitlines() == ["می\\u200cخواهم 👩\\u200d👩 1\\u202f000\t0.000"]


def test_as_a_program_it_loads_no_keras_and_a_closed_pipe_ends_it(made: Bundle) -> None:
    code = (
        "import sys; from edge_dl.cli.main import main\n"
        "try: main(['translate', sys.argv[1]])\n"
        "finally: print([name for name in ('keras', 'tensorflow') if name in sys.modules], file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(made.folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(f"{TEXT}\n".encode())
    process.stdin.flush()
    assert process.stdout.readline().decode("utf-8").count("\t") == 1, "a line is answered when it comes"
    process.stdout.close()
    try:
        process.stdin.write(f"{TEXT}\n".encode() * 3)
        process.stdin.close()
    except BrokenPipeError:
        pass
    errors = process.stderr.read().decode("utf-8")
    process.stderr.close()
    assert process.wait(60) == 0, errors
    assert "[]" in errors
    assert "Traceback" not in errors


def test_an_encoding_without_accents(made: Bundle) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"}
    words = [sys.executable, "-m", "edge_dl", "translate", str(made.folder), "披萨", TEXT, "--attention"]
    done = subprocess.run(words, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\\u62ab\\u8428\t0.000")


def test_a_translator_takes_an_opened_bundle(made: Bundle) -> None:
    assert Translator(read_bundle(made.folder)).translate("q")[0].text == Translator(made).translate("q")[0].text


def test_a_bar_where_it_takes_a_while(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "translate:" not in call(made.folder, TEXT, "q", "w").stderr
    monkeypatch.setattr("edge_dl.cli.translate.PATIENCE", -1.0)
    result = call(made.folder, TEXT, "q", "w")
    assert "translate: " in result.stderr
    assert len(result.stdout.splitlines()) == 3
