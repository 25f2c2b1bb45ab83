"""Random changes of training sounds: speed, place in the window, level and noise behind them."""

from __future__ import annotations

import numpy as np

from edge_dl.data.dataset import Dataset
from edge_dl.data.noise import coloured_noise, level
from edge_dl.recipe import TrainingConfig
from edge_dl.runtime.samples import to_samples
from edge_dl.runtime.wordless import is_noise

SOUND = "sound"
# As in Warden 2018: one sound in five stays as clean as it is.
NOISY_SHARE = 0.8
# Made noise is a number of different sounds an epoch, each of which may start anywhere.
MADE = 32


class Sounds:
    """Changed copies of training sounds, drawn anew each epoch.

    Args:
        config: `shift`, `speed`, `gain` and `background`; all 0: nothing to do.
        dataset: gives recorded noise: its own, and training sounds of a class that is silence or noise.
    """

    def __init__(self, config: TrainingConfig, dataset: Dataset) -> None:
        self._config = config
        sounds = dataset.train.x.get(SOUND)
        self._changed = sounds is not None and bool(config.shift or config.speed or config.gain or config.background)
        self._recorded: np.ndarray | None = None
        if self._changed and config.background:
            assert sounds is not None
            recorded = [] if dataset.noise is None else [dataset.noise]
            classes = next(iter(dataset.train.y.values()))
            numbers = [number for number, name in enumerate(dataset.labels) if is_noise(name)]
            if classes.ndim == 1:  # Strings of words hold no sound that is noise alone.
                recorded.append(sounds[np.isin(classes, numbers)])
            found = np.concatenate(recorded) if recorded else sounds[:0]
            heard = found.any(axis=1)  # Silence of zeros is no noise.
            self._recorded = found[heard] if heard.any() else None

    def __bool__(self) -> bool:
        return self._changed

    def __call__(self, sounds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changed sounds (samples, length) int16; what would be louder than full scale is clipped."""
        config = self._config
        made = coloured_noise(MADE, sounds.shape[1], rng) if config.background else None
        changed = np.empty_like(sounds)
        for number, sound in enumerate(sounds):
            values = move(sound, config.shift, config.speed, rng)
            if made is not None and rng.random() < NOISY_SHARE:
                source = made if self._recorded is None or rng.random() < 0.5 else self._recorded
                noise = np.roll(source[rng.integers(len(source))], rng.integers(len(sound)))
                values = values + noise * (rng.uniform(0, config.background) * level(values) / level(noise))
            if config.gain:
                values = values * np.exp(config.gain * rng.standard_normal())
            changed[number] = to_samples(values)
        return changed


def move(sound: np.ndarray, shift: float, speed: float, rng: np.random.Generator) -> np.ndarray:
    """A sound (length,) at another speed and another place in its window, float64; silence comes in.

    Between two samples stands the straight line: what that does to the highest frequencies is change, too.

    Args:
        shift: largest shift, as a share of the length.
        speed: largest change of speed, as a share of it.
    """
    length = len(sound)
    places = np.arange(length, dtype=np.float64)
    if speed:
        middle = (length - 1) / 2
        places = middle + (places - middle) * rng.uniform(1 - speed, 1 + speed)
    if shift:
        places = places - np.rint(rng.uniform(-shift, shift) * length)
    return np.interp(places, np.arange(length), sound, left=0.0, right=0.0)
