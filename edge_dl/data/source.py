"""What a form or a built-in set gives before parts are cut: arrays with their groups, as the source has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edge_dl.data.background import SILENCE, add_silence, note_noise, windows
from edge_dl.data.dataset import PARTS, Dataset, ForecastInfo, Split, data_hash
from edge_dl.data.splitting import holdout, subset
from edge_dl.data.validation import check_dataset, check_split, copies
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task
from edge_dl.runtime.wordless import is_noise


@dataclass(frozen=True)
class Source:
    """Data as read.

    Attributes:
        name: short name.
        parts: "train" with "test" and perhaps "validation"; or "all" when the source has no parts.
        groups: (samples,) group of each sample by part; whole groups are held out.
        labels: class names by number.
        source, licence, synthetic, vocabulary, level, scaling, forecast, notes, rate: as in `Dataset`.
        speakers: who speaks in each row of the source, "" where not known; None: there are no speakers.
        noise: recordings of noise beside the sounds, of their rate, (samples,) int16 each, none empty.
    """

    name: str
    parts: Mapping[str, Split]
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""
    synthetic: bool = False
    vocabulary: tuple[str, ...] = ()
    level: str = ""
    scaling: str = "feature"
    forecast: ForecastInfo | None = None
    notes: tuple[str, ...] = ()
    rate: int = 0
    speakers: np.ndarray | None = None
    noise: tuple[np.ndarray, ...] = ()


def finish(source: Source, config: DataConfig, task: Task | None, *, seed: int, trains: bool = True) -> Dataset:
    """Cut the parts that the source does not have, apply `config.limit`, check everything.

    The test part is only ever cut from a source without parts; validation only from the training part. Recorded noise
    becomes a class of silence where a model is to be trained and no class is that, else noise for training sounds.

    Raises:
        UsageError: the data breaks a rule of `edge_dl.data.validation`.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    parts = dict(source.parts)
    groups = dict(source.groups)
    notes = list(source.notes)
    for part, split in parts.items():
        check_split(split, part, trains=trains)
    if "all" in parts:
        everything, group = parts.pop("all"), groups.pop("all", None)
        kept, held = holdout(len(everything), config.test, rng, groups=group, labels=_strata(everything, task))
        parts |= {"train": everything.take(kept), "test": everything.take(held)}
        if group is not None:
            groups["train"] = group[kept]
        notes.append(f"The source has no test part: {len(held)} of {len(everything)} samples held out ({_how(group)}).")
    if set(parts) - {"validation"} != {"train", "test"}:
        raise UsageError("A data set needs a training and a test part.", received=", ".join(parts) or "nothing")
    if "validation" not in parts:
        train, group = parts["train"], groups.get("train")
        kept, held = holdout(len(train), config.validation, rng, groups=group, labels=_strata(train, task))
        parts |= {"train": train.take(kept), "validation": train.take(held)}
        notes.append(f"Validation: {len(held)} of {len(train)} training samples held out ({_how(group)}).")
    labels, noise = source.labels, None
    if source.noise:
        if not trains:
            notes.append(f"{len(source.noise)} recordings of noise are no class and were left out.")
        elif any(map(is_noise, labels)):
            noise = windows(source.noise, next(iter(parts["train"].x.values())).shape[1])
            notes.append(note_noise(source.noise))
        else:
            before = {part: len(split) for part, split in parts.items()}
            parts = add_silence(parts, len(labels), source.noise, np.random.default_rng([seed, 0x517E]))
            labels = (*labels, SILENCE)
            made = ", ".join(f"{len(parts[part]) - before[part]} in {part}" for part in PARTS)
            notes.append(
                f"{SILENCE} is made: clips cut at random from {len(source.noise)} recordings of noise, at random "
                f"levels; each part has stretches of its own: {made}."
            )
    if config.limit:
        parts = {
            part: split.take(subset(len(split), config.limit, rng, _strata(split, task)))
            for part, split in parts.items()
        }
    copied = copies(parts["train"], parts["test"])
    if copied == len(parts["test"]) and task is not None:
        raise UsageError(
            "The test part must not be a copy of training samples.",
            received=f"all {copied} test samples also stand in the training part",
        )
    if copied:
        notes.append(f"{copied} of {len(parts['test'])} test samples have an exact copy in the training part.")
    dataset = Dataset(
        name=source.name,
        task=task,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        labels=labels,
        synthetic=source.synthetic,
        source=source.source,
        licence=source.licence,
        vocabulary=source.vocabulary,
        level=source.level,
        scaling=source.scaling,
        forecast=source.forecast,
        notes=tuple(notes),
        rate=source.rate,
        noise=noise,
    )
    check_dataset(dataset, trains=trains)
    return replace(dataset, sha256=data_hash(dataset.parts, noise=dataset.noise))


def _strata(split: Split, task: Task | None) -> np.ndarray | None:
    if task not in (Task.CLASSIFICATION, Task.EMBEDDING):
        return None
    return next((array for array in split.y.values() if array.ndim == 1 and array.dtype.kind in "iu"), None)


def _how(groups: np.ndarray | None) -> str:
    return "whole groups" if groups is not None and len(np.unique(groups)) > 1 else "seeded"
