"""The machine: edits, exits, injected latency, vCPUs."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from backends.pacing import Pacer
from devices.notifiers import ANY_VALUE, Edit, GuestNotifier, HostNotifier, Ioeventfd, Irqfd
from emu.config.costs import NATIVE, RFC2021, CostModel
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError
from emu.locking.locks import LockOrderError, worker
from emu.machine.accel.base import NotifierError
from emu.machine.accel.soft import SoftAccelerator
from emu.machine.machine import Machine
from emu.machine.vcpu_state import VcpuStateError
from tests.emu.guests import Holding, Recorder
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds, wait_until
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SPEC = VmSpec(
    vcpus=4, memory_bytes=1 << 30, groups=(DeviceGroup("net", 2, 4), DeviceGroup("blk", 2, 2))
)


class Kit:
    """A machine with eventfds for every ring and the edits that assign them."""

    def __init__(self, costs: CostModel = NATIVE, pacer: SummingPacer | None = None) -> None:
        self.machine = Machine(SPEC, costs, pacer=pacer or Pacer())
        self.batch = eventfd.default()
        self.kicks = self.batch.create(SPEC.rings)
        self.interrupt_fds = self.batch.create(SPEC.rings)
        self.host: list[HostNotifier] = []
        self.guest: list[GuestNotifier] = []
        for index, device in enumerate(SPEC.devices):
            for ring in range(device.rings):
                at = len(self.host)
                owner = f"{device.name} ring {ring}"
                named = (True, device.name, device.device_class, ring)
                address = self.machine.notify_address(index, ring)
                vector = self.machine.vector(index, ring)
                self.host.append(
                    HostNotifier(*named, Ioeventfd(address, 4, ANY_VALUE, self.kicks[at], owner))
                )
                self.guest.append(GuestNotifier(*named, Irqfd(vector, self.interrupt_fds[at])))

    @property
    def both(self) -> list[Edit]:
        return [*self.host, *self.guest]

    @property
    def state(self) -> tuple[object, ...]:
        machine = self.machine
        assert isinstance(machine.accel, SoftAccelerator)
        return (
            machine.address_space.ioeventfds(),
            dict(machine._irqfds),
            dict(machine._routes),
            dict(machine.accel._ioeventfds),
            dict(machine.accel._irqfds),
            dict(machine.accel._routes),
        )

    def close(self) -> None:
        self.machine.close()
        self.batch.close(self.kicks + self.interrupt_fds)


@pytest.fixture
def kit() -> Iterator[Kit]:
    made = Kit()
    yield made
    made.close()


def deassigned(edits: Iterable[Edit]) -> list[Edit]:
    return [edit._replace(assign=False) for edit in edits]


def test_all_edits_together_are_one_commit(kit: Kit) -> None:
    kit.machine.apply(kit.both)
    assert (kit.machine.commits, kit.machine.route_commits) == (1, 1)
    (record,) = kit.machine.records
    assert (record.host, record.guest, record.list_work) == (12, 12, 12)
    assert record.ns > 0


def test_one_edit_at_a_time_is_a_commit_each(kit: Kit) -> None:
    for edit in kit.both:
        kit.machine.apply([edit])
    assert (kit.machine.commits, kit.machine.route_commits) == (12, 12)
    assert sum(record.list_work for record in kit.machine.records) == 12 * 12


def test_assigning_and_deassigning_restores_the_state(kit: Kit) -> None:
    before = kit.state
    kit.machine.apply(kit.both)
    assert kit.state != before
    kit.machine.apply(deassigned(kit.both))
    assert kit.state == before


def test_no_edits_make_no_commit(kit: Kit) -> None:
    kit.machine.apply([])
    assert (kit.machine.commits, kit.machine.route_commits) == (0, 0)


def test_a_notification_is_a_kick_and_an_irqfd_raises_an_interrupt(kit: Kit) -> None:
    guest = Recorder()
    kit.machine.apply(kit.both)
    kit.machine.start_vcpus(guest)
    kit.machine.resume()
    kit.machine.notify(kit.machine.notify_address(2, 1), 0)
    kicked = kit.batch.drain(kit.kicks)
    assert [at for at, count in enumerate(kicked) if count] == [9]
    kit.batch.signal(kit.interrupt_fds)
    taken = guest.next_interrupts(12)
    assert taken == sorted((kit.machine.routing.vcpu_of(vector), vector) for vector in range(12))


@pytest.mark.parametrize(
    "bad",
    [
        lambda kit: deassigned(kit.host[:1]),
        lambda kit: deassigned(kit.guest[:1]),
        lambda kit: kit.guest[11:],
        lambda kit: kit.host[11:],
        lambda kit: [kit.guest[3]._replace(irqfd=Irqfd(3, kit.interrupt_fds[11]))],
        lambda kit: [kit.guest[3]._replace(irqfd=Irqfd(3, 1 << 20))],
        lambda kit: [kit.guest[3]._replace(irqfd=Irqfd(99, kit.interrupt_fds[3]))],
    ],
)
def test_a_bad_edit_leaves_the_machine_as_it_was(
    kit: Kit, bad: Callable[[Kit], list[Edit]]
) -> None:
    kit.machine.apply([kit.host[11], kit.guest[11], kit.host[10], kit.guest[10]])
    before, counts = kit.state, (kit.machine.route_commits, len(kit.machine.records))
    good = [kit.host[5], kit.guest[5], *deassigned([kit.host[10], kit.guest[10]])]
    with pytest.raises(EmuError):
        kit.machine.apply(good + bad(kit))
    assert kit.state == before
    assert (kit.machine.route_commits, len(kit.machine.records)) == counts
    kit.machine.apply(good)
    assert kit.state != before


def test_deassigning_a_notifier_twice_names_it(kit: Kit) -> None:
    kit.machine.apply([*kit.host[:1], *kit.guest[:1]])
    kit.machine.apply(deassigned([*kit.host[:1], *kit.guest[:1]]))
    with pytest.raises(NotifierError, match=r"net0 ring 0: the ioeventfd at .* is not assigned"):
        kit.machine.apply(deassigned(kit.host[:1]))
    with pytest.raises(NotifierError, match="net0 ring 0: its irqfd is not assigned"):
        kit.machine.apply(deassigned(kit.guest[:1]))


def test_a_notifier_can_change_its_eventfd_in_one_commit(kit: Kit) -> None:
    kit.machine.apply([*kit.host[:1], *kit.guest[:1]])
    new: list[Edit] = [
        kit.host[0]._replace(ioeventfd=kit.host[0].ioeventfd._replace(fd=kit.kicks[1])),
        kit.guest[0]._replace(irqfd=Irqfd(0, kit.interrupt_fds[1])),
    ]
    kit.machine.apply(deassigned([*kit.host[:1], *kit.guest[:1]]) + new)
    kit.machine.notify(kit.host[0].ioeventfd.address, 0)
    assert kit.batch.drain(kit.kicks[:2]) == [0, 1]
    assert kit.machine._irqfds == {0: kit.interrupt_fds[1]}


def test_a_worker_cannot_edit_the_machine(kit: Kit) -> None:
    before = kit.state
    with worker(), pytest.raises(LockOrderError):
        kit.machine.apply(kit.host)
    assert kit.state == before


def test_the_address_space_needs_the_big_lock(kit: Kit) -> None:
    with pytest.raises(LockOrderError, match="needs the big lock"):
        kit.machine.address_space.begin()
    with kit.machine.big_lock, kit.machine.address_space.transaction():
        pass


def test_a_notification_without_ioeventfd_reaches_the_device_under_the_lock(kit: Kit) -> None:
    rings = []

    def handler(ring: int) -> None:
        assert kit.machine.big_lock.held
        rings.append(ring)

    kit.machine.set_device_handler(1, handler)
    kit.machine.notify(kit.machine.notify_address(1, 3), 0)
    kit.machine.notify(kit.machine.notify_address(0, 3), 0)
    kit.machine.notify(0xDEAD_0000, 0)
    assert rings == [3]
    assert kit.machine.stray_writes == 2


def test_a_pause_under_the_big_lock_releases_it_for_a_vcpu_that_needs_it(kit: Kit) -> None:
    exited = threading.Event()
    guest = Holding(listens=lambda: True)
    kit.machine.set_device_handler(0, lambda ring: exited.set())
    inside = guest.interrupt

    def interrupt(vcpu: int, vector: int) -> None:
        inside(vcpu, vector)
        kit.machine.notify(kit.machine.notify_address(0, 0), 0)

    guest.interrupt = interrupt
    kit.machine.apply(kit.guest)
    kit.machine.start_vcpus(guest)
    kit.machine.resume()
    with kit.machine.big_lock:
        kit.batch.signal(kit.interrupt_fds[:1])
        guest.wait_entered()
        kit.machine.pause(TIMEOUT)
        assert exited.is_set()
        assert kit.machine.big_lock.held
    assert kit.machine.paused


def test_vcpu_state_is_saved_and_loaded_as_bytes(kit: Kit) -> None:
    kit.machine.start_vcpus(Recorder())
    kit.machine.resume()
    kit.machine.pause()
    data = kit.machine.save_vcpus()
    kit.machine.load_vcpus(data)
    assert kit.machine.save_vcpus() == data
    with pytest.raises(VcpuStateError):
        kit.machine.load_vcpus(data[:-1])


def test_crashes_are_listed(kit: Kit) -> None:
    kit.machine.start_vcpus(None)
    kit.machine.close()
    assert len(kit.machine.crashed) == 4


def test_close_releases_everything() -> None:
    process = psutil.Process()
    fds, threads = open_fds(), process.num_threads()
    for _ in range(3):
        kit = Kit()
        kit.machine.apply(kit.both)
        kit.machine.start_vcpus(Recorder({0: 1_000_000}))
        kit.machine.resume()
        kit.close()
        kit.machine.close()
        wait_until(lambda: open_fds() <= fds and process.num_threads() <= threads)


def test_a_machine_that_cannot_be_made_releases_everything() -> None:
    before = open_fds()
    with pytest.raises(EmuError):
        Machine(SPEC, pacer=Pacer(), accel="xen")
    assert open_fds() <= before


class SummingPacer:
    """A pacer that takes no time, and adds up the injected latency."""

    def __init__(self) -> None:
        self.ns = 0

    def inject(self, _arrival: int, latency: int, /) -> None:
        self.ns += latency

    def of(self, call: Callable[[], object]) -> float:
        """Seconds of latency that the call injects."""
        before = self.ns
        call()
        return (self.ns - before) / 1e9


class TestCosts:
    """With the cost model `rfc2021`."""

    @pytest.fixture
    def pacer(self) -> SummingPacer:
        return SummingPacer()

    @pytest.fixture
    def kit(self, pacer: SummingPacer) -> Iterator[Kit]:
        made = Kit(RFC2021, pacer)
        yield made
        made.close()

    def test_no_latency_is_injected_by_default(self, kit: Kit, pacer: SummingPacer) -> None:
        assert pacer.of(lambda: kit.machine.apply(kit.both)) == 0

    def test_one_commit_for_each_ring_injects_the_latency_of_each(
        self, kit: Kit, pacer: SummingPacer
    ) -> None:
        def one_by_one() -> None:
            for edit in kit.host:
                kit.machine.apply([edit])

        due = 8 * RFC2021.host_commit("dst", {"net"}) + 4 * RFC2021.host_commit("dst", {"blk"})
        with kit.machine.injected_latency("dst"):
            assert pacer.of(one_by_one) == pytest.approx(due)

    def test_one_commit_injects_latency_once(self, kit: Kit, pacer: SummingPacer) -> None:
        due = RFC2021.host_commit("src", {"net", "blk"})
        with kit.machine.injected_latency("src"):
            assert pacer.of(lambda: kit.machine.apply(kit.host)) == pytest.approx(due)

    def test_guest_notifiers_inject_latency_by_device_in_any_number_of_commits(
        self, kit: Kit, pacer: SummingPacer
    ) -> None:
        def one_by_one() -> None:
            for edit in kit.guest:
                kit.machine.apply([edit])

        due = 2 * RFC2021.guest_device("dst", "net") + 2 * RFC2021.guest_device("dst", "blk")
        with kit.machine.injected_latency("dst"):
            assert pacer.of(lambda: kit.machine.apply(kit.guest)) == pytest.approx(due)
            kit.machine.injecting = False
            kit.machine.apply(deassigned(kit.guest))
            kit.machine.injecting = True
            assert pacer.of(one_by_one) == pytest.approx(due, rel=0.1)

    def test_the_end_of_the_block_ends_the_injection(self, kit: Kit) -> None:
        with kit.machine.injected_latency("dst"):
            assert (kit.machine.side, kit.machine.injecting) == ("dst", True)
        assert not kit.machine.injecting
