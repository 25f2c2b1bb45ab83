"""What each epoch trains on: an order and, where asked for, noise, both a function of (seed, epoch) alone.

So a resumed run sees exactly the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from edge_dl.data.dataset import Dataset, Split, output_name
from edge_dl.data.strings import join
from edge_dl.errors import UsageError
from edge_dl.recipe import Task, TrainingConfig
from edge_dl.training.sounds import SOUND, Sounds

# Steps in a row on samples of one shape where there are several: another shape is another call of the backend.
RUN = 8
_ORDER, _NOISE = 1, 2
# Activations of one evaluation batch stay within this many numbers (64 MiB in float32).
_EVALUATION_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Arrays:
    """Samples as a model takes them: inputs, targets and weights by name; the first axis is the sample."""

    x: Mapping[str, np.ndarray]
    y: Mapping[str, np.ndarray]
    weight: Mapping[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    @property
    def steps(self) -> int:
        """Size of the targets' second axis; 1 where they have none."""
        shape = next(iter(self.y.values())).shape
        return shape[1] if len(shape) > 1 else 1

    @classmethod
    def of(cls, split: Split) -> Arrays:
        """The arrays of a split."""
        return cls(split.x, split.y, split.weight)

    @classmethod
    def joined(cls, *splits: Split) -> Arrays:
        """The samples of several splits, one after the other."""

        def join(named: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
            return {name: np.concatenate([arrays[name] for arrays in named]) for name in named[0]}

        weights = [split.weight for split in splits if split.weight is not None]
        return cls(
            join([split.x for split in splits]),
            join([split.y for split in splits]),
            join(weights) if len(weights) == len(splits) else None,
        )


def balanced(arrays: Arrays, output: str) -> Arrays:
    """`arrays` with every answer weighed by its class: each class counts the same in total, all answers 1 on average.

    Raises:
        UsageError: the output's targets are no classes.
    """
    target = arrays.y[output]
    if target.dtype.kind not in "iu":
        raise UsageError("training.balance needs classes.", received=f"targets of type {target.dtype}")
    counts = np.bincount(target.ravel())
    each = np.divide(target.size, counts * np.count_nonzero(counts), out=np.zeros(len(counts)), where=counts > 0)
    weight = each.astype(np.float32)[target]
    before = (arrays.weight or {}).get(output)
    if before is not None:
        weight = weight * before.reshape(*before.shape, *(1,) * (weight.ndim - before.ndim))
    return Arrays(arrays.x, arrays.y, {**(arrays.weight or {}), output: weight})


def training_rows(config: TrainingConfig, count: int, epoch: int) -> np.ndarray:
    """Rows of each step of epoch `epoch` (from 0), (steps, batch) int32.

    A new order each epoch; what does not fill a last batch is left out of that epoch, so that every step has one
    shape and is compiled once. A set smaller than a batch is one batch.
    """
    batch = min(config.batch_size, count)
    order = np.random.default_rng([config.seed, epoch, _ORDER]).permutation(count).astype(np.int32)
    return order[: count // batch * batch].reshape(-1, batch)


def evaluation_rows(count: int, numbers: int) -> list[np.ndarray]:
    """Rows of each evaluation batch: every sample once, in at most two shapes, [(steps, batch), ...].

    Args:
        count: samples.
        numbers: the most that one layer keeps of one sample (`edge_dl.models.widest`).
    """
    largest = int(np.clip(_EVALUATION_NUMBERS // max(1, numbers), 16, 1024))
    parts = -(-count // largest)
    small, larger = divmod(count, parts)
    rows = np.arange(count, dtype=np.int32)
    cut = larger * (small + 1)
    shapes = [rows[:cut].reshape(larger, small + 1), rows[cut:].reshape(parts - larger, small)]
    return [part for part in shapes if part.size]


class Augmentation:
    """Random changes of inputs during training, drawn anew each epoch.

    Args:
        config: `noise`, `gain` and `rotation` of float inputs; `zoom`, `brightness`, `contrast`, `shift` and `flip` of
            pictures; `shift`, `speed`, `gain` and `background` of sounds; all 0: nothing to do, except that strings of
            words are joined anew each epoch, each at another `speed`.
        dataset: gives each feature's deviation, from its training part, and the words that strings are joined of.

    Raises:
        UsageError: rotation of an input whose features are not groups of three; `shift` or `use_validation` for strings
            of words.
    """

    def __init__(self, config: TrainingConfig, dataset: Dataset) -> None:
        self._config = config
        self._deviation: dict[str, np.ndarray] = {}
        self._clips, self._rate = dataset.clips, dataset.rate
        if self._clips is not None:
            # Speed changes words one by one, before they are joined: a string as a whole could leave its window.
            self._speed = config.speed
            config = self._config = _still(config)
        changed = config.shift or config.flip or config.zoom or config.brightness or config.contrast
        self._sounds = Sounds(config, dataset)
        self._pictures = [name for name, array in dataset.train.x.items() if changed and array.ndim == 4]
        if not (config.noise or config.gain or config.rotation):
            return
        for name, array in dataset.train.x.items():
            if array.dtype.kind != "f":
                continue
            if config.rotation and array.shape[-1] % 3:
                raise UsageError(
                    "training.rotation turns three-axis sensors: features must be groups of three.",
                    received=f"{array.shape[-1]} features in {name}",
                )
            axes = None if dataset.scaling == "shared" else tuple(range(array.ndim - 1))
            self._deviation[name] = np.asarray(array.std(axis=axes, dtype=np.float64), np.float32)

    def __bool__(self) -> bool:
        return bool(self._deviation or self._pictures or self._sounds or self._clips is not None)

    def __call__(self, arrays: Arrays, epoch: int) -> Arrays:
        """A changed copy of `arrays` for epoch `epoch`."""
        rng = np.random.default_rng([self._config.seed, epoch, _NOISE])
        x, y = dict(arrays.x), dict(arrays.y)
        if self._clips is not None:
            x[SOUND], y[output_name(Task.TRANSCRIPTION)] = join(
                self._clips, len(arrays), rng, rate=self._rate, speed=self._speed
            )
        for name in self._pictures:
            if self._config.zoom:
                x[name] = cut_pictures(x[name], self._config.zoom, rng)
            if self._config.brightness or self._config.contrast:
                x[name] = light_pictures(x[name], self._config.brightness, self._config.contrast, rng)
            if self._config.shift or self._config.flip:
                x[name] = move_pictures(x[name], self._config.shift, self._config.flip, rng)
        if self._sounds:
            x[SOUND] = self._sounds(x[SOUND], rng)
        for name, deviation in self._deviation.items():
            x[name] = self._change(x[name], deviation, rng)
        return Arrays(x, y, arrays.weight)

    def _change(self, array: np.ndarray, deviation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        changed = array.astype(np.float32)
        if self._config.rotation:
            turns = random_rotations(len(array), self._config.rotation, rng)
            groups = changed.reshape(len(array), -1, 3)
            changed = np.matmul(groups, turns).reshape(changed.shape)
        if self._config.gain:
            factors = 1 + self._config.gain * rng.standard_normal((len(array), array.shape[-1]), dtype=np.float32)
            changed *= factors.reshape(len(array), *(1,) * (array.ndim - 2), -1)
        if self._config.noise:
            noise = rng.standard_normal(array.shape, dtype=np.float32)
            noise *= self._config.noise * deviation
            changed += noise
        return changed


def _still(config: TrainingConfig) -> TrainingConfig:
    """Settings for strings of words, which stay where they were joined."""
    if config.shift or config.use_validation:
        raise UsageError(
            "Training strings are joined from training recordings, anywhere in their window.",
            received="training.shift" if config.shift else "training.use_validation=true",
            todo="Leave it out.",
        )
    return replace(config, speed=0.0)


def move_pictures(pictures: np.ndarray, shift: float, flip: bool, rng: np.random.Generator) -> np.ndarray:
    """Shifted and mirrored copies of pictures (samples, height, width, channels), type kept.

    Args:
        shift: largest shift, as a share of each side; what comes in repeats the edge.
        flip: whether half of the pictures, drawn at random, are mirrored left to right.
    """
    count, height, width, _ = pictures.shape
    high, wide = round(shift * height), round(shift * width)
    down = rng.integers(-high, high + 1, count)
    right = rng.integers(-wide, wide + 1, count)
    mirrored = rng.random(count) < 0.5 if flip else np.zeros(count, bool)
    rows = np.clip(np.arange(height)[None, :] - down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width)[None, :] - right[:, None], 0, width - 1)
    columns[mirrored] = columns[mirrored, ::-1]
    return pictures[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_pictures(pictures: np.ndarray, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """A random cut of each picture (samples, height, width, channels) uint8, scaled back to the full size.

    Args:
        zoom: each side keeps at least 1 - `zoom` of its length, both the same share.
    """
    from PIL import Image

    count, height, width, channels = pictures.shape
    kept = 1 - zoom * rng.random((count,))
    left, top = rng.random((2, count)) * (1 - kept)
    cut = np.empty_like(pictures)

    def work(number: int) -> None:
        box = (left[number] * width, top[number] * height,
               (left[number] + kept[number]) * width, (top[number] + kept[number]) * height)  # fmt: skip
        grey = channels == 1
        picture = Image.fromarray(pictures[number, ..., 0] if grey else pictures[number])
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))
        cut[number] = resized[..., None] if grey else resized

    # Pillow works without holding Python's lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(work, range(count)):
            pass
    return cut


def light_pictures(pictures: np.ndarray, brightness: float, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Pictures (samples, height, width, channels) uint8 in other light.

    Args:
        brightness: largest change, as a share of the full range.
        contrast: largest change of the distance from middle grey, as a share of it.
    """
    count = len(pictures)
    factor = 1 + contrast * rng.uniform(-1, 1, (count, 1))
    added = 255 * brightness * rng.uniform(-1, 1, (count, 1))
    tables = np.clip(np.rint((np.arange(256) - 127.5) * factor + 127.5 + added), 0, 255).astype(np.uint8)
    return np.stack([table[picture] for table, picture in zip(tables, pictures, strict=True)])


def random_rotations(count: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Rotation matrices (count, 3, 3) about random axes by Rodrigues' formula.

    Args:
        deviation: of the rotation vector's three components, in radians.
    """
    vectors = deviation * rng.standard_normal((count, 3))
    angles = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.maximum(angles, 1e-12)[:, None]).T
    zero = np.zeros(count)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return (np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)).astype(np.float32)
