"""The table of accelerators. A new accelerator is a file and a row in `ACCELERATORS`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple, cast

from emu.errors import EmuError

if TYPE_CHECKING:
    from emu.machine.accel.base import Accelerator, ExitHandler, Limits


class Row(NamedTuple):
    """One accelerator.

    Attributes:
        module: module of its class; imported when the accelerator or its limits are needed.
        class_name: a subclass of `Accelerator`.
        summary: what implements vCPUs and notifiers; for help texts.
    """

    module: str
    class_name: str
    summary: str


AUTO = "auto"
#: By name, in order of preference: ``auto`` is the first that works on this host and supports a
#: machine of that size, or else the last.
ACCELERATORS: dict[str, Row] = {
    "kvm": Row("emu.machine.accel.kvm", "KvmAccelerator", "the kernel, where /dev/kvm works"),
    "soft": Row("emu.machine.accel.soft", "SoftAccelerator", "threads of the VM's process"),
}
#: The values of ``--accel``.
CHOICES = (AUTO, *ACCELERATORS)


def _class_of(name: str) -> type[Accelerator]:
    try:
        row = ACCELERATORS[name]
    except KeyError:
        raise EmuError(f"unknown accelerator {name!r}: use {', '.join(ACCELERATORS)}") from None
    return cast("type[Accelerator]", getattr(importlib.import_module(row.module), row.class_name))


def limits(name: str, *, vcpus: int = 1) -> Limits:
    """The limits of an accelerator on this host for a machine with ``vcpus`` vCPUs.

    Raises:
        EmuError: it is unknown, or does not work on this host; the text has the reason and, where
            there is one, the remedy.
    """
    return _class_of(name).find_limits(vcpus)


def check(name: str, *, vcpus: int, rings: int) -> None:
    """Check that an accelerator works on this host and supports a machine of that size.

    Args:
        name: of a row.
        vcpus: number of vCPUs of the machine.
        rings: number of ioeventfds, and of interrupt routes.

    Raises:
        EmuError: see `limits`; or the machine is too large, with advice.
    """
    problem = _shortage(name, vcpus, rings)
    if not problem:
        return
    others = [other for other in ACCELERATORS if other != name and _works(other, vcpus, rings)]
    other = f", or use --accel {others[0]}" if others else ""
    raise EmuError(f"{problem}{other}")


def _shortage(name: str, vcpus: int, rings: int) -> str:
    """The limit that the machine exceeds, with advice; empty if there is none."""
    most = limits(name, vcpus=vcpus)
    if vcpus > most.max_vcpus:
        return f"{vcpus} vCPUs: {name} has at most {most.max_vcpus} on this host: ask for fewer"
    if rings > most.max_routes:
        return f"{rings} rings: {name} has {most.max_routes} interrupt routes: ask for fewer rings"
    if rings > most.max_ioeventfds:
        return (
            f"{rings} rings: with {vcpus} vCPUs {name} has {most.max_ioeventfds} ioeventfds: ask "
            "for fewer rings"
        )
    return ""


def _works(name: str, vcpus: int, rings: int) -> bool:
    try:
        return not _shortage(name, vcpus, rings)
    except EmuError:
        return False


def resolve(name: str, *, vcpus: int = 1, rings: int = 0) -> str:
    """The name of the accelerator to use.

    Args:
        name: of a row, which is returned, or ``auto``.
        vcpus: number of vCPUs of the machine.
        rings: number of ioeventfds, and of interrupt routes.
    """
    if name != AUTO:
        return name
    *preferred, last = ACCELERATORS
    return next((name for name in preferred if _works(name, vcpus, rings)), last)


def create(name: str, on_exit: ExitHandler) -> Accelerator:
    """Create an accelerator.

    Args:
        name: of a row, or ``auto``, see `resolve`.
        on_exit: called with the address and the value of a write that no ioeventfd takes, on the
            thread of the vCPU that wrote.

    Raises:
        EmuError: it is unknown, or does not work on this host.
    """
    return _class_of(resolve(name))(on_exit)
