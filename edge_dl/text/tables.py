"""text.json: the vocabularies of both sides of a translation, in a bundle and in a run folder."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.files import read_json, write_atomic
from edge_dl.text.normalization import Normalization
from edge_dl.text.subwords import Subwords

FORMAT = 1
# SentencePiece's largest rules are 0.3 MB; what unpacks to more is no table of ours.
LIMIT = 1 << 24


@dataclass(frozen=True)
class Tables:
    """The vocabularies of a translation.

    The file is UTF-8 JSON: {"format": 1, "source": {"kind": .., "pieces": [..], "scores": [..], "normalization": n},
    "target": {..}, "normalizations": [rules, ..]}. Both sides point to their rules by number, and share them where they
    are equal. Rules are `Normalization.rules`, but with the trie's bytes in another order (first bytes of all units,
    then second ones, ..), compressed (zlib, RFC 1950), in base64 (RFC 4648): those of nmt_nfkc take 138 kB
    so, and 186 kB with the trie as it is.

    Attributes:
        source: what is read.
        target: what is written.
    """

    source: Subwords
    target: Subwords

    def write(self, path: str | Path) -> None:
        """Write text.json, atomically."""
        rules = list(dict.fromkeys((self.source.normalization.rules, self.target.normalization.rules)))
        value = {
            "format": FORMAT,
            "source": _plain(self.source, rules),
            "target": _plain(self.target, rules),
            "normalizations": [_packed(item) for item in rules],
        }
        write_atomic(path, json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Tables:
        """Read text.json.

        Raises:
            UsageError: the file is missing or is none.
        """
        value = read_json(path)
        try:
            if value["format"] != FORMAT:
                raise UsageError(f"This edge-dl reads text tables of format {FORMAT}.", received=str(value["format"]))
            rules = [_unpacked(item) for item in value["normalizations"]]
            return cls(_subwords(value["source"], rules), _subwords(value["target"], rules))
        except UsageError as error:
            raise UsageError(error.rule, received=f"{path}: {error.received or 'others'}", todo=error.todo) from None
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError("The file must be tables of a translation.", received=f"{path} ({reason})") from None


def _plain(subwords: Subwords, rules: list[bytes]) -> dict[str, Any]:
    return {
        "kind": subwords.kind,
        "pieces": list(subwords.pieces),
        # As few digits as tell a float32 from all others.
        "scores": [float(str(np.float32(score))) for score in subwords.scores],
        "normalization": rules.index(subwords.normalization.rules),
    }


def _subwords(value: dict[str, Any], rules: list[bytes]) -> Subwords:
    number, pieces, scores = value["normalization"], value["pieces"], value["scores"]
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise TypeError("pieces must be a list of texts")
    if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
        raise TypeError("scores must be a list of numbers")
    if type(number) is not int or not 0 <= number < len(rules):
        raise ValueError(f"there is no normalization {number!r}")
    return Subwords(value["kind"], tuple(pieces), tuple(scores), Normalization(rules[number]))


def _packed(rules: bytes) -> str:
    return base64.b64encode(zlib.compress(_turned(rules, (-1, 4)), 9)).decode("ascii")


def _turned(rules: bytes, shape: tuple[int, int]) -> bytes:
    """Rules with the trie, bytes of `shape`, written column by column."""
    end = 4 + int.from_bytes(rules[:4], "little")
    return rules[:4] + np.frombuffer(rules[4:end], np.uint8).reshape(shape).T.tobytes() + rules[end:]


def _unpacked(item: str) -> bytes:
    try:
        packed = base64.b64decode(item, validate=True)
        unpacking = zlib.decompressobj()
        rules = unpacking.decompress(packed, LIMIT)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"rules that do not unpack: {error}") from None
    if not unpacking.eof:
        raise ValueError("rules that are cut off or too large")
    return _turned(rules, (4, -1))
