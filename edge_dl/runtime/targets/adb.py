"""`adb:` - an Android phone reached by the real adb client.

A phone has no Python of its own. What runs there is the agent in a Python that somebody put there (`?python=PATH`), or,
for latency alone, a TFLite benchmark_model binary of this machine (`?benchmark=PATH`), which is pushed with the bundle.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_dl.bundle import MODEL, Bundle
from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.runtime.targets.answers import Facts, Machine, Pair, Timing, full_disk, parse_facts
from edge_dl.runtime.targets.base import TIME_LIMIT, Connection, Finding, Target, check_size
from edge_dl.runtime.targets.processes import Completed, plain_text, run_command
from edge_dl.runtime.targets.remote import RemoteConnection
from edge_dl.runtime.targets.url import Address

SETTLE_SECONDS = 5.0
"""How long a phone that was just connected may take to say whether it is ready."""

_STDERR, _CODE = "EDGE-DL-STDERR", "RC="
_NO_PYTHON = "Put a Python with NumPy and a runtime there and name it (?python=PATH in the target's address)"
_PHONE_FACTS: Facts = {
    "device": (r"^device=(.+)$", str),
    "abi": (r"^abi=([\w-]+)$", str),
    "android": (r"^android=([\w.]+)$", str),
    "sdk": (r"^sdk=(\d+)$", int),
    "governor": (r"^governor=(\w+)$", str),
    "thermal_status": (r"^\s*Thermal Status: (\d+)", int),
    "battery_percent": (r"^\s*level: (\d{1,3})\s*$", int),
    "battery_temperature_c": (r"^\s*temperature: (-?\d+)\s*$", lambda text: int(text) / 10),
    "charging": (r"^\s*(?:AC|USB) powered: (true)", lambda text: text == "true"),
}
_PHONE_SCRIPT = (
    "echo device=$(getprop ro.product.model); echo abi=$(getprop ro.product.cpu.abi); "
    "echo android=$(getprop ro.build.version.release); echo sdk=$(getprop ro.build.version.sdk); "
    "echo governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null); "
    "dumpsys thermalservice 2>/dev/null | grep -m 1 'Thermal Status'; dumpsys battery 2>/dev/null | head -n 40; true"
)


class AdbConnection(RemoteConnection):
    """Commands by `adb shell`, uploads by `adb push`."""

    default_folder = "/data/local/tmp"
    kept_folder = "/data/local/tmp/edge-dl"

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.serial = address.place
        self.benchmark = address.options.get("benchmark", "")
        if self.benchmark and not Path(self.benchmark).is_file():
            raise UsageError("benchmark must be a file of this machine.", received=self.benchmark)
        check_client()
        if re.fullmatch(r".+:\d+", self.serial):
            run_command(["adb", "connect", self.serial], timeout=30)
        self._check_state()

    def _adb(self, arguments: Sequence[str], *, timeout: float, limit: int = 4 << 20) -> Completed:
        chosen = ["-s", self.serial] if self.serial else []
        return run_command(["adb", *chosen, *arguments], timeout=timeout, limit=limit, what="adb " + arguments[0])

    def _check_state(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            done = self._adb(["get-state"], timeout=30)
            state = done.stdout.decode("utf-8", "replace").strip()
            # A phone that was connected a moment ago is on its way to `device`, `unauthorized` or `offline`.
            if not re.search(r"authorizing|connecting", f"{state} {done.stderr}") or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if done.returncode or state != "device":
            raise state_error(f"{state} {done.stderr}", self.serial)

    def shell(self, script: str, *, timeout: float, limit: int = 4 << 20) -> Completed:
        """Run a script in the phone's shell.

        Without the protocol's shell_v2 neither an exit code nor a standard error of its own comes back: both are
        printed after the output.
        """
        folder = shlex.quote(os.path.dirname(self.root))
        errors = shlex.quote(self.root + ".err")
        whole = (
            f"mkdir -p {folder}; ( {script} ) 2>{errors}; rc=$?; echo; echo {_STDERR}; "
            f"tail -c 4000 {errors} 2>/dev/null; rm -f {errors}; echo; echo {_CODE}$rc"
        )
        done = self._adb(["shell", whole], timeout=timeout, limit=limit)
        text = done.stdout.replace(b"\r\n", b"\n")
        code = re.search(rb"\nRC=(\d{1,3})\s*$", text)
        out, mark, err = text.rpartition(f"\n{_STDERR}\n".encode())
        if not code or not mark:
            raise state_error(done.words, self.serial, lost=True)
        return Completed(int(code[1]), out, err[: err.rfind(b"\nRC=")].decode("utf-8", "replace"))

    def upload(self, pairs: Sequence[tuple[Path, str, bool]], *, timeout: float) -> None:
        """Push files; adb cannot go on with half a file, so each is sent whole."""
        deadline = time.monotonic() + timeout
        for source, target, _ in pairs:
            # adb does not follow a link that is named on its command line.
            left = max(deadline - time.monotonic(), 1.0)
            done = self._adb(["push", str(source.resolve()), target], timeout=left)
            if done.returncode == 0:
                continue
            if re.search(r"No space left|File too large|quota", done.words, re.I):
                raise full_disk(done.words)
            raise state_error(done.words, self.serial, lost=True)

    def execute(self, arguments: Sequence[str], *, timeout: float) -> Completed:
        """Run the agent in the phone's Python."""
        done = super().execute(arguments, timeout=timeout)
        if done.returncode == 127:
            raise StageError(
                "The phone needs a Python that runs the agent: Android has none.",
                stage="target",
                received=done.words,
                todo=f"{_NO_PYTHON}; latency alone can be measured by benchmark_model (?benchmark=PATH).",
            )
        return done

    def fetch(self, path: str, target: Path, *, limit: int, timeout: float) -> None:
        """Copy a file here byte by byte, without the terminal in between."""
        there = self.shell(f"[ -f {shlex.quote(path)} ]", timeout=timeout).returncode == 0
        done = self._adb(["exec-out", f"cat {shlex.quote(path)}"], timeout=timeout, limit=limit)
        if done.returncode:
            raise state_error(done.words, self.serial, lost=True)
        check_size(len(done.stdout) if there else -1, limit)
        target.write_bytes(done.stdout)

    def measure(self, bundle: Bundle, *, rounds: int = 30, timeout: float = TIME_LIMIT) -> Timing:
        """Latency: by the agent, or by benchmark_model where one was named."""
        if not self.benchmark:
            return super().measure(bundle, rounds=rounds, timeout=timeout)
        program = self.put({"benchmark_model": Path(self.benchmark)}, timeout=timeout)
        model = self._put_bundle(bundle, timeout)
        script = (
            f"chmod 755 {program}/benchmark_model; exec {program}/benchmark_model --graph={model}/{MODEL} "
            f"--num_threads=1 --num_runs={max(rounds, 10)} --min_secs=0.1"
        )
        done = self.shell(script, timeout=timeout)
        return parse_benchmark(done)

    def measure_pair(
        self, one: Bundle, other: Bundle, *, rounds: int, round_seconds: float, timeout: float = TIME_LIMIT
    ) -> Pair:
        """By the agent; benchmark_model takes one model a process, so it runs twice, which makes one round."""
        if not self.benchmark:
            return super().measure_pair(one, other, rounds=rounds, round_seconds=round_seconds, timeout=timeout)
        first, second = (self.measure(bundle, rounds=rounds, timeout=timeout) for bundle in (one, other))
        return Pair((first, second), ((first.typical_ms,), (second.typical_ms,)))

    def facts(self) -> dict[str, Any]:
        """Model, ABI, Android's version, governor, thermal status, battery."""
        done = self.shell(_PHONE_SCRIPT, timeout=60)
        return parse_facts(done.stdout.decode("utf-8", "replace"), _PHONE_FACTS)


