"""What a Keras encoder-decoder says by itself: the translations that a device's are held against.

The model is the one that training made: it takes whole sources and whole targets and gives the next token's
probabilities at every position. Three ways to run it freely, each with the same answers:

- `translate_greedily`: many sentences at a time, which is what a reference needs.
- `KerasDecoder`: one sentence for `edge_dl.runtime.search`, so also a beam of hypotheses.
- `greedy_loop`: a call a token, as a program around a Keras model is usually written. A measure for speed.

Any Keras backend. A position's answer depends on the target before it alone, so whatever stands behind it is free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from edge_dl.checks.translation import ReferenceAnswer, ReferenceAnswers, answer_of, spelled
from edge_dl.errors import StageError, UsageError
from edge_dl.progress import SILENT, Progress
from edge_dl.runtime.search import GREEDY, SMALLEST, Hypothesis, length_penalty
from edge_dl.runtime.translation import Source
from edge_dl.text import Tables
from edge_dl.text.subwords import BEGIN, END, PADDING

# Arrays grow in steps of so many positions: a graph is compiled for each size.
STEP = 8
BATCH = 64
# Two lengths of padding give the same probabilities to within rounding, or they do not.
ALIKE = 1e-5


@dataclass(frozen=True)
class Names:
    """What a model calls its inputs and outputs.

    Attributes:
        source, target: inputs of token numbers.
        output: the next token's probabilities.
        attention: weights over the source; a model need not have them.
    """

    source: str = "source"
    target: str = "target"
    output: str = "next_token"
    attention: str = "attention"


NAMES = Names()


def find_names(model: keras.Model, vocabulary: int) -> Names | None:
    """What a model calls its inputs and outputs, where its inputs are those of a data set of sentence pairs.

    Args:
        model: a functional model.
        vocabulary: number of tokens of the target; a single output of so many numbers a token is the next token's
            probabilities, whatever it is called.

    Returns:
        None for a model of another make.
    """
    inputs = {str(tensor.name) for tensor in getattr(model, "inputs", ())}
    sizes = {name: tensor.shape[-1] for name, tensor in _named(model, model.output).items()}
    output = NAMES.output if NAMES.output in sizes or len(sizes) != 1 else next(iter(sizes))
    if inputs != {NAMES.source, NAMES.target} or sizes.get(output) != vocabulary:
        return None
    return replace(NAMES, output=output)


def reference_answers(
    model: keras.Model,
    tables: Tables,
    sentences: Sequence[tuple[str, tuple[str, ...]]],
    *,
    length: int,
    longest: int,
    names: Names = NAMES,
    progress: Progress = SILENT,
) -> ReferenceAnswers:
    """What the model says by itself to sentences, greedily; a sentence that is too long is cut, as on the device.

    Args:
        model: the model.
        tables: vocabularies of both sides.
        sentences: each with its right translations.
        length: tokens of a source that the device takes, its end among them.
        longest: tokens of an answer, its end among them.
        names: what the model calls its inputs and outputs.
        progress: told the number of sentences.
    """
    sources = [Source.of(text, tables, most=length - 1) for text, _ in sentences]
    # A sentence of which the model knows nothing is copied, and the model not asked: here as on the device.
    known = [row for row, source in enumerate(sources) if source.known]
    rows = np.array([sources[row].row(length) for row in known], np.int32).reshape(-1, length)
    found = dict(zip(known, translate_greedily(model, rows, longest, names=names, progress=progress), strict=True))
    return ReferenceAnswers(
        tuple(
            ReferenceAnswer(
                text,
                references,
                answer_of(found.get(row), spelled(found.get(row), sources[row], tables)),
                shortened=len(tables.source.encode(text)) >= length,
            )
            for row, (text, references) in enumerate(sentences)
        ),
        longest,
    )


def translate_greedily(
    model: keras.Model,
    sources: np.ndarray,
    longest: int,
    *,
    names: Names = NAMES,
    batch: int = BATCH,
    progress: Progress = SILENT,
) -> list[Hypothesis]:
    """The model's likeliest next tokens for many sources, each until its end or the limit.

    The same as a greedy `search` over a `KerasDecoder`, in fewer calls. A call answers all positions at once, from a
    draft of the target; a position is right if all tokens before it are, and the answers are the next draft (Jacobi
    iteration: Santilli et al., Accelerating Transformer Inference for Translation via Parallel Decoding, ACL 2023,
    algorithm 1). Each call settles a token of every sentence, and as many more as the draft had right.

    Args:
        model: inputs and outputs as in `edge_dl.models.seq2seq`.
        sources: (sentences, S) whole numbers: pieces, end, padding; S as the device takes it.
        longest: tokens an answer may have, its end among them.
        names: what the model calls its inputs and outputs.
        batch: sentences at a time.
        progress: told the number of sentences done.

    Raises:
        UsageError: sources that are no rows of token numbers, or a model without such inputs and outputs.
        StageError: the model answers NaN or infinity.
    """
    sources = np.asarray(sources)
    if sources.ndim != 2 or not sources.shape[1] or sources.dtype.kind not in "iu" or longest < 1:
        raise UsageError(
            "Sources must be rows of token numbers, and answers may have at least one token.",
            received=f"{sources.dtype} of shape {list(sources.shape)}, longest {longest}",
        )
    found: list[Hypothesis | None] = [None] * len(sources)
    lengths = (sources != PADDING).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    asked = _Asked(model, names, sources[order[:batch]])
    with progress.step("Translating with Keras", len(sources)) as step:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            longest_source = int(lengths[rows].max(initial=1))
            width = _rounded(longest_source, sources.shape[1]) if asked.trims else sources.shape[1]
            answers = _Drafts(asked, sources[rows, :width].astype(np.int32), longest).settle()
            for row, answer in zip(rows, answers, strict=True):
                found[row] = _widened(answer, sources.shape[1])
            step.advance(len(rows))
    return [answer for answer in found if answer is not None]


class KerasDecoder:
    """A Keras model as a decoder for `edge_dl.runtime.search`; each step calls it on the whole target so far.

    Attributes:
        beams: the most hypotheses that a step takes.
        steps: tokens that a target may have.
    """

    def __init__(self, model: keras.Model, *, beams: int = 4, steps: int, names: Names = NAMES) -> None:
        self.beams, self.steps = beams, steps
        self._asked = _Asked(model, names)
        self._source = np.zeros((1, 1), np.int32)
        self._prefixes: np.ndarray | None = None

    def begin(self, source: np.ndarray) -> None:
        """Take a source (S,) of token numbers."""
        self._source, self._prefixes = np.asarray(source, np.int32)[np.newaxis], None

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (B, V) after `tokens` (B,), and the attention (B, S) paid, or None."""
        column = np.array(tokens, np.int32)[:, np.newaxis]  # A copy: a search may feed one array again and again.
        self._prefixes = column if self._prefixes is None else np.concatenate([self._prefixes, column], axis=1)
        place = self._prefixes.shape[1] - 1
        targets = _padded(self._prefixes, self._asked.width(place + 1, self.steps))
        probabilities, attention = self._asked(np.repeat(self._source, len(column), 0), targets)
        return probabilities[:, place], None if attention is None else attention[:, place]

    def reorder(self, parents: np.ndarray) -> None:
        """Let hypothesis i go on from `parents[i]`."""
        assert self._prefixes is not None, "begin and step come first"
        self._prefixes = self._prefixes[parents]


