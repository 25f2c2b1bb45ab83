"""An index of a folder of photos: one vector a photo, made by an encoder's bundle, kept in the cache.

Only photos that are new or changed are encoded again: a photo is known by its path, size and time of change.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_dl.bundle import Bundle
from edge_dl.data.pictures import decode, is_picture
from edge_dl.errors import UsageError
from edge_dl.files import cache_folder, load_npz, save_npz
from edge_dl.progress import SILENT, Progress
from edge_dl.recipe import Task
from edge_dl.runtime import Session, open_session

AT_A_TIME = 64


@dataclass(frozen=True)
class Encoder:
    """What turns photos into vectors.

    Args:
        bundle: of a model that embeds: one picture in, one vector of length 1 out.

    Raises:
        UsageError: the bundle is of another kind.
    """

    bundle: Bundle

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
        if manifest.task != Task.EMBEDDING.value or len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
            raise UsageError(
                "Photos are compared by an encoder.",
                received=f"{self.bundle.folder}, a bundle for {manifest.task}",
                todo="Make one: edge-dl run photo-encoder --data photos/",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures it takes."""
        shape = self.bundle.manifest.signature.inputs[0].shape
        return shape[1], shape[2]

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """Vectors (samples, features) of length 1 for pictures (samples, height, width, 3) uint8."""
        signature = self.bundle.manifest.signature
        answers = self._session.predict({signature.inputs[0].name: pictures})
        return _unit(answers[signature.outputs[0].name])

    @functools.cached_property
    def _session(self) -> Session:
        """The loaded model, whose file was checked against its hash."""
        return open_session(self.bundle.folder)


@dataclass(frozen=True)
class PhotoIndex:
    """Vectors of a folder's photos.

    Attributes:
        folder: the folder.
        names: paths inside it.
        vectors: (photos, features) of length 1.
        left_out: files that are no whole pictures, with the reason.
    """

    folder: Path
    names: tuple[str, ...]
    vectors: np.ndarray
    left_out: Mapping[str, str]

    def nearest(self, vector: np.ndarray, count: int) -> list[tuple[str, float]]:
        """The photos most like a vector of length 1, with their cosine similarity, the most similar first."""
        similarity = self.vectors @ vector
        order = np.argsort(-similarity, kind="stable")[:count]
        return [(self.names[place], float(similarity[place])) for place in order]


def read_photo(path: Path, size: tuple[int, int]) -> np.ndarray:
    """One photo as an encoder takes it, (height, width, 3) uint8.

    Raises:
        UsageError: it cannot be read, or is no whole picture.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError("A photo must be readable.", received=f"{path} ({error.strerror})") from None
    try:
        return decode(content, size)
    except UsageError as error:
        raise UsageError(error.rule, received=f"{path}: {error.received}") from None


def index_photos(encoder: Encoder, folder: Path, progress: Progress = SILENT) -> PhotoIndex:
    """Encode the photos of `folder` and of the folders in it that are not in the cache yet.

    Raises:
        UsageError: there is no such folder, or no whole picture in it.
    """
    if not folder.is_dir():
        raise UsageError("Photos are searched in a folder.", received=str(folder))
    files = {item.relative_to(folder).as_posix(): item for item in sorted(folder.rglob("*"))
             if item.is_file() and is_picture(item.name) and not item.name.startswith(".")}  # fmt: skip
    marks = {name: f"{item.stat().st_size} {item.stat().st_mtime_ns} {name}" for name, item in files.items()}
    cache = _cache_file(encoder, folder)
    known = _read_cache(cache)
    left_out: dict[str, str] = {}
    waiting = [name for name in files if marks[name] not in known]
    with progress.step(f"Indexing {folder}", len(waiting)) as step:
        for start in range(0, len(waiting), AT_A_TIME):
            names = waiting[start : start + AT_A_TIME]
            pictures: dict[str, np.ndarray] = {}
            for name in names:
                try:
                    pictures[name] = read_photo(files[name], encoder.size)
                except UsageError as error:
                    left_out[name] = error.received.removeprefix(f"{files[name]}: ")
            if pictures:
                vectors = encoder.encode(np.stack(list(pictures.values())))
                known |= {marks[name]: vector for name, vector in zip(pictures, vectors, strict=True)}
                _write_cache(cache, known)
            step.advance(len(names))
    names_known = [name for name in files if marks[name] in known]
    if not names_known:
        raise UsageError("There must be a photo to search.", received=f"{folder} without a whole picture")
    return PhotoIndex(folder, tuple(names_known), np.stack([known[marks[name]] for name in names_known]), left_out)


def _cache_file(encoder: Encoder, folder: Path) -> Path:
    model = encoder.bundle.manifest.files["model.tflite"]["sha256"]
    key = hashlib.sha256(f"{model} {encoder.size} {folder.resolve()}".encode()).hexdigest()
    return cache_folder() / "photos" / f"{key[:32]}.npz"


def _read_cache(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        arrays = load_npz(path)
        return dict(zip(arrays["marks"].tolist(), arrays["vectors"], strict=True))
    except (UsageError, KeyError, ValueError):
        return {}  # A damaged cache is made again.


def _write_cache(path: Path, known: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_npz(path, {"marks": np.array(list(known)), "vectors": np.stack(list(known.values()))})


def _unit(vectors: np.ndarray) -> np.ndarray:
    # An integer model's vectors are of length 1 up to its rounding.
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def contact_sheet(index: PhotoIndex, query: Path, found: Sequence[tuple[str, float]], path: Path) -> None:
    """Write a picture of the query and what was found, with names and similarities; the file's name tells its type.

    Raises:
        UsageError: the file's name is no picture's.
    """
    from PIL import Image, ImageDraw

    from edge_dl.files import atomic_path

    side, text, columns = 180, 34, 4
    if not is_picture(path.name):
        raise UsageError("A contact sheet is a picture.", received=str(path), todo="Name it .jpg or .png.")
    shown = [(query, "query"), *((index.folder / name, f"{similarity:.3f}  {name}") for name, similarity in found)]
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (side + 10) + 10, rows * (side + text) + 10), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (file, words) in enumerate(shown):
        left, top = 10 + place % columns * (side + 10), 10 + place // columns * (side + text)
        sheet.paste(Image.fromarray(read_photo(file, (side, side))), (left, top))
        if not place:
            draw.rectangle((left - 3, top - 3, left + side + 2, top + side + 2), outline="#c2410c", width=3)
        fits = words if len(words) <= 28 else words[:10] + "..." + words[-15:]
        draw.text((left, top + side + 6), fits, fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)
