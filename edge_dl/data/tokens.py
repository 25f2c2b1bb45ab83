"""From a stream of tokens to windows for a language model, and from text to tokens.

Parts are cut by position, so that no test text is read in training; the vocabulary comes from the training part.
Token 0 is `<unk>`, which stands for what training never saw or the limit left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_dl.data.dataset import Split
from edge_dl.data.source import Source
from edge_dl.data.splitting import check_share
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

UNKNOWN = "<unk>"
LEVELS = ("character", "word")
WINDOW = 64
# A word with its apostrophes, or one mark; line ends count as a mark, since they structure a text.
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n+")


def split_words(text: str) -> list[str]:
    """Lower-case words and single marks; runs of line ends become one `\\n`."""
    return ["\n" if item[0] == "\n" else item for item in WORD.findall(text.lower())]


def join_words(words: Sequence[str]) -> str:
    """Words and marks as readable text; not an exact inverse of `split_words`."""
    text = " ".join(words)
    text = re.sub(r" ([.,;:!?)\]}])", r"\1", text)
    return re.sub(r"([(\[{]) ", r"\1", text).replace(" \n ", "\n")


def cut_text(
    text: str,
    config: DataConfig,
    task: Task | None,
    *,
    name: str,
    source: str,
    licence: str = "",
    synthetic: bool = False,
) -> Source:
    """Windows of a text: `tokens` (samples, steps) and `next_token` (samples, steps), one position later.

    Args:
        text: the whole text.
        config: `level`, `window` (64 when 0), `stride` (the window's length when 0), `vocabulary`, shares, `limit`.
        task: language model.

    Raises:
        UsageError: the task has no use for text, the level is unknown, or the text is too short.
    """
    check_language_model(task)
    if config.level not in LEVELS:
        raise UsageError(f"data.level must be one of {', '.join(LEVELS)}.", received=config.level)
    if config.level == "character":
        return _cut_characters(text, config, name, source, licence, synthetic)
    words = split_words(text)
    begin_validation, _ = _boundaries(len(words), config)
    counts = Counter(words[:begin_validation])
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = _limited([UNKNOWN, *ordered], config.vocabulary)
    numbers = {word: number for number, word in enumerate(vocabulary)}
    stream = np.fromiter((numbers.get(word, 0) for word in words), np.int32, len(words))
    return cut_stream(
        stream, config, vocabulary, name=name, source=source, licence=licence, synthetic=synthetic, level="word"
    )


def check_language_model(task: Task | None) -> None:
    """Refuse any other task.

    Raises:
        UsageError: `task` is not a language model.
    """
    if task is not Task.LANGUAGE_MODEL:
        raise UsageError("Text is data for a language model.", received=task.value if task else "no task")


def cut_stream(
    stream: np.ndarray,
    config: DataConfig,
    vocabulary: tuple[str, ...],
    *,
    name: str,
    source: str,
    level: str = "",
    licence: str = "",
    synthetic: bool = False,
) -> Source:
    """Windows of a stream of token numbers, cut into parts by position.

    Args:
        stream: (tokens,) whole numbers below the vocabulary's size.
        vocabulary: symbols by number; empty: not known.

    Raises:
        UsageError: a part is too short for one window.
    """
    window = config.window or WINDOW
    stride = config.stride or window
    begin_validation, begin_test = _boundaries(len(stream), config)
    bounds = {
        "train": (0, begin_validation),
        "validation": (begin_validation, begin_test),
        "test": (begin_test, len(stream)),
    }
    parts = {}
    for part, (begin, end) in bounds.items():
        starts = np.arange(begin, end - window, stride)
        if len(starts) == 0:
            raise UsageError(
                f"The {part} part is too short for a window.",
                received=f"{end - begin} tokens, window {window}",
                todo="Give more text, or a smaller data.window.",
            )
        if config.limit and len(starts) > config.limit:
            starts = starts[np.linspace(0, len(starts) - 1, config.limit).round().astype(int)]
        places = starts[:, None] + np.arange(window)
        tokens, following = stream[places].astype(np.int32), stream[places + 1].astype(np.int32)
        parts[part] = Split({"tokens": tokens}, {"next_token": following}, (starts + 1).astype(np.int64))
    unknown = float((stream[begin_test:] == 0).mean()) if vocabulary and vocabulary[0] == UNKNOWN else 0.0
    notes = [f"Cut by position: validation from token {begin_validation}, test from token {begin_test}."]
    if unknown:
        share = f"{unknown:.2%}" if unknown >= 1e-4 else "Fewer than 0.01%"
        notes.append(f"{share} of the test tokens are outside the vocabulary.")
    return Source(
        name,
        parts,
        source=source,
        licence=licence,
        synthetic=synthetic,
        vocabulary=vocabulary,
        level=level,
        notes=tuple(notes),
    )


def _cut_characters(text: str, config: DataConfig, name: str, source: str, licence: str, synthetic: bool) -> Source:
    # Lone surrogates cannot come out of UTF-8, so every character is one code point of this array.
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    begin_validation, _ = _boundaries(len(codes), config)
    seen, counts = np.unique(codes[:begin_validation], return_counts=True)
    order = np.lexsort((seen, -counts))
    vocabulary = _limited([UNKNOWN, *(chr(code) for code in seen[order])], config.vocabulary)
    kept = seen[order][: len(vocabulary) - 1]
    sorter = np.argsort(kept)
    places = np.clip(np.searchsorted(kept, codes, sorter=sorter), 0, len(kept) - 1)
    matches = sorter[places]
    stream = np.where(kept[matches] == codes, matches + 1, 0).astype(np.int32)
    return cut_stream(
        stream, config, vocabulary, name=name, source=source, licence=licence, synthetic=synthetic, level="character"
    )


def _limited(symbols: list[str], limit: int) -> tuple[str, ...]:
    if limit == 1:
        raise UsageError("data.vocabulary must be 0 (no limit) or at least 2.", received="1")
    return tuple(symbols[:limit] if limit else symbols)


def _boundaries(count: int, config: DataConfig) -> tuple[int, int]:
    check_share(config.test, "data.test")
    check_share(config.validation, "data.validation")
    begin_test = round(count * (1 - config.test))
    begin_validation = round(begin_test * (1 - config.validation))
    if begin_validation < 1:
        raise UsageError("Text must not be empty.", received=f"{count} tokens")
    return begin_validation, begin_test
