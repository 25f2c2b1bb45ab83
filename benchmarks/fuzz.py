"""Damaged .tflite files and damaged bundles through `inspect`, `check` and `verify`: what does the command do?

    python benchmarks/fuzz.py --build build/models
    python benchmarks/fuzz.py --models 2000 --bundles 2000 --seed 0 --seeds-from build/models runs/demo/variants

The commands run as users run them (arguments parsed, exit code, standard error), one after the other in a worker
process that is watched from outside; models are loaded in the guarded child of that process, as always. Of every
command it is asked that

- it ends within its time limit, and the process is still there afterwards;
- its exit code is 0 (passed), 1 (a check failed), 2 (wrong use) or 3 (a stage broke);
- for 2 and 3 standard error is one line that begins with "Error: ", and there is no traceback anywhere;
- nothing that it prints holds control characters, and what it prints for --json is JSON;
- no file is made, changed or removed: not in the bundle, beside it, in the folder it runs in, in the home folder or
  among the temporary files; nothing is unpickled; members outside a bundle's folder are refused;
- it stays below a limit of memory.

The seeds are what --seeds-from names, by default the small models that the tests make (--build FOLDER makes them
there, to be named beside others). The same seed and the same seeds give the same files. Broken cases are kept, with
what was done to them, in the folder that --keep names; --only models:17 runs one again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bundle_mutations import OUTSIDE, mutate_bundle
from fuzz_worker import Worker
from model_mutations import mutate_model

RESULT = Path(__file__).parent / "results" / "fuzz.txt"
TESTS = Path(__file__).parent.parent / "tests"
SECONDS = 60.0
"""That a command may take; `verify` is told to give a model a third of it."""
WORKER_MEMORY = 1 << 30
"""Bytes that the process of the command may hold; what loads models is another process."""
KINDS = ("models", "bundles")
COMMANDS = ("inspect", "check", "verify")


@dataclass(frozen=True)
class Seed:
    """A whole model to start from: its bytes, samples with its own answers to them, and its bundle, if it has one."""

    name: str
    model: bytes
    data: Path
    reference: Path
    bundle: Path | None


@dataclass
class Outcome:
    """What one command did."""

    command: str
    code: int | None
    rule: str
    problems: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """What was counted: (kind, command, exit code), (command, rule), cases by kind, broken ones."""

    counts: Counter[tuple[str, str, Any]] = field(default_factory=Counter)
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    peak: int = 0

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.rules += other.rules
        self.done += other.done
        self.broken += other.broken
        self.slowest, self.peak = max(self.slowest, other.slowest), max(self.peak, other.peak)


# --- seeds -----------------------------------------------------------------------------------------------------------


def build_models(folder: Path) -> None:
    """Make the tests' small models; called in a child process, since it needs TensorFlow."""
    sys.path.insert(0, str(TESTS))
    import tflite_models

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as saved:
        for name, build in tflite_models.BUILDERS.items():
            (folder / f"{name}.tflite").write_bytes(build(Path(saved, name)))


def make_seed(path: Path, folder: Path) -> Seed:
    """A seed from a bundle's folder or a .tflite; `folder` takes its samples.

    A bare .tflite without states gets a bundle around it.
    """
    from edge_dl.bundle import MANIFEST, Manifest, Signature, TensorSpec, write_bundle
    from edge_dl.checks.graph import read_graph
    from edge_dl.files import save_npz
    from edge_dl.runtime import open_session
    from edge_dl.runtime.agent import sample_input

    is_bundle = (path / MANIFEST).is_file()
    model = path / "model.tflite" if is_bundle else path
    name = path.name if is_bundle else path.stem
    folder.mkdir(parents=True)
    signatures = [signature.key for signature in read_graph(model).signatures]
    session = open_session(model, signature=signatures[0] if signatures else "")
    inputs = {key: np.stack([value, value]) for key, value in sample_input(session).items()}
    outputs = dict(session.predict(inputs))
    save_npz(folder / "data.npz", {f"x/{key}": value for key, value in inputs.items()})
    save_npz(folder / "reference.npz", {f"y/{key}": value for key, value in outputs.items()})
    bundle = path if is_bundle else None
    if not is_bundle and session.interpreter.signature:
        edges = [tuple(TensorSpec(*spec) for spec in side.values()) for side in (session.inputs, session.outputs)]
        signature = Signature(session.interpreter.signature, *edges)
        manifest = Manifest(name, "float32", "none", "float32", "classification", signature)
        if not any(-1 in spec.shape for side in edges for spec in side):
            labels = [f"class {number}" for number in range(4)]
            bundle = write_bundle(
                folder / "bundle", model.read_bytes(), manifest, golden_inputs=inputs, golden_outputs=outputs,
                labels=labels,
            ).folder  # fmt: skip
    return Seed(name, model.read_bytes(), folder / "data.npz", folder / "reference.npz", bundle)


