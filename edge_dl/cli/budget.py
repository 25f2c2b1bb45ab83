"""`--max-drop`: an accuracy budget, and with it the variant that is made for it."""

from __future__ import annotations

import dataclasses
import math

from edge_dl.errors import UsageError
from edge_dl.recipe import Recipe
from edge_dl.variants import Quantization

# Above this a bare number is more likely meant in per cent.
LARGEST_BARE = 0.1


def parse_share(text: str) -> float:
    """`0.5%` or `0.005` as a share.

    Raises:
        UsageError: no number, one outside 0 % to 100 %, or a bare number that may be meant in per cent.
    """
    digits, percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    try:
        share = float(digits) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise UsageError(
            "--max-drop is a share of the task metric, from 0% to less than 100%.",
            received=repr(text),
            todo="Write for example --max-drop 0.5% (or 0.005).",
        )
    if share > LARGEST_BARE and not percent:
        raise UsageError(
            "--max-drop above 0.1 is written with a per cent sign.",
            received=repr(text),
            todo=f"Write --max-drop {digits}% or --max-drop {share:.0%}.",
        )
    return share


def with_budget(recipe: Recipe, max_drop: str) -> Recipe:
    """A recipe whose variants may lose so much, `mixed` among them; unchanged without a budget.

    Raises:
        UsageError: `max_drop` is no share.
    """
    if not max_drop:
        return recipe
    checks = dataclasses.replace(recipe.checks, max_drop=parse_share(max_drop))
    wanted = tuple(dict.fromkeys([*recipe.conversion.quantizations, Quantization.MIXED]))
    conversion = dataclasses.replace(recipe.conversion, quantizations=wanted)
    return dataclasses.replace(recipe, checks=checks, conversion=conversion)
