"""Downloads from a real server on the loopback interface: broken, resumed, wrong, refused, offline."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edge_dl.data.download import Remote, cached, fetch
from edge_dl.errors import StageError, UsageError
from edge_dl.files import cache_folder

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
HASH = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does.

    Attributes:
        content: the file.
        breaks: close the connection after so many bytes, once for each entry.
        ranges: whether Range is obeyed.
        tag: ETag.
        length: whether Content-Length is sent.
        statuses: answer with these codes first.
        shift: start a partial answer so many bytes too late.
        asked: the Range header of every request.
    """

    content: bytes = CONTENT
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    tag: str = '"v1"'
    length: bool = True
    statuses: list[int] = field(default_factory=list)
    shift: int = 0
    asked: list[str | None] = field(default_factory=list)


class Heard:
    """A progress listener that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total: float | None = None
        self.done = 0.0

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[Heard]:
        self.total = total
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        assert amount >= 0
        self.done += amount

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            behaviour.asked.append(asked)
            self.close_connection = True
            if behaviour.statuses:
                self.send_response(behaviour.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body, start = behaviour.content, 0
            same = self.headers.get("If-Range") in (None, behaviour.tag)
            if asked and behaviour.ranges and same:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start += behaviour.shift
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                body = body[start:]
            else:
                self.send_response(200)
            if behaviour.tag:
                self.send_header("ETag", behaviour.tag)
            if behaviour.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if behaviour.breaks:
                body = body[: behaviour.breaks.pop(0)]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/data.bin", behaviour
        running.shutdown()
        thread.join()


def remote(url: str, **changes: Any) -> Remote:
    return replace(Remote(url, "data.bin", HASH, len(CONTENT)), **changes)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"data.bin.lock"}


def test_whole_download_is_checked_recorded_and_not_repeated(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    heard = Heard()
    assert not cached(remote(url), tmp_path)
    path = fetch(remote(url), tmp_path, progress=heard)
    assert path.read_bytes() == CONTENT
    assert cached(remote(url), tmp_path)
    assert (heard.total, heard.done) == (len(CONTENT), len(CONTENT))
    assert names(tmp_path) == {"data.bin", "data.bin.json"}
    record = json.loads((tmp_path / "data.bin.json").read_text())
    assert record == {"url": url, "sha256": HASH, "bytes": len(CONTENT), "basis": "published"}
    fetch(remote(url), tmp_path)
    assert len(behaviour.asked) == 1


def test_broken_connection_goes_on_where_it_stopped(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks = [100_000, 50_000]
    heard = Heard()
    assert fetch(remote(url), tmp_path, progress=heard, pause=0).read_bytes() == CONTENT
    assert behaviour.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert heard.done == len(CONTENT)
    assert "the connection ended after 100000 of 512000 bytes; trying again (1 of 4) from byte 100000" in heard.lines[0]


def test_broken_download_goes_on_in_a_later_call(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks = [70_000]
    with pytest.raises(StageError, match=r"ended after 70000 of 512000 bytes") as caught:
        fetch(remote(url), tmp_path, retries=0)
    assert caught.value.exit_code == 3
    assert names(tmp_path) == {"data.bin.part", "data.bin.part.json"}
    heard = Heard()
    assert fetch(remote(url), tmp_path, progress=heard).read_bytes() == CONTENT
    assert behaviour.asked == [None, "bytes=70000-"]
    assert heard.done == len(CONTENT)
    assert names(tmp_path) == {"data.bin", "data.bin.json"}


def test_server_without_ranges_starts_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.ranges = False
    behaviour.breaks = [100_000, 50_000]
    heard = Heard()
    assert fetch(remote(url), tmp_path, progress=heard, pause=0).read_bytes() == CONTENT
    assert len(behaviour.asked) == 3
    assert heard.done == len(CONTENT)


def test_file_that_changed_meanwhile_starts_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.content, behaviour.tag, behaviour.breaks = CONTENT[::-1], '"old"', [100_000]
    with pytest.raises(StageError):
        fetch(remote(url), tmp_path, retries=0)
    behaviour.content, behaviour.tag = CONTENT, '"new"'
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT


def test_without_a_version_mark_nothing_is_patched_together(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.tag, behaviour.breaks = "", [100_000]
    assert fetch(remote(url), tmp_path, pause=0).read_bytes() == CONTENT
    assert behaviour.asked == [None, None]


def test_wrong_range_is_not_appended(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks, behaviour.shift = [100_000], 5
    assert fetch(remote(url), tmp_path, pause=0).read_bytes() == CONTENT
    assert behaviour.asked == [None, "bytes=100000-", None]


def test_part_as_long_as_the_file_is_fetched_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    (tmp_path / "data.bin.part").write_bytes(b"x" * len(CONTENT))
    (tmp_path / "data.bin.part.json").write_text(json.dumps({"url": url, "tag": behaviour.tag}))
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT
    assert behaviour.asked == [f"bytes={len(CONTENT)}-", None]


def test_wrong_hash_is_refused_and_leaves_nothing(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.content = CONTENT[:-1] + b"!"
    with pytest.raises(StageError, match=f"published: {HASH}"):
        fetch(remote(url), tmp_path)
    assert names(tmp_path) == set()


def test_damaged_cached_file_is_refused_not_used(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    path = fetch(remote(url), tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(StageError, match=r"Delete .*data\.bin and try again"):
        fetch(remote(url), tmp_path)
    path.unlink()
    assert fetch(remote(url), tmp_path).read_bytes() == CONTENT


def test_unpublished_hash_is_trusted_once_and_held_to_it(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    wanted = remote(url, sha256=None, bytes=None, unknown="nobody gives one")
    heard = Heard()
    path = fetch(wanted, tmp_path, progress=heard)
    assert heard.lines == [f"data.bin: no published SHA-256 (nobody gives one); trusting this first copy, {HASH}."]
    assert json.loads((tmp_path / "data.bin.json").read_text())["basis"] == "first use"
    path.unlink()
    behaviour.content = b"something else"
    with pytest.raises(StageError, match=f"recorded on first use: {HASH}"):
        fetch(wanted, tmp_path)


def test_file_put_there_by_hand_is_checked(tmp_path: Path) -> None:
    wanted = remote("http://127.0.0.1:9/none")
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT
    (tmp_path / "data.bin").write_bytes(b"other")
    with pytest.raises(StageError, match="known SHA-256"):
        fetch(wanted, tmp_path)


def test_offline_names_the_address_and_the_place(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    wanted = remote("http://127.0.0.1:9/data.bin")  # the discard port: nothing listens
    heard = Heard()
    with pytest.raises(StageError) as caught:
        fetch(wanted, tmp_path, progress=heard, retries=1, pause=0)
    message = str(caught.value)
    assert wanted.url in message
    assert str(tmp_path / "data.bin") in message
    assert HASH in message
    assert len(heard.lines) == 1


def test_missing_page_is_not_tried_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.statuses = [404]
    with pytest.raises(StageError, match="HTTP 404"):
        fetch(remote(url), tmp_path)
    assert len(behaviour.asked) == 1


def test_busy_server_is_tried_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.statuses = [503, 429]
    assert fetch(remote(url), tmp_path, pause=0).read_bytes() == CONTENT


def test_shortened_answer_without_length_is_noticed(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.length, behaviour.breaks = False, [100_000]
    assert fetch(remote(url), tmp_path, pause=0).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to play a full disk")
def test_full_disk_is_named(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with pytest.raises(StageError, match="room on the disk"):
        fetch(remote(url), tmp_path)


def test_two_at_once_download_once(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="downloads are serialized by fcntl locks only")
    url, behaviour = server
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(remote(url), tmp_path).read_bytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert len(behaviour.asked) == 1


def test_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inside its folder"):
        fetch(remote("http://127.0.0.1:9/x", name="../x"), tmp_path / "cache")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DL_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("EDGE_DL_CACHE")
    if os.name == "posix" and os.uname().sysname == "Linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "edge-dl"
