"""Which operators lose a quantized model's accuracy, and why: it runs beside its float32 sibling, operator by operator.

Three errors are told apart, all against the sibling and on the same samples:

- *cumulative*: how far an operator's output is from the sibling's. What operators before it lost is in it.
- *own*: how far its output is from what the float32 operator makes of the same (quantized) inputs. Rounding at an input
  (a QUANTIZE) belongs to the operator that reads it.
- *share*: the own error alone is added to the float32 model, and the power of what comes out at the model's outputs is
  held against the sum over all operators. So an error that the operators behind it smooth away counts little, and one
  that they amplify counts much. That is exact for small errors, which add up; where they do not, it ranks. What
  rounding the output to its type does is measured apart from the rest (weights, inputs, kernel): `rounding`. Powers at
  the operator itself would not tell, since a large channel drowns the small ones that rounding takes.

The last two are computed by the runtime's float32 kernels (`edge_dl.checks.probes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.checks.counting import WEIGHT_INPUTS
from edge_dl.checks.culprits import find_reasons
from edge_dl.checks.graph import GraphTensor, Subgraph
from edge_dl.checks.plain import from_plain, to_plain
from edge_dl.checks.probes import Probe
from edge_dl.checks.traces import Pair, Sample, Trace, behind_edges, computing, decibels, match, producers
from edge_dl.errors import UsageError
from edge_dl.progress import SILENT, Progress

FORMAT = 1
# Model runs that finding the shares may take, three an operator and call: 16 samples of a network of 60 operators.
MOST_RUNS = 3000
RUNS_EACH = 3
# Values of a tensor that each call adds to the sample from which quantiles come.
QUANTILE_VALUES = 4096
INNER = 0.999
# An own error this small, in power relative to the output's, is float32's own rounding.
NO_ERROR = 1e-12
# Output channels of a weight, by operator (tensorflow/lite/kernels: conv.cc, depthwise_conv.cc, fully_connected.cc).
CHANNEL_AXES = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "CONV_3D": 4, "DEPTHWISE_CONV_2D": 3}
INPUT_AXES = {"CONV_2D": 3, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 3, "CONV_3D": 3}


@dataclass(frozen=True)
class WeightRange:
    """What an operator's weights span, in the float32 model, and how the quantized model stores them.

    Attributes:
        low, high: smallest and largest weight.
        spread: the largest output channel's largest weight over the smallest channel's; 1.0 where there are none.
        input_spread: likewise over input channels, which share a scale in any case.
        scales: number of scales: 1 for the whole matrix, or one a channel; 0: not quantized.
        dtype: element type.
    """

    low: float
    high: float
    spread: float
    input_spread: float
    scales: int
    dtype: str


@dataclass(frozen=True)
class ActivationRange:
    """What an operator's output spans, over all samples, in the float32 model, and what the quantized type can hold.

    Attributes:
        low, high: smallest and largest value.
        inner: the absolute value that 99.9 % of the values stay within.
        spread: the largest channel's largest absolute value over the median channel's; 1.0 without channels.
        dtype: type of the quantized model's output.
        scale: its quantization step; 0.0 when it is not quantized.
        zero_point: the integer that stands for 0.0.
        held_low, held_high: smallest and largest value that it can hold; None when it is not quantized.
        saturated: share of the values that lie beyond these.
    """

    low: float
    high: float
    inner: float
    spread: float
    dtype: str
    scale: float = 0.0
    zero_point: int = 0
    held_low: float | None = None
    held_high: float | None = None
    saturated: float = 0.0


@dataclass(frozen=True)
class LayerError:
    """One operator.

    Attributes:
        number: its place in the quantized model's main graph.
        reference_number: its place in the float32 model's.
        kind: what it computes, e.g. "CONV_2D".
        name: name of its output in the float32 model.
        snr_db: cumulative signal-to-noise ratio of its output; None: no difference, or not a number (`error`).
        error: cumulative error, root mean square relative to the sibling's; None: not finite.
        own_snr_db: signal-to-noise ratio of its own error; None: it makes none.
        own_error: its own error, likewise relative; None: it could not be computed alone.
        rounding: share of its effect at the outputs that rounding its output has, as against its weights and inputs;
            None: without effect.
        share: share of the error at the model's outputs that its own error causes.
        output_snr_db: signal-to-noise ratio at the model's outputs if this operator alone were quantized; None: without
            effect.
        activation: its output; None where the runtime does not give it.
        weight: its weights; None for an operator without.
        reasons: what explains its own error, most telling first.
        culprit: whether it does real harm.
    """

    number: int
    reference_number: int
    kind: str
    name: str
    snr_db: float | None
    error: float | None
    own_snr_db: float | None
    own_error: float | None
    rounding: float | None
    share: float
    output_snr_db: float | None
    activation: ActivationRange
    weight: WeightRange | None = None
    reasons: tuple[str, ...] = ()
    culprit: bool = False


@dataclass(frozen=True)
class LayerReport:
    """What `measure_layers` found.

    Attributes:
        variant, reference: the two files.
        samples: samples that both ran on.
        calls: calls of the model on them; more than samples for a `step` model.
        measured_calls: calls on which shares were measured.
        operators, matched: operators of the variant, and how many of them were compared.
        by: how they were matched.
        output_snr_db: signal-to-noise ratio at the model's outputs, the worst of them; None: no difference.
        finite: whether every compared value of the variant is a finite number.
        layers: in the order in which they run.
    """

    variant: str
    reference: str
    samples: int
    calls: int
    measured_calls: int
    operators: int
    matched: int
    by: str
    output_snr_db: float | None
    finite: bool
    layers: tuple[LayerError, ...] = field(default=())
    format: int = FORMAT

    @property
    def culprits(self) -> list[LayerError]:
        """Operators that do real harm, the worst first."""
        return [layer for layer in self.by_share() if layer.culprit]

    def by_share(self) -> list[LayerError]:
        """All operators, the largest share of the error first."""
        return sorted(self.layers, key=lambda layer: (-layer.share, -(layer.own_error or 0.0), layer.number))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `from_json` reads it back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerReport:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is missing, unknown, or of the wrong type.
        """
        return from_plain(cls, value)


