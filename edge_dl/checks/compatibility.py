"""Will a .tflite load in another runtime, and answer rightly? Told operator by operator from tables; nothing is run.

    for answer in check_model("model.tflite", find_profiles("tflite-runtime==2.14.0,litert-micro")):
        print(answer.runtime, answer.word, answer.problems)

Three things decide: the operators' versions, which a runtime compares when it opens a file (op_versions.json), what its
kernels refuse when they are prepared, whatever the version says, and what they are known to compute wrongly without a
word (both in runtimes.json).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from edge_dl.checks.graph import Graph, GraphOperator, Subgraph, parse_graph, read_graph
from edge_dl.checks.inspection import version_key
from edge_dl.checks.plain import to_plain
from edge_dl.checks.runtime_profiles import Profile, find_profiles, runtime_data


class Effect(str, Enum):
    """What comes of a problem: the runtime says so, or it does not.

    The first one a trial shows (`edge_dl.checks.trials`): an error, a crash, NaN. The other two only show in answers.
    """

    NO_RUN = "will not load"
    WRONG = "answers wrongly"
    WRONG_BY_DELEGATE = "answers wrongly with XNNPACK"


@dataclass(frozen=True)
class Problem:
    """What is wrong with an operator of a model in a runtime.

    Attributes:
        operator: as TFLite names it.
        version: of the operator.
        count: how often it stands in the model in this way.
        reason: what the runtime cannot do.
        todo: what the user can do about it.
        option: conversion options that avoid it, see `edge_dl.converters.options.QuantizationOptions`.
        effect: what comes of it.
    """

    operator: str
    version: int
    count: int
    reason: str
    todo: str
    option: Mapping[str, Any] = field(default_factory=dict)
    effect: Effect = Effect.NO_RUN


@dataclass(frozen=True)
class Operator:
    """One operator in one version: whether it loads, and since which release of the runtime's family ("" none)."""

    name: str
    version: int
    count: int
    loads: bool
    since: str


@dataclass(frozen=True)
class Compatibility:
    """Whether a model loads in a runtime and answers rightly there.

    Attributes:
        runtime: the runtime's name as it was asked for.
        release: the release that was looked up.
        operators: every operator and version, most frequent first.
        problems: what will not load, or will answer wrongly; empty: nothing is known against it.
        notes: what must be known about the runtime.
    """

    runtime: str
    release: str
    operators: tuple[Operator, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def loads(self) -> bool:
        """Whether it loads and runs there, whatever it answers."""
        return all(item.effect is not Effect.NO_RUN for item in self.problems)

    @property
    def right(self) -> bool:
        """Whether it loads there and nothing is known to make its answers wrong."""
        return not self.problems

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """The problems that are there with XNNPACK and without: this package's agent leaves it out where it must."""
        return tuple(item for item in self.problems if item.effect is not Effect.WRONG_BY_DELEGATE)

    @property
    def word(self) -> str:
        """The verdict in words: "loads", or the worst effect."""
        found = {item.effect for item in self.problems}
        return next((effect.value for effect in Effect if effect in found), "loads")

    @property
    def options(self) -> dict[str, Any] | None:
        """Conversion options that avoid every fatal problem; None where one of them cannot be avoided so."""
        if not all(item.option for item in self.fatal):
            return None
        merged: dict[str, Any] = {}
        for item in self.fatal:
            merged |= item.option
        return merged

    @property
    def reason(self) -> str:
        """All problems in one line."""
        return "; ".join(f"{item.operator} version {item.version} {item.reason}" for item in self.problems)

    @property
    def todo(self) -> str:
        """All ways out in one line."""
        return " ".join(dict.fromkeys(item.todo for item in self.problems))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"loads": self.loads, "right": self.right, **to_plain(self)}


def check_model(path: str | Path, profiles: Sequence[Profile]) -> list[Compatibility]:
    """Look a .tflite's operators up in each runtime's tables.

    Raises:
        UsageError: the file is missing, is no .tflite, or is damaged.
    """
    graph = read_graph(path)
    return [_check(graph, profile) for profile in profiles]


def check_bytes(content: bytes, profiles: Sequence[Profile]) -> list[Compatibility]:
    """`check_model` for a file in memory."""
    graph = parse_graph(content, "the model")
    return [_check(graph, profile) for profile in profiles]


def check_file(path: str, names: str) -> list[Compatibility]:
    """`check_model` by names of runtimes: what a child process is asked for."""
    return check_model(path, find_profiles(names))


def _check(graph: Graph, profile: Profile) -> Compatibility:
    total: Counter[tuple[str, int, bool]] = Counter()
    found: dict[tuple[str, int, str], tuple[int, Problem]] = {}
    unpacked = [half_constants(subgraph) for subgraph in graph.subgraphs]
    for number, subgraph in enumerate(graph.subgraphs):
        place = _Place(subgraph, unpacked[number], any(unpacked[number + 1 :]))
        for operator in subgraph.operators:
            total[operator.name, operator.version, operator.custom] += 1
            problem = _problem(place, operator, profile)
            if problem is not None:
                key = (problem.operator, problem.version, problem.reason)
                found[key] = (found.get(key, (0, problem))[0] + 1, problem)
    bad = {(item.operator, item.version) for _, item in found.values() if item.effect is Effect.NO_RUN}
    operators = tuple(
        Operator(name, version, count, (name, version) not in bad, "" if custom else profile.since(name, version))
        for (name, version, custom), count in sorted(total.items(), key=lambda item: (-item[1], item[0]))
    )
    problems = tuple(replace(item, count=count) for count, item in found.values())
    return Compatibility(profile.name, profile.release, operators, problems, profile.notes)


