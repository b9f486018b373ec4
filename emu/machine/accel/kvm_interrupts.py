"""The interrupts of a KVM machine: irqfds and the routing table."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from devices.notifiers import Irqfd
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.base import NotifierError
from emu.machine.accel.kvm_polled_irqfds import PolledIrqfds
from emu.machine.accel.kvm_vm import KvmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from emu.machine.accel.kvm_vm import KernelMachine


class KvmInterrupts:
    """Maps eventfds to vectors, and vectors to vCPUs.

    An irqfd is assigned in the kernel only while its vector has a route.

    Args:
        kernel: the kernel's VM.
        max_routes: number of entries of the routing table.
    """

    def __init__(self, kernel: KernelMachine, max_routes: int) -> None:
        self._kernel = kernel
        self._max_routes = max_routes
        self._irqfds: dict[int, int] = {}
        self._vector_of: dict[int, int] = {}
        self._routes: dict[int, int] = {}
        self._table = kernel.make_routes(max_routes)
        self._table_used = 0
        self._sharing: dict[tuple[int, int], list[int]] = {}
        #: Replaces the kernel's irqfds from `mask` to `unmask`.
        self._polled: PolledIrqfds | None = None

    # -- irqfds

    def change(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """See `Accelerator.change_irqfds`."""
        left = dict(remove)
        for vector, fd in remove:
            if self._irqfds.get(vector) != fd or left.pop(vector, None) is None:
                raise NotifierError(f"the irqfd of vector {vector} is not assigned")
        self._check_free(remove, add)
        removed = [irqfd for irqfd in remove if irqfd.vector in self._routes]
        added = [irqfd for irqfd in add if irqfd.vector in self._routes]
        self._deassign(removed)
        try:
            self._assign(added)
        except NotifierError:
            self._assign(removed)
            raise
        for vector, fd in remove:
            del self._irqfds[vector], self._vector_of[fd]
        for vector, fd in add:
            self._irqfds[vector] = fd
            self._vector_of[fd] = vector

    def _check_free(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """Check that no vector and no eventfd of the new irqfds has one that is not removed."""
        vectors = {irqfd.vector: False for irqfd in remove}
        fds: dict[int, int | None] = {irqfd.fd: None for irqfd in remove}
        for vector, fd in add:
            if vectors.get(vector, vector in self._irqfds):
                raise NotifierError(f"the irqfd of vector {vector} is assigned already")
            serves = fds.get(fd, self._vector_of.get(fd))
            if serves is not None:
                raise NotifierError(
                    f"the irqfd of vector {vector}: its eventfd serves vector {serves}"
                )
            vectors[vector] = True
            fds[fd] = vector

    def _assign(self, irqfds: Sequence[Irqfd]) -> None:
        if not irqfds:
            return
        if self._polled is not None:
            self._polled.add(fd for _, fd in irqfds)
            return
        try:
            self._kernel.change_irqfds(irqfds, assign=True)
        except KvmError as error:
            self._deassign(irqfds[: error.done])
            text = f"the irqfd of vector {irqfds[error.done].vector}: {error}"
            raise NotifierError(text) from error

    def _deassign(self, irqfds: Sequence[Irqfd]) -> None:
        """Deassign irqfds. The kernel has already deassigned one whose eventfd was closed."""
        if self._polled is not None:
            self._polled.remove(fd for _, fd in irqfds)
            return
        left = list(irqfds)
        while left:
            try:
                self._kernel.change_irqfds(left, assign=False)
            except KvmError as error:
                if error.errno not in (errno.EBADF, errno.EINVAL):
                    raise
                left = left[error.done + 1 :]
            else:
                return

    # -- masked while the machine is paused

    def mask(self, *, paused: bool) -> None:
        """See `Accelerator.mask_interrupts`."""
        if self._polled is None:
            irqfds = self._routed()
            self._deassign(irqfds)
            fds = [fd for _, fd in irqfds]
            self._polled = PolledIrqfds(fds, self._raise_interrupt, paused=paused)

    def unmask(self) -> None:
        """See `Accelerator.unmask_interrupts`."""
        polled, self._polled = self._polled, None
        if polled is None:
            return
        try:
            self._assign(self._routed())
        except NotifierError:
            self._polled = polled
        else:
            polled.close()

    def _routed(self) -> list[Irqfd]:
        return [Irqfd(v, fd) for v, fd in self._irqfds.items() if v in self._routes]

    def _raise_interrupt(self, fd: int) -> None:
        vector = self._vector_of.get(fd)
        if vector is None or vector not in self._routes:
            return  # it has just been deassigned
        self._kernel.interrupt(self._routes[vector], _apic_vector(vector))

    def pause(self) -> None:
        """Leave signals of masked interrupts in their eventfds: the machine pauses."""
        if self._polled is not None:
            self._polled.pause()

    def resume(self) -> None:
        """Raise masked interrupts again: the machine resumes."""
        if self._polled is not None:
            self._polled.resume()

    def close(self) -> None:
        """End the thread that polls eventfds, if there is one."""
        if self._polled is not None:
            self._polled.close()

    # -- routes

    def set_routes(self, routes: Mapping[int, int], vcpus: int) -> None:
        """See `Accelerator.set_routes`."""
        if routes and max(routes) >= self._max_routes:
            raise NotifierError(
                f"vector {max(routes)}: KVM has {self._max_routes} interrupt routes"
            )
        if routes and not 0 <= min(routes.values()) <= max(routes.values()) < vcpus:
            raise NotifierError(f"a route is to none of the {vcpus} vCPUs")
        old, new = self._routes, dict(routes)
        changed = {vector for vector, _ in old.items() ^ new.items()}
        fds = {vector: self._irqfds[vector] for vector in changed & self._irqfds.keys()}
        self._deassign([Irqfd(v, fd) for v, fd in fds.items() if v not in new])
        self._write_routes(changed, new)
        try:
            self._kernel.set_routes(self._table, self._table_used)
        except KvmError as error:
            self._write_routes(changed, old)
            self._assign([Irqfd(v, fd) for v, fd in fds.items() if v not in new])
            raise NotifierError(str(error)) from error
        self._routes = new
        self._assign([Irqfd(v, fd) for v, fd in fds.items() if v not in old])

    def _write_routes(self, changed: Iterable[int], routes: Mapping[int, int]) -> None:
        table = self._table
        for vector in changed:
            vcpu = routes.get(vector)
            if vcpu is None:
                table[vector].vector = 0
                continue
            shared = _apic_vector(vector)
            table[vector].apic = vcpu
            table[vector].vector = shared
            known = self._sharing.setdefault((vcpu, shared), [])
            if vector not in known:
                known.append(vector)
        self._table_used = max(self._table_used, 1 + max(changed, default=-1))

    def vectors_of(self, vcpu: int, apic_vector: int) -> Sequence[int]:
        """The machine's vectors that are delivered as a vector of a vCPU's local APIC.

        They include vectors of earlier routes: their interrupts may still be pending.
        """
        return self._sharing.get((vcpu, apic_vector), ())


def _apic_vector(vector: int) -> int:
    """The vector of the local APIC for one of the machine's vectors; several may share it."""
    return image.FIRST_VECTOR + vector % (image.LAST_VECTOR - image.FIRST_VECTOR + 1)
