"""Pieces on the device are SentencePiece's, in every id and every character, also for text that nobody expects."""

from __future__ import annotations

import os
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from piece_vocabularies import train, trained

from edge_dl.errors import UsageError
from edge_dl.text import KINDS, UNKNOWN, Normalization, Subwords

NASTY = (
    "", " ", "   \t \n ", "\u3000\u00a0", "a", " a ", "a  b", "\u2581", "a\u2581b", "\u2581\u2581",
    "J'adore la pizza.", "J’adore\u00a0!", "Où êtes-vous ?", "OU\u0300 E\u0302TES-VOUS", "cafe\u0301\u0301\u0301",
    "\u0301a", "x\u0323\u0307\u0301y", "ﬁn de l’œuvre Ĳ", "½ ⅓ ² ™ ℃ ㎏",
    "\uff34\uff45\uff58\uff54\uff45 \uff11\uff12\uff13！",
    "Привет, Мир — γειά σου 世界 こんにちは 한국어 \u1112\u1161\u11ab مرحبا שלום हिन्दी ไทย",
    "世界世界", "日本 le 14 juillet 中国 pizza",
    "😀", "👩\u200d👩\u200d👧 🇫🇷 👍🏽", "mille 😀😀😀 neuf", "a\u200bb\u200cc\u200dd\ufeffe", "\u200b",
    "\u00ad\u2060", "\x00", "a\x00b",
    "\x01\x02\x1f", "mille\x07 neuf\x7f cent", "\x85\u2028\u2029", "\u202eabc\u202c",
    "<s> </s> <unk> <pad>", "</s>", "<unk>",
    "\ufffd", "\ufdfa", "\ufb2c\ufb49", "゛x", "\u037a\u0385", "\U0010ffff\U000e0001", "ꟻ\ua7ff\u0378",
    "%s {} \\n \"'`",
    "a" * 3_000, "ab " * 1_000, "é" * 999 + "\u0301", "\u0301" * 500, "字" * 2_000,
)  # fmt: skip

# Characters that rules have something to say about, among plain ones.
ALPHABET = st.one_of(
    st.sampled_from(
        "abeinouré ,.'-\u2581  1420\u0301\u0300\u0327\u200b\u00a0\x00\x07ﬁ½Ａ゛"
        "\u1112\u1161\u11ab\uff9e\uffa1ｶ한😀\u200d"
    ),
    st.characters(exclude_categories=["Cs"]),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line", NASTY, ids=ascii)
def test_nasty_lines_are_cut_as_by_the_library(line: str, kind: str) -> None:
    check(line, kind)


@pytest.mark.parametrize("kind", KINDS)
@given(line=st.text(ALPHABET, max_size=40))
def test_any_line_is_cut_as_by_the_library(line: str, kind: str) -> None:
    check(line, kind)


def check(line: str, kind: str) -> None:
    subwords, library = trained(kind)
    ids = library.encode(line)
    assert subwords.encode(line) == ids
    pieces = library.encode(line, out_type="proto").pieces
    assert subwords.segment(line) == [(piece.id, piece.surface) for piece in pieces]
    assert subwords.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 30))
def test_any_ids_are_joined_as_by_the_library(seed: int, count: int, kind: str) -> None:
    subwords, library = trained(kind)
    rng = np.random.default_rng(seed)
    # Half of them special, the lone space, or other short pieces, which come first.
    ids = np.where(rng.random(count) < 0.5, rng.integers(0, 12, count), rng.integers(0, len(subwords), count)).tolist()
    assert subwords.decode(ids) == library.decode(ids)


def test_every_character_is_normalized_as_by_the_library() -> None:
    subwords, library = trained("unigram")
    letters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    lines = ["".join(letters[start : start + 200]) for start in range(0, len(letters), 200)]
    # Apart from each other too, where no mark is joined to the letter before.
    lines += ["|".join(letters[start : start + 200]) for start in range(0, 0x11000, 200)]
    for line in lines:
        assert subwords.normalization.normalize(line).text == library.normalize(line), ascii(line)


def test_every_decomposed_character_is_normalized_as_by_the_library() -> None:
    subwords, library = trained("unigram")
    forms = [
        form
        for letter in map(chr, range(0x30000))
        for form in {unicodedata.normalize("NFD", letter), unicodedata.normalize("NFKD", letter)}
        if form != letter and not 0xD800 <= ord(letter) < 0xE000
    ]
    assert len(forms) > 16_000
    for start in range(0, len(forms), 50):
        line = " ".join(forms[start : start + 50])
        assert subwords.normalization.normalize(line).text == library.normalize(line), ascii(line)


@pytest.mark.parametrize("kind", KINDS)
@given(line=st.text(ALPHABET, max_size=40))
def test_the_parts_of_a_segmentation_are_the_text(line: str, kind: str) -> None:
    subwords, _ = trained(kind)
    joined = "".join(surface for _, surface in subwords.segment(line))
    assert joined in line
    before, after = line.split(joined, 1) if joined else (line, "")
    assert subwords.encode(before) == subwords.encode(after) == []


def test_of_ways_that_are_equally_likely_the_library_s_is_taken() -> None:
    rng = np.random.default_rng(0)
    # Words of two letters give pieces with the same counts, and so the same scores.
    lines = ["".join(rng.choice(list("ab"), rng.integers(1, 9))) for _ in range(300)]
    subwords, library = train(lines, "unigram", 30)
    for _ in range(300):
        line = "".join(rng.choice(list("ab c"), rng.integers(1, 40)))
        assert subwords.encode(line) == library.encode(line)


def test_half_of_a_surrogate_pair_counts_as_the_replacement_character() -> None:
    subwords, _ = trained("character")
    for half in ("\ud800", "\udfff"):
        assert subwords.segment(f"un{half}deux") == subwords.segment("un\ufffddeux")
    assert subwords.encode("\ud83d\ude00") == subwords.encode("😀")


