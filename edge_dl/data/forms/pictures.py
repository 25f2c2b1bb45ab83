"""Pictures in folders, or in a zip archive of such folders: one folder a class.

    photos/CLASS/*.jpg                      parts are cut
    photos/{train,test}/CLASS/*.jpg         parts as they are; `validation` (val, valid) too where it is there

Files whose name starts with a dot are left alone. A file that is no whole picture is left out and named in the notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_dl.data import pictures
from edge_dl.data.dataset import Split, output_name
from edge_dl.data.files import DataFile, DataFolder
from edge_dl.data.forms.folders import each, none_whole, note_broken, places, require_folders
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

# Pictures of several sizes become squares of at most this side: networks for phones look at 224 pixels and fewer.
LARGEST_SIDE = 256
# As they come they may be larger: a camera's own frames are what the device will feed.
LARGEST_FRAME = 640


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read folders of pictures as `image` (samples, height, width, 3) uint8 with `label`, classes in order of name.

    All pictures become one size, what the camera will give: `data.size` where it is set; else as they come where all
    are alike; else a square of their median short side, at most 256.

    Raises:
        UsageError: there are no pictures, no folder a class, or a class without a whole picture; or the task has no use
            for classes.
    """
    if task not in (Task.CLASSIFICATION, Task.EMBEDDING):
        raise UsageError(
            "Folders of pictures are data for classification or embedding.", received=task.value if task else "no task"
        )
    with DataFolder(file.path) as folder:
        files = sorted(name for name in folder.names() if pictures.is_picture(name))
        placed = _places(files, folder, task)
        sizes, broken = each(lambda name: pictures.picture_size(folder.content(name)), files)
        size = _size(config, list(sizes.values()), folder)
        arrays, cut_off = each(
            lambda name: pictures.decode(folder.content(name), size, stretch=config.fit == "stretch"), list(sizes)
        )
        broken |= cut_off
    whole = [name for name in files if name in arrays]
    if not whole:
        raise none_whole(folder, broken, "pictures")
    rows = {name: row for row, name in enumerate(files)}
    labels = tuple(sorted({placed[name][1] for name in files}))
    parts: dict[str, Split] = {}
    for part in dict.fromkeys(placed[name][0] for name in whole):
        names = [name for name in whole if placed[name][0] == part]
        x = np.stack([arrays.pop(name) for name in names])
        y = np.array([labels.index(placed[name][1]) for name in names], np.int32)
        parts[part] = Split({"image": x}, {output_name(task): y}, np.array([rows[name] for name in names]))
    notes = _notes(sizes, size, config.fit, broken)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
        notes.append("The source has no test part: its validation part is the test part.")
    if "test" not in parts:
        parts = {"all": parts.get("all", parts.get("train"))}  # type: ignore[dict-item]
    return Source(file.path.stem, parts, labels=labels, source=str(file.path), notes=tuple(notes))


def _places(files: Sequence[str], folder: DataFolder, task: Task) -> dict[str, tuple[str, str]]:
    """Part ("all" where there are none) and class of each picture, by its path."""
    if not files:
        raise UsageError(
            "A folder of pictures must hold pictures.",
            received=f"{folder.path} without {', '.join(pictures.SUFFIXES)} files",
        )
    placed, loose = places(files, folder, "Pictures")
    if len(loose) == len(files) and task is Task.EMBEDDING:
        return dict.fromkeys(files, ("all", folder.path.stem))  # Embedding asks for no classes.
    require_folders(files, loose, folder, "Pictures")
    return placed


def _size(config: DataConfig, sizes: Sequence[tuple[int, int]], folder: DataFolder) -> tuple[int, int]:
    if config.size:
        if len(config.size) != 2 or min(config.size) < 1:
            raise UsageError("data.size must be height,width in pixels.", received=str(config.size))
        return config.size[0], config.size[1]
    if not sizes:
        return 1, 1  # No picture is whole, which the caller says.
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_FRAME:
        return sizes[0]
    side = min(LARGEST_SIDE, int(np.median([min(size) for size in sizes])))
    return side, side


def _notes(sizes: dict[str, tuple[int, int]], size: tuple[int, int], fit: str, broken: dict[str, str]) -> list[str]:
    notes = []
    found = Counter(sizes.values())
    if set(found) != {size}:
        (height, width), _ = found.most_common(1)[0]
        others = f" and {len(found) - 1} other sizes" if len(found) > 1 else ""
        how = "stretched" if fit == "stretch" else "scaled and cut at the middle"
        notes.append(f"Pictures of {width}x{height}{others} were {how} to {size[1]}x{size[0]} pixels.")
    return notes + note_broken(broken, "pictures")
