"""Files are whole or not there; damaged and hostile ones are refused with one kind of error."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_dl.errors import UsageError
from edge_dl.files import (
    atomic_path,
    load_npz,
    member_path,
    read_json,
    save_npz,
    sha256_file,
    write_atomic,
    write_json,
)


def test_atomic_writing_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x" * 10000)

    with pytest.raises(OSError, match="No space"):
        write()
    assert path.read_text() == "old"


def test_atomic_files_have_ordinary_permissions_and_keep_their_suffix(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "deep" / "model.keras") as temporary:
            assert temporary.suffix == ".keras"
            temporary.write_bytes(b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "deep" / "model.keras").stat().st_mode) == 0o644


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_json_comes_back(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "value.json")
        try:
            write_json(path, value)
        except UnicodeEncodeError:  # A lone surrogate is no text.
            return
        assert read_json(path) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_json_refuses_what_no_reader_understands(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "value.json", value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{", b'{"a": 1,}', b"[" * 100_000])
def test_broken_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="valid UTF-8 JSON"):
        read_json(path)


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UsageError, match="readable"):
        read_json(tmp_path)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "x").write_bytes(content)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["model.tflite", "deep/er/file", ".hidden", "a..b", "é"])
def test_members_inside(tmp_path: Path, name: str) -> None:
    assert member_path(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "a/../b", "/etc/passwd", "", "a\0b", "a\\b", None, 3, "link/x", "..", "x" * 300, "\ud800"],
)
def test_members_outside_and_impossible_names(tmp_path: Path, name: Any) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError):
        member_path(tmp_path / "inside", name)


def test_a_link_to_itself_is_no_member(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").symlink_to("labels.txt")
    (tmp_path / "folder").symlink_to("folder")
    for name in ("labels.txt", "folder/labels.txt"):
        with pytest.raises(UsageError, match="inside its folder"):
            member_path(tmp_path, name)


@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_a_member_never_leaves_its_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "inside")
        folder.mkdir()
        try:
            path = member_path(folder, name)
        except UsageError:
            return
        assert path.resolve().is_relative_to(folder.resolve())
        assert not path.is_file()


DTYPES = ["float32", "float64", "float16", "int8", "int64", "uint8", "bool", "<U5"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text("abcfile/_xy", min_size=1, max_size=12), ARRAYS, max_size=4))
@settings(max_examples=50)
def test_npz_comes_back(value: dict[str, np.ndarray]) -> None:
    value = {**value, "file": np.arange(3), "allow_pickle": np.zeros(2, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        save_npz(Path(folder, "x.npz"), value)
        again = load_npz(Path(folder, "x.npz"))
    assert set(again) == set(value)
    for name, array in value.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(
    "array", [np.array([{}, None]), np.array([(1, {})], dtype=[("a", "i4"), ("b", "O")]), [[1], [2, 3]]]
)
def test_objects_are_not_saved(tmp_path: Path, array: Any) -> None:
    with pytest.raises(UsageError, match=r"numbers or text|ragged"):
        save_npz(tmp_path / "x.npz", {"x": array})
    assert os.listdir(tmp_path) == []


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_pickled_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("trap.npz", x=np.array([Trap()], dtype=object))
    Path("trap.pickle").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UsageError, match="never loaded"):
        load_npz("trap.npz")
    with pytest.raises(UsageError):
        load_npz("trap.pickle")
    assert not Path("sprung").exists()


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must exist"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(UsageError):
        load_npz(tmp_path)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UsageError, match=r"single \.npy"):
        load_npz(tmp_path / "single.npy")
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("readme.txt", "not an array")
    with pytest.raises(UsageError, match="named arrays"):
        load_npz(tmp_path / "text.zip")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_npz_is_refused_or_read(data: st.DataObject) -> None:
    """Cut it off or change bytes anywhere: never another kind of error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        save_npz(path, {"x": np.arange(300, dtype="float32"), "y": np.arange(5)})
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        for _ in range(data.draw(st.integers(0, 3))):
            if content:
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(content))
        with contextlib.suppress(UsageError):
            assert all(isinstance(array, np.ndarray) for array in load_npz(path).values())


def test_json_files_end_with_a_line_end(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"é": [1, None]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "é" in text
    assert json.loads(text) == {"é": [1, None]}


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_npz(path, {"x": np.zeros(1_000_000, "float32")})
    assert path.stat().st_size < 100_000
    assert load_npz(path, limit=4_001_000)["x"].size == 1_000_000
    with pytest.raises(UsageError, match="at most 3999999 bytes"):
        load_npz(path, limit=3_999_999)
    # A directory that says less than the member holds: no more than it says is read, and that is no whole array.
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    assert int.from_bytes(content[directory + 24 : directory + 28], "little") > 4_000_000
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"\.npz archive"):
        load_npz(path, limit=4_001_000)
