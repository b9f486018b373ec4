"""What both sides say first, and what a destination makes of it: WELCOME, or why not, by name.

Nothing at the source has been touched by then: a VM that is refused never learns of it.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from emu.config.migration_parameters import MAX_STREAMS
from emu.errors import MigrationError
from emu.migration import clocks
from emu.strategies import registry
from emu.strategies.base import StrategyOptions

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

#: Of the stream; a source that speaks another one is refused by name.
VERSION = 2


class DiskCheck(Protocol):
    """Compares the disks that the source tells of with this side's."""

    def __call__(self, said: JsonObject) -> list[str]:
        """What differs, in words."""


def hello(
    vm: Vm,
    strategy: str,
    options: StrategyOptions,
    *,
    streams: int = 1,
    disks: JsonObject | None = None,
    farewell: bool = False,
) -> dict[str, object]:
    """What the source says first.

    Args:
        vm: what is to migrate.
        strategy: how its devices are to be started.
        options: of the strategy.
        streams: sockets that memory will come by.
        disks: what is behind its disks; None when both sides are one run's, which sees to that.
        farewell: both sides will tell each other of the migration when the VM has moved.
    """
    return {
        "version": VERSION,
        "spec": shape(vm.spec, vm.machine.accel.name),
        "features": {device.name: device.acked_features for device in vm.devices},
        "disks": disks,
        "strategy": strategy,
        "options": options._asdict(),
        "streams": streams,
        "session": secrets.token_hex(16),
        "clock": clocks.identity(),
        "farewell": farewell,
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


class Greeting(NamedTuple):
    """A HELLO that is welcome.

    Attributes:
        strategy: that starts the devices.
        streams: sockets that memory will come by.
        session: what the further ones say which migration they belong to.
        farewell: the source will tell of the migration, and wants to hear of it.
        same_clock: both sides read the same clock.
    """

    strategy: Strategy
    streams: int
    session: str
    farewell: bool
    same_clock: bool

    @classmethod
    def accept(
        cls,
        payload: bytes,
        own: VmSpec,
        accel: str,
        vm: Vm | None,
        check_disks: DiskCheck | None = None,
    ) -> Self:
        """Take a greeting, if it is about this VM.

        Args:
            payload: of the HELLO.
            own: the VM that can come.
            accel: the accelerator that it has here.
            vm: what has been built for it; None when it comes with devices of its own.
            check_disks: what of the source's disks is not as here.

        Raises:
            MigrationError: it makes no sense, or is about another VM: all that differs, by name.
        """
        try:
            said = json.loads(payload)
            version = said["version"]
            if version != VERSION:
                raise MigrationError(
                    "greeting", f"the source speaks version {version}, not {VERSION}"
                )
            differences = _differences(said, own, accel)
            if vm is not None:
                differences += _lacking(said, vm)
            name, options = str(said["strategy"]), StrategyOptions(**said["options"])
            streams, session = int(said["streams"]), str(said["session"])
            farewell, same = bool(said["farewell"]), said["clock"] == clocks.identity()
            disks = dict(said["disks"] or {})
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MigrationError("greeting", "the source's greeting makes no sense") from None
        if not 1 <= streams <= MAX_STREAMS:
            differences.append(f"streams: {streams} are not 1 to {MAX_STREAMS}")
        if check_disks is not None:
            differences += check_disks(disks)
        if differences:
            raise MigrationError("greeting", "; ".join(differences))
        try:
            strategy = registry.make(name, options)
        except ValueError as error:
            raise MigrationError("greeting", str(error)) from None
        return cls(strategy, streams, session, farewell, same)


def welcome() -> bytes:
    """The answer of a destination that has nothing against it."""
    return json.dumps({"version": VERSION, "clock": clocks.identity()}).encode()


def same_clock(welcome: bytes) -> bool:
    """At the source: whether the destination reads the same clock.

    Raises:
        MigrationError: its welcome makes no sense.
    """
    try:
        return bool(json.loads(welcome)["clock"] == clocks.identity())
    except (ValueError, KeyError, TypeError):
        raise MigrationError("greeting", "the destination's welcome makes no sense") from None


def _differences(said: Any, own: VmSpec, accel: str) -> list[str]:
    """What is not the same at both sides and has to be."""
    found = []
    theirs, ours = dict(said["spec"]), shape(own, accel)
    for name in ("vcpus", "memory", "ring_size", "accelerator"):
        if theirs[name] != ours[name]:
            title = name.replace("_", " ")
            found.append(f"{title}: {theirs[name]} at the source, {ours[name]} at the destination")
    if theirs["devices"] != ours["devices"]:
        names = [f"{device.name}x{device.rings}" for device in own.devices]
        found.append(_devices(theirs["devices"], names))
    return found


def _lacking(said: Any, vm: Vm) -> list[str]:
    """What the guest uses, and the back-ends that wait do not have."""
    found = []
    for device in vm.devices:
        lacking = int(said["features"].get(device.name, 0)) & ~device.connection.features
        if lacking:
            bits = ", ".join(str(bit) for bit in range(64) if lacking >> bit & 1)
            found.append(
                f"{device.name}: the guest uses feature bits {bits}, "
                "which the destination's back-end lacks"
            )
    return found


def _devices(theirs: list[str], ours: list[str]) -> str:
    """``net0x4`` is a device of a name and its rings; the first few that only one side has."""
    parts = []
    for where, names in (
        ("source", [name for name in theirs if name not in ours]),
        ("destination", [name for name in ours if name not in theirs]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{', '.join(names[:3])}{more} at the {where} only")
    return "devices: " + ", ".join(parts or ["in another order"])
