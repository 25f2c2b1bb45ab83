"""`edge-dl translate`: texts from the command line, a file or a pipe, translated by a bundle as on a device."""

from __future__ import annotations

import contextlib
import json as plain
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_dl.cli.alignment import matrix
from edge_dl.cli.console import ConsoleProgress
from edge_dl.cli.variants import find_bundle
from edge_dl.errors import EdgeError, UsageError, one_line, printable
from edge_dl.files import write_atomic
from edge_dl.progress import Step
from edge_dl.report.alignment import Alignment, draw, page
from edge_dl.runtime.search import Search
from edge_dl.runtime.translation import Translation, Translator

# Other lowerings of the same model take whole sentences, and cannot go on from a token of their own.
LOWERINGS = ("decode", "decode-unroll")

PATIENCE = 2.0  # seconds until a bar is shown
MOST_PICTURES = 200  # in one file
PICTURES = (".svg", ".html")


def translate(
    bundle: Path,
    texts: list[str],
    *,
    file: Path | None,
    settings: Search,
    attention: bool,
    picture: Path | None,
    json: bool,
    runtime: str,
    threads: int,
) -> int:
    """Translate every text and print it; gives how many could not be translated.

    Raises:
        UsageError: no such bundle or file, or one that does not translate; settings that its model cannot do.
    """
    settings.check()
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise UsageError(
            "An alignment picture is an .svg or an .html.", received=str(picture), todo="Name it so: --picture a.svg."
        )
    if texts and file is not None:
        raise UsageError("Name one source of texts.", received="texts and --file", todo="Give one of them.")
    if file is not None and (file.is_dir() or not file.exists()):
        raise UsageError(
            "The file of texts must exist, and be no folder.",
            received=str(file),
            todo="Name a file with a text on each line.",
        )
    folder = find_bundle(bundle, LOWERINGS, rule="Name a bundle that translates.", make="edge-dl run translate")
    translator = Translator(folder, runtime=runtime, threads=threads)
    translator.check(settings)
    if (attention or picture is not None) and translator.attends is False:
        raise UsageError(
            "Only a model with attention has an alignment to show.",
            received=f"{bundle}, a model without",
            todo="Leave --attention and --picture away.",
        )
    piped = not texts or texts == ["-"]
    if piped and file is None and sys.stdin.isatty():
        print("Type a text and Enter; Ctrl-D ends.", file=sys.stderr)
    total = _count_lines(file) if file is not None else None if piped else len(texts)
    show = _Display(attention=attention, picture=picture, json=json)
    # A live bar below lines that are being printed would tear both.
    with _late_bar(total, quiet=sys.stdout.isatty()) as bar:
        for text in _texts([] if piped else texts, file):
            try:
                found = translator.translate(text, settings)
            except UsageError as error:  # One text that is too long should not end a file of others.
                show.failure(text, error)
            else:
                show.translations(text, found)
            bar.advance()
    show.write_picture()
    return show.failures


def _texts(texts: list[str], file: Path | None) -> Iterator[str]:
    """The texts that were given, or lines as they come.

    Raises:
        UsageError: the lines are not UTF-8.
    """
    if texts:
        yield from texts
        return
    with contextlib.nullcontext(sys.stdin.buffer) if file is None else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UsageError(
                    "Texts must be UTF-8, one a line.",
                    received=f"byte 0x{line[error.start]:02x} in line {number} of {file or 'standard input'}",
                    todo="Is it a text file? Others are converted by iconv -t UTF-8.",
                ) from None


def _count_lines(file: Path) -> int | None:
    """Lines of a file; None for a named pipe and the like, which can be read only once."""
    if not file.is_file():
        return None
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


class _LateBar:
    """Work that shows a bar once it has taken a while."""

    def __init__(self, stack: contextlib.ExitStack, total: int | None, *, quiet: bool) -> None:
        self.stack, self.total, self.quiet = stack, total, quiet
        self.started = time.monotonic()
        self.done = 0
        self.step: Step | None = None

    def advance(self) -> None:
        """One text more is done."""
        self.done += 1
        if self.quiet or (self.total is not None and self.done >= self.total and self.step is None):
            return
        if self.step is not None:
            self.step.advance()
        elif time.monotonic() - self.started > PATIENCE:
            self.step = self.stack.enter_context(ConsoleProgress().step("translate", self.total))
            self.step.advance(self.done)


@contextlib.contextmanager
def _late_bar(total: int | None, *, quiet: bool) -> Iterator[_LateBar]:
    with contextlib.ExitStack() as stack:
        yield _LateBar(stack, total, quiet=quiet)


@dataclass
class _Display:
    """Results as lines on standard output, pictures in a file."""

    attention: bool
    picture: Path | None
    json: bool
    failures: int = 0
    drawings: list[Alignment] = field(default_factory=list)

    def translations(self, text: str, found: list[Translation]) -> None:
        """Print what was found for a text."""
        if self.json:
            self._line(plain.dumps({"source": text, "translations": [_plain(one) for one in found]}))
        else:
            # Only a terminal obeys what it is sent; a file should get the words as they are.
            shown = printable if sys.stdout.isatty() else one_line
            for one in found:
                self._line(f"{shown(one.text)}\t{one.score:.3f}")
                if self.attention and (drawn := self._matrix(one)):
                    self._line(f"\n{drawn}\n")
            if len(found) > 1:
                self._line("")
        for note in dict.fromkeys(note for one in found for note in one.notes):
            print(printable(note), file=sys.stderr)
        if self.picture is not None and len(self.drawings) < MOST_PICTURES:
            self.drawings += _drawings(text, found[:1])

    def failure(self, text: str, error: EdgeError) -> None:
        """Say why a text was not translated; its line stays empty, so that lines keep their numbers."""
        self.failures += 1
        if self.json:
            parts = {"rule": error.rule, "received": error.received, "todo": error.todo}
            self._line(plain.dumps({"source": text, "error": parts}))
        else:
            self._line("")
        print(f"Error: {printable(str(error))}", file=sys.stderr)

    def write_picture(self) -> None:
        """Write the pictures of all texts."""
        if self.picture is None:
            return
        if not self.drawings:
            print(f"Nothing to draw: {self.picture} is not written.", file=sys.stderr)
            return
        make = page if self.picture.suffix.lower() == ".html" else draw
        write_atomic(self.picture, make(self.drawings))
        print(f"Attention: {self.picture}", file=sys.stderr)

    def _matrix(self, found: Translation) -> str:
        if found.alignment is None:
            return ""
        size = shutil.get_terminal_size((100, 24)).columns
        encoding = sys.stdout.encoding or "ascii"
        return matrix(found.source_pieces, found.pieces, found.alignment, width=size, encoding=encoding)

    def _line(self, line: str) -> None:
        encoding = sys.stdout.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _drawings(text: str, found: Iterable[Translation]) -> list[Alignment]:
    return [
        Alignment(
            one.source_pieces, one.pieces, one.alignment, f"{text.strip()} → {one.text}", f"Score {one.score:.3f}"
        )
        for one in found
        if one.alignment is not None
    ]


def _plain(found: Translation) -> dict[str, Any]:
    rows = None if found.alignment is None else [[round(float(value), 5) for value in row] for row in found.alignment]
    return {
        "text": found.text,
        "score": round(found.score, 6),
        "finished": found.finished,
        "pieces": list(found.pieces),
        "source_pieces": list(found.source_pieces),
        "alignment": rows,
        "notes": list(found.notes),
    }