def find_seeds(places: Sequence[Path]) -> list[Path]:
    """Bundles and bare .tflite files below folders, in the order of their paths."""
    found: list[Path] = []
    for place in places:
        if place.is_file():
            found.append(place)
            continue
        bundles = sorted(path.parent for path in place.rglob("manifest.json"))
        models = sorted(path for path in place.rglob("*.tflite") if path.parent not in bundles)
        found += [*bundles, *models]
    return found


# --- a case ----------------------------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in a folder: kind, size, time of the last change, and content of small files."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            state = path.lstat()
            small = path.is_file() and not path.is_symlink() and state.st_size < 4096
            content = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
            is_folder = path.is_dir() and not path.is_symlink()
            found[str(path)] = (state.st_mode, *(() if is_folder else (state.st_size, state.st_mtime_ns)), content)
    return found


def rule_of(error: str) -> str:
    """The rule of an error line: what comes before what was received, with numbers and names left out."""
    rule = error.removeprefix("Error: ").split(" Received: ")[0]
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'..'", rule))[:100]


class Fuzzer:
    """Runs cases in a folder of its own and keeps count."""

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[Seed],
        seed: int,
        keep: Path | None = None,
        commands: Sequence[str] = COMMANDS,
    ) -> None:
        self.folder, self.seeds, self.seed, self.keep = folder, seeds, seed, keep
        self.models = [item.model for item in seeds]
        self.bundles = [item for item in seeds if item.bundle is not None]
        self.watched = folder / "watched"
        for name in ("cwd", "home", "tmp", OUTSIDE):
            (self.watched / name).mkdir(parents=True)
            (self.watched / name / "canary.txt").write_text("still here\n")
        (self.watched / OUTSIDE / "secret.txt").write_text("nobody reads this\n")
        (folder / "scratch").mkdir()
        places = (self.watched / "cwd", self.watched / "home", self.watched / "tmp", folder / "scratch")
        self.worker = Worker(*places, seconds=SECONDS)
        self.commands = known_commands() & set(commands)
        self.tally = Tally()

    def run(self, kind: str, number: int) -> list[Outcome]:
        """Make one case and put it through every command."""
        rng = np.random.default_rng([self.seed, KINDS.index(kind), number])
        chosen = self.seeds if kind == "models" else self.bundles
        seed = chosen[int(rng.integers(len(chosen)))]
        place, must_refuse = self.watched / "case", False
        shutil.rmtree(place, ignore_errors=True)
        if kind == "models":
            content, what = mutate_model(seed.model, rng, self.models)
            place = place / "model.tflite"
            place.parent.mkdir()
            place.write_bytes(content)
        else:
            assert seed.bundle is not None
            what, must_refuse = mutate_bundle(seed.bundle, place, rng, self.models)
        before = listing(self.watched)
        outcomes = []
        for command, arguments in self._arguments(kind, place, seed, rng):
            if command not in self.commands:
                continue
            outcome = self._judge(f"{kind}:{number}", arguments, before)
            if must_refuse and outcome.code != 2:
                outcome.problems.append(
                    f"a member outside the folder must be refused, and the exit code is {outcome.code}"
                )
            outcomes.append(outcome)
            self.tally.counts[kind, command, outcome.code] += 1
            self.tally.rules[command, outcome.rule] += 1
            if outcome.problems:
                self._report(f"{kind}:{number} {command} ({seed.name}, {what})", outcome, arguments)
                before = listing(self.watched)
        self.tally.done[kind] += 1
        return outcomes

    def _arguments(
        self, kind: str, place: Path, seed: Seed, rng: np.random.Generator
    ) -> Iterator[tuple[str, list[str]]]:
        shown = ["--json"] if rng.random() < 0.3 else []
        limit = ["--time-limit", str(int(SECONDS / 3))]
        yield "inspect", ["inspect", str(place), *shown]
        yield "check", ["check", str(place), "--runtime", "tflite-runtime==2.14.0", *shown]
        samples = ["--data", str(seed.data), "--reference", str(seed.reference)] if kind == "models" else []
        yield "verify", ["verify", str(place), *samples, *limit, *shown]

    def _judge(self, case: str, arguments: list[str], before: dict[str, tuple[Any, ...]]) -> Outcome:
        started = time.monotonic()
        answer, out, err = self.worker.run(arguments)
        seconds = time.monotonic() - started
        code = answer.get("code")
        errors = [line for line in err.splitlines() if line.startswith("Error: ")]
        outcome = Outcome(arguments[0], code, rule_of(errors[0]) if errors else "")
        problems = outcome.problems
        problems += [f"{key}: {answer[key]}" for key in ("hang", "crash", "escaped") if answer.get(key)]
        if "escaped" in answer and code not in (0, 1, 2, 3):
            problems.append(f"exit code {code}")
        if "Traceback" in out + err or "edge-dl itself failed" in err:
            problems.append("a traceback")
        if code in (2, 3) and (len(errors) != 1 or len(err.strip().splitlines()) != 1):
            problems.append("standard error is not one line that begins with 'Error: '")
        if code in (0, 1) and err.strip():
            problems.append("standard error is not empty")
        odd = sorted({character for character in out + err if not character.isprintable()} - {"\n", "\u00a0"})
        if odd:
            problems.append(f"control characters in what it prints: {odd}")
        if "--json" in arguments and code in (0, 1):
            try:
                json.loads(out, parse_constant=lambda name: 1 / 0)
            except (ValueError, ZeroDivisionError) as error:
                problems.append(f"what it prints is not JSON: {error}")
        if answer.get("peak", 0) > WORKER_MEMORY:
            problems.append(f"the command's process held {answer['peak'] / 2**20:.0f} MiB")
        after = listing(self.watched)
        for path in sorted(set(before) | set(after)):
            if before.get(path) != after.get(path):
                kind = "made" if path not in before else "removed" if path not in after else "changed"
                problems.append(f"{kind} {Path(path).relative_to(self.watched)}")
        self.tally.peak = max(self.tally.peak, answer.get("peak", 0))
        self.tally.slowest = max(self.tally.slowest, (seconds, f"{arguments[0]} of {case}, exit code {code}"))
        return outcome

    def _report(self, what: str, outcome: Outcome, arguments: list[str]) -> None:
        text = f"{what}: {'; '.join(outcome.problems)}"
        self.tally.broken.append(text)
        print(text, file=sys.stderr, flush=True)
        if self.keep:
            target = self.keep / what.split(" (")[0].replace(":", "-").replace(" ", "-")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.watched / "case", target / "case", symlinks=True, copy_function=_copy)
            for name in ("stdout", "stderr"):
                shutil.copy(self.folder / "scratch" / name, target / name)
            (target / "what.txt").write_text(f"{text}\n{' '.join(arguments)}\n")


