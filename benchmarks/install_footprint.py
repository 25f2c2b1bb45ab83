"""What `pip install edge-dl` without extras brings, what works with it, and what starting costs.

    python benchmarks/install_footprint.py [--rounds 40]

The wheel is built from a copy of the working tree and installed without extras into a new virtual environment. There
`edge-dl --help`, `inspect`, `verify` and `bench` of a bundle must work without TensorFlow and Keras, and commands that
need an extra must say which. The agent's file is then run alone, to see which packages it imports. Import times are
those of fresh processes, in turns; time is given as wall time and, since that holds on a busy machine too, as the time
that the processor spent.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "install_footprint.txt"
HEAVY = ("tensorflow", "keras", "tf_keras", "jax", "torch", "sklearn", "matplotlib", "jinja2", "yaml")

PACKAGES = r"""
import json, os, re
from importlib import metadata
found, needs = {}, {}
def plain(name):
    return re.sub("[-_.]+", "-", name).lower()
for item in metadata.distributions():
    for line in item.requires or ():
        if "extra ==" not in line:
            needs.setdefault(plain(re.match(r"[\w.-]+", line)[0]), []).append(item.metadata["Name"])
    files = [item.locate_file(path) for path in item.files or ()]
    size = sum(os.path.getsize(path) for path in files if os.path.isfile(path) and not str(path).endswith(".pyc"))
    found[item.metadata["Name"]] = {"version": item.version, "bytes": size}
for name, item in found.items():
    item["needed_by"] = sorted(needs.get(plain(name), []))
print(json.dumps(found))
"""
IMPORT = """
import json, resource, sys, time
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
import numpy
wall, spent, before = time.perf_counter(), cpu(), set(sys.modules)
import edge_dl.runtime
print(json.dumps([time.perf_counter() - wall, cpu() - spent, len(set(sys.modules) - before)]))
"""
AGENT_IMPORTS = """
import json, sys, agent
code = 0
sys.stdout = open(sys.argv[2], "w")
try:
    code = agent.main(["verify", sys.argv[1]])
except SystemExit as ended:
    code = ended.code
sys.stdout = sys.__stdout__
names = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(json.dumps([code, sorted(name for name in names if not name.startswith("_"))]))
"""


def build_wheel(folder: Path) -> Path:
    """The wheel of the working tree, from a copy: what setuptools leaves in build/ would go into the next one."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, check=True, capture_output=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(folder / "source")]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_bundle(folder: Path) -> Path:
    """One of the tests' small models as a bundle, made by this Python, which has TensorFlow."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tflite_models as m; from pathlib import Path;"
        "folder = Path(sys.argv[2]); model = folder / 'model.tflite';"
        "model.write_bytes(m.BUILDERS['conv-float32'](folder / 'saved')); images = m.images(8);"
        "golden = ({'image': images}, {'label': m.conv_reference(images).astype('float32')});"
        "m.bundle_of(folder / 'bundle', model, golden)"
    )
    folder.mkdir()
    command = [sys.executable, "-c", code, str(REPOSITORY / "tests"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "bundle"


class Environment:
    """A virtual environment without anything of this process' own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True)
        self.python = folder / "bin" / "python"
        self.variables = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "EDGE_DL", "VIRTUAL_ENV"))
        }

    def run(self, command: Sequence[str | Path], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)), cwd=cwd or self.folder, env=self.variables, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip

    def ask(self, code: str, *arguments: str, cwd: Path | None = None) -> Any:
        done = self.run([self.python, "-c", code, *arguments], cwd=cwd)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run([self.folder / "bin" / "edge-dl", *arguments])


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the order statistics that hold it in 95 of 100 cases (binomial distribution)."""
    ordered, count = sorted(values), len(values)
    below, low = 0.0, 0
    while (below := below + math.comb(count, low) / 2**count) <= 0.025:
        low += 1
    return statistics.median(ordered), ordered[max(low - 1, 0)], ordered[min(count - low, count - 1)]


def milliseconds(values: Sequence[float]) -> dict[str, float]:
    middle, low, high = (round(value * 1e3, 1) for value in median_interval(values))
    return {"median_ms": middle, "low_ms": low, "high_ms": high}


def timed(environment: Environment, command: Sequence[str | Path]) -> tuple[float, float]:
    """Wall seconds of a command, and the seconds that the processor spent on it."""
    before, started = os.times(), time.perf_counter()
    done = environment.run(command)
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, (after.children_user + after.children_system) - (before.children_user + before.children_system)


def try_commands(environment: Environment, bundle: Path) -> list[dict[str, Any]]:
    """Commands that must work without extras (exit code 0), and those that need one, which must name it (2)."""
    wanted: list[tuple[list[str | Path], int, str]] = [
        (["--help"], 0, "Usage"), (["list"], 0, ""), (["inspect", bundle], 0, "CONV_2D"),
        (["inspect", bundle / "model.tflite", "--json"], 0, "signatures"), (["verify", bundle], 0, "pass"),
        (["bench", bundle], 0, "p50"), (["target", "list"], 0, ""), (["verify", bundle, "--on", "local:"], 0, "pass"),
        (["check", bundle, "--runtime", "tflite-runtime==2.14.0"], 0, "loads"),
        (["run", "lstm", "--out", environment.folder / "run"], 2, "edge-dl["),
        (["run", "lstm", "--config", bundle / "manifest.json"], 2, "edge-dl["),
    ]  # fmt: skip
    found = []
    for arguments, code, word in wanted:
        done = environment.command(*arguments)
        ok = done.returncode == code and word in done.stdout + done.stderr and "Traceback" not in done.stderr
        shown = " ".join("BUNDLE" if part == bundle else str(part).replace(str(bundle), "BUNDLE") for part in arguments)
        words = (done.stderr.strip().splitlines() or [""])[-1]
        found.append({"command": shown.replace(str(environment.folder), "."), "exit_code": done.returncode, "ok": ok,
                      "words": words if code or not ok else ""})  # fmt: skip
    return found


def measure(environment: Environment, rounds: int) -> dict[str, dict[str, float]]:
    """Start times of fresh processes, in turns, after one round that warms the disk up."""
    imports: list[list[float]] = []
    helps, starts = [], []
    for number in range(rounds + 1):
        item = environment.ask(IMPORT)
        begin = timed(environment, [environment.python, "-c", "import numpy"])
        shown = timed(environment, [environment.folder / "bin" / "edge-dl", "--help"])
        if number:
            imports.append(item)
            starts.append(begin)
            helps.append(shown)
    return {
        "import edge_dl.runtime over NumPy, wall": milliseconds([item[0] for item in imports]),
        "import edge_dl.runtime over NumPy, processor": milliseconds([item[1] for item in imports]),
        "python -c 'import numpy', wall": milliseconds([item[0] for item in starts]),
        "python -c 'import numpy', processor": milliseconds([item[1] for item in starts]),
        "edge-dl --help, wall": milliseconds([item[0] for item in helps]),
        "edge-dl --help, processor": milliseconds([item[1] for item in helps]),
    }


def agent_alone(environment: Environment, bundle: Path, folder: Path) -> dict[str, Any]:
    """Run the agent's file in a folder of its own, in a Python that has no edge-dl; which packages does it import?"""
    folder.mkdir()
    shutil.copy(REPOSITORY / "edge_dl" / "runtime" / "agent.py", folder)
    environment.run([environment.python, "-m", "pip", "uninstall", "-q", "-y", "edge-dl", "typer", "rich"])
    code, packages = environment.ask(AGENT_IMPORTS, str(bundle), str(folder / "answer.json"), cwd=folder)
    verdict = json.loads((folder / "answer.json").read_text())
    return {"exit_code": code, "bytes": (folder / "agent.py").stat().st_size,
            "packages": [name for name in packages if name != "agent"], "answered": bool(verdict)}  # fmt: skip