def check_client() -> None:
    """Refuse to go on without adb.

    Raises:
        UsageError: there is none.
    """
    if shutil.which("adb") is None:
        raise UsageError(
            "An adb target needs the adb client.",
            received="none on the PATH",
            todo="Install Android's platform-tools, or `apt install adb`.",
        )


def state_error(words: str, serial: str, *, lost: bool = False) -> StageError:
    """The error behind adb's words about a device that does not answer."""
    received = plain_text(words) or "no answer"
    for pattern, rule, todo in (
        (r"unauthorized|authorizing", "The phone must allow this computer to debug it.",
         "Unlock the phone and answer its question about USB debugging, then try again."),
        (r"offline", "The phone must be online.",
         "Plug it in again, or restart adb: `adb kill-server`."),
        (r"more than one", "It must be clear which phone is meant.",
         "Name its serial number: adb:SERIAL. `adb devices` lists them."),
        (r"no devices|not found|no emulators|failed to get feature set", "The phone must be connected.",
         "Plug it in, switch on USB debugging; `adb devices` must list it."),
        (r"no permissions|insufficient permissions", "You must be allowed to use the phone.",
         "Install the udev rules: `apt install android-sdk-platform-tools-common`."),
    ):  # fmt: skip
        if re.search(pattern, words) and not (lost and pattern.startswith("no devices")):
            return StageError(rule, stage="target", received=f"{serial or 'the only phone'}: {received}", todo=todo)
    rule = "The connection to the phone must hold." if lost else "The phone must be ready."
    todo = "Plug it in again and repeat the command; `adb devices` must list it."
    return StageError(rule, stage="target", received=f"{serial or 'the only phone'}: {received}", todo=todo)