def _copy(source: str, target: str, **options: Any) -> str:
    """Copy what is a plain file; pipes are left out."""
    return shutil.copy2(source, target, **options) if Path(source).is_file() else target


def known_commands() -> set[str]:
    """Names of the commands that this edge-dl has."""
    import typer.main

    from edge_dl.cli.main import app

    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def summary(tally: Tally) -> str:
    """Tables of exit codes and rules."""
    lines = [f"{'':8} {'command':8} {'files':>6}  exit code 0  1 (check failed)  2 (refused)  3 (broke)  other"]
    for kind in KINDS:
        for command in COMMANDS:
            row = {code: count for (a, b, code), count in tally.counts.items() if (a, b) == (kind, command)}
            if row:
                other = sum(count for code, count in row.items() if code not in (0, 1, 2, 3))
                lines.append(
                    f"{kind:8} {command:8} {sum(row.values()):6}  {row.get(0, 0):11}  {row.get(1, 0):16}  "
                    f"{row.get(2, 0):11}  {row.get(3, 0):9}  {other:5}"
                )
    lines += ["", "errors by the rule that they state"]
    for (command, rule), count in sorted(tally.rules.items(), key=lambda item: (item[0][0], -item[1])):
        if rule:
            lines.append(f"  {count:5}  {command:8} {rule}")
    lines += [
        "",
        f"the slowest command took {tally.slowest[0]:.1f} s ({tally.slowest[1]}); the command's process held at most "
        f"{tally.peak / 2**20:.0f} MiB",
        f"broken: {len(tally.broken)}",
        *(f"  {item}" for item in tally.broken),
    ]
    return "\n".join(lines)


