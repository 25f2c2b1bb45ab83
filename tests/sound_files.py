"""Sounds for tests: wav files of every kind, written byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
# The first two bytes of a GUID are the plain format; these fourteen follow (mmreg.h, KSDATAFORMAT_SUBTYPE_PCM).
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def tone(rate: int = 8000, seconds: float = 0.5, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """A sine, float64 (samples,)."""
    return level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def wav(values: np.ndarray, rate: int = 8000, bits: int = 16, *, kind: int = PCM, extensible: bool = False) -> bytes:
    """A wav file of `values` from -1 to 1, (samples,) or (samples, channels)."""
    values = np.atleast_2d(values.T).T
    channels = values.shape[1]
    if kind == FLOAT:
        data = values.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        data = np.clip(np.rint(values * 128 + 128), 0, 255).astype(np.uint8).tobytes()
    else:
        full = 1 << (bits - 1)
        whole = np.clip(np.rint(values * full), -full, full - 1).astype("<i8")
        data = whole.reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", EXTENSIBLE if extensible else kind, channels, rate, rate * block, block, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 0, kind) + GUID_TAIL
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def make_folder(root: Path, classes: int = 3, each: int = 12, parts: tuple[str, ...] = ()) -> Path:
    """Tones in one folder a class, half a second at 8 kHz."""
    for part in parts or ("",):
        for number in range(classes):
            folder = root / part / f"tone {number}"
            folder.mkdir(parents=True)
            for place in range(each):
                hertz = 300 * (number + 1) + place + 20 * len(part)
                (folder / f"{place:02d}.wav").write_bytes(wav(tone(hertz=hertz)))
    return root
