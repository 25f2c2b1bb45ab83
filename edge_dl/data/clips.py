"""Single words, kept one after the other, with how they are joined into strings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dl.errors import UsageError


@dataclass(frozen=True)
class Joining:
    """What a string of words looks like.

    Attributes:
        length: samples of the sound that a string stands in.
        fewest: fewest words.
        most: most words.
        shortest: shortest pause between two words, in samples.
        longest: longest pause between two words, in samples.
    """

    length: int
    fewest: int
    most: int
    shortest: int
    longest: int

    def to_json(self) -> dict[str, int]:
        """Plain values by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Clips:
    """Recordings of single words of one rate.

    Attributes:
        samples: all recordings, one after the other, (samples,) int16.
        ends: where each ends in `samples`, (clips,) int64.
        words: class number of each, from 1, (clips,) int32.
        speakers: number of each one's speaker, from 0, (clips,) int32; a string has one speaker.
        joining: what strings look like.
    """

    samples: np.ndarray
    ends: np.ndarray
    words: np.ndarray
    speakers: np.ndarray
    joining: Joining

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> np.ndarray:
        """Samples of one recording."""
        return self.samples[self.ends[number - 1] if number else 0 : self.ends[number]]

    @classmethod
    def of(cls, recordings: Sequence[np.ndarray], words: np.ndarray, speakers: np.ndarray, joining: Joining) -> Clips:
        """Clips of recordings (samples,) int16 each, at least one."""
        ends = np.cumsum([len(recording) for recording in recordings], dtype=np.int64)
        return cls(np.concatenate(recordings), ends, words.astype(np.int32), speakers.astype(np.int32), joining)

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, as they are stored."""
        return {"samples": self.samples, "ends": self.ends, "words": self.words, "speakers": self.speakers}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], joining: Mapping[str, Any]) -> Clips:
        """From `arrays` and `Joining.to_json`.

        Raises:
            UsageError: something is missing or does not fit together.
        """
        try:
            clips = cls(**arrays, joining=Joining(**joining))
            whole = len(clips.ends) == len(clips.words) == len(clips.speakers) and clips.ends[-1] == len(clips.samples)
        except (TypeError, IndexError):
            whole = False
        if not whole:
            raise UsageError("Clips must hold samples, ends, words and speakers.", received=", ".join(arrays))
        return clips
