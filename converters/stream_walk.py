"""A stream model called packet by packet, in real numbers: for checks and for calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edge_dl.bundle import StateSpec, StreamSpec

# From {input or state name: array} to {output name: array}.
Caller = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def run_stream(
    call: Caller, states: Sequence[StateSpec], stream: StreamSpec, sound: np.ndarray
) -> dict[str, list[np.ndarray]]:
    """Every call's answers by output name; arguments as for `walk_stream`."""
    answers: dict[str, list[np.ndarray]] = {name: [] for name in stream.outputs}
    for _, results in walk_stream(call, states, stream, sound):
        for name, found in answers.items():
            found.append(results[name])
    return answers


def walk_stream(
    call: Caller, states: Sequence[StateSpec], stream: StreamSpec, sound: np.ndarray
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yields what each call was fed and what it gave.

    Args:
        call: the model, with states among what it takes and gives.
        states: its states.
        stream: how it is fed.
        sound: (batch, slots, ...) from the stream's start, a clip at least; filled up with zeros to whole packets.
    """
    packet = stream.packet
    last = max((output.first for output in stream.outputs.values() if output.kind == "last"), default=0)
    count = max(-(-(stream.lead + sound.shape[1]) // packet), last + 1)
    rest = [(0, 0)] * (sound.ndim - 2)
    sound = np.pad(sound, [(0, 0), (stream.lead, count * packet - stream.lead - sound.shape[1]), *rest])
    state = {item.input: np.zeros(item.shape, item.dtype) for item in states}
    for number in range(count):
        feed = {stream.input: sound[:, number * packet : (number + 1) * packet], **state}
        results = {name: np.asarray(value) for name, value in call(feed).items()}
        yield feed, results
        for item in states:
            if number >= item.silent:
                state[item.input] = results[item.output]
