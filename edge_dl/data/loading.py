"""`load`: from a data setting to a checked data set."""

from __future__ import annotations

from dataclasses import replace

from edge_dl.data.dataset import Dataset
from edge_dl.data.source import finish
from edge_dl.errors import UsageError
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import DataConfig, Task

INPUTS = ("", "sequence", "image")
FITS = ("crop", "stretch")


def load(
    config: DataConfig, task: Task | None, *, seed: int = 0, progress: Progress = SILENT, trains: bool = True
) -> Dataset:
    """Load the data that `config` names.

    Args:
        config: `config.source` is a name from `edge-dl data list` or a path; see `DataConfig`.
        task: what the data is for. None: arrays for a model of the user's own (npz only); labels are not checked.
        seed: decides held-out parts and generated data.
        progress: hears of downloads.
        trains: whether a model will be trained on it: then every named class must stand in the training part.

    Raises:
        UsageError: an unknown name or form, a missing or broken file, or data that breaks a rule.
    """
    from edge_dl.data import forms, registry
    from edge_dl.data.files import locate
    from edge_dl.data.sentences import Pairs, tokenize

    _check(config)
    if config.source in registry.SETS:
        config = registry.with_defaults(config)
        source = registry.open_set(config, task, seed=seed, progress=progress)
    else:
        source = forms.read(locate(config.source, registry.SETS), config, task)
    if isinstance(source, Pairs):
        return tokenize(source, config, task, seed=seed)
    if task is Task.TRANSCRIPTION and source.rate:  # Single words; other forms hold strings as they are.
        from edge_dl.data.strings import join_dataset

        # Parts are cut between single words, so that none is heard in two of them.
        words, limit = replace(source, noise=()), replace(config, limit=0)
        single = finish(words, limit, Task.CLASSIFICATION, seed=seed, trains=trains)
        return join_dataset(single, source.speakers, config, seed=seed, noise=source.noise)
    return finish(source, config, task, seed=seed, trains=trains)


def _check(config: DataConfig) -> None:
    if not config.source:
        raise UsageError(
            "Data must be named.", todo="Give --data: a set from `edge-dl data list`, a file, or a folder of pictures."
        )
    if config.input not in INPUTS:
        raise UsageError("data.input must be sequence, image or empty.", received=config.input)
    if config.fit not in FITS:
        raise UsageError("data.fit must be crop or stretch.", received=config.fit)
    for key in ("limit", "window", "horizon", "stride", "season", "vocabulary", "length", "samples", "rate", "seconds"):
        if getattr(config, key) < 0:
            raise UsageError(f"data.{key} must not be negative.", received=str(getattr(config, key)))
