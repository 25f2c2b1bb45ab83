"""Made sentence pairs, English to French, for running a translation without a download: a toy.

Numbers in figures become words, dates become words, and a few hundred sentences of `toy_phrases` are translated. It
says whether a network, its lowering and its search work; it says nothing of how well they translate.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter

import numpy as np

from edge_dl.data import toy_phrases
from edge_dl.data.sentences import Pair

# Of numbers, dates and composed sentences each.
HELD_OUT = 0.1
NUMBERS, DATES = 3_000, 1_000
# Always trained on: what a demonstration types.
DEMO = ("I love pizza", "I love deep learning")
YEARS = (1500, 2099)

UNITS = (
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize",
    "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
)  # fmt: skip
TENS = ("", "", "vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt")
MONTHS = (
    ("January", "janvier"), ("February", "février"), ("March", "mars"), ("April", "avril"), ("May", "mai"),
    ("June", "juin"), ("July", "juillet"), ("August", "août"), ("September", "septembre"), ("October", "octobre"),
    ("November", "novembre"), ("December", "décembre"),
)  # fmt: skip


def toy_pairs(seed: int) -> dict[str, list[Pair]]:
    """Pairs of a sentence and its translation by part: "train", "validation" and "test", each in random order.

    A tenth of the numbers from 100 on, of the dates and of the composed sentences is held out for validation, and as
    much for the test. A date stands in one part in all its spellings, and a sentence with and without its full stop.
    Every word of a held out sentence stands in training too: numbers below 100, single sentences and what a
    demonstration types are in training only.

    Args:
        seed: decides which numbers and dates there are, and what is held out.
    """
    rng = np.random.default_rng([seed, NUMBERS])
    numbers = 100 + rng.choice(9_900, NUMBERS, replace=False)
    first, end = (datetime.date(year, 1, 1).toordinal() for year in (YEARS[0], YEARS[1] + 1))
    days = first + rng.choice(end - first, DATES, replace=False)
    composed = [_as_typed(pair) for pair in toy_phrases.composed()]
    composed = [composed[row] for row in rng.permutation(len(composed))]
    trained = [
        *([_number(number)] for number in range(100)),
        *(_as_typed(pair) for pair in toy_phrases.WRITTEN),
        *(pairs for pairs in composed if pairs[-1][0] in DEMO),
    ]
    parts = {"train": [pair for pairs in trained for pair in pairs], "validation": [], "test": []}
    for groups in (
        [[_number(number)] for number in numbers.tolist()],
        [_spellings(datetime.date.fromordinal(day)) for day in days.tolist()],
        [pairs for pairs in composed if pairs[-1][0] not in DEMO],
    ):
        kept, held = _hold_out(groups, 2 * round(HELD_OUT * len(groups)))
        half = len(held) // 2
        for part, items in (("train", kept), ("validation", held[:half]), ("test", held[half:])):
            parts[part] += [pair for pairs in items for pair in pairs]
    return {part: [pairs[row] for row in rng.permutation(len(pairs))] for part, pairs in parts.items()}


def _hold_out(groups: list[list[Pair]], count: int) -> tuple[list[list[Pair]], list[list[Pair]]]:
    """Groups kept, and the first `count` whose words all stand in a group that is kept."""
    words = [{word for pair in pairs for side in pair for word in re.findall(r"[^\W\d]+", side)} for pairs in groups]
    left = Counter(word for group in words for word in group)
    kept: list[list[Pair]] = []
    held: list[list[Pair]] = []
    for pairs, own in zip(groups, words, strict=True):
        if len(held) < count and all(left[word] > 1 for word in own):
            held.append(pairs)
            left.subtract(own)
        else:
            kept.append(pairs)
    return kept, held


def number_in_words(number: int) -> str:
    """A number from 0 to 9999 in French words, in the spelling before 1990: hyphens below a hundred only."""
    if not 0 <= number <= 9_999:
        raise ValueError(f"a number from 0 to 9999, not {number}")
    thousands, rest = divmod(number, 1_000)
    hundreds, rest = divmod(rest, 100)
    words = []
    if thousands:
        words += ["mille"] if thousands == 1 else [UNITS[thousands], "mille"]
    if hundreds:
        # "Cent" has a plural only where nothing follows it.
        words += ["cent"] if hundreds == 1 else [UNITS[hundreds], "cent" if rest else "cents"]
    if rest or not words:
        words.append(_below_hundred(rest))
    return " ".join(words)


def _below_hundred(number: int) -> str:
    if number < 20:
        return UNITS[number]
    ten, unit = divmod(number, 10)
    if ten in (7, 9):  # Soixante-dix, quatre-vingt-dix: counted on to nineteen.
        unit += 10
    if unit == 0:
        return "quatre-vingts" if ten == 8 else TENS[ten]
    if unit in (1, 11) and ten < 8:
        return f"{TENS[ten]} et {UNITS[unit]}"
    return f"{TENS[ten]}-{UNITS[unit]}"


def date_in_words(date: datetime.date) -> str:
    """A date in French: "le 14 juillet 1789"; the first of a month is "le 1er"."""
    day = "1er" if date.day == 1 else str(date.day)
    return f"le {day} {MONTHS[date.month - 1][1]} {date.year}"


def _number(number: int) -> Pair:
    return str(number), number_in_words(number)


def _spellings(date: datetime.date) -> list[Pair]:
    month = MONTHS[date.month - 1][0]
    written = (f"{month} {date.day}, {date.year}", f"{date:%d.%m.}{date.year}", date.isoformat())
    return [(text, date_in_words(date)) for text in written]


def _as_typed(pair: Pair) -> list[Pair]:
    """A sentence, and if it ends with a full stop also without, which many leave out."""
    english, french = pair
    if not english.endswith(".") or not french.endswith("."):
        return [pair]
    return [pair, (english[:-1], french[:-1])]
