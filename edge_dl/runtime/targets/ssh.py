"""`ssh://` - a machine reached by the system's own ssh and sftp: their configuration, keys, known_hosts and agent."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.runtime.targets.answers import full_disk
from edge_dl.runtime.targets.base import Connection, Finding, Target
from edge_dl.runtime.targets.processes import Completed, run_command
from edge_dl.runtime.targets.remote import RemoteConnection
from edge_dl.runtime.targets.url import Address

ATTEMPTS = 3
PAUSE = 1.0
_LOST = 255
# Checking of host keys stays on whatever a configuration says; nothing ever asks for a password.
_OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3",
)  # fmt: skip


class SshConnection(RemoteConnection):
    """Commands by ssh, uploads by sftp. A connection that breaks is made again, and what was under way goes on."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        for tool in ("ssh", "sftp"):
            if shutil.which(tool) is None:
                raise UsageError(f"An ssh target needs {tool}.", todo="Install OpenSSH's client (openssh-client).")
        self.host = address.place
        self._options = [part for option in _OPTIONS for part in ("-o", option)]
        if config := address.options.get("config"):
            self._options += ["-F", config]
        if address.port:
            self._options += ["-o", f"Port={address.port}"]
        if address.user:
            self._options += ["-o", f"User={address.user}"]
        self._reached = False

    def shell(self, script: str, *, timeout: float, limit: int = 4 << 20) -> Completed:
        """Run `sh -c script` there."""
        command = ["ssh", "-T", *self._options, "--", self.host, "sh -c " + shlex.quote(script)]
        deadline = time.monotonic() + timeout
        for attempt in range(ATTEMPTS):
            left = max(deadline - time.monotonic(), 1.0)
            done = run_command(command, timeout=left, limit=limit, what=f"ssh {self.host}")
            if done.returncode != _LOST and done.returncode >= 0:
                self._reached = True
                return done
            self._lost(done, attempt)
        raise AssertionError("unreachable")

    def upload(self, pairs: Sequence[tuple[Path, str, bool]], *, timeout: float) -> None:
        """Copy by sftp; after a break what has arrived is not sent again."""
        deadline = time.monotonic() + timeout
        for attempt in range(ATTEMPTS):
            with NamedTemporaryFile("w", suffix=".sftp", prefix="edge-dl-") as batch:
                for source, target, resumed in pairs:
                    batch.write(f'{"reput" if resumed else "put"} "{source}" "{target}"\n')
                batch.flush()
                command = ["sftp", "-q", "-b", batch.name, *self._options, "--", self.host]
                left = max(deadline - time.monotonic(), 1.0)
                done = run_command(command, timeout=left, what=f"sftp {self.host}")
            if done.returncode == 0:
                return
            if (
                done.returncode != _LOST
                and done.returncode > 0
                and not re.search(r"[Cc]onnection (closed|lost|reset)", done.stderr)
            ):
                # The protocol's only word for a full disk is "Failure".
                if re.search(r"write remote|Failure|No space|quota|dest (open|fsetstat)", done.stderr):
                    raise full_disk(done.words)
                raise StageError("The target must take the bundle.", stage="target", received=done.words)
            self._lost(done, attempt)
            pairs = self._remaining(pairs, deadline)

    def _remaining(self, pairs: Sequence[tuple[Path, str, bool]], deadline: float) -> list[tuple[Path, str, bool]]:
        """What is still to be sent after a break, by the sizes of what has arrived."""
        script = "; ".join(
            f'echo "{number} $(wc -c < {shlex.quote(target)})"' for number, (_, target, _) in enumerate(pairs)
        )
        done = self.shell(script + "; true", timeout=max(deadline - time.monotonic(), 1.0))
        sizes = {int(number): int(size) for number, size in re.findall(rb"(?m)^(\d{1,4}) +(\d{1,15})\s*$", done.stdout)}
        return [
            (source, target, 0 < sizes.get(number, 0) < source.stat().st_size)
            for number, (source, target, _) in enumerate(pairs)
            if sizes.get(number, -1) != source.stat().st_size
        ]

    def _lost(self, done: Completed, attempt: int) -> None:
        """Raise what ssh says, unless trying again can help; then wait a little."""
        words = done.stderr
        for pattern, rule, todo in (
            (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "The host must have the key that is known for it.",
             f"If the machine was set up anew: `ssh-keygen -R {self.host}`, then connect once by hand. Otherwise "
             "somebody may stand between."),
            (r"Host key verification failed|host key is known", "The host's key must be known.",
             f"Connect once by hand and compare the fingerprint: `ssh {self.host}`."),
            (r"Permission denied", "The host must let you in without a password.",
             f"Copy your key there: `ssh-copy-id {self.host}`, or name another user."),
            (r"Could not resolve hostname", "The host's name must be known.", "Check the name, or use its address."),
            (r"Bad configuration option|terminating, \d+ bad|Can't open user config",
             "The ssh configuration must be right.", ""),
        ):  # fmt: skip
            if re.search(pattern, words):
                raise StageError(rule, stage="target", received=done.words, todo=todo)
        if not self._reached and re.search(r"Connection refused|No route to host|timed out|unreachable", words):
            todo = "Is it switched on, and does an ssh server listen there?"
            raise StageError("The host must be within reach.", stage="target", received=done.words, todo=todo)
        if attempt + 1 == ATTEMPTS:
            received = f"{self.host}, lost {ATTEMPTS} times; ssh's last words: {done.words or 'none'}"
            todo = "Try again when it is back" + ("." if self.keep else f"; {self.root} may be left there.")
            raise StageError("The connection to the target must hold.", stage="target", received=received, todo=todo)
        time.sleep(PAUSE * (attempt + 1))


class SshTarget(Target):
    """A machine with an OpenSSH server and Python."""

    def connect(self) -> Connection:
        """Nothing is reached before the first command."""
        return SshConnection(self.address)

    def doctor(self) -> list[Finding]:
        """Whether it can be reached, has room and a Python with NumPy and a runtime; and its state."""
        try:
            connection = SshConnection(self.address)
            done = connection.shell("uname -srm; df -Pk . | tail -n 1", timeout=30)
        except EdgeError as error:
            return [Finding("connection", False, str(error), error.todo)]
        lines = done.stdout.decode("utf-8", "replace").splitlines() or [""]
        findings = [Finding("connection", True, "".join(c for c in lines[0][:100] if c.isprintable()))]
        if room := re.search(rb"(\d+)\s+\d+%\s+\S+\s*$", done.stdout):
            megabytes = int(room[1]) // 1024
            findings.append(
                Finding("room", megabytes > 50, f"{megabytes} MB", "" if megabytes > 50 else "Make room there.")
            )
        findings.append(_check_python(connection))
        state = ", ".join(f"{key} {value}" for key, value in connection.facts().items())
        return [*findings, Finding("state", True, state or "not told")]


def _check_python(connection: SshConnection) -> Finding:
    from edge_dl.runtime.targets.environment import RUNTIME_CHECK

    command = f"{shlex.quote(connection.python)} -c {shlex.quote(RUNTIME_CHECK)}"
    try:
        done = connection.shell(command, timeout=60)
    except EdgeError as error:
        return Finding("Python", False, str(error), error.todo)
    if done.returncode == 0:
        return Finding("Python", True, done.stdout.decode("utf-8", "replace").strip()[:200])
    todo = "Install there: python3, then pip install numpy ai-edge-litert; or name a Python: ?python=PATH."
    return Finding("Python", False, done.words, todo)
