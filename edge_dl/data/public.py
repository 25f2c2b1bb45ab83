"""Public sets whose files need a reader of their own."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from edge_dl.data.builtin import check_task
from edge_dl.data.dataset import Split
from edge_dl.data.files import DataFile
from edge_dl.data.forms import read as read_form
from edge_dl.data.sentences import Pairs
from edge_dl.data.source import Source
from edge_dl.data.tokens import cut_text
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

HAR_SIGNALS = (
    "body_acc_x", "body_acc_y", "body_acc_z",
    "body_gyro_x", "body_gyro_y", "body_gyro_z",
    "total_acc_x", "total_acc_y", "total_acc_z",
)  # fmt: skip


def uci_har(path: Path, config: DataConfig, task: Task | None) -> Source:
    """UCI Human Activity Recognition Using Smartphones: (128 steps, 9 signals), 6 activities, official subject split.

    `config.columns` chooses among the nine inertial signals. Windows overlap by half, so validation holds out whole
    subjects.

    Raises:
        UsageError: the task is not classification, a signal is unknown, or the archive is not what it should be.
    """
    check_task("uci-har", task, Task.CLASSIFICATION)
    signals = config.columns or HAR_SIGNALS
    for signal in signals:
        if signal not in HAR_SIGNALS:
            raise UsageError(
                "data.columns must name signals of uci-har.",
                received=signal,
                todo=f"They are {', '.join(HAR_SIGNALS)}.",
            )
    try:
        with zipfile.ZipFile(path) as outer, zipfile.ZipFile(io.BytesIO(outer.read("UCI HAR Dataset.zip"))) as archive:
            labels = tuple(line.split()[1].lower() for line in _text(archive, "activity_labels.txt").splitlines())
            parts, groups, start = {}, {}, 0
            for part in ("train", "test"):
                columns = [_numbers(archive, f"{part}/Inertial Signals/{name}_{part}.txt") for name in signals]
                x = np.stack(columns, axis=-1).astype(np.float32)
                y = _numbers(archive, f"{part}/y_{part}.txt")[:, 0].astype(np.int32) - 1
                groups[part] = _numbers(archive, f"{part}/subject_{part}.txt")[:, 0].astype(np.int64)
                parts[part] = Split({"sequence": x}, {"label": y}, np.arange(start, start + len(x)))
                start += len(x)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, IndexError, OSError, RuntimeError) as error:
        raise UsageError(
            "The file must be the archive of UCI HAR.",
            received=f"{path} ({error})",
            todo="Delete it and get it again: edge-dl data get uci-har.",
        ) from None
    return Source("uci-har", parts, groups, labels)


def text8(path: Path, config: DataConfig, task: Task | None) -> Source:
    """The first 10^8 bytes of cleaned English Wikipedia (a to z and blanks).

    Raises:
        UsageError: the task is not language model, or the archive has no member `text8`.
    """
    text = DataFile(path, "text8").text()
    return cut_text(text, config, task, name="text8", source="")


def by_form(path: Path, config: DataConfig, task: Task | None) -> Source | Pairs:
    """A set whose file is in one of the on-disk forms."""
    return read_form(DataFile(path), config, task)


def _text(archive: zipfile.ZipFile, name: str) -> str:
    return archive.read(f"UCI HAR Dataset/{name}").decode()


def _numbers(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.loadtxt(io.StringIO(_text(archive, name)), ndmin=2)
