"""A table with one sample a row: a label (or number) and the values of a series of one feature.

The label stands in column `data.target`, or in the first column. `NAME_TRAIN.*` takes `NAME_TEST.*` beside it along.
"""

from __future__ import annotations

import numpy as np

from edge_dl.data.dataset import Split
from edge_dl.data.files import DataFile
from edge_dl.data.forms.csv import is_missing, read_table
from edge_dl.data.forms.npz import as_split, encode_targets
from edge_dl.data.forms.pairs import train_and_test
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read a table of labelled rows.

    Raises:
        UsageError: ragged rows, cells that are no numbers, missing values, or a task other than classification and
            regression.
    """
    if task not in (Task.CLASSIFICATION, Task.REGRESSION):
        raise UsageError(
            "Rows with a label are data for classification or regression.", received=task.value if task else "no task"
        )
    stem, files = train_and_test(file)
    tables = {part: _table(item, config) for part, item in files.items()}
    targets: dict[str, np.ndarray] = {}
    for part, (labels, _) in tables.items():
        if task is Task.REGRESSION:
            targets[part] = _numbers([[label] for label in labels], files[part], "target")
        else:
            targets[part] = np.array([_class_name(label) for label in labels])
    encoded, names = encode_targets(targets, task)
    parts: dict[str, Split] = {}
    start = 0
    for part, (_, values) in tables.items():
        index = np.arange(start, start + len(values))
        parts[part] = as_split(values, encoded[part], index, task, f"{part} values")
        start += len(values)
    return Source(stem, parts, labels=names, source=str(file))


def _table(file: DataFile, config: DataConfig) -> tuple[list[str], np.ndarray]:
    header, rows = read_table(file)
    if config.target and config.target not in header:
        raise UsageError(
            "data.target must name a column of the table.",
            received=repr(config.target),
            todo=f"{file} has {', '.join(header[:20])}.",
        )
    position = header.index(config.target) if config.target else 0
    if len(header) < 2:
        raise UsageError("A row needs a label and at least one value.", received=f"{file} with one column")
    values = _numbers([row[:position] + row[position + 1 :] for row in rows], file, "value")
    return [row[position] for row in rows], values


def _numbers(rows: list[list[str]], file: DataFile, what: str) -> np.ndarray:
    try:
        values = np.array(rows, np.float64)
    except ValueError:
        for number, row in enumerate(rows, start=1):
            for column, cell in enumerate(row, start=1):
                if is_missing(cell) or not _parses(cell):
                    raise UsageError(
                        f"Every {what} must be a number.",
                        received=f"{cell!r} in {file}, row {number} of the data, {what} {column}",
                    ) from None
        raise
    if not np.isfinite(values).all():
        sample, step = (int(place) for place in np.argwhere(~np.isfinite(values))[0])
        raise UsageError(
            "Data must hold finite numbers only.",
            received=f"{rows[sample][step]} in {file}, row {sample + 1} of the data, {what} {step + 1}",
        )
    return values


def _parses(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _class_name(label: str) -> str:
    """`1.0000000e+00` and `1` name the same class."""
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label
