"""What the command line prints is harmless, whatever the files hold that it talks about."""

from __future__ import annotations

import json

import pytest
import typer

from edge_dl.cli.console import LONGEST_ERROR, guarded, print_json, print_table
from edge_dl.errors import UsageError

HOSTILE = "\x1b[2J\u202e\ud800\x7f\n[bold]end"


def test_json_is_escaped_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": HOSTILE, "kept": "é"})
    text = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "é" in text
    assert json.loads(text) == {"name": HOSTILE, "kept": "é"}


def test_tables_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [[HOSTILE]])
    text = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[bold]end" in text


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def broken() -> None:
        raise UsageError("A rule.", received=HOSTILE + "x" * 100_000)

    with pytest.raises(typer.Exit) as caught:
        broken()
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert line.startswith("Error: A rule. Received: \\x1b[2J")
    assert len(line) < LONGEST_ERROR + 50
