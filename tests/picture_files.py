"""Pictures for tests: photographs that nobody took."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def draw(seed: int, size: tuple[int, int] = (40, 48), hue: int = 0) -> Image.Image:
    """A smooth pattern of one colour; `size` is height and width."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    wave = np.sin(x / rng.uniform(3, 8) + rng.uniform(0, 6)) + np.cos(y / rng.uniform(3, 8) + rng.uniform(0, 6))
    values = np.zeros((*size, 3))
    values[..., hue % 3] = 128 + 60 * wave
    values[..., (hue + 1) % 3] = 40 + 10 * wave
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def make_folder(root: Path, classes: int = 3, each: int = 12, parts: tuple[str, ...] = ()) -> Path:
    """PNG files in one folder a class, of several sizes."""
    for part in parts or ("",):
        for number in range(classes):
            folder = root / part / f"kind {number}"
            folder.mkdir(parents=True)
            for place in range(each):
                seed = 1000 * len(part) + 100 * number + place
                size = (40 + place % 3, 48)
                (folder / f"{place:02d}.png").write_bytes(encoded(draw(seed, size, number)))
    return root
