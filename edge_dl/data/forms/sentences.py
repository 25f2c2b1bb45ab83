"""Sentence pairs on disk: a table of two columns, or a file a language whose lines belong together.

    pairs.tsv, pairs.txt             sentence, tab, translation (columns behind them are left alone); parts are cut
    {train,val,test}.tsv             in one folder or archive: parts as they are; the part is a word of the file's name
    {train,val,test}.{en,fr}         a file a language; `data.target` says which is the translation

Several files of one part are read one after the other. Of several folders that hold such files the one nearest to the
top is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from edge_dl.data.files import DataFile, DataFolder, as_text
from edge_dl.data.sentences import Pair, Pairs
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

TABLES = (".tsv", ".txt")
PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "dev": "validation", "test": "test"}  # fmt: skip


def read(file: DataFile, config: DataConfig, task: Task | None) -> Pairs:
    """Read sentence pairs from a table, a folder or a zip archive.

    Raises:
        UsageError: another task, no pairs, a line without a tab, files a language that do not have the same number of
            lines, or it is not told which language is the translation.
    """
    if task is not Task.TRANSLATION:
        raise UsageError("Sentence pairs are data for translation.", received=task.value if task else "no task")
    if file.member or not (file.path.is_dir() or file.name.lower().endswith(".zip")):
        pairs = _table(file.text(), str(file))
        return Pairs(file.name.split(".")[0], {"all": pairs}, source=str(file))
    with DataFolder(file.path) as folder:
        chosen = _nearest(folder.names())
        texts = {name: as_text(folder.content(name), f"{file.path}, {name}") for name in chosen}
    tables = [name for name in chosen if _ending(name) in TABLES]
    if tables and len(tables) < len(chosen):
        raise UsageError(
            "Sentence pairs are tables of two columns or a file a language, not both.",
            received=f"{file.path} with {', '.join(chosen)}",
        )
    parts: dict[str, list[Pair]] = {}
    notes = []
    if tables:
        for name in tables:
            parts.setdefault(part_of(name) or "all", []).extend(_table(texts[name], f"{file.path}, {name}"))
    else:
        for part, names in _by_stem(chosen, config, str(file.path)):
            source, target = (_lines(texts[name]) for name in names)
            if len(source) != len(target):
                raise UsageError(
                    "Files of one part must have the same number of lines: they belong together line by line.",
                    received=f"{names[0]} with {len(source)} lines, {names[1]} with {len(target)}",
                )
            pairs = _joined(source, target, names)
            if left := len(source) - len(pairs):
                notes.append(f"{left} lines of {names[0]} and {names[1]} are empty.")
            parts.setdefault(part, []).extend(pairs)
    if "all" in parts and len(parts) > 1:
        raise UsageError(
            "Either every file's name tells its part, or none does.",
            received=", ".join(chosen),
            todo="Name them train, val and test.",
        )
    for part in parts:
        read_from = [name for name in (tables or chosen) if (part_of(name) or "all") == part]
        if len(read_from) > (1 if tables else 2):
            notes.append(f"The {part} part is read from {', '.join(read_from)}.")
    return Pairs(file.path.stem, parts, source=str(file.path), notes=tuple(notes))


def part_of(name: str) -> str:
    """The part that a file's name tells, e.g. "test" of "test_2016_flickr.en"; "" where none does."""
    words = re.split(r"[^a-z]+", PurePosixPath(name).name.lower())
    return next((PARTS[word] for word in words if word in PARTS), "")


def _nearest(names: Sequence[str]) -> list[str]:
    """The files with pairs in the folder nearest to the top that has any."""
    folders: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix and not path.name.startswith("_") and (_ending(name) in TABLES or part_of(name)):
            folders.setdefault(str(path.parent), []).append(name)
    # A table's name must tell its part where there are others, such as a README.txt.
    kept = {folder: [item for item in items if part_of(item)] or items for folder, items in folders.items()}
    if not kept:
        raise UsageError(
            "A folder of sentence pairs must hold them.",
            received=", ".join(names[:5]) or "no files",
            todo="Name them train.tsv, val.tsv and test.tsv, or train.en and train.fr and so on.",
        )
    return kept[min(kept, key=lambda folder: (len(PurePosixPath(folder).parts), folder))]


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _joined(source: Sequence[str], target: Sequence[str], names: tuple[str, str]) -> list[Pair]:
    """Lines that belong together, without those that are empty on both sides."""
    pairs = []
    for number, pair in enumerate(zip(map(str.strip, source), map(str.strip, target), strict=True), start=1):
        if bool(pair[0]) != bool(pair[1]):
            raise UsageError(
                "A sentence must have a translation.",
                received=f"line {number} of {names[0]} and {names[1]}, one of them empty",
            )
        if pair[0]:
            pairs.append(pair)
    if not pairs:
        raise UsageError("Files of sentence pairs must hold some.", received=" and ".join(names))
    return pairs


def _lines(text: str) -> list[str]:
    # Not splitlines: a sentence may hold other characters that count as line ends, such as U+2028.
    return text.removesuffix("\n").split("\n")


def _table(text: str, where: str) -> list[Pair]:
    pairs = []
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise UsageError(
                "A line of sentence pairs must be a sentence, a tab and its translation.",
                received=f"{where}, line {number}: {line[:80]!r}",
            )
        pairs.append((cells[0], cells[1]))
    if not pairs:
        raise UsageError("A table of sentence pairs must hold some.", received=where)
    return pairs


def _by_stem(names: Sequence[str], config: DataConfig, where: str) -> list[tuple[str, tuple[str, str]]]:
    """Part, and names of source and target file, of files a language."""
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        stems.setdefault(path.stem, {})[_ending(name).removeprefix(".")] = name
    languages = sorted({language for files in stems.values() for language in files})
    if len(languages) != 2 or any(len(files) != 2 for files in stems.values()):
        raise UsageError(
            "Files a language must be two for each part, with the same two endings.",
            received=f"{where} with {', '.join(names)}",
        )
    if config.target not in languages:
        raise UsageError(
            "data.target must say which language to translate into.",
            received=config.target or "nothing",
            todo=f"Set data.target={languages[0]} or data.target={languages[1]}.",
        )
    source = next(language for language in languages if language != config.target)
    return [(part_of(stem) or "all", (files[source], files[config.target])) for stem, files in stems.items()]
