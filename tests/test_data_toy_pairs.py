"""Made sentence pairs: right French, nothing of the test part in training, every word learnable."""

from __future__ import annotations

import datetime
import re

import pytest

from edge_dl import data
from edge_dl.data.toy_pairs import DEMO, date_in_words, number_in_words, toy_pairs
from edge_dl.data.toy_phrases import BEING, WRITTEN, composed
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task

WORDS = {
    0: "zéro", 1: "un", 10: "dix", 16: "seize", 17: "dix-sept", 20: "vingt", 21: "vingt et un", 22: "vingt-deux",
    30: "trente", 31: "trente et un", 61: "soixante et un", 69: "soixante-neuf", 70: "soixante-dix",
    71: "soixante et onze", 72: "soixante-douze", 79: "soixante-dix-neuf", 80: "quatre-vingts",
    81: "quatre-vingt-un", 89: "quatre-vingt-neuf", 90: "quatre-vingt-dix", 91: "quatre-vingt-onze",
    99: "quatre-vingt-dix-neuf", 100: "cent", 101: "cent un", 110: "cent dix", 171: "cent soixante et onze",
    180: "cent quatre-vingts", 200: "deux cents", 201: "deux cent un", 280: "deux cent quatre-vingts",
    999: "neuf cent quatre-vingt-dix-neuf", 1000: "mille", 1001: "mille un", 1100: "mille cent",
    1200: "mille deux cents", 1984: "mille neuf cent quatre-vingt-quatre", 2000: "deux mille",
    2080: "deux mille quatre-vingts", 7777: "sept mille sept cent soixante-dix-sept", 9900: "neuf mille neuf cents",
}  # fmt: skip
SINGLE_FORMS = {"numbers": r"\d{1,4}", "dates": r"[A-Z][a-z]+ \d{1,2}, \d{4}|\d\d\.\d\d\.\d{4}|\d{4}-\d\d-\d\d"}


def stem(sentence: str) -> str:
    return sentence.removesuffix(".")


@pytest.mark.parametrize(("number", "words"), WORDS.items())
def test_numbers_in_words(number: int, words: str) -> None:
    assert number_in_words(number) == words


def test_each_number_has_words_of_its_own() -> None:
    assert len({number_in_words(number) for number in range(10_000)}) == 10_000
    for number in (-1, 10_000):
        with pytest.raises(ValueError, match="0 to 9999"):
            number_in_words(number)


def test_dates_in_words() -> None:
    assert date_in_words(datetime.date(1789, 7, 14)) == "le 14 juillet 1789"
    assert date_in_words(datetime.date(2000, 2, 1)) == "le 1er février 2000"
    assert date_in_words(datetime.date(1999, 12, 31)) == "le 31 décembre 1999"


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_nothing_of_a_part_stands_in_another(seed: int) -> None:
    parts = toy_pairs(seed)
    assert list(parts) == ["train", "validation", "test"]
    sources = {part: {stem(source) for source, _ in pairs} for part, pairs in parts.items()}
    targets = {part: {stem(target) for _, target in pairs} for part, pairs in parts.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not sources[one] & sources[other]
        # A date in another spelling would be the same translation.
        assert not targets[one] & targets[other]
    for pairs in parts.values():
        assert len({source for source, _ in pairs}) == len(pairs)
    for form in SINGLE_FORMS.values():
        for part in ("validation", "test"):
            assert sum(bool(re.fullmatch(form, source)) for source, _ in parts[part]) == 300


def test_the_same_seed_gives_the_same() -> None:
    assert toy_pairs(3) == toy_pairs(3)
    assert toy_pairs(3) != toy_pairs(4)
    train = [source for source, _ in toy_pairs(3)["train"]]
    assert not all(source.isdigit() for source in train[:100])


@pytest.mark.parametrize("seed", range(5))
def test_what_a_demonstration_types_is_trained_on(seed: int) -> None:
    train = dict(toy_pairs(seed)["train"])
    assert train["I love pizza"] == "J'adore la pizza"
    assert train["I love deep learning"] == "J'adore l'apprentissage profond"
    assert all(train[f"{sentence}."] == f"{train[sentence]}." for sentence in DEMO)
    assert all(train[str(number)] == number_in_words(number) for number in range(100))


@pytest.mark.parametrize("seed", range(5))
def test_every_word_of_validation_and_test_is_met_in_training(seed: int) -> None:
    parts = toy_pairs(seed)
    for side in (0, 1):
        known = {word for pair in parts["train"] for word in re.findall(r"[^\W\d]+", pair[side])}
        for part in ("validation", "test"):
            assert {word for pair in parts[part] for word in re.findall(r"[^\W\d]+", pair[side])} <= known


def test_there_are_hundreds_of_sentences_each_once() -> None:
    everything = [*WRITTEN, *composed()]
    assert len(WRITTEN) >= 150
    assert len(everything) >= 2_000
    assert len({stem(english) for english, _ in everything}) == len(everything)
    assert len({stem(french) for _, french in everything}) == len(everything)


def test_sentences_are_written_as_french_is() -> None:
    for english, french in (*WRITTEN, *composed()):
        assert english.strip() == english
        assert french.strip() == french
        assert english[0].isupper()
        assert french[0].isupper()
        assert english[-1] == french[-1] in ".?!", french
        assert english.isascii()
        assert not set(english + french) & set("|{}’\u00a0\u202f"), french
        assert "  " not in french
        # A space before high punctuation, none before the low one.
        assert not re.search(r"\S[?!:;]", french), french
        assert not re.search(r"\s[.,]", french), french
        # Short words lose their vowel before another.
        assert not re.search(r"\b(?:je|le|la|me|te|se|ne|de|que|ce) [aeéèêiîoôuœy]", french, re.IGNORECASE), french
        assert not re.search(r"\b(?:à le|à les|de le|de les|si il)\b", french, re.IGNORECASE), french


def test_negations_have_both_of_their_words() -> None:
    for english, french in composed():
        assert ("not " in english or "n't " in english) == (" pas " in f"{french} ".replace(".", " ")), (
            english,
            french,
        )
        assert (" pas " in french) == bool(re.search(r"\bne |\bn'", french)), french
    assert {form for _, _, form in BEING} == {0, 1, 2, 3}


def test_the_set_is_loaded_by_name_and_says_that_it_is_a_toy() -> None:
    config = DataConfig("toy-translation", level="subword", vocabulary=400)
    dataset = data.load(config, Task.TRANSLATION)
    assert dataset.synthetic
    assert any("toy" in note for note in dataset.notes)
    assert dataset.sentences is not None
    tables = dataset.sentences.tables
    assert len(tables.target) == 400
    given = tables.source.encode("I love pizza")
    assert any(row[: len(given) + 1].tolist() == [*given, 3] for row in dataset.train.x["source"])
    assert [item.references for item in dataset.sentences.test if item.source == "1984"] in (
        [],
        [("mille neuf cent quatre-vingt-quatre",)],
    )
    assert not (dataset.test.x["target"] == 1).any()
    assert data.load(config, Task.TRANSLATION, seed=1).sha256 != dataset.sha256
    with pytest.raises(UsageError, match="toy-translation is data for translation"):
        data.load(config, Task.CLASSIFICATION)
