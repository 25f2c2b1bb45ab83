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
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bundle_mutations import OUTSIDE, mutate_bundle
from model_mutations import mutate_model

RESULT = Path(__file__).parent / "results" / "fuzz.txt"
TESTS = Path(__file__).parent.parent / "tests"
SECONDS = 60.0
"""That a command may take; `verify` is told to give a model a third of it."""
WORKER_MEMORY = 1 << 30
"""Bytes that the process of the command may hold; what loads models is another process."""
ADDRESS_SPACE = 8 << 30
"""Bytes that any process here may ask for, so that a model that wants a terabyte harms nobody."""
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


# --- the worker: real commands in a process that may break -----------------------------------------------------------


def serve() -> None:
    """Run the commands that standard input names, one a line, and answer with a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from edge_dl.cli import main as command

    for line in requests:
        request = json.loads(line)
        files = [open(path, "w+b") for path in request["outputs"]]  # noqa: SIM115
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        escaped = ""
        try:
            command.main(request["arguments"])
            code: Any = 0
        except SystemExit as ended:
            code = 0 if ended.code is None else ended.code
        except BaseException as error:
            code, escaped = None, f"{type(error).__name__}: {error}"
        sys.stdout.flush()
        sys.stderr.flush()
        for file in files:
            file.close()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        answers.write(json.dumps({"code": code, "escaped": escaped, "peak": peak}) + "\n")
        answers.flush()


class Worker:
    """The process that runs commands; one that breaks is replaced."""

    def __init__(self, cwd: Path, home: Path, temporary: Path, scratch: Path) -> None:
        self.cwd, self.scratch = cwd, scratch
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
            # Compiled modules are kept, and not beside their sources: a child starts in half the time.
            "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPYCACHEPREFIX": str(scratch / "compiled"),
            "EDGE_DL_CACHE": str(home / "cache"), "EDGE_DL_CONFIG": str(home / "config"), "COLUMNS": "200",
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        def limits() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        return subprocess.Popen(
            [sys.executable, __file__, "--worker"], cwd=self.cwd, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=limits,
        )  # fmt: skip

    def run(self, arguments: Sequence[str]) -> tuple[dict[str, Any], str, str]:
        """The worker's answer ({"hang": ..} or {"crash": ..} when there is none), standard output and error."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        outputs = [self.scratch / "stdout", self.scratch / "stderr"]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"arguments": list(arguments), "outputs": list(map(str, outputs))}) + "\n")
        process.stdin.flush()
        timer = _Timer(process, SECONDS)
        line = process.stdout.readline()
        late = timer.stop()
        if line:
            answer = json.loads(line)
        else:
            code = process.wait()
            answer = {"hang": f"still running after {SECONDS:g} s"} if late else {"crash": f"ended with {code}"}
            self._process = None
        out, err = (path.read_bytes().decode("utf-8", "replace") if path.is_file() else "" for path in outputs)
        return answer, out, err

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)


