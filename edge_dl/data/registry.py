"""Named data sets: built in, generated, or downloaded from where they are published."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_dl.data import builtin, public
from edge_dl.data.download import Remote, cached, fetch
from edge_dl.data.sentences import Pairs
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.files import cache_folder
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import DataConfig, Task

UNPUBLISHED = "its publisher gives none"
UCR = "https://www.timeseriesclassification.com"
UCR_NAMES = ("ArrowHead", "BasicMotions", "ECG200", "ECG5000", "FordA", "GunPoint", "ItalyPowerDemand", "Wafer")


@dataclass(frozen=True)
class NamedSet:
    """A named data set.

    Attributes:
        name: what `data.source` calls it.
        summary: one line.
        task: the task it is mostly used for.
        licence: terms of use as the publisher states them.
        homepage: where it is described.
        kind: "built-in", "generated" or "download".
        make: reads or generates it; built-in and generated sets take (config, task, seed=...), downloaded ones
            (path, config, task).
        remote: the file to download; None for the others.
        defaults: data settings that hold where the user and the recipe leave the general default.
    """

    name: str
    summary: str
    task: Task
    licence: str
    homepage: str
    kind: str
    make: Callable[..., Source | Pairs]
    remote: Remote | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its folder in the cache."""
        return cache_folder() / self.name


def _ucr(name: str) -> NamedSet:
    return NamedSet(
        f"ucr-{name.lower()}",
        f"UCR/UEA time series classification: {name}, official split",
        Task.CLASSIFICATION,
        "research use; cite the UCR archive (Dau et al. 2019)",
        f"{UCR}/description.php?Dataset={name}",
        "download",
        public.by_form,
        Remote(f"{UCR}/aeon-toolkit/{name}.zip", f"{name}.zip", unknown=UNPUBLISHED),
        {"form": "ts"},
    )


SETS: dict[str, NamedSet] = {
    item.name: item
    for item in (
        NamedSet(
            "digits-rows",
            "1,797 handwritten digits of 8x8 pixels, read row by row",
            Task.CLASSIFICATION,
            "CC BY 4.0",
            "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            "built-in",
            builtin.digits_rows,
        ),
        NamedSet(
            "digits",
            "1,797 handwritten digits as grey pictures of 8x8 pixels",
            Task.CLASSIFICATION,
            "CC BY 4.0",
            "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            "built-in",
            builtin.digits,
        ),
        NamedSet(
            "python-topics",
            "English prose about Python, from the help that ships with CPython",
            Task.LANGUAGE_MODEL,
            "PSF-2.0",
            "https://docs.python.org/3/license.html",
            "built-in",
            builtin.python_topics,
        ),
        NamedSet(
            "adding",
            "the adding problem: remember two numbers of a long sequence",
            Task.REGRESSION,
            "generated, no licence needed",
            "https://doi.org/10.1162/neco.1997.9.8.1735",
            "generated",
            builtin.adding,
        ),
        NamedSet(
            "seasonal",
            "an hourly series with trend, daily and weekly cycle and noise",
            Task.FORECAST,
            "generated, no licence needed",
            "",
            "generated",
            builtin.seasonal,
            defaults={"window": 48, "horizon": 24, "season": 24},
        ),
        NamedSet(
            "vowel-words",
            "made speech: six words of vowels, unknown words and silence, from a formant synthesizer",
            Task.CLASSIFICATION,
            "generated, no licence needed",
            "",
            "generated",
            builtin.vowel_words,
        ),
        NamedSet(
            "toy-translation",
            "made sentence pairs, English to French: numbers and dates to words, and composed sentences (a toy)",
            Task.TRANSLATION,
            "generated, no licence needed",
            "",
            "generated",
            builtin.toy_translation,
            defaults={"vocabulary": 600, "window": 24},
        ),
        NamedSet(
            "uci-har",
            "smartphone accelerometer and gyroscope, 6 activities, 30 subjects, official subject split",
            Task.CLASSIFICATION,
            "CC BY 4.0",
            "https://doi.org/10.24432/C54S4K",
            "download",
            public.uci_har,
            Remote(
                "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip",
                "uci-har.zip",
                "c00b803081a5c797cd5e4b83700a9810b38d53d9d84e01917e090e1fdbc81031",
                61_005_872,
            ),
        ),
        NamedSet(
            "etth1",
            "electricity transformer temperature, hourly; months 1-12, 13-16 and 17-20",
            Task.FORECAST,
            "CC BY-ND 4.0",
            "https://github.com/zhouhaoyi/ETDataset",
            "download",
            public.by_form,
            Remote(
                "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
                "ETTh1.csv",
                "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
                2_589_657,
            ),
            # The split of Zhou et al. 2021 (Informer): months of 30 days.
            {"window": 96, "horizon": 24, "season": 24, "target": "OT", "boundaries": (8_640, 11_520, 14_400)},
        ),
        NamedSet(
            "jena-climate",
            "weather at Jena 2009-2016, every 10 minutes, 14 quantities",
            Task.FORECAST,
            "no licence stated; Max Planck Institute for Biogeochemistry",
            "https://www.bgc-jena.mpg.de/wetter/",
            "download",
            public.by_form,
            Remote(
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/jena_climate_2009_2016.csv.zip",
                "jena_climate_2009_2016.csv.zip",
                bytes=13_568_290,
                unknown=UNPUBLISHED,
            ),
            {"window": 144, "horizon": 36, "season": 144, "target": "T (degC)", "stride": 36, "form": "csv"},
        ),
        NamedSet(
            "beijing-pm25",
            "hourly fine dust and weather in Beijing 2010-2014, with gaps",
            Task.FORECAST,
            "CC BY 4.0",
            "https://doi.org/10.24432/C5JS49",
            "download",
            public.by_form,
            Remote(
                "https://archive.ics.uci.edu/static/public/381/beijing+pm2+5+data.zip",
                "beijing-pm25.zip",
                unknown=UNPUBLISHED,
            ),
            {
                "window": 72,
                "horizon": 12,
                "season": 24,
                "target": "pm2.5",
                "missing": "forward",
                "form": "csv",
                "columns": ("pm2.5", "DEWP", "TEMP", "PRES", "Iws", "Is", "Ir"),
            },
        ),
        NamedSet(
            "tiny-shakespeare",
            "1.1 MB of Shakespeare's plays",
            Task.LANGUAGE_MODEL,
            "text in the public domain; the collection states no licence",
            "https://github.com/karpathy/char-rnn",
            "download",
            public.by_form,
            Remote(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "tiny-shakespeare.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                1_115_394,
            ),
        ),
        NamedSet(
            "text8",
            "100 MB of English Wikipedia, reduced to the letters a to z",
            Task.LANGUAGE_MODEL,
            "text of Wikipedia of March 2006, under its terms",
            "http://mattmahoney.net/dc/textdata.html",
            "download",
            public.text8,
            Remote("http://mattmahoney.net/dc/text8.zip", "text8.zip", bytes=31_344_016, unknown=UNPUBLISHED),
        ),
        *map(_ucr, UCR_NAMES),
    )
}


