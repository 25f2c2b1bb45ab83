"""`edge-dl data`: named data sets and data of one's own."""

from __future__ import annotations

from typing import Any

from edge_dl.cli.console import print_json, print_table
from edge_dl.cli.workflow import parse_settings
from edge_dl.errors import UsageError
from edge_dl.progress import Progress
from edge_dl.recipe import DataConfig, Task, apply_overrides


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
    description: dict[str, Any] = data.load(config, chosen, seed=0).describe()
    if json:
        print_json(description)
        return
    print_table(["", ""], [[key, str(value)] for key, value in description.items()])
