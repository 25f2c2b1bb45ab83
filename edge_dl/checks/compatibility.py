"""Will a .tflite load in another runtime? Told operator by operator from tables, without running anything.

    for answer in check_model("model.tflite", find_profiles("tflite-runtime==2.14.0,litert-micro")):
        print(answer.runtime, answer.loads, answer.problems)

Two things decide: the operators' versions, which a runtime compares when it opens a file (op_versions.json), and what
its kernels refuse when they are prepared, whatever the version says (runtimes.json).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_dl.checks.graph import Graph, GraphOperator, Subgraph, parse_graph, read_graph
from edge_dl.checks.inspection import version_key
from edge_dl.checks.plain import to_plain
from edge_dl.checks.runtime_profiles import Profile, find_profiles, runtime_data


@dataclass(frozen=True)
class Problem:
    """Why an operator keeps a model from loading.

    Attributes:
        operator: as TFLite names it.
        version: of the operator.
        count: how often it stands in the model in this way.
        reason: what the runtime cannot do.
        todo: what the user can do about it.
        option: conversion options that avoid it, see `edge_dl.converters.quantization.QuantizationOptions`.
    """

    operator: str
    version: int
    count: int
    reason: str
    todo: str
    option: Mapping[str, Any] = field(default_factory=dict)


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
    """Whether a model loads in a runtime.

    Attributes:
        runtime: the runtime's name as it was asked for.
        release: the release that was looked up.
        operators: every operator and version, most frequent first.
        problems: what will not load; empty: it loads.
        notes: what must be known about the runtime.
    """

    runtime: str
    release: str
    operators: tuple[Operator, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def loads(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems

    @property
    def options(self) -> dict[str, Any] | None:
        """Conversion options that avoid every problem; None where one of them cannot be avoided so."""
        if not all(item.option for item in self.problems):
            return None
        merged: dict[str, Any] = {}
        for item in self.problems:
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
        return {"loads": self.loads, **to_plain(self)}


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
    for subgraph in graph.subgraphs:
        for operator in subgraph.operators:
            total[operator.name, operator.version, operator.custom] += 1
            problem = _problem(subgraph, operator, profile)
            if problem is not None:
                key = (problem.operator, problem.version, problem.reason)
                found[key] = (found.get(key, (0, problem))[0] + 1, problem)
    bad = {(name, version) for name, version, _ in found}
    operators = tuple(
        Operator(name, version, count, (name, version) not in bad, "" if custom else profile.since(name, version))
        for (name, version, custom), count in sorted(total.items(), key=lambda item: (-item[1], item[0]))
    )
    problems = tuple(
        Problem(item.operator, item.version, count, item.reason, item.todo, item.option)
        for count, item in found.values()
    )
    return Compatibility(profile.name, profile.release, operators, problems, profile.notes)


def _problem(subgraph: Subgraph, operator: GraphOperator, profile: Profile) -> Problem | None:
    def made(reason: str, todo: str, option: Mapping[str, Any] | None = None) -> Problem:
        return Problem(operator.name, operator.version, 1, reason, todo, dict(option or {}))

    if operator.custom:
        return made(
            "is no builtin: a plain runtime does not have it",
            "Choose another lowering, or write the layer with other keras.ops.",
        )
    data = runtime_data()
    if not profile.knows(operator.name, operator.version):
        way: Mapping[str, Any] = next((item for item in data["ways_out"] if _is_way(item, subgraph, operator)), {})
        return made(_unknown(operator, profile), way.get("todo") or _newer(operator, profile), way.get("option"))
    for rule in data["kernels"]:
        if operator.name not in rule["operators"] and rule["operators"] != ["*"]:
            continue
        if _applies(rule, profile) and _matches(rule, subgraph, operator):
            return made(rule["problem"], rule["todo"], rule.get("option"))
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


def _is_way(item: Mapping[str, Any], subgraph: Subgraph, operator: GraphOperator) -> bool:
    return (
        item["operator"] == operator.name
        and operator.version in item["versions"]
        and _matches(item, subgraph, operator)
    )


def _applies(rule: Mapping[str, Any], profile: Profile) -> bool:
    """Whether a rule holds for a runtime: `runtimes` gives the first release that is free of it, "" where none is."""
    for key in (profile.runtime, profile.family):
        if key in rule["runtimes"]:
            free = rule["runtimes"][key]
            return not free or version_key(profile.release) < version_key(free)
    return False


def _matches(rule: Mapping[str, Any], subgraph: Subgraph, operator: GraphOperator) -> bool:
    """Whether the operator's tensors are what the rule is about."""
    for position, types in rule.get("inputs", {}).items():
        number = operator.inputs[int(position)] if int(position) < len(operator.inputs) else -1
        if number < 0 or subgraph.tensors[number].dtype not in types:
            return False
    if "one_scale" in rule and len(subgraph.tensors[operator.inputs[rule["one_scale"]]].scales) != 1:
        return False
    if "output_rank" in rule and len(subgraph.tensors[operator.outputs[0]].shape) < rule["output_rank"]:
        return False
    if rule.get("variable"):
        return any(number >= 0 and subgraph.tensors[number].variable for number in operator.inputs)
    return True
