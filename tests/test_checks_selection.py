from __future__ import annotations

from edge_dl.checks.selection import Candidate, Selection, select
from edge_dl.checks.verdicts import Verdict

PASS, FAIL, FEW = Verdict.PASS, Verdict.FAIL, Verdict.NOT_ENOUGH_SAMPLES


def candidate(name: str, verdict: Verdict | None, p50: float | None, size: int = 100, **more: str) -> Candidate:
    lowering, quantization = name.split("-")
    return Candidate(name, lowering, quantization, verdict, p50_ms=p50, bytes=size, **more)


def test_the_fastest_that_passes_is_chosen_per_quantization_and_overall():
    selection = select(
        [
            candidate("while-float32", PASS, 0.080),
            candidate("unroll-float32", PASS, 0.070),
            candidate("fused-float32", FAIL, 0.010, message="cosine 0.2"),
            candidate("while-int8", PASS, 0.060),
            candidate("unroll-int8", None, 0.020),
            candidate("fused-int8", PASS, None, error="signal SIGSEGV"),
        ]
    )
    assert selection.chosen == "while-int8"
    assert selection.by_quantization == {"float32": "unroll-float32", "int8": "while-int8"}
    assert selection.by_lowering == {"float32": "unroll", "int8": "while"}
    reasons = {row.variant: row.reason for row in selection.rows}
    assert reasons["fused-float32"] == "fails parity: cosine 0.2"
    assert reasons["unroll-int8"] == "parity was not checked"
    assert reasons["fused-int8"] == "was not measured: signal SIGSEGV"
    assert reasons["while-float32"] == "1.14 times as slow as unroll-float32"
    assert reasons["while-int8"].endswith("and the fastest of all")
    assert [row.variant for row in selection.rows if row.chosen] == ["unroll-float32", "while-int8"]


def test_of_two_equally_fast_the_smaller_is_chosen():
    selection = select([candidate("unroll-float32", PASS, 0.0700, 900), candidate("while-float32", PASS, 0.0705, 200)])
    assert selection.chosen == "while-float32"
    assert selection.rows[0].reason == "as fast as while-float32, and not smaller"


def test_too_few_samples_count_only_where_nothing_passes():
    few = candidate("unroll-float32", FEW, 0.01)
    assert select([few, candidate("while-float32", PASS, 0.09)]).chosen == "while-float32"
    alone = select([few, candidate("while-float32", FAIL, 0.02)])
    assert alone.chosen == "unroll-float32"
    assert "not enough samples" in alone.rows[0].reason
    mixed = select([few, candidate("while-int8", PASS, 0.5)])
    assert mixed.chosen == "while-int8"


def test_nothing_is_chosen_where_nothing_passes():
    selection = select([candidate("while-int8", FAIL, 0.1)])
    assert (selection.chosen, selection.by_quantization) == ("", {})
    assert select([]).rows == ()
    assert Selection.from_json(selection.to_json()) == selection
