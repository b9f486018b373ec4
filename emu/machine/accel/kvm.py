"""The accelerator with hardware: KVM's vCPUs, ioeventfds, irqfds and routes.

The vCPUs run a little code of their own (``native/guest.c``) which takes interrupts and rings
doorbells; the guest's drivers are the same program as with the accelerator without hardware, on a
thread of their own (`emu.machine.accel.kvm_driver_thread`).
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel import kvm_limits
from emu.machine.accel.base import (
    Accelerator,
    ExitHandler,
    Ioeventfd,
    Irqfd,
    Limits,
    NotifierError,
    Vcpu,
)
from emu.machine.accel.kvm_driver_thread import DriverHost
from emu.machine.accel.kvm_limits import BUS_ROOM, no_room
from emu.machine.accel.kvm_polled_irqfds import PolledCalls
from emu.machine.accel.kvm_vcpu import KvmVcpu
from emu.machine.accel.kvm_vm import (
    Bell,
    KernelMachine,
    KvmError,
    guest_code,
)
from emu.machine.ram import RamError
from vhost_user import eventfd
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from emu.machine.ram import GuestRam
    from emu.machine.run_gate import Gate

#: Ports: two bytes for each vCPU that tells its drivers, four for a doorbell that has no room on
#: the bus of memory.
_TELL_PORTS, _BELL_PORTS = 0x1000, 0x2000
_TELL_BYTES, _BELL_BYTES = 2, 4
_LOW, _OWN = range(2)
#: The address, and the value that matches.
_Key = tuple[int, int | None]


class KvmAccelerator(Accelerator):
    """Real vCPUs and notifiers.

    Args:
        on_exit: called on the vCPU's thread when it writes to an address that has no ioeventfd.

    Attributes:
        kernel: its machine there.
        host: the guest's drivers, once there are vCPUs.

    Raises:
        KvmError: there is no KVM, or it lacks something.
    """

    name = "kvm"

    @classmethod
    def find_limits(cls, vcpus: int) -> Limits:
        """See `Accelerator.find_limits`."""
        return kvm_limits.limits(vcpus)

    def __init__(self, on_exit: ExitHandler) -> None:
        self._limits = kvm_limits.limits()
        self._on_exit = on_exit
        self.kernel = KernelMachine()
        self._ram: GuestRam | None = None
        self.host: DriverHost | None = None
        self._vcpus: list[KvmVcpu] = []
        self._gate: Gate | None = None
        self._bells: dict[_Key, Bell] = {}
        self._on_memory = 0
        self._free_ports: list[int] = []
        self._irqfds: dict[int, int] = {}
        self._vector_of: dict[int, int] = {}
        self._routes: dict[int, int] = {}
        self._table = self.kernel.make_routes(self._limits.max_routes)
        self._table_used = 0
        self._sharing: dict[tuple[int, int], list[int]] = {}
        # Where the memory of the vCPUs' own code is, and its bytes.
        self._own = 0, memoryview(b"")
        # In place of the kernel's irqfds, when calls are to wait.
        self._polled: PolledCalls | None = None
        self._closed = False
        self._lock = threading.Lock()

    # -- doorbells

    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """See `Accelerator.change_ioeventfds`."""
        with self._lock:
            going = self._going(remove)
            coming, spare = self._coming(add, going)
            self._change_bells(list(going.values()), remove, list(coming.values()), add)
            for key in going:
                del self._bells[key]
            self._bells |= coming
            self._on_memory += _on_memory(coming) - _on_memory(going)
            self._free_ports = spare

    def _going(self, remove: Sequence[Ioeventfd]) -> dict[_Key, Bell]:
        going: dict[_Key, Bell] = {}
        for entry in remove:
            key = entry.address, entry.datamatch
            bell = self._bells.get(key)
            if bell is None or bell.fd != entry.fd or key in going:
                raise NotifierError(f"{entry} is not assigned", owner=entry.owner)
            going[key] = bell
        return going

    def _coming(
        self, add: Sequence[Ioeventfd], going: Mapping[_Key, Bell]
    ) -> tuple[dict[_Key, Bell], list[int]]:
        """Where the new ones go: on the bus of memory, or of ports; and the ports that are left."""
        spare = self._free_ports + [bell.address for bell in going.values() if bell.pio]
        room = BUS_ROOM - self._on_memory + _on_memory(going)
        coming: dict[_Key, Bell] = {}
        for entry in add:
            key = entry.address, entry.datamatch
            if key in coming or (key in self._bells and key not in going):
                raise NotifierError(f"{entry} is assigned already", owner=entry.owner)
            bell = Bell(entry.address, entry.datamatch, entry.size, entry.fd, pio=False)
            if room > 0:
                room -= 1
            elif spare:
                bell = bell._replace(address=spare.pop(), pio=True)
            else:
                raise NotifierError(no_room(len(self._vcpus)), owner=entry.owner)
            coming[key] = bell
        return coming, spare

    def _change_bells(
        self,
        gone: Sequence[Bell],
        remove: Sequence[Ioeventfd],
        come: Sequence[Bell],
        add: Sequence[Ioeventfd],
    ) -> None:
        machine = self.kernel
        try:
            if gone:
                machine.change_bells(gone, assign=False)
        except KvmError as error:
            machine.change_bells(gone[: error.done], assign=True)
            raise _refused(remove[error.done], error) from error
        try:
            if come:
                machine.change_bells(come, assign=True)
        except KvmError as error:
            machine.change_bells(come[: error.done], assign=False)
            machine.change_bells(gone, assign=True)
            raise _refused(add[error.done], error) from error

    def mmio_write(self, address: int, value: int) -> None:
        """See `Accelerator.mmio_write`. The vCPU that the driver runs for does it, soon."""
        bell = self._bells.get((address, None)) or self._bells.get((address, value))
        if self._drivers.ring(address if bell is None else bell.address, value):
            return
        # It is about to be paused, and has not come to it: it is done here as KVM would do it.
        if bell is None:
            self._on_exit(address, value)
        else:
            eventfd.default().signal([bell.fd])

    # -- interrupts

    def change_irqfds(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """See `Accelerator.change_irqfds`."""
        with self._lock:
            going = dict(remove)
            for vector, fd in remove:
                if self._irqfds.get(vector) != fd or going.pop(vector, None) is None:
                    raise NotifierError(f"the irqfd of vector {vector} is not assigned")
            self._check_free(remove, add)
            gone = [irqfd for irqfd in remove if irqfd.vector in self._routes]
            come = [irqfd for irqfd in add if irqfd.vector in self._routes]
            self._deassign(gone)
            try:
                self._assign(come)
            except NotifierError:
                self._assign(gone)
                raise
            for vector, fd in remove:
                del self._irqfds[vector], self._vector_of[fd]
            for vector, fd in add:
                self._irqfds[vector] = fd
                self._vector_of[fd] = vector

    def _check_free(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """Neither the vectors nor the eventfds of the new ones may have an irqfd then."""
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

    def hold_calls(self) -> None:
        """See `Accelerator.hold_calls`."""
        with self._lock:
            if self._polled is None:
                irqfds = self._routed()
                self._deassign(irqfds)
                paused = self._gate is None or self._gate.paused
                fds = [fd for _, fd in irqfds]
                self._polled = PolledCalls(fds, self._raise_call, paused=paused)

    def release_calls(self) -> None:
        """See `Accelerator.release_calls`."""
        with self._lock:
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

    def _raise_call(self, fd: int) -> None:
        vector = self._vector_of.get(fd)
        if vector is None or vector not in self._routes:
            return  # it has just been taken away
        self.kernel.interrupt(self._routes[vector], _apic_vector(vector))

    def _assign(self, irqfds: Sequence[Irqfd]) -> None:
        if not irqfds:
            return
        if self._polled is not None:
            self._polled.watch(fd for _, fd in irqfds)
            return
        try:
            self.kernel.change_irqfds(irqfds, assign=True)
        except KvmError as error:
            self._deassign(irqfds[: error.done])
            text = f"the irqfd of vector {irqfds[error.done].vector}: {error}"
            raise NotifierError(text) from error

    def _deassign(self, irqfds: Sequence[Irqfd]) -> None:
        """Take them away. One whose eventfd was closed by its owner went with it."""
        if self._polled is not None:
            self._polled.forget(fd for _, fd in irqfds)
            return
        left = list(irqfds)
        while left:
            try:
                self.kernel.change_irqfds(left, assign=False)
            except KvmError as error:
                if error.errno not in (errno.EBADF, errno.EINVAL):
                    raise
                left = left[error.done + 1 :]
            else:
                return

    def set_routes(self, routes: Mapping[int, int]) -> None:
        """See `Accelerator.set_routes`. An irqfd is the kernel's only while it has a route."""
        most = self._limits.max_routes
        if routes and max(routes) >= most:
            raise NotifierError(f"vector {max(routes)}: KVM has {most} interrupt routes")
        vcpus = len(self._vcpus)
        if routes and not 0 <= min(routes.values()) <= max(routes.values()) < vcpus:
            raise NotifierError(f"a route leads to none of the {vcpus} vCPUs")
        with self._lock:
            old, new = self._routes, dict(routes)
            changed = {vector for vector, _ in old.items() ^ new.items()}
            fds = {vector: self._irqfds[vector] for vector in changed & self._irqfds.keys()}
            self._deassign([Irqfd(v, fd) for v, fd in fds.items() if v not in new])
            self._write_routes(changed, new)
            try:
                self.kernel.set_routes(self._table, self._table_used)
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

    def _vectors_of(self, vcpu: int, apic_vector: int) -> Sequence[int]:
        """The machine's vectors that a vector of a local APIC may stand for.

        A vector that once was routed there is among them: its interrupt may be on its way still.
        """
        return self._sharing.get((vcpu, apic_vector), ())

    # -- memory

    def set_memory(self, ram: GuestRam) -> None:
        """See `Accelerator.set_memory`."""
        self._ram = ram

    def _map(self, ram: GuestRam, own: int) -> None:
        """Give the guest its memory; the last ``own`` bytes of the low region are its code's.

        What lies above 4 GiB is the drivers' alone. KVM is not told of it: it would keep 2.5 MiB of
        books for each GiB.
        """
        machine = self.kernel
        low = ram.regions[0]
        free = low.size - own
        machine.map(_LOW, low.gpa, ram.view(low.gpa, free))
        self._own = low.gpa + free, ram.view(low.gpa + free, own)
        machine.map(_OWN, *self._own, log=True)
        first, pages = (low.gpa + free) >> 12, own >> 12
        ram.add_writer(lambda: [first + page for page in machine.dirty_pages(_OWN, pages)])

    # -- vCPUs

    def create_vcpus(self, count: int, gate: Gate) -> Sequence[Vcpu]:
        """See `Accelerator.create_vcpus`."""
        if self.host is not None:
            raise EmuError("the vCPUs of this machine were made before")
        most = self._limits.max_vcpus
        if not 1 <= count <= most:
            raise EmuError(f"{count} vCPUs: {self.name} has 1 to {most} on this host")
        ram = self._ram
        if ram is None:
            raise EmuError("real vCPUs need guest memory first")
        own = image.reserved_bytes(count)
        try:
            ram.reserve(own)
        except RamError:
            text = f"{ram.size} bytes of memory are too little for the code of {count} vCPUs"
            raise EmuError(text) from None
        self._map(ram, own)
        where = image.places(ram, count)
        if not ram.inherited:  # otherwise it is there, and at work
            image.write(ram, where, guest_code(), _TELL_PORTS, count)
        self.kernel.create_vcpus(count)
        self._gate = gate
        self.host = host = DriverHost(self.kernel, gate, ram, where, count, self._vectors_of)
        tell = [
            Bell(_TELL_PORTS + _TELL_BYTES * vcpu, None, _TELL_BYTES, fd, pio=True)
            for vcpu, fd in enumerate(host.told)
        ]
        self.kernel.change_bells(tell, assign=True)
        room = BUS_ROOM - count
        self._free_ports = [_BELL_PORTS + _BELL_BYTES * n for n in reversed(range(room))]
        for vcpu in range(count):
            self.kernel.begin(vcpu, where)
        self._vcpus = [
            KvmVcpu(vcpu, self.kernel, host, gate, self._on_exit) for vcpu in range(count)
        ]
        return self._vcpus

    @property
    def _drivers(self) -> DriverHost:
        if self.host is None:
            raise EmuError("the machine has no vCPUs")
        return self.host

    def kick(self, vcpus: Sequence[int]) -> None:
        """See `Accelerator.kick`. The drivers read `Gate.paused` by themselves."""

    def wake(self, vcpus: Sequence[int]) -> None:
        """See `Accelerator.wake`."""
        host, gate = self.host, self._gate
        if host is None or gate is None:
            return
        if gate.stopping:
            self.kernel.stop()
        if vcpus:
            host.poke()

    def pause(self, deadline: float) -> None:
        """See `Accelerator.pause`: all are signalled first, and waited for afterwards."""
        if self._polled is not None:
            self._polled.pause()
        if not self.kernel.pause(deadline):
            raise DeadlineError("the vCPUs to leave guest code", deadline)

    def resume(self, deadline: float) -> None:
        """See `Accelerator.resume`."""
        if not self.kernel.resume(deadline):
            raise DeadlineError("the vCPUs to run again", deadline)
        if self._polled is not None:
            self._polled.resume()
        if self._drivers.loaded:
            self._drivers.poke()

    def warm_up(self, deadline: float) -> None:
        """See `Accelerator.warm_up`: each begins, and halts.

        That is where nearly all of another host's vCPUs stand, too, when they are paused. What is
        the same in the state to come need not be set. Memory that is inherited is in use: there
        they begin and halt in a copy.
        """
        if self._ram is None or not self._ram.inherited:
            self._begin_and_halt(deadline)
            return
        gpa, own = self._own
        copy = image.StandIn(gpa, len(own))
        count = len(self._vcpus)
        image.write(copy, image.places(self._ram, count), guest_code(), _TELL_PORTS, count)
        self.kernel.replace(_OWN, gpa, copy.view)
        try:
            self._begin_and_halt(deadline)
        finally:
            self.kernel.replace(_OWN, gpa, own, log=True)

    def _begin_and_halt(self, deadline: float) -> None:
        host, machine = self._drivers, self.kernel
        if not machine.resume(deadline):
            raise DeadlineError("the vCPUs to run", deadline)
        ready = host.await_ready(deadline)
        self.pause(deadline)
        if not ready:
            raise DeadlineError("the vCPUs to be ready for interrupts", deadline)
        for vcpu in range(len(self._vcpus)):
            machine.save(vcpu)  # so that it is known what the kernel has

    def close(self) -> None:
        """See `Accelerator.close`."""
        if self._closed:
            return
        self._closed = True
        if self._polled is not None:
            self._polled.close()
        self.kernel.close()
        if self.host is not None:
            self.host.close()


def _on_memory(bells: Mapping[_Key, Bell]) -> int:
    return sum(not bell.pio for bell in bells.values())


def _refused(entry: Ioeventfd, error: KvmError) -> NotifierError:
    return NotifierError(f"{entry}: {error}", owner=entry.owner)


def _apic_vector(vector: int) -> int:
    """The vector of a local APIC that stands for one of the machine's; several may share it."""
    return image.FIRST_VECTOR + vector % (image.LAST_VECTOR - image.FIRST_VECTOR + 1)
