"""What a command was pointed at: a recipe, a run folder, a bundle, or a model of the user's own."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge_dl.bundle import MANIFEST
from edge_dl.errors import UsageError
from edge_dl.runfolder import RECORD

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


class Kind(str, Enum):
    """Kinds of things that a command takes."""

    RECIPE = "recipe"
    RUN = "run folder"
    BUNDLE = "bundle"
    KERAS = "Keras model"
    SAVED_MODEL = "SavedModel"
    TFLITE = ".tflite file"


@dataclass(frozen=True)
class Source:
    """What a command was pointed at.

    Attributes:
        kind: what it is.
        name: the recipe's name, or a name made from the path's last part.
        path: where it lies; None for a recipe.
    """

    kind: Kind
    name: str
    path: Path | None = None

    @property
    def is_model(self) -> bool:
        """Whether it is a model of the user's own that can be converted."""
        return self.kind in (Kind.KERAS, Kind.SAVED_MODEL, Kind.TFLITE)


def resolve(text: str, allowed: tuple[Kind, ...]) -> Source:
    """Tell what `text` names.

    A recipe's name wins over a folder of the same name: write `./lstm` for the folder.

    Raises:
        UsageError: it names nothing, or something that the command does not take.
    """
    from edge_dl.training.recipes import RECIPES

    source = _look(text, RECIPES)
    if source is None:
        near = difflib.get_close_matches(text, RECIPES, n=2)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"Name a {_one_of(allowed)}.",
            received=f"{text!r}, which is no recipe and no such path",
            todo=f"{hint}`edge-dl list` shows the recipes: {', '.join(RECIPES)}.",
        )
    if source.kind not in allowed:
        raise UsageError(f"This command takes a {_one_of(allowed)}.", received=f"{text!r}, a {source.kind.value}")
    return source


def _look(text: str, recipes: object) -> Source | None:
    if isinstance(recipes, dict) and text in recipes:
        return Source(Kind.RECIPE, text)
    path = Path(text)
    name = path.resolve().stem
    if path.is_dir():
        for member, kind in ((RECORD, Kind.RUN), (MANIFEST, Kind.BUNDLE), ("saved_model.pb", Kind.SAVED_MODEL)):
            if (path / member).is_file():
                return Source(kind, name, path)
        return None
    if not path.is_file():
        return None
    if path.suffix.lower() in KERAS_SUFFIXES:
        return Source(Kind.KERAS, name, path)
    if path.suffix.lower() == ".tflite":
        return Source(Kind.TFLITE, name, path)
    return None


def _one_of(kinds: tuple[Kind, ...]) -> str:
    names = [kind.value for kind in kinds]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