def render(found: Mapping[str, Any]) -> str:
    packages = found["packages"]
    total = sum(item["bytes"] for item in packages.values())
    lines = [
        f"{found['machine']['processor']}, {found['machine']['cores']} cores, {found['machine']['system']} "
        f"{found['machine']['architecture']}; Python {found['python']}; load average {found['load']}",
        "",
        f"pip install edge-dl (wheel {found['wheel_bytes'] / 1024:.0f} KiB): {len(packages)} packages, "
        f"{total / 2**20:.1f} MiB without compiled .pyc",
    ]
    for name, item in sorted(packages.items(), key=lambda pair: -pair[1]["bytes"]):
        why = f"  for {', '.join(item['needed_by'])}" if item["needed_by"] else ""
        lines.append(f"  {item['bytes'] / 2**20:8.2f} MiB  {name + ' ' + item['version']:26}{why}")
    lines += ["", "not installed, and not needed: " + ", ".join(found["absent"]), ""]
    for item in found["commands"]:
        lines.append(f"  {'ok ' if item['ok'] else 'NOT'} exit code {item['exit_code']}  edge-dl {item['command']}")
        lines += [f"          {item['words']}"] if item["words"] else []
    agent = found["agent"]
    lines += [
        "",
        f"agent.py alone ({agent['bytes'] / 1024:.0f} KiB), `verify BUNDLE` in a Python without edge-dl: exit code "
        f"{agent['exit_code']}; packages imported: {', '.join(agent['packages'])}",
        "",
        f"median of {found['rounds']} fresh processes, with the interval that holds it in 95 of 100 cases",
    ]
    for name, item in found["times"].items():
        lines.append(f"  {item['median_ms']:8.1f} ms  ({item['low_ms']:.1f} to {item['high_ms']:.1f})  {name}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    from edge_dl.files import write_atomic, write_json
    from edge_dl.runfolder import machine

    with tempfile.TemporaryDirectory(prefix="edge-dl-install-") as name:
        folder = Path(name)
        bundle = build_bundle(folder / "model")
        wheel = build_wheel(folder)
        environment = Environment(folder / "venv")
        base = environment.ask(PACKAGES)  # pip itself, and what comes with it.
        installed = environment.run([environment.python, "-m", "pip", "install", "-q", wheel])
        if installed.returncode:
            raise SystemExit(installed.stderr)
        packages = {key: value for key, value in environment.ask(PACKAGES).items() if key not in base}
        absent = environment.ask(
            "import importlib.util as u, json, sys;"
            "print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n) is None]))", *HEAVY
        )  # fmt: skip
        found = {
            "machine": machine(),
            "python": sys.version.split()[0],
            "load": f"{os.getloadavg()[0]:.1f}",
            "wheel_bytes": wheel.stat().st_size,
            "packages": packages,
            "absent": absent,
            "commands": try_commands(environment, bundle),
            "rounds": options.rounds,
            "times": measure(environment, options.rounds),
            "agent": agent_alone(environment, bundle, folder / "alone"),
        }
    text = "$ python benchmarks/install_footprint.py\n" + render(found)
    print(text)
    write_atomic(options.out, text)
    write_json(options.out.with_suffix(".json"), found)
    return 0 if all(item["ok"] for item in found["commands"]) and found["agent"]["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
