"""The shape of a VM: its vCPUs, its memory, its devices and their rings."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS, one_of
from emu.config.ring_use import ALL_RINGS, RingUse
from emu.errors import EmuError
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_VCPUS = 1024
#: Devices of one class: more than any host has, and few enough to be listed.
MAX_DEVICES = 1024
RING_SIZE = 128

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class ShapeError(EmuError, ValueError):
    """The requested shape is invalid, or a device does not fit it."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device.

    Attributes:
        device_class: a name of `KINDS`.
        number: within the class.
        rings: how many it has.
        use: which of them the guest's driver uses.
    """

    device_class: str
    number: int
    rings: int
    use: RingUse = ALL_RINGS

    @property
    def name(self) -> str:
        """``net0``, ``blk23``: the name that every table, error and socket uses."""
        return f"{self.device_class}{self.number}"

    @property
    def rings_used(self) -> tuple[int, ...]:
        """The indices of the rings that the guest's driver uses."""
        return self.use.used(self.rings)

    @property
    def rings_set_up(self) -> tuple[int, ...]:
        """The indices of the rings that the guest's driver sets up."""
        return self.use.set_up(self.rings)

    @property
    def rings_disabled(self) -> tuple[int, ...]:
        """The indices of the rings that are set up and disabled."""
        return self.use.disabled(self.rings)

    def __str__(self) -> str:
        """Name, rings, and those in use if these are not all: ``blk0x4 (used: 1,3)``."""
        return f"{self.name}x{self.rings} {self.use.note(self.rings)}".rstrip()


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """``count`` devices of one class with ``rings`` rings each, of which the guest uses ``use``."""

    device_class: str
    count: int
    rings: int
    use: RingUse = ALL_RINGS


def default_groups() -> tuple[DeviceGroup, ...]:
    """The devices of the default VM."""
    return tuple(DeviceGroup(kind.name, *kind.default) for kind in KINDS.values() if kind.default)


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A whole VM. The default is the VM of the RFC of 1 March 2021.

    Attributes:
        vcpus: how many it has.
        memory_bytes: of its memory.
        groups: its devices. Each has a slot on the bus, with notify addresses and vectors.
        ring_size: descriptors of each ring.
        absent: the names of the devices that were unplugged: their slots are empty.
    """

    vcpus: int = 224
    memory_bytes: int = 180 << 30
    groups: tuple[DeviceGroup, ...] = field(default_factory=default_groups)
    ring_size: int = RING_SIZE
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise ShapeError(f"{self.vcpus} vCPUs: a VM has 1 to {MAX_VCPUS}")
        if self.memory_bytes < 64 << 20:
            raise ShapeError("a VM needs at least 64M of memory")
        if self.memory_bytes % PAGE_SIZE:
            raise ShapeError(
                f"{self.memory_bytes} bytes of memory is not a multiple of {PAGE_SIZE}"
            )
        for group in self.groups:
            _check_group(group)

    @property
    def devices(self) -> list[DeviceSpec]:
        """The devices of all slots, in their order on the bus."""
        return [
            DeviceSpec(group.device_class, number, group.rings, group.use)
            for group in self.groups
            for number in range(group.count)
        ]

    @property
    def present(self) -> list[DeviceSpec]:
        """The devices whose slots are not empty, in their order on the bus."""
        return [device for device in self.devices if device.name not in self.absent]

    def without(self, name: str) -> VmSpec:
        """The VM after a device was unplugged, by its name."""
        return dataclasses.replace(self, absent=self.absent | {name})

    def with_device(self, name: str) -> VmSpec:
        """The VM after a device was plugged into its slot again, by its name."""
        return dataclasses.replace(self, absent=self.absent - {name})

    @property
    def rings(self) -> int:
        """Rings of all devices together."""
        return sum(group.count * group.rings for group in self.groups)

    @property
    def answers_network(self) -> bool:
        """Whether the guest answers frames from outside: the first NIC does, if it uses rings."""
        return any(
            KINDS[device.device_class].has_uplink and not device.number and device.rings_used
            for device in self.devices
        )

    @property
    def rings_used(self) -> int:
        """Rings of all devices together that the guest's drivers use."""
        return sum(group.count * len(group.use.used(group.rings)) for group in self.groups)


def _check_group(group: DeviceGroup) -> None:
    shape = f"--{group.device_class} {group.count}x{group.rings}"
    kind = KINDS.get(group.device_class)
    if kind is None:
        raise ShapeError(f"unknown device class {group.device_class!r}: use {one_of()}")
    if group.count < 1 or group.rings < 1:
        raise ShapeError(f"{shape}: a count must be 1 or more")
    if group.count > MAX_DEVICES:
        raise ShapeError(f"{shape}: a VM has at most {MAX_DEVICES} devices of a class")
    if why_not := kind.why_not(group.rings):
        raise ShapeError(f"{shape}: {why_not}")
    if why_not := group.use.why_not(group.rings, kind.rings_per_unit, kind.title):
        raise ShapeError(f"{group.use.option(kind.name, kind.rings_per_unit)}: {why_not}")


def parse_size(text: str) -> int:
    """Bytes of ``180G``, ``512M``, ``4096``.

    Raises:
        ShapeError: it is not a size.
    """
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ShapeError(f"{text!r} is not a size: write it like 512M or 180G")
    return int(match[1]) * _UNITS[match[2].upper()]


def groups_of(given: Mapping[str, DeviceGroup | None]) -> tuple[DeviceGroup, ...]:
    """The devices of a VM with the given kinds; the others are as in the default VM.

    Args:
        given: by the kind's name; None for no device.
    """
    groups = {**{group.device_class: group for group in default_groups()}, **given}
    return tuple(group for name in KINDS if (group := groups.get(name)) is not None)


def with_use(groups: Iterable[DeviceGroup], uses: Mapping[str, RingUse]) -> tuple[DeviceGroup, ...]:
    """The groups, of which the guest uses the given rings.

    Args:
        groups: of a VM.
        uses: by the kind's name; all rings of the other kinds are used.

    Raises:
        ShapeError: the VM has no device of such a kind, or such a device lacks a ring.
    """
    groups = tuple(
        dataclasses.replace(group, use=uses.get(group.device_class, group.use)) for group in groups
    )
    present = {group.device_class for group in groups}
    for name, use in uses.items():
        if name not in present:
            kind = KINDS[name]
            raise ShapeError(f"{use.option(name, kind.rings_per_unit)}: the VM has no {kind.title}")
    for group in groups:
        _check_group(group)
    return groups


def parse_group(device_class: str, text: str) -> DeviceGroup | None:
    """``16x32`` is 16 devices with 32 rings each; ``0`` or ``none`` is no device.

    Raises:
        ShapeError: it is not such a shape.
    """
    if text in ("0", "none", "0x0"):
        return None
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip())
    if not match:
        raise ShapeError(
            f"--{device_class} {text!r} is not a shape: write COUNTxRINGS, such as 16x32, or 0"
        )
    group = DeviceGroup(device_class, int(match[1]), int(match[2]))
    _check_group(group)
    return group
