"""From text to text: sentences, tokens, search, and words that the model does not know. NumPy only, for any device.

    from edge_dl.runtime import Search, Translator

    translator = Translator("runs/translate/variants/decode-dynamic")
    best, *others = translator.translate("I love pizza.", Search(beams=4, best=2))
    print(best.text, best.score)

A text is translated sentence by sentence. Where the model says "unknown", the part of the source that it looks at most
in that moment is copied (Luong et al. 2015, Addressing the Rare Word Problem); a model without attention leaves the
mark of the tables (" ⁇ "). A sentence of which the model knows nothing at all is copied whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_dl.bundle import Bundle, read_bundle
from edge_dl.errors import UsageError, printable
from edge_dl.files import member_path
from edge_dl.runtime.agent import Session
from edge_dl.runtime.decoders import SessionDecoder
from edge_dl.runtime.search import GREEDY, Decoder, Hypothesis, Search, no_coverage, search, too_many_beams
from edge_dl.text import END, PADDING, SPECIAL, UNKNOWN, Tables
from edge_dl.text.normalization import SPACE
from edge_dl.text.splitting import split_sentences

TASK = "translation"


@dataclass(frozen=True, eq=False)
class Translation:
    """One translation of a text.

    Attributes:
        text: the translation, with the source's spaces and line ends between its sentences.
        score: the search's score (`edge_dl.runtime.search`); of several sentences the sum. 0 is the highest there is.
        pieces: of the translation, "▁" for a space; a copied one is what was copied.
        source_pieces: the parts of the source, "▁" for a space, with the end "</s>" of each sentence that the model was
            given; one that was copied whole has none.
        alignment: (pieces, source_pieces) attention paid to each part when a piece was chosen; None where the model
            gives no attention.
        finished: whether the model ended every sentence; False where the limit cut one off.
        notes: what a reader should know, in full sentences.
    """

    text: str
    score: float
    pieces: tuple[str, ...]
    source_pieces: tuple[str, ...]
    alignment: np.ndarray | None
    finished: bool = True
    notes: tuple[str, ...] = field(default=())


class Translator:
    """Translates with the model of a bundle.

    Attributes:
        decoder: the model.
        tables: vocabularies of both sides.
        length: tokens of a sentence that the model takes, its end among them; 0: any number.
        attends: whether the model gives its attention; None: not known before it is asked.
    """

    attends: bool | None = None

    def __init__(self, bundle: str | os.PathLike[str] | Bundle, *, runtime: str = "auto", threads: int = 1) -> None:
        """Open a bundle.

        Args:
            bundle: its folder, or the opened bundle.
            runtime: "auto", or a name from `edge_dl.runtime.RUNTIMES`.
            threads: threads of the interpreter.

        Raises:
            UsageError: no bundle, one of another task, or one without tables of its tokens.
            StageError: the runtime cannot load the model.
        """
        opened = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
        described = opened.manifest.translation
        if opened.manifest.task != TASK:
            raise UsageError(
                "Translating needs a bundle that translates.",
                received=f"{opened.folder}, a bundle of the task {opened.manifest.task}",
                todo="Name a bundle of a run of `translate` or `seq2seq`.",
            )
        if described is None:
            raise UsageError(
                "Translating needs a bundle with the tables of its tokens.",
                received=f"{opened.folder}, whose manifest names none",
                todo="Its model can be run with `edge_dl.runtime.search` on token numbers.",
            )
        tables = Tables.read(member_path(opened.folder, described.tables))
        decoder = SessionDecoder(Session(opened.folder, runtime=runtime, threads=threads, check_hashes=False))
        if decoder.vocabulary != len(tables.target):
            raise UsageError(
                "A bundle's tables must be those of its model.",
                received=f"{len(tables.target)} pieces in {described.tables}, {decoder.vocabulary} in the model",
                todo="Make the bundle again.",
            )
        self.decoder: Decoder = decoder
        self.tables = tables
        self.length = decoder.length
        self.attends = decoder.attends

    @classmethod
    def of(cls, decoder: Decoder, tables: Tables, *, length: int = 0) -> Translator:
        """A translator from its parts, for a model that is not in a bundle.

        Args:
            decoder: the model.
            tables: vocabularies of both sides.
            length: tokens of a sentence that the model takes, its end among them; sources are padded to it. 0: any
                number, and no padding.
        """
        made = cls.__new__(cls)
        made.decoder, made.tables, made.length = decoder, tables, length
        return made

    def check(self, settings: Search) -> None:
        """Raise a `UsageError` for settings that the model cannot do, before any text is given."""
        settings.check()
        if settings.beams > self.decoder.beams:
            raise too_many_beams(settings, self.decoder)
        if settings.coverage and self.attends is False:
            raise no_coverage()

    def translate(self, text: str, settings: Search = GREEDY, *, split: bool = True) -> list[Translation]:
        """The best translations of a text, best first: `settings.best`, or as many as the search found.

        A text of several sentences has the translations whose scores sum up highest, each sentence from its own
        best ones. An empty text has one translation, an empty one, and the model is not asked.

        Args:
            text: any text; it need not be one that the model knows anything of.
            settings: of the search.
            split: whether to translate sentence by sentence (`edge_dl.text.splitting`); False takes the text as one.

        Raises:
            UsageError: a sentence longer than the model takes, or a setting that the model cannot do.
            StageError: the model answers NaN.
        """
        self.check(settings)
        stripped = text.strip()
        parts = split_sentences(text) if split else [(stripped, "")] if stripped else []
        # Checked before the first is translated: nobody should wait for an error.
        sources = [self._short_enough(Source.of(sentence, self.tables)) for sentence, _ in parts]
        found = [Translation("", 0.0, (), (), None)]
        space = ""
        for source, (_, after) in zip(sources, parts, strict=True):
            own = self._translate(source, settings)
            joined = [_join(one, space, other) for one in found for other in own]
            # Sorting keeps the order of equals: every device gives the same.
            found = sorted(joined, key=lambda one: -one.score)[: settings.best]
            space = after
        return found

    def _short_enough(self, source: Source) -> Source:
        if self.length and len(source.tokens) >= self.length:
            shown = printable(source.text if len(source.text) <= 60 else source.text[:57] + "...")
            raise UsageError(
                f"A sentence must have at most {self.length - 1} tokens for this model.",
                received=f"{len(source.tokens)} tokens: {shown!r}",
                todo="Make it shorter, or part it with a full stop.",
            )
        return source

    def _translate(self, source: Source, settings: Search) -> list[Translation]:
        if not source.known:
            return [untranslated(source, self.tables)]
        found = search(self.decoder, source.row(self.length), settings)
        return [spell(one, source, self.tables) for one in found]


@dataclass(frozen=True)
class Source:
    """A sentence, cut into pieces.

    Attributes:
        text: the sentence.
        tokens: its pieces' numbers, without an end.
        surfaces: the part of the text that each was made of.
        known: whether the model knows any of it.
    """

    text: str
    tokens: tuple[int, ...]
    surfaces: tuple[str, ...]
    known: bool

    @classmethod
    def of(cls, text: str, tables: Tables, *, most: int = 0) -> Source:
        """A sentence as `tables` cut it; of more than `most` pieces only the first are kept, 0 keeps all."""
        segments = tables.source.segment(text)
        segments = segments[:most] if most else segments
        return cls(
            text,
            tuple(number for number, _ in segments),
            tuple(surface for _, surface in segments),
            any(number != UNKNOWN and tables.source.pieces[number] != SPACE for number, _ in segments),
        )

    def row(self, length: int = 0) -> np.ndarray:
        """What a model takes, (length,) int32: pieces, end, padding; 0: no padding."""
        row = np.full(length or len(self.tokens) + 1, PADDING, np.int32)
        row[: len(self.tokens)] = self.tokens
        row[len(self.tokens)] = END
        return row

    def pieces(self, tables: Tables) -> tuple[str, ...]:
        """Its pieces for a reader: those of the table, and of unknown ones what stands in the text."""
        pieces = tables.source.pieces
        return tuple(
            surface.replace(" ", SPACE) if number == UNKNOWN else pieces[number]
            for number, surface in zip(self.tokens, self.surfaces, strict=True)
        )


def untranslated(source: Source, tables: Tables) -> Translation:
    """What becomes of a sentence of which the model knows nothing: it is copied."""
    if not source.tokens:
        return Translation("", 0.0, (), (), None)
    shown = source.pieces(tables)
    note = f"The model knows nothing of {source.text!r}: it is copied as it is."
    return Translation(source.text, 0.0, shown, shown, None, notes=(note,))


def spell(found: Hypothesis, source: Source, tables: Tables) -> Translation:
    """What a search found, as text: unknown pieces become what the model looked at most in the source.

    Args:
        found: the tokens, with their attention over at least the source's pieces and its end where there is one.
        source: what they translate.
        tables: vocabularies of both sides.
    """
    count = len(source.tokens)
    alignment = None if found.attention is None else found.attention[:, : count + 1]
    copies: dict[int, str] = {}
    if alignment is not None:
        # The end is looked at too, but there is nothing to copy.
        looked = alignment[:, :count].argmax(1)
        copies = {place: source.surfaces[looked[place]] for place, token in enumerate(found.tokens) if token == UNKNOWN}
    pieces = tuple(
        copies[place].replace(" ", SPACE) if place in copies else tables.target.pieces[token]
        for place, token in enumerate(found.tokens)
    )
    notes = () if found.finished else (f"Cut off after {len(found.tokens)} tokens: the model did not end it.",)
    text = tables.target.decode(found.tokens, copies).strip()
    shown = (*source.pieces(tables), SPECIAL[END])
    return Translation(text, found.score, pieces, shown, alignment, found.finished, notes)


def _join(first: Translation, space: str, second: Translation) -> Translation:
    """Two translations, one after the other; neither looked at the other's source."""
    if not first.source_pieces:
        return second
    return Translation(
        first.text + space + second.text,
        first.score + second.score,
        first.pieces + second.pieces,
        first.source_pieces + second.source_pieces,
        _blocks(first, second),
        first.finished and second.finished,
        first.notes + second.notes,
    )


def _blocks(first: Translation, second: Translation) -> np.ndarray | None:
    """Both alignments on the diagonal, with nothing beside them. One that there is not is all nothing."""
    if first.alignment is None and second.alignment is None:
        return None
    made = np.zeros(
        (len(first.pieces) + len(second.pieces), len(first.source_pieces) + len(second.source_pieces)), np.float32
    )
    rows, columns = len(first.pieces), len(first.source_pieces)
    if first.alignment is not None:
        made[:rows, :columns] = first.alignment
    if second.alignment is not None:
        made[rows:, columns:] = second.alignment
    return made
