"""The handshake: HELLO of the source, and WELCOME or FAILED of the destination.

The source changes no state before it, so a refusal does not affect the VM.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from emu.config.migration_parameters import MAX_STREAMS
from emu.errors import MigrationError, Operation
from emu.json_input import Each, JsonInputError, Map, Maybe, Members, Whole, check, parse, read
from emu.migration import clocks
from emu.strategies import registry
from emu.strategies.base import StrategyOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.config.vm_spec import VmSpec
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm

#: The version of the stream; a source with another version is refused.
VERSION = 6


_VERSION = Members({"version": int})
_HELLO = Members(
    {
        "version": int,
        "spec": Members(
            {
                "accelerator": str,
                "vcpus": int,
                "memory": int,
                "ring_size": int,
                "devices": Each(str),
            }
        ),
        "features": Map(Whole()),
        "strategy": str,
        "options": Members({}, {"threads": int, "processes": int, "unsafe": str}, closed=True),
        "streams": int,
        "session": str,
        "clock": str,
        "report": bool,
    },
    {
        "stopped": bool,
        "disks": Maybe(
            Members(
                {}, {"mark": Maybe(str), "disk": Maybe(Members({"size": Whole(), "sha256": str}))}
            )
        ),
    },
)
_WELCOME = Members({"version": int, "clock": str})


class DiskCheck(Protocol):
    """Compares the source's disks with this side's."""

    def __call__(self, hello: JsonObject) -> list[str]:
        """The differences, as text; empty if there are none."""


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
        vm: the VM to migrate.
        strategy: the name of the strategy that starts its devices.
        options: of the strategy.
        streams: number of multifd channels, 1 for none besides the stream.
        disks: identifies its disk images; None when both sides belong to one run, and so have the
            same images.
        report: both sides send a completion report at the end.
    """
    return {
        "version": VERSION,
        "spec": required_match(vm.spec, vm.machine.accel.name),
        "features": {device.name: device.acked_features for device in vm.devices},
        "disks": disks,
        "stopped": vm.machine.paused,
        "strategy": strategy,
        "options": options._asdict(),
        "streams": streams,
        "session": os.urandom(16).hex(),
        "clock": clocks.identity(),
        "report": report,
    }


def required_match(spec: VmSpec, accel: str) -> JsonObject:
    """The properties that source and destination must have in common.

    The accelerator is one of them: the format of the vCPUs' state depends on it.
    """
    return {
        "accelerator": accel,
        "vcpus": spec.vcpus,
        "memory": spec.memory_bytes,
        "ring_size": spec.ring_size,
        "devices": [str(device) for device in spec.present],
    }


class Handshake(NamedTuple):
    """A HELLO that has been accepted.

    Attributes:
        strategy: starts the devices.
        streams: number of multifd channels.
        session: identifies the migration on the further channels.
        report: the source sends a completion report, and expects one.
        same_clock: both sides read the same CLOCK_MONOTONIC.
        stopped: the VM is stopped, and stays so when it has arrived.
    """

    strategy: Strategy
    streams: int
    session: str
    report: bool
    same_clock: bool
    stopped: bool

    @classmethod
    def accept(
        cls,
        payload: bytes,
        own: VmSpec,
        accel: str,
        vm: Vm | None,
        check_disks: DiskCheck | None = None,
    ) -> Self:
        """Accept a HELLO that describes this side's VM.

        Args:
            payload: of the HELLO.
            own: the configuration of this side's VM.
            accel: the accelerator of this side's VM.
            vm: this side's VM; None when devices and memory are handed over.
            check_disks: returns the differences between the source's disks and this side's.

        Raises:
            MigrationError: the HELLO is invalid, or describes another VM; the text has all
                differences.
        """
        hello = _read_hello(payload)
        differences = _differences(hello["spec"], own, accel)
        if vm is not None:
            differences += _missing_features(hello["features"], vm)
        streams = hello["streams"]
        if not 1 <= streams <= MAX_STREAMS:
            differences.append(f"streams: {streams} is not in 1 to {MAX_STREAMS}")
        if check_disks is not None:
            differences += check_disks(hello.get("disks") or {})
        if differences:
            raise MigrationError(Operation.HANDSHAKE, "; ".join(differences))
        try:
            strategy = registry.make(hello["strategy"], StrategyOptions(**hello["options"]))
        except ValueError as error:
            raise MigrationError(Operation.HANDSHAKE, str(error)) from None
        same_clock = hello["clock"] == clocks.identity()
        stopped = hello.get("stopped", False)
        return cls(strategy, streams, hello["session"], hello["report"], same_clock, stopped)


def _read_hello(payload: bytes) -> JsonObject:
    try:
        value = parse(payload)
        version = check(value, _VERSION)["version"]
        if version != VERSION:
            raise MigrationError(
                Operation.HANDSHAKE, f"the source's stream has version {version}, not {VERSION}"
            )
        hello: JsonObject = check(value, _HELLO)
    except JsonInputError as error:
        raise MigrationError(
            Operation.HANDSHAKE, f"the source's HELLO is invalid: {error}"
        ) from None
    return hello


def welcome() -> bytes:
    """The payload of WELCOME, with which a destination accepts the VM."""
    return json.dumps({"version": VERSION, "clock": clocks.identity()}).encode()


def same_clock(welcome: bytes) -> bool:
    """At the source: whether the destination reads the same clock.

    Raises:
        MigrationError: its WELCOME is invalid.
    """
    try:
        return bool(read(welcome, _WELCOME)["clock"] == clocks.identity())
    except JsonInputError as error:
        text = f"the destination's WELCOME is invalid: {error}"
        raise MigrationError(Operation.HANDSHAKE, text) from None


def _differences(theirs: JsonObject, own: VmSpec, accel: str) -> list[str]:
    """The differences in `required_match`, as text."""
    found = []
    ours = required_match(own, accel)
    for name in ("vcpus", "memory", "ring_size", "accelerator"):
        if theirs[name] != ours[name]:
            title = name.replace("_", " ")
            found.append(f"{title}: {theirs[name]} at the source, {ours[name]} at the destination")
    if theirs["devices"] != ours["devices"]:
        found.append(_device_differences(theirs["devices"], ours["devices"]))
    return found


def _missing_features(theirs: Mapping[str, int], vm: Vm) -> list[str]:
    """Features that the guest uses and the destination's back-ends lack."""
    found = []
    for device in vm.devices:
        lacking = theirs.get(device.name, 0) & ~device.connection.features
        if lacking:
            bits = ", ".join(str(bit) for bit in range(64) if lacking >> bit & 1)
            found.append(
                f"{device.name}: the guest uses feature bits {bits}, "
                "which the destination's back-end lacks"
            )
    return found


def _device_differences(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """The first few devices that only one side has, as `DeviceSpec` is converted to text."""
    parts = []
    for where, names in (
        ("source", [name for name in theirs if name not in ours]),
        ("destination", [name for name in ours if name not in theirs]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{', '.join(names[:3])}{more} at the {where} only")
    return "devices: " + ", ".join(parts or ["in another order"])
