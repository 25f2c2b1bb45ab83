"""Making a variant that certain runtimes run: convert, look into the tables, convert again with what they ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from edge_dl.checks.compatibility import check_model
from edge_dl.checks.runtime_profiles import Profile
from edge_dl.converters.finishing import Quantized
from edge_dl.converters.options import QuantizationOptions
from edge_dl.errors import RefusedError
from edge_dl.variants import VariantSpec


def make_loadable(
    make: Callable[[QuantizationOptions], Quantized],
    options: QuantizationOptions,
    spec: VariantSpec,
    profiles: Sequence[Profile],
) -> Quantized:
    """Make a variant; where a runtime would not load it, make it once more with the options that avoid that.

    Args:
        make: makes the variant with options.
        options: what the user asked for.
        spec: the variant, for messages.
        profiles: runtimes that must load it.

    Raises:
        RefusedError: a runtime would not load it, or answer wrongly, whatever the options.
    """
    result = make(options)
    asked: dict[str, object] = {}
    for profile in profiles:
        answer = check_model(result.path, [profile])[0]
        if not answer.fatal:
            continue
        if answer.options:
            asked |= {key: tuple(value) if isinstance(value, list) else value for key, value in answer.options.items()}
            result = make(dataclasses.replace(options, **asked))  # type: ignore[arg-type]
            answer = check_model(result.path, [profile])[0]
        if answer.fatal:
            # What an option would have avoided is not what it fails on.
            fatal = tuple(item for item in answer.fatal if not item.option) or answer.fatal
            answer = dataclasses.replace(answer, problems=fatal)
            what = "would answer wrongly" if answer.loads else "would not load"
            raise RefusedError(f"{spec.name} {what} in {profile.name}: {answer.reason}.", todo=answer.todo)
    if asked:
        words = ", ".join(f"{key} = {value}" for key, value in asked.items())
        names = ", ".join(profile.name for profile in profiles)
        result = dataclasses.replace(result, notes=(*result.notes, f"made for {names}: {words}"))
    warnings = []
    for answer in check_model(result.path, profiles):
        warnings += [f"in {answer.runtime} {item.operator} {item.reason}. {item.todo}" for item in answer.problems]
    return dataclasses.replace(result, notes=(*result.notes, *warnings)) if warnings else result
