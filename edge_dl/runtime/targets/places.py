"""Folders in the cache that are made once and then used by any number of commands at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_dl.files import cache_folder, write_atomic

READY = ".ready"


def is_ready(folder: Path) -> bool:
    """Whether the folder was made to its end."""
    return (folder / READY).is_file()


@contextlib.contextmanager
def making(folder: Path) -> Iterator[bool]:
    """Make a folder once: yields whether it must be made, and marks it as ready when the block ends without an error.

    Other processes that want the same folder wait. What an interrupted attempt left is removed first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name}.lock"):
        if is_ready(folder):
            yield False
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield True
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        write_atomic(folder / READY, "")


def made_folder(*parts: str) -> Path:
    """A folder of the cache."""
    return cache_folder().absolute().joinpath(*parts)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting for it; the system releases it when the process ends."""
    with path.open("a+") as file:
        if os.name != "nt":  # There two at a time make the folder twice, one after the other's remains.
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
