"""On-disk forms: one module a form, chosen by `DataConfig.form` or by the file's name.

A form's module has `read(file, config, task) -> Source`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from edge_dl.data.files import DataFile
from edge_dl.data.source import Source
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task


@dataclass(frozen=True)
class Form:
    """An on-disk form.

    Attributes:
        module: where its `read` is, below `edge_dl.data.forms`.
        suffixes: file name endings that tell it; `.gz` may follow.
        summary: one line for lists and messages.
    """

    module: str
    suffixes: tuple[str, ...]
    summary: str


FORMS = {
    "npz": Form(
        "npz",
        (".npz",),
        "arrays: x_train, y_train, x_test, y_test (x_val, y_val); or X, y, is_test (subject); or x/NAME, y/NAME",
    ),
    "csv": Form("csv", (".csv", ".tsv"), "a series, one row a time step, cut into windows (data.window, data.horizon)"),
    "rows": Form("rows", (), "a table, one row a sample: label and series values (CSV, TSV or blanks)"),
    "ts": Form("ts", (".ts",), "UCR/UEA time series classification, NAME_TRAIN.ts beside NAME_TEST.ts"),
    "text": Form("text", (".txt",), "plain text for a language model (data.level, data.window)"),
}


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read `file` in the form that `config.form` or its name tells.

    Raises:
        UsageError: the form is unknown or the file breaks the form's rules.
    """
    if not file.member and file.name.lower().endswith(".zip"):
        file = _only_member(file, config.form)
    form = config.form or form_of(file.name)
    if form not in FORMS:
        raise UsageError(
            "The form of the data must be known." if config.form else "The file's name must tell its form.",
            received=config.form or str(file),
            todo="Set data.form to one of: " + "; ".join(f"{name} ({item.summary})" for name, item in FORMS.items()),
        )
    if not file.member and file.path.is_dir():
        raise UsageError(f"The form {form} is a file.", received=f"{file.path}, a folder")
    module = importlib.import_module(f"{__name__}.{FORMS[form].module}")
    source: Source = module.read(file, config, task)
    return source


def _only_member(archive: DataFile, form: str) -> DataFile:
    """The one data file of a zip archive; a training file stands for its pair."""
    found = [name for name in archive.members() if (form_of(name) == form if form else form_of(name))]
    training = [name for name in found if "_train." in name.lower()]
    chosen = training if len(training) == 1 else found
    if len(chosen) != 1:
        listed = ", ".join(found[:8]) or "none"
        raise UsageError(
            "An archive with several data files, or none, needs the member's name.",
            received=f"{archive} with {listed}{' and others' if len(found) > 8 else ''}",
            todo=f"Write {archive}::MEMBER, and data.form where the name does not tell it.",
        )
    return DataFile(archive.path, chosen[0])


def form_of(name: str) -> str:
    """The form that a file name tells, or ""."""
    stem = name.lower().removesuffix(".gz")
    return next((form for form, item in FORMS.items() if stem.endswith(item.suffixes or ("\0",))), "")
