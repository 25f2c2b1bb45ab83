"""Sentence pairs: from text in two languages to token numbers, with what a translation is judged by.

Tokens 0 to 3 are padding, unknown, begin and end of a sentence on both sides (`edge_dl.text`). The tables that turn
text into tokens are made of the training part alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_dl.data.splitting import holdout, subset
from edge_dl.errors import UsageError
from edge_dl.files import read_json, write_json
from edge_dl.recipe import DataConfig, Task
from edge_dl.text import Tables
from edge_dl.text.subwords import BEGIN, END, PADDING, UNKNOWN

if TYPE_CHECKING:
    from edge_dl.data.dataset import Dataset, Split

FILE = "sentences.json"
TABLES = "text.json"
KINDS = {"subword": "unigram", "word": "word", "character": "character"}
VOCABULARY = 8_000
# Of a window that follows from the data: nearly all training pairs fit, and one long sentence does not decide the rest.
_SHARE, _LONGEST = 0.995, 64

Pair = tuple[str, str]


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs as read.

    Attributes:
        name: short name.
        parts: "train" with "test" and perhaps "validation", or "all": pairs of a sentence and its translation.
        source, licence, synthetic, notes: as in `Dataset`.
    """

    name: str
    parts: Mapping[str, Sequence[Pair]]
    source: str = ""
    licence: str = ""
    synthetic: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence to translate and every translation of it that the data gives."""

    source: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Sentences:
    """What a data set of sentence pairs holds beside its arrays.

    Attributes:
        tables: text to tokens and back, for both sides.
        validation, test: each different source sentence of the part once, in order of appearance, those too long for
            the arrays too.
    """

    tables: Tables
    validation: tuple[Sentence, ...] = ()
    test: tuple[Sentence, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The sentences as plain JSON values; the tables are a file of their own."""
        return {part: [asdict(item) for item in getattr(self, part)] for part in ("validation", "test")}

    @property
    def sha256(self) -> str:
        """Hash of the sentences and the tables."""
        tables = [
            [side.kind, list(side.pieces), list(side.scores), hashlib.sha256(side.normalization.rules).hexdigest()]
            for side in (self.tables.source, self.tables.target)
        ]
        return hashlib.sha256(json.dumps([self.to_json(), tables], sort_keys=True).encode()).hexdigest()

    def write(self, folder: str | Path) -> None:
        """Write sentences.json and text.json into `folder`, each atomically."""
        self.tables.write(Path(folder) / TABLES)
        write_json(Path(folder) / FILE, self.to_json())

    @classmethod
    def read(cls, folder: str | Path, sha256: str) -> Sentences:
        """Read what `write` wrote.

        Raises:
            UsageError: a file is missing, damaged, or is not what `sha256` was taken of.
        """
        path = Path(folder) / FILE
        value = read_json(path)
        try:
            parts = {
                part: tuple(Sentence(item["source"], tuple(item["references"])) for item in value[part])
                for part in ("validation", "test")
            }
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{FILE} must list the sentences of validation and test.",
                received=f"{path} ({type(error).__name__}: {error})",
            ) from None
        sentences = cls(Tables.read(Path(folder) / TABLES), **parts)
        if sentences.sha256 != sha256:
            raise UsageError(
                "The sentences in a run folder, and their tables, must match their recorded hash.",
                received=f"{path} or {TABLES} beside it",
                todo="Run the data stage again with --force.",
            )
        return sentences


