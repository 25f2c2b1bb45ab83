"""SentencePiece's model files (.model) from and to `Subwords`.

A file is a protocol buffer, `ModelProto` of sentencepiece_model.proto. Its few fields that matter are read and written
here: the classes that SentencePiece ships for it demand a newer protobuf than TensorFlow may have brought.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edge_dl.errors import UsageError
from edge_dl.text import SPECIAL, UNKNOWN, Normalization, Subwords

# Numbers of fields and values, from sentencepiece_model.proto.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE, TYPE = 1, 2, 3
MODEL_TYPE, VOCAB_SIZE, UNK_ID, BOS_ID, EOS_ID, PAD_ID, SUFFIX_SPACE = 3, 4, 40, 41, 42, 43, 24
NAME, CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = 1, 2, 3, 4, 5
KINDS = {"unigram": 1, "word": 3, "character": 4}
NORMAL_PIECE, UNKNOWN_PIECE, CONTROL_PIECE = 1, 2, 3
# Wire types of protocol buffers.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Value = int | bytes


def read_model(content: bytes) -> Subwords:
    """The vocabulary of a .model file.

    Raises:
        UsageError: it is damaged, or does what `Subwords` does not: another kind (BPE), other special ids than padding
            0, unknown 1, begin 2 and end 3, symbols of the user's, bytes for unknown characters, spaces kept or placed
            otherwise.
    """
    try:
        return _read(content)
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise UsageError(
            "A SentencePiece model must be of kind unigram, word or char, with padding 0, unknown 1, begin 2, end 3, "
            "and no other special pieces.",
            received=f"{type(error).__name__}: {error}",
        ) from None


def _read(content: bytes) -> Subwords:
    pieces: list[str] = []
    scores: list[float] = []
    trainer: dict[int, Value] = {MODEL_TYPE: KINDS["unigram"], SUFFIX_SPACE: 0}
    normalizer: dict[int, Value] = {CHARSMAP: b"", DUMMY_PREFIX: 1, REMOVE_SPACES: 1, ESCAPE_SPACES: 1}
    for number, value in _fields(content):
        if number == PIECES:
            piece: dict[int, Value] = {SCORE: bytes(4), TYPE: NORMAL_PIECE}
            piece |= dict(_fields(_bytes(value)))
            if piece[TYPE] != _piece_type(len(pieces)):
                raise ValueError(f"piece {len(pieces)} is of type {piece[TYPE]!r}")
            pieces.append(_bytes(piece[PIECE]).decode("utf-8"))
            scores.append(*struct.unpack("<f", _bytes(piece[SCORE])))
        elif number == TRAINER:
            trainer |= dict(_fields(_bytes(value)))
        elif number == NORMALIZER:
            normalizer |= dict(_fields(_bytes(value)))
    kind = {value: kind for kind, value in KINDS.items()}[int(trainer[MODEL_TYPE])]
    if trainer[SUFFIX_SPACE] or not all(normalizer[flag] for flag in (DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES)):
        raise ValueError("other rules for spaces")
    return Subwords(kind, tuple(pieces), tuple(scores), Normalization(_bytes(normalizer[CHARSMAP])))


def write_model(subwords: Subwords) -> bytes:
    """The content of a .model file with which SentencePiece cuts as `subwords` does."""
    pieces = [
        _field(PIECE, piece.encode("utf-8"))
        + _field(SCORE, struct.pack("<f", score), FIXED32)
        + _field(TYPE, _piece_type(number))
        for number, (piece, score) in enumerate(zip(subwords.pieces, subwords.scores, strict=True))
    ]
    settings = {MODEL_TYPE: KINDS[subwords.kind], VOCAB_SIZE: len(subwords), UNK_ID: 1, BOS_ID: 2, EOS_ID: 3, PAD_ID: 0}
    trainer = b"".join(_field(number, value) for number, value in settings.items())
    rules = subwords.normalization.rules
    # Without a name SentencePiece would put its own rules in place of none.
    normalizer = _field(NAME, b"nmt_nfkc" if rules else b"identity") + _field(CHARSMAP, rules)
    return b"".join(
        [
            *(_field(PIECES, piece) for piece in pieces),
            _field(TRAINER, trainer),
            _field(NORMALIZER, normalizer),
        ]
    )


def _piece_type(number: int) -> int:
    if number >= len(SPECIAL):
        return NORMAL_PIECE
    return UNKNOWN_PIECE if number == UNKNOWN else CONTROL_PIECE


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where text was expected")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Numbers and values of a message's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == BYTES:
            size, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise ValueError("a field that is cut off")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next begins."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _field(number: int, value: Value, wire: int | None = None) -> bytes:
    if isinstance(value, int):
        return _number(number << 3 | VARINT) + _number(value)
    if wire == FIXED32:
        return _number(number << 3 | FIXED32) + value
    return _number(number << 3 | BYTES) + _number(len(value)) + value


def _number(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
