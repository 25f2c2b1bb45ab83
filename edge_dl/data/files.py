"""Data files: plain, gzip-compressed, or members of a zip archive (`archive.zip::folder/member.csv`)."""

from __future__ import annotations

import difflib
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_dl.errors import UsageError

SEPARATOR = "::"
# A few hundred bytes of zip can unpack to gigabytes; nothing here is meant for data beyond this.
MAX_UNPACKED = 4 << 30
# What reading a damaged archive, or a file that is gone or not ours, raises.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError, KeyError)


@dataclass(frozen=True)
class DataFile:
    """One data file.

    Attributes:
        path: the file, or the archive that holds it.
        member: name inside the archive; "" for a plain file.
    """

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """File name without folders, e.g. "ETTh1.csv"."""
        return PurePosixPath(self.member).name if self.member else self.path.name

    def __str__(self) -> str:
        return f"{self.path}{SEPARATOR}{self.member}" if self.member else str(self.path)

    def sibling(self, name: str) -> DataFile | None:
        """The file called `name` beside this one, or None."""
        if not self.member:
            path = self.path.with_name(name)
            return DataFile(path) if path.is_file() else None
        member = str(PurePosixPath(self.member).with_name(name))
        return DataFile(self.path, member) if member in self.members() else None

    def members(self) -> list[str]:
        """Names of the files in this zip archive.

        Raises:
            UsageError: the file is not a zip archive.
        """
        return _members(self.path)

    def content(self) -> bytes:
        """The content, unpacked when the name ends in .gz.

        Raises:
            UsageError: the file cannot be read, or its compression is damaged.
        """
        stored = self._stored()
        if not self.name.endswith(".gz"):
            return stored
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(stored)) as file:
                unpacked = file.read(MAX_UNPACKED + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError("The file must be whole gzip data.", received=f"{self} ({error})") from None
        if len(unpacked) > MAX_UNPACKED:
            raise UsageError(f"Unpacked data must stay below {MAX_UNPACKED >> 30} GiB.", received=str(self))
        return unpacked

    def text(self) -> str:
        """The content as UTF-8 text; a byte order mark is dropped, line ends become `\\n`.

        Raises:
            UsageError: the file cannot be read or is not UTF-8.
        """
        return as_text(self.content(), str(self))

    def _stored(self) -> bytes:
        if not self.member:
            try:
                return self.path.read_bytes()
            except OSError as error:
                raise UsageError("The file must be readable.", received=f"{self.path} ({error.strerror})") from None
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(self.member).file_size > MAX_UNPACKED:
                    raise UsageError(f"Unpacked data must stay below {MAX_UNPACKED >> 30} GiB.", received=str(self))
                return archive.read(self.member)
        except _UNREADABLE as error:
            raise UsageError("The archive must be a whole zip file.", received=f"{self} ({error})") from None


class DataFolder:
    """The files of a folder, or of a zip archive, by their path inside it. Used as a context manager.

    Args:
        path: a folder or a zip archive.

    Raises:
        UsageError: it is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if not path.is_dir():
            _members(path)  # A damaged archive is told here.
            self._archive = zipfile.ZipFile(path)

    def __enter__(self) -> DataFolder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def names(self) -> list[str]:
        """Paths of the files, with `/` between folders; without those that a name with a leading dot hides."""
        if self._archive is not None:
            names = _members(self.path)
        else:
            names = [item.relative_to(self.path).as_posix() for item in self.path.rglob("*") if item.is_file()]
        return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))

    def content(self, name: str) -> bytes:
        """What the file called `name` holds. May be called from several threads.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            if self._archive is None:
                return (self.path / name).read_bytes()
            if self._archive.getinfo(name).file_size > MAX_UNPACKED:
                raise UsageError(f"Unpacked data must stay below {MAX_UNPACKED >> 30} GiB.", received=name)
            return self._archive.read(name)
        except _UNREADABLE as error:
            raise UsageError("A data file must be readable.", received=f"{name} ({error})") from None


def as_text(content: bytes, where: str) -> str:
    """UTF-8 as text; a byte order mark is dropped, line ends become `\\n`.

    Args:
        content: what a file holds.
        where: what to call it in a message.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            "Text files must be UTF-8.",
            received=f"{where} (byte {error.start}: {error.reason})",
            todo="Convert it, for example with iconv -f latin1 -t utf-8.",
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def locate(source: str, known: Iterable[str] = ()) -> DataFile:
    """The file that `source` names: a path, or `archive.zip::member`.

    Args:
        source: what the user gave.
        known: names that would have been right too, for the message.

    Raises:
        UsageError: there is no such file, archive or member.
    """
    name, _, member = source.partition(SEPARATOR)
    path = Path(name).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(source, list(known), n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UsageError(
            "Data must be a known set or an existing path.",
            received=source,
            todo=f"{hint}`edge-dl data list` shows the sets.",
        )
    if not member:
        return DataFile(path)
    members = _members(path)
    parts = PurePosixPath(member)
    # Members are read, never unpacked to disk; a name that leads out is refused all the same.
    if parts.is_absolute() or ".." in parts.parts:
        raise UsageError("A member must lie inside its archive.", received=repr(member))
    if member not in members:
        near = difflib.get_close_matches(member, members, n=3, cutoff=0.3)
        raise UsageError(
            "The archive has no such member.",
            received=source,
            todo=f"It holds {', '.join(near or members[:5])}{' and others' if len(members) > 5 else ''}.",
        )
    return DataFile(path, member)


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError("The archive must be a whole zip file.", received=f"{path} ({error})") from None
