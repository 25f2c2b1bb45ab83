"""The same bundles over each transport: emulated arm64 directly, through a real sshd to it, and through adb.

Run from the repository: .venv/bin/python benchmarks/transport_parity.py RUN_OR_BUNDLE ... [--samples 8]

An sshd of our own listens on loopback, and its remote Python is the emulated 64-bit Raspberry Pi's; the adb client
talks to the tests' small adbd, whose Python is this machine's. What differs between the first two columns would be the
transport's fault. The table goes to benchmarks/results/transport_parity.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]

import target_parity  # noqa: E402
from fake_adbd import FakeAdbd  # noqa: E402
from target_hosts import Server, find_tool, free_port  # noqa: E402

from edge_dl.runtime.targets.opening import open_target  # noqa: E402


def script(path: Path, words: str) -> Path:
    """An executable shell script of one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)
    return path


def start_adb(folder: Path) -> None:
    """An adb server of our own, on another port and with other keys, so that no real phone is touched."""
    program, environment = find_tool("adb")
    words = " ".join(f'{key}="{value}"' for key, value in environment.items())
    client = script(folder / "client" / "adb", f'{words} exec "{program}" "$@"')
    os.environ["PATH"] = f"{client.parent}:{os.environ['PATH']}"
    os.environ.update(ANDROID_ADB_SERVER_PORT=str(free_port()), ANDROID_SDK_HOME=str(folder))
    subprocess.run(["adb", "start-server"], check=True, capture_output=True, timeout=60, start_new_session=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="run folders or bundles")
    parser.add_argument("--samples", default="8", help="of a run's test split")
    parser.add_argument("--out", default=str(HERE / "results" / "transport_parity.md"))
    options = parser.parse_args()
    emulated = open_target("qemu-aarch64:").python()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        script(folder / "pi" / "python3", f'exec "{emulated}" "$@"')
        script(folder / "phone" / "python3", f'exec "{sys.executable}" "$@"')
        server, phone = Server(folder / "sshd", bin_folder=folder / "pi"), FakeAdbd(folder / "phone")
        start_adb(folder)
        adb = f"adb:{phone.serial}?folder={folder}/tmp&python={folder}/phone/python3"
        sys.argv[1:] = [*options.what, "--on", f"qemu-aarch64:,{server.address},{adb}", "--samples", options.samples,
                        "--out", options.out]  # fmt: skip
        try:
            code = target_parity.main()
            for out in (Path(options.out), Path(options.out).with_suffix(".json")):
                text = out.read_text().replace(server.address, "sshd on loopback").replace(adb, "adb on loopback")
                out.write_text(text)
            return code
        finally:
            server.stop()
            phone.close()
            subprocess.run(["adb", "kill-server"], check=False, capture_output=True, timeout=60)


if __name__ == "__main__":
    sys.exit(main())
