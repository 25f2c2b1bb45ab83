"""Files that are either whole or not there: atomic writes, hashes, safe paths, npz without pickles."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.errors import UsageError


def cache_folder() -> Path:
    """Folder for what can be made or fetched again: $EDGE_DL_CACHE, or the platform's cache folder."""
    if chosen := os.environ.get("EDGE_DL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edge-dl"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / "edge-dl" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-dl"


def config_folder() -> Path:
    """Folder for what the user set up: $EDGE_DL_CONFIG, or the platform's configuration folder."""
    if chosen := os.environ.get("EDGE_DL_CONFIG"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edge-dl"
    if os.name == "nt":
        return Path(os.environ.get("APPDATA", str(Path.home() / "AppData" / "Roaming"))) / "edge-dl"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edge-dl"


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed over `path`, on error removed.

    A reader sees the old file or the new one, never half of one, also when the disk fills up or the process dies.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name keeps the suffix: savers such as Keras choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path` atomically."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. NaN and infinity are refused: no JSON reader must guess."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a UTF-8 JSON file.

    Raises:
        UsageError: the file is missing or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("The file must exist.", received=str(path)) from None
    except OSError as error:
        raise UsageError("The file must be readable.", received=f"{path} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError("The file must be valid UTF-8 JSON.", received=f"{path} ({error})") from None


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def gzip_size(content: bytes) -> int:
    """Bytes of `content` after gzip (RFC 1952) at its best: what a download or an app package takes."""
    return len(gzip.compress(content, 9, mtime=0))


def member_path(folder: str | Path, name: str) -> Path:
    """Path of the member `name` inside `folder`.

    Raises:
        UsageError: `name` is absolute, holds `..`, or leads out of the folder through a link.
    """
    folder = Path(folder)
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name or not _is_encodable(name):
        raise UsageError("A member's name must be a plain relative path.", received=repr(name))
    path = folder / name
    try:
        resolved = path.resolve()
        # A link that leads to itself is an error up to Python 3.12; from 3.13 on it stays in the path.
        looping = any(part.is_symlink() for part in (resolved, *resolved.parents))
        inside = resolved.is_relative_to(folder.resolve()) and not looping
    except (OSError, RuntimeError):
        inside = False
    if Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise UsageError(
            "A member must lie inside its folder.",
            received=repr(name),
            todo="The folder may have been tampered with: make it again from its source.",
        )
    return path


def _is_encodable(name: str) -> bool:
    """Whether file systems can hold the name: text (no lone surrogates) of at most 255 bytes a part."""
    try:
        return all(len(part.encode("utf-8")) <= 255 for part in name.split("/"))
    except UnicodeEncodeError:
        return False


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Save named arrays to a compressed .npz, atomically. Object arrays are refused."""
    plain = {}
    for name, array in arrays.items():
        try:
            plain[name] = np.asarray(array)
        except ValueError as error:
            raise UsageError("Arrays must not be ragged.", received=f"array {name!r} ({error})") from None
        if plain[name].dtype.hasobject:
            raise UsageError("Arrays must hold numbers or text, not Python objects.", received=f"array {name!r}")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        # Not np.savez_compressed: it has no place for arrays named like its own arguments ("file").
        for name, array in plain.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_npz(path: str | Path, *, limit: int | None = None) -> dict[str, np.ndarray]:
    """Load every array of a .npz into memory; pickled objects are never unpickled.

    Args:
        path: the file.
        limit: bytes that it may unpack to; None: any number.

    Raises:
        UsageError: the file is missing, is not a .npz, is damaged, holds pickled objects, or more than `limit`.
    """
    path = Path(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UsageError("The file must be an .npz archive of named arrays.", received=f"{path} (a single .npy)")
        with archive:
            # A member never gives more than the directory says, whatever its compressed bytes unpack to.
            unpacked = sum(item.file_size for item in archive.zip.infolist())
            if limit is not None and unpacked > limit:
                raise UsageError(
                    f"This .npz archive must unpack to at most {limit} bytes.", received=f"{path}: {unpacked} bytes"
                )
            loaded = {name: archive[name] for name in archive.files}
        for name, array in loaded.items():
            if not isinstance(array, np.ndarray):  # NumPy gives other members as bytes.
                raise UsageError(
                    "The file must be an .npz archive of named arrays.", received=f"{path} (with a member {name!r})"
                )
        return loaded
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError("The file must exist.", received=str(path)) from None
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise UsageError(
                "An .npz file must hold plain arrays: pickled objects can run code and are never loaded.",
                received=str(path),
                todo="Save numbers or fixed-width text, for example np.savez(file, x=x.astype('float32')).",
            ) from None
        raise UsageError("The file must be an .npz archive of named arrays.", received=f"{path} ({error})") from None
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds for damaged bytes.
        reason = f"{type(error).__name__}: {error}"
        raise UsageError("The file must be a whole .npz archive.", received=f"{path} ({reason})") from None
