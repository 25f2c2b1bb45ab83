"""`qemu-aarch64:` - the userland of a 64-bit Raspberry Pi, emulated, made of Debian packages and PyPI wheels, no root.

Python, its libraries and the runtime's kernels are arm64 code, so that what comes out is arm64 arithmetic. How long it
takes says nothing about a real device.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from edge_dl.errors import StageError, UsageError
from edge_dl.runtime.targets import debian
from edge_dl.runtime.targets.base import Connection, Finding, ProcessConnection, Target
from edge_dl.runtime.targets.environment import check_runtime
from edge_dl.runtime.targets.places import is_ready, made_folder, making
from edge_dl.runtime.targets.processes import run_command
from edge_dl.runtime.targets.pythons import requirements
from edge_dl.runtime.targets.url import SPEC

QEMU = "qemu-aarch64-static"
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "zlib1g", "libgcc-s1", "coreutils")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64",
             "manylinux_2_34_aarch64")  # fmt: skip
DEFAULT = "ai-edge-litert==2.3.0"
_PI4 = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
# Named after a machine that does not exist: nobody must take a report's figures for a Pi's.
_CPUINFO = "".join(_PI4.format(number=number) for number in range(4)) + "Model\t\t: emulated Cortex-A72 (qemu-user)\n"


class QemuTarget(Target):
    """An emulated arm64 Debian with NumPy and one runtime."""

    emulated = True

    @property
    def spec(self) -> str:
        """The runtime's package and version: the address', or the one of this Python so that kernels are alike."""
        return self.address.place or _own_runtime() or DEFAULT

    def connect(self) -> Connection:
        """Make what is not there yet: some 20 to 40 seconds and 300 MB, once."""
        return ProcessConnection([str(self.python())])

    def python(self) -> Path:
        """A `python3` that starts the emulated Python with its packages, from any shell.

        Raises:
            UsageError: this machine cannot make it; the message says why.
            StageError: a download failed.
        """
        obstacles = [] if is_ready(_packages(self.spec)) and is_ready(_system()) else debian.find_obstacles()
        if obstacles:
            raise UsageError(
                f"The emulated Raspberry Pi needs {obstacles[0].what}.",
                received=obstacles[0].found,
                todo=obstacles[0].todo,
            )
        with making(_system()) as needed:
            if needed:
                make_system(_system())
        folder = _packages(self.spec)
        with making(folder) as needed:
            if needed:
                install_packages(folder, self.spec, _system())
        return folder / "bin" / "python3"

    def doctor(self) -> list[Finding]:
        """What is made already, and what keeps the rest from being made."""
        findings = debian.find_obstacles()
        for what, folder, cost in (
            ("arm64 Debian", _system(), "some 15 seconds, 75 MB to download"),
            (self.spec, _packages(self.spec), "some 15 seconds, 60 MB to download"),
        ):
            made = is_ready(folder)
            todo = "" if made else f"It is made on first use: {cost}."
            findings.append(Finding(what, True, str(folder) if made else "not made yet", todo))
        if is_ready(_system()) and is_ready(_packages(self.spec)):
            findings.append(check_runtime([str(self.python())]))
        return findings


def make_system(folder: Path) -> None:
    """Unpack an arm64 Debian with Python, and qemu, into `folder`, and make its Python start by itself.

    Raises:
        StageError: a package cannot be downloaded, or the Python does not start.
    """
    root = folder / "root"
    debian.unpack(PACKAGES, root, architecture="arm64")
    if found := shutil.which(QEMU):
        (folder / QEMU).symlink_to(found)
    else:
        debian.unpack(["qemu-user-static"], folder / "qemu", architecture="amd64", dependencies=False)
        (folder / QEMU).symlink_to(Path("qemu") / "usr" / "bin" / QEMU)
    # `-L` redirects paths that exist in the prefix. LiteRT reads the processor's features from this file, and dies of
    # an x86 one.
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(_CPUINFO)
    python = root / "usr" / "bin" / "python3.11"
    python.rename(python.with_name("python3.11.elf"))
    # sys.executable must be something that the host can start: a script in the ELF's place, which hands its path on.
    python.write_text(
        "#!/bin/sh\n"
        f"exec {shlex.quote(str(folder / QEMU))} -L {shlex.quote(str(root))} -cpu cortex-a72 "
        f'-0 "$0" {shlex.quote(str(python))}.elf "$@"\n'
    )
    python.chmod(0o755)
    done = run_command([str(python), "-c", "import platform; print(platform.machine())"], timeout=60)
    if done.stdout.strip() != b"aarch64":
        raise StageError("The emulated Python must start.", stage="target", received=done.words)


def install_packages(folder: Path, spec: str, system: Path) -> None:
    """Install a runtime's arm64 wheels into `folder`, with a `bin/python3` that finds them.

    Raises:
        StageError: pip does not find them, or they do not load.
    """
    found = SPEC.fullmatch(spec)
    assert found, spec
    wanted = requirements(found[1], found[2])
    packages = folder / "packages"
    command = [
        sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile",
        "--target", str(packages), "--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:",
        # pip does not expand platform tags: each must be named.
        *(part for platform in PLATFORMS for part in ("--platform", platform)), *wanted,
    ]  # fmt: skip
    done = run_command(command, timeout=debian.SECONDS, environment={"PIP_REQUIRE_VIRTUALENV": ""})
    if done.returncode:
        todo = "Is the package index within reach, and does it hold that version for aarch64 and Python 3.11?"
        raise StageError(f"pip must find {' '.join(wanted)}.", stage="target", received=done.words, todo=todo)
    script = folder / "bin" / "python3"
    script.parent.mkdir()
    script.write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(packages))} PYTHONNOUSERSITE=1 OMP_NUM_THREADS=1 "
        f'exec {shlex.quote(str(system / "root" / "usr" / "bin" / "python3.11"))} "$@"\n'
    )
    script.chmod(0o755)
    module = found[1].replace("-", "_").replace("ai_edge_litert", "ai_edge_litert.interpreter")
    done = run_command([str(script), "-c", f"import {module}"], timeout=120)
    if done.returncode:
        raise StageError("The emulated runtime must load.", stage="target", received=done.words)


def _own_runtime() -> str:
    from importlib import metadata

    try:
        return "ai-edge-litert==" + metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        return ""


def _system() -> Path:
    return made_folder("qemu-aarch64", "debian-12")


def _packages(spec: str) -> Path:
    return made_folder("qemu-aarch64", spec.replace("==", "-"))
