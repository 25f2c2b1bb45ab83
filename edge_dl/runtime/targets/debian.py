"""Debian packages without root: a private apt configuration downloads them, dpkg unpacks them into a folder."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_dl.errors import StageError
from edge_dl.runtime.targets.base import Finding
from edge_dl.runtime.targets.processes import run_command

RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TOOLS = ("apt-get", "dpkg")
SECONDS = 300.0


def find_obstacles() -> list[Finding]:
    """What keeps Debian packages from being unpacked here; [] when nothing does."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        todo = "Use a Linux x86-64 machine, a virtual one perhaps, or a real Raspberry Pi: ssh://USER@HOST."
        found.append(Finding("Linux on x86-64", False, f"{sys.platform} on {platform.machine()}", todo))
    for tool in TOOLS:
        if shutil.which(tool) is None:
            found.append(Finding(tool, False, "not found", "Debian and Ubuntu have it; elsewhere: a Debian container."))
    if not os.path.isfile(KEYRING):
        found.append(Finding("Debian's keys", False, f"no {KEYRING}", "apt install debian-archive-keyring"))
    return found


def unpack(packages: Sequence[str], prefix: Path, *, architecture: str, dependencies: bool = True) -> None:
    """Download signed packages and unpack them into `prefix`, which is made.

    Args:
        packages: names of packages of Debian's stable main.
        prefix: folder that takes the packages' files.
        architecture: as Debian names it: arm64, amd64.
        dependencies: whether all that they depend on comes along.

    Raises:
        StageError: apt or dpkg failed: no network, an unknown package, a signature that is not right.
    """
    state = prefix.parent / f"{prefix.name}-apt"
    shutil.rmtree(state, ignore_errors=True)
    archives = state / "cache" / "archives"
    for folder in (archives / "partial", state / "lists" / "partial"):
        folder.mkdir(parents=True)
    (state / "status").write_text("")
    source = f"deb [arch={architecture} signed-by={KEYRING}] {MIRROR} {RELEASE} main\n"
    (state / "sources.list").write_text(source)
    settings = {
        "Dir::State": state, "Dir::State::status": state / "status", "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache", "Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-", "Dir::Etc::preferencesparts": "-", "APT::Architecture": architecture,
        "APT::Architectures": architecture, "Debug::NoLocking": "true", "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false", "Acquire::Languages": "none", "Acquire::Retries": "3",
    }  # fmt: skip
    apt = ["apt-get", "-qq", "-y", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    _do([*apt, "update"], "Debian's list of packages must be within reach.")
    if dependencies:
        _do([*apt, "install", "--download-only", *packages], f"apt must find {', '.join(packages)}.")
    else:
        # apt-get download writes into the working directory.
        command = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(archives), *apt, "download", *packages]
        _do(command, f"apt must find {', '.join(packages)}.")
    prefix.mkdir(parents=True, exist_ok=True)
    for archive in sorted(archives.glob("*.deb")):
        _do(["dpkg", "-x", str(archive), str(prefix)], "dpkg must unpack the package.")
    shutil.rmtree(state)


def _do(command: list[str], rule: str) -> None:
    done = run_command(command, timeout=SECONDS, environment={"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode:
        todo = "Is the network there, and the disk not full?"
        raise StageError(rule, stage="target", received=done.words, todo=todo)
