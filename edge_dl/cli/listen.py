"""`edge-dl listen`: a stream bundle hears a file, a pipe or a microphone and says what it heard.

A model that scores words hears single ones; one that transcribes spells strings of them.
"""

from __future__ import annotations

import json as plain
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.cli.variants import find_bundle
from edge_dl.errors import UsageError, printable
from edge_dl.runtime import Session, SpellingSession, StreamSession, open_session
from edge_dl.runtime.hearing import microphone_chunks, pipe_chunks, wav_chunks
from edge_dl.runtime.spelling import Frame, spells
from edge_dl.runtime.streams import Score

BAR = 24  # characters of a full score
REFRESH = 0.05  # seconds between two live lines
LOWERINGS = ("stream",)
MAKE = "edge-dl run speech-cnn --set model.padding=valid --set conversion.lowerings=auto,stream"


def listen(
    bundle: Path,
    source: str,
    *,
    microphone: bool,
    device: str,
    detecting: Mapping[str, float | None],
    scores: bool,
    json: bool,
) -> None:
    """Hear `source` to its end, or until Ctrl-C, and print every word when it is heard.

    Args:
        detecting: settings of `StreamSession` by name; None: its own.

    Raises:
        UsageError: there is no such bundle or source, the source has another rate, or settings are given that the model
            has no use for.
    """
    if microphone == bool(source):
        raise UsageError(
            "Name one thing to listen to.",
            received="a file and the microphone" if microphone else "nothing",
            todo="Give a wav file, - for standard input, or --microphone.",
        )
    if device and not microphone:
        raise UsageError("--device chooses a microphone.", received=f"{source} to listen to", todo="Add --microphone.")
    folder = find_bundle(bundle, LOWERINGS, rule="Name a bundle that listens.", make=MAKE)
    model = _open(open_session(folder), {key: value for key, value in detecting.items() if value is not None})
    session = model.session
    if not session.rate:
        raise UsageError(
            "To listen, a model must take sounds of a known rate.", received=f"{bundle}, whose manifest names none"
        )
    show = _Display(session.labels, scores=scores, json=json)

    def overrun() -> None:
        show.overrun(session.heard / session.rate)

    busy = 0.0
    try:
        for chunk in _chunks(session.rate, source, microphone, device, overrun):
            started = time.process_time()
            found = model.push(chunk)
            busy += time.process_time() - started
            for item in found:
                show.show(item)
    except KeyboardInterrupt:
        pass  # How a microphone and a pipe end.
    seconds = session.heard / session.rate
    for item in model.finish():
        show.show(item)
    show.end(seconds, busy)


@dataclass(frozen=True)
class _Heard:
    """What is shown of a moment: of a packet's score, or of a frame.

    Attributes:
        seconds: when.
        values: of each class, (classes,).
        label, score: the word that was heard; "" and 0.
    """

    seconds: float
    values: np.ndarray
    label: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class _Model:
    """A session of either kind, and how it hears.

    Attributes:
        session: the session.
        push: what more samples give.
        finish: what the end of the stream gives.
    """

    session: StreamSession | SpellingSession
    push: Callable[[np.ndarray], list[_Heard]]
    finish: Callable[[], list[_Heard]]


def _open(session: Session, detecting: dict[str, Any]) -> _Model:
    if not spells(session):
        listening = StreamSession(session, **detecting)
        return _Model(listening, lambda samples: [_scored(item, listening) for item in listening.push(samples)], list)
    if detecting:
        raise UsageError(
            "A model that spells takes the most likely path.",
            received=", ".join(f"--{key}" for key in detecting),
            todo="Leave it out: it is for models that score single words.",
        )
    spelling = SpellingSession(session)
    return _Model(
        spelling,
        lambda samples: [_spelled(item, spelling) for item in spelling.push(samples)],
        lambda: [_spelled(item, spelling) for item in spelling.finish()],
    )


def _scored(score: Score, session: StreamSession) -> _Heard:
    found, seconds = score.detection, score.end / session.rate
    return _Heard(seconds, score.smoothed, *((found.label, found.score) if found else ()))


def _spelled(frame: Frame, session: SpellingSession) -> _Heard:
    found, seconds = frame.word, frame.start / session.rate
    return _Heard(seconds, frame.values, *((found.label, found.score) if found else ()))


def _chunks(rate: int, source: str, microphone: bool, device: str, overrun: Callable[[], None]) -> Iterator[np.ndarray]:
    if microphone:
        return microphone_chunks(rate, device, overrun)
    if source == "-":
        return pipe_chunks(sys.stdin.buffer, rate)
    if not Path(source).is_file():
        raise UsageError("The sound must exist.", received=source, todo="Name a wav file, or - for standard input.")
    return wav_chunks(source, rate)


class _Display:
    """Words as lines on standard output; on a terminal the live score below them, on standard error."""

    def __init__(self, labels: Sequence[str], *, scores: bool, json: bool) -> None:
        self.labels, self.scores, self.json = labels, scores, json
        self.live = sys.stderr.isatty() and not (scores and sys.stdout.isatty())
        self.shown = 0.0
        self.words = 0
        self.overruns = 0

    def show(self, heard: _Heard) -> None:
        best = int(np.argmax(heard.values))
        self.words += bool(heard.label)
        if self.json:
            if self.scores or heard.label:
                self._line(_json_line(heard, self.labels))
        elif heard.label:
            self._line(f"{_clock(heard.seconds)}  {printable(heard.label)}  {heard.score:.2f}")
        elif self.scores:
            values = "  ".join(
                f"{printable(label)} {value:.2f}" for label, value in zip(self.labels, heard.values, strict=True)
            )
            self._line(f"{_clock(heard.seconds)}  {values}")
        now = time.monotonic()
        if self.live and now - self.shown >= REFRESH:
            self.shown = now
            bar = "#" * round(BAR * float(np.nan_to_num(heard.values[best])))
            label = printable(self.labels[best])[:20]
            print(
                f"\r{_clock(heard.seconds)}  {label:20} {bar:{BAR}} {heard.values[best]:.2f}",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip

    def overrun(self, seconds: float) -> None:
        """Say once that sound was lost, and count."""
        self.overruns += 1
        if self.overruns == 1:
            self._clear()
            print(f"{_clock(seconds)}  sound was lost: it came faster than it was heard", file=sys.stderr, flush=True)

    def end(self, seconds: float, busy: float) -> None:
        self._clear()
        load = f", {busy / seconds:.1%} of real time on one core" if seconds else ""
        lost = f", sound lost {self.overruns} times" if self.overruns else ""
        print(f"{seconds:.1f} s heard, {self.words} words{load}{lost}", file=sys.stderr)

    def _line(self, line: str) -> None:
        self._clear()
        print(line, flush=True)

    def _clear(self) -> None:
        if self.live:
            print("\r" + " " * (BAR + 40) + "\r", end="", file=sys.stderr, flush=True)


def _json_line(heard: _Heard, labels: Sequence[str]) -> str:
    return plain.dumps({
        "seconds": round(heard.seconds, 4),
        "scores": {label: _json_number(value) for label, value in zip(labels, heard.values, strict=True)},
        "detection": {"label": heard.label, "score": _json_number(heard.score)} if heard.label else None,
    }, allow_nan=False)  # fmt: skip


def _json_number(value: float) -> float | None:
    """Six digits of a score; null where it is NaN or infinite, for which JSON has no word."""
    return round(float(value), 6) if np.isfinite(value) else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:05.2f}"
