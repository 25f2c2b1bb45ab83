"""The models of two run folders held against each other: are they one file, and which is faster, timed in turns?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_dl.bundle import MANIFEST, MODEL, read_bundle
from edge_dl.checks.latency import compare_models
from edge_dl.checks.pipeline import BENCH_TIME_LIMIT, variants_of
from edge_dl.checks.turns import Comparison
from edge_dl.errors import EdgeError
from edge_dl.progress import SILENT, Progress
from edge_dl.runtime import run_guarded


@dataclass(frozen=True)
class ModelPair:
    """One variant of two runs.

    Attributes:
        same: whether both hold the same file.
        comparison: the later one's latency against the earlier one's; None: not measured.
        error: why it could not be measured; "" when it was, or was not asked for.
    """

    same: bool
    comparison: Comparison | None = None
    error: str = ""


def pair_models(
    before: Path,
    after: Path,
    *,
    measure: bool = False,
    progress: Progress = SILENT,
    time_limit: float = BENCH_TIME_LIMIT,
) -> Mapping[str, ModelPair]:
    """Compare the variants that two run folders have in common, by name.

    Args:
        before, after: run folders; one that holds no variants gives {}.
        measure: whether those that differ are timed in turns, some seconds each.
        progress: told of every variant that is timed.
        time_limit: seconds that a variant may take.
    """
    bundles = [{name: folder / "variants" / name for name in _names(folder)} for folder in (before, after)]
    pairs: dict[str, ModelPair] = {}
    for name in (name for name in bundles[1] if name in bundles[0]):
        try:
            hashes = [read_bundle(side[name]).manifest.files[MODEL]["sha256"] for side in bundles]
        except EdgeError as error:
            pairs[name] = ModelPair(False, error=str(error))
        else:
            pairs[name] = ModelPair(hashes[0] == hashes[1])
    wanted = [name for name, pair in pairs.items() if measure and not pair.same and not pair.error]
    if wanted:
        with progress.step("bench in turns", len(wanted)) as step:
            for name in wanted:
                pairs[name] = _timed(bundles[0][name], bundles[1][name], name, time_limit)
                found = pairs[name].comparison
                step.advance(1, f"{name}: {found.verdict.value if found else pairs[name].error}")
    return pairs


def time_pair(before: str, after: str) -> Comparison:
    """`after` against `before`; called in a child process."""
    return compare_models(after, before, names=("after", "before"))


def _timed(before: Path, after: Path, name: str, time_limit: float) -> ModelPair:
    try:
        found: Comparison = run_guarded(
            "edge_dl.checks.run_pairs:time_pair", (str(before), str(after)), timeout=time_limit, stage="bench",
            variant=name,
        )  # fmt: skip
    except EdgeError as error:
        return ModelPair(False, error=str(error))
    return ModelPair(False, found)


def _names(run: Path) -> list[str]:
    return variants_of(run) if any((run / "variants").glob(f"*/{MANIFEST}")) else []
