"""vCPUs and notifiers of KVM beyond the contract: state, dirty pages, limits."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from backends.pacing import Pacer
from devices.notifiers import ANY_VALUE, Ioeventfd, Irqfd
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel import kvm_limits, registry
from emu.machine.accel.base import NotifierError
from emu.machine.accel.kvm_limits import BUS_ROOM
from emu.machine.accel.kvm_vcpu import KvmVcpu
from emu.machine.accel.kvm_vm import halted, open_error
from emu.machine.machine import Machine
from emu.machine.ram import GuestRam
from emu.machine.run_gate import RunGate
from emu.machine.vcpu_state import (
    VcpuState,
    VcpuStateError,
    pack,
    unpack,
)
from emu.machine.vcpus import VcpuSet
from tests.emu.guests import until
from tests.emu.machine.accel.conftest import (
    MEMORY,
    VCPUS,
    KvmBench,
    make,
)
from tests.timeouts import TIMEOUT
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOTIFY = 0xE000_0000
VECTOR = 10


@pytest.fixture
def kvm() -> Iterator[KvmBench]:
    made = KvmBench()
    yield made
    made.close()


@pytest.fixture
def incoming() -> Iterator[KvmBench]:
    """A machine whose vCPUs wait for a state to load."""
    made = KvmBench.__new__(KvmBench)
    super(KvmBench, made).__init__("kvm")
    made.vcpus.start(made.guest)
    yield made
    made.close()


def ioeventfds(fds: Sequence[int], first: int = 0) -> list[Ioeventfd]:
    return [Ioeventfd(NOTIFY + 4 * (first + n), 4, ANY_VALUE, fd) for n, fd in enumerate(fds)]


def copy(source: KvmBench, destination: KvmBench) -> None:
    """Copy what a migration transfers."""
    for gpa, length in source.ram.extents():
        destination.ram.view(gpa, length)[:] = source.ram.view(gpa, length)
    data = pack(source.vcpus.save())
    destination.vcpus.load(unpack(data, VCPUS))


def ticks(bench: KvmBench) -> int:
    return int(bench.mailboxes[0].counts[image.TIMER_VECTOR])


def test_only_the_first_vcpu_has_ticks(kvm: KvmBench) -> None:
    before = ticks(kvm)
    until(lambda: ticks(kvm) > before + 20)
    assert {vcpu for vcpu, _ in (kvm.guest.ticks.get(timeout=TIMEOUT) for _ in range(20))} == {0}


def test_no_code_runs_while_the_machine_is_paused(kvm: KvmBench) -> None:
    kvm.vcpus.pause()
    before = bytes(kvm.ram.view(0, MEMORY))
    assert kvm.quiet()
    assert bytes(kvm.ram.view(0, MEMORY)) == before
    kvm.vcpus.resume()
    stood = ticks(kvm)
    until(lambda: ticks(kvm) > stood)


def test_more_writes_than_a_mailbox_has_room_for(kvm: KvmBench) -> None:
    fds = kvm.eventfds(3 * image.WRITE_SLOTS)
    entries = ioeventfds(fds)
    kvm.accel.change_ioeventfds((), entries)
    for entry in entries:
        kvm.accel.mmio_write(entry.address, 0)
    kvm.await_writes()
    assert eventfd.default().drain(fds) == [1] * len(fds)


def test_ioeventfds_that_have_no_room_on_one_bus_go_to_the_other(kvm: KvmBench) -> None:
    fds = kvm.eventfds(BUS_ROOM + 100)
    entries = ioeventfds(fds)
    kvm.accel.change_ioeventfds((), entries)
    for place in (0, BUS_ROOM - 1, BUS_ROOM, BUS_ROOM + 99):
        kvm.write(entries[place].address)
        assert eventfd.default().drain([fds[place]]) == [1]
    assert not kvm.exits
    kvm.accel.change_ioeventfds(entries, ())
    kvm.write(entries[-1].address, 5)
    assert kvm.exits == [(entries[-1].address, 5)]
    kvm.accel.change_ioeventfds((), entries)


def test_more_ioeventfds_than_both_buses_have_room_for(kvm: KvmBench) -> None:
    room = kvm.accel.find_limits(VCPUS).max_ioeventfds
    (fd,) = kvm.eventfds(1)
    most = ioeventfds([fd] * room)
    with pytest.raises(NotifierError, match="1000 devices on the MMIO bus"):
        kvm.accel.change_ioeventfds((), [*most, Ioeventfd(NOTIFY - 4, 4, ANY_VALUE, fd)])
    kvm.accel.change_ioeventfds((), most)
    kvm.accel.change_ioeventfds(most, ())


def test_a_vector_beyond_the_routes(kvm: KvmBench) -> None:
    most = kvm.accel.find_limits(VCPUS).max_routes
    with pytest.raises(NotifierError, match=f"KVM has {most} interrupt routes"):
        kvm.accel.set_routes({most: 0})
    kvm.accel.set_routes(dict.fromkeys(range(most), 1))


def test_a_machine_with_more_rings_than_ioeventfds() -> None:
    make("kvm").close()
    spec = VmSpec(4, 1 << 30, (DeviceGroup("blk", 32, 64),))
    with pytest.raises(EmuError, match=r"with 4 vCPUs kvm has 1980 ioeventfds: .*--accel soft"):
        Machine(spec, pacer=Pacer(), accel="kvm")


def test_too_little_memory_for_the_code_of_the_vcpus() -> None:
    made = make("kvm")
    ram = GuestRam(4 << 12)
    made.set_memory(ram)
    with pytest.raises(EmuError, match="too little"):
        made.create_vcpus(1, RunGate())
    made.close()
    ram.close()


def test_vectors_that_share_a_vector_of_a_local_apic(kvm: KvmBench) -> None:
    step = image.LAST_VECTOR - image.FIRST_VECTOR + 1
    one, two = kvm.eventfds(2)
    kvm.accel.set_routes({VECTOR: 2, VECTOR + step: 2, VECTOR + 2 * step: 3})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, one)])
    kvm.accel.change_irqfds((), [Irqfd(VECTOR + step, two)])
    os.eventfd_write(two, 1)
    assert sorted(kvm.interrupt() for _ in range(2)) == [(2, VECTOR), (2, VECTOR + step)]
    assert kvm.quiet()


def test_pages_that_the_vcpus_write_are_dirty(kvm: KvmBench) -> None:
    (fd,) = kvm.eventfds(1)
    kvm.accel.set_routes({VECTOR: 3})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
    kvm.vcpus.pause()
    kvm.ram.harvest()
    kvm.ram.harvest()
    assert not kvm.ram.harvest()
    os.eventfd_write(fd, 1)
    had = ticks(kvm)
    kvm.vcpus.resume()
    assert kvm.interrupt() == (3, VECTOR)
    until(lambda: ticks(kvm) > had)
    kvm.vcpus.pause()
    mailboxes = image.layout_of(kvm.ram, VCPUS).mailboxes >> 12
    assert kvm.ram.harvest() >= {mailboxes, mailboxes + 3}


def test_a_guest_continues_on_another_machine(kvm: KvmBench, incoming: KvmBench) -> None:
    (fd,) = kvm.eventfds(1)
    kvm.accel.set_routes({VECTOR: 2})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
    for _ in range(3):
        os.eventfd_write(fd, 1)
        kvm.interrupt()
    kvm.vcpus.pause()
    had = ticks(kvm)
    os.eventfd_write(fd, 1)  # not delivered when the state is saved
    incoming.accel.set_routes({VECTOR: 2})
    copy(kvm, incoming)
    incoming.vcpus.resume()
    assert incoming.interrupt() == (2, VECTOR)
    assert incoming.mailboxes[2].counts[image.FIRST_VECTOR + VECTOR] == 4
    until(lambda: ticks(incoming) > had + 10)
    assert kvm.quiet()


def test_an_interrupt_in_a_mailbox_is_handled_on_another_machine(
    kvm: KvmBench, incoming: KvmBench
) -> None:
    """The vCPU received it, and the machine paused before its driver ran."""
    (fd,) = kvm.eventfds(1)
    kvm.accel.set_routes({VECTOR: 2})
    kvm.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
    kvm.gate.close()
    os.eventfd_write(fd, 1)
    until(lambda: kvm.mailboxes[2].waiting)
    kvm.vcpus.pause()
    incoming.accel.set_routes({VECTOR: 2})
    copy(kvm, incoming)
    incoming.vcpus.resume()
    assert incoming.interrupt() == (2, VECTOR)
    kvm.vcpus.resume()
    assert kvm.interrupt() == (2, VECTOR)


def pause_halted(bench: KvmBench) -> None:
    """Pause the machine while all vCPUs but the first, which has the timer, are halted."""

    def caught() -> bool:
        bench.vcpus.pause()
        if all(halted(state.raw) for state in bench.vcpus.save()[1:]):
            return True
        bench.vcpus.resume()
        return False

    until(caught)


def test_after_warm_up_a_load_sets_few_parts_of_the_state(
    kvm: KvmBench, incoming: KvmBench
) -> None:
    """A halted vCPU has the registers that it had before: only its last interrupt differs."""
    for vcpu in range(VCPUS):
        kvm.vcpus.arm(vcpu, 0)
    until(lambda: all(box.counts[image.TIMER_VECTOR] for box in kvm.mailboxes))
    pause_halted(kvm)
    incoming.accel.warm_up(TIMEOUT)
    assert incoming.guest.quiet()
    copy(kvm, incoming)
    idle = [vcpu for vcpu in incoming.vcpus._vcpus[1:] if isinstance(vcpu, KvmVcpu)]
    assert [vcpu.parts_set for vcpu in idle] == [1] * (VCPUS - 1)
    incoming.vcpus.resume()
    had = ticks(kvm)
    until(lambda: ticks(incoming) > had)


def test_the_state_of_another_accelerator(incoming: KvmBench) -> None:
    for state in (VcpuState(), VcpuState(raw=b"short")):
        with pytest.raises(VcpuStateError, match="vcpu0"):
            incoming.vcpus.load([state] * VCPUS)


def test_a_driver_that_fails_ends_its_vcpu_alone(kvm: KvmBench) -> None:
    fds = kvm.eventfds(VCPUS)
    kvm.accel.set_routes({vcpu: vcpu for vcpu in range(VCPUS)})
    for vcpu, fd in enumerate(fds):
        kvm.accel.change_irqfds((), [Irqfd(vcpu, fd)])
    take = kvm.guest.interrupt

    def interrupt(vcpu: int, vector: int) -> None:
        if vcpu == 2:
            raise ZeroDivisionError
        take(vcpu, vector)

    kvm.guest.interrupt = interrupt
    os.eventfd_write(fds[2], 1)
    until(lambda: [crash.vcpu for crash in kvm.vcpus.crashed] == [2])
    kvm.vcpus.pause()
    kvm.vcpus.resume()
    os.eventfd_write(fds[3], 1)
    assert kvm.interrupt() == (3, 3)


def test_vcpus_that_were_never_started_are_released() -> None:
    made = make("kvm")
    ram = GuestRam(MEMORY)
    made.set_memory(ram)
    vcpus = VcpuSet(2, made)
    vcpus.stop()
    made.close()
    ram.close()


def test_many_vcpus_pause_and_run_again() -> None:
    many = KvmBench(vcpus=64)
    try:
        for _ in range(3):
            many.vcpus.pause()
            many.vcpus.resume()
        (fd,) = many.eventfds(1)
        many.accel.set_routes({VECTOR: 63})
        many.accel.change_irqfds((), [Irqfd(VECTOR, fd)])
        os.eventfd_write(fd, 1)
        assert many.interrupt() == (63, VECTOR)
    finally:
        many.close()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOENT, "kvm_intel"), (errno.EACCES, "group kvm"), (errno.EMFILE, "Too many open")],
)
def test_the_error_text_without_kvm_has_advice(number: int, advice: str) -> None:
    assert open_error(number).startswith("/dev/kvm ")
    assert advice in open_error(number)


def test_a_capability_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make("kvm").close()
    monkeypatch.setitem(kvm_limits._NEEDED, 1 << 20, "an unknown capability")
    with pytest.raises(EmuError, match=r"lacks an unknown capability: use --accel soft"):
        registry.create("kvm", lambda *_: None)


def test_a_closed_machine_does_nothing() -> None:
    bench = KvmBench()
    bench.close()
    bench.accel.pause(1.0)
    bench.accel.resume(1.0)
    with pytest.raises(EmuError, match="Bad file descriptor"):
        bench.vcpus.arm(0, 0)