def test_a_long_text_takes_no_longer_a_character() -> None:
    subwords, library = trained("unigram")
    line = "mille neuf cent quatre-vingt-quatre, " * 3_000
    assert subwords.encode(line) == library.encode(line)
    unknown = "字" * 100_000
    assert subwords.encode(unknown) == library.encode(unknown)
    assert subwords.segment(unknown)[-1] == (UNKNOWN, unknown)


def test_copies_stand_in_place_of_unknown_pieces() -> None:
    subwords, library = trained("unigram")
    line = "J'adore Žižek."
    cut = subwords.segment(line)
    ids = [number for number, _ in cut]
    assert subwords.decode(ids) == library.decode(ids) != line
    assert "\u2047" in subwords.decode(ids)
    copies = {place: surface for place, (number, surface) in enumerate(cut) if number == UNKNOWN}
    assert list(copies.values()) == ["Ž", "ž", "k"]
    assert subwords.decode(ids, copies) == line
    # A copy for a piece that is known changes nothing.
    assert subwords.decode(ids, copies | {0: "x"}) == line


def test_a_copied_word_has_a_space_before_it() -> None:
    subwords, _ = trained("word")
    line = "J'adore Zanzibar demain."
    cut = subwords.segment("Zanzibar mille Tombouctou")
    assert [number == UNKNOWN for number, _ in cut] == [True, False, True]
    ids = [number for number, _ in cut]
    assert subwords.decode(ids, {0: "Zanzibar", 2: " Tombouctou"}) == "Zanzibar mille Tombouctou"
    assert subwords.decode(ids, {0: " Zanzibar", 2: "Tombouctou"}) == "Zanzibar mille Tombouctou"
    assert subwords.decode([2, *ids, 3, 0, 0], {1: "A", 3: "B"}) == "A mille B"
    assert subwords.decode(subwords.encode(line)) != line


def test_ids_that_there_are_not_are_refused() -> None:
    subwords, _ = trained("unigram")
    for number in (-1, len(subwords)):
        with pytest.raises(UsageError, match=f"between 0 and {len(subwords) - 1}.*{number}"):
            subwords.decode([5, number])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "bpe"}, "unigram, word, character"),
        ({"pieces": ("<unk>", "<pad>", "<s>", "</s>", "a", "b")}, "begin with <pad>"),
        ({"pieces": ("<pad>", "<unk>", "<s>", "</s>"), "scores": (0.0,) * 4}, "4 pieces"),
        ({"pieces": ("<pad>", "<unk>", "<s>", "</s>", "a", "a")}, "distinct"),
        ({"pieces": ("<pad>", "<unk>", "<s>", "</s>", "a", "")}, "distinct"),
        ({"scores": (0.0,) * 5}, "5 scores of 6 pieces"),
        ({"scores": (0.0, 0.0, 0.0, 0.0, -1.0, float("nan"))}, "finite"),
        ({"scores": (0.0, 0.0, 0.0, 0.0, -1.0, -1e300)}, "finite"),
    ],
)
def test_what_is_no_vocabulary_is_refused(changes: dict, reason: str) -> None:
    good = {
        "kind": "unigram",
        "pieces": ("<pad>", "<unk>", "<s>", "</s>", "a", "b"),
        "scores": (0.0, 0.0, 0.0, 0.0, -1.0, -2.0),
        "normalization": Normalization(),
    }
    assert Subwords(**good).encode("ab") == [1, 4, 5]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=reason):
        Subwords(**good | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("rules", [b"x", b"\x04\0\0\0", b"\x05\0\0\0abcde\0", b"\xff\0\0\0abcd\0", b"\x04\0\0\0abcde"])
def test_what_are_no_rules_is_refused(rules: bytes) -> None:
    with pytest.raises(UsageError, match="precompiled_charsmap"):
        Normalization(rules)


@given(
    units=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), texts=st.binary(max_size=20), line=st.text()
)
def test_rules_of_nonsense_end_and_break_nothing(units: list[int], texts: bytes, line: str) -> None:
    trie = np.array(units, "<u4").tobytes()
    normalized = Normalization(len(trie).to_bytes(4, "little") + trie + texts + b"\0").normalize(line)
    assert len(normalized.starts) == len(normalized.text) + 1
    assert list(normalized.starts) == sorted(normalized.starts)
    normalized.surface(0, len(normalized.text))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [0, 1], ids=["english", "french"])
def test_real_text_is_cut_as_by_the_library(kind: str, side: int) -> None:
    folder = os.environ.get("EDGE_DL_DATA", "")
    path = Path(folder) / "fra_eng.zip"
    if not folder or not path.is_file():
        pytest.skip(f"{path.name} is not in the folder that EDGE_DL_DATA names")
    with zipfile.ZipFile(path) as archive:
        parts = {
            part: [row.split("\t")[side] for row in archive.read(f"fra_{part}.tsv").decode("utf-8").splitlines()]
            for part in ("train", "val", "test")
        }
        language = ("en", "fr")[side]
        others = [
            line
            for part in ("val", "test_2016_flickr", "test_2017_flickr", "test_2017_mscoco")
            for line in archive.read(f"multi30k/{part}.{language}").decode("utf-8").split("\n")
        ]
    subwords, library = train(parts["train"], kind, 8_000)
    # Of the training part a tenth; everything of the others.
    lines = [*parts["val"], *parts["test"], *others, *parts["train"][::10]]
    assert len(lines) > 20_000
    wanted = library.encode(lines)
    assert [subwords.encode(line) for line in lines] == wanted
    assert [subwords.decode(ids) for ids in wanted] == library.decode(wanted)
