"""How well a stream is listened to: words that were said against words that were heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_dl.runtime.streams import Detection


@dataclass(frozen=True)
class Spoken:
    """A word in a recording.

    Attributes:
        label: its class.
        start, end: samples where it starts and ends.
    """

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Spotting:
    """What became of the words of a recording.

    Attributes:
        words: words that were said.
        hits: those that were heard.
        wrong: those that were not, and for which another word was heard instead: substitutions.
        false_alarms: detections that are no hit: at a word that was not said, of another word than was said, or again
            of one that had been heard.
        hours: length of the recording.
        delays: seconds from the end of each word that was heard to its detection; negative where it was known before.
    """

    words: int
    hits: int
    wrong: int
    false_alarms: int
    hours: float
    delays: tuple[float, ...]

    @property
    def misses(self) -> int:
        """Words that were not heard, those for which another one was heard among them."""
        return self.words - self.hits

    @property
    def false_alarms_an_hour(self) -> float:
        """False alarms an hour of the whole recording, words and all."""
        return self.false_alarms / self.hours

    def delay(self, share: float = 0.5) -> float:
        """The delay, in seconds, that `share` of the words that were heard stay under; NaN without any."""
        return float(np.quantile(self.delays, share)) if self.delays else float("nan")


def match(
    spoken: Sequence[Spoken], heard: Sequence[Detection], *, rate: int, length: int, tolerance: float = 1.0
) -> Spotting:
    """Match detections with words.

    A detection belongs to a word that had begun by then and had not ended more than `tolerance` seconds before; of
    several such words, to the latest of its own label, else to the latest that was not heard yet, which it is mistaken
    for. Every word is heard once at most: what is heard again of it is a false alarm.

    Args:
        spoken: words of the recording, in order.
        heard: detections, in order.
        rate: samples a second.
        length: samples of the recording.
        tolerance: seconds after its end in which a word may still be detected.
    """
    left = list(spoken)
    hits, alarms = 0, 0
    delays = []
    mistaken: list[Spoken] = []
    for detection in heard:
        near = [word for word in left if word.start < detection.end <= word.end + tolerance * rate]
        same = [word for word in near if word.label == detection.label]
        if same:
            left.remove(same[-1])
            hits += 1
            if same[-1] in mistaken:  # Right after all: one word is not counted twice.
                mistaken.remove(same[-1])
            delays.append((detection.end - same[-1].end) / rate)
        else:
            alarms += 1
            mistaken += [word for word in near[-1:] if word not in mistaken]
    return Spotting(len(spoken), hits, len(mistaken), alarms, length / rate / 3600, tuple(delays))
