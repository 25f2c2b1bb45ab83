"""UCR/UEA time series in the .ts format of timeseriesclassification.com.

A header of `@` lines, then one sample a line: dimensions separated by `:`, values by `,`, the label last. Series must
have equal length and no time stamps. `NAME_TRAIN.ts` takes `NAME_TEST.ts` beside it along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_dl.data.dataset import Split
from edge_dl.data.files import DataFile
from edge_dl.data.forms.npz import as_split, encode_targets
from edge_dl.data.forms.pairs import train_and_test
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


@dataclass(frozen=True)
class Header:
    """What the `@` lines say.

    Attributes:
        classes: class names in the file's order; empty: numbers to predict.
        line: number of the first data line, from 1.
    """

    classes: tuple[str, ...]
    line: int


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read a .ts file with its pair.

    Raises:
        UsageError: no header, series of unequal length, time stamps, missing values, an unknown class, or a task that
            the file has no targets for.
    """
    stem, files = train_and_test(file)
    parsed = {part: parse(item) for part, item in files.items()}
    header = next(iter(parsed.values()))[0]
    expected = Task.CLASSIFICATION if header.classes else Task.REGRESSION
    if task is not expected:
        raise UsageError(
            f"{file.name} is data for {expected.value}.", received=f"task {task.value}" if task else "no task"
        )
    targets = {
        part: np.array(labels) if header.classes else np.array(labels, np.float64)[:, None]
        for part, (_, _, labels) in parsed.items()
    }
    encoded, _ = encode_targets(targets, task, header.classes)
    parts: dict[str, Split] = {}
    start = 0
    for part, (_, values, _) in parsed.items():
        parts[part] = as_split(values, encoded[part], np.arange(start, start + len(values)), task, f"{part} values")
        start += len(values)
    return Source(stem, parts, labels=header.classes, source=str(file))


def parse(file: DataFile) -> tuple[Header, np.ndarray, list[str]]:
    """Header, values (samples, steps, dimensions) and labels as text.

    Raises:
        UsageError: see `read`.
    """
    lines = file.text().split("\n")
    header = _header(lines, file)
    samples: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(lines[header.line - 1 :], start=header.line):
        if not line.strip() or line.startswith("#"):
            continue
        *dimensions, label = line.strip().split(":")
        if not dimensions:
            raise UsageError("A sample must end with its label.", received=f"{file}, line {number}")
        label = label.strip()
        if header.classes and label not in header.classes:
            raise UsageError(
                "Labels must be among the classes of the header.", received=f"{label!r} in {file}, line {number}"
            )
        samples.append(_sample(dimensions, file, number))
        labels.append(label)
    if not samples:
        raise UsageError("A .ts file needs samples after @data.", received=f"{file} without any")
    shapes = sorted({sample.shape for sample in samples})
    if len({shape[1] for shape in shapes}) > 1:
        raise UsageError("All samples must have the same number of dimensions.", received=f"{file}: {shapes}")
    if len(shapes) > 1:
        raise UsageError(
            "Series must have equal length.",
            received=f"{file} with lengths {shapes[0][0]} to {shapes[-1][0]}",
            todo="Resample, cut or pad them to one length first.",
        )
    return header, np.stack(samples), labels


def _header(lines: list[str], file: DataFile) -> Header:
    fields: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            break
        key, *values = text[1:].split()
        if key.lower() == "data":
            return _checked_header(fields, number + 1, file)
        fields[key.lower()] = values
    raise UsageError("A .ts file must have @data after its header.", received=str(file))


def _checked_header(fields: dict[str, list[str]], line: int, file: DataFile) -> Header:
    if fields.get("timestamps", ["false"])[0].lower() == "true":
        raise UsageError("Time stamps inside samples are not supported.", received=f"{file} with @timeStamps true")
    kind = fields.get("classlabel", ["false"])
    if kind[0].lower() == "true":
        if len(kind) < 3:
            raise UsageError(
                "Classification needs at least two classes.",
                received=f"{file} with a single class: @classLabel {' '.join(kind)}",
            )
        return Header(tuple(kind[1:]), line)
    if fields.get("targetlabel", ["false"])[0].lower() == "true":
        return Header((), line)
    raise UsageError("A .ts file must name its classes or targets.", received=f"{file} without @classLabel true")


def _sample(dimensions: list[str], file: DataFile, line: int) -> np.ndarray:
    values = []
    for number, text in enumerate(dimensions, start=1):
        cells = text.split(",")
        try:
            row = np.array(cells, np.float64)
        except ValueError:
            bad = next((cell for cell in cells if not _is_float(cell)), text)
            raise UsageError(
                "Values must be numbers, none missing.",
                received=f"{bad.strip()!r} in {file}, line {line}, dimension {number}",
            ) from None
        if not np.isfinite(row).all():
            step = int(np.argmax(~np.isfinite(row)))
            raise UsageError(
                "Data must hold finite numbers only.",
                received=f"{cells[step].strip()} in {file}, line {line}, dimension {number}, step {step}",
            )
        values.append(row)
    if len({len(row) for row in values}) > 1:
        raise UsageError(
            "The dimensions of a sample must have the same length.",
            received=f"{file}, line {line}: {sorted({len(row) for row in values})}",
        )
    return np.stack(values, axis=1)


def _is_float(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
