"""Default parity limits by quantization, and where each number comes from.

`max_abs` is in units of the output's own scale: it is multiplied by max(1, largest absolute value of the reference's
output), so that one limit serves softmax outputs and temperatures alike. A recipe overrides any of these through
`checks.limits.<quantization>.<limit>`; an entry replaces the limits that it names and keeps the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edge_dl.bundle import Limits
from edge_dl.errors import UsageError
from edge_dl.recipe import ChecksConfig, Task
from edge_dl.variants import Quantization

DEFAULT_LIMITS: Mapping[Quantization, Limits] = {
    # Nothing is rounded: what remains is another order of float32 additions. A unit in the last place is 6e-8; 1e-5
    # leaves room for 128 recurrent steps that each add a few, and is a hundred times below what any rounding of
    # weights causes, so it also catches a wrong mask, a missing bias or another activation.
    Quantization.FLOAT32: Limits(max_abs=1e-5, min_cosine=0.99999),
    # Weights keep 11 bits: a relative error of 2**-11 = 4.9e-4 each, which averages out over a dot product. 40 dB is
    # an error of 1 % of the signal, 20 times what one weight loses.
    Quantization.FLOAT16: Limits(min_cosine=0.9999, min_snr_db=40.0, min_top1=0.99),
    # Weights keep 8 bits a channel: 0.4 % of the largest weight, so an error of about 1 % of a dot product (40 dB),
    # more after many recurrent steps. The largest difference of a softmax is no useful limit here: next to a decision
    # boundary a small error of the logits moves it far. What counts is how many answers change.
    Quantization.DYNAMIC: Limits(min_cosine=0.99, min_snr_db=15.0, min_top1=0.97),
    # Activations keep 8 bits of a range that calibration saw: the error of a layer is 10 times that of its weights.
    # Published CNNs keep within a point of accuracy; what breaks (recurrent and attention models) shows a cosine
    # below 0.9 and agreement of 0.6 and less. The limits stand between the two.
    Quantization.INT8: Limits(min_cosine=0.95, min_snr_db=8.0, min_top1=0.95),
    # Activations keep 16 bits: what remains is the weights' 8 bits.
    Quantization.INT16X8: Limits(min_cosine=0.99, min_snr_db=15.0, min_top1=0.97),
    # Weights keep 4 bits: 7 % of the largest weight, about 20 dB a dot product.
    Quantization.INT4: Limits(min_cosine=0.9, min_snr_db=6.0, min_top1=0.9),
    # int8 again. Its reference holds the same weights without the rounding that they were trained with, which is
    # further away than from a model that never was: the same room.
    Quantization.QAT: Limits(min_cosine=0.95, min_snr_db=8.0, min_top1=0.95),
    # As int8: what remains int8 has its errors, and the budget (max_drop) is what the mix was made for.
    Quantization.MIXED: Limits(min_cosine=0.95, min_snr_db=8.0, min_top1=0.95),
}


# Greedy search takes the likeliest token, so rounding moves it only where two are nearly alike: within 1e-5 in float32,
# 1e-3 in float16. That happens, and another token changes all behind it: hence not every sentence.
IDENTICAL: Mapping[Quantization, float] = {Quantization.FLOAT32: 0.99, Quantization.FLOAT16: 0.99}


def limits_for(quantization: str | Quantization, checks: ChecksConfig | None = None, task: Task | str = "") -> Limits:
    """Limits of a quantization: the defaults, with what `checks` sets on top; `max_drop` always has a value.

    Args:
        quantization: which one.
        checks: what a recipe sets; None: nothing.
        task: what the model does; a translation is also held to be the same sentence.

    Raises:
        UsageError: no such quantization, here or among the keys of `checks.limits`.
    """
    kind = _quantization(quantization)
    checks = checks or ChecksConfig()
    limits = dataclasses.replace(DEFAULT_LIMITS[kind], max_drop=checks.max_drop)
    if task == Task.TRANSLATION:
        limits = dataclasses.replace(limits, min_identical=IDENTICAL.get(kind))
    for name, own in checks.limits.items():
        if _quantization(name) is kind:
            given = {item.name: getattr(own, item.name) for item in dataclasses.fields(own)}
            limits = dataclasses.replace(limits, **{key: value for key, value in given.items() if value is not None})
    return limits


def _quantization(name: str | Quantization) -> Quantization:
    try:
        return Quantization(name)
    except ValueError:
        known = ", ".join(item.value for item in Quantization)
        raise UsageError(f"A quantization is one of {known}.", received=repr(name)) from None