@dataclass(frozen=True)
class _Place:
    """Where an operator stands: its subgraph, the tensors in it that are unpacked float16 constants, and whether a
    later subgraph has such tensors too."""

    subgraph: Subgraph
    unpacked: frozenset[int]
    more_unpacked: bool


def half_constants(subgraph: Subgraph) -> frozenset[int]:
    """Tensors that are float16 constants of the file as float32: what a DEQUANTIZE makes of one."""
    return frozenset(
        operator.outputs[0]
        for operator in subgraph.operators
        if operator.name == "DEQUANTIZE"
        and operator.outputs
        and operator.inputs
        and operator.inputs[0] >= 0
        and subgraph.tensors[operator.inputs[0]].dtype == "float16"
        and subgraph.tensors[operator.inputs[0]].constant
    )


def _problem(place: _Place, operator: GraphOperator, profile: Profile) -> Problem | None:
    def made(reason: str, todo: str, option: Mapping[str, Any] | None = None, effect: str = Effect.NO_RUN) -> Problem:
        return Problem(operator.name, operator.version, 1, reason, todo, dict(option or {}), Effect(effect))

    if operator.custom:
        return made(
            "is no builtin: a plain runtime does not have it",
            "Choose another lowering, or write the layer with other keras.ops.",
        )
    data = runtime_data()
    if not profile.knows(operator.name, operator.version):
        way: Mapping[str, Any] = next((item for item in data["ways_out"] if _is_way(item, place, operator)), {})
        return made(_unknown(operator, profile), way.get("todo") or _newer(operator, profile), way.get("option"))
    for rule in data["kernels"]:
        if operator.name not in rule["operators"] and rule["operators"] != ["*"]:
            continue
        if _applies(rule, profile) and _matches(rule, place, operator):
            return made(rule["problem"], rule["todo"], rule.get("option"), rule.get("effect", Effect.NO_RUN))
    return None


def _unknown(operator: GraphOperator, profile: Profile) -> str:
    if profile.family == "micro":
        return "is not among its operators"
    highest = profile.highest(operator.name)
    known = f"it knows up to version {highest}" if highest else "it does not know the operator"
    return f"is not known to {profile.name}: {known}"


def _newer(operator: GraphOperator, profile: Profile) -> str:
    if profile.family == "micro":
        return "Write the layer with other keras.ops, or register an operator of your own there."
    since = profile.since(operator.name, operator.version)
    litert = Profile("", "", "litert", "").since(operator.name, operator.version)
    names = {"tflite": "TensorFlow Lite", "litert": "LiteRT"}
    runtimes = [f"{names[profile.family]} {since}"] if since else []
    if litert and profile.family != "litert":
        runtimes.append(f"LiteRT {litert}")
    if not runtimes:
        return "No release on record has it: convert the model with an older converter, or write the layer otherwise."
    return f"Use {' or '.join(runtimes)} or newer, or write the layer with other keras.ops."


def _is_way(item: Mapping[str, Any], place: _Place, operator: GraphOperator) -> bool:
    return (
        item["operator"] == operator.name and operator.version in item["versions"] and _matches(item, place, operator)
    )


def _applies(rule: Mapping[str, Any], profile: Profile) -> bool:
    """Whether a rule holds for a runtime.

    `runtimes` gives the first release that is free of it, "" where none is; `from` the first that has it.
    """
    for key in (profile.runtime, profile.family):
        if key in rule["runtimes"]:
            free, first = rule["runtimes"][key], rule.get("from", {}).get(key, "")
            if first and version_key(profile.release) < version_key(first):
                return False
            return not free or version_key(profile.release) < version_key(free)
    return False


def _matches(rule: Mapping[str, Any], place: _Place, operator: GraphOperator) -> bool:
    """Whether the operator's tensors are what the rule is about."""
    subgraph = place.subgraph
    for position, types in rule.get("inputs", {}).items():
        number = operator.inputs[int(position)] if int(position) < len(operator.inputs) else -1
        if number < 0 or subgraph.tensors[number].dtype not in types:
            return False
    if "one_scale" in rule and len(subgraph.tensors[operator.inputs[rule["one_scale"]]].scales) != 1:
        return False
    if "output_rank" in rule and len(subgraph.tensors[operator.outputs[0]].shape) < rule["output_rank"]:
        return False
    if rule.get("half_before_more") and not (place.more_unpacked and place.unpacked.intersection(operator.inputs)):
        return False
    if rule.get("variable"):
        return any(number >= 0 and subgraph.tensors[number].variable for number in operator.inputs)
    return True
