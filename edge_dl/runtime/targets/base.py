"""What every target can do: take files by content hash, run the agent within a time limit, give results back, clean up.

A `Target` is an address with knowledge of its kind; `open` connects to it. One `Connection` serves any number of
bundles. Nothing that comes back is trusted: see `answers`.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import MANIFEST, Bundle
from edge_dl.errors import StageError
from edge_dl.files import member_path, save_npz, sha256_file
from edge_dl.runtime import agent as agent_module
from edge_dl.runtime.targets.answers import (
    Pair,
    Run,
    Timing,
    load_outputs,
    parse_pair,
    parse_run,
    parse_timing,
    read_answer,
)
from edge_dl.runtime.targets.processes import Completed
from edge_dl.runtime.targets.url import Address

TIME_LIMIT = 300.0
AGENT = Path(agent_module.__file__)
PAIR_WARMUP = "0.2"
INPUTS, OUTPUTS = "inputs.npz", "outputs.npz"


@dataclass(frozen=True)
class Finding:
    """What a target's doctor found out about one thing that the target needs.

    Attributes:
        what: the thing.
        ok: whether it is there and right.
        found: what is there.
        todo: how to get it; "" when nothing is to be done.
    """

    what: str
    ok: bool
    found: str = ""
    todo: str = ""


class Connection(ABC):
    """A target that was reached. `python` and the paths are the target's own; nothing here believes them."""

    agent: Path = AGENT
    runtime: str = "auto"

    @abstractmethod
    def put(self, files: Mapping[str, Path], *, timeout: float) -> str:
        """Copy files into a folder named by their content, unless it is there; gives the target's path of it."""

    @abstractmethod
    def execute(self, arguments: Sequence[str], *, timeout: float) -> Completed:
        """Run the target's Python with these arguments."""

    @abstractmethod
    def fetch(self, path: str, target: Path, *, limit: int, timeout: float) -> None:
        """Copy one file of the target here; more than `limit` bytes are refused."""

    @abstractmethod
    def scratch(self, name: str) -> str:
        """The target's path of a file that a run may write, in a folder that is there."""

    def facts(self) -> dict[str, Any]:
        """What else is known about the target's state, such as throttling or battery; plain JSON values."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Remove what was written, unless it is to be kept."""

    # --- the same for every target ---

    def predict(
        self, bundle: Bundle, inputs: Mapping[str, np.ndarray], *, timeout: float = TIME_LIMIT
    ) -> tuple[dict[str, np.ndarray], Run]:
        """A bundle's answers to samples, computed there.

        Args:
            bundle: an opened bundle.
            inputs: by input name, real numbers or tokens, the sample axis first.
            timeout: seconds that the run may take.

        Returns:
            By output name float32 (or stored integers), the sample axis first; and what the agent said about the run.

        Raises:
            EdgeError: the target cannot run it, broke, took too long, or answered something that is no answer.
        """
        count = len(next(iter(inputs.values())))
        with tempfile.TemporaryDirectory(prefix="edge-dl-") as name:
            folder = Path(name)
            save_npz(folder / INPUTS, inputs)
            there = self.put({INPUTS: folder / INPUTS}, timeout=timeout)
            output = self.scratch(OUTPUTS)
            arguments = ["run", self._put_bundle(bundle, timeout), "--inputs", f"{there}/{INPUTS}", "--outputs", output]
            answer = parse_run(self._ask(arguments, timeout))
            self.fetch(output, folder / OUTPUTS, limit=_most_bytes(bundle, inputs), timeout=timeout)
            return load_outputs(folder / OUTPUTS, bundle.manifest, inputs, count), answer

    def measure(self, bundle: Bundle, *, rounds: int = 30, timeout: float = TIME_LIMIT) -> Timing:
        """Latency of a bundle, measured there by the agent.

        Raises:
            EdgeError: see `predict`.
        """
        arguments = ["bench", self._put_bundle(bundle, timeout), "--rounds", str(rounds), "--no-samples"]
        return parse_timing(self._ask(arguments, timeout))

    def measure_pair(
        self, one: Bundle, other: Bundle, *, rounds: int, round_seconds: float, timeout: float = TIME_LIMIT
    ) -> Pair:
        """Latency of two bundles in turns, in one process of the target that opens `one` first.

        Neither must be steady before it counts, as for `measure`: what is not steady disturbs both.

        Args:
            one, other: opened bundles.
            rounds: in each both have a stretch of calls, in random order.
            round_seconds: how long a stretch should take.
            timeout: seconds that the run may take.

        Raises:
            EdgeError: see `predict`.
        """
        models = [self._put_bundle(bundle, timeout) for bundle in (one, other)]
        settings = ["--rounds", str(rounds), "--block-seconds", str(round_seconds), "--warmup-seconds", PAIR_WARMUP]
        return parse_pair(self._ask(["bench", *models, *settings, "--no-samples"], timeout), rounds)

    def ask(self, arguments: Sequence[str], *, timeout: float = TIME_LIMIT) -> dict[str, Any]:
        """Run the agent and give its JSON, of which only that it is an object is known."""
        return self._ask(arguments, timeout)

    def _put_bundle(self, bundle: Bundle, timeout: float) -> str:
        files = {name: member_path(bundle.folder, name) for name in bundle.manifest.files}
        return self.put({**files, MANIFEST: bundle.folder / MANIFEST}, timeout=timeout)

    def _ask(self, arguments: Sequence[str], timeout: float) -> dict[str, Any]:
        there = self.put({"agent.py": self.agent}, timeout=timeout)
        command = [f"{there}/agent.py", *arguments, "--runtime", self.runtime, "--threads", "1"]
        return read_answer(self.execute(command, timeout=timeout))


