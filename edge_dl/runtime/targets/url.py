"""Target addresses: what stands behind a target's name."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_dl.errors import UsageError
from edge_dl.runtime.agent import RUNTIMES

SCHEMES = ("local", "env", "qemu-aarch64", "ssh", "adb")
FORMS = (
    "local:[RUNTIME], env:PATH, env:PACKAGE==VERSION, qemu-aarch64:[PACKAGE==VERSION], ssh://[USER@]HOST[:PORT], "
    "adb:[SERIAL]"
)
SPEC = re.compile(r"(ai-edge-litert|tflite-runtime)==([0-9]+(?:\.[0-9]+){1,3})")

_OPTIONS = {
    "local": (),
    "env": ("runtime",),
    "qemu-aarch64": (),
    "ssh": ("python", "runtime", "keep", "folder", "config"),
    "adb": ("python", "runtime", "keep", "folder", "benchmark"),
}


@dataclass(frozen=True)
class Address:
    """A target's address, taken apart.

    Attributes:
        scheme: one of SCHEMES.
        place: what comes after it: a path, a package with its version, a serial number, a host.
        user, port: of an ssh host; "" and 0 leave them to the ssh configuration.
        options: `?key=value&...`: runtime, python, keep, folder, benchmark.
        text: the address as it was given.
    """

    scheme: str
    place: str
    user: str = ""
    port: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


def _error(received: str, todo: str = "") -> UsageError:
    return UsageError(f"A target's address is one of {FORMS}.", received=received, todo=todo)


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        UsageError: another scheme, an option that the scheme does not have, or a part that cannot be right.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in SCHEMES or any(not c.isprintable() for c in text):
        raise _error(repr(text))
    rest, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for key in options:
        if key not in _OPTIONS[scheme]:
            raise _error(f"the option {key!r}", f"{scheme} takes {', '.join(_OPTIONS[scheme]) or 'no options'}.")
    if "runtime" in options and options["runtime"] not in ("auto", *RUNTIMES):
        raise _error(f"runtime={options['runtime']}", f"A runtime is one of auto, {', '.join(RUNTIMES)}.")
    if options.get("keep", "no") not in ("yes", "no"):
        raise _error(f"keep={options['keep']}", "keep is yes or no.")
    if scheme == "ssh":
        return _ssh(text, rest, options)
    place = urllib.parse.unquote(rest)
    if scheme == "local" and place not in ("", "auto", *RUNTIMES):
        raise _error(repr(text), f"A runtime is one of {', '.join(RUNTIMES)}.")
    if scheme == "env" and not place:
        raise _error(repr(text), "Name a folder, a Python, or a package such as tflite-runtime==2.14.0.")
    if scheme == "qemu-aarch64" and place and not SPEC.fullmatch(place):
        raise _error(repr(text), "The package is tflite-runtime==VERSION or ai-edge-litert==VERSION.")
    if scheme == "adb" and not re.fullmatch(r"[A-Za-z0-9._:\[\]-]*", place):
        raise _error(repr(text), "`adb devices` shows the serial numbers.")
    return Address(scheme, place, options=options, text=text)


def _ssh(text: str, rest: str, options: Mapping[str, str]) -> Address:
    # A name that begins with a dash would be an option of the ssh command.
    found = re.fullmatch(
        r"//(?:([A-Za-z0-9._][A-Za-z0-9._-]*)@)?([A-Za-z0-9._:][A-Za-z0-9._:-]*?|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?/?",
        rest,
    )
    if not found or not 0 <= int(found[3] or 0) < 65536:
        raise _error(repr(text), "For example ssh://pi@raspberrypi.local:22.")
    return Address("ssh", found[2].strip("[]"), found[1] or "", int(found[3] or 0), options, text)
