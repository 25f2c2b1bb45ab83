"""Plain text, UTF-8, for a language model of characters or words."""

from __future__ import annotations

from edge_dl.data.files import DataFile
from edge_dl.data.source import Source
from edge_dl.data.tokens import cut_text
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read a text file and cut it into windows.

    Raises:
        UsageError: the file is not UTF-8, holds NUL bytes (so it is no text), or is too short.
    """
    text = file.text()
    if "\0" in text:
        raise UsageError("A text file must hold text.", received=f"{file} with NUL bytes")
    return cut_text(text, config, task, name=file.name.split(".")[0], source=str(file))
