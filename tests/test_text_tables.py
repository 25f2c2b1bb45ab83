"""text.json: read as it was written, small, and anything else refused."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from piece_vocabularies import train, trained

from edge_dl.errors import UsageError
from edge_dl.text import Normalization, Subwords, Tables


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(trained("unigram")[0], trained("word")[0])


@pytest.fixture(scope="module")
def plain(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("tables") / "text.json"
    tables.write(path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_is_read_is_what_was_written(tables: Tables, tmp_path: Path) -> None:
    tables.write(tmp_path / "text.json")
    assert Tables.read(tmp_path / "text.json") == tables
    first = (tmp_path / "text.json").read_bytes()
    Tables.read(tmp_path / "text.json").write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == first


def test_equal_rules_are_stored_once(tables: Tables, plain: dict[str, Any], tmp_path: Path) -> None:
    assert len(plain["normalizations"]) == 1
    assert plain["source"]["normalization"] == plain["target"]["normalization"] == 0
    # What ARCHITECTURE and the documentation of the format say: 138 kB.
    assert len(plain["normalizations"][0]) == pytest.approx(138_000, rel=0.02)
    ours, _ = train(["un deux trois"], "character", 50, normalization_rule_name="identity")
    assert ours.normalization.rules == b""
    Tables(ours, tables.target).write(tmp_path / "text.json")
    assert Tables.read(tmp_path / "text.json") == Tables(ours, tables.target)


def test_scores_are_the_same_float32(tmp_path: Path) -> None:
    pieces = ("<pad>", "<unk>", "<s>", "</s>", "a", "b", "c")
    subwords = Subwords("unigram", pieces, (0, 0, 0, 0, -0.1, -1 / 3, -16_777_217.0), Normalization())
    Tables(subwords, subwords).write(tmp_path / "text.json")
    assert Tables.read(tmp_path / "text.json").source.scores == subwords.scores
    assert '"scores":[0.0,0.0,0.0,0.0,-0.1,-0.33333334,-16777216.0]' in (tmp_path / "text.json").read_text()


BROKEN: list[tuple[tuple[Any, ...], Any]] = [
    (("format",), 2),
    (("format",), None),
    (("source",), []),
    (("source",), "x"),
    (("source", "kind"), "bpe"),
    (("source", "kind"), []),
    (("source", "pieces"), "abcdefgh"),
    (("source", "pieces", 7), 7),
    (("source", "pieces", 7), ""),
    (("target", "pieces"), []),
    (("target", "scores"), []),
    (("target", "scores", 7), "1"),
    (("target", "scores", 7), True),
    (("target", "scores", 7), 10**400),
    (("target", "scores", 7), 1e39),
    (("target", "normalization"), 1),
    (("target", "normalization"), -1),
    (("target", "normalization"), True),
    (("normalizations",), []),
    (("normalizations",), None),
    (("normalizations", 0), "!"),
    (("normalizations", 0), "ä"),
    (("normalizations", 0), 7),
    (("normalizations", 0), base64.b64encode(b"no zlib").decode()),
    (("normalizations", 0), base64.b64encode(zlib.compress(b"\x05\0\0\0abcdef\0")).decode()),
    (("normalizations", 0), base64.b64encode(zlib.compress(b"\x08\0\0\0abc")).decode()),
    (("normalizations", 0), base64.b64encode(zlib.compress(bytes(1 << 25))).decode()),
    (("normalizations", 0), base64.b64encode(zlib.compress(b"abc")[:-3]).decode()),
]


@pytest.mark.parametrize(("keys", "value"), BROKEN, ids=lambda item: ascii(item)[:40])
def test_other_values_are_refused(plain: dict[str, Any], keys: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    broken = copy.deepcopy(plain)
    place = broken
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path = tmp_path / "text.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(UsageError, match="text"):
        Tables.read(path)


def test_missing_parts_and_files_are_refused(plain: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    with pytest.raises(UsageError, match="must exist"):
        Tables.read(path)
    for key in plain:
        path.write_text(json.dumps({name: value for name, value in plain.items() if name != key}), encoding="utf-8")
        with pytest.raises(UsageError, match=key):
            Tables.read(path)
    for text in ("[]", "null", "7", '"x"', "{", "\x00"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"text\.json"):
            Tables.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


SIDE = {"kind": JSON | st.just("word"), "pieces": JSON, "scores": JSON, "normalization": JSON | st.just(0)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(side=st.fixed_dictionaries(SIDE), rules=JSON | st.just([""]))
def test_nothing_but_a_usage_error_comes_of_nonsense(side: dict[str, Any], rules: Any, tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    path.write_text(json.dumps({"format": 1, "source": side, "target": side, "normalizations": rules}))
    with pytest.raises(UsageError):
        Tables.read(path)
