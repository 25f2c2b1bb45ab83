"""What the command line shows: bars on a terminal, plain lines elsewhere, JSON when asked for.

Progress and messages go to stderr, results to stdout, so that results can be piped.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import typer

from edge_dl.errors import EdgeError, missing_extra, printable
from edge_dl.progress import Step

PLAIN_INTERVAL = 10.0  # seconds between two plain progress lines of one step
LONGEST_ERROR = 4000  # characters: what a damaged file holds must not fill the screen
INTERRUPTED = 130  # the shell's code for a command that Ctrl-C ended: 128 + SIGINT
TERMINATED = 143  # the same for SIGTERM: 128 + 15

Function = TypeVar("Function", bound=Callable[..., Any])


class Terminated(KeyboardInterrupt):
    """SIGTERM, told like Ctrl-C: everything that cleans up for the one does so for the other."""


def end_on_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread, as CI systems expect of a job they cancel."""

    def raise_terminated(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():  # Python lets no other thread ask for signals.
        signal.signal(signal.SIGTERM, raise_terminated)


@functools.cache
def keep_interrupts() -> None:
    """From now on an interrupt that lands where Python ignores exceptions comes again a moment later.

    Python drops what is raised in a callback of the garbage collector or a `__del__`, and an interrupt is raised
    wherever the main thread happens to be. JAX, which Keras loads where it is installed, has such a callback.
    """

    others = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if not isinstance(ignored.exc_value, KeyboardInterrupt):
            others(ignored)
            return
        number = signal.SIGTERM if isinstance(ignored.exc_value, Terminated) else signal.SIGINT
        # Later: raised in here, it would be ignored as well.
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


class _PlainStep:
    """Progress as lines of text, for logs and CI."""

    def __init__(self, description: str, total: float | None) -> None:
        self.description = description
        self.total = total
        self.done = 0.0
        self.started = self.shown = time.monotonic()
        self.note = ""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self.shown >= PLAIN_INTERVAL:
            self.shown = now
            share = f" {self.done / self.total:.0%}" if self.total else ""
            left = ""
            if self.total and 0 < self.done < self.total:
                left = f", about {(now - self.started) * (self.total / self.done - 1):.0f} s left"
            print(f"{self.description}:{share}{left} {self.note}".rstrip(), file=sys.stderr, flush=True)


class _BarStep:
    """Progress as a bar that Rich draws."""

    def __init__(self, bars: Any, task: Any) -> None:
        self.bars = bars
        self.task = task

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        if note:
            # A fixed width keeps the bar from jumping about as the note changes.
            self.bars.update(self.task, note=note[:48])
        self.bars.advance(self.task, amount)


class ConsoleProgress:
    """A `Progress` that writes to stderr: bars on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.bars: Any = None

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[Step]:
        """Show something under way until the block ends, then one line with the time it took."""
        started = time.monotonic()
        if sys.stderr.isatty():
            with self._bar(description, total) as bar:
                yield bar
        else:
            yield _PlainStep(description, total)
        self.say(f"{description}: {time.monotonic() - started:.1f} s")

    def say(self, message: str) -> None:
        """Show one line."""
        if self.bars is not None:
            self.bars.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _bar(self, description: str, total: float | None) -> Iterator[Step]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeftColumn

        outermost = self.bars is None
        if outermost:
            self.bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeLeftColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self.bars.start()
        task = self.bars.add_task(description, total=total, note="")
        try:
            yield _BarStep(self.bars, task)
        finally:
            self.bars.remove_task(task)
            if outermost:
                self.bars.stop()
                self.bars = None


def print_json(value: Any) -> None:
    """Print one JSON document to stdout; what a terminal could take for a command, or cannot show, is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_table(columns: list[str], rows: list[list[str]], *, title: str = "") -> None:
    """Print a table to stdout; the first column is left-aligned and never cut, the others are too."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False, box=None)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # Not a terminal: as wide as the table needs, so that no reader of a log meets folded cells.
    Console(width=None if sys.stdout.isatty() else 20_000, highlight=False).print(table)


def _unexpected() -> None:
    """A mistake of ours: everything that helps to find it, and not the exit code of a failed check."""
    traceback.print_exc()
    print("Error: edge-dl itself failed. Please report the lines above.", file=sys.stderr)
    raise typer.Exit(3)


def guarded(function: Function) -> Function:
    """Turn errors into one clear line on stderr and the right exit code: 2 wrong use, 3 a stage broke, 130 Ctrl-C."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EdgeError as error:
            text = printable(str(error))
            print(f"Error: {text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + '...'}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            print("Interrupted. What was finished is kept; run the same command again to go on.", file=sys.stderr)
            raise typer.Exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output went away (`| head`): nothing is wrong, and nothing more can be said.
            with contextlib.suppress(OSError):
                sys.stdout.close()
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                todo = "Free some space and run the same command again: what was finished is kept."
            elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                todo = "Choose a folder that you may write to with --out."
            else:
                return _unexpected()
            place = f" {error.filename}" if error.filename else ""
            print(f"Error: The file could not be written. Received: {error.strerror}{place}. {todo}", file=sys.stderr)
            raise typer.Exit(3) from None
        except Exception as error:
            if isinstance(error, typer.Exit):
                raise
            if isinstance(error, ImportError) and (missing := missing_extra(error)):
                print(f"Error: {missing}", file=sys.stderr)
                raise typer.Exit(missing.exit_code) from None
            return _unexpected()

    return wrapper  # type: ignore[return-value]
