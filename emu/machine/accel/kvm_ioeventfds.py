"""The ioeventfds of a KVM machine, on the kernel's two I/O buses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.notifiers import ANY_VALUE, Ioeventfd
from emu.machine.accel.base import NotifierError
from emu.machine.accel.kvm_limits import BUS_ROOM, no_room
from emu.machine.accel.kvm_vm import KvmError, is_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.machine.accel.kvm_vm import KernelMachine

#: Ports: two bytes for each vCPU, by which it notifies the drivers, and four for each ioeventfd for
#: which the MMIO bus has no room.
DRIVER_PORTS, _PORTS = 0x1000, 0x2000
_DRIVER_PORT_BYTES, _PORT_BYTES = 2, 4
#: The address and the value (datamatch).
_Key = tuple[int, int]


class KvmIoeventfds:
    """The rings' ioeventfds, on the MMIO bus until that is full, then on the port bus.

    An ioeventfd on the port bus has a port instead of its address, to which the vCPUs write.

    Args:
        kernel: the kernel's VM.
    """

    def __init__(self, kernel: KernelMachine) -> None:
        self._kernel = kernel
        self._vcpus = 0
        #: As they are assigned in KVM: on the port bus with a port instead of the address.
        self._assigned: dict[_Key, Ioeventfd] = {}
        self._on_mmio = 0
        self._free_ports: list[int] = []

    def reserve_driver_ports(self, fds: Sequence[int]) -> None:
        """Assign a port to each vCPU's eventfd; the rings have the rest of the port bus.

        Raises:
            KvmError: there are too many vCPUs.
        """
        ports = [
            Ioeventfd(DRIVER_PORTS + _DRIVER_PORT_BYTES * vcpu, _DRIVER_PORT_BYTES, ANY_VALUE, fd)
            for vcpu, fd in enumerate(fds)
        ]
        self._kernel.change_ioeventfds(ports, assign=True)
        self._vcpus = len(fds)
        room = BUS_ROOM - self._vcpus
        self._free_ports = [_PORTS + _PORT_BYTES * n for n in reversed(range(room))]

    def find(self, address: int, value: int) -> Ioeventfd | None:
        """The ioeventfd that takes a write, as it is assigned in KVM."""
        return self._assigned.get((address, ANY_VALUE)) or self._assigned.get((address, value))

    def change(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """See `Accelerator.change_ioeventfds`."""
        removed = self._assigned_of(remove)
        added, free_ports = self._placed(add, removed)
        self._change_kernel(list(removed.values()), remove, list(added.values()), add)
        for key in removed:
            del self._assigned[key]
        self._assigned |= added
        self._on_mmio += _on_mmio(added) - _on_mmio(removed)
        self._free_ports = free_ports

    def _assigned_of(self, remove: Sequence[Ioeventfd]) -> dict[_Key, Ioeventfd]:
        """The ioeventfds to be removed, as they are assigned in KVM."""
        removed: dict[_Key, Ioeventfd] = {}
        for one in remove:
            key = one.address, one.datamatch
            assigned = self._assigned.get(key)
            if assigned is None or assigned.fd != one.fd or key in removed:
                raise NotifierError(f"{one} is not assigned", owner=one.owner)
            removed[key] = assigned
        return removed

    def _placed(
        self, add: Sequence[Ioeventfd], removed: Mapping[_Key, Ioeventfd]
    ) -> tuple[dict[_Key, Ioeventfd], list[int]]:
        """The new ioeventfds, each on a bus that has room, and the ports that stay free."""
        ports = self._free_ports + [one.address for one in removed.values() if is_port(one)]
        room = BUS_ROOM - self._on_mmio + _on_mmio(removed)
        added: dict[_Key, Ioeventfd] = {}
        for one in add:
            key = one.address, one.datamatch
            if key in added or (key in self._assigned and key not in removed):
                raise NotifierError(f"{one} is assigned already", owner=one.owner)
            if room > 0:
                room -= 1
                added[key] = one
            elif ports:
                added[key] = one._replace(address=ports.pop())
            else:
                raise NotifierError(no_room(self._vcpus), owner=one.owner)
        return added, ports

    def _change_kernel(
        self,
        removed: Sequence[Ioeventfd],
        remove: Sequence[Ioeventfd],
        added: Sequence[Ioeventfd],
        add: Sequence[Ioeventfd],
    ) -> None:
        """Make a change in the kernel; if a part of it fails, the other parts are undone."""
        kernel = self._kernel
        try:
            if removed:
                kernel.change_ioeventfds(removed, assign=False)
        except KvmError as error:
            kernel.change_ioeventfds(removed[: error.done], assign=True)
            raise _failure(remove[error.done], error) from error
        try:
            if added:
                kernel.change_ioeventfds(added, assign=True)
        except KvmError as error:
            kernel.change_ioeventfds(added[: error.done], assign=False)
            kernel.change_ioeventfds(removed, assign=True)
            raise _failure(add[error.done], error) from error


def _on_mmio(ioeventfds: Mapping[_Key, Ioeventfd]) -> int:
    return sum(not is_port(one) for one in ioeventfds.values())


def _failure(one: Ioeventfd, error: KvmError) -> NotifierError:
    return NotifierError(f"{one}: {error}", owner=one.owner)