class Target(ABC):
    """A place where bundles can run.

    Attributes:
        name: what the user calls it.
        address: where it is.
        emulated: whether its clock says nothing about a real device.
    """

    emulated = False

    def __init__(self, name: str, address: Address) -> None:
        self.name, self.address = name, address

    @abstractmethod
    def connect(self) -> Connection:
        """Reach the target, making or fetching what it needs.

        Raises:
            EdgeError: it cannot be reached; the message says what to do.
        """

    @abstractmethod
    def doctor(self) -> list[Finding]:
        """Look at everything the target needs, without changing anything; never raises for what is missing."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Connection]:
        """A connection that is closed whatever happens."""
        connection = self.connect()
        try:
            yield connection
        finally:
            connection.close()


class ProcessConnection(Connection):
    """A Python on this machine: files stay where they are, and one folder holds what runs write."""

    def __init__(
        self, python: Sequence[str], environment: Mapping[str, str] | None = None, runtime: str = "auto"
    ) -> None:
        self.python, self.environment, self.runtime = tuple(python), dict(environment or {}), runtime
        self._folder = tempfile.TemporaryDirectory(prefix="edge-dl-target-")

    def put(self, files: Mapping[str, Path], *, timeout: float) -> str:
        """Nothing is copied: the files' own folder."""
        return str(next(iter(files.values())).parent.resolve())

    def execute(self, arguments: Sequence[str], *, timeout: float) -> Completed:
        """Run it in a child process with a session of its own."""
        from edge_dl.runtime.targets.processes import run_command

        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1", **self.environment}
        return run_command([*self.python, *arguments], timeout=timeout, environment=environment, what="the agent")

    def fetch(self, path: str, target: Path, *, limit: int, timeout: float) -> None:
        """Copy a file of this machine."""
        source = Path(path)
        check_size(source.stat().st_size if source.is_file() else -1, limit)
        target.write_bytes(source.read_bytes())
        source.unlink()

    def scratch(self, name: str) -> str:
        """A path in the folder that goes with the connection."""
        return str(Path(self._folder.name) / name)

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()


def check_size(size: int, limit: int) -> None:
    """Refuse a file that is missing (size < 0) or larger than its content can be.

    Raises:
        StageError: it is.
    """
    if size < 0 or size > limit:
        received = "no file" if size < 0 else f"{size} bytes where at most {limit} can be"
        raise StageError("The target must give back the model's answers.", stage="target", received=received)


def content_hash(files: Mapping[str, Path]) -> str:
    """One hash of named files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{len(name)}:{name}:{sha256_file(files[name])}\n".encode())
    return digest.hexdigest()


def _most_bytes(bundle: Bundle, inputs: Mapping[str, np.ndarray]) -> int:
    from edge_dl.runtime.targets.answers import expected_outputs

    count = len(next(iter(inputs.values())))
    expected = expected_outputs(bundle.manifest, inputs, count)
    return sum(int(np.prod(shape, dtype=np.int64)) * 8 for shape in expected.values()) + 4096 * (len(expected) + 1)
