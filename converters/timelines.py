"""Where the frames of a clip stand in a stream that comes packet by packet.

Every tensor with a time axis gives the same number of slots a packet. Slots are counted from the first packet on, and
frame 0 of the whole clip stands in slot `first`: what comes before it was made of samples that were never heard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Timeline:
    """The time axis of a tensor in a stream.

    Attributes:
        slots: frames a packet.
        frames: frames of the whole clip.
        first: slot of frame 0.
        padded: frames at the beginning that are zeros which a layer put there.
        samples: input slots from one slot to the next.
        late: input slots by which a frame comes later than it could.
        remembers: whether a frame depends on all that was heard, and not on a stretch of it alone.
    """

    slots: int
    frames: int
    first: int
    padded: int = 0
    samples: int = 1
    late: int = 0
    remembers: bool = False

    @property
    def real(self) -> int:
        """Slot of the first frame that no layer put there."""
        return self.first + self.padded

    @property
    def silent(self) -> int:
        """Packets before the one that the first real frame stands in, which begins with it (`aligned`)."""
        return self.real // self.slots


@dataclass(frozen=True)
class Window:
    """What a layer looks at: so much of what was kept and of the packet, joined on the time axis.

    Attributes:
        kept: slots of earlier packets that are kept.
        start, stop: what is taken of the kept and the new slots together.
    """

    kept: int
    start: int
    stop: int


@dataclass(frozen=True)
class Answer:
    """A tensor without a time axis in a stream: one a packet, the first in packet `packet` (counted from 0).

    `late` and `remembers` are those of `Timeline`.
    """

    packet: int
    late: int = 0
    remembers: bool = False


def delayed(timeline: Timeline, slots: int) -> tuple[Timeline, Window]:
    """A timeline that comes `slots` later."""
    late = timeline.late + slots * timeline.samples
    return replace(timeline, first=timeline.first + slots, late=late), Window(slots, 0, timeline.slots)


def to_boundary(timeline: Timeline) -> int:
    """Slots by which a timeline must be delayed for its first real frame to begin a packet."""
    return -timeline.real % timeline.slots


def sliding(timeline: Timeline, size: int, stride: int) -> tuple[Timeline, Window]:
    """The timeline of a layer that looks at `size` frames and goes on by `stride`; the latter divides the slots."""
    extra = -(timeline.first + size - stride) % stride
    reach = size - stride + extra
    window = Window(max(reach, 0), max(-reach, 0), max(reach, 0) + timeline.slots - extra)
    made = Timeline(
        slots=timeline.slots // stride,
        frames=(timeline.frames - size) // stride + 1,
        first=(timeline.first + reach) // stride,
        samples=timeline.samples * stride,
        late=timeline.late + extra * timeline.samples,
        remembers=timeline.remembers or timeline.padded > 0,
    )
    return made, window


def whole_clip(timeline: Timeline, frames: int) -> tuple[Answer, Window]:
    """The last `frames` frames of the clip that ends latest."""
    end = timeline.first + timeline.frames - 1
    extra = (timeline.slots - 1 - end) % timeline.slots
    reach = frames - timeline.slots + extra
    window = Window(max(reach, 0), max(-reach, 0), max(reach, 0) + timeline.slots - extra)
    packet = (end + extra) // timeline.slots
    late = timeline.late + extra * timeline.samples
    return Answer(packet, late, timeline.remembers or timeline.padded > 0), window
