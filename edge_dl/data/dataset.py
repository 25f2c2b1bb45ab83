"""A data set ready for training: checked arrays in three parts, with where they came from.

Inputs and outputs are named as the models name them: `sequence` (samples, steps, features) float32, `tokens` (samples,
steps) int32 or `sound` (samples, length) int16; `label` (samples,) int32, `labels` (samples, steps) int32, `value`
(samples, values) float32, `forecast` (samples, horizon, targets) float32 in the series' own unit, `next_token`
(samples, steps) int32, `embedding` (samples,) int32: the class of what is embedded; `words` (samples, most) int32:
the words of a sound, class numbers from 1, and 0, the blank that is no word, behind the last. Sounds that words are
said in have one length, with silence around the words: no length of their own goes with them. Sentence pairs are
`source` (samples, steps) int32, tokens and the end mark, `target` (samples, steps) int32, the begin mark and tokens,
and `next_token`, tokens and the end mark, all filled with 0, padding, which a weight of 0 takes out of every count.
Arrays that a user named keep their names.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.data.clips import Clips
from edge_dl.data.sentences import Sentences
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, read_json, save_npz, write_json
from edge_dl.recipe import Task

PARTS = ("train", "validation", "test")
DESCRIPTION = "dataset.json"
CLIPS, NOISE = "clips", "noise"
OUTPUT_NAMES = {
    Task.CLASSIFICATION: "label",
    Task.LABELLING: "labels",
    Task.REGRESSION: "value",
    Task.FORECAST: "forecast",
    Task.LANGUAGE_MODEL: "next_token",
    Task.EMBEDDING: "embedding",
    Task.TRANSCRIPTION: "words",
    Task.TRANSLATION: "next_token",
}


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        x: inputs by name; the first axis is the sample.
        y: targets by output name; the first axis is the sample.
        index: row in the source, (samples,) int64. For a series: the row of the first target.
        weight: weights by output name, (samples,) or (samples, steps); None: every answer counts the same.
    """

    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    index: np.ndarray
    weight: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: np.ndarray) -> Split:
        """The samples at positions `rows`, in that order."""
        weight = None if self.weight is None else {name: array[rows] for name, array in self.weight.items()}
        return Split(
            {name: array[rows] for name, array in self.x.items()},
            {name: array[rows] for name, array in self.y.items()},
            self.index[rows],
            weight,
        )


