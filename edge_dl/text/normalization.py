"""SentencePiece's normalization of text, from its own rules: a device needs no Unicode data of its own.

A rule replaces a sequence of characters; at each place the longest rule that fits is used, and a character without a
rule stays. The rules of `nmt_nfkc`, which SentencePiece trains with, compose characters (Unicode NFKC), make spaces of
what looks like one, and drop control characters. There are 225,276 of them, most for parts of Hangul syllables, as a
trie of 240 kB in which many share their ends; written out they would be 4.4 MB, so the trie is walked as it is.

The trie is a double array (Aoe 1989), as written by darts-clone: 32-bit units, of which the one at place p leads with
byte c to place p ^ offset(p) ^ c if the unit there is labelled c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edge_dl.errors import UsageError

# "▁" (U+2581) stands for a space inside pieces.
SPACE = "\u2581"
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Normalized:
    """A normalized text, and where it comes from.

    Attributes:
        text: with "▁" for each space and one in front; "" where nothing is left.
        source: the text that was normalized, UTF-8.
        starts: one more than `text` has characters: the byte of `source` where what gave this character begins. The
            last one is where what gave the last character ends.
    """

    text: str
    source: bytes
    starts: tuple[int, ...]

    def surface(self, start: int, end: int) -> str:
        """What the characters from `start` to `end` (excluded) were made of; "" inside of what one sequence gave."""
        return self.source[self.starts[start] : self.starts[end]].decode("utf-8", "replace")


@dataclass(frozen=True)
class Normalization:
    """Rules of normalization, and what SentencePiece always does: spaces collapsed, "▁" for each and one in front.

    Attributes:
        rules: SentencePiece's `precompiled_charsmap`: bytes of the trie (uint32, little-endian), the trie, and
            replacements (UTF-8, each ended by a zero byte) that its leaves point to. Empty: no rules.

    Raises:
        UsageError: `rules` are not of that form.
    """

    rules: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        size = int.from_bytes(self.rules[:4], "little")
        if self.rules and (size % 4 or not 4 <= size <= len(self.rules) - 4 or not self.rules.endswith(b"\0")):
            raise UsageError(
                "Rules of normalization must be a precompiled_charsmap of SentencePiece.",
                received=f"{len(self.rules)} bytes that are none",
            )

    @cached_property
    def _units(self) -> list[int]:
        size = int.from_bytes(self.rules[:4], "little")
        return np.frombuffer(self.rules[4 : 4 + size], "<u4").tolist()

    @cached_property
    def _replacements(self) -> bytes:
        return self.rules[4 + int.from_bytes(self.rules[:4], "little") :]

    @cached_property
    def _texts(self) -> dict[int, str]:
        """Replacements that were looked up before, by where they begin."""
        return {}

    def normalize(self, text: str) -> Normalized:
        """`text` in the form that pieces are looked up in.

        Half a surrogate pair, which no UTF-8 can hold, counts as U+FFFD.
        """
        source = text.encode("utf-8", "surrogatepass")
        if b"\xed" in source:  # Half surrogates begin so; most texts have none.
            source = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")
        made, starts = self._replaced(source)
        if not made:
            return Normalized("", source, (0,))
        end = len(source)
        while made and made[-1] == SPACE:
            made.pop()
            end = starts.pop()
        starts.append(end)
        return Normalized("".join(made), source, tuple(starts))

    def _replaced(self, source: bytes) -> tuple[list[str], list[int]]:
        """Characters after the rules, spaces at the front and after a space dropped; and where each begins."""
        at, size = 0, len(source)
        while at < size:
            length, sequence = self._rule(source, at)
            if sequence != " ":
                break
            at += length
        if at == size:
            return [], []
        made, starts = [SPACE], [at]
        after_space = True
        while at < size:
            length, sequence = self._rule(source, at)
            if after_space:
                sequence = sequence.lstrip(" ")
            if sequence:
                for character in sequence:
                    made.append(SPACE if character == " " else character)
                    starts.append(at)
                after_space = sequence[-1] == " "
            at += length
        return made, starts

    def _rule(self, source: bytes, at: int) -> tuple[int, str]:
        """Bytes that the longest rule at byte `at` replaces, and by what."""
        units = self._units
        length = value = 0
        if units:
            count = len(units)
            place = _offset(units[0])
            for end in range(at, len(source)):
                byte = source[end]
                place ^= byte
                if place >= count:
                    break
                unit = units[place]
                # Bit 31 tells a leaf, which no byte leads to.
                if unit & 0x800000FF != byte:
                    break
                place ^= _offset(unit)
                if unit & 0x100 and place < count:
                    length, value = end + 1 - at, units[place] & 0x7FFFFFFF
        if length:
            return length, self._replacement(value)
        return _character(source, at)

    def _replacement(self, value: int) -> str:
        found = self._texts.get(value)
        if found is None:
            end = self._replacements.find(b"\0", value)
            found = self._replacements[value : max(end, value)].decode("utf-8", "replace")
            self._texts[value] = found
        return found


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _character(source: bytes, at: int) -> tuple[int, str]:
    """Bytes of the character at `at`, and the character."""
    lead = source[at]
    if lead < 0x80:
        return 1, chr(lead)
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    try:
        return length, source[at : at + length].decode("utf-8")
    except UnicodeDecodeError:  # Rules of somebody's own may end inside a character.
        return 1, REPLACEMENT
