"""Listening to a stream: sound of any chunk length in, smoothed scores and detected words out.

It runs a bundle of the lowering `stream`. NumPy and an interpreter are all it needs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.runtime.agent import Session
from edge_dl.runtime.packets import Packets, class_names, open_stream
from edge_dl.runtime.wordless import is_word


@dataclass(frozen=True)
class Detection:
    """A word that was heard.

    Attributes:
        label: its class.
        score: its smoothed score when it fired, 0 to 1.
        end: samples since the stream's start that had been heard by then.
    """

    label: str
    score: float
    end: int


@dataclass(frozen=True)
class Score:
    """What one packet gave.

    Attributes:
        end: samples since the stream's start that the packet ended with.
        values: the model's scores, (classes,) float32.
        smoothed: their mean over the last scores, (classes,) float32.
        detection: the word that fired with this packet, or None.
    """

    end: int
    values: np.ndarray
    smoothed: np.ndarray
    detection: Detection | None = None


class Detector:
    """From smoothed scores to words: a word fires when its score is the highest and reaches the threshold.

    Then nothing fires for a while, since the same word is in many windows.

    Args:
        labels: classes in the order of scores.
        threshold: score at which a word fires, 0 to 1.
        pause: samples in which nothing fires after a word did.
        quiet: labels that never fire; None: those that stand for no word (`edge_dl.runtime.wordless.is_word`).
    """

    def __init__(
        self, labels: Sequence[str], threshold: float, pause: int, quiet: Collection[str] | None = None
    ) -> None:
        self.labels, self.threshold, self.pause = tuple(labels), float(threshold), int(pause)
        self._fires = [is_word(label) if quiet is None else label not in quiet for label in labels]
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self._silent_until = 0

    def hear(self, smoothed: np.ndarray, end: int) -> Detection | None:
        """The word that fires with the scores of the packet that ended at sample `end`, or None; NaN never fires."""
        best = int(smoothed.argmax())
        if end < self._silent_until or not self._fires[best] or not smoothed[best] >= self.threshold:
            return None
        self._silent_until = end + self.pause
        return Detection(self.labels[best], float(smoothed[best]), end)


class StreamSession:
    """A model that listens: `push` takes sound as it comes and gives the scores that became known.

    Scores begin when a whole clip has been heard. A word fires when its smoothed score (the mean of the last ones:
    Chen, Parada & Heigold 2014, "Small-footprint keyword spotting using deep neural networks") is the highest and
    reaches the threshold, and then nothing fires for the refractory time.

    Args:
        bundle: folder of a bundle of the lowering `stream`, or an open `Session` of one.
        threshold: smoothed score at which a word fires, 0 to 1.
        smoothing: seconds of scores that are averaged; 0: none.
        refractory: seconds in which nothing fires after a word did; None: as long as the model's clip.
        quiet: labels that never fire; None: those that stand for no word (`edge_dl.runtime.wordless.is_word`).
        runtime, threads: see `edge_dl.runtime.open_session`.

    Attributes:
        session: the open model.
        labels: classes in the order of scores; their numbers where the bundle has no labels.
        rate: samples a second that the model was trained with; 0: the bundle does not say.
        packet: samples (or frames) from one score to the next.
        detector: what decides which word fires.

    Raises:
        UsageError: the bundle is of another lowering, its output is not one score a class, its labels are not its
            classes, or a setting is out of range.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Session,
        *,
        threshold: float = 0.5,
        smoothing: float = 0.2,
        refractory: float | None = None,
        quiet: Collection[str] | None = None,
        runtime: str = "auto",
        threads: int = 1,
    ) -> None:
        self.session = open_stream(bundle, runtime=runtime, threads=threads)
        stream: dict[str, Any] = self.session.stream or {}
        ((self._output, output),) = stream["outputs"].items()
        spec = self.session.outputs[self._output]
        if output["kind"] != "last" or len(spec.shape) != 2:
            raise UsageError(
                "A model that listens must give one score a class for each packet of one stream.",
                received=f"output {self._output!r} of shape {list(spec.shape)}, {output['kind']} of a packet",
                todo="SpellingSession spells strings of words, and Session.packet gives what any stream model answers.",
            )
        self._packets = Packets(self.session)
        self.rate, self.packet = self._packets.rate, self._packets.size
        self._lead, self._clip, self._first = self._packets.lead, int(stream["clip"]), int(output["first"])
        self.labels = class_names(self.session)
        for name, value, low, high in (("threshold", threshold, 0.0, 1.0), ("smoothing", smoothing, 0.0, 60.0)):
            if not low <= value <= high:
                raise UsageError(f"{name} must be between {low:g} and {high:g}.", received=str(value))
        if refractory is not None and not 0 <= refractory < math.inf:
            raise UsageError("refractory must be a number of seconds, 0 or more.", received=str(refractory))
        if not self.rate and (smoothing or refractory):
            raise UsageError(
                "Seconds need a rate, and the bundle does not say how many frames a second there are.",
                received=f"smoothing={smoothing}, refractory={refractory}",
                todo="Give smoothing=0 and refractory=0, and smooth the scores yourself.",
            )
        self._averaged = max(1, round(smoothing * self.rate / self.packet))
        pause = self._clip if refractory is None else round(refractory * self.rate)
        self.detector = Detector(self.labels, threshold, pause, quiet)
        self.reset()

    def reset(self) -> None:
        """Begin a new stream: everything heard is forgotten."""
        self.session.reset()
        self._packets.reset()
        self._calls = 0
        self._recent = np.zeros((self._averaged, len(self.labels)), np.float32)
        self._known = 0
        self.detector.reset()

    @property
    def heard(self) -> int:
        """Samples of the stream that were given."""
        return self._packets.heard

    def push(self, samples: Any, rate: int | None = None) -> list[Score]:
        """Hear more of the stream.

        Args:
            samples: any number of them, (samples,): int16 as a microphone gives them, or floats from -1 to 1. For a
                model that takes frames, (frames, ...).
            rate: samples a second, to be held to the model's own.

        Returns:
            One score for each packet that became whole, in order; none until a whole clip has been heard.

        Raises:
            UsageError: another rate, shape or type, NaN or infinity.
        """
        found = [self._advance(packet) for packet in self._packets.take(samples, rate)]
        return [score for score in found if score is not None]

    def _advance(self, packet: np.ndarray) -> Score | None:
        values = self.session.packet(packet)[self._output]
        self._calls += 1
        if self._calls <= self._first:
            return None
        # A ring of the last scores: `numpy.stack` and `mean` would cost as much as a small model.
        self._recent[self._known % self._averaged] = values
        self._known += 1
        count = min(self._known, self._averaged)
        smoothed = np.add.reduce(self._recent[:count], axis=0) / np.float32(count)
        end = self._calls * self.packet - self._lead
        return Score(end, values, smoothed, self.detector.hear(smoothed, end))
