"""How many edits make one row of words of another."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(given: Sequence[int], due: Sequence[int]) -> int:
    """Fewest words to put in, take out or replace in `given` to have `due` (Levenshtein 1966)."""
    before = list(range(len(due) + 1))
    for row, word in enumerate(given, start=1):
        now = [row]
        for column, wanted in enumerate(due, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (word != wanted)))
        before = now
    return before[-1]
