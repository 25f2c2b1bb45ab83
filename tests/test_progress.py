"""The listener that shows nothing."""

from __future__ import annotations

import pytest

from edge_dl.progress import SILENT


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.step("reading", 3) as step:
        step.advance()
        step.advance(2, note="loss 0.1")
    SILENT.say("done")
    assert capsys.readouterr() == ("", "")


def test_an_error_inside_a_step_comes_out() -> None:
    with pytest.raises(ValueError, match="inside"), SILENT.step("reading"):
        raise ValueError("inside")
