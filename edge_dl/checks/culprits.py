"""Why an operator loses accuracy in integers, in words, and whether it does real harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_dl.checks.layers import ActivationRange, WeightRange

# An operator does real harm when it causes this share of the error at the outputs, and alone would push their
# signal-to-noise ratio below this. int8 networks that keep their accuracy have 20 to 40 dB in all; parity's limit for
# int8 is 8 dB (edge_dl.checks.limits).
CULPRIT_SHARE = 0.1
CULPRIT_DB = 20.0
# int8 has 127 steps from zero: a channel (a value) 16 times smaller than the largest keeps 8 of them, 3 bits.
WIDE_SPREAD = 16.0
# Input channels with small weights are common, and matter only where the activations there are as much larger.
WIDE_INPUT_SPREAD = 100.0
# 99.9 % of the values within this share of the range: they use a few steps, and outliers have the rest.
NARROW_INNER = 0.1
SATURATED = 1e-3


def find_reasons(
    activation: ActivationRange,
    weight: WeightRange | None,
    rounding: float | None,
    share: float,
    output_snr_db: float | None,
) -> tuple[tuple[str, ...], bool]:
    """What explains an operator's own error, and whether it is a culprit.

    Args:
        activation: its output.
        weight: its weights; None for an operator without.
        rounding: share of its effect at the outputs that rounding its output has; None: without effect.
        share: share of the error at the model's outputs that it causes.
        output_snr_db: signal-to-noise ratio at the outputs if it alone were quantized; None: without effect.
    """
    if rounding is None:
        return (), False
    reasons = []
    narrow = activation.dtype in ("int8", "uint8")
    if activation.saturated > SATURATED:
        reasons.append(
            f"saturates: {activation.saturated:.2%} of the values lie beyond what {activation.dtype} can hold here "
            f"({activation.held_low:.3g} to {activation.held_high:.3g})"
        )
    if weight is not None and weight.scales == 1 and weight.spread > WIDE_SPREAD:
        reasons.append(f"weight ranges of channels differ {weight.spread:.0f}-fold, and one scale must serve them all")
    if narrow and activation.spread > WIDE_SPREAD:
        reasons.append(
            f"activation ranges of channels differ {activation.spread:.0f}-fold, and one scale must serve them all"
        )
    largest = max(abs(activation.low), abs(activation.high))
    if narrow and largest > 0 and activation.inner < NARROW_INNER * largest:
        reasons.append(
            f"activation outliers: 99.9 % of the values lie within {activation.inner / largest:.1%} of the range"
        )
    if rounding >= 0.5:
        reasons.append(f"rounding its output to {activation.dtype} makes {rounding:.0%} of its effect")
    elif weight is not None and weight.scales:
        if weight.input_spread > WIDE_INPUT_SPREAD:
            reasons.append(
                f"weight ranges of input channels differ {weight.input_spread:.0f}-fold, and share their scales"
            )
        reasons.append(f"rounding its weights and inputs makes {1 - rounding:.0%} of its effect")
    else:
        reasons.append(f"rounding its inputs makes {1 - rounding:.0%} of its effect")
    harmful = share >= CULPRIT_SHARE and output_snr_db is not None and output_snr_db < CULPRIT_DB
    return tuple(reasons), harmful
