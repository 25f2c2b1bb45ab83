"""Runtimes that a model can be checked against, by name: `tflite-runtime==2.14.0`, `android-tflite-2.16`, `litert-2.3`.

The data is in runtimes.json (what a runtime is, what its kernels cannot do) and op_versions.json (which operator
versions it knows), each with its source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from edge_dl.checks.inspection import operator_versions, version_key
from edge_dl.errors import UsageError

_NAME = re.compile(r"([a-z][a-z-]*[a-z])(?:(?:==|-)(\d+(?:\.\d+){1,3}))?")
EXAMPLES = (
    "tflite-runtime==2.14.0, ai-edge-litert==1.4.0, tensorflow==2.16.1, android-tflite-2.16, litert-2.3, "
    "litert-compiled-model, litert-micro"
)


@dataclass(frozen=True)
class Profile:
    """A runtime in a release.

    Attributes:
        name: as it was asked for.
        runtime: its key in runtimes.json.
        family: whose operators it knows: "tflite", "litert" or "micro".
        release: e.g. "2.14.0"; "" for micro, which has none.
        notes: what a user must know about the runtime or about this answer.
    """

    name: str
    runtime: str
    family: str
    release: str
    notes: tuple[str, ...] = ()

    def knows(self, operator: str, version: int) -> bool:
        """Whether the runtime takes a builtin operator in a version."""
        if self.family == "micro":
            return operator in runtime_data()["micro"]["operators"]
        oldest = self.since(operator, version)
        return bool(oldest) and version_key(oldest) <= version_key(self.release)

    def since(self, operator: str, version: int) -> str:
        """The family's oldest release that takes it; "" when none on record does."""
        table = operator_versions()
        if self.family == "micro":
            return ""
        return table.oldest_litert(operator, version) if self.family == "litert" else table.oldest(operator, version)

    def highest(self, operator: str) -> int:
        """The highest version of an operator that the runtime takes; 0: none."""
        return max((number for number in range(1, 33) if self.knows(operator, number)), default=0)


@lru_cache(maxsize=1)
def runtime_data() -> Mapping[str, Any]:
    """runtimes.json, read once."""
    text = resources.files("edge_dl.checks").joinpath("runtimes.json").read_text(encoding="utf-8")
    value: Mapping[str, Any] = json.loads(text)
    return value


def find_profile(name: str) -> Profile:
    """The runtime behind a name.

    Raises:
        UsageError: there is no such runtime, or it is older than anything on record.
    """
    runtimes = runtime_data()["runtimes"]
    found = _NAME.fullmatch(name.strip())
    if not found or found[1] not in runtimes or (found[2] and not runtimes[found[1]]["newest"]):
        raise UsageError("A runtime must be known.", received=repr(name), todo=f"For example {EXAMPLES}.")
    entry = runtimes[found[1]]
    release = _release(found[1], found[2] or "", entry)
    notes = [entry["note"]]
    if entry["wheels"]:
        notes.append(f"wheels: {entry['wheels']}")
    if not found[2] and release:
        notes.append(f"no release was named: {release} is meant")
    if release and version_key(release) > version_key(entry["newest"]):
        notes.append(f"{release} is newer than what was measured: it is taken to load what {entry['newest']} loads")
    return Profile(name.strip(), found[1], entry["family"], release, tuple(notes))


def find_profiles(names: str | Iterable[str]) -> list[Profile]:
    """Several of them, each once; a text holds names separated by commas.

    Raises:
        UsageError: see `find_profile`; or there is no name at all.
    """
    parts = names.split(",") if isinstance(names, str) else names
    wanted = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not wanted:
        raise UsageError("At least one runtime must be named.", received=repr(names), todo=f"For example {EXAMPLES}.")
    return [find_profile(name) for name in wanted]


def _release(runtime: str, given: str, entry: Mapping[str, Any]) -> str:
    """`2.16` means the newest release of that line that is known, or its first one."""
    if not given:
        return str(entry["newest"])
    family = entry["family"]
    table = operator_versions()
    lowest = table.measured["litert"][0] if family == "litert" else table.lowest
    release = given
    if given.count(".") == 1:
        newest = entry["newest"]
        known = [item for item in table.measured[family] if version_key(item) < version_key(newest)]
        line = [item for item in (*known, newest) if item.startswith(f"{given}.")]
        release = max(line, key=version_key, default=f"{given}.0")
    if version_key(release) < version_key(lowest):
        raise UsageError(
            f"The oldest release of {runtime} on record is {lowest}.", received=given, todo=f"For example {EXAMPLES}."
        )
    return release
