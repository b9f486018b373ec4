"""The handshake: HELLO of the source, and WELCOME or FAILED of the destination.

Nothing at the source is touched before it, so a refusal does not affect the VM.
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

#: Of the stream; a source with another version is refused.
VERSION = 3


class DiskCheck(Protocol):
    """Compares the source's disks with this side's."""

    def __call__(self, hello: JsonObject) -> list[str]:
        """The differences, as text."""


def hello(
    vm: Vm,
    strategy: str,
    options: StrategyOptions,
    *,
    streams: int = 1,
    disks: JsonObject | None = None,
    report: bool = False,
) -> dict[str, object]:
    """The content of HELLO.

    Args:
        vm: to migrate.
        strategy: how its devices are to be started.
        options: of the strategy.
        streams: sockets that carry memory.
        disks: what is behind its disks; None when both sides belong to one run, which gives them
            the same disks.
        report: both sides send a completion report when the VM has moved.
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
        "report": report,
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


class Handshake(NamedTuple):
    """A HELLO that has been accepted.

    Attributes:
        strategy: that starts the devices.
        streams: sockets that carry memory.
        session: identifies the migration on the further sockets.
        report: the source sends a completion report, and expects one.
        same_clock: both sides read the same CLOCK_MONOTONIC.
    """

    strategy: Strategy
    streams: int
    session: str
    report: bool
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
        """Accept a HELLO that describes this VM.

        Args:
            payload: of the HELLO.
            own: of the VM that is expected.
            accel: the accelerator that it has here.
            vm: built for it; None when devices and memory are handed over.
            check_disks: returns the differences between the source's disks and this side's.

        Raises:
            MigrationError: it is invalid, or describes another VM; the text has all differences.
        """
        try:
            hello = json.loads(payload)
            version = hello["version"]
            if version != VERSION:
                raise MigrationError(
                    "handshake", f"the source's stream has version {version}, not {VERSION}"
                )
            differences = _differences(hello, own, accel)
            if vm is not None:
                differences += _lacking(hello, vm)
            name, options = str(hello["strategy"]), StrategyOptions(**hello["options"])
            streams, session = int(hello["streams"]), str(hello["session"])
            report, same = bool(hello["report"]), hello["clock"] == clocks.identity()
            disks = dict(hello["disks"] or {})
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MigrationError("handshake", "the source's HELLO is invalid") from None
        if not 1 <= streams <= MAX_STREAMS:
            differences.append(f"streams: {streams} is not in 1 to {MAX_STREAMS}")
        if check_disks is not None:
            differences += check_disks(disks)
        if differences:
            raise MigrationError("handshake", "; ".join(differences))
        try:
            strategy = registry.make(name, options)
        except ValueError as error:
            raise MigrationError("handshake", str(error)) from None
        return cls(strategy, streams, session, report, same)


def welcome() -> bytes:
    """The answer of a destination that accepts the VM."""
    return json.dumps({"version": VERSION, "clock": clocks.identity()}).encode()


def same_clock(welcome: bytes) -> bool:
    """At the source: whether the destination reads the same clock.

    Raises:
        MigrationError: its WELCOME is invalid.
    """
    try:
        return bool(json.loads(welcome)["clock"] == clocks.identity())
    except (ValueError, KeyError, TypeError):
        raise MigrationError("handshake", "the destination's WELCOME is invalid") from None


def _differences(hello: Any, own: VmSpec, accel: str) -> list[str]:
    """What differs between the sides and must not."""
    found = []
    theirs, ours = dict(hello["spec"]), shape(own, accel)
    for name in ("vcpus", "memory", "ring_size", "accelerator"):
        if theirs[name] != ours[name]:
            title = name.replace("_", " ")
            found.append(f"{title}: {theirs[name]} at the source, {ours[name]} at the destination")
    if theirs["devices"] != ours["devices"]:
        names = [f"{device.name}x{device.rings}" for device in own.devices]
        found.append(_devices(theirs["devices"], names))
    return found


def _lacking(hello: Any, vm: Vm) -> list[str]:
    """Features that the guest uses and the destination's back-ends do not have."""
    found = []
    for device in vm.devices:
        lacking = int(hello["features"].get(device.name, 0)) & ~device.connection.features
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
