"""Errors name the rule, what was received and what to do, and survive the way from a child process."""

from __future__ import annotations

import pickle
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.errors import EdgeError, RefusedError, StageError, UsageError, one_line, printable, signal_name


def test_the_message_holds_every_part() -> None:
    error = UsageError("Epochs must be a whole number.", received="'three'", todo="Write 3.")
    assert str(error) == "Epochs must be a whole number. Received: 'three'. Write 3."
    assert str(UsageError("A rule.")) == "A rule."


@pytest.mark.parametrize(("kind", "code"), [(EdgeError, 3), (UsageError, 2), (RefusedError, 2)])
def test_exit_codes(kind: type[EdgeError], code: int) -> None:
    assert kind("A rule.").exit_code == code
    assert StageError("A rule.", stage="convert").exit_code == 3


@given(st.text(), st.text(), st.text(), st.text())
def test_errors_are_pickled_whole(rule: str, received: str, todo: str, variant: str) -> None:
    error = StageError(rule, stage="convert", variant=variant, received=received, todo=todo)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is StageError
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    usage = pickle.loads(pickle.dumps(UsageError(rule, received=received, todo=todo)))
    assert (usage.rule, usage.received, usage.todo) == (rule, received, todo)


@given(st.text())
def test_what_others_wrote_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert shown.replace("\u00a0", " ").isprintable()
    shown.encode("utf-8")
    assert printable(shown) == shown


def test_control_characters_are_shown() -> None:
    assert printable("a\x1b[31mb\r\nc\u202ed\ud800é") == "a\\x1b[31mb c\\u202ed\\ud800é"


@given(st.text())
def test_a_field_of_a_line_is_one(text: str) -> None:
    shown = one_line(text)
    assert "\t" not in shown
    assert len(shown.splitlines()) <= 1
    assert one_line(shown) == shown


def test_a_field_of_a_line_keeps_its_letters() -> None:
    kept = "می\u200cخواهم 👩\u200d👩 1\u202f000 a\u00a0b \u202ec\u00ad"
    assert one_line(kept) == kept
    assert one_line("a\tb\r\nc\u2028d\x1b[31m\x85\x7f") == "a\\tb c d\\x1b[31m \\x7f"


def test_signals_have_names() -> None:
    assert signal_name(-signal.SIGSEGV) == "SIGSEGV"
    assert signal_name(-250) == "signal 250"
    assert signal_name(0) == signal_name(3) == ""