def tokenize(pairs: Pairs, config: DataConfig, task: Task | None, *, seed: int) -> Dataset:
    """A data set of token numbers from sentence pairs.

    Parts that the source does not have are cut by source sentence: one with several translations stands in one part.
    Pairs longer than the window are left out of the arrays.

    Args:
        pairs: as read.
        config: `level`, `vocabulary` (8,000 a side when 0), `window`, shares and `limit`.
        task: translation.
        seed: decides held-out parts.

    Raises:
        UsageError: another task, an unknown level, or too few pairs.
    """
    from edge_dl.data.dataset import Dataset, data_hash
    from edge_dl.data.subwords import encode_lines, train_subwords
    from edge_dl.data.validation import check_dataset

    if task is not Task.TRANSLATION:
        raise UsageError("Sentence pairs are data for translation.", received=task.value if task else "no task")
    if config.level not in KINDS:
        raise UsageError(f"data.level must be one of {', '.join(KINDS)}.", received=config.level)
    rng = np.random.default_rng([seed, 0x5EED])
    parts, notes = _cut(pairs, config, rng)
    if config.limit:
        parts = {part: [items[row] for row in subset(len(items), config.limit, rng)] for part, items in parts.items()}
    size, kind = config.vocabulary or VOCABULARY, KINDS[config.level]
    tables = Tables(*(train_subwords([pair[side] for pair in parts["train"]], size, kind) for side in (0, 1)))
    encoded = {
        part: [
            encode_lines(table, [pair[side] for pair in items])
            for side, table in enumerate((tables.source, tables.target))
        ]
        for part, items in parts.items()
    }
    lengths = {
        part: np.array([list(map(len, side)) for side in sides]).max(axis=0) + 1  # A mark of begin or end.
        for part, sides in encoded.items()
    }
    window = config.window or _window(lengths["train"])
    splits, first = {}, 0
    for part, sides in encoded.items():
        kept = np.flatnonzero(lengths[part] <= window)
        if not len(kept):
            raise UsageError(
                f"The {part} part must hold pairs that fit into data.window.",
                received=f"{len(lengths[part])} pairs, the shortest of {lengths[part].min()} tokens, window {window}",
            )
        if left := len(lengths[part]) - len(kept):
            notes.append(f"{left} of {len(lengths[part])} {part} pairs are longer than {window} tokens and left out.")
        splits[part] = _arrays([sides[0][row] for row in kept], [sides[1][row] for row in kept], kept + first, window)
        first += len(lengths[part])
    unknown = [int((splits["test"].x[name] == UNKNOWN).sum()) for name in ("source", "target")]
    if any(unknown):
        notes.append(f"{unknown[0]} source and {unknown[1]} target tokens of the test part are unknown.")
    dataset = Dataset(
        name=pairs.name,
        task=task,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        synthetic=pairs.synthetic,
        source=pairs.source,
        licence=pairs.licence,
        vocabulary=tuple(tables.target.pieces),
        level=config.level,
        notes=(*pairs.notes, *notes),
        sentences=Sentences(tables, **{part: _distinct(parts[part]) for part in ("validation", "test")}),
    )
    check_dataset(dataset)
    return replace(dataset, sha256=data_hash(dataset.parts))


def _cut(pairs: Pairs, config: DataConfig, rng: np.random.Generator) -> tuple[dict[str, Sequence[Pair]], list[str]]:
    """Training, validation and test pairs, and notes."""
    parts, notes = dict(pairs.parts), []
    for missing, share in (("test", config.test), ("validation", config.validation)):
        if missing in parts:
            continue
        whole = "all" if "all" in parts else "train"
        if whole not in parts:
            raise UsageError("Sentence pairs need a training part.", received=", ".join(parts) or "nothing")
        items = parts.pop(whole)
        kept, held = _hold_out(items, share, rng)
        parts |= {"train": kept, missing: held}
        notes.append(f"{missing.capitalize()}: {len(held)} of {len(items)} pairs held out (whole source sentences).")
    known = {source for part in ("train", "validation") for source, _ in parts[part]}
    seen = sum(source in known for source, _ in parts["test"])
    if seen == len(parts["test"]):
        raise UsageError(
            "The test part must not be a copy of training samples.",
            received=f"all {seen} source sentences of the test part also stand in training or validation",
        )
    if seen:
        notes.append(f"{seen} of {len(parts['test'])} test pairs have a source sentence of training or validation.")
    return {part: parts[part] for part in ("train", "validation", "test")}, notes


def _hold_out(items: Sequence[Pair], share: float, rng: np.random.Generator) -> tuple[list[Pair], list[Pair]]:
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(source, len(numbers)) for source, _ in items])
    kept, held = holdout(len(items), share, rng, groups=groups)
    return [items[row] for row in kept], [items[row] for row in held]


def _window(lengths: np.ndarray) -> int:
    return int(min(_LONGEST, np.quantile(lengths, _SHARE, method="higher")))


def _arrays(sources: Sequence[list[int]], targets: Sequence[list[int]], index: np.ndarray, window: int) -> Split:
    from edge_dl.data.dataset import Split

    source, target, following = (np.full((len(index), window), PADDING, np.int32) for _ in range(3))
    weight = np.zeros((len(index), window), np.float32)
    for row, (given, due) in enumerate(zip(sources, targets, strict=True)):
        source[row, : len(given) + 1] = [*given, END]
        target[row, : len(due) + 1] = [BEGIN, *due]
        following[row, : len(due) + 1] = [*due, END]
        weight[row, : len(due) + 1] = 1
    return Split(
        {"source": source, "target": target}, {"next_token": following}, index.astype(np.int64), {"next_token": weight}
    )


def _distinct(pairs: Sequence[Pair]) -> tuple[Sentence, ...]:
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        known = references.setdefault(source, [])
        if target not in known:
            known.append(target)
    return tuple(Sentence(source, tuple(targets)) for source, targets in references.items())
