"""What changed from one run to another, told from two results.json values: accuracy, parity, size, latency, targets.

Two runs were measured at different times, so a difference is called one only where it is larger than what chance
explains: task metrics by an interval of their difference, latencies by an interval drawn from how much the machine's
speed moved while each run was timed, or by timing both models again in turns (`checks.run_pairs`). Nothing here reads
files.

Intervals of a difference are recovered from those of its two sides (MOVER: Zou & Donner, Statistics in Medicine 27
(2008) 1693-1702; with Wilson's intervals it is Newcombe's for two shares, Statistics in Medicine 17 (1998) 873-890).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from edge_dl.checks.plain import to_plain
from edge_dl.checks.statistics import Interval, normal_quantile, student_quantile, wilson_interval
from edge_dl.checks.translation_pairs import Difference
from edge_dl.checks.turns import Speed, judge
from edge_dl.report import numbers
from edge_dl.report.latency_spread import LatencySpread, spread_of
from edge_dl.report.numbers import as_number
from edge_dl.report.target_results import NOT_RUN
from edge_dl.report.variant_results import FAIL, NOT_MADE, PASS, mapping, mappings
from edge_dl.report.words import metric_change, metric_name

if TYPE_CHECKING:
    from edge_dl.checks.run_pairs import ModelPair

CONFIDENCE = 0.95
SIZE_MARGIN = 0.01
"""Relative difference of two files' sizes that counts as none: names and padding."""
LATENCY_MARGIN = 0.10
"""Relative difference of two runs' latencies that is never called one, on one and the same machine: what the interval
cannot know, because it only sees how the machine's speed moved within each run. Models timed in turns need no such
allowance (`turns.Settings.margin`)."""
SNR_MARGIN_DB = 3.0
"""Difference of two signal-to-noise ratios that counts as none: less than twice the error's power."""
_SAME = 1e-6

Pairs = Mapping[str, Mapping[str, Difference]]
"""By variant ("": the Keras model) and score, what the later run loses on the same sentences."""


