"""The search for the cheapest mix of precisions that holds an accuracy budget: the variant `mixed`.

It starts from int8 everywhere and widens operators in the order of the errors that they cause at the model's outputs
(`edge_dl.checks.layers`), until the task metric on the held-out validation split loses no more than the budget. How
many it takes is found by doubling and bisection; then each move that was made is taken back, the least telling first,
where the budget holds without it. *Cheapest* means the fewest operators moved, and for each the precision that costs
the fewest bytes and takes its error away: int16 activations where the output's rounding is to blame, float32 where
the weights are.

Every candidate is made and measured in a child process with a time limit; one that crashes does not hold the budget,
and the search goes on. The test split is never looked at: `edge-dl verify` holds the result against it afterwards.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_dl import bundle
from edge_dl.bundle import Limits
from edge_dl.checks.inspection import inspect_model
from edge_dl.converters.isolation import Isolation, Job, JobResult, JobStatus
from edge_dl.converters.static import Precision
from edge_dl.progress import SILENT, Progress
from edge_dl.report import numbers
from edge_dl.variants import Quantization, VariantSpec

_TRIES = "edge_dl.converters.tries"
# Candidates made to take moves back, after the budget is held. Each costs a conversion and a pass over the split.
MOST_GIVEN_BACK = 8


@dataclass(frozen=True)
class Step:
    """One candidate of the search: a row of the path.

    Attributes:
        what: what is not int8 in it, in words.
        operators: by precision, names of the operators that are not int8.
        status: "done", or how the child process ended.
        message: why there is no measurement.
        metric: the task metric's name.
        unit: its unit.
        value: the candidate's value on the held-out split; None without a measurement.
        reference: the float32 variant's.
        drop: what is lost, as in `checks.max_drop`.
        holds: whether that is within the budget.
        bytes: size of the .tflite.
        ms: a sample's time on this machine, roughly.
        samples: samples of the held-out split.
        chosen: whether this is the mix that was taken.
    """

    what: str
    operators: Mapping[str, Sequence[str]] = field(default_factory=dict)
    status: str = JobStatus.DONE.value
    message: str = ""
    metric: str = ""
    unit: str = ""
    value: float | None = None
    reference: float | None = None
    drop: float | None = None
    holds: bool = False
    bytes: int = 0
    ms: float | None = None
    samples: int = 0
    chosen: bool = False

    def text(self) -> str:
        """One line for the console."""
        if self.status != JobStatus.DONE.value:
            return f"{self.what}: {self.status}: {self.message}"
        if self.drop is None:
            return f"{self.what}: its answers are not finite numbers"
        lost = numbers.percent(self.drop, 2)
        word = "holds" if self.holds else "over the budget"
        return f"{self.what}: {self.metric} {numbers.metric(self.value, self.unit)}, loses {lost}: {word}"


def find_mix(
    run: Path,
    arguments: Mapping[str, Any],
    worker: Isolation,
    *,
    time_limit: float,
    progress: Progress = SILENT,
) -> JobResult:
    """Search, and leave the mix's bundle in its place.

    Args:
        run: the run folder.
        arguments: of `jobs.make_variant`, for the variant `mixed`; the budget is `max_drop` of its limits.
        worker: the child process.
        time_limit: seconds that each candidate may take.
        progress: told of every candidate.

    Returns:
        As of a job that made the variant; its value holds "path" besides: the `Step`s, also where it failed.
    """
    search = _Search(run, arguments, worker, time_limit, progress)
    try:
        return search.result()
    finally:
        shutil.rmtree(search.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Candidate:
    """A step, the bundle that it is about, what `jobs.summary` said when that was made, and what it was made from."""

    step: Step
    folder: Path
    made: Mapping[str, Any]
    arguments: Mapping[str, Any] | None


class _Search:
    def __init__(
        self,
        run: Path,
        arguments: Mapping[str, Any],
        worker: Isolation,
        time_limit: float,
        progress: Progress,
    ) -> None:
        # Operators count from the exported model's first, and a file that keeps its states reads them before: only what
        # is found does so. Its answers are the same bits.
        self.internal_states = bool(arguments.get("internal_states", False))
        self.run, self.arguments, self.worker = run, {**arguments, "internal_states": False}, worker
        self.time_limit, self.progress = time_limit, progress
        self.limits = Limits(**arguments["limits"])
        self.spec = VariantSpec.parse(arguments["variant"])
        self.target = Path(arguments["folder"])
        self.folder = self.target.parent / f".{self.spec.name}.search"
        self.answers = str(self.folder / "reference.npz")
        self.candidates: dict[str, _Candidate] = {}  # By what is not int8 in them, in the order of the path.
        self.names: Mapping[str, str] = {}
        self.seconds = 0.0

    def result(self) -> JobResult:
        """Search, and put what was found in its place."""
        if self.limits.max_drop is None:
            todo = "Set checks.max_drop, or give --max-drop."
            message = "A mix is made for an accuracy budget, and there is none."
            return self._failed(JobResult("", JobStatus.FAILED, message=message, todo=todo, exit_code=2))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        floats = VariantSpec(self.spec.lowering, Quantization.FLOAT32)
        reference = self.folder / "float32"
        arguments = {**self.arguments, "variant": floats.name, "folder": str(reference), "calibration": ""}
        asked = {"run": str(self.run), "arguments": arguments, "answers": self.answers}
        begun = self._do("reference", "make_reference", asked)
        if begun.status is not JobStatus.DONE:
            return self._failed(begun)
        # The plain int8 variant, where there is one: if it holds the budget nothing has to be mixed.
        plain = self.target.parent / VariantSpec(self.spec.lowering, Quantization.INT8).name
        if (plain / bundle.MANIFEST).is_file():
            found = self._measure("int8 as converted", {}, plain, None)
            if found.step.holds:
                return self._publish(found, f"int8 holds the budget of {self._budget()}: this is the same model")
        first = self._try([])
        if first.step.holds:
            return self._publish(first, f"every operator in int8 holds the budget of {self._budget()}")
        asked = {"run": str(self.run), "bundle": str(first.folder), "reference": str(reference)}
        ranked = self._do("ranking", "rank", asked)
        if ranked.status is not JobStatus.DONE:
            return self._failed(ranked)
        self.names = ranked.value["names"]
        everything = {"operators": ranked.value["operators"], "precision": Precision.FLOAT32.value}
        moves = self._shortest([*ranked.value["moves"], everything])
        if moves is None:
            message = f"No mix of int8, int16x8 and float32 holds the budget of {self._budget()}."
            none = JobResult("", JobStatus.FAILED, message=message, todo="Allow more with --max-drop.", exit_code=3)
            return self._failed(none)
        found = self._give_back(moves)
        return self._publish(found, f"not in int8: {found.step.what}, for the budget of {self._budget()}")

    def _shortest(self, moves: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """The fewest first moves that hold the budget: doubled until they do, then bisected; None: not even all."""
        low, high = 0, 1  # So many do not hold; so many may.
        while not self._try(moves[:high]).step.holds:
            if high == len(moves):
                return None
            low, high = high, min(2 * high, len(moves))
        while high - low > 1:
            middle = (low + high) // 2
            if self._try(moves[:middle]).step.holds:
                high = middle
            else:
                low = middle
        return moves[:high]

    def _give_back(self, moves: list[dict[str, Any]]) -> _Candidate:
        """The candidate that is left when moves which the budget does not need are taken back."""
        kept = moves
        # The last one comes last: without it the budget was not held, but one of two may have done for both.
        for move in [*moves[-2::-1][:MOST_GIVEN_BACK], moves[-1]]:
            without = [item for item in kept if item is not move]
            if self._try(without).step.holds:
                kept = without
        return self._try(kept)

    def _try(self, moves: Sequence[Mapping[str, Any]]) -> _Candidate:
        """Make and measure the candidate that some moves give; one that was tried already is not tried again."""
        precisions = _precisions(moves)
        key = str(sorted(precisions.items()))
        if key in self.candidates:
            return self.candidates[key]
        operators: dict[str, list[str]] = {}
        for number in sorted(precisions, key=int):
            operators.setdefault(precisions[number], []).append(self.names.get(number, f"operator {number}"))
        what = ", ".join(_listed(names, precision) for precision, names in operators.items())
        folder = self.folder / str(len(self.candidates))
        options = {**self.arguments["options"], "precisions": precisions}
        arguments = {**self.arguments, "folder": str(folder), "options": options}
        return self._measure(what or "int8 everywhere", operators, folder, arguments, key)

    def _measure(
        self,
        what: str,
        operators: Mapping[str, Sequence[str]],
        folder: Path,
        arguments: Mapping[str, Any] | None,
        key: str = "",
    ) -> _Candidate:
        asked = {
            "run": str(self.run),
            "arguments": arguments,
            "bundle": str(folder),
            "answers": self.answers,
            "max_drop": self.limits.max_drop,
        }
        result = self._do(f"candidate {len(self.candidates)}", "try_mix", asked)
        made: Mapping[str, Any] = {}
        if result.status is JobStatus.DONE:
            made = result.value["made"]
            measured = {name: value for name, value in result.value.items() if name != "made"}
            step = Step(what, operators, **measured)
        else:
            step = Step(what, operators, status=result.status.value, message=result.message)
        self.candidates[key or what] = _Candidate(step, folder, made, arguments)
        self.progress.say(f"{self.spec.name}: {step.text()}")
        return self.candidates[key or what]

    def _do(self, name: str, call: str, arguments: Mapping[str, Any]) -> JobResult:
        log = self.target.parent / "log" / f"{self.spec.name}.log"
        job = Job(f"{self.spec.name} ({name})", f"{_TRIES}:{call}", arguments, log, self.time_limit)
        result = self.worker.run([job])[0]
        self.seconds += result.seconds
        return result

    def _budget(self) -> str:
        return numbers.percent(self.limits.max_drop, 2)

    def _path(self, chosen: _Candidate | None = None) -> list[dict[str, Any]]:
        return [
            dataclasses.asdict(dataclasses.replace(item.step, chosen=item is chosen))
            for item in self.candidates.values()
        ]

    def _failed(self, result: JobResult) -> JobResult:
        value = {"path": self._path()}
        return dataclasses.replace(result, name=self.spec.name, value=value, seconds=round(self.seconds, 3))

    def _publish(self, found: _Candidate, note: str) -> JobResult:
        """Put a candidate's bundle where the variant belongs."""
        made = dict(found.made) if found.made else self._copy(found.folder)
        if found.made and self.internal_states:
            result = self._do("states", "make_variant", {**(found.arguments or {}), "internal_states": True})
            if result.status is not JobStatus.DONE:
                return self._failed(result)
            made = dict(result.value)
        if found.made:
            shutil.rmtree(self.target, ignore_errors=True)
            found.folder.rename(self.target)
        value = {**made, "notes": [*made["notes"], note], "path": self._path(found)}
        return JobResult(self.spec.name, JobStatus.DONE, value=value, seconds=round(self.seconds, 3))

    def _copy(self, source: Path) -> dict[str, Any]:
        """The plain int8 bundle under the variant's own name."""
        opened = bundle.read_bundle(source)
        golden_inputs, golden_outputs = opened.golden()
        manifest = dataclasses.replace(
            opened.manifest, variant=self.spec.name, quantization=self.spec.quantization.value, limits=self.limits
        )
        bundle.write_bundle(
            self.target,
            opened.model.read_bytes(),
            manifest,
            golden_inputs=golden_inputs,
            golden_outputs=golden_outputs,
            labels=opened.labels(),
        )
        return {
            "tool": manifest.made_by.get("tool", ""),
            "notes": [],
            "bytes": opened.model.stat().st_size,
            "weights": dict(inspect_model(opened.model).weight_elements),
        }


def _precisions(moves: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By an operator's number, as text, the widest precision that any move gives it."""
    order = [item.value for item in Precision]
    chosen: dict[str, str] = {}
    for move in moves:
        for number in move["operators"]:
            chosen[str(number)] = max(chosen.get(str(number), order[0]), move["precision"], key=order.index)
    return chosen


def _listed(names: Sequence[str], precision: str) -> str:
    """`conv_1, conv_2 in float32`; from four on, how many there are."""
    return f"{', '.join(names) if len(names) <= 3 else f'{len(names)} operators'} in {precision}"
