"""What connections over a wire have in common: a folder there, uploads by content hash that resume, and an end.

The other side needs a POSIX shell, as OpenSSH servers and Android have. Paths are ours alone: nothing that the other
side says becomes part of a command.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.files import sha256_file
from edge_dl.runtime.targets.answers import Facts, full_disk, parse_facts
from edge_dl.runtime.targets.base import Connection, check_size, content_hash
from edge_dl.runtime.targets.processes import Completed
from edge_dl.runtime.targets.url import Address

CLOSE_SECONDS = 20.0
_NO_FOLDER, _DAMAGED = 75, 76
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
_FACTS: Facts = {
    "device": (r"^device=(.+)$", str),
    "governor": (r"^governor=(\w+)$", str),
    "temperature_c": (r"^temperature=(-?\d+)$", lambda text: int(text) / 1000),
    "throttled": (r"^throttled=(0x[0-9a-fA-F]{1,8})$", str),
    "load_average": (r"^load=(\d+\.\d+)", float),
}
_FACTS_SCRIPT = (
    'echo "device=$(tr -d "\\000" < /proc/device-tree/model 2>/dev/null)"; '
    'echo "governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"; '
    'echo "temperature=$(cat /sys/class/thermal/thermal_zone0/temp 2>/dev/null)"; '
    'echo "load=$(cat /proc/loadavg 2>/dev/null)"; '
    "if command -v vcgencmd >/dev/null 2>&1; then vcgencmd get_throttled; fi; true"
)


class RemoteConnection(Connection):
    """A folder on another machine: `ROOT/<content hash>/` for what is uploaded, `ROOT/run-<token>/` for results."""

    default_folder = "/tmp"
    kept_folder = ".cache/edge-dl"
    default_python = "python3"

    def __init__(self, address: Address) -> None:
        options = address.options
        self.keep = options.get("keep", "no") == "yes"
        self.python, self.runtime = options.get("python", self.default_python), options.get("runtime", "auto")
        folder = options.get("folder", "")
        if folder and not re.fullmatch(r"[A-Za-z0-9._/+-]{1,200}", folder):
            raise UsageError("folder must be a plain path.", received=repr(folder))
        token = secrets.token_hex(6)
        self.root = (folder or self.kept_folder) if self.keep else f"{folder or self.default_folder}/edge-dl-{token}"
        self._run = f"{self.root}/run-{token}"
        self._there: set[str] = set()
        self._made = False

    @abstractmethod
    def shell(self, script: str, *, timeout: float, limit: int = 4 << 20) -> Completed:
        """Run a script of one line in the target's shell.

        Raises:
            StageError: the target cannot be reached, or the time is over.
        """

    @abstractmethod
    def upload(self, pairs: Sequence[tuple[Path, str, bool]], *, timeout: float) -> None:
        """Copy files to paths there; a true third item says that the beginning is there already.

        Raises:
            StageError: see `shell`; or the target takes no more.
        """

    def put(self, files: Mapping[str, Path], *, timeout: float) -> str:
        """Upload what is not there yet; an upload that broke off goes on where it stopped."""
        for name in files:
            if not _PLAIN.fullmatch(name):
                raise UsageError("A bundle's members must have plain names to travel.", received=repr(name))
        digest = content_hash(files)[:40]
        place = f"{self.root}/{digest}"
        if place in self._there:
            return place
        self._make_root(timeout)
        for last in (False, True):
            if not (missing := self._missing(place, files, timeout)):
                break
            with tempfile.TemporaryDirectory(prefix="edge-dl-") as stage:
                # Names without characters that a client's own syntax knows, whatever the files are called here.
                pairs = []
                for number, (name, resumed) in enumerate(missing.items()):
                    link = Path(stage) / str(number)
                    link.symlink_to(files[name].resolve())
                    pairs.append((link, f"{place}.part/{name}", resumed))
                self.upload(pairs, timeout=timeout)
            if self._finish(place, files, timeout):
                break
            if last:
                raise StageError("What is uploaded must arrive unchanged.", stage="target", received=place)
        self._there.add(place)
        return place

    def _make_root(self, timeout: float) -> None:
        if self._made:
            return
        quoted = shlex.quote(self._run)
        done = self.shell(f"umask 077; mkdir -p {quoted} || exit {_NO_FOLDER}", timeout=timeout)
        if done.returncode == _NO_FOLDER:
            if re.search(r"No space left|quota", done.words, re.I):
                raise full_disk(done.words)
            todo = "Name a folder where you may write: ?folder=PATH in the target's address."
            raise StageError(
                "The target must have a folder to work in.", stage="target", received=done.words, todo=todo
            )
        self._checked(done)
        self._made = True

    def _missing(self, place: str, files: Mapping[str, Path], timeout: float) -> dict[str, bool]:
        """Files that are not whole there, and whether their beginning is."""
        part = shlex.quote(place + ".part")
        sizes = "; ".join(
            f'[ -f {shlex.quote(name)} ] && echo "{number} $(wc -c < {shlex.quote(name)})"'
            for number, name in enumerate(files)
        )
        script = (
            f"if [ -f {shlex.quote(place)}/.whole ]; then echo whole; "
            f"else mkdir -p {part} && cd {part} || exit {_NO_FOLDER}; {sizes}; fi; true"
        )
        done = self._checked(self.shell(script, timeout=timeout))
        if done.stdout.strip() == b"whole":
            return {}
        there = dict(re.findall(rb"(?m)^(\d{1,4}) +(\d{1,15})\s*$", done.stdout))
        missing = {}
        for number, (name, path) in enumerate(files.items()):
            size, have = path.stat().st_size, int(there.get(str(number).encode(), b"-1"))
            missing[name] = 0 < have < size
        return missing

    def _finish(self, place: str, files: Mapping[str, Path], timeout: float) -> bool:
        """Whether everything arrived as it was sent; what did not is removed there."""
        part, name = shlex.quote(place + ".part"), Path(place).name
        sums = "".join(f"{sha256_file(path)}  {name}\n" for name, path in files.items())
        sizes = " && ".join(
            f'[ "$(wc -c < {shlex.quote(name)})" -eq {path.stat().st_size} ]' for name, path in files.items()
        )
        lines = shlex.quote(sums.replace("\n", "\\n"))
        script = (
            f"cd {part} || exit {_NO_FOLDER}; good() {{ {sizes} || return 1; "
            f"if command -v sha256sum >/dev/null 2>&1; then printf {lines} | sha256sum -c - >/dev/null; fi; }}; "
            f"if good && : > .whole; then cd ..; mv {name}.part {name}; "
            f"else cd ..; rm -rf {name}.part; exit {_DAMAGED}; fi"
        )
        done = self.shell(script, timeout=timeout)
        if done.returncode == _DAMAGED:
            return False
        self._checked(done)
        return True

    def execute(self, arguments: Sequence[str], *, timeout: float) -> Completed:
        """Run the target's Python; where there is `timeout` it ends there too when its time is over."""
        self._make_root(timeout)
        command = " ".join(shlex.quote(part) for part in (self.python, *arguments))
        limit = f"timeout -s KILL {int(timeout) + 1}"
        # Not by exec: a Python that crashes would end the session by its signal, which ssh tells as a lost connection.
        script = (
            f"export OMP_NUM_THREADS=1; if command -v timeout >/dev/null 2>&1; then {limit} {command}; "
            f"else {command}; fi; rc=$?; exit $rc"
        )
        return self.shell(script, timeout=timeout)

    def fetch(self, path: str, target: Path, *, limit: int, timeout: float) -> None:
        """Copy a file here, through the shell, so that no more than `limit` bytes are ever taken."""
        done = self.shell(f"cat {shlex.quote(path)}", timeout=timeout, limit=limit)
        check_size(-1 if done.returncode else len(done.stdout), limit)
        target.write_bytes(done.stdout)

    def scratch(self, name: str) -> str:
        """A file in this connection's own folder."""
        return f"{self._run}/{name}"

    def facts(self) -> dict[str, Any]:
        """Governor, temperature, load; on a Raspberry Pi its model, and throttling as `vcgencmd get_throttled` says."""
        done = self.shell(_FACTS_SCRIPT, timeout=30)
        return parse_facts(done.stdout.decode("utf-8", "replace"), _FACTS)

    def close(self) -> None:
        """Remove the connection's folder; with keep=yes uploads stay, so that the next command finds them."""
        if self._made:
            place = self._run if self.keep else self.root
            with contextlib.suppress(EdgeError):  # What broke the connection was told already.
                self.shell(f"rm -rf {shlex.quote(place)}", timeout=CLOSE_SECONDS)

    def _checked(self, done: Completed) -> Completed:
        if done.returncode == 0:
            return done
        if re.search(r"No space left|quota|File too large", done.words, re.I):
            raise full_disk(done.words)
        received = f"exit code {done.returncode}: {done.words}"
        raise StageError("The target's shell must do what it is told.", stage="target", received=received)
