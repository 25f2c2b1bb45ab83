"""The bundle format: what is written comes back, and everything else is refused by name."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dl.bundle import (
    DTYPES,
    Limits,
    Manifest,
    SequenceSpec,
    Signature,
    StateSpec,
    TensorSpec,
    parse_manifest,
    read_bundle,
    write_bundle,
)
from edge_dl.errors import UsageError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
SHAPES = st.lists(st.integers(0, 2**40), max_size=4).map(tuple)
SCALES = st.floats(0, 1e6, allow_nan=False)
INTEGERS = st.integers(-(2**31), 2**31)
TYPES = st.sampled_from(DTYPES)
FIGURES = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(NAMES, min_size=2, max_size=6, unique=True))
    others = draw(st.lists(NAMES, min_size=len(names), max_size=len(names), unique=True))
    states = draw(st.integers(0, len(names) - 1))

    def tensor(name: str) -> TensorSpec:
        return TensorSpec(name, draw(SHAPES), draw(TYPES), draw(SCALES), draw(INTEGERS))

    signature = Signature(
        key=draw(NAMES),
        inputs=tuple(tensor(name) for name in names[states:]),
        outputs=tuple(tensor(name) for name in others[states:]),
        states=tuple(
            StateSpec(a, b, draw(SHAPES), draw(TYPES), draw(SCALES), draw(INTEGERS), draw(SCALES), draw(INTEGERS))
            for a, b in zip(names[:states], others[:states], strict=True)
        ),
    )
    sequence = SequenceSpec(
        inputs=tuple(spec.name for spec in signature.inputs[:1]),
        steps=draw(st.integers(1, 10**6)),
        outputs={spec.name: draw(st.sampled_from(["each", "last"])) for spec in signature.outputs},
    )
    return Manifest(
        name=draw(NAMES),
        variant=draw(NAMES),
        lowering=draw(NAMES),
        quantization=draw(NAMES),
        task=draw(NAMES),
        signature=signature,
        sequence=draw(st.none() | st.just(sequence)),
        limits=Limits(draw(FIGURES), draw(FIGURES), draw(FIGURES), draw(FIGURES), draw(FIGURES)),
        made_by=draw(st.dictionaries(NAMES, NAMES, max_size=3)),
        min_runtime_version=draw(st.text(max_size=5)),
    )


GOLDEN = {"golden_inputs": {"x": np.zeros((2, 3), "float32")}, "golden_outputs": {"y": np.ones((2, 4), "float32")}}


@given(manifest=manifests(), labels=st.lists(NAMES.filter(lambda text: not set(text) & set("\r\n")), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_bundle_comes_back(manifest: Manifest, labels: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = write_bundle(folder, b"model", manifest, labels=labels, **GOLDEN)
        except UnicodeEncodeError:
            return
        bundle = read_bundle(folder)
        assert bundle == written
        assert bundle.labels() == tuple(labels)
        assert dataclasses.replace(bundle.manifest, files={}, labels=None) == manifest
        assert bundle.model.read_bytes() == b"model"
        inputs, outputs = bundle.golden()
        np.testing.assert_array_equal(inputs["x"], GOLDEN["golden_inputs"]["x"])
        np.testing.assert_array_equal(outputs["y"], GOLDEN["golden_outputs"]["y"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = Manifest(
        name="lstm",
        variant="step-int8",
        lowering="step",
        quantization="int8",
        task="classification",
        signature=Signature(
            key="step",
            inputs=(TensorSpec("x", (1, 1, 3)),),
            outputs=(TensorSpec("y", (1, 4), "int8", 0.5, 3),),
            states=(StateSpec("s", "t", (1, 5)),),
        ),
        sequence=SequenceSpec(("x",), 7, {"y": "last"}),
        limits=Limits(max_abs=0.1),
    )
    write_bundle(tmp_path / "bundle", b"model", manifest, labels=["a", "b"], **GOLDEN)
    return tmp_path / "bundle"


def change(folder: Path, *path: Any, value: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    node = manifest
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("format",), 2, "format 2"),
        (("format",), None, "format None"),
        (("name",), "", "name"),
        (("task",), 3, "task"),
        (("signature",), None, "signature"),
        (("signature", "key"), "", "signature.key"),
        (("signature", "inputs"), [], "signature.inputs"),
        (("signature", "inputs", 0, "dtype"), "complex64", "complex64"),
        (("signature", "inputs", 0, "dtype"), ["float32"], "dtype"),
        (("signature", "inputs", 0, "shape"), [1, -1], "shape"),
        (("signature", "inputs", 0, "shape"), [1, True], "shape"),
        (("signature", "inputs", 0, "shape"), "1,2", "shape"),
        (("signature", "inputs", 0, "scale"), -0.5, "scale"),
        (("signature", "inputs", 0, "scale"), 10**400, "scale"),
        (("signature", "inputs", 0, "scale"), float("nan"), "scale"),
        (("signature", "inputs", 0, "zero_point"), 0.5, "zero_point"),
        (("signature", "inputs", 0, "name"), "s", "signature.inputs"),
        (("signature", "states", 0, "output"), "y", "signature.outputs"),
        (("sequence", "steps"), 0, "steps"),
        (("sequence", "inputs"), ["z"], "sequence.inputs"),
        (("sequence", "outputs"), {}, "sequence.outputs"),
        (("sequence", "outputs", "y"), "first", "first"),
        (("limits", "max_error"), 1.0, "max_error"),
        (("limits", "max_abs"), "0.1", "max_abs"),
        (("labels",), "other.txt", "labels"),
        (("files",), [], "files"),
        (("files",), {}, "files"),
        (("files", "model.tflite"), {"sha256": "0"}, "bytes"),
        (("made_by",), {"keras": 3}, "made_by.keras"),
    ],
)
def test_a_manifest_that_breaks_the_format(folder: Path, path: tuple, value: Any, word: str) -> None:
    change(folder, *path, value=value)
    with pytest.raises(UsageError) as caught:
        read_bundle(folder)
    assert word in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.just(10**400) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abxy"), inner, max_size=2),
    max_leaves=3,
)


@given(data=st.data())
@settings(max_examples=300)
def test_no_change_to_a_manifest_gives_a_traceback(data: st.DataObject) -> None:
    value = copy.deepcopy(_plain_manifest())
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = value
        while isinstance(node, (dict, list)) and node:
            key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
                node[key] = data.draw(VALUES)
                break
            node = node[key]
    with contextlib.suppress(UsageError):
        parse_manifest(value)


def _plain_manifest() -> dict[str, Any]:
    manifest = Manifest(
        name="n", variant="v", lowering="step", quantization="int8", task="classification",
        signature=Signature(
            "step", (TensorSpec("x", (1, 1)),), (TensorSpec("y", (1,)),), (StateSpec("s", "t", (1,)),)
        ),
        sequence=SequenceSpec(("x",), 2, {"y": "each"}), labels="labels.txt",
        files={name: {"sha256": "0", "bytes": 0} for name in ("model.tflite", "golden.npz", "labels.txt")},
    )  # fmt: skip
    return json.loads(json.dumps(manifest.to_json()))


def spoil_size(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(b"mode")


def spoil_content(folder: Path) -> None:
    (folder / "golden.npz").write_bytes((folder / "golden.npz").read_bytes()[::-1])


def remove(folder: Path) -> None:
    (folder / "labels.txt").unlink()


def replace_by_folder(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").mkdir()


@pytest.mark.parametrize("spoil", [spoil_size, spoil_content, remove, replace_by_folder])
def test_members_must_be_what_the_manifest_says(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(UsageError, match=r"hash|must exist"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "link", "x" * 300, "\ud800"])
def test_members_never_leave_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "secret")
    change(folder, "files", name, value={"sha256": "0", "bytes": 6})
    with pytest.raises(UsageError, match=r"inside its folder|plain relative path"):
        read_bundle(folder)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"holds manifest\.json"):
            read_bundle(path)


@pytest.mark.parametrize("label", ["", "two\nlines", "carriage\rreturn"])
def test_a_label_is_one_line(tmp_path: Path, folder: Path, label: str) -> None:
    manifest = read_bundle(folder).manifest
    with pytest.raises(UsageError, match="one line"):
        write_bundle(tmp_path / "new", b"model", manifest, labels=["a", label], **GOLDEN)
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_an_interrupted_write_leaves_no_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest goes first and comes last: old and new members never pass for one bundle."""
    manifest = read_bundle(folder).manifest

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_dl.bundle.save_npz", full)
    with pytest.raises(OSError, match="No space"):
        write_bundle(folder, b"new model", manifest, labels=["a"], **GOLDEN)
    with pytest.raises(UsageError, match=r"holds manifest\.json"):
        read_bundle(folder)
