"""The network namespaces that processes of this host use."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def holders() -> set[str]:
    """Network namespaces that any process is in, or has a descriptor of."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.add(str((process / "ns/net").readlink()))
            found |= {str(fd.readlink()) for fd in (process / "fd").iterdir()}
    return {name for name in found if name.startswith("net:[")}
