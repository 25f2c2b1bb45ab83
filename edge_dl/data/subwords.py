"""Vocabularies of pieces from text, by SentencePiece (Kudo & Richardson 2018)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from edge_dl.data.piece_models import read_model, write_model
from edge_dl.errors import UsageError, missing_extra
from edge_dl.text import BEGIN, END, KINDS, PADDING, SPECIAL, UNKNOWN, Subwords

# Of all characters so many have pieces; what is rarer is unknown, and can be learned to be copied. SentencePiece's own
# 0.9995 is meant for scripts of thousands of characters, and would leave a French text without its "œ".
COVERAGE = 0.999995
# Bytes: SentencePiece leaves longer lines out unless told otherwise.
LONGEST = 4192


def train_subwords(lines: Sequence[str], size: int, kind: str = "unigram") -> Subwords:
    """A vocabulary for `lines`, the same for the same lines.

    Args:
        lines: sentences, as they will be encoded.
        size: pieces, with the four special ones; fewer where the text does not give so many.
        kind: "unigram", "word" or "character".

    Raises:
        UsageError: an unknown kind; no text; too few pieces for the characters of the text; SentencePiece is missing.
    """
    if kind not in KINDS:
        raise UsageError(f"Subwords must be of a kind of {', '.join(KINDS)}.", received=repr(kind))
    if size <= len(SPECIAL):
        raise UsageError(f"A vocabulary needs more than the {len(SPECIAL)} special pieces.", received=f"size {size}")
    library = _sentencepiece()
    lines = _encodable(lines)
    model = io.BytesIO()
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            model_type="char" if kind == "character" else kind,
            character_coverage=COVERAGE,
            normalization_rule_name="nmt_nfkc",
            max_sentence_length=max([LONGEST, *(len(line.encode("utf-8")) for line in lines)]),
            pad_id=PADDING,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _refusal(str(error), len(lines), size) from None
    try:
        return read_model(model.getvalue())
    except UsageError as error:
        raise _refusal(str(error), len(lines), size) from None


def encode_lines(subwords: Subwords, lines: Sequence[str]) -> list[list[int]]:
    """`subwords.encode` of each line, by SentencePiece: a hundred thousand lines take a second or two.

    Raises:
        UsageError: SentencePiece is missing.
    """
    processor = _sentencepiece().SentencePieceProcessor(model_proto=write_model(subwords))
    return processor.encode(_encodable(lines), out_type=int, num_threads=1) if len(lines) else []


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise missing_extra(error) or error from None
    return sentencepiece


def _encodable(lines: Sequence[str]) -> list[str]:
    """Lines with U+FFFD for half surrogate pairs, which the library cannot take."""
    return [line.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for line in lines]


def _refusal(reason: str, lines: int, size: int) -> UsageError:
    if needed := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        return UsageError(
            f"A vocabulary must hold each character of its text: here at least {needed[1]} pieces.",
            received=f"size {size}",
            todo=f"Ask for {needed[1]} pieces or more.",
        )
    if any(sign in reason for sign in ("sentences_.empty", "all_chars_count", "vocabulary must begin")):
        return UsageError("A vocabulary needs text to be trained on.", received=f"{lines} lines without words")
    return UsageError("SentencePiece must be able to train on the text.", received=reason.strip())
