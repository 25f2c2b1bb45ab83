"""On-disk forms: one module a form, chosen by `DataConfig.form` or by the file's name.

A form's module has `read(file, config, task) -> Source`; that of sentence pairs gives `Pairs`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from edge_dl.data import pictures, sounds
from edge_dl.data.files import DataFile, DataFolder
from edge_dl.data.sentences import Pairs
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
        folder: whether it is a folder, or an archive of one, told by the files inside.
    """

    module: str
    suffixes: tuple[str, ...]
    summary: str
    folder: bool = False


SENTENCES = "sentences"
FORMS = {
    "npz": Form(
        "npz",
        (".npz",),
        "arrays: x_train, y_train, x_test, y_test (x_val, y_val); or X, y, is_test (subject); or x/NAME, y/NAME",
    ),
    "csv": Form("csv", (".csv", ".tsv"), "a series, one row a time step, cut into windows (data.window, data.horizon)"),
    "rows": Form("rows", (), "a table, one row a sample: label and series values (CSV, TSV or blanks)"),
    "ts": Form("ts", (".ts",), "UCR/UEA time series classification, NAME_TRAIN.ts beside NAME_TEST.ts"),
    "pictures": Form("pictures", pictures.SUFFIXES, "a folder (or .zip) of pictures, one folder a class", folder=True),
    "sounds": Form(
        "sounds",
        sounds.SUFFIXES,
        "a folder (or .zip) of wav files, one folder a class, or with manifest.csv (file, label, speaker, split)",
        folder=True,
    ),
    "text": Form("text", (".txt",), "plain text for a language model (data.level, data.window)"),
    SENTENCES: Form(
        "sentences",
        (),
        "sentence pairs for translation: a table of two columns, or a folder (or .zip) of train, val and test",
        folder=True,
    ),
}

_FOLDERS = tuple(name for name, item in FORMS.items() if item.folder)


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source | Pairs:
    """Read `file` in the form that `config.form`, its name, or the files inside it tell.

    Raises:
        UsageError: the form is unknown or the file breaks the form's rules.
    """
    if config.form and config.form not in FORMS:
        raise _unknown(file, config)
    # Arrays are tokens already, for a model of the user's own.
    text = task is Task.TRANSLATION and not file.name.lower().endswith(".npz")
    if (config.form or (SENTENCES if text else "")) == SENTENCES:
        from edge_dl.data.forms import sentences  # A table's name, .tsv or .txt, tells other forms as well.

        return sentences.read(file, config, task)
    holds_files = not file.member and (file.path.is_dir() or file.name.lower().endswith(".zip"))
    form = config.form or (_form_inside(file) if holds_files else "")
    if form and FORMS[form].folder:
        if not holds_files:
            raise UsageError(f"The form {form} is a folder or a .zip.", received=str(file))
    else:
        if not file.member and file.path.is_dir():
            if not form:
                raise _unknown(file, config)
            raise UsageError(f"The form {form} is a file.", received=f"{file.path}, a folder")
        if holds_files:
            file = _only_member(file, form)
        form = form or form_of(file.name)
    if form not in FORMS:
        raise _unknown(file, config)
    module = importlib.import_module(f"{__name__}.{FORMS[form].module}")
    source: Source = module.read(file, config, task)
    return source


def _unknown(file: DataFile, config: DataConfig) -> UsageError:
    return UsageError(
        "The form of the data must be known."
        if config.form
        else "A file's name, or most files in it, must tell its form.",
        received=config.form or str(file),
        todo="Set data.form to one of: " + "; ".join(f"{name} ({item.summary})" for name, item in FORMS.items()),
    )


def _form_inside(file: DataFile) -> str:
    """The folder form that most files in a folder or archive have, or "" where most are something else."""
    with DataFolder(file.path) as folder:
        names = folder.names()
    counts = {form: sum(_ends(name, FORMS[form].suffixes) for name in names) for form in _FOLDERS}
    form = max(counts, key=lambda name: counts[name])
    return form if 2 * counts[form] > len(names) else ""


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
    """The form that a single file's name tells, or ""."""
    return next((form for form, item in FORMS.items() if not item.folder and _ends(name, item.suffixes)), "")


def _ends(name: str, suffixes: tuple[str, ...]) -> bool:
    return bool(suffixes) and name.lower().removesuffix(".gz").endswith(suffixes)
