"""SavedModels as TensorFlow Hub publishes them: found by handle, folder or archive, read whole, and trusted or not.

A SavedModel's graph is a program: it can read and write files. One that its user named as a backbone is trusted from
then on, by its content; one that lies in somebody else's .keras file is loaded only where the user says so.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import importlib.util
import os
import re
import socket
import sys
import tarfile
import tempfile
import types
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from edge_dl.errors import StageError, UsageError, missing_extra
from edge_dl.files import cache_folder, config_folder, member_path, write_atomic

Files = dict[str, bytes]
"""A SavedModel: paths inside its folder, with `/`, and contents."""

GRAPH = "saved_model.pb"
ARCHIVES = (".tar.gz", ".tgz", ".tar")
# What `tf.saved_model.load` reads; published folders hold more, such as Keras' own records.
_READ = re.compile(r"(saved_model\.pb|fingerprint\.pb|(variables|assets)/.+)")
_TF1 = "tfhub_module.pb"
# As Kaggle, where TensorFlow Hub's models moved, writes them: owner/model/framework/variation/version.
_KAGGLE = re.compile(r"[\w.-]+/[\w.-]+/tensorflow2/[\w.-]+/\d+", re.IGNORECASE)
_TIMEOUT = 30.0  # seconds without an answer

_trusting = contextvars.ContextVar("trusting", default=False)


def is_handle(backbone: str) -> bool:
    """Whether model.backbone means a SavedModel (a handle, a folder, an archive) and not one of our backbones."""
    return "/" in backbone or os.sep in backbone or backbone.lower().endswith(ARCHIVES)


def read_backbone(backbone: str) -> Files:
    """The SavedModel that a handle, a folder or an archive means; a handle is downloaded, once.

    Raises:
        UsageError: nothing is there, it is no SavedModel, one of TensorFlow 1, or cut off; or tensorflow_hub is needed
            and not installed.
        StageError: a handle could not be downloaded.
    """
    path = Path(backbone).expanduser()
    if path.is_dir():
        return read_folder(path)
    if path.is_file():
        return _read_archive(path)
    if _KAGGLE.fullmatch(backbone):
        return read_folder(_download(f"https://www.kaggle.com/models/{backbone}"))
    if "://" in backbone:
        return read_folder(_download(backbone))
    raise UsageError(
        "A backbone's SavedModel must be there.",
        received=f"model.backbone={backbone}, which is no folder and no archive",
        todo="Name a folder with saved_model.pb, a .tar.gz of one, a URL of TensorFlow Hub or Kaggle, or "
        "owner/model/tensorFlow2/variation/version.",
    )


def read_folder(folder: Path) -> Files:
    """The SavedModel in a folder.

    Raises:
        UsageError: it holds none, or one of TensorFlow 1.
    """
    found = {item.relative_to(folder).as_posix(): item for item in sorted(folder.rglob("*")) if item.is_file()}
    return {name: found[name].read_bytes() for name in _names(found, str(folder))}


def _read_archive(path: Path) -> Files:
    try:
        with tarfile.open(path) as archive:
            found = {str(PurePosixPath(item.name)): item for item in archive.getmembers() if item.isfile()}
            # Some are packed with the folder around them.
            tops = {PurePosixPath(name).parent for name in found if PurePosixPath(name).name == GRAPH}
            if tops:
                [top] = tops
                inside = [name for name in found if PurePosixPath(name).is_relative_to(top)]
                found = {PurePosixPath(name).relative_to(top).as_posix(): found[name] for name in inside}
            files = {}
            for name in _names(found, str(path)):
                opened = archive.extractfile(found[name])
                files[name] = opened.read() if opened else b""
            return files
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UsageError(
            "A backbone's archive must be a whole .tar.gz of one SavedModel.",
            received=f"{path} ({type(error).__name__}: {error})",
        ) from None


def _names(found: Mapping[str, object], where: str) -> list[str]:
    if _TF1 in found:
        raise UsageError(
            "A backbone must be a TF2 SavedModel.",
            received=f"{where}, a module of TensorFlow Hub's first format ({_TF1})",
            todo="Take the model's TF2 version: on Kaggle its framework is called TensorFlow2.",
        )
    if GRAPH not in found:
        raise UsageError(
            "A backbone must be a SavedModel: a folder, or a .tar.gz of one, with saved_model.pb in it.",
            received=f"{where} with {', '.join(sorted(found)[:3]) or 'no file'}{' ...' if len(found) > 3 else ''}",
        )
    return sorted(name for name in found if _READ.fullmatch(name))


@contextlib.contextmanager
def unpacked(files: Files) -> Iterator[str]:
    """A folder with the files, as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="edge-dl-") as folder:
        write_folder(files, folder)
        yield folder


def write_folder(files: Files, folder: str | Path) -> None:
    """Write the files into a folder."""
    for name, content in files.items():
        path = member_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def trust(files: Files) -> None:
    """Note, in the user's configuration, that this SavedModel is one that the user named.

    Raises:
        UsageError: the configuration cannot be written.
    """
    mark = _mark(files)
    if mark.is_file():
        return
    try:
        write_atomic(mark, "A SavedModel that was named as a backbone on this machine: it may be loaded.\n")
    except OSError as error:
        raise UsageError(
            "Which SavedModels may be loaded is noted in edge-dl's configuration.",
            received=f"{mark.parent} ({error.strerror})",
            todo="Set EDGE_DL_CONFIG to a folder that can be written.",
        ) from None


def is_trusted(files: Files) -> bool:
    """Whether a SavedModel may be loaded: the user named it before, or says so now."""
    return _trusting.get() or _mark(files).is_file()


@contextlib.contextmanager
def trusting(unsafe: bool) -> Iterator[None]:
    """A context in which every SavedModel is trusted, where `unsafe`."""
    token = _trusting.set(unsafe or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(token)


def _mark(files: Files) -> Path:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return config_folder() / "trusted" / digest.hexdigest()


def _download(handle: str) -> Path:
    # Its own default is in the folder for temporary files, which other users can write to.
    os.environ.setdefault("TFHUB_CACHE_DIR", str(cache_folder() / "hub"))
    try:
        with _version_parser():
            import tensorflow_hub
    except ImportError as error:
        raise missing_extra(error) or error from None
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        return Path(tensorflow_hub.resolve(handle))
    except Exception as error:  # URLError, HTTPError, OSError for an answer that is no archive, TensorFlow's for disks.
        raise StageError(
            "A backbone's handle is downloaded, once, by tensorflow_hub.",
            stage="train",
            received=f"{handle} ({type(error).__name__}: {error})",
            todo="Check the handle and connect this machine, or download the TF2 SavedModel elsewhere and name its "
            "folder or .tar.gz: --set model.backbone=PATH.",
        ) from error
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _version_parser() -> Iterator[None]:
    """While tensorflow_hub is imported, what it takes from pkg_resources, which setuptools 82 no longer has.

    Seen with tensorflow-hub 0.16.1, its last release.
    """
    if importlib.util.find_spec("pkg_resources"):
        yield
        return
    from packaging.version import parse  # Keras and TensorFlow need it too.

    stand_in = types.ModuleType("pkg_resources")
    stand_in.parse_version = parse  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
