"""A series in CSV or TSV: one row a time step in time order, with or without a header.

Numeric columns become inputs (`data.columns`, or all of them); others, such as dates, are left out by a note. Empty
cells and NA, N/A, NaN, null, None, ? are missing; `data.missing` says what happens to them.
"""

from __future__ import annotations

import csv
import re
from itertools import pairwise

import numpy as np

from edge_dl.data.files import DataFile
from edge_dl.data.series import Series, cut_windows
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
ISO_DATE = re.compile(r"\d{4}-\d{2}(-\d{2}.*)?$")


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read a series and cut it into windows.

    Raises:
        UsageError: ragged rows, a cell that is no number, missing or infinite values, unknown columns, rows that are
            not in time order, or too few rows.
    """
    header, rows = read_table(file)
    _check_time_order(header, rows, file)
    series, notes = select(header, rows, config, file)
    stem = file.name.split(".")[0]
    return cut_windows(series, config, task, name=stem, source=str(file), notes=notes)


def read_table(file: DataFile) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text cells.

    Without a header the columns are called c0, c1 and so on.

    Raises:
        UsageError: the file is empty or a row has another number of cells than the first.
    """
    lines = [line for line in file.text().split("\n") if line.strip()]
    if not lines:
        raise UsageError("A table needs rows.", received=f"{file}, which is empty")
    delimiter = _delimiter(lines[0], file.name)
    if delimiter == " ":
        table = [line.split() for line in lines]
    else:
        try:
            table = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter, strict=True)]
        except csv.Error as error:
            raise UsageError("The table must be well-formed CSV.", received=f"{file} ({error})") from None
    width = len(table[0])
    for number, row in enumerate(table, start=1):
        if len(row) != width:
            raise UsageError(
                "Every row of a table must have the same number of cells.",
                received=f"{file}: {len(row)} in row {number}, {width} in the first",
            )
    if any(not is_number(cell) and not is_missing(cell) for cell in table[0]) and _looks_like_header(table):
        names, table = table[0], table[1:]
    else:
        names = [f"c{number}" for number in range(width)]
    if not table:
        raise UsageError("A table needs rows.", received=f"{file}, which holds a header only")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError("Column names must differ.", received=f"{file}: {twice!r} twice")
    return names, table


def select(
    header: list[str], rows: list[list[str]], config: DataConfig, file: DataFile
) -> tuple[Series, tuple[str, ...]]:
    """The chosen columns as numbers without gaps, with remarks for the report.

    Raises:
        UsageError: see `read`.
    """
    for name in (*config.columns, *([config.target] if config.target else [])):
        if name not in header:
            raise UsageError(
                "data.columns and data.target must name columns of the table.",
                received=repr(name),
                todo=f"{file} has {', '.join(header)}.",
            )
    notes = []
    chosen = list(config.columns) or [name for position, name in enumerate(header) if _numeric(rows, position)]
    if config.target and config.target not in chosen:
        chosen.append(config.target)
    left_out = [name for name in header if name not in chosen]
    if not chosen:
        raise UsageError("A series needs a column of numbers.", received=f"{file} with {', '.join(header)}")
    if left_out and not config.columns:
        notes.append(f"Columns without numbers left out: {', '.join(left_out)}.")
    first_line = 1 if header == [f"c{number}" for number in range(len(header))] else 2
    values = np.stack([_column(rows, header.index(name), name, file, first_line) for name in chosen], axis=1)
    values, first_row, filled = _fill(values, chosen, config, file, first_line)
    if filled:
        notes.append(filled)
    return Series(values, tuple(chosen), first_row), tuple(notes)


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return not is_missing(cell)


def _delimiter(line: str, name: str) -> str:
    if name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    counts = {delimiter: line.count(delimiter) for delimiter in (",", ";", "\t")}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if counts[best]:
        return best
    return " " if len(line.split()) > 1 and not line.strip().startswith('"') else ","


def _looks_like_header(table: list[list[str]]) -> bool:
    """A first row of names has text where the next row has a number, or there is no number in the table at all."""
    if len(table) == 1:
        return True
    return any(is_number(below) and not is_number(cell) for cell, below in zip(table[0], table[1], strict=True)) or any(
        is_missing(below) and not is_number(cell) and not is_missing(cell)
        for cell, below in zip(table[0], table[1], strict=True)
    )


def _numeric(rows: list[list[str]], position: int) -> bool:
    first = next((row[position] for row in rows if not is_missing(row[position])), "")
    return is_number(first)


def _column(rows: list[list[str]], position: int, name: str, file: DataFile, first_line: int) -> np.ndarray:
    values = np.empty(len(rows))
    for number, row in enumerate(rows):
        cell = row[position]
        if is_missing(cell):
            values[number] = np.nan
            continue
        try:
            values[number] = float(cell)
        except ValueError:
            raise UsageError(
                "A column of numbers must hold numbers only.",
                received=f"{cell!r} in {file}, row {number + first_line}, column {name}",
                todo="Correct the cell, or choose other columns with data.columns.",
            ) from None
        if np.isinf(values[number]):
            raise UsageError(
                "Data must hold finite numbers only.",
                received=f"infinity in {file}, row {number + first_line}, column {name}",
            )
    return values


def _fill(
    values: np.ndarray, names: list[str], config: DataConfig, file: DataFile, first_line: int
) -> tuple[np.ndarray, int, str]:
    missing = np.isnan(values)
    if config.missing not in ("refuse", "forward"):
        raise UsageError("data.missing must be refuse or forward.", received=config.missing)
    if not missing.any():
        return values, 0, ""
    row, column = (int(place) for place in np.argwhere(missing)[0])
    if config.missing == "refuse":
        raise UsageError(
            "A series must have no missing values.",
            received=f"{int(missing.sum())} in {file}, the first in row {row + first_line}, column {names[column]}",
            todo="Set data.missing=forward to repeat the last known value, or choose other columns.",
        )
    # Only the past fills a gap: interpolation would let a test input know what comes after it.
    last_known = np.maximum.accumulate(np.where(missing, -1, np.arange(len(values))[:, None]), axis=0)
    if (last_known[-1] < 0).any():
        empty = names[int(np.argmax(last_known[-1] < 0))]
        raise UsageError("A column must hold values.", received=f"{file}: column {empty} is empty")
    first = int(np.argmax((last_known >= 0).all(axis=1)))
    values = np.take_along_axis(values, np.maximum(last_known, 0), axis=0)[first:]
    inside = int(missing[first:].sum())
    return values, first, f"Missing values: {inside} filled with the last known value, {first} leading rows dropped."


def _check_time_order(header: list[str], rows: list[list[str]], file: DataFile) -> None:
    dates = [row[0] for row in rows]
    if not all(ISO_DATE.match(date) for date in dates[:2]):
        return
    for number, (before, after) in enumerate(pairwise(dates), start=1):
        if after < before and ISO_DATE.match(after):
            raise UsageError(
                "The rows of a series must be in time order.",
                received=f"{file}: {after} in row {number + 1} of the data, after {before}",
                todo="Sort the rows by time.",
            )
