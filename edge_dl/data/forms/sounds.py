"""Sounds in a folder or a zip archive of one: wav files, one folder a class, or with a table that says what they are.

    sounds/CLASS/*.wav                      parts are cut
    sounds/{train,test}/CLASS/*.wav         parts as they are; `validation` (val, valid) too where it is there
    sounds/**/*.wav, sounds/manifest.csv    columns `file`; `label` (or `class`, `digit`); perhaps `speaker`; perhaps
                                            one or more whose name starts with `split`: train, test, validation (val)

Google's Speech Commands are read as they are published: `validation_list.txt` and `testing_list.txt` name the parts, a
file's name starts with its speaker, and recordings in `_background_noise_`, of any length, are no class but noise
(edge_dl/data/background.py); so they are beside any other folders of classes. Files whose name starts with a dot are
left alone. A file that is no whole sound is left out and named in the notes.
"""

from __future__ import annotations

import csv
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_dl.data import sounds
from edge_dl.data.dataset import Split, output_name
from edge_dl.data.files import DataFile, DataFolder
from edge_dl.data.forms.folders import PARTS, each, none_whole, note_broken, places, require_folders
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

MANIFEST = "manifest.csv"
LABEL_COLUMNS = ("label", "class", "digit")
SPLIT = "split"
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
SPEAKER = "_nohash_"  # Speech Commands: SPEAKER_nohash_NUMBER.wav
NOISE = "_background_noise_"
# Features for speech are made for these rates, and a phone's microphone has both.
NARROW, WIDE = 8_000, 16_000
SECONDS = 1.0


