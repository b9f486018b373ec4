"""Notify addresses and interrupt vectors of all rings, and the vCPU of each vector."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from devices.notifiers import NOTIFY_BYTES
from emu.config.device_kinds import KINDS
from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.config.vm_spec import DeviceSpec

#: Notify addresses lie in the hole below 4 GiB: a page for each device, four bytes for each ring.
NOTIFY_BASE = 0xE000_0000
NOTIFY_PAGE = 0x1000
#: A vector has 16 bits in a vCPU's saved state.
MAX_VECTORS = 1 << 16


class InterruptRouting:
    """Notify addresses, vectors and vCPUs of a machine's rings.

    Devices are identified by their index in `devices`, rings by their index in the device.

    Args:
        devices: all devices of the machine.
        vcpus: number of vCPUs. The rings are distributed round-robin; rings that belong together
            (a NIC's queue pair) interrupt the same vCPU, so that a flow stays on one. vCPU 0 has
            the timer and no ring, unless it is the only vCPU.

    Raises:
        EmuError: there are more rings than vectors.
    """

    def __init__(self, devices: Sequence[DeviceSpec], vcpus: int) -> None:
        self.devices = tuple(devices)
        self._first_vector: list[int] = []
        self._vcpu_of: list[int] = []
        turn = 0
        for device in self.devices:
            self._first_vector.append(len(self._vcpu_of))
            group = KINDS[device.device_class].rings_per_unit
            for ring in range(device.rings):
                unit = turn + ring // group
                vcpu = 1 + unit % (vcpus - 1) if vcpus > 1 else 0
                self._vcpu_of.append(vcpu)
            turn += -(-device.rings // group)
        if len(self._vcpu_of) > MAX_VECTORS:
            raise EmuError(f"{len(self._vcpu_of)} rings are more than {MAX_VECTORS} vectors")

    @property
    def vectors(self) -> int:
        """Number of vectors: one for each ring, from 0."""
        return len(self._vcpu_of)

    def _check(self, device: int, ring: int) -> None:
        if not (0 <= device < len(self.devices) and 0 <= ring < self.devices[device].rings):
            raise EmuError(f"the machine has no ring {ring} of device {device}")

    def notify_address(self, device: int, ring: int) -> int:
        """The guest-physical address that notifies a ring.

        Raises:
            EmuError: there is no such ring.
        """
        self._check(device, ring)
        return NOTIFY_BASE + device * NOTIFY_PAGE + ring * NOTIFY_BYTES

    def ring_at(self, address: int) -> tuple[int, int] | None:
        """The (device, ring) that the address notifies, or None."""
        device, offset = divmod(address - NOTIFY_BASE, NOTIFY_PAGE)
        ring, rest = divmod(offset, NOTIFY_BYTES)
        if rest or not 0 <= device < len(self.devices) or ring >= self.devices[device].rings:
            return None
        return device, ring

    def vector(self, device: int, ring: int) -> int:
        """The interrupt vector of a ring.

        Raises:
            EmuError: there is no such ring.
        """
        self._check(device, ring)
        return self._first_vector[device] + ring

    def ring_of(self, vector: int) -> tuple[int, int]:
        """The (device, ring) of a vector.

        Raises:
            EmuError: there is no such vector.
        """
        self.vcpu_of(vector)
        device = bisect_right(self._first_vector, vector) - 1
        return device, vector - self._first_vector[device]

    def vcpu_of(self, vector: int) -> int:
        """The vCPU that a vector interrupts.

        Raises:
            EmuError: there is no such vector.
        """
        if not 0 <= vector < len(self._vcpu_of):
            raise EmuError(f"the machine has no vector {vector}")
        return self._vcpu_of[vector]
