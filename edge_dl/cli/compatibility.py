"""`edge-dl check MODEL_OR_BUNDLE --runtime PROFILE[,PROFILE]`: will it load and be right there, and what if not?"""

from __future__ import annotations

from pathlib import Path

import typer

from edge_dl.checks.compatibility import Compatibility
from edge_dl.checks.runtime_profiles import find_profiles
from edge_dl.cli.console import print_json, print_table
from edge_dl.cli.source import Kind, resolve
from edge_dl.errors import printable

TIME_LIMIT = 120.0


def check(what: str, runtime: str, *, json: bool) -> None:
    """Look a model's operators up in the tables of each runtime, in a child process: the file may be hostile.

    Raises:
        UsageError: a runtime is not known, there is no such model, or the file is damaged.
        StageError: looking into it crashed or took too long.
        typer.Exit: 1 when it will not load in one of them, or is known to answer wrongly there.
    """
    find_profiles(runtime)
    source = resolve(what, (Kind.TFLITE, Kind.BUNDLE))
    assert source.path is not None
    answers = _look(source.path, runtime)
    if json:
        print_json({"model": str(source.path), "runtimes": [answer.to_json() for answer in answers]})
    else:
        _show(answers)
    if not all(answer.right for answer in answers):
        raise typer.Exit(1)


def _look(path: Path, runtime: str) -> list[Compatibility]:
    from edge_dl.bundle import read_bundle
    from edge_dl.runtime.guard import run_guarded

    model = read_bundle(path).model if path.is_dir() else path
    answers: list[Compatibility] = run_guarded(
        "edge_dl.checks.compatibility:check_file", (str(model), runtime), timeout=TIME_LIMIT, stage="check"
    )
    return answers


def _show(answers: list[Compatibility]) -> None:
    rows = []
    for index, operator in enumerate(answers[0].operators):
        cells = [_cell(answer, index) for answer in answers]
        rows.append([operator.name, str(operator.version), str(operator.count), *cells])
    print_table(["operator", "version", "count", *(answer.runtime for answer in answers)], rows)
    print()
    for answer in answers:
        release = f" ({answer.release})" if answer.release and answer.release not in answer.runtime else ""
        print(f"{answer.runtime}{release}: {answer.word}")
        for item in answer.problems:
            print(printable(f"  {item.count} x {item.operator} version {item.version} {item.reason}. {item.todo}"))
        print(f"  about it: {'; '.join(answer.notes)}")


def _cell(answer: Compatibility, index: int) -> str:
    operator = answer.operators[index]
    wrong = any((item.operator, item.version) == (operator.name, operator.version) for item in answer.problems)
    return "no" if not operator.loads else "wrong" if wrong else "yes"


def with_runtime(runtime: str, settings: list[str] | None) -> list[str]:
    """`--set` texts with what `--runtime` means put in front, so that a `--set conversion.runtime=...` wins.

    Raises:
        UsageError: a runtime is not known; told before anything is trained.
    """
    asked = ([f"conversion.runtime={runtime}"] if runtime else []) + list(settings or ())
    for setting in asked:
        key, _, value = setting.partition("=")
        if key.strip() == "conversion.runtime" and value.strip():
            find_profiles(value)
    return asked
