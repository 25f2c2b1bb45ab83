"""A small adbd: the device's side of Android's debug protocol over TCP, running shell commands on this machine.

It speaks what the adb client needs without shell_v2, as old devices do: CNXN, AUTH, OPEN, OKAY, WRTE, CLSE, the
services `shell:` and `exec:`, and in `sync:` STAT, SEND and DATA. After Android's own protocol descriptions
(adb/protocol.txt, adb/SYNC.TXT).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

_MAX = 4096


def _word(name: str) -> int:
    return struct.unpack("<I", name.encode())[0]


class FakeAdbd:
    """A device on a loopback port.

    Args:
        bin_folder: in front of the PATH of its commands: getprop, dumpsys.
        mode: "" works; "unauthorized" asks for a key and takes none; "offline" greets once and is silent from then on;
            "full" takes no file; "lost" drops the connection at the first command that holds `lose_at`.
    """

    def __init__(self, bin_folder: Path, *, mode: str = "", lose_at: str = "") -> None:
        self.bin_folder, self.mode, self.lose_at = bin_folder, mode, lose_at
        self.commands: list[str] = []
        self.pushed: list[str] = []
        self.greeted = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        # shutdown and not only close: a thread is waiting in it.
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                connection.close()
                return
            self._open.append(connection)
            threading.Thread(target=_Link(self, connection).serve, daemon=True).start()


class _Link:
    """One connection, with its streams."""

    def __init__(self, device: FakeAdbd, connection: socket.socket) -> None:
        self.device, self.connection = device, connection
        self.lock = threading.Lock()
        self.streams: dict[int, _Stream] = {}

    def _read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            piece = self.connection.recv(count - len(content))
            if not piece:
                raise ConnectionError
            content += piece
        return content

    def send(self, command: str, first: int, second: int, data: bytes = b"") -> None:
        word = _word(command)
        head = struct.pack("<6I", word, first, second, len(data), sum(data) & 0xFFFFFFFF, word ^ 0xFFFFFFFF)
        with self.lock:
            self.connection.sendall(head + data)

    def serve(self) -> None:
        number = 0
        try:
            while True:
                command, first, second, length, _, _ = struct.unpack("<6I", self._read(24))
                data = self._read(length)
                if command == _word("CNXN") or command == _word("AUTH"):
                    if self.device.mode == "unauthorized":
                        self.send("AUTH", 1, 0, b"t" * 20)
                    elif self.device.mode != "offline" or not self.device.greeted:
                        self.device.greeted = True
                        banner = b"device::ro.product.name=fake;ro.product.model=Fake;ro.product.device=fake;"
                        self.send("CNXN", 0x01000000, _MAX, banner)
                        if self.device.mode == "offline":
                            self.connection.shutdown(socket.SHUT_RDWR)
                            return
                elif command == _word("OPEN"):
                    number += 1
                    service = data.rstrip(b"\0").decode()
                    stream = self.streams[number] = _Stream(self, number, first)
                    if self.device.mode == "lost" and self.device.lose_at in service:
                        self.device.close()
                        return
                    threading.Thread(target=stream.run, args=(service,), daemon=True).start()
                elif command == _word("WRTE"):
                    self.send("OKAY", second, first)
                    self.streams[second].received(data)
                elif command == _word("OKAY"):
                    self.streams[second].ready.release()
                elif command == _word("CLSE") and second in self.streams:
                    self.streams.pop(second).received(b"")
        except (OSError, ConnectionError, struct.error):
            return


class _Stream:
    """One service under way."""

    def __init__(self, link: _Link, local: int, remote: int) -> None:
        self.link, self.local, self.remote = link, local, remote
        self.ready = threading.Semaphore(0)
        self._reader, self._writer = os.pipe()
        self._done = False

    def received(self, data: bytes) -> None:
        if self._done:
            return
        if data:
            os.write(self._writer, data)
        else:
            self._done = True
            os.close(self._writer)

    def _take(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            piece = os.read(self._reader, count - len(content))
            if not piece:
                raise ConnectionError
            content += piece
        return content

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), _MAX):
            self.link.send("WRTE", self.local, self.remote, data[start : start + _MAX])
            self.ready.acquire()

    def run(self, service: str) -> None:
        try:
            self.link.send("OKAY", self.local, self.remote)
            kind, _, command = service.partition(":")
            if kind in ("shell", "exec"):
                self.link.device.commands.append(command)
                environment = {**os.environ, "PATH": f"{self.link.device.bin_folder}:/usr/bin:/bin"}
                # One channel: no standard error of its own, and no exit code.
                done = subprocess.run(["sh", "-c", command], env=environment, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
                self.write(done.stdout)
            elif kind == "sync":
                self._sync()
            self.link.send("CLSE", self.local, self.remote)
        except (OSError, ConnectionError):
            return

    def _sync(self) -> None:
        while True:
            name, length = struct.unpack("<4sI", self._take(8))
            if name == b"QUIT":
                return
            path = self._take(length).decode()
            if name == b"STAT":
                found = os.stat(path) if os.path.exists(path) else None
                numbers = (found.st_mode, found.st_size, int(found.st_mtime)) if found else (0, 0, 0)
                self.write(struct.pack("<4s3I", b"STAT", *(number & 0xFFFFFFFF for number in numbers)))
            elif name == b"SEND":
                self._receive_file(path.rpartition(",")[0])

    def _receive_file(self, path: str) -> None:
        content = b""
        while True:
            name, length = struct.unpack("<4sI", self._take(8))
            if name == b"DONE":
                break
            content += self._take(length)
        try:
            if self.link.device.mode == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            Path(path).write_bytes(content)
        except OSError as error:
            words = (error.strerror or "").encode()
            self.write(struct.pack("<4sI", b"FAIL", len(words)) + words)
            return
        self.link.device.pushed.append(path)
        self.write(struct.pack("<4sI", b"OKAY", 0))
