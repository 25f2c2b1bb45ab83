"""Does the file hold what its name promises? A variant called int8 whose weights are not int8 fails."""

from __future__ import annotations

from edge_dl.checks.inspection import ModelReport
from edge_dl.checks.verdicts import Check, Verdict
from edge_dl.errors import UsageError
from edge_dl.variants import Quantization

WEIGHT_TYPES: dict[Quantization, tuple[str, ...]] = {
    Quantization.FLOAT32: ("float32",),
    Quantization.FLOAT16: ("float16",),
    Quantization.DYNAMIC: ("int8",),
    Quantization.INT8: ("int8",),
    Quantization.INT16X8: ("int8",),
    Quantization.INT4: ("int4",),
    Quantization.MIXED: ("int8", "float32"),
    Quantization.QAT: ("int8",),
}
# Share of weight *elements* that must be of the promised type. Converters leave small layers alone (TFLite's dynamic
# range: below 1,024 elements) and some keep embedding tables in float, so not every weight; but where most are not,
# the name is wrong. Full integer leaves nothing alone; some room is for a table that is only looked up.
SMALLEST_SHARE: dict[Quantization, float] = {
    Quantization.FLOAT32: 1.0,
    Quantization.FLOAT16: 0.9,
    Quantization.DYNAMIC: 0.5,
    Quantization.INT8: 0.9,
    Quantization.INT16X8: 0.9,
    Quantization.INT4: 0.5,
    Quantization.MIXED: 1.0,
    Quantization.QAT: 0.9,
}
# Full integer computes in integers: most operators that compute must give the promised type.
ACTIVATION_TYPES = {Quantization.INT8: "int8", Quantization.INT16X8: "int16", Quantization.QAT: "int8"}
SMALLEST_ACTIVATION_SHARE = 0.5


def check_weights(model: ModelReport, quantization: str | Quantization) -> Check:
    """Whether weights (and for full integer, activations) are of the type that the quantization promises.

    Args:
        model: what `inspect_model` found.
        quantization: what the variant says it is.
    """
    try:
        kind = Quantization(quantization)
    except ValueError:
        known = ", ".join(item.value for item in Quantization)
        raise UsageError(f"A quantization is one of {known}.", received=repr(quantization)) from None
    held = ", ".join(f"{count:,} {name}" for name, count in model.weight_elements.items()) or "none"
    total = sum(model.weight_elements.values())
    if total == 0:
        return Check("weights", Verdict.PASS, "The model has no weight matrix; its quantization cannot be seen.")
    wanted = WEIGHT_TYPES[kind]
    share = sum(model.weight_elements.get(dtype, 0) for dtype in wanted) / total
    types = " or ".join(wanted)
    smallest = SMALLEST_SHARE[kind]
    if share < smallest:
        message = f"{share:.1%} of the weights are {types}, {smallest:.0%} wanted of {kind.value}: {held}."
        return Check("weights", Verdict.FAIL, message, value=share, limit=smallest)
    if kind in ACTIVATION_TYPES:
        wanted_type = ACTIVATION_TYPES[kind]
        computed = sum(model.activations.values())
        part = model.activations.get(wanted_type, 0) / computed if computed else 0.0
        if part < SMALLEST_ACTIVATION_SHARE:
            message = (
                f"{part:.1%} of the operators give {wanted_type}, {SMALLEST_ACTIVATION_SHARE:.0%} wanted of "
                + f"{kind.value}: "
                + (", ".join(f"{count} {dtype}" for dtype, count in model.activations.items()) or "none")
                + "."
            )
            return Check("weights", Verdict.FAIL, message, value=part, limit=SMALLEST_ACTIVATION_SHARE)
    return Check("weights", Verdict.PASS, f"{share:.1%} of the weights are {types}.", value=share, limit=smallest)


def guess_quantization(model: ModelReport) -> Quantization:
    """What a model's weights and activations say it is."""
    total = sum(model.weight_elements.values())
    if not total:
        return Quantization.FLOAT32
    most = max(model.weight_elements, key=lambda name: model.weight_elements[name])
    if most == "int8":
        computed = max(1, sum(model.activations.values()))
        for kind, name in ACTIVATION_TYPES.items():
            if model.activations.get(name, 0) / computed >= SMALLEST_ACTIVATION_SHARE:
                return kind
        return Quantization.DYNAMIC
    return next((kind for kind, names in WEIGHT_TYPES.items() if most in names), Quantization.FLOAT32)