class _Timer:
    """Ends a process and its session when its time is over."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        import threading

        self._late = False
        self._timer = threading.Timer(seconds, self._end, (process.pid,))
        self._timer.start()

    def _end(self, pid: int) -> None:
        self._late = True
        os.killpg(pid, signal.SIGKILL)

    def stop(self) -> bool:
        self._timer.cancel()
        return self._late


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
        self.worker = Worker(
            self.watched / "cwd", self.watched / "home", self.watched / "tmp", folder / "scratch"
        )  # fmt: skip
        self.commands = known_commands() & set(commands)
        self.counts: Counter[tuple[str, str, Any]] = Counter()
        self.rules: Counter[tuple[str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self.slowest: tuple[float, str] = (0.0, "")
        self.peak = 0

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
            self.counts[kind, command, outcome.code] += 1
            self.rules[command, outcome.rule] += 1
            if outcome.problems:
                self._report(f"{kind}:{number} {command} ({seed.name}, {what})", outcome, arguments)
                before = listing(self.watched)
        self.done[kind] += 1
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
        odd = sorted({character for character in out + err if not character.isprintable() and character != "\n"})
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
        self.peak = max(self.peak, answer.get("peak", 0))
        self.slowest = max(self.slowest, (seconds, f"{arguments[0]} of {case}, exit code {code}"))
        return outcome

    def _report(self, what: str, outcome: Outcome, arguments: list[str]) -> None:
        text = f"{what}: {'; '.join(outcome.problems)}"
        self.broken.append(text)
        print(text, file=sys.stderr, flush=True)
        if self.keep:
            target = self.keep / what.split(" (")[0].replace(":", "-").replace(" ", "-")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.watched / "case", target / "case", symlinks=True, copy_function=_copy)
            for name in ("stdout", "stderr"):
                shutil.copy(self.folder / "scratch" / name, target / name)
            (target / "what.txt").write_text(f"{text}\n{' '.join(arguments)}\n")

    def summary(self) -> str:
        """Tables of exit codes and rules."""
        lines = [f"{'':8} {'command':8} {'files':>6}  exit code 0  1 (check failed)  2 (refused)  3 (broke)  other"]
        for kind in KINDS:
            for command in COMMANDS:
                row = {code: count for (a, b, code), count in self.counts.items() if (a, b) == (kind, command)}
                if row:
                    other = sum(count for code, count in row.items() if code not in (0, 1, 2, 3))
                    lines.append(
                        f"{kind:8} {command:8} {sum(row.values()):6}  {row.get(0, 0):11}  {row.get(1, 0):16}  "
                        f"{row.get(2, 0):11}  {row.get(3, 0):9}  {other:5}"
                    )
        lines += ["", "errors by the rule that they state"]
        for (command, rule), count in sorted(self.rules.items(), key=lambda item: (item[0][0], -item[1])):
            if rule:
                lines.append(f"  {count:5}  {command:8} {rule}")
        lines += [
            "",
            f"the slowest command took {self.slowest[0]:.1f} s ({self.slowest[1]}); the command's process held at most "
            f"{self.peak / 2**20:.0f} MiB",
            f"broken: {len(self.broken)}",
            *(f"  {item}" for item in self.broken),
        ]
        return "\n".join(lines)


def _copy(source: str, target: str, **options: Any) -> str:
    """Copy what is a plain file; pipes are left out."""
    return shutil.copy2(source, target, **options) if Path(source).is_file() else target


def known_commands() -> set[str]:
    """Names of the commands that this edge-dl has."""
    import typer.main

    from edge_dl.cli.main import app

    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def run(fuzzer: Fuzzer, models: int, bundles: int) -> None:
    """Every case, models and bundles in turn, with a line of progress now and then."""
    started = shown = time.monotonic()
    for number in range(max(models, bundles)):
        for kind, count in zip(KINDS, (models, bundles), strict=True):
            if number < count:
                fuzzer.run(kind, number)
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{dict(fuzzer.done)} after {shown - started:.0f} s, {len(fuzzer.broken)} broken", file=sys.stderr,
                  flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--bundles", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds-from", type=Path, nargs="*", default=[], help="run folders, bundles, .tflite files")
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--only", default="", metavar="KIND:NUMBER", help="one case")
    parser.add_argument("--keep", type=Path, help="folder for the cases that break")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--build", type=Path, help="make the tests' small models in this folder, and nothing else")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve()
        return 0
    if options.build:
        build_models(options.build)
        return 0
    from importlib import metadata

    import edge_dl
    from edge_dl.files import write_atomic
    from edge_dl.runfolder import machine

    with tempfile.TemporaryDirectory(prefix="edge-dl-fuzz-") as name:
        folder = Path(name)
        if not options.seeds_from:
            build = [sys.executable, __file__, "--build", str(folder / "built")]
            subprocess.run(build, check=True, capture_output=True)
        paths = find_seeds(options.seeds_from or [folder / "built"])
        seeds = [make_seed(path, folder / "seeds" / str(number)) for number, path in enumerate(paths)]
        started = time.monotonic()
        fuzzer = Fuzzer(folder, seeds, options.seed, options.keep, options.commands)
        if options.only:
            kind, _, number = options.only.partition(":")
            for outcome in fuzzer.run(kind, int(number)):
                print(outcome)
            return 1 if fuzzer.broken else 0
        run(fuzzer, options.models, options.bundles)
        fuzzer.worker.close()
        seconds = time.monotonic() - started
    facts = machine()
    content = hashlib.sha256(b"".join(hashlib.sha256(seed.model).digest() for seed in seeds)).hexdigest()[:12]
    text = "\n".join(
        [
            f"$ python benchmarks/fuzz.py --models {options.models} --bundles {options.bundles} --seed {options.seed}"
            + (" --seeds-from " + " ".join(map(str, options.seeds_from)) if options.seeds_from else ""),
            f"{facts['processor']}, {facts['cores']} cores, {facts['system']} {facts['architecture']}",
            f"edge-dl {edge_dl.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}, "
            f"ai-edge-litert {metadata.version('ai-edge-litert')}",
            f"{len(seeds)} seeds, {len(fuzzer.bundles)} of them bundles (content {content}); {seconds:.0f} s",
            "",
            fuzzer.summary(),
            "",
        ]
    )
    print(text)
    write_atomic(options.out, text)
    return 1 if fuzzer.broken else 0


if __name__ == "__main__":
    sys.exit(main())
