"""`edge-dl target ...`, and what `--on NAME` means for `verify` and `bench`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_dl.cli.console import ConsoleProgress, guarded, print_json, print_table
from edge_dl.errors import UsageError

if TYPE_CHECKING:
    from edge_dl.checks.targets import OutputDifference, TargetResult
    from edge_dl.recipe import ChecksConfig
    from edge_dl.runtime.targets import Target

target_app = typer.Typer(name="target", help="Places to run on: add, list, remove, doctor.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Name = Annotated[str, typer.Argument(help="The target's name.")]


@target_app.command("add")
@guarded
def add(
    name: Name,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="local:[RUNTIME], env:PATH, env:PACKAGE==VERSION, qemu-aarch64:[PACKAGE==VERSION], "
            "ssh://[USER@]HOST[:PORT][?python=PATH&keep=yes&folder=PATH], adb:[SERIAL][?python=PATH&benchmark=PATH]",
        ),
    ],
) -> None:
    """Remember a target under a name, and make what it needs on this machine."""
    from edge_dl.runtime.targets.opening import open_target
    from edge_dl.runtime.targets.registry import add_target
    from edge_dl.runtime.targets.url import parse_address

    add_target(name, address)
    if parse_address(address).scheme in ("env", "qemu-aarch64"):
        progress = ConsoleProgress()
        with progress.step(f"making {name}"), open_target(name).open():
            pass
    print(f"{name}: {address}")


@target_app.command("list")
@guarded
def show_all(json: Json = False) -> None:
    """List the targets."""
    from edge_dl.runtime.targets.registry import read_targets

    targets = read_targets()
    if json:
        print_json(targets)
    elif targets:
        print_table(["target", "address"], [[name, address] for name, address in targets.items()])
    else:
        print("No targets yet. Add one: `edge-dl target add NAME ADDRESS`.")


@target_app.command("remove")
@guarded
def remove(name: Name) -> None:
    """Forget a target. What was made for it stays in the cache folder."""
    from edge_dl.runtime.targets.registry import remove_target

    remove_target(name)


@target_app.command("doctor")
@guarded
def doctor(name: Annotated[str, typer.Argument(help="A target's name or address.")], json: Json = False) -> None:
    """Look at what a target needs: what is there, what is missing, how to get it. Exit code 1: something is missing."""
    from edge_dl.runtime.targets.opening import open_target

    findings = open_target(name).doctor()
    if json:
        print_json([{"what": item.what, "ok": item.ok, "found": item.found, "todo": item.todo} for item in findings])
    else:
        rows = [[item.what, "ok" if item.ok else "missing", item.found, item.todo] for item in findings]
        print_table(["what", "", "found", "what to do"], rows)
    if not all(item.ok for item in findings):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Asked:
    """What `--on` and its companions ask for.

    Attributes:
        targets: where to run.
        samples: of a run's test split; 0: all.
        time_limit: seconds that one call of a target may take.
    """

    targets: tuple[Target, ...]
    samples: int
    time_limit: float


def read_asked(on: str | None, samples: int | None, time_limit: float | None, *, here: bool = False) -> Asked | None:
    """What the options ask of targets; None without `--on`. Nothing is reached yet.

    Args:
        on: names or addresses, separated by commas.
        samples: of a run's test split; 0: all, None: not given.
        time_limit: seconds that one call may take; None: not given.
        here: whether the command has a time limit without `--on`, too.

    Raises:
        UsageError: a target is not known or named twice, or an option is given that only goes with `--on`.
    """
    if on is None:
        for option, given in (("--samples", samples is not None), ("--time-limit", time_limit is not None)):
            if given and not (here and option == "--time-limit"):
                raise UsageError(f"{option} goes with --on.", received=f"{option} without --on")
        return None
    from edge_dl.checks.targets import SAMPLES, check_distinct
    from edge_dl.runtime.targets.base import TIME_LIMIT
    from edge_dl.runtime.targets.opening import open_target

    targets = tuple(open_target(part.strip()) for part in on.split(",") if part.strip())
    check_distinct(targets)
    return Asked(
        targets, SAMPLES if samples is None else samples, TIME_LIMIT if time_limit is None else time_limit
    )  # fmt: skip


def refuse_with_on(given: Mapping[str, Any]) -> None:
    """Say that options of a check on this machine mean nothing on a target.

    Args:
        given: option -> whether it was given.

    Raises:
        UsageError: one was.
    """
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} is for this machine, --on for others.",
                received=f"both {option} and --on",
                todo="Leave one of them out. A target's runtime is part of its address: `edge-dl target add --help`.",
            )


def verify_on(what: str, asked: Asked, *, json: bool = False) -> None:
    """`edge-dl verify WHAT --on NAMES`: a run folder's variants, or one bundle, on every target.

    Args:
        what: a run folder or a bundle.
        asked: what `--on` asks for.
        json: whether JSON is printed instead of a table.

    Raises:
        typer.Exit: 3 when a target could not answer, else 1 when a check failed.
    """
    from edge_dl.checks.targets import verify_on as check

    path, lock = _place(what)
    with lock:
        results = check(
            path,
            asked.targets,
            checks=checks_of(path),
            samples=asked.samples,
            time_limit=asked.time_limit,
            progress=ConsoleProgress(),
        )
    if json:
        print_json([result.to_json() for result in results])
    else:
        print_table(COLUMNS, [table_row(result) for result in results])
    if any(result.error for result in results):
        raise typer.Exit(3)
    if any(result.parity.failed for result in results):
        raise typer.Exit(1)


def bench_on(what: str, asked: Asked, *, json: bool = False) -> None:
    """`edge-dl bench WHAT --on NAMES`; see `verify_on`.

    Raises:
        typer.Exit: 3 when a target could not answer.
    """
    from edge_dl.checks.targets import bench_on as measure

    path, lock = _place(what)
    with lock:
        results = measure(path, asked.targets, time_limit=asked.time_limit, progress=ConsoleProgress())
    if json:
        print_json([result.to_json() for result in results])
    else:
        rows = []
        for item in results:
            timing = item.timing
            numbers = [
                "" if timing is None or (value := getattr(timing, key)) is None else f"{1e3 * value:.1f}"
                for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_ms")
            ]
            state = ", ".join(f"{key} {value}" for key, value in item.facts_after.items())
            note = item.error and f"{item.error} {item.received}"
            note = note or ("" if item.meaningful else "emulated: says nothing about a device")
            rows.append([item.target, item.variant, *numbers, note or state])
        print_table(["target", "variant", "p50 us", "p90 us", "p99 us", "mean us", "load us", "note"], rows)
    if any(result.error for result in results):
        raise typer.Exit(3)


def show(results: Mapping[str, Any]) -> None:
    """Print what targets answered, from results.json's value; nothing without any."""
    from edge_dl.report.target_view import target_sections

    rows = []
    for section in target_sections(results):
        if section["error"]:
            rows.append([section["name"], "all", section["word"], "", "", "", f"{section['error']} {section['todo']}"])
        for row in section["rows"]:
            latency = row["p50"] + (" (emulated)" if row["meaningless"] else "")
            rows.append(
                [section["name"], row["variant"], row["word"], row["max_abs"], row["differing"], latency, row["why"]]
            )
    if rows:
        print()
        columns = ["target", "variant", "verdict", "largest difference", "integers that differ", "p50", "why"]
        print_table(columns, rows)


