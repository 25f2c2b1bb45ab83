"""Named targets: NAME -> address, in targets.json of the configuration folder."""

from __future__ import annotations

import re
from pathlib import Path

from edge_dl.errors import UsageError
from edge_dl.files import config_folder, read_json, write_json
from edge_dl.runtime.targets.url import SCHEMES, parse_address

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def registry_path() -> Path:
    """The file that holds the targets."""
    return config_folder() / "targets.json"


def read_targets() -> dict[str, str]:
    """Addresses by name, in the order in which they were added; {} when none were.

    Raises:
        UsageError: the file is damaged.
    """
    path = registry_path()
    if not path.exists():
        return {}
    value = read_json(path)
    targets = value.get("targets") if isinstance(value, dict) and value.get("format") == FORMAT else None
    if not isinstance(targets, dict) or not all(isinstance(item, str) for item in targets.values()):
        raise UsageError(
            "targets.json must hold named addresses.",
            received=str(path),
            todo="Mend it or remove it, and add the targets.",
        )
    return targets


def add_target(name: str, address: str) -> None:
    """Remember an address under a name, in place of what the name stood for.

    Raises:
        UsageError: a name that cannot be a file's name, or an address that is none.
    """
    if not _NAME.fullmatch(name) or name in SCHEMES:
        raise UsageError(
            "A target's name is made of letters, digits, '.', '_' and '-', and is no address.", received=repr(name)
        )
    parse_address(address)
    write_json(registry_path(), {"format": FORMAT, "targets": {**read_targets(), name: address}})


def remove_target(name: str) -> None:
    """Forget a target.

    Raises:
        UsageError: there is no such target.
    """
    targets = read_targets()
    if name not in targets:
        raise unknown(name)
    del targets[name]
    write_json(registry_path(), {"format": FORMAT, "targets": targets})


def find_address(name: str) -> str:
    """The address behind a name; an address stands for itself.

    Raises:
        UsageError: neither a known name nor an address.
    """
    targets = read_targets()
    if name in targets:
        return targets[name]
    if ":" in name:
        return parse_address(name).text
    if name == "local":
        return "local:"
    raise unknown(name)


def file_name(name: str) -> str:
    """What a target's results are filed under: its name, or its address with every odd character replaced."""
    return name if _NAME.fullmatch(name) else re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "target"


def unknown(name: str) -> UsageError:
    """The error for a name that stands for nothing."""
    known = ", ".join(read_targets()) or "none so far"
    return UsageError(
        "A target must be added before it is used.",
        received=repr(name),
        todo=f"Known are: {known}. Add it: `edge-dl target add NAME ADDRESS`.",
    )