@dataclass(frozen=True)
class ForecastInfo:
    """What judges a forecast and undoes its scaling.

    Attributes:
        columns: names of the input columns, in order.
        targets: names of the predicted columns; each is also an input column.
        target_columns: where the targets stand among the input columns.
        horizon: steps predicted.
        season: steps in a season; 0: none.
        mean: mean of each target over the training rows, in its own unit.
        scale: standard deviation of each target over the training rows.
        naive_error: mean |y(t) - y(t-1)| of each target over the training rows.
        seasonal_error: mean |y(t) - y(t-season)| over the training rows; empty without a season. The denominator of
            the mean absolute scaled error (Hyndman & Koehler 2006).
    """

    columns: tuple[str, ...]
    targets: tuple[str, ...]
    target_columns: tuple[int, ...]
    horizon: int
    season: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    naive_error: tuple[float, ...]
    seasonal_error: tuple[float, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Data for one task.

    Attributes:
        name: short name.
        task: what the data is for; None: arrays for a model of the user's own, whose meaning is not known.
        train, validation, test: the three parts. No sample stands in two of them.
        labels: class names by class number; empty unless the answer is a class.
        synthetic: whether the data was generated instead of observed.
        source: where it came from (URL, path, package).
        licence: terms of use as the source states them; "" when not known.
        sha256: hash of every array in all parts (`data_hash`).
        vocabulary: symbols by token number (tokens only).
        level: "character" or "word" (text only).
        scaling: how inputs want to be scaled: "feature" (each feature by its own mean and deviation) or "shared" (all
            features have one unit, such as pixels).
        forecast: set for forecasts only.
        notes: remarks that belong into the report, such as what was filled or dropped.
        rate: samples a second of `sound`, in Hz; 0: there is none.
        clips: the single words that training strings are joined of (transcription only).
        noise: recorded noise for `training.background`, (clips, length) int16 as long as the sounds; None: there is
            none but what a class of it holds.
        sentences: tables of both sides' tokens, and the sentences of validation and test as they were written
            (translation only).
    """

    name: str
    task: Task | None
    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...] = ()
    synthetic: bool = False
    source: str = ""
    licence: str = ""
    sha256: str = ""
    vocabulary: tuple[str, ...] = ()
    level: str = ""
    scaling: str = "feature"
    forecast: ForecastInfo | None = None
    notes: tuple[str, ...] = ()
    rate: int = 0
    clips: Clips | None = None
    noise: np.ndarray | None = None
    sentences: Sentences | None = None

    @property
    def parts(self) -> dict[str, Split]:
        """The parts by name, training first."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def describe(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values; written as dataset.json."""
        return {
            "name": self.name,
            "task": self.task.value if self.task else "",
            "labels": list(self.labels),
            "synthetic": self.synthetic,
            "source": self.source,
            "licence": self.licence,
            "sha256": self.sha256,
            "vocabulary": list(self.vocabulary),
            "level": self.level,
            "scaling": self.scaling,
            "forecast": None if self.forecast is None else _plain(dataclasses.asdict(self.forecast)),
            "notes": list(self.notes),
            "rate": self.rate,
            "joining": None if self.clips is None else self.clips.joining.to_json(),
            "noise": 0 if self.noise is None else len(self.noise),
            "sentences": None if self.sentences is None else self.sentences.sha256,
            "splits": {part: _describe_split(split, self) for part, split in self.parts.items()},
        }


def output_name(task: Task) -> str:
    """Name of a task's output, e.g. "label" for classification."""
    return OUTPUT_NAMES[task]


def data_hash(parts: Mapping[str, Split], clips: Clips | None = None, noise: np.ndarray | None = None) -> str:
    """SHA-256 over names, types, shapes and bytes of every array in every part, in a fixed order; then clips, noise."""
    digest = hashlib.sha256()
    named = {part: split_arrays(parts[part]) for part in PARTS}
    if clips is not None:
        named[CLIPS] = clips.arrays()
    if noise is not None:
        named[NOISE] = {NOISE: noise}
    for part, arrays in named.items():
        for name, array in sorted(arrays.items()):
            digest.update(f"{part}/{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def split_arrays(split: Split) -> dict[str, np.ndarray]:
    """A split's arrays as they are named in its .npz: `x/<input>`, `y/<output>`, `index`, `weight/<output>`."""
    arrays = {f"x/{name}": array for name, array in split.x.items()}
    arrays |= {f"y/{name}": array for name, array in split.y.items()}
    arrays["index"] = split.index
    arrays |= {f"weight/{name}": array for name, array in (split.weight or {}).items()}
    return arrays


def save(dataset: Dataset, folder: str | Path) -> None:
    """Write dataset.json, train.npz, validation.npz, test.npz and what goes with a task into `folder`, each atomically.

    The description goes last: a folder with a description is whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part, split in dataset.parts.items():
        save_npz(folder / f"{part}.npz", split_arrays(split))
    if dataset.clips is not None:
        save_npz(folder / f"{CLIPS}.npz", dataset.clips.arrays())
    if dataset.noise is not None:
        save_npz(folder / f"{NOISE}.npz", {NOISE: dataset.noise})
    if dataset.sentences is not None:
        dataset.sentences.write(folder)
    write_json(folder / DESCRIPTION, dataset.describe())


def read(folder: str | Path) -> Dataset:
    """Read what `save` wrote, and check that it is unchanged.

    Raises:
        UsageError: a file is missing, damaged, or the arrays do not match the recorded hash.
    """
    folder = Path(folder)
    record = read_json(folder / DESCRIPTION)
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        raise UsageError("dataset.json must be a data set's description.", received=str(folder / DESCRIPTION))
    parts = {part: _read_split(folder / f"{part}.npz") for part in PARTS}
    clips = None
    if record.get("joining"):
        clips = Clips.read(load_npz(folder / f"{CLIPS}.npz"), record["joining"])
    noise = _read_noise(folder / f"{NOISE}.npz") if record.get("noise") else None
    found = data_hash(parts, clips, noise)
    if found != record["sha256"]:
        raise UsageError(
            "The data in a run folder must match its recorded hash.",
            received=f"{folder}: SHA-256 {found}, recorded {record['sha256']}",
            todo="Run the data stage again with --force.",
        )
    sentences = Sentences.read(folder, record["sentences"]) if record.get("sentences") else None
    try:
        forecast = record.get("forecast")
        return Dataset(
            name=record["name"],
            task=Task(record["task"]) if record["task"] else None,
            labels=tuple(record["labels"]),
            synthetic=record["synthetic"],
            source=record["source"],
            licence=record["licence"],
            sha256=record["sha256"],
            vocabulary=tuple(record["vocabulary"]),
            level=record["level"],
            scaling=record["scaling"],
            forecast=ForecastInfo(**{key: _tuple(value) for key, value in forecast.items()}) if forecast else None,
            notes=tuple(record["notes"]),
            rate=record.get("rate", 0),
            clips=clips,
            noise=noise,
            sentences=sentences,
            **parts,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "dataset.json must be a data set's description.",
            received=f"{folder / DESCRIPTION} ({type(error).__name__}: {error})",
        ) from None


def _read_split(path: Path) -> Split:
    arrays = load_npz(path)
    if "index" not in arrays:
        raise UsageError("A part's .npz must hold x/<input>, y/<output> and index.", received=str(path))

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}

    return Split(named("x/"), named("y/"), arrays["index"], named("weight/") or None)


def _read_noise(path: Path) -> np.ndarray:
    arrays = load_npz(path)
    if NOISE not in arrays:
        raise UsageError(f"{path.name} must hold {NOISE}.", received=str(path))
    return arrays[NOISE]


def _describe_split(split: Split, dataset: Dataset) -> dict[str, Any]:
    described: dict[str, Any] = {
        "samples": len(split),
        "x": {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in split.x.items()},
        "y": {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in split.y.items()},
    }
    if dataset.labels:
        classes = len(dataset.labels)
        described["class_counts"] = {
            name: np.bincount(array.ravel(), minlength=classes).tolist()
            for name, array in split.y.items()
            if np.issubdtype(array.dtype, np.integer)
        }
        if dataset.task is Task.TRANSCRIPTION:
            for counts in described["class_counts"].values():
                counts[0] = 0  # What fills a row behind its last word was never said.
    return described


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
