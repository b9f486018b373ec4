"""The soft accelerator: vCPUs are threads that run a `GuestProgram`.

An ioeventfd is an entry of a dictionary; an irqfd is an eventfd in the scheduler's epoll set.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from devices.notifiers import ANY_VALUE, Ioeventfd, Irqfd
from emu.errors import EmuError
from emu.machine.accel.base import (
    Accelerator,
    ExitHandler,
    Limits,
    NotifierError,
    Vcpu,
)
from emu.machine.accel.soft_scheduler import SoftScheduler
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emu.machine.ram import GuestRam
    from emu.machine.run_gate import RunGate

#: The address if any value matches, or else the address and the value.
_Key = int | tuple[int, int]
LIMITS = Limits(max_vcpus=1024, max_routes=1 << 16, max_ioeventfds=1 << 16)


class SoftAccelerator(Accelerator):
    """Emulated vCPUs and notifiers.

    Args:
        on_exit: called on the vCPU's thread for a write of guest code that no ioeventfd takes.
    """

    name = "soft"

    @classmethod
    def find_limits(cls, vcpus: int) -> Limits:  # noqa: ARG003  the same for any machine
        """See `Accelerator.find_limits`. It works on every host."""
        return LIMITS

    def __init__(self, on_exit: ExitHandler) -> None:
        self._on_exit = on_exit
        self._ioeventfds: dict[_Key, int] = {}
        self._irqfds: dict[int, int] = {}
        self._vector_of: dict[int, int] = {}
        self._routes: dict[int, int] = {}
        self._scheduler: SoftScheduler | None = None
        self._lock = threading.Lock()

    # -- ioeventfds

    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """See `Accelerator.change_ioeventfds`."""
        with self._lock:
            ioeventfds = self._ioeventfds
            done: list[tuple[bool, _Key, int]] = []
            try:
                for entry in remove:
                    key = _key(entry)
                    if ioeventfds.get(key) != entry.fd:
                        raise NotifierError(f"{entry} is not assigned", owner=entry.owner)
                    del ioeventfds[key]
                    done.append((False, key, entry.fd))
                for entry in add:
                    key = _key(entry)
                    if key in ioeventfds:
                        raise NotifierError(f"{entry} is assigned already", owner=entry.owner)
                    ioeventfds[key] = entry.fd
                    done.append((True, key, entry.fd))
            except NotifierError:
                for added, key, fd in reversed(done):
                    if added:
                        del ioeventfds[key]
                    else:
                        ioeventfds[key] = fd
                raise

    def mmio_write(self, address: int, value: int) -> None:
        """See `Accelerator.mmio_write`."""
        fd = self._ioeventfds.get(address)
        if fd is None:
            fd = self._ioeventfds.get((address, value))
            if fd is None:
                self._on_exit(address, value)
                return
        try:
            eventfd.signal(fd)
        except OSError as error:
            text = f"the ioeventfd at {address:#x}: {error.strerror}"
            raise NotifierError(text) from error

    # -- interrupts

    def change_irqfds(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """See `Accelerator.change_irqfds`."""
        with self._lock:
            done: list[tuple[bool, Irqfd]] = []
            try:
                for irqfd in remove:
                    self._deassign(irqfd)
                    done.append((False, irqfd))
                for irqfd in add:
                    self._assign(irqfd)
                    done.append((True, irqfd))
            except NotifierError:
                for added, irqfd in reversed(done):
                    # Undoing a step fails only if its descriptor was closed meanwhile; the other
                    # steps are undone nevertheless, and the first error is raised.
                    with suppress(NotifierError):
                        (self._deassign if added else self._assign)(irqfd)
                raise

    def _assign(self, irqfd: Irqfd) -> None:
        vector, fd = irqfd
        if vector in self._irqfds:
            raise NotifierError(f"the irqfd of vector {vector} is assigned already")
        if fd in self._vector_of:
            raise NotifierError(
                f"the irqfd of vector {vector}: its eventfd serves vector {self._vector_of[fd]}"
            )
        self._attach(vector, fd, self._routes.get(vector))
        self._irqfds[vector] = fd
        self._vector_of[fd] = vector

    def _deassign(self, irqfd: Irqfd) -> None:
        vector, fd = irqfd
        if self._irqfds.get(vector) != fd:
            raise NotifierError(f"the irqfd of vector {vector} is not assigned")
        self._detach(fd, self._routes.get(vector))
        del self._irqfds[vector]
        del self._vector_of[fd]

    def _attach(self, vector: int, fd: int, vcpu: int | None) -> None:
        if vcpu is not None and self._scheduler is not None:
            try:
                self._scheduler.attach(vector, fd, vcpu)
            except OSError as error:
                text = f"the irqfd of vector {vector}: {error.strerror}"
                raise NotifierError(text) from error

    def _detach(self, fd: int, vcpu: int | None) -> None:
        if vcpu is not None and self._scheduler is not None:
            self._scheduler.detach(fd)

    def set_routes(self, routes: Mapping[int, int]) -> None:
        """See `Accelerator.set_routes`."""
        if len(routes) > LIMITS.max_routes:
            raise NotifierError(f"{len(routes)} routes are more than {LIMITS.max_routes}")
        vcpus = 0 if self._scheduler is None else len(self._scheduler.vcpus)
        if routes and not 0 <= min(routes.values()) <= max(routes.values()) < vcpus:
            raise NotifierError(f"a route is to none of the {vcpus} vCPUs")
        with self._lock:
            old = self._routes
            new = dict(routes)
            self._routes = new
            changed = {vector for vector, _ in old.items() ^ new.items()}
            for vector in changed & self._irqfds.keys():
                fd = self._irqfds[vector]
                self._detach(fd, old.get(vector))
                self._attach(vector, fd, new.get(vector))

    # -- vCPUs

    def set_memory(self, ram: GuestRam) -> None:
        """See `Accelerator.set_memory`. Emulated guest code accesses `GuestRam` itself."""

    def create_vcpus(self, count: int, gate: RunGate) -> Sequence[Vcpu]:
        """See `Accelerator.create_vcpus`."""
        if self._scheduler is not None:
            raise EmuError("the vCPUs of this machine were created before")
        if not 1 <= count <= LIMITS.max_vcpus:
            raise EmuError(f"{count} vCPUs: {self.name} supports 1 to {LIMITS.max_vcpus}")
        self._scheduler = SoftScheduler(count, gate)
        return self._scheduler.vcpus

    def kick(self, vcpus: Sequence[int]) -> None:
        """See `Accelerator.kick`. Emulated guest code reads `RunGate.paused` itself."""

    def wake(self, vcpus: Sequence[int]) -> None:
        """See `Accelerator.wake`."""
        if vcpus and self._scheduler is not None:
            self._scheduler.wake(vcpus)

    def close(self) -> None:
        """See `Accelerator.close`."""
        if self._scheduler is not None:
            self._scheduler.close()
        self._ioeventfds.clear()
        for table in (self._irqfds, self._vector_of, self._routes):
            table.clear()


def _key(entry: Ioeventfd) -> _Key:
    if entry.datamatch == ANY_VALUE:
        return entry.address
    return entry.address, entry.datamatch
