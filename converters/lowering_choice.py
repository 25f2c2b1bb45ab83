"""Which lowerings of a model are exported: those that were asked for by name, and what `auto` means for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_dl.errors import RefusedError, UsageError
from edge_dl.variants import Lowering

AUTO = "auto"
# Copies of a cell that an unrolled model may hold before `auto` leaves it out: time steps summed over recurrent layers.
# Beyond it the converter takes minutes and the copies of the weights that kernels pack cost more than the loop saves.
UNROLL_LIMIT = 512


def resolve_lowerings(wanted: Sequence[str], facts: Mapping[str, Any]) -> tuple[list[Lowering], dict[str, str]]:
    """Which lowerings to export.

    Args:
        wanted: lowering names, or "auto" for all that the model allows.
        facts: what `jobs.describe` gave.

    Returns:
        The lowerings, and for `auto` the reason why each other one is left out.

    Raises:
        RefusedError: a lowering asked for by name cannot carry a layer; the message names layers and ways out.
    """
    whole = [Lowering(item) for item in facts["allowed"]]
    decoding = [Lowering(item) for item in facts.get("decoding", ())]
    refusals = facts["refusals"]
    # Only who says tokens one by one has no target to give; what a forecast is told of its hours is known before.
    said = bool(facts.get("tokens")) or all(refusals.values())
    allowed = decoding if decoding and said else whole
    chosen: list[Lowering] = []
    left_out: dict[str, str] = {}
    for name in wanted:
        if name == AUTO:
            for lowering in allowed:
                copies = sum(item["steps"] for item in facts["layers"])
                if lowering.decodes:
                    copies = facts.get("encoder_steps", copies)
                if lowering in (Lowering.UNROLL, Lowering.DECODE_UNROLL) and copies > UNROLL_LIMIT:
                    left_out[lowering.value] = (
                        f"{copies} copies of a cell are more than {UNROLL_LIMIT}. Ask for it by name to have it anyway."
                    )
                else:
                    chosen.append(lowering)
            for lowering_name, found in refusals.items():
                if found:
                    left_out[lowering_name] = f"layer {found[0]['layer']!r}: {found[0]['reason']}"
                elif decoding and said:
                    left_out[lowering_name] = "it takes a whole target, which nobody has who wants it to be said."
            for lowering in decoding if not said else ():
                left_out[lowering.value] = (
                    "what its steps are fed is no token that was said before. Ask for it by name to have it anyway."
                )
            continue
        lowering = Lowering(name)
        by_name = facts.get("by_name", {})
        found = refusals.get(name, []) or by_name.get(name, [])
        if found:
            reasons = " ".join(f"Layer {item['layer']!r}: {item['reason']}" for item in found)
            todo = " ".join(dict.fromkeys(item["todo"] for item in found))
            raise RefusedError(f"The model cannot be lowered as {name}. {reasons}", todo=todo)
        if lowering not in allowed and name not in by_name and name not in facts["allowed"]:
            reason = "it has recurrent layers." if lowering is Lowering.NONE else "it has no recurrent layer."
            if lowering is Lowering.STREAM or (lowering.decodes and facts.get("kind", "keras") != "keras"):
                reason = "only a Keras model says which layers it has."
            raise RefusedError(
                f"The model cannot be lowered as {name}: {reason}",
                todo=f"Possible: {', '.join(item.value for item in allowed)}.",
            )
        chosen.append(lowering)
    if not chosen:
        raise RefusedError(
            "No lowering can carry the model. " + " ".join(f"{key}: {reason}" for key, reason in left_out.items()),
            todo="Ask for unroll by name, or change the layers that are named.",
        )
    # `auto` leaves out what was asked for beside it.
    left_out = {key: reason for key, reason in left_out.items() if Lowering(key) not in chosen}
    return list(dict.fromkeys(chosen)), left_out


def check_names(names: Sequence[str]) -> list[str]:
    """Names of lowerings and "auto", each once, in order.

    Raises:
        UsageError: there is none, or one does not exist.
    """
    known = [AUTO, *(item.value for item in Lowering)]
    for name in names:
        if name not in known:
            raise UsageError("The lowering must exist.", received=name, todo=f"Known: {', '.join(known)}.")
    if not names:
        raise UsageError("At least one lowering must be asked for.", todo=f"Known: {', '.join(known)}.")
    return list(dict.fromkeys(names))
