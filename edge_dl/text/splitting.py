"""Where a text's sentences end: what is translated one at a time. Standard library only, to be repeated on a device.

A sentence ends at a line's end, and after `.`, `!`, `?`, `…` (and quotes or brackets that close there) where a space
follows, and then what begins a sentence: an upper-case letter, one of a script without case, a digit, or an opening
quote or bracket. The full-width `。`, `！`, `？` need no space. A full stop after a title (Mr., Dr.), an initial (J. S.
Bach) or inside an abbreviation (a.m., U.S.) ends nothing: a sentence cut in its middle is worse than two left together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSING = "\"'”’»)\\]"
_WIDE = "。！？"
_WIDE_CLOSING = "」』”’）"
# Where sentences may be parted: spaces, and behind full-width marks and what closes there.
_PLACE = re.compile(
    rf"\s+|(?<=[{_WIDE}])(?![\s{_WIDE}{_WIDE_CLOSING}])|(?<=[{_WIDE}][{_WIDE_CLOSING}])(?![\s{_WIDE}{_WIDE_CLOSING}])"
)
_LINE = re.compile(r"[\n\r\v\f\x85\u2028\u2029]")
_END = re.compile(rf"([.!?…]+|[{_WIDE}])[{_CLOSING}{_WIDE_CLOSING}]*$")
_WORD = re.compile(r"[\w.]*$")
_LOOK = 64  # characters before a place that are looked at: more than a title and closing quotes.
_OPENING = "\"'“‘«¿¡([—–-「『（"
TITLES = frozenset((
    "Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Jr", "Sr", "Mt", "vs", "Rev", "Hon", "Gen", "Col", "Maj", "Capt", "Lt",
    "Sgt", "Mme", "Mlle", "MM", "Mgr", "cf",
))  # fmt: skip


def split_sentences(text: str) -> list[tuple[str, str]]:
    """Each sentence of `text` without the spaces around it, and the spaces behind it.

    Joined, they are the text but for spaces at its front. [] where there is nothing but spaces.
    """
    found = []
    start = len(text) - len(text.lstrip())
    for end, following in [*_breaks(text), (len(text.rstrip()), len(text))]:
        if end > start:
            found.append((text[start:end], text[end:following]))
            start = following
    return found


def _breaks(text: str) -> Iterator[tuple[int, int]]:
    """Where a sentence ends and the next one begins, in order."""
    for place in _PLACE.finditer(text):
        end, following = place.span()
        if following == len(text):
            continue
        mark = _END.search(text[max(0, end - _LOOK) : end])
        ends = mark is not None and not _is_short(mark.string[: mark.end(1)])
        if _LINE.search(place.group()) or (ends and _begins(text[following])):
            yield end, following


def _begins(character: str) -> bool:
    """Whether a sentence may begin so."""
    return character in _OPENING or character.isdigit() or (character.isalpha() and not character.islower())


def _is_short(before: str) -> bool:
    """Whether the mark that `before` ends in is a full stop that belongs to its word."""
    if before[-1] != ".":
        return False
    word = _WORD.search(before[:-1])
    assert word is not None
    name = word.group()
    # "I" is rather the end of a sentence than somebody's initial.
    initial = len(name) == 1 and name.isupper() and name != "I"
    return name in TITLES or initial or "." in name.rstrip(".")