class Direction(str, Enum):
    """What a change means."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"
    CHANGED = "changed"


@dataclass(frozen=True)
class Change:
    """One thing that was compared.

    Attributes:
        variant: the variant's name; "" for the run as a whole.
        what: "verdict", "check", "metric", "parity", "size", "latency", "variant", "chosen" or "target".
        direction: what it means; CHANGED is neither better nor worse.
        before, after: both sides, as a reader wants them; "" where there is none.
        note: the difference in numbers, or why none can be told.
        regression: whether the command should fail: a check that passed fails, or a metric is worse beyond chance.
        detail: the metric's, the check's or the target's name; "" for others.
    """

    variant: str
    what: str
    direction: Direction
    before: str = ""
    after: str = ""
    note: str = ""
    regression: bool = False
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return to_plain(self)


def compare_results(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    pairs: Pairs | None = None,
    models: Mapping[str, ModelPair] | None = None,
) -> list[Change]:
    """What changed from `before` to `after`, the run as a whole first, then by variant.

    Args:
        before, after: results.json values (`report.results.collect`), or what is left of damaged ones: a field that is
            missing is compared with nothing.
        pairs: translations of the same sentences, held against each other (`translation_pairs.compare_runs`); None or
            a variant that is not in it: intervals of a score come from those of its two sides.
        models: the files of both, by variant (`run_pairs.pair_models`); None or a variant that is not in it: only the
            recorded latencies tell.
    """
    pairs, models = pairs or {}, models or {}
    old = {str(item.get("name")): item for item in mappings(before.get("variants"))}
    new = {str(item.get("name")): item for item in mappings(after.get("variants"))}
    changes = list(_run_changes(before, after, pairs.get("", {})))
    for name in [*new, *(name for name in old if name not in new)]:
        if name in old and name in new:
            changes += _variant_changes(
                name, old[name], new[name], before, after, pairs.get(name, {}), models.get(name)
            )
        else:
            changes += _added_or_gone(name, old.get(name), new.get(name))
    return changes


def regressions(changes: list[Change]) -> list[Change]:
    """The changes that a command should fail for."""
    return [change for change in changes if change.regression]


def difference_interval(left: float, left_range: Interval, right: float, right_range: Interval) -> Interval:
    """Interval of `right` minus `left`, from the intervals of both (MOVER); for samples in common it is too wide."""
    middle = right - left
    low = middle - math.hypot(right - right_range.low, left_range.high - left)
    high = middle + math.hypot(right_range.high - right, left - left_range.low)
    return Interval(low, high, left_range.confidence)


# --- the run ---------------------------------------------------------------------------------------------------------


def _run_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], pairs: Mapping[str, Difference]
) -> Iterator[Change]:
    yield from _verdict_change("", mapping(before.get("verdict")).get("status"),
                               mapping(after.get("verdict")).get("status"))  # fmt: skip
    chosen = str(before.get("chosen") or ""), str(after.get("chosen") or "")
    if chosen[0] != chosen[1]:
        yield Change("", "chosen", Direction.CHANGED, *chosen)
    targets = [{str(item.get("name")): item for item in mappings(value.get("targets"))} for value in (before, after)]
    for name in [*targets[1], *(name for name in targets[0] if name not in targets[1])]:
        if name not in targets[0] or name not in targets[1]:
            old, new = (_target_text(side.get(name)) for side in targets)
            yield Change("", "target", Direction.CHANGED, old, new, detail=name)
    yield from _metric_change("", _keras_metric(before), _keras_metric(after), _same_data(before, after), pairs)


def _target_text(target: Mapping[str, Any] | None) -> str:
    """`not asked`, `16 pass, 1 fail`."""
    verdicts = [str(item.get("verdict") or "timed") for item in mappings(mapping(target).get("results"))]
    return ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts)) or "not asked"


def _keras_metric(results: Mapping[str, Any]) -> dict[str, Any]:
    """The Keras model's own value of the task metric, in the form of a variant's metric."""
    for variant in mappings(results.get("variants")):
        metric = mapping(variant.get("metric"))
        if as_number(metric.get("reference")) is not None:
            kept = {key: metric.get(key) for key in ("name", "unit", "higher_is_better", "relative", "samples")}
            return {**kept, "value": metric["reference"], "own": _own_interval(variant, metric, "reference")}
    return {}


def _same_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    hashes = [mapping(value.get("data")).get("sha256") for value in (before, after)]
    return bool(hashes[0]) and hashes[0] == hashes[1]


def _verdict_change(variant: str, old: Any, new: Any, note: str = "") -> Iterator[Change]:
    if old == new or not old or not new:
        return
    rank = {FAIL: 0, PASS: 2}
    first, second = rank.get(str(old), 1), rank.get(str(new), 1)
    direction = Direction.CHANGED if first == second else Direction.BETTER if second > first else Direction.WORSE
    yield Change(variant, "verdict", direction, str(old), str(new), note, old == PASS and new == FAIL)


# --- a variant -------------------------------------------------------------------------------------------------------


def _added_or_gone(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[Change]:
    if new is None:
        yield Change(name, "variant", Direction.CHANGED, str((old or {}).get("verdict") or ""), "gone")
    else:
        yield Change(name, "variant", Direction.CHANGED, "", f"added: {new.get('verdict') or 'not checked'}")


def _variant_changes(
    name: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    pairs: Mapping[str, Difference],
    models: ModelPair | None,
) -> Iterator[Change]:
    verdicts = old.get("verdict"), new.get("verdict")
    if NOT_MADE in verdicts:
        if verdicts[0] != verdicts[1]:
            gone = verdicts[1] == NOT_MADE
            message = str(mapping((new if gone else old).get("conversion")).get("message") or "")
            direction = Direction.WORSE if gone else Direction.BETTER
            yield Change(name, "variant", direction, str(verdicts[0]), str(verdicts[1]), message,
                         gone and verdicts[0] == PASS)  # fmt: skip
        return
    yield from _verdict_change(name, *verdicts)
    yield from _check_changes(name, old, new)
    left, right = (
        {**mapping(side.get("metric")), "own": _own_interval(side, mapping(side.get("metric")), "variant")}
        for side in (old, new)
    )
    yield from _metric_change(name, left, right, _same_data(before, after), pairs)
    yield from _parity_change(name, old, new)
    yield from _size_change(name, old, new)
    yield from _latency_change(name, spread_of(name, before), spread_of(name, after), models)
    yield from _target_changes(name, before, after)


def _check_changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    first, second = (
        {(str(check.get("name")), str(check.get("output") or "")): check for check in mappings(side.get("checks"))}
        for side in (old, new)
    )
    for key, check in second.items():
        verdicts = mapping(first.get(key)).get("verdict"), check.get("verdict")
        if verdicts not in ((PASS, FAIL), (FAIL, PASS)):
            continue
        worse = verdicts[1] == FAIL
        direction = Direction.WORSE if worse else Direction.BETTER
        message = str(check.get("message") or "")
        yield Change(
            name, "check", direction, str(verdicts[0]), str(verdicts[1]), message, worse, " ".join(filter(None, key))
        )


def _metric_change(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], same_data: bool, pairs: Mapping[str, Difference]
) -> Iterator[Change]:
    values = as_number(old.get("value")), as_number(new.get("value"))
    if values[0] is None or values[1] is None or old.get("name") != new.get("name"):
        return
    unit, detail = str(new.get("unit") or ""), metric_name(new.get("name"))
    texts = numbers.metric(values[0], unit), numbers.metric(values[1], unit)
    paired = pairs.get(str(new.get("name")))
    if not same_data and paired is None:
        note = "other test data: not comparable"
        yield Change(name, "metric", Direction.NO_DIFFERENCE, *texts, note, detail=detail)
        return
    if paired is not None:
        loss, interval = paired.loss, paired.interval
    else:
        loss, interval = _loss(old, new, values[0], values[1])
    direction = Direction.NO_DIFFERENCE
    if interval.low > 0:
        direction = Direction.WORSE
    elif interval.high < 0:
        direction = Direction.BETTER
    shown = {**new, "drop": loss, "low": interval.low, "high": interval.high, "confidence": interval.confidence}
    note = metric_change(shown, interval=True) + ("" if paired is None else ", same sentences drawn for both")
    yield Change(name, "metric", direction, *texts, note, direction is Direction.WORSE, detail)


def _loss(old: Mapping[str, Any], new: Mapping[str, Any], left: float, right: float) -> tuple[float, Interval]:
    """What `new` loses against `old`, above zero worse: a difference, or relative to `old`; and its interval.

    Two variants of one and the same Keras model were each compared with it on the same samples: those paired intervals
    carry over. Otherwise each value has an interval of its own: a share Wilson's, an error that of a mean of errors
    which spread as much as they are large (as those of an exponential distribution do).
    """
    drops = [as_number(side.get("drop")) for side in (old, new)]
    ends = [as_number(side.get(key)) for side in (old, new) for key in ("low", "high")]
    references = as_number(old.get("reference")), as_number(new.get("reference"))
    if (
        None not in (*drops, *ends, *references)
        and math.isclose(references[0] or 0.0, references[1] or 0.0, rel_tol=_SAME)
        and old.get("samples") == new.get("samples")
    ):
        confidence = as_number(new.get("confidence")) or CONFIDENCE
        first, second = float(drops[0] or 0.0), float(drops[1] or 0.0)
        ranges = [Interval(float(ends[at] or 0.0), float(ends[at + 1] or 0.0), confidence) for at in (0, 2)]
        return second - first, difference_interval(first, ranges[0], second, ranges[1])
    ranges = [_value_interval(side, value) for side, value in ((old, left), (new, right))]
    interval = difference_interval(left, ranges[0], right, ranges[1])
    scale = max(abs(left), 1e-12) if new.get("relative") else 1.0
    if new.get("higher_is_better", True):
        return (left - right) / scale, Interval(-interval.high / scale, -interval.low / scale, interval.confidence)
    return (right - left) / scale, Interval(interval.low / scale, interval.high / scale, interval.confidence)


def _own_interval(side: Mapping[str, Any], metric: Mapping[str, Any], which: str) -> list[float] | None:
    """A score's interval by bootstrap, where the run has one for it alone."""
    for score in mappings(mapping(side.get("translation")).get("scores")):
        ends = [as_number(score.get(f"{which}_{end}")) for end in ("low", "high")]
        if score.get("name") == metric.get("name") and ends[0] is not None and ends[1] is not None:
            return [ends[0], ends[1]]
    return None