def measure_layers(
    variant: str | Path,
    reference: str | Path,
    inputs: Mapping[str, np.ndarray],
    *,
    names: tuple[str, str] | None = None,
    progress: Progress = SILENT,
) -> LayerReport:
    """Run a quantized model and its float32 sibling side by side.

    Models may crash the runtime: call it through `edge_dl.runtime.run_guarded`.

    Args:
        variant: the quantized model: a bundle's folder or a .tflite.
        reference: the float32 model of the same network, likewise.
        inputs: by input name, samples with the sample axis first.
        names: what the report calls the two; None: their paths.
        progress: told of every sample.

    Raises:
        UsageError: the variant is not quantized, inputs are missing, or operators cannot be matched.
    """
    ours, theirs = Trace(variant), Trace(reference)
    if not _is_quantized(ours.main):
        raise UsageError(
            "A quantized model is compared with its float32 sibling, layer by layer.",
            received=f"{variant}, which is float32 throughout",
            todo="Name a variant such as int8.",
        )
    if ours.takes != theirs.takes:
        raise UsageError(
            "Both models must take the same samples.",
            received=f"one that takes {ours.takes} and one that takes {theirs.takes}",
        )
    missing = [name for name in ours.session.inputs if name not in inputs]
    if missing:
        raise UsageError(
            "Every input of the model must be given.",
            received=f"{', '.join(inputs) or 'none'}, without {', '.join(missing)}",
        )
    pairs, by = match(ours, theirs)
    run = _Run(ours, theirs, pairs)
    count = len(next(iter(inputs.values())))
    with progress.step("layers", count) as step:
        for number in range(count):
            run.add({name: inputs[name][number] for name in ours.session.inputs})
            step.advance(1)
    layers, output_snr, finite = run.layers()
    called = names or (str(variant), str(reference))
    return LayerReport(
        variant=called[0],
        reference=called[1],
        samples=count,
        calls=run.calls,
        measured_calls=run.measured,
        operators=len(computing(ours.main)),
        matched=len({pair.operator for pair in pairs}),
        by=by,
        output_snr_db=output_snr,
        finite=finite,
        layers=layers,
    )


