"""Sentences of a text: where they end, where they do not, and nothing lost."""

from __future__ import annotations

import time

import pytest

from edge_dl.text.splitting import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n\t ", []),
        ("I love pizza", ["I love pizza"]),
        ("  Go.  Now! Why? Well… Yes.  ", ["Go.", "Now!", "Why?", "Well…", "Yes."]),
        ("Wait... What?! No.", ["Wait...", "What?!", "No."]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ('"Go!" "No." (Yes.) [Ok.]', ['"Go!"', '"No."', "(Yes.)", "[Ok.]"]),
        ("one\ntwo\r\n\r\n three\u2028four", ["one", "two", "three", "four"]),
        ("Mr. Smith met Dr. No. Good.", ["Mr. Smith met Dr. No.", "Good."]),
        ("J. S. Bach wrote it. So did I. You too.", ["J. S. Bach wrote it.", "So did I.", "You too."]),
        ("It is 3.5 m. At 5 a.m. He left the U.S. Then.", ["It is 3.5 m.", "At 5 a.m. He left the U.S. Then."]),
        ("use e.g. this. iPhones too.", ["use e.g. this. iPhones too."]),
        ("No. 5 is alive.", ["No.", "5 is alive."]),
        ("« Quoi ? » dit-il. Et après ? « Rien. »", ["« Quoi ? » dit-il.", "Et après ?", "« Rien. »"]),
        ("好。是吗？「不！」走。", ["好。", "是吗？", "「不！」", "走。"]),
        ("مرحبا. كيف حالك?", ["مرحبا.", "كيف حالك?"]),
        ("Été. Élan! ¿Qué? ¡No!", ["Été.", "Élan!", "¿Qué?", "¡No!"]),
        (". . .", [". . ."]),
        ("!!! ???", ["!!! ???"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    found = split_sentences(text)
    assert [sentence for sentence, _ in found] == sentences
    assert "".join(sentence + spaces for sentence, spaces in found) == text.lstrip()
    assert all(sentence == sentence.strip() and not spaces.strip() for sentence, spaces in found)


@pytest.mark.parametrize(
    "text", [" " * 200_000 + "a", "a. " * 60_000, "." * 200_000, "A" * 200_000 + ". B", "。" * 99_999]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    started = time.process_time()
    found = split_sentences(text)
    assert "".join(sentence + spaces for sentence, spaces in found) == text.lstrip()
    assert time.process_time() - started < 5  # Quadratic ways of doing it took minutes.
