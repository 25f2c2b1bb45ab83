"""Ways to damage a bundle: its manifest by type and by name, its golden samples, its members on the disk, its model.

Most damaged bundles get new hashes in their manifest afterwards, as somebody who means harm would do it: what comes
after the hash check is reached. The same generator state gives the same bundle.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from model_mutations import mutate_model

MODEL, GOLDEN, LABELS, MANIFEST = "model.tflite", "golden.npz", "labels.txt", "manifest.json"
BOMB_MIB = 512

HUGE = int("9" * 400)
DEEP = json.loads("[" * 200 + "]" * 200)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), HUGE, 0.5, 1e308, -1e-320, float("nan"), float("inf"), "", "x",
    "x" * 100_000, "\x1b[31mred\x1b[0m\r\n", "\ud800", "\u202e", "[bold]x", "../x", "/etc/passwd", [], {}, [[]], [None],
    {"x": 1}, [1] * 1000, DEEP,
)  # fmt: skip
OUTSIDE = "outside"
"""Name of the folder beside the bundle's that holds what a bundle must not reach."""


class Payload:
    """What a pickle in a bundle would do if anybody unpickled it: leave a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


class Draft:
    """A bundle's files while they are changed: content by name, and what is no plain file."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self.manifest: Any = json.loads(self.files.pop(MANIFEST))
        self.raw_manifest: bytes | None = None
        self.links: dict[str, str] = {}
        self.special: dict[str, str] = {}
        self.sign = True
        self.must_refuse = False

    def write(self, folder: Path) -> None:
        """Write the bundle; hashes are made to fit unless `sign` is false."""
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        for name, target in self.links.items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)
        for name, kind in self.special.items():
            (folder / name).unlink(missing_ok=True)
            if kind == "folder":
                (folder / name).mkdir()
            else:
                os.mkfifo(folder / name)
        if self.sign and isinstance(self.manifest, dict) and isinstance(self.manifest.get("files"), dict):
            for name, content in self.files.items():
                entry = self.manifest["files"].get(name)
                if isinstance(entry, dict):
                    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        if MANIFEST not in self.links and MANIFEST not in self.special:
            text = json.dumps(self.manifest).encode() if self.raw_manifest is None else self.raw_manifest
            (folder / MANIFEST).write_bytes(text)


# --- the manifest ----------------------------------------------------------------------------------------------------


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value in a JSON document, but for the document itself."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(*path, key), *_nodes(item, (*path, key))]
    return found