def greedy_loop(model: keras.Model, source: np.ndarray, longest: int, *, names: Names = NAMES) -> list[int]:
    """Tokens of one translation, by `model.predict` on the target so far for every token: slow, and how it is done.

    Args:
        model: the model.
        source: (S,) token numbers.
        longest: tokens, the end among them.
        names: what the model calls its inputs and outputs.
    """
    tokens, size = [BEGIN], _fixed(model, names.target)
    while len(tokens) <= longest:
        target = np.array([tokens + [PADDING] * (size - len(tokens))], np.int32)
        fed = {names.source: source[np.newaxis], names.target: target}
        chances = np.array(_named(model, model.predict(fed, verbose=0))[names.output][0, len(tokens) - 1])
        chances[[PADDING, BEGIN]] = -1
        token = int(chances.argmax())
        if token == END:
            break
        tokens.append(token)
    return tokens[1:]


class _Asked:
    """A model that is asked with rows of source and target.

    Attributes:
        trims: whether it gives the same answers with less padding behind the source.
    """

    def __init__(self, model: keras.Model, names: Names, sources: np.ndarray | None = None) -> None:
        self.model, self.names = model, names
        self.trims = sources is not None and len(sources) > 0 and self._same_without_padding(sources)

    def __call__(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (rows, T, V) and attention (rows, T, S), or None where the model gives none."""
        names, count = self.names, len(sources)
        filled = 1  # Powers of four: JAX compiles for each number of rows.
        while filled < count:
            filled *= 4
        places = np.minimum(np.arange(filled), count - 1)
        given = self.model.predict_on_batch({names.source: sources[places], names.target: targets[places]})
        outputs = _named(self.model, given)
        if names.output not in outputs:
            raise UsageError(
                "A model that translates needs an output of the next token's probabilities.",
                received=f"outputs {', '.join(outputs)}",
                todo=f"Name it {names.output}.",
            )
        probabilities, attention = outputs[names.output][:count], outputs.get(names.attention)
        if not np.isfinite(probabilities).all():
            raise StageError("The Keras model's probabilities must be finite.", stage="export", received="NaN")
        return probabilities, None if attention is None else attention[:count]

    def width(self, length: int, most: int) -> int:
        """Positions of a target to ask with for one of `length`, of which there may be `most`."""
        return _fixed(self.model, self.names.target) or _rounded(length, most)

    def _same_without_padding(self, sources: np.ndarray) -> bool:
        """Asked, and not assumed: a model of the user's own may look at its padding."""
        if _fixed(self.model, self.names.source):
            return False
        width = _rounded(int((sources != PADDING).sum(axis=1).max()), sources.shape[1])
        if width == sources.shape[1]:
            return False
        targets = np.full((len(sources), self.width(STEP, STEP)), BEGIN, np.int32)
        whole, short = (self(part.astype(np.int32), targets)[0] for part in (sources, sources[:, :width]))
        return bool(np.abs(whole - short).max() <= ALIKE)


class _Drafts:
    """Targets of one batch on their way to what the model says by itself."""

    def __init__(self, asked: _Asked, sources: np.ndarray, longest: int) -> None:
        self.asked, self.sources, self.longest = asked, sources, longest
        self.answers: list[Hypothesis | None] = [None] * len(sources)

    def settle(self) -> list[Hypothesis]:
        """One answer a source."""
        rows = np.arange(len(self.sources))
        # About as long as the source is a good guess, and more are asked for where they are needed.
        size = self.asked.width(self.sources.shape[1], self.longest)
        drafts = np.full((len(rows), size), PADDING, np.int32)
        while len(rows):
            fed = np.concatenate([np.full((len(rows), 1), BEGIN, np.int32), drafts[:, :-1]], axis=1)
            probabilities, attention = self.asked(self.sources[rows], fed)
            picks, chances = _likeliest(probabilities)
            same = np.cumprod(picks == drafts, axis=1).astype(bool)
            # Right are the positions behind which the draft was right, and one more.
            right = np.minimum(same.sum(axis=1) + 1, picks.shape[1])
            drafts = picks
            ends = np.where((picks == END).any(axis=1), (picks == END).argmax(axis=1), picks.shape[1])
            done = (ends < right) | (right >= self.longest)
            for place in np.flatnonzero(done):
                count = min(int(ends[place]) + 1, self.longest)
                own = None if attention is None else attention[place, :count]
                self.answers[rows[place]] = _answer(picks[place, :count], chances[place, :count], own)
            full = ~done & (right >= picks.shape[1])
            rows, drafts = rows[~done], drafts[~done]
            if full.any() and drafts.shape[1] < self.longest:
                drafts = _padded(drafts, self.asked.width(drafts.shape[1] + STEP, self.longest))
        return [answer for answer in self.answers if answer is not None]


def _answer(picks: np.ndarray, chances: np.ndarray, attention: np.ndarray | None) -> Hypothesis:
    finished = bool(picks[-1] == END)
    total = sum(math.log(min(max(float(chance), SMALLEST), 1.0)) for chance in chances)
    tokens = tuple(int(token) for token in (picks[:-1] if finished else picks))
    looked = None if attention is None else np.array(attention[: len(tokens)], np.float32)
    return Hypothesis(tokens, total / length_penalty(len(picks), GREEDY.length_penalty), total, looked, finished)


def _likeliest(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and their probabilities at each position; padding and begin are never said, of equals the lowest is."""
    chances = np.array(probabilities)
    chances[..., [PADDING, BEGIN]] = -1
    picks = chances.argmax(axis=-1)
    return picks.astype(np.int32), np.take_along_axis(chances, picks[..., np.newaxis], axis=-1)[..., 0]


def _widened(answer: Hypothesis, width: int) -> Hypothesis:
    """With attention over all of a source that was asked for with less padding, to which none was paid."""
    if answer.attention is None or answer.attention.shape[1] == width:
        return answer
    attention = _padded(answer.attention, width)
    return Hypothesis(answer.tokens, answer.score, answer.log_probability, attention, answer.finished)


def _named(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """Outputs, or their symbols, by name."""
    if isinstance(outputs, dict):
        return dict(outputs)
    items: Sequence[Any] = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return dict(zip(model.output_names, items, strict=True))


def _fixed(model: keras.Model, name: str) -> int:
    """Positions that an input takes; 0: any number."""
    return next((int(tensor.shape[1] or 0) for tensor in model.inputs if tensor.name == name), 0)


def _rounded(length: int, most: int) -> int:
    return min(-(-length // STEP) * STEP, most)


def _padded(rows: np.ndarray, width: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
