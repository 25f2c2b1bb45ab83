"""What the verify and bench stages do in child processes: one variant, bundle or model each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Limits, read_bundle
from edge_dl.checks.inspection import inspect_model
from edge_dl.checks.latency import LatencyReport, compare_models, measure_model
from edge_dl.checks.limits import limits_for
from edge_dl.checks.metrics import Baselines
from edge_dl.checks.parity import check_parity
from edge_dl.checks.translation import (
    REFERENCE,
    ReferenceAnswers,
    compare_translations,
    plain_answers,
    sample_rows,
    translate_sentences,
    translation_checks,
)
from edge_dl.checks.turns import Comparison, Settings
from edge_dl.checks.verdicts import Check, ParityReport, Verdict, overall
from edge_dl.errors import EdgeError, UsageError
from edge_dl.files import load_npz, read_json, save_npz, write_json
from edge_dl.recipe import ChecksConfig, Task
from edge_dl.runtime import open_session, predict_all
from edge_dl.runtime.translation import Translator

SUBSET_SEED = 0


def verify_variant(run: str, name: str, checks: ChecksConfig, runtime: str) -> ParityReport:
    """Check one variant of a run folder on its test split; see `pipeline.run_verify`."""
    session = open_session(Path(run) / "variants" / name, runtime=runtime)
    report = check_parity(session, **variant_case(run, name, checks))
    if _translates(Path(run), name):
        report = _with_translations(report, Path(run), name, checks, runtime)
    # A language model's vocabulary is long and stands in the bundle already.
    return report if len(report.labels) <= 1000 else replace(report, labels=())


def _translates(run: Path, name: str) -> bool:
    """Whether a variant's own translations are checked: the Keras model's are there, and tables of its tokens."""
    bundle = run / "variants" / name
    return (run / "export" / REFERENCE).is_file() and read_bundle(bundle).manifest.translation is not None


def _with_translations(report: ParityReport, run: Path, name: str, checks: ChecksConfig, runtime: str) -> ParityReport:
    """The report with what became of the sentences of the test part, of which `checks.samples` are taken.

    Writes checks/translations/<variant>.json and .npz.
    """
    limits = limits_for(report.quantization, checks, Task.TRANSLATION)
    wanted = ReferenceAnswers.read(run / "export" / REFERENCE)
    rows = _subset(len(wanted.sentences), checks.samples)
    chosen = wanted.sentences if rows is None else [wanted.sentences[row] for row in rows]
    sources = [item.source for item in chosen]
    try:
        translator = Translator(run / "variants" / name, runtime=runtime)
        translated = translate_sentences(
            translator.decoder, translator.tables, sources, length=translator.length, longest=wanted.longest,
            draw=sample_rows(sources)[::-1],
        )  # fmt: skip
        found, metrics, counts = compare_translations(chosen, translated, max_drop=limits.max_drop)
    except EdgeError as error:  # A model that gives NaN has failed already: what was found before stands.
        own: tuple[Check, ...] = (Check("translation", Verdict.FAIL, str(error)),)
    else:
        own = translation_checks(found, metrics, limits)
        report = replace(report, metrics=(*metrics, *report.metrics), translation=found)
        folder = run / "checks" / "translations"
        write_json(folder / f"{name}.json", plain_answers(translated))
        save_npz(folder / f"{name}.npz", counts.arrays())
    every = (*report.checks, *own)
    verdict, message = overall(every)
    return replace(report, checks=every, verdict=verdict, message=message, limits=limits)


def variant_case(run: str | Path, name: str, checks: ChecksConfig) -> dict[str, Any]:
    """What `check_parity` takes for one variant of a run folder, but for who answers."""
    folder = Path(run)
    case = split_case(folder, folder / "variants" / name, "test", folder / "export" / "reference.npz", checks)
    if _translates(folder, name):
        # What is held is the loss of BLEU, not that of a metric of the next token after the right ones.
        case["limits"] = replace(case["limits"], max_drop=None)
    return {**case, "variant": name}


def split_case(
    run: str | Path, bundle_folder: str | Path, split: str, answers: str | Path, checks: ChecksConfig
) -> dict[str, Any]:
    """What `check_parity` takes for a bundle on one split of a run folder, but for who answers.

    Args:
        run: the run folder.
        bundle_folder: the bundle, anywhere.
        split: "test" or "validation".
        answers: .npz of the reference's answers to the split, y/<output>.
        checks: number of samples and limits.

    Raises:
        UsageError: no such bundle or split, or the split does not hold the model's inputs.
    """
    folder = Path(run)
    bundle = read_bundle(bundle_folder)
    manifest = bundle.manifest
    data = load_npz(folder / "data" / f"{split}.npz")
    answered = load_npz(answers)
    reference = _named(answered, "y/")
    data.setdefault("index", np.arange(len(next(iter(data.values()), ()))))
    if "index" in answered:  # Not every sample has an answer.
        data = {key: array[answered["index"]] for key, array in data.items()}
    inputs = chosen_inputs(_named(data, "x/"), [spec.name for spec in manifest.inputs], f"data/{split}.npz")
    targets, weights = _named(data, "y/"), _named(data, "weight/")
    # A model with one answer and a data set with one answer mean the same one, whatever each calls it.
    if len(reference) == 1 and len(targets) == 1:
        (output,) = reference
        targets = {output: next(iter(targets.values()))}
        weights = dict.fromkeys([output], next(iter(weights.values()))) if weights else {}
    known = {output: array for output, array in targets.items() if output in reference}
    description = _description(folder / "data" / "dataset.json")
    rows = _subset(len(next(iter(inputs.values()))), checks.samples)
    index = data["index"]

    def take(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: array[rows] if rows is not None else array for key, array in arrays.items()}

    task = description.get("task") or manifest.task
    return {
        "inputs": take(inputs),
        "reference": take(reference),
        "targets": take(known),
        "task": _task(task),
        "labels": bundle.labels() or tuple(description.get("labels") or description.get("vocabulary") or ()),
        "limits": limits_for(manifest.quantization, checks, task),
        "quantization": manifest.quantization,
        "variant": manifest.variant,
        "weights": take({key: array for key, array in weights.items() if key in known}),
        "index": index if rows is None else index[rows],
        "model": inspect_model(bundle.model),
        "baselines": _baselines(description),
    }


def verify_bundle(
    folder: str, files: tuple[str, str] | None, checks: ChecksConfig | None, runtime: str
) -> ParityReport:
    """Check a bundle; see `pipeline.verify_bundle`. `files`: (data, reference), None: the golden samples."""
    case = bundle_case(folder, files, checks)
    session = open_session(folder, runtime=runtime)
    outputs = predict_all(folder, case["inputs"], processes=0, runtime=runtime) if files else None
    return check_parity(session, outputs=outputs, **case)


def bundle_case(
    folder: str | Path, files: tuple[str, str] | None = None, checks: ChecksConfig | None = None
) -> dict[str, Any]:
    """What `check_parity` takes for a bundle, but for who answers; see `verify_bundle`."""
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    limits = manifest.limits
    if checks is not None or limits == Limits():
        limits = limits_for(manifest.quantization, checks, manifest.task)
    wanted = [spec.name for spec in manifest.inputs]
    targets: dict[str, np.ndarray] = {}
    if files is None:
        inputs, reference = bundle.golden()
    else:
        data = load_npz(files[0])
        inputs = chosen_inputs(_named(data, "x/") or data, wanted, files[0])
        answers = load_npz(files[1])
        reference = _named(answers, "y/") or answers
        targets = {key: array for key, array in _named(data, "y/").items() if key in reference}
    return {
        "inputs": inputs,
        "reference": reference,
        "targets": targets,
        "task": _task(manifest.task),
        "labels": bundle.labels(),
        "limits": limits,
        "quantization": manifest.quantization,
        "variant": manifest.variant,
        "model": inspect_model(bundle.model),
    }


def verify_model(
    model: str,
    reference: str,
    data: str,
    quantization: str,
    task: str,
    labels: tuple[str, ...],
    checks: ChecksConfig | None,
    runtime: str,
) -> ParityReport:
    """Check a bare .tflite; see `pipeline.verify_model`."""
    session = open_session(model, runtime=runtime)
    arrays, answers = load_npz(data), load_npz(reference)
    inputs = chosen_inputs(_named(arrays, "x/") or arrays, list(session.inputs), data)
    wanted = _named(answers, "y/") or answers
    missing = [name for name in wanted if name not in session.outputs]
    if missing and len(wanted) == 1 and len(session.outputs) == 1:
        wanted = {next(iter(session.outputs)): next(iter(wanted.values()))}
    elif missing:
        raise UsageError(
            "The reference's answers are named as the model's outputs.",
            received=f"{reference}: {', '.join(wanted)}",
            todo=f"Name them {', '.join(session.outputs)}.",
        )
    targets = _named(arrays, "y/")
    if len(targets) == 1 and len(wanted) == 1:
        targets = {next(iter(wanted)): next(iter(targets.values()))}
    targets = {name: array for name, array in targets.items() if name in wanted}
    return check_parity(
        session,
        inputs,
        wanted,
        targets,
        outputs=predict_all(model, inputs, processes=0, runtime=runtime),
        task=_task(task) or guess_task(targets, wanted) or "",
        labels=labels,
        limits=limits_for(quantization, checks),
        quantization=quantization,
        variant=Path(model).stem,
        model=inspect_model(model),
    )


def bench_variant(
    run: str, name: str, baseline: str, threads: int, rounds: int, runtime: str
) -> tuple[LatencyReport, Comparison | None, str]:
    """Time a variant and compare it with the baseline; gives also why there is no comparison, "" otherwise."""
    folder = Path(run) / "variants"
    options: dict[str, Any] = {"threads": threads, "runtime": runtime}
    report = measure_model(folder / name, variant=name, **options)
    if not baseline:
        return report, None, ""
    settings = Settings() if not rounds else _with_rounds(rounds)
    try:
        found = compare_models(folder / name, folder / baseline, names=(name, baseline), settings=settings, **options)
    except EdgeError as error:
        return report, None, str(error)
    return report, found, ""


def guess_task(targets: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> Task | None:
    """What a model answers, from its true answers: whole numbers with one axis less than the output are classes."""
    for name, values in targets.items():
        if name not in reference:
            continue
        if values.dtype.kind in "iub" and values.ndim == reference[name].ndim - 1:
            return Task.CLASSIFICATION if values.ndim == 1 else Task.LABELLING
        return Task.REGRESSION
    return None


def _with_rounds(rounds: int) -> Settings:
    """Settings for so many rounds in all."""
    settings = Settings()
    blocks = max(2, min(settings.blocks, rounds // 2))
    return replace(settings, blocks=blocks, rounds=max(2, rounds // blocks), seconds=3600.0)


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def chosen_inputs(arrays: Mapping[str, np.ndarray], wanted: list[str], where: str) -> dict[str, np.ndarray]:
    """A model's inputs by its names out of arrays by theirs; one input and one array mean the same.

    Args:
        arrays: by name, without a prefix.
        wanted: names of the model's inputs.
        where: names the arrays' source in the message.

    Raises:
        UsageError: an input is missing.
    """
    missing = [name for name in wanted if name not in arrays]
    if missing and len(wanted) == 1 and len(arrays) == 1:
        return {wanted[0]: next(iter(arrays.values()))}
    if missing:
        raise UsageError(
            "The data must hold every input of the model.",
            received=f"{where} with {', '.join(arrays) or 'nothing'}",
            todo=f"Missing: {', '.join(missing)} (as x/<name>).",
        )
    return {name: arrays[name] for name in wanted}


def _subset(total: int, samples: int) -> np.ndarray | None:
    """Positions of so many samples, drawn once for all variants; None: all."""
    if not 0 < samples < total:
        return None
    return np.sort(np.random.default_rng(SUBSET_SEED).permutation(total)[:samples])


def _description(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _task(name: str) -> Task | str:
    return Task(name) if name in {task.value for task in Task} else ""


def _baselines(description: Mapping[str, Any]) -> Baselines | None:
    forecast = description.get("forecast")
    if not isinstance(forecast, dict):
        return None
    return Baselines(
        target_columns=tuple(forecast.get("target_columns") or ()),
        season=int(forecast.get("season") or 0),
        naive_error=tuple(forecast.get("naive_error") or ()),
        season_error=tuple(forecast.get("seasonal_error") or ()),
    )
