"""What forms of folders and archives share: parts and classes by folder, and damage by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edge_dl.data.files import DataFolder
from edge_dl.errors import UsageError

Found = TypeVar("Found")
PARTS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation",
}  # fmt: skip
NAMED = 3  # broken files that a note names


def places(files: Sequence[str], folder: DataFolder, what: str) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Part ("all" where there are none) and class of each file by its path, and the files that lie in no class.

    Args:
        files: paths inside `folder`.
        folder: where they are.
        what: what to call the files, e.g. "Pictures".

    Raises:
        UsageError: some files lie in train/ or test/ and others do not.
    """
    paths = {name: name.split("/") for name in files}
    # An archive often holds everything in one folder of its own name.
    while all(len(path) > 2 for path in paths.values()) and len({path[0] for path in paths.values()}) == 1:
        if next(iter(paths.values()))[0].lower() in PARTS:
            break
        paths = {name: path[1:] for name, path in paths.items()}
    parted = all(path[0].lower() in PARTS and len(path) > 2 for path in paths.values())
    placed = {
        name: (PARTS[path[0].lower()], path[1]) if parted else ("all", path[0])
        for name, path in paths.items()
        if len(path) > (2 if parted else 1)
    }
    loose = [name for name in files if name not in placed]
    if not loose and not parted and {path[0].lower() for path in paths.values()} & {"train", "test"}:
        names = ", ".join(sorted({path[0] for path in paths.values()})[:8])
        raise UsageError(
            f"Either all {what.lower()} lie in train/, test/ and validation/, or none does.",
            received=f"folders {names}",
        )
    return placed, loose


def require_folders(files: Sequence[str], loose: Sequence[str], folder: DataFolder, what: str) -> None:
    """Raises UsageError where files lie in no class' folder."""
    if loose:
        raise UsageError(
            f"{what} must lie in one folder a class.",
            received=f"{len(loose)} of {len(files)} directly in {folder.path}, such as {loose[0]}",
            todo="Make a folder for each class, perhaps inside train/ and test/.",
        )


def each(work: Callable[[str], Found], names: Sequence[str]) -> tuple[dict[str, Found], dict[str, str]]:
    """What `work` gives for each name, and what is wrong with those where it refuses."""

    def attempt(name: str) -> tuple[Found | None, str]:
        try:
            return work(name), ""
        except UsageError as error:
            return None, error.received or error.rule

    # Decoders work without holding Python's lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = dict(zip(names, pool.map(attempt, names), strict=True))
    whole = {name: value for name, (value, _) in found.items() if value is not None}
    return whole, {name: wrong for name, (value, wrong) in found.items() if value is None}


def none_whole(folder: DataFolder, broken: dict[str, str], what: str) -> UsageError:
    """The error for a folder of `what` (e.g. "pictures") that are all broken."""
    name, wrong = next(iter(broken.items()))
    return UsageError(
        f"A folder of {what} must hold whole {what}.",
        received=f"{folder.path}: {len(broken)} files, none whole; {name}: {wrong}",
    )


def note_broken(broken: dict[str, str], what: str) -> list[str]:
    """A note of the files that are no whole `what` (e.g. "pictures"), where there are any."""
    if not broken:
        return []
    shown = "; ".join(f"{name} ({wrong})" for name, wrong in list(broken.items())[:NAMED])
    more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return [f"{len(broken)} files are no whole {what} and were left out: {shown}{more}."]
