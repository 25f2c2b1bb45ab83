"""Spelling a stream: sound of any chunk length in, the words of a CTC network's best path out as they come up.

It runs a bundle of the lowering `stream` whose model was trained to transcribe. NumPy and an interpreter are all it
needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.recipe import Task
from edge_dl.runtime.agent import Session
from edge_dl.runtime.ctc import BestPath
from edge_dl.runtime.packets import Packets, class_names, open_stream


@dataclass(frozen=True)
class Word:
    """A word that was spelled.

    Attributes:
        label: the word.
        score: its probability in the frame in which it came up, 0 to 1.
        start: samples from the stream's start to that frame. CTC puts a word into any frame in which it has become
            certain, mostly a little behind the word's beginning: this is no alignment.
        end: samples of the stream that the model had heard by then.
    """

    label: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Frame:
    """What one frame gave.

    Attributes:
        start: samples from the stream's start to the frame.
        values: probabilities, (classes,) float32, the blank's first.
        word: the word that came up in it, or None.
    """

    start: int
    values: np.ndarray
    word: Word | None = None


class SpellingSession:
    """A model that spells: `push` takes sound as it comes and gives the frames that became known, words among them.

    All words of a stream are those of the best path through all its frames (`edge_dl.runtime.ctc.best_path`), however
    it was cut into chunks. The model never forgets by itself: what it heard minutes ago is in its states.

    Args:
        bundle: folder of a bundle of the lowering `stream`, or an open `Session` of one.
        runtime, threads: see `edge_dl.runtime.open_session`.

    Attributes:
        session: the open model.
        labels: classes by number, the blank first.
        rate: samples a second that the model was trained with.
        packet: samples that are taken at once.

    Raises:
        UsageError: the bundle is of another lowering, its model does not transcribe, or its labels are not its classes.
    """

    def __init__(self, bundle: str | os.PathLike[str] | Session, *, runtime: str = "auto", threads: int = 1) -> None:
        self.session = open_stream(bundle, runtime=runtime, threads=threads)
        if not spells(self.session):
            raise UsageError(
                "A model that spells must give words for each frame.",
                received=f"{self.session.path}, for {(self.session.manifest or {}).get('task') or 'no task'}",
                todo="StreamSession hears single words, and Session.packet gives what any other stream model answers.",
            )
        stream: dict[str, Any] = self.session.stream or {}
        ((self._output, output),) = stream["outputs"].items()
        self._packets = Packets(self.session)
        self.rate, self.packet = self._packets.rate, self._packets.size
        self._clip, self._first, self._frames = int(stream["clip"]), int(output["first"]), int(output["frames"])
        self._each = self.session.outputs[self._output].shape[1]
        self.labels = class_names(self.session)
        self._path = BestPath()
        self.reset()

    def reset(self) -> None:
        """Begin a new stream: everything heard is forgotten."""
        self.session.reset()
        self._packets.reset()
        self._path.reset()
        self._calls, self._given = 0, -self._first

    @property
    def heard(self) -> int:
        """Samples of the stream that were given."""
        return self._packets.heard

    def push(self, samples: Any, rate: int | None = None) -> list[Frame]:
        """Hear more of the stream.

        Args:
            samples: any number of them, (samples,): int16 as a microphone gives them, or floats from -1 to 1.
            rate: samples a second, to be held to the model's own.

        Returns:
            Every frame that became known, in order.

        Raises:
            UsageError: another rate, shape or type, NaN or infinity.
        """
        return [frame for packet in self._packets.take(samples, rate) for frame in self._advance(packet)]

    def finish(self) -> list[Frame]:
        """The last frames of a stream that has ended; the session then begins a new one.

        There are as many in all as the whole-clip model gives for a clip, one more for every hop that the stream is
        longer, one less for every hop that it is shorter.
        """
        total = self._frames + (self.heard - self._clip) * self._each // self.packet
        found: list[Frame] = []
        while self._given < total:
            found += self._advance(self._packets.rest(), total)
        self.reset()
        return found

    def _advance(self, packet: np.ndarray, total: int | None = None) -> list[Frame]:
        """Frames of one packet: those before the stream's first, and from number `total` on, are none."""
        answer = self.session.packet(packet)[self._output]
        self._calls += 1
        end = min(self._calls * self.packet - self._packets.lead, self.heard)
        start = max(0, -self._given)
        stop = len(answer) if total is None else max(start, min(len(answer), total - self._given))
        number = self._given + start
        self._given += len(answer)
        found = {}
        for place, word in self._path.push(answer[start:stop]):
            score = float(answer[start + place, word])
            found[place] = Word(self.labels[word], score, self._place(number + place), end)
        return [
            Frame(self._place(number + place), values, found.get(place))
            for place, values in enumerate(answer[start:stop])
        ]

    def _place(self, frame: int) -> int:
        return frame * self.packet // self._each


def spells(session: Session) -> bool:
    """Whether a stream model gives the probabilities of words and the blank for each frame, as CTC needs them."""
    outputs = (session.stream or {}).get("outputs", {})
    return (session.manifest or {}).get("task") == Task.TRANSCRIPTION.value and all(
        item["kind"] == "each" and len(session.outputs[name].shape) == 3 for name, item in outputs.items()
    )