@dataclass(frozen=True)
class _Place:
    """Where a sound belongs: part ("all" where there are none), class, and speaker ("" where not known)."""

    part: str
    label: str
    speaker: str = ""


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read sounds as `sound` (samples, length) int16 with `label`, classes in order of name, and noise beside them.

    All sounds get one rate: `data.rate` where it is set, else 16 kHz where most have that or more, else 8 kHz. They get
    one length: `data.seconds` where it is set; else as they come where all are alike; else 1 second. Shorter ones get
    zeros on both sides, of longer ones the loudest part is taken.

    Where speakers are known and none stands on both sides of training and test, whole speakers are held out for
    validation too.

    For transcription, the sounds are words to be joined, and get the length of the longest.

    Raises:
        UsageError: there are no sounds, no folder a class and no manifest, or a class without a whole sound; a manifest
            names no file, class or part; the task has no use for classes; or SciPy is not installed.
    """
    if task not in (Task.CLASSIFICATION, Task.TRANSCRIPTION):
        raise UsageError(
            "Sounds with a class are data for classification or transcription.",
            received=task.value if task else "no task",
        )
    if importlib.util.find_spec("scipy") is None:
        raise UsageError(
            "Sounds are read by SciPy.", received="no scipy", todo="Install it: pip install 'edge-dl[train]'."
        )
    with DataFolder(file.path) as folder:
        names = folder.names()
        placed, notes = _places(names, folder, config)
        aside = [name for name in names if sounds.is_sound(name) and _is_noise(name) and name not in placed]
        stored, broken = each(lambda name: sounds.decode(folder.content(name)), list(placed))
        recorded, unheard = each(lambda name: sounds.decode(folder.content(name)), aside)
    if not stored:
        raise none_whole(folder, broken, "sounds")
    rate = _rate(config, [rate for _, rate in stored.values()])
    rates = {name: rate for name, (_, rate) in stored.items()}
    # One after the other out of `stored`: a large set is not held twice.
    clips = {name: sounds.as_samples(*stored.pop(name), rate) for name in list(stored)}
    joined = task is Task.TRANSCRIPTION
    length = max(map(len, clips.values())) if joined else _length(config, rate, [len(clip) for clip in clips.values()])
    notes += _notes({} if joined else clips, rates, rate, length) + note_broken(broken | unheard, "sounds")
    labels = tuple(sorted({item.label for item in placed.values()}))
    rows = {name: row for row, name in enumerate(placed)}
    parts, groups = {}, {}
    for part in dict.fromkeys(placed[name].part for name in clips):
        chosen = [name for name in clips if placed[name].part == part]
        x = np.stack([sounds.fit(clips[name], length) for name in chosen])
        y = np.array([labels.index(placed[name].label) for name in chosen], np.int32)
        parts[part] = Split(
            {"sound": x}, {output_name(Task.CLASSIFICATION): y}, np.array([rows[name] for name in chosen])
        )
        groups[part] = np.array([placed[name].speaker for name in chosen])
    if "test" not in parts and "validation" in parts:
        parts["test"], groups["test"] = parts.pop("validation"), groups.pop("validation")
        notes.append("The source has no test part: its validation part is the test part.")
    if "test" not in parts:
        part = "all" if "all" in parts else "train"
        parts, groups = {"all": parts[part]}, {"all": groups[part]}
    return Source(
        file.path.stem,
        parts,
        _usable(groups),
        labels=labels,
        source=str(file.path),
        notes=tuple(notes),
        rate=rate,
        speakers=np.array([item.speaker for item in placed.values()]),
        noise=tuple(sounds.as_samples(*item, rate) for item in recorded.values()),
    )


def _places(names: Sequence[str], folder: DataFolder, config: DataConfig) -> tuple[dict[str, _Place], list[str]]:
    """Where each sound belongs, in order of path, and notes."""
    files = [name for name in names if sounds.is_sound(name)]
    if not files:
        raise UsageError(
            "A folder of sounds must hold sounds.", received=f"{folder.path} without {', '.join(sounds.SUFFIXES)} files"
        )
    manifests = [name for name in names if name.split("/")[-1].lower() == MANIFEST]
    if len(manifests) == 1:
        return _by_manifest(files, manifests[0], folder, config)
    if config.split:
        raise UsageError(
            f"data.split names a column of {MANIFEST}.",
            received=f"{folder.path} with {len(manifests) or 'no'} {MANIFEST}",
        )
    kept = [name for name in files if not _is_noise(name)]
    if not kept:
        raise UsageError("A folder of sounds must hold sounds.", received=f"{folder.path} with {NOISE} only")
    found, loose = places(kept, folder, "Sounds")
    require_folders(kept, loose, folder, "Sounds")
    listed = _listed_parts(names, folder)
    placed = {}
    for name, (part, label) in found.items():
        stem = name.split("/")[-1]
        if listed:
            part = listed.get(f"{label}/{stem}", "train")
        placed[name] = _Place(part, label, stem.split(SPEAKER)[0] if SPEAKER in stem else "")
    return placed, []


def _is_noise(name: str) -> bool:
    return NOISE in name.split("/")[:-1]


def _listed_parts(names: Sequence[str], folder: DataFolder) -> dict[str, str]:
    """Part of each CLASS/FILE that a list beside the classes names."""
    listed: dict[str, str] = {}
    for name in names:
        part = LISTS.get(name.split("/")[-1])
        if part:
            listed |= dict.fromkeys(folder.content(name).decode("utf-8", "replace").split(), part)
    return listed


def _by_manifest(
    files: Sequence[str], manifest: str, folder: DataFolder, config: DataConfig
) -> tuple[dict[str, _Place], list[str]]:
    where = f"{folder.path}/{manifest}"
    text = folder.content(manifest).decode("utf-8-sig", "replace")
    table = list(csv.DictReader(text.splitlines()))
    columns = list(table[0]) if table else []
    label = next((name for name in LABEL_COLUMNS if name in columns), "")
    if "file" not in columns or not label:
        raise UsageError(
            f"{MANIFEST} needs the columns file and label.",
            received=f"{where} with {', '.join(map(str, columns)) or 'nothing'}",
        )
    splits = [name for name in columns if str(name).startswith(SPLIT)]
    if config.split and config.split not in columns:
        raise UsageError(
            f"data.split must name a column of {MANIFEST}.",
            received=config.split,
            todo=f"{where} has {', '.join(splits) or 'no column of parts'}.",
        )
    split = config.split or (splits[0] if splits else "")
    notes = []
    if split:
        others = [name for name in splits if name != split]
        more = f"; others: {', '.join(others)} (data.split)" if others else ""
        notes.append(f"Parts by the column {split} of {MANIFEST}{more}.")
    ends = _by_ending(files)
    placed: dict[str, _Place] = {}
    for number, row in enumerate(table, start=2):
        found = ends.get(row["file"] or "", [])
        if len(found) != 1 or not row[label]:
            raise UsageError(
                f"Every row of {MANIFEST} must name one sound and its class.",
                received=f"{where}, line {number}: {len(found) or 'no'} files end with {row['file']!r}, "
                f"class {row[label]!r}",
            )
        part = PARTS.get((row[split] or "").lower(), "") if split else "all"
        if not part:
            raise UsageError(
                f"A part must be one of {', '.join(PARTS)}.",
                received=f"{where}, line {number}, {split}: {row[split]!r}",
            )
        if found[0] in placed:
            raise UsageError(
                f"{MANIFEST} must name a sound once.", received=f"{where}, line {number}: {row['file']!r} again"
            )
        placed[found[0]] = _Place(part, row[label], row.get("speaker") or "")
    unnamed = [name for name in files if name not in placed and not _is_noise(name)]
    if unnamed:
        notes.append(f"{len(unnamed)} sounds that {MANIFEST} does not name were left out.")
    if not placed:
        raise UsageError(f"{MANIFEST} must name sounds.", received=f"{where} without rows")
    return dict(sorted(placed.items())), notes


def _by_ending(files: Sequence[str]) -> dict[str, list[str]]:
    """Files by every ending of their path: a table may stand above, beside or apart from the folders that it names."""
    ends: dict[str, list[str]] = {}
    for name in files:
        path = name.split("/")
        for start in range(len(path)):
            ends.setdefault("/".join(path[start:]), []).append(name)
    return ends


def _rate(config: DataConfig, rates: Sequence[int]) -> int:
    if config.rate:
        if not sounds.RATES[0] <= config.rate <= sounds.RATES[1]:
            raise UsageError(f"data.rate must be {sounds.RATES[0]} to {sounds.RATES[1]} Hz.", received=str(config.rate))
        return config.rate
    return WIDE if Counter(rates).most_common(1)[0][0] >= WIDE else NARROW


def _length(config: DataConfig, rate: int, lengths: Sequence[int]) -> int:
    if config.seconds:
        return max(1, round(config.seconds * rate))
    return lengths[0] if len(set(lengths)) == 1 else round(SECONDS * rate)


def _notes(clips: Mapping[str, np.ndarray], rates: Mapping[str, int], rate: int, length: int) -> list[str]:
    notes = []
    others = Counter(item for item in rates.values() if item != rate)
    if others:
        kinds = ", ".join(f"{count} of {item} Hz" for item, count in others.most_common(3))
        more = " and others" if len(others) > 3 else ""
        notes.append(f"{others.total()} sounds were resampled to {rate} Hz: {kinds}{more}.")
    short = sum(len(clip) < length for clip in clips.values())
    long = sum(len(clip) > length for clip in clips.values())
    seconds = f"{length / rate:g} s"
    if short:
        notes.append(f"{short} sounds shorter than {seconds} got zeros on both sides.")
    if long:
        notes.append(f"{long} sounds longer than {seconds} were cut to their loudest part.")
    clipped = sum(map(sounds.is_clipped, clips.values()))
    if clipped:
        notes.append(f"{clipped} sounds are clipped: more than one sample in a thousand is at full scale.")
    return notes


def _usable(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Speakers, where all are known and the parts that the source has keep them apart."""
    if any((group == "").any() for group in groups.values()):
        return {}
    if {"train", "test"} <= set(groups) and np.intersect1d(groups["train"], groups["test"]).size:
        return {}
    return groups