def parse_benchmark(done: Completed) -> Timing:
    """Read what TFLite's benchmark_model prints: microseconds; the last count=... line is the measured part.

    Raises:
        StageError: it failed, or printed no timings.
    """
    text = done.stdout.decode("utf-8", "replace") + "\n" + done.stderr
    lines = re.findall(r"count=(\d{1,9}) [^\n]*?avg=([\d.e+]{1,20})([^\n]*)", text[-100_000:])
    init = re.search(r"Init: ([\d.e+]{1,20}), First inference: ([\d.e+]{1,20})", text)
    if done.returncode or not lines or not init:
        raise StageError("benchmark_model must print its timings.", stage="target", received=done.words)
    count, mean, rest = lines[-1]
    median = re.search(r"median=([\d.e+]{1,20})", rest)
    return Timing(
        runtime="benchmark_model",
        version="",
        delegated="XNNPACK" in text,
        p50_ms=float(median[1]) / 1e3 if median else None,
        p90_ms=None,
        p99_ms=None,
        mean_ms=float(mean) / 1e3,
        calls=int(count),
        steady=True,
        load_ms=float(init[1]) / 1e3,
        first_call_ms=float(init[2]) / 1e3,
        machine=Machine(),
        machine_after=Machine(),
    )


class AdbTarget(Target):
    """A phone with USB debugging, or one that `adb connect` reaches (adb:HOST:PORT)."""

    def connect(self) -> Connection:
        """Find the phone.

        Raises:
            UsageError: no adb client.
            StageError: no phone, or one that is offline or does not allow it.
        """
        return AdbConnection(self.address)

    def doctor(self) -> list[Finding]:
        """Whether adb and the phone are there; its Android, ABI, heat and battery; and whether a Python answers."""
        try:
            check_client()
            version = run_command(["adb", "version"], timeout=30).stdout.decode("utf-8", "replace")
        except EdgeError as error:
            return [Finding("adb", False, error.received, error.todo)]
        findings = [Finding("adb", True, plain_text(version.split("\n")[0]))]
        try:
            connection = AdbConnection(self.address)
            facts = connection.facts()
        except EdgeError as error:
            return [*findings, Finding("phone", False, f"{error.rule} {error.received}", error.todo)]
        findings.append(
            Finding("phone", True, ", ".join(f"{key} {value}" for key, value in facts.items()) or "not told")
        )
        hot = int(facts.get("thermal_status", 0)) >= 2
        findings.append(Finding("heat", not hot, f"thermal status {facts.get('thermal_status', 'not told')}",
                                "Let it cool down: it is throttled." if hot else ""))  # fmt: skip
        found = connection.shell(f"command -v {shlex.quote(connection.python)}", timeout=30).returncode == 0
        findings.append(
            Finding("Python", found, connection.python if found else "none", "" if found else _NO_PYTHON + ".")
        )
        return findings
