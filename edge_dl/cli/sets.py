"""`edge-dl data`: named data sets and data of one's own."""

from __future__ import annotations

import json
from typing import Any

from edge_dl.cli.console import print_json, print_table
from edge_dl.cli.workflow import parse_settings
from edge_dl.errors import UsageError
from edge_dl.progress import Progress
from edge_dl.recipe import DataConfig, Task, apply_overrides

SHOWN = 20  # items of a list that are shown; --json has them all


def show_all(*, json: bool) -> None:
    """`edge-dl data list`."""
    from edge_dl.data import registry

    sets = registry.list_sets()
    if json:
        print_json([registry.describe(item) for item in sets])
        return
    rows = [[item.name, item.kind, item.licence, item.summary] for item in sets]
    print_table(["name", "kind", "licence", "what it is"], rows)


def get(name: str, progress: Progress, *, json: bool) -> None:
    """`edge-dl data get`."""
    from edge_dl.data import registry

    path = registry.get(name, progress=progress)
    if json:
        print_json({"name": name, "path": str(path) if path else None})
    else:
        print(path if path else f"{name} is built in: nothing to download.")


def info(name: str, *, task: str, overrides: list[str], json: bool) -> None:
    """`edge-dl data info`."""
    from edge_dl import data
    from edge_dl.data import registry

    if task and task not in [item.value for item in Task]:
        raise UsageError(
            "--task must be known.", received=task, todo=f"One of {', '.join(item.value for item in Task)}."
        )
    config = apply_overrides(DataConfig(source=name), parse_settings(overrides))
    chosen = Task(task) if task else registry.default_task(name)
    # Without a task these are arrays for a model that is trained already.
    description: dict[str, Any] = data.load(config, chosen, seed=0, trains=chosen is not None).describe()
    if json:
        print_json(description)
        return
    splits = description.pop("splits")
    description["notes"] = " ".join(description["notes"])
    rows = [[key, _text(value)] for key, value in description.items() if value not in ("", None, [], {})]
    print_table(["", ""], [*rows, *([name, _split_text(split)] for name, split in splits.items())])


def _text(value: Any) -> str:
    """A value of a description as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        texts = [_text(item) for item in value]
        # White space is a token too, and must be seen.
        shown = [json.dumps(text, ensure_ascii=False) if text.strip() != text else text for text in texts]
        return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _split_text(split: dict[str, Any]) -> str:
    """For example "1,222 samples; sequence 8 x 8 float32; label int32"."""
    parts = [f"{split['samples']:,} samples"]
    for name, array in {**split["x"], **split["y"]}.items():
        shape = " x ".join(str(size) for size in array["shape"][1:])
        parts.append(" ".join(text for text in (name, shape, array["dtype"]) if text))
    parts += [f"{name} classes {_text(counts)}" for name, counts in split.get("class_counts", {}).items()]
    return "; ".join(parts)
