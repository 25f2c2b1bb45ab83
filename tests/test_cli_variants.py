"""Which variant of a run folder a command uses: what a bench chose, else the smallest, and none that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_dl.cli.listen import LOWERINGS as LISTENS
from edge_dl.cli.translate import LOWERINGS as TRANSLATES
from edge_dl.cli.variants import find_bundle
from edge_dl.errors import UsageError
from edge_dl.files import write_json


def run_folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / "variants" / name).mkdir(parents=True)
        (path / "variants" / name / "manifest.json").touch()
    return path


def checked(run: Path, **verdicts: str) -> None:
    for name, verdict in verdicts.items():
        write_json(run / "checks" / f"{name.replace('_', '-')}.json", {"verdict": verdict})


def benched(run: Path, chosen: str, **verdicts: str) -> None:
    rows = [{"variant": name.replace("_", "-"), "verdict": verdict} for name, verdict in verdicts.items()]
    write_json(run / "bench" / "selection.json", {"chosen": chosen, "rows": rows})


def name_of(run: Path, lowerings: tuple[str, ...] = TRANSLATES) -> str:
    found = find_bundle(run, lowerings, rule="Name a bundle.", make="edge-dl run")
    return found.name


@pytest.mark.parametrize(("lowerings", "lowering"), [(TRANSLATES, "decode"), (LISTENS, "stream")])
def test_what_failed_its_checks_is_left_out_without_a_bench(
    lowerings: tuple[str, ...], lowering: str, tmp_path: Path
) -> None:
    names = [f"{lowering}-{kind}" for kind in ("int8", "dynamic", "float32")]
    run = run_folder(tmp_path, *names, "int8")
    assert name_of(run, lowerings) == names[0]
    checked(run, **{names[0]: "fail", names[1]: "not-enough-samples"})
    assert name_of(run, lowerings) == names[1], "too few samples is no failure"
    checked(run, **{names[1]: "fail"})
    assert name_of(run, lowerings) == names[2]
    checked(run, **{names[2]: "fail"})
    with pytest.raises(UsageError, match="failed their checks") as error:
        name_of(run, lowerings)
    assert ", ".join(names) in error.value.received
    assert str(tmp_path / "variants" / names[0]) in error.value.todo
    assert find_bundle(tmp_path / "variants" / names[0], lowerings, rule="", make="").name == names[0]


def test_what_a_bench_chose_comes_first_unless_newer_checks_say_no(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "decode-int8", "decode-dynamic", "decode-unroll-float32")
    benched(run, "decode-unroll-float32")
    assert name_of(run) == "decode-unroll-float32"
    checked(run, decode_unroll_float32="fail")
    assert name_of(run) == "decode-int8"
    benched(run, "decode-unroll-float32", decode_int8="fail")
    assert name_of(run) == "decode-dynamic"


def test_a_bench_may_choose_what_does_something_else(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "stream-int8", "stream-float16", "int8", "streaming")
    for chosen, used in {"int8": "stream-int8", "streaming": "stream-int8", "stream-float16": "stream-float16"}.items():
        benched(run, chosen)
        assert name_of(run, LISTENS) == used


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "decode-int8")
    write_json(run / "checks" / "decode-int8.json", [])
    with pytest.raises(UsageError, match="must hold a JSON object"):
        name_of(run)
