"""How a stage says how far it is, without knowing who listens.

A stage takes a `Progress` and reports to it; the command line shows bars on a terminal and plain lines elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Step(Protocol):
    """Something under way, with a known or unknown amount of work."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Say that `amount` more is done; `note` is a short text to show beside it, such as a loss."""


class Progress(Protocol):
    """Listener for what a stage does."""

    def step(self, description: str, total: float | None = None) -> contextlib.AbstractContextManager[Step]:
        """Begin something that takes `total` units of work (None: not known)."""

    def say(self, message: str) -> None:
        """One line that the user should see."""


class _SilentStep:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Do nothing."""


class SilentProgress:
    """A `Progress` that shows nothing."""

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[Step]:
        """Begin nothing."""
        yield _SilentStep()

    def say(self, message: str) -> None:
        """Say nothing."""


SILENT = SilentProgress()
