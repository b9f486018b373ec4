"""What the source says first, and what a destination makes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from emu.errors import MigrationError
from emu.migration import strategies
from emu.migration.strategies import Strategy, StrategyOptions

if TYPE_CHECKING:
    from emu.shape import VmSpec

#: Of the stream; a source that speaks another one is refused by name.
VERSION = 1


def hello(
    spec: VmSpec, strategy: str, options: StrategyOptions, *, accel: str = "soft"
) -> dict[str, object]:
    """What the source says first: who it is, and how its devices are to be started."""
    return {
        "version": VERSION,
        "spec": shape(spec, accel),
        "strategy": strategy,
        "options": options._asdict(),
    }


def shape(spec: VmSpec, accel: str) -> dict[str, object]:
    """What must be the same on both sides of a migration: the vCPUs' state is the accelerator's."""
    return {
        "accelerator": accel,
        "vcpus": spec.vcpus,
        "memory": spec.memory_bytes,
        "ring_size": spec.ring_size,
        "devices": [f"{device.name}x{device.rings}" for device in spec.devices],
    }


def accept(payload: bytes, own: VmSpec, *, accel: str = "soft") -> Strategy:
    """The strategy that a greeting asks for, if it is about this VM.

    Raises:
        MigrationError: it makes no sense, or is about another VM, by name.
    """
    try:
        said = json.loads(payload)
        version, spec = said["version"], said["spec"]
        name, options = said["strategy"], StrategyOptions(**said["options"])
    except (ValueError, KeyError, TypeError):
        raise MigrationError("stream", "the source's greeting makes no sense") from None
    if version != VERSION:
        raise MigrationError("stream", f"the source speaks version {version}, not {VERSION}")
    ours = shape(own, accel)
    if spec != ours:
        raise MigrationError("stream", f"the source's VM is {spec}, this is {ours}")
    try:
        return strategies.make(name, options)
    except ValueError as error:
        raise MigrationError("stream", str(error)) from None
