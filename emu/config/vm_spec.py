"""The shape of a VM: how many vCPUs, how much memory, which devices with how many rings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vhost_user.memory import PAGE_SIZE
from vhost_user.payloads import MAX_RINGS

MAX_VCPUS = 1024
#: Devices of one class: more than any host has, and few enough to be counted.
MAX_DEVICES = 1024
DEVICE_CLASSES = ("net", "blk")
RING_SIZE = 128

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class ShapeError(ValueError):
    """The VM that was asked for cannot be."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device: its class (``net`` or ``blk``), its number within the class, its rings."""

    device_class: str
    number: int
    rings: int

    @property
    def name(self) -> str:
        """``net0``, ``blk23``: the name that every table, error and socket uses."""
        return f"{self.device_class}{self.number}"


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """``count`` devices of one class with ``rings`` rings each."""

    device_class: str
    count: int
    rings: int


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A whole VM. The default is the VM of the RFC of 1 March 2021."""

    vcpus: int = 224
    memory_bytes: int = 180 << 30
    groups: tuple[DeviceGroup, ...] = field(
        default=(DeviceGroup("net", 16, 32), DeviceGroup("blk", 24, 4))
    )
    ring_size: int = RING_SIZE

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
        """All devices, NICs first, in the order in which they sit on the bus."""
        return [
            DeviceSpec(group.device_class, number, group.rings)
            for group in self.groups
            for number in range(group.count)
        ]

    @property
    def rings(self) -> int:
        """Rings of all devices together."""
        return sum(group.count * group.rings for group in self.groups)


def _check_group(group: DeviceGroup) -> None:
    shape = f"--{group.device_class} {group.count}x{group.rings}"
    if group.device_class not in DEVICE_CLASSES:
        raise ShapeError(f"{group.device_class!r} is no device class: use net or blk")
    if group.count < 1 or group.rings < 1:
        raise ShapeError(f"{shape}: a count must be 1 or more")
    if group.count > MAX_DEVICES:
        raise ShapeError(f"{shape}: {MAX_DEVICES} devices of a class are the most")
    if group.rings > MAX_RINGS:
        raise ShapeError(f"{shape}: a vhost-user message can index {MAX_RINGS} rings at the most")
    if group.device_class == "net" and group.rings % 2:
        raise ShapeError(f"{shape}: a NIC's rings come in pairs, so their number must be even")


def parse_size(text: str) -> int:
    """Bytes of ``180G``, ``512M``, ``4096``.

    Raises:
        ShapeError: it is no size.
    """
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ShapeError(f"{text!r} is no size: write it like 512M or 180G")
    return int(match[1]) * _UNITS[match[2].upper()]


def parse_group(device_class: str, text: str) -> DeviceGroup | None:
    """``16x32`` is 16 devices with 32 rings each; ``0`` or ``none`` is none at all.

    Raises:
        ShapeError: it is no such shape.
    """
    if text in ("0", "none", "0x0"):
        return None
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip())
    if not match:
        raise ShapeError(
            f"--{device_class} {text!r} is no shape: write COUNTxRINGS, such as 16x32, or 0"
        )
    group = DeviceGroup(device_class, int(match[1]), int(match[2]))
    _check_group(group)
    return group