COLUMNS = ["target", "variant", "runtime", "verdict", "largest difference", "differing", "integer steps", "why"]


def table_row(result: TargetResult) -> list[str]:
    """One line of the parity table: difference to this machine's own runtime, and the verdict against the reference."""
    run, outputs = result.run, result.differences
    largest = differing = ""
    if outputs:
        known = [item.max_abs for item in outputs if item.max_abs is not None]
        largest = f"{max(known):.3g}" if len(known) == len(outputs) else "NaN or infinity"
        differing = f"{sum(item.differing for item in outputs)} of {sum(item.elements for item in outputs)}"
    why = f"{result.error} {result.received}" if result.error else "" if result.parity.passed else result.parity.message
    return [
        result.target,
        result.variant,
        f"{run.runtime} {run.version} {run.machine.architecture}" if run else "",
        "not run" if result.error else result.parity.verdict.value,
        largest,
        differing,
        _steps(outputs),
        why,
    ]


def _steps(outputs: tuple[OutputDifference, ...]) -> str:
    """E.g. "12 by 1, 2 by 2"; "none" for integers without a difference, "" where nothing is an integer."""
    total: dict[str, int] = {}
    for item in outputs:
        for steps, count in item.steps.items():
            total[steps] = total.get(steps, 0) + count
    if total:
        return ", ".join(f"{count} by {steps}" for steps, count in total.items())
    return "none" if any(item.scale for item in outputs) else ""


def checks_of(path: Path) -> ChecksConfig | None:
    """What the recipe of a run folder holds its variants to; None for a bundle, which brings its own limits."""
    from edge_dl.cli.stages import recipe_of
    from edge_dl.runfolder import RECORD, RunFolder

    return recipe_of(RunFolder.open(path)).checks if (path / RECORD).is_file() else None


def _place(what: str) -> tuple[Path, contextlib.AbstractContextManager[Any]]:
    """Path of a run folder or a bundle, and the run folder's lock."""
    from edge_dl.cli.source import Kind, resolve
    from edge_dl.runfolder import RunFolder

    source = resolve(what, (Kind.RUN, Kind.BUNDLE))
    assert source.path is not None
    if source.kind is Kind.RUN:
        return source.path, RunFolder.open(source.path)
    return source.path, contextlib.nullcontext()
