"""Downloads into a cache: resumed after a break, checked by SHA-256, whole or not there."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_dl.errors import EdgeError, StageError
from edge_dl.files import member_path, read_json, sha256_file, write_json
from edge_dl.progress import SILENT, Progress, Step

RETRIES = 4
TIMEOUT = 30.0
PIECE = 1 << 16


@dataclass(frozen=True)
class Remote:
    """A file on the web.

    Attributes:
        url: where it is published (http or https).
        name: file name in the cache.
        sha256: hash of its content; None when nobody published one, see `unknown`.
        bytes: its size; None when not known.
        unknown: why `sha256` is None. The first download then decides, its hash is recorded, and every later one must
            match it.
    """

    url: str
    name: str
    sha256: str | None = None
    bytes: int | None = None
    unknown: str = ""


def fetch(
    remote: Remote,
    folder: str | Path,
    *,
    progress: Progress = SILENT,
    retries: int = RETRIES,
    timeout: float = TIMEOUT,
    pause: float = 0.5,
) -> Path:
    """The file in `folder`, downloaded when it is not there, its hash checked either way.

    A broken download goes on where it stopped, in this call (`retries` times) or in a later one, if the server can do
    that and the file there is still the same; else it starts again.

    Args:
        remote: what to fetch.
        folder: cache folder of this set.
        progress: hears of bytes, retries and of a hash that is trusted on first use.
        retries: how often a broken connection is tried again.
        timeout: seconds without a byte before a connection counts as broken.
        pause: seconds before the first retry, doubled for each further one.

    Raises:
        StageError: no connection, an HTTP error, a wrong hash, or a full disk; the message names the URL and where to
            put the file by hand.
    """
    folder = Path(folder)
    path = member_path(folder, remote.name)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / f"{remote.name}.lock", progress):
        if not path.exists():
            part = path.with_name(path.name + ".part")
            _download(remote, path, part, progress, retries, timeout, pause)
            _check(remote, path, part, progress)
            os.replace(part, path)
        else:
            _check(remote, path, path, progress)
    return path


def cached(remote: Remote, folder: str | Path) -> bool:
    """Whether the file is in `folder` (its hash is checked when it is used)."""
    return member_path(Path(folder), remote.name).is_file()


def _download(
    remote: Remote, path: Path, part: Path, progress: Progress, retries: int, timeout: float, pause: float
) -> None:
    with progress.step(f"Downloading {remote.name}", remote.bytes) as step:
        told = 0
        for attempt in range(retries + 1):
            try:
                _continue(remote, part, step, timeout, told)
                return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in (408, 429):
                    raise _failed(remote, path, f"HTTP {error.code} {error.reason}") from None
                reason = f"HTTP {error.code}"
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StageError(
                        "The download needs room on the disk.",
                        stage="data",
                        received=f"{part}: {error.strerror}",
                        todo="Free some space, or set EDGE_DL_CACHE to another disk; the download will go on.",
                    ) from None
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except http.client.HTTPException as error:
                reason = f"{type(error).__name__} {error}"
            here = part.stat().st_size if part.exists() else 0
            told = max(told, here)
            if attempt == retries:
                raise _failed(remote, path, reason)
            progress.say(f"{remote.url}: {reason}; trying again ({attempt + 1} of {retries}) from byte {here}.")
            time.sleep(pause * 2**attempt)


def _continue(remote: Remote, part: Path, step: Step, timeout: float, told: int) -> None:
    """Fetch what is missing of `part`. `told` bytes have been reported to `step` before.

    Raises:
        OSError, http.client.HTTPException: the connection broke; what came is in `part`.
    """
    state = part.with_name(part.name + ".json")
    have = part.stat().st_size if part.exists() else 0
    tag = _tag(state, remote.url) if have else ""
    headers = {"User-Agent": "edge-dl", "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # What is here is as long as the file or longer: take it from the start when it does not end the same way.
        error.close()
        response = urllib.request.urlopen(
            urllib.request.Request(remote.url, headers={"User-Agent": "edge-dl", "Accept-Encoding": "identity"}),
            timeout=timeout,
        )
    with response:
        resumed = response.status == 206 and _range_start(response) == have
        if response.status == 206 and not resumed:
            part.unlink()
            raise OSError("the server sent another range than asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        write_json(state, {"url": remote.url, "tag": _strong_tag(response)})
        if start > told:
            step.advance(start - told)
        with part.open("ab" if resumed else "wb") as file:
            done = start
            while piece := response.read(PIECE):
                file.write(piece)
                done += len(piece)
                if done > told:
                    step.advance(min(len(piece), done - told))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")
    if remote.bytes is not None and total is None and done < remote.bytes:
        raise OSError(f"the connection ended after {done} of {remote.bytes} bytes")
    state.unlink(missing_ok=True)


def _check(remote: Remote, path: Path, content: Path, progress: Progress) -> None:
    """Compare the hash of `content` with the published or the recorded one; record it on first use."""
    record = path.with_name(path.name + ".json")
    found = sha256_file(content)
    recorded = _recorded(record)
    expected = remote.sha256 or recorded
    if expected is None:
        progress.say(f"{remote.name}: no published SHA-256 ({remote.unknown}); trusting this first copy, {found}.")
    elif found != expected:
        if content != path:
            content.unlink()
        raise StageError(
            "A downloaded file must have its known SHA-256.",
            stage="data",
            received=f"{content.name} from {remote.url}: {found}, "
            f"{'published' if remote.sha256 else 'recorded on first use'}: {expected}",
            todo=f"The file at the source may have changed, or the copy is damaged. Delete {path}"
            f"{'' if remote.sha256 else f' and {record}'} and try again.",
        )
    if recorded != found:
        basis = "published" if remote.sha256 else "first use"
        write_json(record, {"url": remote.url, "sha256": found, "bytes": content.stat().st_size, "basis": basis})


def _recorded(record: Path) -> str | None:
    if not record.is_file():
        return None
    value: Any = read_json(record)
    found = value.get("sha256") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _tag(state: Path, url: str) -> str:
    with contextlib.suppress(EdgeError):
        value = read_json(state)
        if isinstance(value, dict) and value.get("url") == url and isinstance(value.get("tag"), str):
            return str(value["tag"])
    return ""


def _strong_tag(response: Any) -> str:
    """What names this exact version of the file: a strong ETag or a date (RFC 9110, section 13.1.5), or ""."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return str(response.headers.get("Last-Modified", ""))


def _range_start(response: Any) -> int:
    """First byte of a 206 answer, from `Content-Range: bytes 5-9/10`; -1 when it does not say."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.split("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else -1


def _failed(remote: Remote, path: Path, reason: str) -> StageError:
    check = f" (SHA-256 {remote.sha256})" if remote.sha256 else ""
    return StageError(
        f"{remote.url} must be reachable.",
        stage="data",
        received=reason,
        todo=f"Try again later, or download it elsewhere and put the file{check} at {path}.",
    )


@contextlib.contextmanager
def _only_one(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold `lock`, waiting for another process that downloads the same file."""
    try:
        import fcntl
    except ImportError:  # Windows: two downloads at once would only cost a repeated download.
        yield
        return
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            progress.say(f"Waiting for another command that is downloading {lock.stem}.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
