"""Errors that a user can act on: the rule, what was received, what to do.

Every error that edge-dl raises on purpose is an `EdgeError`. Its `exit_code` is what the command line returns:
2 for wrong use (a bad argument, bad data, a bad file), 3 for a stage that broke.
"""

from __future__ import annotations

import signal
import unicodedata
from typing import Any


class EdgeError(Exception):
    """Base of every error raised on purpose.

    Args:
        rule: the rule that was broken, a full sentence.
        received: what was received instead; empty when the rule says it all.
        todo: what the user can do about it, a full sentence.
    """

    exit_code = 3

    def __init__(self, rule: str, *, received: str = "", todo: str = "") -> None:
        self.rule = rule
        self.received = received
        self.todo = todo
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.rule]
        if self.received:
            parts.append(f"Received: {self.received}.")
        if self.todo:
            parts.append(self.todo)
        return " ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default passes `args` to __init__, which takes keywords: errors must survive the way from a child process.
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(cls: type[EdgeError], fields: dict[str, Any]) -> EdgeError:
    return cls(fields.pop("rule"), **fields)


class UsageError(EdgeError):
    """Wrong use: an unknown name, bad data, a file that is not what it should be. Exit code 2."""

    exit_code = 2


class StageError(EdgeError):
    """A stage broke (a crash, a time limit, a full disk). Exit code 3.

    Args:
        stage: the stage's name, for example "convert".
        variant: the variant that was being worked on, if any.
    """

    exit_code = 3

    def __init__(self, rule: str, *, stage: str, variant: str = "", received: str = "", todo: str = "") -> None:
        self.stage = stage
        self.variant = variant
        super().__init__(rule, received=received, todo=todo)


class RefusedError(EdgeError):
    """What was asked for cannot be done, for a stated reason, and something else would work. Exit code 2.

    Raised before any long work starts: for example a layer that a lowering cannot carry.
    """

    exit_code = 2


_EXTRAS = {
    "jinja2": "report", "matplotlib": "report", "tensorflow": "convert", "keras": "convert",
    "ai_edge_quantizer": "convert", "yaml": "convert", "sklearn": "train", "tensorboard": "train", "PIL": "train",
    "tf_keras": "tfmot", "tensorflow_model_optimization": "tfmot", "jax": "jax",
    "tensorflow_hub": "hub", "sentencepiece": "train", "sacrebleu": "convert",
}  # fmt: skip


def missing_extra(error: ImportError) -> UsageError | None:
    """The error for a package of one of edge-dl's extras that is not installed; None for any other import."""
    package = (error.name or "").split(".")[0]
    if package not in _EXTRAS or not isinstance(error, ModuleNotFoundError):
        return None
    return UsageError(
        f"This needs {package}.",
        received="an environment without it",
        todo=f"Install it with: pip install 'edge-dl[{_EXTRAS[package]}]'.",
    )


def printable(text: str) -> str:
    """A text that somebody else wrote, on one line and harmless to a terminal.

    Line breaks become spaces; other control characters, marks that turn the direction of writing, and what no encoding
    knows become escapes such as \\x1b.
    """
    line = " ".join(text.splitlines())
    # The no-break space between a number and its unit is harmless, and Python calls it not printable.
    return "".join(c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape").decode("ascii") for c in line)


def one_line(text: str) -> str:
    """A text that somebody else wrote, as one field of a line for a program to read: all its letters as they are.

    Line breaks become spaces, tabs and other control characters escapes such as \\t. What joins letters (U+200D), keeps
    them apart or turns their direction stays: without it words of many languages are other words.
    """
    line = " ".join(text.splitlines())
    return "".join(c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) == "Cc" else c for c in line)


def signal_name(returncode: int) -> str:
    """Name of the signal behind a child's negative return code, e.g. -11 -> "SIGSEGV"; "" when it exited by itself."""
    if returncode >= 0:
        return ""
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
