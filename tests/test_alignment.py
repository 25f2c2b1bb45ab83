"""The attention of a translation, as a picture and in a terminal: labels, hostile pieces, sizes, odd weights."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.cells import cell_len

from edge_dl.cli.alignment import matrix
from edge_dl.report.alignment import CELL, MOST_CELLS, Alignment, draw, page, piece_labels

SOURCE = ("▁I", "▁love", "▁piz", "za", ".")
TARGET = ("▁J", "'", "adore", "▁la", "▁pizza", ".")
WEIGHTS = np.array(
    [[0.9, 0.1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1]]
)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("pieces", "labels"),
    [
        (SOURCE, ["I", "love", "piz", "·za", "."]),
        # What follows an apostrophe begins anew for the eye.
        (TARGET, ["J", "'", "adore", "la", "pizza", "."]),
        (("▁", "19", "84", "▁ab", "▁"), ["␣", "19", "·84", "ab", "␣"]),
        # Characters go without dots, however they stand.
        (("▁", "2", "▁", "M", "a", "</s>"), ["␣", "2", "␣", "M", "a", "</s>"]),
        (("▁ab", "c", "</s>", "▁d"), ["ab", "·c", "</s>", "d"]),
        (("▁Ford▁Prefect", "x" * 99), ["Ford Prefect", "·" + "x" * 23 + "…"]),
        ((), []),
    ],
)
def test_pieces_as_a_reader_sees_them(pieces: tuple[str, ...], labels: list[str]) -> None:
    assert piece_labels(pieces) == labels


def test_a_picture_has_a_square_for_each_look() -> None:
    root = ET.fromstring(draw([Alignment(SOURCE, TARGET, WEIGHTS, "I love pizza.", "Score -0.3")]))
    squares = [item for item in root.iter(f"{SVG}rect") if item.get("class") == "cell"]
    assert len(squares) == np.count_nonzero(WEIGHTS)
    left, top = min(float(item.get("x", 0)) for item in squares), min(float(item.get("y", 0)) for item in squares)
    drawn = np.zeros(WEIGHTS.shape)
    for item in squares:
        row, column = (float(item.get("y", 0)) - top) / CELL, (float(item.get("x", 0)) - left) / CELL
        drawn[int(row), int(column)] = float(item.get("fill-opacity", 0))
    np.testing.assert_allclose(drawn, WEIGHTS)
    words = [item.text for item in root.iter(f"{SVG}text")]
    assert words == [
        "I love pizza.",
        "Score -0.3",
        "I",
        "love",
        "piz",
        "·za",
        ".",
        "J",
        "'",
        "adore",
        "la",
        "pizza",
        ".",
    ]
    told = [item.text for item in root.iter(f"{SVG}title")]
    assert "la looked at ·za: 50%" in told


def test_everything_lies_inside_the_picture() -> None:
    wide = tuple(f"▁wwwwwwwwwwwwwwwwwwwwwww{number}" for number in range(30))
    root = ET.fromstring(draw([Alignment(wide, TARGET, np.full((6, 30), 0.5), "t" * 200)]))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for item in root.iter(f"{SVG}rect"):
        if item.get("class") == "cell":
            assert 0 <= float(item.get("x", 0)) <= width - CELL
            assert 0 <= float(item.get("y", 0)) <= height - CELL


def test_pictures_stand_below_each_other() -> None:
    one = Alignment(SOURCE, TARGET, WEIGHTS, "one")
    single, double = (ET.fromstring(draw([one] * count)) for count in (1, 2))
    assert float(double.get("height", 0)) == 2 * float(single.get("height", 0))
    assert double.get("width") == single.get("width")


def test_pieces_cannot_become_markup() -> None:
    evil = ("▁<script>alert(1)</script>", "▁]]>&amp;\x00\x1b[31m\ud800", '▁"')
    picture = Alignment(evil, evil, np.eye(3), '<img src=x onerror="x">', "\x07&")
    for made in (draw([picture]), page([picture])):
        assert "<script" not in made
        assert "<img" not in made
        assert not any(ord(letter) < 32 and letter != "\n" for letter in made)
        made.encode("utf-8")
    ET.fromstring(draw([picture]))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_look_at(shape: tuple[int, int]) -> None:
    picture = Alignment(["▁a"] * shape[1], ["▁b"] * shape[0], np.zeros(shape), "x")
    assert "Nothing was looked at." in draw([picture])
    assert matrix(picture.source, picture.target, picture.weights) == ""


def test_a_picture_of_far_too_many_squares_is_not_drawn() -> None:
    many = ["▁a"] * (MOST_CELLS // 10)
    made = draw([Alignment(many, ["▁b"] * 11, np.ones((11, len(many))))])
    assert "are too many" in made
    assert len(made) < 10_000


def test_weights_that_are_none() -> None:
    odd = np.array([[np.nan, np.inf], [-1.0, 2.0]])
    root = ET.fromstring(draw([Alignment(["▁a", "▁b"], ["▁c", "▁d"], odd)]))
    assert [item.get("fill-opacity") for item in root.iter(f"{SVG}rect") if item.get("class") == "cell"] == ["1.00"] * 2
    assert matrix(["▁a", "▁b"], ["▁c", "▁d"], odd).count("█") == 4


def test_in_a_terminal() -> None:
    assert matrix(SOURCE, TARGET, WEIGHTS).split("\n") == [
        "      I  love piz ·za .",
        "    J ██ ░░░░",
        "    ' ██",
        "adore    ████",
        "   la         ▓▓▓ ▓▓▓",
        "pizza         ▓▓▓ ▓▓▓",
        "    .                 ██",
    ]


def test_in_a_narrow_terminal_columns_have_numbers() -> None:
    lines = matrix(SOURCE, TARGET, WEIGHTS, width=22).split("\n")
    assert lines[:3] == ["1 I  2 love  3 piz", "4 ·za  5 .", "      1  2  3  4  5"]
    assert lines[6] == "   la       ▓▓ ▓▓"
    assert max(map(len, lines)) <= 22


def test_in_an_encoding_without_blocks() -> None:
    for encoding in ("ascii", "latin-1", "unheard-of"):
        assert "**" not in matrix(SOURCE[:1], TARGET[:1], np.ones((1, 1)), encoding=encoding)
        assert matrix(("▁I",), ("▁J",), np.ones((1, 1)), encoding=encoding) == "  I\nJ ##"


def test_wide_characters_take_two_cells() -> None:
    lines = matrix(("▁我喜欢", "▁pizza"), ("▁好", "▁b"), np.eye(2)).split("\n")
    assert lines == ["   我喜欢 pizza", "好 ██████", " b        █████"]
    assert cell_len(lines[0]) == cell_len(lines[2])


def test_pieces_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in matrix(("▁\x1b[31mred",), ("▁\x9b\x07",), np.ones((1, 1)))