def list_sets() -> list[NamedSet]:
    """Every named set, built-in ones first."""
    order = {"built-in": 0, "generated": 1, "download": 2}
    return sorted(SETS.values(), key=lambda item: (order[item.kind], item.name))


def find(name: str) -> NamedSet:
    """The set called `name`.

    Raises:
        UsageError: there is none; the message names the nearest ones.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=3, cutoff=0.4)
        raise UsageError(
            "There is no such data set.",
            received=name,
            todo=f"{'Did you mean ' + ', '.join(near) + '? ' if near else ''}`edge-dl data list` shows the sets.",
        )
    return SETS[name]


def describe(item: NamedSet) -> dict[str, Any]:
    """What is known of a set without opening it, as plain JSON values."""
    described: dict[str, Any] = {
        "name": item.name,
        "summary": item.summary,
        "task": item.task.value,
        "kind": item.kind,
        "synthetic": item.kind == "generated",
        "licence": item.licence,
        "homepage": item.homepage,
        "defaults": {key: list(value) if isinstance(value, tuple) else value for key, value in item.defaults.items()},
    }
    if item.remote is not None:
        described |= {
            "url": item.remote.url,
            "bytes": item.remote.bytes,
            "sha256": item.remote.sha256,
            "sha256_unknown_because": item.remote.unknown,
            "cached": cached(item.remote, item.folder),
            "path": str(item.folder / item.remote.name),
        }
    return described


def info(name: str) -> dict[str, Any]:
    """`describe` of the set called `name`.

    Raises:
        UsageError: there is no such set.
    """
    return describe(find(name))


def get(name: str, progress: Progress = SILENT) -> Path | None:
    """Download a set where that is needed; its file in the cache, or None for a set that needs no file.

    Raises:
        UsageError: there is no such set.
        StageError: the download failed.
    """
    item = find(name)
    return fetch(item.remote, item.folder, progress=progress) if item.remote else None


def default_task(source: str) -> Task | None:
    """The task of a named set, or None for a path."""
    return SETS[source].task if source in SETS else None


def with_defaults(config: DataConfig) -> DataConfig:
    """`config` with a named set's own defaults where it holds the general default."""
    item = SETS.get(config.source)
    if item is None:
        return config
    general = {entry.name: entry.default for entry in dataclasses.fields(DataConfig)}
    changes = {key: value for key, value in item.defaults.items() if getattr(config, key) == general[key]}
    return dataclasses.replace(config, **changes)


def open_set(config: DataConfig, task: Task | None, *, seed: int, progress: Progress = SILENT) -> Source | Pairs:
    """The set that `config.source` names, downloaded when it is not in the cache.

    Raises:
        UsageError: there is no such set, or settings do not fit it.
        StageError: the download failed.
    """
    item = find(config.source)
    if item.remote is None:
        source = item.make(config, task, seed=seed)
        return dataclasses.replace(source, licence=source.licence or item.licence)
    path = fetch(item.remote, item.folder, progress=progress)
    source = item.make(path, config, task)
    return dataclasses.replace(source, name=item.name, source=item.remote.url, licence=item.licence)
