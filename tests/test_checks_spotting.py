"""Words said against words heard."""

from __future__ import annotations

import math

from edge_dl.checks.spotting import Spoken, match
from edge_dl.runtime import Detection

RATE = 1_000
SAID = [Spoken("yes", 1_000, 1_500), Spoken("no", 4_000, 4_500), Spoken("yes", 5_000, 5_400)]


def heard(*pairs: tuple[str, int]) -> list[Detection]:
    return [Detection(label, 0.9, end) for label, end in pairs]


def test_every_word_heard_once() -> None:
    found = match(SAID, heard(("yes", 1_600), ("no", 4_400), ("yes", 6_000)), rate=RATE, length=3_600_000)
    assert (found.hits, found.misses, found.false_alarms, found.wrong) == (3, 0, 0, 0)
    assert found.hours == 1
    assert found.delays == (0.1, -0.1, 0.6)
    assert found.delay() == 0.1


def test_a_word_heard_twice_is_a_false_alarm() -> None:
    found = match(SAID, heard(("yes", 1_400), ("yes", 2_000)), rate=RATE, length=1_800_000)
    assert (found.hits, found.misses, found.false_alarms) == (1, 2, 1)
    assert found.false_alarms_an_hour == 2


def test_another_word_is_a_false_alarm_and_counted_as_wrong() -> None:
    found = match(SAID, heard(("no", 1_400), ("stop", 9_000)), rate=RATE, length=RATE * 10)
    assert (found.hits, found.wrong, found.false_alarms) == (0, 1, 2)
    assert math.isnan(found.delay())


def test_words_are_counted_once_however_often_they_are_mistaken() -> None:
    """Two wrong detections of one word are two false alarms and one wrong word; none where it is heard right then."""
    found = match(SAID[:1], heard(("no", 1_300), ("stop", 1_600)), rate=RATE, length=RATE * 10)
    assert (found.hits, found.misses, found.wrong, found.false_alarms) == (0, 1, 1, 2)
    found = match(SAID[:1], heard(("no", 1_300), ("yes", 1_600)), rate=RATE, length=RATE * 10)
    assert (found.hits, found.misses, found.wrong, found.false_alarms) == (1, 0, 0, 1)


def test_before_a_word_and_long_after_it_nothing_counts() -> None:
    found = match(SAID[:1], heard(("yes", 1_000), ("yes", 2_501)), rate=RATE, length=RATE * 10)
    assert (found.hits, found.false_alarms) == (0, 2)
