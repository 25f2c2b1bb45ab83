from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.report import numbers


def text(value: str) -> str:
    return value.replace(numbers.SPACE, " ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 B"), (812, "812 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (24_680, "24.1 KiB"), (1_048_576, "1.00 MiB")],
)
def test_size(value: int, expected: str) -> None:
    assert text(numbers.size(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 s"),
        (44.14e-6, "44.1 µs"),
        (999.4e-6, "999 µs"),
        (999.9e-6, "1.00 ms"),
        (1.32e-3, "1.32 ms"),
        (0.99999, "1.00 s"),
        (8.41, "8.41 s"),
        (99.96, "100 s"),
        (200, "3 min 20 s"),
        (3720, "1 h 02 min"),
    ],
)
def test_duration(value: float, expected: str) -> None:
    assert text(numbers.duration(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.912, "91.2 %"), (1, "100.0 %"), (0, "0.0 %"), (0.9999, "99.99 %"), (0.0001, "0.01 %")]
)
def test_percent_shows_100_only_for_all_and_0_only_for_none(value: float, expected: str) -> None:
    assert text(numbers.percent(value)) == expected


def test_cosine_never_rounds_to_one() -> None:
    assert numbers.cosine(1.0) == "1"
    assert numbers.cosine(0.99996) == "0.99996"
    assert numbers.cosine(0.61) == "0.6100"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (-0.0012, "share", "−0.12 points"),
        (0.005, "share", "+0.50 points"),
        (1e-9, "share", "±0.00 points"),
        (-1e-9, "share", "±0.00 points"),
        (0.25, "°C", "+0.25 °C"),
        (0.0, "", "±0"),
    ],
)
def test_metric_change_has_a_sign(value: float, unit: str, expected: str) -> None:
    assert text(numbers.metric_change(value, unit)) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"), [(3.714, "3.71× smaller"), (0.5, "2.00× larger"), (1.01, ""), (0, ""), (None, "")]
)
def test_smaller(ratio: float | None, expected: str) -> None:
    assert numbers.smaller(ratio) == expected


@pytest.mark.parametrize(
    "form",
    [
        numbers.size,
        numbers.duration,
        numbers.percent,
        numbers.times,
        numbers.plain,
        numbers.count,
        numbers.cosine,
        numbers.decibels,
        numbers.metric,
        numbers.metric_change,
    ],
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "12", True, [1]])
def test_what_is_no_number_is_a_dash(form: object, value: object) -> None:
    assert form(value) == numbers.UNKNOWN  # type: ignore[operator]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_number_has_a_text(value: float) -> None:
    for form in (
        numbers.size,
        numbers.duration,
        numbers.percent,
        numbers.times,
        numbers.plain,
        numbers.count,
        numbers.cosine,
        numbers.decibels,
        numbers.metric,
        numbers.metric_change,
        numbers.smaller,
        numbers.power,
    ):
        assert isinstance(form(value), str)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_size_and_duration_keep_three_digits(value: float) -> None:
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    number, unit = text(numbers.size(value)).split(" ")
    assert float(number) * units[unit] == pytest.approx(value, rel=0.006, abs=0.51)
    if value < 100:
        number, unit = text(numbers.duration(value)).split(" ")
        assert float(number) * {"µs": 1e-6, "ms": 1e-3, "s": 1.0}[unit] == pytest.approx(value, rel=0.006)