def _is_quantized(graph: Subgraph) -> bool:
    """Whether any tensor is scaled integers or a narrower float."""
    return any(tensor.scales or tensor.dtype in ("float16", "bfloat16") for tensor in graph.tensors)


@dataclass
class _Sums:
    """What one output adds up to over all calls; powers are sums of squares."""

    signal: float = 0.0
    noise: float = 0.0
    own_signal: float = 0.0
    own_noise: float = 0.0
    own_known: bool = False
    # Power at each of the model's outputs: of the own error, of its rounding alone, and of the rest alone.
    effects: np.ndarray | None = None
    low: float = math.inf
    high: float = -math.inf
    beyond: int = 0
    values: int = 0
    channels: np.ndarray | None = None
    drawn: list[np.ndarray] = field(default_factory=list)


class _Run:
    """Both models, and the sums over all calls so far."""

    def __init__(self, ours: Trace, theirs: Trace, pairs: Sequence[Pair]) -> None:
        self.ours, self.theirs, self.pairs = ours, theirs, pairs
        self.probe = Probe(theirs.file)
        self.sums = {pair: _Sums() for pair in pairs}
        self.calls = self.measured = 0
        self.output_signal: np.ndarray | None = None
        self.finite = True
        operators = len({pair.operator for pair in pairs})
        self.most_measured = max(1, MOST_RUNS // (RUNS_EACH * max(operators, 1)))

    def add(self, sample: Sample) -> None:
        """Run one sample."""
        for _ in zip(self.ours.calls(sample), self.theirs.calls(sample), strict=True):
            self.calls += 1
            given = self._compare()
            own = self._find_own(given)
            if self.measured < self.most_measured:
                self.measured += 1
                self._find_effects(own)

    def _compare(self) -> dict[int, np.ndarray]:
        """Cumulative errors and ranges; gives what the quantized model has at each of the sibling's tensors."""
        given = {}
        for pair, sums in self.sums.items():
            have, want = self.ours.value(pair.tensor), self.theirs.value(pair.other_tensor)
            if have is None or want is None or have.shape != want.shape or not have.size:
                continue
            given[pair.other_tensor] = have
            self.finite = self.finite and bool(np.isfinite(have).all())
            sums.signal += float(np.sum(want * want))
            sums.noise += float(np.sum((have - want) ** 2))
            sums.low, sums.high = min(sums.low, float(want.min())), max(sums.high, float(want.max()))
            sums.values += want.size
            flat = want.ravel()
            sums.drawn.append(np.abs(flat[:: max(1, flat.size // QUANTILE_VALUES)]).astype(np.float32))
            if want.ndim > 1:
                peaks = np.abs(want).reshape(-1, want.shape[-1]).max(axis=0)
                sums.channels = peaks if sums.channels is None else np.maximum(sums.channels, peaks)
            held = _held(self.ours.main.tensors[pair.tensor])
            if held is not None:
                half = self.ours.main.tensors[pair.tensor].scales[0] / 2  # Rounds to the last step: not beyond it.
                sums.beyond += int(((want < held[0] - half) | (want > held[1] + half)).sum())
        return given

    def _find_own(self, given: Mapping[int, np.ndarray]) -> dict[Pair, tuple[np.ndarray, np.ndarray]]:
        """What each operator adds to the error that it is fed with, and what of that is rounding its output."""
        values = {}
        for index in self.probe.tensors:
            value = given.get(index)
            if value is None:  # Not matched: its readers are given what the sibling has.
                value = self.theirs.value(index)
            if value is not None:
                values[index] = value
        alone = self.probe.alone(self._inputs(), values)
        own = {}
        for pair, sums in self.sums.items():
            if pair.other_tensor not in given or pair.other_tensor not in alone:
                continue
            want = alone[pair.other_tensor].astype(np.float64)
            error = given[pair.other_tensor] - want
            signal, noise = float(np.sum(want * want)), float(np.sum(error * error))
            sums.own_known = True
            sums.own_signal += signal
            if noise <= NO_ERROR * signal:
                continue
            sums.own_noise += noise
            own[pair] = error, _rounded(want, self.ours.main.tensors[pair.tensor]) - want
        return own

    def _find_effects(self, own: Mapping[Pair, tuple[np.ndarray, np.ndarray]]) -> None:
        """What each operator's own error does at the model's outputs when nothing else errs."""
        inputs = self._inputs()
        right = [value.astype(np.float64) for value in self.probe.answers(inputs, {})]
        signal = np.array([float(np.sum(value * value)) for value in right])
        self.output_signal = signal if self.output_signal is None else self.output_signal + signal

        def effect(errors: Mapping[int, np.ndarray]) -> list[float]:
            if not any(error.any() for error in errors.values()):
                return [0.0] * len(right)
            answers = self.probe.answers(inputs, errors)
            return [float(np.sum((a - b) ** 2)) for a, b in zip(answers, right, strict=True)]

        grouped: dict[int, list[Pair]] = {}
        for pair in own:
            grouped.setdefault(pair.operator, []).append(pair)
        for pairs in grouped.values():  # All outputs of one operator together.
            whole = {pair.other_tensor: own[pair][0] for pair in pairs}
            rounding = {pair.other_tensor: own[pair][1] for pair in pairs}
            rest = {index: error - rounding[index] for index, error in whole.items()}
            found = np.array([effect(whole), effect(rounding), effect(rest)])
            sums = self.sums[pairs[0]]
            sums.effects = found if sums.effects is None else sums.effects + found

    def _inputs(self) -> dict[int, np.ndarray]:
        stored = {index: self.theirs.stored(index) for index in self.theirs.main.inputs}
        return {index: value for index, value in stored.items() if value is not None}

    def layers(self) -> tuple[tuple[LayerError, ...], float | None, bool]:
        """Every operator's worst output; the worst output's signal-to-noise ratio; whether all was finite."""
        relative = {pair: self._relative_effects(sums) for pair, sums in self.sums.items()}
        total = sum(effects[0] for effects in relative.values())
        worst: dict[int, LayerError] = {}
        for pair, sums in self.sums.items():
            if not sums.values:
                continue
            layer = self._layer(pair, sums, relative[pair], total)
            known = worst.get(pair.operator)
            if known is None or (layer.share, layer.own_error or 0.0) > (known.share, known.own_error or 0.0):
                worst[pair.operator] = layer
        edge = {behind_edges(self.ours.main, index, producers(self.ours.main)) for index in self.ours.outputs.values()}
        ratios = [
            decibels(sums.signal, sums.noise) for pair, sums in self.sums.items() if pair.tensor in edge and sums.values
        ]
        return tuple(worst.values()), _finite(min(ratios, default=math.inf)), self.finite

    def _relative_effects(self, sums: _Sums) -> tuple[float, float, float]:
        """Powers of the effects, relative to each output's own and added up over outputs."""
        if sums.effects is None or self.output_signal is None or not np.isfinite(sums.effects).all():
            return 0.0, 0.0, 0.0
        power = (sums.effects / np.maximum(self.output_signal, np.finfo(np.float64).tiny)).sum(axis=1)
        return float(power[0]), float(power[1]), float(power[2])

    def _layer(self, pair: Pair, sums: _Sums, effects: tuple[float, float, float], total: float) -> LayerError:
        operator = self.ours.main.operators[pair.operator]
        tensor = self.theirs.main.tensors[pair.other_tensor]
        effect, from_rounding, from_rest = effects
        share = effect / total if total > 0 else 0.0
        activation = _activation(sums, self.ours.main.tensors[pair.tensor])
        weight = self._weight(pair)
        rounding = from_rounding / (from_rounding + from_rest) if effect > 0 and from_rounding + from_rest > 0 else None
        output_snr = _finite(decibels(1.0, effect)) if effect > 0 else None
        reasons, culprit = find_reasons(activation, weight, rounding, share, output_snr)
        return LayerError(
            number=pair.operator,
            reference_number=pair.other_operator,
            kind=operator.name,
            name=tensor.name or self.ours.main.tensors[pair.tensor].name,
            snr_db=_finite(decibels(sums.signal, sums.noise)),
            error=_relative(sums.noise, sums.signal),
            own_snr_db=_finite(decibels(sums.own_signal, sums.own_noise)) if sums.own_known else None,
            own_error=_relative(sums.own_noise, sums.own_signal) if sums.own_known else None,
            rounding=rounding,
            share=share,
            output_snr_db=output_snr,
            activation=activation,
            weight=weight,
            reasons=reasons,
            culprit=culprit,
        )

    def _weight(self, pair: Pair) -> WeightRange | None:
        """The first constant weight of the float32 operator, with how the variant stores it."""
        operator = self.theirs.main.operators[pair.other_operator]
        partner = self.ours.main.operators[pair.operator]
        made_by = producers(self.ours.main)
        for place in WEIGHT_INPUTS.get(operator.name, ()):
            if not (place < len(operator.inputs) and place < len(partner.inputs)) or operator.inputs[place] < 0:
                continue
            values = self.theirs.graph.constant(self.theirs.main.tensors[operator.inputs[place]])
            if values is None or values.dtype.kind != "f" or not values.size:
                continue
            stored = self.ours.main.tensors[behind_edges(self.ours.main, partner.inputs[place], made_by)]
            return WeightRange(
                low=float(values.min()),
                high=float(values.max()),
                spread=_weight_spread(values, CHANNEL_AXES.get(operator.name)),
                input_spread=_weight_spread(values, INPUT_AXES.get(operator.name)),
                scales=len(stored.scales),
                dtype=stored.dtype,
            )
        return None


def _held(tensor: GraphTensor) -> tuple[float, float] | None:
    """The smallest and the largest value that a quantized tensor can hold; None for others."""
    if len(tensor.scales) != 1 or tensor.dtype not in ("int8", "uint8", "int16"):
        return None
    limits = np.iinfo(tensor.dtype)
    zero, scale = tensor.zero_points[0], tensor.scales[0]
    return (float(limits.min) - zero) * scale, (float(limits.max) - zero) * scale


def _rounded(values: np.ndarray, tensor: GraphTensor) -> np.ndarray:
    """Real values as a quantized tensor holds them; unchanged where it is not quantized."""
    held = _held(tensor)
    if held is None:
        return values
    scale = tensor.scales[0]
    return np.asarray(np.clip(np.rint(values / scale) * scale, *held))


def _activation(sums: _Sums, tensor: GraphTensor) -> ActivationRange:
    held = _held(tensor)
    return ActivationRange(
        low=sums.low,
        high=sums.high,
        inner=float(np.quantile(np.concatenate(sums.drawn), INNER)),
        spread=_activation_spread(sums.channels),
        dtype=tensor.dtype,
        scale=tensor.scales[0] if held else 0.0,
        zero_point=tensor.zero_points[0] if held else 0,
        held_low=held[0] if held else None,
        held_high=held[1] if held else None,
        saturated=sums.beyond / sums.values,
    )


def _weight_spread(values: np.ndarray, axis: int | None) -> float:
    """Largest channel over smallest; a channel of zeros loses nothing and does not count."""
    if axis is None or axis >= values.ndim:
        return 1.0
    peaks = np.abs(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)).max(axis=1)
    peaks = peaks[peaks > 0]
    return float(peaks.max() / peaks.min()) if peaks.size else 1.0


def _activation_spread(channels: np.ndarray | None) -> float:
    """Largest channel over the median one: a few channels that are rarely active are no reason to worry."""
    if channels is None:
        return 1.0
    peaks = channels[channels > 0]
    return float(peaks.max() / np.median(peaks)) if peaks.size else 1.0


def _relative(noise: float, signal: float) -> float | None:
    """Root mean square of the noise relative to the signal's; None where that is no number."""
    if noise == 0:
        return 0.0
    return _finite(math.sqrt(noise / signal)) if signal > 0 and math.isfinite(noise) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