def _owner(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def _chosen(draft: Draft, rng: np.random.Generator) -> tuple[Any, Any]:
    nodes = [path for path in _nodes(draft.manifest) if path[-1] != "sha256" or rng.random() < 0.2]
    path = nodes[int(rng.integers(len(nodes)))]
    return _owner(draft.manifest, path), path[-1]


def _value(rng: np.random.Generator) -> Any:
    return json.loads(json.dumps(VALUES[int(rng.integers(len(VALUES)))]))  # A copy of its own.


def _other_value(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    owner, key = _chosen(draft, rng)
    owner[key] = _value(rng)


def _gone(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    owner, key = _chosen(draft, rng)
    del owner[key]


def _swapped(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """Two values change places, wherever they stand."""
    (first, key), (second, other) = _chosen(draft, rng), _chosen(draft, rng)
    one, two = json.loads(json.dumps(first[key])), json.loads(json.dumps(second[other]))
    second[other] = one
    first[key] = two


def _numbers(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """Whole numbers and scales that fit their type and nothing else: shapes, steps, zero points."""
    paths = [
        path for path in _nodes(draft.manifest)
        if isinstance(_owner(draft.manifest, path)[path[-1]], (int, float)) and path[0] not in ("files", "format")
    ]  # fmt: skip
    for number in rng.choice(len(paths), min(len(paths), int(rng.integers(1, 4))), replace=False):
        path = paths[number]
        numbers = (0, 1, 2, 2**20, 2**31 - 1, 2**40, 2**70, 1e-40, 1e300)
        _owner(draft.manifest, path)[path[-1]] = numbers[int(rng.integers(len(numbers)))]


def _words(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """Another name, task, quantization, label file, runtime version."""
    words = {
        "quantization": ("int8", "int4", "float16", "none", "INT8"), "lowering": ("step", "while", "magic"),
        "task": ("classification", "regression", "forecast", "language-model", "labelling", "flying", "\x1b[2J"),
        "variant": ("../x", "a/b", "\x1b[31m", "x" * 5000, "CON", "a\nb", "\ud800"),
        "name": ("../x", "[red]x[/red]", "\0"), "min_runtime_version": ("99.0", "1..2", "x"),
        "labels": ("model.tflite", "golden.npz", "../labels.txt", "LABELS.TXT"), "format": (0, 2, "1", 1.0, True),
    }  # fmt: skip
    for name in rng.choice(list(words), int(rng.integers(1, 3)), replace=False):
        draft.manifest[str(name)] = words[str(name)][int(rng.integers(len(words[str(name)])))]


def _text(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """The manifest's bytes: cut off, not UTF-8, too deep, no object, numbers that no reader takes."""
    content = json.dumps(draft.manifest).encode()
    flipped = bytearray(content)
    for _ in range(4):
        flipped[int(rng.integers(len(flipped)))] = int(rng.integers(256))
    ways = (
        content[: int(rng.integers(len(content)))], bytes(flipped), b"", b"[" * 100_000, b"[]", b"null", b"\xff\xfe{}",
        b"\xef\xbb\xbf" + content, b'{"format": ' + b"9" * 5000 + b"}", b"{" + b'"a":{' * 2000, content + b"}",
        b'{"format": 1, "format": 2}', content.replace(b'"bytes"', b'"bytes": 1, "bytes"'), rng.bytes(500),
    )  # fmt: skip
    draft.raw_manifest = ways[int(rng.integers(len(ways)))]


# --- members ---------------------------------------------------------------------------------------------------------


def _outside(draft: Draft, rng: np.random.Generator, others: Sequence[bytes], folder: Path) -> None:
    """A member named out of the folder, or linked to something there. The file is really there, its hash is right."""
    secret = folder / OUTSIDE / "secret.txt"
    entry = {"sha256": hashlib.sha256(secret.read_bytes()).hexdigest(), "bytes": secret.stat().st_size}
    names = (
        f"../{OUTSIDE}/secret.txt", str(secret), f"./../{OUTSIDE}/secret.txt", f"x/../../{OUTSIDE}/secret.txt",
        f"..\\{OUTSIDE}\\secret.txt", f"{OUTSIDE}\0.txt", "x" * 300, "\ud800", "", ".", "..", "/", "~/secret.txt",
    )  # fmt: skip
    if rng.random() < 0.6:
        name = names[int(rng.integers(len(names)))]
        draft.manifest["files"][name] = entry
        if rng.random() < 0.5:
            draft.manifest["labels"] = name
        draft.must_refuse = draft.raw_manifest is None
        return
    name = (LABELS, MODEL, GOLDEN)[int(rng.integers(3))]
    draft.files.pop(name, None)
    draft.links[name] = (str(secret), f"../{OUTSIDE}/secret.txt")[int(rng.integers(2))]
    draft.manifest["files"][name] = entry
    if name == LABELS:
        draft.manifest["labels"] = LABELS
    draft.must_refuse = draft.raw_manifest is None


def _no_file(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """A member that is missing, a folder, a pipe, or a link to itself, to a device, to another member."""
    name = (LABELS, MODEL, GOLDEN, MANIFEST)[int(rng.integers(4))]
    content = draft.files.pop(name, None)
    way = int(rng.integers(6))
    if way == 1:
        draft.special[name] = "folder"
    elif way == 2:
        draft.special[name] = "pipe"
    elif way in (3, 4):
        draft.links[name] = (name, "/dev/zero")[way - 3]
    elif way == 5 and name not in (MANIFEST,) and content is not None:
        draft.files["elsewhere"] = content
        draft.links[name] = "elsewhere"


def _labels(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    ways = (
        b"", b"one\n", b"\xff\xfe\n" * 6, b"a\r\nb\r\n", b"x\n" * 100_000, "\x1b[31mred\n\u2028\n".encode() * 3,
        b"no end", b"\n" * 6, b"\0\n" * 6, b"y" * 10_000_000 + b"\n",
    )  # fmt: skip
    draft.files[LABELS] = ways[int(rng.integers(len(ways)))]
    draft.manifest["files"].setdefault(LABELS, {})
    draft.manifest["labels"] = LABELS


def _model(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    draft.files[MODEL] = mutate_model(draft.files[MODEL], rng, others)[0]


def _other_model(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    draft.files[MODEL] = others[int(rng.integers(len(others)))]


def _member_bytes(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """A damaged member whose hash stays what it was, or is made to fit."""
    name = (GOLDEN, MODEL)[int(rng.integers(2))]
    content = bytearray(draft.files[name])
    for _ in range(int(2 ** rng.integers(0, 6))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    draft.files[name] = bytes(content[: int(rng.integers(len(content)))] if rng.random() < 0.3 else content)
    draft.sign = rng.random() < 0.6


# --- golden samples --------------------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(description: str, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """A .npy whose header says anything."""
    text = description.encode("latin1", "replace") + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<I", min(len(text), 65535))
    return b"\x93NUMPY" + version + length + text + content


def archive(members: Sequence[tuple[str, bytes]], *, stored: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            # A fixed date: the same mutation gives the same bytes.
            file.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), content, file.compression)
    return stream.getvalue()


@lru_cache(maxsize=2)
def bomb(name: str, honest: bool) -> bytes:
    """Half a gigabyte of zeros in half a megabyte, behind a header that says so, or that says four numbers."""
    count = BOMB_MIB * 2**18
    head = header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count if honest else 4},), }}")
    stream = io.BytesIO()
    info = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(stream, "w") as file, file.open(info, "w", force_zip64=True) as member:
        member.write(head)
        for _ in range(BOMB_MIB):
            member.write(bytes(2**20))
    return stream.getvalue()


def _strange_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    with np.errstate(all="ignore"):
        ways: tuple[Callable[[], np.ndarray], ...] = (
            lambda: array[:0], lambda: array[:1], lambda: array[..., :-1], lambda: array[None], lambda: array.ravel(),
            lambda: array.astype("float64"), lambda: array.astype("complex64"), lambda: array.astype("U8"),
            lambda: array.astype("S3"), lambda: array.astype(">f4"), lambda: array.astype("bool"),
            lambda: array.astype("datetime64[s]"), lambda: np.full_like(array, np.nan, dtype="float32"),
            lambda: np.full_like(array, np.inf, dtype="float32"), lambda: np.full(array.shape, 1e38, "float32"),
            lambda: np.full(array.shape, -(2**31), "int32"), lambda: np.zeros(array.shape, [("a", "f4"), ("b", "i2")]),
            lambda: np.array(3.0), lambda: np.asfortranarray(array), lambda: np.concatenate([array] * 3),
            lambda: np.zeros((*array.shape, 0)), lambda: array[:-1], lambda: np.zeros((4, *(1,) * 30), "float32"),
        )  # fmt: skip
        return ways[int(rng.integers(len(ways)))]()


def _arrays(draft: Draft, rng: np.random.Generator, others: Sequence[bytes]) -> None:
    """Golden arrays of other shapes, types and values, missing ones, more of them."""
    with np.load(io.BytesIO(draft.files[GOLDEN])) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = str(rng.choice(list(arrays)))
    way = int(rng.integers(6))
    if way < 4:
        arrays[name] = _strange_array(arrays[name], rng)
    elif way == 4:
        moved = arrays.pop(name)
        other = ("in/", "out/", "in/none", "out/none", "x", "in/../x", "")[int(rng.integers(7))]
        arrays |= {other: moved} if rng.random() < 0.7 else {}
    else:
        arrays |= {"out/more": np.zeros(3), "in/more": np.zeros((2, 2)), "note": np.array("x")}
    draft.files[GOLDEN] = archive([(f"{key}.npy", npy(value)) for key, value in arrays.items()])


def _archives(draft: Draft, rng: np.random.Generator, others: Sequence[bytes], folder: Path) -> None:
    """Archives that only somebody who means harm would make: pickles, bombs, headers that lie, odd member names."""
    with zipfile.ZipFile(io.BytesIO(draft.files[GOLDEN])) as file:
        members = {item.filename: file.read(item) for item in file.infolist()}
    first = str(rng.choice(list(members)))
    pickled = pickle.dumps(Payload(str(folder / OUTSIDE / "unpickled")))
    shape = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
    ways: dict[str, Callable[[], dict[str, bytes] | bytes]] = {
        "pickle": lambda: {first: header(shape.format("|O", "(1,)"), pickled)},
        "bare pickle": lambda: {first: pickled},
        "pickle alone": lambda: pickled,
        "no zip": lambda: npy(np.zeros(4)),
        "bomb": lambda: bomb(first, True),
        "lying bomb": lambda: bomb(first, False),
        "huge shape": lambda: {first: header(shape.format("<f4", f"({2**62},)"))},
        "large shape": lambda: {first: header(shape.format("<f4", f"({2**36},)"), bytes(64))},
        "negative shape": lambda: {first: header(shape.format("<f4", "(-4,)"), bytes(64))},
        "no tuple": lambda: {first: header(shape.format("<f4", "'x'"), bytes(64))},
        "code": lambda: {first: header("__import__('os').abort()")},
        "deep header": lambda: {first: header("(" * 9000 + ")" * 9000)},
        "long header": lambda: {first: header(" " * 70_000 + shape.format("<f4", "(1,)"), bytes(4), b"\2\0")},
        "version": lambda: {first: header(shape.format("<f4", "(1,)"), bytes(4), b"\x09\0")},
        "odd type": lambda: {first: header(shape.format(("<U999999999", "|V0", "<f3", "<M8[s]")[int(rng.integers(4))],
                                                        "(2,)"), bytes(64))},
        "empty member": lambda: {first: b""},
        "other members": lambda: {f"../{OUTSIDE}/stray.npy": npy(np.zeros(2)), "/in/x.npy": npy(np.zeros(2))},
        "no array": lambda: {first.removesuffix(".npy"): b"text", "notes.txt": b"text"},
        "many": lambda: {f"in/{number}.npy": npy(np.zeros(1)) for number in range(3000)},
    }  # fmt: skip
    name = str(rng.choice(list(ways)))
    made = ways[name]()
    draft.files[GOLDEN] = made if isinstance(made, bytes) else archive(list({**members, **made}.items()))


PLAIN: dict[str, Callable[[Draft, np.random.Generator, Sequence[bytes]], None]] = {
    "manifest value": _other_value, "manifest field gone": _gone, "manifest fields swapped": _swapped,
    "manifest numbers": _numbers, "manifest words": _words, "manifest text": _text, "member is no file": _no_file,
    "labels": _labels, "model": _model, "other model": _other_model, "member bytes": _member_bytes,
    "golden arrays": _arrays,
}  # fmt: skip
PLACED: dict[str, Callable[[Draft, np.random.Generator, Sequence[bytes], Path], None]] = {
    "member outside": _outside, "golden archive": _archives,
}  # fmt: skip
WEIGHTS = {"model": 3.0, "manifest value": 3.0, "golden arrays": 2.0, "manifest numbers": 2.0, "golden archive": 2.0}


def mutate_bundle(bundle: Path, target: Path, rng: np.random.Generator, others: Sequence[bytes]) -> tuple[str, bool]:
    """Write a damaged copy of a bundle; gives what was done, and whether every command has to refuse it.

    Args:
        bundle: a whole bundle.
        target: folder to make; what the bundle must not reach stands in the folder OUTSIDE beside it.
        rng: decides everything.
        others: models to splice with, and to put in its place.
    """
    draft = Draft(bundle)
    names = [*PLAIN, *PLACED]
    shares = np.array([WEIGHTS.get(name, 1.0) for name in names])
    chosen = [
        str(name) for name in rng.choice(names, 1 + int(rng.random() < 0.25), replace=False, p=shares / shares.sum())
    ]
    for name in sorted(chosen, key="member outside".__eq__):  # Last: another one could take it back.
        try:
            if name in PLACED:
                PLACED[name](draft, rng, others, target.parent)
            else:
                PLAIN[name](draft, rng, others)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, zipfile.BadZipFile):
            continue  # The first mutation left nothing for the second one to change.
    draft.sign = draft.sign and rng.random() < 0.9
    draft.write(target)
    return " + ".join(chosen), draft.must_refuse
