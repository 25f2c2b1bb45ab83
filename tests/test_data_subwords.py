"""Vocabularies from text: the same every time, silent, with a reason where there can be none."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from piece_vocabularies import french, train, trained

from edge_dl.data.piece_models import read_model, write_model
from edge_dl.data.subwords import encode_lines, train_subwords
from edge_dl.errors import UsageError
from edge_dl.text import KINDS, SPECIAL, Normalization, Subwords

LINES = french()[:2000]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_is_the_same_every_time(kind: str) -> None:
    made = train_subwords(LINES, 200, kind)
    assert made == train_subwords(LINES, 200, kind)
    assert made.kind == kind
    assert made.pieces[:4] == SPECIAL
    assert made.scores[:4] == (0, 0, 0, 0)
    assert len(made) == (200 if kind != "character" else len(set("".join(LINES)) - {" "}) + 5)


def test_another_process_trains_the_same() -> None:
    code = (
        "import test_data_subwords as t, hashlib; made = t.train_subwords(t.LINES, 300);"
        "print(hashlib.sha256(repr((made.pieces, made.scores)).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=__file__.rpartition("/")[0], capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    # Silent, besides: the library likes to tell what it does.
    assert [run.stderr for run in runs] == ["", ""]
    assert len(runs[0].stdout) == 65


def test_every_character_of_a_small_text_is_known() -> None:
    lines = [*LINES, "Un œuf à Noël, s'il vous plaît : “ça”, ÿ."]
    for kind in ("unigram", "character"):
        made = train_subwords(lines, 200, kind)
        assert all(1 not in made.encode(line) for line in lines)
        assert made.decode(made.encode(lines[-1])) == lines[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["un", "a b c"])
def test_a_text_that_gives_fewer_pieces_gives_those(kind: str, text: str) -> None:
    made = train_subwords([text], 8_000, kind)
    assert 5 <= len(made) <= 10
    assert 1 not in made.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lines", [[], [""], [" ", "\t\u3000"], ["\x01"]], ids=ascii)
def test_no_text_is_refused(lines: list[str], kind: str) -> None:
    with pytest.raises(UsageError, match=f"needs text.*{len(lines)} lines"):
        train_subwords(lines, 100, kind)


def test_too_few_pieces_are_refused_with_the_number_needed() -> None:
    with pytest.raises(UsageError, match=r"at least (\d+) pieces.*size 20") as refused:
        train_subwords(LINES, 20)
    needed = int(refused.value.rule.split("at least ")[1].split()[0])
    assert len(train_subwords(LINES, needed)) == needed
    for kind in KINDS:
        with pytest.raises(UsageError, match="size 4"):
            train_subwords(LINES, 4, kind)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unigram, word, character.*'bpe'"):
        train_subwords(LINES, 100, "bpe")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UsageError, match=r"needs sentencepiece.*edge-dl\[train\]"):
        train_subwords(LINES, 100)
    with pytest.raises(UsageError, match=r"needs sentencepiece.*edge-dl\[train\]"):
        encode_lines(trained("word")[0], LINES)


def test_long_lines_are_not_left_out() -> None:
    made = train_subwords(["deux " * 2_000 + "œufs"], 50)
    assert 1 not in made.encode("œufs")


@pytest.mark.parametrize("kind", KINDS)
@given(lines=st.lists(st.text(max_size=30), max_size=5))
def test_lines_are_encoded_as_one_by_one(lines: list[str], kind: str) -> None:
    subwords, _ = trained(kind)
    lines = [*lines, "\ud800", "", LINES[0], "J'adore 字字 Žižek"]
    assert encode_lines(subwords, lines) == [subwords.encode(line) for line in lines]
    assert encode_lines(subwords, []) == []


def test_many_lines_are_encoded_as_one_by_one() -> None:
    for kind in KINDS:
        made = train_subwords(LINES, 300, kind)
        assert encode_lines(made, LINES) == [made.encode(line) for line in LINES]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_read_and_written(kind: str) -> None:
    subwords, library = trained(kind)
    content = write_model(subwords)
    assert read_model(content) == subwords
    written = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert written.encode(LINES) == library.encode(LINES)
    assert written.id_to_piece(list(range(len(subwords)))) == list(subwords.pieces)
    assert [written.get_score(number) for number in range(len(subwords))] == list(subwords.scores)
    assert (written.pad_id(), written.unk_id(), written.bos_id(), written.eos_id()) == (0, 1, 2, 3)


def test_a_model_without_rules_has_none_after_writing() -> None:
    subwords, library = train(["ﬁn ½"] * 3, "character", 20, normalization_rule_name="identity")
    assert subwords.normalization == Normalization()
    assert subwords.encode("ﬁn ½") == library.encode("ﬁn ½")
    assert encode_lines(subwords, ["ﬁn ½"]) == [subwords.encode("ﬁn ½")]
    assert 1 not in subwords.encode("ﬁn ½")


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "bpe"},
        {"unk_id": 0, "pad_id": 1},
        {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2},
        {"user_defined_symbols": ["<x>"]},
        {"byte_fallback": True},
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": False},
        {"treat_whitespace_as_suffix": True},
    ],
    ids=str,
)
def test_models_that_work_otherwise_are_refused(settings: dict) -> None:
    model = io.BytesIO()
    ours = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "vocab_size": 400, "model_type": "unigram"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, minloglevel=2, hard_vocab_limit=False, **ours | settings
    )
    with pytest.raises(UsageError, match="SentencePiece model"):
        read_model(model.getvalue())


def test_damaged_models_are_refused() -> None:
    pieces = (*SPECIAL, "a", "b")
    content = write_model(Subwords("unigram", pieces, (0, 0, 0, 0, -1, -2), Normalization()))
    assert read_model(content).pieces == pieces
    for end in range(len(content) - 1):
        try:
            # What is cut off between two fields is a shorter model.
            assert len(read_model(content[:end])) <= len(pieces)
        except UsageError:
            continue
    for wrong in (b"", b"\x0a", b"\xff" * 20, b"\x0b" * 4, content[:20]):
        with pytest.raises(UsageError, match=r"SentencePiece model|vocabulary"):
            read_model(wrong)


@given(content=st.binary(max_size=60))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    with pytest.raises(UsageError):
        read_model(content)
