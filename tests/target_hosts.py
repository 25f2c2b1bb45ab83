"""Real programs for the target tests: sshd and adb, the machine's own or Debian's packages unpacked in the cache."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edge_dl.errors import EdgeError
from edge_dl.runtime.targets import debian
from edge_dl.runtime.targets.places import made_folder, making

_SSH_LIBRARIES = ("openssh-sftp-server", "libwrap0", "libaudit1", "libcap-ng0", "libgssapi-krb5-2", "libkrb5-3",
                  "libkrb5support0", "libk5crypto3", "libkeyutils1", "libnsl2", "libtirpc3")  # fmt: skip
_ADB_LIBRARIES = ("android-libbase", "android-libboringssl", "android-libcutils", "android-liblog", "libusb-1.0-0")


@functools.cache
def find_tool(name: str) -> tuple[str, dict[str, str]]:
    """Path of `sshd` or `adb` with the environment it needs; skips the test, with the reason, where there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which(name, path=path):
        return found, {}
    package = {"sshd": "openssh-server", "adb": "adb"}[name]
    if obstacles := debian.find_obstacles():
        pytest.skip(f"no {name} here (apt install {package}), and Debian's cannot be had: {obstacles[0].found}")
    folder = made_folder("test-tools", name)
    libraries = _SSH_LIBRARIES if name == "sshd" else _ADB_LIBRARIES
    try:
        with making(folder) as needed:
            if needed:
                debian.unpack([package, *libraries], folder / "root", architecture="amd64", dependencies=False)
    except EdgeError as error:
        pytest.skip(f"no {name} here (apt install {package}), and Debian's cannot be had: {error}")
    root = folder / "root"
    library = root / "usr" / "lib" / "x86_64-linux-gnu"
    places = [library, library / "android", root / "lib" / "x86_64-linux-gnu"]
    program = next(path for path in (root / "usr" / "sbin" / name, library / "android-sdk", root / "usr/bin" / name,
                                     root / "usr/lib/android-sdk/platform-tools" / name) if path.is_file())  # fmt: skip
    return str(program), {"LD_LIBRARY_PATH": os.pathsep.join(map(str, places))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """An sshd of our own on a loopback port: own host key, own user key, own configuration, no root.

    `file_limit_kib` limits the size of files there; `disk_kib` puts a file system of that size behind its work folder,
    which takes root (the test is skipped without).
    """

    def __init__(self, folder: Path, *, bin_folder: Path, file_limit_kib: int = 0, disk_kib: int = 0) -> None:
        self.folder = folder
        self.program, self.environment = find_tool("sshd")
        folder.mkdir(parents=True)
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        self.port = free_port()
        self.bin_folder, self.file_limit_kib, self.disk_kib = bin_folder, file_limit_kib, disk_kib
        self.trust((folder / "host_key.pub").read_text())
        (folder / "client_config").write_text(
            f"Host edge-test\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {folder}/user_key\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
            # What a careless configuration says must not switch the checking of host keys off.
            "  StrictHostKeyChecking no\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        # The Python is named: a login shell's own start files may put another one in front.
        options = f"folder={self.folder}/work&python={self.bin_folder}/python3"
        return f"ssh://edge-test?config={self.folder}/client_config&{options}"

    def trust(self, public_key: str) -> None:
        kind, key = public_key.split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.folder}/host_key\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPidFile {self.folder}/pid\n"
            f"PasswordAuthentication no\nSubsystem sftp internal-sftp\nPermitRootLogin yes\n"
        )
        # A limit on the size of files, with its signal ignored: writing then fails as it does on a full disk.
        limit = f"trap '' XFSZ; ulimit -f {self.file_limit_kib * 2}; " if self.file_limit_kib else ""
        setup = ""
        if os.geteuid() == 0:
            # Started by root it wants the user that its package makes: given to it alone, in mounts of its own.
            passwd = Path("/etc/passwd").read_text()
            (self.folder / "passwd").write_text(passwd + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
            setup = f"mount --bind {self.folder}/passwd /etc/passwd && mount -t tmpfs none /run && mkdir /run/sshd && "
            if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
                pytest.skip("sshd started by root needs mounts of its own (unshare -m), which are not allowed here")
        if self.disk_kib:
            if not setup:
                pytest.skip("a small file system is mounted by root")
            (self.folder / "work").mkdir(exist_ok=True)
            setup += f"mount -t tmpfs -o size={self.disk_kib}k none {self.folder}/work && "
        # As an ordinary process that stays in front, in a session of its own, so that it ends with all its children.
        self.process = subprocess.Popen(
            [*(["unshare", "-m"] if setup else []), "sh", "-c", f'{setup}{limit}exec "$0" -D -e -f "$1"', self.program,
             str(config)],
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        pytest.fail(f"sshd does not start: {(self.folder / 'log').read_text()[-500:]}")

    def cut(self) -> None:
        """End every connection under way; the server goes on listening."""
        assert self.process is not None
        for child in self._children(self.process.pid):
            subprocess.run(["kill", "-9", str(child)], check=False, capture_output=True)

    def stop(self) -> None:
        """End the server and every connection."""
        if self.process is not None:
            children = self._children(self.process.pid)
            self.process.kill()
            self.process.wait()
            for child in children:
                subprocess.run(["kill", "-9", str(child)], check=False, capture_output=True)
            self.process = None

    @staticmethod
    def _children(parent: int) -> list[int]:
        """Processes below one: an sshd gives every connection a session of its own."""
        found, waiting = [], [parent]
        while waiting:
            number = waiting.pop()
            for tasks in Path("/proc").glob(f"{number}/task/*/children"):
                below = [int(word) for word in tasks.read_text().split()]
                found += below
                waiting += below
        return found
