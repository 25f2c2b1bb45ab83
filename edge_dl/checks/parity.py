"""Parity: is a variant still the model that was trained?

NaN or infinity anywhere fails first. Then per output the errors, cosine, SNR and top-1 agreement against limits; then
the task metric of both on the same samples, with a paired confidence interval of the difference; the same input twice,
and inputs in another order, must give the same answers, and steps for several hypotheses those of steps for one; and
the file must hold the weights that its name promises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from edge_dl.bundle import Limits
from edge_dl.checks.comparison import DEFAULT_CONFIDENCE, compare_metric
from edge_dl.checks.differences import agreement, changed_answers, compare_output
from edge_dl.checks.inspection import ModelReport
from edge_dl.checks.limits import limits_for
from edge_dl.checks.metrics import (
    CLASS_TASKS,
    MAX_CLASSES_COUNTED,
    Baselines,
    Target,
    confusion_matrix,
    looks_like_probabilities,
    metrics_for,
    prepare_target,
    task_beside,
)
from edge_dl.checks.verdicts import (
    CHANGED_SHOWN,
    ChangedAnswer,
    Check,
    MetricComparison,
    OutputParity,
    ParityReport,
    Verdict,
    decision,
    finite,
    overall,
)
from edge_dl.checks.weights import check_weights
from edge_dl.errors import UsageError
from edge_dl.recipe import Task
from edge_dl.runtime.agent import ATTENTION, compare_beams

Arrays = Mapping[str, np.ndarray]
# Samples that are run twice and in another order: enough to meet a leak, too few to cost anything.
REPEATED = 16
# From so many samples on, one changed answer is always allowed: a limit of 97 % says nothing about 1 in 20.
ONE_CHANGE_ALLOWED_FROM = 10


class Predictor(Protocol):
    """What `edge_dl.runtime.Session` offers: answers to many samples, each computed from fresh states."""

    def predict(self, inputs: Any) -> Mapping[str, np.ndarray]:
        """Answers by output name to inputs by name, sample axis first on both."""


def check_parity(
    session: Predictor | Callable[[Arrays], Arrays],
    inputs: Arrays,
    reference: Arrays,
    targets: Arrays | None = None,
    *,
    task: Task | str = "",
    labels: Sequence[str] = (),
    limits: Limits | None = None,
    quantization: str = "float32",
    variant: str = "",
    outputs: Arrays | None = None,
    weights: Arrays | None = None,
    index: np.ndarray | None = None,
    model: ModelReport | None = None,
    baselines: Baselines | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> ParityReport:
    """Check a variant against its reference.

    Args:
        session: the variant: a session, or a function that answers many samples.
        inputs: by input name, the sample axis first.
        reference: the reference's answers by output name, the sample axis first.
        targets: true answers by output name; None: no task metric.
        task: what the model answers; "" when unknown: outputs are compared as numbers.
        labels: class names in output order.
        limits: what the variant is held to; None: the defaults of `quantization`.
        quantization: what the variant says it is.
        variant: the variant's name, for the report.
        outputs: the variant's answers to `inputs`, where they were computed already.
        weights: weights of the true answers by output name, (samples,) or (samples, steps).
        index: the samples' rows in the source, for the report; None: 0, 1, 2, ...
        model: what `inspect_model` says about the file; None: the file is not looked into.
        baselines: what a forecast has to beat.
        confidence: of the task metric's interval.
        seed: seeds the bootstrap and the choice of repeated samples.

    Raises:
        UsageError: no samples, names or shapes that do not fit each other, targets that are not valid.
    """
    started = time.perf_counter()
    predict: Callable[[Any], Arrays] = session.predict if hasattr(session, "predict") else session
    limits = limits or limits_for(quantization)
    kind = Task(task) if task else None
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    reference = {name: np.asarray(array) for name, array in reference.items()}
    samples = _count(inputs, reference)
    index = np.arange(samples) if index is None else np.asarray(index)
    if index.shape != (samples,):
        raise UsageError("The index has one row number a sample.", received=f"shape {index.shape}")
    prepared = _targets(kind, reference, targets or {}, weights or {}, baselines)
    computed = predict(inputs) if outputs is None else outputs
    answers = {name: np.asarray(array) for name, array in computed.items()}

    checks = [*_check_shapes(reference, answers), *_check_finite(reference, answers)]
    results: list[OutputParity] = []
    compared: list[MetricComparison] = []
    changed: list[ChangedAnswer] = []
    changed_count = 0
    confusion = reference_confusion = np.zeros((0, 0), np.int64)
    if all(check.verdict is Verdict.PASS for check in checks):
        for name, want in reference.items():
            have, target = answers[name], prepared.get(name)
            # Weights over a source are no choice among classes, whatever the task.
            own = None if name == ATTENTION and target is None else kind
            agreed, counted, probabilities = _agreement(own, want, have, target, bool(prepared))
            result = compare_output(name, want, have, index=index, agreed=agreed, counted=counted)
            results.append(result)
            checks += _check_limits(result, limits)
            if agreed is not None:
                number, shown = changed_answers(
                    name, want, have, agreed, probabilities=probabilities, index=index, counted=counted,
                    target=None if target is None else target.values, labels=labels, shown=CHANGED_SHOWN,
                )  # fmt: skip
                changed_count += number
                changed += shown
        checks += _check_repeats(predict, inputs, answers, seed)
        checks += _check_beams(session, inputs, kind, limits)
        for name, target in prepared.items():
            first = not compared  # One metric of the first output decides; the others are there to be read.
            found = _metrics(name, reference[name], answers[name], target, limits, confidence, seed, decide=first)
            compared += found
            checks += [_metric_check(item) for item in found if item.verdict is not None]
            if first and target.task in CLASS_TASKS and target.classes <= MAX_CLASSES_COUNTED:
                confusion = confusion_matrix(answers[name], target)
                reference_confusion = confusion_matrix(reference[name], target)
    if model is not None:
        checks.append(check_weights(model, quantization))
    verdict, message = overall(tuple(checks))
    return ParityReport(
        variant=variant,
        quantization=quantization,
        task=kind.value if kind else "",
        verdict=verdict,
        message=message,
        samples=samples,
        checks=tuple(checks),
        outputs=tuple(results),
        metrics=tuple(compared),
        changed=tuple(changed[:CHANGED_SHOWN]),
        changed_count=changed_count,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        reference_confusion=tuple(tuple(row) for row in reference_confusion.tolist()),
        labels=tuple(labels),
        limits=limits,
        baselines=_baselines(baselines, inputs, prepared),
        weight_bytes=dict(model.weight_bytes) if model is not None else {},
        seconds=round(time.perf_counter() - started, 3),
    )


def _count(inputs: Arrays, reference: Arrays) -> int:
    counts = {f"input {name!r}": len(array) if array.ndim else 0 for name, array in inputs.items()}
    counts |= {f"reference {name!r}": len(array) if array.ndim else 0 for name, array in reference.items()}
    if not inputs or not reference or 0 in counts.values():
        raise UsageError("Parity needs at least one sample of every input and output.", received=_listed(counts))
    if len(set(counts.values())) != 1:
        raise UsageError("Inputs and reference must hold the same samples.", received=_listed(counts))
    return next(iter(counts.values()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count} samples" for name, count in counts.items()) or "nothing"


def _targets(
    task: Task | None, reference: Arrays, targets: Arrays, weights: Arrays, baselines: Baselines | None
) -> dict[str, Target]:
    for name in targets:
        if name not in reference:
            raise UsageError(
                "Targets are named as the outputs are.", received=repr(name), todo=f"Outputs: {', '.join(reference)}."
            )
    if task is None:
        return {}
    prepared: dict[str, Target] = {}
    for name, values in targets.items():
        # A reference with NaN fails the check of finite numbers; its kind is not asked for then.
        want = np.nan_to_num(reference[name]) if reference[name].dtype.kind == "f" else reference[name]
        # The task is the first output's; a model of the user's own may answer something else beside it.
        own = task if not prepared else task_beside(task, want, values)
        prepared[name] = prepare_target(
            want, values, task=own, name=name, weight=weights.get(name),
            naive_error=baselines.naive_error if baselines else (),
            season_error=baselines.season_error if baselines else (),
        )  # fmt: skip
    return prepared


def _check_shapes(reference: Arrays, answers: Arrays) -> list[Check]:
    checks = []
    for name, want in reference.items():
        if name not in answers:
            message = f"Output {name!r} is missing; the variant has {', '.join(answers) or 'none'}."
            checks.append(Check("shape", Verdict.FAIL, message, name))
        elif answers[name].shape != want.shape:
            message = f"Output {name!r} has shape {answers[name].shape}, the reference {want.shape}."
            checks.append(Check("shape", Verdict.FAIL, message, name))
    return checks


def _check_finite(reference: Arrays, answers: Arrays) -> list[Check]:
    checks = []
    for name, want in reference.items():
        for side, array in (("reference", want), ("variant", answers.get(name))):
            if array is None or array.dtype.kind not in "fc":
                continue
            good = np.isfinite(array)
            if not good.all():
                bad = int(array.size - good.sum())
                rows = int((~good.reshape(len(array), -1).all(axis=1)).sum())
                message = (
                    f"Output {name!r} of the {side} holds NaN or infinity: {bad} of {array.size} values, "
                    f"in {rows} of {len(array)} samples."
                )
                checks.append(Check("finite", Verdict.FAIL, message, name, value=float(bad), limit=0.0))
    if not checks:
        checks.append(Check("finite", Verdict.PASS, "Every value of reference and variant is finite.", limit=0.0))
    return checks


def _agreement(
    task: Task | None, want: np.ndarray, have: np.ndarray, target: Target | None, any_target: bool
) -> tuple[np.ndarray | None, np.ndarray | None, bool]:
    """Which answers agree and which count; None for outputs that are no classes."""
    probabilities = target.probabilities if target is not None else looks_like_probabilities(want)
    task = task if target is None else target.task
    is_class = task in CLASS_TASKS and want.ndim > 1 and (target is not None or (not any_target and want.shape[-1] > 1))
    if not is_class:
        return None, None, probabilities
    counted = None if target is None or target.weight is None else target.weight > 0
    return agreement(want, have, probabilities), counted, probabilities


def _check_limits(result: OutputParity, limits: Limits) -> list[Check]:
    checks = []

    def add(name: str, text: str, value: float | None, limit: float | None, good: bool) -> None:
        if limit is not None:
            verdict = Verdict.PASS if good else Verdict.FAIL
            checks.append(Check(name, verdict, f"Output {result.name!r}: {text}.", result.name, value, limit))

    if limits.max_abs is not None and result.max_abs is not None:
        limit = limits.max_abs * max(1.0, result.peak or 0.0)
        words = "within" if result.max_abs <= limit else "above"
        text = f"largest difference {result.max_abs:.3g} is {words} {limit:.3g}"
        add("max_abs", text, result.max_abs, limit, result.max_abs <= limit)
    if limits.min_cosine is not None:
        good = result.cosine is not None and result.cosine >= limits.min_cosine
        shown = "does not exist (one side is all zero)" if result.cosine is None else f"{result.cosine:.6f}"
        text = f"cosine {shown}, at least {limits.min_cosine:g} wanted"
        add("min_cosine", text, result.cosine, limits.min_cosine, good)
    # No difference has an infinite SNR; no signal (an all-zero reference) has none, and the cosine judges it.
    if limits.min_snr_db is not None and result.snr_db is not None:
        text = f"SNR {result.snr_db:.1f} dB, at least {limits.min_snr_db:g} dB wanted"
        add("min_snr_db", text, result.snr_db, limits.min_snr_db, result.snr_db >= limits.min_snr_db)
    if limits.min_top1 is not None and result.top1 is not None:
        changed = round((1 - result.top1) * result.samples)
        single = result.samples >= ONE_CHANGE_ALLOWED_FROM and changed <= 1 and result.shape[:-1] == ()
        good = result.top1 >= limits.min_top1 or single
        text = f"top-1 agreement {result.top1:.4f}, at least {limits.min_top1:g} wanted"
        add("min_top1", text, result.top1, limits.min_top1, good)
    return checks


def _check_repeats(predict: Callable[[Any], Arrays], inputs: Arrays, answers: Arrays, seed: int) -> list[Check]:
    """The same input twice in a row, and the inputs in another order, must answer as they did."""
    samples = len(next(iter(inputs.values())))
    order = np.random.default_rng(seed).permutation(samples)[:REPEATED]
    twice = np.repeat(order, 2)
    again = predict({name: array[twice] for name, array in inputs.items()})
    checks = []
    first = {name: np.asarray(again[name])[0::2] for name in answers}
    second = {name: np.asarray(again[name])[1::2] for name in answers}
    before = {name: array[order] for name, array in answers.items()}
    for check, left, right, passed, failed in (
        ("repeatable", first, second, "The same input twice gives the same answer",
         "The same input gives another answer the second time: a state leaks from one call to the next"),
        ("order", before, first, "Inputs in another order give the same answers",
         "An input answers differently in another order: a state leaks from one sample to the next"),
    ):  # fmt: skip
        different, largest = 0, 0.0
        for name in answers:
            unequal = (left[name] != right[name]).reshape(len(order), -1).any(axis=1)
            different = max(different, int(unequal.sum()))
            distance = np.abs(left[name].astype(np.float64) - right[name].astype(np.float64))
            largest = max(largest, float(distance.max(initial=0.0)))
        if different:
            message = f"{failed} ({different} of {len(order)} samples, by up to {largest:.3g})."
            checks.append(Check(check, Verdict.FAIL, message, value=finite(largest), limit=0.0))
        else:
            checks.append(Check(check, Verdict.PASS, f"{passed} ({len(order)} samples).", value=0.0, limit=0.0))
    return checks


def _check_beams(session: Any, inputs: Arrays, task: Task | None, limits: Limits) -> list[Check]:
    """Steps for several hypotheses must answer as steps for one; nothing where there are none."""
    if not getattr(session, "beams", 0):
        return []
    bounds = {name: value for name, value in asdict(limits).items() if value is not None}
    figures, failures = compare_beams(session, dict(inputs), task.value if task else "", bounds)
    if failures:
        message = f"Steps for {session.beams} hypotheses answer otherwise than steps for one: {'; '.join(failures)}."
        return [Check("beams", Verdict.FAIL, message)]
    worst = max((item["max_abs"] for item in figures.values()), default=0.0)
    message = f"Steps for {session.beams} hypotheses answer as steps for one (largest difference {worst:.3g})."
    return [Check("beams", Verdict.PASS, message, value=worst)]


def _metrics(
    name: str,
    reference: np.ndarray,
    variant: np.ndarray,
    target: Target,
    limits: Limits,
    confidence: float,
    seed: int,
    *,
    decide: bool,
) -> list[MetricComparison]:
    found = []
    for number, metric in enumerate(metrics_for(target)):
        limit = limits.max_drop if decide and number == 0 else None
        found.append(
            compare_metric(metric, name, reference, variant, target, max_drop=limit, confidence=confidence, seed=seed)
        )
    return found


def _metric_check(item: MetricComparison) -> Check:
    unit = " relative" if item.relative else ""
    drop = "unknown" if item.drop is None else f"{item.drop:.4g}"
    interval = "" if item.low is None or item.high is None else f" ({item.low:.4g} to {item.high:.4g})"
    text = f"{item.name} {_number(item.reference)} before, {_number(item.variant)} after:{unit} loss {drop}{interval}"
    text += decision(item, f"{item.max_drop:g}", "samples")
    verdict = item.verdict or Verdict.PASS
    return Check("metric", verdict, text, item.output, item.drop, item.max_drop)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _baselines(
    baselines: Baselines | None, inputs: Arrays, prepared: Mapping[str, Target]
) -> dict[str, dict[str, float | None]]:
    forecasts = [target for target in prepared.values() if target.task is Task.FORECAST and target.values.ndim == 3]
    if baselines is None or not forecasts or len(inputs) != 1:
        return {}
    window = next(iter(inputs.values()))
    if window.ndim != 3:
        return {}
    found = baselines.evaluate(window, forecasts[0])
    return {name: {key: finite(value) for key, value in values.items()} for name, values in found.items()}
