"""Files that come as a training and a test file: `NAME_TRAIN.ts` beside `NAME_TEST.ts`."""

from __future__ import annotations

import re

from edge_dl.data.files import DataFile
from edge_dl.errors import UsageError

PART = re.compile(r"^(?P<stem>.+)_(?P<part>train|test)(?P<rest>(\..+)?)$", re.IGNORECASE)
OTHER = {"train": "test", "test": "train", "Train": "Test", "Test": "Train", "TRAIN": "TEST", "TEST": "TRAIN"}


def train_and_test(file: DataFile) -> tuple[str, dict[str, DataFile]]:
    """The set's name, and its files by part: "train" and "test" when both are there, else "all".

    Raises:
        UsageError: `file` is a test file without its training file.
    """
    match = PART.match(file.name)
    if match is None:
        return file.name.split(".")[0], {"all": file}
    stem, part, rest = match["stem"], match["part"], match["rest"]
    other = file.sibling(f"{stem}_{OTHER.get(part, part)}{rest}")
    if other is None:
        if part.lower() == "test":
            raise UsageError(
                "A test file needs its training file beside it.", received=str(file), todo=f"Add {stem}_TRAIN{rest}."
            )
        return stem, {"all": file}
    return stem, {"train": file, "test": other} if part.lower() == "train" else {"train": other, "test": file}
