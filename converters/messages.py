"""What other people's code raised, as part of one line of ours."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def one_line(error: object, limit: int | None = 400) -> str:
    """An error's text on one line, without the colours that Keras adds, cut after `limit` if there is one."""
    text = " ".join(_COLOURS.sub("", str(error)).split())
    return text if limit is None or len(text) <= limit else text[:limit] + " ..."
