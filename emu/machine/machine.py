"""The machine: memory, ioeventfds, interrupts and vCPUs, under one big lock."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from devices.notifiers import Edit, GuestNotifier, HostNotifier, Irqfd
from emu.config.costs import NATIVE, CostModel
from emu.locking.locks import BigLock
from emu.machine import vcpu_state
from emu.machine.accel import registry
from emu.machine.accel.base import GuestProgram, NotifierError
from emu.machine.address_space import AddressSpace
from emu.machine.interrupt_routing import InterruptRouting
from emu.machine.ram import GuestRam
from emu.machine.vcpus import TIMEOUT, Crash, VcpuSet
from emu.trace_events import COMMIT, VCPUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from devices.procedure import Side
    from emu.config.vm_spec import VmSpec

_NS_PER_S = 1_000_000_000
#: Calls of `Machine.apply` that are recorded: more than the largest VM needs for one migration.
MAX_RECORDS = 8192


class CommitRecord(NamedTuple):
    """One call of `Machine.apply`.

    Attributes:
        host: number of host notifiers that it assigned or deassigned.
        guest: number of guest notifiers that it assigned or deassigned.
        list_work: by how much it increased `AddressSpace.list_work`.
        ns: its duration in nanoseconds, injected latency included.
    """

    host: int
    guest: int
    list_work: int
    ns: int


class Pacer(Protocol):
    """Injects the latency of a cost model."""

    def inject(self, arrival: int, latency: int, /) -> None:
        """Wait until ``latency`` ns after a unit of work began at ``arrival`` (monotonic ns)."""


class Machine:
    """The machine of one VM, without the VM's devices.

    Args:
        spec: vCPUs, memory, and the devices that addresses and vectors are allocated for.
        costs: latency to inject into commits within `injected_latency`.
        pacer: injects that latency.
        accel: the accelerator's name, or ``auto``.
        memory_fds: memfds of existing guest memory; the caller closes them.

    Attributes:
        ram: guest memory.
        big_lock: held by a thread that changes the machine.
        address_space: the ioeventfds.
        accel: the accelerator.
        vcpus: the vCPUs.
        gate: the gate of the vCPUs (`VcpuSet.gate`).
        routing: the notify address, vector and vCPU of each ring.
        notify: performs a guest's write to a notify address: (address, value).
        side: the side of a migration, source or destination, whose latency is injected.
        injecting: whether latency is injected: within `injected_latency`.
        route_commits: how often the routing table was committed.
        stray_writes: number of writes that neither an ioeventfd nor a device's handler takes.
        records: the last `apply` calls, up to `MAX_RECORDS` of them.

    Raises:
        EmuError: the accelerator is unknown, does not work on this host, or does not support so
            large a machine; or ``memory_fds`` are not the memory of this machine.
        OSError: out of descriptors or memory; all resources are released.
    """

    def __init__(
        self,
        spec: VmSpec,
        costs: CostModel = NATIVE,
        *,
        pacer: Pacer,
        accel: str = "soft",
        memory_fds: Sequence[int] = (),
    ) -> None:
        self.spec = spec
        self.costs = costs
        self.side: Side = "src"
        self.injecting = False
        self.route_commits = 0
        self.stray_writes = 0
        self.records: deque[CommitRecord] = deque(maxlen=MAX_RECORDS)
        self.big_lock = BigLock()
        self.routing = InterruptRouting(spec.devices, spec.vcpus)
        self._ring_counts = {device.name: device.rings for device in spec.devices}
        # By the device's index.
        self._handlers: dict[int, Callable[[int], None]] = {}
        # By vector: the call eventfd, and the vCPU.
        self._irqfds: dict[int, int] = {}
        self._routes: dict[int, int] = {}
        self._pacer = pacer
        with ExitStack() as cleanup:
            self.ram = GuestRam(spec.memory_bytes, memory_fds)
            cleanup.callback(self.ram.close)
            vcpus, rings = spec.vcpus, self.routing.vectors
            name = registry.resolve(accel, vcpus=vcpus, rings=rings)
            registry.check(name, vcpus=vcpus, rings=rings)
            self.accel = registry.create(name, self.write_without_ioeventfd)
            cleanup.callback(self.accel.close)
            self.accel.set_memory(self.ram)
            self.vcpus = VcpuSet(spec.vcpus, self.accel)
            self._cleanup = cleanup.pop_all()
        self.address_space = AddressSpace(self.accel, self.big_lock.assert_held)
        self.gate = self.vcpus.gate
        self.notify: Callable[[int, int], None] = self.accel.mmio_write

    # -- called by the guest and the devices

    @property
    def paused(self) -> bool:
        """Whether the vCPUs have to pause; guest code then returns before its next operation."""
        return self.gate.paused

    @property
    def commits(self) -> int:
        """Number of outermost commits of the address space."""
        return self.address_space.commits

    @property
    def crashed(self) -> list[Crash]:
        """The errors that vCPUs ended with."""
        return self.vcpus.crashed

    def notify_address(self, device_index: int, ring: int) -> int:
        """The guest-physical address that notifies a ring."""
        return self.routing.notify_address(device_index, ring)

    def vector(self, device_index: int, ring: int) -> int:
        """The interrupt vector of a ring."""
        return self.routing.vector(device_index, ring)

    def set_device_handler(self, device_index: int, handler: Callable[[int], None]) -> None:
        """Set a device's handler of writes to its notify addresses that no ioeventfd takes.

        It is called with the index of the ring, under the big lock, on the thread that wrote. This
        is the slow path: the vCPU leaves guest code for it.
        """
        self._handlers[device_index] = handler

    def remove_device_handler(self, device_index: int) -> None:
        """Remove an unplugged device's handler; writes to its notify addresses then do nothing."""
        with self.big_lock:
            self._handlers.pop(device_index, None)

    def write_without_ioeventfd(self, address: int, value: int) -> None:  # noqa: ARG002  any value
        """Handle a write to a notify address that no ioeventfd takes, under the big lock.

        The thread of a vCPU calls this after an exit. As with QEMU's `address_space_write`, any
        other thread may call it too.
        """
        with self.big_lock:
            device_and_ring = self.routing.ring_at(address)
            handler = None if device_and_ring is None else self._handlers.get(device_and_ring[0])
            if device_and_ring is None or handler is None:
                self.stray_writes += 1
            else:
                handler(device_and_ring[1])

    # -- notifiers

    def apply(self, edits: Sequence[Edit]) -> None:
        """Apply these edits, all or none of them, as one commit.

        The host notifiers are changed in one transaction of the address space, the guest notifiers
        by the accelerator, with one commit of the routing table.

        Raises:
            NotifierError: an edit is invalid; the machine is unchanged.
            LockOrderError: this thread may not take the big lock.
        """
        with self.big_lock:
            start = time.monotonic_ns()
            work_before = self.address_space.list_work
            host = [edit for edit in edits if isinstance(edit, HostNotifier)]
            guest = [edit for edit in edits if isinstance(edit, GuestNotifier)]
            with ExitStack() as undo:
                if host:
                    self._apply_host(host)
                    undo.callback(self._apply_host, _inverse(host))
                if guest:
                    self._apply_guest(guest, undo)
                undo.pop_all()
            if self.injecting:
                self._inject(start, host, guest)
            work = self.address_space.list_work - work_before
            took = time.monotonic_ns() - start
            self.records.append(CommitRecord(len(host), len(guest), work, took))
        if COMMIT.enabled:
            COMMIT.emit(
                host_notifiers=len(host),
                guest_notifiers=len(guest),
                list_work=work,
                us=took // 1000,
            )

    def _apply_host(self, edits: Iterable[HostNotifier]) -> None:
        space = self.address_space
        with space.transaction():
            for edit in edits:
                (space.add if edit.assign else space.remove)(edit.ioeventfd)

    def _apply_guest(self, edits: Iterable[GuestNotifier], undo: ExitStack) -> None:
        planned = self._plan_guest(edits)
        old = self._irqfds
        remove = [Irqfd(vector, old[vector]) for vector in planned if vector in old]
        add = [Irqfd(vector, fd) for vector, fd in planned.items() if fd is not None]
        irqfds, routes = old.copy(), self._routes.copy()
        for vector, _ in remove:
            del irqfds[vector], routes[vector]
        for vector, fd in add:
            irqfds[vector] = fd
            routes[vector] = self.routing.vcpu_of(vector)
        accel = self.accel
        # In this order an irqfd is assigned only while it has its route.
        accel.change_irqfds(remove, ())
        undo.callback(accel.change_irqfds, (), remove)
        accel.set_routes(routes)
        undo.callback(accel.set_routes, self._routes)
        accel.change_irqfds((), add)
        self._irqfds, self._routes = irqfds, routes
        self.route_commits += 1

    def _plan_guest(self, edits: Iterable[GuestNotifier]) -> dict[int, int | None]:
        """The eventfd of each edited vector after the edits, or None if it then has none."""
        planned: dict[int, int | None] = {}
        for edit in edits:
            vector, fd = edit.irqfd
            assigned = planned.get(vector, self._irqfds.get(vector))
            if assigned != (None if edit.assign else fd):
                state = "assigned already" if edit.assign else "not assigned"
                owner = f"{edit.device} ring {edit.ring}"
                raise NotifierError(f"its irqfd is {state}", owner=owner)
            planned[vector] = fd if edit.assign else None
        return planned

    def _inject(
        self, start: int, host: Sequence[HostNotifier], guest: Sequence[GuestNotifier]
    ) -> None:
        """Inject what this commit costs: see `CostModel.host_commit`, `CostModel.guest_device`."""
        cost = self.costs.host_commit(self.side, {edit.device_class for edit in host})
        for edit in guest:
            device_cost = self.costs.guest_device(self.side, edit.device_class)
            cost += device_cost / self._ring_counts.get(edit.device, 1)
        if cost:
            self._pacer.inject(start, int(cost * _NS_PER_S))

    @contextmanager
    def injected_latency(self, side: Side) -> Iterator[None]:
        """Inject the latency of a migration's side into commits during the ``with`` block."""
        self.side, self.injecting = side, True
        try:
            yield
        finally:
            self.injecting = False

    # -- running

    def start_vcpus(self, program: GuestProgram | None) -> None:
        """Start the vCPUs' threads; no guest code runs before `resume`. See `VcpuSet.start`."""
        self.vcpus.start(program)

    def pause(self, timeout: float = TIMEOUT) -> None:
        """Keep all vCPUs out of guest code, and wait until they have left. See `VcpuSet.pause`.

        If this thread holds the big lock, it is released during the wait: a vCPU that leaves guest
        code may need it.
        """
        with self.big_lock.released():
            self.vcpus.pause(timeout)
        if VCPUS.enabled:
            VCPUS.emit(state="paused")

    def resume(self, timeout: float = TIMEOUT) -> None:
        """Resume the vCPUs, and wait until those not halted have run. See `VcpuSet.resume`."""
        with self.big_lock.released():
            self.vcpus.resume(timeout)
        if VCPUS.enabled:
            VCPUS.emit(state="running")

    def warm_up(self, timeout: float = TIMEOUT) -> None:
        """Prepare for `load_vcpus`: see `Accelerator.warm_up`."""
        with self.big_lock.released():
            self.accel.warm_up(timeout)

    def save_vcpus(self) -> bytes:
        """The state of all vCPUs.

        Raises:
            EmuError: the vCPUs are not paused.
        """
        return vcpu_state.pack(self.vcpus.save())

    def load_vcpus(self, data: bytes) -> None:
        """Load the state that `save_vcpus` returned on a machine with as many vCPUs.

        Raises:
            EmuError: the vCPUs are not paused.
            VcpuStateError: the data is invalid.
        """
        self.vcpus.load(vcpu_state.unpack(data, len(self.vcpus)))

    def stop(self, timeout: float = TIMEOUT) -> None:
        """End the vCPUs' threads. Idempotent."""
        with self.big_lock.released():
            self.vcpus.stop(timeout)

    def close(self, timeout: float = TIMEOUT) -> None:
        """Stop the vCPUs, and release all resources. Idempotent.

        Raises:
            DeadlineError: a vCPU's thread does not end; no resource is released then, as the
                thread may use it.
        """
        self.stop(timeout)
        self._cleanup.close()


def _inverse(edits: Sequence[HostNotifier]) -> list[HostNotifier]:
    return [edit._replace(assign=not edit.assign) for edit in reversed(edits)]
