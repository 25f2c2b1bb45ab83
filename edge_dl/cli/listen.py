"""`edge-dl listen`: a stream bundle hears a file, a pipe or a microphone and says what it heard."""

from __future__ import annotations

import json as plain
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_dl.cli.variants import find_bundle
from edge_dl.errors import UsageError, printable
from edge_dl.runtime import StreamSession
from edge_dl.runtime.hearing import microphone_chunks, pipe_chunks, wav_chunks
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
    threshold: float,
    smoothing: float,
    refractory: float | None,
    scores: bool,
    json: bool,
) -> None:
    """Hear `source` to its end, or until Ctrl-C, and print every word when it is heard.

    Raises:
        UsageError: there is no such bundle or source, or the source has another rate.
    """
    if microphone == bool(source):
        raise UsageError(
            "Name one thing to listen to.",
            received="a file and the microphone" if microphone else "nothing",
            todo="Give a wav file, - for standard input, or --microphone.",
        )
    folder = find_bundle(bundle, LOWERINGS, rule="Name a bundle that listens.", make=MAKE)
    session = StreamSession(folder, threshold=threshold, smoothing=smoothing, refractory=refractory)
    if not session.rate:
        raise UsageError(
            "To listen, a model must take sounds of a known rate.", received=f"{bundle}, whose manifest names none"
        )
    show = _Display(session, scores=scores, json=json)
    busy = 0.0
    try:
        for chunk in _chunks(session, source, microphone, device):
            started = time.process_time()
            found = session.push(chunk)
            busy += time.process_time() - started
            for score in found:
                show.score(score)
    except KeyboardInterrupt:
        pass  # How a microphone and a pipe end.
    show.end(session.heard / session.rate, busy)


def _chunks(session: StreamSession, source: str, microphone: bool, device: str) -> Iterator[np.ndarray]:
    if microphone:
        return microphone_chunks(session.rate, device)
    if source == "-":
        return pipe_chunks(sys.stdin.buffer, session.rate)
    if not Path(source).is_file():
        raise UsageError("The sound must exist.", received=source, todo="Name a wav file, or - for standard input.")
    return wav_chunks(source, session.rate)


class _Display:
    """Words as lines on standard output; on a terminal the live score below them, on standard error."""

    def __init__(self, session: StreamSession, *, scores: bool, json: bool) -> None:
        self.session, self.scores, self.json = session, scores, json
        self.live = sys.stderr.isatty() and not (scores and sys.stdout.isatty())
        self.shown = 0.0
        self.words = 0

    def score(self, score: Score) -> None:
        seconds = score.end / self.session.rate
        best = int(np.argmax(score.smoothed))
        if score.detection is not None:
            self.words += 1
        if self.json:
            if self.scores or score.detection is not None:
                self._line(_json_line(self.session, score))
        elif score.detection is not None:
            found = score.detection
            self._line(f"{_clock(seconds)}  {printable(found.label)}  {found.score:.2f}")
        elif self.scores:
            values = "  ".join(
                f"{printable(label)} {value:.2f}"
                for label, value in zip(self.session.labels, score.smoothed, strict=True)
            )
            self._line(f"{_clock(seconds)}  {values}")
        now = time.monotonic()
        if self.live and now - self.shown >= REFRESH:
            self.shown = now
            bar = "#" * round(BAR * float(score.smoothed[best]))
            label = printable(self.session.labels[best])[:20]
            print(
                f"\r{_clock(seconds)}  {label:20} {bar:{BAR}} {score.smoothed[best]:.2f}",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip

    def end(self, seconds: float, busy: float) -> None:
        if self.live:
            print("\r" + " " * (BAR + 40) + "\r", end="", file=sys.stderr)
        load = f", {busy / seconds:.1%} of real time on one core" if seconds else ""
        print(f"{seconds:.1f} s heard, {self.words} detections{load}", file=sys.stderr)

    def _line(self, line: str) -> None:
        if self.live:
            print("\r" + " " * (BAR + 40) + "\r", end="", file=sys.stderr, flush=True)
        print(line, flush=True)


def _json_line(session: StreamSession, score: Score) -> str:
    found = score.detection
    return plain.dumps({
        "seconds": round(score.end / session.rate, 4),
        "scores": {
            label: round(float(value), 6) for label, value in zip(session.labels, score.smoothed, strict=True)
        },
        "detection": None if found is None else {"label": found.label, "score": round(found.score, 6)},
    })  # fmt: skip


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:05.2f}"
