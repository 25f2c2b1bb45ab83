"""Sentence pairs: every form on disk, what becomes of them, and what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_pairs import make_dataset, make_pairs

from edge_dl import data
from edge_dl.data.dataset import PARTS
from edge_dl.data.forms.sentences import part_of
from edge_dl.data.sentences import Pair, Sentence
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

pytest.importorskip("sentencepiece", reason="vocabularies need SentencePiece: pip install 'edge-dl[train]'")


def config(path: Path, **settings: object) -> DataConfig:
    return replace(DataConfig(str(path), level="character"), **settings)  # type: ignore[arg-type]


def table(pairs: list[Pair], more: str = "") -> str:
    return "".join(f"{source}\t{target}{more}\n" for source, target in pairs)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def texts(dataset: data.Dataset, part: str) -> list[Pair]:
    """Sentence pairs of a part, made of its arrays again."""
    assert dataset.sentences is not None
    split, tables = dataset.parts[part], dataset.sentences.tables
    return [
        (tables.source.decode(source), tables.target.decode(target))
        for source, target in zip(split.x["source"].tolist(), split.y["next_token"].tolist(), strict=True)
    ]


def test_arrays_hold_marks_and_padding_and_text_comes_back() -> None:
    dataset = make_dataset(window=9)
    for part, split in dataset.parts.items():
        source, target, following = split.x["source"], split.x["target"], split.y["next_token"]
        assert source.shape == target.shape == following.shape == (len(split), 9), part
        assert {array.dtype.name for array in (source, target, following)} == {"int32"}
        lengths = np.count_nonzero(source, axis=1)
        assert (source[np.arange(len(split)), lengths - 1] == 3).all()
        assert (target[:, 0] == 2).all()
        np.testing.assert_array_equal(target[:, 1:], np.where(following[:, :-1] == 3, 0, following[:, :-1]))
        assert split.weight is not None
        np.testing.assert_array_equal(split.weight["next_token"], following != 0)
        assert all(source == target[::-1].lower() for source, target in texts(dataset, part))
    assert sum(map(len, dataset.parts.values())) == 120


def test_a_source_sentence_stands_in_one_part(tmp_path: Path) -> None:
    pairs = [(source, f"{target}{ending}") for source, target in make_pairs(60, longest=4) for ending in "XY"]
    path = tmp_path / "pairs.tsv"
    path.write_text(table(pairs, more="\tCC-BY 2.0"))
    dataset = data.load(config(path), Task.TRANSLATION, seed=3)
    sources = [{source for source, _ in texts(dataset, part)} for part in PARTS]
    assert not sources[0] & sources[1]
    assert not (sources[0] | sources[1]) & sources[2]
    assert sum(len(split) for split in dataset.parts.values()) == 120
    assert dataset.sentences is not None
    assert {item.source for item in dataset.sentences.test} == sources[2]
    assert all(len(item.references) >= 2 for item in dataset.sentences.test)
    again = data.load(config(path), Task.TRANSLATION, seed=3)
    assert again.sha256 == dataset.sha256


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("kind", ["tables", "languages"])
def test_parts_of_a_folder_are_kept(kind: str, archive: bool, tmp_path: Path) -> None:
    parts = {"train": make_pairs(40), "val": make_pairs(7, seed=1), "test_2016": make_pairs(8, seed=2)}
    files = {"README.txt": "about\n", "deeper/train.tsv": "no\tnon\n"}
    for name, pairs in parts.items():
        if kind == "tables":
            files[f"x_{name}.tsv"] = table(pairs)
        else:
            files |= {
                f"{name}.{end}": "".join(f"{pair[side]}\n" for pair in pairs) for side, end in enumerate(("en", "fr"))
            }
    path = write(tmp_path / "set", files)
    if archive:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
            for name in files:
                packed.write(path / name, name)
        path = tmp_path / "set.zip"
    dataset = data.load(config(path, target="fr" if kind == "languages" else ""), Task.TRANSLATION)
    assert {part: texts(dataset, part) for part in PARTS} == dict(zip(PARTS, parts.values(), strict=True))
    if kind == "languages":
        other = data.load(config(path, target="en"), Task.TRANSLATION)
        assert texts(other, "test") == [(target, source) for source, target in parts["test_2016"]]


def test_several_files_of_a_part_are_read_together(tmp_path: Path) -> None:
    parts = {"train.tsv": make_pairs(40), "test_a.tsv": make_pairs(5, seed=1), "test_b.tsv": make_pairs(6, seed=2)}
    dataset = data.load(
        config(write(tmp_path, {name: table(pairs) for name, pairs in parts.items()})), Task.TRANSLATION
    )
    assert texts(dataset, "test") == parts["test_a.tsv"] + parts["test_b.tsv"]
    assert "The test part is read from test_a.tsv, test_b.tsv." in dataset.notes


def test_empty_lines_are_left_out_and_endings_may_be_capitals(tmp_path: Path) -> None:
    pairs = make_pairs(40)
    files = {
        "Train.EN": "".join(f"{source}\n\n" for source, _ in pairs),
        "Train.FR": "".join(f"{target}\n\n" for _, target in pairs),
    }
    dataset = data.load(config(write(tmp_path, files), target="fr"), Task.TRANSLATION)
    assert sum(map(len, dataset.parts.values())) == 40
    assert "40 lines of Train.EN and Train.FR are empty." in dataset.notes


def test_a_missing_test_part_is_cut_from_training(tmp_path: Path) -> None:
    files = {"train.TSV": table(make_pairs(60)), "val.tsv": table(make_pairs(9, seed=1))}
    dataset = data.load(config(write(tmp_path, files)), Task.TRANSLATION)
    assert texts(dataset, "validation") == make_pairs(9, seed=1)
    assert len(dataset.train) + len(dataset.test) == 60


def test_long_pairs_are_left_out_of_arrays_and_named_but_still_judged(tmp_path: Path) -> None:
    files = {"train.tsv": table(make_pairs(40)), "test.tsv": table([("ab", "BA"), ("abcdefgh", "HGFEDCBA")])}
    dataset = data.load(config(write(tmp_path, files), window=8), Task.TRANSLATION)
    assert texts(dataset, "test") == [("ab", "BA")]
    assert dataset.sentences is not None
    assert [item.source for item in dataset.sentences.test] == ["ab", "abcdefgh"]
    assert "1 of 2 test pairs are longer than 8 tokens and left out." in dataset.notes


def test_references_of_a_sentence_are_gathered_in_order(tmp_path: Path) -> None:
    files = {
        "train.tsv": table(make_pairs(40)),
        "test.tsv": table([("ab", "X"), ("cd", "Y"), ("ab", "Z"), ("ab", "X")]),
    }
    dataset = data.load(config(write(tmp_path, files)), Task.TRANSLATION)
    assert dataset.sentences is not None
    assert dataset.sentences.test == (Sentence("ab", ("X", "Z")), Sentence("cd", ("Y",)))


def test_what_was_saved_is_read_again_and_changes_are_seen(tmp_path: Path) -> None:
    dataset = make_dataset()
    data.save(dataset, tmp_path)
    found = data.read(tmp_path)
    assert found.sentences == dataset.sentences
    assert found.sha256 == dataset.sha256
    sentences = tmp_path / "sentences.json"
    before = sentences.read_text()
    sentences.write_text(before.replace("A", "B", 1))
    with pytest.raises(UsageError, match="must match their recorded hash"):
        data.read(tmp_path)
    sentences.write_text(before)
    other = make_dataset(90, longest=5).sentences
    assert other is not None
    other.tables.write(tmp_path / "text.json")
    with pytest.raises(UsageError, match="must match their recorded hash"):
        data.read(tmp_path)


@pytest.mark.parametrize(("limit", "counts"), [(30, (30, 18, 24)), (10, (10, 10, 10))])
def test_a_limit_holds_for_each_part(limit: int, counts: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(table(list(dict(make_pairs(400)).items())[:120]))
    dataset = data.load(config(path, limit=limit), Task.TRANSLATION)
    assert all(len(split) <= most for split, most in zip(dataset.parts.values(), counts, strict=True))
    assert len(dataset.train) == limit


def test_part_names() -> None:
    names = ["fra_train.tsv", "test_2016_flickr.en", "val.fr", "dev.en", "a/valid.tsv", "pairs.tsv", "contest.tsv"]
    assert [part_of(name) for name in names] == ["train", "test", "validation", "validation", "validation", "", ""]


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({"train.tsv": "one\ttwo\nonly one\n", "test.tsv": "a\tb\n"}, {}, r"line 2: 'only one'"),
        ({"train.tsv": "one\t\n", "test.tsv": "a\tb\n"}, {}, "line 1"),
        ({"train.tsv": "\n", "test.tsv": "a\tb\n"}, {}, "must hold some"),
        ({"train.en": "a\nb\n", "train.fr": "a\n"}, {"target": "fr"}, "2 lines, train.fr with 1"),
        ({"train.en": "a\n", "train.fr": "a\n"}, {}, "data.target=en or data.target=fr"),
        ({"train.en": "a\nb\n", "train.fr": "a\n\n"}, {"target": "fr"}, "line 2 of train.en and train.fr"),
        ({"train.en": "\u3000\n", "train.fr": "\n"}, {"target": "fr"}, "must hold some"),
        ({"train.en": "a\n", "train.fr": "a\n", "train_notes.txt": "a\tb\n"}, {"target": "fr"}, "not both"),
        ({"train.en": "a\n", "train.fr": "a\n", "train.de": "a\n"}, {"target": "fr"}, "two for each part"),
        ({"train.tsv": "a\tb\n", "pairs.csv": "a\tb\n"}, {"level": "syllable"}, "data.level must be one of"),
        ({"notes.md": "nothing"}, {}, "must hold them"),
        ({"test.tsv": "a\tb\n"}, {}, "need a training part"),
        ({"train.tsv": table(make_pairs(20)), "test.tsv": table(make_pairs(20))}, {}, "must not be a copy"),
        ({"train.tsv": table(make_pairs(20)), "test.tsv": "a\tb\n"}, {"window": 1}, "fit into data.window"),
    ],
)
def test_what_breaks_a_rule_is_refused(
    files: dict[str, str], settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        data.load(config(write(tmp_path, files), **settings), Task.TRANSLATION)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes("é\tà\n".encode("latin-1"))
    with pytest.raises(UsageError, match="must be UTF-8"):
        data.load(config(tmp_path), Task.TRANSLATION)


def test_pairs_are_for_translation_only(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(table(make_pairs(20)))
    with pytest.raises(UsageError, match="Sentence pairs are data for translation"):
        data.load(replace(config(path), form="sentences"), Task.CLASSIFICATION)
