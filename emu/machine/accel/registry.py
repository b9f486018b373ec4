"""The accelerators there are, by name. A new one is a file and a row in `ACCELERATORS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from emu.errors import EmuError
from emu.machine.accel import kvm_limits
from emu.machine.accel.base import Accelerator, ExitHandler

Factory = Callable[[ExitHandler], Accelerator]

AUTO = "auto"
#: Name: module and class. A module is imported when its accelerator is made, not before.
ACCELERATORS: dict[str, tuple[str, str]] = {
    "soft": ("emu.machine.accel.soft", "SoftAccelerator"),
    "kvm": ("emu.machine.accel.kvm", "KvmAccelerator"),
}


def resolve(name: str, *, vcpus: int = 1, rings: int = 0) -> str:
    """The accelerator that a name stands for.

    Args:
        name: of a registered one, or ``auto``: KVM where it works and a machine of that size has
            room in it, otherwise the one that works everywhere.
        vcpus: how many vCPUs the machine is to have.
        rings: how many ioeventfds, and vectors.
    """
    if name != AUTO:
        return name
    return "kvm" if kvm_limits.has_room(vcpus, rings) else "soft"


def create(name: str, on_exit: ExitHandler) -> Accelerator:
    """Make an accelerator.

    Args:
        name: of a registered one, or ``auto``, see `resolve`.
        on_exit: called with the address and the value of a write that has no ioeventfd, on the
            thread of the vCPU that wrote.

    Raises:
        EmuError: there is none of that name, or it cannot work here.
    """
    try:
        module, class_name = ACCELERATORS[resolve(name)]
    except KeyError:
        raise EmuError(f"unknown accelerator {name!r}: use {', '.join(ACCELERATORS)}") from None
    factory = cast("Factory", getattr(importlib.import_module(module), class_name))
    return factory(on_exit)
