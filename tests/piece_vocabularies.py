"""Vocabularies that tests train with SentencePiece, each with SentencePiece's own processor of the same model."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Any

import sentencepiece

from edge_dl.data.piece_models import read_model
from edge_dl.data.toy_pairs import toy_pairs
from edge_dl.text import Subwords


def french() -> list[str]:
    return [target for _, target in toy_pairs(0)["train"]]


def train(lines: Sequence[str], kind: str, size: int, **settings: Any) -> tuple[Subwords, Any]:
    """The vocabulary as ours, and the library's own; it reads the model file as the library wrote it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size, hard_vocab_limit=False, num_threads=1,
        model_type="char" if kind == "character" else kind, pad_id=0, unk_id=1, bos_id=2, eos_id=3, minloglevel=2,
        **settings,
    )  # fmt: skip
    content = model.getvalue()
    return read_model(content), sentencepiece.SentencePieceProcessor(model_proto=content)


@functools.cache
def trained(kind: str) -> tuple[Subwords, Any]:
    return train(french(), kind, 400)