def run_share(
    folder: Path,
    seeds: Sequence[Seed],
    seed: int,
    keep: Path | None,
    commands: Sequence[str],
    cases: Sequence[tuple[str, int]],
) -> Tally:
    """Some of the cases, with a line of progress now and then."""
    fuzzer = Fuzzer(folder, seeds, seed, keep, commands)
    started = shown = time.monotonic()
    for kind, number in cases:
        fuzzer.run(kind, number)
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            done = sum(fuzzer.tally.done.values())
            print(f"{done} of {len(cases)} after {shown - started:.0f} s, {len(fuzzer.tally.broken)} broken",
                  file=sys.stderr, flush=True)  # fmt: skip
    fuzzer.worker.close()
    return fuzzer.tally


def heading(options: argparse.Namespace, seeds: Sequence[Seed], seconds: float) -> list[str]:
    """The command, the machine, versions, and what the seeds were."""
    from importlib import metadata

    import edge_dl
    from edge_dl.runfolder import machine

    facts = machine()
    command = f"fuzz.py --models {options.models} --bundles {options.bundles} --seed {options.seed}"
    command += "" if options.commands == COMMANDS else f" --commands {' '.join(options.commands)}"
    command += f" --seeds-from {' '.join(map(str, options.seeds_from))}" if options.seeds_from else ""
    content = hashlib.sha256(b"".join(hashlib.sha256(seed.model).digest() for seed in seeds)).hexdigest()[:12]
    bundles = sum(seed.bundle is not None for seed in seeds)
    return [
        f"$ python benchmarks/{command}",
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']} {facts['architecture']}",
        f"edge-dl {edge_dl.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}, ai-edge-litert "
        f"{metadata.version('ai-edge-litert')}",
        f"{len(seeds)} seeds, {bundles} of them bundles (content {content})",
        f"{seconds:.0f} s in {options.jobs} processes, load average {os.getloadavg()[0]:.1f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--bundles", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cases")
    parser.add_argument("--seeds-from", type=Path, nargs="*", default=[], help="run folders, bundles, .tflite files")
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--only", default="", metavar="KIND:NUMBER", help="one case")
    parser.add_argument("--keep", type=Path, help="folder for the cases that break")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--build", type=Path, help="make the tests' small models in this folder, and nothing else")
    options = parser.parse_args()
    if options.build:
        build_models(options.build)
        return 0
    with tempfile.TemporaryDirectory(prefix="edge-dl-fuzz-") as name:
        folder = Path(name)
        if not options.seeds_from:
            build = [sys.executable, __file__, "--build", str(folder / "built")]
            subprocess.run(build, check=True, capture_output=True)
        paths = find_seeds(options.seeds_from or [folder / "built"])
        seeds = [make_seed(path, folder / "seeds" / str(number)) for number, path in enumerate(paths)]
        started = time.monotonic()
        if options.only:
            kind, _, number = options.only.partition(":")
            fuzzer = Fuzzer(folder / "only", seeds, options.seed, options.keep, options.commands)
            for outcome in fuzzer.run(kind, int(number)):
                print(outcome)
            return 1 if fuzzer.tally.broken else 0
        cases = [("models", number) for number in range(options.models)]
        cases += [("bundles", number) for number in range(options.bundles)]
        tally = Tally()
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            shares = [
                pool.submit(
                    run_share, folder / f"share-{number}", seeds, options.seed, options.keep, options.commands,
                    cases[number :: options.jobs],
                )
                for number in range(options.jobs)
            ]  # fmt: skip
            for share in shares:
                tally.add(share.result())
        seconds = time.monotonic() - started
    text = "\n".join([*heading(options, seeds, seconds), "", summary(tally), ""])
    print(text)
    from edge_dl.files import write_atomic

    write_atomic(options.out, text)
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