def _value_interval(metric: Mapping[str, Any], value: float) -> Interval:
    if own := metric.get("own"):
        return Interval(own[0], own[1], CONFIDENCE)
    samples = as_number(metric.get("samples")) or 0.0
    if metric.get("unit") == "share":
        return wilson_interval(value * samples, samples, CONFIDENCE)
    half = abs(value) * normal_quantile(CONFIDENCE) / math.sqrt(samples) if samples else math.inf
    return Interval(value - half, value + half, CONFIDENCE)


def _parity_change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Signal-to-noise ratio against the Keras model, of the output where it is lowest."""
    found = []
    for side in (old, new):
        known = [
            value for item in mappings(side.get("outputs")) if (value := as_number(item.get("snr_db"))) is not None
        ]
        found.append(min(known, default=None))
    if found[0] is None or found[1] is None:
        return
    gain = found[1] - found[0]
    direction = Direction.NO_DIFFERENCE
    if abs(gain) >= SNR_MARGIN_DB:
        direction = Direction.BETTER if gain > 0 else Direction.WORSE
    note = numbers.signed(numbers.decibels(gain), gain)
    texts = numbers.decibels(found[0]), numbers.decibels(found[1])
    yield Change(name, "parity", direction, *texts, note, detail="SNR")


def _size_change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    sizes = as_number(old.get("bytes")), as_number(new.get("bytes"))
    if not sizes[0] or not sizes[1]:
        return
    ratio = sizes[1] / sizes[0]
    direction = Direction.NO_DIFFERENCE
    if abs(ratio - 1) > SIZE_MARGIN:
        direction = Direction.WORSE if ratio > 1 else Direction.BETTER
    yield Change(name, "size", direction, numbers.size(sizes[0]), numbers.size(sizes[1]), _relative(ratio))


def _latency_change(
    name: str, old: LatencySpread | None, new: LatencySpread | None, models: ModelPair | None
) -> Iterator[Change]:
    if models is not None and models.comparison is not None:
        found = models.comparison
        ratio, interval, margin = found.ratio, Interval(found.low, found.high, found.confidence), found.margin
        texts = numbers.duration(found.b_ms / 1e3), numbers.duration(found.a_ms / 1e3)
        source = ", timed in turns"
    elif old is None or new is None:
        return
    else:
        texts = numbers.duration(old.seconds), numbers.duration(new.seconds)
        if models is not None and models.same:
            yield Change(name, "latency", Direction.NO_DIFFERENCE, *texts, "the same file")
            return
        if reason := old.incomparable(new):
            yield Change(name, "latency", Direction.NO_DIFFERENCE, *texts, reason)
            return
        ratio, margin = new.seconds / old.seconds, LATENCY_MARGIN
        half = student_quantile(CONFIDENCE, old.freedom + new.freedom) * math.hypot(old.deviation, new.deviation)
        interval = Interval(ratio * math.exp(-half), ratio * math.exp(half), CONFIDENCE)
        source = f"; not timed in turns: {models.error}" if models is not None and models.error else ""
    directions = {Speed.FASTER: Direction.BETTER, Speed.SLOWER: Direction.WORSE}
    direction = directions.get(judge(interval, margin), Direction.NO_DIFFERENCE)
    decided = f"{ratio:.3f} ({interval.low:.3f} to {interval.high:.3f}{source})"
    yield Change(
        name, "latency", direction, *texts, f"{_relative(ratio)}, ratio {decided}, {100 * margin:.0f} % decide"
    )


def _target_changes(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    old, new = _on_targets(name, before), _on_targets(name, after)
    for target in (target for target in new if target in old):
        verdicts = tuple(str(mapping(side.get(target)).get("verdict") or "") for side in (old, new))
        if verdicts[0] == verdicts[1]:
            continue
        direction, regression = Direction.CHANGED, False
        if all(verdicts):
            failed = [verdict in (FAIL, NOT_RUN) for verdict in verdicts]
            if failed[0] != failed[1]:
                direction = Direction.WORSE if failed[1] else Direction.BETTER
            regression = verdicts[0] == PASS and failed[1]
        result = mapping(new.get(target))
        note = " ".join(str(result[key]) for key in ("error", "received") if result.get(key))
        note = note or str(result.get("message") or "")
        yield Change(
            name, "target", direction, verdicts[0], verdicts[1] or "gone", note, regression, target
        )  # fmt: skip


def _on_targets(name: str, results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        str(target.get("name")): item
        for target in mappings(results.get("targets"))
        for item in mappings(target.get("results"))
        if item.get("variant") == name
    }


def _relative(ratio: float) -> str:
    return numbers.signed(numbers.percent(ratio - 1), ratio - 1)
