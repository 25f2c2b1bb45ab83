"""What the subcommands do: open what they were pointed at, run stages, show results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import typer

from edge_dl.checks.corpus_scores import require_sacrebleu
from edge_dl.cli import stages
from edge_dl.cli.budget import with_budget
from edge_dl.cli.console import ConsoleProgress, print_json, print_table
from edge_dl.cli.source import Kind, Source, resolve
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, read_json
from edge_dl.models.hub_files import is_handle
from edge_dl.progress import Progress
from edge_dl.recipe import DataConfig, Recipe, Task, apply_overrides, flatten, to_json
from edge_dl.runfolder import STAGES, RunFolder

WORK = {
    "data": stages.run_data,
    "train": stages.run_train,
    "compress": stages.run_compress,
    "export": stages.run_export,
    "convert": stages.run_convert,
    "verify": stages.run_verify,
    "bench": stages.run_bench,
}


def open_run(
    what: str,
    data: str,
    settings: Iterable[str],
    config: Path | None,
    out: Path | None,
    *,
    task: str = "",
    custom: Iterable[str] = (),
    unsafe: bool = False,
    max_drop: str = "",
) -> RunFolder:
    """The run folder that a command works in, with its recipe settled.

    Raises:
        UsageError: `what` names nothing, a setting is unknown, or data is missing.
    """
    source = resolve(what, (Kind.RECIPE, Kind.RUN, Kind.KERAS, Kind.SAVED_MODEL, Kind.TFLITE))
    overrides = {**_read_config(config), **parse_settings(settings)}
    if data:
        overrides["data.source"] = data
    backbone = str(overrides.get("model.backbone", ""))
    if is_handle(backbone) and Path(backbone).expanduser().exists():
        overrides["model.backbone"] = absolute(backbone)
    command = ["edge-dl", *sys.argv[1:]]
    if source.kind is Kind.RUN:
        assert source.path is not None
        folder = RunFolder.open(source.path)
        recipe = with_budget(apply_overrides(stages.recipe_of(folder), overrides), max_drop)
        folder.record["recipe"] = to_json(recipe)
        folder.record["command"] = command
        return folder
    if source.is_model:
        return _open_own_model(
            source, overrides, out, command, task=task, custom=custom, unsafe=unsafe, max_drop=max_drop
        )
    from edge_dl.training.recipes import RECIPES

    recipe = with_budget(apply_overrides(RECIPES[source.name], overrides), max_drop)
    return RunFolder.create(out or Path("runs") / recipe.name, recipe=to_json(recipe), command=command)


def _open_own_model(
    source: Source,
    overrides: Mapping[str, Any],
    out: Path | None,
    command: list[str],
    *,
    task: str,
    custom: Iterable[str],
    unsafe: bool,
    max_drop: str,
) -> RunFolder:
    if "data.source" not in overrides:
        raise UsageError(
            "A model of your own needs data to be checked and calibrated with.",
            received=f"{source.path} without --data",
            todo="Name an .npz with the arrays x_train, y_train, x_test, y_test (or X, y; targets may be left out), or "
            "another form that `edge-dl data info` understands.",
        )
    if task and task not in [item.value for item in Task]:
        raise UsageError(
            "--task must be known.", received=task, todo=f"One of {', '.join(item.value for item in Task)}."
        )
    recipe = Recipe(
        name=source.name,
        summary=f"a {source.kind.value} of one's own",
        task=Task(task) if task else _guess_task(str(overrides["data.source"])),
        data=DataConfig(source=str(overrides["data.source"])),
    )
    recipe = with_budget(apply_overrides(recipe, overrides), max_drop)
    folder = RunFolder.create(out or Path("runs") / recipe.name, recipe=to_json(recipe), command=command)
    assert source.path is not None
    folder.record["model"] = {
        "path": str(source.path.resolve()),
        "kind": source.kind.value,
        "custom": list(custom),
        "unsafe": unsafe,
    }
    return folder


def _guess_task(data: str) -> Task:
    """Tell the task from the targets in an .npz: whole numbers are classes, one a sample or one a step.

    Beside two inputs of whole numbers, one of which holds the targets a step later, these are the tokens that come
    next: what a decoder should say when it was told what it said before.
    """
    if not data.endswith(".npz"):
        return Task.CLASSIFICATION
    arrays = load_npz(data)
    tokens = {name: array for name, array in arrays.items() if array.dtype.kind in "iu" and array.ndim > 1}
    for name, array in arrays.items():
        side = name.split("/")[0]
        if side.lower() in ("y", "y_test", "y_train"):
            if not np.issubdtype(array.dtype, np.integer):
                return Task.REGRESSION
            inputs = [item for key, item in tokens.items() if key.startswith(f"x{side[1:]}/")]
            if array.ndim == 2 and len(inputs) > 1 and any(_is_told_before(item, array) for item in inputs):
                return Task.LANGUAGE_MODEL
            return Task.CLASSIFICATION if array.ndim == 1 else Task.LABELLING
    return Task.REGRESSION


def _is_told_before(told: np.ndarray, said: np.ndarray) -> bool:
    """Whether tokens are those that should be said, one step later, wherever they are no padding."""
    if told.shape != said.shape or told.shape[1] < 2:
        return False
    later = told[:, 1:]
    return bool(later.any() and ((later == said[:, :-1]) | (later == 0)).all())


def with_options(settings: list[str] | None, options: Mapping[str, str]) -> list[str]:
    """`--set` texts with what options of their own mean put in front, so that a `--set` of the same key wins.

    Args:
        settings: what `--set` gave.
        options: values by recipe key; empty ones were not given.
    """
    return [*(f"{key}={value}" for key, value in options.items() if value), *(settings or ())]


def absolute(path: str) -> str:
    """A file's path that stays right when a run goes on from another folder; "" stays ""."""
    return str(Path(path).expanduser().absolute()) if path else ""


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as a mapping.

    Raises:
        UsageError: a text has no `=`.
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError("--set takes key=value.", received=setting, todo="For example --set training.epochs=5.")
        parsed[key.strip()] = value.strip()
    return parsed


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        import yaml
    except ImportError:
        raise UsageError("--config needs PyYAML.", todo="Install it with: pip install 'edge-dl[convert]'.") from None
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("The --config file must exist.", received=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError("--config must be a YAML file.", received=f"{path} ({error})") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UsageError("--config must hold settings by name.", received=str(path))
    return flatten(value)


def up_to(folder: RunFolder, last: str) -> tuple[str, ...]:
    """The stages that must be done for stage `last`, itself included."""
    return tuple(STAGES[: STAGES.index(last) + 1])


def do(folder: RunFolder, names: Iterable[str], progress: Progress, *, force: bool = False) -> None:
    """Run stages in order; those that finished with the same inputs are left alone unless `force`."""
    names = tuple(names)
    if "verify" in names and stages.recipe_of(folder).task is Task.TRANSLATION:
        require_sacrebleu()  # Before the training that comes before.
    if "compress" in names:
        stages.check_compression(folder, required=names[-1] == "compress")
    for name in names:
        if name == "train" and stages.own_model(folder):
            continue  # The user's model is trained already.
        if name in WORK:
            WORK[name](folder, progress, force=force)


def tell(folder: RunFolder, stage: str, *, json: bool) -> None:
    """Say what one stage left."""
    if stage == "convert":
        _show_outcomes(folder, json=json)
        return
    place = folder.path / {"train": "train/model.keras", "compress": "compress/model.keras", "export": "export"}[stage]
    if json:
        print_json({"stage": stage, "run": str(folder.path), "result": str(place)})
    else:
        print(place)


def _show_outcomes(folder: RunFolder, *, json: bool) -> None:

    outcomes = [read_json(path) for path in sorted((folder.path / "variants").glob("*.json"))]
    if json:
        print_json(outcomes)
        return
    rows = []
    for outcome in outcomes:
        size = outcome.get("bytes")
        rows.append([outcome["variant"], outcome["status"], f"{size / 1024:.1f} KiB" if size else "",
                     " ".join(filter(None, (outcome.get("message"), outcome.get("todo"))))])  # fmt: skip
    print_table(["variant", "outcome", "size", "why"], rows)
    _show_mixes([{"name": outcome["variant"], "conversion": outcome} for outcome in outcomes])


def _show_mixes(variants: list[dict[str, Any]]) -> None:
    """The path to each variant that was made for an accuracy budget."""
    from edge_dl.report.mixes import HEADS, mix_sections

    for mix in mix_sections(variants):
        rows = [[("> " if row["chosen"] else "  ") + row["cells"][0], *row["cells"][1:]] for row in mix["rows"]]
        print()
        print_table(list(HEADS), rows, title=f"{mix['name']}: what the accuracy budget took")


def finish(folder: RunFolder, progress: Progress, *, beside: Path | None = None, json: bool) -> None:
    """Write the report, print the table of variants, and exit with the run's verdict."""
    from edge_dl.cli import targets
    from edge_dl.report.target_results import silent

    paths = stages.run_report(folder, progress, beside)
    results = read_json(paths.results)
    if json:
        print_json(results)
    else:
        _show_variants(results)
        _show_translations(results)
        _show_mixes(results["variants"])
        targets.show(results)
        _show_compression(results)
        print(f"\n{results['verdict']['status']}: {paths.html}")
    if silent(results):
        raise typer.Exit(3)
    if results["verdict"]["status"] == "fail":
        raise typer.Exit(1)


def _show_variants(results: Mapping[str, Any]) -> None:
    from edge_dl.report import numbers

    rows = []
    for variant in results["variants"]:
        metric, latency = variant["metric"], variant["latency"].get("p50_ms")
        rows.append(
            [
                ("> " if variant["chosen"] else "  ") + variant["name"],
                variant["verdict"],
                numbers.size(variant["bytes"]),
                numbers.size(variant["gzip_bytes"]),
                _metric_text(metric),
                "" if latency is None else numbers.duration(latency / 1e3),
                variant["conversion"]["message"],
            ]
        )
    print_table(["variant", "parity", "size", "gzip", "on the test split", "p50", "why not made"], rows)


def _metric_text(metric: Mapping[str, Any]) -> str:
    from edge_dl.report import numbers
    from edge_dl.report.words import metric_name

    if metric.get("value") is None:
        return ""
    if metric.get("unit") == "score":
        return f"{metric_name(metric['name'])} {numbers.metric(metric['value'], 'score')}"
    return f"{metric['name']} {metric['value']:.4f}"


def _show_translations(results: Mapping[str, Any]) -> None:
    """BLEU and what goes with it, and what another run beside this one reaches."""
    from edge_dl.report.beside import beside_section
    from edge_dl.report.translations import HEADS, cell_texts, translation_rows

    if rows := translation_rows(results):
        print()
        print_table(list(HEADS), [cell_texts(row["cells"]) for row in rows], title="Translations")
    if beside := beside_section(results):
        print()
        print_table(list(beside["heads"]), [cell_texts(row) for row in beside["rows"]], title=beside["note"])


def _show_compression(results: Mapping[str, Any]) -> None:
    from edge_dl.report.compression import compression_failures, compression_section

    if section := compression_section(results):
        print(
            "\n"
            + " ".join([section["text"], *(item["message"] for item in compression_failures(results["compression"]))])
        )


def verify(
    what: str,
    *,
    reference: Path | None,
    data: Path | None,
    runtime: str,
    time_limit: float | None = None,
    force: bool,
    json: bool,
) -> None:
    """`edge-dl verify`."""
    source = resolve(what, (Kind.RUN, Kind.BUNDLE, Kind.TFLITE))
    progress = ConsoleProgress()
    assert source.path is not None
    if source.kind is Kind.RUN:
        with RunFolder.open(source.path) as folder:
            stages.run_verify(folder, progress, force=force, time_limit=time_limit)

            reports = [read_json(path) for path in sorted((folder.path / "checks").glob("*.json"))]
        _show_parity(reports, json=json)
        return
    from edge_dl.checks import pipeline

    limit = time_limit or pipeline.TIME_LIMIT
    if source.kind is Kind.BUNDLE:
        report = pipeline.verify_bundle(source.path, runtime=runtime, time_limit=limit)
    else:
        if reference is None or data is None:
            raise UsageError(
                "A bare .tflite file is checked against answers.",
                received=f"{source.path} without --data and --reference",
                todo="Name an .npz of inputs (x/NAME) and one of the Keras model's answers (y/NAME), "
                "or let `edge-dl run model.keras --data ...` do it all.",
            )
        report = pipeline.verify_model(source.path, reference, data, runtime=runtime, time_limit=limit)
    _show_parity([report.to_json()], json=json)


def _show_parity(reports: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json(reports)
    else:
        rows = []
        for report in reports:
            bad = [check for check in report["checks"] if check["verdict"] not in ("pass", "skipped")]
            rows.append([report["variant"], report["verdict"], str(report["samples"]),
                         "; ".join(check["message"] for check in bad)])  # fmt: skip
        print_table(["variant", "verdict", "samples", "why"], rows)
    if any(report["verdict"] == "fail" for report in reports):
        raise typer.Exit(1)


def bench(what: str, *, against: str, threads: int, runtime: str, force: bool, json: bool) -> None:
    """`edge-dl bench`."""
    source = resolve(what, (Kind.RUN, Kind.BUNDLE, Kind.TFLITE))
    progress = ConsoleProgress()
    assert source.path is not None
    if source.kind is Kind.RUN:
        with RunFolder.open(source.path) as folder:
            stages.run_bench(folder, progress, force=force)

            reports = {
                path.stem: read_json(path)
                for path in sorted((folder.path / "bench").glob("*.json"))
                if path.stem not in ("comparisons", "selection")
            }
            comparisons = read_json(folder.path / "bench" / "comparisons.json")["comparisons"]
    else:
        from edge_dl.checks import inspect_model, latency

        sources = [source, *([resolve(against, (Kind.BUNDLE, Kind.TFLITE))] if against else [])]
        paths = [item.path for item in sources if item.path is not None]
        for item in sources:
            if item.kind is Kind.TFLITE and item.path is not None:
                inspect_model(item.path)  # A damaged file is told before it is timed.
        with progress.step("bench"):
            measured, compared = latency.bench_models(paths, threads=threads, runtime=runtime)
        reports = {str(path): report.to_json() for path, report in zip(paths, measured, strict=True)}
        comparisons = [item.to_json() for item in compared]
    if json:
        print_json({"latency": reports, "comparisons": comparisons})
        return
    rows = [
        [name] + [f"{1000 * report[key]:.1f}" if report.get(key) is not None else "" for key in
                  ("p50_ms", "p90_ms", "p99_ms", "first_call_ms", "load_ms")]
        + [f"{report['peak_memory_mb']:.0f}" if report.get("peak_memory_mb") else "", report.get("runtime", "")]
        for name, report in reports.items()
    ]  # fmt: skip
    print_table(["model", "p50 us", "p90 us", "p99 us", "first us", "load us", "peak MiB", "runtime"], rows)
    for item in comparisons:
        print(f"{item['a']} / {item['b']}: {item['ratio']:.3f} ({item['low']:.3f} to {item['high']:.3f}): "
              f"{item['verdict']}")  # fmt: skip


def inspect(what: str, *, json: bool) -> None:
    """`edge-dl inspect`."""
    from edge_dl.bundle import read_bundle
    from edge_dl.checks.inspection import inspect_model, render

    source = resolve(what, (Kind.TFLITE, Kind.BUNDLE))
    assert source.path is not None
    path = read_bundle(source.path).model if source.kind is Kind.BUNDLE else source.path
    report = inspect_model(path)
    if json:
        print_json(report.to_json())
    else:
        print(render(report))


def generate(bundle: Path, prompt: str, *, length: int, temperature: float, top_k: int, seed: int) -> None:
    """`edge-dl generate`: print text as it is generated."""
    from edge_dl.runtime import generation, open_session

    session = open_session(bundle)
    sampling = generation.Sampling(temperature=temperature, top_k=top_k, seed=seed)
    print(prompt, end="", flush=True)
    for piece in generation.generate_text(session, prompt, length, sampling):
        print(piece, end="", flush=True)
    print()
