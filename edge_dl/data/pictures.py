"""From a picture file to the pixels that a camera would give: upright, RGB, of one size.

JPEG, PNG, WebP, BMP, GIF (its first frame) and TIFF, read by Pillow. What the camera noted about its own rotation
(EXIF) is applied; transparent places become white; grey becomes RGB.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edge_dl.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# EXIF orientations that swap width and height (CIPA DC-008, tag 0x0112).
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)


def is_picture(name: str) -> bool:
    """Whether a file's name is a picture's."""
    return name.lower().endswith(SUFFIXES)


def picture_size(content: bytes) -> tuple[int, int]:
    """Height and width of a picture as it is to be seen, from its header alone.

    Raises:
        UsageError: see `decode`.
    """
    with _opened(content) as picture:
        width, height = picture.size
        return (width, height) if picture.getexif().get(_ORIENTATION) in _ON_ITS_SIDE else (height, width)


def decode(content: bytes, size: tuple[int, int] | None = None, *, stretch: bool = False) -> np.ndarray:
    """The pixels of a picture file, (height, width, 3) uint8.

    Args:
        content: the file's bytes.
        size: height and width to give. The picture is scaled until it covers them (an antialiased triangle filter, as
            `PIL.Image.BILINEAR` is) and cut at the middle. None: as it is.
        stretch: scale height and width each by its own factor instead, and cut nothing.

    Raises:
        UsageError: it is no picture, is cut off, or has so many pixels that it is taken for an attack (Pillow's limit,
            178 million).
    """
    from PIL import Image, ImageOps

    with _opened(content) as picture:
        if size is not None:
            # A JPEG can be decoded at an eighth of its size at once; turned or not, this covers what is asked for.
            picture.draft("RGB", (max(size), max(size)))
        upright = _rgb(ImageOps.exif_transpose(picture))
        if size is not None and (upright.height, upright.width) != tuple(size):
            wanted = (size[1], size[0])
            if stretch:
                upright = upright.resize(wanted, Image.Resampling.BILINEAR)
            else:
                upright = ImageOps.fit(upright, wanted, Image.Resampling.BILINEAR)
        return np.array(upright, np.uint8)


def _rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        # Deep grey: eight bits of it. PNG and TIFF store 16; Pillow opens either as I;16 or I.
        values = np.asarray(picture, np.float64)
        return Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return picture.convert("RGB")


@contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # A large picture is a photograph more often than an attack; the error beyond twice as many pixels stays.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as picture:
                yield picture
    except UnidentifiedImageError:
        raise UsageError("A picture file must hold a picture.", received=_kind(content)) from None
    except Image.DecompressionBombError as error:
        raise UsageError("A picture must stay below 178 million pixels.", received=str(error)) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        # Pillow's decoders answer damage with all of these.
        raise UsageError("A picture file must be whole.", received=str(error) or type(error).__name__) from None


def _kind(content: bytes) -> str:
    return f"{len(content)} bytes that start with {content[:8]!r}" if content else "an empty file"
