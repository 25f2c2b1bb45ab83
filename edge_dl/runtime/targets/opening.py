"""From a name or an address to a target."""

from __future__ import annotations

from edge_dl.runtime.targets.adb import AdbTarget
from edge_dl.runtime.targets.base import Target
from edge_dl.runtime.targets.environment import EnvironmentTarget
from edge_dl.runtime.targets.local import LocalTarget
from edge_dl.runtime.targets.qemu import QemuTarget
from edge_dl.runtime.targets.registry import find_address
from edge_dl.runtime.targets.ssh import SshTarget
from edge_dl.runtime.targets.url import parse_address

_KINDS: dict[str, type[Target]] = {
    "local": LocalTarget,
    "env": EnvironmentTarget,
    "qemu-aarch64": QemuTarget,
    "ssh": SshTarget,
    "adb": AdbTarget,
}


def open_target(name: str) -> Target:
    """The target behind a name that was added, or behind an address; nothing is reached or made yet.

    Raises:
        UsageError: neither.
    """
    address = parse_address(find_address(name))
    return _KINDS[address.scheme](name, address)
