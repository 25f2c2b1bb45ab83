"""From a stream that comes in chunks of any length to the packets that a model of the lowering `stream` takes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.runtime.agent import Session
from edge_dl.runtime.hearing import other_rate
from edge_dl.runtime.samples import FULL_SCALE, to_samples


def open_stream(bundle: str | os.PathLike[str] | Session, *, runtime: str, threads: int) -> Session:
    """An open session of a stream model that answers with one output.

    Args:
        bundle: folder of a bundle of the lowering `stream`, or an open `Session` of one.
        runtime, threads: see `edge_dl.runtime.open_session`.

    Raises:
        UsageError: the bundle is of another lowering, takes several streams at once, or has several outputs.
    """
    from edge_dl.runtime import open_session

    session = bundle if isinstance(bundle, Session) else open_session(bundle, runtime=runtime, threads=threads)
    if session.stream is None:
        raise UsageError(
            "Only a stream model listens.",
            received=str(session.path),
            todo="Convert it with the lowering `stream`: --set conversion.lowerings=stream.",
        )
    outputs = session.stream["outputs"]
    if len(outputs) != 1:
        raise UsageError(
            "A model that listens must have one output.",
            received=", ".join(outputs),
            todo="Session.packet gives what any stream model answers.",
        )
    if session.batch != 1:
        raise UsageError(
            "A model that listens must take one stream.",
            received=f"a batch of {session.batch}",
            todo="Convert it with conversion.batch=1.",
        )
    return session


def class_names(session: Session) -> tuple[str, ...]:
    """Classes of the only output of a stream model, by number: the bundle's labels, else the numbers themselves.

    Raises:
        UsageError: there are more or fewer labels than classes.
    """
    (output,) = session.outputs.values()
    classes = output.shape[-1]
    if session.labels and len(session.labels) != classes:
        raise UsageError(
            "A bundle's labels must name the classes of its model.",
            received=f"{len(session.labels)} labels for {classes} classes",
            todo="Make the bundle again, with data that has the model's classes.",
        )
    return tuple(session.labels) or tuple(str(number) for number in range(classes))


class Packets:
    """What a stream model is fed: samples in its own type, whole packets only.

    Args:
        session: an open stream model.

    Attributes:
        rate: samples a second that the model was trained with; 0: the bundle does not say.
        size: samples (or frames) of a packet.
        lead: zeros that stand in front of the stream.
        heard: samples that were given.
    """

    def __init__(self, session: Session) -> None:
        stream: dict[str, Any] = session.stream or {}
        known = (session.manifest or {}).get("rate")
        self.rate, self.size, self.lead = int(stream["rate"] or known or 0), int(stream["packet"]), int(stream["lead"])
        fed = session.inputs[stream["input"]]
        # A session quantizes real numbers itself where the model's edge is an integer with a scale.
        self._dtype = "float32" if fed.scale else fed.dtype
        self._shape = fed.shape[2:]
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self.heard = 0
        self._waiting = [self._zeros(self.lead)]
        self._length = self.lead

    def take(self, samples: Any, rate: int | None = None) -> list[np.ndarray]:
        """Packets (packet, ...) that became whole, in order.

        Args:
            samples: any number of them, (samples,): int16 as a microphone gives them, or floats from -1 to 1. For a
                model that takes frames, (frames, ...).
            rate: samples a second, to be held to the model's own.

        Raises:
            UsageError: another rate, shape or type, NaN or infinity.
        """
        if rate is not None and rate != self.rate:
            raise other_rate(self.rate, rate)
        new = self._taken(np.asarray(samples))
        self.heard += len(new)
        self._length += len(new)
        if self._length < self.size:
            # A copy: whoever records may fill the same array again.
            self._waiting.append(new.copy())
            return []
        sound = np.concatenate([*self._waiting, new])
        whole = len(sound) // self.size * self.size
        self._waiting, self._length = [sound[whole:]], len(sound) - whole
        return [sound[start : start + self.size] for start in range(0, whole, self.size)]

    def rest(self) -> np.ndarray:
        """The packet that is not whole yet, filled with zeros, (packet, ...); zeros alone once it was given."""
        sound = np.concatenate([*self._waiting, self._zeros(self.size - self._length)])
        self._waiting, self._length = [], 0
        return sound

    def _zeros(self, count: int) -> np.ndarray:
        return np.zeros((count, *self._shape), self._dtype)

    def _taken(self, samples: np.ndarray) -> np.ndarray:
        """Samples in the model's own type."""
        if samples.ndim != 1 + len(self._shape) or samples.shape[1:] != tuple(self._shape):
            raise UsageError(
                "A stream takes samples of one channel." if not self._shape else "A stream takes frames.",
                received=f"an array of shape {samples.shape}",
                todo=f"Give ({', '.join(['samples', *map(str, self._shape)])}).",
            )
        if samples.dtype == self._dtype and samples.dtype.kind in "iu":
            return samples
        whole = np.dtype(self._dtype).kind in "iub" and self._dtype != "int16"  # No sound: tokens, bytes.
        if samples.dtype.kind != "f" or whole:
            wanted = "" if whole else " samples, or floats from -1 to 1"
            raise UsageError(f"This stream takes {self._dtype}{wanted}.", received=str(samples.dtype))
        if not np.isfinite(samples).all():
            raise UsageError("Samples must be finite.", received="NaN or infinity")
        if self._dtype == "int16":
            return to_samples(samples * FULL_SCALE)
        return samples.astype(self._dtype)
