"""What a Keras model says by itself to the sentences of a test part: a job of the export stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_dl.converters.sources import KerasSource, open_source
from edge_dl.converters.worker import note
from edge_dl.data.sentences import FILE, TABLES
from edge_dl.files import read_json
from edge_dl.text import Tables


def make_translations(
    source: str, export: str, data: str, answers: str, custom: Sequence[str] = (), unsafe: bool = False
) -> dict[str, Any]:
    """Write the model's greedy translations; nothing where it does not translate what the tables cut.

    Args:
        source: the model.
        export: folder of any of its exports, for the sizes of sources and targets.
        data: folder with sentences.json and text.json.
        answers: where to write (`edge_dl.checks.translation.ReferenceAnswers`).
        custom: the user's classes as "module:name".
        unsafe: whether Lambda layers may run.
    """
    opened = open_source(source, tuple(custom), unsafe)
    if not isinstance(opened, KerasSource):
        return {"sentences": 0}
    from edge_dl.converters.lowering import as_reference
    from edge_dl.models.translating import find_names, reference_answers

    tables = Tables.read(Path(data) / TABLES)
    names = find_names(opened.model, len(tables.target))
    if names is None:
        return {"sentences": 0}
    shapes = {spec.name: spec.shape for spec in opened.whole_inputs(Path(export))}
    sentences = [(item["source"], tuple(item["references"])) for item in read_json(Path(data) / FILE)["test"]]
    with as_reference(opened.model):
        found = reference_answers(
            opened.model,
            tables,
            sentences,
            length=shapes[names.source][1],
            longest=shapes[names.target][1],
            names=names,
            progress=_Noting(len(sentences)),
        )
    found.write(answers)
    return {"sentences": len(found.sentences)}


class _Noting:
    """A `Progress` that tells the parent."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0.0

    def say(self, message: str) -> None:
        note(message)

    @contextlib.contextmanager
    def step(self, description: str, total: float | None = None) -> Iterator[_Noting]:
        yield self

    def advance(self, amount: float = 1.0, remark: str = "") -> None:
        self.done += amount
        note(f"{self.done:.0f}/{self.total}")
