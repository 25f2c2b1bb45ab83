"""From text to text: sentences, unknown words, empty, long and foreign input, n-best of several sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_dl.errors import UsageError
from edge_dl.runtime import Search, Translation, Translator
from edge_dl.text import END, SPECIAL, UNKNOWN, Normalization, Subwords, Tables

ENGLISH = ("▁I", "▁love", "▁see", "▁pizza", "▁you", ".")
FRENCH = ("▁j'", "adore", "▁vois", "▁la", "▁pizza", "▁te", ".")


def subwords(kind: str, pieces: tuple[str, ...]) -> Subwords:
    return Subwords(kind, SPECIAL + pieces, (0.0,) * 4 + (-1.0,) * len(pieces), Normalization())


def tables(kind: str = "unigram", english: tuple[str, ...] = ENGLISH, french: tuple[str, ...] = FRENCH) -> Tables:
    return Tables(subwords(kind, english), subwords(kind, french))


class Dictionary:
    """A decoder that says for each source token its own target token, looking at it; then the end.

    `words` maps source ids to target ids; what is not there is unknown. The second choice of each step is `other`.
    """

    steps = 12

    def __init__(
        self, words: dict[int, int], *, size: int = 4 + len(FRENCH), beams: int = 4, attends: bool = True,
        other: int = 4, ends: Callable[[int], bool] = lambda step: False,
    ) -> None:  # fmt: skip
        self.words, self.size, self.beams, self.attends, self.other, self.ends = (
            words,
            size,
            beams,
            attends,
            other,
            ends,
        )
        self.sources: list[list[int]] = []

    def begin(self, source: np.ndarray) -> None:
        self.sources.append(source.tolist())
        self.source, self.count = source, 0

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        token = int(self.source[self.count])
        said = END if token == END else self.words.get(token, UNKNOWN)
        chances = np.zeros(self.size, np.float32)
        chances[said] += 0.75
        chances[self.other] += 0.25
        looked = np.full((len(tokens), len(self.source)), 0.25 / len(self.source), np.float32)
        looked[:, self.count] += 0.75
        self.count = min(self.count + 1, len(self.source) - 1)
        return np.tile(chances, (len(tokens), 1)), looked if self.attends else None

    def reorder(self, parents: np.ndarray) -> None:
        pass


def ids(words: dict[str, str], made: Tables) -> dict[int, int]:
    return {made.source.pieces.index(one): made.target.pieces.index(two) for one, two in words.items()}


WORDS = {"▁I": "▁j'", "▁love": "adore", "▁see": "▁vois", "▁pizza": "▁pizza", "▁you": "▁te", ".": "."}


@pytest.fixture
def translator() -> Translator:
    made = tables()
    return Translator.of(Dictionary(ids(WORDS, made)), made, length=9)


def only(found: list[Translation]) -> Translation:
    (one,) = found
    return one


def test_a_sentence(translator: Translator) -> None:
    found = only(translator.translate("I love pizza."))
    assert found.text == "j'adore pizza."
    assert found.pieces == ("▁j'", "adore", "▁pizza", ".")
    assert found.source_pieces == ("▁I", "▁love", "▁pizza", ".", "</s>")
    assert found.alignment is not None
    assert found.alignment.shape == (4, 5)
    assert found.alignment.argmax(1).tolist() == [0, 1, 2, 3]
    assert found.score == pytest.approx(4 * np.log(0.75) / (10 / 6) ** 0.6, rel=1e-5)
    assert found.finished
    assert found.notes == ()
    # What the model was given: pieces, the end, padding up to its length.
    assert translator.decoder.sources == [[4, 5, 7, 9, END, 0, 0, 0, 0]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["", "   ", "\n\r\n\t"])
def test_nothing_is_nothing_and_asks_no_model(translator: Translator, text: str) -> None:
    found = only(translator.translate(text, Search(beams=2, best=2)))
    assert (found.text, found.score, found.pieces, found.finished) == ("", 0.0, (), True)
    assert translator.decoder.sources == []  # type: ignore[attr-defined]


def test_sentences_one_at_a_time(translator: Translator) -> None:
    found = only(translator.translate("  I love you. I see you.\n\nI see pizza"))
    assert found.text == "j'adore te. j' vois te.\n\nj' vois pizza"
    assert len(translator.decoder.sources) == 3  # type: ignore[attr-defined]
    assert found.alignment is not None
    assert found.alignment.shape == (len(found.pieces), len(found.source_pieces)) == (11, 14)
    # Each sentence looks at itself alone.
    assert found.alignment.argmax(1).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
    assert found.source_pieces[4] == found.source_pieces[9] == found.source_pieces[13] == "</s>"
    assert not found.alignment[:4, 5:].any()
    assert not found.alignment[4:, :5].any()
    whole = translator.translate("I see you. I", split=False)
    assert only(whole).text == "j' vois te. j'"
    assert len(translator.decoder.sources) == 4  # type: ignore[attr-defined]


def test_best_of_several_sentences_are_the_best_sums(translator: Translator) -> None:
    settings = Search(beams=4, best=4)
    first, second = (translator.translate(text, settings) for text in ("I see you.", "I love pizza."))
    both = translator.translate("I see you. I love pizza.", settings)
    sums = sorted((one.score + other.score for one in first for other in second), reverse=True)
    assert [one.score for one in both] == pytest.approx(sums[:4])
    assert both[0].text == f"{first[0].text} {second[0].text}"
    assert len({one.text for one in both}) == 4


def test_unknown_words_are_copied_from_where_the_model_looks() -> None:
    made = tables("word", ("▁I", "▁see", "▁you"), ("▁vois", "▁te", "▁je"))
    words = ids({"▁I": "▁je", "▁see": "▁vois", "▁you": "▁te"}, made)
    translator = Translator.of(Dictionary(words, size=7), made, length=9)
    found = only(translator.translate("I see Zaphod"))
    assert found.text == "je vois Zaphod"
    assert found.pieces == ("▁je", "▁vois", "▁Zaphod")
    # The first word gets no space, a run of unknown words is one.
    assert only(translator.translate("Ford Prefect see you")).text == "Ford Prefect vois te"
    # A known word that the model has no translation for is copied as well.
    silent = Translator.of(Dictionary({}, size=7), made, length=9)
    assert only(silent.translate("see you")).text == "see you"


def test_unknown_characters_inside_words_are_copied_where_they_stand(translator: Translator) -> None:
    assert only(translator.translate("I☃love")).source_pieces == ("▁I", "☃love", "</s>")
    assert only(translator.translate("I☃ love.")).text == "j'☃adore."


def test_without_attention_an_unknown_word_keeps_the_mark_of_the_tables() -> None:
    made = tables("word", ("▁I", "▁see"), ("▁vois", "▁je"))
    translator = Translator.of(
        Dictionary(ids({"▁I": "▁je", "▁see": "▁vois"}, made), size=6, attends=False), made, length=9
    )
    found = only(translator.translate("I see Zaphod"))
    assert found.text == "je vois ⁇"
    assert found.pieces == ("▁je", "▁vois", "<unk>")
    assert found.alignment is None


@pytest.mark.parametrize("text", ["☃☃", "披萨 很好", "Привет", "\ufffd"])
def test_what_the_model_knows_nothing_of_is_copied_and_said(translator: Translator, text: str) -> None:
    found = only(translator.translate(text, Search(beams=2, best=2)))
    assert found.text == text
    assert found.pieces == found.source_pieces
    assert "</s>" not in found.source_pieces, "the model was given nothing, so no end either"
    assert found.alignment is None
    assert len(found.notes) == 1
    assert "copied as it is" in found.notes[0]
    assert translator.decoder.sources == []  # type: ignore[attr-defined]


def test_several_scripts_in_one_text(translator: Translator) -> None:
    found = only(translator.translate("I see 披萨. 不! I love мир."))
    assert found.text == "j' vois 披萨. 不! j'adore мир."
    assert found.alignment is not None
    assert found.alignment.shape == (len(found.pieces), len(found.source_pieces))


@pytest.mark.parametrize("text", ["\x00\x01", "a\ud800b", "🏳️‍🌈👨‍👩‍👧", "e\u0301\u202e\u200b", "I\u00a0love"])
def test_odd_characters_break_nothing(translator: Translator, text: str) -> None:
    (found,) = translator.translate(text)
    assert isinstance(found.text, str)


def test_a_sentence_that_is_too_long_is_refused_and_long_texts_are_not(translator: Translator) -> None:
    fits, long = "I see you you you you you.", "I see you you you you you you you."
    assert only(translator.translate(fits)).finished
    with pytest.raises(UsageError, match=r"at most 8 tokens for this model\. Received: 10 tokens: 'I see you"):
        translator.translate("I see you. " + long)
    assert len(translator.decoder.sources) == 1, "translated something before it refused"  # type: ignore[attr-defined]
    assert only(translator.translate(" I see you." * 500)).text.count("vois") == 500


def test_a_model_of_any_length_gets_no_padding() -> None:
    made = tables()
    translator = Translator.of(Dictionary(ids(WORDS, made)), made)
    translator.translate("I love you you you you you you you.")
    (source,) = translator.decoder.sources  # type: ignore[attr-defined]
    assert source[-1] == END
    assert 0 not in source


def test_what_the_limit_cuts_is_said(translator: Translator) -> None:
    found = only(translator.translate("I see you.", Search(longest=2)))
    assert not found.finished
    assert found.notes == ("Cut off after 2 tokens: the model did not end it.",)
    both = only(translator.translate("I see you. I.", Search(longest=3)))
    assert not both.finished


def test_settings_are_checked_before_anything_is_translated(translator: Translator) -> None:
    for text in ("", "I see you."):
        with pytest.raises(UsageError, match="takes 4 hypotheses"):
            translator.translate(text, Search(beams=5))
    translator.attends = False
    with pytest.raises(UsageError, match="coverage"):
        translator.check(Search(coverage=0.1))


def test_two_runs_are_alike(translator: Translator) -> None:
    def run() -> Any:
        found = translator.translate("I see you. You love pizza ☃.", Search(beams=4, best=3, coverage=0.2))
        return [(one.text, one.score, one.pieces) for one in found]

    assert run() == run()
