"""Numbers as a reader wants them: a unit, three or four significant digits, and a dash for what is not known.

A no-break space stands between number and unit, so that they never part at a line's end.
"""

from __future__ import annotations

import math
from typing import Any

UNKNOWN = "–"
SPACE = "\u00a0"
MINUS = "\u2212"


def as_number(value: Any) -> float | None:
    """`value` as a finite float; None for anything else (text, a missing value, NaN, infinity)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def size(value: Any) -> str:
    """Bytes: `812 B`, `24.1 KiB`, `1.50 MiB`."""
    number = as_number(value)
    if number is None:
        return UNKNOWN
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if abs(number) < 1023.5:
            break
        number, unit = number / 1024, larger
    return f"{number:.0f}{SPACE}B" if unit == "B" else f"{_digits(number)}{SPACE}{unit}"


def duration(value: Any) -> str:
    """Seconds: `44.1 µs`, `1.32 ms`, `8.41 s`, `3 min 20 s`, `1 h 02 min`."""
    number = as_number(value)
    if number is None:
        return UNKNOWN
    magnitude = abs(number)
    if magnitude >= 119.5:
        seconds = round(magnitude)
        sign = MINUS if number < 0 else ""
        if seconds >= 3600:
            return f"{sign}{seconds // 3600}{SPACE}h {seconds % 3600 // 60:02d}{SPACE}min"
        return f"{sign}{seconds // 60}{SPACE}min {seconds % 60:02d}{SPACE}s"
    if magnitude >= 0.9995:
        return f"{_digits(number)}{SPACE}s"
    if magnitude >= 0.9995e-3:
        return f"{_digits(number * 1e3)}{SPACE}ms"
    return f"{_digits(number * 1e6)}{SPACE}µs" if magnitude else f"0{SPACE}s"


def percent(value: Any, decimals: int = 1) -> str:
    """A share as a percentage: 0.912 is `91.2 %`. A share that is not whole never reads as 0 % or 100 %."""
    number = as_number(value)
    if number is None:
        return UNKNOWN
    while decimals < 4 and 0 < number < 1 and round(number * 100, decimals) in (0.0, 100.0):
        decimals += 1
    return f"{_signless(number * 100, decimals)}{SPACE}%"


def times(value: Any) -> str:
    """A ratio: `3.71×`."""
    number = as_number(value)
    return UNKNOWN if number is None else f"{_digits(number)}×"


def smaller(ratio: Any) -> str:
    """How a size stands to its baseline: `3.71× smaller`, `1.20× larger`; "" when they are within 5 %."""
    number = as_number(ratio)
    if number is None or number <= 0 or 1 / 1.05 < number < 1.05:
        return ""
    return f"{times(number)} smaller" if number > 1 else f"{times(1 / number)} larger"


def plain(value: Any, digits: int = 4) -> str:
    """A number without a unit: up to `digits` significant digits, scientific below 0.001 and from 100,000."""
    number = as_number(value)
    if number is None:
        return UNKNOWN
    if number == 0:
        return "0"
    if abs(number) < 1e-3 or abs(number) >= 1e5:
        mantissa, exponent = f"{number:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return f"{number:.{digits}g}".replace("-", MINUS)


def count(value: Any) -> str:
    """A whole number with thousands apart: `7,415`."""
    number = as_number(value)
    return UNKNOWN if number is None else f"{round(number):,}".replace("-", MINUS)


def signed(text: str, value: Any) -> str:
    """`text` (a formatted `value`) with a plus sign in front when the value is above zero."""
    number = as_number(value)
    return f"+{text}" if number is not None and number > 0 else text


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: Any) -> str:
    """A power of ten for an axis: 1e-6 is `10⁻⁶`; 0.01 to 1000 as they are."""
    number = as_number(value)
    if number is None or number <= 0:
        return ""
    exponent = round(math.log10(number))
    return f"{number:g}" if -2 <= exponent <= 3 else f"10{str(exponent).translate(_RAISED)}"


def cosine(value: Any) -> str:
    """A cosine similarity, with as many digits as it takes to see how far it is from 1."""
    number = as_number(value)
    if number is None:
        return UNKNOWN
    if number >= 0.99999995:
        return "1"
    decimals = 4
    while decimals < 7 and number > 0 and round(number, decimals) == 1:
        decimals += 1
    return _signless(number, decimals)


def decibels(value: Any) -> str:
    """A ratio in decibels: `48.2 dB`."""
    number = as_number(value)
    return UNKNOWN if number is None else f"{_signless(number, 1)}{SPACE}dB"


def metric(value: Any, unit: str = "") -> str:
    """A task metric: a percentage of a "share", 41.20 for a "score" of 0.412, else a plain number with its unit."""
    if unit == "share":
        return percent(value, 2)
    if unit == "score":
        number = as_number(value)
        return UNKNOWN if number is None else _signless(number * 100, 2)
    text = plain(value)
    return f"{text}{SPACE}{unit}" if unit and text != UNKNOWN else text


def metric_change(value: Any, unit: str = "") -> str:
    """A difference of two task metrics, signed; of two shares or scores in points (hundredths)."""
    number = as_number(value)
    if number is None:
        return UNKNOWN
    if unit in ("share", "score"):
        text = _signless(number * 100, 2)
        return f"{signed(text, number) if float(f'{number * 100:.2f}') else '±0.00'}{SPACE}points"
    return signed(metric(number, unit), number) if number else "±0"


def _signless(number: float, decimals: int) -> str:
    """Fixed decimals with a true minus sign, and no minus before a zero."""
    text = f"{number:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def _digits(number: float) -> str:
    """Three significant digits, never scientific."""
    if number == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(number))))
    if round(abs(number), decimals) >= 10 ** (3 - decimals):  # 9.996 rounds up to 10.0, which needs a digit less.
        decimals = max(0, decimals - 1)
    return _signless(number, min(decimals, 4))
